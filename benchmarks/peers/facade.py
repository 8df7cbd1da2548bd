"""The package as a newcomer uses it: one :class:`snakemq.Peer` on each side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import snakemq.version
from benchmarks.peers import OnMessage

__all__ = ["caller", "connect", "receive", "serve", "version"]

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


def _connected(address: Any) -> snakemq.Peer:
    peer = snakemq.Peer(DIALLER, connect=tuple(address)).start()
    peer.wait_connected(LISTENER)
    return peer
