"""What methods do, or do not do, delays nobody else; and what they are told of their calls."""

from __future__ import annotations

import asyncio
import ctypes
import random
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, wait
from pathlib import Path
from typing import Any

import pytest
import trustme

from snakemq.link import SSLConfig
from snakemq.rpc import (
    Busy,
    CallHook,
    CallInfo,
    CurrentCall,
    Error,
    PartialCall,
    Refused,
    RemoteError,
    SafePickle,
    ServerClosing,
    Unserializable,
    WrongArguments,
    current_call,
    quick,
)
from tests.helpers import DEADLINE, wait_until
from tests.integration.rpc_support import (
    RpcNode,
    RpcNodes,
    leftovers_of_client,
    leftovers_of_server,
    sim_pair,
)
from tests.layers.rpc_fakes import InThread


class Service:
    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.ran: list[Any] = []
        #: of calls that went on for longer
        self.calls: list[CurrentCall] = []

    def echo(self, value: Any = None) -> Any:
        return value

    def hold(self, value: Any = None) -> Any:
        self.ran.append(value)
        self.calls.append(current_call())
        self.entered.release()
        assert self.gate.wait(DEADLINE)
        return value

    def wait_entered(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.entered.acquire(timeout=DEADLINE)

    def throw(self, name: str) -> None:
        raise {
            "SystemExit": SystemExit(3),
            "KeyboardInterrupt": KeyboardInterrupt(),
            "GeneratorExit": GeneratorExit(),
            "CancelledError": asyncio.CancelledError(),
            "MemoryError": MemoryError("none left"),
            "StopIteration": StopIteration(5),
        }[name]

    def end_thread(self) -> None:
        sys.exit("the thread")

    def recurse(self) -> None:
        self.recurse()

    def interrupted_from_outside(self) -> None:
        ident = ctypes.c_ulong(threading.get_ident())
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(SystemExit))
        while True:
            threading.get_ident()

    @quick
    def thread(self) -> int:
        return threading.get_ident()

    def worker(self) -> int:
        return threading.get_ident()


@pytest.fixture
def nodes() -> Iterator[RpcNodes]:
    nodes = RpcNodes()
    yield nodes
    nodes.close()


class Side:
    """Alice serves, bob calls."""

    def __init__(self, nodes: RpcNodes, alice: RpcNode, bob: RpcNode) -> None:
        self.nodes = nodes
        self.alice = alice
        self.bob = bob
        self.services: list[Service] = []
        self.service = self.serve("obj")
        self.proxy: Any = bob.client.get_proxy("alice", "obj")

    def serve(self, name: str) -> Service:
        service = Service()
        self.services.append(service)
        self.alice.server.register_object(service, name)
        return service

    def wait_clean(self) -> None:
        def left() -> object:
            return leftovers_of_server(self.alice.server) or leftovers_of_client(self.bob.client)

        wait_until(lambda: not left(), what=left)


@pytest.fixture
def make_side(nodes: RpcNodes) -> Iterator[Callable[..., Side]]:
    sides: list[Side] = []

    def make(**options: Any) -> Side:
        sides.append(Side(nodes, *nodes.pair(**options)))
        return sides[-1]

    yield make
    for side in sides:
        for service in side.services:
            service.gate.set()


@pytest.fixture
def side(make_side: Callable[..., Side]) -> Side:
    return make_side()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A running one, in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(DEADLINE)
    loop.close()


