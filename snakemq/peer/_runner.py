"""Runs the loop of a stack, in a thread of its own or in the caller's."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from snakemq.exceptions import PeerClosed
from snakemq.link import Link
from snakemq.peer._waiting import wait_for_event

__all__ = ["Runner"]

T = TypeVar("T")


class Runner:
    """Runs a loop once, and brings calls from other threads into it.

    :param link: the loop to run
    :param name: of the thread, for logs and debuggers
    :param teardown: called when the loop has ended, in the thread in which it
        ran; once, and also if the loop never ran (see :meth:`abandon`)
    """

    def __init__(
        self, link: Link, name: str, log: logging.Logger, teardown: Callable[[], None]
    ) -> None:
        self._link = link
        self._name = name
        self._log = log
        self._teardown = teardown
        # Reentrant: stop() is for signal handlers too, which may interrupt a
        # holder of this lock in the same thread.
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None  # where the loop runs
        self._started = False
        self._begun = False  # the thread that was made here has taken over
        self._ended = threading.Event()
        self._calls: set[Future[Any]] = set()
        self._told = False
        #: what ended the loop, if it was not asked to end
        self.failure: BaseException | None = None

    @property
    def started(self) -> bool:
        """Whether the loop was started, ever."""
        return self._started

    @property
    def ended(self) -> bool:
        """Whether it is all over: everything is closed."""
        return self._ended.is_set()

    @property
    def in_loop(self) -> bool:
        """Whether the loop can't go on before the caller does, who must not wait for it.

        That is in the loop's thread, and in a signal handler or finalizer that came while
        its thread had borrowed the stack.
        """
        if self.ended:
            return False
        return self._thread is threading.current_thread() or self._link.is_inside_loop()

    def start(self) -> bool:
        """Run the loop in a daemonic thread.

        :return: ``False`` if it runs already
        :raises PeerClosed: it has ended
        """
        thread = threading.Thread(target=self._run_in_thread, name=self._name, daemon=True)
        try:
            if not self._begin(thread):
                return False
            thread.start()
        except BaseException:
            # No thread to be had, or Ctrl-C while it was waited for. Either the
            # thread has begun, or it finds that it must not any more.
            with self._lock:
                if self._thread is thread and not self._begun:
                    self._started = False
                    self._thread = None
            raise
        return True

    def run(self) -> None:
        """Run the loop in this thread until it is stopped.

        :raises PeerClosed: it has ended
        :raises RuntimeError: it runs already
        """
        if not self._begin(threading.current_thread()):
            raise RuntimeError("the loop runs already, in another thread")
        try:
            self._run()
        finally:
            self._told = True  # by the exception that leaves here, if there is one

    def _begin(self, thread: threading.Thread) -> bool:
        with self._lock:
            if self.ended:
                raise self.closed()
            if self._started:
                return False
            self._started = True
            self._thread = thread
            return True

    def _run_in_thread(self) -> None:
        with self._lock:
            if self._thread is not threading.current_thread():
                return
            self._begun = True
        try:
            self._run()
        except BaseException as exc:
            # Nobody waits for this thread: what is not said here is never heard.
            self._log.critical("%s: the loop died", self._name, exc_info=exc)

    def _run(self) -> None:
        try:
            self._link.loop()
        except BaseException as exc:
            self.failure = exc
            raise
        finally:
            self._end()

    def abandon(self) -> bool:
        """Tear down what was never started.

        :return: ``False`` if it was
        """
        with self._lock:
            if self._started:
                return False
            self._started = True
        self._end()
        return True

    def _end(self) -> None:
        try:
            self._teardown()
        except BaseException as exc:
            self.failure = self.failure or exc
            raise
        finally:
            with self._lock:
                self._ended.set()
                calls, self._calls = self._calls, set()
            for future in calls:
                if not future.done():
                    future.set_exception(self.closed())

    def join(self, patience: float) -> None:
        """Wait until the loop has ended and everything is closed.

        :param patience: after so many seconds it is logged what keeps it
        """
        if not wait_for_event(self._ended, patience):
            self._log.warning(
                "%s: the loop does not end because a callback does not return:\n%s",
                self._name,
                self._stack(),
            )
            wait_for_event(self._ended, None)
        thread = self._thread
        if self._begun and thread is not None and thread is not threading.current_thread():
            thread.join()

    def _stack(self) -> str:
        ident = self._thread.ident if self._thread is not None else None
        frame = sys._current_frames().get(ident) if ident is not None else None
        return "".join(traceback.format_stack(frame)) if frame is not None else "(unknown)"

    def call(self, func: Callable[..., T], *args: Any) -> T:
        """Call ``func(*args)`` where it meets no running loop, and return its result.

        In the loop's thread if the loop runs, else here.

        :raises PeerClosed: the loop has ended
        """
        with self._lock:
            if self.ended:
                raise self.closed()
            if not self._started or self.in_loop:
                return func(*args)
            future: Future[T] = Future()
            self._calls.add(future)
        self._link.call_soon(self._answer, future, func, args)
        return future.result()

    def _answer(self, future: Future[T], func: Callable[..., T], args: tuple[Any, ...]) -> None:
        with self._lock:
            self._calls.discard(future)
        try:
            result = func(*args)
        except BaseException as exc:
            # It belongs to the caller, who is in another thread. What ends
            # loops (a Ctrl-C that came here by chance) ends this one too.
            future.set_exception(exc)
            if not isinstance(exc, Exception):
                raise
        else:
            future.set_result(result)

    def take_failure(self) -> PeerClosed | None:
        """What to raise if the loop died; the first time only."""
        with self._lock:
            if self.failure is None or self._told:
                return None
            self._told = True
            return self.closed()

    def closed(self) -> PeerClosed:
        """The exception for those who come too late."""
        if self.failure is None:
            return PeerClosed("this peer was stopped; make another one")
        error = PeerClosed(f"the loop of this peer died: {self.failure!r}")
        error.__cause__ = self.failure
        return error
