"""The storage in a file: an SQLite database, the same one as snakeMQ 1.6's.

There is one table, with a row for each item; the order of a queue is the
order of ``rowid``::

    items   queue_name VARCHAR(50)
            uuid       VARCHAR(32)   hexadecimal digits, as a BLOB
            data       BLOB
            ttl        REAL          NULL: for ever
            flags      INTEGER

A file can be handed from 1.6 to here and back at any time.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from binascii import a2b_hex, b2a_hex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from snakemq.exceptions import StorageError
from snakemq.message import Message
from snakemq.storage.base import QueuesStorageBase

__all__ = ["SqliteQueuesStorage"]

_COLUMNS: Final = {"queue_name", "uuid", "data", "ttl", "flags"}

_CREATE: Final = (
    """CREATE TABLE IF NOT EXISTS items (queue_name VARCHAR(50), uuid VARCHAR(32),
                                         data BLOB, ttl REAL, flags INTEGER)""",
    # Without these, each removal and each load of a queue reads the whole
    # table. Do not make one index (queue_name, uuid) of them: 1.6 asks for a
    # queue without ORDER BY, and such an index would hand it the queue in the
    # order of the identifiers. An index on the name alone keeps it by rowid.
    "CREATE INDEX IF NOT EXISTS items_queue ON items (queue_name)",
    "CREATE INDEX IF NOT EXISTS items_uuid ON items (uuid, queue_name)",
    # 1.6 on Python 2 wrote identifiers as TEXT, which no comparison with a
    # BLOB finds. TEXT sorts before every BLOB, so the index knows at once
    # whether there are any.
    "UPDATE items SET uuid = CAST(uuid AS BLOB) WHERE uuid < x''",
)

_PUSH: Final = "INSERT INTO items (queue_name, uuid, data, ttl, flags) VALUES (?, ?, ?, ?, ?)"

_REMOVE_FIRST: Final = """DELETE FROM items WHERE rowid =
    (SELECT min(rowid) FROM items WHERE uuid = ? AND queue_name = ?)"""


class SqliteQueuesStorage(QueuesStorageBase):
    """Keeps items in an SQLite file, which is made if there is none.

    When a method returns, what it did survives a power failure. A batch
    (:meth:`push_many`, :meth:`remove_items` and so on) is one transaction: it
    costs one wait for the disk, and happens as a whole or not at all.

    May be used from any thread; calls wait for each other. A process that
    forks keeps the storage for itself: in the child it refuses to work.

    The file is for one process at a time. It does not shrink: room that
    delivered items leave is used for the next ones. (1.6 rewrote the whole
    file with ``VACUUM`` at each start, which takes minutes if it is large. To
    do so by hand, run ``sqlite3 FILE VACUUM`` while nobody uses it.) While it
    is in use there are two more files beside it, ``FILE-wal`` and
    ``FILE-shm``. They belong to it: copy or move all three or none.

    :param filename: path of the file, or ``":memory:"``
    :param busy_timeout: how long to wait, in seconds, if another process has
        the file locked
    :raises snakemq.exceptions.StorageError: by every method, if the file can't
        be used: not a database or damaged, somebody else's database, disk
        full, read-only, locked; also after :meth:`close`. The message says
        what to do; what was stored before is still there.
    """

    def __init__(self, filename: str | os.PathLike[str], *, busy_timeout: float = 5.0) -> None:
        self.filename: Final = os.fspath(filename)
        if not self.filename:
            # SQLite would take a temporary file, gone at the end.
            raise ValueError("the name of a queue storage file can't be empty")
        self._busy_timeout = busy_timeout
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._conn: sqlite3.Connection | None = None
        with self._translated_errors():
            conn = sqlite3.connect(
                self.filename,
                timeout=busy_timeout,
                isolation_level=None,  # transactions are begun here, not by the module
                check_same_thread=False,  # the lock sees to it
            )
            try:
                self._check_schema(conn)
                self._configure(conn)
                with conn:
                    conn.execute("BEGIN IMMEDIATE")
                    for statement in _CREATE:
                        conn.execute(statement)
            except BaseException:
                conn.close()
                raise
        self._conn = conn
        _open_storages.add(self)

    def _check_schema(self, conn: sqlite3.Connection) -> None:
        """Refuse what is not ours; only reads."""
        found = conn.execute("SELECT type FROM sqlite_master WHERE name = 'items'").fetchone()
        if found is None:
            return
        columns = {row[1] for row in conn.execute("PRAGMA table_info(items)")}
        if found[0] != "table" or columns != _COLUMNS:
            raise StorageError(
                f"queue storage {self.filename!r} has an 'items' {found[0]} of some other program"
                " and was left as it is; choose another file name"
            )

    @staticmethod
    def _configure(conn: sqlite3.Connection) -> None:
        # A write-ahead log takes one sync for each transaction, a rollback
        # journal three or four.
        mode = conn.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        # In WAL mode anything below FULL syncs only now and then: a power
        # failure would take messages that were accepted. Where there is no
        # WAL (memory, some file systems), EXTRA is what promises the same.
        conn.execute(f"PRAGMA synchronous = {'FULL' if mode == 'wal' else 'EXTRA'}")
        # On macOS a plain fsync stops short of the disk; elsewhere no effect.
        conn.execute("PRAGMA fullfsync = ON")

    def close(self) -> None:
        """Close the file. Harmless when repeated, and in a forked child."""
        if os.getpid() != self._pid:
            return
        with self._lock, self._translated_errors():
            conn, self._conn = self._conn, None
            if conn is not None:
                conn.close()
        _open_storages.discard(self)

    def get_queues(self) -> list[str]:
        return [row[0] for row in self._read("SELECT DISTINCT queue_name FROM items")]

    def get_items(self, queue_name: str) -> list[Message]:
        rows = self._read(
            "SELECT rowid, uuid, data, ttl, flags FROM items WHERE queue_name = ? ORDER BY rowid",
            queue_name,
        )
        return [self._item(*row) for row in rows]

    def push(self, queue_name: str, item: Message) -> None:
        self.push_many(((queue_name, item),))

    def push_many(self, entries: Iterable[tuple[str, Message]]) -> None:
        self._write(
            _PUSH,
            [
                (queue_name, b2a_hex(item.uuid), item.data, item.ttl, item.flags)
                for queue_name, item in entries
            ],
        )

    def remove_items(self, queue_name: str, items: Iterable[Message]) -> None:
        self._write(_REMOVE_FIRST, [(b2a_hex(item.uuid), queue_name) for item in items])

    def delete_items(self, items: Sequence[Message]) -> None:
        self._write("DELETE FROM items WHERE uuid = ?", [(b2a_hex(item.uuid),) for item in items])

    def delete_all(self) -> None:
        self._write("DELETE FROM items", [()])

    def update_items_ttl(self, items: Sequence[Message]) -> None:
        self._write(
            "UPDATE items SET ttl = ? WHERE uuid = ?",
            [(item.ttl, b2a_hex(item.uuid)) for item in items],
        )

    def __repr__(self) -> str:
        state = "closed" if self._conn is None else "open"
        return f"<{type(self).__name__} {self.filename!r} {state}>"

    def _read(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self._connection() as conn:
            return conn.execute(sql, parameters).fetchall()

    def _write(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        """Run the statement for each row, for all of them or for none."""
        if not rows:
            # The writer's lock may be somebody else's; nothing is worth waiting.
            self._check_usable()
            return
        with self._connection() as conn, conn:
            # IMMEDIATE waits for the writer's lock here, where the busy
            # timeout applies.
            conn.execute("BEGIN IMMEDIATE")
            conn.executemany(sql, rows)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time."""
        # Before the lock: in a forked child nobody may be there to release it.
        self._check_usable()
        with self._lock:
            if self._conn is None:
                raise self._closed()
            with self._translated_errors():
                yield self._conn

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise StorageError(
                f"queue storage {self.filename!r} was opened by process {self._pid} and can't be"
                f" used in process {os.getpid()}, which was forked off; open a storage in the"
                " child, with a file of its own"
            )
        if self._conn is None:
            raise self._closed()

    def _closed(self) -> StorageError:
        return StorageError(
            f"queue storage {self.filename!r} is closed; open the file again with a new storage"
        )

    def _item(self, rowid: int, uuid: Any, data: Any, ttl: Any, flags: Any) -> Message:
        try:
            # 1.6 on Python 2 wrote plain ASCII data as TEXT.
            data = data.encode() if isinstance(data, str) else data
            return Message(data, ttl, flags, a2b_hex(uuid))
        except (TypeError, ValueError) as exc:
            raise StorageError(
                f"queue storage {self.filename!r} has a row in table 'items' that is not a message"
                f" ({exc}); keep a copy of the file and delete the row with rowid {rowid}"
            ) from exc

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError) as exc:
            advice = _advice(exc, self.filename, self._busy_timeout)
            raise StorageError(f"queue storage {self.filename!r} {advice} ({exc})") from exc


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
            f"has been locked by another process for {busy_timeout:g} s; stop that process, or"
            " give each process a file of its own"
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
_open_storages: weakref.WeakSet[SqliteQueuesStorage] = weakref.WeakSet()
_inherited: list[SqliteQueuesStorage] = []

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _inherited.extend(_open_storages))
