"""Threads that wait for what the loop's thread does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from snakemq._longest_wait import longest_wait
from snakemq.contracts import LinkInterface
from snakemq.messaging import Messaging

__all__ = ["Changes", "wait_for_event"]


def wait_for_event(event: threading.Event, timeout: float | None) -> bool:
    """Wait for an event such that Ctrl-C comes through.

    :param timeout: seconds at most; ``None``: for ever
    :return: whether it is set
    """
    longest = longest_wait()
    while timeout is None or timeout > longest:
        if event.wait(longest):
            return True
        if timeout is not None:
            timeout -= longest
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
        longest = longest_wait()
        with self._condition, self._counted():
            while not condition():
                wait = longest
                if deadline is not None:
                    left = deadline - self._time()
                    if left <= 0:
                        return False
                    wait = min(wait, left)
                self._condition.wait(wait)
        return True
