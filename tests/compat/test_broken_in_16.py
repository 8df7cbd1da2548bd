"""What is broken in snakeMQ 1.6, one test for each, is right here.

``Hangs`` are what ended or blocked its loop, ``Wrong`` is the rest. Delivery
that is acknowledged, safe reading of pickle and limits before the
identification are not here.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import snakemq.rpc
from snakemq.exceptions import (
    SnakeMQBrokenMessage,
    SnakeMQException,
    SnakeMQIncompatibleProtocol,
    SnakeMQNoIdent,
)
from snakemq.link import Link, SSLConfig
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.messaging import ReceiveHook
from snakemq.packeter import Packeter
from snakemq.rpc import RpcServer
from snakemq.storage.sqlite import SqliteQueuesStorage
from snakemq.testing import SimNetwork, SimStack
from tests.compat.inprocess import (
    LOCALHOST,
    PONG_PACKET,
    VERSION_PACKET,
    RawPeer,
    RpcStack,
    Stack,
    ident_packet,
    message_packet,
    packet,
    stacks,
)
from tests.helpers import DEADLINE, wait_until


@pytest.fixture
def stack() -> Iterator[Stack]:
    """A running peer that listens at ``stack.port``; it must survive the test."""
    made = Stack("stack")
    made.listen()
    with stacks(made.start()):
        yield made
        assert made.alive
        # Not only is there a loop: it does its work.
        with RawPeer.identified(made.port, "last one") as raw:
            made.send("last one", b"?", ttl=60)
            assert raw.frame()[25:] == b"?"


class TestHangs:
    def test_a_peer_that_vanishes_between_poll_and_send(self, stack: Stack) -> None:
        """1.6 took its own lock a second time."""
        raw = RawPeer.identified(stack.port, "raw")
        stack.wait("connected")

        def vanish_and_send() -> None:
            raw.reset()
            for _ in range(50):
                stack.send("raw", bytes(100_000))

        stack.in_loop(vanish_and_send)
        stack.wait("disconnected", peer="raw")
        assert len(stack.log.all("disconnected")) == 1

    def test_keepalive_closes_several_dead_peers(self, stack: Stack) -> None:
        """1.6 changed a dictionary while it iterated over it."""
        silent = [RawPeer.identified(stack.port, f"silent {n}") for n in range(5)]
        stack.log.wait("connected", count=5)
        stack.messaging.keepalive_wait = 0.05
        stack.messaging.keepalive_interval = 0.05
        stack.log.wait("disconnected", count=5)
        stack.messaging.keepalive_interval = None
        for raw in silent:
            raw.close()

    def test_two_bad_frames_in_one_segment(self, stack: Stack) -> None:
        with RawPeer.identified(stack.port, "raw") as raw:
            raw.send(packet(b"\x03short") * 2)
            assert raw.is_closed()
        stack.wait("disconnected")
        assert [e["type"] for e in stack.log.all("error")] == [SnakeMQBrokenMessage]

    def test_messages_before_the_identification(self, stack: Stack) -> None:
        with RawPeer.dial(stack.port) as raw:
            raw.send(message_packet(b"1") * 3 + ident_packet("raw") + message_packet(b"2"))
            stack.wait("link disconnected")
        assert [e["type"] for e in stack.log.all("error")] == [SnakeMQNoIdent]
        assert not stack.log.all("message")
        assert not stack.log.all("connected")

    def test_a_duplicate_identifier_followed_by_messages(self, stack: Stack) -> None:
        with RawPeer.identified(stack.port, "twin") as first, RawPeer.dial(stack.port) as second:
            stack.wait("connected")
            second.send(ident_packet("twin") + message_packet(b"not mine") * 3)
            first_frame = first.frame()
            assert first_frame == b"\x04"  # is it alive?
            first.send(PONG_PACKET)
            second.frame(), second.frame()
            assert second.is_closed()
            first.send(message_packet(b"mine"))
            assert stack.wait("message")["data"] == b"mine"
        assert len(stack.log.all("message")) == 1

    def test_a_dead_connection_gives_way_to_its_peer(self, stack: Stack) -> None:
        """1.6 kept the old one, until the system gave it up."""
        stack.messaging.takeover_wait = 0.05
        with RawPeer.identified(stack.port, "twin") as first, RawPeer.dial(stack.port) as second:
            stack.wait("connected")
            second.send(ident_packet("twin") + message_packet(b"early"))
            assert stack.wait("message")["data"] == b"early"
            assert len(stack.log.all("connected")) == 2
            assert len(stack.log.all("disconnected")) == 1
            assert first.frame() == b"\x04"
            assert first.is_closed()
            stack.send("twin", b"to the new one", ttl=60)
            assert [second.frame()[0] for _ in range(2)] == [0, 2]
            assert second.message() == b"to the new one"

    def test_an_incompatible_version_followed_by_data(self, stack: Stack) -> None:
        with RawPeer.dial(stack.port) as raw:
            raw.send(packet(b"\0\0\0\0\2") + ident_packet("raw") + message_packet(b"x") * 3)
            raw.rest()
        stack.wait("link disconnected")
        assert [e["type"] for e in stack.log.all("error")] == [SnakeMQIncompatibleProtocol]
        assert not stack.log.all("message")

    def test_frames_after_a_callback_has_closed_the_connection(self, stack: Stack) -> None:
        stack.messaging.on_message_recv.add(lambda conn, *_: stack.packeter.close(conn))
        with RawPeer.identified(stack.port, "raw") as raw:
            raw.send(message_packet(b"1") * 3)
            assert raw.is_closed()
        assert len(stack.log.all("message")) == 1
        stack.messaging.on_message_recv = None

    BAD_RECORDS = (
        b"",
        b"garbage",
        pickle.dumps(None),
        pickle.dumps([1, 2]),
        pickle.dumps({}),
        pickle.dumps({"command": "call"}),
        pickle.dumps({"command": "unheard of", "req_id": b"r" * 16}),
        pickle.dumps(
            {
                "command": "call",
                "object": ["unhashable"],
                "method": 5,
                "args": 7,
                "kwargs": 8,
                "req_id": b"r" * 16,
            }
        ),
        pickle.dumps(
            {"command": "call", "object": "service", "method": "ok", "args": (), "kwargs": {}}
        ),
        pickle.dumps({"req_id": b"nobody asked for it", "ok": True, "return": 1}),
        pickle.dumps({"req_id": None, "ok": False}),
        pickle.dumps({"ok": True, "return": 1}),
        pickle.dumps({"command": "call"})[:-3],
        b"cno_such_module\nno_such_class\n.",
    )

    @pytest.mark.parametrize("prefix", [b"rpcreq", b"rpcrep"])
    def test_bad_requests_and_replies(self, prefix: bytes) -> None:
        class Served:
            def ok(self) -> str:
                return "ok"

        server, client = RpcStack("server", Served()), RpcStack("client")
        port = server.listen()
        client.connect(port)
        with stacks(server.start(), client.start()):
            with RawPeer.identified(port, "raw") as raw:
                for record in self.BAD_RECORDS:
                    raw.send(message_packet(prefix + record))
                raw.ping()
            client.wait("connected")
            for record in self.BAD_RECORDS:
                server.send("client", prefix + record, ttl=60)
                client.send("server", prefix + record, ttl=60)
            assert client.client.get_proxy("server", "service").ok() == "ok"
            assert server.alive
            assert client.alive

    @pytest.mark.parametrize(
        ("layer", "slot"),
        [
            ("link", "on_connect"),
            ("link", "on_recv"),
            ("link", "on_ready_to_send"),
            ("link", "on_disconnect"),
            ("link", "on_loop_pass"),
            ("packeter", "on_connect"),
            ("packeter", "on_packet_recv"),
            ("packeter", "on_packet_sent"),
            ("packeter", "on_disconnect"),
            ("messaging", "on_connect"),
            ("messaging", "on_message_recv"),
            ("messaging", "on_message_sent"),
            ("messaging", "on_message_drop"),
            ("messaging", "on_disconnect"),
        ],
    )
    def test_an_exception_in_any_callback(self, layer: str, slot: str) -> None:
        """It is reported to ``on_error`` of that layer; everything else goes on."""
        a, b = Stack("a"), Stack("b")
        port = a.listen()
        errors: list[Exception] = []
        after: list[None] = []

        def fail(*_: Any) -> None:
            raise ZeroDivisionError(slot)

        owner = getattr(a, layer)
        getattr(owner, slot).add(fail)
        getattr(owner, slot).add(lambda *_: after.append(None))
        owner.on_error.add(lambda conn, exc: errors.append(exc))
        with stacks(a.start(), b):
            b.connect(port)
            b.start()
            a.send("b", b"down", ttl=60)
            a.send("nobody", b"", ttl=0.01)
            b.send("a", b"up", ttl=60)
            assert b.wait("message")["data"] == b"down"
            assert a.wait("message")["data"] == b"up"
            a.wait("sent")
            a.wait("dropped")
            b.stop()
            b.link.cleanup()
            a.wait("disconnected")
            wait_until(lambda: errors and after)
            assert a.alive
        assert {str(e) for e in errors} == {slot}

    def test_an_exception_in_on_error(self, stack: Stack) -> None:
        def fail(*_: Any) -> None:
            raise ZeroDivisionError

        stack.messaging.on_error.add(fail)
        with RawPeer.dial(stack.port) as raw:
            raw.send(message_packet(b"too early"))
            stack.wait("link disconnected")

    def test_an_exception_in_a_receive_hook(self, stack: Stack) -> None:
        def fail(*_: Any) -> None:
            raise ZeroDivisionError

        calls: list[bytes] = []
        hook = ReceiveHook(stack.messaging)
        hook.register(b"", fail)
        hook.register(b"x", lambda conn, ident, message: calls.append(message.data))
        with RawPeer.identified(stack.port, "raw") as raw:
            raw.send(message_packet(b"x1") + message_packet(b"x2"))
            raw.ping()
        assert calls == [b"x1", b"x2"]
        assert [e["type"] for e in stack.log.all("error")] == [ZeroDivisionError] * 2

    def test_any_number_of_wake_ups_that_nobody_reads(self) -> None:
        """1.6 filled a pipe and then blocked in ``send_message``."""
        stack = Stack()
        message = Message(b"", ttl=None)
        with stacks(stack):
            for _ in range(100_000):
                stack.messaging.send_message("b", message)
                stack.link.wakeup_poll()
            assert stack.messaging.queued_messages("b") == 100_000
            stack.link.loop(count=1)

    def test_wake_ups_while_a_callback_keeps_the_loop_busy(self, stack: Stack) -> None:
        busy, enough = threading.Event(), threading.Event()

        def callback() -> None:
            busy.set()
            assert enough.wait(DEADLINE)

        stack.link.call_soon(callback)
        assert busy.wait(DEADLINE)
        for _ in range(100_000):
            stack.link.wakeup_poll()
        enough.set()

    def test_send_message_inside_on_message_drop(self, stack: Stack) -> None:
        """1.6 waited for its own lock."""
        stack.messaging.on_message_drop.add(
            lambda ident, uuid: stack.send("raw", b"instead", ttl=60)
        )
        stack.send("nobody", ttl=0.01)
        with RawPeer.identified(stack.port, "raw") as raw:
            assert raw.frame()[25:] == b"instead"

    def test_wake_ups_after_cleanup(self) -> None:
        """1.6 wrote into whatever file had got the number of its pipe."""
        stack = Stack()
        stack.close()
        pipes = [os.pipe() for _ in range(8)]
        try:
            for _ in range(10):
                stack.link.wakeup_poll()
                stack.send("b", ttl=60)
            for reader, _ in pipes:
                os.set_blocking(reader, False)
                with pytest.raises(BlockingIOError):
                    os.read(reader, 1)
        finally:
            for pair in pipes:
                for fd in pair:
                    os.close(fd)


class TestWrong:
    def test_messages_stay_queued_until_they_are_sent(self) -> None:
        """1.6 forgot them when it handed them to its own buffers.

        What was not handed to the system when the connection broke comes back,
        in order, and goes out on the next one.
        """
        sender = Stack("sender")
        port = sender.listen()
        count, size = 60, 500_000
        with stacks(sender.start()):
            with RawPeer.identified(port, "raw") as raw:
                sender.wait("connected")
                for number in range(count):
                    sender.send("raw", b"%04d" % number + bytes(size), ttl=None)
                # Nobody reads, so most of it has nowhere to go.
                sender.wait("sent")
                assert sender.messaging.queued_messages("raw") > count / 2
                raw.reset()
            sender.wait("disconnected")
            sent = len(sender.log.all("sent"))
            assert sender.messaging.queued_messages("raw") == count - sent
            with RawPeer.identified(port, "raw") as raw:
                numbers = [int(raw.message()[:4]) for _ in range(count - sent)]
            assert numbers == list(range(sent, count))
            sender.log.wait("sent", count=count)
            assert sender.messaging.queued_messages("raw") == 0

    def test_persistent_messages_stay_queued_and_stored_until_a_pong(self, tmp_path: Path) -> None:
        """1.6 removed them from its storage when it handed them to its own buffers.

        A pong says that the callbacks of all earlier messages have returned.
        Until then they come again on each connection.
        """
        file = str(tmp_path / "storage.db")
        sender = Stack("sender", SqliteQueuesStorage(file))
        port = sender.listen()
        with stacks(sender.start()):
            with RawPeer.identified(port, "raw") as raw:
                uuids = [
                    sender.send("raw", b"%d" % number, ttl=None, flags=FLAG_PERSISTENT)
                    for number in range(3)
                ]
                received: list[bytes] = []
                while len(received) < 3:
                    frame = raw.frame()
                    if frame != b"\x04":
                        received.append(frame[25:])
                sender.log.wait("sent", count=3)
                assert sender.messaging.queued_messages("raw") == 3
                with contextlib.closing(SqliteQueuesStorage(file, read_only=True)) as other:
                    assert len(other.get_items("raw")) == 3
            sender.wait("disconnected")
            with RawPeer.identified(port, "raw") as raw:
                assert [raw.message() for _ in range(3)] == received == [b"0", b"1", b"2"]
                assert raw.frame() == b"\x04"
                assert sender.messaging.queued_messages("raw") == 3
                raw.send(PONG_PACKET)
                assert [e["uuid"] for e in sender.log.wait("acked", count=3)] == uuids
                assert sender.messaging.queued_messages("raw") == 0
            assert len(sender.log.all("sent")) == 3  # each is told once
        with contextlib.closing(SqliteQueuesStorage(file, read_only=True)) as other:
            assert other.get_items("raw") == []

    def test_ttl_begins_when_the_message_is_sent(self) -> None:
        """1.6 counted all of the peer's absence, also the time before."""
        network = SimNetwork()
        sender = SimStack(network, "sender")
        network.run(1000)
        sender.send("late", b"hello", ttl=10)
        network.run(6)
        late = SimStack(network, "late")
        late.connect(sender)
        assert network.run_until(lambda: late.received, timeout=3)
        ((_, message),) = late.received
        assert message.ttl is not None
        assert 3 <= message.ttl <= 4

    def test_ttl_stands_still_while_the_peer_is_connected(self) -> None:
        network = SimNetwork()
        sender = SimStack(network, "sender", throttle=1000)
        receiver = SimStack(network, "receiver")
        receiver.connect(sender, 1)
        assert network.run_until(lambda: sender.messaging.is_connected("receiver"))
        sender.send("receiver", bytes(200_000))
        sender.send("receiver", b"behind it", ttl=10)
        network.run(100)
        network.cut("sender", "receiver")
        network.run(3)
        assert network.run_until(lambda: len(receiver.received) == 2, timeout=1000)
        assert receiver.received[1][1].data == b"behind it"

    def test_a_message_expires_when_it_expires(self) -> None:
        """1.6 noticed at the next connect, and kept it until then."""
        network = SimNetwork()
        sender = SimStack(network, "sender")
        drops: list[tuple[float, bytes]] = []
        sender.messaging.on_message_drop.add(
            lambda ident, uuid: drops.append((network.time(), uuid))
        )
        uuids = [sender.send("nobody", b"", ttl=ttl).uuid for ttl in (30, 10, 20)]
        network.run(100)
        assert [uuid for _, uuid in drops] == [uuids[1], uuids[2], uuids[0]]
        assert [when for when, _ in drops] == pytest.approx([10, 20, 30], abs=0.1)
        assert sender.messaging.queued_messages() == 0

    def test_expired_messages_leave_memory(self) -> None:
        stack = Stack()
        with stacks(stack.start()):
            for _ in range(1000):
                stack.send("nobody", ttl=0.01)
            stack.log.wait("dropped", count=1000)
            wait_until(lambda: stack.messaging.queued_messages() == 0)
            wait_until(lambda: len(stack.messaging.queues_manager) == 0)

    def test_messaging_over_a_throttle(self) -> None:
        """1.6 sent bytes twice, and Messaging sent nothing."""
        sender = Stack("sender", throttle=400_000)
        port = sender.listen()
        payloads = [bytes([number]) * 1000 for number in range(120)]
        with stacks(sender.start()), RawPeer.identified(port, "raw") as raw:
            sender.wait("connected")
            for payload in payloads:
                sender.send("raw", payload)
            assert [raw.frame()[25:] for _ in payloads] == payloads
            sender.log.wait("sent", count=len(payloads))
            # There is nothing else on the wire.
            raw.ping()

    def test_all_that_is_ready_goes_out_together(self) -> None:
        """1.6 sent one message to a peer in a pass of the loop."""
        stack = Stack()
        port = stack.listen()
        sends: list[int] = []
        stack.link.on_ready_to_send.add(lambda conn, size: sends.append(size))
        for _ in range(1000):
            stack.send("raw", b"x", ttl=60)
        with stacks(stack.start()), RawPeer.identified(port, "raw") as raw:
            for _ in range(1000):
                raw.frame()
            stack.log.wait("sent", count=1000)
        assert len(sends) < 20

    def test_sqlite_storage_belongs_to_no_thread(self, tmp_path: Path) -> None:
        """Opened here, used by the loop's thread and by two others."""
        storage = SqliteQueuesStorage(str(tmp_path / "storage.db"))
        sender = Stack("sender", storage)
        port = sender.listen()
        with stacks(sender.start()):
            threads = [
                threading.Thread(
                    target=sender.send, args=("raw",), kwargs={"ttl": 60, "flags": FLAG_PERSISTENT}
                )
                for _ in range(2)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE)
            assert len(storage.get_items("raw")) == 2
            with RawPeer.identified(port, "raw") as raw:
                raw.message(), raw.message()
                assert raw.frame() == b"\x04"
                raw.send(PONG_PACKET)
                sender.log.wait("acked", count=2)
            assert storage.get_items("raw") == []

    def test_an_empty_packet_does_not_wait_for_the_next_bytes(self) -> None:
        link = Link()
        packeter = Packeter(link)
        port = link.add_listener((LOCALHOST, 0))[1]
        packets: list[bytes] = []

        def on_packet(conn: str, data: bytes) -> None:
            packets.append(data)
            link.stop()

        packeter.on_packet_recv.add(on_packet)
        with RawPeer.dial(port) as raw:
            raw.send(bytes(4))
            link.loop(runtime=DEADLINE)
        assert packets == [b""]
        link.cleanup()

    def test_an_accepted_socket_knows_its_remote_peer(self, stack: Stack) -> None:
        seen: list[Any] = []
        stack.link.on_connect.add(
            lambda conn: seen.append(stack.link.get_socket_by_conn(conn).remote_peer)
        )
        with RawPeer.identified(stack.port, "raw") as raw:
            assert seen == [raw.sock.getsockname()]

    def test_the_same_listener_twice(self) -> None:
        link = Link()
        address = link.add_listener((LOCALHOST, 0))
        with pytest.raises(ValueError, match="already"):
            link.add_listener(address)
        link.cleanup()

    def test_a_backlog_that_takes_a_crowd(self) -> None:
        """1.6 had room for ten; who came later tried again after seconds."""
        stack = Stack()
        port = stack.listen()
        crowd = [RawPeer.dial(port) for _ in range(150)]
        try:
            with stacks(stack.start()):
                for raw in crowd:
                    raw.frame()
        finally:
            for raw in crowd:
                raw.close()

    def test_a_name_is_looked_up_at_each_attempt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """1.6 did that once, in ``add_connector``, and raised if it failed."""
        real = socket.getaddrinfo
        lookups: list[str] = []

        def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
            if host != "moving.example":
                return real(host, *args, **kwargs)
            if kwargs.get("flags") == socket.AI_NUMERICHOST:
                raise socket.gaierror(socket.EAI_NONAME, "not a number")
            lookups.append(host)
            if len(lookups) < 3:
                raise socket.gaierror(socket.EAI_AGAIN, "not yet")
            return real(LOCALHOST, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", lookup)
        listening, connecting = Stack("a"), Stack("b")
        port = listening.listen()
        connecting.link.add_connector(("moving.example", port), 0.02)
        with stacks(listening.start(), connecting.start()):
            connecting.wait("connected")
        assert len(lookups) == 3

    def test_a_name_with_an_ipv6_address_only(self) -> None:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("no IPv6 here")
        listening, connecting = Stack("a"), Stack("b")
        port = listening.listen("::1")
        connecting.link.add_connector(("::1", port), 0.05)
        with stacks(listening.start(), connecting.start()):
            connecting.wait("connected")

    def test_all_addresses_of_a_name_are_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = socket.getaddrinfo
        with socket.create_server((LOCALHOST, 0)) as closed:
            dead = closed.getsockname()
        listening, connecting = Stack("a"), Stack("b")
        port = listening.listen()

        def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
            if host != "several.example":
                return real(host, *args, **kwargs)
            if kwargs.get("flags") == socket.AI_NUMERICHOST:
                raise socket.gaierror(socket.EAI_NONAME, "not a number")
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*kind, dead), (*kind, (LOCALHOST, port))]

        monkeypatch.setattr(socket, "getaddrinfo", lookup)
        connecting.link.add_connector(("several.example", port), 60)
        with stacks(listening.start(), connecting.start()):
            connecting.wait("connected")

    def test_the_delay_between_attempts_grows(self) -> None:
        """1.6 knocked at a fixed interval. Here it doubles, and is drawn from the upper half."""
        with socket.create_server((LOCALHOST, 0)) as server:
            server.settimeout(DEADLINE)
            stack = Stack()
            stack.connect(server.getsockname()[1], interval=0.02)
            start = time.monotonic()
            with stacks(stack.start()):
                for _ in range(1 + 5):
                    server.accept()[0].close()
        assert time.monotonic() - start > (0.02 + 0.04 + 0.08 + 0.16 + 0.32) / 2

    @pytest.mark.parametrize("method", ["fail_unsendably", "return_unsendable", "wrong_arguments"])
    def test_the_caller_learns_of_what_can_not_be_pickled(self, method: str) -> None:
        """1.6 left it waiting for its timeout."""

        class NoPickle(Exception):
            def __init__(self) -> None:
                super().__init__("can't travel")
                self.lock = threading.Lock()

        class WrongArguments(Exception):
            """Can be pickled, and not be unpickled."""

            def __init__(self, one: str, two: str) -> None:
                super().__init__(one + two)

        class Served:
            def fail_unsendably(self) -> None:
                raise NoPickle

            def return_unsendable(self) -> Any:
                return threading.Lock()

            def wrong_arguments(self) -> None:
                raise WrongArguments("a", "b")

        server, client = RpcStack("server", Served()), RpcStack("client")
        client.connect(server.listen())
        with stacks(server.start(), client.start()):
            with pytest.raises(snakemq.rpc.Error) as caught:
                getattr(client.client.get_proxy("server", "service"), method)()
            assert not isinstance(caught.value, snakemq.rpc.CallError)
            assert hasattr(caught.value, "__remote_traceback__")

    def test_the_number_of_threads_that_serve_is_bounded(self) -> None:
        """1.6 started one for each request."""
        gate = threading.Event()

        class Served:
            def wait(self) -> None:
                assert gate.wait(DEADLINE)

        stack, client = Stack("server"), RpcStack("client")
        server = RpcServer(ReceiveHook(stack.messaging), max_workers=4)
        server.register_object(Served(), "service")
        client.connect(stack.listen())
        proxy = client.client.get_proxy("server", "service")
        callers = [threading.Thread(target=proxy.wait) for _ in range(20)]
        with stacks(stack.start(), client.start()):
            client.wait("connected")
            for caller in callers:
                caller.start()
            wait_until(lambda: server.dispatcher.waiting == 20 - 4)
            # They may not have come up yet; more there will not be.
            wait_until(
                lambda: sum(t.name.startswith("snakemq-rpc") for t in threading.enumerate()) == 4
            )
            gate.set()
            for caller in callers:
                caller.join(DEADLINE)
                assert not caller.is_alive()
            assert server.close(DEADLINE)


