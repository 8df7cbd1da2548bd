"""Threads that push while the loop takes out of queues of which most is in the storage."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from snakemq import _queue
from snakemq._transaction import begin
from snakemq.exceptions import QueueFull
from snakemq.limits import QueueLimits, WhenFull
from snakemq.storage import MemoryQueuesStorage, QueuesStorageBase, StoredItem
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.layers.paging_support import SMALL, Bench, numbers
from tests.layers.writer_support import Thread, persistent


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(_queue, name, value)


@pytest.fixture(params=["memory", "file"])
def any_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QueuesStorageBase]:
    with (
        MemoryQueuesStorage()
        if request.param == "memory"
        else SqliteQueuesStorage(str(tmp_path / "storage"))
    ) as storage:
        yield storage


@pytest.mark.slow
@pytest.mark.usefixtures("_small")
def test_threads_push_while_the_loop_takes(any_storage: QueuesStorageBase) -> None:
    """With a connection that is lost now and then."""
    bench = Bench(any_storage)
    senders, count = 4, 300
    over = threading.Event()
    got: list[bytes] = []

    def push(sender: int) -> None:
        for number in range(count):
            data = b"%d %d" % (sender, number)
            kind = (number + sender) % 4
            if kind == 0:
                bench.push_transient(data)
            elif kind == 1:
                bench.push(data, ttl=1000)
            else:
                bench.push(data)

    def loop() -> None:
        connected = False
        rounds = 0
        while not over.is_set() or len(bench.queue):
            rounds += 1
            if not connected:
                bench.connect()
                connected = True
            queue = bench.queue
            queue.take(1 + rounds % 40, 1000)
            queue.sent(queue.in_flight)
            got.extend(message.data for message in queue.confirmed((queue.flying()[1] + 1) // 2))
            if rounds % 7 == 0:
                queue.disconnect()
                connected = False
                queue.expire()
                if rounds % 3 == 0:
                    queue.forget()

    consumer = Thread(loop)
    producers = [Thread(lambda sender=sender: push(sender)) for sender in range(senders)]
    assert [producer.end() for producer in producers] == [None] * senders
    over.set()
    assert consumer.end() is None
    for sender in range(senders):
        prefix = b"%d " % sender
        mine = [data for data in got if data.startswith(prefix)]
        assert mine == [b"%d %d" % (sender, number) for number in range(count)]
    assert len(got) == senders * count
    manager = bench.manager
    for room in (manager.room, manager.stored_room):
        assert (room.messages, room.bytes) == (0, 0)
    manager.writer.settle()
    assert any_storage.get_queues() == []
    assert bench.dropped == []


@pytest.mark.slow
@pytest.mark.usefixtures("_small")
def test_threads_push_into_full_queues_while_the_loop_drops_and_takes(
    any_storage: QueuesStorageBase,
) -> None:
    bench = Bench(any_storage)
    bench.manager.limits = QueueLimits(
        max_messages=10, max_stored_messages=25, when_full=WhenFull.DROP_OLDEST
    )
    senders, count = 4, 200
    over = threading.Event()
    got: list[bytes] = []
    refused: list[bytes] = []

    def push(sender: int) -> None:
        for number in range(count):
            data = b"%d %d" % (sender, number)
            try:
                (bench.push_transient if number % 4 == 0 else bench.push)(data)
            except QueueFull:
                refused.append(data)

    def loop() -> None:
        queue = bench.connect()
        rounds = 0
        while not over.is_set() or len(queue):
            rounds += 1
            queue.report_drops()
            queue.take(5, 1000)
            queue.sent(queue.in_flight)
            if rounds % 3 == 0:
                got.extend(message.data for message in queue.confirmed(queue.flying()[1]))
            if rounds % 10 == 0:
                queue.disconnect()
                bench.connect()

    consumer = Thread(loop)
    producers = [Thread(lambda sender=sender: push(sender)) for sender in range(senders)]
    assert [producer.end() for producer in producers] == [None] * senders
    over.set()
    assert consumer.end() is None
    bench.queue.report_drops()
    dropped = [data for data, _ in bench.dropped]
    everything = sorted(got + dropped + refused)
    assert everything == sorted(b"%d %d" % (i, n) for i in range(senders) for n in range(count))
    assert bench.manager.overflowed == len(dropped)
    for room in (bench.manager.room, bench.manager.stored_room):
        assert (room.messages, room.bytes) == (0, 0)
    bench.manager.writer.settle()
    assert any_storage.get_queues() == []


class FileTellingOfReads(SqliteQueuesStorage):
    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.reading = threading.Event()

    def get_page(
        self, queue_name: str, after: int, *, max_messages: int, max_bytes: int
    ) -> list[StoredItem]:
        self.reading.set()
        return super().get_page(queue_name, after, max_messages=max_messages, max_bytes=max_bytes)


@pytest.mark.usefixtures("_small")
def test_a_transaction_that_has_to_drop_something_does_not_hang(tmp_path: Path) -> None:
    """It has the file for itself, and the loop wants to read."""
    with FileTellingOfReads(tmp_path / "storage") as storage:
        bench = Bench(storage)
        bench.manager.limits = QueueLimits(max_stored_messages=30, when_full=WhenFull.DROP_OLDEST)
        for data in numbers(30):
            bench.push(data)
        got: list[bytes] = []

        def loop() -> None:
            bench.connect()
            got.extend(bench.drain())

        loops: list[Thread] = []

        def send() -> None:
            with begin(bench.manager, None, lambda ident, message: None) as transaction:
                loops.append(Thread(loop))
                storage.reading.wait(0.2)  # unless it has to wait for the end
                with contextlib.suppress(QueueFull):
                    transaction.send_message("q", persistent(b"new"))

        sender = Thread(send)
        assert sender.end() is None
        assert loops[0].end() is None
        bench.queue.report_drops()
        got += bench.drain()
        dropped = [data for data, _ in bench.dropped]
        assert sorted(dropped + [data for data in got if data != b"new"]) == sorted(numbers(30))
        assert bench.manager.stored_room.messages == 0
