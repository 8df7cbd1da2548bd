"""Where messages wait until the program takes them."""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict, deque
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

from snakemq._peer_log import PeerLog
from snakemq.exceptions import StorageError
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.messaging import Messaging
from snakemq.peer._waiting import Changes

if TYPE_CHECKING:
    from snakemq.peer._batch import PeerTransaction
    from snakemq.peer._durable import Durable

__all__ = ["DEFAULT_INBOX_LIMIT", "Inbox", "ReceivedMessage"]

#: How much an inbox holds by default, in bytes.
DEFAULT_INBOX_LIMIT: Final = 64 * 1024 * 1024

#: What a message costs beside its data, in bytes. Roughly what Python needs
#: for the objects; what matters is that empty messages are not free.
MESSAGE_COST: Final = 512


class ReceivedMessage:
    """A message that arrived.

    :ivar ident: identifier of the peer that sent it
    :ivar data: the payload
    :ivar conn_id: the connection on which it came; it may be gone already.
        Empty if the message was in the storage when this peer was made.
    """

    # A message without TTL and flags may be nothing but its data and its identifier
    # until somebody wants more.
    __slots__ = ("_durable", "_message", "_uuid", "conn_id", "data", "ident")

    _uuid: bytes

    def __init__(
        self, ident: str, message: Message, conn_id: str, durable: Durable | None = None
    ) -> None:
        self.ident = ident
        self.data = message.data
        self.conn_id = conn_id
        self._message = message
        self._durable = durable

    @property
    def message(self) -> Message:
        """The message as the layers know it."""
        try:
            return self._message
        except AttributeError:
            self._message = Message(self.data, None, 0, self._uuid)
            return self._message

    @property
    def text(self) -> str:
        """The payload, decoded from UTF-8.

        :raises UnicodeDecodeError: it is something else
        """
        return self.data.decode("utf-8")

    @property
    def uuid(self) -> bytes:
        """Identifier of the message: 16 bytes, the same that the sender knows."""
        return self.message.uuid

    @property
    def ttl(self) -> float | None:
        """What was left of its time to live when it was sent; ``None``: infinite."""
        return self.message.ttl

    @property
    def flags(self) -> int:
        """Combination of ``FLAG_*``."""
        return self.message.flags

    @property
    def redelivered(self) -> bool:
        """Whether this program may have had it before. Without that it comes for the first time."""
        return self.message.redelivered

    @property
    def attempts(self) -> int:
        """With ``durable_receive``: how often it was tried, this time included."""
        return self.message.attempts

    def done(self) -> None:
        """This message is handled, and does not come again.

        For messages of :meth:`~snakemq.Peer.messages` with
        ``durable_receive``, in the body of the loop, before something that
        leaves it. Elsewhere there is no need for it, and no harm in it.
        """
        if self._durable is not None:
            self._durable.done(self.message)

    def transaction(self) -> AbstractContextManager[PeerTransaction]:
        """Handle this message exactly once, with ``durable_receive`` and an SQLite file.

        ::

            with received.transaction() as transaction:
                transaction.db.execute("INSERT ...")
                transaction.send(received.ident, "done")

        What is written by way of ``db`` is written, and what is sent is sent,
        if and only if the message does not come again. In a callback, or in
        the body of a loop over :meth:`~snakemq.Peer.messages`.

        :raises StorageError: the message is not in the storage (any more)
        """
        if self._durable is None:
            raise StorageError(
                "only a message that is in the storage has a transaction; that takes a Peer with "
                "durable_receive=True"
            )
        return self._durable.transaction(self.message)

    def __repr__(self) -> str:
        return f"<ReceivedMessage from {self.ident!r} {self.message!r}>"


