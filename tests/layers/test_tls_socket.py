"""TLS in portions: nobody keeps the loop inside one read, and what was sent is known exactly."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import ssl
from collections.abc import Iterator

import pytest
import trustme

from snakemq._io.link_socket import LinkSocket
from snakemq._io.tls_socket import TlsSocket

LEAST, MOST = 2 * 1024, 256 * 1024


class Counting(socket.socket):
    """Notes how it is read."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.reads: list[int] = []

    def recv_into(self, room: memoryview) -> int:  # type: ignore[override]
        self.reads.append(len(room))
        return super().recv_into(room)


class Pair:
    """Both sides of a connection, after their handshakes."""

    def __init__(self, version: ssl.TLSVersion, buffer: int | None = None) -> None:
        authority = trustme.CA()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("bob").configure_cert(server)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(client)
        server.maximum_version = version
        left, right = socket.socketpair()
        for sock in (left, right):
            sock.setblocking(False)
            if buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.raw = Counting(left), Counting(right)
        self.alice = TlsSocket(self.raw[0], client, server_side=False, server_hostname="bob")
        self.bob = TlsSocket(self.raw[1], server, server_side=True, server_hostname=None)
        waiting = [self.alice, self.bob]
        while waiting:
            for side in list(waiting):
                with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    side.do_handshake()
                    waiting.remove(side)

    def close(self) -> None:
        for sock in self.raw:
            sock.close()


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(request.param)
    yield made
    made.close()


def send_in_records(sock: TlsSocket, data: bytes, size: int) -> None:
    for start in range(0, len(data), size):
        sock.object.write(data[start : start + size])
    assert sock.continue_send(), "all of it together"


def read_all(sock: TlsSocket, raw: socket.socket) -> bytes:
    """As a loop does that is told when there is something to read."""
    pieces = []
    while sock.has_buffered() or select.select([raw], [], [], 0)[0]:
        pieces.append(sock.recv(MOST))
    return b"".join(pieces)


def test_each_read_takes_one_portion_from_the_socket(pair: Pair) -> None:
    """However much there is: a record of one byte costs as much as a large one."""
    data = random.Random(1).randbytes(3000)
    send_in_records(pair.alice, data, 1)
    reads = pair.raw[1].reads
    received = b""
    while len(received) < len(data):
        reads.clear()
        received += pair.bob.recv(MOST)
        assert len(reads) <= 1
    assert received == data


def test_who_sends_little_in_much_gets_less_attention(pair: Pair) -> None:
    for _ in range(4):
        send_in_records(pair.alice, bytes(5000), 1)
        assert len(read_all(pair.bob, pair.raw[1])) == 5000
    assert pair.raw[1].reads[-1] == LEAST
    # And more again for who sends what is worth it.
    for _ in range(20):
        pair.alice.send(bytes(64 * 1024))
        assert len(read_all(pair.bob, pair.raw[1])) == 64 * 1024
    assert pair.raw[1].reads[-1] == MOST


def test_what_is_wanted_in_one_piece_comes_in_one() -> None:
    size = 600_000
    pair = Pair(ssl.TLSVersion.TLSv1_3, buffer=4 * 1024 * 1024)
    rng = random.Random(3)
    try:
        for _ in range(30):
            body = rng.randbytes(size)
            assert pair.alice.send(body)
            received = pair.bob.recv(size)
            if received == body:
                break
            received += read_all(pair.bob, pair.raw[1])
            assert received == body
        assert received == body, "once it is known that it is worth it"
        assert pair.bob.recv(1) == b""
        assert not pair.bob.has_buffered()
    finally:
        pair.close()


def test_what_is_little_does_not_keep_the_loop(pair: Pair) -> None:
    """Of a large portion that turns out to be nothing much, a slice at a time is decrypted."""
    for _ in range(20):
        pair.alice.send(bytes(64 * 1024))
        assert len(read_all(pair.bob, pair.raw[1])) == 64 * 1024
    data = random.Random(4).randbytes(5000)
    send_in_records(pair.alice, data, 1)
    received = b""
    while len(received) < len(data):
        piece = pair.bob.recv(MOST)
        assert len(piece) <= 64 * 1024 // 22
        received += piece
    assert received == data


