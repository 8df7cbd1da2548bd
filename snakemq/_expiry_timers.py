"""Timers that look at the queues of absent peers when a message there expires."""

from __future__ import annotations

from collections.abc import Callable

from snakemq.contracts import TimerHandle
from snakemq.packeter import Packeter
from snakemq.queues import Queue

__all__ = ["ExpiryTimers"]


class ExpiryTimers:
    """One timer at most for each queue. Loop thread only.

    :param packeter: gives time and timers
    :param expire: ``func(queue)``; something in the queue expires now
    """

    def __init__(self, packeter: Packeter, expire: Callable[[Queue], object]) -> None:
        self._packeter = packeter
        self._expire = expire
        self._timers: dict[str, tuple[float, TimerHandle]] = {}

    def arm(self, queue: Queue) -> None:
        """Set the timer for what expires next in ``queue``, if there is anything."""
        when = queue.next_expiry()
        armed = self._timers.get(queue.name)
        if armed is not None:
            if armed[0] == when:
                return
            self.disarm(queue.name)
        if when is not None:
            delay = max(0.0, when - self._packeter.time())
            timer = self._packeter.call_later(delay, self._expired, queue)
            self._timers[queue.name] = (when, timer)

    def disarm(self, name: str) -> None:
        """The peer is connected: nothing expires."""
        armed = self._timers.pop(name, None)
        if armed is not None:
            armed[1].cancel()

    def clear(self) -> None:
        """Disarm all."""
        for name in list(self._timers):
            self.disarm(name)

    def _expired(self, queue: Queue) -> None:
        self._timers.pop(queue.name, None)
        self._expire(queue)
