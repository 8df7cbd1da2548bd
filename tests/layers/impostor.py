"""Hand-made peers that lie, and somebody in between who listens."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterable, Iterator

from snakemq._core.authentication import Exchange, Role, make_proof
from snakemq._core.features import Feature, decode_features, encode_features
from tests.helpers import DEADLINE

LOCALHOST = "127.0.0.1"
VERSION, _, IDENT, MESSAGE, PING, PONG, FEATURES, _, _, PROOF, REFUSAL = range(11)
NONCE = b"I" * 32


def packet(*frame: bytes) -> bytes:
    content = b"".join(frame)
    return struct.pack("!I", len(content)) + content


def message(data: bytes) -> bytes:
    return packet(b"\x03", struct.pack("!16sII", b"u" * 16, 0xFFFFFFFF, 0), data)


class Impostor:
    """A socket that speaks the protocol by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(DEADLINE)
        self._buffer = b""
        #: all frames that were read
        self.frames: list[bytes] = []

    @classmethod
    def dial(cls, address: tuple[str, int], context: ssl.SSLContext | None = None) -> Impostor:
        sock = socket.create_connection((LOCALHOST, address[1]), DEADLINE)
        return cls(sock if context is None else context.wrap_socket(sock))

    def send(self, *packets: bytes) -> None:
        with contextlib.suppress(OSError):  # it may have been closed by now
            self.sock.sendall(b"".join(packets))

    def greet(self, ident: str, nonce: bytes | None = NONCE) -> None:
        features = {} if nonce is None else {Feature.AUTHENTICATION: nonce}
        self.send(
            packet(b"\0\0\0\0\1"),
            packet(b"\2", ident.encode()),
            packet(b"\6", encode_features(features)),
        )

    def greet_as_16(self, ident: str) -> None:
        self.send(packet(b"\0\0\0\0\1"), packet(b"\2", ident.encode()))

    def read(self) -> bytes | None:
        """The next frame; ``None`` at the end."""
        while True:
            if len(self._buffer) >= 4:
                end = 4 + int.from_bytes(self._buffer[:4], "big")
                if len(self._buffer) >= end:
                    frame, self._buffer = self._buffer[4:end], self._buffer[end:]
                    self.frames.append(frame)
                    return frame
            try:
                data = self.sock.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                return None
            self._buffer += data

    def expect(self, kind: int) -> bytes:
        """What is in the next frame of a type."""
        while (frame := self.read()) is not None:
            if frame[0] == kind:
                return frame[1:]
        raise AssertionError(f"no frame {kind}, but {self.frames}")

    def nonce(self) -> bytes:
        """The other side's."""
        return decode_features(self.expect(FEATURES))[Feature.AUTHENTICATION]

    def prove(self, secret: bytes, ident: str, other: str, role: Role, nonce: bytes) -> None:
        """As this side, which says that it is ``ident``."""
        mine, others = (ident, NONCE), (other, nonce)
        dialled = role is Role.CONNECTOR
        connector, listener = (mine, others) if dialled else (others, mine)
        exchange = Exchange(connector[0], listener[0], connector[1], listener[1], b"")
        self.send(packet(b"\x09", make_proof(secret, role, exchange)))

    def rest(self) -> list[int]:
        """The types of all frames until it is closed."""
        while self.read() is not None:
            pass
        return [frame[0] for frame in self.frames]

    def refusal(self) -> int:
        """Why it is closed."""
        self.rest()
        codes = [frame[1:] for frame in self.frames if frame[0] == REFUSAL]
        assert len(codes) == 1, self.frames
        return int.from_bytes(codes[0], "big")

    def __enter__(self) -> Impostor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()


class Trap:
    """Listens, for peers that dial it in the place of another one."""

    def __init__(self) -> None:
        self._sock = socket.create_server((LOCALHOST, 0))
        self._sock.settimeout(DEADLINE)
        self.address: tuple[str, int] = self._sock.getsockname()[:2]

    def accept(self) -> Impostor:
        return Impostor(self._sock.accept()[0])

    def __enter__(self) -> Trap:
        return self

    def __exit__(self, *exc: object) -> None:
        self._sock.close()


class InBetween:
    """Passes on what two sides say, and writes down what the one that dials says.

    :param target: where to pass it on to
    :param server: TLS toward the side that dials; ``None``: plain
    :param client: TLS toward the target
    """

    def __init__(
        self,
        target: tuple[str, int],
        server: ssl.SSLContext | None = None,
        client: ssl.SSLContext | None = None,
    ) -> None:
        self._target = target
        self._server = server
        self._client = client
        self._sock = socket.create_server((LOCALHOST, 0))
        self.address: tuple[str, int] = self._sock.getsockname()[:2]
        self.recorded: list[bytes] = []
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                dialled = self._sock.accept()[0]
                thread = threading.Thread(target=self._relay, args=(dialled,))
                thread.start()
                self._threads.append(thread)

    def _relay(self, dialled: socket.socket) -> None:
        # One thread for both ways: a TLS socket is not for two.
        with contextlib.suppress(OSError), contextlib.ExitStack() as closing:
            passed = socket.create_connection(self._target, DEADLINE)
            self._open += [dialled, passed]
            if self._server is not None:
                dialled = self._server.wrap_socket(dialled, server_side=True)
            if self._client is not None:
                passed = self._client.wrap_socket(passed)
            self._open += [dialled, passed]
            for sock in (dialled, passed):
                closing.callback(sock.close)
            ways = {dialled: passed, passed: dialled}
            while True:
                for source in _readable(ways):
                    data = _recv(source)
                    if data == b"":
                        return
                    if data is not None:
                        if source is dialled:
                            self.recorded.append(data)
                        ways[source].settimeout(DEADLINE)
                        ways[source].sendall(data)

    def close(self) -> None:
        _hang_up(self._sock)
        self._sock.close()
        for sock in self._open:
            _hang_up(sock)
        for thread in self._threads:
            thread.join(DEADLINE)
        for sock in self._open:
            sock.close()


def _readable(socks: Iterable[socket.socket]) -> list[socket.socket]:
    buffered = [sock for sock in socks if isinstance(sock, ssl.SSLSocket) and sock.pending()]
    return buffered or select.select(list(socks), [], [])[0]


def _recv(sock: socket.socket) -> bytes | None:
    """What is there; ``None``: nothing but what is TLS's own."""
    sock.settimeout(0)
    try:
        return sock.recv(65536)
    except (BlockingIOError, ssl.SSLWantReadError):
        return None


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # Of an ssl socket, too, without its farewell.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


@contextlib.contextmanager
def in_between(
    target: tuple[str, int],
    server: ssl.SSLContext | None = None,
    client: ssl.SSLContext | None = None,
) -> Iterator[InBetween]:
    somebody = InBetween(target, server, client)
    try:
        yield somebody
    finally:
        somebody.close()