def test_what_is_taken_is_what_the_other_side_can_read() -> None:
    pair = Pair(ssl.TLSVersion.TLSv1_3, buffer=8 * 1024)
    try:
        rng = random.Random(2)
        for _ in range(20):
            data = rng.randbytes(rng.choice([1, 100, 16384, 16385, 300_000]))
            received = b""
            done = pair.alice.send(data)
            while not done:
                before = pair.alice.taken
                received += read_all(pair.bob, pair.raw[1])
                assert len(received) == before, "all records that are there as a whole"
                done = pair.alice.continue_send()
            received += read_all(pair.bob, pair.raw[1])
            assert received == data
            assert pair.alice.taken == len(data)
    finally:
        pair.close()


def test_what_is_sent_while_it_reads_is_taken_too(pair: Pair) -> None:
    """Or who sends it again on another connection would send it twice."""
    link_socket = LinkSocket(pair.raw[0])
    link_socket._tls = pair.alice
    sent = 0
    while link_socket.send(bytes(64 * 1024)):
        sent += link_socket.last_send_size
    before = link_socket.last_send_size
    received = len(read_all(pair.bob, pair.raw[1]))
    # It tells bob why it fails, which goes behind what was not sent yet.
    pair.raw[1].send(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ssl.SSLError):
        link_socket.recv(MOST)
    with contextlib.suppress(ssl.SSLError):  # the alert comes last
        while pair.bob.has_buffered() or select.select([pair.raw[1]], [], [], 0)[0]:
            received += len(pair.bob.recv(MOST))
    assert link_socket.last_send_size > before
    assert received == sent + link_socket.last_send_size


def test_what_does_not_fit_into_a_read_is_known_to_be_there(pair: Pair) -> None:
    pair.alice.send(bytes(1000))
    assert len(pair.bob.recv(100)) == 100
    for _ in range(9):
        assert not select.select([pair.raw[1]], [], [], 0)[0]
        assert pair.bob.has_buffered()
        assert len(pair.bob.recv(100)) == 100
    assert pair.bob.recv(100) == b""
    assert not pair.bob.has_buffered()


@pytest.mark.parametrize("farewell", [True, False])
def test_the_end_with_and_without_a_farewell(pair: Pair, farewell: bool) -> None:
    pair.alice.send(b"the last words")
    if farewell:
        with contextlib.suppress(ssl.SSLWantReadError):
            pair.alice.object.unwrap()
        pair.alice.continue_send()
    pair.raw[0].shutdown(socket.SHUT_WR)
    assert pair.bob.recv(MOST) == b"the last words"
    assert pair.bob.recv(MOST) == b""
    assert pair.bob.eof
    assert pair.bob.has_buffered()


def test_a_failure_comes_after_what_came_before_it_and_stays(pair: Pair) -> None:
    pair.alice.send(b"the last words")
    pair.raw[0].send(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert pair.bob.recv(MOST) == b"the last words"
    assert pair.bob.has_buffered()
    for _ in range(2):
        with pytest.raises(ssl.SSLError, match=r"(?i)record mac|decryption failed"):
            pair.bob.recv(MOST)
    # The other side is told.
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        pair.alice.recv(MOST)


def test_what_tls_says_to_somebody_who_does_not_listen_has_a_limit() -> None:
    pair = Pair(ssl.TLSVersion.TLSv1_3)
    try:
        # As its answers to requests for new keys would be.
        while pair.bob.send(bytes(16 * 1024)):
            pass
        pair.bob._outgoing.write(bytes(600 * 1024))
        with pytest.raises(ConnectionAbortedError):
            pair.bob.recv(MOST)
    finally:
        pair.close()
