"""The package as a newcomer uses it: one :class:`snakemq.Peer` on each side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import snakemq.version
from benchmarks.payloads import clock
from benchmarks.peers import Certificates, OnMessage, Setting
from benchmarks.peers.plain_connections import PlainConnections
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

LISTENER = "listener"
DIALLER = "dialler"


def version() -> str:
    return str(snakemq.version.VERSION)


class _Listening:
    def __init__(self, **options: Any) -> None:
        self._peer = snakemq.Peer(LISTENER, listen=0, **options).start()
        self.address = self._peer.addresses[0]

    def close(self) -> None:
        self._peer.stop()


def receive(on_message: OnMessage) -> _Listening:
    return _Listening(on_message=lambda received: on_message(received.data))


def receive_secured(certificates: Certificates, on_message: OnMessage) -> _Listening:
    return _Listening(
        on_message=lambda received: on_message(received.data), tls=_tls(certificates, LISTENER)
    )


def _tls(certificates: Certificates, side: str) -> snakemq.SSLConfig:
    return snakemq.SSLConfig(
        str(certificates.key(side)),
        str(certificates.certificate(side)),
        ca_certs=str(certificates.authority),
    )


class _Sender:
    def __init__(self, address: Any, **options: Any) -> None:
        self._peer = _connected(address, **options)
        self._send = self._peer.send

    def send(self, data: bytes) -> None:
        self._send(LISTENER, data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._peer.stop()


def connect(address: Any) -> _Sender:
    return _Sender(address)


def connect_secured(certificates: Certificates, address: Any) -> _Sender:
    return _Sender(address, tls=_tls(certificates, DIALLER))


class _Queueing(_Listening):
    """Listens, so that there is nothing to wait for when the receiver comes."""

    def send(self, data: bytes) -> None:
        self._peer.send(DIALLER, data)


def queue_for_later() -> _Queueing:
    return _Queueing()


class _Fetching:
    def __init__(self, address: Any, on_message: OnMessage) -> None:
        self._peer = _connected(address, on_message=lambda received: on_message(received.data))

    def close(self) -> None:
        self._peer.stop()


def fetch(address: Any, on_message: OnMessage) -> _Fetching:
    return _Fetching(address, on_message)


def hold(address: Any, count: int) -> PlainConnections:
    return PlainConnections(address, count)


class _Served:
    def __init__(self, echo: Callable[[bytes], bytes]) -> None:
        self.echo = echo


def serve(echo: Callable[[bytes], bytes]) -> _Listening:
    return _Listening(serve={"served": _Served(echo)})


class _Caller:
    """All threads share one proxy."""

    def __init__(self, address: Any) -> None:
        self._peer = _connected(address)
        self.call: Callable[[bytes], bytes] = self._peer.proxy(LISTENER, "served").echo

    def close(self) -> None:
        self._peer.stop()


def caller(address: Any) -> _Caller:
    return _Caller(address)


class _Keeping(_Listening):
    """Needs no storage: a message is acknowledged when it was handled."""

    def settle(self, received_at: float) -> float:
        """The sender waits for all acknowledgements."""
        return received_at


def keep(setting: Setting, on_message: OnMessage) -> _Keeping:
    return _Keeping(on_message=lambda received: on_message(received.data))


class _Durable:
    def __init__(self, setting: Setting, address: Any) -> None:
        self._storage = str(setting.directory / "storage.db")
        self._peer = _connected(address, storage=self._storage)
        self._send = self._peer.send

    def send(self, data: bytes) -> None:
        self._send(LISTENER, data)

    def send_batch(self, batch: Sequence[bytes]) -> None:
        self._peer.send_messages([(LISTENER, data) for data in batch])

    def wait_until_removed(self) -> float:
        self._peer.flush()
        return clock()

    def close(self) -> None:
        self._peer.stop()
        with SqliteQueuesStorage(self._storage) as storage:
            assert not storage.get_queues(), "messages are left"


def connect_durably(setting: Setting, address: Any) -> _Durable:
    return _Durable(setting, address)


def _connected(address: Any, **options: Any) -> snakemq.Peer:
    peer = snakemq.Peer(DIALLER, connect=tuple(address), **options).start()
    peer.wait_connected(LISTENER)
    return peer
