"""Calls between the real 1.6 and this package while connections break, and what is new here.

1.6 repeats its requests after a reconnect, with the same identifiers: so they
run once here. There they may run more than once.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from snakemq.rpc import current_call
from tests.compat.harness import PeerProcess, PeerProcesses
from tests.crash.proxy import CuttingProxy, Direction, Ending, Trap
from tests.helpers import DEADLINE, wait_until
from tests.integration.rpc_support import RpcNode, RpcNodes
from tests.layers.rpc_fakes import InThread

PROGRAM = "caller.py"


class Counting:
    """What is served to 1.6: counts its effects."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.effects: Counter[Any] = Counter()
        self.gate = threading.Event()
        self.call_ids: set[bytes | None] = set()

    def _count(self, token: Any) -> None:
        with self._lock:
            self.effects[token] += 1
            self.call_ids.add(current_call().req_id)

    def hold(self, token: Any) -> Any:
        self._count(token)
        assert self.gate.wait(DEADLINE)
        return token

    def effect(self, token: Any, padding: str = "") -> Any:
        self._count(token)
        return token, padding

    def stream(self) -> Iterator[int]:
        yield 1

    def listed(self) -> list[int]:
        return list(self.stream())

    def window(self) -> Any:
        call = current_call()
        return call.ident, call.remaining(), call.certificate


@dataclass
class Ends:
    """1.6 calls us, or we call it, through a proxy that cuts."""

    nodes: RpcNodes
    peers: PeerProcesses
    proxy: CuttingProxy
    counting: Counting = field(default_factory=Counting)

    def serve(self, **options: Any) -> RpcNode:
        """Our server."""
        node = RpcNode("server", listen=True, **options)
        node.server.register_object(self.counting, "service")
        node.start()
        self.proxy.lead_to(node.port)
        return node

    def old_client(self) -> PeerProcess:
        return self.peers.connector("old", PROGRAM, "client", self.proxy.port)


@pytest.fixture
def ends(peers: PeerProcesses) -> Iterator[Ends]:
    nodes = RpcNodes()
    with CuttingProxy() as proxy:
        ends = Ends(nodes, peers, proxy)
        try:
            yield ends
        finally:
            ends.counting.gate.set()
            nodes.close()


def call(client: PeerProcess, method: str, token: Any, *args: Any, **more: Any) -> None:
    client.do("call", to="server", method=method, token=token, args=args, **more)


class TestOldClient:
    @pytest.fixture
    def server(self, ends: Ends) -> Iterator[RpcNode]:
        server = ends.serve()
        yield server
        ends.counting.gate.set()
        server.stop()

    def test_a_call_that_runs_is_not_run_again(self, ends: Ends, server: RpcNode) -> None:
        client = ends.old_client()
        server.wait_for("client")
        call(client, "hold", "A", "A")
        wait_until(lambda: ends.counting.effects)
        for _ in range(3):
            since = client.mark()
            ends.proxy.cut_all()
            client.wait_one("connected", since=since)
            server.wait_for("client")
        # Once more there is a round trip behind the repeated request.
        call(client, "effect", "B", "B")
        client.wait_one("returned", token="B")
        ends.counting.gate.set()
        assert client.wait_one("returned", token="A")["value"] == "A"
        assert ends.counting.effects == {"A": 1, "B": 1}

    def test_an_answer_that_is_made_without_a_connection(self, ends: Ends, server: RpcNode) -> None:
        client = ends.old_client()
        server.wait_for("client")
        call(client, "hold", "A", "A")
        wait_until(lambda: ends.counting.effects)
        ends.proxy.lead_to(None)
        ends.proxy.cut_all()
        wait_until(lambda: not server.messaging.is_connected("client"))
        ends.counting.gate.set()
        wait_until(lambda: server.server.dispatcher.idle(0))
        ends.proxy.lead_to(server.port)
        assert client.wait_one("returned", token="A")["value"] == "A"
        assert ends.counting.effects == {"A": 1}

    @pytest.mark.slow
    def test_cuts_behind_any_byte(self, ends: Ends, server: RpcNode) -> None:
        rng = random.Random(1)
        client = ends.old_client()
        server.wait_for("client")
        tokens = 0
        for _ in range(12):
            direction = rng.choice(list(Direction))
            after = int(10 ** rng.uniform(0, 4))
            trap = ends.proxy.arm(Trap(direction, after, rng.choice((Ending.CLOSE, Ending.RESET))))
            while not trap.sprung:
                call(client, "effect", tokens, tokens, "x" * rng.choice((0, 100, 5000)))
                tokens += 1
                client.wait_one("returned", token=tokens - 1)
        for token in range(tokens):
            returned = client.all("returned", token=token)
            assert [event["value"][0] for event in returned] == [token]
        assert ends.counting.effects == dict.fromkeys(range(tokens), 1)
        assert len(ends.counting.call_ids) == tokens

    def test_what_it_can_not_take_is_an_error_that_it_knows(
        self, ends: Ends, server: RpcNode
    ) -> None:
        client = ends.old_client()
        call(client, "stream", 1)
        raised = client.wait_one("raised", token=1)
        assert (raised["module"], raised["type"]) == ("snakemq.rpc", "Error")
        assert "1.6" in raised["args"][0]
        call(client, "listed", 2)
        assert client.wait_one("returned", token=2)["value"] == [1]
        call(client, "window", 3)
        assert client.wait_one("returned", token=3)["value"] == ["client", None, None]
        call(client, "effect", 4, 1, 2, 3, 4)
        raised = client.wait_one("raised", token=4)
        assert (raised["module"], raised["type"]) == ("builtins", "TypeError")
        call(client, "effect", 5, 5, "x" * 1_000_000)
        assert client.wait_one("returned", token=5)["value"] == [5, "x" * 1_000_000]


