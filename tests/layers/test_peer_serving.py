"""What a Peer serves, how, and how it goes on until it is stopped."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, cast

import pytest

from snakemq import CallLimits, Peer, as_signal, at_most_once, current_call, quick, transactional
from snakemq.exceptions import StorageError
from snakemq.peer import _early_requests
from snakemq.rpc import (
    AnswerLimits,
    Busy,
    NoMethodError,
    NotConnected,
    RemoteError,
    RpcInstProxy,
    Serializer,
    UnreadableReply,
)
from snakemq.rpc.json_serializer import JSON
from tests.helpers import DEADLINE, wait_until
from tests.layers.peers import connected_pair


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


class Counter:
    def __init__(self) -> None:
        self.value = 0

    def up(self) -> int:
        self.value += 1
        return self.value


# What is served.


def test_functions_and_objects_are_told_apart() -> None:
    served = {
        "add": add,
        "math.add": add,
        "up": Counter().up,
        "length": len,
        "next": functools.partial(add, 1),
        "counter": Counter(),
        "a.b.counter": Counter(),
    }
    with connected_pair(bob={"serve": served}) as (bob, alice):
        there: Any = alice.proxy("bob")
        assert there.add(2, b=40) == 42
        assert there.math.add(1) == 2
        assert there.up() == 1
        assert there.length("four") == 4
        assert there.next(5) == 6
        assert there.counter.up() == 1
        assert there.a.b.counter.up() == 1
        kinds = {entry["name"]: entry["kind"] for entry in bob.rpc_server.describe()}
        assert kinds == {
            name: "object" if name.endswith("counter") else "function" for name in served
        }


def test_a_function_with_its_own_name_and_with_marks() -> None:
    threads = []

    def where() -> None:
        threads.append(threading.current_thread().name)

    with connected_pair() as (bob, alice):
        bob.serve_function(where, quick=True)
        bob.serve_function(where, "once", at_most_once=True)
        there: Any = alice.proxy("bob")
        there.where()
        there.once()
        assert threads[0] == "snakemq peer bob"
        assert threads[1].startswith("snakemq-rpc")
        (once,) = (entry for entry in bob.rpc_server.describe() if entry["name"] == "once")
        assert once["methods"][0]["at_most_once"]


def test_the_decorator() -> None:
    bob = Peer("bob", listen=0)

    @bob.function
    def plain() -> str:
        return "plain"

    @bob.function("text.upper", quick=True)
    def upper(text: str) -> str:
        return text.upper()

    @bob.function(name="text.lower", at_most_once=True)
    def lower(text: str) -> str:
        return text.lower()

    @bob.function()
    def empty() -> str:
        return "empty"

    assert plain() == "plain", "the function itself is not changed"
    with bob, Peer("alice", connect=bob.addresses[0]) as alice:
        there: Any = alice.proxy("bob")
        assert (there.plain(), there.empty()) == ("plain", "empty")
        assert (there.text.upper("Tea"), there.text.lower("Tea")) == ("TEA", "tea")


@pytest.mark.parametrize(
    ("f", "name", "error"),
    [
        (add, "_add", ValueError),
        (add, "a..b", ValueError),
        (lambda: 0, None, ValueError),
        (1, "one", TypeError),
        (add, 1, TypeError),
    ],
)
def test_what_is_no_name_or_no_function_is_refused(f: Any, name: Any, error: Any) -> None:
    with Peer("bob") as bob, pytest.raises(error):
        bob.serve_function(f, name)


def test_arguments_of_a_wrong_type() -> None:
    with Peer("bob") as bob:
        wrong: Any = 5
        with pytest.raises(TypeError, match="a function or a name"):
            bob.function(wrong)
        with pytest.raises(TypeError, match="name must be a string"):
            bob.proxy("alice", wrong)


def test_a_name_in_serve_is_checked_and_nothing_is_left_open() -> None:
    with pytest.raises(ValueError, match="underscore"):
        Peer("bob", listen=0, serve={"_add": add})


# Typed proxies, and options.


class Adder(Protocol):
    def add(self, a: int, b: int) -> int:
        """Add."""
        ...


class Real:
    def add(self, a: int, b: int) -> int:
        return a + b


def test_a_typed_proxy() -> None:
    with connected_pair(bob={"serve": {"real": Real()}}) as (_bob, alice):
        adder = alice.proxy("bob", "real", Adder)
        result: int = adder.add(1, 2)
        assert result == 3
        with pytest.raises(AttributeError, match="Adder has no public 'sub'"):
            adder.sub(1)  # type: ignore[attr-defined]
        untyped: RpcInstProxy = alice.proxy("bob", "real")
        assert untyped.add(1, 1) == 2


def test_options_of_a_proxy() -> None:
    with Peer("alice") as alice:
        with pytest.raises(NotConnected):
            alice.proxy("bob", "real", timeout=0.01).add(1, 1)
        with pytest.raises(NotConnected):
            alice.proxy("bob", "real", wait_for_peer=False).add(1, 1)
        with pytest.raises(ValueError, match="timeout"):
            alice.proxy("bob", timeout=-1)


# Options of the peer.


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"max_workers": 0}, ValueError),
        ({"max_waiting": -1}, ValueError),
        ({"max_per_peer": 1.5}, TypeError),
        ({"max_per_object": True}, TypeError),
    ],
)
def test_limits_that_can_not_be(limits: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(limits))):
        CallLimits(**limits)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("call_limits", 5),
        ("call_limits", {}),
        ("pickler", "json"),
        ("asyncio_loop", 5),
        ("serve", [add]),
    ],
)
def test_options_of_a_wrong_type(argument: str, value: object) -> None:
    options: Any = {argument: value}
    with pytest.raises(TypeError, match=argument):
        Peer("bob", **options)


def test_the_limits_are_those_of_the_server() -> None:
    limits = CallLimits(5, 4, 3, 2, AnswerLimits(max_count=7), 1, 1000, 100)
    with Peer("bob", call_limits=limits) as bob:
        dispatcher = bob.rpc_server.dispatcher
        assert dispatcher.max_workers == 5
        assert dispatcher.max_per_peer == 4
        assert dispatcher.max_per_object == 3
        assert dispatcher.max_waiting == 2
        assert dispatcher.max_waiting_per_peer == 1
        assert dispatcher.max_waiting_bytes == 1000
        assert dispatcher.max_waiting_bytes_per_peer == 100
        assert bob.rpc_server.executions.limits.max_count == 7


def test_what_is_too_much_is_refused_as_busy() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        go_on.wait(DEADLINE)

    limits = CallLimits(max_workers=1, max_waiting=0)
    with connected_pair(bob={"serve": {"wait": wait}, "call_limits": limits}) as (_bob, alice):
        there: Any = alice.proxy("bob")
        waiting = there.wait.future()
        assert begun.wait(DEADLINE)
        with pytest.raises(Busy):
            there.wait()
        go_on.set()
        assert waiting.result(DEADLINE) is None


def test_both_sides_use_another_serializer() -> None:
    serializer = cast(Serializer, JSON)
    options = {"pickler": serializer}
    with connected_pair(bob={"serve": {"add": add}, **options}, alice=options) as (bob, alice):
        assert alice.proxy("bob").add(1, 2) == 3
        assert bob.rpc_server.pickler is alice.rpc_client.pickler is serializer


class Unheard(Exception):
    pass


class Unregistered:
    pass


def test_what_is_not_known_of_an_exception_is_named() -> None:
    """The exception itself may be unknown: it is what it carries that can't be read."""

    def fail(value: Any) -> None:
        raise Unheard("no", value)

    def carry() -> None:
        fail(Unregistered())

    with connected_pair(bob={"serve": {"fail": fail, "carry": carry}}) as (_bob, alice):
        there: Any = alice.proxy("bob")
        with pytest.raises(RemoteError) as caught:
            there.fail(5)
        assert caught.value.class_name.endswith(".Unheard")
        assert caught.value.args == ("no", 5)
        with pytest.raises(
            UnreadableReply, match=r"allow it with: .*register_type\(.*\.Unregistered"
        ):
            there.carry()


