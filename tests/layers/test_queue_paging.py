"""Queues of which most is in the storage only: what is read, when, and in what order."""

from __future__ import annotations

import pytest

from snakemq import _queue
from snakemq.exceptions import QueueFull
from snakemq.limits import DropReason, QueueLimits, WhenFull
from snakemq.message import Message
from tests.layers.paging_support import SMALL, Bench, Storage16, numbers
from tests.layers.writer_support import persistent


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(_queue, name, value)


# What is in memory.


def test_nothing_of_what_waits_for_an_absent_peer_is_in_memory(bench: Bench) -> None:
    for data in numbers(5000):
        bench.push(data)
    assert bench.storage.pages == []
    assert bench.in_memory() == 0
    assert len(bench.queue._outbox.waiting) == 0
    bench.reopen()
    bench.now += 100
    bench.queue.expire()
    assert bench.storage.pages == [], "what is not sent is not read"
    assert (len(bench.queue), bench.in_memory()) == (5000, 0)
    assert bench.queue.waiting
    assert bench.manager.stored_room.messages == 5000


def test_a_backlog_is_read_in_pages_each_once(bench: Bench) -> None:
    for data in numbers(5000):
        bench.push(data)
    bench.reopen()
    bench.connect()
    most = 0
    taken: list[bytes] = []
    while some := bench.drain(100):
        taken += some
        most = max(most, bench.in_memory())
    assert taken == numbers(5000)
    assert [len(page) for page in bench.storage.pages] == [1024] * 4 + [904]
    assert most <= 1024
    assert bench.storage.content() == []


def test_a_page_has_no_more_data_than_a_limit(bench: Bench) -> None:
    size = _queue.PAGE_BYTES // 4
    for number in range(10):
        bench.push(b"%d" % number * size)
    bench.connect()
    assert [data[:1] for data in bench.drain()] == numbers(10)
    assert [len(page) for page in bench.storage.pages] == [4, 4, 2]


def test_what_is_pushed_while_the_peer_is_connected_is_not_read_again(bench: Bench) -> None:
    bench.connect()
    for start in range(0, 3000, 100):
        for data in numbers(start, start + 100):
            bench.push(data)
        assert bench.drain() == numbers(start, start + 100)
    assert bench.storage.pages == []


@pytest.mark.usefixtures("_small")
def test_what_a_slow_peer_has_not_taken_is_in_memory_up_to_a_limit(bench: Bench) -> None:
    bench.connect()
    for data in numbers(100):
        bench.push(data)
    assert bench.in_memory() == 20
    assert bench.drain() == numbers(100)
    assert [len(page) for page in bench.storage.pages] == [10] * 8


def test_the_limit_for_memory_counts_bytes_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_queue, "WINDOW_BYTES", 100)
    bench.connect()
    for _ in range(30):
        bench.push(bytes(10))
    assert bench.in_memory() == 10
    bench.queue.take(10, 1000)
    bench.push(bytes(10))
    assert bench.in_memory() == 10, "what comes behind something on the disk goes there"
    assert len(bench.drain(21)) == 21


@pytest.mark.usefixtures("_small")
def test_what_is_not_stored_keeps_its_place_in_a_backlog(bench: Bench) -> None:
    for number in range(100):
        (bench.push_transient if number % 3 == 1 else bench.push)(b"%d" % number)
    assert bench.in_memory() == 0
    bench.connect()
    (bench.push_transient)(b"100")
    assert bench.drain() == numbers(101)
    assert not bench.queue.waiting


@pytest.mark.usefixtures("_small")
def test_what_comes_while_a_backlog_is_sent_comes_after_it(bench: Bench) -> None:
    for data in numbers(50):
        bench.push(data)
    bench.connect()
    got: list[bytes] = []
    pushed = 50
    while some := bench.drain(7):
        got += some
        if pushed < 200:
            bench.push(b"%d" % pushed)
            bench.push_transient(b"%d" % (pushed + 1), ttl=60)
            bench.manager.push_many(
                [("q", persistent(b"%d" % (pushed + 2))), ("q", Message(b"%d" % (pushed + 3)))]
            )
            pushed += 4
    assert got == numbers(pushed)
    assert len(bench.queue) == 0


@pytest.mark.usefixtures("_small")
def test_a_connection_that_is_lost_in_a_backlog_changes_nothing_in_its_order(bench: Bench) -> None:
    for number in range(100):
        (bench.push_transient if number % 4 == 3 else bench.push)(b"%d" % number)
    got: list[bytes] = []
    while bench.queue.waiting:
        queue = bench.connect()
        for _ in range(3):
            queue.take(5, 1000)
        assert queue.in_flight > 1
        queue.sent(queue.in_flight - 1)
        got += [message.data for message in queue.confirmed(queue.flying()[1] - 1)]
        queue.disconnect()
        bench.now += 1
        if len(bench.queue) == 1:
            bench.connect()
            got += bench.drain()
    assert got == numbers(100)


# Time.


@pytest.mark.usefixtures("_small")
def test_what_expires_on_the_disk_is_told_on_time_and_a_few_at_once(bench: Bench) -> None:
    for number in range(35):
        bench.push(b"%d" % number, ttl=10)
    bench.push(b"later", ttl=20)
    bench.push(b"never")
    assert bench.queue.next_expiry() == pytest.approx(bench.now + 10)
    bench.now += 9.9
    bench.queue.expire()
    assert bench.dropped == []
    bench.now += 0.1
    slices = []
    while (bench.queue.next_expiry() or bench.now + 1) <= bench.now:
        before = len(bench.dropped)
        bench.queue.expire()
        slices.append(len(bench.dropped) - before)
    assert slices == [10, 10, 10, 5]
    assert bench.dropped == [(data, DropReason.EXPIRED) for data in numbers(35)]
    assert bench.queue.next_expiry() == pytest.approx(bench.now + 10)
    assert bench.storage.pages == [], "nothing was read for it"
    assert bench.storage.content() == [b"later", b"never"]
    bench.now += 10
    bench.queue.expire()
    assert bench.queue.next_expiry() is None
    bench.connect()
    assert bench.drain() == [b"never"]


