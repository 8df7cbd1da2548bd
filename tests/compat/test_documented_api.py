"""What the API reference and the changelog of snakeMQ 1.6 say, statement by statement."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import snakemq
import snakemq.exceptions
import snakemq.link
import snakemq.message
import snakemq.messaging
import snakemq.packeter
import snakemq.queues
import snakemq.rpc
import snakemq.storage
import snakemq.storage.sqlite
import snakemq.throttle
import snakemq.version
from snakemq.callbacks import Callback
from snakemq.link import Link, LinkSocket, SSLConfig
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.messaging import ReceiveHook
from snakemq.packeter import Packeter
from snakemq.rpc import RpcClient, RpcServer
from tests.compat.harness import PEERS, PythonEnv, run_python
from tests.compat.inprocess import (
    LOCALHOST,
    RawPeer,
    RpcStack,
    Stack,
    ident_packet,
    message_packet,
    stacks,
)
from tests.compat.peers.signatures import REQUIRED, arguments
from tests.helpers import DEADLINE, wait_until

#: The names and defaults that 1.6 has, by place. More may follow at the end.
SIGNATURES: dict[str, dict[str, Any]] = {
    "snakemq:init_logging": {"stream": None},
    "snakemq.link:SSLConfig": {
        "keyfile": None,
        "certfile": None,
        "cert_reqs": 0,
        "ssl_version": 2,
        "ca_certs": None,
    },
    "snakemq.link:LinkSocket": {"sock": None, "ssl_config": None, "remote_peer": None},
    "snakemq.link:LinkSocket.getpeercert": {"binary_form": False},
    "snakemq.link:Link": {},
    "snakemq.link:Link.add_connector": {
        "address": REQUIRED,
        "reconnect_interval": None,
        "ssl_config": None,
    },
    "snakemq.link:Link.add_listener": {"address": REQUIRED, "ssl_config": None},
    "snakemq.link:Link.cleanup": {},
    "snakemq.link:Link.close": {"conn_id": REQUIRED},
    "snakemq.link:Link.del_connector": {"address": REQUIRED},
    "snakemq.link:Link.del_listener": {"address": REQUIRED},
    "snakemq.link:Link.loop": {"poll_timeout": 0.2, "count": None, "runtime": None},
    "snakemq.link:Link.send": {"conn_id": REQUIRED, "data": REQUIRED},
    "snakemq.link:Link.stop": {},
    "snakemq.link:Link.wakeup_poll": {},
    "snakemq.packeter:Packeter": {"link": REQUIRED},
    "snakemq.packeter:Packeter.send_packet": {"conn_id": REQUIRED, "buf": REQUIRED},
    "snakemq.throttle:Throttle": {"link": REQUIRED, "speed": REQUIRED},
    "snakemq.messaging:Messaging": {
        "identifier": REQUIRED,
        "domain": REQUIRED,
        "packeter": REQUIRED,
        "queues_storage": None,
    },
    "snakemq.messaging:Messaging.send_message": {"ident": REQUIRED, "message": REQUIRED},
    "snakemq.messaging:ReceiveHook": {"messaging": REQUIRED},
    "snakemq.messaging:ReceiveHook.register": {"regexp": REQUIRED, "callback": REQUIRED},
    "snakemq.messaging:ReceiveHook.unregister": {"regexp": REQUIRED},
    "snakemq.messaging:ReceiveHook.clear": {},
    "snakemq.message:Message": {"data": REQUIRED, "ttl": 0, "flags": 0, "uuid": None},
    "snakemq.queues:QueuesManager": {"storage": REQUIRED},
    "snakemq.queues:QueuesManager.get_queue": {"queue_name": REQUIRED},
    "snakemq.queues:QueuesManager.cleanup": {},
    "snakemq.queues:QueuesManager.close": {},
    "snakemq.queues:QueuesManager.collect_garbage": {},
    "snakemq.queues:Queue.push": {"item": REQUIRED},
    "snakemq.queues:Queue.get": {},
    "snakemq.queues:Queue.pop": {},
    "snakemq.queues:Queue.connect": {},
    "snakemq.queues:Queue.disconnect": {},
    "snakemq.storage:MemoryQueuesStorage": {},
    "snakemq.storage:QueuesStorageBase.close": {},
    "snakemq.storage:QueuesStorageBase.get_queues": {},
    "snakemq.storage:QueuesStorageBase.get_items": {"queue_name": REQUIRED},
    "snakemq.storage:QueuesStorageBase.push": {"queue_name": REQUIRED, "item": REQUIRED},
    "snakemq.storage:QueuesStorageBase.delete_items": {"items": REQUIRED},
    "snakemq.storage:QueuesStorageBase.delete_all": {},
    "snakemq.storage:QueuesStorageBase.update_items_ttl": {"items": REQUIRED},
    "snakemq.storage.sqlite:SqliteQueuesStorage": {"filename": REQUIRED},
    "snakemq.rpc:as_signal": {"method": REQUIRED},
    "snakemq.rpc:RpcServer": {"receive_hook": REQUIRED, "pickler": "pickle"},
    "snakemq.rpc:RpcServer.register_object": {"instance": REQUIRED, "name": REQUIRED},
    "snakemq.rpc:RpcServer.unregister_object": {"name": REQUIRED},
    "snakemq.rpc:RpcServer.get_registered_objects": {},
    "snakemq.rpc:RpcClient": {"receive_hook": REQUIRED, "pickler": "pickle"},
    "snakemq.rpc:RpcClient.get_proxy": {"remote_ident": REQUIRED, "name": REQUIRED},
    "snakemq.rpc:RemoteMethod.as_signal": {"timeout": 0},
    "snakemq.rpc:RemoteMethod.set_timeout": {"timeout": REQUIRED},
    "snakemq.rpc:RemoteMethod.clone": {},
}

#: Everything that a 1.6 program could import by its documentation, or could
#: catch, subclass or compare with.
NAMES = {
    "snakemq": ["init_logging"],
    "snakemq.link": ["Link", "LinkSocket", "SSLConfig"],
    "snakemq.packeter": ["Packeter"],
    "snakemq.throttle": ["Throttle"],
    "snakemq.messaging": ["MAX_IDENT_LENGTH", "Messaging", "ReceiveHook"],
    "snakemq.message": ["FLAG_PERSISTENT", "MAX_UUID_LENGTH", "Message"],
    "snakemq.queues": ["Queue", "QueuesManager"],
    "snakemq.storage": ["MemoryQueuesStorage", "QueuesStorageBase"],
    "snakemq.storage.sqlite": ["SqliteQueuesStorage"],
    "snakemq.callbacks": ["Callback"],
    "snakemq.version": ["PROTOCOL_VERSION", "VERSION"],
    "snakemq.exceptions": [
        "NoConnection",
        "SendNotFinished",
        "SnakeMQBrokenFormat",
        "SnakeMQBrokenMessage",
        "SnakeMQBrokenPacket",
        "SnakeMQException",
        "SnakeMQIncompatibleProtocol",
        "SnakeMQNoIdent",
        "SnakeMQUnknownRoute",
    ],
    "snakemq.rpc": [
        "CallError",
        "Error",
        "NoInstanceError",
        "NoMethodError",
        "NotConnected",
        "PartialCall",
        "RpcClient",
        "RpcServer",
        "SignalCallWarning",
        "as_signal",
    ],
}


class TestNames:
    @pytest.mark.parametrize(("module", "name"), [(m, n) for m in NAMES for n in NAMES[m]])
    def test_it_is_where_it_was(self, module: str, name: str) -> None:
        assert hasattr(importlib.import_module(module), name)

    @pytest.mark.parametrize("name", SIGNATURES)
    def test_arguments_have_their_names_places_and_defaults(self, name: str) -> None:
        have = arguments(name)
        expected = list(SIGNATURES[name].items())
        assert [by_name for _, _, by_name in have[: len(expected)]] == [False] * len(expected)
        for (argument, default, _), (its_name, its_default) in zip(have, expected, strict=False):
            assert argument == its_name
            # What had to be given may have become optional; and by default it
            # is the same format that is read, with another reader.
            if argument == "pickler":
                assert default.startswith("<SafePickle ")
            elif argument == "cert_reqs":
                # Not said; a link then does what it did, and a Peer more.
                assert default is None
            else:
                assert default == its_default or its_default == REQUIRED
        new = have[len(expected) :]
        assert not [argument for argument, default, _ in new if default == REQUIRED]

    def test_these_are_the_arguments_of_1_6(self, snakemq16_env: PythonEnv) -> None:
        """Asked of the real one, so that the list above is no hearsay."""
        program = str(PEERS / "signatures.py")
        done = run_python(snakemq16_env, [program, json.dumps(list(SIGNATURES))])
        assert done.returncode == 0, done.stderr
        found = {
            name: [(argument, default) for argument, default, _ in its_arguments]
            for name, its_arguments in json.loads(done.stdout).items()
        }
        assert found == {name: list(expected.items()) for name, expected in SIGNATURES.items()}

    def test_exceptions_are_related_as_they_were(self) -> None:
        e = snakemq.exceptions
        assert issubclass(e.SnakeMQException, Exception)
        for name in NAMES["snakemq.exceptions"]:
            assert issubclass(getattr(e, name), e.SnakeMQException)
        assert issubclass(e.SnakeMQBrokenPacket, e.SnakeMQBrokenFormat)
        assert issubclass(e.SnakeMQBrokenMessage, e.SnakeMQBrokenFormat)
        rpc = snakemq.rpc
        for error in (rpc.NoInstanceError, rpc.NoMethodError, rpc.CallError):
            assert issubclass(error, rpc.Error)
        for error in (rpc.NotConnected, rpc.PartialCall):
            assert issubclass(error, rpc.CallError)
        assert issubclass(rpc.SignalCallWarning, Warning)

    def test_numbers(self) -> None:
        assert FLAG_PERSISTENT == 1
        assert snakemq.message.MAX_UUID_LENGTH == 16
        assert snakemq.messaging.MAX_IDENT_LENGTH == 50
        assert snakemq.version.PROTOCOL_VERSION == 1
        assert isinstance(snakemq.version.VERSION, str)

    def test_there_is_nothing_to_initialise(self) -> None:
        """``snakemq.init()`` went away in 0.5.5 and has not come back."""
        assert not hasattr(snakemq, "init")


LINK_SLOTS = ["on_connect", "on_disconnect", "on_recv", "on_ready_to_send", "on_loop_pass"]
SLOTS = {
    "link": LINK_SLOTS,
    "throttle": LINK_SLOTS,
    "packeter": ["on_connect", "on_disconnect", "on_packet_recv", "on_packet_sent", "on_error"],
    "messaging": [
        "on_connect",
        "on_disconnect",
        "on_message_recv",
        "on_message_sent",
        "on_message_drop",
        "on_error",
    ],
}


class TestCallbackSlots:
    @pytest.mark.parametrize(
        ("layer", "name"), [(y, n) for y, names in SLOTS.items() for n in names]
    )
    def test_each_takes_any_number_of_callables(self, layer: str, name: str) -> None:
        stack = Stack(throttle=1000)
        slot = getattr(getattr(stack, layer), name)
        assert isinstance(slot, Callback)
        before = slot.callbacks
        slot.add(print)
        slot.add(repr)
        assert slot.callbacks == [*before, print, repr]
        slot.remove(print)
        assert slot.callbacks == [*before, repr]
        stack.close()

    def test_they_are_called_in_the_order_in_which_they_were_added(self) -> None:
        calls: list[Any] = []
        stack = Stack()
        for number in range(10):
            stack.messaging.on_message_recv.add(lambda *args, n=number: calls.append((n, *args)))
        message = Message(b"x")
        stack.messaging.on_message_recv("conn", "ident", message)
        assert calls == [(n, "conn", "ident", message) for n in range(10)]
        stack.close()


class TestSslConfig:
    def test_it_keeps_what_it_was_given(self) -> None:
        config = SSLConfig("key", "cert", ssl.CERT_REQUIRED, ssl.PROTOCOL_TLS_CLIENT, "ca")
        assert (config.keyfile, config.certfile, config.ca_certs) == ("key", "cert", "ca")
        assert config.cert_reqs == ssl.CERT_REQUIRED
        assert config.ssl_version == ssl.PROTOCOL_TLS_CLIENT

    def test_its_defaults(self) -> None:
        config = SSLConfig()
        assert (config.keyfile, config.certfile, config.ca_certs) == (None, None, None)
        assert config.cert_reqs == ssl.CERT_NONE == 0
        assert config.ssl_version == 2


class TestLinkSocket:
    def test_it_has_what_it_was_given(self) -> None:
        raw = socket.socket()
        config = SSLConfig()
        sock = LinkSocket(raw, config, ("host", 1))
        assert sock.sock is raw
        assert sock.ssl_config is config
        assert sock.remote_peer == ("host", 1)
        assert sock.fileno() == raw.fileno()
        assert sock.conn_id is None
        sock.close()

    def test_it_makes_a_socket_if_it_is_given_none(self) -> None:
        sock = LinkSocket()
        assert isinstance(sock.sock, socket.socket)
        assert not sock.sock.getblocking()
        sock.close()

    def test_there_is_no_certificate_without_tls(self) -> None:
        listening, connecting = Stack("a"), Stack("b")
        connecting.connect(listening.listen())
        found: list[Any] = []
        for link in (listening.link, connecting.link):
            link.on_connect.add(
                lambda conn, link=link: found.append(link.get_socket_by_conn(conn).getpeercert())
            )
        with stacks(listening.start(), connecting.start()):
            listening.wait("connected")
            connecting.wait("connected")
        assert found == [None, None]


class TestConnectors:
    def test_adding_one_does_not_connect_yet(self) -> None:
        """It joins the pool; dialling is the loop's business."""
        with socket.create_server((LOCALHOST, 0)) as server:
            server.setblocking(False)
            link = Link()
            link.add_connector(server.getsockname())
            with pytest.raises(BlockingIOError):
                server.accept()
            link.cleanup()

    def test_the_returned_address_deletes_it(self) -> None:
        link = Link()
        address = link.add_connector(("localhost", 1))
        link.del_connector(address)
        with pytest.raises(KeyError):
            link.del_connector(address)
        link.cleanup()

    def test_deleting_it_closes_its_connection(self) -> None:
        listening, connecting = Stack("a"), Stack("b")
        address = connecting.connect(listening.listen())
        with stacks(listening.start(), connecting.start()):
            connecting.wait("connected")
            connecting.in_loop(connecting.link.del_connector, address)
            connecting.wait("disconnected")
            listening.wait("disconnected")

    def test_a_deleted_one_does_not_dial_again(self) -> None:
        with socket.create_server((LOCALHOST, 0)) as server:
            server.settimeout(DEADLINE)
            stack = Stack()
            address = stack.connect(server.getsockname()[1], 0.01)
            with stacks(stack.start()):
                RawPeer(server.accept()[0]).close()
                RawPeer(server.accept()[0]).close()
                stack.in_loop(stack.link.del_connector, address)
                # Nothing is left that could wake the loop.
                server.settimeout(0.1)
                # One that it had begun may still come.
                with contextlib.suppress(TimeoutError):
                    server.accept()[0].close()
                with pytest.raises(TimeoutError):
                    server.accept()

    def test_it_dials_again_after_the_interval(self) -> None:
        """In seconds; the delay is drawn from the upper half of the interval."""
        with socket.create_server((LOCALHOST, 0)) as server:
            server.settimeout(DEADLINE)
            stack = Stack()
            stack.connect(server.getsockname()[1], interval=0.3)
            with stacks(stack.start()):
                first = RawPeer(server.accept()[0])
                closed = time.monotonic()
                first.close()
                RawPeer(server.accept()[0]).close()
                assert 0.1 < time.monotonic() - closed < DEADLINE

    def test_it_keeps_dialling_a_port_where_nobody_listens(self) -> None:
        with socket.create_server((LOCALHOST, 0)) as server:
            port = server.getsockname()[1]
        stack, late = Stack("early"), Stack("late")
        stack.connect(port, 0.02)
        passes = threading.Semaphore(0)
        stack.link.on_loop_pass.add(passes.release)
        with stacks(stack.start(), late):
            for _ in range(10):
                assert passes.acquire(timeout=DEADLINE)
            late.listen(port=port)
            late.start()
            stack.wait("connected", peer="late")

    def test_the_interval_of_the_link_is_the_default(self) -> None:
        link = Link()
        assert link.reconnect_interval == 3.0
        link.cleanup()

    def test_several_connectors_to_the_same_peer_are_one_connection(self) -> None:
        """Whoever listens, a peer is connected once."""
        a, b = Stack("a"), Stack("b")
        ports = [a.listen(), a.listen()]
        for port in ports:
            b.connect(port, 60)
        with stacks(a.start(), b.start()):
            a.wait("connected")
            b.wait("link disconnected")
            a.wait("link disconnected")
            assert len(a.log.all("connected")) == 1
            assert a.messaging.connected_peers() == ["b"]


