"""Every link passes one and the same suite: the real one, the simulated one, a throttle on each."""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import ssl
import struct
from collections.abc import Callable, Iterator

import pytest
import trustme

from snakemq.contracts import Buffer, LinkInterface
from snakemq.link import Link, SSLConfig
from snakemq.testing.link_contract import LinkContract, LinkPair
from snakemq.testing.network import Conditions, SimLink, SimNetwork
from snakemq.throttle import Throttle
from tests.helpers import DEADLINE

#: The first delay before dialling again, in seconds.
RECONNECT = 0.02

#: Fast enough for the megabytes of the suite, slow enough to be in effect.
THROTTLED = 20_000_000.0

NASTY = Conditions(
    delay=0.0005,
    jitter=0.002,
    send_buffer=20_000,
    recv_buffer=8_000,
    max_chunk=5_000,
    split=0.2,
    partial_send=0.3,
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The suite makes callbacks fail on purpose, and links log that."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def throttled(link: LinkInterface, speed: float | None) -> LinkInterface:
    return link if speed is None else Throttle(link, speed)


class SimPair(LinkPair):
    """Two links of a simulated network."""

    real_time = False

    def __init__(
        self,
        conditions: Conditions,
        loop_delay: float = 0.0,
        speed: float | None = None,
        make: Callable[[SimNetwork, str], SimLink] = SimNetwork.link,
    ) -> None:
        self.network = SimNetwork(conditions=conditions, loop_delay=loop_delay)
        self.links = make(self.network, "a"), make(self.network, "b")
        self.a, self.b = (throttled(link, speed) for link in self.links)
        self.connectors: list[object] = []

    def connect(self) -> None:
        address = self.links[1].add_listener(("b", 0))
        self.connectors.append(address)
        self.links[0].add_connector(address, RECONNECT)

    def hang_up(self) -> None:
        while self.connectors:
            self.links[0].del_connector(self.connectors.pop())

    def break_connections(self) -> None:
        self.network.cut("a", "b")

    def run_until(self, condition: Callable[[], object], what: str = "") -> None:
        if not self.network.run_until(condition, timeout=3600):
            raise AssertionError(f"not within an hour of virtual time: {what}")

    def cleanup(self) -> None:
        for link in self.links:
            link.cleanup()


class Relay:
    """Stands between two links and passes on their bytes, until it breaks the connections.

    It is how a test resets a real connection from outside. One thread steps
    it together with the links. Its buffers are small, so that a receiver that
    does not read stops the sender soon.
    """

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.targets: dict[socket.socket, tuple[str, int]] = {}
        self.pipes: dict[socket.socket, RelayedSocket] = {}

    def forward_to(self, address: tuple[str, int]) -> tuple[str, int]:
        listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        listener.setblocking(False)
        self.targets[listener] = address
        self.selector.register(listener, selectors.EVENT_READ)
        host, port = listener.getsockname()
        return host, port

    def step(self) -> int:
        events = self.selector.select(0)
        for key, mask in events:
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock in self.targets:
                self._accept(sock)
            elif sock in self.pipes:
                self.pipes[sock].handle(mask)
        return len(events)

    def _accept(self, listener: socket.socket) -> None:
        dialled, _ = listener.accept()
        upstream = socket.socket()
        for sock in (dialled, upstream):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        error = upstream.connect_ex(self.targets[listener])
        assert error in (0, errno.EINPROGRESS, errno.EWOULDBLOCK), errno.errorcode[error]
        one, other = RelayedSocket(self, dialled), RelayedSocket(self, upstream)
        one.other, other.other = other, one
        one.watch()
        other.watch()

    def break_connections(self) -> None:
        for pipe in list(self.pipes.values()):
            pipe.reset()

    def stop_listening(self) -> None:
        for listener in list(self.targets):
            self.selector.unregister(listener)
            listener.close()
        self.targets.clear()

    def close(self) -> None:
        self.stop_listening()
        self.break_connections()
        self.selector.close()


class RelayedSocket:
    """One of the two sockets of a relayed connection, and what waits to be written to it."""

    other: RelayedSocket

    def __init__(self, relay: Relay, sock: socket.socket) -> None:
        self.relay = relay
        self.sock = sock
        self.unsent = b""
        self.eof_read = False
        self.eof_sent = False
        self.interest = 0
        relay.pipes[sock] = self

    def watch(self) -> None:
        """Watch for what makes sense now; close when both directions have ended."""
        if self.sock not in self.relay.pipes:
            return
        interest = 0
        if not self.eof_read and not self.other.unsent:
            interest |= selectors.EVENT_READ
        if self.unsent:
            interest |= selectors.EVENT_WRITE
        if self.interest and not interest:
            self.relay.selector.unregister(self.sock)
        elif interest and not self.interest:
            self.relay.selector.register(self.sock, interest)
        elif interest != self.interest:
            self.relay.selector.modify(self.sock, interest)
        self.interest = interest
        if self.eof_read and self.eof_sent:
            self._close()

    def handle(self, mask: int) -> None:
        try:
            if mask & selectors.EVENT_READ and not self.other.unsent:
                data = self.sock.recv(64 * 1024)
                if data:
                    self.other.unsent = data
                else:
                    self.eof_read = True
            if mask & selectors.EVENT_WRITE:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
            for pipe in (self, self.other):
                if pipe.other.eof_read and not pipe.unsent and not pipe.eof_sent:
                    pipe.sock.shutdown(socket.SHUT_WR)
                    pipe.eof_sent = True
        except BlockingIOError:
            pass
        except OSError:
            self.reset()
        self.watch()
        self.other.watch()

    def reset(self) -> None:
        for pipe in (self, self.other):
            if pipe.sock in self.relay.pipes:
                with contextlib.suppress(OSError):
                    pipe.sock.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                pipe._close()

    def _close(self) -> None:
        del self.relay.pipes[self.sock]
        if self.interest:
            self.relay.selector.unregister(self.sock)
            self.interest = 0
        self.sock.close()


class RealPair(LinkPair):
    """Two links over TCP on loopback, in one thread."""

    def __init__(
        self,
        speed: float | None = None,
        client: SSLConfig | None = None,
        server: SSLConfig | None = None,
    ) -> None:
        self.links = Link(), Link()
        self.a, self.b = (throttled(link, speed) for link in self.links)
        self.relay = Relay()
        self.client, self.server = client, server
        self.connectors: list[tuple[str, int]] = []

    def connect(self) -> None:
        address = self.links[1].add_listener(("127.0.0.1", 0), self.server)
        address = self.relay.forward_to(address)
        self.connectors.append(address)
        self.links[0].add_connector(address, RECONNECT, self.client)

    def hang_up(self) -> None:
        while self.connectors:
            self.links[0].del_connector(self.connectors.pop())

    def break_connections(self) -> None:
        self.relay.break_connections()

    def run_until(self, condition: Callable[[], object], what: str = "") -> None:
        a, b = self.links
        deadline = a.time() + DEADLINE
        while not condition():
            late = a.time() >= deadline
            if not a.step(0) + b.step(0) + self.relay.step():
                a.step(0.001)
            if late and not condition():
                raise AssertionError(f"not within {DEADLINE:g} seconds: {what}")

    def cleanup(self) -> None:
        for link in self.links:
            link.cleanup()
        self.relay.close()


class TestSimLink(LinkContract):
    def make_pair(self) -> LinkPair:
        return SimPair(Conditions())


class TestSimLinkOnABadNetwork(LinkContract):
    def make_pair(self) -> LinkPair:
        return SimPair(NASTY, loop_delay=0.001)


class TestThrottleOverSimLink(LinkContract):
    def make_pair(self) -> LinkPair:
        return SimPair(NASTY, loop_delay=0.001, speed=THROTTLED)


class TestSlowThrottleOverSimLink(LinkContract):
    """So slow that nearly every send has to wait."""

    def make_pair(self) -> LinkPair:
        return SimPair(Conditions(), speed=20_000)


class TestTcpLink(LinkContract):
    def make_pair(self) -> LinkPair:
        return RealPair()


class TestThrottleOverTcpLink(LinkContract):
    def make_pair(self) -> LinkPair:
        return RealPair(speed=THROTTLED)


class TestTlsLink(LinkContract):
    def make_pair(self) -> LinkPair:
        return RealPair(client=TLS["client"], server=TLS["server"])


class TestThrottleOverTlsLink(LinkContract):
    def make_pair(self) -> LinkPair:
        return RealPair(THROTTLED, TLS["client"], TLS["server"])


#: The settings of both sides, each with a certificate that the other one checks.
TLS: dict[str, SSLConfig] = {}


@pytest.fixture(autouse=True, scope="module")
def _certificates(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    for name in ("client", "server"):
        certificate = directory / f"{name}.pem"
        issued = authority.issue_cert(name)
        issued.private_key_and_cert_chain_pem.write_to_path(certificate)
        TLS[name] = SSLConfig(
            certfile=certificate, ca_certs=directory / "ca.pem", cert_reqs=ssl.CERT_REQUIRED
        )


class TestTheSuiteFindsFaults:
    """A contract that a broken link passes would be none."""

    @staticmethod
    def run(link_type: type[SimLink], test: str) -> None:
        def make(network: SimNetwork, name: str) -> SimLink:
            link = network.links[name] = link_type(network, name)
            return link

        class Contract(LinkContract):
            def make_pair(self) -> LinkPair:
                return SimPair(NASTY, make=make)

        contract = Contract()
        contract.setup_method()
        try:
            getattr(contract, test)()
        finally:
            contract.teardown_method()

    def test_it_passes_what_is_right(self) -> None:
        self.run(SimLink, "test_bytes_arrive_in_both_directions")

    def test_a_callback_inside_of_send(self) -> None:
        class Hasty(SimLink):
            def send(self, conn_id: str, *data: Buffer) -> None:
                super().send(conn_id, *data)
                self.on_ready_to_send(conn_id, 0)

        with pytest.raises((AssertionError, KeyError)):
            self.run(Hasty, "test_bytes_arrive_in_both_directions")

    def test_a_second_send_that_is_accepted(self) -> None:
        class Greedy(SimLink):
            def send(self, conn_id: str, *data: Buffer) -> None:
                self._end(conn_id).taken = None
                super().send(conn_id, *data)

        with pytest.raises(AssertionError, match="send raised None"):
            self.run(Greedy, "test_a_second_send_before_the_first_is_finished_is_refused")

    def test_bytes_that_are_lost_in_a_pause(self) -> None:
        class Forgetful(SimLink):
            def resume_recv(self, conn_id: str) -> None:
                self._end(conn_id).inward.read()
                super().resume_recv(conn_id)

        with pytest.raises(AssertionError):
            self.run(Forgetful, "test_nothing_arrives_while_it_is_paused_and_nothing_is_lost")

    def test_a_pause_that_is_ignored(self) -> None:
        class Deaf(SimLink):
            def pause_recv(self, conn_id: str) -> None:
                self._end(conn_id)

        with pytest.raises(AssertionError):
            self.run(Deaf, "test_nothing_arrives_while_it_is_paused_and_nothing_is_lost")

    def test_a_close_that_is_told_later(self) -> None:
        class Lazy(SimLink):
            def close(self, conn_id: str) -> None:
                self._end(conn_id)
                self.call_soon(super().close, conn_id)

        with pytest.raises(AssertionError):
            self.run(Lazy, "test_on_disconnect_runs_inside_of_close")

    def test_a_close_that_loses_what_was_taken(self) -> None:
        class Careless(SimLink):
            def _disconnect(self, end: object) -> None:
                end.outward.abort()  # type: ignore[attr-defined]
                super()._disconnect(end)  # type: ignore[arg-type]

        with pytest.raises(AssertionError):
            self.run(Careless, "test_everything_that_was_taken_is_delivered_before_the_end")

    def test_identifiers_that_are_used_again(self) -> None:
        class Uninspired(SimLink):
            def adopt(self, end: object) -> None:
                super().adopt(end)  # type: ignore[arg-type]
                del self._ends[end.conn_id]  # type: ignore[attr-defined]
                end.conn_id = "the connection"  # type: ignore[attr-defined]
                self._ends["the connection"] = end  # type: ignore[assignment]

        with pytest.raises(AssertionError, match="used before"):
            self.run(Uninspired, "test_an_identifier_is_never_used_again")

    def test_an_exception_that_gets_out(self) -> None:
        class Fragile(SimLink):
            def _call(self, func: Callable[..., object], args: tuple[object, ...]) -> None:
                func(*args)

        with pytest.raises(ValueError, match="call_"):
            self.run(Fragile, "test_an_exception_in_any_callback_stops_nothing")

    def test_timers_that_can_not_be_cancelled(self) -> None:
        class Stubborn(SimLink):
            def call_later(
                self, delay: float, func: Callable[..., object], *args: object
            ) -> object:
                super().call_later(delay, func, *args)
                return super().call_later(delay, lambda: None)

        with pytest.raises(AssertionError):
            self.run(Stubborn, "test_a_cancelled_timer_does_not_come")
