"""The queues on a MongoDB server.

A document of the collection ``items``::

    _id        position: rises, in all queues together
    queue      its name
    uuid       1 to 16 bytes
    data       bytes
    bytes      how many
    ttl        seconds, or null: for ever
    at         reading of the queue's clock when the TTL was set
    expires    its reading when the TTL has run out, or null
    flags      32 bits
    stored_at  seconds since 1970; null if 1.6 stored it
    holder     see the module _mongodb_groups
    group      likewise

The clock of a queue, in ``clocks``, tells for how long TTLs ran::

    _id        name of the queue
    seconds
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from snakemq.exceptions import StorageDamaged
from snakemq.message import Message
from snakemq.storage._common import remaining
from snakemq.storage._mongodb_calls import LONG, Calls
from snakemq.storage._mongodb_groups import Deletion, Groups, filters_of
from snakemq.storage._mongodb_server import (
    MAX_DATA,
    DataTooLarge,
    Document,
    MongoServer,
)
from snakemq.storage.base import QueueSummary, Removal, StoredItem

__all__ = ["ALL", "CLOCKS", "HIGHEST", "ITEMS", "Outbox", "counted", "item_of", "remains_of"]

ITEMS: Final = "items"

CLOCKS: Final = "clocks"

#: By name, the fields. The first one is for pages, and has the size in it so
#: that counting need not look at the documents.
_INDEXES: Final = {
    "page": ("queue", "_id", "bytes"),
    "expiry": ("queue", "expires", "_id"),
    "uuid": ("uuid",),
}

HIGHEST: Final = 2**63 - 1

#: Names are text, so this is all of them, by the index.
ALL: Final = {"queue": {"$gte": ""}}

#: If the counts of more queues than this are not sure, all are counted at once.
_RECOUNT_ALL: Final = 100

#: A summary for the next holder that is not longer than this fits into a document.
_MAX_HERITAGE: Final = 40_000


class Outbox:
    """Items in queues.

    :param server: the server
    :param calls: runs what is done there
    :param groups: stores items
    :param wall_clock: seconds since 1970
    """

    def __init__(
        self,
        server: MongoServer,
        calls: Calls,
        groups: Groups,
        wall_clock: Callable[[], float],
    ) -> None:
        self._server = server
        self._calls = calls
        self._groups = groups
        self._wall_clock = wall_clock
        # Of each queue, how many items and bytes it has. Replaced and never
        # changed in place, so that it can be read by any thread.
        self._counts: dict[str, tuple[int, int]] = {}
        self._uncounted: set[str] = set()
        self._unremoved: list[Removal] = []
        self._clocks: dict[str, float] = {}

    # Opening, settling, closing. All of it with the lease, one thread at a time.

    def prepare(self) -> None:
        """Make what is missing on the server."""
        self._server.index(ITEMS, _INDEXES)

    def load(self, heritage: object) -> None:
        """Learn what there is.

        :param heritage: what :meth:`heritage` gave at the last closing, or ``None``
        """
        self._clocks = {
            each["_id"]: float(each["seconds"]) for each in self._server.collection(CLOCKS).find({})
        }
        if isinstance(heritage, list):
            self._counts = {
                each["queue"]: (int(each["messages"]), int(each["bytes"])) for each in heritage
            }
        else:
            self._counts = self._counted(ALL)
        # Nothing that is pushed later has anything to do with them.
        unused = [name for name in self._clocks if name not in self._counts]
        for start in range(0, len(unused), 10_000):
            self._server.collection(CLOCKS).delete_many(
                {"_id": {"$in": unused[start : start + 10_000]}}
            )
        for name in unused:
            del self._clocks[name]

    def heritage(self) -> object:
        """For the next process that opens the storage: so it need not count."""
        if self._uncounted or self._unremoved or len(self._counts) > _MAX_HERITAGE:
            return None
        return [
            {"queue": name, "messages": messages, "bytes": size}
            for name, (messages, size) in self._counts.items()
        ]

    def settle(self) -> None:
        """Finish what an earlier call left: removals that count, counts that are not sure."""
        if self._unremoved:
            self._remove(self._unremoved)
            self._unremoved = []
        if len(self._uncounted) > _RECOUNT_ALL:
            self._counts = self._counted(ALL)
            self._uncounted.clear()
        while self._uncounted:
            name = next(iter(self._uncounted))
            found = self._counted({"queue": name})
            self._counts.pop(name, None)
            self._counts.update(found)
            self._uncounted.discard(name)

    # Reading

    def names(self) -> list[str]:
        return list(self._sure_counts())

    def summarize(self) -> list[QueueSummary]:
        return [QueueSummary(name, *counts) for name, counts in self._sure_counts().items()]

    def last_position(self) -> int:
        return self._groups.last

    def items(self, name: str) -> list[Message]:
        def attempt() -> list[Message]:
            found = self._server.collection(ITEMS).find({"queue": name}).sort("_id", 1)
            return [self._item(document).message for document in found]

        return self._calls.run(attempt, LONG)

    def page(self, name: str, after: int, max_messages: int, max_bytes: int) -> list[StoredItem]:
        def attempt() -> list[StoredItem]:
            collection = self._server.collection(ITEMS)
            found: list[StoredItem] = []
            size = 0
            with collection.find({"queue": name, "_id": {"$gt": after}}) as cursor:
                for document in cursor.sort("_id", 1).limit(max_messages):
                    found.append(self._item(document))
                    size += len(found[-1].message.data)
                    if size >= max_bytes:
                        break
            return found

        return self._calls.run(attempt)

    def next_expiry(self, name: str, after: int) -> float | None:
        def attempt() -> float | None:
            first = self._server.collection(ITEMS).find_one(
                {"queue": name, "_id": {"$gt": after}, "expires": {"$gte": 0}},
                {"ttl": 1, "at": 1},
                sort=[("expires", 1)],
            )
            return None if first is None else remains_of(first, self._clocks.get(name, 0.0))

        return self._calls.run(attempt)

    def oldest(self, name: str) -> float | None:
        def attempt() -> float | None:
            first = self._server.collection(ITEMS).find_one(
                {"queue": name}, {"stored_at": 1}, sort=[("_id", 1)]
            )
            return None if first is None else first.get("stored_at")

        return self._calls.run(attempt)

    # Changing

    def change(
        self, push: Iterable[tuple[str, Message]], remove: Iterable[Removal], *, late: bool = False
    ) -> list[int]:
        """Append items and remove others, as one change; see the contract."""
        entries = [(name, *_parts(item)) for name, item in push]
        removals = [Removal(each.queue_name, list(each.positions), each.bytes) for each in remove]
        removals = [each for each in removals if each.positions]
        if not entries and not removals:
            self._calls.check_usable()
            return []

        def attempt() -> list[int]:
            if not entries:
                self._remove(removals, late=late)
                return []
            return self._push(entries, removals)

        return self._calls.run(attempt)

    def insert(self, documents: list[Document]) -> None:
        """Store documents made by :meth:`document`, as one change. With the lease."""
        self._groups.insert(ITEMS, documents)
        self._count_pushed(documents)

    def document(
        self,
        position: int,
        name: str,
        data: bytes,
        ttl: float | None,
        flags: int,
        uuid: bytes,
        *,
        stored_at: float | None,
    ) -> Document:
        at = self._clocks.get(name, 0.0)
        return {
            "_id": position,
            "queue": name,
            "uuid": uuid,
            "data": data,
            "bytes": len(data),
            "ttl": ttl,
            "at": at,
            "expires": None if ttl is None else at + ttl,
            "flags": flags,
            "stored_at": stored_at,
        }

    def remove_first(self, name: str, items: Iterable[Message]) -> None:
        """Remove the first item of a queue with the ``uuid`` of each of these."""
        wanted = Counter(item.uuid for item in items)

        def positions() -> list[Removal]:
            left = Counter(wanted)
            found: list[int] = []
            size = 0
            for document in self._with_uuids(list(wanted), name):
                if left[document["uuid"]] > 0:
                    left[document["uuid"]] -= 1
                    found.append(document["_id"])
                    size += document["bytes"]
            return [Removal(name, found, size)] if found else []

        self._remove_found(positions, bool(wanted))

    def delete_copies(self, items: Iterable[Message]) -> None:
        """Delete everything with the ``uuid`` of one of these."""
        uuids = list({item.uuid for item in items})

        def positions() -> list[Removal]:
            found: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
            for document in self._with_uuids(uuids):
                found[document["queue"]].append((document["_id"], document["bytes"]))
            return [
                Removal(name, [place for place, _ in places], sum(size for _, size in places))
                for name, places in found.items()
            ]

        self._remove_found(positions, bool(uuids))

    def delete_all(self) -> None:
        def attempt() -> None:
            self._uncounted.update(self._counts)
            self._server.collection(ITEMS).delete_many({})
            self._uncounted.clear()
            self._counts = {}
            self._server.collection(CLOCKS).delete_many({})
            self._clocks = {}

        self._calls.run(attempt, LONG)

    def update_ttls(self, items: Iterable[Message]) -> None:
        ttls = {item.uuid: item.ttl for item in items}

        def attempt() -> None:
            # At most one update for each uuid and queue.
            found = {(each["uuid"], each["queue"]) for each in self._with_uuids(list(ttls))}
            updates = []
            for uuid, name in found:
                ttl, at = ttls[uuid], self._clocks.get(name, 0.0)
                expires = None if ttl is None else at + ttl
                updates.append(
                    (
                        {"uuid": uuid, "queue": name},
                        {"$set": {"ttl": ttl, "at": at, "expires": expires}},
                    )
                )
            self._server.update(ITEMS, updates)

        if ttls:
            self._calls.run(attempt, LONG)

    def advance_ttl(self, name: str, seconds: float) -> None:
        target: float | None = None

        def attempt() -> None:
            nonlocal target
            clocks = self._server.late(CLOCKS)
            if name not in self._counts:
                # Nothing that is pushed later has anything to do with it.
                if name in self._clocks:
                    clocks.delete_one({"_id": name})
                    del self._clocks[name]
            elif seconds:
                if target is None:
                    target = self._clocks.get(name, 0.0) + seconds
                clocks.replace_one({"_id": name}, {"seconds": target}, upsert=True)
                self._clocks[name] = target

        self._calls.run(attempt)

    def take_expired(
        self, name: str, seconds: float, after: int, max_messages: int
    ) -> list[StoredItem]:
        # Of the first attempt: what it deleted can't be found by a second one.
        found: list[StoredItem] = []

        def attempt() -> list[StoredItem]:
            if not found:
                limit = self._clocks.get(name, 0.0) + seconds
                expired = (
                    self._server.collection(ITEMS)
                    .find(
                        {
                            "queue": name,
                            "_id": {"$gt": after},
                            "expires": {"$gte": 0, "$lte": limit},
                        }
                    )
                    .sort([("expires", 1), ("_id", 1)])
                    .limit(max_messages)
                )
                found.extend(sorted(map(self._item, expired), key=lambda item: item.position))
            if found:
                size = sum(len(item.message.data) for item in found)
                places = [item.position for item in found]
                self._remove([Removal(name, places, size)], late=True)
            return found

        return self._calls.run(attempt)

    # In an attempt

    def _push(self, entries: list[Any], removals: list[Removal]) -> list[int]:
        now = self._wall_clock()
        positions = self._groups.numbers(len(entries))
        documents = [
            self.document(position, *entry, stored_at=now)
            for position, entry in zip(positions, entries, strict=True)
        ]
        self._groups.insert(ITEMS, documents, [_deletion(removal) for removal in removals])
        self._count_pushed(documents)
        if removals:
            # From here on they are gone, even if it takes a while.
            self._unremoved = removals
            self._calls.try_now(self.settle)
        return positions

    def _count_pushed(self, documents: list[Document]) -> None:
        for document in documents:
            count, size = self._counts.get(document["queue"], (0, 0))
            self._counts[document["queue"]] = count + 1, size + document["bytes"]

    def _remove(self, removals: Sequence[Removal], *, late: bool = False) -> None:
        names = {removal.queue_name for removal in removals}
        sure = not names & self._uncounted
        self._uncounted |= names
        filters = [each for removal in removals for each in filters_of(_deletion(removal))]
        deleted = self._server.delete(ITEMS, filters, late=late)
        if sure and deleted == sum(len(removal.positions) for removal in removals):
            self._uncounted -= names
            for removal in removals:
                count, size = self._counts[removal.queue_name]
                count -= len(removal.positions)
                self._counts[removal.queue_name] = count, size - removal.bytes
                if not count:
                    del self._counts[removal.queue_name]

    def _remove_found(self, positions: Callable[[], list[Removal]], some: bool) -> None:
        removals: list[Removal] | None = None

        def attempt() -> None:
            nonlocal removals
            if removals is None:
                removals = positions()
            self._remove(removals)

        if some:
            self._calls.run(attempt, LONG)
        else:
            self._calls.check_usable()

    def _with_uuids(self, uuids: list[bytes], name: str | None = None) -> Iterator[Document]:
        """What has one of these; of each ``uuid``, in the order of the positions."""
        fields = {"uuid": 1, "queue": 1, "bytes": 1}
        for start in range(0, len(uuids), 10_000):
            wanted: Document = {"uuid": {"$in": uuids[start : start + 10_000]}}
            if name is not None:
                wanted["queue"] = name
            # Sorted here: the server would have all the data in memory for that.
            found = self._server.collection(ITEMS).find(wanted, fields)
            yield from sorted(found, key=lambda document: int(document["_id"]))

    def _sure_counts(self) -> dict[str, tuple[int, int]]:
        self._calls.check_usable()
        if self._uncounted or self._unremoved:
            self._calls.run(lambda: None)  # which settles
        return dict(self._counts)

    def _counted(self, which: Document) -> dict[str, tuple[int, int]]:
        return counted(self._server, which, by_index=True)

    def _item(self, document: Document) -> StoredItem:
        return item_of(self._server, document, self._clocks.get(document["queue"], 0.0))


def counted(server: MongoServer, which: Document, *, by_index: bool) -> dict[str, tuple[int, int]]:
    """By queue, how many items and bytes a filter finds.

    :param server: the server
    :param which: the filter
    :param by_index: whether nothing but the index for pages is needed for that
    """
    # Two times one sum: FerretDB can't do both in one pass.
    totals: list[dict[str, int]] = []
    hint: dict[str, Any] = {"hint": "page"} if by_index else {}
    for what in (1, "$bytes"):
        found = server.collection(ITEMS).aggregate(
            [{"$match": which}, {"$group": {"_id": "$queue", "total": {"$sum": what}}}], **hint
        )
        totals.append({each["_id"]: int(each["total"]) for each in found})
    counts, sizes = totals
    return {name: (count, sizes.get(name, 0)) for name, count in counts.items()}


def item_of(server: MongoServer, document: Document, clock: float) -> StoredItem:
    """An item out of its document.

    :param clock: what that of its queue shows
    :raises snakemq.exceptions.StorageDamaged: it is none
    """
    try:
        ttl = remains_of(document, clock)
        message = Message(document["data"], ttl, document["flags"], document["uuid"])
        return StoredItem(int(document["_id"]), message)
    except (KeyError, TypeError, ValueError) as exc:
        raise StorageDamaged(
            f"the document {document.get('_id')!r} in {server.place}.{ITEMS} is no"
            f" message ({type(exc).__name__}: {exc}); it was left as it is"
        ) from exc


def remains_of(document: Document, clock: float) -> float | None:
    """What remains of the TTL of an item.

    :param clock: what that of its queue shows
    """
    # A clock may be behind after a power failure, but nothing lives longer.
    return remaining(document["ttl"], max(clock - document["at"], 0.0))


def _deletion(removal: Removal) -> Deletion:
    ids = [position for position in removal.positions if position <= HIGHEST]
    return Deletion(ITEMS, removal.queue_name, ids)


def _parts(item: Message) -> tuple[bytes, float | None, int, bytes]:
    if len(item.data) > MAX_DATA:
        raise DataTooLarge(len(item.data))
    return item.data, item.ttl, item.flags, item.uuid
