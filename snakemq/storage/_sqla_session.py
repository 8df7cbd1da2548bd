"""The one connection to an SQL database: who has the storage, and what happens when it breaks.

All reads and writes go through one connection, whose session also has the lock
of the storage. So both end together: what is written, is written by who has
the lock. Each change also writes the row in the table ``meta``, and only if
this storage object is still named there: that holds where a database has no
such locks, too.

States::

    CONNECTED   -> AWAY         the connection broke
    AWAY        -> CONNECTED    it was made anew, and nobody had the lock in between
    AWAY        -> TAKEN_OVER   somebody had
    CONNECTED   -> TAKEN_OVER   somebody has (where there are no locks)
    any of them -> CLOSED

A thread of its own, the *keeper*, makes the connection anew, and gives a sign
of life while there is nothing to do.

A connection that breaks before a commit leaves nothing behind. If it breaks in
the middle of the commit, the number of the change in ``meta`` tells afterwards
whether it was made. A thread that may wait for that long is told; for one that
may not, a change that was made is taken back when the connection is there
again, before anything else happens.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from snakemq.exceptions import StorageError, StorageInUse, StorageUnavailable
from snakemq.storage._sqla_change import Change, Doubt, Options, Patience
from snakemq.storage._sqla_errors import is_lost, is_out_of_reach, reason, refused
from snakemq.storage._sqla_holder import Holder, Record
from snakemq.storage._sqla_servers import HEARTBEAT, Server

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = ["SqlSession"]

_T = TypeVar("_T")

_log: Final = logging.getLogger("snakemq.storage")

#: How often it is tried to get a lock that somebody else has, in seconds.
_POLL: Final = 0.5

#: How long the server may take to end the session of a process that is gone.
_ENDING: Final = 0.5

#: Between two attempts to reach the server, in seconds.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0

#: How often a call is tried whose connection breaks.
_MAX_ATTEMPTS: Final = 5

#: How long close() waits for the keeper, which may be connecting, in seconds.
_KEEPER_GRACE: Final = 2.0


class _State(enum.Enum):
    CONNECTED = "connected"
    AWAY = "away"
    TAKEN_OVER = "taken over"
    CLOSED = "closed"


_ENDED: Final = (_State.TAKEN_OVER, _State.CLOSED)


class _LostConnection(Exception):
    """The connection broke. Where there is no doubt, nothing was changed."""

    def __init__(self, doubt: Doubt | None = None) -> None:
        super().__init__()
        self.doubt = doubt


class _StillLocked(Exception):
    """The server has not noticed yet that an earlier session of this storage is gone."""

    def __str__(self) -> str:
        return "the server has not ended the last session of this process yet"


class SqlSession:
    """The connection, its lock, and its transactions. For any thread.

    :param engine: makes the connection
    :param holder: who wants the storage
    :param server: what is special about the database
    :param options: how to use it
    :param may_wait: whether the calling thread may wait for the database
    """

    def __init__(
        self,
        engine: Engine,
        holder: Holder,
        server: Server,
        options: Options,
        may_wait: Callable[[], bool],
    ) -> None:
        import sqlalchemy as sa

        self._engine = engine
        self._holder = holder
        self._server = server
        self._options = options
        self._may_wait = may_wait
        self._loads: list[Callable[[Connection], None]] = []
        self.where: Final = holder.where
        self.read_only: Final = options.read_only
        self._errors = (sa.exc.SQLAlchemyError, OSError, OverflowError)
        self._late = None if server.late is None else sa.text(server.late)
        self._pid = os.getpid()
        # Taken in this order. The first one is for the connection, and held
        # while the database works; the second one is for the state.
        self._lock = threading.Lock()
        self._changed = threading.Condition(threading.Lock())
        self._state = _State.AWAY
        self._why = ""
        self._successor = ""
        self._doubt: Doubt | None = None
        self._server_session: Any = None
        self._used = False
        self._unsynced = False
        self._changes = self._last_id = 0
        self._keeper: threading.Thread | None = None
        self._conn: Connection

    def on_connect(self, load: Callable[[Connection], None]) -> None:
        """Have what is known of the content in memory read again from each new connection."""
        self._loads.append(load)

    def open(self) -> None:
        """Connect, and get the lock. Called once, before everything else.

        :raises snakemq.exceptions.StorageInUse: somebody else has it
        :raises snakemq.exceptions.StorageUnavailable: the database can't be reached
        :raises snakemq.exceptions.StorageError: it can't be used
        """
        self._conn = self._first_connection()
        self._state = _State.CONNECTED
        if self._server.is_remote:
            self._keeper = threading.Thread(target=self._keep, name="snakemq storage", daemon=True)
            self._keeper.start()
        _open_sessions.add(self)

    @property
    def state(self) -> str:
        """In one word or two, for people."""
        return self._state.value

    def close(self) -> None:
        """Close the connection. Harmless when repeated, and in a forked child."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            with self._changed:
                before = self._state
                if before is _State.CLOSED:
                    return
                self._state = _State.CLOSED
                self._changed.notify_all()
            if before is _State.CONNECTED and not self.read_only:
                with contextlib.suppress(*self._errors):
                    self._server.unlock(self._conn)
            self._dispose(self._conn)
        if self._keeper is not None:
            self._keeper.join(_KEEPER_GRACE)
        self._server.close()
        self._engine.dispose()
        _open_sessions.discard(self)

    def abandon(self) -> None:
        """In a forked child: the storage is the parent's."""
        self._server.abandon()

    # Using it

    def read(self, work: Callable[[Connection], _T]) -> _T:
        """Read something. ``work`` may be called again if the connection breaks."""
        return self._repeat(lambda conn: self._reading(conn, work))

    def change(self, work: Callable[[Change], _T], *, sync: bool = True) -> _T:
        """Make a change, as a whole or not at all.

        :param work: makes it; may be called again if the connection breaks, so
            it must change nothing else before :meth:`Change.afterwards`
        :param sync: whether it has to be on disk then
        """
        self.check_writable()
        return self._repeat(lambda conn: self._changing(conn, work, sync))

    def look(self, work: Callable[[], _T]) -> _T:
        """Look at what is known of the content in memory."""
        if self.read_only:
            return self.read(lambda conn: work())
        self.check()
        with self._lock:
            self.check()
            return work()

    def sync(self) -> None:
        """Have on disk what was changed without ``sync``."""
        if self._unsynced:
            self.change(lambda change: None)
        else:
            self.check()

    def define(self, work: Callable[[Connection], None]) -> None:
        """Create or drop tables."""
        self.check_writable()

        def attempt(conn: Connection) -> None:
            work(conn)
            conn.commit()

        self._repeat(lambda conn: self._reading(conn, attempt))

    def begin_anew(self) -> None:
        """The tables are new: make a row that says who has them."""

        def work(conn: Connection) -> None:
            self._holder.make(conn)
            if not self._holder.is_named(self._holder.read(conn)):
                self._holder.take(conn)
            self._learn(conn, self._holder.read(conn))

        self.define(work)

    def check(self) -> None:
        """Refuse when it can't be used any more: closed, taken over, in a forked child."""
        if os.getpid() != self._pid:
            raise StorageError(
                f"queue storage {self.where} was opened by process {self._pid} and can't be used in"
                f" process {os.getpid()}, which was forked off; open a storage in the child, with"
                " a prefix or a database of its own"
            )
        if self._state is _State.CLOSED:
            raise StorageError(
                f"queue storage {self.where} is closed; open it again with a new storage"
            )
        if self._state is _State.TAKEN_OVER:
            raise StorageInUse(
                f"queue storage {self.where} was taken over by {self._successor} while the"
                " connection of this process to it was interrupted, and belongs to that one now;"
                " to wait for it, open it again with lock_timeout=None",
                self._successor,
            )

    def check_writable(self) -> None:
        """The same, and refuse when it was opened to be read only."""
        self.check()
        if self.read_only:
            raise StorageError(
                f"queue storage {self.where} was opened with read_only, so nothing in it can be"
                " changed; open it without"
            )

    def refuse(self, exc: BaseException) -> NoReturn:
        """Raise what says that the database can't do it."""
        raise refused(self.where, exc) from exc

    # One attempt after the other

    def _repeat(self, attempt: Callable[[Connection], _T]) -> _T:
        """Do it until the connection holds, or the patience is at its end."""
        patience = Patience(self._options.patience, self._may_wait)
        for _ in range(_MAX_ATTEMPTS):
            conn = self._enter(patience)
            try:
                return attempt(conn)
            except _LostConnection as lost:
                doubt = lost.doubt
            finally:
                self._lock.release()
            if doubt is not None and self._was_made(doubt, patience):
                result: _T = doubt.result
                return result
        # Maybe it breaks because of what is asked for.
        raise StorageUnavailable(
            f"queue storage {self.where} broke the connection {_MAX_ATTEMPTS} times while this was"
            f" tried, the last time with: {self._why}; the log of the database may tell why"
        )

    def _enter(self, patience: Patience) -> Connection:
        """Wait until it is connected, and get the lock."""
        while True:
            self.check()
            with self._changed:
                self._wait(lambda: self._state is not _State.AWAY, patience)
            self._lock.acquire()
            if self._state is _State.CONNECTED:
                return self._conn
            self._lock.release()

    def _wait(self, done: Callable[[], bool], patience: Patience) -> None:
        """Wait for a change of the state. Inside of ``_changed``."""
        if not done() and not self._changed.wait_for(done, patience.left()):
            raise self._unavailable(self._why)

    def _was_made(self, doubt: Doubt, patience: Patience) -> bool:
        """Wait to be told what became of a commit that was cut off."""
        with self._changed:
            try:
                self._wait(lambda: doubt.made is not None or self._state in _ENDED, patience)
            finally:
                doubt.abandoned = doubt.made is None
        if doubt.made is None:
            self.check()
        return bool(doubt.made)

    def _reading(self, conn: Connection, work: Callable[[Connection], _T]) -> _T:
        try:
            if self.read_only:
                # Somebody else may have changed it.
                self._load(conn)
            result = work(conn)
            conn.rollback()
        except BaseException as exc:
            self._failed(exc)
            raise
        self._used = True
        return result

    def _changing(self, conn: Connection, work: Callable[[Change], _T], sync: bool) -> _T:
        change = Change(conn, self._last_id)
        number = self._changes + 1
        try:
            late = not sync and self._late is not None
            if late and self._late is not None:
                conn.execute(self._late)
            result = work(change)
            ours = self._holder.mark(conn, number, change.last_id)
            if not ours:
                self._was_taken_over(self._holder.read(conn))
                conn.rollback()
        except BaseException as exc:
            self._failed(exc)
            raise
        if not ours:
            self.check()
        try:
            conn.commit()
        except BaseException as exc:
            self._failed(exc, Doubt(number, result, change.undo))
            raise
        self._changes, self._last_id = number, change.last_id
        self._unsynced = late
        self._used = True
        change.made()
        return result

    def _failed(self, exc: BaseException, doubt: Doubt | None = None) -> None:
        """Leave the connection as if nothing had happened, or give it up.

        Returns if the exception is to be raised as it is.

        :param doubt: it happened during the commit of this change
        """
        interrupted = not isinstance(exc, Exception)
        lost = interrupted or (isinstance(exc, self._errors) and self._is_lost(exc))
        if not lost:
            try:
                self._conn.rollback()
            except self._errors as another:
                # A driver may not know it at the first error, nor say it at the second.
                lost = isinstance(exc, self._errors) and self._server.is_remote
                if not lost:
                    # What was not committed is gone with the connection.
                    self._give_up(another, None)
            if not lost:
                if isinstance(exc, self._errors):
                    self.refuse(exc)
                return
        if doubt is not None:
            doubt.abandoned = interrupted
        self._give_up(exc, doubt)
        if not interrupted:
            raise _LostConnection(doubt) from exc

    def _is_lost(self, exc: BaseException) -> bool:
        return self._server.is_remote and is_lost(exc)

    def _give_up(self, exc: BaseException, doubt: Doubt | None) -> None:
        """The connection broke: let the keeper make another one."""
        self._dispose(self._conn)
        with self._changed:
            if self._state is _State.CONNECTED:
                self._state = _State.AWAY
                self._why = reason(exc)
                self._doubt = doubt
                self._changed.notify_all()
        _log.warning("lost the connection to queue storage %s: %s", self.where, self._why)

    def _was_taken_over(self, record: Record | None) -> None:
        with self._changed:
            if self._state is not _State.CLOSED:
                self._state = _State.TAKEN_OVER
                self._successor = record.holder if record else "somebody who dropped the tables"
                self._changed.notify_all()
        _log.error("queue storage %s was taken over by %s", self.where, self._successor)

    def _unavailable(self, why: str) -> StorageUnavailable:
        return StorageUnavailable(
            f"queue storage {self.where} can't be reached now ({why}); it goes on by itself when"
            " the database is back"
        )

    # Connecting

    def _first_connection(self) -> Connection:
        """Connect for the first time, and wait for the lock."""
        timeout = self._options.lock_timeout
        if timeout is not None:
            # The session of a process that has just been killed takes a moment.
            timeout = max(timeout, _ENDING)
        patience = Patience(timeout, lambda: True)
        pause = threading.Event()
        conn: Connection | None = None
        was_there = False
        try:
            while True:
                record = None
                trouble: Exception | None = None
                try:
                    if conn is None:
                        conn = self._connect()
                    was_there = True
                    if self._options.read_only or self._server.try_lock(conn):
                        self._begin(conn)
                        return conn
                    if self._holder.exists(conn):
                        record = self._holder.read(conn)
                    conn.rollback()
                except self._errors as exc:
                    self._dispose(conn)
                    conn, trouble = None, exc
                left = patience.left()
                # Who waits for another process outlasts restarts.
                if trouble is not None and not (
                    was_there and left != 0 and is_out_of_reach(trouble)
                ):
                    self._refuse_to_open(trouble)
                if left == 0:
                    raise self._holder.in_use(record)
                pause.wait(_POLL if left is None else min(_POLL, left / 2 + 0.01))
        except BaseException:
            self._dispose(conn)
            self._server.close()
            self._engine.dispose()
            raise

    def _refuse_to_open(self, exc: Exception) -> NoReturn:
        if not is_out_of_reach(exc) or not self._server.is_remote:
            self.refuse(exc)
        raise StorageUnavailable(
            f"queue storage {self.where} can't be reached: {reason(exc)}; check that the server is"
            " running there"
        ) from exc

    def _connect(self) -> Connection:
        conn = self._engine.connect()
        try:
            self._server.prepare(conn)
            conn.commit()
        except BaseException:
            self._dispose(conn)
            raise
        return conn

    def _begin(self, conn: Connection) -> None:
        """Take a storage that was opened now."""
        if self._options.create and not self.read_only:
            self._holder.make(conn)
        elif not self._holder.exists(conn):
            raise StorageError(
                f"there is no queue storage in {self.where} with this prefix; check the names"
            )
        if not self.read_only:
            self._holder.take(conn)
            self._server_session = self._server.session(conn)
        self._learn(conn, self._holder.read(conn))
        conn.rollback()

    def _learn(self, conn: Connection, record: Record | None) -> None:
        if record is not None:
            self._changes, self._last_id = record.changes, record.last_id
        self._load(conn)

    def _load(self, conn: Connection) -> None:
        for load in self._loads:
            load(conn)

    def _dispose(self, conn: Connection | None) -> None:
        """Close a connection, and not only put it back into the engine's pool."""
        if conn is not None:
            with contextlib.suppress(*self._errors):
                conn.invalidate()
            with contextlib.suppress(*self._errors):
                conn.close()

    # The keeper

    def _keep(self) -> None:
        pause = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._state is not _State.CONNECTED, HEARTBEAT)
                state = self._state
            if state in _ENDED:
                return
            if state is _State.CONNECTED:
                self._give_sign_of_life()
                continue
            try:
                self._come_back()
                pause = 0.0
                continue
            except Exception as exc:
                # Whatever it is, to give up would end the work for good.
                why = reason(exc)
                if why != self._why:
                    _log.warning("queue storage %s is still away: %s", self.where, why)
            pause = min(2 * pause, _LONGEST_PAUSE) or _FIRST_PAUSE
            with self._changed:
                self._why = why
                self._changed.wait_for(lambda: self._state is not _State.AWAY, pause)

    def _give_sign_of_life(self) -> None:
        """Use the connection if nobody did lately, also to see whether it still is one."""
        if self._used or not self._lock.acquire(blocking=False):
            self._used = False
            return
        try:
            if self._state is _State.CONNECTED:
                with contextlib.suppress(_LostConnection, StorageError):
                    self._reading(self._conn, self._see_whether_it_is_ours)
                self._used = False
        finally:
            self._lock.release()

    def _see_whether_it_is_ours(self, conn: Connection) -> None:
        record = self._holder.read(conn)
        if not self.read_only and record is not None and not self._holder.is_named(record):
            self._was_taken_over(record)

    def _come_back(self) -> None:
        """Make the connection anew. What comes first is what was left undecided."""
        conn = self._connect()
        try:
            if not self.read_only and not self._locked_again(conn):
                self._dispose(conn)
                return
            self._learn(conn, self._holder.read(conn))
            self._decide(conn)
            conn.rollback()
        except BaseException:
            self._dispose(conn)
            raise
        with self._changed:
            if self._state is _State.AWAY:
                self._conn = conn
                self._state = _State.CONNECTED
                self._changed.notify_all()
                _log.info("connected to queue storage %s again", self.where)
                return
        self._dispose(conn)

    def _locked_again(self, conn: Connection) -> bool:
        """Get the lock; ``False`` if somebody has, or had, the storage since."""
        locked = self._server.try_lock(conn)
        record = self._holder.read(conn)
        if not self._holder.is_named(record):
            self._was_taken_over(record)
            return False
        if not locked:
            self._server.end(conn, self._server_session)
            conn.commit()
            raise _StillLocked
        self._holder.take(conn)
        self._server_session = self._server.session(conn)
        return True

    def _decide(self, conn: Connection) -> None:
        """Find out what became of a commit that was cut off; take it back if nobody waits."""
        doubt = self._doubt
        if doubt is None:
            return
        with self._changed:
            doubt.made = self._changes == doubt.number
            take_back = doubt.made and doubt.abandoned
            if not take_back:
                self._doubt = None
            self._changed.notify_all()
        if take_back:
            for statement, parameters in doubt.undo:
                conn.execute(statement, parameters)
            # If this commit is cut off, too, its number tells next time.
            self._holder.mark(conn, doubt.number + 1, self._last_id)
            conn.commit()
            self._doubt = None
            self._learn(conn, self._holder.read(conn))


# Some drivers tell the server good-bye when their object goes away, in a
# forked child, too: over the parent's connection. Whatever the child lets go
# of, its copies stay referenced.
_open_sessions: weakref.WeakSet[SqlSession] = weakref.WeakSet()
_inherited: list[SqlSession] = []


def _after_fork() -> None:
    for session in _open_sessions:
        session.abandon()
        _inherited.append(session)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
