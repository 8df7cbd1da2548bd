"""Waking other threads when this one is about to sleep, and not before.

A thread that is woken by one that goes on finds the interpreter taken, and goes
to sleep once more. So the loop wakes whom it has something for at the end of
its pass: two switches less for each call, one on each side.
"""

from __future__ import annotations

import threading
import time

__all__ = ["flush_wakes", "give_way", "hold_wakes", "release_wakes", "wake"]


class _Held(threading.local):
    """What this thread has put off; ``None``: it puts nothing off."""

    locks: list[threading.Lock] | None = None


_held = _Held()


def wake(lock: threading.Lock) -> None:
    """Release a lock that another thread waits for; at the end of the pass in a loop's pass."""
    locks = _held.locks
    if locks is None:
        lock.release()
    else:
        locks.append(lock)


def hold_wakes() -> None:
    """Put off what this thread is going to wake, until :func:`release_wakes`."""
    if _held.locks is None:  # else a callback drives a loop, and this is that one's pass
        _held.locks = []


def release_wakes() -> None:
    """Wake whom that was for. Harmless if nothing was put off."""
    locks = _held.locks
    while locks:
        locks.pop(0).release()
    _held.locks = None


def flush_wakes() -> None:
    """Likewise, and go on putting off. For who is going to wait for one of them."""
    locks = _held.locks
    while locks:
        locks.pop(0).release()


def give_way() -> None:
    """Let those threads run now that can."""
    time.sleep(0)
