"""Accepting: how many, how fast, and what becomes of those that are too many."""

from __future__ import annotations

import contextlib
import errno
import math
import resource
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from snakemq._core.admission import Admission
from snakemq._io import capacity, listener
from snakemq._io.link_socket import LinkSocket
from snakemq._peer_log import LINES_TIME
from snakemq.limits import ConnectionLimits
from snakemq.link import Link
from tests.helpers import DEADLINE

# How fast, and how many: numbers only.


def test_as_many_as_in_a_second_may_come_at_once() -> None:
    admission = Admission(rate=5, now=100.0)
    assert admission.room(100.0) == 5
    for number in range(5):
        assert admission.enter(number, 100)
    assert admission.room(100.0) == 0
    assert admission.delay() == pytest.approx(0.2)
    assert admission.room(100.19) == 0
    assert admission.room(100.21) == 1
    assert admission.room(1000.0) == 5


def test_a_rate_of_less_than_one_a_second() -> None:
    admission = Admission(rate=0.1, now=100.0)
    assert admission.room(100.0) == 1
    admission.enter("somebody", 100)
    assert admission.room(105.0) == 0
    assert admission.delay() == pytest.approx(5.0)
    assert admission.room(110.0) == 1


def test_a_flood_is_not_looked_at_for_each_one() -> None:
    admission = Admission(rate=100_000, now=0.0)
    for number in range(100_000):
        admission.enter(number, 1_000_000)
    assert admission.room(0.0) == 0
    assert admission.delay() == 0.02
    assert admission.room(0.02) == 2000


def test_who_finds_no_place_counts_for_the_rate_only() -> None:
    admission = Admission(rate=10, now=0.0)
    assert admission.enter("a", 2)
    assert admission.enter("b", 2)
    assert not admission.enter("c", 2)
    assert len(admission) == 2
    assert admission.room(0.0) == 7
    admission.leave("c")  # harmless
    admission.leave("a")
    admission.leave("a")
    assert len(admission) == 1
    assert admission.enter("d", 2)


# What the system allows.


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_a_quarter_of_the_descriptors_is_left_for_files(monkeypatch: pytest.MonkeyPatch) -> None:
    with selectors.DefaultSelector() as selector:
        monkeypatch.setattr(resource, "getrlimit", lambda what: (1000, 5000))
        assert capacity.accepted_connections(selector) == 750
        monkeypatch.setattr(resource, "getrlimit", lambda what: (1, 5000))
        assert capacity.accepted_connections(selector) == 1
        monkeypatch.setattr(resource, "getrlimit", lambda what: (resource.RLIM_INFINITY, 5000))
        assert capacity.accepted_connections(selector) is None


def test_select_watches_so_many_only() -> None:
    with selectors.SelectSelector() as selector:
        possible = capacity.accepted_connections(selector)
    assert possible is not None
    assert possible <= 384


def test_strangers_leave_half_of_the_room_to_others() -> None:
    with selectors.SelectSelector() as selector:
        fitted = capacity.fitting(ConnectionLimits(), selector)
        assert fitted.max_unidentified <= 192
        assert fitted.max_handshakes <= 96
        assert fitted.max_connections == ConnectionLimits().max_connections
        few = capacity.fitting(ConnectionLimits(max_connections=10), selector)
        assert (few.max_unidentified, few.max_handshakes) == (5, 2)
        one = capacity.fitting(ConnectionLimits(max_connections=1), selector)
        assert (one.max_unidentified, one.max_handshakes) == (1, 1)
        asked = ConnectionLimits(max_unidentified=7, max_handshakes=3)
        assert capacity.fitting(asked, selector) == asked


