"""ZeroMQ with pyzmq: PUSH and PULL for messages, REQ and REP for calls.

Any number of messages may wait, so that nothing ever waits for room: that is
fastest for small ones. Large ones are sent without a copy.

A thread that makes calls has a socket of its own, as ZeroMQ demands. One thread
answers them all: a ROUTER that hands them to several, each with a REP of its
own, was slower with 1 thread that makes calls and with 16.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any, Final

import zmq

from benchmarks.peers import OnMessage
from benchmarks.peers.held import HeldConnections
from benchmarks.peers.per_thread import CallerPerThread

__all__ = [
    "caller",
    "connect",
    "fetch",
    "hold",
    "queue_for_later",
    "receive",
    "serve",
    "version",
]

#: Of the loopback interface, any.
_ANY_PORT: Final = "tcp://127.0.0.1:*"

#: Bytes from which on to copy a message costs more than to keep track of it.
_COPIED_BELOW: Final = zmq.COPY_THRESHOLD


def version() -> str:
    return f"pyzmq {zmq.__version__} on libzmq {zmq.zmq_version()}"


class _Listening:
    """Handles in a thread what arrives at a socket."""

    def __init__(
        self, kind: int, handle: Callable[[zmq.Socket[bytes]], None], address: str = _ANY_PORT
    ) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(kind)
        self._socket.rcvhwm = 0
        self._socket.bind(address)
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._handle = handle
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._socket, contextlib.suppress(zmq.ContextTerminated):
            self._handle(self._socket)

    def close(self) -> None:
        self._context.term()
        self._thread.join()


def receive(on_message: OnMessage) -> _Listening:
    return fetch(_ANY_PORT, on_message)


def fetch(address: Any, on_message: OnMessage) -> _Listening:
    def handle(sock: zmq.Socket[bytes]) -> None:
        recv = sock.recv
        while True:
            on_message(recv())

    return _Listening(zmq.PULL, handle, str(address))


class _Sender:
    """It takes messages before anybody listens at the address."""

    def __init__(self, address: Any) -> None:
        self.address = str(address)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.sndhwm = 0
        self._socket.connect(self.address)
        self._send = self._socket.send

    def send(self, data: bytes) -> None:
        self._send(data, 0, len(data) < _COPIED_BELOW)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def connect(address: Any) -> _Sender:
    return _Sender(address)


def queue_for_later() -> _Sender:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return _Sender(f"tcp://127.0.0.1:{port}")


def serve(echo: Callable[[bytes], bytes]) -> _Listening:
    def handle(sock: zmq.Socket[bytes]) -> None:
        while True:
            sock.send(echo(sock.recv()))

    return _Listening(zmq.REP, handle)


class _OwnCaller:
    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: Any) -> None:
        self._socket = context.socket(zmq.REQ)
        self._socket.connect(str(address))

    def call(self, data: bytes) -> bytes:
        self._socket.send(data)
        return self._socket.recv()

    def close(self) -> None:
        self._socket.close()


class _Caller(CallerPerThread):
    def __init__(self, address: Any) -> None:
        self._context = zmq.Context()
        super().__init__(lambda: _OwnCaller(self._context, address))

    def close(self) -> None:
        super().close()
        self._context.term()


def caller(address: Any) -> _Caller:
    return _Caller(address)


class _Held(HeldConnections):
    """A context has 1023 sockets by default."""

    def __init__(self, address: Any, count: int) -> None:
        self._context = zmq.Context()
        self._context.max_sockets = count
        super().__init__(lambda: _OwnCaller(self._context, address), count)

    def close(self) -> None:
        super().close()
        self._context.term()


def hold(address: Any, count: int) -> _Held:
    return _Held(address, count)
