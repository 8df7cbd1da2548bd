"""A peer that breaks the rules of acknowledged delivery: its connection ends, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from snakemq._core.features import MAX_FEATURES_SIZE
from snakemq._core.frames import FrameType, encode_acknowledgement
from snakemq.exceptions import SnakeMQBrokenMessage
from snakemq.message import FLAG_PERSISTENT
from snakemq.testing import SimNetwork, SimStack
from tests.layers.delivery_support import Events, HandMade, connect, data, message, numbered, stacks


@pytest.fixture
def network() -> SimNetwork:
    return SimNetwork(seed=1)


@pytest.fixture
def bob(network: SimNetwork) -> SimStack:
    return SimStack(network, "bob")


def frame(kind: FrameType, payload: bytes) -> bytes:
    return bytes([kind]) + payload


BROKEN: dict[str, tuple[Callable[[HandMade], bytes], str]] = {
    "message before its sequence": (lambda raw: message(b"lost"), "before its sequence"),
    "sequence cut off": (lambda raw: raw.announce(0)[:-1], "a sequence of 23 bytes"),
    "sequence too long": (lambda raw: raw.announce(0) + b"x", "a sequence of 25 bytes"),
    "sequence of nothing": (lambda raw: frame(FrameType.SEQUENCE, b""), "a sequence of 0"),
    "acknowledgement cut off": (lambda raw: encode_acknowledgement(0)[:-1], "of 7 bytes"),
    "acknowledgement too long": (lambda raw: encode_acknowledgement(0) + b"x", "of 9 bytes"),
    "acknowledgement of more than was sent": (lambda raw: encode_acknowledgement(4), "4 messages"),
    "acknowledgement far beyond": (lambda raw: encode_acknowledgement(2**64 - 1), "of 3"),
}


@pytest.mark.parametrize(("make", "text"), BROKEN.values(), ids=BROKEN.keys())
def test_it_ends_the_connection_and_loses_nothing(
    network: SimNetwork, bob: SimStack, make: Callable[[HandMade], bytes], text: str
) -> None:
    alice = SimStack(network, "alice")
    connect(network, alice, bob)
    raw = HandMade(network, "raw", bob)
    raw.greet()
    events = Events(bob)
    events.send("raw", b"1", b"2", b"3", flags=FLAG_PERSISTENT)
    network.run(1)
    raw.say(make(raw), make(raw))
    assert raw.closed == 1
    assert data(bob) == []
    ((_, error),) = [event for event in events if event[0] == "error"]
    assert isinstance(error, SnakeMQBrokenMessage)
    assert text in str(error)
    # What is not acknowledged stays, and this side says nothing was received.
    assert bob.messaging.queued_messages("raw") == 3
    assert raw.acks == []
    alice.send("bob", b"still there")
    assert network.run_until(lambda: data(bob) == [b"still there"])
    raw.reconnect()
    assert raw.data == [b"1", b"2", b"3"]
    raw.say(raw.announce(0), message(b"lost"))
    assert data(bob)[1:] == [b"lost"]
    assert not bob.received[-1][1].redelivered


def test_an_acknowledgement_that_is_taken_back(network: SimNetwork, bob: SimStack) -> None:
    raw = HandMade(network, "raw", bob)
    raw.greet()
    events = Events(bob)
    events.send("raw", *numbered(3))
    network.run(1)
    raw.acknowledge(2)
    raw.acknowledge(1)
    assert raw.closed == 1
    assert "acknowledgement of 1 messages after 2 of 3" in str(events.of("error")[0])
    assert events.of("acked") == [b"0", b"1"]
    raw.reconnect()
    assert raw.data == [b"2"]


def test_what_was_handled_before_the_mistake_is_acknowledged_or_recognised(
    network: SimNetwork, bob: SimStack
) -> None:
    raw = HandMade(network, "raw", bob)
    raw.greet()
    raw.say(raw.announce(0), message(b"0"), message(b"1"), b"\x03short", message(b"2"))
    assert raw.closed == 1
    assert data(bob) == [b"0", b"1"]
    raw.reconnect()
    raw.say(raw.announce(0, repeated=3), *(message(payload) for payload in numbered(3)))
    assert data(bob) == [b"0", b"1", b"2"]
    assert raw.acks == [3]


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(bytes(MAX_FEATURES_SIZE + 4), id="huge"),
        pytest.param(b"\x00\x01\x00\x09" + bytes(8), id="cut off"),
        pytest.param(b"\x00", id="a header cut off"),
        pytest.param(b"\x00\x01\x00\x04" + bytes(4), id="value too short"),
        pytest.param(b"\x00\x01\x00\x08" + bytes(8), id="no window"),
    ],
)
def test_features_that_can_not_be_read(network: SimNetwork, bob: SimStack, payload: bytes) -> None:
    bob.send("raw", b"hello")
    events = Events(bob)
    raw = HandMade(network, "raw", bob)
    raw.say(b"\x02raw", frame(FrameType.FEATURES, payload))
    assert raw.closed == 1
    assert isinstance(events.of("error")[0], SnakeMQBrokenMessage)
    assert raw.messages == []
    assert bob.messaging.queued_messages("raw") == 1
    raw.reconnect()
    assert raw.data == [b"hello"]


def test_features_a_second_time_change_nothing(network: SimNetwork, bob: SimStack) -> None:
    raw = HandMade(network, "raw", bob)
    raw.greet()
    raw.say(frame(FrameType.FEATURES, b"\x00\x01\x00\x08" + bytes(8)))
    bob.send("raw", b"hello")
    network.run(1)
    assert raw.data == [b"hello"]


def test_frames_of_acknowledged_delivery_from_one_that_did_not_announce_it(
    network: SimNetwork, bob: SimStack
) -> None:
    """They are unknown frames, and those are ignored."""
    raw = HandMade(network, "raw", bob, window=None)
    raw.greet()
    events = Events(bob)
    events.send("raw", b"p", flags=FLAG_PERSISTENT)
    raw.answers = False
    raw.say(encode_acknowledgement(1), raw.announce(5), b"\x07", b"\x08", message(b"hello"))
    assert data(bob) == [b"hello"]
    assert events == [("sent", b"p")]
    assert raw.connection
    assert raw.acks == []


def test_before_the_identification_they_are_ignored_too(network: SimNetwork, bob: SimStack) -> None:
    raw = HandMade(network, "raw", bob)
    raw.say(encode_acknowledgement(9), raw.announce(5), frame(FrameType.FEATURES, b"?"))
    raw.greet()
    raw.say(raw.announce(0), message(b"hello"))
    assert data(bob) == [b"hello"]


def test_a_sequence_that_promises_much_costs_nothing(network: SimNetwork, bob: SimStack) -> None:
    raw = HandMade(network, "raw", bob)
    raw.greet()
    top = 2**32 - 1
    raw.say(raw.announce(2**63, top, top), message(b"1"), message(b"2"))
    assert [(m.data, m.redelivered) for _, m in bob.received] == [(b"1", True), (b"2", True)]
    assert raw.acks == [2]


def test_a_sequence_may_come_as_often_as_it_likes(network: SimNetwork, bob: SimStack) -> None:
    raw = HandMade(network, "raw", bob)
    raw.greet()
    raw.say(raw.announce(0), raw.announce(0), message(b"0"), raw.announce(1), raw.announce(7))
    raw.say(message(b"7"), raw.announce(0, repeated=9), message(b"?"), message(b"?"))
    assert data(bob) == [b"0", b"7"], "lower numbers are done with"
    assert raw.acks[-1] == 4


def test_one_that_ignores_the_window_is_not_read_any_more(network: SimNetwork) -> None:
    """While its messages are held; so what is held is bounded."""
    alice, bob = stacks(network, "alice", "bob")
    raw = HandMade(network, "raw", bob)
    raw.greet()
    bob.messaging.pause(bob.link.connections[0])
    large = message(bytes(1_000_000))
    raw.say(raw.announce(0), *(large for _ in range(60)))
    network.run(60)
    connection = next(iter(bob.messaging._connections.values()))
    assert connection.held_bytes < 40 << 20
    assert bob.packeter.is_paused(connection.conn_id)
    bob.messaging.resume(connection.conn_id)
    assert network.run_until(lambda: len(bob.received) == 60)
    network.run(1)
    assert raw.acks[-1] == 60
    del alice
