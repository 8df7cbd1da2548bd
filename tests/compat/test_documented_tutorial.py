"""What the tutorial of snakeMQ 1.6 says, statement by statement."""

from __future__ import annotations

import io
import logging
import ssl
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import snakemq
import snakemq.link
import snakemq.message
import snakemq.messaging
import snakemq.packeter
import snakemq.rpc
import snakemq.throttle
from snakemq.message import FLAG_PERSISTENT
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.compat.inprocess import LOCALHOST, RawPeer, RpcStack, Stack, message_packet, stacks
from tests.helpers import DEADLINE, wait_until


class TestConnection:
    def test_a_stack_has_any_number_of_connectors_and_listeners(self) -> None:
        middle = Stack("middle")
        ports = [middle.listen(), middle.listen()]
        outer = [Stack(f"listener {n}") for n in range(2)]
        dialling = [Stack(f"connector {n}") for n in range(2)]
        for stack, port in zip(dialling, ports, strict=True):
            stack.connect(port)
        for stack in outer:
            middle.connect(stack.listen())
        with stacks(middle, *outer, *dialling):
            for stack in (middle, *outer, *dialling):
                stack.start()
            for stack in (*outer, *dialling):
                middle.wait("connected", peer=stack.ident)
                stack.wait("connected", peer="middle")

    def test_listener_and_connector_are_equal_once_connected(self) -> None:
        """Both send and both receive, with the same calls and callbacks."""
        listening, connecting = Stack("listening"), Stack("connecting")
        connecting.connect(listening.listen())
        with stacks(listening.start(), connecting.start()):
            listening.send("connecting", b"down", ttl=60)
            connecting.send("listening", b"up", ttl=60)
            assert connecting.wait("message", peer="listening")["data"] == b"down"
            assert listening.wait("message", peer="connecting")["data"] == b"up"


