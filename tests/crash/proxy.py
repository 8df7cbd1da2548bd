"""A TCP relay that breaks connections, to the byte."""

from __future__ import annotations

import collections
import contextlib
import enum
import selectors
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Final

from tests.helpers import DEADLINE

__all__ = ["CuttingProxy", "Direction", "Ending", "Trap"]

LOCALHOST: Final = "127.0.0.1"

#: How much may wait in one direction before nothing more is read for it, in bytes.
_HIGH_WATER: Final = 1 << 20

# SO_LINGER with no time to linger: close() resets the connection.
_RESET: Final = struct.pack("HH" if sys.platform == "win32" else "ii", 1, 0)


class Direction(enum.Enum):
    """Which way bytes go."""

    TO_LISTENER = "to listener"
    TO_CONNECTOR = "to connector"


class Ending(enum.Enum):
    """What happens to the two halves of a connection."""

    #: Nothing.
    NONE = "none"
    #: Both are closed.
    CLOSE = "close"
    #: Both are reset: what was not read yet is lost to the reader, too.
    RESET = "reset"
    #: The connector's half is reset. The other one stays open and silent, as if
    #: the connector's machine had lost its power.
    SILENCE = "silence"
    #: The connector's half is closed. The other one comes to its end, and can be written to
    #: until it is closed there: nobody's send fails.
    GOODBYE = "goodbye"


class Trap:
    """Goes off when a number of bytes have passed.

    :param direction: which bytes count, on whatever connection
    :param after: how many; what passes is cut behind the last of them
    :param ending: what happens to the connection on which it was
    :param action: is called at that moment by the thread of the proxy, before
        the connection ends and before another byte passes
    """

    def __init__(
        self,
        direction: Direction,
        after: int,
        ending: Ending = Ending.NONE,
        action: Callable[[], object] | None = None,
    ) -> None:
        self.direction = direction
        self.left = after
        self.ending = ending
        self.action = action
        self._sprung = threading.Event()
        #: what came out of the action
        self._failure: Exception | None = None

    def spring(self) -> None:
        """It went off. Proxy's thread only."""
        try:
            if self.action is not None:
                self.action()
        except Exception as exc:
            self._failure = exc
        finally:
            self._sprung.set()

    @property
    def sprung(self) -> bool:
        return self._sprung.is_set()

    def wait(self, timeout: float = DEADLINE) -> bool:
        """Whether it went off within so many seconds.

        :raises Exception: whatever its action raised
        """
        sprung = self._sprung.wait(timeout)
        if self._failure is not None:
            raise self._failure
        return sprung

    def __repr__(self) -> str:
        return f"<Trap {self.direction.value} in {self.left} bytes: {self.ending.value}>"


class _Half:
    """One of the two connections of a relayed one."""

    def __init__(self, sock: socket.socket, reads: Direction) -> None:
        self.sock = sock
        self.reads = reads
        self.other: _Half | None = None
        #: what waits to be sent on it
        self.pending = bytearray()
        #: to be closed when that is sent
        self.closing = False
        #: what the selector watches it for
        self.events = 0


