"""What becomes of a message that a Peer sent: the handles that tell."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from snakemq import (
    Delivery,
    DeliveryState,
    DropReason,
    Peer,
    PeerClosed,
    QueueFull,
    QueueLimits,
    ReceivedMessage,
    WhenFull,
    _upkeep,
)
from snakemq.storage import MemoryQueuesStorage
from tests.helpers import DEADLINE, wait_until
from tests.layers.peers import Recorder, connected_pair, old_peer

QUEUED, STORED, SENT, ACKNOWLEDGED, EXPIRED, DROPPED = DeliveryState


def address(peer: Peer) -> tuple[str, int]:
    return peer.addresses[0]


class Gate:
    """A callback that keeps a message from being acknowledged."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        self.count = 0

    def __call__(self, received: ReceivedMessage) -> None:
        self.count += 1
        self.entered.set()
        assert self.open.wait(DEADLINE)


class Reasons(Recorder):
    """A callback that asks for the reason of a drop."""

    def __call__(self, ident: str, uuid: bytes, reason: DropReason) -> None:
        super().__call__(ident, uuid, reason)


@pytest.fixture
def gate() -> Generator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


# States.


@pytest.mark.parametrize("told_by", ["callback", "handle"])
def test_that_a_stored_message_was_sent_is_told_at_once(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told_by: str
) -> None:
    """And not with the next thing that the loop has to do, whoever sent it."""
    monkeypatch.setattr(_upkeep, "IDLE", 10 * DEADLINE)
    told: list[bytes] = []

    def has_told(count: int) -> bool:
        return len(told) > count

    with connected_pair({"on_message": gate}, {"storage": tmp_path / "alice.db"}) as (_, alice):
        if told_by == "callback":
            alice.on_message_sent.add(lambda ident, uuid: told.append(uuid))
        alice.send("bob", "one")
        assert gate.entered.wait(DEADLINE)
        for count in (1, 2, 3):
            delivery = alice.send("bob", "more", persistent=True, track=True)
            if told_by == "callback":
                wait_until(functools.partial(has_told, count))
            else:
                assert delivery.wait(SENT, timeout=DEADLINE) is SENT
        gate.open.set()


def test_a_message_that_arrives_is_acknowledged() -> None:
    with connected_pair() as (bob, alice):
        delivery = alice.send("bob", "hello", track=True)
        assert isinstance(delivery, Delivery)
        assert delivery.wait(timeout=DEADLINE) is ACKNOWLEDGED
        assert delivery.is_final
        received = bob.receive(0)
        assert received is not None
        assert (delivery.ident, delivery.uuid) == ("bob", received.uuid)
        assert repr(delivery) == (f"<Delivery to 'bob' acknowledged uuid={received.uuid.hex()}>")


def test_a_message_is_acknowledged_when_the_callbacks_of_the_receiver_have_returned(
    gate: Gate,
) -> None:
    with connected_pair(bob={"on_message": gate}) as (_bob, alice):
        delivery = alice.send("bob", "hello", track=True)
        assert delivery.wait(SENT, DEADLINE) is SENT
        assert gate.entered.wait(DEADLINE)
        assert not delivery.is_final
        with pytest.raises(TimeoutError, match="the message to 'bob' is sent after 0"):
            delivery.wait(timeout=0.01)
        gate.open.set()
        assert delivery.wait(timeout=DEADLINE) is ACKNOWLEDGED


def test_a_message_for_somebody_who_is_away_waits_in_memory_or_in_the_storage() -> None:
    with Peer("alice", storage=MemoryQueuesStorage()) as alice:
        transient = alice.send("bob", "x", persistent=False, track=True)
        persistent = alice.send("bob", "x", track=True)
        assert (transient.state, persistent.state) == (QUEUED, STORED)
        assert not transient.is_final
        assert not persistent.is_final
        assert transient.wait(QUEUED, 0) is QUEUED
        assert persistent.wait(QUEUED, 0) is STORED
        assert persistent.wait(STORED, 0) is STORED
        with pytest.raises(TimeoutError):
            persistent.wait(SENT, 0)
        assert repr(persistent).startswith("<Delivery to 'bob' stored... uuid=")


