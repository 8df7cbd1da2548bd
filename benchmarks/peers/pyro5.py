"""Pyro5, set up as it is fastest: one thread that serves everybody, and marshal.

* Calls from 16 threads take twice as long where the daemon has a thread for
  each connection, which is the default; calls from one thread take as long.
* Of the serializers, marshal and msgpack carry bytes as they are. The default
  one, serpent, writes them as text and parses it on the other side.

A proxy belongs to one thread, so each thread that makes calls has its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import Pyro5
from Pyro5 import config
from Pyro5.client import Proxy
from Pyro5.server import Daemon, expose

from benchmarks.peers.held import HeldConnections
from benchmarks.peers.per_thread import CallerPerThread

__all__ = ["caller", "hold", "serve", "version"]

config.SERIALIZER = "marshal"
config.SERVERTYPE = "multiplex"
config.SOCK_NODELAY = True


def version() -> str:
    return f"Pyro5 {Pyro5.__version__}"


class Echo:
    def __init__(self, echo: Callable[[bytes], bytes]) -> None:
        self._echo = echo

    def echo(self, data: bytes) -> bytes:
        return self._echo(data)


class _Served:
    def __init__(self, echo: Callable[[bytes], bytes]) -> None:
        self._daemon = Daemon(host="127.0.0.1")
        self.address = str(self._daemon.register(expose(Echo)(echo)))
        self._thread = threading.Thread(target=self._daemon.requestLoop, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._daemon.shutdown()
        self._thread.join()
        self._daemon.close()


def serve(echo: Callable[[bytes], bytes]) -> _Served:
    return _Served(echo)


class _Connection:
    def __init__(self, uri: str) -> None:
        self._proxy = Proxy(uri)
        self.call: Callable[[bytes], bytes] = self._proxy.echo

    def close(self) -> None:
        self._proxy._pyroClaimOwnership()
        self._proxy._pyroRelease()


def caller(address: Any) -> CallerPerThread:
    return CallerPerThread(lambda: _Connection(address))


def hold(address: Any, count: int) -> HeldConnections:
    return HeldConnections(lambda: _Connection(address), count)
