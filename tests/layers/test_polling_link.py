"""A thread that waits for something reads the connection itself while the loop sleeps."""

from __future__ import annotations

import logging
import selectors
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

import snakemq.link as link_module
from snakemq._io import busy_poller
from snakemq.link import Link, LinkSocket, SSLConfig
from tests.helpers import DEADLINE, wait_until
from tests.layers.tls_support import LOCALHOST, Files, files

__all__ = ["files"]

Wanted = Callable[[], bool]


class Side:
    """A link whose loop runs in a thread and never passes without a reason, and one who dials."""

    def __init__(self, config: SSLConfig | None = None) -> None:
        self.link = Link()
        # Wired, as a layer does: for callbacks of the program nothing is polled.
        self.link.on_recv.wire(self._received)
        self.link.on_ready_to_send.wire(self._ready)
        self.link.on_connect.add(self._connected)
        self.link.on_disconnect.add(self._disconnected)
        self.conn_ids: list[str] = []
        #: what the loop received, of all connections
        self.received = b""
        self.taken = b""
        self.ready: list[tuple[int, int]] = []
        self.gone: list[tuple[str, int]] = []
        self.receivers: set[int] = set()
        self.address = self.link.add_listener((LOCALHOST, 0), ssl_config=config)
        self.thread = threading.Thread(target=self.link.loop, args=(None,))
        self.thread.start()
        self.others: list[socket.socket] = []

    def _connected(self, conn_id: str) -> None:
        self.conn_ids.append(conn_id)

    def _disconnected(self, conn_id: str) -> None:
        self.gone.append((conn_id, threading.get_ident()))

    def _received(self, conn_id: str, data: bytes) -> None:
        self.receivers.add(threading.get_ident())
        self.received += data

    def _ready(self, conn_id: str, size: int) -> None:
        self.ready.append((size, threading.get_ident()))

    def dial(self, context: ssl.SSLContext | None = None) -> socket.socket:
        """Somebody who has said hello."""
        other = socket.create_connection(self.address, timeout=DEADLINE)
        if context is not None:
            other = context.wrap_socket(other, server_hostname=LOCALHOST)
        self.others.append(other)
        other.sendall(b"hello")
        wait_until(lambda: self.received == b"hello", what=lambda: self.received)
        self.received = b""
        self.receivers.clear()
        return other

    @property
    def conn_id(self) -> str:
        return self.conn_ids[-1]

    def take(self, data: bytes) -> bool:
        """Take everything."""
        self.taken += data
        return True

    def poll(
        self,
        take: Callable[[bytes], bool] | None = None,
        wanted: Wanted = lambda: True,
        seconds: float = DEADLINE,
    ) -> bool:
        """As soon as the loop sleeps; until there is a reason to end."""
        begun: list[bool] = []

        def is_wanted() -> bool:
            begun.append(True)
            return wanted()

        results: list[bool] = []

        def once() -> bool:
            end = self.link.time() + seconds
            results.append(self.link.poll_here(self.conn_id, take or self.take, is_wanted, end))
            return bool(begun)

        wait_until(once)
        return results[-1]

    def never_polls(self) -> bool:
        """Not even if there is time."""
        asked: list[bool] = []

        def wanted() -> bool:
            asked.append(True)
            return False

        for _ in range(20):
            self.settle()
            assert not self.link.poll_here(self.conn_id, self.take, wanted, self.link.time() + 1)
        return not asked

    def settle(self) -> None:
        """The loop has done all it was told to do, and sleeps."""
        self.in_loop(lambda: None)
        wait_until(self.link.is_asleep)

    def in_loop(self, func: Callable[[], object]) -> None:
        done = threading.Event()
        self.link.call_soon(lambda: (func(), done.set()))
        assert done.wait(DEADLINE)

    def close(self) -> None:
        self.link.stop()
        self.thread.join(DEADLINE)
        self.link.cleanup()
        for other in self.others:
            other.close()


def once(act: Callable[[], object]) -> Wanted:
    """Do something when polling has begun."""
    acts = [act]

    def wanted() -> bool:
        if acts:
            acts.pop()()
        return True

    return wanted