def test_a_message_that_expires() -> None:
    with Peer("alice") as alice:
        delivery = alice.send("bob", "x", ttl=0.01, track=True)
        assert delivery.wait(timeout=DEADLINE) is EXPIRED
        assert delivery.is_final
        assert delivery.wait(SENT, 0) is EXPIRED


def test_a_message_for_now_to_nobody_is_dropped_at_once() -> None:
    with Peer("alice", storage=MemoryQueuesStorage()) as alice:
        for persistent in (False, True):
            delivery = alice.send("bob", "x", ttl=0, persistent=persistent, track=True)
            assert (delivery.state, delivery.is_final) == (DROPPED, True)


def test_a_message_for_which_room_had_to_be_made() -> None:
    limits = QueueLimits(max_messages=1, when_full=WhenFull.DROP_OLDEST)
    told = Reasons()
    with Peer("alice", queue_limits=limits) as alice:
        alice.on_message_drop.add(told)
        delivery = alice.send("bob", "old", track=True)
        alice.send("bob", "new")
        assert delivery.wait(timeout=DEADLINE) is DROPPED
        assert told.wait() == [("bob", delivery.uuid, DropReason.QUEUE_FULL)]
        assert alice.queued() == 1


def test_a_message_that_is_refused_leaves_nothing_behind() -> None:
    with Peer("alice", queue_limits=QueueLimits(max_messages=1)) as alice:
        alice.send("bob", "x")
        with pytest.raises(QueueFull):
            alice.send("bob", "y", track=True)
        assert not alice._deliveries._open
    with pytest.raises(PeerClosed):
        alice.send("bob", "z", track=True)


def test_a_message_that_was_sent_before_a_connection_broke_is_acknowledged_after_it(
    gate: Gate,
) -> None:
    with connected_pair(bob={"on_message": gate}, alice={"reconnect_interval": 0.05}) as (
        _bob,
        alice,
    ):
        delivery = alice.send("bob", "x", track=True)
        assert delivery.wait(SENT, DEADLINE) is SENT
        assert gate.entered.wait(DEADLINE)
        alice.link.call_soon(alice.link.close, *alice._shutdown._conn_ids)
        wait_until(lambda: not alice.peers)
        assert (delivery.state, delivery.is_final) == (SENT, False)
        gate.open.set()
        assert delivery.wait(timeout=DEADLINE) is ACKNOWLEDGED
        assert gate.count == 1


def test_who_waits_for_what_does_not_come_is_told_what_came_instead() -> None:
    with connected_pair() as (_bob, alice):
        delivery = alice.send("bob", "x", track=True)
        assert delivery.wait(EXPIRED, DEADLINE) is ACKNOWLEDGED
        assert delivery.wait(DROPPED, DEADLINE) is ACKNOWLEDGED
        assert delivery.wait(STORED, 0) is ACKNOWLEDGED


def test_many_threads_may_wait_for_one(gate: Gate) -> None:
    with connected_pair(bob={"on_message": gate}) as (_bob, alice), ThreadPoolExecutor(4) as pool:
        delivery = alice.send("bob", "x", track=True)
        waiting = [pool.submit(delivery.wait, timeout=DEADLINE) for _ in range(4)]
        assert gate.entered.wait(DEADLINE)
        gate.open.set()
        assert [future.result(DEADLINE) for future in waiting] == [ACKNOWLEDGED] * 4


def test_waiting_for_one_s_own_thread_is_refused() -> None:
    errors = Recorder()
    with connected_pair() as (_bob, alice):
        alice.on_error.add(errors)
        delivery = alice.send("bob", "x", track=True)
        alice.on_message_sent.add(lambda ident, uuid: delivery.wait())
        alice.send("bob", "y")
        ((_, error),) = errors.wait()[:1]
        assert isinstance(error, RuntimeError)


def test_thousands_are_told_apart() -> None:
    count = 3000
    with connected_pair() as (_bob, alice):
        tracked = []
        for number in range(count):
            if number % 3:
                alice.send("bob", str(number))
            else:
                tracked.append(alice.send("bob", str(number), track=True))
        assert {one.wait(timeout=DEADLINE) for one in tracked} == {ACKNOWLEDGED}
        assert not alice._deliveries._open


# Toward 1.6.