class TestListeners:
    def test_the_returned_address_is_where_it_listens_and_deletes_it(self) -> None:
        link = Link()
        address = link.add_listener((LOCALHOST, 0))
        assert address[0] == LOCALHOST
        assert address[1] > 0
        socket.create_connection(address, DEADLINE).close()
        link.del_listener(address)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, DEADLINE)
        with pytest.raises(KeyError):
            link.del_listener(address)
        link.cleanup()

    def test_adding_one_does_not_block(self) -> None:
        """It listens as soon as the call returns, without a loop."""
        link = Link()
        address = link.add_listener((LOCALHOST, 0))
        with socket.create_connection(address, DEADLINE):
            link.cleanup()

    def test_connections_survive_the_end_of_their_listener(self) -> None:
        listening, connecting = Stack("a"), Stack("b")
        port = listening.listen()
        connecting.connect(port)
        with stacks(listening.start(), connecting.start()):
            listening.wait("connected")
            listening.in_loop(listening.link.del_listener, (LOCALHOST, port))
            connecting.send("a", b"still", ttl=60)
            assert listening.wait("message")["data"] == b"still"


class TestCleanup:
    def test_it_closes_all_sockets_and_removes_all_connectors_and_listeners(self) -> None:
        listening, connecting, third = Stack("a"), Stack("b"), Stack("c")
        address = listening.connect(third.listen())
        port = listening.listen()
        connecting.connect(port)
        with stacks(listening.start(), connecting.start(), third.start()):
            listening.wait("connected", peer="b")
            listening.wait("connected", peer="c")
            listening.stop()
            listening.link.cleanup()
            # The callbacks run for each connection.
            assert len(listening.log.all("disconnected")) == 2
            connecting.wait("disconnected")
            third.wait("disconnected")
            with pytest.raises(KeyError):
                listening.link.del_connector(address)
            with pytest.raises(KeyError):
                listening.link.del_listener((LOCALHOST, port))
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((LOCALHOST, port), DEADLINE)


