"""Remote calls whose messages are received by the threads that wait for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

import snakemq.rpc.client as client_module
import snakemq.rpc.server as server_module
from snakemq import Peer, ReceivedMessage, as_signal, quick
from snakemq.message import Message
from snakemq.messaging import ReceiveHook
from snakemq.rpc import JSON, NotAuthorized
from tests.helpers import DEADLINE, wait_until
from tests.layers.peers import OldPeer, connected_pair


class Where:
    """Which threads something happened in, by their names."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def note(self, *args: Any) -> None:
        self.names.add(threading.current_thread().name)


class Served:
    """What both sides serve."""

    def __init__(self) -> None:
        self.methods = Where()
        self.quick_ones = Where()

    def echo(self, value: Any) -> Any:
        self.methods.note()
        return value

    @quick
    def hurry(self, value: Any) -> Any:
        self.quick_ones.note()
        return value

    def count(self, end: int) -> Iterator[int]:
        yield from range(end)


@contextmanager
def calling(**options: Any) -> Iterator[tuple[Peer, Peer, Callable[[Any], Any]]]:
    """Bob, alice, and a method of his that she can call."""
    with connected_pair(bob={"serve": {"served": Served()}}, alice=options) as (bob, alice):
        echo = alice.proxy("bob", "served").echo.with_options(timeout=DEADLINE)
        assert echo(b"warm") == b"warm"
        yield bob, alice, echo


