"""The memory of what was received, in the SQLite file.

A row holds the identifiers of one addition, so that a batch of messages costs
hardly more than a single one::

    snakemq_received   ident   TEXT      who sent them
                       number  INTEGER   rises, within a peer and from peer to peer
                       uuids   BLOB      17 bytes each: the identifier, padded
                                         with NULs to 16, and its length
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from snakemq._core.received import last_of_each
from snakemq.message import MAX_UUID_LENGTH
from snakemq.storage._common import check_keep, check_uuids
from snakemq.storage._sqlite_file import SqliteFile, Statement
from snakemq.storage.base import MAX_RECEIVED_PEERS

__all__ = ["Addition", "Plan", "SqliteReceived"]

_SIZE: Final = MAX_UUID_LENGTH + 1
_LENGTHS: Final = [bytes((length,)) for length in range(_SIZE)]

# The number is that of this process; if another one has been here, which is a
# mistake, it still is a new one.
_ADD: Final = """INSERT INTO snakemq_received (ident, number, uuids) VALUES (?,
    max(?, (SELECT coalesce(max(number), 0) + 1 FROM snakemq_received WHERE ident = ?)), ?)"""

_LOAD: Final = "SELECT uuids FROM snakemq_received WHERE ident = ? ORDER BY number"

_COUNT: Final = f"""SELECT coalesce(sum(length(uuids)) / {_SIZE}, 0)
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


class Addition:
    """Some identifiers of one peer that are to be added.

    :param ident: the peer
    :param uuids: the identifiers
    :param keep: how many of this peer to remember
    :raises ValueError: one of them, or ``keep``, is not valid
    """

    def __init__(self, ident: str, uuids: Iterable[bytes], keep: int) -> None:
        check_keep(keep)
        self.ident = ident
        self.uuids = check_uuids(uuids)[-keep:]
        self.keep = keep


def _packed(uuids: list[bytes]) -> bytes:
    return b"".join([uuid.ljust(MAX_UUID_LENGTH, b"\0") + _LENGTHS[len(uuid)] for uuid in uuids])


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
        found = []
        for (packed,) in self._file.read(_LOAD, ident):
            for start in range(0, len(packed), _SIZE):
                length = packed[start + MAX_UUID_LENGTH]
                found.append(packed[start : start + length])
        return found

    def add(self, addition: Addition, *, sync: bool) -> None:
        """Add identifiers, as a change of its own.

        :param sync: whether it is durable, or may be late
        """
        with self._file.exclusive():
            if addition.uuids:
                plan = self.plan(addition)
                self._file.run(plan.statements, late=not sync)
                self.carried_out(plan)

    def plan(self, addition: Addition) -> Plan:
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
        statements.append((_ADD, (ident, self._next_number, ident, _packed(uuids))))
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
