"""How messages come into a queue. This half of it any thread may call."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from snakemq._core.features import DeliveryFeature
from snakemq._core.outbox import Outbox
from snakemq._core.packed import pack
from snakemq._room import PORTION_MESSAGES
from snakemq._stored import StoredPart
from snakemq.message import FLAG_PERSISTENT, Message

if TYPE_CHECKING:
    from snakemq._queue import Queue
    from snakemq.queues import QueuesManager

__all__ = ["Pushing"]


class Pushing:
    """Half of a :class:`~snakemq.queues.Queue`, and of nothing else.

    :param name: of the peer
    """

    __slots__ = (
        "_has_untimed",
        "_outbox",
        "bytes",
        "connected",
        "is_forgotten",
        "left_bytes",
        "left_messages",
        "manager",
        "messages",
        "name",
        "stored",
    )

    def __init__(self: Queue, name: str, manager: QueuesManager) -> None:  # type: ignore[misc]
        self.name = name
        self.manager = manager
        self.connected = False
        # All that follows is for those who hold the manager's lock.
        #: it left the manager, and there may be another one of its name
        self.is_forgotten = False
        self._outbox = Outbox()
        self._has_untimed = False  # there may be bare messages with a finite TTL
        #: how many messages are not in the storage, and of how many bytes of
        #: data; see Room
        self.messages = 0
        self.bytes = 0
        #: how much of this is only granted in advance; see Room.grant
        self.left_messages = 0
        self.left_bytes = 0
        #: the others
        self.stored = StoredPart(self, manager.last_position)

    def push(self: Queue, item: Message) -> bool:  # type: ignore[misc]
        """Append a message; a persistent one is in the storage when this returns.

        Any thread.

        :return: whether it is queued. With TTL 0 it is accepted only while the
            peer is connected, else it is gone without a notice (as in 1.6)
        :raises QueueFull: there is no room for it
        :raises snakemq.exceptions.StorageError: it could not be stored and is
            not queued
        """
        manager = self.manager
        if item.flags & FLAG_PERSISTENT and manager.stores and item.ttl != 0:
            manager.push_stored(self, item)
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
                and not self.is_forgotten
            ):
                ttl = item.ttl
                if (ttl is None or self.connected) and not self.stored.unloaded:
                    # What append() does, without a call: these are nearly all.
                    if ttl is not None:
                        self._has_untimed = True
                    self._outbox.waiting.append(item)
                elif not self.connected and ttl == 0:
                    return False
                else:
                    self.append(item)
                self.messages += 1
                self.bytes += size
                room.messages += 1
                room.bytes += size
                return True
        if item.ttl == 0 and not self.connected:
            return False
        manager.push_many([(self.name, item)])
        return True

    def push_data(self: Queue, data: bytes) -> bytes | None:  # type: ignore[misc]
        """Append a new message without TTL and flags in the quickest way. Any thread.

        :param data: of :data:`~snakemq._core.packed.MAX_PACKED` bytes at most
        :return: its identifier; ``None``: nothing is queued, it takes :meth:`push`
        """
        size = len(data)
        packet = pack(data)
        lock = self.manager.room.lock
        is_counted = False
        # Not by "with", which takes twice as long: 0.2 us, of the 0.6 that this takes.
        try:
            lock.acquire()
            left, left_bytes = self.left_messages - 1, self.left_bytes - size
            if left >= 0 and left_bytes >= 0:
                self._outbox.waiting.append(packet)
                self.left_messages, self.left_bytes = left, left_bytes
                is_counted = True
            lock.release()
        except BaseException:
            # Ctrl-C, which may also have come before the lock was taken, or behind its release.
            waiting = self._outbox.waiting
            if not is_counted and waiting and waiting[-1] is packet:
                self.left_messages, self.left_bytes = left, left_bytes
            with contextlib.suppress(RuntimeError):
                lock.release()
            raise
        return packet[5:21] if is_counted or self._push_first(packet, size) else None

    def _push_first(self: Queue, packet: bytes, size: int) -> bool:  # type: ignore[misc]
        """Likewise, the first one for which there is no room granted any more.

        :return: whether it is queued
        """
        manager = self.manager
        room = manager.room
        with room.lock:
            if self.is_forgotten or self.stored.unloaded or not room.grant(self, size):
                return False
            waiting = len(self._outbox.waiting)
            self._outbox.waiting.append(packet)
            self.left_messages, self.left_bytes = self.left_messages - 1, self.left_bytes - size
        if waiting >= PORTION_MESSAGES and self.connected:
            manager.let_loop_look(self)
        return True

    def push_urgent(self: Queue, item: Message) -> bool:  # type: ignore[misc]
        """Put a message before all that were not sent yet; with TTL 0 only. Any thread.

        :return: whether it is queued: the peer is connected
        :raises QueueFull: there is no room for it
        """
        size = len(item.data)
        room = self.manager.room
        limits = room.limits
        with room.lock:
            if not self.connected or self.is_forgotten:
                return False
            if not (
                self.messages < limits.max_messages
                and self.bytes + size <= limits.max_bytes
                and room.messages < limits.total_messages
                and room.bytes + size <= limits.total_bytes
                # Not to wait: who replies may be in the loop, and holds up others.
            ) and not room.make({self: (1, size)}, room.now()):
                room.check(self, 1, size)
            self.messages += 1
            self.bytes += size
            room.messages += 1
            room.bytes += size
            self._has_untimed = True
            self._outbox.urgent.append(item)
            return True

    def fly(self: Queue, item: Message, number: int, window: DeliveryFeature) -> bool:  # type: ignore[misc]
        """Put a message with TTL 0 in flight, if it can be sent at once.

        For a thread that has borrowed the stack; see :meth:`Outbox.fly`.

        :return: false: nothing was done
        """
        size = len(item.data)
        room = self.manager.room
        with room.lock:
            limits = room.limits
            self._has_untimed = True
            if (
                self.messages >= limits.max_messages
                or self.bytes + size > limits.max_bytes
                or room.messages >= limits.total_messages
                or room.bytes + size > limits.total_bytes
                or self.is_forgotten
                or self.stored.unloaded
                or not self._outbox.fly(item, number, window.window_messages, window.window_bytes)
            ):
                return False
            self.messages += 1
            self.bytes += size
            room.messages += 1
            room.bytes += size
        return True
