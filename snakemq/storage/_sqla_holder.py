"""Who has a storage in an SQL database: its row in the table ``meta``."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from snakemq.exceptions import StorageError, StorageInUse
from snakemq.storage._common import wall_clock
from snakemq.storage._sqla_tables import HOLDER_LENGTH, VERSION, Tables

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["Holder", "Record"]


class Record(NamedTuple):
    """The row.

    :ivar holder_id: of the storage object that has the storage
    :ivar holder: the same for people
    :ivar changes: how many changes were made
    :ivar last_id: the last number that was given in the inbox
    """

    holder_id: bytes
    holder: str
    changes: int
    last_id: int


class Holder:
    """One storage object that has the storage, or wants it.

    :param tables: those of the storage
    :param where: URL of the database, without the password
    """

    def __init__(self, tables: Tables, where: str) -> None:
        import sqlalchemy as sa

        self._tables = tables
        self.where: Final = where
        self._id: Final = os.urandom(16)
        self._inspect = sa.inspect
        meta = tables.meta
        self._insert = sa.insert(meta)
        self._select = sa.select(
            meta.c.version, meta.c.holder_id, meta.c.holder, meta.c.changes, meta.c.last_id
        ).where(meta.c.id == 1)
        self._take = (
            sa.update(meta)
            .where(meta.c.id == 1)
            .values(
                holder_id=self._id,
                holder=_describe_this_process(),
                since=sa.bindparam("now"),
                epoch=meta.c.epoch + 1,
            )
        )
        self._mark = (
            sa.update(meta)
            .where(meta.c.id == 1, meta.c.holder_id == self._id)
            .values(changes=sa.bindparam("number"), last_id=sa.bindparam("last"))
        )

    def exists(self, conn: Connection) -> bool:
        """Whether there are tables of a storage."""
        found: bool = self._inspect(conn).has_table(self._tables.meta.name)
        return found

    def make(self, conn: Connection) -> None:
        """Make what is missing of the tables. Those with the lock only."""
        tables = self._tables
        if not self.exists(conn):
            # The row is last: if this is cut off, it is begun again.
            for table in tables.metadata.sorted_tables:
                table.create(conn, checkfirst=True)
                for index in table.indexes:
                    index.create(conn, checkfirst=True)
        if self.read(conn) is None:
            row = {"version": VERSION, "holder_id": b"", "holder": "", "since": 0.0}
            conn.execute(self._insert, {"id": 1, **row, "epoch": 0, "changes": 0, "last_id": 0})
        conn.commit()

    def read(self, conn: Connection) -> Record | None:
        """The row; ``None`` if there is none.

        :raises snakemq.exceptions.StorageError: a later release wrote it
        """
        row: Any = conn.execute(self._select).one_or_none()
        if row is None:
            return None
        if row.version > VERSION:
            raise StorageError(
                f"queue storage {self.where} was written by a later release of snakemq (its tables"
                f" have version {row.version}, and {VERSION} is the last one known here); upgrade"
                " this one"
            )
        return Record(bytes(row.holder_id), row.holder, int(row.changes), int(row.last_id))

    def take(self, conn: Connection) -> None:
        """Write down who has it now. Those with the lock only."""
        conn.execute(self._take, {"now": wall_clock()})
        conn.commit()

    def is_named(self, record: Record | None) -> bool:
        """Whether this one has it."""
        return record is not None and record.holder_id == self._id

    def mark(self, conn: Connection, number: int, last_id: int) -> bool:
        """Number a change, as a part of it; ``False`` if somebody else has the storage."""
        marked = conn.execute(self._mark, {"number": number, "last": last_id})
        return bool(marked.rowcount == 1)

    def in_use(self, record: Record | None) -> StorageInUse:
        """What to raise if somebody else has the lock."""
        holder = "" if record is None else record.holder
        return StorageInUse(
            f"queue storage {self.where} is in use by {holder or 'another process'}; stop that"
            " one, wait for it with lock_timeout, or give each its own prefix",
            holder,
        )


def _describe_this_process() -> str:
    program = os.path.basename(sys.argv[0] if sys.argv else "") or "python"
    found = f"process {os.getpid()} ({program}) on {socket.gethostname()}"
    # In whatever encoding the database has.
    return found.encode("ascii", "backslashreplace").decode().replace("\0", "")[:HOLDER_LENGTH]
