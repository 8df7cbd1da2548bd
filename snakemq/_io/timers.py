"""Timers: what is to be called when."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Final

__all__ = ["Timer", "Timers"]

#: Cancelled timers are swept out when there are more than this and they are
#: the majority.
_SWEEP: Final = 64


class Timer:
    """Handle of one call; see :class:`snakemq.contracts.TimerHandle`."""

    __slots__ = ("_timers", "args", "func")

    def __init__(
        self, timers: Timers, func: Callable[..., object], args: tuple[object, ...]
    ) -> None:
        self._timers: Timers | None = timers
        self.func: Callable[..., object] | None = func
        self.args = args

    def cancel(self) -> None:
        """Do not call. Harmless after the call or a second time."""
        if self._timers is not None:
            self._timers.cancelled()
            self.spend()

    def spend(self) -> None:
        """Let go of everything: it was called or will never be."""
        self._timers = None
        self.func = None
        self.args = ()


class Timers:
    """A heap of timers. Not thread-safe."""

    __slots__ = ("_cancelled", "_heap", "_next_number")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._next_number = count().__next__  # equal times keep their order
        self._cancelled = 0

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def call_at(self, when: float, func: Callable[..., object], args: tuple[object, ...]) -> Timer:
        """Have ``func(*args)`` called at ``when``."""
        timer = Timer(self, func, args)
        heapq.heappush(self._heap, (when, self._next_number(), timer))
        return timer

    def cancelled(self) -> None:
        """One of them was cancelled and is still in the heap."""
        self._cancelled += 1
        if self._cancelled > _SWEEP and self._cancelled * 2 > len(self._heap):
            # The one that is being cancelled stays until the next time.
            self._heap = [item for item in self._heap if item[2].func is not None]
            heapq.heapify(self._heap)
            self._cancelled = 1

    def deadline(self) -> float | None:
        """When the next one is due."""
        heap = self._heap
        while heap and heap[0][2].func is None:
            heapq.heappop(heap)
            self._cancelled -= 1
        return heap[0][0] if heap else None

    def is_next(self, timer: Timer) -> bool:
        """Whether this one comes before all others."""
        return self.deadline() is not None and self._heap[0][2] is timer

    def pop(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        """Take out the next one; :meth:`deadline` has said that there is one."""
        timer = heapq.heappop(self._heap)[2]
        func, args = timer.func, timer.args
        assert func is not None
        timer.spend()
        return func, args

    def clear(self) -> None:
        """Forget all."""
        self._heap.clear()
        self._cancelled = 0
