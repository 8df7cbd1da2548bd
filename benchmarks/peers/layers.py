"""The layers put together by hand, as programs for snakeMQ 1.6 do it.

The loop runs in a thread of its own; messages are sent and calls are made from
others. Everything here is 1.6's API, so :mod:`benchmarks.peers.release_16`
uses it too.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from typing import Any

import snakemq.version
from benchmarks.peers import Certificates, OnMessage
from benchmarks.peers.plain_connections import PlainConnections
from snakemq.link import Link, SSLConfig
from snakemq.message import Message
from snakemq.messaging import Messaging, ReceiveHook
from snakemq.packeter import Packeter
from snakemq.rpc import RpcClient, RpcServer

__all__ = [
    "Sender",
    "Stack",
    "caller",
    "connect",
    "connect_secured",
    "fetch",
    "hold",
    "queue_for_later",
    "receive",
    "receive_secured",
    "serve",
    "tls",
    "version",
]

LISTENER = "listener"
DIALLER = "dialler"


def version() -> str:
    return str(snakemq.version.VERSION)


class Stack:
    """One side."""

    def __init__(self, identifier: str) -> None:
        self.link = Link()
        self.messaging = Messaging(identifier, "", Packeter(self.link))
        self.address: Any = None
        self._thread = threading.Thread(target=self.link.loop, daemon=True)

    def listen(self, ssl_config: SSLConfig | None = None) -> None:
        self.address = self.link.add_listener(("127.0.0.1", 0), ssl_config=ssl_config)
        self._thread.start()

    def dial(self, address: Any, ssl_config: SSLConfig | None = None) -> None:
        """Return when the other side has said who it is."""
        connected = threading.Event()
        self.messaging.on_connect.add(lambda conn_id, ident: connected.set())
        self.link.add_connector(tuple(address), ssl_config=ssl_config)
        self._thread.start()
        connected.wait()

    def close(self) -> None:
        self.link.stop()
        self.link.wakeup_poll()
        self._thread.join()
        self.link.cleanup()


def tls(certificates: Certificates, side: str) -> SSLConfig:
    return SSLConfig(
        str(certificates.key(side)),
        str(certificates.certificate(side)),
        cert_reqs=ssl.CERT_REQUIRED,
        ca_certs=str(certificates.authority),
    )


def receive(on_message: OnMessage, ssl_config: SSLConfig | None = None) -> Stack:
    stack = Stack(LISTENER)
    stack.messaging.on_message_recv.add(lambda conn_id, ident, message: on_message(message.data))
    stack.listen(ssl_config)
    return stack


def receive_secured(certificates: Certificates, on_message: OnMessage) -> Stack:
    return receive(on_message, tls(certificates, LISTENER))


class Sender:
    """Any number of messages may wait in the queue."""

    def __init__(self, address: Any, ssl_config: SSLConfig | None = None) -> None:
        self.stack = Stack(DIALLER)
        self.stack.dial(address, ssl_config)
        self._send = self.stack.messaging.send_message

    def send(self, data: bytes) -> None:
        self._send(LISTENER, Message(data, ttl=None))

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.stack.close()


def connect(address: Any) -> Sender:
    return Sender(address)


def connect_secured(certificates: Certificates, address: Any) -> Sender:
    return Sender(address, tls(certificates, DIALLER))


class _Queueing(Stack):
    """Listens, so that there is nothing to wait for when the receiver comes."""

    def __init__(self) -> None:
        super().__init__(LISTENER)
        self.listen()

    def send(self, data: bytes) -> None:
        self.messaging.send_message(DIALLER, Message(data, ttl=None))


def queue_for_later() -> _Queueing:
    return _Queueing()


def fetch(address: Any, on_message: OnMessage) -> Stack:
    stack = Stack(DIALLER)
    stack.messaging.on_message_recv.add(lambda conn_id, ident, message: on_message(message.data))
    stack.dial(address)
    return stack


def hold(address: Any, count: int) -> PlainConnections:
    return PlainConnections(address, count)


class _Served:
    def __init__(self, echo: Callable[[bytes], bytes]) -> None:
        self.echo = echo


def serve(echo: Callable[[bytes], bytes]) -> Stack:
    stack = Stack(LISTENER)
    server = RpcServer(ReceiveHook(stack.messaging))
    server.register_object(_Served(echo), "served")
    stack.listen()
    return stack


class _Caller:
    """All threads share one proxy."""

    def __init__(self, address: Any) -> None:
        self._stack = Stack(DIALLER)
        client = RpcClient(ReceiveHook(self._stack.messaging))
        self._stack.dial(address)
        self.call: Callable[[bytes], bytes] = client.get_proxy(LISTENER, "served").echo

    def close(self) -> None:
        self._stack.close()


def caller(address: Any) -> _Caller:
    return _Caller(address)
