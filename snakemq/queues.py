"""Queues: what waits for each peer.

A queue is filled from any thread and emptied by the thread of the loop. What
becomes of a message in between is in :mod:`snakemq._core.outbox`.

TTL runs only while the peer is not connected and this process is up.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias, cast

from snakemq._core.outbox import Entry, Outbox, Taken, message_of
from snakemq._core.ttl import ExpiryHeap, OfflineClock, Timed
from snakemq._io.clock import monotonic
from snakemq._room import Room
from snakemq.callbacks import CallbackOwner, CallbackSlot
from snakemq.exceptions import StorageError
from snakemq.limits import DropReason
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage import QueuesStorageBase

__all__ = ["Queue", "QueuesManager"]

# A timer that was set for the moment of an expiry may find the clock some
# rounding before it, and would be set again and again. In seconds.
_ROUNDING: Final = 1e-6


class Queue:
    """What waits for one peer. Made by :meth:`QueuesManager.get_queue`.

    :meth:`push` may be called from any thread, everything else from the
    thread of the loop only.

    :param stored: what an earlier process left in the storage
    """

    def __init__(self, name: str, manager: QueuesManager, stored: Iterable[Message] = ()) -> None:
        self.name = name
        self.manager = manager
        self.connected = False
        #: there may be something new to send (used by messaging)
        self.dirty = False
        #: what the numbers of its messages belong to: 8 bytes, unlike any other's
        self.stream = os.urandom(8)
        self._forgotten = False
        # All that follows is for those who hold the manager's lock.
        self._outbox = Outbox()
        #: what is counted for it, and what of that is data, in bytes; see Room
        self.messages = 0
        self.bytes = 0
        self._offline = OfflineClock(manager.clock())
        self._heap = ExpiryHeap()
        self._stored_timed = 0  # entries of _heap that are in the storage, too
        self._stored_reading = 0.0  # of _offline: what the storage knows of it
        self._has_untimed = False  # there may be bare messages with a finite TTL
        self._overflow: list[Message] = []  # dropped and not reported yet
        with manager.room.lock:
            for item in stored:
                manager.room.count(self, 1, len(item.data))
                self._append(item, loaded=True)
            self._outbox.mark_stored()

    def __len__(self) -> int:
        return self.messages

    def __repr__(self) -> str:
        outbox = self._outbox
        return (
            f"<Queue {self.name!r} connected={self.connected} messages={self.messages} "
            f"in_flight={outbox.in_flight} unconfirmed={outbox.unconfirmed}>"
        )

    def push(self, item: Message) -> bool:
        """Append a message; a persistent one is in the storage when this returns.

        Any thread.

        :return: whether it is queued. With TTL 0 it is accepted only while the
            peer is connected, else it is gone without a notice (as in 1.6)
        :raises QueueFull: there is no room for it
        :raises snakemq.exceptions.StorageError: it could not be stored and is
            not queued
        """
        manager = self.manager
        if item.flags & FLAG_PERSISTENT and item.ttl != 0 and manager.stores:
            manager.push_many([(self.name, item)])
            return True
        size = len(item.data)
        room = manager.room
        limits = room.limits
        with room.lock:
            if (
                self.messages < limits.max_messages
                and self.bytes + size <= limits.max_bytes
                and room.messages < limits.total_messages
                and room.bytes + size <= limits.total_bytes
                and not self._forgotten
            ):
                if item.ttl is None:
                    self._outbox.waiting.append(item)
                elif not self.connected and item.ttl == 0:
                    return False
                else:
                    self._append(item)
                self.messages += 1
                self.bytes += size
                room.messages += 1
                room.bytes += size
                return True
        if item.ttl == 0 and not self.connected:
            return False
        manager.push_many([(self.name, item)])
        return True

    def push_urgent(self, item: Message) -> bool:
        """Put a message before all that were not sent yet; with TTL 0 only. Any thread.

        :return: whether it is queued: the peer is connected
        :raises QueueFull: there is no room for it
        """
        room = self.manager.room
        with room.lock:
            if not self.connected or self._forgotten:
                return False
            size = len(item.data)
            # Not to wait: who replies may be in the loop, and holds up others.
            if not room.make({self: (1, size)}, room.now()):
                room.check(self, 1, size)
            room.count(self, 1, size)
            self._has_untimed = True
            self._outbox.put_urgent(item)
            return True

    # For those who hold the manager's lock.

    @property
    def is_forgotten(self) -> bool:
        """Whether it left the manager, and there may be another one of its name."""
        return self._forgotten

    def append_reserved(self, item: Message) -> None:
        """Append a message that was counted before."""
        self._append(item)

    def drop_oldest(self) -> bool:
        """Make room; see :meth:`report_overflow`.

        :return: whether there was something that waits
        """
        entry = self._outbox.drop_first()
        if entry is None:
            return False
        message = self._gone(entry)
        self.manager.room.count(self, -1, -len(message.data))
        self._overflow.append(message)
        return True

    def _append(self, item: Message, *, loaded: bool = False) -> None:
        ttl = item.ttl
        if ttl is None:
            self._outbox.waiting.append(item)
        elif self.connected or (ttl == 0 and not loaded):
            # Its time does not run now. If it still waits when the peer is
            # gone, it is seen to then.
            self._has_untimed = True
            self._outbox.waiting.append(item)
        else:
            entry = Timed(item, self._reading() + ttl)
            self._watch(entry, item)
            self._outbox.waiting.append(entry)

    def _watch(self, entry: Timed, item: Message) -> None:
        self._heap.push(entry)
        self._stored_timed += item.flags & FLAG_PERSISTENT

    def _gone(self, entry: Entry) -> Message:
        """The message of an entry that leaves."""
        if not isinstance(entry, Timed):
            return entry
        message = cast(Message, entry.message)
        self._heap.discard(entry)
        self._stored_timed -= message.flags & FLAG_PERSISTENT
        return message

    def _reading(self) -> float:
        return self._offline.reading(self.manager.clock())

    # For the thread of the loop.

    def get(self) -> Message | None:
        """The first waiting message, with what remains of its TTL; it stays."""
        self.expire()
        with self.manager.room.lock:
            entry = self._outbox.first()
            return entry.fresh(self._reading()) if isinstance(entry, Timed) else entry

    def pop(self) -> None:
        """Remove the first waiting message, from the storage too."""
        self.expire()
        with self.manager.room.lock:
            entry = self._outbox.drop_first()
            messages = [] if entry is None else self._leave([entry])
        self._remove_stored(messages)

    def take(self, max_count: int, max_bytes: int) -> Taken:
        """Move messages from waiting to in flight.

        :param max_count: at most so many
        :param max_bytes: stop when there are so many bytes of data
        :return: the messages with what remains of their TTL
        """
        with self.manager.room.lock:
            return self._outbox.take(max_count, max_bytes, self._reading())

    def take_urgent(self, max_bytes: int) -> Taken:
        """Likewise, of the urgent ones only."""
        with self.manager.room.lock:
            return self._outbox.take_urgent(max_bytes)

    @property
    def waiting(self) -> bool:
        """Whether there may be something to :meth:`take`."""
        return self._outbox.has_waiting

    @property
    def in_flight(self) -> int:
        """How many messages are in flight."""
        return self._outbox.in_flight

    @property
    def under_way(self) -> int:
        """How many messages are in flight or unconfirmed."""
        return self._outbox.under_way

    @property
    def bytes_under_way(self) -> int:
        """The data of those, in bytes."""
        return self._outbox.bytes_flying

    def expect_confirmations(self, *, of_all: bool) -> None:
        """The connection is ready, and it is known what is going to be :meth:`confirmed`.

        :param of_all: all messages, else only the persistent ones
        """
        self._outbox.expect(confirms_all=of_all)

    def sent(self, count: int) -> tuple[list[Message], list[Message]]:
        """The first ``count`` in flight are with the system.

        They wait to be confirmed then, or leave if they are not going to be.

        :return: the messages that this process has not told of as sent before,
            and those that leave
        """
        with self.manager.room.lock:
            messages, leaving = self._outbox.sent(count)
            return messages, self._leave(leaving) if leaving else []

    def confirmed(self, count: int) -> list[Message]:
        """The first ``count`` unconfirmed have arrived: they leave, the storage too.

        :return: the messages
        """
        with self.manager.room.lock:
            messages = self._leave(self._outbox.confirmed(count))
        self._remove_stored(messages)
        return messages

    def _leave(self, entries: list[Entry]) -> list[Message]:
        messages: list[Message] = []
        add = messages.append
        size = 0
        for entry in entries:
            message = self._gone(entry) if isinstance(entry, Timed) else entry
            size += len(message.data)
            add(message)
        self.manager.room.count(self, -len(messages), -size)
        self.manager.room.tell()
        return messages

    def _remove_stored(self, messages: list[Message]) -> None:
        stored = [
            message for message in messages if message.flags & FLAG_PERSISTENT and message.ttl != 0
        ]
        if stored:
            self.manager.remove_stored(self.name, stored)

    def connect(self) -> None:
        """The peer is connected: TTL stands still from now on."""
        with self.manager.room.lock:
            dropped = self._take_expired()
            self._offline.stop(self.manager.clock())
            self.connected = True
        self._remove_stored(dropped)
        self.store_clock()
        # Last: a callback may send something, and finds the peer connected.
        self.manager.report_drops(self.name, dropped, DropReason.EXPIRED)

    def disconnect(self) -> None:
        """The peer is gone: what is not confirmed waits again, TTL runs from now on.

        Messages with TTL 0 are dropped.
        """
        with self.manager.room.lock:
            self.connected = False
            self._offline.start(self.manager.clock())
            dropped = self._outbox.disconnect()
            self.manager.room.count(
                self, -len(dropped), -sum(len(message.data) for message in dropped)
            )
            dropped += self._take_expired()
            self.manager.room.tell()
        self._remove_stored(dropped)
        self.manager.report_drops(self.name, dropped, DropReason.EXPIRED)

    def count_transient(self) -> int:
        """How many messages end with this process; it takes a look at each."""
        with self.manager.room.lock:
            if self.manager.storage is None:
                return self.messages
            return sum(
                not message.flags & FLAG_PERSISTENT or message.ttl == 0
                for message in self._outbox.messages()
            )

    def next_expiry(self) -> float | None:
        """When :meth:`expire` has something to do next, on the manager's clock."""
        with self.manager.room.lock:
            if self.connected:
                return None
            expires = self._heap.next_expiry()
            if expires is None:
                return None
            return self._offline.time_of(expires, self.manager.clock())

    def expire(self) -> None:
        """Drop what has expired, and report it."""
        with self.manager.room.lock:
            dropped = [] if self.connected else self._take_expired()
        self._remove_stored(dropped)
        self.manager.report_drops(self.name, dropped, DropReason.EXPIRED)

    def _take_expired(self) -> list[Message]:
        dropped = self._see_to_untimed()
        if self._heap:
            outbox = self._outbox
            before = len(dropped)
            for entry in self._heap.pop_expired(self._reading() + _ROUNDING):
                message = cast(Message, entry.message)
                self._stored_timed -= message.flags & FLAG_PERSISTENT
                dropped.append(message)
                entry.message = None
            outbox.dead += len(dropped) - before
            if outbox.dead * 2 > len(outbox.waiting):
                outbox.rebuild(lambda entry: None if message_of(entry) is None else entry)
        if dropped:
            self.manager.room.count(
                self, -len(dropped), -sum(len(message.data) for message in dropped)
            )
            self.manager.room.tell()
        return dropped

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
            if isinstance(entry, Timed) or entry.ttl is None:
                return entry
            if entry.ttl == 0:
                dropped.append(entry)
                return None
            timed = Timed(entry, reading + entry.ttl)
            self._watch(timed, entry)
            return timed

        self._outbox.rebuild(see_to)
        return dropped

    def store_clock(self) -> None:
        """Have the storage know how long the TTLs there have run; a failure is logged.

        Messages of which it does not know that live longer after a restart.
        """
        storage = self.manager.storage
        if storage is None:
            return
        with self.manager.storage_errors_logged(self.name), self.manager.storage_lock:
            if type(storage).advance_ttl is not QueuesStorageBase.advance_ttl:
                self.advance_stored_clock()
                return
            # A storage that was written for 1.6: each TTL has to be stored.
            with self.manager.room.lock:
                reading = self._reading()
                changed = [
                    message
                    for entry in self._heap
                    if (message := entry.fresh(reading)) is not None
                    and message.flags & FLAG_PERSISTENT
                    and message is not entry.message
                ]
            if changed:
                storage.update_items_ttl(changed)

    def advance_stored_clock(self) -> None:
        """Likewise, before something is stored; for who holds the storage's lock.

        :raises snakemq.exceptions.StorageError: it could not be stored
        """
        storage = self.manager.storage
        seconds = self.unstored_seconds()
        if (
            seconds > 0
            and storage is not None
            and type(storage).advance_ttl is not QueuesStorageBase.advance_ttl
        ):
            storage.advance_ttl(self.name, seconds)
            self._stored_reading += seconds

    def unstored_seconds(self) -> float:
        """How long the TTLs in the storage have run without its knowledge."""
        with self.manager.room.lock:
            reading = self._reading()
            if not self._stored_timed:
                self._stored_reading = reading
            return reading - self._stored_reading

    def report_overflow(self) -> None:
        """Report what was dropped to make room, and remove it from the storage."""
        # A callback may send something, for which another one is dropped.
        while self._overflow:
            with self.manager.room.lock:
                dropped, self._overflow = self._overflow, []
            self._remove_stored(dropped)
            self.manager.report_drops(self.name, dropped, DropReason.QUEUE_FULL)

    def forget(self) -> bool:
        """Leave the manager if there is nothing here.

        :return: whether it was empty and is gone now
        """
        with self.manager.room.lock:
            if self._forgotten:
                return True  # there may be another queue of this name by now
            if self.connected or self.messages or self._overflow:
                return False
            self._forgotten = True
            del self.manager.queues[self.name]
        return True


