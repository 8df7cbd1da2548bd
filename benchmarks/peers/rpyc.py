"""RPyC, with a connection for each thread that makes calls, and each in a thread of the server.

Threads that share a connection read each other's answers, which takes longer.
The method is looked up once: ``connection.root.echo`` asks the server each time,
and a call takes three times as long.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import rpyc
from rpyc.utils.server import ThreadedServer

from benchmarks.peers.held import HeldConnections
from benchmarks.peers.per_thread import CallerPerThread

__all__ = ["caller", "hold", "serve", "version"]


def version() -> str:
    return f"rpyc {rpyc.__version__}"


class _Served:
    def __init__(self, echo: Callable[[bytes], bytes]) -> None:
        service = type("Served", (rpyc.Service,), {"exposed_echo": staticmethod(echo)})
        self._server = ThreadedServer(
            service, hostname="127.0.0.1", port=0, logger=logging.getLogger("rpyc")
        )
        self.address = self._server.port
        threading.Thread(target=self._server.start, daemon=True).start()
        while not self._server.active:  # nobody can connect
            time.sleep(0.001)

    def close(self) -> None:
        self._server.close()


def serve(echo: Callable[[bytes], bytes]) -> _Served:
    return _Served(echo)


class _Connection:
    def __init__(self, port: int) -> None:
        self._connection = rpyc.connect("127.0.0.1", port)
        self.call: Callable[[bytes], bytes] = self._connection.root.echo
        self.close: Callable[[], None] = self._connection.close


def caller(address: Any) -> CallerPerThread:
    return CallerPerThread(lambda: _Connection(address))


def hold(address: Any, count: int) -> HeldConnections:
    return HeldConnections(lambda: _Connection(address), count)
