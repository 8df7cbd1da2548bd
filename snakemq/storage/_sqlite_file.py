"""The connection to the file: locks, transactions, what goes wrong and what to do about it."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any, Final, TypeAlias

from snakemq.exceptions import StorageDamaged, StorageError
from snakemq.storage._sqlite_errors import ERRORS, storage_error
from snakemq.storage._sqlite_lock import FileLock
from snakemq.storage._sqlite_log import LogRoom
from snakemq.storage._sqlite_opening import Look, OpeningOptions, open_to_look, open_to_use
from snakemq.storage._sqlite_schema import MARK_SYNC

__all__ = ["SqliteFile", "Statement"]

#: An SQL statement and its parameters.
Statement: TypeAlias = "tuple[str, tuple[object, ...]]"


class SqliteFile:
    """One connection to the file, for one thread at a time.

    A change is either *durable* (synced to the disk) or *late*: written, so
    that the end of the process does not undo it, and synced with the next
    durable one.

    :param filename: path of the file, or ``":memory:"``
    :param options: how to open it
    :param read_only: only look at it, as it is, even if somebody else has it
    :raises snakemq.exceptions.StorageError: by every method, if the file can't
        be used
    """

    def __init__(self, filename: str, options: OpeningOptions, *, read_only: bool) -> None:
        self.filename: Final = filename
        self.read_only: Final = read_only
        #: how many changes failed, or were undone: what is known of the
        #: content from before may be wrong
        self.undone = 0
        #: whether something was written since this was last set to ``False``
        self.written = True
        self._busy_timeout = options.busy_timeout
        self._pid = os.getpid()
        # Re-entrant for the thread that is inside shared_transaction().
        self._lock = threading.RLock()
        self._shared = False
        self._conn: sqlite3.Connection | None = None
        self._file_lock: FileLock | None = None
        self._durable = options.synchronous
        #: whether there is a write-ahead log, and how much of the disk it has
        self.has_log = False
        self.log_room: Final = LogRoom()
        self._can_be_late = self._unsynced = False
        # Whether what is committed now is synced; None: look again.
        self._syncs: bool | None = True
        self._look: Look | None = None
        if read_only:
            self._look = open_to_look(filename, options.busy_timeout)
            conn = self._look.conn
        else:
            conn, self._file_lock, self.has_log, unsynced = open_to_use(filename, options)
            # In WAL mode anything below FULL syncs only now and then: a power
            # failure would take messages that were accepted. Where there is
            # no WAL (memory, some file systems), EXTRA is what promises the
            # same, and anything below it risks the whole file.
            if not self.has_log and self._durable == "FULL":
                self._durable = "EXTRA"
                conn.execute("PRAGMA synchronous = EXTRA")
            self._can_be_late = self.has_log and self._durable in ("FULL", "EXTRA")
            self._unsynced = self._can_be_late and unsynced
        #: where the file is, whatever becomes of the working directory; empty
        #: if there is none
        self.path: Final = str(conn.execute("PRAGMA database_list").fetchone()[2])
        self._conn = conn
        _open_files.add(self)

    @property
    def is_open(self) -> bool:
        """Whether it was not closed yet."""
        return self._conn is not None

    def close(self) -> None:
        """Close the connection. Harmless when repeated, and in a forked child."""
        if os.getpid() != self._pid:
            return
        with self._lock, self._translated_errors():
            self._refuse_inside_shared("close")
            conn, self._conn = self._conn, None
            if conn is not None:
                try:
                    (self._look or conn).close()
                finally:
                    if self._file_lock is not None:
                        self._file_lock.release()
        _open_files.discard(self)

    def abandon(self) -> None:
        """In a forked child: leave it to the parent."""
        # SQLite's locks do not survive a fork, and even closing the parent's
        # connection in a child may harm the file.
        _inherited.append(self)
        if self._file_lock is not None:
            self._file_lock.abandon()

    def exclusive(self) -> AbstractContextManager[bool]:
        """For ``with``: other threads keep out. What is inside can use the file."""
        # In a forked child nobody may be there to release it.
        self.check_usable()
        return self._lock

    def read(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self.exclusive(), self._translated_errors():
            return self._connection().execute(sql, parameters).fetchall()

    @contextmanager
    def reading(self, sql: str, *parameters: object) -> Iterator[sqlite3.Cursor]:
        """The rows of a query, of which not all may be wanted. Other threads keep out."""
        with (
            self.exclusive(),
            self._translated_errors(),
            closing(self._connection().execute(sql, parameters)) as cursor,
        ):
            yield cursor

    def write(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Run a statement for each row, for all of them or for none. Durable."""
        if not rows:
            # The writer's lock may be somebody else's; nothing is worth waiting.
            self.check_usable()
            return
        with self.change() as conn:
            conn.executemany(sql, rows)

    @contextmanager
    def change(
        self, *, joins: bool = False, late: bool = False, inserts: bool = False
    ) -> Iterator[sqlite3.Connection]:
        """A transaction: what happens inside, happens as a whole or not at all.

        :param joins: inside :meth:`shared_transaction`, be a part of that one
            (and durable with it) instead of refusing
        :param late: need not be durable yet
        :param inserts: there is something to commit for certain
        """
        with self.exclusive(), self._translated_errors():
            conn = self._connection()
            if self._shared and joins:
                with self._savepoint(conn):
                    yield conn
                return
            self._refuse_change("write to")
            try:
                self._begin(conn, late=late, inserts=inserts)
                yield conn
                conn.execute("COMMIT")
            except BaseException:
                self._roll_back(conn)
                raise
            self._committed(late=late)

    def run(
        self,
        statements: Sequence[Statement],
        *,
        late: bool = False,
        joins: bool = False,
        inserts: bool = False,
    ) -> int:
        """Run statements, all of them or none. Inside :meth:`exclusive`.

        :param late: need not be durable yet
        :param joins: as for :meth:`change`
        :param inserts: a single one changes something, or nothing is to be committed
        :return: how many rows they have changed, removed and added
        """
        # For each message; a @contextmanager would double the cost.
        try:
            conn = self._connection()
            if self._shared and joins:
                with self._savepoint(conn):
                    return _execute(conn, statements)
            if self.read_only or self._shared:
                self._refuse_change("write to")
            try:
                if len(statements) == 1 and (late or inserts):
                    # Is a transaction of its own: one statement instead of
                    # three, each of which lets go of the interpreter.
                    self._set_syncs(conn, not (late and self._can_be_late))
                    changed = _execute(conn, statements)
                else:
                    self._begin(conn, late=late, inserts=inserts)
                    changed = _execute(conn, statements)
                    conn.execute("COMMIT")
            except BaseException:
                self._roll_back(conn)
                raise
            if changed or not inserts:
                self._committed(late=late)
            return changed
        except ERRORS as exc:
            raise self._translated(exc) from exc

    def sync(self) -> None:
        """Make durable what was late. Free if there is nothing."""
        with self.exclusive():
            self._refuse_inside_shared("sync")
            if self._unsynced:
                with self.change():
                    pass

    @contextmanager
    def shared_transaction(self) -> Iterator[sqlite3.Connection]:
        """A durable transaction in which the application takes part.

        Other threads wait until it is over. Errors of the application's own
        statements come out as they are.
        """
        with self.exclusive():
            self._refuse_change("begin a transaction in")
            conn = self._connection()
            try:
                with self._translated_errors():
                    self._begin(conn)
                self._shared = True
                yield conn
                with self._translated_errors():
                    self._check_still_shared(conn)
                    conn.execute("COMMIT")
            except BaseException:
                with self._translated_errors():  # the application may have closed it
                    self._roll_back(conn)
                raise
            finally:
                self._shared = False
                # The application may have set its own.
                conn.row_factory = None
                conn.text_factory = str
            self._committed(late=False)

    @contextmanager
    def idle(self) -> Iterator[sqlite3.Connection | None]:
        """The connection, if nobody uses it; ``None`` instead of waiting for anybody.

        A change that is made inside may be late.
        """
        self.check_usable()
        if self.read_only or not self._lock.acquire(blocking=False):
            yield None
            return
        try:
            conn = self._connection()
            if self._shared:
                yield None
                return
            with self._translated_errors():
                self._set_syncs(conn, not self._can_be_late)
                try:
                    conn.execute("PRAGMA busy_timeout = 0")
                    yield conn
                finally:
                    conn.execute(f"PRAGMA busy_timeout = {int(self._busy_timeout * 1000)}")
        finally:
            self._lock.release()

    def check_usable(self) -> None:
        """Refuse when it is closed, and in a forked child."""
        if os.getpid() != self._pid:
            raise StorageError(
                f"queue storage {self.filename!r} was opened by process {self._pid} and can't be"
                f" used in process {os.getpid()}, which was forked off; open a storage in the"
                " child, with a file of its own"
            )
        if self._conn is None:
            raise self._closed()

    def damaged(self, table: str, row_id: object, problem: Exception) -> StorageDamaged:
        """What to raise for a row that is not a message."""
        return StorageDamaged(
            f"queue storage {self.filename!r} has a row in table {table!r} that is not a message"
            f" ({problem}); keep a copy of the file and delete the row with rowid {row_id}"
        )

    def _connection(self) -> sqlite3.Connection:
        if self._conn is None:
            raise self._closed()
        return self._conn

    def _closed(self) -> StorageError:
        return StorageError(
            f"queue storage {self.filename!r} is closed; open the file again with a new storage"
        )

    def _refuse_change(self, what: str) -> None:
        if self.read_only:
            raise StorageError(
                f"can't {what} queue storage {self.filename!r}, which was opened with"
                " read_only=True; open it without that"
            )
        self._refuse_inside_shared(what)

    def _refuse_inside_shared(self, what: str) -> None:
        if self._shared:
            raise StorageError(
                f"can't {what} queue storage {self.filename!r} inside of its transaction(), where"
                " only push(), push_many() and advance_inbox() take part; do it before or"
                " afterwards"
            )

    def _check_still_shared(self, conn: sqlite3.Connection) -> None:
        if not conn.in_transaction:
            raise StorageError(
                f"the transaction of queue storage {self.filename!r} ended before its 'with' block"
                " did: by an error such as a full disk, or by commit(), rollback() or 'with"
                " connection:' in it, which have to be left to transaction()"
            )

    def _begin(
        self, conn: sqlite3.Connection, *, late: bool = False, inserts: bool = False
    ) -> None:
        self._set_syncs(conn, not (late and self._can_be_late))
        # IMMEDIATE waits for the writer's lock here, where the busy timeout
        # applies.
        conn.execute("BEGIN IMMEDIATE")
        if self._unsynced and not late and not inserts:
            # A commit that changes nothing syncs nothing, and would leave on
            # the way what was late.
            conn.execute(MARK_SYNC)

    def _committed(self, *, late: bool) -> None:
        self._unsynced = late and self._can_be_late
        self.written = True

    def _set_syncs(self, conn: sqlite3.Connection, syncs: bool) -> None:
        if conn.in_transaction:
            # Of somebody who was interrupted before it was undone. What is
            # written now would be a part of it, and not be committed.
            self._roll_back(conn)
        if self.log_room.syncs_left and syncs and self._can_be_late:
            # The sync of this change is that of the room, too.
            self.log_room.count_sync(conn, self.path)
        if self._syncs is not syncs:
            self._syncs = None  # KeyboardInterrupt may come before or after
            conn.execute(f"PRAGMA synchronous = {self._durable if syncs else 'NORMAL'}")
            self._syncs = syncs

    def _roll_back(self, conn: sqlite3.Connection) -> None:
        self.undone += 1
        # Some errors (disk full) have done so already.
        if conn.in_transaction:
            conn.execute("ROLLBACK")

    @contextmanager
    def _savepoint(self, conn: sqlite3.Connection) -> Iterator[None]:
        self._check_still_shared(conn)
        conn.execute("SAVEPOINT snakemq")
        try:
            yield
        except BaseException:
            self.undone += 1
            # It is gone, with the whole transaction, after some errors.
            if conn.in_transaction:
                conn.execute("ROLLBACK TO snakemq")
                conn.execute("RELEASE snakemq")
            raise
        conn.execute("RELEASE snakemq")

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except ERRORS as exc:
            raise self._translated(exc) from exc

    def _translated(self, exc: Exception) -> StorageError:
        error = storage_error(exc, self.filename, self._busy_timeout)
        if isinstance(error, StorageDamaged) and self._file_lock is not None:
            self._file_lock.note_damage(str(exc))
        return error


def _execute(conn: sqlite3.Connection, statements: Iterable[Statement]) -> int:
    before = conn.total_changes
    for sql, parameters in statements:
        conn.execute(sql, parameters)
    return conn.total_changes - before


# Whatever the child lets go of, its copies of the parent's connections stay
# referenced.
_open_files: weakref.WeakSet[SqliteFile] = weakref.WeakSet()
_inherited: list[SqliteFile] = []


def _abandon_all() -> None:
    for file in list(_open_files):
        file.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
