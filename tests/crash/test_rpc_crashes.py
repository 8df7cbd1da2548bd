"""Servers and callers that are killed in mid-call: what runs, how often, and what the caller hears.

A few rounds by default; the environment variable ``SNAKEMQ_CRASH_ROUNDS`` asks
for so many in all.
"""

from __future__ import annotations

import enum
import math
import os
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.compat.harness import PythonEnv
from tests.crash.processes import Role
from tests.crash.proxy import CuttingProxy, Direction, Ending, Trap
from tests.crash.workers.records import ACCEPTED, ENDED, OFFERED, RECEIVED, read_records

#: How many rounds there are in one test at most.
ROUNDS_PER_RUN = 25

#: Each process of the caller has tokens of its own.
TOKENS = 10_000_000


class Fault(enum.Enum):
    """What happens in a round."""

    CUT = "connection cut"
    KILL_SERVER = "server killed"
    #: before or after the effect of a method
    SERVER_DIES = "server dies in a method"
    KILL_CLIENT = "caller killed"
    DRAIN = "server ends in good order"


SETUPS = {
    "server killed": (Fault.KILL_SERVER, Fault.SERVER_DIES),
    "all of it": (*Fault, Fault.CUT, Fault.KILL_SERVER, Fault.SERVER_DIES),
    "good order": (Fault.DRAIN,),
}

#: In all, by default.
ROUNDS = 18


def runs() -> list[object]:
    """Faults, rounds and seed of each run."""
    wanted = int(os.environ.get("SNAKEMQ_CRASH_ROUNDS", ROUNDS))
    share = math.ceil(wanted / len(SETUPS))
    return [
        pytest.param(faults, min(ROUNDS_PER_RUN, share - first), seed, id=f"{name}-{seed}")
        for name, faults in SETUPS.items()
        for seed, first in enumerate(range(0, share, ROUNDS_PER_RUN))
    ]


