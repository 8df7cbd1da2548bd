"""The receiving side on a MongoDB server: inbox, dead letters, memory.

A document of the collection ``inbox``::

    _id          number of the item
    ident        who sent it
    uuid, data, ttl, flags
    redelivered  whether it may have been delivered before
    attempts     how often its callback was started
    change       the last change of that, so that none is made twice
    keep         that it has to be in the memory, and how much is kept there
    after        the last number in the memory before that
    holder       see the module _mongodb_groups
    group        likewise

One of ``dead`` has ``reason`` and ``died_at`` (seconds since 1970) besides. The
numbers of both are out of one counter, and a letter keeps the one that it had in
the inbox.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import Final

from snakemq.exceptions import StorageDamaged
from snakemq.message import Message
from snakemq.storage._common import check_keep, check_uuids, make_message
from snakemq.storage._mongodb_calls import LONG, Calls
from snakemq.storage._mongodb_groups import Deletion, Groups, filters_of
from snakemq.storage._mongodb_received import Addition, Received
from snakemq.storage._mongodb_server import MAX_DATA, DataTooLarge, Document, MongoServer
from snakemq.storage.base import DeadLetter, InboxItem

__all__ = ["DEAD", "INBOX", "Inbox", "inbox_item_of", "letter_of", "unnoted"]

INBOX: Final = "inbox"
DEAD: Final = "dead"

_HIGHEST: Final = 2**63 - 1


class Inbox:
    """Received messages that wait for their callbacks, and those that were given up.

    :param server: the server
    :param calls: runs what is done there
    :param groups: stores items and letters
    :param received: the memory
    :param wall_clock: seconds since 1970
    """

    def __init__(
        self,
        server: MongoServer,
        calls: Calls,
        groups: Groups,
        received: Received,
        wall_clock: Callable[[], float],
    ) -> None:
        self._server = server
        self._calls = calls
        self._groups = groups
        self._received = received
        self._wall_clock = wall_clock
        # Changes are known by this.
        self._me = secrets.token_hex(6)
        self._changes = count(1)
        # What belongs to changes that are made, and could not be done with them.
        self._unfinished: deque[Callable[[], object]] = deque()

    # With the lease, one thread at a time

    def prepare(self) -> None:
        """Make what is missing on the server."""
        # A letter has the number of an older item, but a newer group.
        self._server.index(DEAD, {"group": ("group",)})

    def recover(self) -> None:
        """Write into the memory what a crash has left in the inbox only."""
        addition = unnoted(self._server, self._received, {})
        if addition is not None:
            self._received.add(addition, late=False)

    def settle(self) -> None:
        """Finish what earlier calls have left."""
        while self._unfinished:
            self._unfinished[0]()
            self._unfinished.popleft()

    # The inbox

    def push(self, ident: str, messages: Iterable[Message], keep: int) -> list[int]:
        check_keep(keep)
        items = list(messages)
        for item in items:
            _check_size(item)
        uuids = check_uuids(item.uuid for item in items)
        kept = [uuid for uuid, item in zip(uuids, items, strict=True) if item.ttl != 0]
        documents = [_document(ident, item) for item in items]
        if not documents:
            self._calls.check_usable()
            return []

        def attempt() -> list[int]:
            numbers = self._groups.numbers(len(documents))
            note = {"keep": keep, "after": self._received.last()}
            stored = [
                {"_id": number, **each, **({} if each["ttl"] == 0 else note)}
                for number, each in zip(numbers, documents, strict=True)
            ]
            self._groups.insert(INBOX, stored)
            if kept:
                addition = Addition(ident, kept, keep)
                self._finish(partial(self._received.add, addition, late=False))
            return numbers

        return self._calls.run(attempt)

    def items(self, after: int, limit: int | None) -> list[InboxItem]:
        return self._calls.run(
            lambda: [inbox_item_of(each) for each in self._find(INBOX, after, limit)]
        )

    def advance(self, done: int | None, starting: int | None) -> None:
        change = self._change()

        def attempt() -> None:
            # In this order: after a crash in between, nothing was started.
            inbox = self._server.late(INBOX)
            if done is not None:
                inbox.delete_one({"_id": done})
            if starting is not None:
                inbox.update_one(
                    {"_id": starting, "change": {"$ne": change}},
                    {"$inc": {"attempts": 1}, "$set": {"change": change}},
                )

        if done is not None or starting is not None:
            self._calls.run(attempt)

    def uncount(self, number: int) -> None:
        change = self._change()

        def attempt() -> None:
            self._server.late(INBOX).update_one(
                {"_id": number, "attempts": {"$gt": 0}, "change": {"$ne": change}},
                {"$inc": {"attempts": -1}, "$set": {"change": change}},
            )

        self._calls.run(attempt)

    def bury(self, number: int, reason: str) -> None:
        died_at = self._wall_clock()

        def attempt() -> None:
            found = self._server.collection(INBOX).find_one({"_id": number})
            if found is None:
                return
            letter = {name: found[name] for name in (*_MESSAGE, "attempts")}
            letter |= {"_id": number, "reason": reason, "died_at": died_at}
            gone = Deletion(INBOX, None, [number])
            (group,) = self._groups.numbers(1)
            self._groups.insert(DEAD, [letter], [gone], group=group)
            self._finish(partial(self._delete, gone))

        self._calls.run(attempt)

    # The memory

    def peers(self) -> list[str]:
        return self._calls.run(self._received.peers)

    def load(self, ident: str) -> list[bytes]:
        return self._calls.run(lambda: self._received.load(ident))

    # The dead letters

    def letters(self, after: int, limit: int | None) -> list[DeadLetter]:
        return self._calls.run(lambda: [letter_of(each) for each in self._find(DEAD, after, limit)])

    def count_dead(self) -> int:
        return self._calls.run(lambda: int(self._server.collection(DEAD).count_documents({})))

    def add_dead(self, letters: Iterable[DeadLetter]) -> None:
        documents = []
        for letter in letters:
            _check_size(letter.message)
            documents.append(
                {
                    **_document(letter.ident, letter.message),
                    "attempts": letter.attempts,
                    "reason": letter.reason,
                    "died_at": letter.died_at,
                }
            )

        def attempt() -> None:
            numbers = self._groups.numbers(len(documents))
            stored = [{"_id": n, **each} for n, each in zip(numbers, documents, strict=True)]
            self._groups.insert(DEAD, stored)

        if documents:
            self._calls.run(attempt, LONG)
        else:
            self._calls.check_usable()

    def retry(self, ids: Sequence[int] | None) -> list[InboxItem]:
        def attempt() -> list[InboxItem]:
            found = self._letters(ids)
            if not found:
                return []
            numbers = self._groups.numbers(len(found))
            documents: list[Document] = []
            for number, each in zip(numbers, found, strict=True):
                document = {name: each[name] for name in _MESSAGE}
                document["redelivered"] = bool(each["redelivered"] or each["attempts"])
                documents.append({"_id": number, **document, "attempts": 0})
            items = [inbox_item_of(each) for each in documents]
            gone = Deletion(DEAD, None, [each["_id"] for each in found])
            self._groups.insert(INBOX, documents, [gone])
            self._finish(partial(self._delete, gone))
            return items

        return self._calls.run(attempt, LONG)

    def drop(self, ids: Sequence[int] | None) -> int:
        # Of the first attempt: what it deleted is not found by a second one.
        found: list[int] | None = None

        def attempt() -> int:
            nonlocal found
            if found is None:
                found = [each["_id"] for each in self._letters(ids, {"_id": 1})]
            self._delete(Deletion(DEAD, None, found))
            return len(found)

        return self._calls.run(attempt, LONG)

    # In an attempt

    def _finish(self, work: Callable[[], object]) -> None:
        """Now if possible, else later: what it belongs to is made and can't fail any more."""
        self._unfinished.append(work)
        self._calls.try_now(self.settle)

    def _delete(self, deletion: Deletion) -> None:
        self._server.delete(deletion.collection, filters_of(deletion))

    def _letters(self, ids: Sequence[int] | None, fields: Document | None = None) -> list[Document]:
        dead = self._server.collection(DEAD)
        if ids is None:
            return list(dead.find({}, fields).sort("_id", 1))
        wanted = sorted({number for number in ids if 0 < number <= _HIGHEST})
        found: list[Document] = []
        for each in filters_of(Deletion(DEAD, None, wanted)):
            found += dead.find(each, fields).sort("_id", 1)
        return found

    def _find(self, name: str, after: int, limit: int | None) -> Iterable[Document]:
        if limit is not None and limit < 1:
            return ()
        found = self._server.collection(name).find({"_id": {"$gt": min(after, _HIGHEST)}})
        # 0 is none, for MongoDB.
        return list(found.sort("_id", 1).limit(limit or 0))

    def _change(self) -> str:
        return f"{self._me} {next(self._changes)}"


