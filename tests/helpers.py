"""What every test may need. The only place in the tests where anything sleeps."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

__all__ = ["DEADLINE", "open_files", "unassigned_port", "wait_until"]

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


#: Below what systems give out by themselves. Processes begin at different places.
_unassigned = (10_000 + number % 20_000 for number in itertools.count(os.getpid() * 97))


def unassigned_port() -> int:
    """A free port for somebody who has to be told one, and may take it only later.

    One that was given out for port 0 may be given to somebody else meanwhile, and
    who dials it while nobody listens may be given it as its own.
    """
    for port in _unassigned:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("unreachable: they have no end")


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
