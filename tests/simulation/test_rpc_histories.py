"""Random histories of remote calls with faults: how often each runs, and what its caller gets.

50 of them by default; the environment variable ``SNAKEMQ_SIM_SEEDS`` asks for
another number, or for a range like ``5000-6000``. Methods take virtual
time, too: so all that happens follows from the seed.
"""

from __future__ import annotations

import os
import random
from collections import Counter, defaultdict
from concurrent.futures import Future
from typing import Any

import pytest

from snakemq.rpc import (
    CallInterrupted,
    PartialCall,
    RpcClient,
    RpcServer,
    at_most_once,
)
from snakemq.storage import MemoryQueuesStorage
from snakemq.testing import Conditions, SimNetwork, SimStack
from tests.integration.rpc_support import leftovers_of_client

DEFAULT_COUNT = 50

#: Seeds per test.
CHUNK = 50

#: For so long calls are made and things go wrong, in virtual seconds.
DURATION = 30.0

CALLERS = ("bob", "carol")


def seeds() -> range:
    wanted = os.environ.get("SNAKEMQ_SIM_SEEDS", str(DEFAULT_COUNT))
    first, _, last = wanted.rpartition("-")
    return range(int(first or 0), int(last))


class Service:
    """What is served; the effects are remembered outside, by what serves in turn."""

    def __init__(self, effects: dict[str, list[int]], incarnation: int) -> None:
        self._effects = effects
        self._incarnation = incarnation

    def _run(self, token: str) -> tuple[str, int]:
        self._effects[token].append(self._incarnation)
        return token, self._incarnation

    def plain(self, token: str, size: int) -> tuple[str, int, bytes]:
        return *self._run(token), bytes(size)

    @at_most_once
    def once(self, token: str, size: int) -> tuple[str, int, bytes]:
        return *self._run(token), bytes(size)

    def fail(self, token: str, size: int) -> None:
        raise LookupError(*self._run(token))