class CuttingProxy:
    """Relays connections to a listener that may come and go.

    While there is no listener, connections are taken and wait for it: a
    connector learns nothing and needs no new attempt.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server((LOCALHOST, 0))
        self._listener.setblocking(False)
        #: where to dial
        self.port: int = self._listener.getsockname()[1]
        self._target: int | None = None
        self._waiting: collections.deque[socket.socket] = collections.deque()
        self._halves: set[_Half] = set()
        self._trap: Trap | None = None
        self._calls: collections.deque[Callable[[], object]] = collections.deque()
        self._closed = False
        #: how many bytes were passed on, and how many connections
        self.passed = dict.fromkeys(Direction, 0)
        self.connections = 0
        self._selector = selectors.DefaultSelector()
        self._bell, self._bell_rope = socket.socketpair()
        self._bell.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="cutting proxy", daemon=True)
        self._thread.start()

    # Any thread.

    def lead_to(self, port: int | None) -> None:
        """Where new connections go from now on; ``None``: nowhere yet."""
        self._call(lambda: self._set_target(port))

    def arm(self, trap: Trap) -> Trap:
        """Set a trap, in place of the one before."""
        self._call(lambda: setattr(self, "_trap", trap))
        return trap

    def cut_all(self, ending: Ending = Ending.CLOSE) -> None:
        """End all connections, those on which nobody speaks any more, too."""
        self._call(lambda: self._cut_all(ending))

    def close(self) -> None:
        """End everything and wait until it has ended. Harmless a second time."""
        if not self._closed:
            self._call(lambda: setattr(self, "_closed", True))
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "the proxy does not end"
        self._bell_rope.close()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _call(self, func: Callable[[], object]) -> None:
        """Have the thread of the proxy do this, and wait until it did."""
        if threading.current_thread() is self._thread:
            func()
            return
        done = threading.Event()

        def call() -> None:
            func()
            done.set()

        self._calls.append(call)
        # It may have come by itself meanwhile, and have been told to end.
        with contextlib.suppress(OSError):
            self._bell_rope.send(b"\0")
        assert done.wait(DEADLINE), "the thread of the proxy is gone or stuck"

    # Its own thread.

    def _run(self) -> None:
        try:
            while not self._closed:
                for key, events in self._selector.select():
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj is self._bell:
                        self._bell.recv(4096)
                    # What an earlier one of these events ended is passed over.
                    elif key.data in self._halves:
                        if events & selectors.EVENT_WRITE:
                            self._write(key.data)
                        if events & selectors.EVENT_READ and key.data in self._halves:
                            self._read(key.data)
                while self._calls:
                    self._calls.popleft()()
        finally:
            self._cut_all(Ending.CLOSE)
            for sock in (*self._waiting, self._listener, self._bell):
                sock.close()
            self._selector.close()

    def _set_target(self, port: int | None) -> None:
        self._target = port
        while self._target is not None and self._waiting:
            self._relay(self._waiting.popleft())

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            sock = self._listener.accept()[0]
            if self._target is None:
                self._waiting.append(sock)
            else:
                self._relay(sock)

    def _relay(self, sock: socket.socket) -> None:
        try:
            far_sock = socket.create_connection((LOCALHOST, self._target or 0), DEADLINE)
        except OSError:
            # It was killed, and who did it could not say so yet.
            self._target = None
            self._waiting.appendleft(sock)
            return
        self.connections += 1
        near, far = _Half(sock, Direction.TO_LISTENER), _Half(far_sock, Direction.TO_CONNECTOR)
        near.other, far.other = far, near
        for half in (near, far):
            half.sock.setblocking(False)
            half.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._halves.add(half)
            self._watch(half)

    def _read(self, half: _Half) -> None:
        try:
            data = half.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        other = half.other
        if not data:
            self._drop(half)
            if other is not None:
                # It gets what is on its way to it, and then the end.
                other.closing = True
                self._write(other)
        elif other is not None:
            self._pass_on(half, other, data)

    def _pass_on(self, half: _Half, other: _Half, data: bytes) -> None:
        trap = self._trap
        if trap is None or trap.direction is not half.reads or len(data) < trap.left:
            if trap is not None and trap.direction is half.reads:
                trap.left -= len(data)
            self._send(other, data)
            return
        self._trap = None
        data, rest = data[: trap.left], data[trap.left :]
        trap.left = 0
        self._send(other, data)
        trap.spring()
        self._cut(half, trap.ending)
        if trap.ending is Ending.NONE:
            self._send(other, rest)

    def _send(self, half: _Half, data: bytes) -> None:
        if half in self._halves and data:
            half.pending += data
            self._write(half)

    def _write(self, half: _Half) -> None:
        try:
            if half.pending:
                sent = half.sock.send(half.pending)
                del half.pending[:sent]
                if half.other is not None:
                    self.passed[half.other.reads] += sent
        except BlockingIOError:
            pass
        except OSError:
            self._drop(half)
            if half.other is not None:
                self._drop(half.other)
            return
        if half.closing and not half.pending:
            self._drop(half)
            return
        self._watch(half)
        if half.other is not None:
            self._watch(half.other)

    def _watch(self, half: _Half) -> None:
        if half not in self._halves:
            return
        full = half.other is not None and len(half.other.pending) >= _HIGH_WATER
        events = (0 if full else selectors.EVENT_READ) | (
            selectors.EVENT_WRITE if half.pending else 0
        )
        if events == half.events:
            return
        if not half.events:
            self._selector.register(half.sock, events, half)
        elif not events:
            self._selector.unregister(half.sock)
        else:
            self._selector.modify(half.sock, events, half)
        half.events = events

    def _cut(self, half: _Half, ending: Ending) -> None:
        if ending is Ending.NONE:
            return
        for one in (half, half.other):
            if one is None:
                continue
            stays = ending in (Ending.SILENCE, Ending.GOODBYE)
            if stays and one.reads is Direction.TO_CONNECTOR:
                # What still comes from there is read and thrown away.
                one.other = None
                one.pending.clear()
                self._watch(one)
                if ending is Ending.GOODBYE:
                    with contextlib.suppress(OSError):  # it is gone
                        one.sock.shutdown(socket.SHUT_WR)
            else:
                self._drop(one, reset=ending in (Ending.RESET, Ending.SILENCE))

    def _cut_all(self, ending: Ending) -> None:
        for half in list(self._halves):
            if half in self._halves:
                self._cut(half, ending)

    def _drop(self, half: _Half, *, reset: bool = False) -> None:
        if half not in self._halves:
            return
        self._halves.remove(half)
        if half.events:
            self._selector.unregister(half.sock)
        if reset:
            half.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        half.sock.close()
