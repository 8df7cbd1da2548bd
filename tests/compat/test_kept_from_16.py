"""What 1.6 does and does not document, and programs lean on."""

from __future__ import annotations

import pickle
import re
import socket
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import snakemq.rpc
from snakemq.exceptions import NoConnection, SendNotFinished
from snakemq.link import Link
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.messaging import Messaging, ReceiveHook
from snakemq.packeter import Packeter
from snakemq.storage.sqlite import SqliteQueuesStorage
from snakemq.throttle import Throttle
from tests.compat.inprocess import (
    LOCALHOST,
    RawPeer,
    RpcStack,
    Stack,
    ident_packet,
    message_packet,
    stacks,
)
from tests.helpers import DEADLINE, wait_until


class TestSlots:
    @pytest.mark.parametrize("throttle", [None, 1_000_000])
    def test_assignment_does_not_unplug_the_stack(self, throttle: float | None) -> None:
        """On every layer and every slot at once, and the assigned function is called."""
        a, b = Stack("a", throttle=throttle), Stack("b")
        port = a.listen()
        called: set[str] = set()
        layers: dict[str, Any] = {
            "link": a.link,
            "packeter": a.packeter,
            "messaging": a.messaging,
        }
        if a.throttle is not None:
            layers["throttle"] = a.throttle
        slots = {
            "link": ["on_connect", "on_disconnect", "on_recv", "on_ready_to_send"],
            "throttle": ["on_connect", "on_disconnect", "on_recv", "on_ready_to_send"],
            "packeter": ["on_connect", "on_disconnect", "on_packet_recv", "on_packet_sent"],
            "messaging": ["on_connect", "on_disconnect", "on_message_recv", "on_message_sent"],
        }
        names = {f"{layer}.{slot}" for layer in layers for slot in slots[layer]}
        for name in names:
            layer, slot = name.split(".")
            setattr(layers[layer], slot, lambda *args, name=name: called.add(name))
        with stacks(a.start(), b):
            b.connect(port)
            b.start()
            b.wait("connected")
            a.send("b", b"down", ttl=60)
            assert b.wait("message")["data"] == b"down"
            b.send("a", b"up", ttl=60)
            b.wait("sent")
            wait_until(lambda: "messaging.on_message_recv" in called)
            b.stop()
            b.link.cleanup()
            wait_until(lambda: called == names, what=lambda: names - called)

    def test_assignment_replaces_what_the_program_added(self) -> None:
        stack = Stack()
        calls: list[str] = []
        stack.messaging.on_message_drop.add(lambda *_: calls.append("added"))
        stack.messaging.on_message_drop = lambda *_: calls.append("assigned")
        stack.messaging.on_message_drop("ident", b"uuid")
        assert calls == ["assigned"]
        stack.close()

    def test_remove(self) -> None:
        stack = Stack()
        calls: list[Any] = []
        stack.link.on_loop_pass.add(calls.append)
        stack.link.on_loop_pass.remove(calls.append)
        stack.link.loop(poll_timeout=0, runtime=0)
        assert calls == []
        with pytest.raises(ValueError, match="not in"):
            stack.link.on_loop_pass.remove(calls.append)
        stack.close()