class World:
    """One server that keeps its answers, two callers, and what goes wrong between them."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.network = SimNetwork(
            seed,
            conditions=Conditions(
                delay=rng.choice((0.001, 0.05, 0.5)),
                jitter=rng.choice((0, 0.1)),
                split=rng.choice((0, 0.3)),
                partial_send=rng.choice((0, 0.3)),
            ),
            loop_delay=rng.choice((0, 0.02)),
        )
        self.has_storage = rng.random() < 0.8
        self.crashes = 0
        self.effects: dict[str, list[int]] = defaultdict(list)
        self.calls: dict[str, Future[Any]] = {}
        self.told: Counter[str] = Counter()
        self.clients: dict[str, RpcClient] = {}
        self.incarnation = 0
        self.server: RpcServer
        storage = MemoryQueuesStorage() if self.has_storage else None
        self.alice = SimStack(self.network, "alice", storage=storage, on_start=self._start_server)
        self.callers = [
            SimStack(self.network, name, on_start=self._start_client) for name in CALLERS
        ]
        for caller in self.callers:
            caller.connect(self.alice, reconnect_interval=0.2)

    def _start_server(self, stack: SimStack) -> None:
        self.incarnation += 1
        stack.messaging.keepalive_interval = 5
        stack.messaging.keepalive_wait = 2
        self.server = RpcServer(stack.hook, durable=self.has_storage)
        self.server.dispatcher.submit = self._submit  # type: ignore[method-assign]
        self.server.register_object(Service(self.effects, self.incarnation), "service")

    def _submit(self, task: Any, *, force: bool = False) -> bool:
        """In the place of workers, which would take their own time."""
        link = self.alice.link

        def run() -> None:
            if link.running:
                task.run()

        self.network.call_later(self.rng.choice((0, 0, 0.1, 3)), run)
        return True

    def _start_client(self, stack: SimStack) -> None:
        stack.messaging.keepalive_interval = 5
        stack.messaging.keepalive_wait = 2
        stack.link.reconnect_interval_max = 2
        self.clients[stack.name] = RpcClient(stack.hook)

    def run(self) -> None:
        rng = self.rng
        for number in range(rng.randrange(5, 60)):
            self.network.call_later(rng.uniform(0, DURATION), self._call, number)
        for _ in range(rng.randrange(0, 12)):
            fault = rng.choice((self._cut, self._cut, self._silence, self._crash))
            self.network.call_later(rng.uniform(0, DURATION), fault)
        self.network.run(DURATION)
        self.network.heal()
        if not self.alice.running:
            self.alice.restart()
        assert self.network.run_until(
            lambda: all(future.done() for future in self.calls.values()), 300
        ), [token for token, future in self.calls.items() if not future.done()]
        self.network.run(5)

    def close(self) -> None:
        for client in self.clients.values():
            client.close()
        for stack in (*self.callers, self.alice):
            if stack.running:
                stack.close()
        assert self.server.close(0)

    def _call(self, number: int) -> None:
        name = self.rng.choice(CALLERS)
        kind = self.rng.choice(("plain", "once", "fail"))
        token = f"{kind} {number}"
        size = self.rng.choice((0, 0, 100, 200_000))
        proxy = self.clients[name].get_proxy("alice", "service")
        timeout = 1.0 if self.rng.random() < 0.1 else None
        future = getattr(proxy, kind).with_options(timeout=timeout).future(token, size)
        self.calls[token] = future
        future.add_done_callback(lambda _: self.told.update([token]))

    def _cut(self) -> None:
        self.network.cut("alice", self.rng.choice(CALLERS))

    def _silence(self) -> None:
        way = ["alice", self.rng.choice(CALLERS)]
        self.rng.shuffle(way)
        self.network.drop_silently(*way)
        self.network.call_later(self.rng.uniform(0.1, 15), self.network.heal, *way)

    def _crash(self) -> None:
        if self.alice.running:
            self.crashes += 1
            self.alice.crash(flush=self.rng.random() < 0.3)
            self.network.call_later(self.rng.uniform(0.1, 5), self._restart)

    def _restart(self) -> None:
        if not self.alice.running:
            self.alice.restart()

    def problems(self) -> list[str]:
        found = []
        for token, future in self.calls.items():
            runs = self.effects[token]
            error = future.exception(0)
            what = f"{token}: ran in {runs}, {error!r}"
            if self.told[token] != 1:
                found.append(f"{what}: its end was told {self.told[token]} times")
            if isinstance(error, PartialCall) or type(error).__name__ == "NotConnected":
                answered_by = None
            elif isinstance(error, CallInterrupted):
                answered_by = None
                if not token.startswith("once") or not self.crashes:
                    found.append(f"{what}: interrupted")
            elif isinstance(error, LookupError):
                answered_by = error.args[1]
            elif error is not None:
                found.append(f"{what}: strange")
                continue
            else:
                assert future.result(0)[0] == token
                answered_by = future.result(0)[1]
            if answered_by is not None and runs[-1:] != [answered_by]:
                found.append(f"{what}: answered by {answered_by}, which was not the last run")
            if len(set(runs)) != len(runs):
                found.append(f"{what}: more than once by one process")
            # None is interrupted here: what has run has its answer in the storage.
            if len(runs) > 1 and (self.has_storage or not self.crashes):
                found.append(f"{what}: more than once")
        for client in self.clients.values():
            left = leftovers_of_client(client)
            if left:
                found.append(f"left over: {left}")
        if self.server.answers.under_way:
            found.append(f"under way: {self.server.answers.under_way}")
        return found


@pytest.mark.parametrize(
    "chunk",
    [
        pytest.param(part, id=f"{part[0]}-{part[-1]}")
        for start in range(0, len(seeds()), CHUNK)
        if (part := seeds()[start : start + CHUNK])
    ],
)
def test_each_call_has_one_end(chunk: range) -> None:
    for seed in chunk:
        world = World(seed)
        try:
            world.run()
            problems = world.problems()
        finally:
            world.close()
        assert problems == [], f"seed {seed}"
