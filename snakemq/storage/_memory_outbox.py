"""The half of a storage in memory that has the queues."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TypeAlias

from snakemq.message import Message
from snakemq.storage._common import check_seconds, wall_clock
from snakemq.storage._memory_queue import MemoryQueue
from snakemq.storage.base import QueuesStorageBase, QueueSummary, Removal, StoredItem

__all__ = ["MemoryOutbox"]

#: Positions that leave a queue.
_Positions: TypeAlias = Sequence[tuple[str, Sequence[int]]]


class MemoryOutbox(QueuesStorageBase):
    """Queues in memory, for any thread.

    :param wall_clock: gives the time for :meth:`oldest`, in seconds since 1970
    """

    has_pages = True

    def __init__(self, *, wall_clock: Callable[[], float] = wall_clock) -> None:
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._queues: dict[str, MemoryQueue] = {}
        self._last_position = 0

    def get_queues(self) -> list[str]:
        with self._lock:
            return list(self._queues)

    def get_items(self, queue_name: str) -> list[Message]:
        with self._lock:
            queue = self._queues.get(queue_name)
            return [] if queue is None else queue.items()

    def push(self, queue_name: str, item: Message) -> None:
        self.push_many([(queue_name, item)])

    def push_many(self, entries: Iterable[tuple[str, Message]]) -> None:
        self._change(entries, ())

    def change_items(
        self,
        push: Sequence[tuple[str, Message]],
        remove: Sequence[Removal] = (),
        *,
        sync: bool = True,
    ) -> list[int]:
        return self._change(push, remove)

    def _change(self, push: Iterable[tuple[str, Message]], remove: Iterable[Removal]) -> list[int]:
        # Read before the first change, so that a bad entry changes nothing.
        copies = self._copies(push)
        leaving = [(removal.queue_name, list(removal.positions)) for removal in remove]
        return self._apply(copies, leaving, self._wall_clock())

    def _apply(
        self, push: list[tuple[str, Message]], leaving: _Positions, now: float | None
    ) -> list[int]:
        """Change the queues. Nothing can fail.

        :param push: are kept
        :param now: the time, in seconds since 1970, if it is known
        """
        with self._lock:
            for queue_name, positions in leaving:
                self._remove(queue_name, positions)
            first = self._last_position + 1
            for position, (queue_name, item) in enumerate(push, first):
                queue = self._queues.get(queue_name)
                if queue is None:
                    queue = self._queues[queue_name] = MemoryQueue()
                queue.append(position, item, now)
            self._last_position += len(push)
            return list(range(first, self._last_position + 1))

    def _remove(self, queue_name: str, positions: Iterable[int]) -> None:
        """Remove items; for who has the lock."""
        queue = self._queues.get(queue_name)
        if queue is not None:
            queue.remove(positions)
            if not queue:
                del self._queues[queue_name]

    @staticmethod
    def _copies(entries: Iterable[tuple[str, Message]]) -> list[tuple[str, Message]]:
        return [(queue_name, item.with_ttl(item.ttl)) for queue_name, item in entries]

    def _find(self, queue_name: str, uuids: Iterable[bytes]) -> list[int]:
        """Of each uuid the first item in a queue, of one given twice the second, too.

        For who has the lock.
        """
        queue = self._queues.get(queue_name)
        if queue is None:
            return []
        found = [queue.positions_of(uuid, count) for uuid, count in Counter(uuids).items()]
        return list(chain.from_iterable(found))

    def remove_items(self, queue_name: str, items: Iterable[Message]) -> None:
        uuids = [item.uuid for item in items]
        with self._lock:
            self._remove(queue_name, self._find(queue_name, uuids))

    def delete_items(self, items: Sequence[Message]) -> None:
        uuids = [item.uuid for item in items]
        with self._lock:
            for queue_name, queue in list(self._queues.items()):
                for uuid in uuids:
                    queue.remove(queue.positions_of(uuid))
                self._remove(queue_name, ())

    def delete_all(self) -> None:
        with self._lock:
            self._queues.clear()

    def update_items_ttl(self, items: Sequence[Message]) -> None:
        ttls = [(item.uuid, item.ttl) for item in items]
        with self._lock:
            for queue in self._queues.values():
                for uuid, ttl in ttls:
                    queue.set_ttl(uuid, ttl)

    def advance_ttl(self, queue_name: str, seconds: float) -> None:
        check_seconds(seconds)
        with self._lock:
            queue = self._queues.get(queue_name)
            if queue is not None:
                queue.advance(seconds)

    def summarize(self) -> list[QueueSummary]:
        with self._lock:
            return [
                QueueSummary(name, len(queue), queue.bytes) for name, queue in self._queues.items()
            ]

    def last_position(self) -> int:
        with self._lock:
            return self._last_position

    def get_page(
        self, queue_name: str, after: int, *, max_messages: int, max_bytes: int
    ) -> list[StoredItem]:
        with self._lock:
            queue = self._queues.get(queue_name)
            return [] if queue is None else queue.page(after, max_messages, max_bytes)

    def next_expiry(self, queue_name: str, after: int = 0) -> float | None:
        with self._lock:
            queue = self._queues.get(queue_name)
            return None if queue is None else queue.next_expiry(after)

    def take_expired(
        self, queue_name: str, seconds: float, after: int, max_messages: int
    ) -> list[StoredItem]:
        with self._lock:
            queue = self._queues.get(queue_name)
            if queue is None:
                return []
            expired = queue.expired(seconds, after, max_messages)
            self._remove(queue_name, [item.position for item in expired])
            return expired

    def oldest(self, queue_name: str) -> float | None:
        with self._lock:
            queue = self._queues.get(queue_name)
            return None if queue is None else queue.first_pushed()

    def __repr__(self) -> str:
        with self._lock:
            items = sum(len(queue) for queue in self._queues.values())
            return f"<{type(self).__name__} queues={len(self._queues)} items={items}>"
