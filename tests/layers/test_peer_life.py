"""The life of a Peer: it starts, runs, drains, stops, and leaves nothing behind.

What is left behind (threads, sockets, files) is looked for after every test;
see tests/conftest.py.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import snakemq
from snakemq import Peer, PeerClosed
from snakemq.peer import _peer, _runner
from snakemq.rpc import CallError
from snakemq.storage import MemoryQueuesStorage
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.helpers import DEADLINE, wait_until
from tests.layers.peers import Recorder, connected_pair


def loop_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("snakemq peer")]


# Beginning.


def test_the_five_lines() -> None:
    with (
        Peer("bob", listen=0) as bob,
        Peer("alice", connect=bob.addresses[0]) as alice,
    ):
        alice.send("bob", "hello")
        received = bob.receive(DEADLINE)
    assert received is not None
    assert received.text == "hello"


def test_it_listens_as_soon_as_it_is_made_and_lets_go_without_ever_running() -> None:
    peer = Peer("bob", listen=[0, "[::1]:0"])
    (host, port), (host6, port6) = peer.addresses
    assert (host, host6) == ("127.0.0.1", "::1")
    assert port > 0
    assert port6 > 0
    assert not peer.running
    assert not loop_threads()
    peer.stop()
    with Peer("bob", listen=[(host, port), (host6, port6)]) as again:
        assert again.addresses == [(host, port), (host6, port6)]


def test_a_busy_port_is_an_os_error_that_names_it_and_leaves_nothing_open(tmp_path: Path) -> None:
    with Peer("bob", listen=0) as bob:
        (busy,) = bob.addresses
        with pytest.raises(OSError, match=f"can't listen on 127.0.0.1:{busy[1]}") as caught:
            Peer("other", listen=[0, busy], connect=1, storage=tmp_path / "queue.db")
        assert caught.value.errno == errno.EADDRINUSE


def test_a_storage_that_was_handed_over_is_closed_also_if_the_peer_fails(tmp_path: Path) -> None:
    storage = SqliteQueuesStorage(str(tmp_path / "queue.db"))
    with Peer("bob", listen=0) as bob, pytest.raises(OSError, match="can't listen"):
        Peer("other", listen=bob.addresses, storage=storage)
    with pytest.raises(snakemq.StorageError):
        storage.get_queues()


def test_start_returns_the_peer_and_does_nothing_the_second_time() -> None:
    peer = Peer("bob")
    assert peer.start() is peer
    assert peer.running
    threads = loop_threads()
    assert [t.name for t in threads] == ["snakemq peer bob"]
    assert threads[0].daemon
    with peer.start() as same:
        assert same is peer
        assert loop_threads() == threads
    assert not peer.running


def test_stop_is_harmless_the_second_time_and_there_is_no_second_life() -> None:
    peer = Peer("bob", listen=0).start()
    peer.stop()
    peer.stop()
    with pytest.raises(PeerClosed, match="make another one"):
        peer.start()
    with pytest.raises(PeerClosed):
        peer.run_forever()
    with pytest.raises(PeerClosed):
        peer.send("alice", "hello")
    with pytest.raises(PeerClosed):
        peer.receive(0)
    with pytest.raises(PeerClosed):
        peer.wait_connected("alice", 0)
    with pytest.raises(PeerClosed):
        peer.flush(timeout=0)
    with pytest.raises(PeerClosed):
        peer.add_listener(0)
    with pytest.raises(PeerClosed):
        peer.add_connector(4000)
    with pytest.raises(PeerClosed):
        peer.serve(object(), "thing")
    with pytest.raises(PeerClosed):
        peer.proxy("alice", "thing")
    assert list(peer.messages()) == []
    assert peer.failure is None


def test_many_threads_may_stop_it_at_the_same_time() -> None:
    for _ in range(20):
        with connected_pair() as (bob, _alice), ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(bob.stop) for _ in range(4)]:
                done.result(DEADLINE)
            assert not bob.running


def test_it_says_what_it_is() -> None:
    peer = Peer("bob", listen=0)
    assert repr(peer).startswith("<Peer 'bob' not started, listens: 127.0.0.1:")
    with peer:
        assert "running" in repr(peer)
    assert "stopped" in repr(peer)


# Running in the thread of the caller.


def test_run_forever_runs_until_somebody_stops_it() -> None:
    peer = Peer("bob", listen=0)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(peer.run_forever)
        with Peer("alice", connect=peer.addresses[0]) as alice:
            assert alice.wait_connected("bob", DEADLINE)
            assert [t.name for t in loop_threads()] == ["snakemq peer alice"]
            with pytest.raises(RuntimeError, match="runs already"):
                peer.run_forever()
            peer.stop()
            assert running.result(DEADLINE) is None
    assert not peer.running


def test_run_forever_can_be_stopped_from_its_own_callbacks() -> None:
    peer = Peer("bob", listen=0, on_message=lambda received: peer.stop())
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(peer.run_forever)
        with Peer("alice", connect=peer.addresses[0]) as alice:
            alice.send("bob", "enough")
            assert running.result(DEADLINE) is None


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_what_ends_run_forever_comes_out_of_it_and_everything_is_closed(
    exception: type[BaseException],
) -> None:
    def on_connect(ident: str) -> None:
        raise exception

    peer = Peer("bob", listen=0)
    peer.on_peer_connect.add(on_connect)
    with Peer("alice", connect=peer.addresses[0]):
        with pytest.raises(exception):
            peer.run_forever()
        assert not peer.running
        with pytest.raises(PeerClosed) as caught:
            peer.receive(0)
        assert isinstance(caught.value.__cause__, exception)
        peer.stop()  # says nothing: run_forever has said it


# The end, with messages and calls on their way.


def test_stop_hands_over_what_is_queued_for_connected_peers() -> None:
    size = 200_000
    with connected_pair(alice={"throttle": 400_000}) as (bob, alice):
        alice.send("bob", bytes(size))
        alice.send("bob", "last")
        alice.stop(drain=DEADLINE)
        assert alice.queued() == 0
        for expected in (size, len("last")):
            received = bob.receive(DEADLINE)
            assert received is not None
            assert len(received.data) == expected


def test_the_end_of_the_with_block_does_so_too() -> None:
    with Peer("bob", listen=0) as bob:
        with Peer("alice", connect=bob.addresses[0]) as alice:
            assert alice.wait_connected("bob", DEADLINE)
            for number in range(1000):
                alice.send("bob", str(number))
        texts = []
        for received in bob.messages(DEADLINE):
            texts.append(received.text)
            if len(texts) == 1000:
                break
    assert texts == [str(number) for number in range(1000)]


def test_what_was_sent_arrives_even_if_the_other_side_talks_all_the_time() -> None:
    """A socket that is closed with something unread in it takes along what was sent."""
    size = 3_000_000
    with connected_pair() as (bob, alice):
        stop = threading.Event()

        def talk() -> None:
            while not stop.is_set():
                if bob.queued() < 100:
                    bob.send("alice", bytes(10_000))

        with ThreadPoolExecutor(1) as pool:
            talking = pool.submit(talk)
            assert alice.receive(DEADLINE) is not None
            alice.send("bob", bytes(size))
            alice.stop()
            stop.set()
            talking.result(DEADLINE)
        received = bob.receive(DEADLINE)
        assert received is not None
        assert len(received.data) == size


def test_stop_waits_until_everything_is_acknowledged() -> None:
    inside, release = threading.Event(), threading.Event()

    def busy(received: snakemq.ReceivedMessage) -> None:
        inside.set()
        assert release.wait(DEADLINE)

    with (
        connected_pair(bob={"on_message": busy}) as (_bob, alice),
        ThreadPoolExecutor(1) as pool,
    ):
        delivery = alice.send("bob", "hello", track=True)
        assert inside.wait(DEADLINE)
        stopping = pool.submit(alice.stop, DEADLINE)
        wait_until(lambda: alice._shutdown._draining)
        assert alice.running
        release.set()
        stopping.result(DEADLINE)
        assert delivery.state is snakemq.DeliveryState.ACKNOWLEDGED


def test_stop_acknowledges_what_was_received() -> None:
    """Also that for which an acknowledgement usually waits for more to come."""
    with connected_pair() as (bob, alice):
        bob.on_message.add(lambda received: bob.stop() if received.text == "end" else None)
        deliveries = [alice.send("bob", text, ttl=0, track=True) for text in ("one", "two", "end")]
        for delivery in deliveries:
            assert delivery.wait(timeout=DEADLINE) is snakemq.DeliveryState.ACKNOWLEDGED


def test_stop_waits_until_what_it_owes_is_gone() -> None:
    count = 4000
    answers: list[float] = []
    # On its way for half a second.
    with connected_pair(bob={"throttle": count * len(b"\0\0\0\1\5") * 2}) as (bob, alice):
        bob.on_message.add(lambda received: bob.stop())
        gone = Recorder()
        alice.on_peer_disconnect.add(gone)
        for _ in range(count):
            alice.messaging.ping("bob", answers.append)
        alice.messaging.call_soon(alice.send, "bob", "end")
        assert gone.wait() == ["bob"]
        assert len(answers) == count


def test_it_is_logged_what_is_lost_and_what_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "snakemq.peer")
    with Peer("alice", storage=MemoryQueuesStorage()) as alice:
        alice.send_messages([("bob", "kept"), ("carol", "kept")])
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "stopped; messages that are still queued, in the storage: 2")
    ]
    caplog.clear()
    with Peer("alice", storage=MemoryQueuesStorage()) as alice:
        alice.send("bob", "kept")
        alice.send_messages([("bob", "lost")] * 3, persistent=False)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "stopped; messages that were still queued and are lost: 3"),
        ("INFO", "stopped; messages that are still queued, in the storage: 1"),
    ]
    caplog.clear()
    with connected_pair() as (_bob, alice):
        alice.send("bob", "arrives")
    assert not [record for record in caplog.records if "stopped" in record.getMessage()]


def test_stop_does_not_wait_for_peers_that_are_not_there(caplog: pytest.LogCaptureFixture) -> None:
    with Peer("alice") as alice:
        alice.send("bob", "hello")
        began = time.monotonic()
        alice.stop(drain=1000)
        assert time.monotonic() - began < DEADLINE
    assert "still queued and are lost: 1" in caplog.text


def test_stop_waits_no_longer_than_it_was_told(caplog: pytest.LogCaptureFixture) -> None:
    with connected_pair(alice={"throttle": 1000}) as (_bob, alice):
        alice.send("bob", bytes(1_000_000))
        began = time.monotonic()
        alice.stop(drain=0.2)
        assert 0.2 <= time.monotonic() - began < DEADLINE
    assert "are lost" in caplog.text


def test_stop_without_draining_is_over_at_once_and_overtakes_one_that_drains() -> None:
    with connected_pair(alice={"throttle": 1000}) as (_bob, alice), ThreadPoolExecutor(1) as pool:
        alice.send("bob", bytes(1_000_000))
        patient = pool.submit(alice.stop, drain=1000)
        alice.stop(drain=0)
        patient.result(DEADLINE)


def test_ctrl_c_in_the_with_block_does_not_drain() -> None:
    began = time.monotonic()

    def program() -> None:
        with connected_pair(alice={"throttle": 1000}) as (_bob, alice):
            alice.send("bob", bytes(1_000_000))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        program()
    assert time.monotonic() - began < snakemq.peer.DEFAULT_DRAIN


def test_persistent_messages_stay_in_the_storage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "queue.db"
    with Peer("alice", storage=path) as alice:
        alice.send("bob", "hello")
    assert "lost" not in caplog.text
    with (
        Peer("bob", listen=0) as bob,
        Peer("alice", connect=bob.addresses[0], storage=os.fspath(path)) as alice,
    ):
        received = bob.receive(DEADLINE)
        assert received is not None
        assert received.text == "hello"
        assert alice.flush(timeout=DEADLINE)
    with SqliteQueuesStorage(str(path)) as storage:
        assert storage.get_queues() == []


class Gate:
    """An object whose method waits until it is let through."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def pass_through(self) -> str:
        self.entered.set()
        return "through" if self.open.wait(DEADLINE) else "stuck"


