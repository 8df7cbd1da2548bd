"""Queues: what waits for each peer.

A queue is filled from any thread and emptied by the thread of the loop. What
becomes of a message in between is in :mod:`snakemq._core.outbox`.

TTL runs only while the peer is not connected and this process is up.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias, cast

from snakemq._core.outbox import Entry, Outbox, Taken, message_of
from snakemq._core.ttl import ExpiryHeap, OfflineClock, Timed
from snakemq._io.clock import monotonic
from snakemq.callbacks import CallbackOwner, CallbackSlot
from snakemq.exceptions import QueueFull, StorageError
from snakemq.limits import DropReason, QueueLimits, WhenFull
from snakemq.message import FLAG_PERSISTENT, Message, UniqueIds
from snakemq.storage import QueuesStorageBase

__all__ = ["Queue", "QueuesManager"]

# A timer that was set for the moment of an expiry may find the clock some
# rounding before it, and would be set again and again. In seconds.
_ROUNDING: Final = 1e-6

_stream_ids = UniqueIds()


class Queue:
    """What waits for one peer. Made by :meth:`QueuesManager.get_queue`.

    :meth:`push` may be called from any thread, everything else from the
    thread of the loop only.
    """

    def __init__(self, name: str, manager: QueuesManager) -> None:
        self.name = name
        self.manager = manager
        self.connected = False
        #: there may be something new to send (used by messaging)
        self.dirty = False
        #: identifies the numbers of its messages: 8 bytes, unlike any other's
        self.stream = _stream_ids.next()[8:]
        self._forgotten = False
        # All that follows is for those who hold the manager's lock.
        self._outbox = Outbox()
        self._messages = 0
        self._bytes = 0
        self._offline = OfflineClock(manager.clock())
        self._heap = ExpiryHeap()
        self._stored_timed = 0  # entries of _heap that are in the storage, too
        self._stored_reading = 0.0  # of _offline: what the storage knows of it
        self._has_untimed = False  # there may be bare messages with a finite TTL
        self._overflow: list[Message] = []  # dropped and not reported yet
        if manager.storage is not None:
            with manager.lock:
                for item in manager.storage.get_items(name):
                    self._count(1, len(item.data))
                    self._append(item, loaded=True)
                self._outbox.mark_stored()

    def __len__(self) -> int:
        return self._messages

    @property
    def bytes(self) -> int:
        """How many bytes of data are queued."""
        return self._bytes

    def __repr__(self) -> str:
        outbox = self._outbox
        return (
            f"<Queue {self.name!r} connected={self.connected} messages={self._messages} "
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
        if item.flags & FLAG_PERSISTENT and item.ttl != 0 and manager.storage is not None:
            manager.push_many([(self.name, item)])
            return True
        size = len(item.data)
        limits = manager.limits
        with manager.lock:
            if (
                self._messages < limits.max_messages
                and self._bytes + size <= limits.max_bytes
                and manager.messages < limits.total_messages
                and manager.bytes + size <= limits.total_bytes
                and not self._forgotten
            ):
                if item.ttl is None:
                    self._outbox.waiting.append(item)
                elif not self.connected and item.ttl == 0:
                    return False
                else:
                    self._append(item)
                self._messages += 1
                self._bytes += size
                manager.messages += 1
                manager.bytes += size
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
        with self.manager.lock:
            if not self.connected or self._forgotten:
                return False
            self.manager.check_room(self, 1, len(item.data))
            self._count(1, len(item.data))
            self._has_untimed = True
            self._outbox.put_urgent(item)
            return True

    # For those who hold the manager's lock.

    @property
    def is_forgotten(self) -> bool:
        """Whether it left the manager, and there may be another one of its name."""
        return self._forgotten

    def reserve(self, messages: int, size: int) -> None:
        """Count messages that are going to be appended."""
        self._count(messages, size)

    def append_reserved(self, item: Message) -> None:
        """Append a message that was counted by :meth:`reserve`."""
        self._append(item)

    def drop_oldest(self) -> bool:
        """Make room; see :meth:`report_overflow`.

        :return: whether there was something that waits
        """
        entry = self._outbox.drop_first()
        if entry is None:
            return False
        message = self._gone(entry)
        self._count(-1, -len(message.data))
        self._overflow.append(message)
        return True

    def _count(self, messages: int, size: int) -> None:
        self._messages += messages
        self._bytes += size
        self.manager.messages += messages
        self.manager.bytes += size

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
        with self.manager.lock:
            entry = self._outbox.first()
            return entry.fresh(self._reading()) if isinstance(entry, Timed) else entry

    def pop(self) -> None:
        """Remove the first waiting message, from the storage too."""
        self.expire()
        with self.manager.lock:
            entry = self._outbox.drop_first()
            messages = [] if entry is None else self._leave([entry])
        self._remove_stored(messages)

    def take(self, max_count: int, max_bytes: int) -> Taken:
        """Move messages from waiting to in flight.

        :param max_count: at most so many
        :param max_bytes: stop when there are so many bytes of data
        :return: the messages with what remains of their TTL
        """
        with self.manager.lock:
            return self._outbox.take(max_count, max_bytes, self._reading())

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

    def sent(self, count: int) -> list[Message]:
        """The first ``count`` in flight are with the system.

        They wait to be confirmed then, or leave if they are not going to be.

        :return: the messages that this process has not told of as sent before
        """
        with self.manager.lock:
            messages, leaving = self._outbox.sent(count)
            if leaving:
                self._leave(leaving)
        return messages

    def confirmed(self, count: int) -> list[Message]:
        """The first ``count`` unconfirmed have arrived: they leave, the storage too.

        :return: the messages
        """
        with self.manager.lock:
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
        self._count(-len(messages), -size)
        self.manager.tell_room()
        return messages

    def _remove_stored(self, messages: list[Message]) -> None:
        stored = [
            message for message in messages if message.flags & FLAG_PERSISTENT and message.ttl != 0
        ]
        if stored:
            self.manager.remove_stored(self.name, stored)

    def connect(self) -> None:
        """The peer is connected: TTL stands still from now on."""
        with self.manager.lock:
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
        with self.manager.lock:
            self.connected = False
            self._offline.start(self.manager.clock())
            dropped = self._outbox.disconnect()
            self._count(-len(dropped), -sum(len(message.data) for message in dropped))
            dropped += self._take_expired()
            self.manager.tell_room()
        self._remove_stored(dropped)
        self.manager.report_drops(self.name, dropped, DropReason.EXPIRED)

    def next_expiry(self) -> float | None:
        """When :meth:`expire` has something to do next, on the manager's clock."""
        with self.manager.lock:
            if self.connected:
                return None
            expires = self._heap.next_expiry()
            if expires is None:
                return None
            return self._offline.time_of(expires, self.manager.clock())

    def expire(self) -> None:
        """Drop what has expired, and report it."""
        with self.manager.lock:
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
            self._count(-len(dropped), -sum(len(message.data) for message in dropped))
            self.manager.tell_room()
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
            with self.manager.lock:
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
        with self.manager.lock:
            reading = self._reading()
            if not self._stored_timed:
                self._stored_reading = reading
            return reading - self._stored_reading

    def report_overflow(self) -> None:
        """Report what was dropped to make room, and remove it from the storage."""
        if self._overflow:
            with self.manager.lock:
                dropped, self._overflow = self._overflow, []
            self._remove_stored(dropped)
            self.manager.report_drops(self.name, dropped, DropReason.QUEUE_FULL)

    def forget(self) -> bool:
        """Leave the manager if there is nothing here.

        :return: whether it was empty and is gone now
        """
        with self.manager.lock:
            if self._forgotten:
                return True  # there may be another queue of this name by now
            if self.connected or self._messages or self._overflow:
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
        self.clock = clock
        self.limits = QueueLimits()
        #: whether the calling thread may wait for room: the loop's may not
        self.may_wait: Callable[[], bool] = lambda: True
        #: how many messages are queued, and of how many bytes of data
        self.messages = 0
        self.bytes = 0
        #: how many messages were dropped to make room
        self.overflowed = 0
        self.queues: dict[str, Queue] = {}
        # Taken in this order: a queue is made; the order on the disk is the
        # order in memory; what the queues hold.
        self._making = threading.Lock()
        self.storage_lock = threading.Lock()
        self.lock = threading.Lock()
        self._room = threading.Condition(self.lock)
        self._waiters = 0
        self._closed = False
        #: threads that are inside a transaction of the storage
        self.in_transaction: set[int] = set()
        if storage is not None:
            for name in list(storage.get_queues()):
                self.get_queue(name)
            self.log.debug("queues in storage: %i", len(self.queues))

    def get_queue(self, queue_name: str) -> Queue:
        """The queue of that name; it is made if need be. Any thread."""
        queue = self.queues.get(queue_name)
        if queue is None:
            with self._making:
                queue = self.queues.get(queue_name)
                if queue is None:
                    queue = self.queues[queue_name] = Queue(queue_name, self)
        return queue

    def push_many(self, entries: Iterable[tuple[str, Message]]) -> list[Queue]:
        """Append messages to their queues, all of them or none. Any thread.

        The persistent ones are in the storage when this returns.

        :param entries: pairs of queue name and message
        :return: the queues that have something new
        :raises QueueFull: there is no room for them
        :raises snakemq.exceptions.StorageError: they could not be stored
        """
        if threading.get_ident() in self.in_transaction:
            raise StorageError(
                "this thread is inside a transaction, for whose end a message that is sent the "
                "usual way would wait; send it with transaction.send_message(ident, message)"
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
                if stored and self.storage is not None:
                    self.advance_stored_clocks(reserved)
                    if len(stored) == 1:
                        self.storage.push(*stored[0])
                    else:
                        self.storage.push_many(stored)
                return self.append(reserved)
        except BaseException:
            self.release(reserved)
            raise

    def advance_stored_clocks(self, reserved: Reserved) -> None:
        """See :meth:`Queue.advance_stored_clock`; for messages that are going to be stored."""
        for queue in {queue for queue, message in reserved if message.ttl is not None}:
            queue.advance_stored_clock()

    def reserve(self, entries: Iterable[tuple[str, Message]]) -> Reserved:
        """Make room for messages, for all of them or for none. Any thread.

        Messages with TTL 0 are left out if the peer is not connected.

        :raises QueueFull: there is no room
        """
        entries = list(entries)
        deadline: float | None = None
        if self.limits.block_timeout is not None:
            deadline = self.clock() + self.limits.block_timeout
        while True:
            reserved = [
                (self.get_queue(name), message)
                for name, message in entries
                if message.ttl != 0 or self._is_connected(name)
            ]
            sums: dict[Queue, tuple[int, int]] = {}
            for queue, message in reserved:
                count, size = sums.get(queue, (0, 0))
                sums[queue] = (count + 1, size + len(message.data))
            with self.lock:
                if any(queue.is_forgotten for queue in sums):
                    continue
                if self._make_room(sums, deadline):
                    for queue, (count, size) in sums.items():
                        queue.reserve(count, size)
                    return reserved

    def append(self, reserved: Reserved) -> list[Queue]:
        """Queue what there was made room for."""
        with self.lock:
            for queue, message in reserved:
                queue.append_reserved(message)
        return list({queue: None for queue, _ in reserved})

    def release(self, reserved: Reserved) -> None:
        """Give up what there was made room for."""
        with self.lock:
            for queue, message in reserved:
                queue.reserve(-1, -len(message.data))
            self.tell_room()

    def _is_connected(self, name: str) -> bool:
        queue = self.queues.get(name)
        return queue is not None and queue.connected

    def check_room(self, queue: Queue, count: int, size: int) -> None:
        """For who holds the lock.

        :raises QueueFull: there is no room for so many messages and bytes
        """
        limits = self.limits
        for queued, more, limit, what, whose in (
            (len(queue), count, limits.max_messages, "messages", f"for {queue.name!r}"),
            (queue.bytes, size, limits.max_bytes, "bytes", f"for {queue.name!r}"),
            (self.messages, count, limits.total_messages, "messages", "for all peers together"),
            (self.bytes, size, limits.total_bytes, "bytes", "for all peers together"),
        ):
            if queued + more > limit:
                raise QueueFull(
                    f"{queued} {what} are queued {whose}, and {more} more would be over the limit "
                    f"of {limit}; wait until some are acknowledged, or set queue_limits"
                )

    def _make_room(self, sums: dict[Queue, tuple[int, int]], deadline: float | None) -> bool:
        """With the lock, which is released while it waits.

        :return: whether there is room; false: the lock was released, look again
        """
        try:
            self._check_all(sums)
        except QueueFull:
            if self.limits.when_full is WhenFull.BLOCK:
                if self._closed or not self.may_wait() or not self._wait_for_room(deadline):
                    raise
                return False
            if self.limits.when_full is WhenFull.REFUSE or not self._drop_oldest(sums):
                raise
        return True

    def _check_all(self, sums: dict[Queue, tuple[int, int]]) -> None:
        all_messages = all_bytes = 0
        for queue, (count, size) in sums.items():
            # What this batch needs for the queues before counts in the totals.
            self.check_room(queue, count, size)
            all_messages += count
            all_bytes += size
        if len(sums) > 1:
            limits = self.limits
            if (
                self.messages + all_messages > limits.total_messages
                or self.bytes + all_bytes > limits.total_bytes
            ):
                raise QueueFull(
                    f"a batch of {all_messages} messages and {all_bytes} bytes is too large for "
                    "what may be queued for all peers together; send less at once"
                )

    def _wait_for_room(self, deadline: float | None) -> bool:
        timeout = None if deadline is None else deadline - self.clock()
        if timeout is not None and timeout <= 0:
            return False
        self._waiters += 1
        try:
            self._room.wait(timeout)
        finally:
            self._waiters -= 1
        return True

    def _drop_oldest(self, sums: dict[Queue, tuple[int, int]]) -> bool:
        for queue, (count, size) in sums.items():
            # What is on its way is not dropped. If that leaves no room nothing is.
            if (
                queue.under_way + count > self.limits.max_messages
                or queue.bytes_under_way + size > self.limits.max_bytes
            ):
                return False
        for queue in sums:
            while True:
                try:
                    self._check_all({queue: sums[queue]})
                    break
                except QueueFull:
                    if not queue.drop_oldest():
                        return False
                    self.overflowed += 1
        self._check_all(sums)
        return True

    def tell_room(self) -> None:
        """Something left: let those look who wait for room. With the lock."""
        if self._waiters:
            self._room.notify_all()

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
        with self.lock:
            self._closed = True
            self._room.notify_all()
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
