"""The heap of timers, and the bell."""

from __future__ import annotations

import select
import threading

from snakemq._io.timers import Timers
from snakemq._io.wakeup import Bell


def drain(timers: Timers, now: float) -> list[object]:
    called: list[object] = []
    while (deadline := timers.deadline()) is not None and deadline <= now:
        func, args = timers.pop()
        called.append(func(*args))
    return called


def test_timers_come_in_order_and_equal_ones_in_the_order_of_their_making() -> None:
    timers = Timers()
    for when, name in [(2.0, "c"), (1.0, "a"), (2.0, "d"), (1.0, "b"), (9.0, "e")]:
        timers.call_at(when, str, (name,))
    assert drain(timers, 2.0) == ["a", "b", "c", "d"]
    assert len(timers) == 1


def test_a_cancelled_timer_is_not_called() -> None:
    timers = Timers()
    first = timers.call_at(1.0, str, ("first",))
    timers.call_at(2.0, str, ("second",))
    first.cancel()
    first.cancel()
    assert timers.deadline() == 2.0
    assert len(timers) == 1
    assert drain(timers, 5.0) == ["second"]
    first.cancel()
    assert len(timers) == 0


def test_cancelled_timers_do_not_pile_up() -> None:
    timers = Timers()
    for number in range(10_000):
        timers.call_at(float(number), str, ()).cancel()
    assert len(timers) == 0
    assert len(timers._heap) < 200


def test_cancelling_lets_go_of_what_would_have_been_called() -> None:
    timers = Timers()
    timer = timers.call_at(1.0, str, ("something big",))
    timer.cancel()
    assert timer.func is None
    assert timer.args == ()


def readable(bell: Bell) -> bool:
    return bool(select.select([bell], [], [], 0)[0])


def test_a_bell_rings_until_it_is_drained() -> None:
    bell = Bell()
    assert not readable(bell)
    bell.ring()
    bell.ring()
    assert readable(bell)
    bell.drain()
    assert not readable(bell)
    bell.drain()
    bell.close()


def test_a_full_bell_does_not_block() -> None:
    bell = Bell()
    ringer = threading.Thread(target=lambda: [bell.ring() for _ in range(300_000)], daemon=True)
    ringer.start()
    ringer.join(20)
    assert not ringer.is_alive()
    assert readable(bell)
    bell.close()


def test_a_closed_bell_is_silent() -> None:
    bell = Bell()
    bell.close()
    bell.close()
    bell.ring()
    assert bell.fileno() == -1
