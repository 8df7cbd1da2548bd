"""Queues of which most is in the storage, which fails or does not have it any more."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from snakemq import _queue
from snakemq.exceptions import QueueFull, StorageUnavailable
from snakemq.limits import DropReason, QueueLimits, WhenFull
from snakemq.message import Message
from snakemq.queues import Queue
from snakemq.storage import MemoryQueuesStorage, Removal, StoredItem
from tests.helpers import DEADLINE, wait_until
from tests.layers.paging_support import SMALL, Bench, Storage, numbers
from tests.layers.writer_support import Thread, persistent


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(_queue, name, value)


def test_a_page_that_can_not_be_read_is_read_later(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Queue] = []
    bench.manager.try_later = asked.append
    bench.push(b"a")
    bench.push_transient(b"b")
    bench.connect()
    bench.storage.fail("get_page")
    assert bench.drain() == []
    assert asked == [bench.queue]
    assert bench.queue.waiting
    assert "the storage is broken" in caplog.text
    bench.storage.before = {}
    assert bench.drain() == [b"a", b"b"]


@pytest.mark.usefixtures("_small")
def test_somebody_else_has_removed_a_part(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for data in numbers(35):
        bench.push(data)
    bench.push_transient(b"transient")
    gone = [item for item in bench.storage.get_items("q") if len(item.data) == 1]
    MemoryQueuesStorage.delete_items(bench.storage, gone)
    bench.connect()
    assert bench.drain() == [*numbers(10, 35), b"transient"]
    assert "10 messages are not in the storage any more" in caplog.text
    assert len(bench.queue) == 0
    room = bench.manager.stored_room
    assert (room.messages, room.bytes) == (0, 0)
    bench.push(b"more")
    assert bench.drain() == [b"more"]


def test_after_a_failure_in_the_middle_of_an_expiry_what_follows_is_not_stuck(
    bench: Bench,
) -> None:
    bench.push(b"stored", ttl=5)
    bench.push_transient(b"transient")
    bench.now += 6
    bench.storage.fail("next_expiry")
    bench.queue.expire()
    assert bench.dropped == [(b"stored", DropReason.EXPIRED)]
    bench.storage.before = {}
    bench.push_transient(b"later")
    bench.push(b"last")
    bench.connect()
    assert bench.drain() == [b"transient", b"later", b"last"]
    assert len(bench.queue) == 0


def test_time_is_told_once_when_two_threads_tell_of_it(bench: Bench) -> None:
    """A sender, and the loop when the peer connects."""
    ran: list[float] = []
    bench.push(b"a", ttl=100)
    bench.now += 10
    telling, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        if not telling.is_set():
            telling.set()
            go_on.wait(DEADLINE)

    class Clock(Storage):
        def advance_ttl(self, queue_name: str, seconds: float) -> None:
            ran.append(seconds)
            super().advance_ttl(queue_name, seconds)

    bench.storage.__class__ = Clock
    bench.storage.before["advance_ttl"] = wait
    sender = Thread(lambda: bench.push(b"b", ttl=100))
    assert telling.wait(DEADLINE)
    loop = Thread(bench.connect)
    wait_until(lambda: not loop.is_alive() or len(ran) > 1 or bench.queue.connected)
    go_on.set()
    assert (sender.end(), loop.end()) == (None, None)
    assert sum(ran) == 10
    assert [item.ttl for item in bench.storage.get_items("q")] == [90, 100]


def test_what_is_adopted_is_not_lost_with_a_queue_that_is_forgotten_just_then(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    positions: list[int] = []

    def adopt() -> list[tuple[str, StoredItem]]:
        message = persistent(b"adopted")
        positions.extend(MemoryQueuesStorage.change_items(bench.storage, [("q", message)]))
        return [("q", StoredItem(positions[0], message))]

    monkeypatch.setattr(bench.storage, "adopt", adopt)
    get_queue = bench.manager.get_queue
    is_first = True

    def get_and_forget(name: str) -> Queue:
        nonlocal is_first
        queue = get_queue(name)
        if is_first:
            is_first = False
            assert queue.forget()  # the loop, at that very moment
        return queue

    monkeypatch.setattr(bench.manager, "get_queue", get_and_forget)
    bench.manager.adopt()
    assert len(get_queue("q")) == 1
    bench.connect()
    assert bench.drain() == [b"adopted"]
    assert bench.storage.content() == []


@pytest.mark.usefixtures("_small")
def test_what_an_earlier_process_may_have_sent_goes_before_what_is_urgent(bench: Bench) -> None:
    for data in numbers(30):
        bench.push(data)
    bench.reopen()
    queue = bench.connect()
    assert len(queue.take(100, 1000).messages) == 10
    queue.push_urgent(Message(b"urgent", ttl=0))
    assert queue.take_urgent(1000).messages == [], "the run of what is stored ends there"
    queue.sent(10)
    queue.confirmed(10)
    stored = 0
    while stored < 20:
        taken = queue.take(100, 1000)
        assert taken.stored == len(taken.messages) > 0
        stored += taken.stored
    assert [message.data for message in queue.take(100, 1000).messages] == [b"urgent"]


@pytest.mark.usefixtures("_small")
def test_when_a_page_can_not_be_read_nothing_urgent_goes_before_what_is_stored(
    bench: Bench,
) -> None:
    for data in numbers(20):
        bench.push(data)
    bench.reopen()
    queue = bench.connect()
    assert len(queue.take(100, 1000).messages) == 10
    queue.sent(10)
    queue.confirmed(10)
    bench.storage.fail("get_page")
    queue.push_urgent(Message(b"urgent", ttl=0))
    assert queue.take(100, 1000).messages == []
    bench.storage.before = {}
    assert queue.take(100, 1000).stored == 10
    assert [message.data for message in queue.take(100, 1000).messages] == [b"urgent"]


def test_what_somebody_else_has_removed_is_noticed_while_something_is_being_stored(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for data in numbers(5):
        bench.push(data)
    MemoryQueuesStorage.delete_all(bench.storage)
    writing, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        writing.set()
        assert go_on.wait(DEADLINE)

    bench.storage.before["change_items"] = wait
    sender = Thread(lambda: bench.push(b"new"))
    assert writing.wait(DEADLINE)
    bench.connect()
    assert bench.drain() == []
    assert "5 messages are not in the storage any more" in caplog.text
    go_on.set()
    assert sender.end() is None
    assert (bench.queue.stored.messages, bench.queue.stored.bytes) == (1, 3)
    assert bench.drain() == [b"new"]
    room = bench.manager.stored_room
    assert (room.messages, room.bytes) == (0, 0)


def test_who_waits_for_room_is_told_when_somebody_else_has_removed_something(
    bench: Bench,
) -> None:
    bench.manager.limits = QueueLimits(max_stored_messages=3, when_full=WhenFull.BLOCK)
    for data in numbers(3):
        bench.push(data)
    MemoryQueuesStorage.delete_all(bench.storage)
    sender = Thread(lambda: bench.push(b"new"))
    wait_until(lambda: bench.manager.stored_room._waiters)
    bench.connect()
    assert bench.drain() == []
    assert sender.end() is None
    assert bench.drain() == [b"new"]


def test_a_batch_for_which_there_is_no_room_in_the_storage_drops_nothing_in_memory(
    bench: Bench,
) -> None:
    bench.manager.limits = QueueLimits(
        max_messages=2, max_stored_messages=1, when_full=WhenFull.DROP_OLDEST
    )
    bench.push_transient(b"1")
    bench.push_transient(b"2")
    batch = [
        ("q", Message(b"3", ttl=None)),
        ("q", persistent(b"4")),
        ("q", persistent(b"5")),
    ]
    with pytest.raises(QueueFull):
        bench.manager.push_many(batch)
    bench.queue.report_drops()
    assert bench.dropped == []
    bench.connect()
    assert bench.drain() == [b"1", b"2"]


def test_who_is_told_of_what_expired_on_the_disk_finds_the_peer_connected(bench: Bench) -> None:
    sent: list[bool] = []

    def dropped(name: str, uuid: bytes) -> None:
        sent.append(bench.queue.push(Message(b"you were late", ttl=0)))

    bench.manager.on_item_drop.add(dropped)
    bench.push(b"a", ttl=5)
    bench.now += 6
    bench.connect()
    assert sent == [True]
    assert bench.drain() == [b"you were late"]


@pytest.mark.parametrize("methods", [["take_expired"], ["take_expired", "advance_ttl"]])
def test_what_expired_while_the_storage_was_broken_is_not_sent(
    bench: Bench, methods: list[str]
) -> None:
    bench.push(b"late", ttl=5)
    bench.push(b"in time")
    bench.now += 6
    bench.storage.fail(*methods)
    bench.connect()
    bench.storage.before = {}
    asked: list[Queue] = []
    bench.manager.attend = asked.extend
    assert bench.drain() == [b"in time"]
    assert asked == [bench.queue]
    bench.queue.report_drops()
    assert bench.dropped == [(b"late", DropReason.EXPIRED)]
    assert bench.storage.content() == []


class AbsentStorage(Storage):
    """On a server that does not come back; it has nothing to sync."""

    def __init__(self) -> None:
        super().__init__()
        self.tries = 0

    def change_items(
        self,
        push: Sequence[tuple[str, Message]],
        remove: Sequence[Removal] = (),
        *,
        sync: bool = True,
    ) -> list[int]:
        self.tries += 1
        if self.tries > 100:
            raise AssertionError("it goes round in circles")
        raise StorageUnavailable("the server is gone")

    def sync(self) -> None:
        pass


def test_who_waits_for_a_storage_that_is_not_there_does_not_go_round_in_circles() -> None:
    storage = AbsentStorage()
    bench = Bench(storage)
    with pytest.raises(StorageUnavailable):
        bench.push(b"a")
    assert storage.tries <= 10
    assert len(bench.queue) == 0