class TestReceiveHook:
    @pytest.fixture
    def messaging(self) -> Messaging:
        return Messaging("x", "", Packeter(idle_link()))

    def receive(self, messaging: Messaging, data: bytes) -> None:
        messaging.on_message_recv("conn", "ident", Message(data))

    def test_it_joins_in(self, messaging: Messaging) -> None:
        """Callbacks that were there, come later or are assigned all run. (1.6 lost them.)"""
        calls: list[str] = []
        messaging.on_message_recv.add(lambda *_: calls.append("before"))
        hook = ReceiveHook(messaging)
        hook.register(b"x", lambda *_: calls.append("hook"))
        messaging.on_message_recv.add(lambda *_: calls.append("after"))
        self.receive(messaging, b"x")
        assert sorted(calls) == ["after", "before", "hook"]
        assert calls.index("before") < calls.index("after")
        messaging.on_message_recv = lambda *_: calls.append("assigned")
        calls.clear()
        self.receive(messaging, b"x")
        assert sorted(calls) == ["assigned", "hook"]

    def test_two_hooks_on_one_messaging(self, messaging: Messaging) -> None:
        calls: list[int] = []
        for number in range(2):
            ReceiveHook(messaging).register(b"", lambda *_, n=number: calls.append(n))
        self.receive(messaging, b"x")
        assert calls == [0, 1]

    def test_every_match_fires_in_the_order_of_registration(self, messaging: Messaging) -> None:
        calls: list[bytes] = []
        hook = ReceiveHook(messaging)
        for pattern in (b"ab", b"b", b"a", b"", b"a.c$", rb"\xff"):
            hook.register(pattern, lambda *_, p=pattern: calls.append(p))
        self.receive(messaging, b"abc")
        assert calls == [b"ab", b"a", b"", b"a.c$"]

    def test_patterns_match_at_the_beginning(self, messaging: Messaging) -> None:
        calls: list[bytes] = []
        hook = ReceiveHook(messaging)
        hook.register(b"key", lambda conn, ident, message: calls.append(message.data))
        self.receive(messaging, b"no key")
        self.receive(messaging, b"key and more")
        assert calls == [b"key and more"]

    def test_callbacks_get_what_on_message_recv_gets(self, messaging: Messaging) -> None:
        calls: list[tuple[Any, ...]] = []
        ReceiveHook(messaging).register(b"", lambda *args: calls.append(args))
        message = Message(b"x")
        messaging.on_message_recv("conn", "ident", message)
        assert calls == [("conn", "ident", message)]

    def test_registering_again_replaces(self, messaging: Messaging) -> None:
        calls: list[str] = []
        hook = ReceiveHook(messaging)
        hook.register(b"a", lambda *_: calls.append("old"))
        hook.register(b".", lambda *_: calls.append("dot"))
        hook.register(b"a", lambda *_: calls.append("new"))
        self.receive(messaging, b"a")
        assert calls == ["new", "dot"]

    def test_unregister(self, messaging: Messaging) -> None:
        calls: list[str] = []
        hook = ReceiveHook(messaging)
        hook.register(b"a", lambda *_: calls.append("a"))
        hook.unregister(b"a")
        self.receive(messaging, b"a")
        assert calls == []
        with pytest.raises(KeyError):
            hook.unregister(b"a")

    def test_clear(self, messaging: Messaging) -> None:
        calls: list[str] = []
        hook = ReceiveHook(messaging)
        hook.register(b"a", lambda *_: calls.append("a"))
        hook.register(b"b", lambda *_: calls.append("b"))
        hook.clear()
        self.receive(messaging, b"ab")
        assert calls == []

    def test_a_pattern_that_is_none(self, messaging: Messaging) -> None:
        with pytest.raises(re.error):
            ReceiveHook(messaging).register(b"(", print)

    def test_it_knows_its_messaging(self, messaging: Messaging) -> None:
        assert ReceiveHook(messaging).messaging is messaging


def idle_link() -> Link:
    """A link that is closed at once: a place for slots, without sockets."""
    link = Link()
    link.cleanup()
    return link


