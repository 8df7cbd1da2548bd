"""Connections that mean no good, all in one process. Usage: ``hostile_attackers.py OPTIONS``.

``OPTIONS``, in JSON: ``port`` and ``tls_port`` of the victim. Commands come as lines of
JSON on standard input, each is answered with a line:

``{"kinds": [...], "count": N, "rate": R, "sources": [...], "again": true}``
    make ``count`` connections, ``rate`` in a second, of these kinds in turn, from these
    addresses in turn; ``again``: whatever the victim closes is made anew
``{}``
    only the answer: how many are open now, and how many were made and lost since the start
``{"stop": true}``
    close all

The kinds are those of :data:`KINDS`. No connection does anything but at its beginning
and, some of them, each few seconds, so that this process sleeps most of the time.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import heapq
import itertools
import json
import os
import random
import selectors
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

#: Seconds between two actions of one connection.
BEAT = 3.0

#: How long nothing is made when there is something to make, in seconds.
TICK = 0.01

#: Closing resets the connection: no port of this side is left behind.
RESET = struct.pack("ii", 1, 0)

#: Linux: a port is taken when the other side is known, so that there are enough.
BIND_ADDRESS_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)

GIB = struct.pack("!I", 1 << 30)
VERSION = b"\0\0\0\5\0\0\0\0\1"

rng = random.Random(1)
numbers = itertools.count()


def identification(name: bytes) -> bytes:
    return VERSION + struct.pack("!I", len(name) + 1) + b"\2" + name


def client_hello() -> bytes:
    context = ssl.create_default_context()
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="victim")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


HELLO = client_hello()


def silent_peer() -> bytes:
    """A peer with a name of its own, and nothing else."""
    return identification(b"silent %d" % next(numbers))


def lying_peer() -> bytes:
    """A peer, too, and then the beginning of something huge."""
    return identification(b"liar %d" % next(numbers)) + GIB + b"\3" + bytes(2000)


class Kind(NamedTuple):
    """What one does.

    :ivar first: what it sends as soon as it is connected
    :ivar then: what it sends after each :data:`BEAT`; empty: nothing
    :ivar tls: whether it dials the listener with TLS
    :ivar hurry: it hangs up at once
    """

    first: Callable[[], bytes]
    then: bytes = b""
    tls: bool = False
    hurry: bool = False


KINDS = {
    "silent": Kind(bytes),
    # A letter of its name now and then.
    "slow": Kind(lambda: VERSION + b"\0\0\0\x30\2", b"a"),
    "1 GiB announced": Kind(lambda: GIB + b"\2" + bytes(1000)),
    "garbage": Kind(lambda: rng.randbytes(2000)),
    # The first byte of its length is 0: nobody knows yet that it is garbage.
    "unfinished garbage": Kind(lambda: b"\0\0\0\x20" + rng.randbytes(10), b"x"),
    "huge identification": Kind(lambda: VERSION + b"\0\1\0\1\2" + b"a" * 65536),
    "unfinished identification": Kind(lambda: VERSION + b"\0\0\x0f\0\2" + b"a" * 3000),
    "TLS, half a greeting": Kind(lambda: HELLO[: len(HELLO) // 2], tls=True),
    "TLS, silent after the greeting": Kind(lambda: HELLO, tls=True),
    "TLS, garbage": Kind(lambda: rng.randbytes(300), tls=True),
    "TLS to the plain listener": Kind(lambda: HELLO),
    "hurry": Kind(bytes, hurry=True),
    "silent peer": Kind(silent_peer),
    "lying peer": Kind(lying_peer),
}


class Connection:
    """One of them."""

    __slots__ = ("is_connected", "kind", "sock", "source")

    def __init__(self, kind: Kind, source: str) -> None:
        self.kind = kind
        self.source = source
        self.sock: socket.socket | None = None
        self.is_connected = False


class Attackers:
    """All of them."""

    def __init__(self, port: int, tls_port: int) -> None:
        self._ports = {False: port, True: tls_port}
        self._selector = selectors.DefaultSelector()
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        self._to_make: collections.deque[Connection] = collections.deque()
        self._beats: list[tuple[float, int, Connection]] = []
        self._open: set[Connection] = set()
        self._rate = 1.0
        self._again = False
        self._may_make = 0.0
        self._looked = time.monotonic()
        self.made = 0
        self.lost = 0

    def run(self) -> None:
        commands = b""
        while True:
            for key, mask in self._selector.select(self._timeout()):
                if key.fileobj is sys.stdin:
                    data = os.read(sys.stdin.fileno(), 65536)
                    if not data:
                        return
                    commands += data
                else:
                    self._handle(key.data, mask)
            *lines, commands = commands.split(b"\n")
            for line in lines:
                self._obey(json.loads(line))
            self._make_some()
            self._beat()

    def _timeout(self) -> float | None:
        if self._to_make:
            return TICK
        if self._beats:
            return max(0.0, self._beats[0][0] - time.monotonic())
        return None

    def _obey(self, command: dict[str, object]) -> None:
        if "kinds" in command:
            kinds, sources = (itertools.cycle(command[name]) for name in ("kinds", "sources"))
            self._rate = command["rate"]
            self._again = command["again"]
            self._may_make, self._looked = 0.0, time.monotonic()
            for _ in range(command["count"]):
                self._to_make.append(Connection(KINDS[next(kinds)], next(sources)))
        if "stop" in command:
            self._again = False
            self._to_make.clear()
            for connection in list(self._open):
                self._close(connection)
            self._beats.clear()
        connected = sum(connection.is_connected for connection in self._open)
        print(json.dumps({"open": connected, "made": self.made, "lost": self.lost}), flush=True)

    def _make_some(self) -> None:
        now = time.monotonic()
        self._may_make = min(
            self._may_make + (now - self._looked) * self._rate, self._rate * 2 * TICK
        )
        self._looked = now
        while self._to_make and self._may_make >= 1:
            self._may_make -= 1
            self._make(self._to_make.popleft())

    def _make(self, connection: Connection) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if connection.source != "127.0.0.1":
            sock.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
            sock.bind((connection.source, 0))
        connection.sock = sock
        self._open.add(connection)
        error = sock.connect_ex(("127.0.0.1", self._ports[connection.kind.tls]))
        assert error in (0, errno.EINPROGRESS), os.strerror(error)
        self._selector.register(sock, selectors.EVENT_WRITE, connection)

    def _handle(self, connection: Connection, mask: int) -> None:
        sock = connection.sock
        if sock is None:
            return
        try:
            if mask & selectors.EVENT_WRITE:
                if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(error, os.strerror(error))
                self._connected(connection, sock)
            elif not sock.recv(65536):
                self._lost(connection)
        except BlockingIOError:
            pass
        except OSError:
            self._lost(connection)

    def _connected(self, connection: Connection, sock: socket.socket) -> None:
        self.made += 1
        if connection.kind.hurry:
            self._lost(connection)
            return
        connection.is_connected = True
        self._selector.modify(sock, selectors.EVENT_READ, connection)
        if data := connection.kind.first():
            sock.send(data)
        if connection.kind.then:
            self._plan(connection, BEAT * rng.random())

    def _plan(self, connection: Connection, delay: float) -> None:
        heapq.heappush(self._beats, (time.monotonic() + delay, next(numbers), connection))

    def _beat(self) -> None:
        now = time.monotonic()
        while self._beats and self._beats[0][0] <= now:
            _, _, connection = heapq.heappop(self._beats)
            if connection.sock is None or not connection.is_connected:
                continue
            try:
                connection.sock.send(connection.kind.then)
            except OSError:
                self._lost(connection)
            else:
                self._plan(connection, BEAT)

    def _lost(self, connection: Connection) -> None:
        self.lost += 1
        self._close(connection)
        if self._again:
            self._to_make.append(Connection(connection.kind, connection.source))

    def _close(self, connection: Connection) -> None:
        if connection.sock is not None:
            self._selector.unregister(connection.sock)
            connection.sock.close()
            connection.sock = None
        connection.is_connected = False
        self._open.discard(connection)


def main() -> None:
    options = json.loads(sys.argv[1])
    Attackers(options["port"], options["tls_port"]).run()


if __name__ == "__main__":
    main()
