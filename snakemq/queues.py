"""Queues: what waits for each peer, over a storage."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from snakemq._failures import StorageFailures
from snakemq._io.clock import monotonic
from snakemq._ledger import Ledger, is_ledger
from snakemq._queue import Queue
from snakemq._room import Countable, Room
from snakemq._writer import Writer
from snakemq.callbacks import CallbackOwner, CallbackSlot
from snakemq.exceptions import QueueFull, StorageError, StorageUnavailable
from snakemq.limits import DropReason, QueueLimits, WhenFull
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage import QueuesStorageBase, Removal, StoredItem
from snakemq.storage._mirror import MirroredStorage

__all__ = ["Ledger", "Queue", "QueuesManager", "Reserved", "is_ledger"]

#: Messages with the queues for which there is room.
Reserved: TypeAlias = list[tuple[Queue, Message]]


#: How often something is stored anew, each time when the server of the storage
#: seems to be back.
_ATTEMPTS: Final = 4

#: How many messages and bytes there has to be room for, in each queue.
_Needed: TypeAlias = dict[Countable, tuple[int, int]]


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
        #: the same with pages, if need be by means of a copy in memory
        self.paged: QueuesStorageBase | None = None
        self._mirror: MirroredStorage | None = None
        #: whether persistent messages are stored, or refused because it is closed
        self.stores = storage is not None
        self.clock = clock
        self.queues: dict[str, Queue] = {}
        # Taken in this order, each of them for as long as the next ones: the
        # turn to write, so that the order on the disk is the order in memory;
        # what is read of the disk; a queue is made; what the queues hold.
        self.load_lock = threading.RLock()
        self._making = threading.Lock()
        # Reentrant for the sake of Queue.push_data, which has to know after Ctrl-C
        # whether it is the one that holds it.
        lock = threading.RLock()
        #: how much is queued in memory and may be
        self.room = Room(clock, "queued", lock)
        #: how much is in the storage and may be
        self.stored_room = Room(clock, "stored", lock)
        self.limits = self.room.limits
        self.room.may_wait = self.stored_room.may_wait = self._may_wait
        #: whether the calling thread may wait for room; the loop's may not
        self.may_wait: Callable[[], bool] = lambda: True
        #: asks the loop to look at queues in which something has changed
        self.attend: Callable[[Iterable[Queue]], object] = lambda queues: None
        #: has the loop look at a queue that is filled faster than it comes to it, and waits
        #: for that, but not for long
        self.let_loop_look: Callable[[Queue], object] = lambda queue: None
        #: threads that are inside a transaction of the storage
        self.in_transaction: set[int] = set()
        #: asks the loop to look at a queue that could not be read, later
        self.try_later: Callable[[Queue], object] = lambda queue: None
        #: has :meth:`flush` called by the loop in a moment
        self.flush_later: Callable[[], object] = lambda: None
        #: told of what the storage raises where nobody else is
        self.failures = StorageFailures(self.log, lambda exc: None)
        #: tells the loop that the storage may have something to do when it is idle
        self.wrote: Callable[[], object] = lambda: None
        #: the highest position of what is in the storage
        self.last_position = 0
        # Threads that wait until the storage can be reached again.
        self._waiting_for_storage: set[int] = set()
        self._adoption_failed = False
        if storage is not None:
            self._open(storage)

    def _open(self, storage: QueuesStorageBase) -> None:
        if not storage.has_pages:
            storage = self._mirror = MirroredStorage(storage)
        # Nobody waits for it with something that others need.
        storage.may_wait = lambda: threading.get_ident() in self._waiting_for_storage
        self.paged = storage
        self.writer = Writer(
            storage,
            lambda exc: self.failures.report(
                exc, "what has left is still in the storage, and is removed later"
            ),
        )
        # What left the queues of an earlier process stays away from now on.
        with self.storage_errors_logged("all"):
            storage.sync()
        last = storage.last_position()
        for summary in storage.summarize():
            if is_ledger(summary.name):
                continue
            queue = self.queues[summary.name] = Queue(summary.name, self)
            with self.room.lock:
                queue.take_over(
                    summary,
                    last,
                    storage.next_expiry(summary.name),
                )
        self.last_position = last
        self.log.debug("queues in storage: %i", len(self.queues))

    def tell_of_writes(self, wrote: Callable[[], object]) -> None:
        """Call this whenever the storage may have something to do when it is idle. Any thread."""
        self.wrote = wrote
        if self.paged is not None:
            self.writer.wrote = wrote

    @property
    def limits(self) -> QueueLimits:
        """How much may be queued."""
        return self.room.limits

    @limits.setter
    def limits(self, limits: QueueLimits) -> None:
        self.room.set_limits(limits)
        self.stored_room.set_limits(limits.of_storage())

    @property
    def overflowed(self) -> int:
        """How many messages were dropped to make room."""
        return self.room.overflowed + self.stored_room.overflowed

    @property
    def refused(self) -> int:
        """How many messages, or batches, were refused because there was no room."""
        return self.room.refused + self.stored_room.refused

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

    def is_stored(self, message: Message) -> bool:
        """Whether a message goes to the storage, and does not only stay in memory."""
        return self.stores and bool(message.flags & FLAG_PERSISTENT) and message.ttl != 0

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
        stored = [(queue.name, message) for queue, message in reserved if self.is_stored(message)]
        if stored:
            timed = [message for _, message in stored if message.ttl is not None]
            self._push_reserved(reserved, stored, bool(timed))
        else:
            self.append(reserved)
        return reserved

    def push_stored(self, queue: Queue, message: Message) -> None:
        """Append a single message that goes to the storage; as :meth:`push_many`. Any thread."""
        in_transaction = threading.get_ident() in self.in_transaction
        if in_transaction or not self._reserve_one(queue, message):
            # It says what is wrong, or waits for room.
            self.push_many([(queue.name, message)])
        else:
            self._push_reserved(
                [(queue, message)], [(queue.name, message)], message.ttl is not None
            )

    def _reserve_one(self, queue: Queue, message: Message) -> bool:
        """Make room for a message that goes to the storage, if there is some already."""
        room = self.stored_room
        limits = room.limits
        part = queue.stored
        size = len(message.data)
        with room.lock:
            if (
                queue.is_forgotten
                or part.messages >= limits.max_messages
                or part.bytes + size > limits.max_bytes
                or room.messages >= limits.total_messages
                or room.bytes + size > limits.total_bytes
            ):
                return False
            part.messages += 1
            part.bytes += size
            room.messages += 1
            room.bytes += size
            return True

    def _push_reserved(
        self, reserved: Reserved, stored: Sequence[tuple[str, Message]], has_ttl: bool
    ) -> None:
        """Store messages for which there is room, and append them to their queues.

        :param stored: those that go to the storage, at least one
        :param has_ttl: whether any of these has one
        """
        is_done = False
        advance = functools.partial(self.advance_stored_clocks, reserved) if has_ttl else None

        def done(positions: Sequence[int]) -> None:
            nonlocal is_done
            is_done = True
            self.append(reserved, positions)

        try:
            self._store(stored, advance, done)
        except BaseException:
            if is_done:  # KeyboardInterrupt
                self.attend(dict.fromkeys(queue for queue, _ in reserved))
            else:
                self.release(reserved)
            raise

    def _store(
        self,
        entries: Sequence[tuple[str, Message]],
        prepare: Callable[[], object] | None,
        done: Callable[[Sequence[int]], object],
    ) -> None:
        for attempts_left in range(_ATTEMPTS - 1, -1, -1):
            storage = self.paged
            if storage is None:
                raise StorageError("the queues are closed: nothing can be stored any more")
            try:
                self.writer.push(entries, prepare, done)
                return
            except StorageUnavailable:
                if not attempts_left or not self._may_wait():
                    raise
            # Here, where nobody waits for this thread.
            thread = threading.get_ident()
            self._waiting_for_storage.add(thread)
            try:
                storage.oldest(entries[0][0])  # cannot be told without the server
            finally:
                self._waiting_for_storage.discard(thread)

    def advance_stored_clocks(self, reserved: Reserved) -> None:
        """See :meth:`Queue.advance_stored_clock`; for messages that are going to be stored."""
        for queue in dict.fromkeys(
            queue
            for queue, message in reserved
            if message.ttl is not None and self.is_stored(message)
        ):
            queue.advance_stored_clock()

    def open_ledger(self, name: str) -> Ledger:
        """Keep small records in the storage, beside the queues.

        :raises snakemq.exceptions.StorageError: there is no storage
        """
        return Ledger(self, name)

    def store_ttls(self, queue_name: str) -> None:
        """A storage without a clock has to store each TTL anew, now and then."""
        if self._mirror is not None:
            self._mirror.store_ttls(queue_name)

    def reserve(self, entries: Iterable[tuple[str, Message]]) -> Reserved:
        """Make room for messages, for all of them or for none. Any thread.

        Messages with TTL 0 are left out if the peer is not connected.

        :raises QueueFull: there is no room
        :raises Exception: of the storage, if something there has to be dropped
        """
        entries = list(entries)
        deadline = self.room.deadline()
        while True:
            reserved = [
                (self.get_queue(name), message)
                for name, message in entries
                if message.ttl != 0 or self._is_connected(name)
            ]
            in_memory: _Needed = {}
            in_storage: _Needed = {}
            for queue, message in reserved:
                stored = self.is_stored(message)
                needed = in_storage if stored else in_memory
                part: Countable = queue.stored if stored else queue
                count, size = needed.get(part, (0, 0))
                needed[part] = (count + 1, size + len(message.data))
            try:
                if self._try_to_reserve(reserved, in_memory, in_storage, deadline):
                    return reserved
            except QueueFull:
                # What could be dropped may be on the disk only.
                if not self._load_what_may_be_dropped(reserved, in_storage):
                    raise

    def _try_to_reserve(
        self, reserved: Reserved, in_memory: _Needed, in_storage: _Needed, deadline: float | None
    ) -> bool:
        """Make room.

        :return: false: something has changed, look again
        :raises QueueFull: there is no room
        """
        rooms = [
            (room, needed)
            for room, needed in ((self.stored_room, in_storage), (self.room, in_memory))
            if needed
        ]
        with self.room.lock:
            if any(queue.is_forgotten for queue in dict(reserved)):  # each once
                return False
            # Nothing is dropped for what is refused: what may have to be loaded
            # for it comes first, and then there is nothing that can fail.
            if len(rooms) > 1:
                self.room.check_possible(in_memory)
            if not all(room.make(needed, deadline) for room, needed in rooms):
                return False
            for room, needed in rooms:
                for part, (count, size) in needed.items():
                    room.count(part, count, size)
            return True

    def _load_what_may_be_dropped(self, reserved: Reserved, in_storage: _Needed) -> bool:
        """Whether more is in memory now that could be dropped.

        :raises QueueFull: that would not be enough
        """
        if self.room.limits.when_full is not WhenFull.DROP_OLDEST:
            return False
        with self.room.lock:
            self.stored_room.check_possible(in_storage)
        # Who reads may be waiting for the transaction that this thread is in.
        if not self.load_lock.acquire(blocking=threading.get_ident() not in self.in_transaction):
            return False
        try:
            loaded = False
            for queue in {queue for queue, message in reserved if self.is_stored(message)}:
                before = queue.stored.unloaded
                if before:
                    queue.load()
                    loaded |= queue.stored.unloaded != before
            return loaded
        finally:
            self.load_lock.release()

    def append(self, reserved: Reserved, positions: Sequence[int] = ()) -> None:
        """Queue what there was made room for.

        :param positions: of those that are in the storage; in the turn to write
        """
        following = iter(positions)
        all_stored = len(positions) == len(reserved)
        with self.room.lock:
            for queue, message in reserved:
                if all_stored or self.is_stored(message):
                    self.last_position = position = next(following)
                    queue.append_stored(message, position)
                else:
                    queue.append(message)

    def release(self, reserved: Reserved) -> None:
        """Give up what there was made room for."""
        with self.room.lock:
            for queue, message in reserved:
                if self.is_stored(message):
                    self.stored_room.count(queue.stored, -1, -len(message.data))
                else:
                    self.room.count(queue, -1, -len(message.data))
            self.room.tell()
            self.stored_room.tell()
        # Something may have been dropped for it.
        self.attend(dict.fromkeys(queue for queue, _ in reserved))

    def adopt(self) -> None:
        """Queue what the application has stored by way of its own connection. Any thread.

        A failure is logged; then it is done later.
        """
        storage = self.paged
        if storage is None:
            return
        with self.writer.exclusive():
            self._adoption_failed = True
            with self.storage_errors_logged("all"):
                items = storage.adopt()
                self._adoption_failed = False
                found = [self._append_adopted(name, item) for name, item in items]
        if not self._adoption_failed:
            self.attend(dict.fromkeys(found))
        self.wrote()

    def _append_adopted(self, name: str, item: StoredItem) -> Queue:
        while True:
            queue = self.get_queue(name)
            with self.room.lock:
                if queue.is_forgotten:
                    continue
                self.stored_room.count(queue.stored, 1, len(item.message.data))
                self.last_position = item.position
                queue.append_stored(item.message, item.position)
                return queue

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

    def remove_stored(self, removals: Sequence[Removal]) -> None:
        """Take messages out of the storage, soon; a failure is logged.

        What can't be removed will be sent again by the next process that opens
        the storage, which beats losing what is accepted now.
        """
        if self.paged is not None:
            self.writer.remove(removals)
            self.wrote()
            if self.writer.has_removals:
                self.flush_later()

    def flush(self) -> None:
        """Remove what waits for the next change. Loop thread."""
        if self.paged is not None:
            self.writer.flush()
            if self.writer.has_removals:
                self.flush_later()

    def upkeep(self) -> bool:
        """Do some of what can wait until nothing else is to be done. Loop thread.

        :return: whether there is more of it
        """
        storage = self.paged
        if storage is None:
            return False
        with self.storage_errors_logged("all"):
            if self._adoption_failed:
                self.adopt()
            self.writer.settle()
            return storage.maintain()
        return False

    @property
    def is_behind(self) -> bool:
        """Whether there is something that has to be done soon."""
        return self.paged is not None and (self.has_failed or not self.writer.is_settled)

    @property
    def has_failed(self) -> bool:
        """Whether the storage has failed to do something that has to be done."""
        return self._adoption_failed or self.writer.removal_failed

    @contextlib.contextmanager
    def storage_errors_logged(self, queue_name: str) -> Iterator[None]:
        """What the storage raises is logged: the stack goes on."""
        try:
            yield
        except Exception as exc:
            self.failures.report(exc, "queue %r: the storage failed", queue_name)

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
        self.stored_room.close()
        storage = self.paged
        if storage is not None:
            for queue in list(self.queues.values()):
                if not queue.connected:
                    queue.store_clock()
            with self.storage_errors_logged("all"):
                self.writer.settle()
        self.queues.clear()
        if storage is not None:
            with self.writer.exclusive():
                self.storage = self.paged = None
            storage.close()

    def __len__(self) -> int:
        return len(self.queues)
