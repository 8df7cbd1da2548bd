"""The memory of what was received, on a MongoDB server.

A document of the collection ``received`` holds the identifiers of one addition::

    _id     rises, within a peer and from peer to peer
    ident   who sent them
    uuids   the identifiers
    count   how many
    whole   true: those before it don't count, they are about to be deleted
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from snakemq._core.received import last_of_each
from snakemq.storage._mongodb_server import Document, MongoServer
from snakemq.storage.base import MAX_RECEIVED_PEERS

__all__ = ["Addition", "Received"]

_RECEIVED: Final = "received"

_INDEXES: Final = {"peer": ("ident", "_id")}

#: With so many documents of each peer, asking for the last of each is quicker
#: than looking at all.
_SHORT: Final = 100


class Addition(NamedTuple):
    """Identifiers that are to be remembered.

    :ivar ident: who sent them
    :ivar uuids: at least one
    :ivar keep: how many of this peer to remember
    """

    ident: str
    uuids: list[bytes]
    keep: int


class Received:
    """Remembers, for each peer, the identifiers of its last messages.

    To be used by one thread at a time, within
    :meth:`~snakemq.storage._mongodb_calls.Calls.run`. What it has to know of
    the content it learns when it is needed.

    :param server: the server
    """

    def __init__(self, server: MongoServer) -> None:
        self._server = server
        # How many identifiers of a peer there are; None: not asked for yet.
        # In the order of the last addition, as far as that is known.
        self._counts: dict[str, int | None] | None = None
        self._in_order = False
        self._last = 0

    def prepare(self) -> None:
        """Make what is missing on the server."""
        self._server.index(_RECEIVED, _INDEXES)

    def last(self) -> int:
        """The number of the last addition; it is the highest one that is stored."""
        self._learned()
        return self._last

    def peers(self) -> list[str]:
        """The peers of which something is known."""
        return list(self._learned())

    def load(self, ident: str) -> list[bytes]:
        """The identifiers of a peer, the oldest first."""
        uuids: list[bytes] = []
        for document in self._documents(ident, "uuids"):
            if document.get("whole"):
                uuids.clear()
            uuids += map(bytes, document["uuids"])
        return uuids

    def add(self, addition: Addition, *, late: bool) -> None:
        """Add identifiers; if it is repeated they are there twice, which is harmless."""
        ident, uuids, keep = addition.ident, addition.uuids[-addition.keep :], addition.keep
        counts = self._learned()
        collection = self._server.late(_RECEIVED) if late else self._server.collection(_RECEIVED)
        count = counts.get(ident, 0)
        if count is None:
            count = self._count(ident)
        if ident not in counts and len(counts) >= MAX_RECEIVED_PEERS:
            self._forget_one(counts)
        together = count + len(uuids) > 2 * keep
        if together:
            uuids = last_of_each([*self.load(ident), *uuids])[-keep:]
            count = 0
        # Not known until it is done.
        counts[ident] = None
        number = self._last = self._last + 1
        document = {"_id": number, "ident": ident, "uuids": uuids, "count": len(uuids)}
        collection.insert_one({**document, "whole": True} if together else document)
        if together:
            collection.delete_many({"ident": ident, "_id": {"$lt": number}})
        del counts[ident]
        counts[ident] = count + len(uuids)

    def _count(self, ident: str) -> int:
        count = 0
        for document in self._documents(ident, "count"):
            count = document["count"] + (0 if document.get("whole") else count)
        return count

    def _documents(self, ident: str, field: str) -> Iterable[Document]:
        fields = {field: 1, "whole": 1}
        found = self._server.collection(_RECEIVED).find({"ident": ident}, fields)
        return list(found.sort("_id", 1))

    def _learned(self) -> dict[str, int | None]:
        if self._counts is None:
            collection = self._server.collection(_RECEIVED)
            last = collection.find_one({}, {"_id": 1}, sort=[("_id", -1)])
            self._last = int(last["_id"]) if last else 0
            found = collection.aggregate(
                [{"$match": {"ident": {"$gte": ""}}}, {"$group": {"_id": "$ident"}}], hint="peer"
            )
            self._counts = {document["_id"]: None for document in found}
            self._in_order = len(self._counts) < 2
        return self._counts

    def _forget_one(self, counts: dict[str, int | None]) -> None:
        if not self._in_order:
            self._put_in_order(counts)
        oldest = next(iter(counts))
        self._server.collection(_RECEIVED).delete_many({"ident": oldest})
        del counts[oldest]

    def _put_in_order(self, counts: dict[str, int | None]) -> None:
        collection = self._server.collection(_RECEIVED)
        last = dict.fromkeys(counts, 0)
        if collection.estimated_document_count() <= _SHORT * len(counts):
            for document in collection.find({}, {"ident": 1}).sort("_id", 1):
                last[document["ident"]] = document["_id"]
        else:
            for ident in counts:
                found = collection.find_one({"ident": ident}, {"_id": 1}, sort=[("_id", -1)])
                last[ident] = found["_id"] if found else 0
        known = dict(counts)
        counts.clear()
        counts.update((ident, known[ident]) for ident in sorted(known, key=last.__getitem__))
        self._in_order = True
