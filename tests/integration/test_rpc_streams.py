"""Streams over real connections: complete, in order, never far ahead of their readers."""

from __future__ import annotations

import asyncio
import gc
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from snakemq.rpc import CallError, Error, RemoteStream, current_call
from tests.compat.harness import environ_with
from tests.crash.proxy import CuttingProxy, Direction, Ending, Trap
from tests.helpers import DEADLINE, wait_until
from tests.integration.rpc_support import (
    RpcNode,
    RpcNodes,
    leftovers_of_client,
    leftovers_of_server,
    sim_pair,
)
from tests.layers.rpc_fakes import InThread

WINDOW = 64


class Source:
    """Has generators; knows how far they are and how they ended."""

    def __init__(self) -> None:
        self.position = 0
        self.closed = threading.Semaphore(0)
        self.gate = threading.Event()

    def count(self, items: int) -> Iterator[int]:
        try:
            for number in range(items):
                self.position = number + 1
                yield number
        finally:
            self.closed.release()

    def for_ever(self, size: int = 0) -> Iterator[tuple[int, bytes]]:
        try:
            number = 0
            while True:
                self.position = number + 1
                yield number, bytes(size)
                number += 1
        finally:
            self.closed.release()

    def fail(self, after: int) -> Iterator[int]:
        yield from range(after)
        raise LookupError(after)

    def unserializable(self, after: int) -> Iterator[Any]:
        try:
            yield from range(after)
            yield {"lock": threading.Lock()}
        finally:
            self.closed.release()

    def slow(self) -> Iterator[int]:
        yield 1
        assert self.gate.wait(DEADLINE)
        yield 2

    def watch(self) -> Iterator[bytes | None]:
        """Who asks, for each item."""
        while True:
            yield current_call().req_id

    async def countdown(self, items: int) -> AsyncIterator[int]:
        try:
            for number in range(items, 0, -1):
                await asyncio.sleep(0)
                yield number
        finally:
            await asyncio.sleep(0)
            self.closed.release()

    async def stuck(self) -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            self.closed.release()

    def echo(self, value: Any) -> Any:
        return value

    def wait_closed(self) -> None:
        assert self.closed.acquire(timeout=DEADLINE)


@pytest.fixture
def nodes() -> Iterator[RpcNodes]:
    nodes = RpcNodes()
    yield nodes
    nodes.close()


class Side:
    """Alice serves, bob reads."""

    def __init__(self, alice: RpcNode, bob: RpcNode) -> None:
        self.alice = alice
        self.bob = bob
        self.source = Source()
        alice.server.register_object(self.source, "source")
        self.proxy: Any = bob.client.get_proxy("alice", "source")

    def wait_clean(self) -> None:
        for leftovers in (
            lambda: leftovers_of_server(self.alice.server),
            lambda: leftovers_of_client(self.bob.client),
        ):
            wait_until(lambda leftovers=leftovers: not leftovers(), what=leftovers)  # type: ignore[misc]


@pytest.fixture
def side(nodes: RpcNodes) -> Side:
    return Side(*nodes.pair())


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A running one, in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(DEADLINE)
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@pytest.fixture
def async_side(nodes: RpcNodes, loop: asyncio.AbstractEventLoop) -> Side:
    return Side(*nodes.pair(asyncio_loop=loop))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1))
def test_100000_items_through_many_cuts(nodes: RpcNodes, seed: int) -> None:
    rng = random.Random(seed)
    with CuttingProxy() as proxy:
        alice = nodes.add("alice", listen=True)
        proxy.lead_to(alice.port)
        bob = nodes.add("bob", proxy.port)
        side = Side(alice, bob)
        items = 100_000
        stream = side.proxy.count(items)
        assert isinstance(stream, RemoteStream)
        cuts = 0
        trap = None
        for expected in range(items):
            if trap is None or trap.sprung:
                cuts += trap is not None
                direction = rng.choice(list(Direction))
                after = int(10 ** rng.uniform(2.5, 4))
                trap = proxy.arm(Trap(direction, after, rng.choice((Ending.CLOSE, Ending.RESET))))
            assert next(stream) == expected
        proxy.arm(Trap(Direction.TO_CONNECTOR, 10**9))
        assert list(stream) == []
        assert cuts >= 20
        side.source.wait_closed()
        wait_until(lambda: not leftovers_of_client(bob.client))
        wait_until(
            lambda: not alice.server.streams.open, what=lambda: leftovers_of_server(alice.server)
        )


def test_a_slow_reader_holds_up_the_generator(side: Side) -> None:
    stream = side.proxy.for_ever()
    for read in range(1, 1001):
        assert next(stream)[0] == read - 1
        assert side.source.position <= read + WINDOW
    settled = side.proxy.echo
    for _ in range(20):
        settled(None)
    assert side.source.position <= 1000 + WINDOW
    stream.close()
    side.source.wait_closed()
    side.wait_clean()


def test_large_items_are_bounded_by_their_bytes(side: Side) -> None:
    """A window of 64 items of 300 KB each would be 19 MB."""
    size = 300_000
    stream = side.proxy.for_ever(size)
    for read in range(1, 61):
        number, data = next(stream)
        assert (number, len(data)) == (read - 1, size)
        assert (side.source.position - read) * size <= 8 * 1024 * 1024
    stream.close()
    side.source.wait_closed()
    side.wait_clean()


