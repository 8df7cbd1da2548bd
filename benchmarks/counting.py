"""Work, counted: how much is done, not how long it takes.

A busy machine changes times, not counts. What counts here are calls of
functions written in Python, of functions written in C, and of the system, by
thread; statements of SQLite; and memory that Python has allocated.

To count what threads do, they have to start inside :class:`Threads`::

    with Threads() as threads, Peer("bob", listen=0) as bob:
        before = threads.work("snakemq peer bob")
        ...
        print(threads.work("snakemq peer bob") - before)

and what the calling thread does is counted with :class:`Meter`.
"""

from __future__ import annotations

import re
import sqlite3
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any, Final, TypeVar
from unittest import mock

__all__ = ["SYSTEM_CALLS", "MemoryShare", "Meter", "Statements", "Threads", "Work"]

T = TypeVar("T")

#: Functions written in C that ask the system for something, by the names that they have.
SYSTEM_CALLS: Final = frozenset(
    {
        *(f"socket.{name}" for name in ("send", "sendmsg", "sendto", "sendall", "accept")),
        *(f"socket.{name}" for name in ("recv", "recv_into", "recvmsg", "recvmsg_into")),
        *(f"socket.{name}" for name in ("connect", "connect_ex", "getsockopt", "setsockopt")),
        *("epoll.poll", "kqueue.control", "devpoll.poll", "poll.poll", "select"),
        *("epoll.register", "epoll.modify", "epoll.unregister"),
        "fsync",
    }
)

#: Those among them that wait for events: one for each pass of a loop.
_WAITS: Final = frozenset({"epoll.poll", "kqueue.control", "devpoll.poll", "poll.poll", "select"})

#: Those that wait for another thread.
_LOCKS: Final = frozenset({"lock.acquire", "RLock.acquire"})

