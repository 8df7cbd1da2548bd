"""What the tests of paging share: a storage that tells what is read, and a queue over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from snakemq.exceptions import StorageError
from snakemq.limits import DropReason
from snakemq.message import Message
from snakemq.queues import Queue, QueuesManager
from snakemq.storage import MemoryQueuesStorage, QueuesStorageBase, Removal, StoredItem
from tests.layers.writer_support import persistent

#: Pages and the like, so that a few messages are many.
SMALL = {"PAGE_MESSAGES": 10, "WINDOW_MESSAGES": 20, "_EXPIRED_AT_ONCE": 10}


class Storage(MemoryQueuesStorage):
    """Counts what is read, and fails or waits where the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: list[list[bytes]] = []
        self.slices: list[int] = []
        #: called before the method of that name does anything
        self.before: dict[str, Callable[[], object]] = {}

    def _note(self, method: str) -> None:
        self.before.get(method, lambda: None)()

    def fail(self, *methods: str) -> None:
        def fail() -> None:
            raise StorageError("the storage is broken")

        self.before = dict.fromkeys(methods, fail)

    def get_page(
        self, queue_name: str, after: int, *, max_messages: int, max_bytes: int
    ) -> list[StoredItem]:
        self._note("get_page")
        page = super().get_page(queue_name, after, max_messages=max_messages, max_bytes=max_bytes)
        self.pages.append([item.message.data for item in page])
        return page

    def change_items(
        self,
        push: Sequence[tuple[str, Message]],
        remove: Sequence[Removal] = (),
        *,
        sync: bool = True,
    ) -> list[int]:
        self._note("change_items")
        return super().change_items(push, remove, sync=sync)

    def take_expired(
        self, queue_name: str, seconds: float, after: int, max_messages: int
    ) -> list[StoredItem]:
        self._note("take_expired")
        expired = super().take_expired(queue_name, seconds, after, max_messages)
        self.slices.append(len(expired))
        return expired

    def next_expiry(self, queue_name: str, after: int = 0) -> float | None:
        self._note("next_expiry")
        return super().next_expiry(queue_name, after)

    def advance_ttl(self, queue_name: str, seconds: float) -> None:
        self._note("advance_ttl")
        super().advance_ttl(queue_name, seconds)

    def content(self, name: str = "q") -> list[bytes]:
        return [item.data for item in self.get_items(name)]


class Storage16(QueuesStorageBase):
    """Has no more than 1.6 asks for."""

    def __init__(self) -> None:
        self.items: dict[str, list[Message]] = {}

    def close(self) -> None:
        pass

    def get_queues(self) -> list[str]:
        return [name for name, items in self.items.items() if items]

    def get_items(self, queue_name: str) -> list[Message]:
        return [item.with_ttl(item.ttl) for item in self.items.get(queue_name, [])]

    def push(self, queue_name: str, item: Message) -> None:
        self.items.setdefault(queue_name, []).append(item.with_ttl(item.ttl))

    def delete_items(self, items: Sequence[Message]) -> None:
        uuids = {item.uuid for item in items}
        for name, stored in self.items.items():
            self.items[name] = [item for item in stored if item.uuid not in uuids]

    def delete_all(self) -> None:
        self.items.clear()

    def update_items_ttl(self, items: Sequence[Message]) -> None:
        ttls = {item.uuid: item.ttl for item in items}
        for stored in self.items.values():
            for item in stored:
                item.ttl = ttls.get(item.uuid, item.ttl)


class Bench:
    """A manager over a storage, and a clock that the test turns."""

    def __init__(self, storage: QueuesStorageBase | None = None) -> None:
        self.storage = Storage()
        self.now = 1000.0
        self.open(storage)

    def open(self, storage: QueuesStorageBase | None = None) -> None:
        self.dropped: list[tuple[bytes, DropReason]] = []
        self.manager = QueuesManager(storage or self.storage, clock=lambda: self.now)
        self.manager.on_items_dropped.add(self._dropped)

    def _dropped(self, name: str, items: list[Message], reason: DropReason) -> None:
        self.dropped += [(item.data, reason) for item in items]

    def reopen(self) -> None:
        self.manager.close()
        self.open()

    @property
    def queue(self) -> Queue:
        return self.manager.get_queue("q")

    def connect(self) -> Queue:
        queue = self.queue
        queue.connect()
        queue.expect_confirmations(of_all=True)
        return queue

    def drain(self, count: int = 10**9) -> list[bytes]:
        """Take, send and confirm, as far as there is something."""
        found: list[bytes] = []
        while len(found) < count:
            taken = self.queue.take(min(100, count - len(found)), 10**6).messages
            if not taken:
                break
            found += [message.data for message in taken]
            self.queue.sent(len(taken))
            self.queue.confirmed(len(taken))
        return found

    def in_memory(self) -> int:
        return self.queue.stored.messages - self.queue.stored.unloaded

    def push(self, data: bytes, ttl: float | None = None) -> None:
        self.queue.push(persistent(data, ttl))

    def push_transient(self, data: bytes, ttl: float | None = None) -> None:
        self.queue.push(Message(data, ttl=ttl))


def numbers(*of: int) -> list[bytes]:
    return [b"%d" % number for number in range(*of)]