@pytest.mark.parametrize(
    ("limits", "kind", "words"),
    [
        ({"max_connections": 0}, ValueError, "max_connections must be more than 0, not 0"),
        ({"max_handshakes": 1.5}, TypeError, "max_handshakes takes a whole number, not float"),
        ({"max_unidentified": True}, TypeError, "max_unidentified takes a whole number, not bool"),
        ({"accept_rate": "many"}, TypeError, "accept_rate takes a number, not str"),
        ({"accept_rate": math.nan}, ValueError, "accept_rate must be more than 0, not nan"),
        ({"accept_rate": math.inf}, ValueError, "accept_rate must be finite"),
        ({"identification_timeout": -1}, ValueError, "must be more than 0, not -1"),
        ({"max_packet_size": 1 << 32}, ValueError, "max_packet_size must be at most 4294967295"),
    ],
)
def test_limits_that_are_none(limits: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        ConnectionLimits(**limits)


# Over sockets.


class Clients:
    """Connects to a listener, and tells which connections are open."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.address = link.add_listener(("127.0.0.1", 0))
        self.socks: list[socket.socket] = []

    def connect(self, count: int = 1) -> None:
        for _ in range(count):
            sock = socket.create_connection(self.address)
            sock.setblocking(False)
            self.socks.append(sock)

    def is_closed(self, sock: socket.socket) -> bool:
        try:
            return not sock.recv(100)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def closed(self) -> int:
        return sum(self.is_closed(sock) for sock in self.socks)

    def close(self) -> None:
        for sock in self.socks:
            sock.close()


@pytest.fixture
def clients_of() -> Iterator[Callable[..., Clients]]:
    with contextlib.ExitStack() as cleanup:

        def make(**limits: Any) -> Clients:
            link = Link(limits=ConnectionLimits(**limits))
            cleanup.callback(link.cleanup)
            clients = Clients(link)
            cleanup.callback(clients.close)
            return clients

        yield make


def drive(link: Link, until: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not until():
        assert time.monotonic() < deadline, "did not happen in time"
        link.step(0.005)


def test_those_over_the_limit_are_closed_at_once(
    clients_of: Callable[..., Clients], caplog: pytest.LogCaptureFixture
) -> None:
    clients = clients_of(max_connections=2)
    connected: list[str] = []
    clients.link.on_connect.add(connected.append)
    clients.connect(50)
    drive(clients.link, lambda: clients.closed() == 48)
    assert len(connected) == 2
    assert clients.link.counters["connections_over_limit"] == 48
    assert [clients.is_closed(sock) for sock in clients.socks[:2]] == [False, False]
    lines = [line for line in caplog.messages if "max_connections" in line]
    assert len(lines) == 20, "the others are left out"
    assert "because 2 are open" in lines[0]
    assert "127.0.0.1" in lines[0]


def test_the_end_of_a_connection_makes_room_for_another(
    clients_of: Callable[..., Clients],
) -> None:
    clients = clients_of(max_connections=1)
    link = clients.link
    connected: list[str] = []
    link.on_connect.add(connected.append)
    clients.connect()
    drive(link, lambda: len(connected) == 1)
    assert len(link.admission) == 1
    clients.socks[0].close()
    drive(link, lambda: len(link.admission) == 0)
    clients.connect()
    drive(link, lambda: len(connected) == 2)
    # Closed by this side it keeps its place until it is really closed.
    link.close(connected[1])
    assert len(link.admission) == 1
    clients.socks[1].close()
    drive(link, lambda: len(link.admission) == 0)
    assert link.counters["connections_over_limit"] == 0


def test_who_was_sent_away_does_not_keep_others_out(
    clients_of: Callable[..., Clients],
) -> None:
    clients = clients_of(max_connections=2)
    link = clients.link
    connected: list[str] = []
    link.on_connect.add(connected.append)
    clients.connect(2)
    drive(link, lambda: len(connected) == 2)
    link.close(connected[1])  # the other side does not hang up, and stays for a while
    link.close(connected[0])
    clients.connect()
    drive(link, lambda: len(connected) == 3)
    assert link.counters["farewells_cut_short"] == 1
    assert link.counters["connections_over_limit"] == 0
    assert len(link.admission) == 2


def test_connections_that_this_side_makes_do_not_count(
    clients_of: Callable[..., Clients],
) -> None:
    clients = clients_of(max_connections=1)
    link = clients.link
    other = Link()
    try:
        link.add_connector(other.add_listener(("127.0.0.1", 0)))
        connected: list[str] = []
        link.on_connect.add(connected.append)
        drive(link, lambda: other.step(0) or connected)
        clients.connect()
        drive(link, lambda: len(connected) == 2)
        assert len(link.admission) == 1
    finally:
        other.cleanup()


def test_a_failed_handshake_makes_room(
    clients_of: Callable[..., Clients], monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = clients_of(max_connections=1)
    link = clients.link

    def fail(*args: object) -> None:
        raise OSError("not today")

    with monkeypatch.context() as context:
        context.setattr(link, "adopt", fail)
        clients.connect()
        drive(link, lambda: clients.closed() == 1)
    assert len(link.admission) == 0
    clients.connect()
    drive(link, lambda: len(link.admission) == 1)


def test_those_that_come_too_fast_wait_and_come_later(
    clients_of: Callable[..., Clients], caplog: pytest.LogCaptureFixture
) -> None:
    clients = clients_of(accept_rate=50.0)
    link = clients.link
    connected: list[float] = []
    link.on_connect.add(lambda conn: connected.append(time.monotonic()))
    start = time.monotonic()
    clients.connect(75)
    passes = 0
    while len(connected) < 75:
        assert time.monotonic() < start + DEADLINE
        link.step(0.5)
        passes += 1
    # 50 at once; for the others at least half a second.
    assert connected[-1] - start >= 0.4
    # Each of those cost a few passes at most: one that waits, one that accepts.
    assert passes < 200, "the loop spins"
    assert clients.closed() == 0
    assert link.counters["accept_rate_reached"] >= 10
    lines = sum("accept_rate" in line for line in caplog.messages)
    assert 1 <= lines <= 1 + (time.monotonic() - start) // LINES_TIME
    # Nothing is left behind: the loop sleeps until something happens.
    assert link.step(0.01) == 0


def test_nobody_waits_below_the_rate(clients_of: Callable[..., Clients]) -> None:
    clients = clients_of(accept_rate=100.0)
    connected: list[str] = []
    clients.link.on_connect.add(connected.append)
    clients.connect(100)
    drive(clients.link, lambda: len(connected) == 100)
    assert clients.link.counters["accept_rate_reached"] == 0


def test_a_listener_that_waits_can_be_deleted(clients_of: Callable[..., Clients]) -> None:
    clients = clients_of(accept_rate=0.001)
    link = clients.link
    clients.connect(3)
    drive(link, lambda: link.counters["accept_rate_reached"])
    link.del_listener(clients.address)
    assert link.listeners == []
    assert link.step(0.01) == 0


def test_connections_that_are_there_are_served_between_those_that_come(
    clients_of: Callable[..., Clients],
) -> None:
    clients = clients_of()
    link = clients.link
    order: list[str] = []
    link.on_connect.add(lambda conn: order.append("connect"))
    link.on_recv.add(lambda conn, data: order.append("data"))
    clients.connect()
    drive(link, lambda: order)
    clients.connect(100)
    clients.socks[0].send(b"something")
    drive(link, lambda: order.count("connect") == 101)
    assert order.index("data") <= 1 + listener._ACCEPTS_PER_PASS


def test_a_connection_without_an_address_is_gone_already(
    clients_of: Callable[..., Clients], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So macOS says that the other side has hung up before it was accepted."""
    clients = clients_of()
    link = clients.link
    connected: list[str] = []
    link.on_connect.add(connected.append)
    real = socket.socket.accept
    with monkeypatch.context() as context:
        context.setattr(socket.socket, "accept", lambda self: (real(self)[0], None))
        clients.connect()
        drive(link, lambda: clients.closed() == 1)
    assert connected == []
    clients.connect()
    drive(link, lambda: connected)


def test_failures_for_want_of_descriptors_are_counted(
    clients_of: Callable[..., Clients],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clients = clients_of()
    link = clients.link

    def fail(sock: socket.socket) -> None:
        raise OSError(errno.EMFILE, "no more")

    monkeypatch.setattr(listener, "_EXHAUSTED_PAUSE", 0.001)
    with monkeypatch.context() as context:
        context.setattr(socket.socket, "accept", fail)
        clients.connect()
        drive(link, lambda: link.counters["descriptors_exhausted"] == 30)
    assert sum("no more" in line for line in caplog.messages) == 20
    drive(link, lambda: len(link.admission) == 1)


def test_lines_about_who_comes_and_goes_have_a_limit(
    clients_of: Callable[..., Clients], caplog: pytest.LogCaptureFixture
) -> None:
    clients = clients_of()
    connected: list[str] = []
    clients.link.on_connect.add(connected.append)
    with caplog.at_level("INFO", "snakemq.link"):
        clients.connect(100)
        drive(clients.link, lambda: len(connected) == 100)
    assert sum(line.startswith("accept ") for line in caplog.messages) == 20


def test_lines_about_connections_that_break_have_a_limit(
    clients_of: Callable[..., Clients],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(sock: LinkSocket, size: int) -> bytes:
        raise OSError(errno.ETIMEDOUT, "gone without a word")

    monkeypatch.setattr(LinkSocket, "recv", fail)
    clients = clients_of()
    clients.connect(30)
    for sock in clients.socks:
        sock.send(b"something")
    drive(clients.link, lambda: clients.closed() == 30)
    assert sum("gone without a word" in line for line in caplog.messages) == 20