class TestSleepers:
    """Methods that do not return."""

    def test_of_one_object_up_to_all_limits(self, side: Side) -> None:
        """They hold up neither pings nor other objects nor other peers."""
        other = side.serve("other")
        server = side.alice.server
        dispatcher = server.dispatcher
        futures = [side.proxy.hold.future(n) for n in range(1000)]
        side.service.wait_entered(dispatcher.max_per_object)
        proxy: Any = side.bob.client.get_proxy("alice", "other")
        assert proxy.echo(1) == 1
        # Now as many as one peer may have.
        futures += [proxy.hold.future(n) for n in range(1000)]
        other.wait_entered(dispatcher.max_per_peer - dispatcher.max_per_object)
        assert dispatcher.running_by_peer() == {"bob": dispatcher.max_per_peer}
        carol = side.nodes.add("carol", side.alice.port)
        of_carol: Any = carol.client.get_proxy("alice", "third")
        side.serve("third")
        assert of_carol.echo(2) == 2
        for node in (side.bob, carol):
            answers: list[float] = []
            node.messaging.ping("alice", answers.append)
            wait_until(lambda answers=answers: answers)  # type: ignore[misc]
        side.service.gate.set()
        other.gate.set()
        assert not wait(futures, DEADLINE).not_done
        assert [future.result() for future in futures] == [*range(1000)] * 2
        side.wait_clean()

    def test_a_full_line_is_told_and_recovers(self, make_side: Callable[..., Side]) -> None:
        side = make_side(max_workers=2, max_waiting=3)
        held = [side.proxy.hold.future(n) for n in range(5)]
        side.service.wait_entered(2)
        for _ in range(20):
            with pytest.raises(Busy):
                side.proxy.echo()
        carol = side.nodes.add("carol", side.alice.port)
        with pytest.raises(Busy):
            carol.client.get_proxy("alice", "obj").echo()
        side.service.gate.set()
        assert [future.result(DEADLINE) for future in held] == [*range(5)]
        wait_until(lambda: side.alice.server.dispatcher.idle(0))
        assert side.proxy.echo(5) == 5
        assert sorted(side.service.ran) == [*range(5)]
        side.wait_clean()

    def test_a_cancelled_call_that_waits_does_not_run(self, make_side: Callable[..., Side]) -> None:
        side = make_side(max_workers=1)
        first = side.proxy.hold.future(1)
        side.service.wait_entered()
        second, third = side.proxy.hold.future(2), side.proxy.hold.future(3)
        wait_until(lambda: side.alice.server.dispatcher.waiting == 2)
        assert second.cancel()
        wait_until(lambda: side.alice.server.dispatcher.waiting == 1)
        side.service.gate.set()
        assert [first.result(DEADLINE), third.result(DEADLINE)] == [1, 3]
        with pytest.raises(CancelledError):
            second.result(0)
        assert side.service.ran == [1, 3]
        side.wait_clean()

    def test_an_expired_call_that_waits_does_not_run(self) -> None:
        service = Service()
        with sim_pair(max_workers=1) as pair:
            pair.server.register_object(service, "obj")
            first = pair.proxy.hold.future(1)
            pair.until(lambda: service.ran)
            second = pair.proxy.hold.with_options(timeout=1.0).future(2)
            pair.until(lambda: pair.server.dispatcher.waiting == 1)
            pair.network.drop_silently("bob", "alice")  # it is not told that bob gave up
            pair.run(1.1)
            with pytest.raises(PartialCall):
                second.result(0)
            service.gate.set()
            pair.until(lambda: not pair.server.dispatcher.running)
            pair.network.heal()
            pair.until(first.done)
            assert first.result(0) == 1
            pair.until(lambda: not leftovers_of_server(pair.server))
            assert service.ran == [1]


class TestDying:
    """Methods that end in unusual ways: the caller is told, and the server goes on."""

    @pytest.mark.parametrize(
        "name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "CancelledError"]
    )
    def test_what_is_no_exception(self, side: Side, name: str) -> None:
        for _ in range(10):
            with pytest.raises(Error, match=name):
                side.proxy.throw(name)
        assert side.proxy.echo(1) == 1
        side.wait_clean()

    @pytest.mark.parametrize("cls", [MemoryError, StopIteration])
    def test_unusual_exceptions(self, side: Side, cls: type[Exception]) -> None:
        with pytest.raises(cls):
            side.proxy.throw(cls.__name__)
        side.wait_clean()

    @pytest.mark.parametrize(
        ("method", "text"),
        [("end_thread", "the thread"), ("interrupted_from_outside", "SystemExit")],
    )
    def test_threads_that_are_ended(self, side: Side, method: str, text: str) -> None:
        for _ in range(5):
            with pytest.raises(Error, match=text):
                getattr(side.proxy, method)()
        assert side.proxy.echo(1) == 1
        side.wait_clean()

    def test_endless_recursion(self, side: Side) -> None:
        with pytest.raises(RecursionError):
            side.proxy.recurse()
        assert side.proxy.echo(1) == 1


class TestThreads:
    def test_quick_methods_run_in_the_loop_and_others_do_not(self, side: Side) -> None:
        loop_threads: list[int] = []
        side.alice.in_loop(lambda: loop_threads.append(threading.get_ident()))
        assert {side.proxy.thread() for _ in range(20)} == {*loop_threads}
        assert side.proxy.worker() not in loop_threads