def test_stop_lets_calls_come_to_their_end_and_answers_them() -> None:
    gate = Gate()
    with (
        connected_pair(bob={"serve": {"gate": gate}}) as (bob, alice),
        ThreadPoolExecutor(2) as pool,
    ):
        calling = pool.submit(alice.proxy("bob", "gate").pass_through)
        assert gate.entered.wait(DEADLINE)
        stopping = pool.submit(bob.stop, DEADLINE)
        wait_until(lambda: bob._shutdown._waiter is not None)
        gate.open.set()
        assert calling.result(DEADLINE) == "through"
        stopping.result(DEADLINE)


def test_a_call_that_does_not_come_to_its_end_holds_up_only_those_who_have_time() -> None:
    gate = Gate()
    with (
        connected_pair(bob={"serve": {"gate": gate}}) as (bob, alice),
        ThreadPoolExecutor(2) as pool,
    ):
        calling = pool.submit(alice.proxy("bob", "gate").pass_through)
        assert gate.entered.wait(DEADLINE)
        patient = pool.submit(bob.stop, 1000)
        wait_until(lambda: bob._shutdown._waiter is not None)
        assert bob.running
        bob.stop(drain=0)
        patient.result(DEADLINE)
        gate.open.set()
        alice.stop()
        with pytest.raises(CallError):
            calling.result(DEADLINE)