class TestThreads:
    def test_all_callbacks_run_in_the_thread_of_the_loop(self) -> None:
        a, b = Stack("a"), Stack("b")
        threads: dict[str, set[str]] = {}
        for layer in (a.link, a.packeter, a.messaging):
            for slot in dir(type(layer)):
                if slot.startswith("on_"):

                    def note(*_: Any, name: str = f"{type(layer).__name__}.{slot}") -> None:
                        threads.setdefault(name, set()).add(threading.current_thread().name)

                    getattr(layer, slot).add(note)
        b.connect(a.listen())
        with stacks(a.start(), b.start()):
            a.send("b", ttl=60)
            a.send("nobody", ttl=0.01)
            b.send("a", ttl=60)
            a.wait("message")
            a.wait("sent")
            a.wait("dropped")
            b.stop()
            b.link.cleanup()
            a.wait("disconnected")
        assert set().union(*threads.values()) == {"loop of a"}
        assert {
            "Link.on_recv",
            "Packeter.on_packet_sent",
            "Messaging.on_message_recv",
            "Messaging.on_message_drop",
        } <= set(threads)

    def test_remote_methods_run_in_other_threads_which_are_daemons(self) -> None:
        class Served:
            def where(self) -> tuple[str, bool]:
                thread = threading.current_thread()
                return thread.name, thread.daemon

        a, b = RpcStack("a", Served()), RpcStack("b")
        b.connect(a.listen())
        with stacks(a.start(), b.start()):
            name, daemon = b.client.get_proxy("a", "service").where()
        assert name != "loop of a"
        assert daemon

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
    @pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
    def test_an_interrupt_leaves_the_loop_which_can_be_called_again(
        self, layer: str, slot: str, exception: type[BaseException]
    ) -> None:
        """And nothing is lost: the story goes on where it was left."""
        a, b = Stack("a"), Stack("b")
        port = a.listen()
        raised: list[None] = []

        def interrupt(*_: Any) -> None:
            if not raised:
                raised.append(None)
                raise exception

        getattr(getattr(a, layer), slot).add(interrupt)
        with stacks(a, b):
            b.connect(port)
            b.start()
            b.send("a", b"one", ttl=60)
            b.send("a", b"two", ttl=60)
            a.send("b", b"to b", ttl=60)
            a.send("nobody", ttl=0.01)
            interrupted: list[None] = []

            def run_until(condition: Callable[[], object]) -> None:
                def passed() -> object:
                    try:
                        a.link.loop(poll_timeout=0.01, runtime=0.01)
                    except exception:
                        interrupted.append(None)
                    return condition()

                wait_until(passed)

            run_until(lambda: len(a.log.all("message")) == 2)
            run_until(lambda: b.log.all("message"))
            run_until(lambda: a.log.all("dropped"))
            b.stop()
            b.link.cleanup()
            run_until(lambda: a.log.all("disconnected"))
            assert len(interrupted) == 1
            assert [e["data"] for e in a.log.all("message")] == [b"one", b"two"]
            assert [e["data"] for e in b.log.all("message")] == [b"to b"]
            assert len(a.log.all("disconnected")) == 1
            # No connection is left half closed.
            conn = a.log.all("connected")[0]["conn"]
            with pytest.raises(KeyError):
                a.link.get_socket_by_conn(conn)
            assert a.messaging.connected_peers() == []


class TestConnectionIdentifiers:
    def test_they_are_strings_and_never_used_again(self) -> None:
        stack = Stack()
        port = stack.listen()
        with stacks(stack.start()):
            for number in range(50):
                RawPeer.dial(port).close()
                stack.log.wait("link disconnected", count=number + 1)
        seen = [e["conn"] for e in stack.log.all("link connected")]
        assert len(seen) == len(set(seen)) == 50
        assert all(type(conn) is str for conn in seen)

    def test_the_socket_is_there_until_on_disconnect_has_returned(self) -> None:
        stack = Stack()
        port = stack.listen()
        found: list[Any] = []
        stack.link.on_disconnect.add(
            lambda conn: found.append(stack.link.get_socket_by_conn(conn).conn_id)
        )
        with stacks(stack.start()):
            RawPeer.dial(port).close()
            conn = stack.wait("link disconnected")["conn"]
            wait_until(lambda: found)
            with pytest.raises(KeyError):
                stack.in_loop(stack.link.get_socket_by_conn, conn)
        assert found == [conn]


