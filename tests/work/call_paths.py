"""The paths of remote calls, stepped: nothing is left to chance but when threads run."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from unittest import mock

from benchmarks.counting import Meter, Threads, Work
from snakemq import _sleepers
from snakemq._io.clock import monotonic
from snakemq._sleepers import LockSleeper
from tests.helpers import DEADLINE, wait_until
from tests.work.live_paths import SMALL, WORKERS, Served
from tests.work.paths import CALL_SPARE, Measured, path
from tests.work.stepped import Stepped, step_until, stepped_pair

#: Seconds that a thread may need until it has done what it has begun. After
#: that the loops go on without it, and this round is not the best one.
_PATIENCE = 0.2


@path("one call, stepped")
def one_call() -> Measured:
    return _calls(1, 10)


@path("16 calls at once, stepped")
def calls_at_once() -> Measured:
    """Each in a thread of its own; they travel together.

    The first workers may have answered before the loop is through with the last call, and
    how many of them come for the calls is up to the system.
    """
    return _calls(16, 8, loop_spare=0.3, worker_spare=0.1)


class _Lock(LockSleeper):
    """Takes the place of a descriptor, and is kept and used again as that would be."""


def _calls(
    count: int, times: int, *, loop_spare: float = 0.0, worker_spare: float = 0.0
) -> Measured:
    """What so many calls at a time take, at best.

    :param loop_spare: how much more the loops may do, as a share of that
    :param worker_spare: how much more the workers may do
    """
    with (
        # On a descriptor, who is woken would run in the middle of a step, or not.
        mock.patch.object(_sleepers, "_DescriptorSleeper", _Lock),
        mock.patch.object(_sleepers, "_spare", []),
        Threads() as threads,
        stepped_pair(bob={"serve": {"served": Served()}}) as (alice, bob),
    ):
        callers = _Callers(count, alice, bob, threads)
        rounds = [callers.call() for _ in range(times)]
    measured = Measured(count * times)
    shares = {"callers": 0.0, "workers": worker_spare}
    for part in rounds[-1]:
        measured.parts[part] = sum((each[part] for each in rounds), Work())
        value = min(each[part].calls for each in rounds) / count
        spare = value * shares.get(part, loop_spare)
        measured.add(f"{part}: Python calls", value, max(CALL_SPARE, spare))
    for part in ("alice's loop", "bob's loop"):
        least = min(each[part].sends + each[part].receives for each in rounds)
        measured.add(f"{part}: sends and receives for {count}", least, 2 if count > 1 else 0)
    return measured


class _Callers:
    """Threads with a call each, and the two peers."""

    def __init__(self, count: int, alice: Stepped, bob: Stepped, threads: Threads) -> None:
        self._count = count
        self._alice = alice
        self._bob = bob
        self._threads = threads
        self._echo = alice.peer.proxy("bob", "served").echo
        self._done: list[Meter] = []

    def call(self) -> dict[str, Work]:
        """One round; what everybody does."""
        alice, bob = self._alice, self._bob
        # What is acknowledged later is not a part of the next round.
        step_until(lambda: not alice.peer.queued() + bob.peer.queued(), alice, bob)
        with _frozen_clock():
            # All timers that are due by then.
            self._step()
            before = self._worked()
            self._done, alice.meter, bob.meter = [], Meter(), Meter()
            self._travel()
            done = {
                "callers": sum((meter.work for meter in self._done), Work()),
                "alice's loop": alice.meter.work,
                "bob's loop": bob.meter.work,
                "workers": self._worked() - before,
            }
        # What follows is not a part of this round.
        alice.meter, bob.meter = Meter(), Meter()
        return done

    def _travel(self) -> None:
        callers = [threading.Thread(target=self._call_once) for _ in range(self._count)]
        for caller in callers:
            caller.start()
        wait_until(lambda: self._alice.peer.queued() == self._count)
        self._step_until(lambda: self._bob.peer.queued() == self._count)
        self._worked()
        self._step_until(lambda: len(self._done) == self._count)
        for caller in callers:
            caller.join()

    def _call_once(self) -> None:
        with Meter() as meter:
            self._echo(SMALL)
        self._done.append(meter)

    def _step(self) -> None:
        self._alice.step()
        self._bob.step()

    def _step_until(self, condition: Callable[[], bool]) -> None:
        """Let the threads do what they can after each pass of both loops."""

        def step() -> bool:
            self._step()
            try:
                return wait_until(condition, _PATIENCE)
            except AssertionError:
                return False

        wait_until(step)

    def _worked(self) -> Work:
        """What the workers have done when they have nothing to do."""
        return self._threads.settled(WORKERS)[WORKERS]


@contextlib.contextmanager
def _frozen_clock() -> Iterator[None]:
    """No timer of a loop becomes due, and nobody waits awake in vain, however long it takes."""
    now = itertools.repeat(monotonic()).__next__
    with (
        mock.patch("snakemq._io.loop.monotonic", now),
        mock.patch("snakemq.rpc._awake.LONGEST_WAIT", DEADLINE),
    ):
        yield
