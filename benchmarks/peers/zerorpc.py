"""zerorpc: all of the server in one thread, a client for each thread that calls.

It is made for gevent: a client belongs to the event loop, and so to the thread,
that it was made in. It numbers the calls of a ZeroMQ context without a lock, so
each thread that makes calls has its own context. Without heartbeats a call
needs a greenlet less on each side.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
import zerorpc
from zerorpc.version import __version__

from benchmarks.peers.per_thread import CallerPerThread

__all__ = ["caller", "serve", "version"]


def version() -> str:
    return f"zerorpc {__version__}"


class _Served:
    """Makes, runs and closes the server in a thread of its own."""

    def __init__(self, echo: Callable[[bytes], bytes]) -> None:
        self._echo = echo
        self._listening: queue.SimpleQueue[tuple[str, gevent.event.Event]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.address, self._stop = self._listening.get()

    def _run(self) -> None:
        server = zerorpc.Server({"echo": self._echo}, heartbeat=None)
        server.bind("tcp://127.0.0.1:0")
        stop = gevent.event.Event()
        running = gevent.spawn(server.run)
        # It does not tell which port it got.
        self._listening.put((server._events._socket.last_endpoint.decode(), stop))
        stop.wait()
        running.kill()
        server.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def serve(echo: Callable[[bytes], bytes]) -> _Served:
    return _Served(echo)


class _Connection:
    def __init__(self, address: str) -> None:
        self._client = zerorpc.Client(address, context=zerorpc.Context(), heartbeat=None)
        self.call: Callable[[bytes], bytes] = self._client.echo

    def close(self) -> None:
        """Its thread has ended, and its event loop with it."""


def caller(address: Any) -> CallerPerThread:
    return CallerPerThread(lambda: _Connection(address))
