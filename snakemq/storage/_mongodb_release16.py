"""What snakeMQ 1.6 has stored on a MongoDB server: taken over, or only looked at.

Its documents are in ``<collection>.snakemq_items``::

    _id         made by MongoDB, rising
    queue_name
    uuid        base64, with a newline at its end
    data        likewise
    ttl         seconds, or null
    flags
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from snakemq.exceptions import StorageDamaged
from snakemq.message import Message
from snakemq.storage._mongodb_groups import Groups
from snakemq.storage._mongodb_outbox import ITEMS, Outbox
from snakemq.storage._mongodb_server import Document, MongoServer
from snakemq.storage.base import QueueSummary, StoredItem

__all__ = ["Untaken", "holds_any", "take_over"]

_OLD: Final = "snakemq_items"

#: So many at a time, and not much more data than this.
_BATCH: Final = 500
_BATCH_BYTES: Final = 16_000_000


class _Item(NamedTuple):
    old_id: Any
    queue: str
    message: Message


class _Untaken(NamedTuple):
    position: int
    old_id: Any
    size: int
    ttl: float | None


#: Positions of what was not taken over begin above all others.
_BEHIND: Final = 2**62


class Untaken:
    """What was not taken over yet, for those who only look: it is behind all items of ours.

    It is read as a whole, as 1.6 itself does at each start, and of each item is
    kept where it is. To be used by one thread at a time, within
    :meth:`~snakemq.storage._mongodb_calls.Calls.run`.

    :param server: the server
    """

    def __init__(self, server: MongoServer) -> None:
        self._server = server
        self._state: object = None
        self._numbers: dict[Any, int] = {}
        self._queues: dict[str, list[_Untaken]] = {}

    def refresh(self) -> None:
        """Read what there is now, if it is not what was there before.

        :raises snakemq.exceptions.StorageDamaged: one is not as 1.6 stores them
        """
        old = self._server.collection(_OLD)
        # It grows at its end only.
        ends = [old.find_one({}, {"_id": 1}, sort=[("_id", order)]) for order in (1, -1)]
        state = ends, old.estimated_document_count() if ends[0] else 0
        if state == self._state:
            return
        queues: defaultdict[str, list[_Untaken]] = defaultdict(list)
        taken = _taken_last(self._server) if ends[0] else set()
        with old.find({}) as cursor:
            for document in cursor.sort("_id", 1):
                item = _read(self._server, document)
                if item.old_id not in taken:
                    position = self._numbers.setdefault(
                        item.old_id, _BEHIND + len(self._numbers) + 1
                    )
                    queues[item.queue].append(
                        _Untaken(position, item.old_id, len(item.message.data), item.message.ttl)
                    )
        self._queues, self._state = dict(queues), state

    def summarize(self) -> list[QueueSummary]:
        return [
            QueueSummary(name, len(found), sum(each.size for each in found))
            for name, found in self._queues.items()
        ]

    def last_position(self) -> int:
        """0 if there is nothing."""
        return max((found[-1].position for found in self._queues.values()), default=0)

    def items(self, name: str) -> Iterator[Message]:
        found = self._queues.get(name, [])
        for start in range(0, len(found), _BATCH):
            for each in self._stored(found[start : start + _BATCH]):
                yield each.message

    def page(self, name: str, after: int, max_messages: int, max_bytes: int) -> list[StoredItem]:
        page: list[_Untaken] = []
        size = 0
        for each in self._behind(name, after)[:max_messages]:
            page.append(each)
            size += each.size
            if size >= max_bytes:
                break
        return self._stored(page)

    def next_expiry(self, name: str, after: int) -> float | None:
        ttls = (each.ttl for each in self._behind(name, after))
        return min((ttl for ttl in ttls if ttl is not None), default=None)

    def _behind(self, name: str, after: int) -> list[_Untaken]:
        found = self._queues.get(name, [])
        return found[bisect_right(found, after, key=lambda each: each.position) :]

    def _stored(self, which: Sequence[_Untaken]) -> list[StoredItem]:
        if not which:
            return []
        found = self._server.collection(_OLD).find(
            {"_id": {"$in": [each.old_id for each in which]}}
        )
        messages = {each["_id"]: _read(self._server, each).message for each in found}
        return [
            StoredItem(each.position, messages[each.old_id])
            for each in which
            if each.old_id in messages  # else it was taken over meanwhile
        ]


def holds_any(server: MongoServer) -> bool:
    """Whether there is something that 1.6 has stored."""
    return server.collection(_OLD).find_one({}, {"_id": 1}) is not None


def take_over(server: MongoServer, outbox: Outbox, groups: Groups) -> int:
    """Move 1.6's documents into the queues, behind what is there, in their order.

    Each batch is stored as one change, in which every document has the ``_id``
    of the old one, and only then the old ones are deleted. What is interrupted
    in between is known by that, and goes on the next time.

    :returns: how many that were
    :raises snakemq.exceptions.StorageDamaged: one is not as 1.6 stores them
    """
    done = 0
    taken = _taken_last(server) if holds_any(server) else set()
    while True:
        batch = _next_batch(server)
        if not batch:
            return done
        new = [item for item in batch if item.old_id not in taken]
        if new:
            documents = []
            for position, item in zip(groups.numbers(len(new)), new, strict=True):
                message = item.message
                document = outbox.document(
                    position,
                    item.queue,
                    message.data,
                    message.ttl,
                    message.flags,
                    message.uuid,
                    stored_at=None,
                )
                documents.append({**document, "old_id": item.old_id})
            outbox.insert(documents)
        server.delete(_OLD, [{"_id": {"$in": [item.old_id for item in batch]}}])
        done += len(new)


def _taken_last(server: MongoServer) -> set[Any]:
    """Of the last batch that was stored, which old ones it has."""
    found = server.collection(ITEMS).find({}, {"old_id": 1}).sort("_id", -1).limit(_BATCH)
    return {document["old_id"] for document in found if "old_id" in document}


def _next_batch(server: MongoServer) -> list[_Item]:
    batch: list[_Item] = []
    size = 0
    with server.collection(_OLD).find({}) as cursor:
        for document in cursor.sort("_id", 1).limit(_BATCH):
            batch.append(_read(server, document))
            size += len(batch[-1].message.data)
            if size >= _BATCH_BYTES:
                break
    return batch


def _read(server: MongoServer, document: Document) -> _Item:
    try:
        name, ttl, flags = document["queue_name"], document["ttl"], document["flags"]
        if isinstance(name, bytes):
            name = name.decode("utf-8")
        if not isinstance(name, str):
            raise TypeError(f"queue_name is of type {type(name).__name__}")
        message = Message(_decode(document["data"]), ttl, int(flags), _decode(document["uuid"]))
        return _Item(document["_id"], name, message)
    except (KeyError, TypeError, ValueError, binascii.Error) as exc:
        raise StorageDamaged(
            f"the document {document.get('_id')!r} in {server.place}.{_OLD} is none of snakeMQ 1.6"
            f" ({type(exc).__name__}: {exc}); nothing of it was taken over. Repair it, or move it"
            " to another collection"
        ) from exc


def _decode(text: object) -> bytes:
    if not isinstance(text, bytes | str):
        raise TypeError(f"{type(text).__name__} where base64 was expected")
    return base64.b64decode(text.strip(), validate=True)