class TestLoop:
    def test_count_is_of_events(self) -> None:
        """A wake-up is one; a poll that ran into its timeout is none."""
        link = Link()
        passes: list[None] = []

        def on_pass() -> None:
            passes.append(None)
            if len(passes) >= 4:
                link.wakeup_poll()

        link.on_loop_pass.add(on_pass)
        link.loop(poll_timeout=0.001, count=3)
        # Four timeouts, the last of which led to the first of three events.
        assert len(passes) == 7
        link.cleanup()

    def test_count_of_nothing_returns_at_once(self) -> None:
        link = Link()
        passes: list[None] = []
        link.on_loop_pass.add(lambda: passes.append(None))
        link.loop(count=0)
        assert passes == []
        link.cleanup()

    def test_received_data_is_an_event(self) -> None:
        listening = Stack("a")
        port = listening.listen()
        with stacks(listening), RawPeer.dial(port) as raw:
            listening.link.loop(count=1)
            assert listening.log.all("link connected")
            raw.send(ident_packet("raw"))
            while not listening.log.all("connected"):
                listening.link.loop(count=1)

    def test_runtime_is_in_seconds(self) -> None:
        link = Link()
        start = time.monotonic()
        link.loop(runtime=0.05)
        assert 0.05 <= time.monotonic() - start < DEADLINE
        link.cleanup()

    def test_runtime_ends_a_busy_loop_too(self) -> None:
        link = Link()
        link.on_loop_pass.add(link.wakeup_poll)
        start = time.monotonic()
        link.loop(runtime=0.05)
        assert 0.05 <= time.monotonic() - start < DEADLINE
        link.cleanup()

    def test_poll_timeout_is_in_seconds_and_paces_on_loop_pass(self) -> None:
        link = Link()
        passes: list[float] = []

        def on_pass() -> None:
            passes.append(time.monotonic())
            if len(passes) == 4:
                link.stop()

        link.on_loop_pass.add(on_pass)
        link.loop(poll_timeout=0.02)
        assert passes[3] - passes[0] >= 0.05
        link.cleanup()

    def test_poll_timeout_of_nothing_polls_without_waiting(self) -> None:
        link = Link()
        passes: list[None] = []

        def on_pass() -> None:
            passes.append(None)
            if len(passes) == 10:
                link.stop()

        link.on_loop_pass.add(on_pass)
        link.loop(poll_timeout=0, runtime=DEADLINE)
        assert len(passes) == 10
        link.cleanup()

    def test_stop_ends_it_and_cleans_up_nothing(self) -> None:
        listening, connecting = Stack("a"), Stack("b")
        connecting.connect(listening.listen())
        with stacks(listening.start(), connecting.start()):
            listening.wait("connected")
            listening.stop()
            assert not listening.log.all("disconnected")
            assert listening.messaging.is_connected("b")
            connecting.send("a", b"later", ttl=60)
            listening.log = type(listening.log)()
            listening.start()
            assert listening.wait("message")["data"] == b"later"

    def test_stop_in_a_callback(self) -> None:
        link = Link()
        link.on_loop_pass.add(link.stop)
        link.loop(poll_timeout=0.01)
        link.loop(poll_timeout=0.01)
        link.cleanup()

    def test_stop_from_another_thread_does_not_wait_for_the_next_event(self) -> None:
        link = Link()
        started = threading.Event()
        link.on_loop_pass.add(started.set)
        thread = threading.Thread(target=link.loop, kwargs={"poll_timeout": 0.01})
        thread.start()
        assert started.wait(DEADLINE)
        link.stop()
        thread.join(DEADLINE)
        assert not thread.is_alive()
        link.cleanup()

    def test_wakeup_from_another_thread(self) -> None:
        """The advice of the manual: work for the loop's thread, then a wake-up."""
        stack = Stack()
        threads: list[threading.Thread] = []
        done = threading.Event()
        work: list[Callable[[], None]] = []

        def run_work() -> None:
            while work:
                work.pop()()

        def task() -> None:
            threads.append(threading.current_thread())
            done.set()

        stack.link.on_loop_pass.add(run_work)
        with stacks(stack.start()):
            work.append(task)
            stack.link.wakeup_poll()
            assert done.wait(DEADLINE)
        assert threads[0].name == "loop of stack"

    @pytest.mark.skipif(os.name == "nt", reason="no signals that interrupt a thread")
    def test_wakeup_in_a_signal_handler(self) -> None:
        link = Link()
        before = signal.signal(signal.SIGUSR1, lambda *_: link.wakeup_poll())
        try:
            timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1))
            timer.start()
            link.loop(poll_timeout=DEADLINE, count=1)
            timer.join()
        finally:
            signal.signal(signal.SIGUSR1, before)
        link.cleanup()


