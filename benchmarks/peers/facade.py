"""The package as a newcomer uses it: one :class:`snakemq.Peer` on each side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import snakemq.version
from benchmarks.payloads import clock
from benchmarks.peers import OnMessage, Setting
from snakemq.storage.sqlite import SqliteQueuesStorage

__all__ = ["caller", "connect", "connect_durably", "keep", "receive", "serve", "version"]

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


class _Sender:
    def __init__(self, address: Any) -> None:
        self._peer = _connected(address)
        self._send = self._peer.send

    def send(self, data: bytes) -> None:
        self._send(LISTENER, data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._peer.stop()


def connect(address: Any) -> _Sender:
    return _Sender(address)


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