def test_a_stop_iteration_does_not_keep_asyncio_waiting() -> None:
    """No future of asyncio takes it, so until 3.12 whoever awaits one would wait for ever."""

    def stop() -> None:
        raise StopIteration("here")

    async def main(there: Any) -> None:
        await asyncio.wait_for(asyncio.wrap_future(there.stop.future()), DEADLINE)

    with connected_pair(bob={"serve": {"stop": stop}}) as (_bob, alice):
        there: Any = alice.proxy("bob")
        with pytest.raises(RemoteError, match=r"StopIteration\('here'\)") as caught:
            asyncio.run(main(there))
        assert caught.value.class_name == "builtins.StopIteration"
        with pytest.raises(StopIteration):
            there.stop()


def test_an_async_function() -> None:
    async def main() -> int:
        async def later(value: int) -> int:
            await asyncio.sleep(0)
            return value

        loop = asyncio.get_running_loop()
        pair = connected_pair(bob={"serve": {"later": later}, "asyncio_loop": loop})
        with pair as (_bob, alice):
            return cast(int, await asyncio.wrap_future(alice.proxy("bob").later.future(5)))

    assert asyncio.run(main()) == 5


def test_durable_calls_need_a_storage() -> None:
    with pytest.raises(StorageError, match="storage=") as caught:
        Peer("bob", listen=0, durable_calls=True)
    assert "durable_calls" in str(caught.value)