class TestLink:
    def test_any_free_port_on_all_interfaces(self) -> None:
        link = Link()
        address = link.add_listener(("", 0))
        assert address == ("0.0.0.0", address[1])
        assert address[1] > 0
        link.del_listener(address)
        link.cleanup()

    def test_the_same_connector_twice(self) -> None:
        link = Link()
        link.add_connector((LOCALHOST, 1))
        with pytest.raises(ValueError, match="already"):
            link.add_connector((LOCALHOST, 1))
        link.cleanup()

    def test_the_same_listener_twice(self) -> None:
        """1.6 meant to raise this and raised ``TypeError``."""
        link = Link()
        address = link.add_listener((LOCALHOST, 0))
        with pytest.raises(ValueError, match="already"):
            link.add_listener(address)
        link.cleanup()

    def test_deleting_what_is_not_there(self) -> None:
        link = Link()
        with pytest.raises(KeyError):
            link.del_connector((LOCALHOST, 1))
        with pytest.raises(KeyError):
            link.del_listener((LOCALHOST, 1))
        link.cleanup()

    def test_a_busy_port(self) -> None:
        link = Link()
        with socket.create_server((LOCALHOST, 0)) as server, pytest.raises(OSError):  # noqa: PT011
            link.add_listener(server.getsockname())
        link.cleanup()

    def test_unknown_connections(self) -> None:
        link = Link()
        with pytest.raises(KeyError):
            link.send("1fd1", b"x")
        with pytest.raises(KeyError):
            link.close("1fd1")
        with pytest.raises(KeyError):
            link.get_socket_by_conn("1fd1")
        link.cleanup()

    def test_a_second_send_too_early(self) -> None:
        stack = Stack()
        port = stack.listen()
        link = stack.link

        def send_twice(conn: str) -> str:
            link.send(conn, b"first")
            with pytest.raises(SendNotFinished):
                link.send(conn, b"second")
            return conn

        with stacks(stack.start()), RawPeer.identified(port, "raw") as raw:
            conn = stack.wait("connected")["conn"]
            raw.ping()  # so that nothing of the stack's own is on its way
            stack.in_loop(lambda: None)
            stack.in_loop(send_twice, conn)
            assert raw.read(5) == b"first"


class TestPacketer:
    def test_packet_identifiers_grow(self) -> None:
        stack = Stack()
        with stacks(stack.start()), RawPeer.identified(stack.listen(), "raw"):
            conn = stack.wait("connected")["conn"]
            ids = [stack.in_loop(stack.packeter.send_packet, conn, b"\x80") for _ in range(5)]
        assert ids == sorted(set(ids))
        assert all(type(i) is int for i in ids)

    def test_without_a_connection(self) -> None:
        stack = Stack()
        with pytest.raises(NoConnection):
            stack.packeter.send_packet("1fd1", b"x")
        stack.close()


class TestMessage:
    @pytest.mark.parametrize("data", ["text", bytearray(b"x"), memoryview(b"x"), None, 1])
    def test_data_must_be_bytes(self, data: Any) -> None:
        with pytest.raises((TypeError, AssertionError)):
            Message(data)

    def test_uuid_is_cut_to_sixteen_bytes(self) -> None:
        assert Message(b"", uuid=b"0123456789abcdefX").uuid == b"0123456789abcdef"
        assert Message(b"", uuid=b"short").uuid == b"short"

    def test_ttl_is_a_float(self) -> None:
        assert type(Message(b"", ttl=3).ttl) is float
        assert Message(b"", ttl=None).ttl is None

    def test_programs_may_change_it_and_hang_things_on_it(self) -> None:
        message = Message(b"x")
        message.data, message.ttl, message.flags, message.uuid = b"y", None, 1, b"u"
        message.mine = "mine"  # type: ignore[attr-defined]
        assert message.mine == "mine"  # type: ignore[attr-defined]

    def test_it_can_be_subclassed(self) -> None:
        class Special(Message):
            pass

        stack = Stack()
        with stacks(stack.start()), RawPeer.identified(stack.listen(), "raw") as raw:
            stack.wait("connected")
            stack.messaging.send_message("raw", Special(b"special", uuid=b"s"))
            assert raw.frame()[25:] == b"special"


