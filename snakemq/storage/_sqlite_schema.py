"""The tables in the file, and whose file it is."""

from __future__ import annotations

import sqlite3
from typing import Final

from snakemq.exceptions import StorageError

__all__ = ["COLUMNS_OF_16", "INDEXES", "MARK_SYNC", "TABLES", "check_schema", "columns_of_items"]

#: 1.6 names the columns that it reads and writes, and does not see others.
COLUMNS_OF_16: Final = {"queue_name", "uuid", "data", "ttl", "flags"}

#: What is made where it is missing.
TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS items (queue_name VARCHAR(50), uuid VARCHAR(32),
        data BLOB, ttl REAL, flags INTEGER, offline REAL, stored_at REAL)""",
    """CREATE TABLE IF NOT EXISTS snakemq_queues (queue_name TEXT PRIMARY KEY,
        messages INTEGER, bytes INTEGER, seconds REAL) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS snakemq_pushed (id INTEGER PRIMARY KEY, queue_name TEXT,
        uuid BLOB, data BLOB, ttl REAL, flags INTEGER, stored_at REAL)""",
    # One tree and no index beside it: a message costs one page in the log.
    """CREATE TABLE IF NOT EXISTS snakemq_received (
        ident TEXT, number INTEGER, uuids BLOB, PRIMARY KEY (ident, number)) WITHOUT ROWID""",
    # The data is last, so that the rest is found without reading it.
    """CREATE TABLE IF NOT EXISTS snakemq_inbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT, ident TEXT, uuid BLOB, ttl REAL, flags INTEGER,
        redelivered INTEGER, attempts INTEGER, data BLOB)""",
    """CREATE TABLE IF NOT EXISTS snakemq_dead (
        id INTEGER PRIMARY KEY, ident TEXT, uuid BLOB, ttl REAL, flags INTEGER,
        redelivered INTEGER, attempts INTEGER, reason TEXT, died_at REAL, data BLOB)""",
    """CREATE TABLE IF NOT EXISTS snakemq_syncs (
        id INTEGER PRIMARY KEY, count INTEGER)""",
    """CREATE TABLE IF NOT EXISTS snakemq_meta (
        name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID""",
)

#: As few as will do: each is written to with every item.
INDEXES: Final = (
    # Do not make it one on (queue_name, uuid): 1.6 asks for a queue without
    # ORDER BY, and such an index would hand it the queue in the order of the
    # identifiers. An index on the name alone keeps it by rowid. And as each
    # identifier would go to a random page, a large index on them makes
    # storing slow.
    "CREATE INDEX IF NOT EXISTS items_queue ON items (queue_name)",
    # On which reading of the queue's clock the TTL has run out.
    """CREATE INDEX IF NOT EXISTS items_expiry ON items (queue_name, ttl + offline)
        WHERE ttl IS NOT NULL""",
)

#: Changes a page for certain, so that the commit has something to sync. (An
#: UPDATE that leaves everything as it was changes none.)
MARK_SYNC: Final = """INSERT INTO snakemq_syncs (id, count) VALUES (1, 1)
    ON CONFLICT (id) DO UPDATE SET count = count + 1"""


def check_schema(conn: sqlite3.Connection, filename: str, create: bool) -> None:
    """Refuse what is not ours; only reads.

    :raises StorageError: there is an ``items`` of some other program, or none
        and none is to be created
    """
    row = conn.execute("SELECT type FROM sqlite_master WHERE name = 'items'").fetchone()
    if row is None:
        if not create:
            raise StorageError(
                f"there is no queue storage in {filename!r}, which was left as it is; check the"
                " name of the file"
            )
        return
    more = columns_of_items(conn) ^ COLUMNS_OF_16
    if row[0] != "table" or not more <= {"offline", "stored_at"}:
        raise StorageError(
            f"queue storage {filename!r} has an 'items' {row[0]} of some other program"
            " and was left as it is; choose another file name"
        )


def columns_of_items(conn: sqlite3.Connection) -> set[str]:
    """The names of the columns of the table of items."""
    return {row[1] for row in conn.execute("PRAGMA table_info(items)")}