def test_an_answer_survives_the_server(tmp_path: Path) -> None:
    """The method has run, and the process ends before the caller has its answer."""
    counter = Counter()

    def up() -> int:
        if counter.value == 0:
            # The answer will find no connection.
            alice.del_connector(address)
            wait_until(lambda: not first.peers)
        return counter.up()

    options: dict[str, Any] = {"storage": tmp_path / "bob.db", "serve": {"up": up}}
    first = Peer("bob", listen=0, durable_calls=True, **options)
    address = first.addresses[0]
    with Peer("alice", connect=address) as alice:
        with first:
            future = alice.proxy("bob").up.future()
            wait_until(lambda: counter.value)
            (execution,) = first.rpc_server.executions.of("alice")
            wait_until(lambda: execution.is_stored)
            first.stop(drain=0)
        assert not future.done()
        with Peer("bob", listen=address, durable_calls=True, **options):
            alice.add_connector(address)
            assert future.result(DEADLINE) == 1
        assert counter.value == 1


def test_a_method_in_a_transaction_of_the_storage(tmp_path: Path) -> None:
    @transactional
    def note(text: str) -> None:
        transaction = current_call().transaction
        transaction.db.execute("CREATE TABLE IF NOT EXISTS notes (text TEXT)")
        transaction.db.execute("INSERT INTO notes VALUES (?)", (text,))
        if text == "bad":
            raise ValueError(text)

    @transactional
    def count() -> int:
        cursor = current_call().transaction.db.execute("SELECT count(*) FROM notes")
        return cast(int, cursor.fetchone()[0])

    options = {"storage": tmp_path / "bob.db", "durable_calls": True}
    serve = {"serve": {"note": note, "count": count}}
    with connected_pair(bob={**options, **serve}) as (_bob, alice):
        there: Any = alice.proxy("bob")
        there.note("good")
        with pytest.raises(ValueError, match="bad"):
            there.note("bad")
        assert there.count() == 1


def test_the_marks_are_exported() -> None:
    class Marked:
        @as_signal
        @quick
        @at_most_once
        def method(self) -> None:
            """Nothing."""

    with Peer("bob", serve={"marked": Marked()}) as bob:
        (method,) = bob.rpc_server.describe()[0]["methods"]
    assert method["signal"]
    assert method["quick"]
    assert method["at_most_once"]


# Calls that come before there is anything to call.


def test_a_large_early_call_is_answered() -> None:
    data = b"x" * 1_000_000
    with connected_pair() as (bob, alice):
        calling = alice.proxy("bob").length.future(data)
        wait_until(lambda: bob._calls._early.bytes >= len(data))
        bob.serve(len, "length")
        assert calling.result(DEADLINE) == len(data)
        assert not bob._calls._early
        assert bob._calls._early.bytes == 0


def test_parts_of_a_connection_that_is_gone_are_dropped() -> None:
    data = b"x" * 1_000_000
    with connected_pair(alice={"reconnect_interval": 0.05}) as (bob, alice):
        calling = alice.proxy("bob").length.future(data)
        small = alice.proxy("bob").length.future("small")
        wait_until(lambda: bob._calls._early.bytes >= len(data))
        address = alice.link.connectors[0]
        alice.del_connector(address)
        wait_until(lambda: not bob.peers)
        wait_until(lambda: bob._calls._early.bytes < 1000)
        alice.add_connector(address)
        bob.serve(len, "length")
        assert calling.result(DEADLINE) == len(data)
        assert small.result(DEADLINE) == 5


