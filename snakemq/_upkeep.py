"""A timer that lets the storage do what it has to do now and then, when nothing else is done."""

from __future__ import annotations

from typing import Final

from snakemq.contracts import TimerHandle
from snakemq.packeter import Packeter
from snakemq.queues import QueuesManager

__all__ = ["Upkeep"]

#: For so long nothing was stored, in seconds.
IDLE: Final = 1.0

#: So long what has left waits to be removed together with what is stored next,
#: in seconds.
FLUSH: Final = 0.05

#: And so many seconds are between one piece of work and the next.
PAUSE: Final = 0.05


class Upkeep:
    """Waits until nothing was stored for a while. No timer runs when there is nothing to do.

    :param packeter: gives time and timers
    :param manager: does the work
    """

    def __init__(self, packeter: Packeter, manager: QueuesManager) -> None:
        self._packeter = packeter
        self._manager = manager
        self._timer: TimerHandle | None = None
        self._flush_timer: TimerHandle | None = None
        manager.tell_of_writes(self.arm)
        manager.flush_later = self._flush_later
        self._is_asked = False
        self._written = 0

    def arm(self) -> None:
        """Something was written. Any thread."""
        self._written += 1
        if self._timer is None and not self._is_asked:
            self._is_asked = True
            self._packeter.call_soon(self._start)

    def cancel(self) -> None:
        """Never again. Loop thread."""
        self._is_asked = True
        for timer in (self._timer, self._flush_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._flush_timer = None

    def _flush_later(self) -> None:
        if self._flush_timer is None:
            self._flush_timer = self._packeter.call_later(FLUSH, self._flush)

    def _flush(self) -> None:
        self._flush_timer = None
        self._manager.flush()

    def _start(self) -> None:
        self._is_asked = False
        if self._timer is None:
            self._wait(IDLE)

    def _wait(self, delay: float) -> None:
        self._timer = self._packeter.call_later(delay, self._look, self._written)

    def _look(self, written: int) -> None:
        self._timer = None
        if written != self._written and not self._manager.has_failed:
            self._wait(IDLE)
        elif self._manager.upkeep():
            self._wait(PAUSE)
        elif self._manager.is_behind:
            self._wait(IDLE)
