"""Where messages wait until the program takes them."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from typing import Final

from snakemq.message import Message
from snakemq.packeter import Packeter
from snakemq.peer._waiting import Changes

__all__ = ["DEFAULT_INBOX_LIMIT", "Inbox", "ReceivedMessage"]

#: How much an inbox holds by default, in bytes.
DEFAULT_INBOX_LIMIT: Final = 64 * 1024 * 1024

#: What a message costs beside its data, in bytes. Roughly what Python needs
#: for the objects; what matters is that empty messages are not free.
MESSAGE_COST: Final = 512


class ReceivedMessage:
    """A message that arrived.

    :ivar ident: identifier of the peer that sent it
    :ivar message: the message as the layers know it
    :ivar conn_id: the connection on which it came; it may be gone already
    """

    __slots__ = ("conn_id", "ident", "message")

    def __init__(self, ident: str, message: Message, conn_id: str) -> None:
        self.ident = ident
        self.message = message
        self.conn_id = conn_id

    @property
    def data(self) -> bytes:
        """The payload."""
        return self.message.data

    @property
    def text(self) -> str:
        """The payload, decoded from UTF-8.

        :raises UnicodeDecodeError: it is something else
        """
        return self.message.data.decode("utf-8")

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

    def __repr__(self) -> str:
        return f"<ReceivedMessage from {self.ident!r} {self.message!r}>"


class Inbox:
    """A queue of received messages with an end to its patience.

    It holds ``limit`` bytes. What happens then depends on whether there is a
    reader, that is whether :meth:`get` was ever called:

    * There is one, it is only slow: nothing is lost. The connections that
      bring more are paused until half of the messages are taken, and their
      senders keep what is left in their queues.
    * There is none: this program does not read messages, and connections that
      bring other things too (calls, for instance) must not stand still because
      of that. The oldest messages are dropped, counted in :attr:`dropped` and
      logged.

    :param packeter: its connections are paused
    :param limit: in bytes; a message counts its data and :data:`MESSAGE_COST`
    """

    def __init__(self, packeter: Packeter, limit: int, log: logging.Logger) -> None:
        self._packeter = packeter
        self._limit = limit
        self._log = log
        self._changes = Changes(packeter)
        self._items: deque[ReceivedMessage] = deque()
        self._size = 0
        self._read = False
        self._closed = False
        #: connections that are paused; loop thread only
        self._paused: set[str] = set()
        self._resuming = False
        #: how many messages were dropped because nobody reads
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    # Loop thread only.

    def put(self, item: ReceivedMessage) -> None:
        """Append a message."""
        size = MESSAGE_COST + len(item.message.data)
        with self._changes.lock:
            self._items.append(item)
            self._size += size
            full = self._size > self._limit
            paused = full and self._read
            dropped = 0
            if full and not paused:
                dropped = self._drop()
        self._changes.notify()
        if paused:
            self._pause(item)
        elif dropped:
            self._report_drop(dropped)

    def take_all(self) -> list[ReceivedMessage]:
        """Empty it."""
        with self._changes.lock:
            items = [self._take() for _ in range(len(self._items))]
        self._resume()
        return items

    def forget(self, conn_id: str) -> None:
        """The connection is gone."""
        self._paused.discard(conn_id)

    def _drop(self) -> int:
        count = 0
        while self._size > self._limit and len(self._items) > 1:
            self._take()
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
            self._packeter.pause_recv(item.conn_id)
        except KeyError:
            return  # it brought this message and was closed since
        self._paused.add(item.conn_id)
        self._log.warning(
            "%d messages wait to be read: conn=%s ident=%s paused",
            len(self._items),
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
            self._log.info("conn=%s resumed", conn_id)
            with contextlib.suppress(KeyError):  # closed since
                self._packeter.resume_recv(conn_id)

    # Any thread.

    def get(self, timeout: float | None) -> ReceivedMessage | None:
        """Take the oldest message; wait for one, at most ``timeout`` seconds.

        :return: ``None`` if there is none in time, or none and it is closed
        """
        changes = self._changes
        resume = False
        with changes.lock:
            self._read = True
            if not changes.wait_for(lambda: bool(self._items) or self._closed, timeout):
                return None
            if not self._items:
                return None
            item = self._take()
            if self._paused and not self._resuming and self._size <= self._limit // 2:
                self._resuming = resume = True
        if resume:
            self._packeter.call_soon(self._resume)
        return item

    def _take(self) -> ReceivedMessage:
        item = self._items.popleft()
        self._size -= MESSAGE_COST + len(item.message.data)
        return item

    def close(self) -> None:
        """Let waiting readers go. What is there can still be taken."""
        self._closed = True
        self._changes.notify()