# Threads that wait when it stops.


def test_waiting_threads_are_let_go() -> None:
    with Peer("alice") as alice, ThreadPoolExecutor(8) as pool:
        alice.send("bob", "hello")
        in_time: list[Future[object]] = [
            pool.submit(alice.receive),
            pool.submit(alice.wait_connected, "bob"),
            pool.submit(alice.flush, "bob"),
        ]
        iterating = pool.submit(lambda: list(alice.messages()))
        calling = pool.submit(alice.proxy("bob", "thing").method)
        # Whether they wait already or begin to wait now must make no difference.
        alice.stop()
        for waiting in in_time:
            with pytest.raises(PeerClosed):
                waiting.result(DEADLINE)
        assert iterating.result(DEADLINE) == []
        with pytest.raises((CallError, PeerClosed)):
            calling.result(DEADLINE)


def test_what_has_arrived_can_be_read_after_the_end() -> None:
    with connected_pair() as (bob, alice):
        bob.receive(0)  # there is a reader
        alice.send("bob", "one")
        alice.send("bob", "two")
        wait_until(lambda: len(bob._inbox) == 2)
    received = bob.receive()
    assert received is not None
    assert received.text == "one"
    assert [left.text for left in bob.messages()] == ["two"]


# Death.


def test_the_death_of_the_loop_is_heard_by_everybody(caplog: pytest.LogCaptureFixture) -> None:
    def die(received: snakemq.ReceivedMessage) -> None:
        raise SystemExit("out of a callback")

    with Peer("bob", listen=0) as bob, ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(bob.wait_connected, "nobody")
        bob.on_message.add(die)
        with Peer("alice", connect=bob.addresses[0]) as alice:
            alice.send("bob", "poison")
            with pytest.raises(PeerClosed, match="died: SystemExit"):
                waiting.result(DEADLINE)
        wait_until(lambda: not bob.running)
        assert isinstance(bob.failure, SystemExit)
        bob.on_message = None
        with pytest.raises(PeerClosed) as caught:
            next(bob.messages())
        assert caught.value.__cause__ is bob.failure
        with pytest.raises(PeerClosed, match="died"):
            bob.stop()
        bob.stop()  # said once
    (record,) = [r for r in caplog.records if r.levelno == logging.CRITICAL]
    assert "the loop died" in record.getMessage()
    assert record.exc_info is not None


