"""The handshake: which frame may come when."""

from __future__ import annotations

import pytest

from snakemq._core.session import Event, Session, SessionState
from snakemq.exceptions import (
    SnakeMQBrokenMessage,
    SnakeMQIncompatibleProtocol,
    SnakeMQNoIdent,
)

VERSION_1 = b"\0\0\0\1"


def test_the_greeting() -> None:
    assert Session.greeting("bob") == [b"\0\0\0\0\1", b"\2bob"]


def test_two_sessions_greet_each_other() -> None:
    alice, bob = Session(), Session()
    for name, receiver in (("alice", bob), ("bob", alice)):
        for frame in Session.greeting(name):
            receiver.receive(frame[0], frame[1:])
    assert (alice.ident, alice.state) == ("bob", SessionState.IDENTIFIED)
    assert (bob.ident, bob.state) == ("alice", SessionState.IDENTIFIED)


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
    for frame_type in range(6, 256):
        assert session.receive(frame_type, b"anything") is Event.NOTHING
    assert session.state is state


@pytest.mark.parametrize("make", [Session, identified])
def test_another_version_is_an_error_in_any_state(make: type[Session]) -> None:
    with pytest.raises(SnakeMQIncompatibleProtocol, match="version 2"):
        make().receive(0, b"\0\0\0\2")


def test_a_broken_version_is_an_error() -> None:
    with pytest.raises(SnakeMQBrokenMessage):
        Session().receive(0, b"\0")
