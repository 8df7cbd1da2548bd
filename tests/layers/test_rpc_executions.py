"""Each request is executed once: what is remembered, for how long, and across restarts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snakemq._transaction import begin as transaction_of
from snakemq.exceptions import StorageError
from snakemq.queues import QueuesManager
from snakemq.rpc._executions import AnswerLimits, Execution, Executions, State
from snakemq.storage.sqlite import SqliteQueuesStorage

ONE, TWO, THREE = (bytes(15) + bytes([number]) for number in range(1, 4))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def executions(clock: Clock) -> Executions:
    return Executions(clock, AnswerLimits(max_count=3, max_bytes=100, max_age=60), None)


def begin(executions: Executions, req_id: bytes, conn_id: str = "c1") -> Execution:
    execution, is_new = executions.receive("alice", req_id, conn_id)
    assert is_new
    assert execution.state is State.BEGUN
    return execution


def answered(executions: Executions, req_id: bytes, answer: bytes) -> Execution:
    execution = begin(executions, req_id)
    executions.answered(execution, answer)
    return execution


def test_a_repeated_request_is_known(executions: Executions) -> None:
    execution = begin(executions, ONE)
    assert executions.receive("alice", ONE, "c2") == (execution, False)
    assert execution.received_on == "c2"
    assert executions.receive("bob", ONE, "c3")[1], "another caller's"
    assert begin(executions, TWO) is not execution
    executions.answered(execution, b"answer")
    assert executions.receive("alice", ONE, "c2") == (execution, False)
    assert (execution.state, execution.answer) == (State.ANSWERED, b"answer")


def test_an_acknowledged_answer_is_forgotten(executions: Executions) -> None:
    execution = answered(executions, ONE, b"answer")
    executions.acknowledged([execution], "c1")
    assert (len(executions), executions.kept_bytes) == (0, 0)
    assert execution.state is State.FORGOTTEN


def test_but_not_while_the_request_may_come_again(executions: Executions) -> None:
    """Acknowledged on c2, where the repeated request is still under way."""
    execution = answered(executions, ONE, b"answer")
    executions.acknowledged([execution], "c2")
    assert executions.receive("alice", ONE, "c2") == (execution, False)
    assert execution.answer == b"answer"
    executions.acknowledged([execution], "c2")
    assert len(executions) == 0


def test_the_oldest_are_forgotten_when_there_are_too_many(executions: Executions) -> None:
    first = answered(executions, ONE, b"1")
    running = begin(executions, TWO)
    for number in range(10, 13):
        answered(executions, bytes([number]) * 16, b"x")
    assert first.state is State.FORGOTTEN
    assert running.state is State.BEGUN, "what runs is not forgotten"
    assert (len(executions), executions.kept_bytes) == (4, 3)


def test_large_answers_go_but_not_that_they_were_given(executions: Executions) -> None:
    first = answered(executions, ONE, bytes(60))
    second = answered(executions, TWO, bytes(60))
    assert first.is_gone
    assert not second.is_gone
    assert executions.receive("alice", ONE, "c1") == (first, False)
    assert executions.kept_bytes == 60
    third = answered(executions, THREE, bytes(1000))
    assert second.is_gone
    assert not third.is_gone, "the last one is on its way"


def test_those_of_others_go_if_the_last_one_is_the_largest(executions: Executions) -> None:
    """It is on its way, and its caller has no other."""
    first = answered(executions, ONE, bytes(30))
    second = answered(executions, TWO, bytes(30))
    large, _ = executions.receive("bob", THREE, "c2")
    executions.answered(large, bytes(50))
    assert [each.is_gone for each in (first, second, large)] == [True, False, False]


def test_the_only_one_is_forgotten_if_none_may_be_kept(clock: Clock) -> None:
    executions = Executions(clock, AnswerLimits(max_count=0, max_bytes=100, max_age=60), None)
    execution = answered(executions, ONE, b"1")
    assert execution.state is State.FORGOTTEN
    assert (len(executions), executions.kept_bytes) == (0, 0)


def test_one_that_is_too_large_alone_is_kept_until_there_is_another(
    executions: Executions,
) -> None:
    large = answered(executions, ONE, bytes(1000))
    assert executions.expire() == 60
    assert not large.is_gone
    small = answered(executions, TWO, b"2")
    assert [each.is_gone for each in (large, small)] == [True, False]


@pytest.mark.parametrize("name", ["max_count", "max_bytes", "max_age"])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_limits_are_not_negative(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 0, not {value}"):
        AnswerLimits(**{name: value})  # type: ignore[arg-type]


def test_old_ones_are_forgotten(executions: Executions, clock: Clock) -> None:
    assert executions.expire() is None
    answered(executions, ONE, b"1")
    clock.now += 20
    answered(executions, TWO, b"2")
    assert executions.expire() == 40
    clock.now += 41
    assert executions.expire() == pytest.approx(19)
    assert executions.find("alice", ONE) is None
    assert executions.find("alice", TWO) is not None
    clock.now += 20
    assert executions.expire() is None
    assert (len(executions), executions.kept_bytes) == (0, 0)


def test_what_is_forgotten_while_it_runs_keeps_no_answer(executions: Executions) -> None:
    execution = begin(executions, ONE)
    executions.forget(execution)
    executions.forget(execution)
    again = begin(executions, ONE)
    executions.answered(execution, b"late")
    assert executions.find("alice", ONE) is again
    assert executions.kept_bytes == 0


def test_all_of_it_against_a_model(clock: Clock) -> None:
    chance = random.Random(5)
    limits = AnswerLimits(max_count=20, max_bytes=300, max_age=60)
    executions = Executions(clock, limits, None)
    running: dict[tuple[str, bytes], Execution] = {}
    done: dict[tuple[str, bytes], Execution] = {}
    for _ in range(5000):
        key = chance.choice(("alice", "bob", "carol")), bytes([chance.randrange(30)]) * 16
        match chance.randrange(5):
            case 0 | 1:
                execution, is_new = executions.receive(*key, "c")
                if is_new:
                    assert key not in running
                    running[key] = execution
            case 2 if running:
                key = chance.choice(list(running))
                done[key] = execution = running.pop(key)
                executions.answered(execution, bytes(chance.randrange(400)))
                assert not execution.is_gone
            case 3 if done:
                executions.acknowledged([done.pop(chance.choice(list(done)))], "c")
            case _:
                clock.now += chance.random()
                executions.expire()
                assert all(
                    each.answered_at >= clock.now - 60
                    for each in done.values()
                    if each.state is State.ANSWERED
                )
        known = [each for each in done.values() if each.state is State.ANSWERED]
        kept = [each.answer for each in known if each.answer is not None]
        assert executions.kept_bytes == sum(map(len, kept))
        assert executions.kept_bytes <= 300 or len(kept) == 1
        assert len(executions) == len(known) + len(running)
        assert len(known) <= 20


# With a storage.


class Restarts:
    """A server's memory over one file, that can be killed."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self.limits = AnswerLimits(max_count=100, max_bytes=1000, max_age=60)
        self.open()

    def open(self) -> None:
        self.manager = QueuesManager(SqliteQueuesStorage(self._path))
        self.ledger = self.manager.open_ledger("answers")
        self.executions = Executions(self._clock, self.limits, self.ledger)

    def restart(self) -> Executions:
        # What waits to be removed is lost with the process.
        self.manager.storage.close()  # type: ignore[union-attr]
        self.open()
        return self.executions


