"""The loop waits for many threads that it has woken, and not for those that take their time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest

from snakemq._sleepers import LockSleeper
from snakemq._wakes import hold_wakes, release_wakes, wake
from snakemq.messaging import Messaging
from snakemq.rpc import _pause
from snakemq.rpc._pause import Pause
from tests.helpers import DEADLINE, wait_until
from tests.work.stepped import step_until, stepped_pair

#: More than few, and how often each of them calls.
CALLERS = 8
ROUNDS = 10


class Woken:
    """The threads that were woken, and the loop's queue of calls; driven by the test.

    :param elsewhere: how much the other side has to do; ``None``: that is not known
    """

    def __init__(self, elsewhere: int | None = None) -> None:
        self.at_work = 0
        #: they are through as soon as the loop begins to wait
        self.are_fast = False
        self.looks = 0
        self.soon: list[Callable[[], object]] = []
        self.pause = Pause(
            cast(Messaging, self),
            self.count,
            None if elsewhere is None else lambda ident: elsewhere,
        )

    def call_soon(self, func: Callable[..., object], *args: object) -> None:
        self.soon.append(partial(func, *args))

    def count(self, ident: str) -> int:
        assert ident == "bob"
        self.looks += 1
        at_work = self.at_work
        while self.are_fast and self.pause.is_on and self.at_work:
            self.through()
        return at_work

    def wake(self, count: int) -> None:
        for _ in range(count):
            self.pause.before_waking("bob")
            self.at_work += 1

    def through(self) -> None:
        """One of them; in a thread of its own."""
        self.at_work -= 1
        if self.pause.is_on:
            self.pause.look("bob", self.at_work)

    def end_pass(self) -> bool:
        """What the loop does before it sends.

        :return: whether it waited, or found that it need not
        """
        self.looks = 0
        (wait,) = self.soon
        self.soon.clear()
        wait()
        assert not self.pause.is_on
        return self.looks > 0

    def whole_pass(self) -> bool:
        """Wake some, and end the pass; after it, they are through. Returns as :meth:`end_pass`."""
        self.wake(3)
        waited = self.end_pass()
        self.at_work = 0
        return waited


class Asleep:
    """One of the threads, which runs as soon as it is woken."""

    def __init__(self, woken: Woken) -> None:
        self._woken = woken
        self.awake = False

    def wake(self) -> None:
        self.awake = True
        self._woken.through()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is just now."""
    monkeypatch.setattr(_pause, "_LONGEST_FOR_EACH", DEADLINE)
    monkeypatch.setattr(_pause, "LONGEST_PAUSE", DEADLINE)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pause, "LONGEST_PAUSE", 0.0)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_threads_are_not_waited_for(count: int, patient: None) -> None:
    woken = Woken()
    woken.wake(count)
    assert not woken.end_pass()


def test_waits_until_the_last_one_is_through(patient: None) -> None:
    woken = Woken()
    seen = []

    def go() -> None:
        wait_until(lambda: woken.pause.is_on)
        for _ in range(3):
            seen.append(woken.pause.is_on)
            woken.through()

    thread = threading.Thread(target=go)
    for _ in range(3):  # every time: it was not in vain
        woken.wake(3)
        thread = threading.Thread(target=go)
        thread.start()
        assert woken.end_pass()
        thread.join(DEADLINE)
        assert woken.at_work == 0
    assert seen == [True] * 9


def test_the_last_quarter_is_not_waited_for(patient: None) -> None:
    woken = Woken()

    def go() -> None:
        wait_until(lambda: woken.pause.is_on)
        for _ in range(6):
            assert woken.pause.is_on
            woken.through()

    thread = threading.Thread(target=go)
    woken.wake(8)
    thread.start()
    assert woken.end_pass()
    assert woken.at_work == 2
    thread.join(DEADLINE)


def test_others_that_are_at_work_for_longer_are_not_waited_for(patient: None) -> None:
    woken = Woken()
    woken.at_work = 5
    woken.wake(3)
    woken.at_work -= 3
    assert woken.end_pass()
    assert woken.at_work == 5


def test_who_is_through_before_the_loop_waits_is_not_waited_for(patient: None) -> None:
    woken = Woken()
    woken.wake(3)
    for _ in range(3):
        woken.through()
    assert woken.end_pass()


def test_only_those_for_the_first_peer_of_a_pass_are_waited_for(patient: None) -> None:
    woken = Woken()

    def go() -> None:
        wait_until(lambda: woken.pause.is_on)
        woken.pause.look("carol", -5)
        assert woken.pause.is_on
        for _ in range(3):
            woken.through()

    thread = threading.Thread(target=go)
    woken.wake(3)
    thread.start()
    assert woken.end_pass()
    thread.join(DEADLINE)


@pytest.mark.parametrize(
    ("woken", "elsewhere", "waited"), [(5, 0, False), (3, 2, False), (3, 3, True), (6, 0, True)]
)
def test_few_altogether_are_not_waited_for(
    woken: int, elsewhere: int, waited: bool, impatient: None
) -> None:
    callers = Woken(elsewhere=elsewhere)
    callers.wake(woken)
    callers.end_pass()
    assert bool(callers.pause._misses) is waited


