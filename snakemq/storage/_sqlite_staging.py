"""Queueing by way of a connection of the application, inside its transaction.

::

    snakemq_pushed   id          INTEGER   rises in the order of the commits
                     queue_name  TEXT
                     uuid        BLOB      hexadecimal digits, as in the other table
                     data        BLOB
                     ttl         REAL
                     flags       INTEGER
                     stored_at   REAL

From there the storage itself takes the items, because positions have to rise in
the order in which transactions are committed, and the application's are not over
when it pushes.
"""

from __future__ import annotations

import os
import sqlite3
from binascii import b2a_hex
from collections.abc import Iterable, Sequence
from typing import Final

from snakemq.exceptions import StorageError
from snakemq.message import Message
from snakemq.storage._common import wall_clock

__all__ = ["push_with"]

# "main." because the application may have a temporary table of that name.
_PUSH: Final = """INSERT INTO main.snakemq_pushed
    (queue_name, uuid, data, ttl, flags, stored_at) VALUES (?, ?, ?, ?, ?, ?)"""


def push_with(
    connection: sqlite3.Connection, path: str, entries: Iterable[tuple[str, Message]]
) -> None:
    """Put items down for their queues, inside the transaction of this connection; all or none.

    :param connection: the application's
    :param path: the file of the storage, as SQLite sees it; empty if there is none
    :param entries: pairs of queue name and item
    :raises TypeError: that is no connection
    :raises ValueError: it is one to another file, or has no transaction
    :raises StorageError: SQLite refused; the transaction is as it was
    """
    if not isinstance(connection, sqlite3.Connection):
        raise TypeError(
            f"connection must be an sqlite3.Connection, not {type(connection).__name__}"
        )
    _check_file(connection, path)
    now = wall_clock()
    rows = [
        (name, b2a_hex(item.uuid), item.data, item.ttl, item.flags, now) for name, item in entries
    ]
    if not connection.in_transaction and _commits_by_itself(connection):
        raise ValueError(
            "the connection has no open transaction and would commit at once; begin one first"
        )
    try:
        if connection.in_transaction:
            _insert(connection, rows)
        else:
            connection.execute(f"BEGIN {connection.isolation_level}")
            try:
                connection.executemany(_PUSH, rows)
            except BaseException:
                connection.rollback()
                raise
    except sqlite3.ProgrammingError:
        # Closed, another thread's: how the application uses its connection.
        raise
    except (sqlite3.Error, OverflowError) as exc:
        raise StorageError(
            f"could not append to queue storage {path!r} by way of the application's connection;"
            f" nothing was appended, roll back and try again ({exc})"
        ) from exc


def _insert(connection: sqlite3.Connection, rows: Sequence[tuple[object, ...]]) -> None:
    connection.execute("SAVEPOINT snakemq")
    try:
        connection.executemany(_PUSH, rows)
    except BaseException:
        # It is gone, with the whole transaction, after some errors.
        if connection.in_transaction:
            connection.execute("ROLLBACK TO snakemq")
            connection.execute("RELEASE snakemq")
        raise
    connection.execute("RELEASE snakemq")


def _commits_by_itself(connection: sqlite3.Connection) -> bool:
    # Since Python 3.12 there is an attribute that, if it is a bool, overrides
    # the older one.
    autocommit = getattr(connection, "autocommit", None)
    if isinstance(autocommit, bool):
        return autocommit
    return connection.isolation_level is None


def _check_file(connection: sqlite3.Connection, path: str) -> None:
    if not path:
        raise ValueError(
            "the queue storage is in memory, where no other connection gets to; use transaction()"
        )
    cursor = connection.cursor()
    cursor.row_factory = None  # the application may have set its own
    # The first is "main". The application may have text come as bytes.
    other = os.fsdecode(cursor.execute("PRAGMA database_list").fetchone()[2] or "")
    cursor.close()
    try:
        same = bool(other) and os.path.samefile(other, path)
    except OSError:
        same = False
    if not same:
        raise ValueError(
            f"the connection is to {other or 'a database in memory'!r}, and the queue storage is"
            f" {path!r}; only a connection to the same file can append to it"
        )
