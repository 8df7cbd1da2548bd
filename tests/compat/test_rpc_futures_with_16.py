"""What is new in making calls, against a server of the real snakeMQ 1.6.

It knows nothing of it, and is not disturbed by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from snakemq import Peer
from snakemq.rpc import NotConnected, PartialCall, RpcClient
from tests.compat.harness import PeerProcess, PeerProcesses
from tests.helpers import DEADLINE


@dataclass
class Ends:
    peer: Peer
    server: PeerProcess

    @property
    def client(self) -> RpcClient:
        return self.peer.rpc_client

    @property
    def proxy(self) -> Any:
        return self.client.get_proxy("server", "service")


@pytest.fixture
def ends(peers: PeerProcesses) -> Iterator[Ends]:
    server = peers.listener("old", "caller.py", "server")
    with Peer("client", connect=("127.0.0.1", server.port), reconnect_interval=0.05) as peer:
        assert peer.wait_connected("server", DEADLINE)
        yield Ends(peer, server)
    assert not server.all("error")


def test_futures(ends: Ends) -> None:
    calls = [ends.proxy.echo.future(number, key="value") for number in range(50)]
    for number, call in enumerate(calls):
        assert call.result(DEADLINE) == {"args": (number,), "kwargs": {"key": "value"}}
    with pytest.raises(ZeroDivisionError) as info:
        ends.proxy.divide.future(1, 0).result(DEADLINE)
    assert "in divide" in info.value.__remote_traceback__  # type: ignore[attr-defined]
    assert ends.client.pending_calls() == 0


def test_callbacks(ends: Ends) -> None:
    results: list[Any] = []
    ends.proxy.join.callback(results.append)("a", "b").result(DEADLINE)
    ends.proxy.divide.callback(None, results.append)(1, 0).exception(DEADLINE)
    # Answered in this order, in one thread.
    assert ends.proxy.join("c") == "c-?"
    assert results[0] == "a-b"
    assert type(results[1]) is ZeroDivisionError


def test_a_signal(ends: Ends) -> None:
    ends.proxy.note.signal(10)(1, k="v")
    signal = ends.server.wait_one("signal")
    assert (signal["args"], signal["kwargs"]) == ([1], {"k": "v"})


def test_a_cancelled_and_an_expired_call_and_their_late_answers(ends: Ends) -> None:
    """1.6 does not know that a call can be cancelled: it answers."""
    cancelled = ends.proxy.hold.future("cancelled")
    expiring = ends.proxy.hold.with_options(timeout=1).future("expiring")
    for token in ("cancelled", "expiring"):
        ends.server.wait_one("holding", token=token)
    assert cancelled.cancel()
    assert isinstance(expiring.exception(DEADLINE), PartialCall)
    assert ends.client.pending_calls() == 0
    ends.server.do("release")
    while ends.client.late_replies < 2:
        ends.proxy.echo.with_options(timeout=DEADLINE)()
    assert ends.client.late_replies == 2


def test_a_large_argument_goes_in_one_piece(ends: Ends) -> None:
    assert ends.proxy.size.future("x" * 3_000_000).result(DEADLINE) == 3_000_000


def test_it_can_not_be_asked_what_it_serves(ends: Ends) -> None:
    with pytest.raises(PartialCall):
        ends.client.describe("server", 0.2)
    assert ends.proxy.join("x") == "x-?"


def test_a_call_that_does_not_wait_for_the_peer(ends: Ends) -> None:
    method = ends.proxy.hold.with_options(wait_for_peer=False)
    call = method.future("gone")
    ends.server.wait_one("holding", token="gone")
    ends.server.kill()
    error = call.exception(DEADLINE)
    assert isinstance(error, NotConnected)
    assert error.request_sent
    with pytest.raises(NotConnected):
        method("never sent")
