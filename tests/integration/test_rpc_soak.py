"""Everything that remote calls can do, at once, for a while: in the end nothing is left over.

Some seconds by default; the environment variable ``SNAKEMQ_SOAK_SECONDS`` asks
for that many. Longer runs show smaller leaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from snakemq.rpc import (
    CallHook,
    NoMethodError,
    NotConnected,
    PartialCall,
    RpcClient,
    Unserializable,
    as_signal,
    current_call,
    quick,
)
from tests.crash.proxy import CuttingProxy, Ending
from tests.helpers import DEADLINE, wait_until
from tests.integration.rpc_support import (
    RpcNode,
    RpcNodes,
    leftovers_of_client,
    leftovers_of_server,
)
from tests.layers.rpc_fakes import InThread

SECONDS = float(os.environ.get("SNAKEMQ_SOAK_SECONDS", "2"))

#: Threads that call.
CALLERS = 4


class Service:
    """Something of every kind."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.open_generators = 0
        self._lock = threading.Lock()
        self.signals = 0

    def echo(self, value: Any = None) -> Any:
        return value

    @quick
    def quick(self, value: int) -> int:
        return value

    def fail(self, value: int) -> None:
        raise LookupError(value)

    def until_cancelled(self) -> bool:
        return current_call().wait_cancelled(DEADLINE)

    def bad_result(self) -> Any:
        return self._lock

    @as_signal
    def signal(self) -> None:
        with self._lock:
            self.signals += 1

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        with self._lock:
            self.open_generators += 1
        try:
            yield
        finally:
            with self._lock:
                self.open_generators -= 1

    def count(self, items: int, size: int = 0) -> Iterator[tuple[int, bytes]]:
        with self._open():
            for number in range(items):
                yield number, bytes(size)

    async def sleep(self, value: int) -> int:
        await asyncio.sleep(0.001)
        return value

    async def acount(self, items: int) -> AsyncIterator[int]:
        with self._open():
            for number in range(items):
                await asyncio.sleep(0)
                yield number


