"""What every test may need. The only place in the tests where anything sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["DEADLINE", "wait_until"]

T = TypeVar("T")

#: Seconds after which something that should happen counts as not happening.
#: Generous: it is only ever waited for in full by a test that fails.
DEADLINE = 20.0


def wait_until(
    condition: Callable[[], T],
    timeout: float = DEADLINE,
    *,
    what: str | Callable[[], object] = "",
) -> T:
    """Wait until ``condition()`` is true, and return what it returned.

    :param condition: is called again and again, in this thread
    :param timeout: seconds
    :param what: what is waited for, for the message of the failure; a callable
        is called for it at that time
    :raises AssertionError: it did not become true in time
    """
    deadline = time.monotonic() + timeout
    pause = 0.0005
    while True:
        # In this order, so that a condition that becomes true while this
        # process is suspended over the deadline still counts.
        late = time.monotonic() >= deadline
        result = condition()
        if result:
            return result
        if late:
            description = str(what() if callable(what) else what) or getattr(
                condition, "__qualname__", repr(condition)
            )
            raise AssertionError(f"not within {timeout:g} seconds: {description}")
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
