"""nng with pynng: Push and Pull for messages, Req and Rep for calls.

Its queues hold some messages, so that not every one waits for the one before;
longer queues are not faster. A thread that makes calls has a socket of its own,
and one thread answers them all.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, Final

import pynng

from benchmarks.peers import OnMessage
from benchmarks.peers.held import HeldConnections
from benchmarks.peers.per_thread import CallerPerThread

__all__ = ["caller", "connect", "hold", "receive", "serve", "version"]

#: Messages in a queue.
_QUEUED: Final = 128

#: Bytes of a message that is taken: any number. More than 1 MiB is dropped
#: otherwise, with what is around it.
_ANY_SIZE: Final = 0


def version() -> str:
    return f"pynng {pynng.__version__}"


class _Listening:
    """Handles in a thread what arrives at a socket."""

    def __init__(self, socket: Any, handle: Callable[[Any], None]) -> None:
        self._socket = socket
        listener = socket.listen("tcp://127.0.0.1:0")
        self.address = str(listener.local_address)
        self._handle = handle
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(pynng.Closed):
            self._handle(self._socket)

    def close(self) -> None:
        self._socket.close()
        self._thread.join()


def receive(on_message: OnMessage) -> _Listening:
    def handle(socket: Any) -> None:
        recv = socket.recv
        while True:
            on_message(recv())

    return _Listening(pynng.Pull0(recv_buffer_size=_QUEUED, recv_max_size=_ANY_SIZE), handle)


class _Sender:
    def __init__(self, address: Any) -> None:
        self._socket = pynng.Push0(send_buffer_size=_QUEUED)
        self._socket.dial(f"tcp://{address}", block=True)
        self.send = self._socket.send

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._socket.close()


def connect(address: Any) -> _Sender:
    return _Sender(address)


def serve(echo: Callable[[bytes], bytes]) -> _Listening:
    def handle(socket: Any) -> None:
        while True:
            socket.send(echo(socket.recv()))

    return _Listening(pynng.Rep0(recv_max_size=_ANY_SIZE), handle)


class _OwnCaller:
    def __init__(self, address: Any) -> None:
        self._socket = pynng.Req0(recv_max_size=_ANY_SIZE)
        self._socket.dial(f"tcp://{address}", block=True)

    def call(self, data: bytes) -> bytes:
        self._socket.send(data)
        answer: bytes = self._socket.recv()
        return answer

    def close(self) -> None:
        self._socket.close()


def caller(address: Any) -> CallerPerThread:
    return CallerPerThread(lambda: _OwnCaller(address))


def hold(address: Any, count: int) -> HeldConnections:
    return HeldConnections(lambda: _OwnCaller(address), count)