class Inbox:
    """A queue of received messages with an end to its patience.

    When it holds more than ``limit`` bytes, the connections that bring more
    are paused until half of it is taken, and their senders keep the rest.

    A program that has never called :meth:`get` may be one that wants no
    messages. As long as that is so, messages that are not persistent are
    dropped to make room, the oldest first; this is counted in :attr:`dropped`
    and logged. Persistent ones are not: somebody was told that they have
    arrived.

    :param messaging: its connections are paused
    :param limit: in bytes; a message counts its data and :data:`MESSAGE_COST`
    :param durable: keeps what waits here in the storage; nothing is dropped then
    """

    def __init__(
        self,
        messaging: Messaging,
        limit: int,
        log: logging.Logger,
        durable: Durable | None = None,
    ) -> None:
        self._messaging = messaging
        self._limit = limit
        self._log = log
        self._peer_log = PeerLog(log, messaging.time)
        self._durable = durable
        self._changes = Changes(messaging)
        #: what is there, by a number, so that one can be dropped from anywhere
        self.items: OrderedDict[int, ReceivedMessage] = OrderedDict()
        self._last_number = 0
        #: the numbers of those that may be dropped, and perhaps were taken
        self._droppable: deque[int] = deque()
        self._size = 0
        self._read = durable is not None
        self._closed = False
        #: connections that are paused; loop thread only
        self._paused: set[str] = set()
        self._resuming = False
        #: how many messages were dropped because nobody reads
        self.dropped = 0
        #: how many times a connection was paused
        self.pauses = 0

    def __len__(self) -> int:
        return len(self.items)

    # Loop thread only.

    def put(self, item: ReceivedMessage) -> None:
        """Append a message."""
        if self._durable is not None and not self._durable.defer(item.message):
            item._durable = None
        with self._changes.lock:
            number = self._append(item)
            dropped = 0
            keeps = self._read or bool(item.flags & FLAG_PERSISTENT)
            if not keeps:
                self._droppable.append(number)
            if not self._read and self._size > self._limit:
                dropped = self._drop()
            paused = keeps and self._size > self._limit
        self._changes.notify()
        if dropped:
            self._report_drop(dropped)
        if paused:
            self._pause(item)

    def take(self) -> ReceivedMessage | None:
        """Take the oldest message, if there is one."""
        with self._changes.lock:
            if not self.items:
                return None
            item = self._take()
            resume = self._may_resume()
        if resume:
            self._resume()
        self._begin(item)
        return item

    def forget(self, conn_id: str) -> None:
        """The connection is gone."""
        self._paused.discard(conn_id)

    def _append(self, item: ReceivedMessage) -> int:
        self._last_number += 1
        self.items[self._last_number] = item
        self._size += MESSAGE_COST + len(item.data)
        return self._last_number

    def _drop(self) -> int:
        count = 0
        while self._size > self._limit and len(self.items) > 1 and self._droppable:
            item = self.items.pop(self._droppable.popleft(), None)
            if item is not None:
                self._size -= MESSAGE_COST + len(item.data)
                count += 1
        self.dropped += count
        return count

    def _report_drop(self, count: int) -> None:
        # The first one, the tenth, the hundredth ...: a flood of messages must
        # not become a flood of log records.
        before, now = self.dropped - count, self.dropped
        if len(str(now)) > len(str(before)) or before == 0:
            self._log.warning(
                "nobody reads the messages that arrive and %d bytes are full: "
                "%d of the oldest dropped so far; set on_message or call receive()",
                self._limit,
                now,
            )

    def _pause(self, item: ReceivedMessage) -> None:
        if item.conn_id in self._paused:
            return
        try:
            self._messaging.pause(item.conn_id)
        except KeyError:
            return  # it brought this message and was closed since
        self._paused.add(item.conn_id)
        self.pauses += 1
        self._peer_log.warning(
            item.ident,
            "%d messages wait to be read%s: conn=%s ident=%a paused",
            len(self.items),
            "" if self._read else ", and nobody has read any; set on_message or call receive()",
            item.conn_id,
            item.ident,
        )
        with self._changes.lock:
            # The reader may have emptied everything before it was paused.
            drained = self._size <= self._limit // 2
        if drained:
            self._resume()

    def _resume(self) -> None:
        self._resuming = False
        paused, self._paused = self._paused, set()
        for conn_id in paused:
            self._log.debug("conn=%s resumed", conn_id)
            with contextlib.suppress(KeyError):  # closed since
                self._messaging.resume(conn_id)

    # Any thread.

    def get(self, timeout: float | None) -> ReceivedMessage | None:
        """Take the oldest message; wait for one, at most ``timeout`` seconds.

        :return: ``None`` if there is none in time, or none and it is closed
        """
        changes = self._changes
        with changes.lock:
            if not self._read:
                self._read = True
                self._droppable.clear()
            if not changes.wait_for(lambda: bool(self.items) or self._closed, timeout):
                return None
            if not self.items:
                return None
            item = self._take()
            resume = self._may_resume()
        if resume:
            self._messaging.call_soon(self._resume)
        self._begin(item)
        return item

    @staticmethod
    def _begin(item: ReceivedMessage) -> None:
        if item._durable is not None:
            item._durable.begin(item.message)

    def _take(self) -> ReceivedMessage:
        _, item = self.items.popitem(last=False)
        self._size -= MESSAGE_COST + len(item.data)
        return item

    def _may_resume(self) -> bool:
        """Whether it is up to the caller to resume what is paused."""
        if not self._paused or self._resuming or self._size > self._limit // 2:
            return False
        self._resuming = True
        return True

    def close(self) -> None:
        """Let waiting readers go.

        What is there can still be taken; but not what is in the storage, which
        can't be removed there any more and comes again.
        """
        with self._changes.lock:
            self._closed = True
            left = [self._take() for _ in range(len(self.items))]
            for item in left:
                if item._durable is None:
                    self._append(item)
        self._changes.notify()
