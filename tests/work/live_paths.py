"""The paths through running peers: one thing at a time from rest, and bursts."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

from benchmarks.counting import Meter, Statements, Threads, Work
from snakemq import Peer
from snakemq._io.wakeup import Bell
from snakemq.rpc._awake import WaitingAwake
from tests.helpers import DEADLINE, wait_until
from tests.work.paths import CALL_SPARE, Measured, directory, path
from tests.work.stepped import stepped_pair

SMALL = bytes(64)
KIBIBYTE = bytes(1024)

#: How many threads do the same at a time.
_TOGETHER = 16

#: What bob's workers are called.
WORKERS = "snakemq-rpc"

#: What the threads are called, and what they are here.
PARTS = {
    "snakemq peer alice": "alice's loop",
    "snakemq peer bob": "bob's loop",
    WORKERS: "worker",
}


class _Live(NamedTuple):
    """Alice, who dials, and bob."""

    threads: Threads
    alice: Peer
    bob: Peer
    received: list[object]

    def done_by(
        self, func: Callable[[], object], wait: Callable[[], object] | None = None
    ) -> dict[str, Work]:
        """What everybody does because this thread calls ``func``, until all rest again.

        :param wait: waits until all is done; what the caller does in it does not count
        """
        before = self._rest()
        with Meter() as caller:
            func()
        if wait is not None:
            wait()
        after = self._rest()
        parts = {"caller": caller.work}
        for name, work in after.items():
            if name in PARTS:
                parts[PARTS[name]] = work - before[name] if name in before else work
        return parts

    def _rest(self) -> dict[str, Work]:
        """Wait until nobody does anything, and nobody is about to."""
        while True:
            done = self.threads.settled()
            if not any(peer.link.selector.select(0) for peer in (self.alice, self.bob)):
                return done


class Served:
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


def _typical(
    live: _Live,
    func: Callable[[], object],
    times: int,
    wait: Callable[[], object] | None = None,
) -> Measured:
    """What is done when all rested before, and nothing comes in between."""
    rounds = [live.done_by(func, wait) for _ in range(times + 5)][5:]
    parts = {part: sum((each.get(part, Work()) for each in rounds), Work()) for part in rounds[-1]}
    measured = Measured(times, parts)
    # A thread that has work for another one finds it awake, or has to wake it: on a
    # busy machine that is different each time. The best round is the same each time.
    best = min(rounds, key=lambda each: sum(each.values(), Work()).calls)
    together = sum(best.values(), Work())
    measured.add("caller: Python calls", best["caller"].calls, 2 * CALL_SPARE)
    measured.add("altogether: Python calls", together.calls, together.calls * 0.08)
    measured.add("altogether: rings of the bell", together.times(Bell.ring), 1)
    return measured.add("altogether: system calls", together.system_calls, 2)


@path("one message")
def one_message() -> Measured:
    """Over a connection that rests, until it is acknowledged."""
    with _live() as live:
        arrived = itertools.count(1)

        def wait() -> None:
            count = next(arrived)
            wait_until(lambda: len(live.received) == count and not live.alice.queued())

        return _typical(live, lambda: live.alice.send("bob", SMALL), 30, wait)


def _sleep_at_once(self: WaitingAwake, *args: object, **kwargs: object) -> None:
    """In the place of what looks as often as there is time for."""


@path("one call")
def one_call() -> Measured:
    with (
        _live(serve={"served": Served()}) as live,
        mock.patch.object(WaitingAwake, "wait", _sleep_at_once),
    ):
        echo = live.alice.proxy("bob", "served").echo
        return _typical(live, lambda: echo(SMALL), 30)


@path("a burst of messages")
def burst() -> Measured:
    """A thousand, as fast as a thread can, to a peer that rests."""
    count = 1000
    with _live() as live:
        rounds = []
        for number in range(1, 6):

            def send_all() -> None:
                for _ in range(count):
                    live.alice.send("bob", SMALL)

            def wait(wanted: int = number * count) -> None:
                wait_until(lambda: len(live.received) == wanted and not live.alice.queued())

            rounds.append(live.done_by(send_all, wait))
    best = min(rounds, key=lambda each: sum(work.system_calls for work in each.values()))
    measured = Measured(count, best)
    # How often they come together depends on which thread runs when; it must not
    # be often for each message.
    for part, work in best.items():
        measured.add(f"{part}: system calls for {count:,}", work.system_calls, count / 25)
    rings = sum(work.times(Bell.ring) for work in best.values())
    measured.add(f"rings of the bell for {count:,}", rings, count / 100)
    least = min(sum(work.calls for work in each.values()) for each in rounds)
    return measured.add("altogether: Python calls", least / count, 2 * CALL_SPARE)


def _in_threads(func: Callable[[], object]) -> None:
    threads = [
        threading.Thread(target=func, name=f"caller-{number}") for number in range(_TOGETHER)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@path("durable, 16 threads")
def durable_from_threads() -> Measured:
    """What they store at the same time shares a sync of the disk."""
    per_thread = 8
    rounds = []
    with (
        directory() as place,
        Statements() as counted,
        Peer("alice", storage=place / "alice.db") as alice,
    ):

        def send() -> None:
            for _ in range(per_thread):
                alice.send("bob", KIBIBYTE)

        for _ in range(3):
            before = counted.commits
            _in_threads(send)
            rounds.append(counted.commits - before)
    count = _TOGETHER * per_thread
    return Measured(count).add(f"commits for {count}", min(rounds), count / 6)


@path("rest")
def at_rest() -> Measured:
    """Two peers who are connected and have nothing to say."""
    with stepped_pair() as (alice, bob):
        measured = Measured(1)
        for one in (alice, bob):
            name = f"{one.peer.identifier}'s loop: passes in a minute"
            measured.add(name, 60 / _sleep_of(one.peer), 0.1)
    return measured


def _sleep_of(peer: Peer) -> float:
    """For how many seconds its loop is about to sleep."""
    told: list[float] = []

    def select(timeout: float | None) -> list[Any]:
        told.append(math.inf if timeout is None else timeout)
        return []

    with mock.patch.object(peer.link.selector, "select", select):
        peer.link.step()
    assert told, "the loop sleeps in another way now: count that"
    return told[0]
