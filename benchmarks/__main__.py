"""Measure the package side by side with others.

Each run is two new processes that talk over the loopback interface. Rounds are
interleaved: every peer does the workload once, then every peer again, so that a
machine that slows down slows down all of them. What arrives is verified: count,
order and content. Figures are medians, and ratios are medians of the ratios
within each round.

Other packages are installed from the package index when they are needed first.
What is stored is all below one directory, so that everybody waits for the same
disk. RabbitMQ, where it is installed, runs as a server of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.backlog.report import BacklogReport
from benchmarks.backlog.runner import measure_backlogs
from benchmarks.environments import CACHE, this_tree
from benchmarks.machine import Machine
from benchmarks.peers.catalogue import PEERS
from benchmarks.processes import RunFailed
from benchmarks.report import Report
from benchmarks.runner import measure, prepare
from benchmarks.workloads import WORKLOADS

#: How many rounds, how much of the full count, and backlogs of which sizes: of
#: a full run, of a quick one.
_FULL: Final = (5, 1.0, (1_000, 10_000, 100_000))
_QUICK: Final = (3, 0.1, (1_000, 5_000))

_BACKLOG: Final = "backlog"


def main() -> int:
    options = _options()
    # So that whoever ends this ends the servers, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    progress = _show_progress if sys.stderr.isatty() else _ignore
    try:
        with ExitStack() as stack:
            stack.callback(progress, "")
            options.directory.mkdir(parents=True, exist_ok=True)
            directory = Path(
                stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="data-", dir=options.directory)
                )
            )
            # A server that runs as another user has to get to its own directory.
            directory.chmod(0o711)
            return _measure_and_report(options, directory, stack, progress)
    except RunFailed as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _measure_and_report(
    options: argparse.Namespace,
    directory: Path,
    servers: ExitStack,
    progress: Callable[[str], object],
) -> int:
    machine = Machine.here(directory)
    if machine.warning:
        print(f"warning: {machine.warning}", file=sys.stderr)
    workloads = [name for name in options.workloads if name != _BACKLOG]
    progress("getting everything that is needed")
    peers, left_out = prepare(options.peers or PEERS, workloads, options.cache, directory, servers)
    written: dict[str, Any] = {"machine": dataclasses.asdict(machine), "left_out": left_out}
    shown = [str(machine)]
    shown += [f"{name} is left out: {reason}" for name, reason in left_out.items()]
    if workloads:
        if not peers or (options.peers and left_out):
            print("\n".join(shown[1:]) or "none of these peers does that", file=sys.stderr)
            return 1
        measured = measure(peers, workloads, options.rounds, options.scale, directory, progress)
        report = Report(measured)
        written |= report.as_json()
        shown.append(report.as_table())
    if _BACKLOG in options.workloads:
        backlogs = BacklogReport(
            measure_backlogs(
                this_tree(options.cache), options.sizes, options.rounds, directory, progress
            )
        )
        written[_BACKLOG] = backlogs.as_json()
        shown += ["", backlogs.as_table()]
    progress("")
    if options.json:
        options.json.write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    print("\n".join(shown))
    return 0


def _options() -> argparse.Namespace:
    width = max(map(len, WORKLOADS))
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="workloads:\n"
        + "\n".join(f"  {name:<{width}} {workload.title}" for name, workload in WORKLOADS.items())
        + f"\n  {_BACKLOG:<{width}} what waits for a peer that is not there, by its size"
        + f"\n\npeers: {', '.join(PEERS)}",
    )
    names = [*WORKLOADS, _BACKLOG]
    parser.add_argument("--quick", action="store_true", help="fewer rounds of a tenth the size")
    parser.add_argument(
        "--workloads", type=_names_of(names), default=names, metavar="A,B", help="only these"
    )
    parser.add_argument("--peers", type=_names_of(PEERS), metavar="A,B", help="only these")
    parser.add_argument("--rounds", type=_positive(int), metavar="N")
    parser.add_argument(
        "--scale", type=_positive(float), metavar="X", help="so many times the operations"
    )
    parser.add_argument(
        "--sizes",
        type=_sizes,
        metavar="N,N",
        help="of the backlog, in messages (default: 1000,10000,100000; 1000000 takes minutes)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")
    parser.add_argument(
        "--directory",
        type=_path,
        default=_path(os.environ.get("TMPDIR") or CACHE),
        metavar="DIR",
        help="on the disk to measure with (default: $TMPDIR if it is set, else build/benchmarks)",
    )
    parser.add_argument(
        "--cache",
        type=_path,
        default=CACHE,
        metavar="DIR",
        help="where other packages are installed (default: build/benchmarks)",
    )
    options = parser.parse_args()
    rounds, scale, sizes = _QUICK if options.quick else _FULL
    options.rounds = options.rounds or rounds
    options.scale = options.scale or scale
    options.sizes = options.sizes or sizes
    return options


def _path(text: str | Path) -> Path:
    return Path(text).resolve()


def _sizes(text: str) -> list[int]:
    return sorted({int(_positive(int)(size)) for size in text.split(",")})


def _names_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        found = [name.strip() for name in text.split(",")]
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return found

    return names


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not more than 0")
        return value

    return number


def _show_progress(what: str) -> None:
    print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


def _ignore(what: str) -> None:
    """Nobody is looking."""


if __name__ == "__main__":
    sys.exit(main())
