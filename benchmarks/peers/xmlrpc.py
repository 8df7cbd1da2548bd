"""XML-RPC from the standard library, with connections that stay open.

By default the server closes the connection after each call (HTTP 1.0), and a
call takes twice as long; and it prints a line for each. Both sides send without
delay by themselves.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable
from socketserver import ThreadingMixIn
from typing import Any, cast
from xmlrpc.client import ServerProxy
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

from benchmarks.peers.held import HeldConnections
from benchmarks.peers.per_thread import CallerPerThread

__all__ = ["caller", "hold", "serve", "version"]


def version() -> str:
    return f"xmlrpc of Python {platform.python_version()}"


class _Handler(SimpleXMLRPCRequestHandler):
    protocol_version = "HTTP/1.1"


class _Server(ThreadingMixIn, SimpleXMLRPCServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 64


class _Served:
    def __init__(self, echo: Callable[[bytes], bytes]) -> None:
        self._server = _Server(
            ("127.0.0.1", 0), _Handler, logRequests=False, use_builtin_types=True
        )
        method: Any = echo  # its type is not among those that are known to be sendable
        self._server.register_function(method, "echo")
        host, port = self._server.server_address[:2]
        self.address = f"http://{host!s}:{port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def serve(echo: Callable[[bytes], bytes]) -> _Served:
    return _Served(echo)


class _Connection:
    """A proxy keeps its connection, and is not made for several threads."""

    def __init__(self, address: str) -> None:
        self._proxy = ServerProxy(address, use_builtin_types=True)
        self.call = cast("Callable[[bytes], bytes]", self._proxy.echo)

    def close(self) -> None:
        self._proxy("close")()


def caller(address: Any) -> CallerPerThread:
    return CallerPerThread(lambda: _Connection(address))


def hold(address: Any, count: int) -> HeldConnections:
    return HeldConnections(lambda: _Connection(address), count)