class Waiting:
    """Calls that wait in an asyncio loop, until they are told to go on in some order."""

    def __init__(self, count: int) -> None:
        self.gate = threading.Event()
        self._count = count
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self.all_there = threading.Event()
        self.cancelled = threading.Semaphore(0)
        self.threads = 0

    async def hold(self, number: int) -> int:
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        if len(self._waiting) == self._count:
            self.threads = threading.active_count()
            self.all_there.set()
        try:
            await future
        except asyncio.CancelledError:
            self.cancelled.release()
            raise
        assert current_call().args[0] == number
        return number

    async def fail(self) -> None:
        await asyncio.sleep(0)
        raise LookupError("in a coroutine")

    async def cancel_yourself(self) -> None:
        raise asyncio.CancelledError

    def release(self, order: list[int]) -> None:
        for number in order:
            self._waiting[number].set_result(None)


class TestAsyncio:
    def test_2000_calls_run_at_a_time(
        self, make_side: Callable[..., Side], loop: asyncio.AbstractEventLoop
    ) -> None:
        """Each runs in the same asyncio loop: no thread waits."""
        count = 2000
        side = make_side(
            asyncio_loop=loop, max_workers=count, max_per_peer=count, max_per_object=count
        )
        waiting = Waiting(count)
        side.alice.server.register_object(waiting, "waiting")
        before = threading.active_count()
        hold = side.bob.client.get_proxy("alice", "waiting").hold
        futures = [hold.future(number) for number in range(count)]
        assert waiting.all_there.wait(DEADLINE)
        # A few that begin the calls.
        assert waiting.threads - before < 300
        order = random.Random(5).sample(range(count), count)
        loop.call_soon_threadsafe(waiting.release, order)
        assert not wait(futures, DEADLINE).not_done
        assert [future.result() for future in futures] == [*range(count)]
        side.wait_clean()

    def test_a_cancelled_call_is_cancelled_there(
        self, make_side: Callable[..., Side], loop: asyncio.AbstractEventLoop
    ) -> None:
        side = make_side(asyncio_loop=loop)
        waiting = Waiting(3)
        side.alice.server.register_object(waiting, "waiting")
        hold: Any = side.bob.client.get_proxy("alice", "waiting").hold
        futures = [hold.future(number) for number in range(3)]
        assert waiting.all_there.wait(DEADLINE)
        assert futures[1].cancel()
        assert waiting.cancelled.acquire(timeout=DEADLINE)
        loop.call_soon_threadsafe(waiting.release, [2, 0])
        assert futures[0].result(DEADLINE) == 0
        assert futures[2].result(DEADLINE) == 2
        side.wait_clean()

    def test_what_a_coroutine_raises(
        self, make_side: Callable[..., Side], loop: asyncio.AbstractEventLoop
    ) -> None:
        side = make_side(asyncio_loop=loop)
        side.alice.server.register_object(Waiting(0), "waiting")
        proxy: Any = side.bob.client.get_proxy("alice", "waiting")
        with pytest.raises(LookupError) as caught:
            proxy.fail()
        assert "in fail" in caught.value.__remote_traceback__  # type: ignore[attr-defined]
        # The method has run: nothing that says it has not.
        error = proxy.cancel_yourself.future().exception(DEADLINE)
        assert type(error) is Error
        side.wait_clean()

    def test_without_a_loop_it_is_an_error(self, side: Side) -> None:
        side.alice.server.register_object(Waiting(0), "waiting")
        with pytest.raises(Error, match="asyncio"):
            side.bob.client.get_proxy("alice", "waiting").fail()


class TestDrain:
    def test_under_load_nothing_is_lost_and_nothing_half_done(self, nodes: RpcNodes) -> None:
        """What is not done here is done by the next process, and none by both."""
        from tests.crash.proxy import CuttingProxy

        with CuttingProxy() as proxy:
            bob = nodes.add("bob", proxy.port)
            remote: Any = bob.client.get_proxy("alice", "obj")
            stop = threading.Event()

            def call(first: int) -> int:
                number = first
                while not stop.is_set():
                    futures = [remote.echo.future(n) for n in range(number, number + 20)]
                    values = [future.result(DEADLINE) for future in futures]
                    assert values == [*range(number, number + 20)]
                    number += 20
                return number

            firsts = range(0, 4 * 10**6, 10**6)
            callers = [InThread(call, first) for first in firsts]
            ran: list[int] = []
            lock = threading.Lock()

            class Recording:
                def echo(self, value: int) -> int:
                    with lock:
                        ran.append(value)
                    return value

            try:
                for _ in range(5):
                    alice = RpcNode("alice", listen=True)
                    alice.server.register_object(Recording(), "obj")
                    alice.start()
                    proxy.lead_to(alice.port)
                    before = len(ran)
                    wait_until(lambda before=before: len(ran) > before + 100)  # type: ignore[misc]
                    drained = alice.server.drain(DEADLINE)
                    proxy.lead_to(None)
                    alice.stop()
                    assert drained
            finally:
                stop.set()
                last = nodes.add("alice", listen=True)
                last.server.register_object(Recording(), "obj")
                proxy.lead_to(last.port)
            expected = [
                number
                for first, caller in zip(firsts, callers, strict=True)
                for number in range(first, caller.result())
            ]
            assert sorted(ran) == expected
            wait_until(lambda: not leftovers_of_client(bob.client))

    def test_what_runs_is_waited_for_and_the_rest_is_refused(self, side: Side) -> None:
        held = [side.proxy.hold.future(n) for n in range(3)]
        side.service.wait_entered(3)
        assert not side.alice.server.drain(0.05)
        with pytest.raises(ServerClosing):
            side.proxy.echo.with_options(wait_for_peer=False)()
        waits = side.proxy.echo.future(5)
        drain = InThread(side.alice.server.drain)
        side.service.gate.set()
        assert drain.result() is True
        assert [future.result(0) for future in held] == [0, 1, 2] or all(
            future.result(DEADLINE) == n for n, future in enumerate(held)
        )
        assert not waits.done()
        waits.cancel()


