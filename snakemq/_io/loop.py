"""The loop: sleep until there is something to do, and do it.

One engine, :meth:`Loop.step`, that anything can drive: :meth:`Loop.loop`, a
thread, another event loop.
"""

from __future__ import annotations

import selectors
import threading
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any, Final

from snakemq._io.clock import monotonic
from snakemq._io.timers import Timer, Timers
from snakemq._io.wakeup import Bell
from snakemq._longest_wait import longest_wait
from snakemq._wakes import are_held, flush_wakes, hold_wakes, release_wakes
from snakemq.callbacks import CallbackOwner

__all__ = ["POLL_TIMEOUT", "Loop"]

#: The default of ``poll_timeout``, in seconds.
POLL_TIMEOUT: Final = 0.2

#: How long the system is told to wait at once, at most, in seconds: it counts
#: milliseconds, and not to infinity.
_LONGEST_WAIT: Final = 3600.0


class Loop(CallbackOwner):
    """Events of a selector, timers, and calls from other threads.

    Not thread-safe, except for :meth:`wakeup_poll`, :meth:`call_soon`,
    :meth:`run_here` and :meth:`stop`.
    """

    def __init__(self) -> None:
        self.selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._bell = Bell()
        self.selector.register(self._bell, selectors.EVENT_READ, self._bell)
        self._timers = Timers()
        self._soon: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._running = False
        self._closed = False
        # Whoever gives the loop something to do rings the bell only if the
        # loop sleeps or is about to. Set before the loop looks for work the
        # last time, read after the work was added: one of the two sees it.
        self._sleeping = False
        #: what :meth:`_end_pass` has to do: there is no time to sleep
        self._ready: deque[Any] = deque()
        self._wakeup_requested = False
        self._thread: int | None = None  # that is in a pass
        # Held by whoever does what the loop does: the loop in a pass, or a
        # thread that borrows the stack while the loop sleeps. Reentrant, for
        # who drives a link from inside one of its callbacks.
        self._turn = threading.RLock()
        self._is_lent = False  # to a thread, which must not borrow it once more
        # The threads that borrow it, or are about to.
        self._borrowers: list[int] = []

    # What the class that runs on the loop says.

    def _handle_event(self, source: Any, mask: int) -> None:
        """Something that was registered with the selector has an event."""
        raise NotImplementedError

    def _end_pass(self) -> int:
        """All events, timers and calls of this pass are done.

        :return: how many events more there were
        """
        raise NotImplementedError

    def _has_ticks(self) -> bool:
        """Whether somebody wants a pass each ``poll_timeout``."""
        raise NotImplementedError

    # For everybody.

    #: Seconds on a clock that only goes forward.
    time = staticmethod(monotonic)

    def call_later(self, delay: float, func: Callable[..., object], *args: object) -> Timer:
        """Call ``func(*args)`` in the loop's thread after ``delay`` seconds."""
        timer = self._timers.call_at(monotonic() + delay, func, args)
        if self._is_lent and self._timers.is_next(timer):
            self.wakeup_poll()  # it sleeps for longer
        return timer

    def call_soon(self, func: Callable[..., object], *args: object) -> None:
        """Call ``func(*args)`` in the loop's thread, soon, in order. Thread-safe."""
        self._soon.append((func, args))
        if self._sleeping:
            self._wake()

    def run_here(self, func: Callable[..., bool], *args: object) -> bool:
        """Call ``func(*args)`` in this thread and now, if the loop sleeps. Thread-safe.

        The loop stays asleep, and so costs nothing; it does not go on before
        ``func`` has returned. That may send. It must not wait, nor call what
        was promised to be called in the loop's thread.

        :return: what ``func`` returned; false if it was not called
        """
        # Lent to this thread, perhaps: a finalizer may run in the middle of ``func``,
        # and make a call.
        if not self._sleeping or self._is_lent:
            return False
        thread = get_ident()
        mine: bool | None = None
        try:
            # Before it has the turn: who waited for the loop from then on would wait for
            # ever, and a signal handler may come anywhere.
            self._borrowers.append(thread)
            mine = self._turn.acquire(blocking=False)
            # Once more: it may have woken, and be between two passes.
            if not mine or not self._sleeping:
                return False
            self._is_lent = True
            return func(*args)
        finally:
            if mine:
                self._is_lent = False
            try:
                if mine is not False:
                    # None: Ctrl-C came, perhaps when it was acquired already.
                    self._turn.release()
            except RuntimeError:
                if mine:
                    raise
            finally:  # also when Ctrl-C came behind the release
                if thread in self._borrowers:
                    self._borrowers.remove(thread)

    def is_asleep(self) -> bool:
        """Whether nobody wants anything of the loop, and it waits for events."""
        return self._sleeping

    def wakeup_poll(self) -> None:
        """Make the loop do a pass now. Thread-safe, also from signal handlers.

        Harmless when the loop does not run: its first pass does not sleep then.
        """
        self._wakeup_requested = True
        if self._sleeping:
            self._wake()

    def _wake(self) -> None:
        try:
            self._sleeping = False
            self._bell.ring()
        except BaseException:
            # Ctrl-C: nobody else would ring for what they have.
            self._bell.ring()
            raise

    def is_inside_loop(self) -> bool:
        """Whether the loop can't go on before the calling thread does. Thread-safe.

        That is inside a callback, timer or call, and of :meth:`run_here`.
        """
        thread = get_ident()
        return self._thread == thread or thread in self._borrowers

    def loop(
        self,
        poll_timeout: float | None = POLL_TIMEOUT,
        count: int | None = None,
        runtime: float | None = None,
    ) -> None:
        """Run the stack until :meth:`stop`.

        The loop sleeps until there is something to do. ``KeyboardInterrupt``
        and ``SystemExit`` out of a callback leave it; it can be called again.

        :param poll_timeout: how long a pass without events takes at most, in
            seconds, as long as somebody listens to ``on_loop_pass``
        :param count: leave after so many passes that had an event (a
            :meth:`wakeup_poll` is one), or ``None``
        :param runtime: leave after so many seconds, or ``None``
        :raises RuntimeError: it is running already, or the link was cleaned up
        """
        self._check_open()
        if self._running:
            raise RuntimeError("this link's loop is running already")
        self._running = True
        end = None if runtime is None else monotonic() + runtime
        longest = longest_wait()
        flush_wakes()  # a callback of another loop may be what runs this one
        try:
            while self._running and count != 0:
                timeout = longest
                if poll_timeout is not None and self._has_ticks():
                    timeout = min(timeout, poll_timeout)
                if end is not None:
                    timeout = min(timeout, max(0.0, end - monotonic()))
                if self.step(timeout) and count is not None:
                    count -= 1
                if end is not None and monotonic() >= end:
                    break
        finally:
            self._running = False
            release_wakes()  # should Ctrl-C have come in step() just before that

    def stop(self) -> None:
        """Leave :meth:`loop` after this pass. Closes nothing. Thread-safe."""
        self._running = False
        self.wakeup_poll()

    def step(self, timeout: float | None = None) -> int:
        """One pass: wait for events, handle them, timers, calls, ``on_loop_pass``.

        :param timeout: how long to wait for an event at most, in seconds;
            ``None``: until there is one, or a timer
        :return: how many events there were
        """
        deadline = self._timers.deadline()
        if deadline is not None:
            rest = max(0.0, deadline - monotonic())
            timeout = rest if timeout is None else min(timeout, rest)
        if timeout is not None:
            timeout = min(timeout, _LONGEST_WAIT)
        self._sleeping = True
        if self._wakeup_requested or self._soon or self._ready:
            self._sleeping = False  # it goes on by itself, with what comes meanwhile, too
            timeout = 0
        try:
            events = self.selector.select(timeout)
        finally:
            self._sleeping = False
        try:
            with self._turn:
                before = self._thread  # this one, if a callback drives the loop
                self._thread = get_ident()
                try:
                    hold_wakes()  # here, so that no Ctrl-C behind it leaves it at that
                    return self._handle_pass(events, deadline)
                finally:
                    self._thread = before
        finally:
            try:
                if are_held():
                    self._wake_as_if_asleep()
            finally:  # also when Ctrl-C came before it has begun
                release_wakes()

    def _wake_as_if_asleep(self) -> None:
        """Wake those whose waking was put off; they run before the loop sleeps, and can send."""
        self._sleeping = not (self._closed or self._wakeup_requested or self._soon or self._ready)
        try:
            flush_wakes()
        finally:
            self._sleeping = False
            with self._turn:  # whoever has borrowed the stack gives it back first
                pass

    def _handle_pass(
        self, events: list[tuple[selectors.SelectorKey, int]], deadline: float | None
    ) -> int:
        """Do what there is to do.

        :param deadline: when the first timer is due, of those that were there before the events
        """
        count = len(events)
        for key, mask in events:
            if key.data is self._bell:
                self._bell.drain()
                count -= 1
            else:
                self._handle_event(key.data, mask)
        # Cleared after the bell is drained and before the work is looked for.
        if self._wakeup_requested:
            self._wakeup_requested = False
            count += 1
        if deadline is not None and deadline <= monotonic():
            self._run_timers()
        # Twice: what was asked for meanwhile needs no pass of its own. Threads that were
        # woken in this one ask for what they have to be sent.
        for _ in range(2):
            for _ in range(len(self._soon)):
                if not self._soon:
                    break  # one of them has driven the loop, or closed it
                func, args = self._soon.popleft()
                self._run(func, args)
        return count + self._end_pass()

    def _run_timers(self) -> None:
        deadline = self._timers.deadline()
        now = monotonic()
        # One at a time: KeyboardInterrupt may leave, a timer may cancel another.
        while deadline is not None and deadline <= now:
            func, args = self._timers.pop()
            self._run(func, args)
            deadline = self._timers.deadline()

    def _run(self, func: Callable[..., object], args: tuple[object, ...]) -> None:
        try:
            func(*args)
        except Exception as exc:
            self.callback_failed("timer or call_soon", func, (), exc)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this link was cleaned up; make a new one")

    def _close_loop(self) -> None:
        self._closed = True
        self._timers.clear()
        self._soon.clear()
        self.selector.close()
        self._bell.close()
