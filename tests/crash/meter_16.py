"""The same rounds with real snakeMQ 1.6, for contrast; prints a table.

    python -m tests.crash.meter_16 [--rounds N] [--runs N] [--this]

Both processes run 1.6, which is installed from the package index when it is
needed first, and use it as its manual shows. Connections are closed or reset,
never left half-open, because 1.6 locks a peer out whose old connection is
still there. When nothing happens for three seconds both processes are killed
and started again, which is counted in the column "hung": 1.6 waits for ever
for a lock of its own if a connection ends at the wrong moment.

With ``--this`` it is this package that runs, in the same rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.environments import CACHE, Environment, Unavailable, installed, this_tree
from tests.compat.harness import PythonEnv, environ_with
from tests.crash.proxy import Ending
from tests.crash.rounds import CUTS, KILLS, Fault, Run, Setup, Stuck

#: What a run is made of; the rest is as 1.6 needs it.
SETUPS: Final = {
    "connection cut": CUTS,
    "sender killed": (Fault.KILL_SENDER, Fault.SENDER_DIES),
    "receiver killed": (Fault.KILL_RECEIVER, Fault.RECEIVER_DIES),
    "both killed": (Fault.KILL_BOTH,),
    "all of it": CUTS * 5 + KILLS,
}

#: How long nothing may happen, in seconds.
PATIENCE: Final = 3.0

#: How often the last message of a run is tried.
ATTEMPTS: Final = 10

#: Succeeds where 1.6 works.
CHECK: Final = """
import snakemq.link, snakemq.messaging, snakemq.packeter, snakemq.version, threading
import snakemq.storage.sqlite
assert snakemq.version.VERSION == "1.6"
assert hasattr(threading.Thread, "setDaemon")
"""


@dataclasses.dataclass
class Row:
    """What happened in all runs of a kind."""

    rounds: int = 0
    accepted: int = 0
    lost: int = 0
    duplicated: int = 0
    repeated: int = 0
    reordered: int = 0
    hung: int = 0

    def __add__(self, other: Row) -> Row:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Row(*(mine + others for mine, others in pairs))


def measure(
    where: PythonEnv,
    faults: tuple[Fault, ...],
    rounds: int,
    seed: int,
    patience: float = PATIENCE,
) -> Row:
    """One run, tolerant of what hangs.

    :param patience: after so many seconds in which nothing happens it does
    """
    setup = Setup(faults, api="layers", endings=(Ending.CLOSE, Ending.RESET), both_ways=False)
    row = Row(rounds)
    with (
        tempfile.TemporaryDirectory() as directory,
        Run(Path(directory), setup, where, seed, patience) as run,
    ):
        for _ in range(rounds):
            try:
                run.round()
            except Stuck:
                row.hung += 1
                run.start_over()
        for attempt in range(ATTEMPTS):
            try:
                run.settle()
                break
            except Stuck:
                row.hung += 1
                if attempt == ATTEMPTS - 1:
                    raise
                run.start_over()
        found = run.findings()
    row.accepted = found.accepted
    row.lost = len(found.lost)
    row.duplicated = len(found.duplicated)
    row.repeated = len(found.repeated)
    row.reordered = len(found.reordered)
    assert not found.foreign
    assert not found.damaged
    return row


def show(table: dict[str, Row]) -> None:
    """Print it, aligned."""
    names = [field.name for field in dataclasses.fields(Row)]
    width = max(map(len, table))
    print(" " * width, *(f"{name:>10}" for name in names))
    for title, row in table.items():
        print(f"{title:{width}}", *(f"{value:>10,}" for value in dataclasses.astuple(row)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="in each run (%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="of each kind (%(default)s)")
    parser.add_argument("--this", action="store_true", help="this package, not 1.6")
    options = parser.parse_args(arguments)
    try:
        found: Environment = (
            this_tree(CACHE) if options.this else installed("snakeMQ==1.6", CHECK)(CACHE)
        )
    except Unavailable as exc:
        print(exc, file=sys.stderr)
        return 1
    where = PythonEnv(
        "this package" if options.this else "snakeMQ 1.6",
        found.python,
        environ_with(found.directory, PYTHONWARNINGS="ignore"),
    )
    table: dict[str, Row] = {}
    for title, faults in SETUPS.items():
        table[title] = Row()
        for seed in range(options.runs):
            table[title] += measure(where, faults, options.rounds, seed)
        print(f"{title}: done", file=sys.stderr)
    table["in all"] = sum(table.values(), Row())
    print(f"{where.name}, {options.runs} runs of {options.rounds} rounds each")
    show(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
