"""Reading a storage on a MongoDB server without the lease, beside who has it.

Nothing of it is remembered here from one call to the next, because somebody else may
change anything. And nothing can be cleaned up, so what is there and does not
count is passed over: see the module _mongodb_groups.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import TypeVar

from snakemq.message import Message
from snakemq.storage._mongodb_calls import LONG, Calls
from snakemq.storage._mongodb_groups import Confirmed, confirmed, filters_of
from snakemq.storage._mongodb_inbox import DEAD, INBOX, inbox_item_of, letter_of, unnoted
from snakemq.storage._mongodb_outbox import (
    ALL,
    CLOCKS,
    HIGHEST,
    ITEMS,
    counted,
    item_of,
    remains_of,
)
from snakemq.storage._mongodb_received import Addition, Received
from snakemq.storage._mongodb_release16 import Untaken
from snakemq.storage._mongodb_server import Document, MongoServer
from snakemq.storage.base import DeadLetter, InboxItem, QueueSummary, StoredItem

__all__ = ["InboxLook", "OutboxLook"]

T = TypeVar("T")


class _Look:
    """Documents of groups.

    :param server: the server
    :param calls: runs what is done there
    :param mark: the name of the mark of these groups
    """

    def __init__(self, server: MongoServer, calls: Calls, mark: str) -> None:
        self._server = server
        self._calls = calls
        self._mark = mark

    def _confirmed(self) -> Confirmed:
        # First in an attempt: what is stored after it does not count, and
        # what is deleted after it is not missed.
        return confirmed(self._server, self._mark)

    def _visible(
        self, name: str, which: Document, limit: int | None = None, order: str = "_id"
    ) -> Generator[Document, None, None]:
        """What a filter finds, as far as it counts."""
        if limit is not None and limit < 1:
            return
        marked = self._confirmed()
        with self._server.collection(name).find({**which, **marked.filter}) as cursor:
            # 0 is what MongoDB thinks best.
            for document in cursor.sort(order, 1).batch_size(limit or 0):
                if marked.has_deleted(name, document):
                    continue
                yield document
                if limit is not None:
                    limit -= 1
                    if not limit:
                        return

    def _still_there(self, marked: Confirmed, name: str) -> Iterator[Document]:
        """What was deleted and is there nevertheless."""
        fields = {"queue": 1, "bytes": 1}
        for deletion in marked.deletions:
            if deletion.collection == name:
                for each in filters_of(deletion):
                    yield from self._server.collection(name).find(each, fields)


class OutboxLook(_Look):
    """Items in queues: what :class:`~snakemq.storage._mongodb_outbox.Outbox` can read.

    :param server: the server
    :param calls: runs what is done there
    """

    def __init__(self, server: MongoServer, calls: Calls) -> None:
        super().__init__(server, calls, "outbox")
        self._untaken = Untaken(server)

    def names(self) -> list[str]:
        return [each.name for each in self.summarize()]

    def summarize(self) -> list[QueueSummary]:
        def attempt() -> list[QueueSummary]:
            marked = self._confirmed()
            # Only in what comes behind the mark can there be something that
            # does not count, and that is little.
            before = {**ALL, "_id": {"$lte": marked.number}}
            counts = counted(self._server, before, by_index=True) if marked.number else {}
            behind = {"_id": {"$gt": marked.number}, **marked.filter}
            more = counted(self._server, behind, by_index=False)
            for name, *numbers in (
                *((name, *found) for name, found in more.items()),
                *self._untaken.summarize(),
            ):
                count, size = counts.get(name, (0, 0))
                counts[name] = count + numbers[0], size + numbers[1]
            for each in self._still_there(marked, ITEMS):
                count, size = counts.get(each["queue"], (0, 0))
                counts[each["queue"]] = count - 1, size - each["bytes"]
            return [QueueSummary(name, *found) for name, found in counts.items() if found[0] > 0]

        return self._run(attempt, LONG)

    def last_position(self) -> int:
        """The highest that is stored; which ones were given besides, the holder knows."""

        def attempt() -> int:
            last = self._server.collection(ITEMS).find_one({}, {"_id": 1}, sort=[("_id", -1)])
            return self._untaken.last_position() or (int(last["_id"]) if last else 0)

        return self._run(attempt)

    def items(self, name: str) -> list[Message]:
        def attempt() -> list[Message]:
            clock = self._clock(name)
            found = self._visible(ITEMS, {"queue": name})
            items = [item_of(self._server, each, clock).message for each in found]
            items.extend(self._untaken.items(name))
            return items

        return self._run(attempt, LONG)

    def page(self, name: str, after: int, max_messages: int, max_bytes: int) -> list[StoredItem]:
        which = {"queue": name, "_id": {"$gt": min(after, HIGHEST)}}

        def attempt() -> list[StoredItem]:
            clock = self._clock(name)
            page: list[StoredItem] = []
            size = 0
            with closing(self._visible(ITEMS, which, max_messages)) as found:
                for document in found:
                    page.append(item_of(self._server, document, clock))
                    size += len(page[-1].message.data)
                    if size >= max_bytes:
                        return page
            left = max_messages - len(page)
            return page + self._untaken.page(name, after, left, max_bytes - size)

        return self._run(attempt)

    def next_expiry(self, name: str, after: int) -> float | None:
        which = {"queue": name, "_id": {"$gt": min(after, HIGHEST)}, "expires": {"$gte": 0}}

        def attempt() -> float | None:
            clock = self._clock(name)
            first = list(self._visible(ITEMS, which, 1, "expires"))
            left = [remains_of(each, clock) for each in first]
            left.append(self._untaken.next_expiry(name, after))
            return min((each for each in left if each is not None), default=None)

        return self._run(attempt)

    def oldest(self, name: str) -> float | None:
        def attempt() -> float | None:
            first = list(self._visible(ITEMS, {"queue": name}, 1))
            return first[0].get("stored_at") if first else None

        return self._run(attempt)

    def _run(self, attempt: Callable[[], T], *seconds: float | None) -> T:
        # Apart from it, because that may take longer.
        self._calls.run(self._untaken.refresh, LONG)
        return self._calls.run(attempt, *seconds)

    def _clock(self, name: str) -> float:
        found = self._server.collection(CLOCKS).find_one({"_id": name})
        return float(found["seconds"]) if found else 0.0


class InboxLook(_Look):
    """The inbox and the dead letters: what :class:`~snakemq.storage._mongodb_inbox.Inbox` can read.

    :param server: the server
    :param calls: runs what is done there
    """

    def __init__(self, server: MongoServer, calls: Calls) -> None:
        super().__init__(server, calls, "inbox")

    def items(self, after: int, limit: int | None) -> list[InboxItem]:
        which = {"_id": {"$gt": min(after, HIGHEST)}}
        return self._calls.run(
            lambda: [inbox_item_of(each) for each in self._visible(INBOX, which, limit)]
        )

    def letters(self, after: int, limit: int | None) -> list[DeadLetter]:
        which = {"_id": {"$gt": min(after, HIGHEST)}}
        return self._calls.run(
            lambda: [letter_of(each) for each in self._visible(DEAD, which, limit)]
        )

    def count_dead(self) -> int:
        def attempt() -> int:
            marked = self._confirmed()
            dead = self._server.collection(DEAD)
            count = dead.count_documents({})
            count -= dead.count_documents({"group": {"$gt": marked.number}})
            return int(count) - sum(1 for _ in self._still_there(marked, DEAD))

        return self._calls.run(attempt)

    def _unnoted(self) -> Addition | None:
        # What is noted meanwhile is found twice, which is harmless.
        return unnoted(self._server, Received(self._server), self._confirmed().filter)

    def peers(self) -> list[str]:
        """The peers of which something is in the memory."""

        def attempt() -> list[str]:
            addition, received = self._unnoted(), Received(self._server)
            names = [addition.ident] if addition else []
            return list(dict.fromkeys([*received.peers(), *names]))

        return self._calls.run(attempt)

    def load(self, ident: str) -> list[bytes]:
        """What is in the memory of a peer, the oldest first."""

        def attempt() -> list[bytes]:
            addition = self._unnoted()
            uuids = Received(self._server).load(ident)
            return uuids + addition.uuids if addition and addition.ident == ident else uuids

        return self._calls.run(attempt)
