"""Proofs that one knows a secret, byte by byte."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemq._core.authentication import (
    NONCE_SIZE,
    Exchange,
    Role,
    decode_nonce,
    find_secret,
    make_proof,
)
from snakemq._core.features import Feature, encode_features
from snakemq._core.refusal import (
    Refusal,
    decode_refusal,
    describe_refusal,
    encode_refusal,
    refusal_of,
)
from snakemq._core.session import Event, Session, SessionState
from snakemq.exceptions import (
    AuthenticationError,
    AuthenticationMissing,
    IdentityMismatch,
    NotAdmitted,
    SnakeMQBrokenMessage,
    WrongSecret,
)

SECRET = b"a secret of 16 b"
EXCHANGE = Exchange("alice", "bob", b"A" * 32, b"B" * 32, b"binding")


def test_the_bytes_of_a_proof() -> None:
    message = (
        b"snakemq 2 authentication\0"
        b"\0\0\0\x09connector"
        b"\0\0\0\x05alice"
        b"\0\0\0\x03bob"
        b"\0\0\0\x20%b"
        b"\0\0\0\x20%b"
        b"\0\0\0\x07binding"
    ) % (b"A" * 32, b"B" * 32)
    expected = hmac.new(SECRET, message, hashlib.sha256).digest()
    assert make_proof(SECRET, Role.CONNECTOR, EXCHANGE) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"connector": "alicf"},
        {"listener": "bo"},
        {"connector_nonce": b"A" * 31 + b"a"},
        {"listener_nonce": b"A" * 32},
        {"channel_binding": b""},
        # What belongs to the one must not pass for a part of the other.
        {"connector": "aliceb", "listener": "ob"},
        {"connector": "bob", "listener": "alice"},
        {"connector_nonce": b"B" * 32, "listener_nonce": b"A" * 32},
    ],
)
def test_all_of_the_exchange_counts(change: dict[str, object]) -> None:
    other = EXCHANGE._replace(**change)
    proof = make_proof(SECRET, Role.CONNECTOR, EXCHANGE)
    assert find_secret([SECRET], proof, Role.CONNECTOR, EXCHANGE) == SECRET
    assert find_secret([SECRET], proof, Role.CONNECTOR, other) is None


def test_the_role_and_the_secret_count() -> None:
    proof = make_proof(SECRET, Role.CONNECTOR, EXCHANGE)
    assert find_secret([SECRET], proof, Role.LISTENER, EXCHANGE) is None
    assert find_secret([SECRET + b"x"], proof, Role.CONNECTOR, EXCHANGE) is None


def test_two_of_the_same_name_can_prove_nothing() -> None:
    same = EXCHANGE._replace(listener="alice")
    proof = make_proof(SECRET, Role.CONNECTOR, same)
    assert find_secret([SECRET], proof, Role.CONNECTOR, same) is None


def test_which_of_several_secrets_it_was() -> None:
    secrets = [b"x" * 16, SECRET, b"y" * 16]
    proof = make_proof(SECRET, Role.LISTENER, EXCHANGE)
    assert find_secret(secrets, proof, Role.LISTENER, EXCHANGE) == SECRET


@given(st.binary(max_size=64))
def test_nothing_else_is_a_proof(proof: bytes) -> None:
    assert find_secret([SECRET], proof, Role.LISTENER, EXCHANGE) is None


def test_a_nonce_that_is_too_short() -> None:
    with pytest.raises(SnakeMQBrokenMessage):
        decode_nonce(b"x" * (NONCE_SIZE - 1))
    assert decode_nonce(b"x" * NONCE_SIZE + b"what a later version adds") == b"x" * NONCE_SIZE


# The session of a side that wants a proof.


def wanting() -> Session:
    session = Session(wants_proof=True)
    assert session.receive(2, b"bob") is Event.IDENTIFIED
    return session


def features(nonce: bytes = b"N" * NONCE_SIZE) -> bytes:
    return encode_features({Feature.AUTHENTICATION: nonce})


def test_a_proof_is_expected_behind_the_nonce() -> None:
    session = wanting()
    assert session.receive(6, features()) is Event.FEATURES
    assert session.state is SessionState.PROVING
    assert session.nonce == b"N" * NONCE_SIZE
    assert session.receive(9, b"P" * 32) is Event.PROOF
    assert session.state is SessionState.PROVING, "its owner says whether it is right"
    session.proved()
    assert session.receive(3, b"") is Event.MESSAGE
    assert session.receive(9, b"P" * 32) is Event.NOTHING


@pytest.mark.parametrize("frame_type", [3, 4, 5])
def test_one_that_has_no_features_does_not_get_in(frame_type: int) -> None:
    session = wanting()
    with pytest.raises(AuthenticationMissing) as caught:
        session.receive(frame_type, b"")
    assert caught.value.ident == "bob"
    assert session.state is SessionState.IDENTIFIED


def test_one_that_has_features_but_no_nonce_does_not_get_in() -> None:
    with pytest.raises(AuthenticationMissing):
        wanting().receive(6, encode_features({Feature.CALLS: b""}))


def test_no_message_before_the_proof() -> None:
    session = wanting()
    session.receive(6, features())
    with pytest.raises(AuthenticationMissing):
        session.receive(3, b"")


def test_pings_are_answered_while_it_proves() -> None:
    session = wanting()
    session.receive(6, features())
    assert session.receive(4, b"") is Event.PING
    assert session.receive(7, bytes(8)) is Event.NOTHING
    assert session.receive(8, bytes(24)) is Event.NOTHING
    assert session.state is SessionState.PROVING


def test_a_proof_that_nobody_wants_is_ignored() -> None:
    session = Session()
    session.receive(2, b"bob")
    assert session.receive(9, b"P" * 32) is Event.NOTHING
    assert session.state is SessionState.IDENTIFIED


# Refusals.


def test_the_bytes_of_a_refusal() -> None:
    assert encode_refusal(Refusal.WRONG_SECRET) == b"\x0a\0\2"
    assert decode_refusal(b"\0\2 and what a later version adds") == 2


@pytest.mark.parametrize("payload", [b"", b"\0"])
def test_a_refusal_that_is_cut_off(payload: bytes) -> None:
    with pytest.raises(SnakeMQBrokenMessage):
        decode_refusal(payload)


def test_each_reason_has_words() -> None:
    words = {describe_refusal(reason) for reason in Refusal}
    assert len(words) == len(Refusal)
    assert "4711" in describe_refusal(4711)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (IdentityMismatch, Refusal.IDENTITY_MISMATCH),
        (WrongSecret, Refusal.WRONG_SECRET),
        (AuthenticationMissing, Refusal.AUTHENTICATION_MISSING),
        (NotAdmitted, Refusal.NOT_ADMITTED),
    ],
)
def test_each_error_has_its_reason(kind: type[AuthenticationError], reason: Refusal) -> None:
    assert refusal_of(kind("because")) is reason


@pytest.mark.parametrize("make", [Session, wanting])
def test_a_refusal_is_noticed_in_any_state_and_changes_none(make: type[Session]) -> None:
    session = make()
    state = session.state
    assert session.receive(10, b"\0\1") is Event.REFUSAL
    assert session.state is state
