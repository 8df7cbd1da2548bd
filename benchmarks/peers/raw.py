"""Plain sockets and a length in front of each message: the limit for Python.

Messages are collected in large buffers on both sides, as a fast stack would. A
thread that makes calls has a connection, and the server a thread, of its own:
nothing is shared, so nothing has to be locked or handed over.
"""

from __future__ import annotations

import contextlib
import platform
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Any

from benchmarks.peers import Certificates, OnMessage

__all__ = [
    "caller",
    "connect",
    "connect_secured",
    "fetch",
    "hold",
    "queue_for_later",
    "receive",
    "receive_secured",
    "serve",
    "version",
]

_HEADER = struct.Struct("!I")
# More would have the system make and take back memory for each read.
_BLOCK = 64 * 1024


def version() -> str:
    return f"sockets of Python {platform.python_version()}"


def receive(on_message: OnMessage) -> _Listener:
    return _Listener(lambda sock: _read_messages(sock, on_message))


def connect(address: Any) -> _Sender:
    return _Sender(_dial(address))


def receive_secured(certificates: Certificates, on_message: OnMessage) -> _Listener:
    context = _tls(ssl.PROTOCOL_TLS_SERVER, certificates, "listener")
    context.verify_mode = ssl.CERT_REQUIRED

    def read(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secured:
            _read_messages(secured, on_message)

    return _Listener(read)


def connect_secured(certificates: Certificates, address: Any) -> _Sender:
    context = _tls(ssl.PROTOCOL_TLS_CLIENT, certificates, "dialler")
    return _Sender(context.wrap_socket(_dial(address), server_hostname=address[0]))


def _tls(protocol: ssl._SSLMethod, certificates: Certificates, side: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.load_cert_chain(certificates.certificate(side), certificates.key(side))
    context.load_verify_locations(certificates.authority)
    return context


def queue_for_later() -> _Queueing:
    return _Queueing()


def fetch(address: Any, on_message: OnMessage) -> _Fetching:
    return _Fetching(address, on_message)


def hold(address: Any, count: int) -> _Holding:
    return _Holding(address, count)


def serve(echo: Callable[[bytes], bytes]) -> _Listener:
    def answer(sock: socket.socket) -> None:
        _read_messages(sock, lambda data: sock.sendall(_packet(echo(bytes(data)))))

    return _Listener(answer)


def caller(address: Any) -> _Caller:
    return _Caller(address)


def _dial(address: Any) -> socket.socket:
    sock = socket.create_connection(tuple(address))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _packet(data: bytes) -> bytes:
    return _HEADER.pack(len(data)) + data


def _read_messages(sock: socket.socket, on_message: OnMessage) -> None:
    """Until the other side closes."""
    header_size = _HEADER.size
    unpack = _HEADER.unpack_from
    rest = b""
    while block := sock.recv(_BLOCK):
        buffer = rest + block if rest else block
        size = len(buffer)
        position = 0
        while size - position >= header_size:
            start = position + header_size
            end = start + unpack(buffer, position)[0]
            if end > size:
                break
            on_message(buffer[start:end])
            position = end
        rest = buffer[position:]
        if len(rest) >= header_size:
            length = unpack(rest)[0]
            if length > _BLOCK:
                on_message(_read_large(sock, rest[header_size:], length))
                rest = b""


def _read_large(sock: socket.socket, beginning: bytes, length: int) -> bytearray:
    """The rest of a message, straight to where it belongs."""
    data = bytearray(length)
    view = memoryview(data)
    view[: len(beginning)] = beginning
    position = len(beginning)
    while position < length:
        count = sock.recv_into(view[position:])
        if not count:
            raise ConnectionError("the sender closed in the middle of a message")
        position += count
    return data


class _Listener:
    """Accepts connections and handles each in a thread."""

    def __init__(self, handle: Callable[[socket.socket], None]) -> None:
        self._handle = handle
        self._sock = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = self._sock.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                sock, _ = self._sock.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._run, args=(sock,), daemon=True).start()

    def _run(self, sock: socket.socket) -> None:
        with sock:
            self._handle(sock)

    def close(self) -> None:
        self._sock.close()


class _Sender:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("wb", buffering=_BLOCK)
        self.flush = self._file.flush

    def send(self, data: bytes) -> None:
        self._file.write(_HEADER.pack(len(data)))
        self._file.write(data)

    def close(self) -> None:
        self._file.close()
        self._sock.close()


class _Caller:
    def __init__(self, address: Any) -> None:
        self._address = address
        self._local = threading.local()
        self._all: list[socket.socket] = []

    def call(self, data: bytes) -> bytes:
        sock = getattr(self._local, "sock", None)
        if sock is None:
            sock = self._local.sock = _dial(self._address)
            self._all.append(sock)
        sock.sendall(_packet(data))
        answer: bytes = sock.recv(_BLOCK)
        (length,) = _HEADER.unpack_from(answer)
        while len(answer) < _HEADER.size + length:
            answer += sock.recv(_BLOCK)
        return answer[_HEADER.size :]

    def close(self) -> None:
        for sock in self._all:
            sock.close()


class _Queueing:
    """All messages in one buffer, which is sent to whoever connects."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._listener = _Listener(lambda sock: sock.sendall(self._buffer))
        self.address = self._listener.address
        self.close = self._listener.close

    def send(self, data: bytes) -> None:
        self._buffer += _HEADER.pack(len(data))
        self._buffer += data


class _Fetching:
    def __init__(self, address: Any, on_message: OnMessage) -> None:
        sock = _dial(address)

        def read() -> None:
            with sock:
                _read_messages(sock, on_message)

        self._thread = threading.Thread(target=read, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._thread.join()


class _Holding:
    def __init__(self, address: Any, count: int) -> None:
        self._callers = [_Caller(address) for _ in range(count)]
        for caller in self._callers:
            caller.call(b"the other side has a thread for it when it answers")

    def count(self) -> int:
        return sum(caller.call(b"still there?") != b"" for caller in self._callers)

    def close(self) -> None:
        for caller in self._callers:
            caller.close()
