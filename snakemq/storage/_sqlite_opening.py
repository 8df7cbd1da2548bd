"""Opens the file: makes it, takes it over, sets it aside, or only looks at it."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Final, NamedTuple

from snakemq.exceptions import StorageDamaged, StorageError
from snakemq.storage._sqlite_batches import MAKE_CHANGES
from snakemq.storage._sqlite_errors import ERRORS, storage_error, why_not_opened
from snakemq.storage._sqlite_lock import FileLock
from snakemq.storage._sqlite_migrations import check_version, migrate, overlay
from snakemq.storage._sqlite_schema import check_schema

__all__ = ["MEMORY", "Look", "Opened", "OpeningOptions", "open_to_look", "open_to_use"]

_log = logging.getLogger("snakemq.storage")

#: The name of a storage that is in no file.
MEMORY: Final = ":memory:"


class OpeningOptions(NamedTuple):
    """How to open a file.

    :ivar busy_timeout: how long to wait for another process, in seconds
    :ivar create: whether to make what is missing
    :ivar synchronous: what SQLite calls so
    :ivar set_aside_damaged: whether to begin with an empty file if it is damaged
    """

    busy_timeout: float
    create: bool
    synchronous: str
    set_aside_damaged: bool


class Opened(NamedTuple):
    """An open file.

    :ivar conn: the connection
    :ivar lock: what keeps others away, if there is a file
    :ivar has_log: whether there is a write-ahead log
    :ivar unsynced: whether an earlier process may have left something in it
        that is not on the disk yet
    """

    conn: sqlite3.Connection
    lock: FileLock | None
    has_log: bool
    unsynced: bool


def open_to_use(filename: str, options: OpeningOptions) -> Opened:
    """Open a file, and make it what it should be.

    :raises snakemq.exceptions.StorageError: it can't be used
    """
    if filename == MEMORY:
        return _open(filename, options, None)
    if not options.create:
        _check_exists(filename)
    lock = FileLock(filename)
    try:
        try:
            return _open(filename, options, lock)
        except StorageDamaged as exc:
            if not options.set_aside_damaged:
                raise
            _set_aside(filename, exc)
            lock.note_damage("")
        return _open(filename, options, lock)
    except BaseException:
        lock.release()
        raise


def _open(filename: str, options: OpeningOptions, lock: FileLock | None) -> Opened:
    with _translated_errors(filename, options.busy_timeout):
        conn = sqlite3.connect(
            filename,
            timeout=options.busy_timeout,
            isolation_level=None,  # transactions are begun by us, not by the module
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            check_schema(conn, filename, options.create)
            version = check_version(conn, filename)
            if lock is not None and lock.damage and options.set_aside_damaged:
                _check_all(conn, filename)
                lock.note_damage("")
            if not version:
                _let_it_shrink(conn, filename)
            # A write-ahead log takes one sync for each transaction, a rollback
            # journal three or four.
            has_log = conn.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal"
            # What a process left that was killed need not be on the disk.
            unsynced = has_log and _has_content(f"{filename}-wal")
            conn.execute(f"PRAGMA synchronous = {options.synchronous}")
            # On macOS a plain fsync stops short of the disk; elsewhere no effect.
            conn.execute("PRAGMA fullfsync = ON")
            migrate(conn, filename, version)
            for statement in MAKE_CHANGES:
                conn.execute(statement)
        except BaseException:
            conn.close()
            raise
    return Opened(conn, lock, has_log, unsynced)


def _let_it_shrink(conn: sqlite3.Connection, filename: str) -> None:
    """Have SQLite note where each page belongs, so that it can give back free ones."""
    if conn.execute("PRAGMA auto_vacuum").fetchone()[0] == _INCREMENTAL:
        return
    conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
    if not conn.execute("PRAGMA page_count").fetchone()[0]:
        return
    try:
        # As 1.6 did at each start; and if it is interrupted, it never began.
        conn.execute("VACUUM")
    except sqlite3.OperationalError as exc:
        if "locked" in str(exc):
            raise
        _log.warning(
            "queue storage %r can't be rewritten so that it could shrink later; it is used as it"
            " is (%s)",
            filename,
            exc,
        )


_INCREMENTAL: Final = 2


def _check_all(conn: sqlite3.Connection, filename: str) -> None:
    (found,) = conn.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise StorageDamaged(f"queue storage {filename!r} is damaged ({found})")


def _set_aside(filename: str, problem: StorageDamaged) -> None:
    place = f"{filename}.damaged-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    number = 1
    while os.path.exists(place):
        number += 1
        place = f"{place.partition('Z')[0]}Z-{number}"
    # The file itself goes last: a new one must not come to the log of the old.
    for suffix in ("-wal", "-shm", "-journal", ""):
        if os.path.exists(filename + suffix):
            os.rename(filename + suffix, place + suffix)
    _log.warning(
        "queue storage %r was damaged and is empty now; what was in it is kept in %r, and"
        " 'sqlite3 FILE .recover' may read it (%s)",
        filename,
        place,
        problem,
    )


class Look(NamedTuple):
    """A look at a file.

    :ivar conn: the connection, which only reads
    :ivar alone: whether nobody had the file open, and this may write to it
    """

    conn: sqlite3.Connection
    alone: bool

    def close(self) -> None:
        """End it, and leave no trace."""
        (_, _, path) = self.conn.execute("PRAGMA database_list").fetchone()
        self.conn.close()
        if self.alone and os.path.exists(f"{path}-wal"):
            # Reading takes the two files beside it, and only who may write is
            # able to tell whether somebody else uses them by now.
            with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(path)) as last:
                last.execute("PRAGMA schema_version")


def open_to_look(filename: str, busy_timeout: float) -> Look:
    """Open a file that may be in use, and change nothing.

    :raises snakemq.exceptions.StorageError: there is none, or it can't be read
    """
    _check_exists(filename)
    if os.path.isdir(filename):
        raise StorageError(f"queue storage {filename!r} {why_not_opened(filename)}")
    alone = not os.path.exists(f"{filename}-wal")
    with _translated_errors(filename, busy_timeout):
        # Who may not write could not remove the two files beside it that
        # reading takes, and those would be in the way of who may.
        directory = os.path.dirname(os.path.abspath(filename))
        leaves_files = not (os.access(filename, os.W_OK) and os.access(directory, os.W_OK))
        how = "&immutable=1" if alone and leaves_files else ""
        conn = sqlite3.connect(
            f"{Path(filename).absolute().as_uri()}?mode=ro{how}",
            uri=True,
            timeout=busy_timeout,
            isolation_level=None,
            check_same_thread=False,
        )
        look = Look(conn, alone and not leaves_files)
        try:
            check_schema(conn, filename, create=False)
            overlay(conn, check_version(conn, filename))
        except BaseException:
            look.close()
            raise
    return look


def _check_exists(filename: str) -> None:
    if not os.path.exists(filename):
        raise StorageError(f"there is no queue storage {filename!r}; check the name")


def _has_content(path: str) -> bool:
    try:
        return os.path.getsize(path) > 0
    except OSError:
        return False


@contextmanager
def _translated_errors(filename: str, busy_timeout: float) -> Iterator[None]:
    try:
        yield
    except ERRORS as exc:
        raise storage_error(exc, filename, busy_timeout) from exc
