"""The connections of Python's multiprocessing, over TCP and without a key.

Each message is written by itself, with its length in front. A thread that makes
calls has a connection, and the server a thread, of its own.
"""

from __future__ import annotations

import contextlib
import platform
import threading
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from benchmarks.peers import OnMessage
from benchmarks.peers.held import HeldConnections
from benchmarks.peers.per_thread import CallerPerThread

__all__ = ["caller", "connect", "hold", "receive", "serve", "version"]


def version() -> str:
    return f"multiprocessing of Python {platform.python_version()}"


class _Listening:
    """Accepts connections and handles each in a thread."""

    def __init__(self, handle: Callable[[Connection], None]) -> None:
        self._handle = handle
        # A client that connects when the queue is full is delayed by a second.
        self._listener = Listener(("127.0.0.1", 0), backlog=1024)
        self.address = self._listener.address
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection = self._listener.accept()
                threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: Connection) -> None:
        with connection, contextlib.suppress(EOFError):
            self._handle(connection)

    def close(self) -> None:
        self._listener.close()


def receive(on_message: OnMessage) -> _Listening:
    def handle(connection: Connection) -> None:
        recv = connection.recv_bytes
        while True:
            on_message(recv())

    return _Listening(handle)


class _Sender:
    def __init__(self, address: Any) -> None:
        self._connection = Client(tuple(address))
        self.send = self._connection.send_bytes

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._connection.close()


def connect(address: Any) -> _Sender:
    return _Sender(address)


def serve(echo: Callable[[bytes], bytes]) -> _Listening:
    def handle(connection: Connection) -> None:
        while True:
            connection.send_bytes(echo(connection.recv_bytes()))

    return _Listening(handle)


class _OwnCaller:
    def __init__(self, address: Any) -> None:
        self._connection = Client(tuple(address))

    def call(self, data: bytes) -> bytes:
        self._connection.send_bytes(data)
        return self._connection.recv_bytes()

    def close(self) -> None:
        self._connection.close()


def caller(address: Any) -> CallerPerThread:
    return CallerPerThread(lambda: _OwnCaller(address))


def hold(address: Any, count: int) -> HeldConnections:
    return HeldConnections(lambda: _OwnCaller(address), count)