def unnoted(server: MongoServer, received: Received, counts: Document) -> Addition | None:
    """What is in the inbox and not in the memory, as a crash leaves it.

    The memory is written after the inbox, and before its next group and
    everything else; so that is the last group, or nothing.

    :param server: the server
    :param received: the memory
    :param counts: finds the items of groups that count
    """
    fields = {"ident": 1, "uuid": 1, "keep": 1, "after": 1, "group": 1}
    group: list[Document] = []
    with server.collection(INBOX).find(counts, fields) as cursor:
        for each in cursor.sort("_id", -1):
            if group and ("group" not in each or each["group"] != group[0].get("group")):
                break
            group.append(each)
    found = [each for each in reversed(group) if "keep" in each]
    if not found or received.last() > found[0]["after"]:
        return None
    uuids = [bytes(each["uuid"]) for each in found]
    return Addition(found[0]["ident"], uuids, found[0]["keep"])


#: What an item and a letter have in common.
_MESSAGE: Final = ("ident", "uuid", "data", "ttl", "flags", "redelivered")


def _document(ident: str, message: Message) -> Document:
    return {
        "ident": ident,
        "uuid": message.uuid,
        "data": message.data,
        "ttl": message.ttl,
        "flags": message.flags,
        "redelivered": bool(message.redelivered),
        "attempts": 0,
    }


def inbox_item_of(document: Document) -> InboxItem:
    """An item out of its document.

    :raises snakemq.exceptions.StorageDamaged: it is none
    """
    try:
        return InboxItem(
            int(document["_id"]), document["ident"], _message(document), int(document["attempts"])
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise _damaged(document, exc) from exc


def letter_of(document: Document) -> DeadLetter:
    """A letter out of its document.

    :raises snakemq.exceptions.StorageDamaged: it is none
    """
    try:
        return DeadLetter(*inbox_item_of(document), document["reason"], float(document["died_at"]))
    except (KeyError, TypeError, ValueError) as exc:
        raise _damaged(document, exc) from exc


def _message(document: Document) -> Message:
    return make_message(
        document["data"],
        document["ttl"],
        document["flags"],
        document["uuid"],
        document["redelivered"],
    )


def _damaged(document: Document, exc: Exception) -> StorageDamaged:
    return StorageDamaged(
        f"the document {document.get('_id')!r} among the received messages on the MongoDB server"
        f" is none ({type(exc).__name__}: {exc}); it was left as it is"
    )


def _check_size(message: Message) -> None:
    if len(message.data) > MAX_DATA:
        raise DataTooLarge(len(message.data))
