"""The table of snakeMQ 1.6 in an SQL database: its items are taken over.

::

    snakemq_items   id_         INTEGER      the order
                    queue_name  VARCHAR(50)
                    uuid        VARCHAR(32)  hexadecimal digits
                    data        bytes
                    flags       INTEGER
                    ttl         FLOAT        NULL: for ever
"""

from __future__ import annotations

from binascii import a2b_hex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from snakemq.exceptions import StorageDamaged
from snakemq.message import Message
from snakemq.storage._sqla_change import Change
from snakemq.storage._sqla_outbox import SqlOutbox
from snakemq.storage._sqla_session import SqlSession

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["TableOf16"]

_NAME: Final = "snakemq_items"
_COLUMNS: Final = ("id_", "queue_name", "uuid", "data", "flags", "ttl")

#: So many rows at a time.
_PART: Final = 200


class TableOf16:
    """What snakeMQ 1.6 left.

    :param session: the connection
    :param outbox: where its items go
    """

    def __init__(self, session: SqlSession, outbox: SqlOutbox) -> None:
        import sqlalchemy as sa

        self._session = session
        self._outbox = outbox
        self._inspect = sa.inspect
        # Without types, so that the values come as the driver gives them: 1.6
        # passed bytes where its table says text.
        table = sa.table(_NAME, *(sa.column(name) for name in _COLUMNS))
        number: Any = sa.column("id_")
        self._get = (
            sa.select(table).where(number > sa.bindparam("after")).order_by(number).limit(_PART)
        )
        self._delete = sa.delete(table).where(number <= sa.bindparam("last"))

    def take_over(self) -> None:
        """Move all items to the queues of now, in their order; all of them or none.

        :raises snakemq.exceptions.StorageDamaged: one of them can't be read
        """
        if self._session.read(self._is_there):
            self._session.change(self._move)

    def drop(self, conn: Connection) -> None:
        """Drop the table."""
        import sqlalchemy as sa

        sa.Table(_NAME, sa.MetaData()).drop(conn, checkfirst=True)

    def _is_there(self, conn: Connection) -> bool:
        inspector = self._inspect(conn)
        if not inspector.has_table(_NAME):
            return False
        names = {column["name"] for column in inspector.get_columns(_NAME)}
        if not names.issuperset(_COLUMNS):
            return False  # somebody else's
        return conn.execute(self._get, {"after": -1}).first() is not None

    def _move(self, change: Change) -> None:
        self._outbox.append(change, self._batches(change))

    def _batches(self, change: Change) -> Iterator[list[tuple[str, Message]]]:
        last = -1
        while rows := change.run(self._get, {"after": last}).all():
            last = int(rows[-1].id_)
            yield [self._entry(row) for row in rows]
            change.run(self._delete, {"last": last})

    def _entry(self, row: Any) -> tuple[str, Message]:
        try:
            ttl = None if row.ttl is None else float(row.ttl)
            flags = int(row.flags or 0) & 0xFFFFFFFF
            return _text(row.queue_name), Message(_data(row.data), ttl, flags, _uuid(row.uuid))
        except (TypeError, ValueError) as exc:
            raise StorageDamaged(
                f"queue storage {self._session.where} has a row in table {_NAME!r}, which snakeMQ"
                f" 1.6 wrote, that is not a message ({exc}); nothing was changed: keep a copy of"
                f" the row with id_ {row.id_} and delete it"
            ) from exc


def _text(value: Any) -> str:
    return value if isinstance(value, str) else bytes(value).decode()


def _data(value: Any) -> bytes:
    # 1.6 on Python 2 wrote plain ASCII data as text.
    return value.encode() if isinstance(value, str) else bytes(value)


def _uuid(value: Any) -> bytes:
    """1.6 gave the digits as bytes, of which every driver made something else."""
    digits = _text(value).strip()
    if digits.startswith("\\x"):  # PostgreSQL, of bytes as text
        digits = a2b_hex(digits[2:]).decode()
    if digits.startswith(("b'", 'b"')):  # Python's
        digits = digits[2:-1]
    return a2b_hex(digits)