def test_when_something_on_the_disk_expires_is_known_after_a_restart(bench: Bench) -> None:
    bench.push(b"a", ttl=30)
    bench.push(b"b", ttl=12)
    bench.now += 2
    bench.reopen()
    bench.now += 0
    assert bench.queue.next_expiry() == pytest.approx(bench.now + 10)
    bench.connect()
    assert bench.queue.next_expiry() is None, "time stands still"
    bench.now += 100
    bench.queue.disconnect()
    assert bench.queue.next_expiry() == pytest.approx(bench.now + 10)


def test_what_has_expired_is_not_sent_when_the_peer_comes(bench: Bench) -> None:
    for number in range(20):
        bench.push(b"%d" % number, ttl=5 if number % 2 else None)
    bench.now += 6
    bench.connect()
    assert bench.drain() == numbers(0, 20, 2)
    assert bench.dropped == [(data, DropReason.EXPIRED) for data in numbers(1, 20, 2)]


def test_a_message_behind_a_backlog_expires_too(bench: Bench) -> None:
    bench.push(b"stored")
    bench.push_transient(b"short", ttl=5)
    bench.push_transient(b"long", ttl=50)
    assert bench.queue.next_expiry() == pytest.approx(bench.now + 5)
    bench.now += 6
    bench.queue.expire()
    assert bench.dropped == [(b"short", DropReason.EXPIRED)]
    assert len(bench.queue) == 2
    bench.connect()
    assert bench.drain() == [b"stored", b"long"]


def test_a_storage_that_can_not_tell_what_has_expired_is_asked_again_later(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.push(b"a", ttl=5)
    bench.now += 6
    bench.storage.fail("take_expired")
    bench.queue.expire()
    assert "the storage is broken" in caplog.text
    again = bench.queue.next_expiry()
    assert again is not None
    assert bench.now < again <= bench.now + 2
    bench.now = again
    bench.storage.before = {}
    bench.queue.expire()
    assert bench.dropped == [(b"a", DropReason.EXPIRED)]


# Dropping.


@pytest.mark.usefixtures("_small")
def test_what_is_on_the_disk_is_dropped_when_it_is_the_oldest(bench: Bench) -> None:
    bench.manager.limits = QueueLimits(max_stored_messages=30, when_full=WhenFull.DROP_OLDEST)
    for data in numbers(100):
        bench.push(data)
        bench.queue.report_drops()
    assert bench.dropped == [(data, DropReason.QUEUE_FULL) for data in numbers(70)]
    bench.manager.flush()
    assert bench.storage.content() == numbers(70, 100)
    assert bench.in_memory() <= 10
    bench.connect()
    assert bench.drain() == numbers(70, 100)


@pytest.mark.usefixtures("_small")
def test_what_is_not_stored_is_dropped_behind_a_backlog(bench: Bench) -> None:
    bench.manager.limits = QueueLimits(max_messages=3, when_full=WhenFull.DROP_OLDEST)
    bench.push(b"stored")
    for data in numbers(10):
        bench.push_transient(data)
        bench.queue.report_drops()
    assert bench.dropped == [(data, DropReason.QUEUE_FULL) for data in numbers(7)]
    bench.connect()
    assert bench.drain() == [b"stored", *numbers(7, 10)]


# A storage that has no more than 1.6 asks for.


@pytest.mark.usefixtures("_small")
def test_a_storage_written_for_1_6_behaves_the_same() -> None:
    storage = Storage16()
    bench = Bench(storage)
    for number in range(50):
        (bench.push_transient if number % 5 == 2 else bench.push)(b"%d" % number, 10)
    bench.push(b"short", ttl=1)
    bench.now += 2
    bench.queue.expire()
    assert bench.dropped == [(b"short", DropReason.EXPIRED)]
    assert bench.in_memory() == 0
    bench.connect()
    assert bench.drain(20) == numbers(20)
    bench.manager.flush()
    assert [item.data for item in storage.get_items("q")] == [
        data for data in numbers(20, 50) if int(data) % 5 != 2
    ]
    bench.queue.disconnect()
    bench.now += 3
    bench.manager.close()
    assert {item.ttl for item in storage.get_items("q")} == {5}
    bench.open(storage)
    bench.now += 4
    bench.connect()
    taken = bench.queue.take(5, 1000)
    assert taken.stored == len(taken.messages) == 5
    assert taken.messages[0].ttl == pytest.approx(1)
    bench.queue.disconnect()
    bench.now += 2
    while bench.queue.next_expiry() is not None:
        bench.queue.expire()
    assert len(bench.queue) == 0
    assert storage.get_queues() == []
    assert len(bench.dropped) == 24


@pytest.mark.usefixtures("_small")
def test_nothing_is_read_to_be_dropped_for_what_has_no_room_anyway(bench: Bench) -> None:
    bench.manager.limits = QueueLimits(
        max_stored_messages=50, max_stored_bytes=1000, when_full=WhenFull.DROP_OLDEST
    )
    for data in numbers(50):
        bench.push(data)
    with pytest.raises(QueueFull):
        bench.push(bytes(2000))
    assert bench.storage.pages == []
    assert bench.in_memory() == 0
    assert bench.storage.content() == numbers(50)