class TestTls:
    """As a whole it is gone from 1.6 with Python 3.12."""

    def test_getpeercert(self, tls: SSLConfig) -> None:
        """In 1.6 an ``AttributeError``."""
        listening, connecting = Stack("a"), Stack("b")
        found: list[Any] = []
        connecting.link.on_connect.add(
            lambda conn: found.append(connecting.link.get_socket_by_conn(conn).getpeercert())
        )
        connecting.connect(listening.listen(ssl_config=tls), ssl_config=tls)
        with stacks(listening.start(), connecting.start()):
            connecting.wait("connected")
        assert found[0]["subjectAltName"] == (("DNS", "peer.example"),)

    @pytest.mark.parametrize("version", [2, 5], ids=["best", "TLS 1.2"])
    def test_the_arguments_that_1_6_passed_on(self, tls: SSLConfig, version: int) -> None:
        again = SSLConfig(
            tls.keyfile,
            tls.certfile,
            cert_reqs=ssl.CERT_REQUIRED,
            ssl_version=version,
            ca_certs=tls.ca_certs,
        )
        listening, connecting = Stack("a"), Stack("b")
        connecting.connect(listening.listen(ssl_config=again), ssl_config=tls)
        with stacks(listening.start(), connecting.start()):
            connecting.wait("connected")

    def test_handshakes_do_not_hold_up_the_loop(self, tls: SSLConfig) -> None:
        listening, connecting = Stack("a"), Stack("b")
        port = listening.listen(ssl_config=tls)
        with stacks(listening.start(), connecting), RawPeer.dial(port), RawPeer.dial(port) as half:
            half.send(b"\x16\x03\x01")  # the beginning of a handshake
            connecting.connect(port, ssl_config=tls)
            connecting.start()
            connecting.wait("connected")

    def test_cleanup_after_failed_and_unfinished_handshakes(self, tls: SSLConfig) -> None:
        listening = Stack("a")
        port = listening.listen(ssl_config=tls)
        with RawPeer.dial(port) as plain, RawPeer.dial(port):
            listening.start()
            plain.send(VERSION_PACKET)
            plain.rest()
            plain.close()
            listening.close()
        assert not listening.log.all("link connected")
        assert not listening.log.all("link disconnected")

    def test_a_connector_survives_a_listener_that_speaks_no_tls(self, tls: SSLConfig) -> None:
        connecting = Stack("b")
        with socket.create_server((LOCALHOST, 0)) as server:
            server.settimeout(DEADLINE)
            connecting.connect(server.getsockname()[1], 0.02, ssl_config=tls)
            with stacks(connecting.start()):
                for _ in range(2):
                    with RawPeer(server.accept()[0]) as raw:
                        raw.send(VERSION_PACKET)
                        raw.rest()
                assert connecting.alive
        assert not connecting.log.all("link connected")


def test_every_error_that_a_peer_can_cause_has_one_base() -> None:
    """So that ``on_error`` can tell the other side's mistakes from one's own."""
    for error in (SnakeMQBrokenMessage, SnakeMQNoIdent, SnakeMQIncompatibleProtocol):
        assert issubclass(error, SnakeMQException)
