"""Pausing a connection: its messages wait, what has nothing to do with them goes on."""

from __future__ import annotations

import pytest

from snakemq._core.frames import FRAME_PING, FRAME_PONG
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.testing import SimNetwork, SimStack
from tests.layers.delivery_support import Events, HandMade, connect, data, message, numbered, stacks


@pytest.fixture
def network() -> SimNetwork:
    return SimNetwork(seed=1)


@pytest.fixture
def bob(network: SimNetwork) -> SimStack:
    return SimStack(network, "bob")


@pytest.fixture
def raw(network: SimNetwork, bob: SimStack) -> HandMade:
    made = HandMade(network, "raw", bob)
    made.greet()
    return made


def pause(stack: SimStack) -> str:
    """Its only connection; the connection."""
    (conn,) = stack.link.connections
    stack.messaging.pause(conn)
    return conn


def test_messages_wait_and_are_acknowledged_later(
    network: SimNetwork, bob: SimStack, raw: HandMade
) -> None:
    conn = pause(bob)
    raw.say(raw.announce(0), message(b"0"), message(b"1"))
    raw.say(message(b"2"))
    network.run(100)
    assert (data(bob), raw.acks) == ([], [])
    bob.messaging.resume(conn)
    network.run(1)
    assert data(bob) == [b"0", b"1", b"2"]
    assert raw.acks[-1] == 3


def test_pings_are_answered_and_acknowledgements_are_heard(
    network: SimNetwork, bob: SimStack, raw: HandMade
) -> None:
    events = Events(bob)
    events.send("raw", b"down", flags=FLAG_PERSISTENT)
    network.run(0.1)
    pause(bob)
    raw.say(raw.announce(0), message(b"up"), FRAME_PING, b"\x07" + bytes(7) + b"\1")
    assert raw.frames[-1] == FRAME_PONG
    assert events == [("sent", b"down"), ("acked", b"down")]
    assert data(bob) == []


def test_in_a_callback_it_holds_all_that_follows(
    network: SimNetwork, bob: SimStack, raw: HandMade
) -> None:
    events = Events(bob)
    events.send("raw", b"a", b"b")
    network.run(0.1)

    def callback(conn: str, ident: str, received: Message) -> None:
        bob.messaging.pause(conn)
        network.call_later(10, bob.messaging.resume, conn)

    bob.messaging.on_message_recv.add(callback)
    raw.say(
        raw.announce(0),
        message(b"0"),
        message(b"1"),
        FRAME_PING,
        b"\x07" + bytes(7) + b"\1",
        message(b"2"),
    )
    assert data(bob) == [b"0"]
    assert raw.frames[-1] == FRAME_PONG
    assert raw.acks == [1]
    raw.say(b"\x07" + bytes(7) + b"\2")
    assert events.of("acked") == [b"a", b"b"]
    network.run(10)
    assert data(bob) == [b"0", b"1"]
    network.run(10)
    assert data(bob) == [b"0", b"1", b"2"]
    assert raw.acks == [1, 2, 3]


def test_in_on_connect(network: SimNetwork, bob: SimStack) -> None:
    """What is behind the identification is the same piece."""
    bob.messaging.on_connect.add(lambda conn, ident: bob.messaging.pause(conn))
    bob.send("raw", b"hello")
    raw = HandMade(network, "raw", bob)
    raw.greet()
    raw.say(raw.announce(0), message(b"0"))
    assert raw.data == [b"hello"]
    assert len(raw.sequences) == 1
    assert data(bob) == []
    bob.messaging.resume(bob.link.connections[0])
    network.run(1)
    assert data(bob) == [b"0"]


def test_messages_for_now_do_not_wait(network: SimNetwork, bob: SimStack, raw: HandMade) -> None:
    """Above all a call and its reply: whoever paused may be waiting for it."""
    conn = pause(bob)
    raw.say(raw.announce(0), message(b"0"), message(b"now", ttl=0), message(b"1"))
    assert data(bob) == [b"now"]
    assert raw.acks == []
    raw.say(message(b"and now", ttl=0), message(b"kept", ttl=0, flags=FLAG_PERSISTENT))
    assert data(bob) == [b"now", b"and now"]
    bob.messaging.resume(conn)
    network.run(1)
    assert data(bob) == [b"now", b"and now", b"0", b"1", b"kept"]
    assert raw.acks[-1] == 5


def test_they_keep_their_place_among_what_is_repeated(
    network: SimNetwork, bob: SimStack, raw: HandMade
) -> None:
    conn = pause(bob)
    raw.say(raw.announce(0), message(b"now", ttl=0), message(b"1"), message(b"2"))
    bob.messaging.resume(conn)
    network.run(1)
    raw.reconnect()
    conn = pause(bob)
    raw.say(raw.announce(1, repeated=2), message(b"1"), message(b"2"))
    raw.say(raw.announce(3), message(b"now!", ttl=0), message(b"4"))
    bob.messaging.resume(conn)
    network.run(1)
    assert data(bob) == [b"now", b"1", b"2", b"now!", b"4"]
    assert raw.acks[-1] == 4


