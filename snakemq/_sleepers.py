"""What a thread sleeps on until another one wakes it.

Who is woken by the release of a lock runs at once, and finds the interpreter taken by the
one that has woken it: it falls asleep again and is woken a second time, and the two switch
four times instead of two. A write to a descriptor gives the interpreter away first. Where
the system has *eventfd* (Linux), a thread sleeps on one of these.

The process has few of them, whatever it does: programs have other uses for descriptors.
Beyond that, and elsewhere, a thread sleeps on a lock.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, Protocol

from snakemq._longest_wait import DAY

__all__ = [
    "LockSleeper",
    "Sleeper",
    "borrow_sleeper",
    "return_sleeper",
    "sleep_while",
]

#: So many descriptors in this process.
MAX_DESCRIPTORS: Final = 64

_ONE: Final = (1).to_bytes(8, sys.byteorder)


class Sleeper(Protocol):
    """One thread at a time sleeps on it, any other may wake it."""

    def sleep(self, timeout: float | None = None) -> bool:
        """Sleep until somebody wakes it, or has done so since it slept last.

        :param timeout: in seconds; ``None``: for ever. On a descriptor it is rounded up to
            whole milliseconds, and longer ones end after a day.
        :return: false: the time is over
        """

    def wake(self) -> None:
        """Wake the thread. Any thread, any number of times."""


class LockSleeper:
    """Sleeps on a lock."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def sleep(self, timeout: float | None = None) -> bool:
        """See :class:`Sleeper`."""
        return self._lock.acquire(timeout=-1 if timeout is None else min(max(0.0, timeout), DAY))

    def wake(self) -> None:
        """See :class:`Sleeper`."""
        try:
            self._lock.release()
        except RuntimeError:
            return  # it is awake


class _DescriptorSleeper:
    """Sleeps on a descriptor.

    It is closed with this object, and not before: who wakes late must not write to what
    has got its number since.

    :raises OSError: there is none to be had
    """

    __slots__ = ("__weakref__", "_descriptor", "_poll")

    _close = staticmethod(os.close)  # for the end of the process, when there is no module any more

    def __init__(self) -> None:
        self._descriptor = -1
        self._open()

    def _open(self) -> None:
        self._poll: Any = None
        self._descriptor = _eventfd()

    def sleep(self, timeout: float | None = None) -> bool:
        """See :class:`Sleeper`."""
        if self._descriptor < 0:
            self._open()
        if timeout is not None:
            if self._poll is None and sys.platform == "linux":
                self._poll = select.poll()
                self._poll.register(self._descriptor, select.POLLIN)
            if not self._poll.poll(min(max(0.0, timeout), DAY) * 1000):
                return False
        os.read(self._descriptor, 8)
        return True

    def wake(self) -> None:
        """See :class:`Sleeper`."""
        if self._descriptor < 0:
            self._open()
        os.write(self._descriptor, _ONE)

    def part(self) -> None:
        """This process was forked; what it sleeps on is its parent's."""
        self._close(self._descriptor)
        self._descriptor = -1

    def __del__(self) -> None:
        if self._descriptor >= 0:
            self._close(self._descriptor)


def _eventfd() -> int:
    if sys.platform == "linux" and hasattr(os, "eventfd"):
        return os.eventfd(0)
    raise OSError("there is no eventfd")


# Reentrant: a finalizer may make a call, and it may run anywhere.
_lock = threading.RLock()
_descriptors: weakref.WeakSet[_DescriptorSleeper] = weakref.WeakSet()
#: those that nobody uses
_spare: list[_DescriptorSleeper] = []


def borrow_sleeper() -> Sleeper:
    """One for the calling thread, until :func:`return_sleeper`.

    It may wake for nothing: who had it before may have been woken late.
    """
    try:
        return _spare.pop()
    except IndexError:
        return _new_sleeper()


def return_sleeper(sleeper: Sleeper) -> None:
    """It is not needed any more."""
    if isinstance(sleeper, _DescriptorSleeper):
        _spare.append(sleeper)


def _new_sleeper() -> Sleeper:
    with _lock, contextlib.suppress(OSError):
        if len(_descriptors) < MAX_DESCRIPTORS:
            sleeper = _DescriptorSleeper()
            _descriptors.add(sleeper)
            return sleeper
    return LockSleeper()


def sleep_while(
    sleeper: Sleeper,
    is_pending: Callable[[], bool],
    timeout: float | None = None,
    longest: float | None = None,
) -> bool:
    """Sleep as long as something is pending, however often it wakes for nothing.

    :param timeout: in seconds; ``None``: for ever
    :param longest: it looks up from its sleep after so many seconds
    :return: false: the time is over, and it is still pending
    """
    end = None if timeout is None else monotonic() + timeout
    left = longest
    while is_pending():
        if end is not None:
            left = end - monotonic()
            if left <= 0:
                return False
            if longest is not None and longest < left:
                left = longest
        sleeper.sleep(left)
    return True


def _begin_again() -> None:
    # The thread that forked may have one, and the others are gone.
    global _lock
    _lock = threading.RLock()
    for sleeper in list(_descriptors):
        sleeper.part()
    _descriptors.clear()
    _spare.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again)
