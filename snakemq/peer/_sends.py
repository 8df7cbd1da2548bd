"""The methods of a peer that send."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, overload

from snakemq.message import Message
from snakemq.messaging import Messaging
from snakemq.peer._arguments import Data
from snakemq.peer._batch import Batch, PeerTransaction, begin
from snakemq.peer._delivery import Delivery
from snakemq.peer._sending import Sender

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Sends"]


class Sends:
    """Base of :class:`~snakemq.Peer`: all that sends messages."""

    messaging: Messaging
    _sender: Sender
    _closed: bool

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
        """Queue a message for a peer. Returns at once.

        It is sent when the peer is connected, first in, first out. A
        persistent message is on disk when this returns. (If ``queue_limits``
        say that this waits for room, it does.)

        :param ident: identifier of the receiver
        :param data: the payload; a string is encoded in UTF-8
        :param ttl: time to live, in seconds. It runs while the receiver is not
            connected; 0: deliver only if it is connected now; ``None``: wait
            for ever
        :param persistent: survive the end of this process. ``None``: exactly
            if this peer has a storage
        :param uuid: identifier of the message, at most 16 bytes; made up if it
            is not given
        :param flags: more ``FLAG_*``, also some of your own
        :param track: return something that tells what becomes of the message
        :return: identifier of the message; with ``track`` its :class:`Delivery`
        :raises TypeError: an argument is of a wrong type
        :raises ValueError: persistent without a storage, to oneself, or to
            nobody
        :raises PacketTooLarge: the message can't be sent in one packet
        :raises QueueFull: there is no room for it
        :raises snakemq.exceptions.StorageError: it can't be stored
        :raises PeerClosed: this peer was stopped
        """
        if (
            ttl is None
            and uuid is None
            and not (self._sender.has_storage if persistent is None else persistent)
            and not (flags or track)
        ):
            # What most messages are: a third of what it takes otherwise.
            quick = self.messaging.send_data(ident, data)
            if quick is not None:
                return quick
        message = self._sender.make(ident, data, ttl, persistent, uuid, flags)
        if self._closed:
            self._sender.refuse_closed()
        if track:
            return self._sender.send_tracked(ident, message)
        self.messaging.send_message(ident, message)
        return message.uuid

    @overload
    def send_messages(
        self,
        entries: Iterable[tuple[str, Data | Message]],
        *,
        ttl: float | None = None,
        persistent: bool | None = None,
        track: Literal[False] = False,
    ) -> list[bytes]: ...

    @overload
    def send_messages(
        self,
        entries: Iterable[tuple[str, Data | Message]],
        *,
        ttl: float | None = None,
        persistent: bool | None = None,
        track: Literal[True],
    ) -> list[Delivery]: ...

    def send_messages(
        self,
        entries: Iterable[tuple[str, Data | Message]],
        *,
        ttl: float | None = None,
        persistent: bool | None = None,
        track: bool = False,
    ) -> list[bytes] | list[Delivery]:
        """Queue messages, all of them or none, with one commit in the storage.

        :param entries: pairs of identifier and payload; a
            :class:`~snakemq.Message` instead of the payload is sent as it is
        :param ttl: as for :meth:`send`, for all payloads
        :param persistent: likewise
        :param track: likewise
        :return: for each its identifier, or its :class:`Delivery`
        :raises Exception: as :meth:`send`; nothing is queued then
        """
        return self._sender.send_all(entries, ttl, persistent, track=track)

    def batch(self) -> Batch:
        """Queue messages together: all of them, with one commit, or none.

        ::

            with peer.batch() as batch:
                batch.send("bob", "one")
                batch.send("carol", "two")

        They are queued at the end of the block, and not at all if an exception
        leaves it.
        """
        return Batch(self._sender)

    def transaction(
        self, connection: sqlite3.Connection | None = None
    ) -> AbstractContextManager[PeerTransaction]:
        """Send messages if, and only if, a transaction of a database commits.

        ::

            with peer.transaction(connection) as transaction:
                connection.execute("UPDATE ...")
                transaction.send("bob", "it is done")

        It is committed at the end of the block, and rolled back if an
        exception leaves it. The messages are sent after that.

        :param connection: the program's own connection to the file that is the
            storage of this peer. ``None``: the connection of the storage, which
            is ``transaction.db``; all other threads that want to store
            something wait until the end.
        :raises PeerClosed: this peer was stopped
        :raises snakemq.exceptions.StorageError: there is no storage that can do this
        """
        return begin(self._sender, self.messaging.transaction(connection))
