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
from typing import Any, Final, Protocol

__all__ = [
    "LockSleeper",
    "Sleeper",
    "borrow_sleeper",
    "forget_spare_sleepers",
    "new_sleeper",
    "return_sleeper",
]

#: So many descriptors in this process.
MAX_DESCRIPTORS: Final = 64

#: So many sleepers that nobody uses are kept.
_MAX_SPARE: Final = 64

_ONE: Final = (1).to_bytes(8, sys.byteorder)


class Sleeper(Protocol):
    """One thread at a time sleeps on it, any other may wake it."""

    def sleep(self, timeout: float | None = None) -> bool:
        """Sleep until somebody wakes it, or has done so since it slept last.

        :param timeout: in seconds, a day at most; ``None``: for ever
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
        return self._lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout))

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

    __slots__ = ("__weakref__", "_close", "_descriptor", "_poll")

    def __init__(self) -> None:
        if sys.platform != "linux":
            raise OSError("there is no eventfd")
        self._descriptor = os.eventfd(0)
        self._close = os.close
        self._poll: Any = None

    def sleep(self, timeout: float | None = None) -> bool:
        """See :class:`Sleeper`."""
        if timeout is not None:
            if self._poll is None:
                self._poll = select.poll()
                self._poll.register(self._descriptor, select.POLLIN)
            if not self._poll.poll(max(0.0, timeout) * 1000):
                return False
        os.read(self._descriptor, 8)
        return True

    def wake(self) -> None:
        """See :class:`Sleeper`."""
        os.write(self._descriptor, _ONE)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self._close(self._descriptor)


# Reentrant: a finalizer may make a call, and it may run anywhere.
_lock = threading.RLock()
_descriptors: weakref.WeakSet[_DescriptorSleeper] = weakref.WeakSet()
_spare: list[Sleeper] = []


def borrow_sleeper() -> Sleeper:
    """One for the calling thread, until :func:`return_sleeper`.

    It may wake for nothing: who had it before may have been woken late.
    """
    try:
        return _spare.pop()
    except IndexError:
        return new_sleeper()


def return_sleeper(sleeper: Sleeper) -> None:
    """It is not needed any more."""
    if len(_spare) < _MAX_SPARE:
        _spare.append(sleeper)


def new_sleeper() -> Sleeper:
    """One that nobody else gets: it wakes for nothing only if somebody wakes it twice."""
    with _lock, contextlib.suppress(OSError):
        if len(_descriptors) < MAX_DESCRIPTORS:
            sleeper = _DescriptorSleeper()
            _descriptors.add(sleeper)
            return sleeper
    return LockSleeper()


def forget_spare_sleepers() -> None:
    """Close those that nobody uses."""
    _spare.clear()


def _begin_again() -> None:
    # A forked process shares what its parent sleeps on.
    global _lock
    _lock = threading.RLock()
    _spare.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again)