#: Messages with the queues for which there is room.
Reserved: TypeAlias = list[tuple[Queue, Message]]


class QueuesManager(CallbackOwner):
    """The queues of all peers, over a storage.

    :param storage: where persistent messages are kept, or ``None``
    :param clock: gives the current time in seconds, monotonic
    """

    #: ``func(queue_name, item_uuid)``; the message was dropped. Loop thread.
    on_item_drop = CallbackSlot[[str, bytes]]()
    #: ``func(queue_name, items, reason)``; likewise, for layers
    on_items_dropped = CallbackSlot[[str, list[Message], DropReason]]()

    def __init__(
        self,
        storage: QueuesStorageBase | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        if storage is not None and not isinstance(storage, QueuesStorageBase):
            raise TypeError(
                f"storage must be a QueuesStorageBase or None, not {type(storage).__name__}"
            )
        self.log = logging.getLogger("snakemq.queuesmanager")
        self.storage = storage
        #: whether persistent messages are stored, or refused because it is closed
        self.stores = storage is not None
        self.clock = clock
        self.queues: dict[str, Queue] = {}
        # Taken in this order: a queue is made; the order on the disk is the
        # order in memory; what the queues hold, which is the lock of room.
        self._making = threading.Lock()
        self.storage_lock = threading.Lock()
        #: how much is queued and may be queued
        self.room = Room(clock)
        self.room.may_wait = self._may_wait
        #: whether the calling thread may wait for room; the loop's may not
        self.may_wait: Callable[[], bool] = lambda: True
        #: asks the loop to look at queues in which something has changed
        self.attend: Callable[[Iterable[Queue]], object] = lambda queues: None
        #: threads that are inside a transaction of the storage
        self.in_transaction: set[int] = set()
        if storage is not None:
            for name in list(storage.get_queues()):
                self.queues[name] = Queue(name, self, storage.get_items(name))
            self.log.debug("queues in storage: %i", len(self.queues))

    def get_queue(self, queue_name: str) -> Queue:
        """The queue of that name; it is made if need be. Any thread.

        What the storage has was taken up at the start. A name that appears
        later has nothing there.
        """
        queue = self.queues.get(queue_name)
        if queue is None:
            with self._making:
                queue = self.queues.get(queue_name)
                if queue is None:
                    queue = self.queues[queue_name] = Queue(queue_name, self)
        return queue

    def push_many(self, entries: Iterable[tuple[str, Message]]) -> Reserved:
        """Append messages to their queues, all of them or none. Any thread.

        The persistent ones are in the storage when this returns.

        :param entries: pairs of queue name and message
        :return: what is queued, and where; what has TTL 0 is left out if the
            peer is not connected
        :raises QueueFull: there is no room for them
        :raises snakemq.exceptions.StorageError: they could not be stored
        """
        if threading.get_ident() in self.in_transaction:
            raise StorageError(
                "this thread is inside a transaction, for whose end a message that is sent the "
                "usual way would wait; send it with the transaction's own method"
            )
        reserved = self.reserve(entries)
        try:
            # One after the other, so that the order is the same on disk.
            with self.storage_lock:
                stored = [
                    (queue.name, message)
                    for queue, message in reserved
                    if message.flags & FLAG_PERSISTENT and message.ttl != 0
                ]
                if stored and self.storage is None and self.stores:
                    raise StorageError("the queues are closed: nothing can be stored any more")
                if stored and self.storage is not None:
                    self.advance_stored_clocks(reserved)
                    if len(stored) == 1:
                        self.storage.push(*stored[0])
                    else:
                        self.storage.push_many(stored)
                self.append(reserved)
        except BaseException:
            self.release(reserved)
            raise
        return reserved

    def advance_stored_clocks(self, reserved: Reserved) -> None:
        """See :meth:`Queue.advance_stored_clock`; for messages that are going to be stored."""
        for queue in dict.fromkeys(q for q, message in reserved if message.ttl is not None):
            queue.advance_stored_clock()

    def reserve(self, entries: Iterable[tuple[str, Message]]) -> Reserved:
        """Make room for messages, for all of them or for none. Any thread.

        Messages with TTL 0 are left out if the peer is not connected.

        :raises QueueFull: there is no room
        """
        entries = list(entries)
        room = self.room
        deadline = room.deadline()
        while True:
            reserved = [
                (self.get_queue(name), message)
                for name, message in entries
                if message.ttl != 0 or self._is_connected(name)
            ]
            needed: dict[Queue, tuple[int, int]] = {}
            for queue, message in reserved:
                count, size = needed.get(queue, (0, 0))
                needed[queue] = (count + 1, size + len(message.data))
            with room.lock:
                if any(queue.is_forgotten for queue in needed):
                    continue
                if room.make(needed, deadline):
                    for queue, (count, size) in needed.items():
                        room.count(queue, count, size)
                    return reserved

    def append(self, reserved: Reserved) -> None:
        """Queue what there was made room for."""
        with self.room.lock:
            for queue, message in reserved:
                queue.append_reserved(message)

    def release(self, reserved: Reserved) -> None:
        """Give up what there was made room for."""
        with self.room.lock:
            for queue, message in reserved:
                self.room.count(queue, -1, -len(message.data))
            self.room.tell()
        # Something may have been dropped for it.
        self.attend(dict.fromkeys(queue for queue, _ in reserved))

    def _may_wait(self) -> bool:
        # Who is inside a transaction has what the loop may be waiting for.
        return threading.get_ident() not in self.in_transaction and self.may_wait()

    def _is_connected(self, name: str) -> bool:
        queue = self.queues.get(name)
        return queue is not None and queue.connected

    def report_drops(self, queue_name: str, items: list[Message], reason: DropReason) -> None:
        """Tell that messages were dropped. Loop thread, without the lock."""
        if items:
            self.on_items_dropped(queue_name, items, reason)
            if self.on_item_drop:
                for item in items:
                    self.on_item_drop(queue_name, item.uuid)

    def remove_stored(self, queue_name: str, items: list[Message]) -> None:
        """Take messages out of the storage, if there is one; a failure is logged.

        What can't be removed will be sent again by the next process that opens
        the storage, which beats losing what is accepted now.
        """
        if self.storage is not None and items:
            with self.storage_errors_logged(queue_name), self.storage_lock:
                self.storage.remove_items(queue_name, items)

    @contextlib.contextmanager
    def storage_errors_logged(self, queue_name: str) -> Iterator[None]:
        """What the storage raises is logged: the stack goes on."""
        # A storage may be the user's and raise anything.
        try:
            yield
        except Exception:
            self.log.exception("queue %r: the storage failed", queue_name)

    def cleanup(self) -> None:
        """Forget empty queues of peers that are not connected."""
        for queue in list(self.queues.values()):
            queue.forget()

    def collect_garbage(self) -> None:
        """Drop what has expired and forget empty queues."""
        for queue in list(self.queues.values()):
            queue.expire()
        self.cleanup()

    def close(self) -> None:
        """Forget all queues and close the storage. What is stored stays stored."""
        self.room.close()
        if self.storage is not None:
            for queue in list(self.queues.values()):
                if not queue.connected:
                    queue.store_clock()
        self.queues.clear()
        if self.storage is not None:
            self.storage.close()
            self.storage = None

    def __len__(self) -> int:
        return len(self.queues)
