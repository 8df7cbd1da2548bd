"""Remote calls over real sockets: two whole stacks, each with the thread of its loop."""

from __future__ import annotations

import contextlib
import gc
import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from snakemq.link import Link
from snakemq.message import Message
from snakemq.messaging import Messaging, ReceiveHook
from snakemq.packeter import Packeter
from snakemq.rpc import (
    REPLY_PREFIX,
    REQUEST_PREFIX,
    ClientClosed,
    Error,
    NoInstanceError,
    NoMethodError,
    NotConnected,
    PartialCall,
    RpcClient,
    RpcServer,
    SignalCallWarning,
    WouldDeadlock,
    as_signal,
    register_type,
)
from tests.helpers import DEADLINE, wait_until
from tests.layers.rpc_fakes import InThread


@register_type
class CustomError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Service:
    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)

    def echo(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    def square(self, number: int) -> int:
        return number * number

    def size(self, data: bytes) -> int:
        return len(data)

    def make(self, size: int) -> bytes:
        return bytes(size)

    def fail(self, code: int) -> None:
        raise CustomError(code)

    def fail_unpicklable(self) -> None:
        raise ValueError("the original", threading.Lock())

    def hold(self, value: Any = None) -> Any:
        self.calls.append(value)
        self.entered.release()
        assert self.gate.wait(DEADLINE)
        return value

    def wait_entered(self) -> None:
        assert self.entered.acquire(timeout=DEADLINE)

    def regular(self, value: Any) -> None:
        self.calls.append(value)

    @as_signal
    def note(self, value: Any) -> None:
        self.calls.append(value)


class Node:
    """A stack with everything for remote calls."""

    def __init__(
        self, ident: str, connect: tuple[str, int] | None = None, **packeter_options: Any
    ) -> None:
        self.link = Link()
        self.link.reconnect_interval = 0.02
        self.link.reconnect_interval_max = 0.1
        self.packeter = Packeter(self.link, **packeter_options)
        self.messaging = Messaging(ident, "", self.packeter)
        self.hook = ReceiveHook(self.messaging)
        self.server = RpcServer(self.hook)
        self.client = RpcClient(self.hook)
        self.service = Service()
        self.server.register_object(self.service, "obj")
        if connect is None:
            self.address = self.link.add_listener(("127.0.0.1", 0))
        else:
            self.link.add_connector(connect)
        self._thread = threading.Thread(target=self.link.loop, name=f"loop of {ident}")

    def start(self) -> Node:
        self._thread.start()
        return self

    def halt(self) -> None:
        """As if the process had ended, except that methods still run."""
        self.link.stop()
        if self._thread.ident is not None:
            self._thread.join(DEADLINE)
            assert not self._thread.is_alive()
        self.link.cleanup()

    def stop(self) -> None:
        self.service.gate.set()
        self.client.close()
        self.halt()
        assert self.server.close(DEADLINE)
        self.messaging.close()

    def in_loop(self, func: Callable[[], object]) -> None:
        """Call in the thread of the loop, and wait."""
        done = threading.Event()
        self.link.call_soon(func)
        self.link.call_soon(done.set)
        assert done.wait(DEADLINE)

    def wait_for(self, ident: str) -> None:
        wait_until(lambda: self.messaging.is_connected(ident))

    def proxy(self, ident: str) -> Any:
        return self.client.get_proxy(ident, "obj")

    def waiting(self, count: int) -> bool:
        return f"waiting={count}>" in repr(self.client)

    def cut(self) -> None:
        """Break all connections from here; connectors dial again."""

        def close() -> None:
            for conn_id in list(self.messaging._connections):
                self.packeter.close(conn_id)

        self.in_loop(close)


class Nodes:
    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def add(self, ident: str, connect: Node | None = None, **options: Any) -> Node:
        node = Node(ident, connect and connect.address, **options)
        self._stack.callback(node.stop)
        return node.start()

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.close()


@pytest.fixture
def pair(nodes: Nodes) -> tuple[Node, Node]:
    """Alice, who listens, and Bob, who has connected."""
    alice = nodes.add("alice")
    bob = nodes.add("bob", alice)
    alice.wait_for("bob")
    bob.wait_for("alice")
    return alice, bob


Pair = tuple[Node, Node]


def test_a_call_with_arguments_in_both_directions(pair: Pair) -> None:
    alice, bob = pair
    assert alice.proxy("bob").echo(1, [2], key="value") == ((1, [2]), {"key": "value"})
    assert bob.proxy("alice").echo() == ((), {})


def test_a_large_argument_and_a_large_result(pair: Pair) -> None:
    alice, _ = pair
    assert alice.proxy("bob").size(bytes(20_000_000)) == 20_000_000
    assert len(alice.proxy("bob").make(20_000_000)) == 20_000_000


def test_a_remote_exception_with_its_traceback(pair: Pair) -> None:
    alice, _ = pair
    with pytest.raises(CustomError) as info:
        alice.proxy("bob").fail(5)
    assert info.value.code == 5
    text = info.value.__remote_traceback__  # type: ignore[attr-defined]
    assert "in fail" in text
    assert "raise CustomError(code)" in text
    # The local traceback is there as well.
    assert info.traceback[0].path.name == "test_rpc_sockets.py"


def test_unknown_objects_and_methods(pair: Pair) -> None:
    alice, _ = pair
    with pytest.raises(NoInstanceError, match="nothing"):
        alice.client.get_proxy("bob", "nothing").echo()
    with pytest.raises(NoMethodError, match="absent"):
        alice.proxy("bob").absent()
    with pytest.raises(NoMethodError, match="_private"):
        alice.proxy("bob")._private()


def test_an_exception_that_can_not_be_pickled_arrives_as_a_substitute(pair: Pair) -> None:
    alice, _ = pair
    with pytest.raises(Error, match="the original") as info:
        alice.proxy("bob").fail_unpicklable()
    assert "in fail_unpicklable" in info.value.__remote_traceback__  # type: ignore[attr-defined]


def test_a_result_over_the_limit_of_a_packet_travels_in_parts(nodes: Nodes) -> None:
    alice = nodes.add("alice", max_packet_size=100_000)
    bob = nodes.add("bob", alice, max_packet_size=100_000)
    bob.wait_for("alice")
    assert len(bob.proxy("alice").make(300_000)) == 300_000
    assert bob.proxy("alice").size(bytes(300_000)) == 300_000
    assert bob.proxy("alice").square(3) == 9


def test_a_signal_to_a_connected_peer(pair: Pair) -> None:
    alice, bob = pair
    proxy = alice.proxy("bob")
    proxy.note.as_signal()
    assert proxy.note("now") is None
    wait_until(lambda: bob.service.calls == ["now"])


def test_a_signal_waits_as_long_as_its_ttl_says(nodes: Nodes) -> None:
    alice = nodes.add("alice")
    proxy = alice.proxy("bob")
    for ttl, value in ((0, "gone"), (0.001, "gone too"), (60, "waits"), (float("inf"), "too")):
        proxy.note.as_signal(ttl)
        proxy.note(value)
    # Two are left when the one with the shortest TTL has expired.
    wait_until(lambda: alice.messaging.queued_messages("bob") == 2)
    bob = nodes.add("bob", alice)
    wait_until(lambda: len(bob.service.calls) == 2)
    assert sorted(bob.service.calls) == ["too", "waits"]


def test_a_signal_called_as_a_method_and_the_reverse(pair: Pair) -> None:
    alice, bob = pair
    proxy = alice.proxy("bob")
    with pytest.warns(SignalCallWarning, match="obj.note is marked as a signal"):
        assert proxy.note(1) is None
    proxy.regular.as_signal(10)

    def signal() -> None:
        proxy.regular(2)
        wait_until(lambda: bob.service.calls == [1, 2])

    with pytest.warns(SignalCallWarning, match="obj.regular is not marked as a signal"):
        signal()


def test_timeouts(pair: Pair) -> None:
    alice, bob = pair
    hold = alice.proxy("bob").hold
    hold.set_timeout(0.1)
    with pytest.raises(PartialCall):
        hold()
    absent = alice.proxy("nobody").echo
    absent.set_timeout(0.05)
    with pytest.raises(NotConnected):
        absent()
    # The reply that comes now is dropped, and nothing is left of the call.
    bob.service.gate.set()
    assert alice.proxy("bob").square(2) == 4
    assert alice.waiting(0)


def test_the_server_appears_late(nodes: Nodes) -> None:
    alice = nodes.add("alice")
    call = InThread(alice.proxy("bob").square, 7)
    wait_until(lambda: alice.waiting(1))
    nodes.add("bob", alice)
    assert call.result() == 49


def test_the_server_is_restarted_in_mid_call(nodes: Nodes) -> None:
    alice = nodes.add("alice")
    first = nodes.add("bob", alice)
    call = InThread(alice.proxy("bob").hold, "value")
    first.service.wait_entered()
    first.halt()
    second = nodes.add("bob", alice)
    second.service.wait_entered()
    second.service.gate.set()
    assert call.result() == "value"
    assert (first.service.calls, second.service.calls) == (["value"], ["value"])


def test_the_connection_is_lost_in_mid_call(pair: Pair) -> None:
    alice, bob = pair
    call = InThread(alice.proxy("bob").hold, "value")
    bob.service.wait_entered()
    alice.cut()
    wait_until(lambda: alice.messaging.is_connected("bob"))
    bob.service.gate.set()
    assert call.result() == "value"
    assert bob.service.calls == ["value"]
    wait_until(lambda: alice.waiting(0))


def test_calls_while_the_connection_is_lost_again_and_again(pair: Pair) -> None:
    alice, bob = pair
    proxy = alice.proxy("bob")
    stop = threading.Event()

    def call() -> int:
        number = 0
        while True:
            assert proxy.square(number) == number * number
            number += 1
            if stop.is_set():
                return number

    callers = [InThread(call) for _ in range(4)]
    try:
        for node in (alice, bob) * 5:
            bob.wait_for("alice")
            alice.wait_for("bob")
            node.cut()
    finally:
        stop.set()
    assert all(caller.result() > 0 for caller in callers)
    assert alice.waiting(0)


def test_both_sides_are_client_and_server_at_once(pair: Pair) -> None:
    alice, bob = pair
    threads = [
        InThread(lambda a=a, b=b: [a.proxy(b).square(n) for n in range(100)])
        for a, b in ((alice, "bob"), (bob, "alice")) * 2
    ]
    for thread in threads:
        assert thread.result() == [n * n for n in range(100)]


def test_a_method_may_call_back(pair: Pair) -> None:
    alice, bob = pair

    class Middle:
        def ask(self, number: int) -> int:
            result: int = bob.proxy("alice").square(number)
            return result + 1

    bob.server.register_object(Middle(), "middle")
    assert alice.client.get_proxy("bob", "middle").ask(5) == 26


def test_16_threads_on_one_proxy(pair: Pair) -> None:
    alice, _ = pair
    proxy = alice.proxy("bob")

    def call(first: int) -> list[int]:
        return [proxy.square(n) for n in range(first, first + 60)]

    threads = [InThread(call, first) for first in range(0, 16_000, 1000)]
    for first, thread in zip(range(0, 16_000, 1000), threads, strict=True):
        assert thread.result() == [n * n for n in range(first, first + 60)]
    assert alice.waiting(0)


def test_exceptions_that_are_not_transferred_leave_the_caller_to_its_timeout(pair: Pair) -> None:
    alice, bob = pair
    bob.server.transfer_exceptions = False
    fail = alice.proxy("bob").fail
    fail.set_timeout(0.1)
    with pytest.raises(PartialCall):
        fail(5)
    assert alice.proxy("bob").square(2) == 4


def test_a_call_in_a_callback_is_refused_and_a_signal_is_not(pair: Pair) -> None:
    alice, bob = pair
    proxy = alice.proxy("bob")
    proxy.note.as_signal()
    errors: list[Exception] = []

    def on_message(conn_id: str, ident: str, message: Message) -> None:
        try:
            proxy.square(2)
        except WouldDeadlock as exc:
            errors.append(exc)
            proxy.note("from the callback")

    alice.messaging.on_message_recv.add(on_message)
    bob.messaging.send_message("alice", Message(b"anything"))
    wait_until(lambda: bob.service.calls == ["from the callback"])
    assert len(errors) == 1
    # In a timer just as well.
    alice.in_loop(lambda: on_message("", "", Message(b"")))
    assert len(errors) == 2


def test_garbage_ends_nothing(pair: Pair) -> None:
    alice, bob = pair
    for prefix in (REQUEST_PREFIX, REPLY_PREFIX):
        for data in (b"", b"garbage", pickle.dumps(None), pickle.dumps({"req_id": []})):
            bob.messaging.send_message("alice", Message(prefix + data))
            alice.messaging.send_message("bob", Message(prefix + data))
    assert alice.proxy("bob").square(3) == 9
    assert bob.proxy("alice").square(3) == 9


class Json:
    """A serializer that is no pickle."""

    PickleError = ValueError

    def dumps(self, obj: Any) -> bytes:
        return json.dumps(obj, default=lambda value: {"bytes": value.hex()}).encode()

    def loads(self, data: bytes) -> Any:
        return json.loads(
            data, object_hook=lambda obj: bytes.fromhex(obj["bytes"]) if "bytes" in obj else obj
        )


def test_a_pickler_of_ones_own(pair: Pair) -> None:
    alice, bob = pair
    server = RpcServer(bob.hook, Json())
    server.register_object(bob.service, "obj")
    client = RpcClient(alice.hook, pickler=Json())
    proxy = client.get_proxy("bob", "obj")
    assert proxy.echo(1, key=[2]) == [[1], {"key": [2]}]
    with pytest.raises(Error, match="CustomError"):
        proxy.fail(5)
    client.close()
    assert server.close(DEADLINE)


def test_a_client_made_when_the_peer_is_connected_already(pair: Pair) -> None:
    alice, _ = pair
    client = RpcClient(alice.hook)
    proxy = client.get_proxy("bob", "obj")
    proxy.square.set_timeout(DEADLINE)
    assert proxy.square(4) == 16
    client.close()


def test_closing_the_client_ends_its_calls(pair: Pair) -> None:
    alice, bob = pair
    call = InThread(alice.proxy("bob").hold)
    bob.service.wait_entered()
    alice.client.close()
    assert isinstance(call.error(), ClientClosed)


@pytest.mark.slow
def test_nothing_is_left_after_thousands_of_calls(pair: Pair) -> None:
    alice, _ = pair
    proxy = alice.proxy("bob")
    proxy.square.set_timeout(DEADLINE)
    impatient = proxy.square.clone()
    impatient.set_timeout(0)

    def objects() -> int:
        gc.collect()
        return len(gc.get_objects())

    def calls() -> None:
        for number in range(1000):
            assert proxy.square(number) == number * number
            with contextlib.suppress(PartialCall):
                impatient(number)
            with pytest.raises(CustomError):
                proxy.fail(number)

    calls()
    before = objects()
    for _ in range(2):
        calls()
    assert alice.waiting(0)
    wait_until(lambda: objects() < before + 300, timeout=DEADLINE)


def test_the_timeout_is_about_as_long_as_it_was_set(pair: Pair) -> None:
    alice, _ = pair
    hold = alice.proxy("bob").hold
    hold.set_timeout(0.2)
    start = time.monotonic()
    with pytest.raises(PartialCall):
        hold()
    assert time.monotonic() - start >= 0.19
