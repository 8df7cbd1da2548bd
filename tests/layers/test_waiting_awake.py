"""Whether it is worth it to wait awake, and what becomes of quick methods then."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from snakemq.rpc._awake import LONGEST_WAIT, Lingering, WaitingAwake


class Clock:
    """Messaging, as far as it is used here; time passes only by polling.

    :ivar outcome: what polling does: receive, find nothing until the deadline, or that it is
        not possible now
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.outcome = "nothing"
        self.polled: list[tuple[Any, ...]] = []
        self.soon: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self.shortcut = self
        self.inside: Callable[[], object] = lambda: None

    def time(self) -> float:
        return self.now

    def call_soon(self, func: Callable[..., object], *args: object) -> None:
        self.soon.append((func, args))

    def poll(self, *args: Any) -> bool:
        self.polled.append(args)
        self.inside()
        if self.outcome == "nothing":
            self.now = args[-1]
        return self.outcome == "received"

    def run_soon(self) -> None:
        while self.soon:
            func, args = self.soon.pop(0)
            func(*args)


def deliver(*args: object) -> None:
    """Nothing is delivered."""


def yes() -> bool:
    return True


def tries(clock: Clock, awake: WaitingAwake, count: int) -> list[int]:
    """Which of so many waits were tried."""
    tried = []
    for index in range(count):
        before = len(clock.polled)
        awake.wait("bob", yes)
        if len(clock.polled) > before:
            tried.append(index)
    return tried


def test_it_asks_for_what_it_was_told() -> None:
    clock = Clock()
    WaitingAwake(clock, b"prefix", deliver).wait("bob", yes, about=b"this")  # type: ignore[arg-type]
    assert clock.polled == [("bob", b"prefix", b"this", deliver, yes, LONGEST_WAIT)]


def test_it_waits_no_longer_than_it_may() -> None:
    clock = Clock()
    awake = WaitingAwake(clock, b"", deliver)  # type: ignore[arg-type]
    clock.outcome = "received"
    for longest in (LONGEST_WAIT / 5, 60.0):
        awake.wait("bob", yes, longest=longest)
    assert [args[-1] for args in clock.polled] == [LONGEST_WAIT / 5, LONGEST_WAIT]


def test_in_vain_it_is_tried_less_and_less() -> None:
    clock = Clock()
    awake = WaitingAwake(clock, b"", deliver)  # type: ignore[arg-type]
    tried = tries(clock, awake, 2000)
    gaps = [later - earlier for earlier, later in pairwise(tried)]
    assert gaps[:8] == [3, 5, 9, 17, 33, 65, 129, 257]
    assert set(gaps[8:]) == {257}


def test_success_is_followed_up_at_once() -> None:
    clock = Clock()
    awake = WaitingAwake(clock, b"", deliver)  # type: ignore[arg-type]
    tries(clock, awake, 600)
    clock.outcome = "received"
    assert len(tries(clock, awake, 257)) >= 1
    assert tries(clock, awake, 50) == list(range(50))
    # And what was learnt before is forgotten.
    clock.outcome = "nothing"
    assert tries(clock, awake, 9) == [0, 3, 8]


def test_nothing_is_learnt_where_it_could_not_be_tried() -> None:
    clock = Clock()
    clock.outcome = "impossible"
    awake = WaitingAwake(clock, b"", deliver)  # type: ignore[arg-type]
    assert tries(clock, awake, 100) == list(range(100))


def test_two_threads_that_count_down_together_do_not_end_it_for_ever() -> None:
    clock = Clock()
    awake = WaitingAwake(clock, b"", deliver)  # type: ignore[arg-type]
    awake.wait("bob", yes)
    awake._peers["bob"].left_out = -1  # as if both had seen a 1
    assert tries(clock, awake, 1) == [0]


def test_nobody_lingers_before_the_first_call() -> None:
    clock = Clock()
    lingering = Lingering(clock, deliver)  # type: ignore[arg-type]
    lingering.wait(yes)
    assert clock.polled == []
    lingering.caller = "alice"
    lingering.wait(yes)
    assert clock.polled[0][0] == "alice"


def test_what_is_for_the_loop_runs_at_once_in_the_loop() -> None:
    clock, ran = Clock(), []
    lingering = Lingering(clock, deliver)  # type: ignore[arg-type]
    lingering.run_in_loop(lambda: ran.append(1))
    assert ran == [1]


def test_a_worker_leaves_it_to_the_loop_and_the_order_stays() -> None:
    clock, ran = Clock(), []
    lingering = Lingering(clock, deliver)  # type: ignore[arg-type]
    lingering.caller = "alice"

    def inside() -> None:
        lingering.run_in_loop(lambda: ran.append(1))
        lingering.run_in_loop(lambda: ran.append(2))

    clock.inside = inside
    lingering.wait(yes)
    assert ran == []
    # The loop reads the next one before it comes to what was left to it.
    lingering.run_in_loop(lambda: ran.append(3))
    clock.run_soon()
    lingering.run_in_loop(lambda: ran.append(4))
    assert ran == [1, 2, 3, 4]
    assert clock.soon == []


def test_fast_and_slow_answers_that_take_turns_are_both_tried() -> None:
    clock = Clock()
    awake = WaitingAwake(clock, b"", deliver)  # type: ignore[arg-type]
    tried = {"received": 0, "nothing": 0}
    for turn in range(3000):
        clock.outcome = "nothing" if turn % 2 else "received"
        tried[clock.outcome] += len(tries(clock, awake, 1))
    assert tried["received"] > 500


def test_one_slow_peer_does_not_count_for_others() -> None:
    clock = Clock()
    awake = WaitingAwake(clock, b"", deliver)  # type: ignore[arg-type]
    tries(clock, awake, 1000)
    clock.polled.clear()
    awake.wait("carol", yes)
    assert len(clock.polled) == 1
