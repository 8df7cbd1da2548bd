"""The items in their queues, in the SQLite file.

An item's position is the ``rowid`` of its row. Its TTL has run out when the
queue's clock reads ``ttl + offline``.
"""

from __future__ import annotations

import sqlite3
from binascii import a2b_hex, b2a_hex
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from typing import Any, Final, TypeAlias

from snakemq.exceptions import StorageError
from snakemq.message import Message
from snakemq.storage._common import check_seconds, remaining, wall_clock
from snakemq.storage._sqlite_batches import (
    FEW,
    Row,
    change_rows,
    delete_positions,
    insert_rows,
    removed_runs,
)
from snakemq.storage._sqlite_counts import Count, QueueCounts
from snakemq.storage._sqlite_file import SqliteFile
from snakemq.storage.base import QueueSummary, Removal, StoredItem

__all__ = ["SqliteQueues"]

_INSERT: Final = """INSERT INTO items
    (rowid, queue_name, uuid, data, ttl, flags, offline, stored_at)"""

_INSERT_ONE: Final = f"{_INSERT} VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

_LAST: Final = """SELECT max(coalesce((SELECT max(rowid) FROM items), 0),
    coalesce((SELECT max(counted) FROM snakemq_queues), 0))"""

# Removes one and adds another: a statement can't do more in two places at once.
_REPLACE_ONE: Final = """UPDATE items SET rowid = ?, queue_name = ?, uuid = ?, data = ?, ttl = ?,
    flags = ?, offline = ?, stored_at = ? WHERE rowid = ? AND +queue_name = ?"""

_ITEM: Final = "SELECT rowid, uuid, data, ttl, flags, offline FROM items WHERE queue_name = ?"

_GET: Final = f"{_ITEM} ORDER BY rowid"

_PAGE: Final = f"{_ITEM} AND rowid > ? ORDER BY rowid LIMIT ?"

# The plus keeps it from walking through the index of the queue.
_EXPIRED: Final = f"""{_ITEM} AND +rowid > ? AND ttl IS NOT NULL AND ttl + offline <= ?
    ORDER BY ttl + offline, rowid LIMIT ?"""

_NEXT_EXPIRY: Final = """SELECT ttl + offline FROM items
    WHERE queue_name = ? AND +rowid > ? AND ttl IS NOT NULL ORDER BY ttl + offline LIMIT 1"""

_OLDEST: Final = "SELECT stored_at FROM items WHERE queue_name = ? ORDER BY rowid LIMIT 1"

_UUIDS: Final = """SELECT rowid, uuid, length(data) FROM items
    WHERE queue_name = ? ORDER BY rowid"""

_ADVANCE: Final = "UPDATE snakemq_queues SET seconds = ? WHERE queue_name = ?"

# What 1.6's methods ask for, which have nothing but identifiers. There is no
# index on these; so one walk through the items has to do for all of them.
_WANTED: Final = """CREATE TEMP TABLE IF NOT EXISTS snakemq_wanted (
    uuid BLOB PRIMARY KEY, ttl REAL) WITHOUT ROWID"""

_WANT: Final = "REPLACE INTO temp.snakemq_wanted (uuid, ttl)"

_FIND_WANTED: Final = """SELECT queue_name, rowid, length(data) FROM items
    WHERE uuid IN (SELECT uuid FROM temp.snakemq_wanted) ORDER BY rowid"""

_UPDATE_WANTED: Final = """UPDATE items SET
        ttl = (SELECT w.ttl FROM temp.snakemq_wanted w WHERE w.uuid = items.uuid),
        offline = (SELECT q.seconds FROM snakemq_queues q WHERE q.queue_name = items.queue_name)
    WHERE uuid IN (SELECT uuid FROM temp.snakemq_wanted)"""

_PUSHED: Final = """SELECT queue_name, uuid, data, ttl, flags, stored_at
    FROM snakemq_pushed ORDER BY id"""


#: How much data is stored by a statement that removes as well. SQLite keeps a copy of
#: it meanwhile.
_FEW_BYTES: Final = 256 * 1024

