"""The inbox and the dead letters, in an SQL database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from snakemq.exceptions import StorageDamaged
from snakemq.message import Message
from snakemq.storage._common import make_message, wall_clock
from snakemq.storage._identifiers import Addition
from snakemq.storage._sqla_change import Change
from snakemq.storage._sqla_outbox import parts
from snakemq.storage._sqla_received import SqlReceived
from snakemq.storage._sqla_servers import Server
from snakemq.storage._sqla_session import SqlSession
from snakemq.storage._sqla_tables import Tables, checked, decoded
from snakemq.storage.base import DeadLetter, InboxItem

__all__ = ["SqlInbox"]


class SqlInbox:
    """Received messages whose callback has not returned, and those given up.

    Its methods are those of :class:`~snakemq.storage.base.QueuesStorageBase`.

    :param session: the connection
    :param tables: those of the storage
    :param server: what is special about the database
    :param received: the memory that goes with it
    """

    def __init__(
        self, session: SqlSession, tables: Tables, server: Server, received: SqlReceived
    ) -> None:
        self._session = session
        self._server = server
        self._received = received
        self._statements = _Statements(tables)

    def push(self, ident: str, messages: Iterable[Message], *, keep: int) -> list[int]:
        found = list(messages)
        repeated = [message.uuid for message in found if message.ttl != 0]
        addition = Addition(checked(ident), repeated, keep)
        rows = [self._row(addition.ident, message) for message in found]

        def work(change: Change) -> list[int]:
            if addition.uuids:
                self._received.put(change, addition, take_back=True)
            ids = _next_ids(change, len(rows))
            new = [{"id": number, **row} for number, row in zip(ids, rows, strict=True)]
            change.run(self._statements.insert, new)
            change.take_back_by(self._statements.delete_range, {"first": ids[0], "last": ids[-1]})
            return ids

        if not rows:
            self._session.check_writable()
            return []
        return self._session.change(work)

    def items(self, after: int, limit: int | None) -> list[InboxItem]:
        statement = self._statements.items if limit is None else self._statements.some_items
        place = {"after": after, "limit": limit}
        return self._session.read(
            lambda conn: [self._item(row) for row in conn.execute(statement, place)]
        )

    def advance(self, done: int | None, starting: int | None) -> None:
        def work(change: Change) -> None:
            if done is not None:
                change.run(self._statements.delete, {"number": done})
            if starting is not None:
                change.run(self._statements.count_attempt, {"number": starting})
                change.take_back_by(self._statements.uncount_attempt, {"number": starting})

        if done is None and starting is None:
            self._session.check_writable()
        else:
            self._session.change(work, sync=False)

    def uncount(self, item_id: int) -> None:
        def work(change: Change) -> None:
            place = {"number": item_id}
            if change.run(self._statements.uncount_attempt, place).rowcount:
                change.take_back_by(self._statements.count_attempt, place)

        self._session.change(work, sync=False)

    def bury(self, item_id: int, reason: str) -> None:
        why = {"number": item_id, "why": _reason(reason), "now": wall_clock()}

        def work(change: Change) -> None:
            change.run(self._statements.bury, why)
            change.run(self._statements.delete, {"number": item_id})

        self._session.change(work)

    def dead(self, after: int, limit: int | None) -> list[DeadLetter]:
        statement = self._statements.dead if limit is None else self._statements.some_dead
        place = {"after": after, "limit": limit}
        return self._session.read(
            lambda conn: [self._letter(row) for row in conn.execute(statement, place)]
        )

    def count_dead(self) -> int:
        return self._session.read(
            lambda conn: int(conn.execute(self._statements.count_dead).scalar() or 0)
        )

    def add_dead(self, letters: Iterable[DeadLetter]) -> None:
        rows = [
            {
                **self._row(checked(letter.ident), letter.message),
                "attempts": letter.attempts,
                "reason": _reason(letter.reason),
                "died_at": letter.died_at,
            }
            for letter in letters
        ]

        def work(change: Change) -> None:
            ids = _next_ids(change, len(rows))
            new = [{"id": number, **row} for number, row in zip(ids, rows, strict=True)]
            change.run(self._statements.insert_dead, new)

        if rows:
            self._session.change(work)
        else:
            self._session.check_writable()

    def retry(self, ids: Sequence[int] | None) -> list[InboxItem]:
        def work(change: Change) -> list[InboxItem]:
            found = self._existing(change, ids)
            if not found:
                return []
            new = _next_ids(change, len(found))
            change.run(
                self._statements.retry,
                [{"new": new_id, "number": old} for new_id, old in zip(new, found, strict=True)],
            )
            self._drop(change, found)
            place = {"after": new[0] - 1, "limit": None}
            return [self._item(row) for row in change.run(self._statements.items, place)]

        return self._session.change(work)

    def drop(self, ids: Sequence[int] | None) -> int:
        def work(change: Change) -> int:
            found = self._existing(change, ids)
            self._drop(change, found)
            return len(found)

        return self._session.change(work)

    def _existing(self, change: Change, ids: Sequence[int] | None) -> list[int]:
        """Those of the dead letters that are there, in their order."""
        there = [int(number) for number in change.run(self._statements.dead_ids).scalars()]
        if ids is None:
            return there
        wanted = set(ids)
        return [number for number in there if number in wanted]

    def _drop(self, change: Change, ids: Sequence[int]) -> None:
        for some in parts(ids):
            change.run(self._statements.drop, {"numbers": some})

    def _row(self, ident: bytes, message: Message) -> dict[str, Any]:
        self._server.check_size(message.data)
        return {
            "ident": ident,
            "uuid": message.uuid,
            "data": message.data,
            "ttl": message.ttl,
            "flags": message.flags,
            "redelivered": int(message.redelivered),
            "attempts": 0,
        }

    def _item(self, row: Any) -> InboxItem:
        return InboxItem(
            int(row.id),
            decoded(row.ident),
            self._message(self._statements.inbox_name, row),
            int(row.attempts),
        )

    def _letter(self, row: Any) -> DeadLetter:
        return DeadLetter(
            int(row.id),
            decoded(row.ident),
            self._message(self._statements.dead_name, row),
            int(row.attempts),
            decoded(row.reason),
            float(row.died_at),
        )

    def _message(self, table: str, row: Any) -> Message:
        try:
            return make_message(
                bytes(row.data), row.ttl, row.flags, bytes(row.uuid), row.redelivered
            )
        except (TypeError, ValueError) as exc:
            raise StorageDamaged(
                f"queue storage {self._session.where} has a row in table {table!r} that is not a"
                f" message ({exc}); keep a copy of the row with id {row.id} and delete it"
            ) from exc


def _next_ids(change: Change, count: int) -> list[int]:
    """Numbers that were never used."""
    first = change.last_id + 1
    change.last_id += count
    return list(range(first, first + count))


def _reason(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class _Statements:
    """All SQL of the inbox; compiled once by SQLAlchemy."""

    def __init__(self, tables: Tables) -> None:
        import sqlalchemy as sa

        inbox, dead = tables.inbox, tables.dead
        self.inbox_name: Final = inbox.name
        self.dead_name: Final = dead.name
        number = sa.bindparam("number", type_=sa.BigInteger)
        this = inbox.c.id == number
        limit: Any = sa.bindparam("limit", type_=sa.Integer)

        def rows(table: Any) -> Any:
            after = sa.bindparam("after", type_=sa.BigInteger)
            return sa.select(table).where(table.c.id > after).order_by(table.c.id)

        self.items: Final = rows(inbox)
        self.some_items: Final = rows(inbox).limit(limit)
        self.insert: Final = sa.insert(inbox)
        self.delete: Final = sa.delete(inbox).where(this)
        self.delete_range: Final = sa.delete(inbox).where(
            inbox.c.id.between(sa.bindparam("first"), sa.bindparam("last"))
        )
        self.count_attempt: Final = (
            sa.update(inbox).where(this).values(attempts=inbox.c.attempts + 1)
        )
        self.uncount_attempt: Final = (
            sa.update(inbox).where(this, inbox.c.attempts > 0).values(attempts=inbox.c.attempts - 1)
        )

        self.dead: Final = rows(dead)
        self.some_dead: Final = rows(dead).limit(limit)
        self.count_dead: Final = sa.select(sa.func.count()).select_from(dead)
        self.dead_ids: Final = sa.select(dead.c.id).order_by(dead.c.id)
        self.insert_dead: Final = sa.insert(dead)
        self.drop: Final = sa.delete(dead).where(
            dead.c.id.in_(sa.bindparam("numbers", expanding=True))
        )
        same = [column.name for column in inbox.c]
        self.bury: Final = sa.insert(dead).from_select(
            [*same, "reason", "died_at"],
            sa.select(
                *inbox.c,
                sa.bindparam("why", type_=dead.c.reason.type),
                sa.bindparam("now", type_=dead.c.died_at.type),
            ).where(this),
        )
        was_delivered = sa.or_(dead.c.redelivered > 0, dead.c.attempts > 0)
        changed = {
            "id": sa.bindparam("new", type_=sa.BigInteger),
            "redelivered": sa.case((was_delivered, 1), else_=0),
            "attempts": sa.literal_column("0"),
        }
        self.retry: Final = sa.insert(inbox).from_select(
            same,
            sa.select(*[changed.get(name, dead.c[name]) for name in same]).where(
                dead.c.id == number
            ),
        )