def test_pausing_twice_and_resuming_twice(
    network: SimNetwork, bob: SimStack, raw: HandMade
) -> None:
    conn = pause(bob)
    pause(bob)
    raw.say(raw.announce(0), message(b"0"))
    bob.messaging.resume(conn)
    bob.messaging.resume(conn)
    network.run(1)
    assert data(bob) == [b"0"]


def test_resuming_and_pausing_at_once_stays_paused(
    network: SimNetwork, bob: SimStack, raw: HandMade
) -> None:
    conn = pause(bob)
    raw.say(raw.announce(0), message(b"0"))
    bob.messaging.resume(conn)
    bob.messaging.pause(conn)
    network.run(1)
    assert data(bob) == []


def test_an_unknown_connection(bob: SimStack) -> None:
    with pytest.raises(KeyError):
        bob.messaging.pause("nothing")
    with pytest.raises(KeyError):
        bob.messaging.resume("nothing")


def test_the_sender_keeps_the_rest_and_the_memory_stays_flat(network: SimNetwork) -> None:
    alice, bob = stacks(network, "alice", "bob")
    connect(network, alice, bob)
    conn = pause(bob)
    for _ in range(100):
        alice.send("bob", bytes(1 << 20))
    network.run(60)
    (connection,) = bob.messaging._connections.values()
    assert connection.held_bytes < 18 << 20
    assert not bob.packeter.is_paused(conn), "pings and acknowledgements still come"
    bob.messaging.resume(conn)
    assert network.run_until(lambda: alice.messaging.queued_messages() == 0)
    assert len(bob.received) == 100
    assert connection.held_bytes == 0


def test_one_without_acknowledgements_is_not_read_any_more(
    network: SimNetwork, bob: SimStack
) -> None:
    raw = HandMade(network, "raw", bob, window=None)
    raw.greet()
    conn = pause(bob)
    raw.say(*(message(bytes(10_000)) for _ in range(100)))
    network.run(1)
    (connection,) = bob.messaging._connections.values()
    assert connection.held_bytes < 1 << 19
    assert bob.packeter.is_paused(conn)
    bob.messaging.resume(conn)
    network.run(1)
    assert len(bob.received) == 100
    assert not bob.packeter.is_paused(conn)


def test_a_consumer_that_takes_one_at_a_time(network: SimNetwork) -> None:
    """It pauses in each callback, and what is held is counted right."""
    alice, bob = stacks(network, "alice", "bob")
    connect(network, alice, bob)
    alice.messaging.keepalive_interval = 0.5
    alice.messaging.keepalive_wait = 0.5

    def callback(conn: str, ident: str, received: Message) -> None:
        bob.messaging.pause(conn)
        network.call_later(0.02, bob.messaging.resume, conn)

    bob.messaging.on_message_recv.add(callback)
    for payload in numbered(500):
        alice.send("bob", payload + bytes(20_000))
    assert network.run_until(lambda: len(bob.received) == 500, 100)
    network.run(1)
    assert alice.messaging.queued_messages() == 0
    assert [int(payload[:3].rstrip(b"\0")) for payload in data(bob)] == list(range(500))
    (connection,) = bob.messaging._connections.values()
    assert connection.held_bytes == 0


def test_what_was_held_when_the_connection_broke_comes_again(network: SimNetwork) -> None:
    alice, bob = stacks(network, "alice", "bob")
    connect(network, alice, bob)
    pause(bob)
    for payload in numbered(10):
        alice.send("bob", payload)
    network.run(1)
    network.cut("alice", "bob")
    assert network.run_until(lambda: alice.messaging.queued_messages() == 0)
    assert data(bob) == list(numbered(10)), "a new connection is not paused"


def test_an_interrupt_out_of_a_message_that_passes_loses_nothing(
    network: SimNetwork, bob: SimStack, raw: HandMade
) -> None:
    def interrupt(conn: str, ident: str, received: Message) -> None:
        if received.data == b"now":
            raise KeyboardInterrupt

    bob.messaging.on_message_recv.add(interrupt)
    conn = pause(bob)
    raw.say(raw.announce(0), wait=False)
    raw.say(message(b"0"), message(b"now", ttl=0), message(b"1"), wait=False)
    with pytest.raises(KeyboardInterrupt):
        network.run(1)
    network.run(1)
    bob.messaging.resume(conn)
    network.run(1)
    assert data(bob) == [b"now", b"0", b"1"]
    assert raw.acks[-1] == 3
