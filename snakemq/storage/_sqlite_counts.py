"""How much each queue holds, and its clock; in the SQLite file.

::

    snakemq_queues   queue_name TEXT
                     messages   INTEGER   how many items, never 0
                     bytes      INTEGER   of data in them
                     seconds    REAL      the clock: for how long TTLs ran

The file belongs to this process, so what is in this table is in memory, too. It
is read again whenever a change failed or was undone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

from snakemq.storage._sqlite_batches import insert_rows
from snakemq.storage._sqlite_file import SqliteFile
from snakemq.storage.base import QueueSummary

__all__ = ["Count", "QueueCounts"]

_LOAD: Final = "SELECT queue_name, messages, bytes, seconds FROM snakemq_queues"

_SAVE: Final = "REPLACE INTO snakemq_queues (queue_name, messages, bytes, seconds)"

_FORGET: Final = "DELETE FROM snakemq_queues WHERE queue_name = ?"

_COUNT: Final = "SELECT count(*), coalesce(sum(length(data)), 0) FROM items WHERE queue_name = ?"


class Count:
    """What is known of a queue.

    :ivar messages: how many items it has
    :ivar bytes: how many bytes of data they have
    :ivar seconds: for how long its TTLs ran
    """

    __slots__ = ("bytes", "messages", "seconds")

    def __init__(self, messages: int = 0, size: int = 0, seconds: float = 0.0) -> None:
        self.messages = messages
        self.bytes = size
        self.seconds = seconds


class QueueCounts:
    """Knows all queues without a look at the items.

    Other threads have to be kept out.

    :param file: the file
    """

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._counts: dict[str, Count] = {}
        # Up to which undone change this is right.
        self._valid: int | None = None

    def summaries(self) -> list[QueueSummary]:
        """All queues."""
        return [
            QueueSummary(name, count.messages, count.bytes)
            for name, count in self.current().items()
        ]

    def clock(self, queue_name: str) -> float:
        """For how long TTLs of a queue ran."""
        count = self.current().get(queue_name)
        return 0.0 if count is None else count.seconds

    def current(self) -> dict[str, Count]:
        """What is known of each queue. Who changes it calls :meth:`save`."""
        if self._valid != self._file.undone or self._file.read_only:
            self._counts = {
                name: Count(messages, size, seconds)
                for name, messages, size, seconds in self._file.read(_LOAD)
            }
            self._valid = self._file.undone
        return self._counts

    def count_anew(self, conn: sqlite3.Connection, queue_name: str) -> None:
        """Look at the items, when it is not clear what became of them."""
        count = self.current().setdefault(queue_name, Count())
        count.messages, count.bytes = conn.execute(_COUNT, (queue_name,)).fetchone()

    def save(self, conn: sqlite3.Connection, names: Iterable[str]) -> None:
        """Store what became of some queues, in the transaction that changed them."""
        counts = self.current()
        rows = []
        for name in names:
            count = counts[name]
            if count.messages > 0:
                rows.append((name, count.messages, max(count.bytes, 0), count.seconds))
            else:
                conn.execute(_FORGET, (name,))
                del counts[name]
        insert_rows(conn, _SAVE, rows)