def attempts(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads that began to poll, from now on."""
    seen: list[str] = []
    poller = peer.link._poller
    poll = poller.poll

    def noting(*args: Any) -> bool:
        seen.append(threading.current_thread().name)
        return poll(*args)

    monkeypatch.setattr(poller, "poll", noting)
    return seen


def receivers(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> set[str]:
    """The threads that read what was received."""
    seen: set[str] = set()
    read = getattr(module, name)

    def noting(record: Any) -> Any:
        seen.add(threading.current_thread().name)
        return read(record)

    monkeypatch.setattr(module, name, noting)
    return seen


def call_until(echo: Callable[[Any], Any], condition: Callable[[], object]) -> None:
    """On a busy machine hardly anybody finds the loop asleep, so: often."""

    def once() -> object:
        for index in range(50):
            assert echo(index) == index
        return condition()

    wait_until(once)


def test_the_caller_receives_the_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = receivers(monkeypatch, client_module, "parse_reply")
    with calling() as (_, _, echo):
        call_until(echo, lambda: threading.current_thread().name in seen)
    assert seen <= {threading.current_thread().name, "snakemq peer alice"}


def test_a_worker_receives_the_next_request(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = receivers(monkeypatch, server_module, "parse_request")
    with calling() as (_, _, echo):
        call_until(echo, lambda: any(name.startswith("snakemq-rpc") for name in seen))
    assert all(name.startswith(("snakemq-rpc", "snakemq peer bob")) for name in seen)


def test_two_callers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with calling() as (_, _, echo):
        failures: list[BaseException] = []

        def call_often(start: int) -> None:
            try:
                for value in range(start, start + 500):
                    assert echo(value) == value
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=call_often, args=(n * 1000,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert not failures
        assert not any(thread.is_alive() for thread in threads)


def ignore(*args: Any) -> None:
    """A callback of a program."""


SLOTS = [
    ("link", "on_recv"),
    ("link", "on_ready_to_send"),
    ("packeter", "on_packet_recv"),
    ("packeter", "on_packets_recv"),
    ("packeter", "on_packet_sent"),
    ("packeter", "on_packets_sent"),
    ("messaging", "on_message_recv"),
    ("messaging", "on_messages_sent"),
    ("messaging", "on_message_sent"),
    (None, "on_message_sent"),
]


@pytest.mark.parametrize(("layer", "slot"), SLOTS)
def test_never_if_the_program_would_be_told(
    layer: str | None, slot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with calling() as (_, alice, echo):
        seen = attempts(alice, monkeypatch)
        call_until(echo, lambda: seen)
        getattr(alice if layer is None else getattr(alice, layer), slot).add(ignore)
        echo(b"the last one")
        seen.clear()
        # More than are left out when it was in vain.
        for index in range(300):
            echo(index)
        assert seen == []


def test_never_if_the_program_has_a_hook_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    where = Where()
    with calling() as (_, alice, echo):
        seen = attempts(alice, monkeypatch)
        ReceiveHook(alice.messaging).register(b"rpcrep", where.note)
        for index in range(300):
            echo(index)
        wait_until(lambda: where.names)
    assert seen == []
    assert where.names == {"snakemq peer alice"}


def test_never_with_an_inbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    options = {"storage": str(tmp_path / "alice.db"), "durable_receive": True}
    with calling(**options) as (_, alice, echo):
        seen = attempts(alice, monkeypatch)
        for index in range(50):
            echo(index)
    assert seen == []


def test_never_with_one_of_1_6(monkeypatch: pytest.MonkeyPatch) -> None:
    old = OldPeer()
    old.answers.set()
    try:
        with Peer("alice", connect=old.address) as alice:
            assert alice.wait_connected("bob", DEADLINE)
            wait_until(lambda: alice.messaging.peer_features("bob") is not None)
            alice.proxy("bob", "served")  # a client, which receives replies
            seen = attempts(alice, monkeypatch)
            for _ in range(50):
                wait_until(alice.link.is_asleep)
                end = alice.link.time() + 0.001
                assert not alice.messaging.shortcut.poll("bob", b"", b"", ignore, bool, end)
    finally:
        old.close()
    assert seen == []


def test_who_may_call_is_still_asked() -> None:
    asked: list[str] = []

    def authorize(request: Any) -> bool:
        asked.append(request.method)
        return bool(request.method == "echo")

    options = {"serve": {"served": Served()}, "authorize": authorize}
    with connected_pair(bob=options) as (_, alice):
        proxy = alice.proxy("bob", "served")
        for index in range(200):
            assert proxy.echo(index) == index
            with pytest.raises(NotAuthorized):
                proxy.count(index)
    assert asked.count("echo") >= 200
    assert asked.count("count") >= 200


def test_callbacks_stay_in_the_thread_of_the_loop() -> None:
    services = {"bob": Served(), "alice": Served()}
    callbacks = {"bob": Where(), "alice": Where()}
    received: dict[str, list[bytes]] = {"bob": [], "alice": []}
    count = 150

    def options(name: str) -> dict[str, Any]:
        def on_message(message: Any) -> None:
            callbacks[name].note()
            received[name].append(message.data)

        return {"serve": {"served": services[name]}, "on_message": on_message}

    with connected_pair(bob=options("bob"), alice=options("alice")) as peers:
        failures: list[BaseException] = []

        def mix(peer: Peer, other: str) -> None:
            where = callbacks[peer.identifier]
            peer.on_peer_disconnect.add(where.note)
            proxy = peer.proxy(other, "served")
            try:
                for index in range(count):
                    delivery = peer.send(other, b"%d" % index, track=True)
                    assert proxy.echo(index) == index
                    assert proxy.hurry(index) == index
                    assert delivery.wait(timeout=DEADLINE)
                    peer.send(other, b"between")
                    assert list(proxy.count(3)) == [0, 1, 2]
            except BaseException as exc:
                failures.append(exc)

        bob, alice = peers
        threads = [
            threading.Thread(target=mix, args=(bob, "alice")),
            threading.Thread(target=mix, args=(alice, "bob")),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * DEADLINE)
        assert not failures
        wait_until(lambda: all(len(data) == 2 * count for data in received.values()))
    for name, data in received.items():
        loop = f"snakemq peer {name}"
        assert data == [b"%d" % (n // 2) if n % 2 == 0 else b"between" for n in range(2 * count)]
        assert callbacks[name].names == {loop}
        assert services[name].quick_ones.names == {loop}
        assert all(where.startswith("snakemq-rpc") for where in services[name].methods.names)


def test_quick_signals_run_in_their_order() -> None:
    order: list[int] = []

    class Notes:
        @quick
        @as_signal
        def note(self, value: int) -> None:
            order.append(value)

        def nothing(self) -> None:
            """Has a worker wait for what comes next."""

    with connected_pair(bob={"serve": {"notes": Notes()}}) as (_, alice):
        notes = alice.proxy("bob", "notes")
        for start in range(0, 400, 4):
            notes.nothing()
            for value in range(start, start + 4):
                notes.note.signal()(value)
        wait_until(lambda: len(order) == 400)
    assert order == list(range(400))


@pytest.mark.parametrize("who", ["bob", "alice"])
def test_stopping_while_calls_are_made(who: str) -> None:
    for _ in range(5):
        with connected_pair(bob={"serve": {"served": Served()}}) as (bob, alice):
            proxy = alice.proxy("bob", "served").echo.with_options(timeout=DEADLINE)
            calls: list[int] = []
            ends: list[BaseException] = []

            def call_on(proxy: Any = proxy, calls: list[int] = calls, ends: Any = ends) -> None:
                try:
                    while True:
                        calls.append(proxy(len(calls)))
                except BaseException as exc:
                    ends.append(exc)

            thread = threading.Thread(target=call_on)
            thread.start()
            wait_until(lambda calls=calls: len(calls) > 20)
            {"bob": bob, "alice": alice}[who].stop()
            alice.stop(drain=0)
            thread.join(DEADLINE)
            assert not thread.is_alive()
            assert calls == list(range(len(calls)))
            assert len(ends) == 1


def test_everything_is_acknowledged_although_only_threads_receive() -> None:
    with calling() as (bob, alice, echo):
        for index in range(2000):
            echo(index)
        # Nothing is kept that the other side has: not while it goes on, nor after it.
        for peer, other in ((bob, "alice"), (alice, "bob")):
            assert peer.queued(other) < 1000
        for peer, other in ((bob, "alice"), (alice, "bob")):
            wait_until(lambda p=peer, o=other: p.queued(o) == 0)


def test_a_callback_of_another_stack_can_call() -> None:
    """A gateway: the thread that waits is a loop's, and puts off what it wakes."""
    results: list[int] = []
    with (
        Peer("server", listen=0, serve={"obj": Served()}) as server,
        Peer("client", connect=server.addresses[0]) as client,
    ):
        assert client.wait_connected("server", DEADLINE)
        echo = client.proxy("server", "obj").echo.with_options(timeout=DEADLINE)

        def pass_on(received: ReceivedMessage) -> None:
            results.extend(echo(number) for number in range(50))

        with (
            Peer("gateway", listen=0, on_message=pass_on) as gateway,
            Peer("source", connect=gateway.addresses[0]) as source,
        ):
            assert source.wait_connected("gateway", DEADLINE)
            source.send("gateway", b"go")
            wait_until(lambda: len(results) == 50)
    assert results == list(range(50))


def test_an_error_of_authorize_is_told_in_the_loops_thread() -> None:
    threads: set[int] = set()

    def authorize(request: object) -> bool:
        raise LookupError

    with (
        Peer("server", listen=0, serve={"obj": Served()}, authorize=authorize) as server,
        Peer("client", connect=server.addresses[0]) as client,
    ):
        server.on_error.add(lambda conn_id, exc: threads.add(threading.get_ident()))
        loop: Future[int] = Future()
        server.link.call_soon(lambda: loop.set_result(threading.get_ident()))
        assert client.wait_connected("server", DEADLINE)
        echo = client.proxy("server", "obj").echo
        for _ in range(200):
            with pytest.raises(NotAuthorized):
                echo(1)
        wait_until(lambda: threads)
    assert threads == {loop.result(DEADLINE)}


def test_replies_in_json_are_received_by_the_caller_too() -> None:
    with (
        Peer("server", listen=0, serve={"obj": Served()}, pickler=JSON) as server,
        Peer("client", connect=server.addresses[0], pickler=JSON) as client,
    ):
        assert client.wait_connected("server", DEADLINE)
        echo = client.proxy("server", "obj").echo
        received: list[int] = []
        receive = client.rpc_client._receive_here

        def noted(conn_id: str, ident: str, message: Message) -> bool:
            received.append(threading.get_ident())
            return receive(conn_id, ident, message)

        client.rpc_client._awake._deliver = noted
        call_until(echo, lambda: received)
        assert set(received) == {threading.get_ident()}