class TestSimplePeers:
    def test_the_stack_is_built_of_three_objects(self) -> None:
        link = snakemq.link.Link()
        packeter = snakemq.packeter.Packeter(link)
        messaging = snakemq.messaging.Messaging("bob", "", packeter)
        assert messaging.identifier == "bob"
        assert messaging.packeter is packeter
        assert packeter.link is link
        link.cleanup()

    def test_the_domain_is_kept_and_not_used(self) -> None:
        link = snakemq.link.Link()
        packeter = snakemq.packeter.Packeter(link)
        messaging = snakemq.messaging.Messaging("bob", "some domain", packeter)
        assert messaging.domain == "some domain"
        link.cleanup()

    def test_three_peers_all_connected(self) -> None:
        """The example: two listeners, and whoever dials both is a peer of both."""
        bob, alice, jack = (Stack(name) for name in ("bob", "alice", "jack"))
        everybody = (bob, alice, jack)
        bobs_port, jacks_port = bob.listen(""), jack.listen("")
        for stack, port in (
            (bob, jacks_port),
            (alice, bobs_port),
            (alice, jacks_port),
            (jack, bobs_port),
        ):
            stack.link.add_connector(("localhost", port), 0.05)
        with stacks(*everybody):
            for stack in everybody:
                stack.start()
            for stack in everybody:
                for other in everybody:
                    if other is not stack:
                        stack.wait("connected", peer=other.ident)

    def test_an_empty_host_listens_on_all_interfaces(self) -> None:
        stack = Stack()
        address = stack.link.add_listener(("", 0))
        assert address[0] == "0.0.0.0"
        with stacks(stack.start()):
            for host in ("127.0.0.1", "127.0.0.2") if sys.platform == "linux" else (LOCALHOST,):
                other = Stack(host)
                other.link.add_connector((host, address[1]), 0.05)
                with stacks(other.start()):
                    stack.wait("connected", peer=host)

    def test_the_loop_drives_the_whole_stack(self) -> None:
        """Nothing happens without it: no connection, no message."""
        listening, connecting = Stack("listening"), Stack("connecting")
        connecting.connect(listening.listen())
        listening.send("connecting", b"x", ttl=60)
        connecting.start()
        with stacks(listening, connecting):
            connecting.wait("link connected")  # the system accepts for the listener
            assert not listening.log.all("link connected")
            assert not connecting.log.all("connected")
            listening.start()
            connecting.wait("message")

    def test_a_message_waits_for_its_receiver(self) -> None:
        sender, receiver = Stack("bob"), Stack("alice")
        port = sender.listen()
        message = snakemq.message.Message(b"hello", ttl=600)
        sender.messaging.send_message("alice", message)
        receiver.connect(port)
        with stacks(sender.start(), receiver.start()):
            received = receiver.wait("message")
        assert received["peer"] == "bob"
        assert received["data"] == b"hello"
        assert received["uuid"] == message.uuid
        assert 590 <= received["ttl"] <= 600

    def test_a_message_that_can_not_be_delivered_in_time_is_dropped(self) -> None:
        stack = Stack("bob")
        with stacks(stack.start()):
            uuid = stack.send("alice", ttl=0.05)
            assert stack.wait("dropped") == {"event": "dropped", "peer": "alice", "uuid": uuid}

    def test_send_message_queues_and_returns(self) -> None:
        """Also when no loop runs and nobody listens; from any thread."""
        stack = Stack("bob")
        with stacks(stack):
            for number in range(10):
                stack.send("alice", b"%d" % number, ttl=60)
            thread = threading.Thread(target=stack.send, args=("alice",), kwargs={"ttl": 60})
            thread.start()
            thread.join(DEADLINE)
            assert len(stack.messaging.queues_manager.get_queue("alice")) == 11

    def test_a_transient_message_is_gone_with_its_process(self, tmp_path: Path) -> None:
        """Also when there is a storage: the flag decides."""
        file = tmp_path / "storage.db"
        first = Stack("bob", SqliteQueuesStorage(str(file)))
        first.send("alice", b"transient", ttl=600)
        first.close()
        second = Stack("bob", SqliteQueuesStorage(str(file)))
        with stacks(second):
            assert len(second.messaging.queues_manager.get_queue("alice")) == 0

    def test_a_message_to_oneself_goes_to_another_peer_of_that_name(self) -> None:
        bob, namesake = Stack("bob"), Stack("bob")
        namesake.connect(bob.listen())
        bob.send("bob", b"to myself", ttl=60)
        with stacks(bob.start(), namesake):
            assert not bob.log.all("message")
            namesake.start()
            assert namesake.wait("message")["data"] == b"to myself"
            assert not bob.log.all("message")

    def test_the_receiving_callback_gets_connection_identifier_and_message(self) -> None:
        calls: list[tuple[Any, ...]] = []
        stack = Stack()
        stack.messaging.on_message_recv.add(lambda *args: calls.append(args))
        with stacks(stack), RawPeer.dial(stack.listen()) as raw:
            stack.start()
            raw.send(bytes.fromhex("00000004 02 726177") + message_packet(b"hello"))
            stack.wait("message")
        ((conn, ident, message),) = calls
        assert isinstance(conn, str)
        assert ident == "raw"
        assert isinstance(message, snakemq.message.Message)
        assert message.data == b"hello"


class TestPersistentQueues:
    def test_persistent_messages_survive_and_are_loaded_at_the_start(self, tmp_path: Path) -> None:
        file = str(tmp_path / "storage.db")
        first = Stack("bob")
        messaging = snakemq.messaging.Messaging(
            "bob", "", snakemq.packeter.Packeter(first.link), SqliteQueuesStorage(file)
        )
        message = snakemq.message.Message(b"hello", ttl=600, flags=FLAG_PERSISTENT)
        messaging.send_message("alice", message)
        messaging.queues_manager.close()
        first.close()
        second, alice = Stack("bob", SqliteQueuesStorage(file)), Stack("alice")
        alice.connect(second.listen())
        with stacks(second.start(), alice.start()):
            received = alice.wait("message")
            second.wait("acked")
        assert received["data"] == b"hello"
        assert received["uuid"] == message.uuid
        assert received["flags"] == FLAG_PERSISTENT
        third = SqliteQueuesStorage(file)
        assert list(third.get_items("alice")) == []
        third.close()

    def test_only_outgoing_messages_are_stored(self, tmp_path: Path) -> None:
        """The receiver of a persistent message does not keep it."""
        file = str(tmp_path / "storage.db")
        receiver = Stack("alice", SqliteQueuesStorage(file))
        sender = Stack("bob")
        sender.connect(receiver.listen())
        with stacks(receiver.start(), sender.start()):
            sender.send("alice", ttl=600, flags=FLAG_PERSISTENT)
            receiver.wait("message")
        storage = SqliteQueuesStorage(file)
        assert list(storage.get_queues()) == []
        storage.close()

    @pytest.mark.parametrize("role", ["listener", "connector"])
    def test_the_sending_side_may_listen_or_connect(self, tmp_path: Path, role: str) -> None:
        file = str(tmp_path / "storage.db")
        before = Stack("bob", SqliteQueuesStorage(file))
        before.send("alice", b"kept", ttl=600, flags=FLAG_PERSISTENT)
        before.close()
        sender, receiver = Stack("bob", SqliteQueuesStorage(file)), Stack("alice")
        if role == "listener":
            receiver.connect(sender.listen())
        else:
            sender.connect(receiver.listen())
        with stacks(sender.start(), receiver.start()):
            assert receiver.wait("message")["data"] == b"kept"