class Recorder(CallHook):
    """Passes on a header, and remembers."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str, Any]] = []

    def before(self, call: CallInfo) -> None:
        self.log.append(("before", call.name, dict(call.headers)))
        call.headers["trace"] = "abc"

    def after(self, call: CallInfo, error: BaseException | None) -> None:
        self.log.append(("after", call.name, error and type(error).__name__))


class Guard(CallHook):
    """Allows nothing but echo, by carol."""

    def before(self, call: CallInfo) -> None:
        if call.method != "echo" or call.ident != "carol":
            raise Refused(f"{call.ident} may not {call.method}")


class TestHooks:
    def test_around_every_call_on_both_sides(self, side: Side) -> None:
        here, there = Recorder(), Recorder()
        side.bob.client.add_hook(here)
        side.alice.server.add_hook(there)
        assert side.proxy.echo(1) == 1
        side.alice.server.register_function(lambda: 1 // 0, "divide")
        with pytest.raises(ZeroDivisionError):
            side.bob.client.get_proxy("alice").divide()
        assert here.log == [
            ("before", "obj.echo", {}),
            ("after", "obj.echo", None),
            ("before", "divide", {}),
            ("after", "divide", "ZeroDivisionError"),
        ]
        wait_until(lambda: len(there.log) == 4)
        assert there.log == [
            ("before", "obj.echo", {"trace": "abc"}),
            ("after", "obj.echo", None),
            ("before", "divide", {"trace": "abc"}),
            ("after", "divide", "ZeroDivisionError"),
        ]

    def test_authorisation(self, side: Side) -> None:
        side.alice.server.add_hook(Guard())
        carol = side.nodes.add("carol", side.alice.port)
        of_carol: Any = carol.client.get_proxy("alice", "obj")
        assert of_carol.echo(1) == 1
        for refused in (of_carol.hold, side.proxy.echo, side.proxy.hold):
            with pytest.raises(Refused, match="may not"):
                refused(1)
        assert side.service.ran == []
        side.wait_clean()


class TestCurrentCall:
    def test_who_calls_and_until_when(self, side: Side) -> None:
        future = side.proxy.hold.with_options(timeout=DEADLINE).future(1)
        side.service.wait_entered()
        (call,) = side.service.calls
        assert (call.ident, call.name, call.req_id) == ("bob", "obj.hold", future.req_id)
        assert call.certificate is None
        remaining = call.remaining()
        assert remaining is not None
        assert 0 < remaining <= DEADLINE
        assert not call.cancelled
        side.service.gate.set()
        assert future.result(DEADLINE) == 1

    def test_the_flag_when_the_caller_cancels(self, side: Side) -> None:
        future = side.proxy.hold.future(1)
        side.service.wait_entered()
        (call,) = side.service.calls
        assert call.remaining() is None
        told: list[bool] = []
        call.on_cancel(lambda: told.append(True))
        assert future.cancel()
        assert call.wait_cancelled(DEADLINE)
        assert call.cancelled
        wait_until(lambda: told)
        side.service.gate.set()
        side.wait_clean()

    def test_the_flag_when_the_time_is_over(self) -> None:
        service = Service()
        with sim_pair() as pair:
            pair.server.register_object(service, "obj")
            future = pair.proxy.hold.with_options(timeout=1000.0).future(1)
            pair.until(lambda: service.calls)
            (call,) = service.calls
            assert not call.cancelled
            pair.run(1000.0)
            with pytest.raises(PartialCall):
                future.result(0)
            assert call.wait_cancelled(DEADLINE)
            assert call.remaining() == 0
            service.gate.set()
            pair.until(lambda: not leftovers_of_server(pair.server))
            assert not leftovers_of_client(pair.client)

    def test_the_certificate(self, nodes: RpcNodes, tmp_path: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("peer.example", common_name="the tester")
        files = {name: str(tmp_path / name) for name in ("root", "key", "chain")}
        authority.cert_pem.write_to_path(files["root"])
        issued.private_key_pem.write_to_path(files["key"])
        issued.cert_chain_pems[0].write_to_path(files["chain"])
        tls = SSLConfig(
            files["key"], files["chain"], ca_certs=files["root"], cert_reqs=ssl.CERT_REQUIRED
        )
        alice = nodes.add("alice", listen=True, tls=tls)

        def who() -> dict[str, Any] | None:
            return current_call().certificate

        alice.server.register_function(who)
        bob = nodes.add("bob", alice.port, tls=tls)
        certificate = bob.client.get_proxy("alice").who()
        assert (("commonName", "the tester"),) in certificate["subject"]


class CodeError(Exception):
    """Is known to those who were told."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Errors:
    def lookup(self) -> None:
        {}["the key"]

    def chained(self) -> None:
        try:
            1 // 0  # noqa: B018
        except ZeroDivisionError as exc:
            raise LookupError("because of it") from exc

    def two(self, first: int, second: int) -> int:
        return first + second

    def lock_inside(self) -> Any:
        return {"ok": 1, "items": [0, {"lock": threading.Lock()}]}

    def long_chain(self, other: Any) -> None:
        other.explode()