@pytest.fixture(params=["epoll", "any selector"])
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    side = Side()
    if request.param == "any selector":
        hush = side.link._poller._hush
        hush.close()
        hush._epoll = None  # as where there is none
    yield side
    side.close()


@pytest.fixture
def other(side: Side) -> socket.socket:
    return side.dial()


def test_it_is_received_in_the_thread_that_polls(side: Side, other: socket.socket) -> None:
    where: list[tuple[int, bool]] = []

    def take(data: bytes) -> bool:
        where.append((threading.get_ident(), side.link.is_inside_loop()))
        return side.take(data)

    assert side.poll(take, once(lambda: other.sendall(b"data")), seconds=0.5)
    assert (side.taken, side.received) == (b"data", b"")
    assert where == [(threading.get_ident(), True)]
    assert not side.link.is_inside_loop()


def test_it_ends_when_nothing_is_wanted_any_more(side: Side, other: socket.socket) -> None:
    def wanted() -> bool:
        if not side.taken:
            other.sendall(b"x")
        return not side.taken

    before = side.link.time()
    assert side.poll(wanted=wanted)
    assert side.link.time() - before < DEADLINE


def test_what_is_not_taken_is_left_to_the_loop_in_its_order(
    side: Side, other: socket.socket
) -> None:
    def refuse(data: bytes) -> bool:
        other.sendall(b"second")  # the loop has it to read as well
        return False

    assert not side.poll(refuse, once(lambda: other.sendall(b"first,")))
    wait_until(lambda: side.received == b"first,second", what=lambda: side.received)
    assert side.receivers == {side.thread.ident}


def test_what_comes_later_is_received_by_the_loop(side: Side, other: socket.socket) -> None:
    for index in range(50):
        piece = b"%d," % index
        if side.poll(wanted=once(lambda piece=piece: other.sendall(piece)), seconds=0.0005):
            side.received += side.taken  # nothing comes before the next one is sent
            side.taken = b""
        other.sendall(b"loop,")
        expected = piece + b"loop,"
        wait_until(lambda e=expected: side.received == e, what=lambda: side.received)
        side.received = b""


def test_it_ends_when_the_loop_is_to_do_something(side: Side, other: socket.socket) -> None:
    done = threading.Event()
    before = side.link.time()
    assert not side.poll(wanted=once(lambda: side.link.call_soon(done.set)))
    assert done.wait(DEADLINE)
    assert side.link.time() - before < DEADLINE


def test_it_ends_when_another_connection_has_something(side: Side, other: socket.socket) -> None:
    second = side.dial()
    side.conn_ids.reverse()
    before = side.link.time()
    assert not side.poll(wanted=once(lambda: second.sendall(b"for the loop")))
    wait_until(lambda: side.received == b"for the loop")
    assert side.link.time() - before < DEADLINE


def test_it_ends_at_the_deadline(side: Side, other: socket.socket) -> None:
    end = side.link.time() + 0.01
    wait_until(lambda: side.link.poll_here(side.conn_id, side.take, bool, end) or True)
    assert not side.poll(seconds=0.01)


def test_it_ends_at_the_deadline_also_if_there_is_always_more(
    side: Side, other: socket.socket
) -> None:
    def wanted() -> bool:
        other.sendall(b"x")
        return True

    before = side.link.time()
    side.poll(wanted=wanted, seconds=0.01)
    assert side.link.time() - before < DEADLINE


@pytest.mark.parametrize("farewell", [b"", b"goodbye"])
def test_an_end_is_told_by_the_loop(side: Side, other: socket.socket, farewell: bytes) -> None:
    def leave() -> None:
        other.sendall(farewell)
        other.shutdown(socket.SHUT_WR)

    side.poll(lambda data: False, once(leave))
    wait_until(lambda: side.gone)
    assert side.gone == [(side.conn_id, side.thread.ident)]
    assert side.received == farewell