def test_early_calls_are_limited_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_early_requests, "_EARLY_BYTES", 10_000)
    with connected_pair() as (bob, alice):
        note = alice.proxy("bob").note
        for _ in range(50):
            note.signal(10)("x" * 1000)
        assert alice.flush(timeout=DEADLINE)
        alice.send("bob", "afterwards")
        assert bob.receive(DEADLINE) is not None
        assert 0 < bob._calls._early.bytes <= 10_000
        assert len(bob._calls._early) < 10


# The end.


class Gate:
    """Methods that wait."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.calls = 0

    def wait(self) -> int:
        self.calls += 1
        self.begun.release()
        self.go_on.wait(DEADLINE)
        return self.calls


def stop_soon(peer: Peer, pool: ThreadPoolExecutor, drain: float = DEADLINE) -> Any:
    stopping = pool.submit(peer.stop, drain)
    wait_until(lambda: peer.rpc_server._draining.is_active)
    return stopping


def test_stop_waits_for_the_answers_of_calls_that_run_and_of_those_that_wait() -> None:
    gate = Gate()
    limits = CallLimits(max_workers=1)
    bob = Peer("bob", listen=0, serve={"gate": gate}, call_limits=limits)
    with bob, Peer("alice", connect=bob.addresses[0]) as alice, ThreadPoolExecutor(1) as pool:
        futures = [alice.proxy("bob", "gate").wait.future() for _ in range(3)]
        assert gate.begun.acquire(timeout=DEADLINE)
        wait_until(lambda: len(bob.rpc_server.executions) == 3)
        stopping = stop_soon(bob, pool)
        gate.go_on.set()
        stopping.result(DEADLINE)
        assert [future.result(DEADLINE) for future in futures] == [1, 2, 3]


def test_a_method_may_call_out_while_its_peer_is_stopped() -> None:
    gate = Gate()
    card = type("Card", (), {"name": lambda self: "Alice"})()
    bob = Peer("bob", listen=0)

    @bob.function
    def greet() -> str:
        gate.wait()
        return "hello " + str(bob.proxy("alice", "card").name())

    alice = Peer("alice", connect=bob.addresses[0], serve={"card": card})
    with bob, alice, ThreadPoolExecutor(1) as pool:
        future = alice.proxy("bob").greet.future()
        assert gate.begun.acquire(timeout=DEADLINE)
        stopping = stop_soon(bob, pool)
        gate.go_on.set()
        stopping.result(DEADLINE)
        assert future.result(DEADLINE) == "hello Alice"


def test_calls_that_come_too_late_are_for_the_next_process() -> None:
    gate = Gate()
    bob = Peer("bob", listen=0, serve={"gate": gate, "add": add})
    address = bob.addresses[0]
    with (
        bob,
        Peer("alice", connect=address, reconnect_interval=0.05) as alice,
        ThreadPoolExecutor(1) as pool,
    ):
        running = alice.proxy("bob", "gate").wait.future()
        assert gate.begun.acquire(timeout=DEADLINE)
        stopping = stop_soon(bob, pool)
        late = alice.proxy("bob").add.future(1, 2)
        gate.go_on.set()
        stopping.result(DEADLINE)
        assert running.result(DEADLINE) == 1
        with Peer("bob", listen=address, serve={"add": add}):
            assert late.result(DEADLINE) == 3


def test_stop_does_not_wait_longer_than_it_may() -> None:
    gate = Gate()
    bob = Peer("bob", listen=0, serve={"gate": gate})
    with bob, Peer("alice", connect=bob.addresses[0]) as alice:
        future = alice.proxy("bob", "gate").wait.future()
        assert gate.begun.acquire(timeout=DEADLINE)
        bob.stop(drain=0.2)
        assert not future.done()
        gate.go_on.set()
        assert future.cancel()


def test_a_stream_that_is_read_is_finished_by_stop() -> None:
    bob = Peer("bob", listen=0)

    @bob.function
    def count(upto: int) -> Iterator[int]:
        yield from range(upto)

    with bob, Peer("alice", connect=bob.addresses[0]) as alice, ThreadPoolExecutor(1) as pool:
        stream = alice.proxy("bob").count(500)
        first = next(stream)
        stopping = stop_soon(bob, pool)
        assert [first, *stream] == list(range(500))
        stopping.result(DEADLINE)


def test_no_such_function() -> None:
    with connected_pair(bob={"serve": {"add": add}}) as (_bob, alice):
        call: Callable[..., Any] = alice.proxy("bob").ad
        with pytest.raises(NoMethodError, match="did you mean 'add'"):
            call(1)
