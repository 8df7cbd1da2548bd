"""Wakes of other threads that are put off to the end of a pass."""

from __future__ import annotations

import threading

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