#: How statements begin that are transactions of their own where there is none.
_CHANGES: Final = frozenset({"INSERT", "REPLACE", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER"})


@dataclass
class Work:
    """What was done by one thread, or by several."""

    #: calls of functions written in Python, by their code: entered comprehensions
    #: and resumed generators count
    functions: Counter[CodeType] = field(default_factory=Counter)
    #: calls of functions written in C, by name. What C calls does not count,
    #: and neither does what syntax does (``with lock:``, ``x in d``)
    builtins: Counter[str] = field(default_factory=Counter)

    @property
    def calls(self) -> int:
        """Calls of functions written in Python."""
        return sum(self.functions.values())

    @property
    def builtin_calls(self) -> int:
        """Calls of functions written in C."""
        return sum(self.builtins.values())

    @property
    def system_calls(self) -> int:
        """Calls of the system, by way of functions written in C."""
        return sum(self.builtins[name] for name in SYSTEM_CALLS)

    @property
    def sends(self) -> int:
        """How often a socket was given data."""
        return sum(count for name, count in self.builtins.items() if name.startswith("socket.send"))

    @property
    def receives(self) -> int:
        """How often a socket was asked for data."""
        return sum(count for name, count in self.builtins.items() if name.startswith("socket.recv"))

    @property
    def waits(self) -> int:
        """How often it was waited for events."""
        return sum(self.builtins[name] for name in _WAITS)

    def times(self, func: Callable[..., object]) -> int:
        """How often a function written in Python was called."""
        code: CodeType = func.__code__
        return self.functions[code]

    def report(self, count: int, least: float = 0.05) -> str:
        """Who was called how often for each of ``count`` messages, a line each.

        :param least: leave out what is called less often than that
        """
        named: Counter[str] = Counter()
        for code, times in self.functions.items():
            named[f"{Path(code.co_filename).name}:{code.co_firstlineno} {code.co_name}"] += times
        for name, times in self.builtins.items():
            named[f"{name} (C)"] += times
        return "".join(
            f"{times / count:8.2f}  {name}\n"
            for name, times in named.most_common()
            if times / count >= least
        )

    def __add__(self, other: Work) -> Work:
        return Work(self.functions + other.functions, self.builtins + other.builtins)

    def __sub__(self, other: Work) -> Work:
        return Work(self.functions - other.functions, self.builtins - other.builtins)


class Meter:
    """For ``with``, as often as wanted: counts what the thread does that enters it."""

    def __init__(self) -> None:
        self.work = Work()
        #: whether the thread is inside of a function that may wait
        self.waits = False
        self._before: Any = None

    def note(self, frame: FrameType, event: str, arg: Any) -> None:
        """What :func:`sys.setprofile` takes."""
        self.waits = False
        if event == "call":
            self.work.functions[frame.f_code] += 1
        elif event == "c_call":
            name = arg.__qualname__
            self.work.builtins[name] += 1
            self.waits = name in _WAITS or name in _LOCKS

    def __enter__(self) -> Meter:
        self._before = sys.getprofile()
        sys.setprofile(self.note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.setprofile(self._before)
        # Leaving is no work.
        self.work.functions[Meter.__exit__.__code__] -= 1
        self.work.builtins["setprofile"] -= 1
        self.work += Work()  # without what is zero


class Threads:
    """For ``with``: counts what each thread does that starts inside.

    The threads are told apart by their names; numbers at the end do not count,
    so that those of a pool are one.
    """

    def __init__(self) -> None:
        self._meters: list[tuple[str, threading.Thread, Meter]] = []
        self._before: Any = None

    def __enter__(self) -> Threads:
        self._before = threading.getprofile()
        threading.setprofile(self._begin)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        threading.setprofile(self._before)

    def _begin(self, frame: FrameType, event: str, arg: Any) -> None:
        """The first event of a new thread."""
        thread = threading.current_thread()
        meter = Meter()
        self._meters.append((re.sub(r"-\d+$", "", thread.name), thread, meter))
        sys.setprofile(meter.note)
        meter.note(frame, event, arg)

    def names(self) -> list[str]:
        """The threads that were there, without numbers."""
        return sorted({name for name, _, _ in self._meters})

    def work(self, name: str) -> Work:
        """What was done so far by all threads of that name."""
        total = Work()
        for other, _, meter in list(self._meters):
            if other == name:
                # Copies, because its thread may go on.
                work = meter.work
                total += Work(work.functions.copy(), work.builtins.copy())
        return total

    def settled(self, *names: str, pause: float = 0.002, patience: float = 10.0) -> dict[str, Work]:
        """Wait until these threads do nothing, and return what each has done so far.

        :param names: theirs; none: all
        :param pause: nothing is to happen for so many seconds
        :param patience: seconds after which it is given up
        :raises TimeoutError: they never rest
        """
        deadline = time.monotonic() + patience
        last = self._snapshot(names)
        while time.monotonic() < deadline:
            time.sleep(pause)
            now = self._snapshot(names)
            if now == last and self._rest(names):
                return now
            last = now
        raise TimeoutError(f"still at work after {patience:g} seconds")

    def _snapshot(self, names: tuple[str, ...]) -> dict[str, Work]:
        return {name: self.work(name) for name in names or self.names()}

    def _rest(self, names: tuple[str, ...]) -> bool:
        """Whether they wait, or are gone. One that is not let run does neither."""
        return all(
            meter.waits or not thread.is_alive()
            for name, thread, meter in list(self._meters)
            if not names or name in names
        )


class Statements:
    """For ``with``: watches all connections to SQLite that are made inside.

    :ivar words: how many statements there were, by their first word
    :ivar commits: how many transactions were committed, those of one statement
        included
    """

    def __init__(self) -> None:
        self.words: Counter[str] = Counter()
        self.commits = 0
        self._patch = mock.patch("sqlite3.connect", self._connect)
        self._really_connect = sqlite3.connect

    def __enter__(self) -> Statements:
        self._patch.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._patch.stop()

    def _connect(self, *args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = self._really_connect(*args, **options)
        is_inside = False
        before = ""

        def note(statement: str) -> None:
            nonlocal is_inside, before
            word = statement.split(None, 1)[0].upper()
            # What a statement triggers is shown, too: as a comment, or as that statement again.
            if word == "--" or (statement == before and ".snakemq_changes" in statement):
                return
            before = statement
            self.words[word] += 1
            if word == "BEGIN":
                is_inside = True
            elif word in ("COMMIT", "END", "ROLLBACK"):
                is_inside = False
                self.commits += word != "ROLLBACK"
            elif word in _CHANGES and not is_inside:
                self.commits += 1

        connection.set_trace_callback(note)
        return connection


class MemoryShare:
    """What one of several parts of a program holds, if all of its steps are run with it.

    Only while :mod:`tracemalloc` traces.
    """

    def __init__(self) -> None:
        #: what it has allocated and not released, in bytes
        self.held = 0
        #: the most that it has ever held
        self.peak = 0

    def run(self, func: Callable[..., T], *args: Any) -> T:
        """Call ``func(*args)`` as a step of this part."""
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        try:
            return func(*args)
        finally:
            after, peak = tracemalloc.get_traced_memory()
            self.peak = max(self.peak, self.held + peak - before)
            self.held += after - before