def test_an_old_client_of_a_busy_server(ends: Ends) -> None:
    server = ends.serve(max_workers=1, max_waiting=0)
    client = ends.old_client()
    call(client, "hold", "A", "A")
    wait_until(lambda: ends.counting.effects)
    call(client, "effect", "B", "B")
    raised = client.wait_one("raised", token="B")
    assert (raised["module"], raised["type"]) == ("snakemq.rpc", "CallError")
    assert raised["is_call_error"]
    ends.counting.gate.set()
    client.wait_one("returned", token="A")
    server.stop()
    assert ends.counting.effects == {"A": 1}


def test_an_old_client_of_a_server_that_ends_in_good_order(ends: Ends) -> None:
    """What is not begun gets no answer, and is asked for again at the next process."""
    first = ends.serve()
    client = ends.old_client()
    call(client, "hold", "A", "A")
    wait_until(lambda: ends.counting.effects)
    drain = InThread(first.server.drain, DEADLINE)
    wait_until(lambda: first.server._draining.is_active)
    call(client, "effect", "B", "B")
    ends.counting.gate.set()
    assert client.wait_one("returned", token="A")["value"] == "A"
    assert drain.result() is True
    ends.proxy.lead_to(None)
    first.stop()
    assert not client.all("returned", token="B")
    assert not client.all("raised", token="B")
    second = ends.serve()
    assert client.wait_one("returned", token="B")["value"] == ["B", ""]
    assert ends.counting.effects == {"A": 1, "B": 1}
    second.stop()


@pytest.mark.slow
def test_our_calls_to_an_old_server_while_connections_break(ends: Ends) -> None:
    """It may run them more than once; each is answered, and its end is told once.

    No send of the server fails: 1.6 closes the connection then with a lock that it needs for
    closing, and waits for itself for ever.
    """
    rng = random.Random(2)
    server = ends.peers.listener("old", PROGRAM, "server")
    assert server.port is not None
    ends.proxy.lead_to(server.port)
    node = ends.nodes.add("client", ends.proxy.port)
    remote: Any = node.client.get_proxy("server", "service")
    told: Counter[int] = Counter()
    made = 0
    for _ in range(15):
        direction = rng.choice(list(Direction))
        trap = ends.proxy.arm(Trap(direction, int(10 ** rng.uniform(0, 4)), Ending.GOODBYE))
        while not trap.sprung:
            futures = []
            for number in range(made, made + 10):
                futures.append(remote.echo.future(number, "x" * rng.choice((0, 3000))))
                futures[-1].add_done_callback(lambda _, number=number: told.update([number]))
            made += 10
            for number, future in enumerate(futures, made - 10):
                assert future.result(DEADLINE)["args"][0] == number
    assert node.client.pending_calls() == 0
    wait_until(lambda: len(told) == made)
    assert set(told.values()) == {1}
    assert remote.divide.future(1, 0).exception(DEADLINE).args == (
        "integer division or modulo by zero",
    )
