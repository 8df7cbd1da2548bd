"""What the tests of the writer share: a storage that is held, and threads that push to it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from snakemq._writer import Writer
from snakemq.exceptions import StorageError
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.queues import QueuesManager
from snakemq.storage import MemoryQueuesStorage, Removal
from tests.helpers import DEADLINE, wait_until

LOG = logging.getLogger("snakemq.test_writer")


def report(exc: Exception) -> None:
    """What becomes of a failure that nobody waits for."""
    LOG.error("%s", exc)


class Change(NamedTuple):
    """One call of change_items."""

    pushed: list[bytes]
    removed: list[int]
    sync: bool


class HeldStorage(MemoryQueuesStorage):
    """Writes when the test lets it, fails when the test says so, and notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[Change] = []
        self.syncs = 0
        self.advances: list[float] = []
        #: released for each change that has begun
        self.begun = threading.Semaphore(0)
        #: taken for each change that may go on
        self.permits: threading.Semaphore | None = None
        #: gets each change; raises what the storage is to raise
        self.check: Callable[[Change], object] = lambda change: None
        #: likewise, when it is made
        self.after: Callable[[Change], object] = lambda change: None

    def hold(self) -> None:
        self.begun = threading.Semaphore(0)  # what was made before does not count
        self.permits = threading.Semaphore(0)

    def let(self, changes: int = 1) -> None:
        assert self.permits is not None
        self.permits.release(changes)

    def let_all(self) -> None:
        permits, self.permits = self.permits, None
        if permits is not None:
            permits.release(1000)

    def change_items(
        self,
        push: Sequence[tuple[str, Message]],
        remove: Sequence[Removal] = (),
        *,
        sync: bool = True,
    ) -> list[int]:
        change = Change(
            [message.data for _, message in push],
            [position for removal in remove for position in removal.positions],
            sync,
        )
        self.changes.append(change)
        permits = self.permits
        self.begun.release()
        if permits is not None:
            assert permits.acquire(timeout=DEADLINE)
        self.check(change)
        positions = super().change_items(push, remove, sync=sync)
        self.after(change)
        return positions

    def advance_ttl(self, queue_name: str, seconds: float) -> None:
        self.advances.append(seconds)
        super().advance_ttl(queue_name, seconds)

    def sync(self) -> None:
        self.syncs += 1

    def wait_until_begun(self) -> None:
        assert self.begun.acquire(timeout=DEADLINE)

    def content(self, name: str = "q") -> list[bytes]:
        return [item.data for item in self.get_items(name)]


def persistent(data: bytes, ttl: float | None = None) -> Message:
    return Message(data, ttl=ttl, flags=FLAG_PERSISTENT)


class Thread(threading.Thread):
    """Calls something, and keeps what it raises."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.call = call
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.call()
        except BaseException as exc:
            self.error = exc

    def end(self) -> BaseException | None:
        """Wait for its end.

        :return: what was raised
        """
        self.join(DEADLINE)
        assert not self.is_alive(), "it hangs"
        return self.error


class Bench:
    """A writer over a storage that is held."""

    def __init__(self) -> None:
        self.storage = HeldStorage()
        self.writer = Writer(self.storage, report)
        #: what was told as stored, with its position, in this order
        self.told: list[tuple[bytes, int]] = []

    def push(self, *payloads: bytes, prepare: Callable[[], object] = lambda: None) -> None:
        def stored(positions: Sequence[int]) -> None:
            self.told += zip(payloads, positions, strict=True)

        self.writer.push([("q", persistent(data)) for data in payloads], prepare, stored)

    def start(self, *payloads: bytes, prepare: Callable[[], object] = lambda: None) -> Thread:
        """Push from a thread that comes while somebody writes."""
        waiting = self.writer.waiting
        thread = Thread(lambda: self.push(*payloads, prepare=prepare))
        wait_until(lambda: self.writer.waiting == waiting + 1)
        return thread

    def start_writing(self, *payloads: bytes) -> Thread:
        """Push from a thread, and hold the storage with it."""
        self.storage.hold()
        thread = Thread(lambda: self.push(*payloads))
        self.storage.wait_until_begun()
        return thread

    def remove(self, *positions: int) -> None:
        self.writer.remove([Removal("q", list(positions), 0)])


def refuse(data: bytes) -> Callable[[Change], None]:
    def check(change: Change) -> None:
        if data in change.pushed:
            raise StorageError(f"does not take {data!r}")

    return check


class ManagerBench:
    """A queue with the storage that is held."""

    def __init__(self, storage: HeldStorage | None = None) -> None:
        self.storage = HeldStorage() if storage is None else storage
        self.manager = QueuesManager(self.storage)
        self.writer = self.manager.writer

    def push(self, data: bytes) -> None:
        self.manager.push_many([("q", persistent(data))])

    def start(self, data: bytes) -> Thread:
        waiting = self.writer.waiting
        thread = Thread(lambda: self.push(data))
        wait_until(lambda: self.writer.waiting == waiting + 1)
        return thread

    def start_writing(self, data: bytes) -> Thread:
        self.storage.hold()
        thread = Thread(lambda: self.push(data))
        self.storage.wait_until_begun()
        return thread

    def check(self, *possible: list[bytes]) -> None:
        """What is stored is one of these, and queued; and nobody hangs."""
        self.storage.let_all()
        assert Thread(lambda: self.push(b"last")).end() is None
        self.writer.settle()
        stored = self.storage.content()
        assert stored in [[*content, b"last"] for content in possible]
        room = self.manager.stored_room
        assert (room.messages, room.bytes) == (len(stored), sum(map(len, stored)))
        assert (self.manager.room.messages, self.manager.room.bytes) == (0, 0)
        queue = self.manager.get_queue("q")
        queue.connect()
        queue.expect_confirmations(of_all=True)
        taken: list[bytes] = []
        while messages := queue.take(1000, 10**6).messages:
            taken += [message.data for message in messages]
        assert taken == stored
        queue.sent(len(taken))
        queue.confirmed(len(taken))
        self.writer.settle()
        assert self.storage.content() == []
        assert (len(queue), room.messages, room.bytes) == (0, 0, 0)