class TestSend:
    def test_on_ready_to_send_tells_how_much_was_sent(self) -> None:
        """And only then the next send may come."""
        link = Link()
        port = link.add_listener((LOCALHOST, 0))[1]
        data = bytes(range(256)) * 20_000
        rest = [memoryview(data)]

        def on_connect(conn: str) -> None:
            assert link.send(conn, rest[0]) is None
            with pytest.raises(snakemq.exceptions.SendNotFinished):
                link.send(conn, b"too early")

        def on_ready_to_send(conn: str, size: int) -> None:
            rest[0] = rest[0][size:]
            if rest[0]:
                link.send(conn, rest[0])
            else:
                link.close(conn)

        link.on_connect.add(on_connect)
        link.on_ready_to_send.add(on_ready_to_send)
        link.on_disconnect.add(lambda conn: link.stop())
        thread = threading.Thread(target=link.loop)
        with RawPeer.dial(port) as raw:
            thread.start()
            assert raw.rest() == data
        thread.join(DEADLINE)
        assert not thread.is_alive()
        link.cleanup()

    def test_it_does_not_block(self) -> None:
        """More than anybody reads is taken in parts."""
        link = Link()
        port = link.add_listener((LOCALHOST, 0))[1]
        size = 100_000_000
        sizes: list[int] = []

        def on_connect(conn: str) -> None:
            link.send(conn, bytes(size))
            link.stop()

        link.on_connect.add(on_connect)
        link.on_ready_to_send.add(lambda conn, sent: sizes.append(sent))
        with RawPeer.dial(port) as raw:
            link.loop()
            # It came back although nobody has read anything.
            wait_until(lambda: raw.read(65536) and (link.loop(poll_timeout=0, runtime=0) or sizes))
        assert 0 < sizes[0] < size
        link.cleanup()