@pytest.mark.parametrize(
    ("woken", "elsewhere", "portions"),
    [
        (16, 0, [8, 8]),
        (12, 4, [4, 8]),
        (10, 4, [3, 7]),
        (10, 5, [10]),  # there is enough to do on the other side
        (8, 8, [8]),
    ],
)
def test_the_other_side_gets_something_to_do_before_all_have_run(
    woken: int, elsewhere: int, portions: list[int], patient: None
) -> None:
    callers = Woken(elsewhere=elsewhere)
    callers.are_fast = True
    sleepers = [Asleep(callers) for _ in range(woken)]
    hold_wakes()
    try:
        callers.wake(woken)
        for sleeper in sleepers:
            wake(sleeper)
        seen = []
        while callers.soon:
            callers.end_pass()
            seen.append(sum(sleeper.awake for sleeper in sleepers) - sum(seen))
    finally:
        release_wakes()
    assert seen == portions


def test_all_are_woken_at_once_if_the_first_take_their_time(impatient: None) -> None:
    callers = Woken(elsewhere=0)
    callers.wake(16)
    callers.end_pass()
    assert not callers.soon  # the loop wakes the others at the end of its pass


def test_wakes_those_whose_waking_was_put_off(patient: None) -> None:
    woken = Woken()
    sleeper = LockSleeper()

    def sleep() -> None:
        assert sleeper.sleep(DEADLINE)
        for _ in range(3):
            woken.through()

    thread = threading.Thread(target=sleep)
    thread.start()
    hold_wakes()
    try:
        woken.wake(3)
        wake(sleeper)
        assert woken.end_pass()
    finally:
        release_wakes()
        thread.join(DEADLINE)


def test_is_tried_less_and_less_where_threads_take_their_time(impatient: None) -> None:
    woken = Woken()
    tried = [woken.whole_pass() for _ in range(600)]
    assert tried[:15] == [True, *[False] * 2, True, *[False] * 4, True, *[False] * 6]
    assert sum(tried[-300:]) <= 2


def test_is_tried_always_again_once_it_was_worth_it(impatient: None) -> None:
    woken = Woken()
    for _ in range(100):
        woken.whole_pass()
    woken.are_fast = True
    tried = [woken.whole_pass() for _ in range(300)]
    assert tried[-1]
    assert tried == sorted(tried)  # not any more, and then each time


def test_nothing_is_learnt_where_nobody_has_to_be_waited_for(impatient: None) -> None:
    woken = Woken()
    tried = []
    for _ in range(300):
        tried.append(woken.whole_pass())
        # Quick methods, for example: the loop itself is through with them.
        woken.wake(3)
        woken.at_work = 0
        woken.end_pass()
    assert sum(tried[-150:]) <= 3


def test_who_is_through_too_late_ends_no_later_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pause, "_LONGEST_FOR_EACH", 0.0)
    woken = Woken()
    woken.wake(3)
    # In the moment between the end of the time and the end of the pause.
    woken.pause.is_on = True
    woken.at_work = 0
    woken.pause.look("bob", 0)
    woken.pause.look("bob", 0)
    woken.at_work = 3
    assert woken.end_pass()
    assert woken.pause._left_out  # it has waited, and in vain


def test_an_interrupt_leaves_no_pause_behind(patient: None) -> None:
    woken = Woken()
    woken.wake(3)

    def interrupted(ident: str) -> int:
        raise KeyboardInterrupt

    woken.pause._at_work = interrupted
    (wait,) = woken.soon
    with pytest.raises(KeyboardInterrupt):
        wait()
    assert not woken.pause.is_on


class Echo:
    def echo(self, number: int) -> int:
        return number


def test_what_many_threads_call_and_are_answered_travels_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nobody who goes on calling takes so long; who does not is waited for a few times.
    monkeypatch.setattr(_pause, "_LONGEST_FOR_EACH", 0.25)
    monkeypatch.setattr(_pause, "LONGEST_PAUSE", 0.25)
    said: list[int] = []

    with stepped_pair(bob={"serve": {"obj": Echo()}}) as (alice, bob):
        proxy = alice.peer.proxy("bob", "obj", timeout=DEADLINE)
        step_until(lambda: "bob" in alice.peer.rpc_client._outstanding.remotes, alice, bob)

        def call(number: int) -> None:
            for _ in range(ROUNDS):
                said.append(proxy.echo(number))

        threads = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        wait_until(lambda: alice.peer.messaging.queued_messages("bob") == CALLERS)
        step_until(lambda: len(said) == ROUNDS * CALLERS, alice, bob)
        for thread in threads:
            thread.join(DEADLINE)
        # In two pieces each time there and in one or two back, if all goes well.
        assert alice.meter.work.sends < ROUNDS * CALLERS / 2
        assert bob.meter.work.sends < ROUNDS * CALLERS / 2
    assert sorted(said) == sorted([*range(CALLERS)] * ROUNDS)