def test_a_1_6_peer_acknowledges_persistent_messages_with_a_pong() -> None:
    acked = Recorder()
    with (
        old_peer() as bob,
        Peer("alice", connect=bob.address, storage=MemoryQueuesStorage()) as alice,
    ):
        alice.on_message_acked.add(acked)
        assert alice.wait_connected("bob", DEADLINE)
        alice.ping("bob", DEADLINE)  # now alice knows what he can do
        bob.answers.clear()
        delivery = alice.send("bob", "x", track=True)
        assert delivery.wait(SENT, DEADLINE) is SENT
        wait_until(lambda: bob.messages == [b"x"])
        assert not delivery.is_final
        assert not alice.flush(timeout=0)
        bob.answers.set()
        assert delivery.wait(timeout=DEADLINE) is ACKNOWLEDGED
        assert acked.wait() == [("bob", delivery.uuid)]
        assert alice.flush(timeout=DEADLINE)


def test_for_other_messages_to_a_1_6_peer_sent_is_the_end() -> None:
    acked = Recorder()
    with old_peer() as bob, Peer("alice", connect=bob.address) as alice:
        alice.on_message_acked.add(acked)
        delivery = alice.send("bob", "x", track=True)
        assert delivery.wait(timeout=DEADLINE) is SENT
        assert delivery.is_final
        assert alice.flush(timeout=DEADLINE)
        assert acked == []
        # One more of those that end there, after a state that is not final.
        again = alice.send("bob", "y", track=True)
        assert again.wait(SENT, DEADLINE) is SENT
        assert again.wait(timeout=DEADLINE) is SENT


# Callbacks.


def test_one_can_be_called_when_it_is_over(gate: Gate) -> None:
    over = Recorder()
    threads: list[str] = []
    with connected_pair(bob={"on_message": gate}) as (_bob, alice):
        delivery = alice.send("bob", "x", track=True)
        delivery.add_done_callback(over)
        delivery.add_done_callback(lambda delivery: threads.append(threading.current_thread().name))
        assert gate.entered.wait(DEADLINE)
        assert over == []
        gate.open.set()
        assert over.wait() == [delivery]
        assert delivery.state is ACKNOWLEDGED
        wait_until(lambda: threads)
        # Too late: at once, here.
        delivery.add_done_callback(lambda delivery: threads.append(threading.current_thread().name))
    assert threads == ["snakemq peer alice", threading.current_thread().name]


@pytest.mark.parametrize("late", [False, True])
def test_what_a_callback_raises_stops_nothing_and_is_reported(late: bool, gate: Gate) -> None:
    errors, over = Recorder(), Recorder()

    def fail(delivery: Delivery) -> None:
        raise ValueError("on purpose")

    with connected_pair(bob={"on_message": gate}) as (_bob, alice):
        alice.on_error.add(errors)
        delivery = alice.send("bob", "x", track=True)
        if late:
            gate.open.set()
            delivery.wait(timeout=DEADLINE)
        delivery.add_done_callback(fail)
        delivery.add_done_callback(over)
        gate.open.set()
        assert over.wait() == [delivery]
        ((conn_id, error),) = errors.wait()
        assert conn_id is None
        assert isinstance(error, ValueError)
        alice.send("bob", "y", track=True).wait(timeout=DEADLINE)


def test_a_callback_may_send(gate: Gate) -> None:
    with connected_pair() as (bob, alice):
        delivery = alice.send("bob", "first", track=True)
        delivery.add_done_callback(lambda delivery: alice.send("bob", "second"))
        texts = [next(bob.messages(DEADLINE)).text for _ in range(2)]
    assert texts == ["first", "second"]


# The end of the peer.


def test_what_was_not_acknowledged_when_the_peer_stopped(tmp_path: Path) -> None:
    over = Recorder()
    alice = Peer("alice", storage=tmp_path / "alice.db")
    with alice, ThreadPoolExecutor(1) as pool:
        kept = alice.send("bob", "x", track=True)
        lost = alice.send("bob", "x", persistent=False, track=True)
        waiting = pool.submit(kept.wait, timeout=DEADLINE)
        for delivery in (kept, lost):
            delivery.add_done_callback(over)
        alice.stop()
        assert waiting.result(DEADLINE) is STORED
    assert (kept.state, kept.is_final) == (STORED, True)
    assert (lost.state, lost.is_final) == (DROPPED, True)
    assert set(over) == {kept, lost}
    with (
        Peer("bob", listen=0) as bob,
        Peer("alice", connect=address(bob), storage=tmp_path / "alice.db"),
    ):
        received = bob.receive(DEADLINE)
        assert received is not None
        assert received.uuid == kept.uuid