def test_the_end_of_the_with_block_raises_what_the_loop_died_of_unless_something_worse_did() -> (
    None
):
    def interrupt() -> None:
        raise KeyboardInterrupt

    def program(worse: Exception | None) -> None:
        with Peer("bob") as bob:
            bob.link.call_soon(interrupt)
            wait_until(lambda: not bob.running)
            if worse is not None:
                raise worse

    with pytest.raises(PeerClosed):
        program(None)
    with pytest.raises(ZeroDivisionError):
        program(ZeroDivisionError())


def test_an_exception_in_a_callback_ends_nothing_and_is_reported() -> None:
    errors = Recorder()
    with connected_pair() as (bob, alice):
        bob.on_error.add(errors)
        bob.on_message.add(lambda received: 1 / 0)
        alice.send("bob", "one")
        ((conn_id, error),) = errors.wait()
        assert conn_id is None
        assert isinstance(error, ZeroDivisionError)
        bob.on_message = None
        alice.send("bob", "two")
        received = bob.receive(DEADLINE)
        assert received is not None
        assert received.text == "two"


def test_errors_of_the_layers_are_reported_too() -> None:
    errors = Recorder()
    with connected_pair() as (bob, alice):
        bob.on_error.add(errors)
        # What is no frame at all.
        alice.link.call_soon(alice.packeter.send_packet, *alice._shutdown._conn_ids, b"")
        ((conn_id, error),) = errors.wait()
        assert isinstance(conn_id, str)
        assert isinstance(error, snakemq.SnakeMQException)


