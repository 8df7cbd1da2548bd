"""Which messages a storage holds, to recognise those that are already there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from snakemq.cli._queues_pages import dead_pages, inbox_pages, queue_pages
from snakemq.cli._queues_records import InboxRecord, QueueRecord, ReceivedRecord, Record
from snakemq.storage import QueuesStorageBase

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Existing"]

#: Where something is: in a queue, in the inbox or with the dead letters.
_QUEUE: Final = "queue"
_INBOX: Final = "inbox"
_DEAD: Final = "dead"


class Existing:
    """The identifiers of all that is in a storage, by place and peer.

    They are in a temporary database, which takes a file of its own when they
    are many, and not in memory. What is asked for the first time is read then:
    so ask before it is changed. A context manager.
    """

    def __init__(self, storage: QueuesStorageBase) -> None:
        self._storage = storage
        self._loaded: set[tuple[str, str]] = set()
        self._temporary = sqlite3.connect("", isolation_level=None)
        self._temporary.execute("PRAGMA journal_mode = OFF")
        self._temporary.execute(
            "CREATE TABLE existing (place TEXT, peer TEXT, uuid BLOB, copies INTEGER,"
            " PRIMARY KEY (place, peer, uuid)) WITHOUT ROWID"
        )

    def take(self, record: Record) -> bool:
        """Whether it is there. What is there once is found once."""
        if isinstance(record, ReceivedRecord):
            return set(record.uuids) <= set(self._storage.load_received(record.peer))
        if isinstance(record, QueueRecord):
            place, peer = _QUEUE, record.peer
        elif isinstance(record, InboxRecord):
            place, peer = _INBOX, record.peer
        else:
            place, peer = _DEAD, record.ident
        # All of the inbox is read at once, whoever it is from.
        self._load(place, peer if place == _QUEUE else "")
        cursor = self._temporary.execute(
            "UPDATE existing SET copies = copies - 1"
            " WHERE place = ? AND peer = ? AND uuid = ? AND copies > 0",
            (place, peer, record.message.uuid),
        )
        return cursor.rowcount > 0

    def _load(self, place: str, peer: str) -> None:
        if (place, peer) in self._loaded:
            return
        self._loaded.add((place, peer))
        for page in self._pages(place, peer):
            self._temporary.execute("BEGIN")
            self._temporary.executemany(
                "INSERT INTO existing VALUES (?, ?, ?, 1)"
                " ON CONFLICT DO UPDATE SET copies = copies + 1",
                ((place, name, uuid) for name, uuid in page),
            )
            self._temporary.execute("COMMIT")

    def _pages(self, place: str, peer: str) -> Iterator[Iterable[tuple[str, bytes]]]:
        if place == _QUEUE:
            for page in queue_pages(self._storage, peer):
                yield [(peer, item.message.uuid) for item in page]
        elif place == _INBOX:
            for inbox in inbox_pages(self._storage):
                yield [(item.ident, item.message.uuid) for item in inbox]
        else:
            for dead in dead_pages(self._storage):
                yield [(letter.ident, letter.message.uuid) for letter in dead]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._temporary.close()
