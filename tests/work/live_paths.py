"""The paths through running peers: one thing at a time from rest, and bursts."""

from __future__ import annotations

import contextlib
import statistics
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from benchmarks.counting import Meter, Threads, Work
from snakemq import Peer
from tests.helpers import DEADLINE, wait_until
from tests.work.paths import Measured, path

SMALL = bytes(64)

#: What the threads are called, and what they are here.
PARTS = {
    "snakemq peer alice": "alice's loop",
    "snakemq peer bob": "bob's loop",
    "snakemq-rpc": "worker",
}


class _Live(NamedTuple):
    """Alice, who dials, and bob."""

    threads: Threads
    alice: Peer
    bob: Peer
    received: list[object]

    def done_by(self, func: Callable[[], object]) -> dict[str, Work]:
        """What everybody does because this thread calls ``func``, until all rest again."""
        before = self.threads.settled()
        with Meter() as caller:
            func()
        after = self.threads.settled()
        parts = {"caller": caller.work}
        for name, work in after.items():
            if name in PARTS:
                parts[PARTS[name]] = work - before[name] if name in before else work
        return parts


class _Served:
    """What bob serves."""

    def echo(self, data: bytes) -> bytes:
        return data


@contextlib.contextmanager
def _live(**bob: Any) -> Iterator[_Live]:
    received: list[object] = []
    with (
        Threads() as threads,
        Peer("bob", listen=0, **{"on_message": received.append, **bob}) as other,
        Peer("alice", connect=other.addresses[0]) as one,
    ):
        assert one.wait_connected("bob", DEADLINE)
        assert other.wait_connected("alice", DEADLINE)
        yield _Live(threads, one, other, received)


#: What has a budget for each part.
_COUNTED: dict[str, Callable[[Work], float]] = {
    "Python calls": lambda work: work.calls,
    "C calls": lambda work: work.builtin_calls,
    "sends": lambda work: work.sends,
    "receives": lambda work: work.receives,
    "waits": lambda work: work.waits,
}


def _typical(live: _Live, func: Callable[[], object], times: int) -> Measured:
    """What is done in most cases, when all rested before."""
    for _ in range(5):
        func()
    rounds = [live.done_by(func) for _ in range(times)]
    measured = Measured(times, {})
    for part in rounds[-1]:
        works = [each.get(part, Work()) for each in rounds]
        total = Work()
        for work in works:
            total += work
        measured.parts[part] = total
        for what, value in _COUNTED.items():
            measured.figures[f"{part}: {what}"] = statistics.median(map(value, works))
    measured.figures["altogether: Python calls"] = statistics.median(
        sum(work.calls for work in each.values()) for each in rounds
    )
    return measured


@path("one message")
def one_message() -> Measured:
    """Over a connection that rests, until it is acknowledged."""
    with _live() as live:
        return _typical(live, lambda: _send_and_wait(live), 40)


def _send_and_wait(live: _Live) -> None:
    count = len(live.received)
    live.alice.send("bob", SMALL)
    # Its own work would be counted as that of the caller.
    with _uncounted():
        wait_until(lambda: len(live.received) > count and not live.alice.queued())


@contextlib.contextmanager
def _uncounted() -> Iterator[None]:
    profile = sys.getprofile()
    sys.setprofile(None)
    try:
        yield
    finally:
        sys.setprofile(profile)


@path("one call")
def one_call() -> Measured:
    with _live(serve={"served": _Served()}) as live:
        echo = live.alice.proxy("bob", "served").echo
        return _typical(live, lambda: echo(SMALL), 40)


@path("calls from 16 threads")
def calls_from_threads() -> Measured:
    per_thread = 25
    with _live(serve={"served": _Served()}) as live:
        echo = live.alice.proxy("bob", "served").echo

        def call() -> None:
            for _ in range(per_thread):
                echo(SMALL)

        def round_of_calls() -> None:
            threads = [threading.Thread(target=call, name=f"caller-{i}") for i in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        round_of_calls()
        rounds = [live.done_by(round_of_calls) for _ in range(4)]
    measured = Measured(16 * per_thread, rounds[-1])
    for part in ("alice's loop", "bob's loop", "worker"):
        measured.figures[f"{part}: Python calls"] = (
            min(each[part].calls for each in rounds) / measured.count
        )
        measured.figures[f"{part}: system calls"] = (
            min(each[part].system_calls for each in rounds) / measured.count
        )
    return measured