class TestMessage:
    def test_its_attributes(self) -> None:
        message = Message(b"data", 5, FLAG_PERSISTENT | 0x10, b"uuid")
        assert message.data == b"data"
        assert message.ttl == 5.0
        assert isinstance(message.ttl, float)
        assert message.flags == 0x11
        assert message.uuid == b"uuid"

    def test_its_defaults(self) -> None:
        message = Message(b"data")
        assert message.ttl == 0
        assert message.flags == 0
        assert len(message.uuid) == 16
        assert Message(b"data").uuid != message.uuid

    @pytest.mark.parametrize("ttl", [1, 1.5, 0])
    def test_ttl_is_an_integer_or_a_float(self, ttl: float) -> None:
        assert Message(b"", ttl=ttl).ttl == ttl

    def test_ttl_none_is_infinity(self) -> None:
        assert Message(b"", ttl=None).ttl is None


class TestMessagingCallbacks:
    def test_on_connect_and_on_disconnect(self) -> None:
        a, b = Stack("a"), Stack("b")
        b.connect(a.listen())
        with stacks(a.start(), b):
            b.start()
            connected = a.wait("connected")
            b.stop()
            b.link.cleanup()
            disconnected = a.wait("disconnected")
        assert connected["peer"] == disconnected["peer"] == "b"
        assert connected["conn"] == disconnected["conn"]

    def test_on_message_sent_has_the_uuid(self) -> None:
        a = Stack("a")
        with stacks(a.start()), RawPeer.identified(a.listen(), "raw"):
            conn = a.wait("connected")["conn"]
            calls: list[tuple[Any, ...]] = []
            a.messaging.on_message_sent.add(lambda *args: calls.append(args))
            uuid = a.send("raw")
            a.wait("sent")
            wait_until(lambda: calls)
        assert calls == [(conn, "raw", uuid)]

    def test_on_message_sent_is_for_messages_only(self) -> None:
        a = Stack("a")
        with stacks(a.start()), RawPeer.identified(a.listen(), "raw") as raw:
            raw.ping()
            a.wait("connected")
            a.send("raw", uuid=b"1")
            a.wait("sent")
            assert [e["uuid"] for e in a.log.all("sent")] == [b"1"]

    def test_on_message_drop_has_identifier_and_uuid(self) -> None:
        calls: list[tuple[Any, ...]] = []
        a = Stack("a")
        a.messaging.on_message_drop.add(lambda *args: calls.append(args))
        with stacks(a.start()):
            a.send("nobody", ttl=0.01, uuid=b"u")
            a.wait("dropped")
            wait_until(lambda: calls)
        assert calls == [("nobody", b"u")]


