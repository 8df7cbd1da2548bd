"""A storage that outlives the stack, but not the process. For tests."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence

from snakemq.message import Message
from snakemq.storage.base import QueuesStorageBase

__all__ = ["MemoryQueuesStorage"]


class MemoryQueuesStorage(QueuesStorageBase):
    """Keeps items in memory. **They are lost with the process.**

    It is there for tests: hand the same object to one
    :class:`~snakemq.messaging.Messaging` after the other and it plays the
    disk that survives a restart. :meth:`close` therefore keeps what is stored,
    and the storage can go on being used.

    What it returns are copies, as from a disk: a change of a message that was
    pushed changes nothing here until :meth:`update_items_ttl`.

    May be used from any thread. Pushing an item costs the same however many
    there are, and so does removing it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str, _Queue] = {}

    def close(self) -> None:
        """Does nothing: the content stays, and can be used again."""

    def get_queues(self) -> list[str]:
        with self._lock:
            return list(self._queues)

    def get_items(self, queue_name: str) -> list[Message]:
        with self._lock:
            queue = self._queues.get(queue_name)
            return [] if queue is None else [_copy(item) for item in queue.items()]

    def push(self, queue_name: str, item: Message) -> None:
        self.push_many([(queue_name, item)])

    def push_many(self, entries: Iterable[tuple[str, Message]]) -> None:
        # Copied before the first change, so that a bad entry stores none.
        copies = [(queue_name, _copy(item)) for queue_name, item in entries]
        with self._lock:
            for queue_name, item in copies:
                queue = self._queues.get(queue_name)
                if queue is None:
                    queue = self._queues[queue_name] = _Queue()
                queue.append(item)

    def remove_items(self, queue_name: str, items: Iterable[Message]) -> None:
        uuids = [item.uuid for item in items]
        with self._lock:
            queue = self._queues.get(queue_name)
            if queue is None:
                return
            for uuid in uuids:
                queue.remove_first(uuid)
            if not queue:
                del self._queues[queue_name]

    def delete_items(self, items: Sequence[Message]) -> None:
        uuids = [item.uuid for item in items]
        with self._lock:
            for queue_name, queue in list(self._queues.items()):
                for uuid in uuids:
                    while queue.remove_first(uuid):
                        pass
                if not queue:
                    del self._queues[queue_name]

    def delete_all(self) -> None:
        with self._lock:
            self._queues.clear()

    def update_items_ttl(self, items: Sequence[Message]) -> None:
        ttls = [(item.uuid, item.ttl) for item in items]
        with self._lock:
            for queue in self._queues.values():
                for uuid, ttl in ttls:
                    for item in queue.find(uuid):
                        item.ttl = ttl

    def __repr__(self) -> str:
        with self._lock:
            items = sum(len(queue) for queue in self._queues.values())
            return f"<{type(self).__name__} queues={len(self._queues)} items={items}>"


class _Queue:
    """Items in order, any of which can be found and removed by its uuid at once."""

    def __init__(self) -> None:
        self._next_number = 0
        self._items: dict[int, Message] = {}
        # The first item with a uuid; those that follow, which hardly ever
        # exist, are apart to spare each item a container of its own.
        self._first: dict[bytes, int] = {}
        self._later: dict[bytes, deque[int]] = {}

    def __len__(self) -> int:
        return len(self._items)

    def items(self) -> Iterable[Message]:
        return self._items.values()

    def append(self, item: Message) -> None:
        number = self._next_number
        self._next_number += 1
        self._items[number] = item
        if self._first.setdefault(item.uuid, number) != number:
            self._later.setdefault(item.uuid, deque()).append(number)

    def find(self, uuid: bytes) -> list[Message]:
        first = self._first.get(uuid)
        if first is None:
            return []
        return [self._items[number] for number in (first, *self._later.get(uuid, ()))]

    def remove_first(self, uuid: bytes) -> bool:
        number = self._first.pop(uuid, None)
        if number is None:
            return False
        del self._items[number]
        later = self._later.get(uuid)
        if later:
            self._first[uuid] = later.popleft()
            if not later:
                del self._later[uuid]
        return True


def _copy(item: Message) -> Message:
    return Message(item.data, item.ttl, item.flags, item.uuid)
