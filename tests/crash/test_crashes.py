"""Cut connections and killed processes: nothing is lost, nothing comes twice, the order is kept.

A few rounds of each by default; the environment variable
``SNAKEMQ_CRASH_ROUNDS`` asks for so many in all.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compat.harness import PythonEnv
from tests.crash.rounds import CUTS, KILLS, Fault, Run, Setup
from tests.crash.workers.records import ACCEPTED, RECEIVED, read_records

#: How many rounds there are in one test at most: enough to have one fault meet the
#: consequences of another, few enough for its time limit.
ROUNDS_PER_RUN = 20

SENDER = (Fault.KILL_SENDER, Fault.SENDER_DIES)
RECEIVER = (Fault.KILL_RECEIVER, Fault.RECEIVER_DIES)
ALL = CUTS * 5 + KILLS

DURABLY = {"durable_receive": True}

SETUPS = {
    "connection cut": Setup(CUTS),
    "sender killed": Setup(SENDER),
    "receiver killed": Setup(RECEIVER),
    "both killed": Setup((Fault.KILL_BOTH,)),
    "all of it": Setup(ALL),
    "all of it, with 1.6's classes": Setup(ALL, api="layers"),
    "not persistent, connection cut": Setup(CUTS, persistent=False, receiver_storage=False),
    "not persistent, receiver killed": Setup(CUTS * 3 + RECEIVER, persistent=False),
    "receiver without a storage": Setup(ALL, receiver_storage=False),
    "received durably": Setup(ALL, keywords=DURABLY),
    "received durably, with 1.6's classes": Setup(ALL, api="layers", keywords=DURABLY),
    "in batches, received durably in a loop": Setup(
        ALL, sending="batch", receiving="messages", keywords=DURABLY
    ),
    "transactional outbox, exactly once": Setup(
        ALL, sending="outbox", receiving="transaction", keywords=DURABLY
    ),
}

#: In all, by default.
ROUNDS = 3 * len(SETUPS)


def runs() -> list[object]:
    """Setup, rounds and seed of each run."""
    wanted = int(os.environ.get("SNAKEMQ_CRASH_ROUNDS", ROUNDS))
    share = math.ceil(wanted / len(SETUPS))
    parameters = []
    for name, setup in SETUPS.items():
        for seed, first in enumerate(range(0, share, ROUNDS_PER_RUN)):
            rounds = min(ROUNDS_PER_RUN, share - first)
            parameters.append(pytest.param(setup, rounds, seed, id=f"{name}-{seed}"))
    return parameters


@pytest.mark.slow
@pytest.mark.parametrize(("setup", "rounds", "seed"), runs())
def test_nothing_is_lost_or_comes_twice_or_too_late(
    setup: Setup, rounds: int, seed: int, this_env: PythonEnv, tmp_path: Path
) -> None:
    with Run(tmp_path, setup, this_env, seed) as run:
        for _ in range(rounds):
            run.round()
        findings = run.finish()
    assert findings.problems() == []
    assert run.left_in_storage() == 0
    run.check_tables()
    if setup.receiving == "transaction":
        assert run.answers().problems() == []
    for role in (run.sender, run.receiver):
        assert "Traceback" not in role.worker.complaints()
    print(findings)


class TestStorages:
    """One that is lost, or brought back. It also shows that the meter finds what is wrong."""

    @pytest.fixture
    def run(self, this_env: PythonEnv, tmp_path: Path) -> Iterator[Run]:
        with Run(tmp_path, Setup(KILLS), this_env, seed=1) as run:
            yield run

    @staticmethod
    def stop_with_a_backlog(run: Run) -> set[int]:
        """Kill both, the receiver first; the numbers that it did not get."""

        run.receiver.kill()
        for _ in range(20):
            run.sender.worker.tell("mark")
            run.sender.worker.hear("marked")
        run.sender.kill()
        accepted = {r.number for r in read_records(run.sender.records) if r.kind == ACCEPTED}
        got = {r.number for r in read_records(run.receiver.records) if r.kind == RECEIVED}
        return accepted - got

    def test_a_lost_sender(self, run: Run) -> None:
        waiting = self.stop_with_a_backlog(run)
        remove(run.sender.storage)
        run.begin()
        assert set(run.finish().lost) == waiting

    def test_a_sender_from_a_backup(self, run: Run, tmp_path: Path) -> None:
        """The receiver recognises what it had got from the sender of then."""
        waiting = self.stop_with_a_backlog(run)
        copy(run.sender.storage, tmp_path / "backup.db")
        run.begin()
        run.settle()
        self.stop_with_a_backlog(run)
        remove(run.sender.storage)
        copy(tmp_path / "backup.db", run.sender.storage)
        run.begin()
        findings = run.finish()
        assert findings.duplicated == []
        assert not waiting & set(findings.lost)

    def test_a_lost_receiver(self, run: Run) -> None:
        self.stop_with_a_backlog(run)
        remove(run.receiver.storage)
        run.begin()
        report = run.finish()
        # What it had handled when it was killed, and not yet acknowledged, it
        # can't recognise without its storage.
        assert all(record.redelivered for record in report.duplicated)
        assert [text for text in report.problems() if " duplicated: " not in text] == []

    def test_a_sender_from_a_backup_and_a_lost_receiver(self, run: Run, tmp_path: Path) -> None:
        """All that is in the backup comes a second time, and marked."""
        waiting = self.stop_with_a_backlog(run)
        copy(run.sender.storage, tmp_path / "backup.db")
        run.begin()
        run.settle()
        self.stop_with_a_backlog(run)
        for storage in (run.sender.storage, run.receiver.storage):
            remove(storage)
        copy(tmp_path / "backup.db", run.sender.storage)
        run.begin()
        again = [record for record in run.finish().duplicated if record.number in waiting]
        assert {record.number for record in again} == waiting
        assert all(record.redelivered for record in again)


def copy(storage: Path, target: Path) -> None:
    """With the log that is beside it."""
    for suffix in ("", "-wal"):
        shutil.copy(f"{storage}{suffix}", f"{target}{suffix}")


def remove(storage: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        os.unlink(f"{storage}{suffix}")