#: What is to be stored, as it is in the file: queue, identifier, data, TTL,
#: flags, and when it was pushed.
_NewItem: TypeAlias = "tuple[str, bytes, bytes, float | None, int, float]"


class SqliteQueues:
    """Items in queues.

    Its methods are those of :class:`~snakemq.storage.base.QueuesStorageBase`.

    :param file: the file
    """

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._counts = QueueCounts(file)
        # Numbers that were given to what was undone, or has left, are not given again.
        ((last,),) = file.read(_LAST)
        self._last_position: int = last

    def save_counts(self) -> None:
        """Before the end: who opens the file next need not count anything. May fail."""
        if self._counts.are_saved:
            return
        try:
            with suppress(StorageError), self._file.idle() as conn:
                if conn is not None:
                    with conn:
                        conn.execute("BEGIN IMMEDIATE")
                        self._counts.save(conn, self._last_position)
        finally:
            # After KeyboardInterrupt it is not the end.
            self._counts.forget()

    def names(self) -> list[str]:
        with self._file.exclusive():
            return list(self._counts.current())

    def summaries(self) -> list[QueueSummary]:
        with self._file.exclusive():
            return self._counts.summaries()

    def last_position(self) -> int:
        self._file.check_usable()
        return self._last_position

    def items(self, queue_name: str) -> list[Message]:
        with self._file.exclusive():
            rows = self._file.read(_GET, queue_name)
            clock = self._counts.clock(queue_name)
        return [self._item(row, clock).message for row in rows]

    def page(
        self, queue_name: str, after: int, max_messages: int, max_bytes: int
    ) -> list[StoredItem]:
        rows = []
        size = 0
        with self._file.reading(_PAGE, queue_name, after, max_messages) as found:
            for row in found:
                rows.append(row)
                size += len(row[2] or b"")
                if size >= max_bytes:
                    break
            clock = self._counts.clock(queue_name)
            if not after and len(rows) < max_messages and size < max_bytes:
                self._check_count(queue_name, len(rows))
        return [self._item(row, clock) for row in rows]

    def _check_count(self, queue_name: str, messages: int) -> None:
        """All of a queue was seen: now it is known how much there is.

        It may be something else if rows were deleted by hand, say.
        """
        count = self._counts.current().get(queue_name, Count())
        if count.messages != messages and not self._file.read_only:
            with self._file.change(joins=True, late=True) as conn:
                self._counts.count_anew(conn, queue_name)
                self._counts.update(conn, self._last_position)

    def change(
        self, push: Sequence[tuple[str, Message]], remove: Sequence[Removal], *, sync: bool
    ) -> list[int]:
        if not push and not any(removal.positions for removal in remove):
            # The writer's lock may be somebody else's; nothing is worth waiting.
            self._file.check_usable()
            return []
        if len(push) == 1 and sync and (not remove or len(remove) == 1):
            position = self._push_one(*push[0], *remove)
            if position is not None:
                return [position]
        now = wall_clock()
        new = [
            (name, b2a_hex(item.uuid), item.data, item.ttl, item.flags, now) for name, item in push
        ]
        if 0 < len(new) <= FEW and sync:
            positions = self._change_few(new, remove)
            if positions is not None:
                return positions
        with self._file.change(joins=True, late=not sync, inserts=bool(new)) as conn:
            return self._change(conn, new, remove)

    def _push_one(self, name: str, item: Message, removal: Removal | None = None) -> int | None:
        """What :meth:`change` does, for a single message: the statement is all there is.

        :param removal: it takes the place of another one, if that is all that is removed
        :return: its position; ``None``: nothing was done, it takes more
        """
        replaced = None
        if removal is not None and removal.positions:
            if len(removal.positions) > 1 or removal.queue_name != name:
                return None
            replaced = removal.positions[0]
        with self._file.exclusive():
            try:
                count = self._counts.straight(name, replaced)
                if count is None:
                    return None
                ttl = item.ttl
                offline = None if ttl is None else count.seconds
                self._last_position = position = self._last_position + 1
                uuid = b2a_hex(item.uuid)
                row = (position, name, uuid, item.data, ttl, item.flags, offline, wall_clock())
                statement = (
                    (_INSERT_ONE, row)
                    if replaced is None
                    else (_REPLACE_ONE, (*row, replaced, name))
                )
                changed = self._file.run((statement,), joins=True, inserts=True)
                if replaced is not None and removal is not None:
                    if not changed:
                        return None  # it is not there
                    count.bytes += len(item.data) - removal.bytes
                else:
                    count.messages += 1
                    count.bytes += len(item.data)
                    self._counts.added(1)
            except BaseException:
                self._counts.forget()
                raise
            return position

    def _change_few(self, new: Sequence[_NewItem], remove: Sequence[Removal]) -> list[int] | None:
        """What :meth:`change` does, with one statement, if it is little.

        :return: where they are; ``None``: nothing was done, it takes more
        """
        removals = [removal for removal in remove if removal.positions]
        names = {item[0] for item in new}
        if sum([len(item[2]) for item in new]) > _FEW_BYTES:
            return None
        with self._file.exclusive():
            counts = self._counts
            counts.current()
            if not counts.has_room(len(new)) or not all(
                counts.is_unsaved(positions[0]) and (name in names or not counts.is_in_table(name))
                for name, positions, _ in removals
            ):
                return None  # the table would have to be changed, too
            runs = removed_runs(removals)
            if len(runs) > len(new):
                return None
            try:
                rows = self._rows(new)
                changed = self._file.run([change_rows(rows, runs)], joins=True, inserts=True)
                for removal in removals:
                    changed -= len(removal.positions)
                    counts.removed(*removal)
                if changed != len(rows):
                    counts.forget()  # some were not there
            except BaseException:
                counts.forget()
                raise
            return list(range(self._last_position - len(rows) + 1, self._last_position + 1))

    def _change(
        self, conn: sqlite3.Connection, new: Sequence[_NewItem], remove: Sequence[Removal]
    ) -> list[int]:
        # They may have to be read again, which is about what is there now.
        self._counts.current()
        for removal in remove:
            self._remove(conn, removal)
        first = self._last_position + 1
        insert_rows(conn, _INSERT, self._rows(new))
        self._counts.update(conn, self._last_position)
        return list(range(first, first + len(new)))

    def _rows(self, new: Sequence[_NewItem]) -> list[Row]:
        """Count new items, and give them positions."""
        rows: list[Row] = []
        last_name = None
        count = Count()
        for position, item in enumerate(new, self._last_position + 1):
            name, uuid, data, ttl, flags, stored_at = item
            if name != last_name:
                count = self._counts.of(name)
                last_name = name
            count.messages += 1
            count.bytes += len(data)
            offline = None if ttl is None else count.seconds
            rows.append((position, name, uuid, data, ttl, flags, offline, stored_at))
        self._counts.added(len(rows))
        self._last_position += len(rows)
        return rows

    def _remove(self, conn: sqlite3.Connection, removal: Removal) -> None:
        name, positions, size = removal
        if not positions:
            return
        if delete_positions(conn, name, positions) == len(positions):
            self._counts.removed(name, positions, size)
        else:
            self._counts.count_anew(conn, name)

    def remove_first(self, queue_name: str, items: Iterable[Message]) -> None:
        wanted = Counter(b2a_hex(item.uuid) for item in items)
        if not wanted:
            self._file.check_usable()
            return
        positions: list[int] = []
        size = 0
        with self._file.change() as conn:
            left = sum(wanted.values())
            with closing(conn.execute(_UUIDS, (queue_name,))) as found:
                for position, uuid, length in found:
                    if wanted[uuid] > 0:
                        wanted[uuid] -= 1
                        positions.append(position)
                        size += length
                        left -= 1
                        if not left:
                            break
            if positions:
                self._change(conn, (), [Removal(queue_name, positions, size)])

    def delete(self, items: Sequence[Message]) -> None:
        if not items:
            self._file.check_usable()
            return
        with self._file.change() as conn:
            _want(conn, items)
            found: dict[str, tuple[list[int], list[int]]] = {}
            for name, position, size in conn.execute(_FIND_WANTED):
                positions, sizes = found.setdefault(name, ([], []))
                positions.append(position)
                sizes.append(size)
            removals = [
                Removal(name, places, sum(sizes)) for name, (places, sizes) in found.items()
            ]
            self._change(conn, (), removals)

    def delete_all(self) -> None:
        with self._file.change() as conn:
            conn.execute("DELETE FROM items")
            conn.execute("DELETE FROM snakemq_queues")
            self._counts.clear()

    def update_ttls(self, items: Sequence[Message]) -> None:
        if not items:
            self._file.check_usable()
            return
        with self._file.change() as conn:
            _want(conn, items)
            # The clocks in the table are needed.
            self._counts.save(conn, self._last_position)
            conn.execute(_UPDATE_WANTED)

    def advance(self, queue_name: str, seconds: float) -> None:
        check_seconds(seconds)
        with self._file.exclusive():
            count = self._counts.current().get(queue_name)
            if count is None or not seconds:
                return
            ran = count.seconds + seconds
            if self._counts.is_saved(queue_name):
                self._file.run([(_ADVANCE, (ran, queue_name))], late=True)
                count.seconds = ran
            else:
                with self._file.change(late=True) as conn:
                    count.seconds = ran
                    self._counts.save(conn, self._last_position)

    def next_expiry(self, queue_name: str, after: int) -> float | None:
        with self._file.exclusive():
            found = self._file.read(_NEXT_EXPIRY, queue_name, after)
            # What 1.6 stored while this was open has no time yet.
            if not found or found[0][0] is None:
                return None
            return max(float(found[0][0]) - self._counts.clock(queue_name), 0.0)

    def take_expired(
        self, queue_name: str, seconds: float, after: int, max_messages: int
    ) -> list[StoredItem]:
        with self._file.exclusive():
            clock = self._counts.clock(queue_name)
            until = clock + seconds
            rows = self._file.read(_EXPIRED, queue_name, after, until, max_messages)
            if not rows:
                return []
            items = sorted(self._item(row, clock) for row in rows)
            positions = [item.position for item in items]
            size = sum(len(item.message.data) for item in items)
            self.change((), [Removal(queue_name, positions, size)], sync=False)
        return items

    def oldest(self, queue_name: str) -> float | None:
        for (stored_at,) in self._file.read(_OLDEST, queue_name):
            return None if stored_at is None else float(stored_at)
        return None

    def adopt(self) -> list[tuple[str, StoredItem]]:
        with self._file.exclusive():
            ((any_there,),) = self._file.read("SELECT EXISTS (SELECT 1 FROM snakemq_pushed)")
            if not any_there:
                return []
            # Late: after a power failure they are where they were, and will
            # be adopted again.
            with self._file.change(late=True) as conn:
                new: list[_NewItem] = conn.execute(_PUSHED).fetchall()
                positions = self._change(conn, new, ())
                conn.execute("DELETE FROM snakemq_pushed")
        return [
            (item[0], self._item((position, *item[1:5], None), 0.0))
            for position, item in zip(positions, new, strict=True)
        ]

    def _item(self, row: tuple[Any, ...], clock: float) -> StoredItem:
        position, uuid, data, ttl, flags, offline = row
        try:
            # 1.6 on Python 2 wrote plain ASCII data as TEXT.
            data = data.encode() if isinstance(data, str) else data
            if offline is not None and clock > offline:
                ttl = remaining(ttl, clock - offline)
            return StoredItem(position, Message(data, ttl, flags, a2b_hex(uuid)))
        except (TypeError, ValueError) as exc:
            raise self._file.damaged("items", position, exc) from exc


def _want(conn: sqlite3.Connection, items: Iterable[Message]) -> None:
    conn.execute(_WANTED)
    conn.execute("DELETE FROM temp.snakemq_wanted")
    insert_rows(conn, _WANT, [(b2a_hex(item.uuid), item.ttl) for item in items])