class TestMessaging:
    def test_ttl_zero_to_an_absent_peer_is_gone_without_a_word(self) -> None:
        stack = Stack()
        with stacks(stack.start()):
            stack.send("raw", b"gone", ttl=0)
            with RawPeer.identified(stack.listen(), "raw") as raw:
                stack.wait("connected")
                stack.send("raw", b"there", ttl=0)
                assert raw.frame()[25:] == b"there"
            assert not stack.log.all("dropped")

    def test_downtime_of_the_process_does_not_count(self, tmp_path: Path) -> None:
        """What is on disk has as much time to live as when it was closed."""
        file = str(tmp_path / "storage.db")
        first = Stack("a", SqliteQueuesStorage(file))
        first.send("b", ttl=600, flags=FLAG_PERSISTENT)
        first.close()
        storage = SqliteQueuesStorage(file)
        (item,) = storage.get_items("b")
        assert item.ttl is not None
        assert 599 < item.ttl <= 600
        storage.close()

    def test_identifiers_are_cut(self) -> None:
        stack = Stack("x" * 51)
        assert stack.messaging.identifier == "x" * 50
        stack.close()

    def test_the_same_uuid_twice_is_delivered_twice(self) -> None:
        a, b = Stack("a"), Stack("b")
        b.connect(a.listen())
        with stacks(a.start(), b.start()):
            b.send("a", b"1", uuid=b"same", ttl=60)
            b.send("a", b"2", uuid=b"same", ttl=60)
            assert [m["data"] for m in a.log.wait("message", count=2)] == [b"1", b"2"]

    def test_the_same_message_object_twice(self) -> None:
        a, b = Stack("a"), Stack("b")
        b.connect(a.listen())
        message = Message(b"again", ttl=60)
        with stacks(a.start(), b):
            for _ in range(3):
                b.messaging.send_message("a", message)
            b.start()
            b.wait("connected")
            b.messaging.send_message("a", message)
            assert [m["uuid"] for m in a.log.wait("message", count=4)] == [message.uuid] * 4

    def test_one_message_object_to_several_peers(self) -> None:
        a = Stack("a")
        port = a.listen()
        message = Message(b"all", ttl=60)
        for ident in ("x", "y"):
            a.messaging.send_message(ident, message)
        with (
            stacks(a.start()),
            RawPeer.identified(port, "x") as x,
            RawPeer.identified(port, "y") as y,
        ):
            assert x.frame()[25:] == y.frame()[25:] == b"all"


