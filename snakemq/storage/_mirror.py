"""Pages for a storage that has none, by a copy of it in memory."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from snakemq.message import Message
from snakemq.storage._common import check_seconds, wall_clock
from snakemq.storage._memory_outbox import MemoryOutbox
from snakemq.storage.base import (
    DeadLetter,
    InboxItem,
    QueuesStorageBase,
    Removal,
    StoredItem,
)

if TYPE_CHECKING:
    import sqlite3

__all__ = ["MirroredStorage"]


class MirroredStorage(MemoryOutbox):
    """A storage that was written for snakeMQ 1.6, made into one that has pages.

    All that it holds is in memory, too, as it was with 1.6. It is read once, at
    the start; from then on it is only written to. Each change goes there
    first, one at a time; when it fails there, it is not made here.

    Such a storage has no transactions. When a change of several parts fails
    half way through, some of it may have been stored: what was refused may
    come again after a restart, what was accepted is never lost. For this,
    pushing comes first; and where the storage can only delete all copies of an
    item (see :meth:`QueuesStorageBase.remove_items`), they stay there until
    the last of them leaves.

    TTLs that have run are written by :meth:`store_ttls` and :meth:`close`,
    unless the storage has an :meth:`advance_ttl` of its own.

    Whatever the storage raises is passed on.

    :param storage: one without pages
    :param wall_clock: gives the time for :meth:`oldest`, in seconds since 1970
    """

    def __init__(
        self, storage: QueuesStorageBase, *, wall_clock: Callable[[], float] = wall_clock
    ) -> None:
        super().__init__(wall_clock=wall_clock)
        self._storage = storage
        self.keeps_received = storage.keeps_received
        kind = type(storage)
        self._has_clock = kind.advance_ttl is not QueuesStorageBase.advance_ttl
        self._removes_one = kind.remove_items is not QueuesStorageBase.remove_items
        # Held while something is changed, there and here.
        self._changing = threading.Lock()
        # Queues in which TTLs have run and are not stored, each with the
        # highest position of those that have.
        self._aged: dict[str, int] = {}
        for name in dict.fromkeys(storage.get_queues()):
            self._apply(self._copies((name, item) for item in storage.get_items(name)), (), None)

    @property
    def may_wait(self) -> Callable[[], bool]:
        """That of the storage."""
        return self._storage.may_wait

    @may_wait.setter
    def may_wait(self, may_wait: Callable[[], bool]) -> None:
        self._storage.may_wait = may_wait

    def close(self) -> None:
        try:
            for queue_name in list(self._aged):
                self.store_ttls(queue_name)
        finally:
            self._storage.close()

    def store_ttls(self, queue_name: str) -> None:
        """Have the storage know what remains of the TTLs in a queue.

        The cost grows with their number, as in 1.6.
        """
        with self._changing:
            highest = self._aged.get(queue_name)
            if highest is None:
                return
            with self._lock:
                queue = self._queues.get(queue_name)
                stored = [] if queue is None else queue.page(0, len(queue), sys.maxsize)
            aged = [
                item.message
                for item in stored
                if item.message.ttl is not None and item.position <= highest
            ]
            if aged:
                self._storage.update_items_ttl(aged)
            del self._aged[queue_name]

    def _change(self, push: Iterable[tuple[str, Message]], remove: Iterable[Removal]) -> list[int]:
        entries = list(push)
        copies = self._copies(entries)
        leaving = [(removal.queue_name, list(removal.positions)) for removal in remove]
        now = self._wall_clock()
        with self._changing:
            if len(entries) == 1:
                self._storage.push(*entries[0])
            elif entries:
                self._storage.push_many(entries)
            self._remove_there(leaving, {item.uuid for _, item in entries})
            return self._apply(copies, leaving, now)

    def _remove_there(
        self, leaving: Sequence[tuple[str, Sequence[int]]], coming: Container[bytes] = ()
    ) -> None:
        """Remove items from the storage, before they leave here.

        :param coming: identifiers of items that have been pushed to it just now
        """
        with self._lock:
            items = [
                (queue_name, queue.messages_at(positions))
                for queue_name, positions in leaving
                if (queue := self._queues.get(queue_name)) is not None
            ]
        if self._removes_one:
            for queue_name, some in items:
                if some:
                    self._storage.remove_items(queue_name, some)
            return
        there = [item for _, some in items for item in some]
        counts = Counter(item.uuid for item in there)
        with self._lock:
            last = {
                uuid
                for uuid, count in counts.items()
                if uuid not in coming and self._count(uuid) <= count
            }
        if last:
            by_uuid = {item.uuid: item for item in there if item.uuid in last}
            self._storage.delete_items(list(by_uuid.values()))

    def _count(self, uuid: bytes) -> int:
        """How many items have this identifier; for who has the lock."""
        return sum(len(queue.positions_of(uuid)) for queue in self._queues.values())

    def remove_items(self, queue_name: str, items: Iterable[Message]) -> None:
        uuids = [item.uuid for item in items]
        with self._changing:
            with self._lock:
                leaving = [(queue_name, self._find(queue_name, uuids))]
            self._remove_there(leaving)
            self._apply([], leaving, None)

    def delete_items(self, items: Sequence[Message]) -> None:
        with self._changing:
            self._storage.delete_items(items)
            super().delete_items(items)

    def delete_all(self) -> None:
        with self._changing:
            self._storage.delete_all()
            super().delete_all()

    def update_items_ttl(self, items: Sequence[Message]) -> None:
        with self._changing:
            self._storage.update_items_ttl(items)
            super().update_items_ttl(items)

    def advance_ttl(self, queue_name: str, seconds: float) -> None:
        check_seconds(seconds)
        with self._changing:
            if self._has_clock:
                self._storage.advance_ttl(queue_name, seconds)
            elif queue_name in self._queues:
                self._aged[queue_name] = self.last_position()
            super().advance_ttl(queue_name, seconds)

    def take_expired(
        self, queue_name: str, seconds: float, after: int, max_messages: int
    ) -> list[StoredItem]:
        with self._changing:
            with self._lock:
                queue = self._queues.get(queue_name)
                expired = [] if queue is None else queue.expired(seconds, after, max_messages)
            leaving = [(queue_name, [item.position for item in expired])]
            self._remove_there(leaving)
            self._apply([], leaving, None)
            return expired

    # Everything else is the storage's own matter.

    def maintain(self) -> bool:
        return self._storage.maintain()

    def sync(self) -> None:
        # One that was written for 1.6 has nothing of the kind.
        if type(self._storage).sync is not QueuesStorageBase.sync:
            self._storage.sync()

    def adopt(self) -> list[tuple[str, StoredItem]]:
        with self._changing:
            adopted = [(queue_name, item.message) for queue_name, item in self._storage.adopt()]
            positions = self._apply(self._copies(adopted), (), self._wall_clock())
        return [
            (queue_name, StoredItem(position, message))
            for (queue_name, message), position in zip(adopted, positions, strict=True)
        ]

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._storage.transaction()

    def push_with(
        self, connection: sqlite3.Connection, entries: Iterable[tuple[str, Message]]
    ) -> None:
        self._storage.push_with(connection, entries)

    def received_peers(self) -> list[str]:
        return self._storage.received_peers()

    def load_received(self, ident: str) -> list[bytes]:
        return self._storage.load_received(ident)

    def add_received(self, ident: str, uuids: Iterable[bytes], *, keep: int, sync: bool) -> None:
        self._storage.add_received(ident, uuids, keep=keep, sync=sync)

    def push_inbox(self, ident: str, messages: Iterable[Message], *, keep: int) -> list[int]:
        return self._storage.push_inbox(ident, messages, keep=keep)

    def get_inbox(self, after: int = 0, limit: int | None = None) -> list[InboxItem]:
        return self._storage.get_inbox(after, limit)

    def advance_inbox(self, done: int | None, starting: int | None) -> None:
        self._storage.advance_inbox(done, starting)

    def uncount_attempt(self, item_id: int) -> None:
        self._storage.uncount_attempt(item_id)

    def bury(self, item_id: int, reason: str) -> None:
        self._storage.bury(item_id, reason)

    def get_dead(self, after: int = 0, limit: int | None = None) -> list[DeadLetter]:
        return self._storage.get_dead(after, limit)

    def count_dead(self) -> int:
        return self._storage.count_dead()

    def add_dead(self, letters: Iterable[DeadLetter]) -> None:
        self._storage.add_dead(letters)

    def retry_dead(self, ids: Sequence[int] | None) -> list[InboxItem]:
        return self._storage.retry_dead(ids)

    def drop_dead(self, ids: Sequence[int] | None) -> int:
        return self._storage.drop_dead(ids)
