"""The handshake: which frame may come when."""

from __future__ import annotations

import pytest

from snakemq._core.features import DeliveryFeature, Feature
from snakemq._core.frames import FrameType
from snakemq._core.session import Event, Session, SessionState
from snakemq.exceptions import (
    SnakeMQBrokenMessage,
    SnakeMQIncompatibleProtocol,
    SnakeMQNoIdent,
)

VERSION_1 = b"\0\0\0\1"


FEATURES = {Feature.DELIVERY: DeliveryFeature(5, 1000).encode()}


def test_the_greeting() -> None:
    assert Session.greeting("bob", FEATURES) == [
        b"\0\0\0\0\1",
        b"\2bob",
        bytes.fromhex("06 0001 0008 00000005 000003e8"),
    ]


def test_two_sessions_greet_each_other() -> None:
    alice, bob = Session(), Session()
    for name, receiver in (("alice", bob), ("bob", alice)):
        for frame in Session.greeting(name, FEATURES):
            receiver.receive(frame[0], frame[1:])
    assert (alice.ident, alice.state) == ("bob", SessionState.READY)
    assert (bob.ident, bob.state) == ("alice", SessionState.READY)
    assert alice.delivery == bob.delivery == DeliveryFeature(5, 1000)


def identified() -> Session:
    session = Session()
    assert session.receive(2, b"bob") is Event.IDENTIFIED
    return session


def test_a_version_is_not_insisted_on() -> None:
    assert identified().receive(3, b"") is Event.MESSAGE


def test_a_message_before_the_identification_is_an_error() -> None:
    session = Session()
    session.receive(0, VERSION_1)
    with pytest.raises(SnakeMQNoIdent):
        session.receive(3, b"")


def test_a_second_identification_is_ignored() -> None:
    session = identified()
    assert session.receive(2, b"eve") is Event.NOTHING
    assert session.ident == "bob"


@pytest.mark.parametrize("make", [Session, identified])
def test_pings_pongs_and_rejection_in_any_state(make: type[Session]) -> None:
    session = make()
    assert session.receive(4, b"") is Event.PING
    assert session.receive(5, b"") is Event.PONG
    assert session.receive(1, b"") is Event.REJECTED


@pytest.mark.parametrize("make", [Session, identified])
def test_unknown_frame_types_are_ignored_in_any_state(make: type[Session]) -> None:
    session = make()
    state = session.state
    for frame_type in set(range(7, 256)) - {FrameType.REFUSAL}:
        assert session.receive(frame_type, b"anything") is Event.NOTHING
    assert session.state is state


@pytest.mark.parametrize("frame_type", [1, 3, 4, 5])
def test_anything_else_behind_the_identification_says_that_there_are_no_features(
    frame_type: int,
) -> None:
    session = identified()
    session.receive(frame_type, b"")
    assert session.state is SessionState.READY
    assert session.receive(6, bytes.fromhex("0001 0008 00000005 000003e8")) is Event.NOTHING
    assert session.delivery is None
    assert session.receive(7, bytes(8)) is Event.NOTHING
    assert session.receive(8, bytes(5)) is Event.NOTHING


def test_features_without_delivery() -> None:
    session = identified()
    assert session.receive(6, bytes.fromhex("00ff 0001 00")) is Event.FEATURES
    assert session.state is SessionState.READY
    assert session.receive(7, bytes(8)) is Event.NOTHING


def test_with_delivery_there_are_acknowledgements_and_sequences() -> None:
    session = identified()
    session.receive(6, bytes.fromhex("0001 0008 00000005 000003e8"))
    assert session.receive(7, bytes(8)) is Event.ACKNOWLEDGEMENT
    assert session.receive(8, bytes(5)) is Event.SEQUENCE


@pytest.mark.parametrize("make", [Session, identified])
def test_another_version_is_an_error_in_any_state(make: type[Session]) -> None:
    with pytest.raises(SnakeMQIncompatibleProtocol, match="version 2"):
        make().receive(0, b"\0\0\0\2")


def test_a_broken_version_is_an_error() -> None:
    with pytest.raises(SnakeMQBrokenMessage):
        Session().receive(0, b"\0")
