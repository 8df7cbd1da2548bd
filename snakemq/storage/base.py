"""The contract of a queue storage: what keeps persistent messages on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple

from snakemq.exceptions import StorageError
from snakemq.message import Message
from snakemq.storage._common import check_seconds, remaining

if TYPE_CHECKING:
    import sqlite3

    from typing_extensions import Self

__all__ = [
    "MAX_RECEIVED_PEERS",
    "DeadLetter",
    "InboxItem",
    "QueueSummary",
    "QueuesStorageBase",
    "Removal",
    "StoredItem",
]

#: Of how many peers :meth:`QueuesStorageBase.load_received` remembers what came.
MAX_RECEIVED_PEERS: Final = 1000


class QueueSummary(NamedTuple):
    """What a queue holds, without a look at it.

    :ivar name: identifier of the peer that the items are for
    :ivar messages: how many items there are
    :ivar bytes: how many bytes of data they have together
    """

    name: str
    messages: int
    bytes: int


class StoredItem(NamedTuple):
    """An item in a queue and its place there.

    :ivar position: those that were pushed later have higher ones
    :ivar message: the item, with what remains of its TTL
    """

    position: int
    message: Message


class Removal(NamedTuple):
    """Items that leave a queue.

    :ivar queue_name: any name
    :ivar positions: where they are, rising; those that are not there (any
        more) are passed over
    :ivar bytes: how many bytes of data all of these have together, so that the
        storage need not look at them to keep its count
    """

    queue_name: str
    positions: Sequence[int]
    bytes: int


class InboxItem(NamedTuple):
    """A received message that waits for its callback to return.

    :ivar id: number of the item; those that came later have higher ones
    :ivar ident: who sent it
    :ivar message: the message
    :ivar attempts: how often its callback was started
    """

    id: int
    ident: str
    message: Message
    attempts: int


class DeadLetter(NamedTuple):
    """A received message that was given up.

    :ivar id: the number that it had in the inbox
    :ivar ident: who sent it
    :ivar message: the message
    :ivar attempts: how often its callback was started
    :ivar reason: why it was given up
    :ivar died_at: when, in seconds since 1970 (UTC)
    """

    id: int
    ident: str
    message: Message
    attempts: int
    reason: str
    died_at: float


class QueuesStorageBase:
    """Base of all storages; derive from it to write one of your own.

    A storage holds *items* (:class:`~snakemq.message.Message`) in *queues*. A
    queue has a name, which is the identifier of the peer that the items are
    for: text, at most 50 characters. A queue exists as long as it holds items.

    :meth:`close`, :meth:`get_queues`, :meth:`get_items`, :meth:`push`,
    :meth:`delete_items`, :meth:`delete_all` and :meth:`update_items_ttl` are
    the methods of snakeMQ 1.6, and a storage has to have all of them; one that
    was written for 1.6 works as it is. :meth:`push_many`, :meth:`remove_items`
    and :meth:`advance_ttl` do their work here by means of these, and a storage
    overrides them to do it better.

    With no more than that, all that is stored has to be in memory, too. A
    storage that can be read in *pages* says so with :attr:`has_pages` and has
    all of the methods from :meth:`summarize` to :meth:`take_expired`; of a
    queue in it, only what is sent next is in memory. Each item there has a
    *position*, a whole number from 1 up that never changes while the storage
    is open: it is higher than that of everything pushed before, to whatever
    queue, and none is given twice.

    A storage may also serve the *receiving side*; it then says so with
    :attr:`keeps_received` and has all of the methods from :meth:`load_received`
    to :meth:`drop_dead`. There are three things in it:

    * The *memory* of what was received: for each peer, the ``uuid`` of each of
      its last messages. By this a message that is sent again is recognised
      after a restart.
    * The *inbox*: received messages whose callback has not returned yet
      (``Messaging(..., durable_receive=True)``).
    * The *dead letters*: messages out of the inbox that were given up.

    These have nothing to do with the queues: no method for items, not even
    :meth:`delete_all`, touches them.

    What every method has to keep to:

    * When it returns, what it did has reached the disk. (Some say that
      they are allowed to be late.)
    * When it raises, nothing has changed. Something that the user has to know
      or can do something about (disk full, file locked) is raised as
      :exc:`~snakemq.exceptions.StorageError`.
    * An item is what it was: ``data``, ``flags`` (32 bits), ``uuid`` (1 to 16
      bytes, not padded) and ``ttl`` (seconds, float, or ``None``).
    * Items are told apart by ``uuid``, not by the identity of the object. An
      application may send the same message twice, or to several peers, so a
      ``uuid`` can be stored more than once.
    * Methods are called from the loop's thread and from every thread that
      sends messages.

    There is no constructor here, so none has to be called. A storage is a
    context manager that closes itself at the end.

    :class:`snakemq.testing.storage_contract.StorageContract` is a test suite
    that checks all this.
    """

    #: Whether the methods of the receiving side work. Where they do not, they
    #: are never called.
    keeps_received: bool = False

    #: Whether the queues can be read in pages. Where they can't, the methods
    #: for that are never called.
    has_pages: bool = False

    #: Set by the stack: whether the calling thread may be kept waiting while
    #: the storage is out of reach (a server that restarts, say). The thread of
    #: the loop may not: it gets
    #: :exc:`~snakemq.exceptions.StorageUnavailable` at once.
    may_wait: Callable[[], bool] = staticmethod(lambda: True)

    def close(self) -> None:
        """Release files and connections. What is stored stays stored.

        Called once, when the stack is closed; a second call should be harmless.
        """
        raise NotImplementedError

    def get_queues(self) -> list[str]:
        """The names of all queues, each once, in any order."""
        raise NotImplementedError

    def get_items(self, queue_name: str) -> list[Message]:
        """The items of a queue, in the order in which they were pushed.

        :param queue_name: any name; a queue that does not exist has no items
        :returns: a list that the caller may change
        """
        raise NotImplementedError

    def push(self, queue_name: str, item: Message) -> None:
        """Append an item to a queue, which comes into being if need be.

        :param queue_name: at most 50 characters
        :param item: the item; ``ttl`` is not 0
        """
        raise NotImplementedError

    def delete_items(self, items: Sequence[Message]) -> None:
        """Delete every stored item that has the ``uuid`` of one of these, in all queues.

        :param items: may hold some that are not stored; these are passed over
        """
        raise NotImplementedError

    def delete_all(self) -> None:
        """Delete all items, and with them all queues.

        What is stored for the receiving side stays.
        """
        raise NotImplementedError

    def update_items_ttl(self, items: Sequence[Message]) -> None:
        """Store the ``ttl`` that these items have now; nothing else of them.

        Applies to every stored item with the same ``uuid``.

        :param items: may hold some that are not stored; these are passed over
        """
        raise NotImplementedError

    def push_many(self, entries: Iterable[tuple[str, Message]]) -> None:
        """Append many items at once, each to its queue, in this order.

        Override it if the storage has transactions: then all of the items are
        stored or none. The base class calls :meth:`push` for each; when one
        fails, those before it are stored.

        :param entries: pairs of queue name and item
        """
        for queue_name, item in entries:
            self.push(queue_name, item)

    def remove_items(self, queue_name: str, items: Iterable[Message]) -> None:
        """Remove delivered items from a queue, all of them at once.

        For each given item, the first stored item *of this queue* with the
        same ``uuid`` goes. A ``uuid`` that is stored twice needs to be given
        twice.

        Override it. The base class can only call :meth:`delete_items`, which
        also deletes the copies that are yet to be delivered, to this peer and
        to others. (1.6 never did anything else.)

        :param queue_name: any name
        :param items: may hold some that are not stored; these are passed over
        """
        self.delete_items(list(items))

    def advance_ttl(self, queue_name: str, seconds: float) -> None:
        """Let the TTL of everything that a queue holds now run for so long.

        From then on :meth:`get_items` gives what remains, 0 at the least.
        Items that are pushed afterwards, and those that wait for ever, are not
        affected. Allowed to be late: a power failure may undo it, until
        something is pushed or :meth:`sync` is called.

        Override it if it can be done at a cost that does not grow with the
        number of items. The base class reads them all and writes their new
        TTLs by :meth:`update_items_ttl`, as 1.6 did; it therefore also changes
        the copies of these items in other queues.

        :param queue_name: any name
        :param seconds: how long it ran, at least 0
        :raises ValueError: ``seconds`` is negative or not finite
        """
        check_seconds(seconds)
        timed = [item for item in self.get_items(queue_name) if item.ttl is not None]
        if timed:
            self.update_items_ttl([item.with_ttl(remaining(item.ttl, seconds)) for item in timed])

    def maintain(self) -> bool:
        """Do a small piece of what a storage has to do now and then.

        Called by the loop's thread when nothing was stored for a while; a
        piece takes some milliseconds at most.

        :returns: whether there is more to do soon
        """
        return False

    def summarize(self) -> list[QueueSummary]:
        """All queues, with how much each of them holds, in any order.

        The cost should depend on the number of queues only.
        """
        raise NotImplementedError

    def last_position(self) -> int:
        """The highest position that was given to an item so far; 0 if none was.

        An item that is there when the storage is opened has none that is higher.
        """
        raise NotImplementedError

    def get_page(
        self, queue_name: str, after: int, *, max_messages: int, max_bytes: int
    ) -> list[StoredItem]:
        """Items of a queue, in the order of their positions, as :meth:`get_items` gives them.

        The cost should not depend on how many there are before or behind.

        :param queue_name: any name
        :param after: those with a higher position only
        :param max_messages: at most so many, at least 1
        :param max_bytes: end with the one with which they have so many bytes
            of data together; so there is always one, if the queue has any
        """
        raise NotImplementedError

    def change_items(
        self,
        push: Sequence[tuple[str, Message]],
        remove: Sequence[Removal] = (),
        *,
        sync: bool = True,
    ) -> list[int]:
        """Append items to queues and remove others, as one change.

        The cost should not depend on what the queues hold.

        :param push: pairs of queue name and item; see :meth:`push`
        :param remove: what leaves; never something that is pushed here
        :param sync: ``False``: the end of the process does not undo it once
            this has returned, but a power failure may, until the next change
            with ``sync`` or :meth:`sync`. A storage may take no notice.
        :returns: the positions of the pushed items, in the same order, rising
        """
        raise NotImplementedError

    def next_expiry(self, queue_name: str, after: int = 0) -> float | None:
        """How long it is until the TTL of an item in a queue has run out.

        :param queue_name: any name
        :param after: of those with a higher position only
        :returns: the least of what remains of their TTLs, in seconds; ``None``
            if none of them has one
        """
        raise NotImplementedError

    def take_expired(
        self, queue_name: str, seconds: float, after: int, max_messages: int
    ) -> list[StoredItem]:
        """Remove items of a queue whose TTL has run out, or is about to.

        Allowed to be late, as :meth:`change_items` with ``sync=False``.

        :param queue_name: any name
        :param seconds: those with so much or less of their TTL remaining
        :param after: and with a higher position only
        :param max_messages: at most so many; of more, those that ran out first
        :returns: what was removed, in the order of their positions
        """
        raise NotImplementedError

    def oldest(self, queue_name: str) -> float | None:
        """When the first item in a queue was pushed, in seconds since 1970 (UTC).

        ``None`` if that is not known (1.6 wrote it), or there is none.
        """
        raise NotImplementedError

    def adopt(self) -> list[tuple[str, StoredItem]]:
        """Put into the queues what was pushed by :meth:`push_with` and is committed.

        It has no position before, and can't be seen by any other method.

        :returns: the items with the positions that they get, in the order in
            which they were pushed
        """
        return []

    def received_peers(self) -> list[str]:
        """The peers of which :meth:`load_received` knows something, in any order."""
        raise NotImplementedError

    def load_received(self, ident: str) -> list[bytes]:
        """Of the messages that were received from a peer, the ``uuid`` of each remembered one.

        The oldest is first. A ``uuid`` that was added twice may be there twice.

        :param ident: any identifier; of an unknown one nothing is remembered
        """
        raise NotImplementedError

    def add_received(self, ident: str, uuids: Iterable[bytes], *, keep: int, sync: bool) -> None:
        """Remember messages as handed to the application.

        :param ident: who sent them
        :param uuids: the ``uuid`` of each, in the order of their arrival
        :param keep: the last so many of this peer are remembered; older ones
            may go. At most twice as many stay. Of
            :data:`MAX_RECEIVED_PEERS` peers something is remembered: one more,
            and the one of which nothing was added for the longest time is
            forgotten.
        :param sync: ``False``: the end of the process does not undo it once
            this has returned, but a power failure may until the next
            :meth:`sync`
        :raises ValueError: ``keep`` is less than 1, or an ``uuid`` is not of 1
            to 16 bytes
        """
        raise NotImplementedError

    def sync(self) -> None:
        """Have on disk, when this returns, what was allowed to be late.

        Also what an earlier process left so. Costs nothing if there is nothing.
        A storage that is never late has nothing to do here.
        """

    def push_inbox(self, ident: str, messages: Iterable[Message], *, keep: int) -> list[int]:
        """Put received messages into the inbox and remember them, as one change.

        :param ident: who sent them
        :param messages: in the order of their arrival; those with TTL 0 are
            not remembered, because they are never repeated. Their
            attribute ``redelivered`` is stored too.
        :param keep: as for :meth:`add_received`
        :returns: the number of each; they rise, and none was ever used before
        """
        raise NotImplementedError

    def get_inbox(self, after: int = 0, limit: int | None = None) -> list[InboxItem]:
        """What is in the inbox, in the order of the numbers.

        :param after: those with a higher number only
        :param limit: at most so many
        """
        raise NotImplementedError

    def advance_inbox(self, done: int | None, starting: int | None) -> None:
        """Go on from one message in the inbox to another, as one change.

        Allowed to be late, as :meth:`add_received` with ``sync=False``.

        :param done: number of the one that is finished; it is removed
        :param starting: number of the one whose callback is started next; an
            attempt is counted. Neither has to be there (any more).
        """
        raise NotImplementedError

    def uncount_attempt(self, item_id: int) -> None:
        """Take back an attempt that :meth:`advance_inbox` has counted. Allowed to be late.

        :param item_id: number of the item; if it is not there, nothing happens
        """
        raise NotImplementedError

    def bury(self, item_id: int, reason: str) -> None:
        """Move a message from the inbox to the dead letters.

        :param item_id: number of the item; if it is not there, nothing happens
        :param reason: why it is given up
        """
        raise NotImplementedError

    def get_dead(self, after: int = 0, limit: int | None = None) -> list[DeadLetter]:
        """Dead letters, in the order in which they were received.

        :param after: those with a higher number only
        :param limit: at most so many
        """
        raise NotImplementedError

    def count_dead(self) -> int:
        """How many dead letters there are."""
        raise NotImplementedError

    def add_dead(self, letters: Iterable[DeadLetter]) -> None:
        """Add dead letters of another storage, which get numbers of this one.

        :param letters: in the order in which they were received
        """
        raise NotImplementedError

    def retry_dead(self, ids: Sequence[int] | None) -> list[InboxItem]:
        """Move dead letters to the end of the inbox, with no attempts yet.

        They come in the order in which they were received, with new numbers.
        Those with attempts are marked ``redelivered``.

        :param ids: numbers of the letters; those that are not there are passed
            over. ``None``: all
        :returns: the new items of the inbox
        """
        raise NotImplementedError

    def drop_dead(self, ids: Sequence[int] | None) -> int:
        """Delete dead letters.

        :param ids: numbers of the letters; those that are not there are passed
            over. ``None``: all
        :returns: how many were there
        """
        raise NotImplementedError

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """A transaction that the application shares with the storage.

        :raises snakemq.exceptions.StorageError: this storage has none; only
            :class:`~snakemq.storage.sqlite.SqliteQueuesStorage` does
        """
        raise StorageError(
            f"{type(self).__name__} has no transactions to share with the application; use"
            " SqliteQueuesStorage"
        )

    def push_with(
        self, connection: sqlite3.Connection, entries: Iterable[tuple[str, Message]]
    ) -> None:
        """Append items to queues by way of the application's own connection.

        They are in the queues after :meth:`adopt`, or when the storage is
        opened the next time, if the application has committed by then.

        :param connection: a connection to the file of the storage
        :param entries: pairs of queue name and item
        :raises snakemq.exceptions.StorageError: this storage is not in such a
            file; only :class:`~snakemq.storage.sqlite.SqliteQueuesStorage` is
        """
        raise StorageError(
            f"{type(self).__name__} has no file that an SQLite connection of the application could"
            " write to; use SqliteQueuesStorage"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
