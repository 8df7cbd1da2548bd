"""The storage in a file: an SQLite database, the same one as snakeMQ 1.6's.

Its table has a row for each item; the order of a queue is the order of
``rowid``::

    items   queue_name VARCHAR(50)
            uuid       VARCHAR(32)   hexadecimal digits, as a BLOB
            data       BLOB
            ttl        REAL          NULL: for ever
            flags      INTEGER
            offline    REAL          reading of the queue's clock when the TTL was set

    snakemq_offline                  the clock of a queue: for how long TTLs ran
            queue_name TEXT
            seconds    REAL

1.6 knows the first five columns and nothing else, so a file can be handed from
there to here and back at any time. What remains of a TTL is ``ttl`` less what
the clock has run since; so all TTLs of a queue are advanced by one row. (1.6,
in its time, takes ``ttl`` as what remains, which makes it longer and never
shorter.)

``snakemq_inbox``, ``snakemq_dead`` and ``snakemq_received`` are the receiving
side; ``snakemq_syncs`` is there to write something.
"""

from __future__ import annotations

import os
import sqlite3
from binascii import a2b_hex, b2a_hex
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

from snakemq.message import Message
from snakemq.storage._common import check_seconds, remaining
from snakemq.storage._sqlite_file import SqliteFile
from snakemq.storage._sqlite_inbox import SqliteInbox
from snakemq.storage._sqlite_outbox import push_with
from snakemq.storage._sqlite_received import Addition, SqliteReceived
from snakemq.storage.base import DeadLetter, InboxItem, QueuesStorageBase

__all__ = ["SqliteQueuesStorage"]

_GET: Final = """SELECT rowid, uuid, data, ttl, flags,
    (SELECT seconds FROM snakemq_offline WHERE queue_name = ?) - offline
    FROM items WHERE queue_name = ? ORDER BY rowid"""

_PUSH: Final = """INSERT INTO items (queue_name, uuid, data, ttl, flags, offline)
    VALUES (?, ?, ?, ?, ?, ?)"""

_REMOVE_FIRST: Final = """DELETE FROM items WHERE rowid =
    (SELECT min(rowid) FROM items WHERE uuid = ? AND queue_name = ?)"""

_UPDATE_TTL: Final = """UPDATE items SET ttl = ?, offline = coalesce(
        (SELECT seconds FROM snakemq_offline o WHERE o.queue_name = items.queue_name), 0.0)
    WHERE uuid = ?"""

_CLOCK: Final = "SELECT seconds FROM snakemq_offline WHERE queue_name = ?"

_IN_USE: Final = """SELECT EXISTS (SELECT 1 FROM items WHERE queue_name = ?),
    EXISTS (SELECT 1 FROM snakemq_offline WHERE queue_name = ?)"""

_ADVANCE: Final = """INSERT INTO snakemq_offline (queue_name, seconds) VALUES (?, ?)
    ON CONFLICT (queue_name) DO UPDATE SET seconds = seconds + excluded.seconds"""

