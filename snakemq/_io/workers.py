"""Threads for work that may take long, so that the loop does not wait for it."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any, Final, TypeAlias

from snakemq._io.clock import monotonic
from snakemq._sleepers import Sleeper, borrow_sleeper, return_sleeper
from snakemq._wakes import flush_wakes, wake

__all__ = ["IDLE_TIMEOUT", "WorkerPool"]

#: How long a worker without work stays, in seconds. Short: a thread is started
#: within a tenth of a millisecond.
IDLE_TIMEOUT: Final = 2.0

_Task: TypeAlias = "tuple[Callable[..., object], tuple[Any, ...]]"

_log = logging.getLogger("snakemq.workers")


class WorkerPool:
    """Runs functions in threads that are started when needed and used again.

    Tasks wait in the order in which they came; their number is not limited. One
    idle worker is called at a time, and calls the next one if it finds more than
    it takes: who is still busy when many tasks come, and done before the next one
    is awake, takes one of them, and nobody is woken for it. It is the one that
    became idle last, so that the others grow old and leave.

    The threads are daemons: the interpreter does not wait for them at its
    exit. In a forked child the pool starts empty, without what waited in the
    parent. Methods may be called from any thread.

    :param max_workers: how many threads run at a time, at most
    :param name: threads are called ``name-1``, ``name-2``, ...
    :param idle_timeout: how long a thread waits for the next task before it
        ends, in seconds
    :param linger: ``func(wanted)``; called by a worker that has no task left, before it
        falls asleep. It may bring about the next task, and must return when ``wanted()``
        is false. One worker does so at a time, while all others are idle, and takes what
        comes.
    """

    def __init__(
        self,
        max_workers: int,
        name: str,
        idle_timeout: float = IDLE_TIMEOUT,
        linger: Callable[[Callable[[], bool]], object] | None = None,
    ) -> None:
        if max_workers < 1:
            raise ValueError(f"max_workers must be at least 1, not {max_workers!r}")
        self.max_workers = max_workers
        self.name = name
        self.idle_timeout = idle_timeout
        self._linger = linger
        self._stopped = False
        self._begin()
        _pools.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Sleeper] = []
        self._calling = False  # a worker is on its way to what waits
        self._waiting: deque[_Task] = deque()
        self._threads: set[threading.Thread] = set()
        self._next_number = count(1).__next__

    @property
    def workers(self) -> int:
        """How many threads there are, busy and idle."""
        return len(self._threads)

    @property
    def idle(self) -> int:
        """How many of them have nothing to do."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """How many tasks wait for a worker."""
        return len(self._waiting)

    def submit(self, func: Callable[..., object], *args: Any) -> None:
        """Have ``func(*args)`` called in one of the threads.

        What it raises is logged and ends nothing but the task.

        :raises RuntimeError: the pool was stopped, or the system gives no
            thread to a pool that has none
        """
        with self._lock:
            if self._stopped:
                raise RuntimeError(f"the worker pool {self.name!r} was stopped")
            self._waiting.append((func, args))
            if not self._calling:
                try:
                    self._call_one()
                except RuntimeError:
                    self._waiting.pop()
                    raise

    def _call_one(self) -> None:
        """Have a worker come for what waits, if there is one to be had. With the lock."""
        if self._idle:
            wake(self._idle.pop())
            self._calling = True
        elif len(self._threads) < self.max_workers:
            self._calling = self._start()

    def _start(self) -> bool:
        """One thread more. False if the system has none, and others can do the work."""
        name = f"{self.name}-{self._next_number()}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                raise
            _log.warning("%s: no thread to be had, %d do the work", self.name, len(self._threads))
            return False
        self._threads.add(thread)
        return True

    def stop(self, timeout: float = 0.0) -> bool:
        """Take no more tasks, and drop those that wait because all workers are busy.

        What runs, or is about to, is not interrupted. A second call only waits once more.

        :param timeout: how long to wait for the running tasks, in seconds
        :return: whether all threads have ended
        """
        with self._lock:
            if not self._stopped:
                self._stopped = True
                self._drop_waiting()
            for called in self._idle:
                called.wake()
            self._idle.clear()
            threads = self._threads - {threading.current_thread()}
        flush_wakes()  # this may be the loop, which does not get to the end of its pass
        deadline = monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _drop_waiting(self) -> None:
        """Forget what there is no worker for; for the others, have one. With the lock."""
        free = len(self._idle) + self._calling
        while len(self._waiting) > free and len(self._threads) < self.max_workers:
            try:
                if not self._start():
                    break
            except RuntimeError:  # no thread at all
                break
            free += 1
        dropped = len(self._waiting) - free
        if dropped > 0:
            _log.warning("%s: %d tasks dropped", self.name, dropped)
            for _ in range(dropped):
                self._waiting.pop()

    def take_next(self) -> tuple[Any, ...] | None:
        """The arguments of the task that is next, if one waits. In a worker.

        For a task that has ended, where all are calls of one function: it goes on with them
        itself.
        """
        if not self._waiting:  # it looks again before it sleeps
            return None
        with self._lock:
            return self._take()[1] if self._waiting else None

    def _take(self) -> _Task:
        """The first one that waits. With the lock."""
        task = self._waiting.popleft()
        if self._waiting and not self._calling:
            self._call_one()
        return task

    def _run(self) -> None:
        called = borrow_sleeper()
        task = self._next_task(called, was_called=True)
        while task is not None:
            func, args = task
            try:
                func(*args)
            except BaseException:
                # SystemExit too: it is about the task and not about the
                # thread, which is needed again.
                _log.exception("exception in %r", func)
            # An idle worker must not keep alive what it worked on.
            del func, args, task
            task = self._next_task(called)
        return_sleeper(called)

    def _next_task(self, called: Sleeper, *, was_called: bool = False) -> _Task | None:
        """Wait for work. ``None``: leave.

        :param called: where it sleeps until somebody has some
        :param was_called: it is on its way to what waits
        """
        is_idle = is_late = False
        while True:
            with self._lock:
                if is_idle:
                    # It may have been woken for nothing, or called when its time was over.
                    was_called = called not in self._idle
                    if not was_called:
                        self._idle.remove(called)
                if was_called:
                    self._calling = False
                if self._waiting:
                    return self._take()
                if self._stopped or (is_late and not was_called):
                    # Both at once: a thread that is counted and does not look any more
                    # would be waited for in vain.
                    self._forget_thread()
                    return None
                # Who was called and came too late does not stay awake for that, and nobody
                # while others are at work.
                is_idle = (
                    self._linger is None
                    or was_called
                    or self._calling
                    or len(self._threads) != len(self._idle) + 1
                )
                if is_idle:
                    self._idle.append(called)
                else:
                    self._calling = True
            if is_idle:
                is_late = not called.sleep(self.idle_timeout)
            else:
                self._stay_awake()
                was_called = True

    def _stay_awake(self) -> None:
        assert self._linger is not None
        try:
            self._linger(self._has_nothing)
        except BaseException:  # as of a task: the thread is needed again
            _log.exception("exception in %r", self._linger)

    def _has_nothing(self) -> bool:
        return not (self._waiting or self._stopped)

    def _forget_thread(self) -> None:
        self._threads.discard(threading.current_thread())

    def __repr__(self) -> str:
        return (
            f"<WorkerPool {self.name!r} workers={self.workers} idle={self.idle} "
            f"waiting={self.waiting}>"
        )


_pools: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _begin_again() -> None:
    # No thread but the one that forked exists in the child, and any lock may
    # be held by one that does not.
    for pool in list(_pools):
        pool._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again)
