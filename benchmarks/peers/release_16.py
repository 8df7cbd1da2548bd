"""The real snakeMQ 1.6, driven as it is fastest.

It sends one message a pass of its loop, and taking one out of its queue costs
the more the longer the queue is. So the sender fills the queue and stays away
until it is nearly empty: it is short then, and the loop has the interpreter
for itself. (With no limit, 150,000 messages go at half the speed of 50,000.)

Its SQLite storage can be used by the thread only that has opened it. So with a
storage the sender runs the loop itself: one pass after each message keeps the
queue, and the table in which it looks for what it removes, as short as it gets.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.payloads import clock
from benchmarks.peers import Certificates, OnMessage, Setting, layers
from benchmarks.peers.layers import (
    caller,
    fetch,
    hold,
    queue_for_later,
    receive,
    receive_secured,
    serve,
    version,
)
from snakemq.link import Link, SSLConfig
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.messaging import Messaging
from snakemq.packeter import Packeter
from snakemq.storage.sqlite import SqliteQueuesStorage

__all__ = [
    "caller",
    "connect",
    "connect_durably",
    "connect_secured",
    "fetch",
    "hold",
    "keep",
    "queue_for_later",
    "receive",
    "receive_secured",
    "serve",
    "version",
]

# This module in a process with another snakemq would measure that.
if version() != "1.6":
    raise ImportError(f"this is snakemq {version()}, not 1.6")

#: How many messages may wait, and how few have to wait before there are more.
_FULL = 4000
_NEARLY_EMPTY = 400

#: Seconds between two looks at the queue: a tenth of what emptying it takes.
_PAUSE = 0.005


class Sender(layers.Sender):
    """Lets the queue grow to a certain length only."""

    def __init__(self, address: Any, ssl_config: SSLConfig | None = None) -> None:
        super().__init__(address, ssl_config)
        self._queue = self.stack.messaging.queues_manager.get_queue(layers.LISTENER)

    def send(self, data: bytes) -> None:
        if len(self._queue) >= _FULL:
            while len(self._queue) > _NEARLY_EMPTY:
                time.sleep(_PAUSE)
        super().send(data)


def connect(address: Any) -> Sender:
    return Sender(address)


def connect_secured(certificates: Certificates, address: Any) -> Sender:
    return Sender(address, layers.tls(certificates, layers.DIALLER))


class _Keeping:
    """Acknowledges nothing: 1.6 does not know how."""

    def __init__(self, on_message: OnMessage) -> None:
        self._stack = receive(on_message)
        self.address = self._stack.address
        self.close = self._stack.close

    def settle(self, received_at: float) -> float:
        return received_at


def keep(setting: Setting, on_message: OnMessage) -> _Keeping:
    return _Keeping(on_message)


class _Durable:
    """Removes a message from the storage when it was handed to the system."""

    def __init__(self, setting: Setting, address: Any) -> None:
        self._storage = SqliteQueuesStorage(str(setting.directory / "storage.db"))
        self._link = Link()
        self._messaging = Messaging(layers.DIALLER, "", Packeter(self._link), self._storage)
        self._under_way = 0
        self._messaging.on_message_sent.add(self._handle_sent)
        connected: list[str] = []
        self._messaging.on_connect.add(lambda conn_id, ident: connected.append(ident))
        self._link.add_connector(tuple(address))
        while not connected:
            self._link.loop(count=1)
        self._send = self._messaging.send_message

    def _handle_sent(self, conn_id: str, ident: str, uuid: bytes) -> None:
        self._under_way -= 1

    def send(self, data: bytes) -> None:
        self._under_way += 1
        # Wakes the loop, so the pass does not wait for anything.
        self._send(layers.LISTENER, Message(data, ttl=None, flags=FLAG_PERSISTENT))
        self._link.loop(count=1)

    def wait_until_removed(self) -> float:
        while self._under_way:
            self._link.loop(count=1)
        return clock()

    def close(self) -> None:
        assert not self._storage.get_queues(), "messages are left"
        self._link.cleanup()
        self._storage.close()


def connect_durably(setting: Setting, address: Any) -> _Durable:
    return _Durable(setting, address)