_FORGET_CLOCK: Final = "DELETE FROM snakemq_offline WHERE queue_name = ?"


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
    :param create: ``False``: refuse a file that does not exist, or has no
        queue storage in it, instead of making one
    :raises snakemq.exceptions.StorageError: by every method, if the file can't
        be used: not a database or damaged, somebody else's database, disk
        full, read-only, locked; also after :meth:`close`. The message says
        what to do; what was stored before is still there.
    """

    keeps_received = True

    def __init__(
        self, filename: str | os.PathLike[str], *, busy_timeout: float = 5.0, create: bool = True
    ) -> None:
        self.filename: Final = os.fspath(filename)
        if not self.filename:
            # SQLite would take a temporary file, gone at the end.
            raise ValueError("the name of a queue storage file can't be empty")
        self._file = SqliteFile(self.filename, busy_timeout, create)
        self._received = SqliteReceived(self._file)
        self._inbox = SqliteInbox(self._file, self._received)

    def close(self) -> None:
        """Close the file. Harmless when repeated, and in a forked child."""
        self._file.close()

    def get_queues(self) -> list[str]:
        return [row[0] for row in self._file.read("SELECT DISTINCT queue_name FROM items")]

    def get_items(self, queue_name: str) -> list[Message]:
        return [self._item(*row) for row in self._file.read(_GET, queue_name, queue_name)]

    def push(self, queue_name: str, item: Message) -> None:
        self.push_many(((queue_name, item),))

    def push_many(self, entries: Iterable[tuple[str, Message]]) -> None:
        pushed = list(entries)
        if not pushed:
            # The writer's lock may be somebody else's; nothing is worth waiting.
            self._file.check_usable()
            return
        timed = {queue_name for queue_name, item in pushed if item.ttl is not None}
        with self._file.change(joins=True) as conn:
            clocks = {queue_name: _clock(conn, queue_name) for queue_name in timed}
            conn.executemany(
                _PUSH,
                [
                    (
                        queue_name,
                        b2a_hex(item.uuid),
                        item.data,
                        item.ttl,
                        item.flags,
                        None if item.ttl is None else clocks[queue_name],
                    )
                    for queue_name, item in pushed
                ],
            )

    def remove_items(self, queue_name: str, items: Iterable[Message]) -> None:
        self._file.write(_REMOVE_FIRST, [(b2a_hex(item.uuid), queue_name) for item in items])

    def delete_items(self, items: Sequence[Message]) -> None:
        self._file.write(
            "DELETE FROM items WHERE uuid = ?", [(b2a_hex(item.uuid),) for item in items]
        )

    def delete_all(self) -> None:
        self._file.run([("DELETE FROM items", ()), ("DELETE FROM snakemq_offline", ())])

    def update_items_ttl(self, items: Sequence[Message]) -> None:
        self._file.write(_UPDATE_TTL, [(item.ttl, b2a_hex(item.uuid)) for item in items])

    def advance_ttl(self, queue_name: str, seconds: float) -> None:
        # Late: after a power failure messages live a little longer, and often
        # one is stored next, which takes this along.
        check_seconds(seconds)
        with self._file.exclusive():
            ((has_items, has_clock),) = self._file.read(_IN_USE, queue_name, queue_name)
            if has_items and seconds:
                self._file.run([(_ADVANCE, (queue_name, seconds))], late=True)
            elif has_clock and not has_items:
                self._file.run([(_FORGET_CLOCK, (queue_name,))], late=True)

    def load_received(self, ident: str) -> list[bytes]:
        return self._received.load(ident)

    def add_received(self, ident: str, uuids: Iterable[bytes], *, keep: int, sync: bool) -> None:
        self._received.add(Addition(ident, uuids, keep), sync=sync)

    def sync(self) -> None:
        self._file.sync()

    def push_inbox(self, ident: str, messages: Iterable[Message], *, keep: int) -> list[int]:
        return self._inbox.push(ident, messages, keep=keep)

    def get_inbox(self) -> list[InboxItem]:
        return self._inbox.items()

    def advance_inbox(self, done: int | None, starting: int | None) -> None:
        self._inbox.advance(done, starting)

    def uncount_attempt(self, item_id: int) -> None:
        self._inbox.uncount(item_id)

    def bury(self, item_id: int, reason: str) -> None:
        self._inbox.bury(item_id, reason)

    def get_dead(self) -> list[DeadLetter]:
        return self._inbox.dead()

    def retry_dead(self, ids: Sequence[int] | None) -> list[InboxItem]:
        return self._inbox.retry(ids)

    def drop_dead(self, ids: Sequence[int] | None) -> int:
        return self._inbox.drop(ids)

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """A transaction that the application shares with the storage.

        ::

            with storage.transaction() as connection:
                connection.execute("INSERT INTO orders ...")
                storage.push_many(...)
                storage.advance_inbox(...)

        It is committed, and is on disk, at the end of the block; an exception
        undoes all of it. The connection is the storage's own, so the tables of
        the application are in the storage's file. It is for the block only:
        do not commit, roll back or close it.

        Of the methods of the storage that change something, :meth:`push`,
        :meth:`push_many` and :meth:`advance_inbox` become a part of the
        transaction when they are called by the same thread; the others are
        refused. Other threads that use the storage wait until it is over.

        :raises snakemq.exceptions.StorageError: it can't be begun or
            committed, or there is one already in this thread
        """
        return self._file.shared_transaction()

    def push_with(
        self, connection: sqlite3.Connection, entries: Iterable[tuple[str, Message]]
    ) -> None:
        """Append items to queues by way of the application's own connection.

        They are a part of the application's transaction: they are stored if
        and when it is committed. If none is open one is begun, as the
        :mod:`sqlite3` module does for an ``INSERT``. From then on until the
        end of the transaction, no other connection can write to the file, nor
        can this storage: do not let it take long.

        How well it survives a power failure is up to the connection's ``PRAGMA
        synchronous``; FULL, which is SQLite's default, is as good as
        :meth:`push_many`.

        :param connection: a connection to the file of this storage
        :param entries: pairs of queue name and item
        :raises TypeError: ``connection`` is no :class:`sqlite3.Connection`
        :raises ValueError: it is one to another file, or commits by itself
            and is not in a transaction
        :raises snakemq.exceptions.StorageError: nothing was appended: the
            file is locked, the disk is full ...; the transaction is as it was
        """
        self._file.check_usable()
        push_with(connection, self._file.path, entries)

    def __repr__(self) -> str:
        state = "open" if self._file.is_open else "closed"
        return f"<{type(self).__name__} {self.filename!r} {state}>"

    def _item(
        self, rowid: int, uuid: Any, data: Any, ttl: Any, flags: Any, elapsed: Any
    ) -> Message:
        try:
            # 1.6 on Python 2 wrote plain ASCII data as TEXT.
            data = data.encode() if isinstance(data, str) else data
            if elapsed is not None and elapsed > 0:
                ttl = remaining(ttl, elapsed)
            return Message(data, ttl, flags, a2b_hex(uuid))
        except (TypeError, ValueError) as exc:
            raise self._file.damaged("items", rowid, exc) from exc


def _clock(conn: sqlite3.Connection, queue_name: str) -> float:
    """For how long TTLs of this queue have run."""
    row = conn.execute(_CLOCK, (queue_name,)).fetchone()
    return 0.0 if row is None else float(row[0])
