"""Waking other threads when this one is about to sleep, and not before.

A thread that is woken in the middle of something competes with the one that has woken
it. So the loop wakes whom it has something for at the end of its pass: two switches less
for each call, one on each side.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snakemq._sleepers import Sleeper

__all__ = ["are_held", "flush_wakes", "give_way", "hold_wakes", "release_wakes", "wake"]


class _Held(threading.local):
    """What this thread has put off; ``None``: it puts nothing off."""

    sleepers: list[Sleeper] | None = None


_held = _Held()


def wake(sleeper: Sleeper) -> None:
    """Wake the thread that sleeps there; in a loop's pass at its end."""
    sleepers = _held.sleepers
    if sleepers is None:
        sleeper.wake()
    else:
        sleepers.append(sleeper)


def hold_wakes() -> None:
    """Put off what this thread is going to wake, until :func:`release_wakes`."""
    if _held.sleepers is None:  # else a callback drives a loop, and this is that one's pass
        _held.sleepers = []


def are_held() -> bool:
    """Whether this thread has put off any."""
    return bool(_held.sleepers)


def release_wakes() -> None:
    """Wake whom that was for. Harmless if nothing was put off."""
    sleepers = _held.sleepers or ()
    try:
        if sleepers:
            flush_wakes()
    finally:
        # Ctrl-C comes in the middle of that more often than elsewhere: while a thread that
        # was woken has the interpreter.
        _held.sleepers = None
        for sleeper in sleepers:
            sleeper.wake()


def flush_wakes(most: int = sys.maxsize) -> None:
    """Likewise, and go on putting off. For who is going to wait for one of them.

    :param most: only the first so many
    """
    sleepers = _held.sleepers
    while sleepers and most > 0:
        # In this order: to be woken twice does no harm.
        sleepers[0].wake()
        del sleepers[0]
        most -= 1


def give_way() -> None:
    """Let those threads run now that can."""
    time.sleep(0)
