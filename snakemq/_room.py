"""Room for messages: how much is queued, and whether more may be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Final, NoReturn, Protocol, TypeVar

from snakemq.exceptions import QueueFull
from snakemq.limits import QueueLimits, WhenFull

__all__ = ["PORTION_BYTES", "PORTION_MESSAGES", "Countable", "Granted", "Room"]


#: How much room a queue is granted at once, in messages and bytes, so that it need not look
#: at all limits for each message; and what is a block, after which a thread that fills a
#: queue waits for the loop.
PORTION_MESSAGES: Final = 2048
PORTION_BYTES: Final = 1024 * 1024


class Countable(Protocol):
    """What a queue is for this purpose. For those who hold the lock of the room."""

    name: str
    #: how many messages are queued, and of how many bytes of data
    messages: int
    bytes: int

    def count_fixed(self) -> tuple[int, int]:
        """How many messages can't be dropped, and their data in bytes."""

    def drop_oldest(self) -> bool:
        """Drop a message that waits; whether there was one."""


class Granted(Countable, Protocol):
    """A queue that may have been granted some room in advance. Likewise."""

    #: what is left of that; all of it is counted already
    left_messages: int
    left_bytes: int


_Queue = TypeVar("_Queue", bound=Countable)


class Room:
    """Counts what is queued, for each peer and in total. Thread-safe.

    There is one for the memory and one for the storage.

    :param clock: gives the current time in seconds
    :param where: how the messages are there, for people: "queued"
    :param lock: what the queues hold changes only for who holds it
    """

    def __init__(self, clock: Callable[[], float], where: str, lock: threading.RLock) -> None:
        self.limits = QueueLimits()
        self._where = where
        #: whether the calling thread may wait for room: the loop's may not
        self.may_wait: Callable[[], bool] = lambda: True
        #: how many messages are queued, and of how many bytes of data
        self.messages = 0
        self.bytes = 0
        #: how many messages were dropped to make room
        self.overflowed = 0
        #: how often there was none
        self.refused = 0
        self.lock = lock
        self._clock = clock
        self._changed = threading.Condition(self.lock)
        self._waiters = 0
        #: nothing will ever leave any more
        self.closed = False
        # The queues that may have something left of what they were granted.
        self._granted: dict[Granted, None] = {}

    def deadline(self) -> float | None:
        """Until when a caller waits that has to."""
        timeout = self.limits.block_timeout
        return None if timeout is None else self._clock() + timeout

    def now(self) -> float:
        """The deadline of who does not wait."""
        return self._clock()

    def close(self) -> None:
        """Nobody waits any more."""
        with self.lock:
            self.closed = True
            self.take_all_back()
            self._changed.notify_all()

    def set_limits(self, limits: QueueLimits) -> None:
        """From now on these hold."""
        with self.lock:
            self.take_all_back()
            self.limits = limits
            self._changed.notify_all()  # there may be room now for who waits

    # For those who hold the lock.

    def count(self, queue: Countable, messages: int, size: int) -> None:
        """So many messages and bytes more are queued, or less."""
        queue.messages += messages
        queue.bytes += size
        self.messages += messages
        self.bytes += size

    def grant(self, queue: Granted, size: int) -> bool:
        """Grant room in advance, as much as there is but not too much.

        :param size: of the message that needs it, in bytes
        :return: whether there is room for that one
        """
        self.take_back(queue)
        if not self._grant(queue, size):
            self.take_all_back()
            return self._grant(queue, size)
        return True

    def _grant(self, queue: Granted, size: int) -> bool:
        limits = self.limits
        count = min(
            PORTION_MESSAGES,
            limits.max_messages - queue.messages,
            limits.total_messages - self.messages,
        )
        room = min(PORTION_BYTES, limits.max_bytes - queue.bytes, limits.total_bytes - self.bytes)
        if count < 1 or room < size or self.closed:
            return False
        self._granted[queue] = None
        self._set_left(queue, count, room)
        return True

    def take_back(self, queue: Granted) -> None:
        """What a queue was granted and has not used is free again."""
        self._set_left(queue, 0, 0)
        self._granted.pop(queue, None)

    def _set_left(self, queue: Granted, messages: int, size: int) -> None:
        more, more_bytes = messages - queue.left_messages, size - queue.left_bytes
        # One statement without a call, for Ctrl-C may come behind each: what a queue was
        # granted counts, and what is counted it was granted.
        (
            queue.messages,
            queue.bytes,
            self.messages,
            self.bytes,
            queue.left_messages,
            queue.left_bytes,
        ) = (
            queue.messages + more,
            queue.bytes + more_bytes,
            self.messages + more,
            self.bytes + more_bytes,
            messages,
            size,
        )

    def take_all_back(self) -> None:
        """Likewise, of all queues: what is counted is what is there."""
        for queue in list(self._granted):
            self.take_back(queue)

    def tell(self) -> None:
        """Something left: let those look who wait for room."""
        if self._waiters:
            self._changed.notify_all()

    def check(self, queue: Countable, count: int, size: int) -> None:
        """Whether there is room for so many messages and bytes.

        :raises QueueFull: there is none
        """
        limits = self.limits
        peer = f"for {queue.name!r}"
        everybody = "for all peers together"
        for queued, more, limit, what, whose in (
            (queue.messages, count, limits.max_messages, "messages", peer),
            (queue.bytes, size, limits.max_bytes, "bytes", peer),
            (self.messages, count, limits.total_messages, "messages", everybody),
            (self.bytes, size, limits.total_bytes, "bytes", everybody),
        ):
            if queued + more > limit:
                raise QueueFull(
                    f"{queued} {what} are {self._where} {whose}, and {more} more would be over "
                    f"the limit of {limit}; wait until some are acknowledged, or set queue_limits"
                )

    def make(self, needed: Mapping[_Queue, tuple[int, int]], deadline: float | None) -> bool:
        """Make room, as the limits say. The lock is released while this waits.

        :param needed: messages and bytes, for each queue
        :return: whether there is room; false: the lock was released, look again
        :raises QueueFull: there is none
        """
        self.take_all_back()
        try:
            self._check_all(needed)
        except QueueFull as exc:
            self.check_possible(needed)
            if self.limits.when_full is WhenFull.BLOCK:
                if not self.may_wait() or not self._wait(deadline) or self.closed:
                    self._refuse(exc)
                return False
            self._drop_oldest(needed)
        return True

    def check_possible(self, needed: Mapping[_Queue, tuple[int, int]]) -> None:
        """Whether there is room, or can be made. Nothing is dropped.

        :raises QueueFull: neither
        """
        self.take_all_back()
        try:
            self._check_all(needed)
        except QueueFull as exc:
            policy = self.limits.when_full
            if policy is WhenFull.REFUSE or not self._fits(needed, dropping=policy):
                self._refuse(exc)

    def _fits(self, needed: Mapping[_Queue, tuple[int, int]], *, dropping: WhenFull) -> bool:
        """Whether there can be room: at some time, or when what waits there is dropped now."""
        limits = self.limits
        all_messages = all_bytes = 0
        drop = dropping is WhenFull.DROP_OLDEST
        for queue, (count, size) in needed.items():
            fixed, fixed_bytes = queue.count_fixed() if drop else (0, 0)
            messages = count + fixed
            data = size + fixed_bytes
            if messages > limits.max_messages or data > limits.max_bytes:
                return False
            all_messages += messages - (queue.messages if drop else 0)
            all_bytes += data - (queue.bytes if drop else 0)
        if drop:
            all_messages += self.messages
            all_bytes += self.bytes
        return all_messages <= limits.total_messages and all_bytes <= limits.total_bytes

    def _check_all(self, needed: Mapping[_Queue, tuple[int, int]]) -> None:
        for queue, (count, size) in needed.items():
            self.check(queue, count, size)
        if not self._has_total_room(needed):
            raise QueueFull(
                f"the batch would be over the limit of what may be {self._where} for all peers "
                "together; send less at once, or set queue_limits"
            )

    def _wait(self, deadline: float | None) -> bool:
        timeout = None if deadline is None else deadline - self._clock()
        if self.closed:
            return False
        if timeout is not None and timeout <= 0:
            return False
        self._waiters += 1
        try:
            self._changed.wait(timeout)
        finally:
            self._waiters -= 1
        return True

    def _drop_oldest(self, needed: Mapping[_Queue, tuple[int, int]]) -> None:
        for queue, (count, size) in needed.items():
            limits = self.limits
            while (
                queue.messages + count > limits.max_messages
                or queue.bytes + size > limits.max_bytes
                or not self._has_total_room(needed)
            ) and queue.drop_oldest():
                self.overflowed += 1
        try:
            self._check_all(needed)
        except QueueFull as exc:
            self._refuse(exc)

    def _refuse(self, exc: QueueFull) -> NoReturn:
        self.refused += 1
        raise exc

    def _has_total_room(self, needed: Mapping[_Queue, tuple[int, int]]) -> bool:
        messages = self.messages + sum(count for count, _ in needed.values())
        size = self.bytes + sum(size for _, size in needed.values())
        return messages <= self.limits.total_messages and size <= self.limits.total_bytes