class Run:
    """A server, a caller, and a proxy between them.

    :param seed: determines the faults and where they hit
    """

    def __init__(self, directory: Path, where: PythonEnv, seed: int) -> None:
        self.rng = random.Random(seed)
        self.proxy = CuttingProxy()
        self.server = Role("rpc_server", where, directory, has_storage=True)
        self._directory = directory
        self._where = where
        self.client = self._role_of_client(0)
        self._clients = 0

    def _role_of_client(self, number: int) -> Role:
        return Role(
            "rpc_client",
            self._where,
            self._directory,
            has_storage=False,
            connect=self.proxy.port,
            server="rpc_server",
            first=number * TOKENS,
        )

    def begin_server(self) -> None:
        self.server.begin()
        self.proxy.lead_to(self.server.worker.hear("ready"))

    def begin_client(self) -> None:
        self.client = self._role_of_client(self._clients)
        self._clients += 1
        self.client.begin()
        self.client.worker.hear("ready")

    def close(self) -> None:
        self.server.kill()
        self.client.kill()
        self.proxy.close()

    def place(self) -> tuple[Direction, int]:
        """Behind which byte it happens."""
        return self.rng.choice(list(Direction)), int(10 ** self.rng.uniform(0, 4.3))

    def do(self, fault: Fault) -> None:
        """Let it happen, and mend it."""
        if fault is Fault.CUT:
            endings = (Ending.CLOSE, Ending.RESET, Ending.SILENCE)
            self.spring(Trap(*self.place(), self.rng.choice(endings)))
        elif fault is Fault.KILL_CLIENT:
            self.spring(Trap(*self.place(), action=self.client.worker.kill))
            self.client.worker.join()
            self.begin_client()
        else:
            if fault is Fault.KILL_SERVER:
                self.spring(Trap(*self.place(), action=self.server.worker.kill))
            elif fault is Fault.SERVER_DIES:
                count = int(10 ** self.rng.uniform(0, 2))
                self.server.worker.tell("die", count=count, effect_first=self.rng.random() < 0.5)
            else:
                # While there is something to do.
                self.spring(Trap(Direction.TO_CONNECTOR, int(10 ** self.rng.uniform(2, 4))))
                self.server.worker.tell("drain")
                assert self.server.worker.hear("drained") == [True, True]
            # Nobody is to find another program on that port.
            self.server.worker.join()
            self.proxy.lead_to(None)
            self.begin_server()

    def spring(self, trap: Trap) -> None:
        self.proxy.arm(trap)
        assert trap.wait(), (
            f"nothing happens: {trap!r}\n{self.client.worker.complaints()}"
            f"{self.server.worker.complaints()}"
        )

    def finish(self) -> None:
        """Let all calls end, and both processes."""
        self.client.worker.tell("stop")
        self.client.worker.hear("stopped")
        assert self.client.worker.join() == 0
        self.server.worker.tell("drain")
        assert self.server.worker.hear("drained") == [True, True]
        assert self.server.worker.join() == 0

    def problems(self) -> tuple[list[str], Counter[str]]:
        """What is wrong, and how much of what there was."""
        offered: set[int] = set()
        answered: dict[int, int] = {}
        interrupted: set[int] = set()
        for record in read_records(self.client.records):
            if record.kind == OFFERED:
                offered.add(record.number)
            elif record.kind == ACCEPTED:
                answered[record.number] = record.size
            elif record.kind == ENDED:
                interrupted.add(record.number)
        effects: dict[int, list[int]] = {token: [] for token in offered}
        for record in read_records(self.server.records):
            if record.kind == RECEIVED:
                effects[record.number].append(record.incarnation)
        with closing(sqlite3.connect(self.server.storage)) as db:
            for token, incarnation in db.execute("SELECT token, incarnation FROM effects"):
                effects[token].append(incarnation)
            (counter,) = db.execute("SELECT value FROM counter").fetchone()
            (kept,) = db.execute("SELECT count(*) FROM items").fetchone()

        found = []
        last_client = (self._clients - 1) * TOKENS
        for token in sorted(offered):
            runs = effects[token]
            method = ("exactly", "at least", "at most")[token % 3]
            what = f"{method} {token}: ran in {runs}"
            if token in answered:
                what += f", answered by {answered[token]}"
                if method != "at least" and len(runs) != 1:
                    found.append(f"{what}: not once")
                elif runs[-1:] != [answered[token]]:
                    found.append(f"{what}: not the run that was answered last")
            elif token in interrupted:
                if method != "at most":
                    found.append(f"{what}: interrupted")
            elif token >= last_client:
                found.append(f"{what}: no answer")
            if len(set(runs)) != len(runs):
                found.append(f"{what}: more than once in one process")
            if method != "at least" and len(runs) > 1:
                found.append(f"{what}: more than once")
        exactly = sum(len(runs) for token, runs in effects.items() if token % 3 == 0)
        if counter != exactly:
            found.append(f"the counter says {counter}, and there are {exactly} rows")
        repeated = sum(len(runs) > 1 for runs in effects.values())
        numbers = Counter(
            calls=len(offered),
            answered=len(answered),
            interrupted=len(interrupted),
            repeated=repeated,
            kept=kept,
        )
        return found, numbers


@pytest.fixture
def make_run(this_env: PythonEnv, tmp_path: Path) -> Iterator[list[Run]]:
    runs: list[Run] = []
    yield runs
    for run in runs:
        run.close()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kill -9 is meant")
@pytest.mark.parametrize(("faults", "rounds", "seed"), runs())
def test_calls_run_as_often_as_is_promised(
    faults: tuple[Fault, ...],
    rounds: int,
    seed: int,
    this_env: PythonEnv,
    tmp_path: Path,
    make_run: list[Run],
) -> None:
    run = Run(tmp_path, this_env, seed)
    make_run.append(run)
    run.begin_server()
    run.begin_client()
    for _ in range(rounds):
        run.do(run.rng.choice(faults))
    run.finish()
    problems, numbers = run.problems()
    print(numbers)
    assert problems == []
    assert numbers["answered"] >= numbers["calls"] - numbers["interrupted"] - 20 * rounds
    if faults == (Fault.DRAIN,):
        # With all acknowledged, nothing of it stays.
        assert numbers["answered"] == numbers["calls"]
        assert numbers["repeated"] == numbers["kept"] == 0
    for role in (run.server, run.client):
        assert "Traceback" not in role.worker.complaints()