@pytest.fixture
def restarts(tmp_path: Path, clock: Clock) -> Iterator[Restarts]:
    restarts = Restarts(tmp_path / "storage.db", clock)
    yield restarts
    restarts.manager.close()


def test_an_answer_outlives_the_process(restarts: Restarts) -> None:
    answered(restarts.executions, ONE, b"answer")
    executions = restarts.restart()
    execution, is_new = executions.receive("alice", ONE, "c9")
    assert not is_new
    assert (execution.state, execution.answer) == (State.ANSWERED, b"answer")
    assert executions.receive("bob", ONE, "c9")[1]
    executions.acknowledged([execution], "c9")
    assert len(restarts.ledger) == 0
    assert restarts.restart().receive("alice", ONE, "c")[1]


def test_what_was_not_answered_runs_again(restarts: Restarts) -> None:
    begin(restarts.executions, ONE)
    begin(restarts.restart(), ONE)


def test_unless_it_must_not(restarts: Restarts) -> None:
    execution = begin(restarts.executions, ONE)
    restarts.executions.store_begin(execution)
    executions = restarts.restart()
    execution, is_new = executions.receive("alice", ONE, "c")
    assert (is_new, execution.state) == (True, State.INTERRUPTED)
    executions.answered(execution, b"it was interrupted")
    execution, is_new = restarts.restart().receive("alice", ONE, "c")
    assert (is_new, execution.answer) == (False, b"it was interrupted")
    assert len(restarts.ledger) == 1


