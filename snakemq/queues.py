"""Queues: what waits for each peer.

A queue is filled from any thread and emptied by the thread of the loop. A
message is first *waiting*, then *in flight* (handed to the link, not yet taken
over by the system); if the connection dies, what is in flight goes back to the
front of what waits.

TTL runs only while the peer is not connected and this process is up.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias, cast

from snakemq._core.ttl import ExpiryHeap, OfflineClock, Timed
from snakemq._io.clock import monotonic
from snakemq.callbacks import CallbackOwner, CallbackSlot
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage import QueuesStorageBase

__all__ = ["Queue", "QueuesManager"]

# A message with a finite TTL is wrapped; the others, which are the most, are not.
_Entry: TypeAlias = "Message | Timed"

# A timer that was set for the moment of an expiry may find the clock some
# rounding before it, and would be set again and again. In seconds.
_ROUNDING: Final = 1e-6


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
        self._forgotten = False
        now = manager.clock()
        self._offline = OfflineClock(now)
        self._heap = ExpiryHeap()
        # Other threads only append to these two; the loop does all the rest.
        self._waiting: deque[_Entry] = deque()
        self._new_timed: deque[Timed] = deque()
        self._in_flight: deque[_Entry] = deque()
        self._expired_waiting = 0  # entries of _waiting without a message
        self._has_untimed = False  # _waiting may have bare messages with a finite TTL
        if manager.storage is not None:
            for item in manager.storage.get_items(name):
                self._append(item, loaded=True)

    def __len__(self) -> int:
        return len(self._waiting) - self._expired_waiting + len(self._in_flight)

    def __repr__(self) -> str:
        return (
            f"<Queue {self.name!r} connected={self.connected} "
            f"waiting={len(self._waiting) - self._expired_waiting} "
            f"in_flight={len(self._in_flight)}>"
        )

    def push(self, item: Message) -> None:
        """Append a message; a persistent one is in the storage when this returns.

        With TTL 0 it is accepted only while the peer is connected, else it is
        gone without a notice (as in 1.6). Any thread.

        :raises snakemq.exceptions.StorageError: it could not be stored and is
            not queued
        """
        ttl = item.ttl
        if ttl is None and not item.flags & FLAG_PERSISTENT:
            self._waiting.append(item)
            if self._forgotten:
                self._reclaim(item, item)
            return
        if item.flags & FLAG_PERSISTENT and ttl != 0:
            storage = self.manager.storage
            if storage is not None:
                # One after the other, so that the order is the same on disk.
                with self.manager.storage_lock:
                    if not self._forgotten:
                        storage.push(self.name, item)
                        self._append(item)
                        return
                self.manager.get_queue(self.name).push(item)
                return
        elif ttl == 0 and not self.connected:
            return
        self._append(item)

    def _append(self, item: Message, *, loaded: bool = False) -> None:
        entry: _Entry = item
        ttl = item.ttl
        if ttl is None:
            self._waiting.append(item)
        elif self.connected or (ttl == 0 and not loaded):
            # Its time does not run now. If it still waits when the peer is
            # gone, it is seen to then. Told last: a look at the queue between
            # the two must not be the last one.
            self._waiting.append(item)
            self._has_untimed = True
        else:
            entry = Timed(item, self._offline.reading(self.manager.clock()) + ttl)
            self._new_timed.append(entry)
            self._waiting.append(entry)
        if self._forgotten:
            self._reclaim(entry, item)

    def _reclaim(self, entry: _Entry, item: Message) -> None:
        # The loop forgot this queue while we were at it. Either it still saw
        # the entry and moved it, or it is for us to do.
        try:
            self._waiting.remove(entry)
        except ValueError:
            return
        self.manager.get_queue(self.name)._append(item)

    def get(self) -> Message | None:
        """The first waiting message, with what remains of its TTL; it stays."""
        self.expire()
        while self._waiting:
            entry = self._waiting[0]
            if not isinstance(entry, Timed):
                return entry
            message = entry.fresh(self._offline.reading(self.manager.clock()))
            if message is not None:
                return message
            self._waiting.popleft()
            self._expired_waiting -= 1
        return None

    def pop(self) -> None:
        """Remove the first waiting message, from the storage too."""
        if self.get() is not None:
            self._leave([self._waiting.popleft()])

    def take(self, max_count: int, max_bytes: int) -> list[Message]:
        """Move messages from waiting to in flight.

        :param max_count: at most so many
        :param max_bytes: stop when there are so many bytes of data
        :return: the messages with what remains of their TTL
        """
        taken: list[Message] = []
        add = taken.append
        keep = self._in_flight.append
        waiting = self._waiting
        next_entry = waiting.popleft
        reading = self._offline.reading(self.manager.clock())
        for _ in range(min(max_count, len(waiting))):
            entry = next_entry()
            if isinstance(entry, Timed):
                message = entry.fresh(reading)
                if message is None:
                    self._expired_waiting -= 1
                    continue
            else:
                message = entry
            keep(entry)
            add(message)
            max_bytes -= len(message.data)
            if max_bytes <= 0:
                break
        return taken

    @property
    def waiting(self) -> bool:
        """Whether there may be something to :meth:`take`."""
        return bool(self._waiting)

    @property
    def in_flight(self) -> int:
        """How many messages are in flight."""
        return len(self._in_flight)

    def sent(self, count: int) -> list[Message]:
        """The first ``count`` in flight are with the system: forget them.

        :return: the messages
        """
        next_entry = self._in_flight.popleft
        return self._leave([next_entry() for _ in range(count)])

    def _leave(self, entries: list[_Entry]) -> list[Message]:
        messages: list[Message] = []
        stored: list[Message] = []
        add = messages.append
        for entry in entries:
            if isinstance(entry, Timed):
                message = cast(Message, entry.message)
                self._take_in_new_timed()
                self._heap.discard(entry)
                if message.flags & FLAG_PERSISTENT:
                    stored.append(message)
            else:
                message = entry
                if message.flags & FLAG_PERSISTENT and message.ttl != 0:
                    stored.append(message)
            add(message)
        if stored:
            self.manager.remove_stored(self.name, stored)
        return messages

    def connect(self) -> None:
        """The peer is connected: TTL stands still from now on."""
        dropped = self._take_expired()
        self._offline.stop(self.manager.clock())
        self.connected = True
        self.store_ttls()
        # Last: a callback may send something, and finds the peer connected.
        self._report_drops(dropped)

    def disconnect(self) -> None:
        """The peer is gone: what is in flight waits again, TTL runs from now on.

        Messages with TTL 0 are dropped.
        """
        self.connected = False
        self._offline.start(self.manager.clock())
        if self._in_flight:
            self._waiting.extendleft(reversed(self._in_flight))
            self._in_flight.clear()
        self.expire()

    def next_expiry(self) -> float | None:
        """When :meth:`expire` has something to do next, on the manager's clock."""
        if self.connected:
            return None
        self._report_drops(self._see_to_untimed())
        self._take_in_new_timed()
        expires = self._heap.next_expiry()
        if expires is None:
            return None
        return self._offline.time_of(expires, self.manager.clock())

    def _take_in_new_timed(self) -> None:
        new = self._new_timed
        while new:
            self._heap.push(new.popleft())

    def _see_to_untimed(self) -> list[Message]:
        """Set the time for messages that were pushed while the peer was connected.

        Those with TTL 0 are dropped. Also for what a thread pushes that still
        saw the peer connected.

        :return: those that were dropped
        """
        if not self._has_untimed:
            return []
        self._has_untimed = False
        reading = self._offline.reading(self.manager.clock())
        kept: list[_Entry] = []
        dropped: list[Message] = []
        for entry in self._all_waiting():
            if isinstance(entry, Timed) or entry.ttl is None:
                kept.append(entry)
            elif entry.ttl == 0:
                dropped.append(entry)
            else:
                timed = Timed(entry, reading + entry.ttl)
                self._heap.push(timed)
                kept.append(timed)
        self._put_back(kept)
        return dropped

    def expire(self) -> None:
        """Drop what has expired, and report it."""
        if not self.connected:
            self._report_drops(self._take_expired())

    def _take_expired(self) -> list[Message]:
        """Take out what has expired, from the storage too."""
        at_once = self._see_to_untimed()
        self._take_in_new_timed()
        if not self._heap:
            return at_once
        dropped: list[Message] = []
        reading = self._offline.reading(self.manager.clock()) + _ROUNDING
        for entry in self._heap.pop_expired(reading):
            dropped.append(cast(Message, entry.message))
            entry.message = None
        self._expired_waiting += len(dropped)
        if self._expired_waiting * 2 > len(self._waiting):
            self._put_back(
                [
                    entry
                    for entry in self._all_waiting()
                    if not isinstance(entry, Timed) or entry.message is not None
                ]
            )
            self._expired_waiting = 0
        self.manager.remove_stored(
            self.name, [message for message in dropped if message.flags & FLAG_PERSISTENT]
        )
        return at_once + dropped

    def _all_waiting(self) -> list[_Entry]:
        """Take out all that waits now. Other threads go on appending."""
        waiting = self._waiting
        return [waiting.popleft() for _ in range(len(waiting))]

    def _put_back(self, entries: list[_Entry]) -> None:
        """Before what other threads appended meanwhile."""
        self._waiting.extendleft(reversed(entries))

    def _report_drops(self, dropped: list[Message]) -> None:
        for message in dropped:
            self.manager.on_item_drop(self.name, message.uuid)

    def store_ttls(self) -> None:
        """Write to the storage what remains of the TTLs there."""
        self._take_in_new_timed()
        if not self._heap:
            return
        reading = self._offline.reading(self.manager.clock())
        self.manager.store_ttls(
            self.name,
            [
                message
                for entry in self._heap
                if (message := entry.fresh(reading)) is not None
                and message.flags & FLAG_PERSISTENT
                and message is not entry.message
            ],
        )

    def forget(self) -> bool:
        """Leave the manager if there is nothing here.

        :return: whether it was empty and is gone now
        """
        # The lock is for persistent messages: once stored they must not be
        # found by a second queue of this name.
        with self.manager.storage_lock:
            if self._forgotten:
                return True  # there may be another queue of this name by now
            if self._waiting or self._in_flight or self.connected:
                return False
            self._forgotten = True
            del self.manager.queues[self.name]
        while self._waiting:
            # Pushed at this very moment by another thread.
            entry = self._waiting.popleft()
            message = entry.message if isinstance(entry, Timed) else entry
            if message is not None:
                self.manager.get_queue(self.name)._append(message)
        return True


