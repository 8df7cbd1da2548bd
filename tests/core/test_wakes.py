"""Wakes of other threads that are put off to the end of a pass."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from snakemq._io import loop
from snakemq._wakes import flush_wakes, hold_wakes, release_wakes, wake
from snakemq.link import Link
from tests.helpers import DEADLINE, wait_until


class Asleep(threading.Event):
    """A sleeper of which can be seen whether it was woken."""

    def sleep(self, timeout: float | None = None) -> bool:
        return self.wait(timeout)

    def wake(self) -> None:
        self.set()


def test_a_thread_that_puts_nothing_off_wakes_at_once() -> None:
    sleeper = Asleep()
    wake(sleeper)
    assert sleeper.is_set()


def test_in_between_nobody_is_woken() -> None:
    sleepers = [Asleep(), Asleep()]
    hold_wakes()
    for sleeper in sleepers:
        wake(sleeper)
    assert not any(sleeper.is_set() for sleeper in sleepers)
    release_wakes()
    assert all(sleeper.is_set() for sleeper in sleepers)
    release_wakes()


def test_each_thread_puts_off_its_own() -> None:
    sleeper = Asleep()
    hold_wakes()
    thread = threading.Thread(target=wake, args=(sleeper,))
    thread.start()
    thread.join(DEADLINE)
    assert sleeper.is_set()
    release_wakes()


def test_a_loop_wakes_at_the_end_of_its_pass() -> None:
    link = Link()
    sleeper = Asleep()
    seen: list[bool] = []
    link.call_soon(wake, sleeper)
    link.call_soon(lambda: seen.append(sleeper.is_set()))
    link.step(0)
    assert seen == [False]
    assert sleeper.is_set()
    link.cleanup()


def test_who_is_woken_may_send_before_the_loop_sleeps_and_the_loop_waits_for_that() -> None:
    link = Link()
    done: list[str] = []
    is_borrowed = threading.Event()

    def send() -> bool:
        is_borrowed.set()
        wait_until(lambda: not link.is_asleep())  # the loop goes on
        done.append("sent")
        return True

    class Caller(Asleep):
        def wake(self) -> None:
            thread.start()
            assert is_borrowed.wait(DEADLINE)

    thread = threading.Thread(target=link.run_here, args=(send,))
    link.call_soon(wake, Caller())
    link.step(0)
    assert done == ["sent"]
    thread.join(DEADLINE)
    link.cleanup()


def test_a_loop_that_has_more_to_do_is_not_taken_for_asleep() -> None:
    link = Link()
    seen: list[bool] = []

    class Caller(Asleep):
        def wake(self) -> None:
            seen.append(link.is_asleep())

    link.call_soon(wake, Caller())
    link.step(0)
    link.call_soon(wake, Caller())
    link.call_soon(link.wakeup_poll)
    link.step(0)
    link.call_soon(wake, Caller())
    link.call_soon(link.cleanup)
    link.step(0)
    assert seen == [True, False, False]


def test_a_loop_that_is_interrupted_wakes_them_too() -> None:
    link = Link()
    sleeper = Asleep()

    def interrupt() -> None:
        raise KeyboardInterrupt

    link.call_soon(wake, sleeper)
    link.call_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        link.step(0)
    assert sleeper.is_set()
    again = Asleep()
    wake(again)
    assert again.is_set()  # nothing is put off any more
    link.cleanup()


@pytest.mark.parametrize("also", [0, 1])
def test_an_interrupt_among_the_wakes_leaves_nobody_asleep(also: int) -> None:
    link = Link()
    sleepers = [Asleep() for _ in range(5)]

    class Interrupting(Asleep):
        def wake(self) -> None:
            if not self.is_set():
                self.set()
                raise KeyboardInterrupt

    sleepers.insert(also, Interrupting())
    for sleeper in sleepers:
        link.call_soon(wake, sleeper)
    with pytest.raises(KeyboardInterrupt):
        link.step(0)
    assert all(sleeper.is_set() for sleeper in sleepers)
    again = Asleep()
    wake(again)
    assert again.is_set()  # nothing is put off any more
    link.cleanup()


@pytest.mark.parametrize("where", ["are_held", "release_wakes"])
def test_an_interrupt_before_the_wakes_leaves_nobody_asleep(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Link()
    sleeper = Asleep()
    real = getattr(loop, where)
    interrupts = iter([KeyboardInterrupt])

    def interrupted() -> object:
        for interrupt in interrupts:
            raise interrupt
        return real()

    monkeypatch.setattr(loop, where, interrupted)
    link.call_soon(wake, sleeper)
    with pytest.raises(KeyboardInterrupt):
        link.loop(count=1)
    assert sleeper.is_set()
    again = Asleep()
    wake(again)
    assert again.is_set()
    link.cleanup()


def test_who_waits_in_the_middle_of_a_pass_wakes_others_first() -> None:
    sleeper = Asleep()
    hold_wakes()
    wake(sleeper)
    flush_wakes()
    assert sleeper.is_set()
    again = Asleep()
    wake(again)
    assert not again.is_set()
    release_wakes()
    assert again.is_set()


@pytest.mark.parametrize("run", [lambda link: link.step(0), lambda link: link.loop(runtime=0.0)])
def test_a_loop_that_a_callback_runs_loses_no_wake(run: Callable[[Link], object]) -> None:
    outer, inner = Link(), Link()
    before, behind = Asleep(), Asleep()
    outer.call_soon(wake, before)
    outer.call_soon(run, inner)
    outer.call_soon(wake, behind)
    outer.step(0)
    assert before.is_set()
    assert behind.is_set()
    inner.cleanup()
    outer.cleanup()


def test_a_loop_that_a_callback_runs_wakes_before_it_sleeps() -> None:
    outer, inner = Link(), Link()
    sleeper = Asleep()
    seen: list[bool] = []

    def stop_when_awake() -> None:
        seen.append(sleeper.sleep(DEADLINE))
        inner.stop()

    thread = threading.Thread(target=stop_when_awake)
    thread.start()
    outer.call_soon(wake, sleeper)
    outer.call_soon(inner.loop)
    outer.step(0)
    thread.join(DEADLINE)
    assert seen == [True]
    inner.cleanup()
    outer.cleanup()
