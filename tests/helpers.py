"""What every test may need. The only place in the tests where anything sleeps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

__all__ = ["DEADLINE", "open_files", "wait_until"]

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


@contextlib.contextmanager
def open_files(count: int) -> Iterator[None]:
    """Let this process have ``count`` files open at a time, or skip the test.

    Most systems start programs with 1,024 or less, and let them raise that.
    """
    resource = pytest.importorskip("resource", reason="the limit can't be told here")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"needs {count} open files, and the limit here is {hard}: see ulimit -Hn")
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
