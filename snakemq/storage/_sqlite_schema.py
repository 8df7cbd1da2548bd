"""The tables in the file, and how a file of an older version gets them."""

from __future__ import annotations

import sqlite3
from typing import Final

from snakemq.exceptions import StorageError

__all__ = ["MARK_SYNC", "check_schema", "update_schema"]

_COLUMNS_OF_16: Final = {"queue_name", "uuid", "data", "ttl", "flags"}

# 1.6 names the columns that it reads and writes, and does not see the last.
_TABLES: Final = {
    "items": """CREATE TABLE IF NOT EXISTS items (queue_name VARCHAR(50), uuid VARCHAR(32),
        data BLOB, ttl REAL, flags INTEGER, offline REAL)""",
    "snakemq_offline": """CREATE TABLE IF NOT EXISTS snakemq_offline (
        queue_name TEXT PRIMARY KEY, seconds REAL) WITHOUT ROWID""",
    # One tree and no index beside it: a message costs one page in the log.
    "snakemq_received": """CREATE TABLE IF NOT EXISTS snakemq_received (
        ident TEXT, number INTEGER, uuids BLOB, PRIMARY KEY (ident, number)) WITHOUT ROWID""",
    # The data is last, so that the rest is found without reading it.
    "snakemq_inbox": """CREATE TABLE IF NOT EXISTS snakemq_inbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT, ident TEXT, uuid BLOB, ttl REAL, flags INTEGER,
        redelivered INTEGER, attempts INTEGER, data BLOB)""",
    "snakemq_dead": """CREATE TABLE IF NOT EXISTS snakemq_dead (
        id INTEGER PRIMARY KEY, ident TEXT, uuid BLOB, ttl REAL, flags INTEGER,
        redelivered INTEGER, attempts INTEGER, reason TEXT, died_at REAL, data BLOB)""",
    "snakemq_syncs": """CREATE TABLE IF NOT EXISTS snakemq_syncs (
        id INTEGER PRIMARY KEY, count INTEGER)""",
}

_INDEXES: Final = {
    # Without these, each removal and each load of a queue reads the whole
    # table. Do not make one index (queue_name, uuid) of them: 1.6 asks for a
    # queue without ORDER BY, and such an index would hand it the queue in the
    # order of the identifiers. An index on the name alone keeps it by rowid.
    "items_queue": "CREATE INDEX IF NOT EXISTS items_queue ON items (queue_name)",
    "items_uuid": "CREATE INDEX IF NOT EXISTS items_uuid ON items (uuid, queue_name)",
    # What 1.6 stored since the file was last open here; nothing, as a rule.
    "items_of_16": """CREATE INDEX IF NOT EXISTS items_of_16 ON items (queue_name)
        WHERE offline IS NULL AND ttl IS NOT NULL""",
}

# What is put right whenever a file is opened: what to look for, and how. The
# indexes make it cheap to find that there is nothing.
_REPAIRS: Final = (
    # 1.6 on Python 2 wrote identifiers as TEXT, which no comparison with a
    # BLOB finds. TEXT sorts before every BLOB.
    ("items WHERE uuid < x''", "UPDATE items SET uuid = CAST(uuid AS BLOB) WHERE uuid < x''"),
    # TTLs of what 1.6 stored run from now on.
    (
        "items WHERE offline IS NULL AND ttl IS NOT NULL",
        """UPDATE items SET offline = coalesce((SELECT seconds FROM snakemq_offline
               WHERE snakemq_offline.queue_name = items.queue_name), 0.0)
           WHERE offline IS NULL AND ttl IS NOT NULL""",
    ),
    # Queues that are empty, perhaps of peers that never come back.
    (
        "snakemq_offline WHERE queue_name NOT IN (SELECT queue_name FROM items)",
        "DELETE FROM snakemq_offline WHERE queue_name NOT IN (SELECT queue_name FROM items)",
    ),
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
    kind = _objects(conn).get("items")
    if kind is None:
        if not create:
            raise StorageError(
                f"there is no queue storage in {filename!r}, which was left as it is; check the"
                " name of the file"
            )
    elif kind != "table" or _columns(conn) not in (_COLUMNS_OF_16, _COLUMNS_OF_16 | {"offline"}):
        raise StorageError(
            f"queue storage {filename!r} has an 'items' {kind} of some other program"
            " and was left as it is; choose another file name"
        )


def update_schema(conn: sqlite3.Connection) -> None:
    """Make what is missing, all of it or nothing."""
    if _is_current(conn):
        # Without the writer's lock, which may be somebody else's.
        return
    with conn:
        conn.execute("BEGIN IMMEDIATE")
        for statement in _TABLES.values():
            conn.execute(statement)
        if "offline" not in _columns(conn):
            conn.execute("ALTER TABLE items ADD COLUMN offline REAL")
        # Before the indexes: in an old file there may be much to repair.
        for _, statement in _REPAIRS:
            conn.execute(statement)
        for statement in _INDEXES.values():
            conn.execute(statement)


def _is_current(conn: sqlite3.Connection) -> bool:
    return (
        _objects(conn).keys() >= _TABLES.keys() | _INDEXES.keys()
        and "offline" in _columns(conn)
        and not any(
            conn.execute(f"SELECT EXISTS (SELECT 1 FROM {wrong})").fetchone()[0]
            for wrong, _ in _REPAIRS
        )
    )


def _objects(conn: sqlite3.Connection) -> dict[str, str]:
    """The kind of each table, index and view, by its name."""
    return dict(conn.execute("SELECT name, type FROM sqlite_master"))


def _columns(conn: sqlite3.Connection) -> set[str]:
    return {row[1] for row in conn.execute("PRAGMA table_info(items)")}
