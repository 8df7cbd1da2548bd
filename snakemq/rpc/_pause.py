"""The loop lets the threads that it has woken run, and goes on when they are through."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from snakemq._sleepers import borrow_sleeper, return_sleeper, sleep_while
from snakemq._wakes import flush_wakes

if TYPE_CHECKING:
    from snakemq._sleepers import Sleeper
    from snakemq.messaging import Messaging

__all__ = ["LONGEST_PAUSE", "Pause"]

#: How long the loop waits at most, in seconds, for each of them and for all together.
_LONGEST_FOR_EACH: Final = 0.0002
LONGEST_PAUSE: Final = 0.002

#: So many do not get in one another's way: two callers take half of the time if the loop
#: goes to sleep while they run, and they send by themselves. Where it is known how many
#: others there are, those that the other side is busy with count, too.
_FEW: Final = 2
_FEW_ALTOGETHER: Final = 5

#: If that many more were woken than the other side has to do, they run in two portions.
_WORTH_A_PORTION: Final = 6

#: If that was in vain so often, it is left out the next two to the power of that times.
_MOST_MISSES: Final = 8


class Pause:
    """What the loop makes between bringing something and sending what comes of it.

    Many threads that were woken by a loop that goes on fight with it for the
    interpreter: each runs for a moment, on another processor, whose cache has nothing of
    what it needs, and what they have to send goes out one by one. If the loop waits until
    they are through, a remote call from one of 16 threads takes half of the time on either
    side, and about ten of them travel together (:doc:`/explanation/where_the_time_goes`).

    It learns from how it went: threads that take their time are not waited for.

    :param messaging: runs the loop
    :param at_work: ``func(ident)``; a number that is one higher for each thread that was
        woken for this peer, until that is through
    :param elsewhere: ``func(ident)``; how many things this peer is working on, whose
        answers will wake threads here
    """

    def __init__(
        self,
        messaging: Messaging,
        at_work: Callable[[str], int],
        elsewhere: Callable[[str], int] | None = None,
    ) -> None:
        self._messaging = messaging
        self._at_work = at_work
        self._elsewhere = elsewhere
        #: whether the loop waits: whoever is through has to :meth:`look`
        self.is_on = False
        self._woken = 0
        self._ident = self._waits_for = ""
        self._before = self._until = 0
        # Where the loop sleeps until the last one that is waited for wakes it.
        self._sleeper: Sleeper | None = None
        self._misses = 0
        self._left_out = 0

    def before_waking(self, ident: str) -> None:
        """One more is going to be woken in this pass. In the loop's thread.

        :param ident: for which peer; only those of the first one in a pass are waited for
        """
        if not self._woken:
            self._ident = ident
            self._before = self._at_work(ident)
            self._messaging.call_soon(self._wait)
        self._woken += 1

    def look(self, ident: str, at_work: int) -> None:
        """A thread is through. Any thread, if the pause :attr:`is_on`; harmless if it is not.

        :param at_work: what ``at_work(ident)`` would return
        """
        if at_work <= self._until and ident == self._waits_for:
            self.is_on = False
            sleeper = self._sleeper
            if sleeper is not None:
                sleeper.wake()

    def _wait(self) -> None:
        """Wait for those that were woken in this pass, if they are many."""
        woken, self._woken = self._woken, 0
        if woken <= _FEW:
            return
        first = woken
        if self._elsewhere is not None:
            elsewhere = self._elsewhere(self._ident)
            if woken + elsewhere <= _FEW_ALTOGETHER:
                return
            # If the other side has less to do than this one, it gets something as soon as
            # both have as much: else they would work in turns, and not at the same time.
            if woken - elsewhere >= _WORTH_A_PORTION:
                first = (woken - elsewhere) // 2
        if self._left_out:
            self._left_out -= 1
            return
        others = woken - first
        ident = self._ident
        if self._wait_for(ident, first, self._before + others) and others:
            # What the first have to send goes out before they run.
            self._messaging.call_soon(self._wait_for, ident, others, self._before)

    def _wait_for(self, ident: str, count: int, rest: int) -> bool:
        """Wake some of them, and let them run.

        :param rest: what ``at_work()`` will say when they are through
        :return: false: they take their time
        """
        # Not the last quarter: the other side has something to do while they run.
        self._until = rest + count // 4
        self._waits_for = ident
        self._sleeper = sleeper = borrow_sleeper()
        self.is_on = True
        try:
            flush_wakes(count)
            if self._at_work(ident) <= self._until:
                return True  # quick methods, for example: that teaches nothing about threads
            longest = min(count * _LONGEST_FOR_EACH, LONGEST_PAUSE)
            if sleep_while(sleeper, lambda: self.is_on, longest):
                self._misses = 0
                return True
            self._misses = min(self._misses + 1, _MOST_MISSES)
            self._left_out = 2**self._misses
            return False
        finally:
            self.is_on = False
            self._sleeper = None
            return_sleeper(sleeper)