class TestRpc:
    class Served:
        def __init__(self) -> None:
            self.done = threading.Semaphore(0)

        def call(self, *args: Any) -> tuple[Any, ...]:
            return args

        def fail(self) -> None:
            raise ValueError("failed")

        @snakemq.rpc.as_signal
        def signal(self) -> str:
            self.done.release()
            return "ran and answered"

    @pytest.fixture
    def served(self) -> Served:
        return self.Served()

    def pair(self, served: Served) -> tuple[RpcStack, RpcStack]:
        server, client = RpcStack("server", served), RpcStack("client")
        client.connect(server.listen())
        return server, client

    def test_as_signal_of_none_makes_it_a_call_again(self, served: Served) -> None:
        server, client = self.pair(served)
        with stacks(server.start(), client.start()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            method = client.client.get_proxy("server", "service").call
            method.as_signal()
            assert method(1) is None
            method.as_signal(None)
            assert method(1) == (1,)

    def test_method_objects_are_cached_per_proxy(self) -> None:
        stack = RpcStack()
        proxy = stack.client.get_proxy("server", "service")
        assert proxy.call is proxy.call
        assert proxy.call is not proxy.other
        assert stack.client.get_proxy("server", "service").call is not proxy.call
        stack.close()

    def test_clone(self) -> None:
        """A method object with its own settings, which start as those of the original."""
        stack = RpcStack()
        with stacks(stack.start()):
            original = stack.client.get_proxy("nobody", "service").call
            original.set_timeout(0.02)
            copy = original.clone()
            assert copy is not original
            with pytest.raises(snakemq.rpc.NotConnected):
                copy()
            copy.as_signal(1)
            assert copy() is None
            with pytest.raises(snakemq.rpc.NotConnected):
                original()

    def test_a_signal_that_is_called_runs_answers_and_warns(self, served: Served) -> None:
        server, client = self.pair(served)
        categories: list[Any] = []
        with stacks(server.start(), client.start()), warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, category, *_: categories.append(category)
            result = client.client.get_proxy("server", "service").signal()
        assert result == "ran and answered"
        assert categories == [snakemq.rpc.SignalCallWarning]

    def test_the_exception_handler_gets_what_is_raised(self, served: Served) -> None:
        server, client = self.pair(served)
        handled: list[Exception] = []
        assert client.client.exception_handler is None
        client.client.exception_handler = handled.append
        with stacks(server.start(), client.start()):
            assert client.client.get_proxy("server", "service").fail() is None
        assert [type(e) for e in handled] == [ValueError]

    def test_call_errors_pass_by_the_exception_handler(self) -> None:
        client = RpcStack()
        handled: list[Exception] = []
        client.client.exception_handler = handled.append
        with stacks(client.start()):
            method = client.client.get_proxy("nobody", "service").call
            method.set_timeout(0.01)
            with pytest.raises(snakemq.rpc.NotConnected):
                method()
        assert handled == []

    def test_a_repeated_request_is_the_same_and_has_ttl_zero(self) -> None:
        """What a server by hand sees when it hangs up in the middle of a call."""
        client = RpcStack("client")
        port = client.listen()
        results: list[Any] = []
        method = client.client.get_proxy("raw", "service").call
        thread = threading.Thread(target=lambda: results.append(method(1, two=2)))
        with stacks(client.start()):
            thread.start()
            with RawPeer.identified(port, "raw") as raw:
                first = raw.frame()
            client.wait("disconnected")
            with RawPeer.identified(port, "raw") as raw:
                second = raw.frame()
                assert first[17:] == second[17:]
                assert first[17:31] == bytes(8) + b"rpcreq"
                request = pickle.loads(second[31:])
                req_id = request.pop("req_id")
                assert type(req_id) is bytes
                assert len(req_id) == 16
                assert request == {
                    "command": "call",
                    "object": "service",
                    "method": "call",
                    "args": (1,),
                    "kwargs": {"two": 2},
                    # What 1.6 takes no notice of.
                    "window": 64,
                }
                reply = {"req_id": req_id, "ok": True, "return": "by hand"}
                raw.send(message_packet(b"rpcrep" + pickle.dumps(reply)))
                thread.join(DEADLINE)
        assert results == ["by hand"]

    def test_a_signal_on_the_wire(self) -> None:
        client = RpcStack("client")
        port = client.listen()
        with stacks(client.start()), RawPeer.identified(port, "raw") as raw:
            client.wait("connected")
            method = client.client.get_proxy("raw", "service").note
            method.as_signal(7)
            method("x")
            frame = raw.frame()
        assert frame[17:21] == (7).to_bytes(4, "big")
        request = pickle.loads(frame[31:])
        assert "req_id" not in request
        assert (request["command"], request["method"], request["args"]) == (
            "signal",
            "note",
            ("x",),
        )

    def test_replies_on_the_wire(self, served: Served) -> None:
        server = RpcStack("server", served)
        port = server.listen()
        with stacks(server.start()), RawPeer.identified(port, "raw") as raw:
            answers = []
            for method, req_id in (("call", b"1" * 16), ("fail", b"2" * 16)):
                request = {
                    "command": "call",
                    "object": "service",
                    "method": method,
                    "args": (),
                    "kwargs": {},
                    "req_id": req_id,
                }
                raw.send(message_packet(b"rpcreq" + pickle.dumps(request)))
                frame = raw.frame()
                assert frame[17:31] == bytes(8) + b"rpcrep"
                answers.append(pickle.loads(frame[31:]))
        assert answers[0] == {"req_id": b"1" * 16, "ok": True, "return": ()}
        error = answers[1]
        assert (error["req_id"], error["ok"]) == (b"2" * 16, False)
        assert repr(error["exception"]) == "ValueError('failed')"
        assert "in fail" in error["exception_format"]


def test_a_throttle_has_the_link_below_it() -> None:
    link = Link()
    throttle = Throttle(link, 100)
    assert throttle.link is link
    link.cleanup()


def test_an_eager_peer_sends_identification_and_message_in_one_segment() -> None:
    stack = Stack()
    with stacks(stack.start()), RawPeer.dial(stack.listen()) as raw:
        raw.send(ident_packet("raw") + message_packet(b"eager"))
        assert stack.wait("message")["data"] == b"eager"
