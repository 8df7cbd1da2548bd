"""Attacks on what keeps strangers and greedy peers out, each with what it would have got."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from snakemq._core.authentication import NONCE_SIZE, Exchange, Role, make_proof
from snakemq._core.features import DeliveryFeature, Feature, encode_features
from snakemq.exceptions import NotAdmitted, SnakeMQBrokenMessage, TooMuchUnfinished
from snakemq.limits import ConnectionLimits
from snakemq.messaging import Messaging
from snakemq.packeter import Packeter
from tests.layers.fake_link import FakeLink
from tests.layers.impostor import message, packet

VERSION = packet(b"\0\0\0\0\1")
PING = packet(b"\4")
PONG = packet(b"\5")


def identification(ident: str) -> bytes:
    return VERSION + packet(b"\2", ident.encode()) + packet(b"\6")


class HandLink(FakeLink):
    """A link on which this side only listens."""

    def __init__(self) -> None:
        super().__init__()
        self.paused: set[str] = set()

    def is_mesh(self) -> bool:
        return False

    def is_connector(self, conn_id: str) -> bool:
        return False

    def call_soon(self, func: Callable[..., object], *args: object) -> None:
        self.call_later(0.0, func, *args)

    def pause_recv(self, conn_id: str) -> None:
        self.paused.add(conn_id)

    def resume_recv(self, conn_id: str) -> None:
        self.paused.discard(conn_id)

    def run_timers(self) -> None:
        while (deadline := self.timers.deadline()) is not None and deadline <= self.now:
            func, args = self.timers.pop()
            func(*args)


class Target:
    """Messaging over a link by hand; what it received, and what it reported."""

    def __init__(self, **options: object) -> None:
        self.link = HandLink()
        self.packeter = Packeter(self.link)  # type: ignore[arg-type]
        self.messaging = Messaging("bob", "", self.packeter, **options)  # type: ignore[arg-type]
        self.received: list[tuple[str, bytes]] = []
        self.connected: list[str] = []
        self.errors: list[Exception] = []
        self.messaging.on_message_recv.add(
            lambda conn_id, ident, message: self.received.append((ident, message.data))
        )
        self.messaging.on_connect.add(lambda conn_id, ident: self.connected.append(ident))
        for layer in (self.messaging, self.packeter):
            layer.on_error.add(lambda conn_id, exc: self.errors.append(exc))

    def meet(self, conn_id: str, ident: str) -> None:
        self.link.connect(conn_id)
        self.link.on_recv(conn_id, identification(ident))
        self.link.run_timers()
        self.link.take_all(conn_id)


# Pings.


def test_who_reads_no_pongs_gets_no_memory_for_them() -> None:
    """As CVE-2019-9512 of HTTP/2: each ping was answered into a queue that nobody read."""
    target = Target()
    target.meet("1", "eve")
    for _ in range(100):
        target.link.on_recv("1", PING * 1000)
    assert target.packeter.unsent_bytes("1") == len(PONG)
    # It gets all of them as soon as it reads.
    before = len(target.link.taken["1"])
    target.link.take_all("1")
    assert target.link.taken["1"][before:] == PONG * 100_000
    assert not target.errors


def meet_one_who_acknowledges(target: Target) -> int:
    """:return: how much it has been sent"""
    features = encode_features({Feature.DELIVERY: DeliveryFeature(10, 1000).encode()})
    target.link.connect("1")
    target.link.on_recv("1", VERSION + packet(b"\2eve") + packet(b"\6", features))
    target.link.run_timers()
    target.link.take_all("1")
    return len(target.link.taken["1"])


def numbered(number: int, ttl: int = 0xFFFFFFFF) -> bytes:
    """A message that is acknowledged at once, unless its time to live is 0."""
    sequence = struct.pack("!8sQII", b"s" * 8, number, 0, 0)
    content = struct.pack("!16sII", b"u" * 16, ttl, 0)
    return packet(b"\x08", sequence) + packet(b"\3", content)


def acknowledgement(total: int) -> bytes:
    return packet(b"\7", struct.pack("!Q", total))


def test_who_reads_no_acknowledgements_gets_no_memory_for_them() -> None:
    target = Target()
    before = meet_one_who_acknowledges(target)
    for number in range(1, 5001):
        target.link.on_recv("1", numbered(number))
    assert target.packeter.unsent_bytes("1") < 5000
    # And the last one counts all of them.
    target.link.take_all("1")
    assert target.link.taken["1"][before:].endswith(acknowledgement(5000))
    assert not target.errors


def test_acknowledgements_that_are_asked_for_take_no_memory_either() -> None:
    """As for each part of a large call."""
    target = Target()
    meet_one_who_acknowledges(target)
    for number in range(1, 5001):
        target.link.on_recv("1", numbered(number, ttl=0))
        target.messaging.acknowledge("1")
    assert target.packeter.unsent_bytes("1") < 5000
    # At the end nothing is left to be waited for.
    target.messaging.acknowledge()
    target.link.take_all("1")
    assert target.link.taken["1"].endswith(acknowledgement(5000))
    assert not target.errors


def test_an_acknowledgement_that_had_to_wait_is_sent_once() -> None:
    target = Target()
    meet_one_who_acknowledges(target)
    for number in range(1, 1001):
        target.link.on_recv("1", numbered(number))
    target.link.take("1")
    target.link.take("1", 2000)
    # Now there is room for one that does not wait.
    target.link.on_recv("1", numbered(1001))
    target.link.take_all("1")
    assert target.link.taken["1"].count(acknowledgement(1001)) == 1
    assert not target.errors


@pytest.mark.parametrize("is_evicted", [True, False])
def test_who_was_refused_is_not_refused_for_being_slow_as_well(is_evicted: bool) -> None:
    limits = ConnectionLimits(max_unidentified=1 if is_evicted else 2)
    target = Target(limits=limits)
    target.link.connect("1")
    target.link.now = limits.identification_timeout - 1
    target.link.connect("2")
    if not is_evicted:
        target.link.on_recv("1", packet(b""))  # no frame is empty
    unsent = target.packeter.unsent_bytes("1")
    target.link.now += 1.5
    target.link.run_timers()
    counters = target.messaging.counters
    assert counters["strangers_evicted" if is_evicted else "connections_failed"] == 1
    assert counters["identification_timeouts"] == 0
    assert target.packeter.unsent_bytes("1") == unsent > 0


def test_a_pong_is_not_kept_waiting_by_others() -> None:
    target = Target()
    target.meet("1", "eve")
    target.meet("2", "alice")
    target.link.on_recv("1", PING * 1000)
    target.link.on_recv("2", PING)
    assert b"".join(target.link.sending["2"]) == PONG
    target.link.take_all("2")
    target.link.on_recv("2", PING)
    assert b"".join(target.link.sending["2"]) == PONG


def test_pings_and_the_end_of_the_connection() -> None:
    target = Target()
    target.meet("1", "eve")
    target.link.on_recv("1", PING * 3)
    target.link.unreported_bytes = len(PONG)
    target.link.close("1")
    assert not target.errors


# A check that is interrupted.


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_who_was_not_checked_to_the_end_is_not_let_in(interrupt: type[BaseException]) -> None:
    """The loop can be called again, and then goes on with what had come already."""

    def authenticate(conn_id: str, ident: str, certificate: object) -> bool:
        raise interrupt

    target = Target(authentication=authenticate)
    target.link.connect("1")
    with pytest.raises(interrupt):
        target.link.on_recv("1", identification("eve") + message(b"let me in"))
    target.link.run_timers()
    assert "1" not in target.link.taken, "the connection is still there"
    assert not target.received
    assert not target.connected
    assert not target.errors


def test_nothing_is_delivered_of_who_is_not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt may come anywhere, for instance just before the check."""
    target = Target(authentication=lambda conn_id, ident, certificate: False)
    target.link.connect("1")

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(target.messaging, "_identified", interrupted)
        with pytest.raises(KeyboardInterrupt):
            target.link.on_recv("1", identification("eve") + message(b"let me in"))
    target.link.run_timers()
    target.link.on_recv("1", message(b"let me in"))
    assert not target.received
    assert not target.connected
    assert isinstance(target.errors[0], NotAdmitted)