def test_a_reader_that_stops(side: Side) -> None:
    with side.proxy.for_ever() as stream:
        for number, _ in stream:
            if number == 10:
                break
    side.source.wait_closed()
    stream = side.proxy.for_ever()
    next(stream)
    stream.close()
    side.source.wait_closed()
    assert list(stream) == []
    stream = side.proxy.for_ever()
    next(stream)
    del stream
    gc.collect()
    side.source.wait_closed()
    future = side.proxy.for_ever.future()
    del future
    gc.collect()
    side.source.wait_closed()
    side.wait_clean()


def test_a_reader_that_stops_before_the_first_item(side: Side) -> None:
    future = side.proxy.slow.future()
    stream = future.result(DEADLINE)
    assert next(stream) == 1
    stream.close()
    side.source.gate.set()
    side.wait_clean()


READER = """
import sys
from snakemq import Peer
with Peer("reader", connect=int(sys.argv[1])) as peer:
    stream = peer.proxy("alice", "source").for_ever()
    for number, _ in stream:
        if number == 100:
            print("read", flush=True)
            sys.stdin.read()
"""


def test_a_reader_that_is_killed(nodes: RpcNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come back; after a while nobody believes that any more."""
    from snakemq.rpc import _open_streams

    monkeypatch.setattr(_open_streams, "_STREAM_PATIENCE", 0.2)
    alice = nodes.add("alice", listen=True)
    source = Source()
    alice.server.register_object(source, "source")
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(alice.port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environ_with("."),
    )
    with reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"read\n"
        reader.kill()
    source.wait_closed()
    wait_until(
        lambda: not leftovers_of_server(alice.server),
        what=lambda: leftovers_of_server(alice.server),
    )


def test_an_exception_in_the_middle(side: Side) -> None:
    stream = side.proxy.fail(500)
    got: list[Any] = []
    with pytest.raises(LookupError, match="500") as caught:
        got.extend(stream)
    assert got == [*range(500)]
    assert "in fail" in caught.value.__remote_traceback__  # type: ignore[attr-defined]
    side.wait_clean()


@pytest.mark.parametrize("after", [0, 1, 200])
def test_an_item_that_can_not_be_sent(side: Side, after: int) -> None:
    stream = side.proxy.unserializable(after)
    got: list[Any] = []
    with pytest.raises(Error, match="lock"):
        got.extend(stream)
    assert got == [*range(after)]
    side.source.wait_closed()
    side.wait_clean()


def test_the_call_is_current_in_a_generator(side: Side) -> None:
    with side.proxy.watch() as stream:
        assert {next(stream) for _ in range(300)} == {stream.req_id}


def test_two_streams_and_calls_at_a_time(side: Side) -> None:
    """One that is not read, and one that waits for its generator, delay nobody."""
    unread = side.proxy.for_ever(10_000)
    waiting = side.proxy.slow()
    assert next(waiting) == 1
    numbers = side.proxy.count(3000)
    for expected in range(3000):
        assert next(numbers) == expected
        if expected % 100 == 0:
            assert side.proxy.echo(expected) == expected
    assert list(numbers) == []
    side.source.gate.set()
    assert list(waiting) == [2]
    assert next(unread)[0] == 0
    unread.close()
    side.wait_clean()


def test_many_streams_at_a_time(side: Side) -> None:
    streams = [side.proxy.count(200) for _ in range(50)]
    for expected in range(200):
        for stream in streams:
            assert next(stream) == expected
    for stream in streams:
        assert list(stream) == []
    side.wait_clean()


def test_threads_with_a_stream_each(side: Side) -> None:
    readers = [InThread(lambda: list(side.proxy.count(2000))) for _ in range(8)]
    for reader in readers:
        assert reader.result() == [*range(2000)]
    side.wait_clean()


def test_the_end_whose_acknowledgement_is_lost() -> None:
    """The reader has it all. The server finds that out by and by."""
    with sim_pair() as sim:
        source = Source()
        sim.server.register_object(source, "obj")
        future = sim.proxy.count.future(10)
        sim.until(lambda: sim.server.streams.open)
        sim.network.drop_silently("bob", "alice")
        sim.until(future.done)
        sim.until(lambda: future.result(0)._stream.over)
        assert list(future.result(0)) == [*range(10)]
        sim.disconnect()
        sim.reconnect()
        sim.run(2000)
        sim.until(lambda: not leftovers_of_server(sim.server))
        assert InThread(sim.server.drain, 5).result()


def test_a_stream_that_was_closed_while_there_was_no_connection() -> None:
    with sim_pair() as sim:
        source = Source()
        sim.server.register_object(source, "obj")
        future = sim.proxy.for_ever.future()
        sim.until(future.done)
        sim.disconnect()
        future.result(0).close()
        sim.reconnect()
        sim.run(2000)
        source.wait_closed()
        sim.until(lambda: not leftovers_of_server(sim.server))


def test_an_async_generator(async_side: Side) -> None:
    side = async_side
    assert list(side.proxy.countdown(1000)) == [*range(1000, 0, -1)]
    side.source.wait_closed()
    with side.proxy.countdown(100_000) as stream:
        assert next(stream) == 100_000
    side.source.wait_closed()
    side.wait_clean()


def test_an_async_generator_that_waits_for_ever_is_closed(async_side: Side) -> None:
    side = async_side
    stream = side.proxy.stuck()
    assert next(stream) == 1
    stream.close()
    side.source.wait_closed()
    side.wait_clean()


def test_an_async_generator_without_a_loop(side: Side) -> None:
    future = side.proxy.countdown.with_options(timeout=5).future(3)
    error = future.exception(DEADLINE)
    assert isinstance(error, Error)
    assert not isinstance(error, CallError), error
    assert "asyncio" in str(error)
    side.wait_clean()
