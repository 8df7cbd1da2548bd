"""A storage that outlives the stack, but not the process. For tests."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from snakemq._core.received import last_of_each
from snakemq.message import Message
from snakemq.storage._common import (
    check_keep,
    check_seconds,
    check_uuids,
    make_message,
    remaining,
    wall_clock,
)
from snakemq.storage.base import MAX_RECEIVED_PEERS, DeadLetter, InboxItem, QueuesStorageBase

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

    :param wall_clock: gives the time for :attr:`DeadLetter.died_at`, in
        seconds since 1970; that of the system if it is not given
    """

    keeps_received = True

    def __init__(self, *, wall_clock: Callable[[], float] = wall_clock) -> None:
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._queues: dict[str, _Queue] = {}
        # In the order of the last addition.
        self._received: dict[str, deque[bytes]] = {}
        self._last_id = 0
        self._inbox: dict[int, InboxItem] = {}
        self._dead: dict[int, DeadLetter] = {}

    def close(self) -> None:
        """Does nothing: the content stays, and can be used again."""

    def get_queues(self) -> list[str]:
        with self._lock:
            return list(self._queues)

    def get_items(self, queue_name: str) -> list[Message]:
        with self._lock:
            queue = self._queues.get(queue_name)
            return [] if queue is None else queue.current_items()

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
                    queue.set_ttl(uuid, ttl)

    def advance_ttl(self, queue_name: str, seconds: float) -> None:
        check_seconds(seconds)
        with self._lock:
            queue = self._queues.get(queue_name)
            if queue is not None:
                queue.advance(seconds)

    def load_received(self, ident: str) -> list[bytes]:
        with self._lock:
            return list(self._received.get(ident, ()))

    def add_received(self, ident: str, uuids: Iterable[bytes], *, keep: int, sync: bool) -> None:
        check_keep(keep)
        new = check_uuids(uuids)
        with self._lock:
            self._remember(ident, new, keep)

    def _remember(self, ident: str, uuids: list[bytes], keep: int) -> None:
        if not uuids:
            return
        known = self._received.pop(ident, None)
        if known is None:
            known = deque()
            if len(self._received) >= MAX_RECEIVED_PEERS:
                del self._received[next(iter(self._received))]
        self._received[ident] = known
        known.extend(uuids)
        if len(known) > 2 * keep:
            self._received[ident] = deque(last_of_each(known)[-keep:])

    def sync(self) -> None:
        """Does nothing: there is no disk."""

    def push_inbox(self, ident: str, messages: Iterable[Message], *, keep: int) -> list[int]:
        check_keep(keep)
        copies = [_copy_received(message) for message in messages]
        with self._lock:
            self._remember(ident, [copy.uuid for copy in copies if copy.ttl != 0], keep)
            return [self._append(ident, message).id for message in copies]

    def _append(self, ident: str, message: Message) -> InboxItem:
        self._last_id += 1
        item = self._inbox[self._last_id] = InboxItem(self._last_id, ident, message, 0)
        return item

    def get_inbox(self) -> list[InboxItem]:
        with self._lock:
            return [
                item._replace(message=_copy_received(item.message)) for item in self._inbox.values()
            ]

    def advance_inbox(self, done: int | None, starting: int | None) -> None:
        with self._lock:
            if done is not None:
                self._inbox.pop(done, None)
            if starting is not None and starting in self._inbox:
                item = self._inbox[starting]
                self._inbox[starting] = item._replace(attempts=item.attempts + 1)

    def uncount_attempt(self, item_id: int) -> None:
        with self._lock:
            item = self._inbox.get(item_id)
            if item is not None and item.attempts:
                self._inbox[item_id] = item._replace(attempts=item.attempts - 1)

    def bury(self, item_id: int, reason: str) -> None:
        with self._lock:
            item = self._inbox.pop(item_id, None)
            if item is not None:
                self._dead[item_id] = DeadLetter(*item, reason, self._wall_clock())

    def get_dead(self) -> list[DeadLetter]:
        with self._lock:
            return [
                letter._replace(message=_copy_received(letter.message))
                for _, letter in sorted(self._dead.items())
            ]

    def retry_dead(self, ids: Sequence[int] | None) -> list[InboxItem]:
        with self._lock:
            letters = [self._dead.pop(letter_id) for letter_id in self._dead_ids(ids)]
            for letter in letters:
                if letter.attempts:
                    letter.message.redelivered = True
            items = [self._append(letter.ident, letter.message) for letter in letters]
            return [item._replace(message=_copy_received(item.message)) for item in items]

    def drop_dead(self, ids: Sequence[int] | None) -> int:
        with self._lock:
            found = self._dead_ids(ids)
            for letter_id in found:
                del self._dead[letter_id]
            return len(found)

    def _dead_ids(self, ids: Sequence[int] | None) -> list[int]:
        """Those of them that are there, in the order in which they were received."""
        return sorted(self._dead if ids is None else self._dead.keys() & set(ids))

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
        # For how long TTLs ran here, and at what reading of this the TTL of
        # an item was set, if not at 0.
        self._ran = 0.0
        self._set_at: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._items)

    def current_items(self) -> list[Message]:
        """Copies of the items, with what remains of their TTLs."""
        return [
            item.with_ttl(remaining(item.ttl, self._ran - self._set_at.get(number, 0.0)))
            for number, item in self._items.items()
        ]

    def append(self, item: Message) -> None:
        number = self._next_number
        self._next_number += 1
        self._items[number] = item
        if self._ran and item.ttl is not None:
            self._set_at[number] = self._ran
        if self._first.setdefault(item.uuid, number) != number:
            self._later.setdefault(item.uuid, deque()).append(number)

    def advance(self, seconds: float) -> None:
        self._ran += seconds

    def set_ttl(self, uuid: bytes, ttl: float | None) -> None:
        first = self._first.get(uuid)
        if first is None:
            return
        for number in (first, *self._later.get(uuid, ())):
            self._items[number].ttl = ttl
            self._set_at[number] = self._ran

    def remove_first(self, uuid: bytes) -> bool:
        number = self._first.pop(uuid, None)
        if number is None:
            return False
        del self._items[number]
        self._set_at.pop(number, None)
        later = self._later.get(uuid)
        if later:
            self._first[uuid] = later.popleft()
            if not later:
                del self._later[uuid]
        return True


def _copy(item: Message) -> Message:
    return item.with_ttl(item.ttl)


def _copy_received(message: Message) -> Message:
    return make_message(message.data, message.ttl, message.flags, message.uuid, message.redelivered)