class Hook(CallHook):
    """Everything that begins has its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.open = 0

    def before(self, call: Any) -> None:
        with self._lock:
            self.open += 1

    def after(self, call: Any, error: BaseException | None) -> None:
        with self._lock:
            self.open -= 1


class Caller:
    """Does one thing after the other, chosen at random."""

    def __init__(self, client: RpcClient, seed: int) -> None:
        self._rng = random.Random(seed)
        self.proxy: Any = client.get_proxy("alice", "service")
        self.done: Counter[str] = Counter()
        self._outstanding: list[tuple[Any, int]] = []

    def turn(self) -> None:
        kinds: list[Callable[[], None]] = [
            self.block, self.block, self.futures, self.callback, self.fail, self.expire,
            self.cancel, self.large, self.stream, self.part_of_a_stream, self.stream_in_asyncio,
            self.in_asyncio, self.signal, self.impatient, self.wrong, self.let_go,
        ]  # fmt: skip
        kind = self._rng.choice(kinds)
        kind()
        self.done[kind.__name__] += 1

    def block(self) -> None:
        number = self._rng.randrange(1000)
        assert self.proxy.echo(number) == number
        assert self.proxy.quick(number) == number

    def futures(self) -> None:
        calls = [(self.proxy.echo.future(n), n) for n in range(20)]
        for call, number in calls:
            assert call.result(DEADLINE) == number

    def callback(self) -> None:
        ends: list[Any] = []
        told = threading.Event()

        def success(value: Any) -> None:
            ends.append(value)
            told.set()

        self.proxy.echo.callback(success)(3)
        assert told.wait(DEADLINE)
        self.proxy.fail.callback(None, lambda error: ends.append(error.args))(4).exception(DEADLINE)
        wait_until(lambda: ends == [3, (4,)])

    def fail(self) -> None:
        with pytest.raises(LookupError):
            self.proxy.fail(1)
        with pytest.raises(NoMethodError):
            self.proxy.nothing()

    def expire(self) -> None:
        method = self.proxy.until_cancelled.with_options(timeout=0.002)
        # The method ends at that time, too, and may be faster.
        with contextlib.suppress(PartialCall, NotConnected):
            assert method() is True
        error = method.future().exception(DEADLINE)
        assert error is None or isinstance(error, (PartialCall, NotConnected))

    def cancel(self) -> None:
        futures = [self.proxy.until_cancelled.future() for _ in range(3)]
        if self._rng.random() < 0.5:
            assert self.proxy.echo(1) == 1
        for future in futures:
            assert future.cancel()
            with pytest.raises(CancelledError):
                future.result(DEADLINE)

    def large(self) -> None:
        data = bytes(self._rng.randrange(1_000_000))
        assert self.proxy.echo(data) == data

    def stream(self) -> None:
        items = self._rng.randrange(300)
        got = [number for number, _ in self.proxy.count(items, self._rng.choice((0, 3000)))]
        assert got == [*range(items)]

    def part_of_a_stream(self) -> None:
        last = self._rng.randrange(200)
        with self.proxy.count(10**9) as stream:
            for number, _ in stream:
                if number == last:
                    break

    def let_go(self) -> None:
        next(self.proxy.count(10**9))

    def stream_in_asyncio(self) -> None:
        assert list(self.proxy.acount(50)) == [*range(50)]

    def in_asyncio(self) -> None:
        calls = [self.proxy.sleep.future(n) for n in range(20)]
        assert [call.result(DEADLINE) for call in calls] == [*range(20)]

    def signal(self) -> None:
        self.proxy.signal.signal(10)()

    def impatient(self) -> None:
        with contextlib.suppress(NotConnected):
            assert self.proxy.echo.with_options(wait_for_peer=False)(5) == 5

    def wrong(self) -> None:
        with pytest.raises(Unserializable):
            self.proxy.echo(threading.Lock())
        with pytest.raises(Unserializable):
            self.proxy.bad_result()
        with pytest.raises(TypeError):
            self.proxy.echo(1, 2, 3)


@contextlib.contextmanager
def running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


class Soak:
    """Alice serves, bob calls from several threads, and a proxy between them cuts."""

    def __init__(self, nodes: RpcNodes, proxy: CuttingProxy, loop: Any) -> None:
        self._rng = random.Random(1)
        self._proxy = proxy
        self.alice = nodes.add("alice", listen=True, asyncio_loop=loop)
        self.service = Service()
        self.alice.server.register_object(self.service, "service")
        proxy.lead_to(self.alice.port)
        self.bob: RpcNode = nodes.add("bob", proxy.port)
        self.hooks = Hook(), Hook()
        self.alice.server.add_hook(self.hooks[0])
        self.bob.client.add_hook(self.hooks[1])
        self.callers = [Caller(self.bob.client, seed) for seed in range(CALLERS)]
        self.cuts = 0

    def work(self, seconds: float) -> None:
        """Let them all call for so long, with cuts."""
        end = time.monotonic() + seconds
        over = threading.Event()

        def call(caller: Caller) -> None:
            while time.monotonic() < end:
                caller.turn()

        def cut() -> None:
            while not over.wait(self._rng.uniform(0.05, 0.3)):
                self._proxy.cut_all(self._rng.choice((Ending.CLOSE, Ending.RESET)))
                self.cuts += 1

        cutter = InThread(cut)
        callers = [InThread(call, caller) for caller in self.callers]
        try:
            for caller in callers:
                caller._thread.join(seconds + 10)
                caller.result()
        finally:
            over.set()
            cutter.result()

    def leftovers(self) -> dict[str, object]:
        gc.collect()
        found = leftovers_of_client(self.bob.client)
        found.update(leftovers_of_server(self.alice.server))
        hooks = {
            "hooks of the server": self.hooks[0].open,
            "hooks of the client": self.hooks[1].open,
            "generators": self.service.open_generators,
        }
        found.update({what: value for what, value in hooks.items() if value})
        return found

    def settle(self) -> None:
        """Nothing is left, but for answers whose acknowledgement was lost: these grow old."""
        self.bob.wait_for("alice")
        kept = {"executions", "bytes of answers"}
        wait_until(lambda: set(self.leftovers()) <= kept, what=self.leftovers)
        executions = self.alice.server.executions
        for execution in executions.of("bob"):
            assert execution.work is None
            executions.forget(execution)
        assert self.leftovers() == {}


@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 2 + 180)
def test_nothing_is_left_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from snakemq.rpc import _open_streams

    # A stream that was closed while there was no connection is given up soon.
    monkeypatch.setattr(_open_streams, "_ASKING", 1.0)
    # What is logged is kept by pytest.
    caplog.set_level(logging.CRITICAL, logger="snakemq")
    threads = set(threading.enumerate())
    with running_loop() as loop, CuttingProxy() as proxy:
        nodes = RpcNodes()
        soak = Soak(nodes, proxy, loop)
        soak.work(SECONDS * 0.2)
        soak.settle()
        tracemalloc.start()
        try:
            sizes = []
            for _ in range(2):
                soak.work(SECONDS * 0.4)
                soak.settle()
                gc.collect()
                sizes.append((tracemalloc.get_traced_memory()[0], len(gc.get_objects())))
        finally:
            tracemalloc.stop()
        print(sizes, soak.cuts, sum((caller.done for caller in soak.callers), Counter()))
        (bytes_1, objects_1), (bytes_2, objects_2) = sizes
        assert bytes_2 < bytes_1 + 300_000
        assert objects_2 < objects_1 + 2000
        assert all(caller.done.total() for caller in soak.callers)
        nodes.close()
    wait_until(lambda: set(threading.enumerate()) <= threads)