def test_it_is_said_when_a_callback_keeps_the_peer_from_stopping(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_peer, "STUCK", 0.05)
    inside = threading.Event()
    release = threading.Event()

    def get_stuck_here(received: Any) -> None:
        inside.set()
        release.wait(DEADLINE)

    with connected_pair(bob={"on_message": get_stuck_here}) as (bob, alice):
        alice.send("bob", "hello")
        assert inside.wait(DEADLINE)
        with ThreadPoolExecutor(1) as pool:
            stopping = pool.submit(bob.stop, drain=0)
            wait_until(lambda: "a callback does not return" in caplog.text)
            assert "get_stuck_here" in caplog.text
            release.set()
            stopping.result(DEADLINE)


@pytest.mark.parametrize("begun", [False, True])
def test_ctrl_c_while_the_thread_is_started_leaves_nothing_behind(
    begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal may come while start() waits for the thread to come up."""
    peer = Peer("bob", listen=0)
    let_go = threading.Event()
    late: list[threading.Thread] = []

    class Interrupted(threading.Thread):
        def start(self) -> None:
            late.append(self)
            super().start()
            if begun:
                wait_until(lambda: peer._runner._begun)
            raise KeyboardInterrupt

        def run(self) -> None:
            assert begun or let_go.wait(DEADLINE)
            super().run()

    monkeypatch.setattr(_runner.threading, "Thread", Interrupted)  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        peer.__enter__()
    assert not peer.running
    let_go.set()
    monkeypatch.undo()
    late[0].join(DEADLINE)
    assert not late[0].is_alive()
    with pytest.raises(PeerClosed):
        peer.start()


def test_a_system_without_threads_to_spare_is_an_error_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Refused(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with Peer("bob", listen=0) as bob:
        peer = Peer("alice", connect=bob.addresses)
        monkeypatch.setattr(_runner.threading, "Thread", Refused)  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="can't start new thread"):
            peer.start()
        monkeypatch.undo()
        with peer:  # there is one to be had now
            assert peer.wait_connected("bob", DEADLINE)


def test_who_has_borrowed_the_stack_does_not_wait_for_the_loop() -> None:
    """A signal handler, for instance, that comes while its thread receives the answer to a call."""
    peer = Peer("alice", listen=0).start()
    refused: list[str] = []

    def handle_signal() -> bool:
        peer.stop()
        with pytest.raises(RuntimeError, match="wait") as caught:
            peer.wait_connected("bob", DEADLINE)
        refused.append(str(caught.value))
        return True

    wait_until(lambda: peer.link.run_here(handle_signal))
    assert len(refused) == 1
    peer.stop()
    assert loop_threads() == []
