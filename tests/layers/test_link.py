"""The real link, over loopback: what the contract suite does not say."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from snakemq._io import connector, link_socket, listener, resolver
from snakemq.limits import ConnectionLimits
from snakemq.link import Link, SSLConfig, TcpOptions
from snakemq.messaging import Messaging
from snakemq.packeter import Packeter
from snakemq.throttle import Throttle
from tests.helpers import DEADLINE, open_files, unassigned_port, wait_until


@pytest.fixture
def make_link() -> Iterator[Callable[..., Link]]:
    links: list[Link] = []

    def make(**kwargs: Any) -> Link:
        link = Link(**kwargs)
        link.reconnect_interval = 0.05
        links.append(link)
        return link

    yield make
    for link in links:
        link.cleanup()


def drive(*links: Link, until: Callable[[], object]) -> None:
    """Step the links in this thread until the condition is true."""
    deadline = time.monotonic() + DEADLINE
    while not until():
        assert time.monotonic() < deadline, "did not happen in time"
        for link in links:
            link.step(0.005)


class Log:
    """Records the callbacks of a link."""

    def __init__(self, link: Link) -> None:
        self.events: list[tuple[str, str]] = []
        self.received: dict[str, bytes] = {}
        link.on_connect.add(lambda conn: self.events.append(("connect", conn)))
        link.on_disconnect.add(lambda conn: self.events.append(("disconnect", conn)))
        link.on_recv.add(self._recv)

    def _recv(self, conn: str, data: bytes) -> None:
        self.received[conn] = self.received.get(conn, b"") + data

    def count(self, what: str) -> int:
        return sum(event == what for event, _ in self.events)

    @property
    def open(self) -> list[str]:
        gone = {conn for event, conn in self.events if event == "disconnect"}
        return [c for event, c in self.events if event == "connect" and c not in gone]


has_ipv6 = pytest.mark.skipif(
    not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here"
)

# Addresses.


def test_any_free_port_and_its_deletion(make_link: Callable[..., Link]) -> None:
    link = make_link()
    address = link.add_listener(("", 0))
    assert address[0] == "0.0.0.0"
    assert address[1] > 0
    assert link.listeners == [address]
    link.del_listener(address)
    assert link.listeners == []
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", address[1])) == errno.ECONNREFUSED
    with pytest.raises(KeyError):
        link.del_listener(address)


def test_the_same_twice_is_refused(make_link: Callable[..., Link]) -> None:
    link = make_link()
    address = link.add_listener(("127.0.0.1", 0))
    with pytest.raises(ValueError, match="already"):
        link.add_listener(address)
    assert link.add_connector(address) == address
    with pytest.raises(ValueError, match="already"):
        link.add_connector(address)
    link.del_connector(address)
    with pytest.raises(KeyError):
        link.del_connector(address)


def test_a_port_in_use_is_named_and_leaves_nothing(make_link: Callable[..., Link]) -> None:
    address = make_link().add_listener(("127.0.0.1", 0))
    other = make_link()
    with pytest.raises(OSError, match=rf"127\.0\.0\.1:{address[1]}") as caught:
        other.add_listener(address)
    assert caught.value.errno == errno.EADDRINUSE
    assert other.listeners == []


def test_a_host_that_is_unknown_or_not_this_one_is_named(
    make_link: Callable[..., Link],
) -> None:
    with pytest.raises(OSError, match=r"can't listen on a\.\.b:1"):
        make_link().add_listener(("a..b", 1))
    with pytest.raises(OSError, match=r"can't listen on \[2001:db8::1\]:1"):
        make_link().add_listener(("2001:db8::1", 1))


@pytest.mark.parametrize(
    "address",
    ["localhost:4000", ("localhost",), ("localhost", "4000"), (None, 1), ("", -1), ("", 65536)],
)
def test_what_is_no_address_is_refused_at_once(
    make_link: Callable[..., Link], address: Any
) -> None:
    link = make_link()
    with pytest.raises(ValueError, match=r"address|port"):
        link.add_connector(address)
    with pytest.raises(ValueError, match=r"address|port"):
        link.add_listener(address)


def test_port_zero_is_nowhere_to_connect_to(make_link: Callable[..., Link]) -> None:
    with pytest.raises(ValueError, match="port 0"):
        make_link().add_connector(("localhost", 0))


def test_a_negative_interval_is_refused(make_link: Callable[..., Link]) -> None:
    with pytest.raises(ValueError, match="reconnect_interval"):
        make_link().add_connector(("localhost", 1), reconnect_interval=-1)


def test_a_name_is_tried_at_all_its_addresses(make_link: Callable[..., Link]) -> None:
    # localhost is ::1 first on most machines, and nobody listens there.
    server, client = make_link(), make_link()
    log = Log(client)
    _, port = server.add_listener(("127.0.0.1", 0))
    assert client.add_connector(("localhost", port)) == ("localhost", port)
    drive(server, client, until=lambda: log.open)


@has_ipv6
@pytest.mark.parametrize("listen", ["::1", "::"])
def test_ipv6(make_link: Callable[..., Link], listen: str) -> None:
    server, client = make_link(), make_link()
    log = Log(server)
    host, port = server.add_listener((listen, 0))
    assert host == listen
    client.add_connector(("::1", port))
    drive(server, client, until=lambda: log.open)
    assert server.get_socket_by_conn(log.open[0]).remote_peer[0] == "::1"
    server.del_listener((host, port))


@has_ipv6
def test_every_ipv6_address_is_every_ipv4_address_too(make_link: Callable[..., Link]) -> None:
    server, client = make_link(), make_link()
    log = Log(client)
    _, port = server.add_listener(("::", 0))
    client.add_connector(("127.0.0.1", port))
    drive(server, client, until=lambda: log.open)


# Names.


def test_a_slow_name_server_does_not_stall_the_loop(
    make_link: Callable[..., Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def slow(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host == "slow.example":
            if kwargs["flags"] & socket.AI_NUMERICHOST:
                raise socket.gaierror(socket.EAI_NONAME, "not a number")
            asked.set()
            assert answer.wait(DEADLINE)
            return real("127.0.0.1", port, *args, **kwargs)
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(resolver.socket, "getaddrinfo", slow)
    server, client = make_link(), make_link()
    log = Log(client)
    _, port = server.add_listener(("127.0.0.1", 0))
    client.add_connector(("slow.example", port))
    client.add_connector(("127.0.0.1", port))
    drive(server, client, until=lambda: asked.is_set() and len(log.open) == 1)
    answer.set()
    drive(server, client, until=lambda: len(log.open) == 2)


def test_a_name_is_looked_up_at_each_attempt(
    make_link: Callable[..., Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([None, "127.0.0.2", "127.0.0.1"])
    real = socket.getaddrinfo

    def moving(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host != "moving.example":
            return real(host, port, *args, **kwargs)
        found = None if kwargs["flags"] & socket.AI_NUMERICHOST else next(answers)
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return real(found, port, *args, **kwargs)

    monkeypatch.setattr(resolver.socket, "getaddrinfo", moving)
    server, client = make_link(), make_link()
    log = Log(client)
    _, port = server.add_listener(("127.0.0.1", 0))
    client.add_connector(("moving.example", port), reconnect_interval=0.01)
    drive(server, client, until=lambda: log.open)
    assert client.get_socket_by_conn(log.open[0]).remote_peer == ("127.0.0.1", port)


def test_an_impossible_name_is_tried_again_and_stalls_nothing(
    make_link: Callable[..., Link], caplog: pytest.LogCaptureFixture
) -> None:
    client = make_link()
    client.add_connector(("a..b", 4000), reconnect_interval=0.01)
    with caplog.at_level("INFO", "snakemq.link"):
        drive(client, until=lambda: caplog.text.count("'a..b', 4000) failed") >= 2)


# Connecting again.


def test_it_connects_when_the_listener_appears_and_when_it_comes_back(
    make_link: Callable[..., Link],
) -> None:
    port = unassigned_port()
    client = make_link()
    log = Log(client)
    client.add_connector(("127.0.0.1", port), reconnect_interval=0.01)
    for _ in range(3):
        client.step(0.01)
    assert log.events == []
    for generation in (1, 2):
        server = Link()
        server.add_listener(("127.0.0.1", port))
        drive(server, client, until=lambda: log.open)
        assert log.count("connect") == generation
        server.cleanup()
        drive(client, until=lambda: not log.open)


def test_delays_grow_and_a_lasting_connection_resets_them(
    make_link: Callable[..., Link], caplog: pytest.LogCaptureFixture
) -> None:
    client = make_link()
    client.reconnect_interval_max = 0.04
    port = unassigned_port()
    with caplog.at_level("INFO", "snakemq.link"):
        client.add_connector(("127.0.0.1", port), reconnect_interval=0.01)
        drive(client, until=lambda: caplog.text.count("next attempt") >= 5)
    delays = [record.args[2] for record in caplog.records if "next attempt" in record.msg]
    nominal = [0.01, 0.02, 0.04, 0.04, 0.04]
    for delay, expected in zip(delays, nominal, strict=False):
        assert expected / 2 <= delay <= expected  # type: ignore[operator]


def test_a_peer_that_hangs_up_at_once_is_not_dialled_in_a_hurry(
    make_link: Callable[..., Link],
) -> None:
    server, client = make_link(), make_link()
    log = Log(server)
    server.on_connect.add(server.close)
    _, port = server.add_listener(("127.0.0.1", 0))
    client.add_connector(("127.0.0.1", port), reconnect_interval=0.02)
    start = time.monotonic()
    drive(server, client, until=lambda: log.count("connect") == 5)
    # At least half of 20 + 40 + 80 + 160 ms.
    assert time.monotonic() - start >= 0.15


def test_deleting_a_connector_closes_its_connection_and_ends_the_attempts(
    make_link: Callable[..., Link],
) -> None:
    server, client = make_link(), make_link()
    log, server_log = Log(client), Log(server)
    _, port = server.add_listener(("127.0.0.1", 0))
    client.add_connector(("127.0.0.1", port), reconnect_interval=0.01)
    drive(server, client, until=lambda: log.open and server_log.open)
    client.del_connector(("127.0.0.1", port))
    assert log.open == []
    drive(server, client, until=lambda: not server_log.open)
    for _ in range(10):
        client.step(0.01)
    assert log.count("connect") == 1
    assert len(client._timers) == 0


def test_a_connection_that_the_system_does_not_watch_is_tried_again(
    make_link: Callable[..., Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = make_link(), make_link()
    log = Log(client)
    _, port = server.add_listener(("127.0.0.1", 0))
    register = client.selector.register
    calls: list[Any] = []

    def refuse_one(sock: Any, events: int, data: Any = None) -> Any:
        calls.append(sock)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "too many are watched")
        return register(sock, events, data)

    monkeypatch.setattr(client.selector, "register", refuse_one)
    client.add_connector(("127.0.0.1", port), reconnect_interval=0.01)
    drive(server, client, until=lambda: log.open)
    assert calls[0].fileno() == -1
    assert len(client._sockets) == 1
    assert not client._anonymous


def test_an_address_that_does_not_answer_gives_way_to_the_next(
    make_link: Callable[..., Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connector, "CONNECT_TIMEOUT", 0.05)
    server, client = make_link(), make_link()
    log = Log(client)
    _, port = server.add_listener(("127.0.0.1", 0))
    # A listener whose queue is full lets connects hang.
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.2", port))
        full.listen(0)
        for _ in range(2):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.2", port))
        addresses = [(socket.AF_INET, (host, port)) for host in ("127.0.0.2", "127.0.0.1")]
        monkeypatch.setattr(connector, "resolve", lambda h, p, tell: tell(addresses, None))
        client.add_connector(("two.example", port))
        drive(server, client, until=lambda: log.open)
    assert client.get_socket_by_conn(log.open[0]).remote_peer == ("127.0.0.1", port)


# Many.


@pytest.mark.slow
def test_a_burst_of_a_thousand_connects(make_link: Callable[..., Link]) -> None:
    with open_files(2500):
        _burst_of_connects(make_link())


def _burst_of_connects(server: Link) -> None:
    log = Log(server)
    address = server.add_listener(("127.0.0.1", 0))
    thread = threading.Thread(target=server.loop)
    thread.start()
    clients = [socket.socket() for _ in range(1000)]
    try:
        for client in clients:
            client.setblocking(False)
            client.connect_ex(address)
        # 1.6 took most of a minute: what does not fit into the backlog is
        # tried again by TCP after 1, 3, 7, ... seconds.
        wait_until(lambda: log.count("connect") == 1000, what="a thousand connections")
    finally:
        for client in clients:
            client.close()
        wait_until(lambda: log.count("disconnect") == log.count("connect"))
        server.stop()
        thread.join()


def test_out_of_descriptors_accepting_pauses_and_goes_on(
    make_link: Callable[..., Link],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(listener, "_EXHAUSTED_PAUSE", 0.05)
    server = make_link()
    log = Log(server)
    address = server.add_listener(("127.0.0.1", 0))
    client = socket.socket()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        client.connect(address)
        drive(server, until=lambda: "Too many open files" in caplog.text)
        passes = 0
        while caplog.text.count("Too many open files") == 1:
            server.step(0.02)
            passes += 1
            assert passes < 50, "the loop spins"
    finally:
        for filler in fillers:
            os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    drive(server, until=lambda: log.open)
    client.close()


# Waking, stopping, ticking.


@contextlib.contextmanager
def looping(link: Link, **kwargs: Any) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=link.loop, kwargs=kwargs)
    thread.start()
    try:
        yield thread
    finally:
        link.stop()
        thread.join(DEADLINE)
        assert not thread.is_alive()


def test_an_idle_loop_sleeps(make_link: Callable[..., Link]) -> None:
    link = make_link()
    link.add_listener(("127.0.0.1", 0))
    passes: list[int] = []
    link.on_loop_pass.wire(lambda: passes.append(1))
    before = time.thread_time()
    link.loop(runtime=0.5)
    assert len(passes) <= 2
    assert time.thread_time() - before < 0.1


@pytest.mark.parametrize("never", [math.inf, 1e12])
def test_a_timer_for_never(make_link: Callable[..., Link], never: float) -> None:
    link = make_link()
    link.call_later(never, link.stop)
    called = threading.Event()
    with looping(link) as thread:
        wait_until(lambda: link._sleeping or not thread.is_alive(), what="the loop to sleep")
        link.call_soon(called.set)
        assert called.wait(DEADLINE)


def test_the_loop_ticks_for_those_who_listen_to_its_passes(
    make_link: Callable[..., Link],
) -> None:
    link = make_link()
    check_ticks(link, link)


def check_ticks(link: Link, layer: Link | Throttle) -> None:
    """It passes now and then, and not all the time."""
    passes: list[float] = []

    def tick() -> None:
        passes.append(time.monotonic())
        if len(passes) == 6:
            link.stop()

    layer.on_loop_pass.add(tick)
    link.loop(poll_timeout=0.01, runtime=DEADLINE)
    assert len(passes) == 6
    assert passes[-1] - passes[0] > 0.04


def test_the_loop_ticks_for_those_who_listen_through_a_throttle(
    make_link: Callable[..., Link],
) -> None:
    link = make_link()
    throttle = Throttle(link, 1000)
    link.loop(poll_timeout=0.01, runtime=0.05)
    check_ticks(link, throttle)


def test_a_wakeup_is_an_event_and_costs_nothing_while_the_loop_is_busy(
    make_link: Callable[..., Link],
) -> None:
    link = make_link()
    rings: list[int] = []
    real = link._bell.ring
    link._bell.ring = lambda: (rings.append(1), real())  # type: ignore[assignment, func-returns-value]
    for _ in range(100_000):
        link.wakeup_poll()
    assert rings == []
    link.loop(count=1, runtime=DEADLINE)  # returns at once
    with looping(link):
        wait_until(lambda: link._sleeping)
        link.wakeup_poll()
        link.wakeup_poll()
    assert len(rings) <= 3, "one for each wake-up of a loop that sleeps, one for the stop"


def test_what_is_asked_for_in_a_call_is_done_in_the_same_pass(
    make_link: Callable[..., Link],
) -> None:
    link = make_link()
    called: list[int] = []

    def again(number: int) -> None:
        called.append(number)
        link.call_soon(again, number + 1)

    link.call_soon(again, 1)
    link.step(0)
    assert called == [1, 2]
    # Not more: whoever asks for something again and again keeps nobody else waiting.
    link.step(0)
    assert called == [1, 2, 3, 4]


@pytest.mark.parametrize("does", [lambda link: link.step(0), Link.cleanup])
def test_a_call_that_leaves_nothing_of_what_was_asked_for(
    make_link: Callable[..., Link], does: Callable[[Link], object]
) -> None:
    link = make_link()
    called: list[str] = []
    link.call_soon(does, link)
    link.call_soon(called.append, "once")
    link.step(0)
    assert called == ([] if does is Link.cleanup else ["once"])


def test_a_call_that_has_driven_the_loop_is_still_inside_it(
    make_link: Callable[..., Link],
) -> None:
    link = make_link()
    seen: list[bool] = []

    def drive_and_look() -> None:
        link.step(0)
        seen.append(link.is_inside_loop())

    link.call_soon(drive_and_look)
    link.step(0)
    assert seen == [True]
    assert not link.is_inside_loop()


@pytest.mark.parametrize("does", [lambda link: link.step(0), Link.cleanup])
def test_a_callback_that_leaves_nothing_to_tell(
    make_link: Callable[..., Link], does: Callable[[Link], object]
) -> None:
    server, client = make_link(), make_link()
    connected: list[str] = []
    told: list[str] = []
    client.on_connect.add(connected.append)
    for _ in range(2):
        client.add_connector(server.add_listener(("127.0.0.1", 0)))
    drive(server, client, until=lambda: len(connected) == 2)

    def ready(conn_id: str, _: int) -> None:
        told.append(conn_id)
        does(client)

    client.on_ready_to_send.add(ready)
    for conn_id in connected:
        client.send(conn_id, b"data")
    client.step(0)
    assert told == (connected[:1] if does is Link.cleanup else connected)


def test_what_is_sent_because_something_was_sent_is_told_in_the_same_pass(
    make_link: Callable[..., Link],
) -> None:
    server, client = make_link(), make_link()
    connected: list[str] = []
    sent: list[int] = []
    client.on_connect.add(connected.append)
    client.add_connector(server.add_listener(("127.0.0.1", 0)))
    drive(server, client, until=lambda: connected)

    def send_once_more(conn_id: str, size: int) -> None:
        sent.append(size)
        if len(sent) < 5:
            client.send(conn_id, b"y" * (len(sent) + 1))

    client.on_ready_to_send.add(send_once_more)
    client.send(connected[0], b"y")
    client.step(0)
    assert sent == [1, 2]
    # Not more: whoever always has something to send keeps nobody else waiting.
    client.step(0)
    assert sent == [1, 2, 3, 4]


def test_stop_from_another_thread_and_looping_again(make_link: Callable[..., Link]) -> None:
    link = make_link()
    for _ in range(3):
        with looping(link):
            wait_until(lambda: link._sleeping)


def test_the_loop_of_a_link_runs_once_at_a_time(make_link: Callable[..., Link]) -> None:
    link = make_link()
    with looping(link):
        wait_until(lambda: link._sleeping)
        with pytest.raises(RuntimeError, match="running already"):
            link.loop()
        with pytest.raises(RuntimeError, match="stop"):
            link.cleanup()


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_stop_and_wakeup_from_a_signal_handler(make_link: Callable[..., Link]) -> None:
    link = make_link()
    passes: list[int] = []
    link.on_loop_pass.wire(lambda: passes.append(1))
    handlers = {
        signal.SIGUSR1: lambda *_: link.wakeup_poll(),
        signal.SIGUSR2: lambda *_: link.stop(),
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    main = threading.main_thread().ident
    assert main is not None

    def send_signals() -> None:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            count = len(passes)
            wait_until(lambda: link._sleeping)
            signal.pthread_kill(main, number)
            wait_until(lambda count=count: len(passes) > count)  # type: ignore[misc]

    thread = threading.Thread(target=send_signals)
    thread.start()
    try:
        link.loop(runtime=DEADLINE)
    finally:
        thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert len(passes) >= 2


@pytest.mark.parametrize("leave", [KeyboardInterrupt, SystemExit])
def test_leaving_by_an_exception_loses_nothing(
    make_link: Callable[..., Link], leave: type[BaseException]
) -> None:
    link = make_link()
    called: list[str] = []

    def interrupt() -> None:
        raise leave

    link.call_soon(called.append, "before")
    link.call_soon(interrupt)
    link.call_soon(called.append, "after")
    link.call_later(0, interrupt)
    link.call_later(0, called.append, "timer")
    for _ in range(2):
        with pytest.raises(leave):
            link.loop(runtime=DEADLINE)
    link.call_soon(link.stop)
    link.loop(runtime=DEADLINE)
    assert sorted(called) == ["after", "before", "timer"]


def test_a_callback_knows_that_it_is_inside_the_loop(make_link: Callable[..., Link]) -> None:
    link = make_link()
    seen: list[tuple[str, bool]] = []

    def look(where: str) -> None:
        seen.append((where, link.is_inside_loop()))

    def interrupt() -> None:
        raise KeyboardInterrupt

    link.on_loop_pass.add(lambda: look("pass"))
    link.call_soon(look, "soon")
    link.call_later(0, look, "timer")
    link.step(0)
    thread = threading.Thread(target=look, args=("another thread",))
    link.call_soon(thread.start)
    link.call_soon(thread.join)
    link.step(0)
    look("outside")
    link.call_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        link.step(0)
    look("after an interrupt")
    assert dict(seen) == {
        "soon": True,
        "timer": True,
        "pass": True,
        "another thread": False,
        "outside": False,
        "after an interrupt": False,
    }


def test_runtime_and_count(make_link: Callable[..., Link]) -> None:
    link = make_link()
    start = time.monotonic()
    link.loop(runtime=0.1)
    assert 0.1 <= time.monotonic() - start < 5
    link.loop(count=0)
    link.loop(runtime=0)
    server = make_link()
    address = server.add_listener(("127.0.0.1", 0))
    with socket.create_connection(address):
        server.loop(count=1)
        assert len(server._sockets) == 1
    server.loop(count=1)
    assert len(server._sockets) == 0


# Failures stay with their connection.


def test_a_broken_socket_ends_its_connection_only(make_link: Callable[..., Link]) -> None:
    server = make_link()
    log = Log(server)
    address = server.add_listener(("127.0.0.1", 0))
    clients = [socket.create_connection(address) for _ in range(3)]
    drive(server, until=lambda: len(log.open) == 3)
    by_port = {server.get_socket_by_conn(c).remote_peer[1]: c for c in log.open}
    first, second, third = (by_port[client.getsockname()[1]] for client in clients)
    # A reset, found by reading.
    clients[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    clients[0].close()
    # Broken on this side, found by sending.
    server.get_socket_by_conn(second).sock.shutdown(socket.SHUT_RDWR)
    server.send(second, b"x")
    drive(server, until=lambda: len(log.open) == 1)
    assert log.open == [third]
    server.send(third, b"still here")
    assert clients[2].recv(100) == b"still here"
    for conn in (first, second):
        with pytest.raises(KeyError):
            server.send(conn, b"")
    for client in clients:
        client.close()


def test_an_accepted_socket_knows_its_peer(make_link: Callable[..., Link]) -> None:
    server = make_link()
    log = Log(server)
    address = server.add_listener(("127.0.0.1", 0))
    with socket.create_connection(address) as client:
        drive(server, until=lambda: log.open)
        sock = server.get_socket_by_conn(log.open[0])
        assert sock.remote_peer == client.getsockname()
        assert sock.is_connector is False
        assert sock.getpeercert() is None
        assert log.open[0] in repr(sock)


def test_tcp_options(make_link: Callable[..., Link]) -> None:
    server = make_link(tcp_options=TcpOptions(nodelay=False, keepalive=False))
    client = make_link()
    log, server_log = Log(client), Log(server)
    address = server.add_listener(("127.0.0.1", 0))
    client.add_connector(address)
    drive(server, client, until=lambda: log.open and server_log.open)
    ours = client.get_socket_by_conn(log.open[0]).sock
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000
    theirs = server.get_socket_by_conn(server_log.open[0]).sock
    assert not theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert not theirs.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_what_was_sent_before_the_close_arrives_though_more_came_in(
    make_link: Callable[..., Link],
) -> None:
    server = make_link()
    log = Log(server)
    address = server.add_listener(("127.0.0.1", 0))
    with socket.create_connection(address) as client:
        drive(server, until=lambda: log.open)
        (conn,) = log.open
        client.sendall(b"nobody reads this" * 1000)
        server.send(conn, b"farewell")
        server.close(conn)
        client.sendall(b"nor this")
        received = b""
        client.settimeout(0.01)
        while True:
            server.step(0)
            try:
                piece = client.recv(100)
            except TimeoutError:
                continue
            if not piece:
                break
            received += piece
        assert received == b"farewell"
        client.close()
        drive(server, until=lambda: not server._anonymous)


# The end.


def test_cleanup_ends_everything_and_twice_is_harmless(make_link: Callable[..., Link]) -> None:
    server, client = make_link(), make_link()
    log = Log(server)
    address = server.add_listener(("127.0.0.1", 0))
    client.add_connector(address)
    drive(server, client, until=lambda: log.open)
    server.cleanup()
    assert log.count("disconnect") == 1
    server.cleanup()
    server.wakeup_poll()
    server.stop()
    for call in (
        lambda: server.loop(),
        lambda: server.add_listener(("", 0)),
        lambda: server.add_connector(address),
    ):
        with pytest.raises(RuntimeError, match="cleaned up"):
            call()


# TLS.


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SSLConfig]:
    folder = tmp_path_factory.mktemp("certificates")
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    configs = {}
    for name, issuer in (("good", authority), ("foreign", stranger)):
        certificate = issuer.issue_cert(f"{name}.example")
        certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        configs[name] = SSLConfig(
            str(folder / f"{name}.key"),
            str(folder / f"{name}.pem"),
            cert_reqs=ssl.CERT_REQUIRED,
            ca_certs=str(folder / "ca.pem"),
        )
    configs["unchecked"] = SSLConfig(folder / "good.key", folder / "good.pem")
    return configs


def test_both_sides_see_the_others_certificate(
    make_link: Callable[..., Link], certificates: dict[str, SSLConfig]
) -> None:
    server, client = make_link(), make_link()
    log, server_log = Log(client), Log(server)
    address = server.add_listener(("127.0.0.1", 0), ssl_config=certificates["good"])
    client.add_connector(address, ssl_config=certificates["good"])
    drive(server, client, until=lambda: log.open and server_log.open)
    for link, one in ((client, log), (server, server_log)):
        sock = link.get_socket_by_conn(one.open[0])
        assert sock.getpeercert()["subjectAltName"] == (("DNS", "good.example"),)
        assert sock.getpeercert(True).startswith(b"0")
        assert sock.getpeercert(binary_form=True) == sock.getpeercert(True)


def test_without_verification_there_is_no_certificate_to_see(
    make_link: Callable[..., Link], certificates: dict[str, SSLConfig]
) -> None:
    server, client = make_link(), make_link()
    log, server_log = Log(client), Log(server)
    address = server.add_listener(("127.0.0.1", 0), ssl_config=certificates["unchecked"])
    client.add_connector(address, ssl_config=SSLConfig())
    drive(server, client, until=lambda: log.open and server_log.open)
    assert server.get_socket_by_conn(server_log.open[0]).getpeercert() is None
    assert client.get_socket_by_conn(log.open[0]).getpeercert() == {}


def test_a_foreign_certificate_is_refused_and_leaves_nothing(
    make_link: Callable[..., Link],
    certificates: dict[str, SSLConfig],
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, client = make_link(), make_link()
    log, server_log = Log(client), Log(server)
    address = server.add_listener(("127.0.0.1", 0), ssl_config=certificates["good"])
    client.add_connector(address, ssl_config=certificates["foreign"])
    drive(server, client, until=lambda: caplog.text.count("TLS handshake") >= 3)
    assert server_log.events == []
    assert log.open == []
    client.del_connector(address)
    drive(server, client, until=lambda: not server._anonymous and not client._anonymous)
    assert len(server._timers) == len(client._timers) == 0


@pytest.mark.parametrize("says", [b"", b"hello, is this plain text?\r\n\r\n"])
def test_who_does_not_shake_hands_is_closed(
    make_link: Callable[..., Link],
    certificates: dict[str, SSLConfig],
    says: bytes,
) -> None:
    server = make_link(limits=ConnectionLimits(handshake_timeout=0.05))
    log = Log(server)
    address = server.add_listener(("127.0.0.1", 0), ssl_config=certificates["good"])
    with socket.create_connection(address) as client:
        client.sendall(says)
        client.settimeout(0.01)
        ended = False
        while not ended:
            server.step(0.01)
            try:
                ended = client.recv(1000) == b""
            except TimeoutError:
                continue
            except ConnectionResetError:
                ended = True
    assert log.events == []
    drive(server, until=lambda: not server._anonymous)
    assert len(server._timers) == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"keyfile": "key.pem"}, "certfile"),
        ({"ssl_version": 3}, "ssl_version"),
    ],
)
def test_settings_that_can_not_work_are_refused(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SSLConfig(**arguments)


def test_missing_files_and_certificates_are_told_at_once(
    make_link: Callable[..., Link],
) -> None:
    link = make_link()
    with pytest.raises(ValueError, match="certfile"):
        link.add_listener(("127.0.0.1", 0), ssl_config=SSLConfig())
    missing = SSLConfig("no.key", "no.pem")
    with pytest.raises(FileNotFoundError):
        link.add_listener(("127.0.0.1", 0), ssl_config=missing)
    with pytest.raises(FileNotFoundError):
        link.add_connector(("127.0.0.1", 1), ssl_config=missing)
    assert link.listeners == link.connectors == []


def test_large_data_over_tls_both_ways_at_once(
    make_link: Callable[..., Link], certificates: dict[str, SSLConfig]
) -> None:
    server, client = make_link(), make_link()
    log, server_log = Log(client), Log(server)
    address = server.add_listener(("127.0.0.1", 0), ssl_config=certificates["good"])
    client.add_connector(address, ssl_config=certificates["good"])
    data = os.urandom(3_000_000)
    sent: list[int] = []
    for link in (server, client):
        link.on_connect.add(lambda conn, link=link: link.send(conn, data))  # type: ignore[misc]
        link.on_ready_to_send.add(lambda conn, size: sent.append(size))

    def complete() -> bool:
        both = [*log.received.values(), *server_log.received.values()]
        return len(both) == 2 and all(len(one) == len(data) for one in both)

    drive(server, client, until=complete)
    assert {*log.received.values(), *server_log.received.values()} == {data}
    assert sent == [len(data)] * 2


@pytest.mark.skipif(not link_socket._WAITS_FOR_ALL, reason="this system wakes for each part")
def test_the_loop_sleeps_until_all_is_there_that_belongs_together(
    make_link: Callable[..., Link],
) -> None:
    link = make_link()
    log = Log(link)
    with socket.create_connection(link.add_listener(("127.0.0.1", 0))) as sock:
        drive(link, until=lambda: log.open)
        (conn,) = log.open
        link.expect(conn, 300_000)
        sock.sendall(bytes(299_999))
        for _ in range(20):
            link.step(0.001)
        assert log.received == {}
        sock.sendall(b"1")
        drive(link, until=lambda: log.received)
        assert log.received == {conn: bytes(299_999) + b"1"}
        # For less, and for the end, nobody waits.
        link.expect(conn, 29)
        sock.sendall(b"2")
        drive(link, until=lambda: len(log.received[conn]) > 300_000)
        link.expect(conn, 300_000)
    drive(link, until=lambda: not log.open)


def test_a_large_message_that_comes_slowly_is_a_sign_of_life(
    make_link: Callable[..., Link],
) -> None:
    link = make_link()
    packeter = Packeter(link)
    messaging = Messaging("bob", "", packeter)
    messaging.keepalive_interval = 0.02
    messaging.keepalive_wait = DEADLINE
    log = Log(link)
    hello = (b"\0\0\0\0\1", b"\2alice")
    with socket.create_connection(link.add_listener(("127.0.0.1", 0))) as sock:
        begun = b"".join(struct.pack("!I", len(frame)) + frame for frame in hello)
        begun += struct.pack("!I", 1024 * 1024) + b"\3" + bytes(24)
        sock.sendall(begun)
        drive(link, until=lambda: list(log.received.values()) == [begun])
        (conn,) = log.open
        before = packeter.last_recv(conn)
        drive(link, until=lambda: link.time() > before)
        sock.sendall(bytes(100))
        drive(link, until=lambda: packeter.last_recv(conn) > before)
        assert log.open
