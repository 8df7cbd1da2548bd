"""Remote calls between this package and the real snakeMQ 1.6, both ways.

Both processes are client and server at once and run the same file, written
against 1.6's manual. ``SNAKEMQ_COMPAT_CONTROL=1`` adds 1.6 with itself, to
check the tests.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.compat.harness import PeerProcess, PeerProcesses

#: Who listens, who connects.
ROLES = [("old", "new"), ("new", "old"), ("new", "new")]
if os.environ.get("SNAKEMQ_COMPAT_CONTROL"):
    ROLES.append(("old", "old"))
ROLE_IDS = [f"{a}-listens-{b}-connects" for a, b in ROLES]

PROGRAM = "caller.py"


@dataclass
class Pair:
    listener: PeerProcess
    connector: PeerProcess
    tokens: Iterator[int] = field(default_factory=itertools.count)

    def ways(self) -> list[tuple[PeerProcess, PeerProcess]]:
        """Client and server, both ways."""
        return [(self.connector, self.listener), (self.listener, self.connector)]

    def call(
        self, client: PeerProcess, server: PeerProcess, method: str, *args: Any, **more: Any
    ) -> int:
        """Begin a call; its token."""
        token = next(self.tokens)
        client.do("call", to=server.ident, method=method, token=token, args=args, **more)
        return token


@pytest.fixture(scope="module", params=ROLES, ids=ROLE_IDS)
def pair(request: pytest.FixtureRequest, module_peers: PeerProcesses) -> Iterator[Pair]:
    listens, connects = request.param
    listener = module_peers.listener(listens, PROGRAM, "alice")
    connector = module_peers.connector(connects, PROGRAM, "bob", listener.port)
    listener.wait_one("connected", peer="bob")
    connector.wait_one("connected", peer="alice")
    yield Pair(listener, connector)
    for peer in (listener, connector):
        assert not peer.all("disconnected")
        assert not peer.all("error")
    assert [listener.stop(), connector.stop()] == [0, 0]


def test_arguments_and_results_pass(pair: Pair) -> None:
    for client, server in pair.ways():
        values = [None, True, -(2**70), 1.5, "Žluťoučký", [1, [2]], {"k": {"n": 3}}]
        token = pair.call(client, server, "echo", *values, kwargs={"a": 1, "b": [None]})
        assert client.wait_one("returned", token=token)["value"] == {
            "args": values,
            "kwargs": {"a": 1, "b": [None]},
        }


def test_tuples_stay_tuples(pair: Pair) -> None:
    for client, server in pair.ways():
        token = pair.call(client, server, "echo", 1, 2)
        assert client.wait_one("returned", token=token)["repr"] == (
            "{'args': (1, 2), 'kwargs': {}}"
        )


def test_keyword_arguments(pair: Pair) -> None:
    for client, server in pair.ways():
        token = pair.call(client, server, "join", "x", kwargs={"sep": "+", "second": "y"})
        assert client.wait_one("returned", token=token)["value"] == "x+y"


def test_a_large_argument(pair: Pair) -> None:
    for client, server in pair.ways():
        token = pair.call(client, server, "size", "x" * 1_000_000)
        assert client.wait_one("returned", token=token)["value"] == 1_000_000


@pytest.mark.parametrize(
    ("method", "args", "type_", "exc_args"),
    [
        ("divide", [1, 0], "ZeroDivisionError", ["integer division or modulo by zero"]),
        ("lookup", ["key"], "KeyError", ["key"]),
        ("join", [], "TypeError", None),
    ],
)
def test_built_in_exceptions_come_back_with_the_remote_traceback(
    pair: Pair, method: str, args: list[Any], type_: str, exc_args: list[str] | None
) -> None:
    for client, server in pair.ways():
        token = pair.call(client, server, method, *args)
        raised = client.wait_one("raised", token=token)
        if type_ == "TypeError" and "1.6" not in (client.version, server.version):
            assert (raised["module"], raised["type"]) == ("snakemq.rpc", "WrongArguments")
        else:
            assert (raised["module"], raised["type"]) == ("builtins", type_)
        if exc_args is not None:
            assert raised["args"] == exc_args
            # The frame of the method is in it, and its line.
            assert f"in {method}" in raised["traceback"]
        assert "Traceback (most recent call last)" in raised["traceback"]
        assert type_ in raised["traceback"].splitlines()[-1]


def test_an_exception_class_that_both_sides_know(pair: Pair) -> None:
    for client, server in pair.ways():
        token = pair.call(client, server, "lab", 42, "too hot")
        raised = client.wait_one("raised", token=token)
        assert (raised["module"], raised["type"]) == ("laberrors", "LabError")
        assert raised["args"] == ["42", "too hot"]
        assert raised["code"] == 42
        assert "LabError" in raised["traceback"]


def test_an_unknown_object(pair: Pair) -> None:
    for client, server in pair.ways():
        token = pair.call(client, server, "echo", name="nothing here")
        raised = client.wait_one("raised", token=token)
        assert (raised["module"], raised["type"]) == ("snakemq.rpc", "NoInstanceError")
        assert "nothing here" in raised["args"][0]
        assert "NoInstanceError" in raised["traceback"]


def test_an_unknown_method(pair: Pair) -> None:
    for client, server in pair.ways():
        token = pair.call(client, server, "fly")
        raised = client.wait_one("raised", token=token)
        assert (raised["module"], raised["type"]) == ("snakemq.rpc", "NoMethodError")
        assert "fly" in raised["args"][0]
        assert "NoMethodError" in raised["traceback"]


@pytest.mark.parametrize("ttl", [0, 10])
def test_a_signal_arrives_and_returns_nothing(pair: Pair, ttl: float) -> None:
    for client, server in pair.ways():
        since = server.mark()
        returned = client.do(
            "signal", to=server.ident, method="note", ttl=ttl, args=[1], kwargs={"k": "v"}
        )
        assert returned is None
        signal = server.wait_one("signal", since=since)
        assert (signal["args"], signal["kwargs"]) == ([1], {"k": "v"})


def test_both_sides_call_each_other_at_the_same_time(pair: Pair) -> None:
    tokens = [
        (client, pair.call(client, server, "echo", number), number)
        for number in range(25)
        for client, server in pair.ways()
    ]
    for client, token, number in tokens:
        returned = client.wait_one("returned", token=token)
        assert returned["value"] == {"args": [number], "kwargs": {}}


def test_a_slow_call_does_not_hold_up_others(pair: Pair) -> None:
    for client, server in pair.ways():
        slow = pair.call(client, server, "hold", "slow")
        server.wait_one("holding", token="slow")
        quick = pair.call(client, server, "echo")
        client.wait_one("returned", token=quick)
        assert not client.all("returned", token=slow)
        server.do("release")
        assert client.wait_one("returned", token=slow)["value"] == "slow"
        server.do("hold_again")


def test_timeout_of_a_call_that_was_sent(pair: Pair) -> None:
    for client, server in pair.ways():
        token = pair.call(client, server, "hold", "timeout", timeout=0.2)
        raised = client.wait_one("raised", token=token)
        assert (raised["module"], raised["type"]) == ("snakemq.rpc", "PartialCall")
        assert raised["is_call_error"]
        server.do("release")
        server.do("hold_again")


def test_timeout_of_a_call_to_a_peer_that_is_not_there(pair: Pair) -> None:
    for client in (pair.listener, pair.connector):
        token = next(pair.tokens)
        client.do("call", to="nobody", method="echo", token=token, timeout=0.2)
        raised = client.wait_one("raised", token=token)
        assert (raised["module"], raised["type"]) == ("snakemq.rpc", "NotConnected")
        assert raised["is_call_error"]


@pytest.mark.parametrize(("listens", "connects"), ROLES, ids=ROLE_IDS)
def test_calls_and_signals_wait_for_the_peer(
    peers: PeerProcesses, listens: str, connects: str
) -> None:
    """A call blocks until the server appears; a signal lives as long as its TTL says."""
    client = peers.listener(listens, PROGRAM, "client")
    client.do("call", to="server", method="echo", token="early", args=["early"])
    client.do("signal", to="server", method="note", ttl=60, args=["patient"])
    client.do("signal", to="server", method="note", ttl=0, args=["impatient"])
    server = peers.connector(connects, PROGRAM, "server", client.port)
    returned = client.wait_one("returned", token="early")
    assert returned["value"] == {"args": ["early"], "kwargs": {}}
    server.wait_one("signal", args=["patient"])
    client.do("signal", to="server", method="note", ttl=0, args=["last"])
    server.wait_one("signal", args=["last"])
    assert not server.all("signal", args=["impatient"])


@pytest.mark.parametrize(("listens", "connects"), ROLES, ids=ROLE_IDS)
def test_a_call_survives_the_restart_of_its_server(
    peers: PeerProcesses, listens: str, connects: str
) -> None:
    """The request is repeated to the server that comes back, and answered there."""
    client = peers.listener(listens, PROGRAM, "client")
    first = peers.connector(connects, PROGRAM, "server", client.port)
    client.do("call", to="server", method="hold", token=1, args=["A"])
    first.wait_one("holding", token="A")
    first.kill()
    client.wait_one("disconnected", peer="server")
    second = peers.connector(connects, PROGRAM, "server", client.port)
    second.wait_one("holding", token="A")
    second.do("release")
    assert client.wait_one("returned", token=1)["value"] == "A"


@pytest.mark.parametrize(("listens", "connects"), ROLES, ids=ROLE_IDS)
def test_exceptions_can_be_kept_at_home(peers: PeerProcesses, listens: str, connects: str) -> None:
    """``transfer_exceptions = False``: the caller never learns and runs into its timeout."""
    server = peers.listener(listens, PROGRAM, "server", transfer_exceptions=False)
    client = peers.connector(connects, PROGRAM, "client", server.port)
    client.wait_one("connected")
    client.do("call", to="server", method="divide", token=1, args=[1, 0], timeout=0.3)
    assert client.wait_one("raised", token=1)["type"] == "PartialCall"
    client.do("call", to="server", method="divide", token=2, args=[4, 2])
    assert client.wait_one("returned", token=2)["value"] == 2
