"""Plain sockets that say who they are as peers of this package and of 1.6 do.

They are many peers to the one that listens, and next to nothing to the machine:
so what they cost is what they cost there.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from typing import Any, Final

__all__ = ["PlainConnections"]

_PING: Final = bytes.fromhex("00000001 04")
_PONG: Final = bytes.fromhex("00000001 05")

#: Seconds in which a connection has to be there.
_TIMEOUT: Final = 60.0


def _greeting(identifier: str) -> bytes:
    """What a peer sends when it is connected: version and identification."""
    frames = ((0, b"\0\0\0\1"), (2, identifier.encode()))
    return b"".join(struct.pack("!IB", len(rest) + 1, kind) + rest for kind, rest in frames)


class PlainConnections:
    """So many of them; each is known to the other side when this is made."""

    def __init__(self, address: Any, count: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._socks = [self._connect(address, f"idle {number}") for number in range(count)]
        for sock in self._socks:
            self._selector.register(sock, selectors.EVENT_READ)
        self._there = count
        self._waking, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def _connect(self, address: Any, identifier: str) -> socket.socket:
        sock = socket.create_connection(tuple(address), _TIMEOUT)
        # What came before it is handled when a ping is answered.
        sock.sendall(_greeting(identifier) + _PING)
        answer = b""
        while _PONG not in answer:
            more = sock.recv(4096)
            if not more:
                raise ConnectionError(f"the connection of {identifier!r} was refused")
            answer += more
        return sock

    def _answer(self) -> None:
        """Be alive when asked for it."""
        while True:
            for key, _ in self._selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._woken:
                    return
                data = b""
                with contextlib.suppress(OSError):
                    data = sock.recv(4096)
                if data:
                    sock.sendall(_PONG * data.count(_PING))
                else:
                    self._selector.unregister(sock)
                    self._there -= 1

    def count(self) -> int:
        return self._there

    def close(self) -> None:
        self._waking.sendall(b"!")
        self._thread.join()
        for sock in (*self._socks, self._waking, self._woken):
            sock.close()
        self._selector.close()