class TestKeepalive:
    def test_defaults(self) -> None:
        stack = Stack()
        assert stack.messaging.keepalive_interval is None
        assert stack.messaging.keepalive_wait == 0.5
        stack.close()

    def test_a_peer_that_does_not_answer_is_closed_after_interval_and_wait(self) -> None:
        stack = Stack()
        stack.messaging.keepalive_interval = 0.1
        stack.messaging.keepalive_wait = 0.1
        start = time.monotonic()
        with stacks(stack.start()), RawPeer.identified(stack.listen(), "raw") as raw:
            assert raw.frame() == b"\x04"
            stack.wait("disconnected")
            assert 0.1 + 0.1 < time.monotonic() - start < DEADLINE

    def test_anything_received_is_a_sign_of_life(self) -> None:
        """A peer that sends something is not pinged."""
        stack = Stack()
        stack.messaging.keepalive_interval = 5
        with stacks(stack.start()), RawPeer.identified(stack.listen(), "raw") as raw:
            for _ in range(10):
                raw.send(message_packet(b"x"))
            stack.log.wait("message", count=10)
            raw.ping()


class TestPacketIdentifiers:
    def test_they_grow_and_are_reported_in_order(self) -> None:
        link = Link()
        packeter = Packeter(link)
        given: list[int] = []
        reported: list[int] = []
        port = link.add_listener((LOCALHOST, 0))[1]

        def on_connect(conn: str) -> None:
            given.extend(packeter.send_packet(conn, bytes(size)) for size in range(100))

        def on_packet_sent(conn: str, packet_id: int) -> None:
            reported.append(packet_id)
            if len(reported) == 100:
                link.stop()

        packeter.on_connect.add(on_connect)
        packeter.on_packet_sent.add(on_packet_sent)
        with RawPeer.dial(port):
            link.loop(runtime=DEADLINE)
        assert given == sorted(set(given))
        assert reported == given
        link.cleanup()


