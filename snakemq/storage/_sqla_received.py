"""The memory of what was received, in an SQL database: a row for each addition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from snakemq._core.received import last_of_each
from snakemq.storage._identifiers import Addition, pack, unpack
from snakemq.storage._sqla_change import Change
from snakemq.storage._sqla_session import SqlSession
from snakemq.storage._sqla_tables import Tables, decoded, encoded
from snakemq.storage.base import MAX_RECEIVED_PEERS

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["SqlReceived"]


class SqlReceived:
    """Remembers, for each peer, the identifiers of its last messages.

    :param session: the connection
    :param tables: those of the storage
    """

    def __init__(self, session: SqlSession, tables: Tables) -> None:
        import sqlalchemy as sa

        self._session = session
        # How many identifiers of a peer there are, None if that was not asked
        # for yet; in the order of the last addition. None: nothing is known.
        self._counts: dict[bytes, int | None] | None = None
        self._next_number = 1

        table = tables.received
        last = sa.func.max(table.c.number)
        of = table.c.ident == sa.bindparam("of")
        row = table.c.number == sa.bindparam("row")
        self._get = sa.select(table.c.uuids).where(of).order_by(table.c.number)
        self._peers = sa.select(table.c.ident, last).group_by(table.c.ident).order_by(last)
        self._insert = sa.insert(table)
        self._forget = sa.delete(table).where(of)
        self._take_out = sa.delete(table).where(of, row)
        self._replace = sa.update(table).where(of, row)
        session.on_connect(self._forget_counts)

    def _forget_counts(self, conn: Connection) -> None:
        self._counts = None

    def peers(self) -> list[str]:
        return self._session.read(
            lambda conn: [decoded(row[0]) for row in conn.execute(self._peers)]
        )

    def load(self, ident: str) -> list[bytes]:
        """The identifiers of a peer, the oldest first."""
        place = {"of": encoded(ident)}
        return self._session.read(lambda conn: unpack(conn.execute(self._get, place).scalars()))

    def add(self, addition: Addition[bytes], *, sync: bool) -> None:
        """Add identifiers, as a change of its own.

        :param sync: whether they have to be on disk then
        """
        if addition.uuids:
            self._session.change(lambda change: self.put(change, addition), sync=sync)
        else:
            self._session.check_writable()

    def put(self, change: Change, addition: Addition[bytes], *, take_back: bool = False) -> None:
        """Add identifiers, as a part of a change.

        :param take_back: whether they go if it is taken back
        """
        ident, uuids, keep = addition.ident, addition.uuids, addition.keep
        number = self._next_number
        if self._counts is None:
            self._counts, number = self._learn(change)
        counts = self._counts
        known = ident in counts
        count = counts.get(ident, 0)
        oldest = None
        if not known and len(counts) >= MAX_RECEIVED_PEERS:
            oldest = next(iter(counts))
            change.run(self._forget, {"of": oldest})
        before: list[bytes] = []
        if count is None or count + len(uuids) > 2 * keep:
            before = unpack(change.run(self._get, {"of": ident}).scalars())
            count = len(before)
        total = count + len(uuids)
        row = {"of": ident, "row": number}
        if total > 2 * keep:
            change.run(self._forget, {"of": ident})
            uuids = last_of_each([*before, *uuids])[-keep:]
            total = len(uuids)
            if take_back:
                left = pack(last_of_each(before)[-keep:])
                change.take_back_by(self._replace, {**row, "uuids": left})
        elif take_back:
            change.take_back_by(self._take_out, row)
        change.run(self._insert, {"ident": ident, "number": number, "uuids": pack(uuids)})

        def afterwards() -> None:
            self._next_number = number + 1
            if oldest is not None:
                del counts[oldest]
            counts.pop(ident, None)
            counts[ident] = total

        change.afterwards(afterwards)

    def _learn(self, change: Change) -> tuple[dict[bytes, int | None], int]:
        """All peers, and the next number."""
        peers = change.run(self._peers).all()
        self._next_number = int(peers[-1][1]) + 1 if peers else 1
        return {bytes(ident): None for ident, _ in peers}, self._next_number
