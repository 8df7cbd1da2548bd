"""Messages that are sent if, and only if, a database transaction commits."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from snakemq.exceptions import StorageError
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.queues import Ledger, QueuesManager, Reserved
from snakemq.storage import QueuesStorageBase

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Transaction", "begin"]


class Transaction:
    """A transaction of an SQLite database in which messages are queued.

    For the thread that began it, until it ends.

    :ivar db: the connection to the database
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        manager: QueuesManager,
        check: Callable[[str, Message], object],
        store: Callable[[list[tuple[str, Message]]], Sequence[int] | None],
    ) -> None:
        self.db = db
        self._manager = manager
        self._check = check
        self._store = store
        self._reserved: Reserved = []
        self._positions: list[int] = []
        self._kept: list[tuple[Ledger, Message, int]] = []

    def send_message(self, ident: str, message: Message) -> None:
        """Queue a message for a peer with this transaction.

        :param message: with ``FLAG_PERSISTENT``: what is not in the database
            can't be part of its transaction
        :raises ValueError: it is not persistent, or its TTL is 0
        :raises TypeError: not an identifier, or not a message
        :raises PacketTooLarge: the message can't be sent in one packet
        :raises QueueFull: there is no room for it
        :raises snakemq.exceptions.StorageError: it could not be stored
        """
        self._check(ident, message)
        if not message.flags & FLAG_PERSISTENT or message.ttl == 0:
            raise ValueError(
                "only a persistent message with a time to live can be part of a transaction"
            )
        reserved = self._manager.reserve([(ident, message)])
        try:
            stored = message
            if message.ttl is not None:
                # What the storage will take off for the time that has gone by.
                stored = message.with_ttl(message.ttl + reserved[0][0].unstored_seconds())
            self._positions += self._store([(ident, stored)]) or ()
        except BaseException:
            self._manager.release(reserved)
            raise
        self._reserved += reserved

    def keep(self, ledger: Ledger, key: bytes, record: bytes) -> None:
        """Put a record into a ledger with this transaction; not by a connection of one's own.

        :raises snakemq.exceptions.StorageError: it could not be stored
        """
        item = ledger.item(key, record)
        positions = self._store([(ledger.name, item)])
        if not positions:
            raise StorageError("a ledger can't be written by the application's own connection")
        self._kept.append((ledger, item, positions[0]))

    def committed(self) -> None:
        """What was sent is in the storage for good, with its positions: queue it."""
        for ledger, item, position in self._kept:
            ledger.stored(item, position)
        self._manager.append(self._reserved, self._positions)

    def attend(self) -> None:
        """Have the loop look at what was queued."""
        self._manager.attend(dict.fromkeys(queue for queue, _ in self._reserved))

    def release(self) -> None:
        """Nothing was sent, or what was sent is queued anew."""
        reserved, self._reserved = self._reserved, []
        self._manager.release(reserved)


@contextlib.contextmanager
def begin(
    manager: QueuesManager,
    connection: sqlite3.Connection | None,
    check: Callable[[str, Message], object],
    before_commit: Callable[[QueuesStorageBase], object] = lambda storage: None,
) -> Iterator[Transaction]:
    """See :meth:`snakemq.messaging.Messaging.transaction`.

    :param check: raises if a message can't be sent
    :param before_commit: the last thing in the transaction
    """
    storage = manager.paged
    if storage is None:
        raise StorageError("a transaction needs a storage in a file, and there is none")
    thread = threading.get_ident()
    if thread in manager.in_transaction:
        raise StorageError("this thread is inside a transaction already; end that one first")
    manager.in_transaction.add(thread)
    try:
        if connection is None:
            # What others store waits: the order in memory is the order of commits.
            # So does who reads, and would wait in the storage otherwise.
            with manager.writer.exclusive(), manager.load_lock:
                with contextlib.ExitStack() as rollback:
                    with storage.transaction() as db:
                        transaction = Transaction(db, manager, check, storage.change_items)
                        rollback.callback(transaction.release)
                        yield transaction
                        before_commit(storage)
                    rollback.pop_all()
                transaction.committed()
        else:
            with contextlib.ExitStack() as rollback, _ending(connection):
                transaction = Transaction(
                    connection,
                    manager,
                    check,
                    lambda entries: storage.push_with(connection, entries),
                )
                rollback.callback(transaction.release)
                yield transaction
    finally:
        manager.in_transaction.discard(thread)
    if connection is None:
        transaction.attend()
    else:
        manager.adopt()


@contextlib.contextmanager
def _ending(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit at the end, or roll back when something is raised."""
    if not connection.in_transaction:
        # Now, and not with the first statement that writes: another one that
        # has read before may find that it can't write any more.
        connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        _end(connection, "COMMIT")
    except BaseException:
        _end(connection, "ROLLBACK")
        raise


def _end(connection: sqlite3.Connection, statement: str) -> None:
    # Its methods do nothing in the mode in which the module begins no
    # transactions (Python 3.12), and in the others they know what comes next.
    if getattr(connection, "autocommit", None) is True:
        if connection.in_transaction:
            connection.execute(statement)
    elif statement == "COMMIT":
        connection.commit()
    else:
        connection.rollback()