def test_what_was_sent_and_not_acknowledged_when_the_peer_stopped(gate: Gate) -> None:
    with connected_pair(bob={"on_message": gate}, alice={"storage": MemoryQueuesStorage()}) as (
        _bob,
        alice,
    ):
        transient = alice.send("bob", "x", persistent=False, track=True)
        persistent = alice.send("bob", "x", track=True)
        assert transient.wait(SENT, DEADLINE) is SENT
        assert persistent.wait(SENT, DEADLINE) is SENT
        alice.stop(drain=0)
        assert (transient.state, transient.is_final) == (SENT, True)
        assert (persistent.state, persistent.is_final) == (STORED, True)
        gate.open.set()


def test_a_peer_that_never_ran_is_an_end_too() -> None:
    alice = Peer("alice")
    delivery = alice.send("bob", "x", track=True)
    alice.stop()
    assert (delivery.state, delivery.is_final) == (DROPPED, True)


def test_sending_while_the_peer_stops_leaves_no_delivery_open() -> None:
    for _ in range(20):
        deliveries: list[Delivery] = []
        with Peer("alice") as alice, ThreadPoolExecutor(1) as pool:

            def send(alice: Peer = alice, deliveries: Any = deliveries) -> None:
                for number in itertools.count():
                    deliveries.append(alice.send("bob", str(number), track=True))

            sending = pool.submit(send)
            wait_until(lambda deliveries=deliveries: len(deliveries) > 10)  # type: ignore[misc]
            alice.stop()
            with pytest.raises(PeerClosed):
                sending.result(DEADLINE)
        assert all(delivery.is_final for delivery in deliveries)


# The callbacks of the peer.


def test_one_hears_of_acknowledgements() -> None:
    sent, acked = Recorder(), Recorder()
    with connected_pair() as (_bob, alice):
        alice.on_message_sent.add(sent)
        alice.on_message_acked.add(acked)
        uuids = [alice.send("bob", str(number)) for number in range(5)]
        assert alice.flush(timeout=DEADLINE)
        assert acked.wait(5) == [("bob", uuid) for uuid in uuids]
        assert sent.wait(5) == [("bob", uuid) for uuid in uuids]


def test_those_who_ask_for_the_reason_of_a_drop_get_it() -> None:
    two, three = Recorder(), Reasons()
    with Peer("alice") as alice:
        alice.on_message_drop = two
        alice.on_message_drop.add(three)
        uuid = alice.send("bob", "x", ttl=0.01)
        assert two.wait() == [("bob", uuid)]
        assert three.wait() == [("bob", uuid, DropReason.EXPIRED)]
        alice.on_message_drop = None
        alice.send("bob", "x", ttl=0.01)
        assert alice.flush(timeout=DEADLINE)
    assert len(two) == len(three) == 1


def test_an_exception_in_the_callback_for_drops_is_reported_without_a_connection() -> None:
    errors = Recorder()
    with Peer("alice") as alice:
        alice.on_error.add(errors)
        alice.on_message_drop = lambda ident, uuid: 1 / 0
        alice.send("bob", "x", ttl=0.01)
        ((conn_id, error),) = errors.wait()
    assert conn_id is None
    assert isinstance(error, ZeroDivisionError)


def test_limits_of_queues_are_set_when_the_peer_is_made() -> None:
    with Peer("alice", queue_limits=QueueLimits(max_messages=2)) as alice:
        alice.send("bob", "1")
        alice.send("bob", "2")
        with pytest.raises(QueueFull, match="2 messages are queued for 'bob'"):
            alice.send("bob", "3")
        alice.send("carol", "1")
    with pytest.raises(TypeError, match=r"queue_limits takes a snakemq\.QueueLimits, not int"):
        Peer("alice", queue_limits=7)  # type: ignore[arg-type]
