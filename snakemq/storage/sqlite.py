"""The storage in a file: an SQLite database, the same one as snakeMQ 1.6's.

Its table has a row for each item; ``rowid`` is its position, and so the order
of a queue::

    items   queue_name VARCHAR(50)
            uuid       VARCHAR(32)   hexadecimal digits, as a BLOB
            data       BLOB
            ttl        REAL          NULL: for ever
            flags      INTEGER
            offline    REAL          reading of the queue's clock when the TTL was set
            stored_at  REAL          when it was pushed, in seconds since 1970 (UTC)

1.6 knows the first five columns and nothing else, so a file can be handed from
there to here and back at any time. What remains of a TTL is ``ttl`` less what
the clock has run since; so all TTLs of a queue are advanced by one row. (1.6,
in its time, takes ``ttl`` as what remains, which makes it longer and never
shorter.)

Beside it there are ``snakemq_queues`` (how much each queue holds, and its
clock), ``snakemq_pushed`` (what the application pushed by a connection of its
own), ``snakemq_inbox``, ``snakemq_dead`` and ``snakemq_received`` (the
receiving side), ``snakemq_meta`` (the version of all this) and
``snakemq_syncs`` (there to write something).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from snakemq.message import Message
from snakemq.storage._identifiers import Addition
from snakemq.storage._sqlite_file import SqliteFile
from snakemq.storage._sqlite_inbox import SqliteInbox
from snakemq.storage._sqlite_opening import MEMORY, OpeningOptions
from snakemq.storage._sqlite_queues import SqliteQueues
from snakemq.storage._sqlite_received import SqliteReceived
from snakemq.storage._sqlite_staging import push_with
from snakemq.storage._sqlite_upkeep import SqliteUpkeep
from snakemq.storage.base import (
    DeadLetter,
    InboxItem,
    QueuesStorageBase,
    QueueSummary,
    Removal,
    StoredItem,
)

__all__ = ["SqliteQueuesStorage"]

#: What ``synchronous`` may be.
_SYNCHRONOUS: Final = ("EXTRA", "FULL", "NORMAL", "OFF")


class SqliteQueuesStorage(QueuesStorageBase):
    """Keeps items in an SQLite file, which is made if there is none.

    When a method returns, what it did survives a power failure. A change of
    many items (:meth:`change_items`, :meth:`push_many` and so on) is one
    transaction: it costs one wait for the disk, and happens as a whole or not
    at all. What it costs does not depend on how much is stored, nor does
    opening the file. (Except for the methods that get nothing but messages,
    as in 1.6: :meth:`delete_items` and :meth:`update_items_ttl` look at all
    items that are stored, and :meth:`remove_items` at those of the queue, up
    to the last that it removes.)

    May be used from any thread; calls wait for each other. A process that
    forks keeps the storage for itself: in the child it refuses to work.

    The file is for one process at a time, and one storage object in it. As
    long as it is open, ``FILE-lock`` beside it is locked, and names the
    process in a line of text. (A process that was killed leaves that file, and
    it does not matter. 1.6 takes no notice of it.) While it is in use there
    are two more files, ``FILE-wal`` and ``FILE-shm``. They belong to it: copy
    or move all three or none. The first of them is 5 MB long once there were
    some messages: it is faster to overwrite than to append.

    A file of 1.6 is taken over when it is opened: it is rewritten once, which
    takes about as long as 1.6 took at each start, and some columns, tables and
    indexes are added. Whatever interrupts that, nothing is lost, and 1.6 can
    use the file afterwards. When 1.6 has, all items are counted once the next
    time. The file shrinks, in :meth:`maintain`, when more than a quarter of it
    is free.

    :param filename: path of the file, or ``":memory:"``
    :param busy_timeout: how long to wait, in seconds, if another program, or
        another connection of this one, has the file locked for a transaction
    :param create: ``False``: refuse a file that does not exist, or has no
        queue storage in it, instead of making one
    :param read_only: only look at the file, even while a program uses it;
        nothing is changed, not even in an old one of 1.6 (whose items are
        counted for that). Every method that would change something raises
        :exc:`~snakemq.exceptions.StorageError`
    :param synchronous: how sure it is that what is stored survives a power
        failure; an SQLite setting. ``"FULL"`` (and ``"EXTRA"``): surely.
        ``"NORMAL"``: it may be lost what was stored since the last time
        SQLite tidied up, and nothing waits for the disk, not even
        :meth:`sync`; the file stays whole. ``"OFF"``: the file may be damaged.
        None of this concerns the end of the process, which loses nothing
    :param set_aside_damaged: if the file is damaged, rename it to
        ``FILE.damaged-<time>``, log that as a warning, and begin with an empty
        one. Damage that is found while the file is in use raises
        :exc:`~snakemq.exceptions.StorageDamaged` and is noted in
        ``FILE-lock``; the next storage with this option then reads the whole
        file to see whether it is so. What does not begin as an SQLite database
        does is never touched: the name may be wrong
    :raises ValueError: ``synchronous`` is none of these, ``filename`` is
        empty, or it is ``":memory:"`` and ``read_only``
    :raises snakemq.exceptions.StorageInUse: somebody else has it open;
        ``holder`` and the message say who
    :raises snakemq.exceptions.StorageDamaged: by every method: it is not what
        it should be; it was left as it is
    :raises snakemq.exceptions.StorageError: by every method, if the file can't
        be used: not a database, somebody else's, disk full, read-only, locked,
        written by a newer version; also after :meth:`close`. The message says
        what to do; what was stored before is still there
    """

    keeps_received = True
    has_pages = True

    def __init__(
        self,
        filename: str | os.PathLike[str],
        *,
        busy_timeout: float = 5.0,
        create: bool = True,
        read_only: bool = False,
        synchronous: str = "FULL",
        set_aside_damaged: bool = False,
    ) -> None:
        self.filename: Final = os.fspath(filename)
        if not self.filename:
            # SQLite would take a temporary file, gone at the end.
            raise ValueError("the name of a queue storage file can't be empty")
        if synchronous not in _SYNCHRONOUS:
            raise ValueError(f"synchronous must be one of {_SYNCHRONOUS}, not {synchronous!r}")
        if read_only and self.filename == MEMORY:
            raise ValueError("a storage in memory is new and can't be opened with read_only=True")
        options = OpeningOptions(busy_timeout, create, synchronous, set_aside_damaged)
        self._file = SqliteFile(self.filename, options, read_only=read_only)
        try:
            self._queues = SqliteQueues(self._file)
            if not read_only:
                self._queues.adopt()
        except BaseException:
            self._file.close()
            raise
        self._received = SqliteReceived(self._file)
        self._inbox = SqliteInbox(self._file, self._received)
        self._upkeep = SqliteUpkeep(self._file)

    def close(self) -> None:
        """Close the file. Harmless when repeated, and in a forked child."""
        self._queues.save_counts()
        self._file.close()

    def get_queues(self) -> list[str]:
        return self._queues.names()

    def get_items(self, queue_name: str) -> list[Message]:
        return self._queues.items(queue_name)

    def push(self, queue_name: str, item: Message) -> None:
        self._queues.change([(queue_name, item)], (), sync=True)

    def push_many(self, entries: Iterable[tuple[str, Message]]) -> None:
        self._queues.change(list(entries), (), sync=True)

    def remove_items(self, queue_name: str, items: Iterable[Message]) -> None:
        self._queues.remove_first(queue_name, items)

    def delete_items(self, items: Sequence[Message]) -> None:
        self._queues.delete(items)

    def delete_all(self) -> None:
        self._queues.delete_all()

    def update_items_ttl(self, items: Sequence[Message]) -> None:
        self._queues.update_ttls(items)

    def advance_ttl(self, queue_name: str, seconds: float) -> None:
        self._queues.advance(queue_name, seconds)

    def maintain(self) -> bool:
        return self._upkeep.do_a_piece()

    def summarize(self) -> list[QueueSummary]:
        return self._queues.summaries()

    def last_position(self) -> int:
        return self._queues.last_position()

    def get_page(
        self, queue_name: str, after: int, *, max_messages: int, max_bytes: int
    ) -> list[StoredItem]:
        return self._queues.page(queue_name, after, max_messages, max_bytes)

    def change_items(
        self,
        push: Sequence[tuple[str, Message]],
        remove: Sequence[Removal] = (),
        *,
        sync: bool = True,
    ) -> list[int]:
        return self._queues.change(push, remove, sync=sync)

    def next_expiry(self, queue_name: str, after: int = 0) -> float | None:
        return self._queues.next_expiry(queue_name, after)

    def take_expired(
        self, queue_name: str, seconds: float, after: int, max_messages: int
    ) -> list[StoredItem]:
        return self._queues.take_expired(queue_name, seconds, after, max_messages)

    def oldest(self, queue_name: str) -> float | None:
        return self._queues.oldest(queue_name)

    def adopt(self) -> list[tuple[str, StoredItem]]:
        return self._queues.adopt()

    def received_peers(self) -> list[str]:
        return self._received.peers()

    def load_received(self, ident: str) -> list[bytes]:
        return self._received.load(ident)

    def add_received(self, ident: str, uuids: Iterable[bytes], *, keep: int, sync: bool) -> None:
        self._received.add(Addition(ident, uuids, keep), sync=sync)

    def sync(self) -> None:
        self._file.sync()

    def push_inbox(self, ident: str, messages: Iterable[Message], *, keep: int) -> list[int]:
        return self._inbox.push(ident, messages, keep=keep)

    def get_inbox(self, after: int = 0, limit: int | None = None) -> list[InboxItem]:
        return self._inbox.items(after, limit)

    def advance_inbox(self, done: int | None, starting: int | None) -> None:
        self._inbox.advance(done, starting)

    def uncount_attempt(self, item_id: int) -> None:
        self._inbox.uncount(item_id)

    def bury(self, item_id: int, reason: str) -> None:
        self._inbox.bury(item_id, reason)

    def get_dead(self, after: int = 0, limit: int | None = None) -> list[DeadLetter]:
        return self._inbox.dead(after, limit)

    def count_dead(self) -> int:
        return self._inbox.count_dead()

    def add_dead(self, letters: Iterable[DeadLetter]) -> None:
        self._inbox.add_dead(letters)

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
        :meth:`push_many`, :meth:`change_items` and :meth:`advance_inbox`
        become a part of the transaction when they are called by the same
        thread; the others are refused. Other threads that use the storage wait
        until it is over.

        :raises snakemq.exceptions.StorageError: it can't be begun or
            committed, or there is one already in this thread
        """
        return self._file.shared_transaction()

    def push_with(
        self, connection: sqlite3.Connection, entries: Iterable[tuple[str, Message]]
    ) -> None:
        """Append items to queues by way of the application's own connection.

        They are a part of the application's transaction: they are stored if
        and when it is committed. Until then, and until :meth:`adopt` or the
        next opening of the file gives them their places, they are in no
        queue. A TTL begins to run then. If none is open one is begun, as the
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
