"""The connection to the file: locks, transactions, what goes wrong and what to do about it."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, TypeAlias

from snakemq.exceptions import StorageError
from snakemq.storage._sqlite_schema import MARK_SYNC, check_schema, update_schema

__all__ = ["SqliteFile", "Statement"]

#: An SQL statement and its parameters.
Statement: TypeAlias = "tuple[str, tuple[object, ...]]"

#: What the module raises for SQLite's troubles.
_ERRORS: Final = (sqlite3.Error, OverflowError)


class SqliteFile:
    """One connection to the file, for one thread at a time.

    A change is either *durable* (synced to the disk) or *late*: written, so
    that the end of the process does not undo it, and synced with the next
    durable one.

    :param filename: path of the file, or ``":memory:"``
    :param busy_timeout: how long to wait for another process, in seconds
    :param create: whether to make what is missing
    :raises snakemq.exceptions.StorageError: by every method, if the file can't
        be used
    """

    def __init__(self, filename: str, busy_timeout: float, create: bool) -> None:
        self.filename: Final = filename
        self._busy_timeout = busy_timeout
        self._pid = os.getpid()
        # Re-entrant for the thread that is inside shared_transaction().
        self._lock = threading.RLock()
        self._shared = False
        self._conn: sqlite3.Connection | None = None
        if not create and not os.path.exists(filename):
            raise StorageError(f"there is no queue storage {filename!r}; check the name")
        with self._translated_errors():
            conn = sqlite3.connect(
                filename,
                timeout=busy_timeout,
                isolation_level=None,  # transactions are begun here, not by the module
                check_same_thread=False,  # the lock sees to it
            )
            try:
                check_schema(conn, filename, create)
                self._configure(conn)
                # What a process left that was killed need not be on the disk.
                self._unsynced = self._can_be_late and _has_content(f"{filename}-wal")
                update_schema(conn)
            except BaseException:
                conn.close()
                raise
        #: where the file is, whatever becomes of the working directory; empty
        #: if there is none
        self.path: Final = str(conn.execute("PRAGMA database_list").fetchone()[2])
        self._conn = conn
        _open_files.add(self)

    def _configure(self, conn: sqlite3.Connection) -> None:
        # A write-ahead log takes one sync for each transaction, a rollback
        # journal three or four.
        mode = conn.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        # In WAL mode anything below FULL syncs only now and then: a power
        # failure would take messages that were accepted. Where there is no
        # WAL (memory, some file systems), EXTRA is what promises the same,
        # and anything below it risks the whole file.
        self._can_be_late = mode == "wal"
        self._syncs = True
        conn.execute(f"PRAGMA synchronous = {'FULL' if self._can_be_late else 'EXTRA'}")
        # On macOS a plain fsync stops short of the disk; elsewhere no effect.
        conn.execute("PRAGMA fullfsync = ON")

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
                conn.close()
        _open_files.discard(self)

    def exclusive(self) -> AbstractContextManager[bool]:
        """For ``with``: other threads keep out. What is inside can use the file."""
        # In a forked child nobody may be there to release it.
        self.check_usable()
        return self._lock

    def read(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self.exclusive(), self._translated_errors():
            return self._connection().execute(sql, parameters).fetchall()

    def write(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Run a statement for each row, for all of them or for none. Durable."""
        if not rows:
            # The writer's lock may be somebody else's; nothing is worth waiting.
            self.check_usable()
            return
        with self.change() as conn:
            conn.executemany(sql, rows)

    @contextmanager
    def change(self, *, joins: bool = False) -> Iterator[sqlite3.Connection]:
        """A durable transaction: what happens inside, happens as a whole or not at all.

        :param joins: inside :meth:`shared_transaction`, be a part of that one
            (and durable with it) instead of refusing
        """
        with self.exclusive(), self._translated_errors():
            conn = self._connection()
            if self._shared and joins:
                with self._savepoint(conn):
                    yield conn
                return
            self._refuse_inside_shared("write to")
            self._begin(conn)
            try:
                yield conn
                conn.execute("COMMIT")
            except BaseException:
                _roll_back(conn)
                raise
            self._unsynced = False

    def run(
        self, statements: Sequence[Statement], *, late: bool = False, joins: bool = False
    ) -> None:
        """Run statements, all of them or none.

        :param late: need not be durable yet
        :param joins: as for :meth:`change`
        """
        if not late:
            with self.change(joins=joins) as conn:
                _execute(conn, statements)
            return
        # For each message that comes; a @contextmanager would double the cost.
        with self.exclusive():
            try:
                conn = self._connection()
                if self._shared and joins:
                    with self._savepoint(conn):
                        _execute(conn, statements)
                    return
                self._refuse_inside_shared("write to")
                self._set_syncs(conn, not self._can_be_late)
                if len(statements) == 1:
                    # Is a transaction of its own.
                    _execute(conn, statements)
                else:
                    conn.execute("BEGIN IMMEDIATE")
                    try:
                        _execute(conn, statements)
                        conn.execute("COMMIT")
                    except BaseException:
                        _roll_back(conn)
                        raise
                self._unsynced = self._can_be_late
            except _ERRORS as exc:
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
            self._refuse_inside_shared("begin a transaction in")
            with self._translated_errors():
                conn = self._connection()
                self._begin(conn)
            self._shared = True
            try:
                yield conn
                with self._translated_errors():
                    self._check_still_shared(conn)
                    conn.execute("COMMIT")
            except BaseException:
                with self._translated_errors():  # the application may have closed it
                    _roll_back(conn)
                raise
            finally:
                self._shared = False
                # The application may have set its own.
                conn.row_factory = None
                conn.text_factory = str
            self._unsynced = False

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

    def damaged(self, table: str, row_id: object, problem: Exception) -> StorageError:
        """What to raise for a row that is not a message."""
        return StorageError(
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

    def _begin(self, conn: sqlite3.Connection) -> None:
        """Begin a durable transaction."""
        self._set_syncs(conn, True)
        # IMMEDIATE waits for the writer's lock here, where the busy timeout
        # applies.
        conn.execute("BEGIN IMMEDIATE")
        if self._unsynced:
            # A commit that changes nothing syncs nothing, and would leave on
            # the way what was late.
            conn.execute(MARK_SYNC)

    def _set_syncs(self, conn: sqlite3.Connection, syncs: bool) -> None:
        if self._syncs != syncs:
            conn.execute(f"PRAGMA synchronous = {'FULL' if syncs else 'NORMAL'}")
            self._syncs = syncs

    @contextmanager
    def _savepoint(self, conn: sqlite3.Connection) -> Iterator[None]:
        self._check_still_shared(conn)
        conn.execute("SAVEPOINT snakemq")
        try:
            yield
        except BaseException:
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
        except _ERRORS as exc:
            raise self._translated(exc) from exc

    def _translated(self, exc: Exception) -> StorageError:
        advice = _advice(exc, self.filename, self._busy_timeout)
        return StorageError(f"queue storage {self.filename!r} {advice} ({exc})")


def _has_content(path: str) -> bool:
    try:
        return os.path.getsize(path) > 0
    except OSError:
        return False


def _execute(conn: sqlite3.Connection, statements: Iterable[Statement]) -> None:
    for sql, parameters in statements:
        conn.execute(sql, parameters)


def _roll_back(conn: sqlite3.Connection) -> None:
    # Some errors (disk full) have done so already.
    if conn.in_transaction:
        conn.execute("ROLLBACK")


def _advice(exc: Exception, filename: str, busy_timeout: float) -> str:
    """What went wrong and what to do about it."""
    # By text, because Python 3.10 does not tell SQLite's error codes. The
    # texts have been the same for many years, and the tests cause each of them.
    text = str(exc)
    if "database or disk is full" in text:
        return "can't grow because the disk is full; nothing was changed, make room and try again"
    if "readonly" in text:
        return "is read-only; make the file and its directory writable for this user"
    if "locked" in text:
        return (
            f"has been locked for {busy_timeout:g} s, by another process or by another connection"
            " of this one; end that transaction, or give each process a file of its own"
        )
    if "is not a database" in text:
        return "is not an SQLite database and was left as it is; choose another file name"
    if "malformed" in text:
        return "is damaged; keep a copy, and save what 'sqlite3 FILE .recover' can read"
    if "unable to open" in text:
        return _why_not_opened(filename)
    if "disk I/O error" in text:
        return "can't be read or written; check the disk and the limits of this process"
    if "too big" in text or isinstance(exc, OverflowError):
        return "can't hold a value of this size, SQLite's limit is about 1 GB; send it in parts"
    return "does not work"


def _why_not_opened(filename: str) -> str:
    directory = os.path.dirname(os.path.abspath(filename))
    if os.path.isdir(filename):
        return "is a directory; give the name of a file in it"
    if not os.path.isdir(directory):
        return f"can't be made because there is no directory {directory!r}; create it first"
    return "can't be opened; check the permissions of the file and its directory"


# SQLite's locks do not survive a fork, and even closing the parent's
# connection in a child may harm the file. Whatever the child lets go of, its
# copies of the parent's connections therefore stay referenced.
_open_files: weakref.WeakSet[SqliteFile] = weakref.WeakSet()
_inherited: list[SqliteFile] = []

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _inherited.extend(_open_files))
