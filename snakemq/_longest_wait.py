"""How long a thread may sleep at once without becoming deaf to Ctrl-C."""

from __future__ import annotations

import threading
from typing import Final

__all__ = ["longest_wait"]

#: Seconds. Python looks for signals before it begins to wait for a lock or for
#: events, and a signal that comes makes a wait end. One that comes between the
#: two does not, and on Windows none does: it would be seen when the wait is over.
_SIGNAL_INTERVAL: Final = 0.5

#: Seconds; below the longest timeouts that locks and selectors take.
_DAY: Final = 86400.0


def longest_wait() -> float:
    """Get the seconds after which the calling thread has to look up from its wait.

    Signal handlers run in the main thread, so no other is woken for them.
    """
    if threading.get_ident() == threading.main_thread().ident:
        return _SIGNAL_INTERVAL
    return _DAY
