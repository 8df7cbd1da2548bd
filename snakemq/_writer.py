"""Group commit: what many threads store at the same time costs one sync of the disk.

Who comes first writes, for itself and for all who have come by then; the others
wait. Whoever comes in the meantime is served with the next change, by one of
those who wait for it. So nothing is handed to another thread as long as there
is only one, and everything that is under way when the disk is slow shares its
next sync.

What leaves the storage waits for nobody: if somebody else is writing, it goes
along with the next change.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final

from snakemq._io.clock import monotonic
from snakemq._longest_wait import longest_wait
from snakemq._wakes import give_way
from snakemq.exceptions import StorageUnavailable
from snakemq.message import Message
from snakemq.storage import QueuesStorageBase, Removal

__all__ = ["Writer"]

#: One change has no more messages than this, and data of not much more bytes.
GROUP_MESSAGES: Final = 4096
GROUP_BYTES: Final = 16 * 1024 * 1024

#: So long who writes next lets others join at most, in seconds. It takes as long as
#: that if one of them computes and does not let go of the interpreter.
JOINING: Final = 0.001

#: So many removals wait for the next change, or for :meth:`Writer.flush`, so
#: that one who sends message after message need not pay for each apart. They do
#: not wait for more of them: the other side knows what comes again only if it is
#: among the last messages, transient ones included, that it has received.
MAX_LEFT: Final = 1000

#: After so many removals that need not survive a power failure they are made
#: to. A message whose removal was undone is sent again, and the other side
#: knows it if it is among the last ones that came; it remembers twice as many.
MAX_UNSYNCED: Final = 4096


class _Job:
    """What one thread wants to have stored.

    :param entries: pairs of queue name and message
    :param prepare: called before they are stored
    :param stored: called with their positions when they are
    """

    __slots__ = ("entries", "error", "is_done", "leads", "prepare", "stored", "turn")

    def __init__(
        self,
        entries: Sequence[tuple[str, Message]],
        prepare: Callable[[], object] | None,
        stored: Callable[[list[int]], object],
    ) -> None:
        self.entries = entries
        self.prepare = prepare
        self.stored = stored
        self.error: BaseException | None = None
        self.is_done = False
        #: it is its thread that writes next
        self.leads = False
        #: released when its thread has to look; only if it has to wait
        self.turn: threading.Lock | None = None


class _Leaving:
    """What is to be removed from a queue."""

    __slots__ = ("bytes", "positions")

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.bytes = 0


class Writer:
    """Writes to the storage, for one thread at a time. Any thread.

    :param storage: has pages
    :param report: told of failures that nobody waits for
    :ivar changes: how often something was written
    """

    def __init__(self, storage: QueuesStorageBase, report: Callable[[Exception], object]) -> None:
        self._storage = storage
        self._report = report
        self.changes = 0
        self._lock = threading.Lock()
        self._is_led = False  # some thread is writing
        self._jobs: deque[_Job] = deque()
        self._group: list[_Job] = []  # what is being written
        self._together = 1  # how many jobs were written with one change, the last time
        self._removals: dict[str, _Leaving] = {}
        self._left = 0  # how many messages these are
        #: something could not be removed, and is not tried again by itself
        self.removal_failed = False
        self._unsynced = 0
        #: called when :meth:`push` has stored something, for all that were stored together
        self.wrote: Callable[[], object] = lambda: None

    def push(
        self,
        entries: Sequence[tuple[str, Message]],
        prepare: Callable[[], object] | None,
        stored: Callable[[list[int]], object],
    ) -> None:
        """Store messages, all of them or none; they are on the disk when this returns.

        :param entries: pairs of queue name and message
        :param prepare: is called before, if it is given; what it raises is raised here
        :param stored: is called with the positions. What was stored before was
            told before, and what is stored next is told afterwards.
        :raises snakemq.exceptions.StorageError: they could not be stored
        """
        job = _Job(entries, prepare, stored)
        try:
            self._take_turn(job)
            if job.leads:
                self._write_with(job)
        finally:
            if job.leads:
                self._hand_over(MAX_LEFT)
                self.wrote()
        if job.error is not None:
            raise job.error

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """For ``with``: nobody else writes meanwhile."""
        job = _Job((), None, lambda positions: None)
        try:
            self._take_turn(job)
            yield
        finally:
            if job.leads:
                self._hand_over()

    def remove(self, removals: Sequence[Removal]) -> None:
        """Have messages removed, now or with what is written next. Does not wait.

        See :meth:`has_removals`.

        A failure is logged, and it is tried again with the next change. What
        was not removed when the process ends is sent again by the next one.
        """
        leads = False
        try:
            with self._lock:
                self._put_back(removals)
                if not self._is_led:
                    leads = self._is_led = True
        finally:
            if leads:
                self._hand_over()

    def settle(self) -> None:
        """Have done, and on the disk, what could wait, unless somebody is writing.

        :raises Exception: of the storage
        """
        leads = False
        removals: list[Removal] = []
        try:
            with self._lock:
                if not self._is_led:
                    leads = self._is_led = True
                    self.removal_failed = False
                    self._take_removals(removals)
            if removals:
                self._remove_only(removals)
            if leads and self._unsynced and not self.removal_failed:
                self._storage.sync()
                self._unsynced = 0
        finally:
            if leads:
                self._hand_over()

    @property
    def has_removals(self) -> bool:
        """Whether something waits to be removed, and is going to be with :meth:`flush`."""
        return bool(self._removals) and not self.removal_failed

    def flush(self) -> None:
        """Have removed now what waits for the next change, unless somebody is writing."""
        self.remove(())

    @property
    def waiting(self) -> int:
        """How many threads wait for their turn."""
        return len(self._jobs)

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing for :meth:`settle`."""
        return not self._unsynced and not self._removals

    # Whose turn it is.

    # KeyboardInterrupt may come at any line. Whoever has the turn knows it
    # before anything can happen, and hands it over at the end.

    def _take_turn(self, job: _Job) -> None:
        """Wait until the thread of a job leads, or somebody else has done the job."""
        try:
            with self._lock:
                if not self._is_led:
                    job.leads = self._is_led = True
                    return
                job.turn = threading.Lock()
                job.turn.acquire()
                self._jobs.append(job)
            # It looks up from its sleep for a Ctrl-C that came just before.
            longest = longest_wait()
            while not job.turn.acquire(timeout=longest):
                pass
        except BaseException:
            self._give_up(job)
            raise

    def _give_up(self, job: _Job) -> None:
        """The thread of a job is interrupted. It may have to wait all the same."""
        with self._lock:
            if job in self._jobs:
                self._jobs.remove(job)
                return
            is_being_written = job in self._group
        while is_being_written and not job.leads and not job.is_done:
            assert job.turn is not None
            with contextlib.suppress(KeyboardInterrupt):  # one of them is raised
                job.turn.acquire()

    def _hand_over(self, max_left: int = 0) -> None:
        """Have the next one write, and remove what nobody waits for.

        :param max_left: so many removals are left to whoever writes next, soon
        """
        while True:
            with self._lock:
                if self._jobs:
                    job = self._jobs.popleft()
                    job.leads = True
                    if job.turn is not None:
                        job.turn.release()
                    return
                if self._left <= max_left or self.removal_failed:
                    self._is_led = False
                    return
                removals: list[Removal] = []
                self._take_removals(removals)
            try:
                self._remove_only(removals)
            except BaseException:  # KeyboardInterrupt
                self._hand_over(max_left)
                raise

    def _take_removals(self, into: list[Removal]) -> None:
        into += [
            Removal(name, sorted(leaving.positions), leaving.bytes)
            for name, leaving in self._removals.items()
        ]
        self._removals = {}
        self._left = 0

    def _put_back(self, removals: Sequence[Removal]) -> None:
        for name, positions, size in removals:
            leaving = self._removals.get(name)
            if leaving is None:
                leaving = self._removals[name] = _Leaving()
            leaving.positions.extend(positions)
            leaving.bytes += size
            self._left += len(positions)

    # Writing; for the thread whose turn it is.

    def _write_with(self, first: _Job) -> None:
        """Write what one job wants, and with it what others want."""
        group = [first]
        removals: list[Removal] = []
        try:
            if first.turn is not None or self._together > 1:
                self._let_join()
            together = 1
            with self._lock:
                if self._jobs:
                    self._group = group
                    self._gather(group)
                    together = len(group)
                if self._left:
                    self._take_removals(removals)
            self._together = together
            self._write(group, removals)
        except BaseException:  # KeyboardInterrupt
            # They may be gone, which does no harm.
            self._restore(removals)
            raise
        finally:
            if self._group:
                self._let_go(group)

    def _let_join(self) -> None:
        """Wait for who else has something to store, as long as more and more come.

        Those who were served before are awake by now, and can join if they may run
        before the disk is waited for. With 16 threads it takes half as many commits.
        But nobody waits until there are more than there were the last time: while one
        group waits for the disk, the other one makes its next messages.
        """
        others = max(self._together, 2) - 1
        before = -1
        end = monotonic() + JOINING
        while before < len(self._jobs) < others and monotonic() < end:
            before = len(self._jobs)
            give_way()

    def _let_go(self, group: list[_Job]) -> None:
        """Wake those whose jobs were written with the first; what was not is still to be done."""
        with self._lock:
            self._group = []
            undone = [job for job in group[1:] if not job.is_done and job not in self._jobs]
            self._jobs.extendleft(reversed(undone))
        for job in group[1:]:
            if job.is_done and job.turn is not None:
                job.turn.release()

    def _gather(self, group: list[_Job]) -> None:
        """Find what can be written together."""
        messages = size = 0
        job = group[0]
        while True:
            messages += len(job.entries)
            for _, message in job.entries:  # mostly one
                size += len(message.data)
            if not self._jobs or messages >= GROUP_MESSAGES or size >= GROUP_BYTES:
                return
            job = self._jobs[0]
            if not job.entries:
                return  # it wants the turn, and nobody else can take it for it
            group.append(job)
            self._jobs.popleft()

    def _write(self, group: list[_Job], removals: list[Removal]) -> None:
        ready = []
        for job in group:
            if job.prepare is None or self._is_prepared(job):
                ready.append(job)
        try:
            self._change(ready, removals)
        except StorageUnavailable as exc:
            # It is the same for all of them.
            self._restore(removals)
            for job in ready:
                self._fail(job, exc)
        except Exception as exc:
            was_alone = len(ready) == 1 and not removals
            self._restore(removals)
            if was_alone:
                self._fail(ready[0], exc)
                return
            # One of them may be what the storage can't take.
            for job in ready:
                try:
                    self._change([job], [])
                except Exception as own:
                    self._fail(job, own)

    def _is_prepared(self, job: _Job) -> bool:
        try:
            if job.prepare is not None:
                job.prepare()
        except Exception as exc:
            self._fail(job, exc)
            return False
        return True

    @staticmethod
    def _fail(job: _Job, exc: Exception) -> None:
        job.error = exc
        job.is_done = True

    def _change(self, group: list[_Job], removals: list[Removal]) -> None:
        if not group and not removals:
            return
        entries = (
            group[0].entries
            if len(group) == 1
            else list(chain.from_iterable([job.entries for job in group]))
        )
        sync = True
        unsynced = 0
        if not entries:
            unsynced = self._unsynced + sum([len(removal.positions) for removal in removals])
            sync = unsynced > MAX_UNSYNCED
        before = self._storage.last_position()
        positions: list[int] | None = None
        try:
            positions = self._storage.change_items(entries, removals, sync=sync)
            self.changes += 1
            self._unsynced = 0 if sync else unsynced
            self.removal_failed = False
            self._tell(group, positions)
        except Exception:
            raise
        except BaseException:  # KeyboardInterrupt, perhaps when all was done
            self._tell(group, self._find(entries, before) if positions is None else positions)
            raise

    @staticmethod
    def _tell(group: list[_Job], positions: list[int]) -> None:
        """Their messages are in the storage; if there are no positions, they are not."""
        start = 0
        for job in group if positions else ():
            end = start + len(job.entries)
            if not job.is_done:
                job.stored(positions[start:end])
                job.is_done = True
            start = end

    def _find(self, entries: Sequence[tuple[str, Message]], before: int) -> list[int]:
        """The positions of messages that were stored last, if they were.

        :param before: the last position before that
        """
        positions: list[int] = []
        for name in dict.fromkeys(name for name, _ in entries):
            page = self._storage.get_page(
                name, before, max_messages=len(entries), max_bytes=sys.maxsize
            )
            positions += [item.position for item in page]
        return sorted(positions)

    def _remove_only(self, removals: list[Removal]) -> None:
        try:
            self._change([], removals)
        except Exception as exc:
            self._restore(removals)
            self._report(exc)
        except BaseException:
            self._restore(removals)
            raise

    def _restore(self, removals: list[Removal]) -> None:
        """Something was not removed, or it is not known. It is still to be done, and once."""
        if removals:
            with self._lock:
                self._put_back(removals)
                removals.clear()
                self.removal_failed = True
