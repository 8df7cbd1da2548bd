"""Messages without TTL and flags, which are queued with room that was granted in advance."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from snakemq import FLAG_PERSISTENT, Message
from snakemq._attendant import Attendant
from snakemq._room import PORTION_MESSAGES
from snakemq.limits import QueueLimits
from snakemq.queues import QueuesManager
from snakemq.storage import MemoryQueuesStorage
from tests.helpers import DEADLINE, wait_until
from tests.layers.peers import connected_pair


@pytest.fixture
def manager() -> QueuesManager:
    return QueuesManager()


def fill(manager: QueuesManager, name: str, size: int = 1) -> int:
    """How many messages of that size are accepted."""
    count = 0
    while manager.get_queue(name).push_data(bytes(size)) is not None:
        count += 1
    return count


class TestLimits:
    """They are as exact as without it."""

    @pytest.mark.parametrize("limit", [0, 1, 7, PORTION_MESSAGES, PORTION_MESSAGES + 1])
    def test_messages(self, manager: QueuesManager, limit: int) -> None:
        manager.limits = QueueLimits(max_messages=max(1, limit), total_messages=max(1, limit))
        assert fill(manager, "a") == max(1, limit)
        assert len(manager.get_queue("a")) == max(1, limit)

    def test_bytes(self, manager: QueuesManager) -> None:
        manager.limits = QueueLimits(max_bytes=1000)
        assert fill(manager, "a", 300) == 3
        assert fill(manager, "a", 90) == 1
        assert fill(manager, "a", 11) == 0
        assert fill(manager, "a", 10) == 1

    def test_what_one_queue_was_granted_is_there_for_the_others(
        self, manager: QueuesManager
    ) -> None:
        manager.limits = QueueLimits(total_messages=100)
        for name in "abc":
            assert manager.get_queue(name).push_data(b"x") is not None
        assert fill(manager, "b") == 97
        assert [len(manager.get_queue(name)) for name in "abc"] == [1, 98, 1]

    def test_a_message_with_a_ttl_gets_what_was_granted_and_not_used(
        self, manager: QueuesManager
    ) -> None:
        manager.limits = QueueLimits(max_messages=10)
        queue = manager.get_queue("a")
        assert queue.push_data(b"x") is not None
        for _ in range(9):
            assert queue.push(Message(b"x", 60))
        assert queue.push_data(b"x") is None

    def test_lower_ones_hold_at_once(self, manager: QueuesManager) -> None:
        queue = manager.get_queue("a")
        for _ in range(10):
            queue.push_data(b"x")
        manager.limits = QueueLimits(max_messages=5)
        assert queue.push_data(b"x") is None
        manager.limits = QueueLimits(max_messages=12)
        assert fill(manager, "a") == 2

    @pytest.mark.parametrize("seed", range(20))
    def test_any_order(self, manager: QueuesManager, seed: int) -> None:
        rng = random.Random(seed)
        sizes: dict[str, list[int]] = {"a": [], "b": [], "c": []}
        limits = QueueLimits()
        for _ in range(500):
            name = rng.choice("aaabc")
            queue = manager.get_queue(name)
            size = rng.choice((0, 1, 10, 100))
            step = rng.random()
            if step < 0.02:
                limits = QueueLimits(
                    max_messages=rng.randint(1, 40),
                    max_bytes=rng.randint(1, 1000),
                    total_messages=rng.randint(1, 80),
                    total_bytes=rng.randint(1, 2000),
                )
                manager.limits = limits
            elif step < 0.2 and sizes[name]:
                queue.pop()
                sizes[name].pop(0)
            else:
                every = [size for sizes_of in sizes.values() for size in sizes_of]
                has_room = (
                    len(sizes[name]) < limits.max_messages
                    and sum(sizes[name]) + size <= limits.max_bytes
                    and len(every) < limits.total_messages
                    and sum(every) + size <= limits.total_bytes
                )
                assert (queue.push_data(bytes(size)) is not None) == has_room
                if has_room:
                    sizes[name].append(size)
            assert {name: len(manager.get_queue(name)) for name in sizes} == {
                name: len(sizes_of) for name, sizes_of in sizes.items()
            }
        with manager.room.lock:
            manager.room.take_all_back()
        assert manager.room.messages == sum(map(len, sizes.values()))
        assert manager.room.bytes == sum(map(sum, sizes.values()))


class TestWhatIsGrantedEnds:
    def test_with_the_queues(self, manager: QueuesManager) -> None:
        queue = manager.get_queue("a")
        assert queue.push_data(b"x") is not None
        manager.close()
        assert queue.push_data(b"x") is None

    def test_with_the_queue(self, manager: QueuesManager) -> None:
        queue = manager.get_queue("a")
        assert queue.push_data(b"x") is not None
        queue.pop()
        assert queue.forget()
        assert queue.push_data(b"x") is None
        assert (manager.room.messages, manager.room.bytes) == (0, 0)

    def test_when_something_before_it_is_on_the_disk_only(self) -> None:
        manager = QueuesManager(MemoryQueuesStorage())
        queue = manager.get_queue("a")
        assert queue.push_data(b"1") is not None
        queue.push(Message(b"2", None, FLAG_PERSISTENT))
        assert queue.push_data(b"3") is None  # who sends it takes the other way then
        queue.push(Message(b"3", None))
        left = []
        while (message := queue.get()) is not None:
            left.append(message.data)
            queue.pop()
        assert left == [b"1", b"2", b"3"]


class _Interrupter:
    """Raises KeyboardInterrupt at one of the steps of a function."""

    def __init__(self, func: Callable[..., Any], step: int) -> None:
        self._code = func.__code__
        self._left = step
        self.has_interrupted = False

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code is not self._code:
            return None
        frame.f_trace_opcodes = True
        # Python 3.12 has no events for the operations of a function that was entered before.
        if event in ("opcode", "line") and not self.has_interrupted:
            self._left -= 1
            if self._left < 0:
                self.has_interrupted = True
                raise KeyboardInterrupt
        return self._trace

    def __enter__(self) -> _Interrupter:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.settrace(self._before)


def test_ctrl_c_at_any_step_leaves_what_is_counted_and_no_lock(manager: QueuesManager) -> None:
    queue = manager.get_queue("a")
    queue.push_data(b"first")
    outcomes = set()
    for step in range(1000):
        before = len(queue._outbox.waiting)
        with _Interrupter(type(queue).push_data, step) as interrupter:
            try:
                queue.push_data(b"data")
            except KeyboardInterrupt:
                outcomes.add(len(queue._outbox.waiting) - before)
        assert len(queue) == len(queue._outbox.waiting)
        taken: list[bool] = []
        other = threading.Thread(
            target=lambda: taken.append(manager.room.lock.acquire(timeout=DEADLINE))  # noqa: B023
        )
        other.start()
        other.join()
        assert taken == [True]
        manager.room.lock = threading.RLock()  # the other thread has that one for ever
        if not interrupter.has_interrupted:
            break
    assert outcomes == {0, 1}


def test_what_is_counted_wrongly_is_not_forgotten(manager: QueuesManager) -> None:
    """Ctrl-C may have come while it was counted: what is there must stay all the same."""
    queue = manager.get_queue("a")
    queue.push_data(b"data")
    queue.messages -= 5
    assert len(queue) == 0
    assert not queue.forget()


class TestTheLoopIsWaitedFor:
    """By a thread that sends faster than it, but not for long."""

    COUNT = 3 * PORTION_MESSAGES

    @pytest.fixture
    def received(self) -> list[bytes]:
        return []

    @pytest.fixture
    def looks(self, monkeypatch: pytest.MonkeyPatch) -> list[None]:
        looks: list[None] = []
        let_loop_look = Attendant.let_loop_look

        def count(self: Attendant, queue: Any) -> None:
            looks.append(None)
            let_loop_look(self, queue)

        monkeypatch.setattr(Attendant, "let_loop_look", count)
        return looks

    def test_all_arrives_in_order(self, received: list[bytes]) -> None:
        with connected_pair(bob={"on_message": lambda m: received.append(m.data)}) as (_, alice):
            for number in range(self.COUNT):
                alice.send("bob", b"%d" % number)
            wait_until(lambda: len(received) == self.COUNT)
        assert received == [b"%d" % number for number in range(self.COUNT)]

    def test_it_is_in_a_callback(self, looks: list[None], received: list[bytes]) -> None:
        entered, leave = threading.Event(), threading.Event()

        def block(message: object) -> None:
            entered.set()
            assert leave.wait(DEADLINE)

        with connected_pair(
            bob={"on_message": lambda m: received.append(m.data)}, alice={"on_message": block}
        ) as (bob, alice):
            bob.send("alice", b"")
            assert entered.wait(DEADLINE)
            for _ in range(self.COUNT):
                alice.send("bob", b"x")
            assert looks
            leave.set()
            wait_until(lambda: len(received) == self.COUNT)

    def test_not_by_itself(self, looks: list[None], received: list[bytes]) -> None:
        def flood(message: object) -> None:
            for _ in range(self.COUNT):
                alice.send("bob", b"x")

        with connected_pair(
            bob={"on_message": lambda m: received.append(m.data)}, alice={"on_message": flood}
        ) as (bob, alice):
            bob.send("alice", b"")
            wait_until(lambda: len(received) == self.COUNT)
        assert looks
