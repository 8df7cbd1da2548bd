"""How long a thread may sleep at once without becoming deaf to Ctrl-C."""

from __future__ import annotations

import os
import threading
from typing import Final

__all__ = ["DAY", "is_main_thread", "longest_wait"]

#: Seconds. Python looks for signals before it begins to wait for a lock or for
#: events, and a signal that comes makes a wait end. One that comes between the
#: two does not, and on Windows none does: it would be seen when the wait is over.
_SIGNAL_INTERVAL: Final = 0.5

#: Seconds; below the longest timeouts that locks and selectors take.
DAY: Final = 86400.0


def longest_wait() -> float:
    """Get the seconds after which the calling thread has to look up from its wait.

    Signal handlers run in the main thread, so no other is woken for them.
    """
    return _SIGNAL_INTERVAL if is_main_thread() else DAY


def is_main_thread() -> bool:
    """Whether the calling thread is the one in which signal handlers run."""
    return threading.get_ident() == _main_thread


def _look_for_main_thread() -> None:
    global _main_thread
    _main_thread = threading.main_thread().ident


# Asked before each sleep, and threading takes its time for it.
_main_thread = threading.main_thread().ident

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_look_for_main_thread)