class TestRpcReference:
    class Served:
        def answer(self) -> int:
            return 42

        def fail(self) -> None:
            raise ValueError("no")

    def test_objects_are_registered_under_their_names(self) -> None:
        stack = RpcStack()
        served = self.Served()
        stack.server.register_object(served, "name")
        assert stack.server.get_registered_objects() == {"name": served}
        stack.server.unregister_object("name")
        assert stack.server.get_registered_objects() == {}
        with pytest.raises(KeyError):
            stack.server.unregister_object("name")
        stack.close()

    def test_a_pickler_of_ones_own(self) -> None:
        """Any object with ``dumps``, ``loads`` and ``PickleError``, for each direction."""

        class Pickler:
            PickleError = pickle.PickleError

            def __init__(self) -> None:
                self.calls: set[str] = set()

            def dumps(self, value: Any) -> bytes:
                self.calls.add("dumps")
                return b"mine" + pickle.dumps(value)

            def loads(self, data: bytes) -> Any:
                self.calls.add("loads")
                assert data[:4] == b"mine"
                return pickle.loads(data[4:])

        stack_a, stack_b = Stack("a"), Stack("b")
        picklers = Pickler(), Pickler()
        server = RpcServer(ReceiveHook(stack_a.messaging), picklers[0])
        client = RpcClient(ReceiveHook(stack_b.messaging), pickler=picklers[1])
        server.register_object(self.Served(), "service")
        stack_b.connect(stack_a.listen())
        with stacks(stack_a.start(), stack_b.start()):
            assert client.get_proxy("a", "service").answer() == 42
            with pytest.raises(ValueError, match="no"):
                client.get_proxy("a", "service").fail()
            server.close(DEADLINE)
        assert [p.calls for p in picklers] == [{"dumps", "loads"}] * 2

    def test_a_timeout_is_of_regular_calls_in_seconds(self) -> None:
        client = RpcStack("client")
        with stacks(client.start()):
            method = client.client.get_proxy("nobody", "service").answer
            method.set_timeout(0.05)
            start = time.monotonic()
            with pytest.raises(snakemq.rpc.NotConnected):
                method()
            assert 0.05 <= time.monotonic() - start < DEADLINE