class TestErrors:
    @pytest.fixture
    def proxy(self, side: Side) -> Any:
        side.alice.server.register_object(Errors(), "errors")
        return side.bob.client.get_proxy("alice", "errors")

    def test_builtin_with_traceback_and_note(self, proxy: Any) -> None:
        with pytest.raises(KeyError, match="the key") as caught:
            proxy.lookup()
        assert "in lookup" in caught.value.__remote_traceback__  # type: ignore[attr-defined]
        if sys.version_info >= (3, 11):
            assert "in lookup" in caught.value.__notes__[0]

    def test_chained_there(self, proxy: Any) -> None:
        with pytest.raises(LookupError, match="because of it") as caught:
            proxy.chained()
        text = caught.value.__remote_traceback__  # type: ignore[attr-defined]
        assert "ZeroDivisionError" in text
        assert "direct cause" in text

    def test_chained_here(self, proxy: Any) -> None:
        with pytest.raises(RuntimeError) as caught:  # noqa: PT012
            try:
                proxy.lookup()
            except KeyError as exc:
                raise RuntimeError("here") from exc
        assert isinstance(caught.value.__cause__, KeyError)

    def test_wrong_arguments_are_no_type_error_inside(self, proxy: Any) -> None:
        assert proxy.two(1, 2) == 3
        for args, kwargs in [((), {}), ((1, 2, 3), {}), ((1,), {"third": 3})]:
            with pytest.raises(WrongArguments, match="two"):
                proxy.two(*args, **kwargs)
        with pytest.raises(TypeError) as caught:
            proxy.two(1, "x")
        assert not isinstance(caught.value, WrongArguments)

    def test_a_result_that_can_not_be_written(self, proxy: Any) -> None:
        with pytest.raises(Unserializable, match=r"\['items'\]\[1\]\['lock'\]"):
            proxy.lock_inside()

    def test_an_argument_that_can_not_be_written(self, proxy: Any) -> None:
        with pytest.raises(Unserializable, match=r"args\[1\]\[0\]") as caught:
            proxy.two(1, [threading.Lock()])
        assert not hasattr(caught.value, "__remote_traceback__")

    @pytest.mark.parametrize("is_known", [False, True])
    def test_classes_that_are_registered_and_others(self, side: Side, is_known: bool) -> None:
        reader = SafePickle()
        if is_known:
            reader.register_type(CodeError)
        side.bob.client.pickler = reader

        def fail() -> None:
            raise CodeError(7)

        side.alice.server.register_function(fail)
        with pytest.raises(Exception, match="7") as caught:
            side.bob.client.get_proxy("alice").fail()
        error: Any = caught.value
        assert error.args == (7,)
        assert error.code == 7
        assert "in fail" in error.__remote_traceback__
        assert type(error) is CodeError or isinstance(error, RemoteError)
        assert isinstance(error, CodeError) is is_known
        if not is_known:
            assert error.class_name == f"{CodeError.__module__}.CodeError"
