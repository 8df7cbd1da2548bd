"""Remote calls between Peers."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from snakemq import Message, Peer, as_signal
from snakemq.peer import _early_requests
from snakemq.rpc import (
    NoInstanceError,
    NotAuthorized,
    NotConnected,
    Permissions,
    RpcClient,
    RpcServer,
    WouldDeadlock,
)
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.helpers import DEADLINE, wait_until
from tests.layers.peers import Recorder, connected_pair


class Calculator:
    def __init__(self) -> None:
        self.notes = Recorder()

    def add(self, a: int, b: int = 1) -> int:
        return a + b

    def fail(self) -> None:
        raise ValueError("no")

    @as_signal
    def note(self, text: str) -> None:
        self.notes(text)


def test_calls_exceptions_and_signals() -> None:
    calculator = Calculator()
    with connected_pair(bob={"serve": {"calc": calculator}}) as (_bob, alice):
        calc = alice.proxy("bob", "calc")
        assert calc.add(2, b=40) == 42
        with pytest.raises(ValueError, match="no") as caught:
            calc.fail()
        assert "in fail" in caught.value.__remote_traceback__  # type: ignore[attr-defined]
        calc.note.as_signal(10)
        assert calc.note("tea") is None
        assert calculator.notes.wait() == ["tea"]
        with pytest.raises(NoInstanceError):
            alice.proxy("bob", "other").add(1)


def test_both_sides_call_each_other() -> None:
    with connected_pair() as (bob, alice):
        bob.serve(Calculator(), "calc")
        alice.serve(Calculator(), "calc")
        assert alice.proxy("bob", "calc").add(1, 2) == 3
        assert bob.proxy("alice", "calc").add(3, 4) == 7


def test_a_call_waits_for_the_server_and_survives_its_restart() -> None:
    with Peer("bob", listen=0) as first:
        address = first.addresses[0]
        with Peer("alice", connect=address, reconnect_interval=0.05) as alice:
            calc = alice.proxy("bob", "calc")
            with ThreadPoolExecutor(1) as pool:
                calling = pool.submit(calc.add, 1)
                first.serve(Calculator(), "calc")
                assert calling.result(DEADLINE) == 2
                first.stop()
                wait_until(lambda: not alice.peers)
                calling = pool.submit(calc.add, 2)
                with Peer("bob", listen=address, serve={"calc": Calculator()}):
                    assert calling.result(DEADLINE) == 3


def test_a_timeout_is_kept() -> None:
    with Peer("alice") as alice:
        method = alice.proxy("bob", "calc").add
        method.set_timeout(0.01)
        with pytest.raises(NotConnected):
            method(1)


def test_calls_are_not_shown_as_messages() -> None:
    got = Recorder()
    with connected_pair(bob={"serve": {"calc": Calculator()}}) as (bob, alice):
        assert alice.proxy("bob", "calc").add(1) == 2
        alice.send("bob", "a message")
        received = bob.receive(DEADLINE)
        assert received is not None
        assert received.text == "a message"
        alice.on_message.add(got)
        assert alice.proxy("bob", "calc").add(1) == 2
        bob.send("alice", "another")
        assert [r.text for r in got.wait()] == ["another"]


def test_a_call_in_a_callback_is_refused_because_it_would_wait_for_itself() -> None:
    errors = Recorder()
    with connected_pair(bob={"serve": {"calc": Calculator()}}) as (bob, alice):
        alice.on_error.add(errors)
        alice.on_message.add(lambda received: alice.proxy("bob", "calc").add(1))
        bob.send("alice", "call me")
        ((_, error),) = errors.wait()
        assert isinstance(error, WouldDeadlock)


def test_a_call_in_a_transaction_is_refused_but_not_one_beside_it(tmp_path: Path) -> None:
    storage = SqliteQueuesStorage(str(tmp_path / "queue.db"))
    with (
        connected_pair(bob={"serve": {"calc": Calculator()}}, alice={"storage": storage}) as pair,
        ThreadPoolExecutor(1) as pool,
    ):
        _bob, alice = pair
        calc = alice.proxy("bob", "calc")
        with alice.transaction():
            with pytest.raises(WouldDeadlock, match=r"calc\.add of 'bob' .* in a transaction"):
                calc.add(1)
            with pytest.raises(WouldDeadlock, match=r"describe of 'bob' .* in a transaction"):
                alice.rpc_client.describe("bob")
            # Beside it the loop is free to answer.
            assert pool.submit(calc.add, 2).result(DEADLINE) == 3
        assert calc.add(3) == 4


def test_many_threads_use_one_proxy() -> None:
    with (
        connected_pair(bob={"serve": {"calc": Calculator()}}) as (_bob, alice),
        ThreadPoolExecutor(8) as pool,
    ):
        calc = alice.proxy("bob", "calc")
        assert list(pool.map(calc.add, range(200))) == [n + 1 for n in range(200)]


# A peer without calls reads none.


class Trap:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("prefix", [b"rpcreq", b"rpcrep"])
def test_a_peer_that_has_nothing_to_do_with_calls_reads_none(prefix: bytes, tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    with connected_pair() as (bob, alice):
        alice.messaging.send_message("bob", Message(prefix + pickle.dumps(trap), ttl=None))
        alice.send("bob", "afterwards")
        received = bob.receive(DEADLINE)
        assert received is not None
        assert received.text == "afterwards"
    assert not trap.path.exists()


def test_the_layers_for_calls_are_made_once_and_when_they_are_asked_for() -> None:
    with Peer("bob") as bob:
        assert isinstance(bob.rpc_server, RpcServer)
        assert bob.rpc_server is bob.rpc_server
        assert isinstance(bob.rpc_client, RpcClient)
        assert bob.rpc_client is bob.rpc_client
        calculator = Calculator()
        bob.serve(calculator, "calc")
        assert bob.rpc_server.get_registered_objects() == {"calc": calculator}


def test_a_caller_that_is_faster_than_the_first_object_gets_its_answer() -> None:
    with connected_pair() as (bob, alice), ThreadPoolExecutor(1) as pool:
        calling = pool.submit(alice.proxy("bob", "calc").add, 1)
        wait_until(lambda: bob._calls._early)
        bob.serve(Calculator(), "calc")
        assert calling.result(DEADLINE) == 2


def test_a_request_from_long_ago_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_early_requests, "_EARLY_SECONDS", 0.0)
    calculator = Calculator()
    with connected_pair() as (bob, alice):
        note = alice.proxy("bob", "calc").note
        note.as_signal(10)
        note("stale")
        wait_until(lambda: bob._calls._early)
        came = bob.link.time()
        wait_until(lambda: bob.link.time() > came)
        bob.serve(calculator, "calc")
        note("fresh")
        assert calculator.notes.wait() == ["fresh"]


def test_requests_for_nobody_are_not_kept_without_end() -> None:
    with connected_pair() as (bob, alice):
        note = alice.proxy("bob", "calc").note
        note.as_signal(10)
        for _ in range(_early_requests._EARLY_COUNT + 50):
            note("x")
        assert alice.flush(timeout=DEADLINE)
        alice.send("bob", "afterwards")
        assert bob.receive(DEADLINE) is not None
        assert len(bob._calls._early) == _early_requests._EARLY_COUNT


def test_one_peer_does_not_push_out_the_first_requests_of_others() -> None:
    early = _early_requests.EarlyRequests()
    early.add(0.0, "c1", "alice", Message(b"first"))
    early.add(0.0, "c2", "carol", Message(b"second"))
    for number in range(_early_requests._EARLY_COUNT):
        early.add(0.0, "c3", "mallory", Message(b"%d" % number))
    early.add(0.0, "c3", "mallory", Message(bytes(_early_requests._EARLY_BYTES)))
    early.add(0.0, "c1", "alice", Message(b"last"))
    early.forget("c1", "mallory", b"")
    early.forget("c1", "alice", b"fir")
    assert early.counters["early_requests_dropped"] == _early_requests._EARLY_COUNT + 1
    kept = early.take(_early_requests._EARLY_SECONDS)
    assert [each.message.data for each in kept] == [b"second", b"last"]
    assert len(early) == 0
    early.add(0.0, "c1", "alice", Message(b"stale"))
    assert early.take(_early_requests._EARLY_SECONDS + 0.001) == []


def test_a_peer_says_who_may_call_what() -> None:
    table = Permissions({"alice": ["calc.add"]})
    with connected_pair(bob={"authorize": table, "serve": {"calc": Calculator()}}) as (bob, alice):
        calc = alice.proxy("bob", "calc")
        assert calc.add(1) == 2
        with pytest.raises(
            NotAuthorized, match=r"'bob' does not allow 'alice' to call 'calc.fail'"
        ):
            calc.fail()
        with pytest.raises(NotAuthorized, match=r"to call 'nothing.there'"):
            alice.proxy("bob", "nothing").there(bytes(1_000_000))
        table.allow("alice", "calc.fail")
        with pytest.raises(ValueError, match="no"):
            calc.fail()
        (described,) = alice.rpc_client.describe("bob")
        assert [method["name"] for method in described["methods"]] == ["add", "fail"]
        assert bob._calls.counts()["calls_unauthorized"] == 2
        assert alice._calls.counts()["calls_unauthorized"] == 0


def test_a_table_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match=r"authorize takes a snakemq\.rpc\.Permissions"):
        Peer("bob", authorize=["math.*"])  # type: ignore[arg-type]