class OldStorage(snakemq.storage.QueuesStorageBase):
    """What a program has written for 1.6: the methods of that time and no others."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, Message]] = []
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def get_queues(self) -> list[str]:
        return list({name for name, _ in self.rows})

    def get_items(self, queue_name: str) -> list[Message]:
        return [item for name, item in self.rows if name == queue_name]

    def push(self, queue_name: str, item: Message) -> None:
        self.rows.append((queue_name, item))

    def delete_items(self, items: Any) -> None:
        uuids = {item.uuid for item in items}
        self.rows = [row for row in self.rows if row[1].uuid not in uuids]

    def delete_all(self) -> None:
        self.rows = []

    def update_items_ttl(self, items: Any) -> None:
        pass


class TestStorages:
    def test_a_storage_that_was_written_for_1_6(self) -> None:
        storage = OldStorage()
        first = Stack("a", storage)
        for number in range(3):
            first.send("b", b"%d" % number, ttl=600, flags=FLAG_PERSISTENT)
        assert [item.data for _, item in storage.rows] == [b"0", b"1", b"2"]
        first.close()
        assert storage.closed
        second, receiver = Stack("a", storage), Stack("b")
        receiver.connect(second.listen())
        with stacks(second.start(), receiver.start()):
            messages = receiver.log.wait("message", count=3)
            second.log.wait("sent", count=3)
            assert [m["data"] for m in messages] == [b"0", b"1", b"2"]
            wait_until(lambda: storage.rows == [])

    def test_the_base_class_has_the_methods_and_none_of_the_work(self) -> None:
        base = snakemq.storage.QueuesStorageBase
        for name in (
            "close",
            "get_queues",
            "get_items",
            "push",
            "delete_items",
            "delete_all",
            "update_items_ttl",
        ):
            assert callable(getattr(base, name))

    @pytest.mark.parametrize("kind", ["memory", "sqlite"])
    def test_storages_do_as_their_methods_say(self, kind: str, tmp_path: Path) -> None:
        storage: snakemq.storage.QueuesStorageBase
        if kind == "memory":
            storage = snakemq.storage.MemoryQueuesStorage()
        else:
            storage = snakemq.storage.sqlite.SqliteQueuesStorage(str(tmp_path / "storage.db"))
        one, two = Message(b"1", 60, FLAG_PERSISTENT), Message(b"2", None, FLAG_PERSISTENT)
        storage.push("q", one)
        storage.push("q", two)
        storage.push("other", Message(b"3", 60, FLAG_PERSISTENT))
        assert sorted(storage.get_queues()) == ["other", "q"]
        items = list(storage.get_items("q"))
        assert [(i.data, i.ttl, i.flags, i.uuid) for i in items] == [
            (b"1", 60, 1, one.uuid),
            (b"2", None, 1, two.uuid),
        ]
        items[0].ttl = 30.0
        storage.update_items_ttl(items)
        assert [i.ttl for i in storage.get_items("q")] == [30, None]
        storage.delete_items([items[0]])
        assert [i.data for i in storage.get_items("q")] == [b"2"]
        storage.delete_all()
        assert list(storage.get_queues()) == []
        storage.close()


class TestQueues:
    def test_a_queue_is_first_in_first_out(self) -> None:
        manager = snakemq.queues.QueuesManager(None)
        queue = manager.get_queue("peer")
        assert manager.get_queue("peer") is queue
        assert len(manager) == 1
        for number in range(3):
            queue.push(Message(b"%d" % number, ttl=60))
        assert len(queue) == 3
        seen = []
        while (item := queue.get()) is not None:
            assert queue.get() is not None  # it stays until it is popped
            seen.append(item.data)
            queue.pop()
        assert seen == [b"0", b"1", b"2"]
        assert len(queue) == 0
        assert queue.pop() is None

    def test_cleanup_forgets_empty_queues(self) -> None:
        """1.6 raised, because it changed what it iterated over."""
        manager = snakemq.queues.QueuesManager(None)
        for name in ("empty", "empty too", "full"):
            manager.get_queue(name)
        manager.get_queue("full").push(Message(b"", ttl=60))
        manager.cleanup()
        assert len(manager) == 1

    def test_the_manager_loads_what_is_stored_and_closes_the_storage(self) -> None:
        storage = OldStorage()
        storage.push("peer", Message(b"x", 60, FLAG_PERSISTENT))
        manager = snakemq.queues.QueuesManager(storage)
        assert manager.storage is storage
        assert len(manager) == 1
        assert len(manager.get_queue("peer")) == 1
        manager.close()
        assert storage.closed
        assert manager.storage is None
        assert len(manager) == 0
        assert len(storage.rows) == 1

    def test_messaging_has_the_manager(self) -> None:
        stack = Stack()
        assert isinstance(stack.messaging.queues_manager, snakemq.queues.QueuesManager)
        stack.send("peer", ttl=60)
        assert len(stack.messaging.queues_manager.get_queue("peer")) == 1
        stack.close()
