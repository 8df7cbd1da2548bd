"""Many rows by few statements.

The :mod:`sqlite3` module lets go of the interpreter and takes it back for each
step of a statement. While another thread computes, that takes up to some
milliseconds; so a batch must not take a step for each of its rows.

Each length of a list of rows would be a statement of its own, to be prepared
anew most of the time. So there are a few lengths, and what is missing to the
next one is filled up.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import zip_longest
from typing import Final, TypeAlias

from snakemq.storage.base import Removal

__all__ = [
    "FEW",
    "MAKE_CHANGES",
    "Row",
    "Run",
    "change_rows",
    "delete_positions",
    "insert_rows",
    "removed_runs",
]

#: A new item, beginning with its position.
Row: TypeAlias = "tuple[object, ...]"

#: A queue, and the first and the last of positions between which there is no other one of it.
Run: TypeAlias = "tuple[str, int, int]"

#: So many items are added with one statement that removes others as well.
FEW: Final = 64

#: SQLite before 3.32 takes no more values than this for a statement.
_MAX_VALUES: Final = 999

_LENGTHS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


#: Makes a view of which nothing is read: what is inserted into it is done, each row
#: of it one item that is added and one run of items that are removed before. It
#: belongs to the connection, and is not in the file.
MAKE_CHANGES: Final = (
    """CREATE TEMP VIEW snakemq_changes AS SELECT rowid AS position, queue_name, uuid, data, ttl,
        flags, offline, stored_at, queue_name AS removed_from, 0 AS first, 0 AS last
        FROM main.items""",
    # The plus keeps it from walking through the index of the queue.
    """CREATE TEMP TRIGGER snakemq_change INSTEAD OF INSERT ON snakemq_changes BEGIN
        DELETE FROM items
            WHERE +queue_name = NEW.removed_from AND rowid BETWEEN NEW.first AND NEW.last;
        INSERT INTO items (rowid, queue_name, uuid, data, ttl, flags, offline, stored_at)
            VALUES (NEW.position, NEW.queue_name, NEW.uuid, NEW.data, NEW.ttl, NEW.flags,
                NEW.offline, NEW.stored_at);
    END""",
)

_CHANGE: Final = "INSERT INTO temp.snakemq_changes"

_NOTHING_REMOVED: Final = (None, None, None)


def removed_runs(removals: Iterable[Removal]) -> list[Run]:
    """What is removed, without the gaps."""
    return [
        (name, first, last) for name, positions, _ in removals for first, last in _runs(positions)
    ]


def change_rows(rows: Sequence[Row], runs: Sequence[Run]) -> tuple[str, Row]:
    """A statement that adds few items and removes some, with its parameters.

    :param rows: what is added; not more than :data:`FEW`
    :param runs: what is removed; not more than these
    """
    width = len(rows[0]) + len(_NOTHING_REMOVED)
    values: list[object] = []
    for row, run in zip_longest(rows, runs, fillvalue=_NOTHING_REMOVED):
        values += row
        values += run
    length = _length(len(rows), FEW)
    values += [None] * (width * (length - len(rows)))
    return _insertion(_CHANGE, width, length), tuple(values)


def insert_rows(conn: sqlite3.Connection, into: str, rows: Sequence[Row]) -> None:
    """Insert rows in this order.

    :param into: the statement up to its ``VALUES``
    :param rows: all of the same width; the first column of none is ``None``
    """
    if not rows:
        return
    width = len(rows[0])
    longest = _MAX_VALUES // width
    for start in range(0, len(rows), longest):
        chunk = rows[start : start + longest]
        length = _length(len(chunk), longest)
        values = [value for row in chunk for value in row]
        values += [None] * (width * (length - len(chunk)))
        conn.execute(_insertion(into, width, length), values)


@cache
def _insertion(into: str, width: int, length: int) -> str:
    row = f"({', '.join('?' * width)})"
    if length == 1:
        return f"{into} VALUES {row}"
    rows = ", ".join([row] * length)
    return f"{into} SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL"


def delete_positions(conn: sqlite3.Connection, queue_name: str, positions: Sequence[int]) -> int:
    """Delete items of a queue.

    :param positions: where they are, rising
    :returns: how many were there
    """
    deleted = 0
    scattered: list[int] = []
    for first, last in _runs(positions):
        # Between two numbers that follow each other there is no other item.
        if last - first < 8:
            scattered += range(first, last + 1)
        else:
            deleted += conn.execute(_DELETE_RUN, (queue_name, first, last)).rowcount
    longest = _MAX_VALUES - 1
    for start in range(0, len(scattered), longest):
        chunk = scattered[start : start + longest]
        length = _length(len(chunk), longest)
        chunk += chunk[-1:] * (length - len(chunk))
        deleted += conn.execute(_deletion(length), (queue_name, *chunk)).rowcount
    return deleted


# The plus keeps it from walking through the index of the queue.
_DELETE_RUN: Final = "DELETE FROM items WHERE +queue_name = ? AND rowid BETWEEN ? AND ?"


@cache
def _deletion(length: int) -> str:
    return f"DELETE FROM items WHERE +queue_name = ? AND rowid IN ({', '.join('?' * length)})"


def _runs(positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first and the last of all that follow each other without a gap."""
    if not positions:
        return
    if positions[-1] - positions[0] + 1 == len(positions):
        yield positions[0], positions[-1]
        return
    first = last = positions[0]
    for position in positions[1:]:
        if position != last + 1:
            yield first, last
            first = position
        last = position
    yield first, last


def _length(wanted: int, longest: int) -> int:
    return next((length for length in _LENGTHS if wanted <= length <= longest), longest)