class TestLogging:
    @pytest.fixture(autouse=True)
    def logger(self) -> Iterator[logging.Logger]:
        """The logger as a program finds it, and afterwards as it was."""
        logger = logging.getLogger("snakemq")
        level, handlers = logger.level, logger.handlers[:]
        logger.setLevel(logging.NOTSET)
        yield logger
        logger.setLevel(level)
        logger.handlers[:] = handlers

    def test_the_recipe_shows_what_goes_on_inside(self, logger: logging.Logger) -> None:
        stream = io.StringIO()
        snakemq.init_logging(stream)
        logger.setLevel(logging.DEBUG)
        stack, other = Stack("bob"), Stack("alice")
        other.connect(stack.listen())
        with stacks(stack.start(), other.start()):
            other.send("bob", ttl=60)
            stack.wait("message")
        text = stream.getvalue()
        assert "snakemq.link INFO connect" in text
        assert "snakemq.link INFO accept" in text
        assert "snakemq.messaging DEBUG" in text
        assert "alice" in text
        assert "snakemq.link INFO disconnect" in text

    def test_nothing_below_critical_is_shown_before_a_level_is_set(
        self, logger: logging.Logger
    ) -> None:
        stream = io.StringIO()
        snakemq.init_logging(stream)
        assert logger.level == logging.CRITICAL
        logging.getLogger("snakemq.link").error("not shown")
        logging.getLogger("snakemq.link").critical("shown")
        assert "not shown" not in stream.getvalue()
        assert "snakemq.link CRITICAL shown" in stream.getvalue()

    def test_without_a_stream_it_goes_to_the_console(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        snakemq.init_logging()
        logging.getLogger("snakemq").critical("hello")
        assert "hello" in "".join(capsys.readouterr())

    def test_any_text_stream_will_do(self, tmp_path: Path) -> None:
        with open(tmp_path / "log.txt", "w+", encoding="utf-8") as stream:
            snakemq.init_logging(stream)
            logging.getLogger("snakemq").critical("hello")
            stream.seek(0)
            assert "hello" in stream.read()


class TestTls:
    def test_both_sides_take_the_same_kind_of_configuration(
        self, tls: snakemq.link.SSLConfig
    ) -> None:
        listening, connecting = Stack("bob"), Stack("alice")
        connecting.connect(listening.listen(ssl_config=tls), ssl_config=tls)
        with stacks(listening.start(), connecting.start()):
            connecting.send("bob", bytes(1_000_000), ttl=60)
            assert len(listening.wait("message")["data"]) == 1_000_000

    def test_the_link_is_secure(self, tls: snakemq.link.SSLConfig) -> None:
        """A plain connector and one with a certificate of its own making are not let in."""
        listening = Stack("bob")
        port = listening.listen(ssl_config=tls)
        plain = Stack("plain")
        plain.connect(port)
        anonymous = Stack("anonymous")
        anonymous.connect(port, ssl_config=snakemq.link.SSLConfig())
        good = Stack("good")
        with stacks(listening.start(), plain.start(), anonymous.start(), good):
            # The listener answers plain text with an end, and so does TLS here.
            plain.wait("link disconnected")
            good.connect(port, ssl_config=tls)
            good.start()
            listening.wait("connected", peer="good")
            assert [e["peer"] for e in listening.log.all("connected")] == ["good"]

    def test_the_certificate_of_the_peer(self, tls: snakemq.link.SSLConfig) -> None:
        """The example: asked for in the link's ``on_connect``, on either side."""
        certificates: list[Any] = []
        binary: list[Any] = []
        listening, connecting = Stack("bob"), Stack("alice")
        for stack in (listening, connecting):

            def on_connect(conn: str, link: snakemq.link.Link = stack.link) -> None:
                sock = link.get_socket_by_conn(conn)
                certificates.append(sock.getpeercert())
                binary.append(sock.getpeercert(binary_form=True))

            stack.link.on_connect.add(on_connect)
        connecting.connect(listening.listen(ssl_config=tls), ssl_config=tls)
        with stacks(listening.start(), connecting.start()):
            listening.wait("connected")
            connecting.wait("connected")
        assert len(certificates) == 2
        for certificate in certificates:
            names = [name for part in certificate["subject"] for name in part]
            assert ("commonName", "testpeer") in names
        assert [ssl.DER_cert_to_PEM_cert(der)[:27] for der in binary] == [
            "-----BEGIN CERTIFICATE-----"
        ] * 2


class Service:
    """What the other side may call."""

    def __init__(self) -> None:
        self.signals: list[tuple[Any, ...]] = []
        self.signalled = threading.Semaphore(0)

    def get_fo(self) -> str:
        return "fo value"

    def fail(self) -> None:
        raise ZeroDivisionError("over there")

    def plain(self, *args: Any) -> str:
        self.signals.append(args)
        self.signalled.release()
        return "answer"

    @snakemq.rpc.as_signal
    def mysignal(self, *args: Any) -> None:
        self.signals.append(args)
        self.signalled.release()


def rpc_stack(ident: str) -> RpcStack:
    return RpcStack(ident, Service())


def service_of(stack: RpcStack) -> Service:
    service = stack.server.get_registered_objects()["service"]
    assert isinstance(service, Service)
    return service


class TestRemoteProcedureCall:
    @pytest.fixture
    def pair(self) -> Iterator[tuple[RpcStack, RpcStack]]:
        """Two connected peers."""
        bob, alice = rpc_stack("bob"), rpc_stack("alice")
        alice.connect(bob.listen())
        with stacks(bob.start(), alice.start()):
            bob.wait("connected")
            alice.wait("connected")
            yield bob, alice

    def test_both_peers_are_server_and_client(self, pair: tuple[RpcStack, RpcStack]) -> None:
        bob, alice = pair
        assert bob.client.get_proxy("alice", "service").get_fo() == "fo value"
        assert alice.client.get_proxy("bob", "service").get_fo() == "fo value"

    def test_a_call_blocks_until_the_remote_side_connects(self) -> None:
        bob, alice = rpc_stack("bob"), rpc_stack("alice")
        port = alice.listen()
        results: list[Any] = []
        proxy = alice.client.get_proxy("bob", "service")
        thread = threading.Thread(target=lambda: results.append(proxy.get_fo()))
        with stacks(alice.start(), bob):
            thread.start()
            assert alice.in_loop(lambda: results[:]) == []
            bob.connect(port)
            bob.start()
            thread.join(DEADLINE)
            assert results == ["fo value"]

    def test_a_call_survives_a_broken_connection(self, pair: tuple[RpcStack, RpcStack]) -> None:
        """1.6 repeats the request, and the method runs again; here it runs once."""
        bob, alice = pair
        calls: list[int] = []

        class Slow:
            def work(self) -> str:
                calls.append(1)
                conn = bob.log.all("connected")[0]["conn"]
                bob.in_loop(bob.link.close, conn)
                wait_until(lambda: len(bob.log.all("connected")) == 2)
                return "done"

        bob.server.register_object(Slow(), "slow")
        assert alice.client.get_proxy("bob", "slow").work() == "done"
        assert calls == [1]

    def test_a_signal_does_not_block_and_returns_none(self) -> None:
        alice = rpc_stack("alice")
        with stacks(alice):
            proxy = alice.client.get_proxy("nobody", "service")
            proxy.mysignal.as_signal(10)
            assert proxy.mysignal() is None

    def test_a_signal_has_a_time_to_live(self) -> None:
        bob, alice = rpc_stack("bob"), rpc_stack("alice")
        port = alice.listen()
        proxy = alice.client.get_proxy("bob", "service")
        with stacks(alice.start(), bob):
            proxy.mysignal.as_signal(0.02)
            proxy.mysignal("too late")
            alice.wait("dropped")
            proxy.mysignal.as_signal(600)
            proxy.mysignal("in time")
            bob.connect(port)
            bob.start()
            assert service_of(bob).signalled.acquire(timeout=DEADLINE)
            assert service_of(bob).signals == [("in time",)]

    def test_the_kinds_of_call_can_not_be_mixed(self, pair: tuple[RpcStack, RpcStack]) -> None:
        """Neither way round is silent about it: the server warns."""
        _, alice = pair
        proxy = alice.client.get_proxy("bob", "service")
        shown: list[Any] = []
        seen = threading.Semaphore(0)

        def show(message: Any, category: Any, *rest: Any) -> None:
            shown.append(category)
            seen.release()

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = show
            proxy.mysignal()
            assert seen.acquire(timeout=DEADLINE)
            proxy.plain.as_signal(10)
            proxy.plain()
            assert seen.acquire(timeout=DEADLINE)
        assert shown == [snakemq.rpc.SignalCallWarning] * 2

    def test_the_decorator_marks_a_method_as_a_signal(self) -> None:
        def method() -> None:
            """Nothing."""

        assert snakemq.rpc.as_signal(method) is method

    def test_signal_and_call_in_the_example(self, pair: tuple[RpcStack, RpcStack]) -> None:
        bob, alice = pair
        proxy = alice.client.get_proxy("bob", "service")
        proxy.mysignal.as_signal(10)
        proxy.mysignal()
        assert proxy.get_fo() == "fo value"
        assert service_of(bob).signalled.acquire(timeout=DEADLINE)


class TestExceptions:
    @pytest.fixture
    def pair(self) -> Iterator[tuple[RpcStack, RpcStack]]:
        """Two connected peers."""
        bob, alice = rpc_stack("bob"), rpc_stack("alice")
        alice.connect(bob.listen())
        with stacks(bob.start(), alice.start()):
            alice.wait("connected")
            yield bob, alice

    def test_they_are_transferred_by_default(self, pair: tuple[RpcStack, RpcStack]) -> None:
        bob, alice = pair
        assert bob.server.transfer_exceptions is True
        with pytest.raises(ZeroDivisionError, match="over there"):
            alice.client.get_proxy("bob", "service").fail()

    def test_the_traceback_is_local_and_the_remote_one_an_attribute(
        self, pair: tuple[RpcStack, RpcStack]
    ) -> None:
        _, alice = pair
        with pytest.raises(ZeroDivisionError) as caught:
            alice.client.get_proxy("bob", "service").fail()
        assert caught.traceback[0].path == Path(__file__)
        remote = caught.value.__remote_traceback__  # type: ignore[attr-defined]
        assert isinstance(remote, str)
        assert "in fail" in remote
        assert remote.rstrip().endswith("ZeroDivisionError: over there")

    def test_it_can_be_switched_off_at_the_server(self, pair: tuple[RpcStack, RpcStack]) -> None:
        """The caller is not told: only its own timeout ends the call."""
        bob, alice = pair
        bob.server.transfer_exceptions = False
        proxy = alice.client.get_proxy("bob", "service")
        proxy.fail.set_timeout(0.2)
        with pytest.raises(snakemq.rpc.PartialCall):
            proxy.fail()


class TestThrottle:
    def test_it_stands_between_link_and_packeter(self) -> None:
        link = snakemq.link.Link()
        throttle = snakemq.throttle.Throttle(link, 10000)
        packeter = snakemq.packeter.Packeter(throttle)
        assert packeter.link is throttle
        link.cleanup()

    def test_it_limits_each_connection(self) -> None:
        """Bytes per second, of one connection; another has a limit of its own."""
        rate, size = 100_000, 50_000
        sender = Stack("sender", throttle=rate)
        receivers = [Stack(f"receiver {n}") for n in range(2)]
        port = sender.listen()
        with stacks(sender.start(), *receivers):
            for receiver in receivers:
                receiver.connect(port)
                receiver.start()
            for receiver in receivers:
                sender.wait("connected", peer=receiver.ident)
            start = time.monotonic()
            for receiver in receivers:
                sender.send(receiver.ident, bytes(size))
            for receiver in receivers:
                assert len(receiver.wait("message")["data"]) == size
            elapsed = time.monotonic() - start
        # Slower than asked for is the fault of a busy machine as well, so the
        # bound above is generous.
        assert 0.8 * size / rate < elapsed < DEADLINE
