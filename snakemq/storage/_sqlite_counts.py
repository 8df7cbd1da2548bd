"""How much each queue holds, and its clock; in the SQLite file.

::

    snakemq_queues   queue_name TEXT
                     messages   INTEGER   how many items, never 0
                     bytes      INTEGER   of data in them
                     seconds    REAL      the clock: for how long TTLs ran
                     counted    INTEGER   up to which position this is about its items

What is pushed is counted in memory, and in this table only when it is much: it
would be a statement and a page for each message. Whoever reads the table
counts what is behind that position, which is little. So what leaves before it
was counted there is never written there; what leaves afterwards is taken off.

The file belongs to this process, so all of it is in memory, too. It is read
again whenever a change failed or was undone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from snakemq.storage._sqlite_batches import insert_rows
from snakemq.storage._sqlite_file import SqliteFile
from snakemq.storage.base import QueueSummary

__all__ = ["Count", "QueueCounts"]

# One statement, so that nothing is stored in between. The rows of the second
# part are single items; all that was counted is at the position of some queue
# or before.
_LOAD: Final = """SELECT queue_name, messages, bytes, seconds, counted FROM snakemq_queues
    UNION ALL SELECT queue_name, 1, coalesce(length(data), 0), NULL, rowid FROM items
    WHERE rowid > (SELECT coalesce(max(counted), 0) FROM snakemq_queues)"""

_SAVE: Final = "REPLACE INTO snakemq_queues (queue_name, messages, bytes, seconds, counted)"

_FORGET: Final = "DELETE FROM snakemq_queues WHERE queue_name = ?"

_COUNT: Final = "SELECT count(*), coalesce(sum(length(data)), 0) FROM items WHERE queue_name = ?"

#: After so many items the table is brought up to date.
_MAX_UNSAVED: Final = 1000

#: No item is behind that: as long as it is not read, the table may be about all of them.
_UNKNOWN: Final = 2**63


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
        #: queues with items that are not counted in the table, and how many those are
        self._unsaved: set[str] = set()
        self._items_unsaved = 0
        # What the table says, no item behind this position included; and of which
        # queues it has to say something else. (The highest one that it names may be
        # lower, if it has forgotten a queue. Those between are gone then.)
        self._saved: dict[str, Count] = {}
        self._saved_to = _UNKNOWN
        self._outdated: set[str] = set()
        self._must_save = False

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
        """What is known of each queue. It is changed by way of :meth:`of` and :meth:`removed`."""
        if self._valid != self._file.undone or self._file.read_only:
            self._load()
            self._valid = self._file.undone
        return self._counts

    def forget(self) -> None:
        """Something may have gone wrong: read it again when it is needed."""
        self._valid = None

    def _load(self) -> None:
        self._counts = {}
        self._unsaved.clear()
        self._items_unsaved = 0
        self._saved = {}
        self._saved_to = _UNKNOWN
        self._outdated.clear()
        self._must_save = False
        saved_to = 0
        for name, messages, size, seconds, position in self._file.read(_LOAD):
            if seconds is not None:
                self._counts[name] = Count(messages, size, seconds)
                self._saved[name] = Count(messages, size)
                saved_to = max(saved_to, position or 0)
                continue
            count = self._counts.setdefault(name, Count())
            count.messages += messages
            count.bytes += size
            self._unsaved.add(name)
            self._items_unsaved += messages
        self._saved_to = saved_to

    def of(self, name: str) -> Count:
        """That of a queue to which items are added; then call :meth:`added`."""
        counts = self.current()
        count = counts.get(name)
        if count is None:
            count = counts[name] = Count()
        self._unsaved.add(name)
        return count

    def added(self, items: int) -> None:
        """So many items were added, and counted."""
        self._items_unsaved += items

    def has_room(self, items: int) -> bool:
        """Whether so many can be added without any change of the table, perhaps."""
        return self._items_unsaved + items <= _MAX_UNSAVED

    def straight(self, name: str, replaced: int | None) -> Count | None:
        """That of a queue, if an item can be added without any change of the table.

        It is changed then as with :meth:`of`.

        :param replaced: the position of one that is removed for it
        :return: ``None``: it may take more
        """
        if self._items_unsaved >= _MAX_UNSAVED:
            return None
        if replaced is not None and replaced <= self._saved_to:
            return None
        return self.of(name)

    def is_unsaved(self, position: int) -> bool:
        """Whether the table is surely not about an item.

        Like :meth:`has_room`, it needs no :meth:`current`: after a change that was undone
        it takes the table to be about more than it is.
        """
        return position > self._saved_to

    def is_in_table(self, name: str) -> bool:
        """Whether the table has a queue. After :meth:`current`."""
        return name in self._saved

    def removed(self, name: str, positions: Sequence[int], size: int) -> None:
        """Items were removed; then call :meth:`update`.

        :param positions: where they were, rising
        :param size: how many bytes of data they had
        """
        counts = self.current()
        count = counts.setdefault(name, Count())
        count.messages -= len(positions)
        count.bytes -= size
        saved = self._saved.get(name)
        if positions[0] > self._saved_to:
            self._items_unsaved -= len(positions)
            if count.messages > 0:
                return
            if saved is None:
                del counts[name]
                self._unsaved.discard(name)
                return
        elif positions[-1] <= self._saved_to and saved is not None:
            saved.messages -= len(positions)
            saved.bytes -= size
            # Its clock is in the table, too.
            if count.messages > 0 and (saved.messages > 0 or not count.seconds):
                self._outdated.add(name)
                return
        self._unsaved.add(name)
        self._must_save = True

    @property
    def are_saved(self) -> bool:
        """Whether the table is up to date."""
        return not self._unsaved

    def is_saved(self, name: str) -> bool:
        """Whether the table is up to date about a queue."""
        return name not in self._unsaved

    def count_anew(self, conn: sqlite3.Connection, queue_name: str) -> None:
        """Look at the items, when it is not clear what became of them. Then :meth:`update`."""
        count = self.current().setdefault(queue_name, Count())
        self._unsaved.add(queue_name)
        self._must_save = True
        count.messages, count.bytes = conn.execute(_COUNT, (queue_name,)).fetchone()

    def clear(self) -> None:
        """There are no queues any more, in the table either."""
        self.current().clear()
        self._unsaved.clear()
        self._items_unsaved = 0
        self._saved.clear()
        self._outdated.clear()
        self._must_save = False

    def update(self, conn: sqlite3.Connection, last: int) -> None:
        """Write to the table what has to be there when this transaction ends.

        :param last: the highest position
        """
        if self._must_save or self._items_unsaved > _MAX_UNSAVED:
            self.save(conn, last)
        elif self._outdated:
            self._write(conn, self._outdated, self._saved_to)
            self._outdated.clear()

    def save(self, conn: sqlite3.Connection, last: int) -> None:
        """Bring the table up to date about everything.

        :param last: the highest position
        """
        counts = self.current()
        names = self._unsaved | self._outdated
        for name in names:
            count = counts[name]
            self._saved[name] = Count(count.messages, count.bytes)
            if count.messages <= 0:
                del counts[name]
        self._write(conn, names, last)
        self._unsaved.clear()
        self._items_unsaved = 0
        self._outdated.clear()
        self._must_save = False

    def _write(self, conn: sqlite3.Connection, names: Iterable[str], last: int) -> None:
        rows = []
        for name in names:
            saved = self._saved[name]
            if saved.messages > 0:
                seconds = self._counts[name].seconds
                rows.append((name, saved.messages, max(saved.bytes, 0), seconds, last))
            else:
                conn.execute(_FORGET, (name,))
                del self._saved[name]
        insert_rows(conn, _SAVE, rows)
        self._saved_to = last