def test_an_answer_takes_the_place_of_the_beginning(restarts: Restarts) -> None:
    execution = begin(restarts.executions, ONE)
    restarts.executions.store_begin(execution)
    restarts.executions.answered(execution, b"answer")
    execution, is_new = restarts.restart().receive("alice", ONE, "c")
    assert (is_new, execution.answer) == (False, b"answer")


def test_a_cancelled_one_leaves_nothing(restarts: Restarts) -> None:
    execution = begin(restarts.executions, ONE)
    restarts.executions.store_begin(execution)
    restarts.executions.forget(execution)
    assert len(restarts.ledger) == 0


def test_that_an_answer_is_gone_outlives_the_process(restarts: Restarts) -> None:
    answered(restarts.executions, ONE, bytes(900))
    answered(restarts.executions, TWO, bytes(900))
    execution, is_new = restarts.restart().receive("alice", ONE, "c")
    assert not is_new
    assert execution.is_gone


def test_an_answer_that_came_with_a_transaction(restarts: Restarts) -> None:
    execution = begin(restarts.executions, ONE)
    with transaction_of(restarts.manager, None, lambda ident, message: None) as transaction:
        key, record = Executions.record(execution, b"answer")
        transaction.keep(restarts.ledger, key, record)
    restarts.executions.answered(execution, b"answer", is_stored=True)
    assert len(restarts.ledger) == 1
    execution, is_new = restarts.restart().receive("alice", ONE, "c")
    assert (is_new, execution.answer) == (False, b"answer")


def test_an_answer_that_is_read_again_is_the_oldest(restarts: Restarts, clock: Clock) -> None:
    answered(restarts.executions, ONE, bytes(400))
    clock.now += 20
    executions = restarts.restart()
    second = answered(executions, TWO, bytes(400))
    first, _ = executions.receive("alice", ONE, "c")
    assert first.answer == bytes(400)
    third = answered(executions, THREE, bytes(400))
    assert [each.is_gone for each in (first, second, third)] == [True, False, False]


def test_and_one_that_was_rolled_back(restarts: Restarts) -> None:
    execution = begin(restarts.executions, ONE)
    key, record = Executions.record(execution, b"answer")

    def fail() -> None:
        with transaction_of(restarts.manager, None, lambda ident, message: None) as transaction:
            transaction.keep(restarts.ledger, key, record)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(restarts.ledger) == 0
    begin(restarts.restart(), ONE)


def test_too_many_and_too_old_ones_of_an_earlier_process_are_removed(
    restarts: Restarts, clock: Clock
) -> None:
    for number in range(1, 6):
        answered(restarts.executions, bytes([number]) * 16, b"answer")
    restarts.limits = AnswerLimits(max_count=2, max_bytes=1000, max_age=60)
    executions = restarts.restart()
    assert len(restarts.ledger) == 2
    assert executions.receive("alice", bytes([3]) * 16, "c")[1]
    assert not executions.receive("alice", bytes([4]) * 16, "c")[1]
    restarts.limits = AnswerLimits(max_count=2, max_bytes=1000, max_age=0)
    assert restarts.restart().receive("alice", bytes([5]) * 16, "c")[1]
    assert len(restarts.ledger) == 0


def test_an_answer_that_can_not_be_stored_is_kept_in_memory(clock: Clock) -> None:
    class Broken:
        def load(self) -> Any:
            return iter(())

        def put(self, key: bytes, record: bytes) -> None:
            raise StorageError("the disk is full")

        def get(self, key: bytes) -> bytes | None:
            return None

        def remove(self, keys: list[bytes]) -> None: ...

    executions = Executions(clock, AnswerLimits(), Broken())
    execution = begin(executions, ONE)
    with pytest.raises(StorageError):
        executions.answered(execution, b"answer")
    assert executions.receive("alice", ONE, "c2") == (execution, False)
    assert execution.answer == b"answer"
