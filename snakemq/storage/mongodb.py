"""The storage on a MongoDB server.

It takes over what snakeMQ 1.6 has stored in the same place. Its own collections
are named after the given one: ``snakemq.items``, ``snakemq.inbox`` and so on.
What their documents are is told in the private modules beside this one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from snakemq._io.clock import monotonic
from snakemq.exceptions import StorageError, StorageUnavailable
from snakemq.message import Message
from snakemq.storage._common import check_keep, check_seconds, check_uuids, wall_clock
from snakemq.storage._mongodb_calls import LONG, Calls
from snakemq.storage._mongodb_groups import Groups
from snakemq.storage._mongodb_inbox import DEAD, INBOX, Inbox
from snakemq.storage._mongodb_lease import Lease, Onlooker
from snakemq.storage._mongodb_look import InboxLook, OutboxLook
from snakemq.storage._mongodb_outbox import ITEMS, Outbox
from snakemq.storage._mongodb_received import Addition, Received
from snakemq.storage._mongodb_release16 import holds_any, take_over
from snakemq.storage._mongodb_server import DEFAULT_DATABASE, MongoServer
from snakemq.storage.base import (
    DeadLetter,
    InboxItem,
    QueuesStorageBase,
    QueueSummary,
    Removal,
    StoredItem,
)

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.write_concern import WriteConcern

__all__ = ["MongoDbQueuesStorage"]

#: Seconds between two looks whether a storage that is in use is free.
_LOOK_AGAIN = 0.5


class MongoDbQueuesStorage(QueuesStorageBase):
    """Keeps items on a MongoDB server. Needs pymongo: ``pip install snakemq[mongodb]``.

    ::

        storage = MongoDbQueuesStorage("db.example.com", database="orders")
        storage = MongoDbQueuesStorage("mongodb://user:secret@a,b,c/orders?replicaSet=rs0")

    When a method returns, what it did is in the journals of a majority of the
    servers (``write_concern``). A batch is stored as a whole or not at all,
    also on a server without transactions, that is, without a replica set:
    what was stored of one that was not finished does not count, and is deleted.
    Removing many items is not such a batch: if the connection breaks in the
    middle of it, some may be gone. A message can have almost 16 MiB of data,
    the limit of MongoDB's documents; a larger one is refused with
    :exc:`~snakemq.exceptions.StorageError`.

    May be used from any thread; calls wait for each other. A process that forks
    keeps the storage for itself: in the child it refuses to work.

    **One process at a time.** The storage is leased: another one that opens it
    gets :exc:`~snakemq.exceptions.StorageInUse` with the name of the holder, or
    waits (``lock_timeout``). The lease is renewed every few seconds by a thread
    of its own. A process that was killed on the same Linux machine is
    recognised at once; one on another machine is taken for dead after 24
    seconds without a sign of life. A process that could not renew its lease
    does not write until it has, and when another one has it, every call raises
    :exc:`~snakemq.exceptions.StorageInUse`. What this can't promise: a write
    that is on its way through the network for longer than about 12 seconds,
    while the lease is lost, may arrive after all. What it has, a single item or
    a part of a batch, is then delivered after it was said that it was not
    stored.

    **While the server is away** a call waits up to ``patience`` seconds for it
    to come back and then raises
    :exc:`~snakemq.exceptions.StorageUnavailable`; calls by the thread of the
    loop raise it at once, or if it was not known yet, after a few seconds. What
    a call that raised this may have left on the server is taken back as soon as
    it can be reached again. If this process ends before that, it can't be, and
    what was sent by such a call (a single message, or a batch whose last step
    was on its way) may be stored and delivered.

    What 1.6 has stored in the same database and collection is taken over when
    the storage is opened: it is moved to this storage's own collections, in its
    order. 1.6 can't read it from then on.

    Opening costs a look at the index of all items (about a second for a
    million of them), unless the storage was closed properly before.

    :param host: name of the server, or a URI: ``mongodb://...`` or
        ``mongodb+srv://...``
    :param port: the server's port, if ``host`` is no URI
    :param database: name of the database. If it is left as it is and a URI names
        one, that.
    :param collection: what the names of all collections begin with
    :param client: a client of pymongo to use instead of making one; ``host``,
        ``port`` and ``options`` then mean nothing, and it stays open
    :param write_concern: a ``pymongo.WriteConcern``; if it is not given, that
        of a majority, with journal
    :param patience: how long a call waits for a server that is away, in seconds
    :param lock_timeout: how long to wait for a storage that is in use, in
        seconds; ``None``: for ever
    :param create: ``False``: refuse a database without a queue storage in it,
        instead of making one
    :param read_only: only look, even while a program uses it. This takes no
        lease and changes nothing, and what 1.6 has stored is seen where it is:
        behind everything else. Every method that would change something raises
        :exc:`~snakemq.exceptions.StorageError`
    :param wall_clock: gives the time for :meth:`oldest` and
        :attr:`DeadLetter.died_at`, in seconds since 1970; that of the system if it
        is not given
    :param options: for ``pymongo.MongoClient``: ``tls``, ``username`` and so on
    :raises ImportError: pymongo is not installed
    :raises snakemq.exceptions.StorageInUse: another process has it open
    :raises snakemq.exceptions.StorageUnavailable: the server can't be reached
    :raises snakemq.exceptions.StorageDamaged: what 1.6 has stored can't be read
    :raises snakemq.exceptions.StorageError: anything else that the server
        refuses; every method raises these
    """

    keeps_received = True
    has_pages = True

    def __init__(
        self,
        host: str = "localhost",
        port: int = 27017,
        database: str = DEFAULT_DATABASE,
        collection: str = "snakemq",
        *,
        client: MongoClient[dict[str, Any]] | None = None,
        write_concern: WriteConcern | None = None,
        patience: float = 30.0,
        lock_timeout: float | None = 0.0,
        create: bool = True,
        read_only: bool = False,
        wall_clock: Callable[[], float] = wall_clock,
        **options: Any,
    ) -> None:
        check_seconds(patience)
        if lock_timeout is not None:
            check_seconds(lock_timeout)
        self._server = MongoServer(client, host, port, database, collection, write_concern, options)
        self._read_only = read_only
        self._lease = Onlooker(self._server) if read_only else Lease(self._server)
        self._calls = Calls(
            self._server, self._lease, patience, lambda: self.may_wait(), self._settle
        )
        self._item_groups = Groups(self._server, self._lease, "outbox", {ITEMS: True})
        self._inbox_groups = Groups(self._server, self._lease, "inbox", {INBOX: True, DEAD: False})
        self._received = Received(self._server)
        self._outbox = Outbox(self._server, self._calls, self._item_groups, wall_clock)
        self._inbox = Inbox(
            self._server, self._calls, self._inbox_groups, self._received, wall_clock
        )
        self._queues: Outbox | OutboxLook = self._outbox
        self._arrived: Inbox | InboxLook = self._inbox
        if read_only:
            self._queues = OutboxLook(self._server, self._calls)
            self._arrived = InboxLook(self._server, self._calls)
        self._synced = True
        try:
            if read_only or not create:
                self._calls.first(self._check_there)
            if not read_only:
                self._take(lock_timeout)
            self._calls.start()
            if not read_only:
                self._calls.first(self._prepare, LONG)
        except BaseException:
            self._calls.close(lambda: self._lease.release(None))
            raise

    def close(self) -> None:
        """Let others open the storage, and close the connection.

        Harmless when repeated, and in a forked child. If the server is away,
        others have to wait until the lease has run out.
        """
        self._calls.close(lambda: self._lease.release(self._outbox.heritage()))

    def get_queues(self) -> list[str]:
        return self._queues.names()

    def get_items(self, queue_name: str) -> list[Message]:
        return self._queues.items(queue_name)

    def push(self, queue_name: str, item: Message) -> None:
        self._refuse_to_look_only()
        self._outbox.change(((queue_name, item),), ())

    def push_many(self, entries: Iterable[tuple[str, Message]]) -> None:
        self._refuse_to_look_only()
        self._outbox.change(entries, ())

    def remove_items(self, queue_name: str, items: Iterable[Message]) -> None:
        self._refuse_to_look_only()
        self._outbox.remove_first(queue_name, items)

    def delete_items(self, items: Sequence[Message]) -> None:
        self._refuse_to_look_only()
        self._outbox.delete_copies(items)

    def delete_all(self) -> None:
        self._refuse_to_look_only()
        self._outbox.delete_all()

    def update_items_ttl(self, items: Sequence[Message]) -> None:
        self._refuse_to_look_only()
        self._outbox.update_ttls(items)

    def advance_ttl(self, queue_name: str, seconds: float) -> None:
        self._refuse_to_look_only()
        check_seconds(seconds)
        self._synced = False
        self._outbox.advance_ttl(queue_name, seconds)

    def summarize(self) -> list[QueueSummary]:
        return self._queues.summarize()

    def last_position(self) -> int:
        return self._queues.last_position()

    def get_page(
        self, queue_name: str, after: int, *, max_messages: int, max_bytes: int
    ) -> list[StoredItem]:
        return self._queues.page(queue_name, after, max_messages, max_bytes)

    def change_items(
        self,
        push: Sequence[tuple[str, Message]],
        remove: Sequence[Removal] = (),
        *,
        sync: bool = True,
    ) -> list[int]:
        self._refuse_to_look_only()
        if not sync:
            self._synced = False
        return self._outbox.change(push, remove, late=not sync)

    def next_expiry(self, queue_name: str, after: int = 0) -> float | None:
        return self._queues.next_expiry(queue_name, after)

    def take_expired(
        self, queue_name: str, seconds: float, after: int, max_messages: int
    ) -> list[StoredItem]:
        self._refuse_to_look_only()
        self._synced = False
        return self._outbox.take_expired(queue_name, seconds, after, max_messages)

    def oldest(self, queue_name: str) -> float | None:
        return self._queues.oldest(queue_name)

    def received_peers(self) -> list[str]:
        return self._arrived.peers()

    def load_received(self, ident: str) -> list[bytes]:
        return self._arrived.load(ident)

    def add_received(self, ident: str, uuids: Iterable[bytes], *, keep: int, sync: bool) -> None:
        self._refuse_to_look_only()
        check_keep(keep)
        addition = Addition(ident, check_uuids(uuids), keep)
        if not sync:
            self._synced = False
        if addition.uuids:
            self._calls.run(lambda: self._received.add(addition, late=not sync))
        else:
            self._calls.check_usable()

    def sync(self) -> None:
        if not self._synced:
            # Before, because something may be added while it goes on.
            self._synced = True
            try:
                # A durable write brings everything before it along.
                self._calls.run(self._lease.renew)
            except StorageError:
                self._synced = False
                raise

    def push_inbox(self, ident: str, messages: Iterable[Message], *, keep: int) -> list[int]:
        self._refuse_to_look_only()
        return self._inbox.push(ident, messages, keep)

    def get_inbox(self, after: int = 0, limit: int | None = None) -> list[InboxItem]:
        return self._arrived.items(after, limit)

    def advance_inbox(self, done: int | None, starting: int | None) -> None:
        self._refuse_to_look_only()
        self._synced = False
        self._inbox.advance(done, starting)

    def uncount_attempt(self, item_id: int) -> None:
        self._refuse_to_look_only()
        self._synced = False
        self._inbox.uncount(item_id)

    def bury(self, item_id: int, reason: str) -> None:
        self._refuse_to_look_only()
        self._inbox.bury(item_id, reason)

    def get_dead(self, after: int = 0, limit: int | None = None) -> list[DeadLetter]:
        return self._arrived.letters(after, limit)

    def count_dead(self) -> int:
        return self._arrived.count_dead()

    def add_dead(self, letters: Iterable[DeadLetter]) -> None:
        self._refuse_to_look_only()
        self._inbox.add_dead(letters)

    def retry_dead(self, ids: Sequence[int] | None) -> list[InboxItem]:
        self._refuse_to_look_only()
        return self._inbox.retry(ids)

    def drop_dead(self, ids: Sequence[int] | None) -> int:
        self._refuse_to_look_only()
        return self._inbox.drop(ids)

    def __repr__(self) -> str:
        state = "open" if self._calls.is_open else "closed"
        return f"<{type(self).__name__} {self._server.place} {state}>"

    def _check_there(self) -> None:
        """Refuse where there is no storage."""
        if not self._lease.was_ever_taken() and not holds_any(self._server):
            raise StorageError(
                f"there is no queue storage in {self._server.place}; check the names of the"
                " database and of the collection"
            )

    def _refuse_to_look_only(self) -> None:
        """First in everything that changes something."""
        if self._read_only:
            self._calls.check_usable()
            raise StorageError(
                f"the storage {self._server.place} was opened with read_only, so nothing in it can"
                " be changed; open it without"
            )

    def _take(self, lock_timeout: float | None) -> None:
        """Wait for the lease."""
        deadline = None if lock_timeout is None else monotonic() + lock_timeout
        reached = False
        pause = threading.Event()
        while True:
            try:
                in_use = self._calls.first(self._lease.try_take)
            except StorageUnavailable:
                # Who stands by goes on standing by while the server restarts.
                if not reached or (deadline is not None and monotonic() >= deadline):
                    raise
                continue
            if in_use is None:
                return
            reached = True
            over = deadline is not None and monotonic() >= deadline
            if over and not self._lease.decides_soon:
                raise in_use
            pause.wait(_LOOK_AGAIN)

    def _prepare(self) -> None:
        """With the lease: have everything in order, and know what there is."""
        self._lease.check()
        heritage, self._lease.heritage = self._lease.heritage, None
        self._outbox.prepare()
        self._received.prepare()
        self._inbox.prepare()
        for groups in (self._item_groups, self._inbox_groups):
            groups.settle()
            groups.recover()
        self._outbox.load(heritage)
        self._inbox.recover()
        take_over(self._server, self._outbox, self._item_groups)

    def _settle(self) -> None:
        """Before each call: bring to an end what an earlier one left."""
        self._item_groups.settle()
        self._inbox_groups.settle()
        self._outbox.settle()
        self._inbox.settle()
