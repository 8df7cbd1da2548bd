"""Documents that are stored together or not at all, without transactions.

Transactions need a replica set. Here, the documents of a group carry its number,
which is the highest ``_id`` in it, and the group counts when the number in a
document of its own, the *mark*, has reached that: one change of one document.
A document alone needs no mark. What else is to be deleted along with a group
stands in the mark too, and is deleted after it was written.

All ``_id`` here come from one counter, and one group is brought to an end before
the next begins. So what has to be cleaned up after a crash has numbers over that
of the mark, and what has to be deleted still is what the mark says.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from snakemq.exceptions import StorageError
from snakemq.storage._mongodb_lease import Lease
from snakemq.storage._mongodb_server import Document, MongoServer

__all__ = ["Confirmed", "Deletion", "Groups", "confirmed", "filters_of"]

#: So many numbers at a time are noted in the mark as used up.
_BLOCK: Final = 10_000

#: At most so many deletions can be part of a change: 8 bytes each in the mark.
_MAX_DELETIONS: Final = 1_000_000

_MARKS: Final = "meta"


class Deletion(NamedTuple):
    """Documents that are to be deleted.

    :ivar collection: where they are
    :ivar queue: only those of this queue; ``None``: any
    :ivar ids: their ``_id``, rising
    """

    collection: str
    queue: str | None
    ids: Sequence[int]


class Groups:
    """Gives documents their ``_id`` and inserts them.

    To be used by one thread at a time, within
    :meth:`~snakemq.storage._mongodb_calls.Calls.run`.

    :param server: the server
    :param lease: who does it
    :param name: of the mark
    :param collections: where the documents are; and whether all of a group
        have numbers over those of the groups before
    """

    def __init__(
        self, server: MongoServer, lease: Lease, name: str, collections: Mapping[str, bool]
    ) -> None:
        self._server = server
        self._lease = lease
        self._name = name
        self._collections = collections
        self._mark: Document = {"confirmed": 0, "reserved": 0, "deleting": []}
        self._undo: Callable[[], None] | None = None
        #: The highest number that was given.
        self.last = 0

    def recover(self) -> None:
        """Clean up what a crash left behind, and go on above all numbers given before."""
        found = self._server.collection(_MARKS).find_one({"_id": self._name})
        if found is not None:
            self._mark = {name: found[name] for name in self._mark}
        confirmed = int(self._mark["confirmed"])
        last = max(self.last, int(self._mark["reserved"]))
        for name in self._collections:
            collection = self._server.collection(name)
            unconfirmed: Document = {"group": {"$gt": confirmed}}
            if self._collections[name]:
                unconfirmed["_id"] = {"$gt": confirmed}
            collection.delete_many(unconfirmed)
            highest = collection.find_one({}, {"_id": 1}, sort=[("_id", -1)])
            last = max(last, int(highest["_id"]) if highest else 0)
        for deletion in _deletions(self._mark):
            self._server.delete(deletion.collection, filters_of(deletion))
        self.last = last
        self._write_mark(confirmed=self.last, deleting=[])

    def settle(self) -> None:
        """Take back what failed and may have been stored nevertheless."""
        if self._undo is not None:
            self._undo()
            self._undo = None

    def numbers(self, count: int) -> list[int]:
        """Higher numbers than all before."""
        first = self.last + 1
        self.last += count
        return list(range(first, first + count))

    def insert(
        self,
        name: str,
        documents: list[Document],
        deletions: Sequence[Deletion] = (),
        *,
        group: int = 0,
    ) -> None:
        """Store documents as one change. If it raises, none of them is stored.

        :param name: which collection
        :param documents: their ``_id`` are out of :meth:`numbers`, and rise
        :param deletions: belongs to the change; the caller deletes them
            afterwards, or a process that comes after it does
        :param group: out of :meth:`numbers`, if the last ``_id`` is an old one
        """
        if sum(len(deletion.ids) for deletion in deletions) > _MAX_DELETIONS:
            raise StorageError(
                f"more than {_MAX_DELETIONS} removals can't be one change with something that is"
                " pushed; nothing was changed"
            )
        first, last = documents[0]["_id"], documents[-1]["_id"]
        group = group or last
        holder, before = self._lease.number, self._mark
        grouped = len(documents) > 1 or bool(deletions)
        collection = self._server.collection(name)

        def undo() -> None:
            if self._mark is not before or grouped:
                # Without its mark it does not count, whatever is deleted first.
                self._mark = before
                self._write_mark()
            collection.delete_many({"_id": {"$gte": first, "$lte": last}, "holder": holder})

        if not grouped and last > self._mark["reserved"]:
            self._write_mark(confirmed=first - 1, deleting=[])
            before = self._mark
        self._undo = undo
        for document in documents:
            document["holder"] = holder
        if grouped:
            for document in documents:
                document["group"] = group
            collection.insert_many(documents)
            self._write_mark(
                confirmed=group,
                deleting=[
                    {
                        "collection": deletion.collection,
                        "queue": deletion.queue,
                        "ids": array("q", deletion.ids).tobytes(),
                    }
                    for deletion in deletions
                ],
            )
        else:
            collection.insert_one(documents[0])
        self._undo = None

    def _write_mark(self, **changes: Any) -> None:
        mark = {**self._mark, **changes}
        mark["reserved"] = max(mark["reserved"], self.last + _BLOCK)
        try:
            self._server.collection(_MARKS).replace_one(
                {"_id": self._name, "holder": {"$lte": self._lease.number}},
                {**mark, "holder": self._lease.number},
                upsert=True,
            )
        except Exception as exc:
            if self._server.is_duplicate(exc):
                # There is one, of a later holder.
                self._lease.renew()
            raise
        self._mark = mark


class Confirmed(NamedTuple):
    """What counts now, for those who do not hold the lease and so can't clean up.

    :ivar number: groups up to this one do
    :ivar deletions: what belongs to the last of them, and may still be there
    """

    number: int
    deletions: list[Deletion]

    @property
    def filter(self) -> Document:
        """Finds documents that are no group's, or of one that counts."""
        return {"group": {"$not": {"$gt": self.number}}}

    def has_deleted(self, name: str, document: Document) -> bool:
        """Whether a document was deleted, although it is still there.

        :param name: which collection it is in
        :param document: with ``_id`` and, if it is in one, its queue
        """
        number = document["_id"]
        for deletion in self.deletions:
            if deletion.collection == name and deletion.queue in (None, document.get("queue")):
                place = bisect_left(deletion.ids, number)
                if place < len(deletion.ids) and deletion.ids[place] == number:
                    return True
        return False


def confirmed(server: MongoServer, name: str) -> Confirmed:
    """Read a mark.

    :param server: the server
    :param name: of the mark
    """
    mark = server.collection(_MARKS).find_one({"_id": name})
    if mark is None:
        return Confirmed(0, [])
    return Confirmed(int(mark["confirmed"]), _deletions(mark))


def _deletions(mark: Document) -> list[Deletion]:
    found = []
    for each in mark["deleting"]:
        ids = array("q")
        ids.frombytes(each["ids"])
        found.append(Deletion(each["collection"], each["queue"], ids))
    return found


def filters_of(deletion: Deletion, at_most: int = 50_000) -> list[Document]:
    """Filters that find exactly these documents, each small enough for a request."""
    ids = deletion.ids
    filters = []
    for start in range(0, len(ids), at_most):
        part = list(ids[start : start + at_most])
        wanted: Document = {"$in": part}
        if part[-1] - part[0] == len(part) - 1:
            wanted = {"$gte": part[0], "$lte": part[-1]}
        found: Document = {"_id": wanted}
        if deletion.queue is not None:
            found["queue"] = deletion.queue
        filters.append(found)
    return filters
