"""Messages that are queued together, or with the transaction of a database."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, overload

from snakemq.message import Message
from snakemq.peer._arguments import Data
from snakemq.peer._delivery import Delivery
from snakemq.peer._sending import Outgoing, Sender

if TYPE_CHECKING:
    import sqlite3

    from typing_extensions import Self

__all__ = ["Batch", "PeerTransaction", "begin"]


class Batch:
    """Messages that are queued at the end of a ``with`` block, all of them or none.

    Made by :meth:`snakemq.Peer.batch`. For one thread.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._outgoing = Outgoing(sender)
        self._is_over = False

    @overload
    def send(
        self,
        ident: str,
        data: Data,
        *,
        ttl: float | None = None,
        persistent: bool | None = None,
        uuid: bytes | None = None,
        flags: int = 0,
        track: Literal[False] = False,
    ) -> bytes: ...

    @overload
    def send(
        self,
        ident: str,
        data: Data,
        *,
        ttl: float | None = None,
        persistent: bool | None = None,
        uuid: bytes | None = None,
        flags: int = 0,
        track: Literal[True],
    ) -> Delivery: ...

    def send(
        self,
        ident: str,
        data: Data,
        *,
        ttl: float | None = None,
        persistent: bool | None = None,
        uuid: bytes | None = None,
        flags: int = 0,
        track: bool = False,
    ) -> bytes | Delivery:
        """Have a message queued at the end of the block. See :meth:`snakemq.Peer.send`.

        What it raises itself is about the arguments; what can go wrong with
        queueing is raised at the end of the block.

        :raises RuntimeError: the block has ended
        """
        if self._is_over:
            raise RuntimeError("this batch has been queued or given up; make another one")
        message = self._sender.make(ident, data, ttl, persistent, uuid, flags)
        return self._outgoing.add(ident, message, track=track)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over = True
        with contextlib.ExitStack() as undo:
            undo.callback(self._outgoing.forget)
            if exc is None:
                self._outgoing.queue()
                undo.pop_all()


class _LowerTransaction(Protocol):
    """What :meth:`snakemq.messaging.Messaging.transaction` gives."""

    db: sqlite3.Connection

    def send_message(self, ident: str, message: Message) -> None:
        """Queue a message with this transaction."""


class PeerTransaction:
    """A transaction of an SQLite database with which messages are queued.

    Made by :meth:`snakemq.Peer.transaction`. For the thread that began it.

    :ivar db: the connection to the database
    """

    def __init__(self, sender: Sender, lower: _LowerTransaction) -> None:
        self.db = lower.db
        self._sender = sender
        self._lower = lower
        self._tracked: list[Delivery] = []

    @overload
    def send(
        self,
        ident: str,
        data: Data,
        *,
        ttl: float | None = None,
        uuid: bytes | None = None,
        flags: int = 0,
        track: Literal[False] = False,
    ) -> bytes: ...

    @overload
    def send(
        self,
        ident: str,
        data: Data,
        *,
        ttl: float | None = None,
        uuid: bytes | None = None,
        flags: int = 0,
        track: Literal[True],
    ) -> Delivery: ...

    def send(
        self,
        ident: str,
        data: Data,
        *,
        ttl: float | None = None,
        uuid: bytes | None = None,
        flags: int = 0,
        track: bool = False,
    ) -> bytes | Delivery:
        """Queue a persistent message with this transaction. See :meth:`snakemq.Peer.send`.

        :raises ValueError: the time to live is 0: it is not stored
        :raises snakemq.QueueFull: there is no room for it
        :raises snakemq.StorageError: it can't be stored
        """
        message = self._sender.make(ident, data, ttl, True, uuid, flags)
        if not track:
            self._lower.send_message(ident, message)
            return message.uuid
        delivery = self._sender.track(ident, message)
        try:
            self._lower.send_message(ident, message)
        except BaseException:
            self._sender.deliveries.forget([delivery])
            raise
        self._tracked.append(delivery)
        return delivery

    def _end(self, *, committed: bool) -> None:
        deliveries = self._sender.deliveries
        if committed:
            deliveries.queue(self._tracked)
            for delivery in self._tracked:
                deliveries.queued(delivery, True)
        else:
            deliveries.forget(self._tracked)


@contextlib.contextmanager
def begin(
    sender: Sender, lower: AbstractContextManager[_LowerTransaction]
) -> Iterator[PeerTransaction]:
    """Run a block inside a transaction.

    :raises PeerClosed: this peer was stopped
    """
    sender.refuse_closed()
    transaction = None
    committed = False
    try:
        with lower as inner:
            transaction = PeerTransaction(sender, inner)
            yield transaction
        committed = True
    finally:
        if transaction is not None:
            transaction._end(committed=committed)