class QueuesManager(CallbackOwner):
    """The queues of all peers, over a storage.

    :param storage: where persistent messages are kept, or ``None``
    :param clock: gives the current time in seconds, monotonic
    """

    #: ``func(queue_name, item_uuid)``; the message expired. Loop thread.
    on_item_drop = CallbackSlot[[str, bytes]]()

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
        self.storage_lock = threading.Lock()
        self.queues: dict[str, Queue] = {}
        self._lock = threading.Lock()
        if storage is not None:
            for name in list(storage.get_queues()):
                self.get_queue(name)
            self.log.debug("queues in storage: %i", len(self.queues))

    def get_queue(self, queue_name: str) -> Queue:
        """The queue of that name; it is made if need be. Any thread."""
        queue = self.queues.get(queue_name)
        if queue is None:
            with self._lock:
                queue = self.queues.get(queue_name)
                if queue is None:
                    queue = self.queues[queue_name] = Queue(queue_name, self)
        return queue

    def remove_stored(self, queue_name: str, items: list[Message]) -> None:
        """Take messages out of the storage, if there is one; a failure is logged.

        What can't be removed will be sent again by the next process that opens
        the storage, which beats losing what is accepted now.
        """
        if self.storage is not None and items:
            with self._storage_errors_logged(queue_name), self.storage_lock:
                self.storage.remove_items(queue_name, items)

    def store_ttls(self, queue_name: str, items: list[Message]) -> None:
        """Write TTLs to the storage, if there is one; a failure is logged.

        Messages whose TTL is not written live longer after a restart.
        """
        if self.storage is not None and items:
            with self._storage_errors_logged(queue_name), self.storage_lock:
                self.storage.update_items_ttl(items)

    @contextlib.contextmanager
    def _storage_errors_logged(self, queue_name: str) -> Iterator[None]:
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
        if self.storage is not None:
            for queue in list(self.queues.values()):
                if not queue.connected:
                    queue.store_ttls()
        self.queues.clear()
        if self.storage is not None:
            self.storage.close()
            self.storage = None

    def __len__(self) -> int:
        return len(self.queues)
