"""One queue: what waits for one peer, and how far it is.

It is filled from any thread and emptied by the thread of the loop. What
becomes of a message in between is in :mod:`snakemq._core.outbox`, and what of
it is on the disk only in :mod:`snakemq._stored`.

TTL runs only while the peer is not connected and this process is up.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from snakemq._core.outbox import Entry, Taken, message_of
from snakemq._core.packed import (
    Sendable,
    Unpacked,
    are_packed,
    mixed_size,
    packed_size,
    total_size,
    unpacked,
)
from snakemq._core.ttl import ExpiryHeap, OfflineClock, Placed, Timed
from snakemq._pushing import Pushing
from snakemq._stored import PAGE_BYTES, PAGE_MESSAGES, WINDOW_BYTES, WINDOW_MESSAGES
from snakemq.limits import DropReason
from snakemq.message import Message
from snakemq.storage import QueueSummary, Removal, StoredItem

if TYPE_CHECKING:
    from snakemq.queues import QueuesManager

__all__ = ["Queue"]

# A timer that was set for the moment of an expiry may find the clock some
# rounding before it, and would be set again and again. In seconds.
_ROUNDING: Final = 1e-6

#: How many messages on the disk are dropped at once when they expire.
_EXPIRED_AT_ONCE: Final = 1000

#: When the storage is asked again that could not tell what has expired, in seconds.
_RETRY: Final = 1.0


class Queue(Pushing):
    """What waits for one peer. Made by :meth:`QueuesManager.get_queue`.

    What it has of :class:`Pushing` may be called from any thread, everything else
    from the thread of the loop only.
    """

    __slots__ = (
        "__weakref__",
        "_expired",
        "_heap",
        "_offline",
        "_overflow",
        "_removals",
        "blocked",
        "dirty",
        "stream",
    )

    def __init__(self, name: str, manager: QueuesManager) -> None:
        super().__init__(name, manager)
        #: there may be something new to send (used by messaging)
        self.dirty = False
        #: nothing more can be sent until the other side, or the system, has
        #: taken some; it is looked at again then (used by messaging)
        self.blocked = False
        #: what the numbers of its messages belong to: 8 bytes, unlike any other's
        self.stream = os.urandom(8)
        # All that follows is for those who hold the manager's lock.
        self._offline = OfflineClock(manager.clock())
        self._heap = ExpiryHeap()
        # Dropped and not reported yet, and what of it is to be removed.
        self._overflow: list[Message] = []
        self._expired: list[Message] = []
        self._removals: list[Removal] = []

    def __len__(self) -> int:
        with self.manager.room.lock:
            # Not negative: Ctrl-C may have come before one that is there was counted.
            return max(0, self.messages - self.left_messages) + self.stored.messages

    def __repr__(self) -> str:
        outbox = self._outbox
        return (
            f"<Queue {self.name!r} connected={self.connected} messages={len(self)} "
            f"stored={self.stored.messages} in_flight={outbox.in_flight} "
            f"unconfirmed={outbox.unconfirmed}>"
        )

    # For those who hold the manager's lock.

    def append(self, item: Message) -> None:
        """Append a message that is not stored, and was counted before."""
        ttl = item.ttl
        if self.stored.unloaded:
            entry = Placed(item, self._reading(), self.stored.last, False)
            if ttl is not None:
                self._heap.push(entry)
            self.stored.append_to_tail(entry)
        elif ttl is None:
            self._outbox.waiting.append(item)
        elif self.connected or ttl == 0:
            # Its time does not run now. If it still waits when the peer is
            # gone, it is seen to then.
            self._has_untimed = True
            self._outbox.waiting.append(item)
        else:
            timed = Timed(item, self._reading() + ttl)
            self._heap.push(timed)
            self._outbox.waiting.append(timed)

    def append_stored(self, item: Message, position: int) -> None:
        """Append a message that is in the storage, and was counted before."""
        stored = self.stored
        # It takes five calls to learn the time, and few messages need it.
        entry = Placed(item, 0.0 if item.ttl is None else self._reading(), position, True)
        if (
            self.connected
            and not stored.unloaded
            and len(self._outbox.waiting) < WINDOW_MESSAGES
            and stored.bytes_loaded - self._outbox.bytes_flying < WINDOW_BYTES
        ):
            stored.keep_in_memory(entry, len(item.data))
            if item.ttl is not None:
                self._heap.push(entry)
            self._outbox.waiting.append(entry)
        else:
            if self.left_messages:
                self.manager.room.take_back(self)  # nothing goes before it now
            stored.leave_on_disk(position, len(item.data), entry.expires)

    def take_over(
        self,
        summary: QueueSummary,
        last: int,
        next_expiry: float | None,
    ) -> None:
        """An earlier process has left messages in the storage.

        :param last: the highest position that it has given to any
        :param next_expiry: when the first of them expires, in seconds of absence
        """
        self.manager.stored_room.count(self.stored, summary.messages, summary.bytes)
        self.stored.take_over(summary.messages, summary.bytes, last)
        if next_expiry is not None:
            self.stored.next_expiry = self.stored.reading + next_expiry

    def count_fixed(self) -> tuple[int, int]:
        """See :class:`snakemq._room.Countable`: of what is not in the storage."""
        return self.count_under_way(stored=False)

    def count_under_way(self, *, stored: bool) -> tuple[int, int]:
        """See :meth:`Outbox.count_under_way`."""
        return self._outbox.count_under_way(stored=stored)

    def drop_oldest(self) -> bool:
        """Make room in the memory; see :meth:`report_drops`.

        :return: whether there was something that waits
        """
        entry = self._outbox.drop_first(stored=False) or self.stored.drop_first_of_tail()
        if entry is None:
            return False
        self._overflow += self._leave([entry])[0]
        return True

    def drop_oldest_stored(self) -> bool:
        """Make room in the storage; likewise.

        :return: whether there was something that waits, in memory
        """
        entry = self._outbox.drop_first(stored=True)
        if entry is None:
            return False
        messages, removals = self._leave([entry])
        self._overflow += messages
        self._removals += removals
        return True

    def _leave(
        self, entries: Sequence[Entry], *, expired: bool = False
    ) -> tuple[Sequence[Message], list[Removal]]:
        """Entries leave the queue.

        :param expired: they have left the heap, and may be where they were
        :return: their messages, and what is to be removed from the storage
        """
        if are_packed(entries):
            self.manager.room.count(self, -len(entries), -packed_size(entries))
            self.manager.room.tell()
            return Unpacked(entries), []
        messages: list[Sendable] = []
        positions: list[int] = []
        stored_size = timed = 0
        for entry in entries:
            if isinstance(entry, Timed):
                message = entry.message
                assert message is not None
                if expired:
                    entry.message = None
                elif message.ttl is not None:
                    self._heap.discard(entry)
                if isinstance(entry, Placed) and entry.is_stored:
                    positions.append(entry.position)
                    stored_size += len(message.data)
                    timed += entry.expires != math.inf
                messages.append(message)
            else:
                messages.append(entry)
        manager = self.manager
        manager.room.count(self, len(positions) - len(messages), stored_size - mixed_size(messages))
        manager.room.tell()
        if not positions:
            return unpacked(messages), []
        self.stored.left_memory(timed, stored_size)
        manager.stored_room.count(self.stored, -len(positions), -stored_size)
        manager.stored_room.tell()
        return unpacked(messages), [Removal(self.name, positions, stored_size)]

    def _reading(self) -> float:
        return self._offline.reading(self.manager.clock())

    # For the thread of the loop.

    def get(self) -> Message | None:
        """The first waiting message, with what remains of its TTL; it stays."""
        self.expire()
        self._load_if_empty()
        with self.manager.room.lock:
            entry = self._outbox.first()
            message = None if entry is None else message_of(entry)
            return entry.fresh(self._reading()) if isinstance(entry, Timed) else message

    def pop(self) -> None:
        """Remove the first waiting message, from the storage too."""
        self.expire()
        self._load_if_empty()
        with self.manager.room.lock:
            entry = self._outbox.drop_first()
            _, removals = ([], []) if entry is None else self._leave([entry])
        self._remove(removals)

    def take(self, max_count: int, max_bytes: int) -> Taken:
        """Move messages from waiting to in flight.

        :param max_count: at most so many
        :param max_bytes: stop when there are so many bytes of data
        :return: the messages with what remains of their TTL
        """
        if self.stored.unloaded:
            self._load_if_empty()
        with self.manager.room.lock:
            if self.stored.unloaded and self.stored.is_from_before and not self._outbox.waits:
                return Taken([])  # nothing goes before that, be it urgent
            reading = self._offline.reading(self.manager.clock())
            return self._outbox.take(max_count, max_bytes, reading)

    def take_urgent(self, max_bytes: int) -> Taken:
        """Likewise, of the urgent ones only."""
        with self.manager.room.lock:
            if self.stored.is_from_before:
                return Taken([])
            return self._outbox.take_urgent(max_bytes)

    @property
    def has_more_to_do(self) -> bool:
        """Whether there is something to read from the storage, or to report."""
        return bool(self.stored.unloaded or self._overflow or self._expired)

    @property
    def waiting(self) -> bool:
        """Whether there may be something to :meth:`take`."""
        outbox = self._outbox
        return bool(outbox.waiting or outbox.urgent or self.stored.unloaded)

    @property
    def in_flight(self) -> int:
        """How many messages are in flight."""
        return self._outbox.in_flight

    def flying(self) -> tuple[int, int, int]:
        """How many messages are in flight; in flight or unconfirmed; the data of all these."""
        return self._outbox.flying()

    def expect_confirmations(self, *, of_all: bool) -> None:
        """The connection is ready, and it is known what is going to be :meth:`confirmed`.

        :param of_all: all messages, else only the persistent ones
        """
        self._outbox.expect(confirms_all=of_all)

    def sent(self, count: int) -> tuple[Sequence[Message], Sequence[Message]]:
        """The first ``count`` in flight are with the system.

        They wait to be confirmed then, or leave if they are not going to be.

        :return: the messages that this process has not told of as sent before,
            and those that leave
        """
        with self.manager.room.lock:
            messages, leaving = self._outbox.sent(count)
            return messages, self._leave(leaving)[0] if leaving else []

    def confirmed(self, count: int) -> Sequence[Message]:
        """The first ``count`` unconfirmed have arrived: they leave, the storage too.

        :return: the messages
        """
        with self.manager.room.lock:
            messages, removals = self._leave(self._outbox.confirmed(count))
        self._remove(removals)
        return messages

    def _remove(self, removals: list[Removal]) -> None:
        if removals:
            self.manager.remove_stored(removals)

    def connect(self, announce: Callable[[], object] = lambda: None) -> None:
        """The peer is connected: TTL stands still from now on.

        :param announce: called when that is so, before what has expired is
            reported: a callback for that may send something
        """
        dropped = []
        while expired := self._expire_on_disk():
            dropped += expired
        with self.manager.room.lock:
            expired, removals = self._take_expired()
            dropped += expired
            self._offline.stop(self.manager.clock())
            self.connected = True
        self._remove(removals)
        self.store_clock()
        announce()
        self.manager.report_drops(self.name, dropped, DropReason.EXPIRED)

    def disconnect(self) -> None:
        """The peer is gone: what is not confirmed waits again, TTL runs from now on.

        Messages with TTL 0 are dropped.
        """
        with self.manager.room.lock:
            self.connected = self.blocked = False
            self._offline.start(self.manager.clock())
            urgent = self._outbox.disconnect()
            self.manager.room.count(self, -len(urgent), -total_size(urgent))
            dropped, removals = self._take_expired()
            self.manager.room.tell()
        self._remove(removals)
        self.manager.report_drops(self.name, urgent + dropped, DropReason.EXPIRED)

    def next_expiry(self) -> float | None:
        """When :meth:`expire` has something to do next, on the manager's clock."""
        with self.manager.room.lock:
            if self.connected:
                return None
            expires = self._heap.next_expiry()
            expires = (
                self.stored.next_expiry
                if expires is None
                else min(expires, self.stored.next_expiry)
            )
            if expires == math.inf:
                return None
            return self._offline.time_of(expires, self.manager.clock())

    def expire(self) -> None:
        """Drop what has expired, and report it."""
        with self.manager.room.lock:
            dropped, removals = ([], []) if self.connected else self._take_expired()
        self._remove(removals)
        if not self.connected:
            dropped += self._expire_on_disk()
        self.manager.report_drops(self.name, dropped, DropReason.EXPIRED)

    def _take_expired(self) -> tuple[list[Message], list[Removal]]:
        """Of what is in memory."""
        dropped = self._see_to_untimed()
        if dropped:
            self.manager.room.count(self, -len(dropped), -total_size(dropped))
            self.manager.room.tell()
        if not self._heap:
            return dropped, []
        expired = list(self._heap.pop_expired(self._reading() + _ROUNDING))
        if not expired:
            return dropped, []
        messages, removals = self._leave(expired, expired=True)
        in_tail = sum(self.stored.is_in_tail(entry) for entry in expired)
        self.stored.count_dead_in_tail(in_tail)
        self._outbox.count_dead(len(expired) - in_tail)
        return [*dropped, *messages], removals

    def _see_to_untimed(self) -> list[Message]:
        """Set the time for messages that were pushed while the peer was connected.

        :return: those with TTL 0, which are dropped
        """
        if not self._has_untimed:
            return []
        self._has_untimed = False
        reading = self._reading()
        dropped: list[Message] = []

        def see_to(entry: Entry) -> Entry | None:
            if isinstance(entry, (Timed, bytes)) or entry.ttl is None:
                return entry
            if entry.ttl == 0:
                dropped.append(entry)
                return None
            timed = Timed(entry, reading + entry.ttl)
            self._heap.push(timed)
            return timed

        self._outbox.rebuild(see_to)
        return dropped

    # What is on the disk only.

    def _load_if_empty(self) -> None:
        if self.stored.unloaded and not self._outbox.waits:
            is_loaded = False
            with self.manager.storage_errors_logged(self.name):
                self.load()
                is_loaded = True
            if not is_loaded:
                self.manager.try_later(self)

    def load(self) -> None:
        """Have the next page of what is on the disk in memory. Any thread.

        :raises Exception: of the storage
        """
        manager = self.manager
        with manager.load_lock:
            stored = self.stored
            storage = manager.paged
            if not stored.unloaded or storage is None:
                return
            # What is behind this may be stored by now, but was not told of yet.
            last = stored.last
            page = storage.get_page(
                self.name, stored.loaded, max_messages=PAGE_MESSAGES, max_bytes=PAGE_BYTES
            )
            with manager.room.lock:
                self._take_in(page, last)
        if self._expired:
            manager.attend([self])

    def _take_in(self, page: list[StoredItem], last: int) -> None:
        """Append a page to what waits.

        :param last: what is behind this had not been told of when it was read
        """
        stored = self.stored
        outbox = self._outbox
        room = self.manager.stored_room
        reading = self._reading()
        size = 0
        for position, message in page:
            if position > last:
                break
            outbox.waiting.extend(stored.tail_up_to(position - 1))
            length = len(message.data)
            size += length
            if stored.unloaded:
                stored.leaves_disk(1, length)
            else:
                room.count(stored, 1, length)  # somebody else has put it there
            entry = Placed(message, stored.reading, position, True)
            stored.keep_in_memory(entry, length)
            if message.ttl is not None:
                self._heap.push(entry)
            if entry.expires <= reading:
                messages, removals = self._leave([entry])
                self._expired += messages
                self._removals += removals
            else:
                outbox.append_loaded(entry, maybe_sent=position < stored.first_new)
        is_end = len(page) < PAGE_MESSAGES and size < PAGE_BYTES and last == stored.last
        if is_end and stored.unloaded:
            self.manager.log.warning(
                "queue %r: %d messages are not in the storage any more; somebody else has "
                "removed them",
                self.name,
                stored.unloaded,
            )
            room.count(stored, -stored.unloaded, -stored.bytes_unloaded)
            room.tell()
            stored.leaves_disk(stored.unloaded, stored.bytes_unloaded)
        self._take_in_tail()

    def _take_in_tail(self) -> None:
        """Append what is not behind anything on the disk any more."""
        stored = self.stored
        if not stored.unloaded:
            stored.loaded = stored.last
            stored.next_expiry = math.inf
        self._outbox.waiting.extend(stored.tail_up_to(stored.loaded))

    def _expire_on_disk(self) -> list[Message]:
        """Take out what has expired there, or some of it if it is much."""
        stored = self.stored
        storage = self.manager.paged
        with self.manager.room.lock:
            reading = self._reading() + _ROUNDING
            if stored.next_expiry > reading or storage is None:
                return []
        expired: list[StoredItem] = []
        stored.next_expiry = reading + _RETRY
        with (
            self.manager.storage_errors_logged(self.name),
            # Nothing is appended meanwhile, and nothing is loaded.
            self.manager.writer.exclusive(),
            self.manager.load_lock,
        ):
            expired = storage.take_expired(
                self.name, reading - stored.reading, stored.loaded, _EXPIRED_AT_ONCE
            )
            size = sum(len(item.message.data) for item in expired)
            with self.manager.room.lock:
                self.manager.stored_room.count(stored, -len(expired), -size)
                self.manager.stored_room.tell()
                stored.leaves_disk(len(expired), size)
                self._take_in_tail()
            following = storage.next_expiry(self.name, stored.loaded)
            with self.manager.room.lock:
                stored.next_expiry = math.inf if following is None else stored.reading + following
        self.manager.wrote()
        return [item.message for item in expired]

    def store_clock(self) -> None:
        """Have the storage know how long the TTLs there have run; a failure is logged.

        Messages of which it does not know that live longer after a restart.
        """
        with self.manager.storage_errors_logged(self.name):
            self.advance_stored_clock()
            self.manager.store_ttls(self.name)

    def advance_stored_clock(self) -> None:
        """Likewise, before something is stored.

        :raises Exception: of the storage
        """
        # For one thread at a time, and not while something is read: what remains
        # of its TTLs depends on it.
        with self.manager.load_lock:
            seconds = self.unstored_seconds()
            if seconds > 0 and self.manager.paged is not None:
                self.manager.paged.advance_ttl(self.name, seconds)
                self.stored.reading += seconds

    def unstored_seconds(self) -> float:
        """How long the TTLs in the storage have run without its knowledge."""
        with self.manager.room.lock:
            reading = self._reading()
            if not self.stored.has_timed:
                self.stored.reading = reading
            return reading - self.stored.reading

    def report_drops(self) -> None:
        """Report what was dropped meanwhile, and remove it from the storage."""
        # A callback may send something, for which another one is dropped.
        while self._overflow or self._expired:
            with self.manager.room.lock:
                overflow, self._overflow = self._overflow, []
                expired, self._expired = self._expired, []
                removals, self._removals = self._removals, []
            self._remove(removals)
            self.manager.report_drops(self.name, overflow, DropReason.QUEUE_FULL)
            self.manager.report_drops(self.name, expired, DropReason.EXPIRED)

    def forget(self) -> bool:
        """Leave the manager if there is nothing here.

        :return: whether it was empty and is gone now
        """
        with self.manager.room.lock:
            if self.is_forgotten:
                return True  # there may be another queue of this name by now
            # The outbox, too: Ctrl-C may have come before what is there was counted.
            if self.connected or len(self) or len(self._outbox):
                return False
            if self._overflow or self._expired:
                return False
            self.is_forgotten = True
            self.manager.room.take_back(self)
            del self.manager.queues[self.name]
        return True
