"""Threads that wait for what the loop's thread does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from snakemq.contracts import LinkInterface
from snakemq.messaging import Messaging

__all__ = ["Changes", "wait_for_event"]

# Windows does not interrupt a wait for a lock on Ctrl-C; a short wait lets the
# signal through between two of them. Elsewhere nobody wakes up for nothing.
_LONGEST_WAIT: Final = 0.5 if os.name == "nt" else None


def wait_for_event(event: threading.Event, timeout: float | None) -> bool:
    """Wait for an event such that Ctrl-C comes through, on Windows too.

    :param timeout: seconds at most; ``None``: for ever
    :return: whether it is set
    """
    if _LONGEST_WAIT is None:
        return event.wait(timeout)
    while timeout is None or timeout > _LONGEST_WAIT:
        if event.wait(_LONGEST_WAIT):
            return True
        if timeout is not None:
            timeout -= _LONGEST_WAIT
    return event.wait(timeout)


class Changes:
    """Wait until something holds that another thread makes true.

    That thread calls :meth:`notify` after each change, which costs next to
    nothing while nobody waits. The lock is :attr:`lock`; a condition is looked
    at with the lock held.

    :param clock: its time measures the timeouts
    """

    def __init__(self, clock: LinkInterface | Messaging) -> None:
        self._time = clock.time
        self.lock = threading.RLock()
        self._condition = threading.Condition(self.lock)
        self._waiting = 0

    def notify(self) -> None:
        """Something may have changed."""
        # The change was made before this line, and a waiter is counted before
        # it looks: one of the two sees the other.
        if self._waiting:
            with self._condition:
                self._condition.notify_all()

    @contextmanager
    def _counted(self) -> Generator[None, None, None]:
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    def wait_for(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until ``condition()``, at most ``timeout`` seconds (``None``: for ever).

        :return: whether it holds
        """
        deadline = None if timeout is None else self._time() + timeout
        with self._condition, self._counted():
            while not condition():
                wait = _LONGEST_WAIT
                if deadline is not None:
                    left = deadline - self._time()
                    if left <= 0:
                        return False
                    wait = left if wait is None else min(wait, left)
                self._condition.wait(wait)
        return True
