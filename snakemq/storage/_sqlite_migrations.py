"""How a file of an older version becomes one of this, and what 1.6 did to it meanwhile.

The table ``snakemq_meta`` holds two numbers:

``version``
    of the tables in the file. A file of 1.6 has none. (``PRAGMA user_version``
    is left to the application, whose tables may be in the same file.)

``schema_version``
    what SQLite counts each time a table is made and at each ``VACUUM``, as it
    was when the file was last opened here. 1.6 starts with a ``VACUUM``; so
    where it is another one, somebody else may have changed the items.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from typing import Any, Final

from snakemq.exceptions import StorageError
from snakemq.storage._sqlite_schema import INDEXES, TABLES, columns_of_items

__all__ = ["VERSION", "check_version", "migrate", "overlay"]

_log = logging.getLogger("snakemq.storage")

_CREATE: Final = "CREATE TABLE IF NOT EXISTS "

_SET: Final = "REPLACE INTO snakemq_meta (name, value) VALUES (?, ?)"

_SURVEY: Final = """SELECT queue_name, count(*), coalesce(sum(length(data)), 0),
    total(typeof(uuid) = 'text')
    FROM items GROUP BY queue_name"""


def _take_over(conn: sqlite3.Connection) -> None:
    """From nothing, or 1.6, to version 1."""
    for statement in TABLES:
        conn.execute(statement)
    columns = columns_of_items(conn)
    for column in ("offline", "stored_at"):
        if column not in columns:
            conn.execute(f"ALTER TABLE items ADD COLUMN {column} REAL")
    for statement in INDEXES:
        conn.execute(statement)


_ADD_COUNTED: Final = "ALTER TABLE {}.snakemq_queues ADD COLUMN counted INTEGER"


def _count_up_to_a_position(conn: sqlite3.Connection) -> None:
    """From version 1 to 2: what is pushed need not be counted at once."""
    conn.execute(_ADD_COUNTED.format("main"))
    conn.execute("UPDATE snakemq_queues SET counted = (SELECT max(rowid) FROM items)")


#: Each makes the next version of the one before, in a transaction of its own.
STEPS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    _take_over,
    _count_up_to_a_position,
)

#: The version of a file that all steps were done with.
VERSION: Final = len(STEPS)


def check_version(conn: sqlite3.Connection, filename: str) -> int:
    """The version of the file; only reads.

    :raises StorageError: it is newer than what is known here
    """
    exists = conn.execute(
        "SELECT count(*) FROM sqlite_master WHERE name = 'snakemq_meta'"
    ).fetchone()[0]
    version = _get(conn, "version") if exists else 0
    if version > len(STEPS):
        raise StorageError(
            f"queue storage {filename!r} was written by a newer snakemq (version {version} of the"
            f" file, known are those up to {len(STEPS)}) and was left as it is; use that one"
        )
    return version


def migrate(conn: sqlite3.Connection, filename: str, version: int) -> None:
    """Do what is missing; what is interrupted, never began.

    :param version: what the file has
    """
    for number, step in enumerate(STEPS[version:], version + 1):
        _log.info("queue storage %r becomes version %d", filename, number)
        with conn:
            conn.execute("BEGIN IMMEDIATE")
            step(conn)
            conn.execute(_SET, ("version", number))
    if _get(conn, "schema_version") != _schema_version(conn):
        # Else without the writer's lock, which may be somebody else's.
        with conn:
            conn.execute("BEGIN IMMEDIATE")
            for statement in INDEXES:
                conn.execute(statement)
            _survey(conn)
            conn.execute(_SET, ("schema_version", _schema_version(conn)))


def overlay(conn: sqlite3.Connection, version: int) -> None:
    """Have a connection that only reads find what is missing in an old file.

    What it makes hides what the file has, and is gone with the connection.

    :param version: what the file has
    """
    if not version:
        for statement in TABLES[1:]:
            conn.execute(statement.replace(_CREATE, "CREATE TEMP TABLE "))
    elif version < VERSION or _get(conn, "schema_version") != _schema_version(conn):
        conn.execute(
            """CREATE TEMP TABLE snakemq_queues AS
                SELECT queue_name, messages, bytes, seconds FROM main.snakemq_queues"""
        )
    else:
        return
    conn.execute(_ADD_COUNTED.format("temp"))
    _count(conn, conn.execute(_SURVEY).fetchall())
    columns = columns_of_items(conn)
    offline, stored_at = (
        column if column in columns else "NULL" for column in ("offline", "stored_at")
    )
    conn.execute(
        f"""CREATE TEMP VIEW items AS SELECT rowid AS rowid, queue_name, uuid, data, ttl, flags,
            coalesce({offline}, (SELECT seconds FROM temp.snakemq_queues q
                WHERE q.queue_name = main.items.queue_name)) AS offline,
            {stored_at} AS stored_at FROM main.items"""
    )


def _survey(conn: sqlite3.Connection) -> None:
    """Count what is there, and put right what 1.6 stored."""
    found = conn.execute(_SURVEY).fetchall()
    _count(conn, found)
    if any(row[3] for row in found):
        # On Python 2 it wrote identifiers as TEXT, which equals no BLOB.
        conn.execute("UPDATE items SET uuid = CAST(uuid AS BLOB) WHERE typeof(uuid) = 'text'")
    # TTLs of what it stored run from now on.
    conn.execute(
        """UPDATE items SET offline = (SELECT seconds FROM snakemq_queues
               WHERE snakemq_queues.queue_name = items.queue_name)
           WHERE offline IS NULL AND ttl IS NOT NULL"""
    )


def _count(conn: sqlite3.Connection, found: list[tuple[Any, ...]]) -> None:
    clocks = dict(conn.execute("SELECT queue_name, seconds FROM snakemq_queues"))
    conn.execute("DELETE FROM snakemq_queues")
    conn.executemany(
        """INSERT INTO snakemq_queues (queue_name, messages, bytes, seconds, counted)
            VALUES (?, ?, ?, ?, (SELECT max(rowid) FROM main.items))""",
        [(name, messages, size, clocks.get(name, 0.0)) for name, messages, size, *_ in found],
    )


def _get(conn: sqlite3.Connection, name: str) -> int:
    row = conn.execute("SELECT value FROM snakemq_meta WHERE name = ?", (name,)).fetchone()
    return 0 if row is None else int(row[0])


def _schema_version(conn: sqlite3.Connection) -> int:
    return int(conn.execute("PRAGMA schema_version").fetchone()[0])
