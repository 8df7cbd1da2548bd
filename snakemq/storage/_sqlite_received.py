"""The memory of what was received, in the SQLite file.

A row holds the identifiers of one addition::

    snakemq_received   ident   TEXT      who sent them
                       number  INTEGER   rises, within a peer and from peer to peer
                       uuids   BLOB      see snakemq.storage._identifiers
"""

from __future__ import annotations

from typing import Final, NamedTuple

from snakemq._core.received import last_of_each
from snakemq.storage._identifiers import PACKED_SIZE, Addition, pack, unpack
from snakemq.storage._sqlite_file import SqliteFile, Statement
from snakemq.storage.base import MAX_RECEIVED_PEERS

__all__ = ["Plan", "SqliteReceived"]

# The number is that of this process; if another one has been here, which is a
# mistake, it still is a new one.
_ADD: Final = """INSERT INTO snakemq_received (ident, number, uuids) VALUES (?,
    max(?, (SELECT coalesce(max(number), 0) + 1 FROM snakemq_received WHERE ident = ?)), ?)"""

_LOAD: Final = "SELECT uuids FROM snakemq_received WHERE ident = ? ORDER BY number"

_COUNT: Final = f"""SELECT coalesce(sum(length(uuids)) / {PACKED_SIZE}, 0)
    FROM snakemq_received WHERE ident = ?"""

_FORGET: Final = "DELETE FROM snakemq_received WHERE ident = ?"

# Goes from peer to peer by the key; DISTINCT would read all rows.
_PEERS: Final = """WITH RECURSIVE peers (ident) AS (
        SELECT min(ident) FROM snakemq_received
        UNION ALL
        SELECT (SELECT min(ident) FROM snakemq_received WHERE ident > peers.ident)
        FROM peers WHERE ident IS NOT NULL)
    SELECT ident, (SELECT max(number) FROM snakemq_received r WHERE r.ident = peers.ident) AS last
    FROM peers WHERE ident IS NOT NULL ORDER BY last"""


class Plan(NamedTuple):
    """How to add identifiers.

    :ivar statements: to be run as one change
    :ivar ident: the peer
    :ivar total: how many of it there are afterwards
    :ivar forgotten: a peer of which there is nothing then
    """

    statements: list[Statement]
    ident: str
    total: int
    forgotten: str | None


class SqliteReceived:
    """Remembers, for each peer, the identifiers of its last messages.

    What it has to know of the content it learns at the first addition; from
    then on it is alone with the file.

    :param file: the file
    """

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        # How many identifiers of a peer there are, None if that was not asked
        # for yet; in the order of the last addition.
        self._counts: dict[str, int | None] | None = None
        self._next_number = 1

    def peers(self) -> list[str]:
        """The peers of which something is known."""
        return [ident for ident, _ in self._file.read(_PEERS)]

    def load(self, ident: str) -> list[bytes]:
        """The identifiers of a peer, the oldest first."""
        return unpack(packed for (packed,) in self._file.read(_LOAD, ident))

    def add(self, addition: Addition[str], *, sync: bool) -> None:
        """Add identifiers, as a change of its own.

        :param sync: whether it is durable, or may be late
        """
        with self._file.exclusive():
            if addition.uuids:
                plan = self.plan(addition)
                self._file.run(plan.statements, late=not sync)
                self.carried_out(plan)

    def plan(self, addition: Addition[str]) -> Plan:
        """What to run to add identifiers.

        Other threads have to be kept out from here to :meth:`carried_out`.
        """
        ident, new = addition.ident, len(addition.uuids)
        if self._counts is None:
            self._counts = self._learn()
        count = self._counts.get(ident, 0)
        if count is None:
            ((count,),) = self._file.read(_COUNT, ident)
        statements: list[Statement] = []
        oldest = None
        if ident not in self._counts and len(self._counts) >= MAX_RECEIVED_PEERS:
            oldest = next(iter(self._counts))
            statements.append((_FORGET, (oldest,)))
        uuids = addition.uuids
        if count + new > 2 * addition.keep:
            uuids = last_of_each([*self.load(ident), *uuids])[-addition.keep :]
            count = len(uuids) - new
            statements.append((_FORGET, (ident,)))
        statements.append((_ADD, (ident, self._next_number, ident, pack(uuids))))
        return Plan(statements, ident, count + new, oldest)

    def carried_out(self, plan: Plan) -> None:
        """That was done, and can't be undone any more."""
        assert self._counts is not None
        self._next_number += 1
        if plan.forgotten is not None:
            del self._counts[plan.forgotten]
        self._counts.pop(plan.ident, None)
        self._counts[plan.ident] = plan.total

    def _learn(self) -> dict[str, int | None]:
        peers = self._file.read(_PEERS)
        if peers:
            self._next_number = peers[-1][1] + 1
        return {ident: None for ident, _ in peers}
