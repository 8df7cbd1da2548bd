"""Who is served next: limits for peers and objects, and fair waiting lines.

The tasks of one peer for one object form a line and are begun in the order in
which they came. A line is in one of two places:

* *ready*: lines take turns, one task each;
* *parked*, at the peer or at the object that has as many running tasks as it
  may have. A task that ends sends one parked line of its peer, and one of its
  object, back to the ready ones. If a line that is sent back finds the other
  limit reached, it is parked there and the next one is sent in its place.

So for a parked line and all that waits in it nothing is done, however long it
takes. Tasks start as long as there are ready lines and workers: either there
is no ready line, or all workers are busy.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from snakemq._io.workers import WorkerPool
from snakemq._wakes import flush_wakes
from snakemq.rpc._pause import Pause

__all__ = [
    "DEFAULT_MAX_PER_OBJECT",
    "DEFAULT_MAX_PER_PEER",
    "DEFAULT_MAX_WAITING",
    "DEFAULT_MAX_WAITING_BYTES",
    "DEFAULT_MAX_WAITING_BYTES_PER_PEER",
    "DEFAULT_MAX_WAITING_PER_PEER",
    "DEFAULT_MAX_WORKERS",
    "Dispatcher",
    "Task",
]

#: How many tasks run at a time. Threads are started when they are needed, so
#: this costs nothing; it is so large because methods written for 1.6, which
#: started a thread for each call, may block for long.
DEFAULT_MAX_WORKERS: Final = 256

#: ... of one peer, so that there are always workers for others.
DEFAULT_MAX_PER_PEER: Final = 128

#: ... of one object, for the same reason.
DEFAULT_MAX_PER_OBJECT: Final = 64

#: How many tasks wait, at most.
DEFAULT_MAX_WAITING: Final = 65_536

#: ... of one peer, so that there is always room for others.
DEFAULT_MAX_WAITING_PER_PEER: Final = DEFAULT_MAX_WAITING // 4

#: How large they may be together, in bytes.
DEFAULT_MAX_WAITING_BYTES: Final = 256 * 1024 * 1024

#: ... of one peer.
DEFAULT_MAX_WAITING_BYTES_PER_PEER: Final = DEFAULT_MAX_WAITING_BYTES // 4

_log = logging.getLogger("snakemq.rpc.server")


class Task(Protocol):
    """Something to be run; compared by identity."""

    @property
    def ident(self) -> str:
        """Whose limit counts."""

    @property
    def object_name(self) -> str:
        """Of which object; its limit counts, too."""

    @property
    def size(self) -> int:
        """Memory that it takes while it waits, in bytes. Never changes."""

    def run(self) -> bool:
        """Called once, in a worker.

        :return: whether it has ended. If not, somebody calls
            :meth:`Dispatcher.finished` when it has: until then it counts as
            running, but needs no worker.
        """


_Key: TypeAlias = "tuple[str, str]"

#: Where the running tasks are: inside of run(); inside, but finished() was
#: called; outside, and finished() is going to be called.
_INSIDE: Final = 0
_ENDED: Final = 1
_OUTSIDE: Final = 2


class _Line:
    """What waits of one peer for one object."""

    __slots__ = ("key", "place", "tasks")

    def __init__(self, key: _Key, place: _Lines) -> None:
        self.key = key
        #: in order; a dictionary, because any of them may be cancelled
        self.tasks: OrderedDict[Task, None] = OrderedDict()
        #: what the line itself is in
        self.place = place


_Lines: TypeAlias = "OrderedDict[_Line, None]"


class _Limit:
    """How many tasks of each peer, or of each object, run at a time."""

    __slots__ = ("maximum", "parked", "running")

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        #: only those that have any
        self.running: dict[str, int] = {}
        #: only those that have any
        self.parked: dict[str, _Lines] = {}

    def reached(self, name: str) -> bool:
        return self.running.get(name, 0) >= self.maximum

    def add(self, name: str) -> None:
        self.running[name] = self.running.get(name, 0) + 1

    def park(self, name: str, line: _Line) -> None:
        line.place = self.parked.setdefault(name, OrderedDict())
        line.place[line] = None

    def unpark(self, name: str) -> _Line | None:
        """One that may try again, if there is something to try."""
        lines = self.parked.get(name)
        if lines is None or self.reached(name):
            return None
        line = lines.popitem(last=False)[0]
        if not lines:
            del self.parked[name]
        return line


class _Waiting:
    """What waits of one peer."""

    __slots__ = ("bytes", "count")

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0


class Dispatcher:
    """Runs tasks in worker threads, within limits, fairly.

    Methods may be called from any thread. No lock is held while a task runs.
    In a forked child it starts empty, without what ran and waited in the parent.

    :param name: of the threads
    :param max_workers: how many tasks run at a time
    :param max_per_peer: ... of one peer
    :param max_per_object: ... of one object
    :param max_waiting: how many more may wait
    :param max_waiting_bytes: how large these may be together, in bytes; a
        larger one may wait alone
    :param max_waiting_per_peer: how many of one peer may wait
    :param max_waiting_bytes_per_peer: likewise, in bytes; a larger one may wait
        as the only one of its peer
    :param linger: ``func(wanted)``; see :class:`snakemq._io.workers.WorkerPool`
    :param pause: is told when less runs, of all peers together
    """

    def __init__(
        self,
        name: str,
        *,
        max_workers: int = DEFAULT_MAX_WORKERS,
        max_per_peer: int = DEFAULT_MAX_PER_PEER,
        max_per_object: int = DEFAULT_MAX_PER_OBJECT,
        max_waiting: int = DEFAULT_MAX_WAITING,
        max_waiting_bytes: int = DEFAULT_MAX_WAITING_BYTES,
        max_waiting_per_peer: int = DEFAULT_MAX_WAITING_PER_PEER,
        max_waiting_bytes_per_peer: int = DEFAULT_MAX_WAITING_BYTES_PER_PEER,
        linger: Callable[[Callable[[], bool]], object] | None = None,
        pause: Pause | None = None,
    ) -> None:
        for what, value, least in (
            ("max_workers", max_workers, 1),
            ("max_per_peer", max_per_peer, 1),
            ("max_per_object", max_per_object, 1),
            ("max_waiting", max_waiting, 0),
            ("max_waiting_bytes", max_waiting_bytes, 0),
            ("max_waiting_per_peer", max_waiting_per_peer, 0),
            ("max_waiting_bytes_per_peer", max_waiting_bytes_per_peer, 0),
        ):
            if value < least:
                raise ValueError(f"{what} must be at least {least}, not {value!r}")
        self.max_workers = max_workers
        self.max_per_peer = min(max_per_peer, max_workers)
        self.max_per_object = min(max_per_object, max_workers)
        self.max_waiting = max_waiting
        self.max_waiting_bytes = max_waiting_bytes
        self.max_waiting_per_peer = max_waiting_per_peer
        self.max_waiting_bytes_per_peer = max_waiting_bytes_per_peer
        self._pause = pause
        self._closed = False
        self._stopped = False
        self._pool = WorkerPool(max_workers, name, linger=linger)
        self._begin()
        _dispatchers.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._observers = 0
        #: the running tasks, and where they are
        self._tasks: dict[Task, int] = {}
        #: the threads that are inside of one
        self._inside: set[int] = set()
        self._peers = _Limit(self.max_per_peer)
        self._objects = _Limit(self.max_per_object)
        #: those with waiting tasks
        self._lines: dict[_Key, _Line] = {}
        self._ready: _Lines = OrderedDict()
        self._waiting = 0
        self._waiting_bytes = 0
        #: of the peers that have any
        self._waiting_of: dict[str, _Waiting] = {}

    @property
    def running(self) -> int:
        """How many tasks run."""
        return len(self._tasks)

    @property
    def waiting(self) -> int:
        """How many tasks wait."""
        return self._waiting

    @property
    def waiting_bytes(self) -> int:
        """How large these are together, in bytes."""
        return self._waiting_bytes

    def running_by_peer(self) -> dict[str, int]:
        """How many tasks run of each peer that has any."""
        with self._lock:
            return dict(self._peers.running)

    def waiting_by_peer(self) -> dict[str, int]:
        """How many tasks wait of each peer that has any."""
        with self._lock:
            return {ident: waiting.count for ident, waiting in self._waiting_of.items()}

    def submit(self, task: Task, *, force: bool = False) -> bool:
        """Have it run when it is its turn.

        :param force: take it however many wait, because it is the rest of what
            was taken before
        :return: ``False``: too many wait already, of all or of this peer, or
            :meth:`close` was called
        :raises RuntimeError: the system gives no thread at all
        """
        ident, object_name = key = (task.ident, task.object_name)
        of_peers, of_objects = self._peers.running, self._objects.running
        with self._lock:
            if self._closed and not (force and not self._stopped):
                return False
            of_peer = of_peers.get(ident, 0)
            of_object = of_objects.get(object_name, 0)
            at_once = (
                not (self._lines and (self._ready or key in self._lines))
                and len(self._tasks) < self.max_workers
                and of_peer < self.max_per_peer
                and of_object < self.max_per_object
            )
            if at_once:
                of_peers[ident] = of_peer + 1
                of_objects[object_name] = of_object + 1
                self._tasks[task] = _INSIDE
            else:
                taken = force or self._has_room(task)
                if taken:
                    self._wait(key, task)
        if not at_once:
            # If it can't be started, its line has to be parked at least.
            self._start_more()
            return taken
        try:
            self._pool.submit(self._work, [task])
        except RuntimeError:
            with self._lock:
                self._release(task)
                if self._stopped:
                    return False
            raise
        return True

    def cancel(self, task: Task) -> bool:
        """Forget a task that waits.

        :return: whether it waited; if not, it runs, has run, or was not taken
        """
        with self._lock:
            line = self._lines.get((task.ident, task.object_name))
            if line is None or task not in line.tasks:
                return False
            self._take_out(line, task)
            if not line.tasks:
                del line.place[line]
                if line.place is self._ready:
                    # Another one may have waited for this one to try.
                    self._unpark(line.key)
                else:
                    self._forget_empty_place(line)
            self._tell()
            return True

    def finished(self, task: Task) -> None:
        """A task has ended whose ``run()`` returns, or has returned, ``False``.

        Harmless for one that is not running.
        """
        with self._lock:
            where = self._tasks.get(task)
            if where == _INSIDE:
                self._tasks[task] = _ENDED
            if where != _OUTSIDE:
                return
            self._release(task)
        self._start_more()

    def close(self) -> None:
        """Take no more tasks. What waits is still run."""
        with self._lock:
            self._closed = True

    def drop_waiting(self) -> list[Task]:
        """Forget what waits.

        :return: the tasks; of each line in order
        """
        with self._lock:
            dropped = [task for line in self._lines.values() for task in line.tasks]
            self._lines.clear()
            self._ready.clear()
            self._peers.parked.clear()
            self._objects.parked.clear()
            self._waiting = self._waiting_bytes = 0
            self._waiting_of.clear()
            self._tell()
        return dropped

    def idle(self, timeout: float | None = None) -> bool:
        """Wait until nothing runs and nothing waits.

        Called by a task inside of its ``run()``, it does not wait for that one.

        :param timeout: how long, in seconds; ``None``: for ever
        :return: ``False``: something still runs or waits
        """
        own = threading.get_ident() in self._inside
        flush_wakes()  # this may be the loop, which does not get to the end of its pass
        with self._lock:
            self._observers += 1
            try:
                return self._changed.wait_for(
                    lambda: not self._lines and len(self._tasks) <= own, timeout
                )
            finally:
                self._observers -= 1

    def stop(self, timeout: float = 0.0) -> bool:
        """Take no more tasks, drop those that wait, and end the threads.

        What runs is not interrupted. A second call only waits once more.

        :param timeout: how long to wait for what runs, in seconds
        :return: whether everything has ended, but for a task that calls this
        """
        with self._lock:
            self._closed = self._stopped = True
        dropped = self.drop_waiting()
        if dropped:
            _log.warning("%s: %d tasks dropped", self._pool.name, len(dropped))
        idle = self.idle(timeout)
        return self._pool.stop(timeout if idle else 0.0) and idle

    # In a worker.

    def _work(self, box: list[Task]) -> None:
        """Run a task, and what may begin when it has ended.

        :param box: has the task in it, and nothing when that runs: who has called this may
            keep what it was called with, for as long as there is something to do
        """
        me = threading.get_ident()
        task: Task | None = box.pop()
        self._inside.add(me)
        try:
            while task is not None:
                are_more = False
                try:
                    ended = task.run()
                except BaseException:
                    # SystemExit too: it is about the task and not about the thread.
                    _log.exception("exception in %r", task)
                    ended = True
                with self._lock:
                    if not ended and self._tasks.get(task) == _INSIDE:
                        self._tasks[task] = _OUTSIDE
                        task = None
                    else:
                        self._release(task)
                        task = None
                        if self._ready:
                            # This worker goes on with the next. Most often there is only one.
                            task = self._pick()
                            are_more = bool(self._ready) and len(self._tasks) < self.max_workers
                if are_more:
                    self._start_more()
                if task is None and (begun := self._pool.take_next()) is not None:
                    task = begun[0].pop()
        finally:
            self._inside.discard(me)

    def _start_more(self) -> None:
        """Start what can be started."""
        while self._ready:
            with self._lock:
                task = self._pick()
            if task is None:
                return
            try:
                self._pool.submit(self._work, [task])
            except RuntimeError as exc:
                with self._lock:
                    self._release(task)
                    if not self._stopped:
                        self._put_back(task)
                _log.error("%r can't be started now: %s", task, exc)
                return

    # With the lock.

    def _release(self, task: Task) -> None:
        """It runs no more."""
        if self._tasks.pop(task, None) is None:
            # It began in the parent of this process.
            return
        ident, object_name = task.ident, task.object_name
        of_peers, of_objects = self._peers.running, self._objects.running
        if count := of_peers[ident] - 1:
            of_peers[ident] = count
        else:
            del of_peers[ident]
        if count := of_objects[object_name] - 1:
            of_objects[object_name] = count
        else:
            del of_objects[object_name]
        if self._lines:
            self._unpark((ident, object_name))
        if self._observers:
            self._tell()
        if self._pause is not None and self._pause.is_on:
            self._pause.look("", len(self._tasks))

    def _has_room(self, task: Task) -> bool:
        if self._waiting >= self.max_waiting or (
            self._waiting and self._waiting_bytes + task.size > self.max_waiting_bytes
        ):
            return False
        own = self._waiting_of.get(task.ident)
        if own is None:
            return self.max_waiting_per_peer > 0
        return (
            own.count < self.max_waiting_per_peer
            and own.bytes + task.size <= self.max_waiting_bytes_per_peer
        )

    def _wait(self, key: _Key, task: Task) -> None:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(key, self._ready)
            # It was not asked yet whether it is to be parked: that is done
            # when a worker comes for it.
            self._ready[line] = None
        line.tasks[task] = None
        self._count_waiting(task)

    def _count_waiting(self, task: Task) -> None:
        own = self._waiting_of.get(task.ident)
        if own is None:
            own = self._waiting_of[task.ident] = _Waiting()
        own.count += 1
        own.bytes += task.size
        self._waiting += 1
        self._waiting_bytes += task.size

    def _put_back(self, task: Task) -> None:
        """Let it wait again, as the first; until something else happens here."""
        key = (task.ident, task.object_name)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(key, self._ready)
            self._ready[line] = None
        line.tasks[task] = None
        line.tasks.move_to_end(task, last=False)
        self._count_waiting(task)

    def _pick(self) -> Task | None:
        """The next one that may run. From now on it does."""
        if len(self._tasks) >= self.max_workers:
            return None
        while self._ready:
            line = self._ready.popitem(last=False)[0]
            ident, object_name = line.key
            if self._peers.reached(ident):
                self._peers.park(ident, line)
            elif self._objects.reached(object_name):
                self._objects.park(object_name, line)
            else:
                task = next(iter(line.tasks))
                self._take_out(line, task)
                if line.tasks:
                    self._ready[line] = None
                self._tasks[task] = _INSIDE
                self._peers.add(ident)
                self._objects.add(object_name)
                return task
            self._unpark(line.key)
        return None

    def _unpark(self, key: _Key) -> None:
        """One line each that waits for the peer or the object tries again, if it makes sense."""
        for limit, name in zip((self._peers, self._objects), key, strict=True):
            line = limit.unpark(name)
            if line is not None:
                line.place = self._ready
                self._ready[line] = None

    def _take_out(self, line: _Line, task: Task) -> None:
        del line.tasks[task]
        if not line.tasks:
            del self._lines[line.key]
        own = self._waiting_of[task.ident]
        own.count -= 1
        own.bytes -= task.size
        if not own.count:
            del self._waiting_of[task.ident]
        self._waiting -= 1
        self._waiting_bytes -= task.size

    def _forget_empty_place(self, line: _Line) -> None:
        for limit, name in zip((self._peers, self._objects), line.key, strict=True):
            if limit.parked.get(name) is line.place and not line.place:
                del limit.parked[name]

    def _tell(self) -> None:
        if self._observers:
            self._changed.notify_all()

    def __repr__(self) -> str:
        return (
            f"<Dispatcher {self._pool.name!r} running={self.running} waiting={self._waiting} "
            f"({self._waiting_bytes} bytes)>"
        )


_dispatchers: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


def _begin_again() -> None:
    # No thread but the one that forked exists in the child, and any lock may
    # be held by one that does not.
    for dispatcher in list(_dispatchers):
        dispatcher._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again)
