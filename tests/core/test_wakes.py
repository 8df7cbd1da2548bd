"""Wakes of other threads that are put off to the end of a pass."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from snakemq._wakes import flush_wakes, hold_wakes, release_wakes, wake
from snakemq.link import Link
from tests.helpers import DEADLINE


def taken() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


def test_a_thread_that_puts_nothing_off_wakes_at_once() -> None:
    lock = taken()
    wake(lock)
    assert not lock.locked()


def test_in_between_nobody_is_woken() -> None:
    locks = [taken(), taken()]
    hold_wakes()
    for lock in locks:
        wake(lock)
    assert all(lock.locked() for lock in locks)
    release_wakes()
    assert not any(lock.locked() for lock in locks)
    release_wakes()


def test_each_thread_puts_off_its_own() -> None:
    lock = taken()
    hold_wakes()
    thread = threading.Thread(target=wake, args=(lock,))
    thread.start()
    thread.join(DEADLINE)
    assert not lock.locked()
    release_wakes()


def test_a_loop_wakes_at_the_end_of_its_pass() -> None:
    link = Link()
    lock = taken()
    seen: list[bool] = []
    link.call_soon(wake, lock)
    link.call_soon(lambda: seen.append(lock.locked()))
    link.step(0)
    assert seen == [True]
    assert not lock.locked()
    link.cleanup()


def test_a_loop_that_is_interrupted_wakes_them_too() -> None:
    link = Link()
    lock = taken()

    def interrupt() -> None:
        raise KeyboardInterrupt

    link.call_soon(wake, lock)
    link.call_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        link.step(0)
    assert not lock.locked()
    again = taken()
    wake(again)
    assert not again.locked()  # nothing is put off any more
    link.cleanup()


def test_who_waits_in_the_middle_of_a_pass_wakes_others_first() -> None:
    lock = taken()
    hold_wakes()
    wake(lock)
    flush_wakes()
    assert not lock.locked()
    again = taken()
    wake(again)
    assert again.locked()
    release_wakes()
    assert not again.locked()


@pytest.mark.parametrize("run", [lambda link: link.step(0), lambda link: link.loop(runtime=0.0)])
def test_a_loop_that_a_callback_runs_loses_no_wake(run: Callable[[Link], object]) -> None:
    outer, inner = Link(), Link()
    before, behind = taken(), taken()
    outer.call_soon(wake, before)
    outer.call_soon(run, inner)
    outer.call_soon(wake, behind)
    outer.step(0)
    assert not before.locked()
    assert not behind.locked()
    inner.cleanup()
    outer.cleanup()


def test_a_loop_that_a_callback_runs_wakes_before_it_sleeps() -> None:
    outer, inner = Link(), Link()
    lock = taken()
    seen: list[bool] = []

    def stop_when_awake() -> None:
        seen.append(lock.acquire(timeout=DEADLINE))
        inner.stop()

    thread = threading.Thread(target=stop_when_awake)
    thread.start()
    outer.call_soon(wake, lock)
    outer.call_soon(inner.loop)
    outer.step(0)
    thread.join(DEADLINE)
    assert seen == [True]
    inner.cleanup()
    outer.cleanup()
