"""What threads sleep on."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from types import FrameType
from unittest import mock

import pytest

from snakemq import _sleepers
from snakemq._sleepers import (
    LockSleeper,
    Sleeper,
    borrow_sleeper,
    return_sleeper,
    sleep_while,
)
from tests.helpers import DEADLINE

linux = pytest.mark.skipif(sys.platform != "linux", reason="eventfd")

each_kind = pytest.mark.parametrize("make", [LockSleeper, borrow_sleeper])


def descriptors() -> int:
    """How many eventfds this process has."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of listdir()
            count += "eventfd" in os.readlink(f"/proc/self/fd/{name}")
    return count


@each_kind
def test_who_is_woken_goes_on(make: Callable[[], Sleeper]) -> None:
    sleeper = make()
    woken: list[bool] = []
    thread = threading.Thread(target=lambda: woken.append(sleeper.sleep()))
    thread.start()
    sleeper.wake()
    thread.join(DEADLINE)
    assert woken == [True]


@each_kind
def test_who_was_woken_before_does_not_fall_asleep(make: Callable[[], Sleeper]) -> None:
    sleeper = make()
    sleeper.wake()
    assert sleeper.sleep()
    sleeper.wake()
    assert sleeper.sleep(DEADLINE)


@each_kind
@pytest.mark.parametrize("timeout", [0, 0.001, -1.0])
def test_the_time_may_be_over(make: Callable[[], Sleeper], timeout: float) -> None:
    sleeper = make()
    assert not sleeper.sleep(timeout)
    sleeper.wake()
    assert sleeper.sleep(timeout)


@each_kind
def test_to_be_woken_twice_is_to_be_woken(make: Callable[[], Sleeper]) -> None:
    sleeper = make()
    for _ in range(3):
        sleeper.wake()
    assert sleeper.sleep(0)
    assert not sleeper.sleep(0)


@each_kind
def test_no_wake_is_lost(make: Callable[[], Sleeper]) -> None:
    there, back = make(), make()
    count = 2000

    def answer() -> None:
        for number in range(count):
            assert there.sleep(DEADLINE if number % 2 else None)
            back.wake()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    for number in range(count):
        there.wake()
        assert back.sleep(None if number % 2 else DEADLINE)
    thread.join(DEADLINE)


@linux
def test_they_sleep_on_descriptors_that_are_closed_with_them() -> None:
    _sleepers._spare.clear()
    before = descriptors()
    sleepers = [borrow_sleeper()]
    assert descriptors() == before + 1
    sleepers.clear()
    gc.collect()
    assert descriptors() == before


@linux
def test_the_process_has_few_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    _sleepers._spare.clear()
    gc.collect()
    monkeypatch.setattr(_sleepers, "MAX_DESCRIPTORS", len(_sleepers._descriptors) + 3)
    before = descriptors()
    sleepers = [borrow_sleeper() for _ in range(10)]
    assert descriptors() == before + 3
    assert sum(isinstance(sleeper, LockSleeper) for sleeper in sleepers) == 7


@linux
def test_without_a_descriptor_a_lock_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(initial: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "eventfd", none_left)
    _sleepers._spare.clear()
    assert isinstance(borrow_sleeper(), LockSleeper)


def test_elsewhere_a_lock_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    _sleepers._spare.clear()
    monkeypatch.setattr(sys, "platform", "win32")
    assert isinstance(borrow_sleeper(), LockSleeper)
    monkeypatch.undo()
    monkeypatch.delattr(os, "eventfd", raising=False)  # a system without it
    assert isinstance(borrow_sleeper(), LockSleeper)


def test_one_that_was_returned_is_used_again() -> None:
    _sleepers._spare.clear()
    sleeper = borrow_sleeper()
    return_sleeper(sleeper)
    assert borrow_sleeper() is sleeper
    assert borrow_sleeper() is not sleeper


@linux
def test_a_lock_is_not_used_again_when_there_may_be_descriptors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _sleepers._spare.clear()
    monkeypatch.setattr(_sleepers, "MAX_DESCRIPTORS", 0)
    return_sleeper(borrow_sleeper())
    monkeypatch.undo()
    assert not isinstance(borrow_sleeper(), LockSleeper)


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="there is no fork")
def test_a_forked_process_sleeps_on_its_own() -> None:
    # In a process of its own: this one has threads.
    program = """
import os
from snakemq._sleepers import borrow_sleeper, return_sleeper
spare, own = borrow_sleeper(), borrow_sleeper()
return_sleeper(spare)
child = os.fork()
if not child:
    other = borrow_sleeper()
    for sleeper in (other, own):
        sleeper.wake()
        assert sleeper.sleep(0)
    assert other is not spare
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert not spare.sleep(0) and not own.sleep(0)
own.wake()
assert own.sleep(0)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=DEADLINE)


@each_kind
@pytest.mark.parametrize("timeout", [None, DEADLINE])
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="a signal that comes in time")
def test_ctrl_c_wakes_and_takes_nothing(make: Callable[[], Sleeper], timeout: float | None) -> None:
    sleeper = make()
    main = threading.main_thread().ident
    interrupted: list[int] = []

    def kill() -> None:
        # More than one: the first may come just before it sleeps.
        while not interrupted:
            signal.pthread_kill(main or 0, signal.SIGUSR1)

    def handler(number: int, frame: FrameType | None) -> None:
        # Not before it is about to sleep, nor more than once.
        if frame and frame.f_code is type(sleeper).sleep.__code__ and not interrupted:
            interrupted.append(number)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            sleeper.sleep(timeout)
    finally:
        thread.join(DEADLINE)
        signal.signal(signal.SIGUSR1, before)
    sleeper.wake()
    assert sleeper.sleep(0)


def test_time_does_not_begin_anew_when_it_wakes_for_nothing() -> None:
    now = 0.0
    slept: list[float | None] = []

    class Restless(LockSleeper):
        def sleep(self, timeout: float | None = None) -> bool:
            nonlocal now
            slept.append(timeout)
            now += 0.25
            return True

    def clock() -> float:
        return now

    with mock.patch.object(_sleepers, "monotonic", clock):
        assert not sleep_while(Restless(), lambda: True, 1.0)
        assert slept == [1.0, 0.75, 0.5, 0.25]
        slept.clear()
        assert not sleep_while(Restless(), lambda: True, 1.0, longest=0.6)
        assert slept == [0.6, 0.6, 0.5, 0.25]
        slept.clear()
        assert sleep_while(Restless(), lambda: len(slept) < 2, None, longest=0.6)
        assert slept == [0.6, 0.6]


@each_kind
def test_a_very_long_time_is_cut(make: Callable[[], Sleeper]) -> None:
    sleeper = make()
    sleeper.wake()
    assert sleeper.sleep(1e12)
    sleeper.wake()
    assert sleeper.sleep(float("inf"))