def test_a_reset_is_told_by_the_loop_with_its_reason(
    side: Side, other: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    def reset() -> None:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other.close()

    with caplog.at_level(logging.DEBUG, "snakemq.link"):
        side.poll(wanted=once(reset))
        wait_until(lambda: side.gone)
    assert side.gone == [(side.conn_id, side.thread.ident)]
    assert any("reset" in record.getMessage().lower() for record in caplog.records)


def test_a_failure_is_not_taken_for_an_end(
    side: Side,
    other: socket.socket,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sock = side.link.get_socket_by_conn(side.conn_id)

    class Broken:
        """The system tells why once, and after that it is just over."""

        def __init__(self, real: socket.socket) -> None:
            self._real = real

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

        def recv(self, size: int) -> bytes:
            monkeypatch.setattr(sock, "sock", self._real)
            other.shutdown(socket.SHUT_WR)
            raise TimeoutError(110, "it takes too long")

    monkeypatch.setattr(sock, "sock", Broken(sock.sock))
    with caplog.at_level(logging.DEBUG, "snakemq.link"):
        side.poll()
        wait_until(lambda: side.gone)
    assert any("it takes too long" in record.getMessage() for record in caplog.records)


def test_not_while_it_is_paused(side: Side, other: socket.socket) -> None:
    side.in_loop(lambda: side.link.pause_recv(side.conn_id))
    assert side.never_polls()


def test_not_while_something_waits_to_be_sent(side: Side, other: socket.socket) -> None:
    side.in_loop(lambda: side.link.send(side.conn_id, bytes(50_000_000)))
    assert side.never_polls()


def test_not_before_anything_was_heard(side: Side) -> None:
    silent = socket.create_connection(side.address, timeout=DEADLINE)
    side.others.append(silent)
    wait_until(lambda: side.conn_ids)
    assert side.never_polls()


@pytest.mark.parametrize("slot", ["on_recv", "on_ready_to_send"])
def test_not_for_callbacks_of_the_program(side: Side, other: socket.socket, slot: str) -> None:
    def callback(*args: object) -> None:
        """Would be called in another thread."""

    getattr(side.link, slot).add(callback)
    assert side.never_polls()
    getattr(side.link, slot).remove(callback)
    assert not side.poll(seconds=0)


def test_not_without_a_loop(side: Side, other: socket.socket) -> None:
    side.link.stop()
    side.thread.join(DEADLINE)
    assert not side.link.poll_here(side.conn_id, side.take, lambda: True, side.link.time() + 1)


def test_not_while_the_loop_is_awake(side: Side, other: socket.socket) -> None:
    results: list[bool] = []
    end = side.link.time() + DEADLINE

    def poll() -> None:
        results.append(side.link.poll_here(side.conn_id, side.take, lambda: True, end))

    def with_another_thread() -> None:
        thread = threading.Thread(target=poll)
        thread.start()
        thread.join(DEADLINE)
        poll()

    side.in_loop(with_another_thread)
    assert results == [False, False]


def test_not_for_a_connection_that_is_gone(side: Side, other: socket.socket) -> None:
    side.in_loop(lambda: side.link.close(side.conn_id))
    assert side.never_polls()


def test_not_inside_of_itself(side: Side, other: socket.socket) -> None:
    results: list[bool] = []
    end = side.link.time() + DEADLINE

    def again() -> None:
        results.append(side.link.poll_here(side.conn_id, side.take, lambda: True, end))

    side.poll(wanted=once(again), seconds=0.01)
    assert results == [False]


def test_not_with_a_selector_that_would_not_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selectors, "DefaultSelector", selectors.SelectSelector)
    side = Side()
    try:
        other = side.dial()
        assert side.never_polls()
        other.sendall(b"data")
        wait_until(lambda: side.received == b"data")
    finally:
        side.close()


def test_not_if_the_loop_woke_in_the_last_moment(side: Side, other: socket.socket) -> None:
    real = side.link._turn

    class LastMoment:
        """When the turn is there the loop has begun with something else."""

        def acquire(self, blocking: bool) -> bool:
            side.link._sleeping = False
            return real.acquire(blocking)

        release = real.release

    side.settle()
    side.link._turn = LastMoment()  # type: ignore[assignment]
    try:
        assert not side.link.run_here(lambda: pytest.fail("the loop is awake"))
    finally:
        side.link._turn = real
    side.link._sleeping = True
    assert real.acquire(blocking=False)  # it was given back
    real.release()


def test_a_timer_fires_in_time(side: Side, other: socket.socket) -> None:
    fired: list[int] = []

    def take(data: bytes) -> bool:
        side.link.call_later(0.01, lambda: fired.append(threading.get_ident()))
        return True

    side.settle()  # it sleeps until something happens
    assert side.poll(take, once(lambda: other.sendall(b"x")))
    wait_until(lambda: fired)
    assert fired == [side.thread.ident]


@pytest.mark.parametrize("where", ["while it waits", "with something in its hands"])
def test_ctrl_c_costs_this_connection_and_nothing_else(
    side: Side, other: socket.socket, where: str
) -> None:
    def interrupt(*args: object) -> bool:
        raise KeyboardInterrupt

    second = side.dial()
    side.conn_ids.reverse()
    send = once(lambda: other.sendall(b"data"))
    with pytest.raises(KeyboardInterrupt):
        side.poll(*((None, interrupt) if where == "while it waits" else (interrupt, send)))
    assert not side.link.is_inside_loop()
    wait_until(lambda: side.gone)
    assert side.gone == [(side.conn_id, side.thread.ident)]
    assert other.recv(10) == b""
    second.sendall(b"still here")
    wait_until(lambda: side.received == b"still here", what=lambda: side.received)
    side.conn_ids.reverse()
    assert not side.poll(seconds=0)


def test_what_a_signal_handler_raises_is_no_failure_of_the_socket(
    side: Side, other: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    sock = side.link.get_socket_by_conn(side.conn_id)
    recv = type(sock).recv

    def interrupted(self: LinkSocket, size: int) -> bytes:
        if threading.get_ident() != side.thread.ident:
            raise TimeoutError("the alarm rings")  # an OSError like those of sockets
        return recv(self, size)

    monkeypatch.setattr(LinkSocket, "recv", interrupted)
    with pytest.raises(TimeoutError, match="the alarm rings"):
        side.poll()
    wait_until(lambda: side.gone)
    assert not side.link.is_inside_loop()
    assert side.gone == [(side.conn_id, side.thread.ident)]


def test_a_finished_send_is_told_so_that_the_next_can_go(side: Side, other: socket.socket) -> None:
    me = threading.get_ident()

    def send() -> bool:
        side.link.send(side.conn_id, b"first")
        return True

    wait_until(lambda: side.link.run_here(send))
    side.poll(wanted=lambda: not side.ready)
    # It is this thread, or a loop that had another reason to wake.
    assert side.ready in ([(5, me)], [(5, side.thread.ident)])
    wait_until(lambda: side.link.run_here(send))
    received = b""
    while len(received) < 10:
        received += other.recv(10)
    assert received == b"firstfirst"


def test_pausing_in_the_middle(side: Side, other: socket.socket) -> None:
    def take(data: bytes) -> bool:
        side.link.pause_recv(side.conn_id)
        return side.take(data)

    assert side.poll(take, once(lambda: other.sendall(b"one")))
    other.sendall(b"two")
    side.settle()
    assert (side.taken, side.received) == (b"one", b"")
    side.in_loop(lambda: side.link.resume_recv(side.conn_id))
    wait_until(lambda: side.received == b"two")


def test_pausing_and_leaving_it_to_the_loop(side: Side, other: socket.socket) -> None:
    def take(data: bytes) -> bool:
        side.link.pause_recv(side.conn_id)
        return False

    assert not side.poll(take, once(lambda: other.sendall(b"one,")))
    other.sendall(b"two")
    side.settle()
    assert side.received == b""
    side.in_loop(lambda: side.link.resume_recv(side.conn_id))
    wait_until(lambda: side.received == b"one,two")


def test_pausing_and_resuming_at_once(side: Side, other: socket.socket) -> None:
    def take(data: bytes) -> bool:
        side.link.pause_recv(side.conn_id)
        side.link.resume_recv(side.conn_id)
        return side.take(data)

    assert side.poll(take, once(lambda: other.sendall(b"one")), seconds=0.01)
    other.sendall(b"two")
    wait_until(lambda: side.received == b"two")


def test_closing_in_the_middle(
    side: Side, other: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "LINGER_TIMEOUT", 2 * DEADLINE)

    def take(data: bytes) -> bool:
        side.link.close(side.conn_id)
        return True

    assert side.poll(take, once(lambda: other.sendall(b"data")))
    assert [conn_id for conn_id, _ in side.gone] == [side.conn_id]
    assert other.recv(1) == b""
    # It is read until the other side has ended, too, and then it is closed.
    assert side.link._anonymous
    other.close()
    wait_until(lambda: not side.link._anonymous)


def test_everything_arrives_once_and_in_order_whoever_reads(
    side: Side, other: socket.socket
) -> None:
    order: list[bytes] = []
    side.link.on_recv.wire(lambda conn_id, data: order.append(data))
    total = 20_000

    def send() -> None:
        for index in range(0, total, 100):
            other.sendall(b"".join(b"%06d" % n for n in range(index, index + 100)))

    def take(data: bytes) -> bool:
        if len(data) % 5 == 0:
            return False
        order.append(data)
        return True

    sender = threading.Thread(target=send)
    sender.start()

    def everything() -> bool:
        side.link.poll_here(side.conn_id, take, lambda: True, side.link.time() + 0.0005)
        return sum(map(len, order)) == 6 * total

    wait_until(everything)
    sender.join(DEADLINE)
    data = b"".join(order)
    assert data == b"".join(b"%06d" % n for n in range(total))


@pytest.fixture
def tls(files: Files) -> Iterator[tuple[Side, ssl.SSLSocket]]:
    side = Side(files.config())
    context = ssl.create_default_context(cafile=str(files.ca))
    try:
        other = side.dial(context)
        assert isinstance(other, ssl.SSLSocket)
        yield side, other
    finally:
        side.close()


def test_tls_is_received_in_the_thread_that_polls(tls: tuple[Side, ssl.SSLSocket]) -> None:
    side, other = tls
    assert side.poll(wanted=once(lambda: other.sendall(b"data")), seconds=0.5)
    assert (side.taken, side.received) == (b"data", b"")


@pytest.mark.parametrize("takes", [True, False])
def test_what_tls_has_buffered_is_left_to_the_loop(
    tls: tuple[Side, ssl.SSLSocket], takes: bool
) -> None:
    side, other = tls
    data = b"".join(b"%07d," % n for n in range(40_000))  # several records in each read
    sender = threading.Thread(target=other.sendall, args=(data,))

    def take(piece: bytes) -> bool:
        assert len(piece) <= 65536
        return takes and side.take(piece)

    side.poll(take, lambda: (sender.ident is None and sender.start()) or not side.taken)
    wait_until(lambda: len(side.taken + side.received) == len(data))
    sender.join(DEADLINE)
    assert side.taken + side.received == data
    assert side.receivers <= {side.thread.ident}


def test_tls_ends_while_somebody_polls(tls: tuple[Side, ssl.SSLSocket]) -> None:
    side, other = tls

    def leave() -> None:
        other.sendall(b"goodbye")
        other.close()

    side.poll(lambda data: False, once(leave))
    wait_until(lambda: side.gone)
    assert side.received == b"goodbye"
    assert side.gone == [(side.conn_id, side.thread.ident)]


def test_a_link_where_epoll_was_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what replaces the ways to wait, such as libraries with threads of their own."""
    monkeypatch.delattr(selectors, "EpollSelector", raising=False)
    monkeypatch.setattr(selectors, "DefaultSelector", selectors.SelectSelector)
    monkeypatch.setattr(busy_poller, "_EPOLL", getattr(selectors, "EpollSelector", ()))
    Link().cleanup()
