"""What a peer can do is known when messaging says that it is, and not before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from snakemq._core.features import Feature
from snakemq._core.frames import FrameType
from snakemq.message import Message
from snakemq.packeter import Packeter
from snakemq.testing import SimNetwork, SimStack
from snakemq.throttle import Throttle
from tests.layers.delivery_support import HandMade
from tests.layers.fake_link import FakeLink

BOTH = frozenset({Feature.DELIVERY, Feature.CALLS})


@pytest.fixture
def network() -> SimNetwork:
    return SimNetwork()


@pytest.fixture
def bob(network: SimNetwork) -> Iterator[SimStack]:
    stack = SimStack(network, "bob")
    yield stack
    stack.close()


class Journal:
    """What a stack tells of its peers, and what it knows of them at that time."""

    def __init__(self, stack: SimStack) -> None:
        self.messaging = stack.messaging
        self.entries: list[tuple[str, str, frozenset[Feature] | None]] = []
        self.messaging.on_connect.add(lambda _, ident: self.note("connect", ident))
        self.messaging.on_ready.add(lambda _, ident: self.note("ready", ident))
        self.messaging.on_disconnect.add(lambda _, ident: self.note("disconnect", ident))

    def note(self, event: str, ident: str) -> None:
        self.entries.append((event, ident, self.messaging.peer_features(ident)))


def test_two_of_snakemq_2(network: SimNetwork, bob: SimStack) -> None:
    alice = SimStack(network, "alice")
    journals = [Journal(alice), Journal(bob)]
    assert bob.messaging.peer_features("alice") is None
    alice.connect(bob)
    network.run(1)
    network.cut("alice", "bob")
    assert network.run_until(lambda: not bob.messaging.is_connected("alice"))
    for journal, other in zip(journals, ("bob", "alice"), strict=True):
        # Where it stands right behind the identification it is still read first.
        assert journal.entries[:3] == [
            ("connect", other, None),
            ("ready", other, BOTH),
            ("disconnect", other, None),
        ]
    alice.close()


def test_one_of_1_6_is_known_by_its_pong(network: SimNetwork, bob: SimStack) -> None:
    journal = Journal(bob)
    raw = HandMade(network, "raw", bob, None)
    raw.answers = False
    raw.greet()
    network.run(1)
    assert journal.entries == [("connect", "raw", None)]
    assert bob.messaging.peer_features("raw") is None
    raw.say(bytes([FrameType.PONG]))
    network.run(1)
    assert journal.entries[1:] == [("ready", "raw", frozenset())]
    assert bob.messaging.peer_features("raw") == frozenset()


def test_features_that_are_not_known_here_are_left_out(network: SimNetwork, bob: SimStack) -> None:
    raw = HandMade(network, "raw", bob, None)
    raw.say(
        bytes.fromhex("00 00000001"),
        b"\x02raw",
        bytes([FrameType.FEATURES]) + bytes.fromhex("0002 0003 010203 0100 0000"),
    )
    network.run(1)
    assert bob.messaging.peer_features("raw") == frozenset({Feature.CALLS})


def test_what_a_callback_sends_urgently_goes_before_what_waited(
    network: SimNetwork, bob: SimStack
) -> None:
    alice = SimStack(network, "alice")
    alice.send("bob", b"waited")
    alice.messaging.on_ready.add(
        lambda _, ident: alice.messaging.send_message(ident, Message(b"now"), urgent=True)
    )
    alice.connect(bob)
    assert network.run_until(lambda: len(bob.received) == 2)
    assert [message.data for _, message in bob.received] == [b"now", b"waited"]
    alice.close()


def test_a_callback_that_closes_or_raises(network: SimNetwork, bob: SimStack) -> None:
    alice = SimStack(network, "alice")
    alice.send("bob", b"waited")
    closed: list[str] = []

    def close_once(conn_id: str, ident: str) -> None:
        if not closed:
            closed.append(conn_id)
            alice.packeter.close(conn_id)
        raise RuntimeError("out of a callback")

    alice.messaging.on_ready.add(close_once)
    errors: list[Exception] = []
    alice.messaging.on_error.add(lambda _, exc: errors.append(exc))
    alice.connect(bob)
    assert network.run_until(lambda: bob.received)
    assert [str(exc) for exc in errors] == ["out of a callback"] * 2
    alice.close()


def test_one_connection_is_acknowledged_at_once_when_asked_for(network: SimNetwork) -> None:
    alice, bob = SimStack(network, "alice"), SimStack(network, "bob")
    alice.connect(bob)
    assert network.run_until(lambda: alice.messaging.peer_features("bob"))
    acked: list[float] = []
    alice.messaging.on_message_acked.add(lambda *_: acked.append(network.time()))

    def acknowledge(conn_id: str, ident: str, message: Message) -> None:
        if message.data == b"urgently":
            bob.messaging.call_soon(bob.messaging.acknowledge, conn_id)

    bob.messaging.on_message_recv.add(acknowledge)
    waits = []
    for data in (b"in time", b"urgently"):
        start = network.time()
        alice.send("bob", data, ttl=0)
        assert network.run_until(lambda: acked)
        waits.append(acked.pop() - start)
    assert waits[1] <= waits[0] - 0.01
    bob.messaging.acknowledge("no such connection")
    alice.close()
    bob.close()


class TestCertificate:
    def test_there_is_none_without_tls(self, network: SimNetwork, bob: SimStack) -> None:
        conn_ids: list[str] = []
        bob.messaging.on_connect.add(lambda conn_id, _: conn_ids.append(conn_id))
        HandMade(network, "raw", bob).greet()
        network.run(1)
        assert bob.messaging.get_certificate(conn_ids[0]) is None
        assert bob.messaging.get_certificate("no such connection") is None

    def test_it_comes_from_below_a_throttle(self) -> None:
        link: Any = FakeLink()
        packeter = Packeter(Throttle(link, 1000))
        assert packeter.get_certificate("c") == {"of": "c"}