@pytest.mark.parametrize("admitted", [True, False])
def test_a_check_that_closes_the_connection_itself(
    admitted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def authenticate(conn_id: str, ident: str, certificate: object) -> bool:
        target.link.close(conn_id)
        return admitted

    target = Target(authentication=authenticate)
    target.link.connect("1")
    target.link.on_recv("1", identification("eve") + message(b"let me in"))
    assert not target.received + target.errors
    assert "Traceback" not in caplog.text
    assert target.messaging.counters.as_dict()["authentications_failed"] == (not admitted)


def test_a_ping_of_one_that_was_closed_when_it_was_ready(caplog: pytest.LogCaptureFixture) -> None:
    target = Target()
    target.messaging.on_ready.add(lambda conn_id, ident: target.link.close(conn_id))
    target.link.connect("1")
    target.link.on_recv("1", VERSION + packet(b"\2eve") + PING)
    assert not target.errors
    assert "Traceback" not in caplog.text


# What is held.


def test_what_is_held_of_many_small_packets_is_not_much() -> None:
    """Where each of them begins and ends takes far more memory than they do."""
    target = Target()
    target.meet("1", "eve")
    target.link.connect("2")
    target.link.on_recv("2", identification("eve"))  # waits, and all it sends is held
    assert not target.link.paused
    target.link.on_recv("2", packet(b"") * 10_000)
    assert target.link.paused == {"2"}
    target.link.close("1")
    target.link.run_timers()
    # Now it is its turn, and it is nothing but empty packets.
    assert [str(error) for error in target.errors] == ["an empty frame"]


# Packets that are not complete.


def test_who_has_sent_most_of_what_is_not_complete_has_to_go() -> None:
    """Else somebody who stays just below the limit has everybody else closed for a few bytes."""
    target = Target()
    target.packeter.max_unfinished_bytes = 100_000
    for conn_id, ident in (("1", "eve"), ("2", "mallory"), ("3", "alice")):
        target.meet(conn_id, ident)
    target.link.on_recv("1", b"\0\1\0\0" + bytes(49_000))
    target.link.on_recv("2", b"\0\1\0\0" + bytes(50_900))
    whole = message(b"from alice" + bytes(200))
    target.link.on_recv("3", whole[:150])
    target.link.on_recv("3", whole[150:])
    assert target.received == [("alice", b"from alice" + bytes(200))]
    assert sorted(target.link.taken) == ["1", "3"]
    assert [type(error) for error in target.errors] == [TooMuchUnfinished]
    assert target.packeter.counters.as_dict()["unfinished_refused"] == 1


# Two connections of one name.


def test_a_second_connection_that_fails_does_not_follow_the_first_one() -> None:
    """It reads nothing, so it stays for a moment."""
    target = Target()
    target.meet("1", "eve")
    target.link.connect("2")
    target.link.on_recv("2", VERSION + packet(b"\2eve") + message(b"held"))
    target.link.on_recv("2", packet(b"\6cut"))
    assert [type(error) for error in target.errors] == [SnakeMQBrokenMessage]
    assert "2" in target.link.taken
    target.link.close("1")
    target.link.run_timers()
    assert target.connected == ["eve"]
    assert not target.received
    assert target.messaging.connected_peers() == []


def test_the_first_connection_that_fails_is_followed_by_the_second_one() -> None:
    target = Target()
    target.meet("1", "eve")
    target.messaging.pause("1")
    target.link.connect("2")
    target.link.on_recv("2", VERSION + packet(b"\2eve") + packet(b"\6") + message(b"held"))
    target.link.on_recv("1", packet(b""))
    assert [str(error) for error in target.errors] == ["an empty frame"]
    target.link.take_all("1")
    target.link.run_timers()
    assert target.connected == ["eve", "eve"]
    assert target.received == [("eve", b"held")]


# Proofs of several conversations at the same time.


def test_no_proof_of_one_conversation_is_one_of_another() -> None:
    """Who dials two peers, and is dialled by two, may say the same nonces everywhere."""
    names = ("", "bob", "carol", "bobcarol", "connector", "\ufffd")
    nonces = (b"A" * NONCE_SIZE, b"B" * NONCE_SIZE)
    proofs = {
        make_proof(b"of all of them" * 2, role, Exchange(connector, listener, *order, binding))
        for role in Role
        for connector in names
        for listener in names
        for order in (nonces, nonces[::-1], nonces[:1] * 2)
        for binding in (b"", b"one", b"other")
    }
    assert len(proofs) == len(Role) * len(names) ** 2 * 3 * 3
