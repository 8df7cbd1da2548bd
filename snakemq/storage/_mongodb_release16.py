"""Taking over what snakeMQ 1.6 has stored on a MongoDB server.

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
from typing import Any, Final, NamedTuple

from snakemq.exceptions import StorageDamaged
from snakemq.message import Message
from snakemq.storage._mongodb_groups import Groups
from snakemq.storage._mongodb_outbox import ITEMS, Outbox
from snakemq.storage._mongodb_server import Document, MongoServer

__all__ = ["holds_any", "take_over"]

_OLD: Final = "snakemq_items"

#: So many at a time, and not much more data than this.
_BATCH: Final = 500
_BATCH_BYTES: Final = 16_000_000


class _Item(NamedTuple):
    old_id: Any
    queue: str
    message: Message


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
