"""When calls that nobody waits for in a thread are over: one timer for all of them."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from snakemq.contracts import TimerHandle
    from snakemq.messaging import Messaging

__all__ = ["Deadline", "Deadlines"]

T = TypeVar("T")

#: Discarded ones are swept out when there are more than this and they are the
#: majority.
_SWEEP: Final = 64
_NEVER: Final = float("inf")


class Deadline(Generic[T]):
    """The place of one item; see :meth:`Deadlines.add`."""

    __slots__ = ("item", "when")

    def __init__(self, when: float, item: T) -> None:
        self.when = when
        #: ``None`` when it is over or was discarded
        self.item: T | None = item


class Deadlines(Generic[T]):
    """Has something done with each item when its time is over. Thread-safe.

    There is no timer when there is no item.

    :param messaging: gives time and timers
    :param expire: ``func(item)``, from the thread of the loop
    """

    def __init__(self, messaging: Messaging, expire: Callable[[T], object]) -> None:
        self._messaging = messaging
        self._expire = expire
        # Reentrant: a finalizer may make a call, and it may run anywhere.
        self._lock = threading.RLock()
        self._heap: list[tuple[float, int, Deadline[T]]] = []
        self._next_number = count().__next__
        self._live = 0
        #: for when the timer is set, or will be by an :meth:`_arm` on its way
        self._armed = _NEVER
        self._timer: TimerHandle | None = None

    def __len__(self) -> int:
        return self._live

    def add(self, when: float, item: T) -> Deadline[T]:
        """Watch an item.

        :param when: by the clock of messaging
        """
        deadline = Deadline(when, item)
        with self._lock:
            heapq.heappush(self._heap, (when, self._next_number(), deadline))
            self._live += 1
            if when >= self._armed:
                return deadline
            self._armed = when
        self._messaging.call_soon(self._arm)
        return deadline

    def discard(self, deadline: Deadline[T]) -> None:
        """Needed no more. Harmless if it is over or for a second time."""
        with self._lock:
            if deadline.item is None:
                return
            deadline.item = None
            self._live -= 1
            dead = len(self._heap) - self._live
            if self._live and (dead <= _SWEEP or dead <= self._live):
                return
            self._heap = [place for place in self._heap if place[2].item is not None]
            heapq.heapify(self._heap)
            if self._live:
                return
        # An idle client has no timer.
        if self._messaging.is_inside_loop():
            self._arm()
        else:
            self._messaging.call_soon(self._arm)

    # In the thread of the loop.

    def _arm(self) -> None:
        with self._lock:
            heap = self._heap
            while heap and heap[0][2].item is None:
                heapq.heappop(heap)
            when = heap[0][0] if heap else _NEVER
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._armed = when
            if when < _NEVER:
                delay = max(0.0, when - self._messaging.time())
                self._timer = self._messaging.call_later(delay, self._look)

    def _look(self) -> None:
        self._timer = None
        try:
            # One by one: if one of them is interrupted, the others are still there.
            while (item := self._next_over()) is not None:
                self._expire(item)
        finally:
            self._arm()

    def _next_over(self) -> T | None:
        with self._lock:
            now = self._messaging.time()
            heap = self._heap
            while heap and heap[0][0] <= now:
                deadline = heapq.heappop(heap)[2]
                item = deadline.item
                if item is not None:
                    deadline.item = None
                    self._live -= 1
                    return item
        return None
