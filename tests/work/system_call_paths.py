"""All system calls of a process, as the kernel sees them; by ``strace``, where it is.

What Python's own functions tell is less: memory that is mapped and unmapped for
a buffer, what SQLite writes and syncs, threads that wait for each other.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.work.live_paths import PARTS
from tests.work.paths import Measured, Unavailable, directory, path

__all__ = ["read_trace"]

#: Seconds for all of it.
PATIENCE = 50.0

#: They depend on which thread happens to run when.
_BETWEEN_THREADS = {"futex", "sched_yield"}
#: The program itself does them when it looks whether all rest. Not to stop at
#: them saves most of the time.
_OF_THE_PROGRAM = ["openat", "read", "close", "fstat", "newfstatat", "lseek", "ioctl"]
_OF_THE_PROGRAM += ["getdents64", "clock_nanosleep", "gettid"]
_SYNCS = {"fsync", "fdatasync"}

_CALL = re.compile(r"(\d+) +(\w+)\((.*)")
_MARK = re.compile(r'\d+, "MARK (begin|return|end) ?([^:]*?):? (\{.*\})", \d+')


class _Round(NamedTuple):
    """What was done once, from rest to rest; by thread, by name of the call."""

    name: str
    calls: dict[str, Counter[str]]


@path("system calls of one message")
def one_message() -> Measured:
    """Until it is acknowledged."""
    return _by_part("one message")


@path("system calls of one call")
def one_call() -> Measured:
    return _by_part("one call")


@path("system calls, durable")
def durable() -> Measured:
    """Until it is acknowledged and removed."""
    return _syncs("durable")


@path("system calls, a durable batch")
def durable_batch() -> Measured:
    """Of 256."""
    return _syncs("durable, a batch")


def _by_part(name: str) -> Measured:
    rounds = _rounds(name)
    measured = Measured(len(rounds))
    for part in rounds[-1].calls:
        # The fewest: a loop that sleeps again at once is woken a second time.
        value = min(sum(_but_waiting(each.calls[part]).values()) for each in rounds)
        # A timer of an acknowledgement may come in between, and a loop that is just awake
        # may do it for a worker.
        measured.add(part, value, 1 if value < 2 else 8)
    measured.notes = _notes(rounds)
    return measured


def _syncs(name: str) -> Measured:
    rounds = _rounds(name)
    totals = [_but_waiting(_sum(each.calls.values())) for each in rounds]
    measured = Measured(len(rounds))
    syncs = statistics.median(sum(calls[sync] for sync in _SYNCS) for calls in totals)
    everything = statistics.median(sum(calls.values()) for calls in totals)
    measured.add("syncs of the disk", syncs, 0)
    # The pages of the file are as SQLite fills them.
    measured.add("all", everything, everything * 0.25)
    measured.notes = _notes(rounds)
    return measured


def _sum(counted: Iterable[Counter[str]]) -> Counter[str]:
    return sum(counted, Counter[str]())


def _but_waiting(calls: Counter[str]) -> Counter[str]:
    return Counter({name: count for name, count in calls.items() if name not in _BETWEEN_THREADS})


def _notes(rounds: list[_Round]) -> str:
    lines = []
    for part in rounds[-1].calls:
        total = _sum(each.calls[part] for each in rounds)
        lines += [f"--- {part}"]
        lines += [f"{count / len(rounds):8.2f}  {name}" for name, count in total.most_common()]
    return "\n".join(lines)


def _rounds(name: str) -> list[_Round]:
    # The first ones do what is done once.
    return [each for each in _traced() if each.name == name][3:]


@functools.cache
def _traced() -> tuple[_Round, ...]:
    strace = shutil.which("strace")
    if strace is None:
        raise Unavailable("needs strace, to see system calls")
    with directory() as place:
        trace = place / "trace"
        command = [strace, "-f", "-qq", "--seccomp-bpf", "-s", "600", "-o", str(trace)]
        command += ["-e", f"trace=!{','.join(_OF_THE_PROGRAM)}"]
        command += [sys.executable, "-m", "tests.work.traced", str(place)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        if "ptrace" in result.stderr:
            raise Unavailable(f"strace may not trace here: {result.stderr.strip()}")
        assert result.returncode == 0, result.stderr
        with trace.open(encoding="utf-8", errors="replace") as lines:
            return tuple(read_trace(lines))


def read_trace(lines: Iterator[str]) -> Iterator[_Round]:
    """What was done in each round of a trace of ``strace -f``."""
    threads: dict[str, str] = {}
    calls: defaultdict[str, Counter[str]] | None = None
    caller: str | None = None
    for line in lines:
        found = _CALL.match(line)
        if found is None:
            continue  # the end of a call that another one came into
        thread, name, rest = found.groups()
        mark = _MARK.match(rest.encode().decode("unicode_escape")) if "MARK" in rest else None
        if mark is not None and name == "write":
            what, title, known = mark.groups()
            threads = json.loads(known)
            caller = thread if what == "begin" else None
            if what == "begin":
                calls = defaultdict(Counter)
            elif what == "end" and calls is not None:
                yield _Round(title, _by_name(calls, threads))
                calls = None
        elif calls is not None and (thread == caller or threads.get(thread) != "MainThread"):
            calls[thread][name] += 1


def _by_name(calls: dict[str, Counter[str]], threads: dict[str, str]) -> dict[str, Counter[str]]:
    named: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for thread, counted in calls.items():
        name = re.sub(r"-\d+$", "", threads.get(thread, "?"))
        named["caller" if name == "MainThread" else PARTS.get(name, name)] += counted
    return named
