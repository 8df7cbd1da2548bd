"""Who is let in: shared secrets, the application's own check, and those who lie."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import pytest

from snakemq import ConnectionLimits, Peer, RefusedByPeer, SharedSecret
from snakemq._core.authentication import Role
from snakemq._core.refusal import Refusal
from snakemq.authentication import Authentication, CertificateFingerprint, CertificateName
from snakemq.exceptions import (
    AuthenticationMissing,
    IdentityMismatch,
    NotAdmitted,
    SnakeMQBrokenMessage,
    WrongSecret,
)
from snakemq.testing import SimNetwork, SimStack
from tests.helpers import DEADLINE, wait_until
from tests.layers.impostor import (
    FEATURES,
    IDENT,
    PING,
    PROOF,
    REFUSAL,
    VERSION,
    Impostor,
    Trap,
    in_between,
    message,
    packet,
)

SECRET = b"known to alice and bob only"
OTHER = b"known to somebody else only"


class Errors:
    """What a peer reported."""

    def __init__(self, peer: Peer) -> None:
        self.all: list[Exception] = []
        peer.on_error.add(lambda conn_id, exc: self.all.append(exc))

    def wait(self, kind: type[Exception]) -> Exception:
        wait_until(
            lambda: [exc for exc in self.all if isinstance(exc, kind)],
            what=lambda: f"{kind.__name__}, not {self.all}",
        )
        return next(exc for exc in self.all if isinstance(exc, kind))


class Watched(Peer):
    """A peer, and what it reported."""

    def __init__(self, identifier: str, **options: Any) -> None:
        super().__init__(identifier, **options)
        self.errors = Errors(self)


KNOWS: Authentication = SharedSecret(SECRET)


def listener(authentication: Any = KNOWS, **options: Any) -> Watched:
    return Watched("bob", listen=0, authentication=authentication, **options)


def dialler(address: tuple[str, int], authentication: Any = KNOWS, **options: Any) -> Watched:
    return Watched(
        "alice", connect=address, authentication=authentication, reconnect_interval=0.05, **options
    )


def talk(alice: Peer, bob: Peer) -> None:
    alice.send("bob", "there")
    received = bob.receive(DEADLINE)
    assert received is not None
    assert (received.ident, received.text) == ("alice", "there")
    bob.send("alice", "and back")
    received = alice.receive(DEADLINE)
    assert received is not None
    assert received.text == "and back"


# Shared secrets.


def test_two_that_know_the_secret_talk() -> None:
    with listener(serve={"text": "abc"}) as bob, dialler(bob.addresses[0]) as alice:
        talk(alice, bob)
        assert alice.proxy("bob", "text").upper() == "ABC"
        assert not alice.errors.all + bob.errors.all


@pytest.mark.parametrize(
    ("of_bob", "of_alice"),
    [
        ({"alice": SECRET}, {"bob": SECRET}),
        ({"alice": SECRET, "carol": OTHER}, SECRET),
        (lambda ident: SECRET if ident == "alice" else None, {"bob": [SECRET]}),
        # On the way from one secret to another.
        ([OTHER, SECRET], SECRET),
        (SECRET, [SECRET, OTHER]),
        ([OTHER, SECRET], [SECRET, OTHER]),
    ],
)
def test_secrets_of_each_peer_and_several(of_bob: Any, of_alice: Any) -> None:
    with (
        listener(SharedSecret(of_bob)) as bob,
        dialler(bob.addresses[0], SharedSecret(of_alice)) as alice,
    ):
        talk(alice, bob)


@pytest.mark.parametrize(
    ("of_bob", "of_alice"),
    [
        (SECRET, OTHER),
        ({"alice": SECRET}, {"bob": OTHER}),
        ({"carol": SECRET}, SECRET),  # nobody that is known here
        (lambda ident: None, SECRET),
        (SECRET, [OTHER, SECRET]),  # the first one is what a connector proves
    ],
)
def test_another_secret_is_refused_on_both_sides(of_bob: Any, of_alice: Any) -> None:
    with (
        listener(SharedSecret(of_bob)) as bob,
        dialler(bob.addresses[0], SharedSecret(of_alice)) as alice,
    ):
        connected: list[str] = []
        for peer in (alice, bob):
            peer.on_peer_connect.add(connected.append)
        alice.send("bob", "secret")
        exc = bob.errors.wait(WrongSecret)
        assert isinstance(exc, WrongSecret)
        assert exc.ident == "alice"
        refused = alice.errors.wait(RefusedByPeer)
        assert isinstance(refused, RefusedByPeer)
        assert refused.code == Refusal.WRONG_SECRET
        # It tries again, and is refused again.
        wait_until(lambda: bob.counters()["authentications_failed"] >= 2)
        wait_until(lambda: alice.counters()["refused_by_peers"] >= 2)
        assert not connected
        assert bob.peers == alice.peers == []
        assert alice.queued("bob") == 1


def test_who_gets_the_secret_later_is_connected_then() -> None:
    secret = [OTHER]
    with (
        listener() as bob,
        dialler(bob.addresses[0], SharedSecret(lambda ident: secret[0])) as alice,
    ):
        alice.errors.wait(RefusedByPeer)
        secret[0] = SECRET
        talk(alice, bob)


def test_a_secret_from_a_file(tmp_path: Any) -> None:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\r\n")
    assert SharedSecret.from_file(path).secrets_of("anybody") == (SECRET,)
    path.write_bytes(b"short\n")
    with pytest.raises(ValueError, match=r"secret: a secret must have 16 bytes"):
        SharedSecret.from_file(path)


@pytest.mark.parametrize(
    ("secret", "kind", "words"),
    [
        ("a string of characters", TypeError, "encode"),
        ([b"x" * 16, "a string of characters"], TypeError, "not str"),
        (b"x" * 15, ValueError, "16 bytes at least, not 15"),
        ([], ValueError, "at least one"),
        ({"bob": b"short"}, ValueError, "16 bytes"),
    ],
)
def test_secrets_that_are_none(secret: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        SharedSecret(secret)


def test_the_secret_is_not_shown() -> None:
    assert "known" not in repr(SharedSecret(SECRET)) + str(vars(SharedSecret))


@pytest.mark.parametrize(
    ("authentication", "kind"),
    [
        (SECRET, TypeError),
        ([SharedSecret(SECRET), "something"], TypeError),
        ([SharedSecret(SECRET), SharedSecret(SECRET)], ValueError),
        ([], ValueError),
        (7, TypeError),
    ],
)
def test_wrong_arguments(authentication: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        Peer("bob", authentication=authentication)


# Those who lie.


def test_who_only_dials_is_shown_no_proof() -> None:
    """Nothing from which a weak secret could be guessed."""
    with listener() as bob, Impostor.dial(bob.addresses[0]) as mallory:
        bob.send("alice", "for the real one")
        mallory.greet("alice")
        nonce = mallory.nonce()
        mallory.prove(OTHER, "alice", "bob", Role.CONNECTOR, nonce)
        assert mallory.refusal() == Refusal.WRONG_SECRET
        assert {frame[0] for frame in mallory.frames} <= {VERSION, IDENT, FEATURES, PING, REFUSAL}
        assert bob.queued("alice") == 1


@pytest.mark.parametrize("proof", [b"", b"\0" * 31, b"\0" * 32, b"\0" * 33])
def test_proofs_that_are_none(proof: bytes) -> None:
    with listener() as bob, Impostor.dial(bob.addresses[0]) as mallory:
        mallory.greet("alice")
        mallory.send(packet(b"\x09", proof))
        assert mallory.refusal() == Refusal.WRONG_SECRET
        bob.errors.wait(WrongSecret)


@pytest.mark.parametrize(
    "then",
    [
        [message(b"let me in")],
        [packet(b"\4")],
        [packet(b"\5")],
        [packet(b"\6")],
        [],  # the ping that asks for features tells
    ],
    ids=["message", "ping", "pong", "features", "nothing"],
)
def test_who_says_it_is_of_16_is_refused(then: list[bytes]) -> None:
    """A downgrade: what 1.6 can't prove is not waived for who claims to be 1.6."""
    with listener() as bob, Impostor.dial(bob.addresses[0]) as mallory:
        bob.send("alice", "for the real one")
        mallory.greet_as_16("alice")
        mallory.send(*then)
        if not then:
            mallory.expect(PING)
            mallory.send(packet(b"\5"))
        assert mallory.refusal() == Refusal.AUTHENTICATION_MISSING
        bob.errors.wait(AuthenticationMissing)
        assert bob.receive(0) is None
        assert bob.queued("alice") == 1


def test_a_listener_that_says_it_is_of_16_is_refused() -> None:
    with Trap() as trap, dialler(trap.address) as alice:
        alice.send("bob", "secret")
        with trap.accept() as mallory:
            mallory.greet_as_16("bob")
            mallory.send(message(b"trust me"))
            assert mallory.refusal() == Refusal.AUTHENTICATION_MISSING
        assert alice.receive(0) is None
        assert alice.queued("bob") == 1


def test_messages_before_the_proof_are_not_taken() -> None:
    with listener() as bob, Impostor.dial(bob.addresses[0]) as mallory:
        mallory.greet("alice")
        mallory.send(message(b"let me in"))
        assert mallory.refusal() == Refusal.AUTHENTICATION_MISSING
        assert bob.receive(0) is None


def test_a_recorded_handshake_is_of_no_use() -> None:
    with listener() as bob:
        with (
            in_between(bob.addresses[0]) as somebody,
            dialler(somebody.address) as alice,
        ):
            alice.send("bob", "only once")
            received = bob.receive(DEADLINE)
            assert received is not None
        recorded = b"".join(somebody.recorded)
        wait_until(lambda: not bob.peers)
        with Impostor.dial(bob.addresses[0]) as mallory:
            mallory.send(recorded)
            assert mallory.refusal() == Refusal.WRONG_SECRET
        assert bob.receive(0) is None


def test_a_proof_that_is_sent_back_is_of_no_use() -> None:
    """Who is dialled in the place of Bob does not get in with what Alice has proved."""
    with Trap() as trap, dialler(trap.address) as alice, trap.accept() as mallory:
        nonce = mallory.nonce()
        mallory.greet("bob", nonce)
        proof = mallory.expect(PROOF)
        mallory.send(packet(b"\x09", proof))
        assert mallory.refusal() == Refusal.WRONG_SECRET
        alice.errors.wait(WrongSecret)


def test_a_proof_for_one_name_is_of_no_use_under_another() -> None:
    """All know the secret of their group, but what Alice proves is that *she* is there."""
    secrets = {"alice": SECRET, "mallory": OTHER}
    with (
        listener(SharedSecret(secrets)) as bob,
        Impostor.dial(bob.addresses[0]) as mallory,
    ):
        mallory.greet("alice")
        mallory.prove(OTHER, "mallory", "bob", Role.CONNECTOR, mallory.nonce())
        assert mallory.refusal() == Refusal.WRONG_SECRET
        with Impostor.dial(bob.addresses[0]) as honest:
            honest.greet("mallory")
            honest.prove(OTHER, "mallory", "bob", Role.CONNECTOR, honest.nonce())
            assert len(honest.expect(PROOF)) == 32
            wait_until(lambda: bob.peers == ["mallory"])


def test_nobody_gets_in_as_the_peer_itself() -> None:
    """What Bob proves where he dials would else prove it where he listens: both are "bob"."""
    with (
        Trap() as trap,
        Watched("bob", listen=0, connect=trap.address, authentication=KNOWS) as bob,
        trap.accept() as dialled,
        Impostor.dial(bob.addresses[0]) as dials,
    ):
        # On each connection the nonce of the other one.
        dials.greet("bob", dialled.nonce())
        dialled.greet("bob", dials.nonce())
        assert dialled.refusal() == dials.refusal() == Refusal.WRONG_SECRET
        assert PROOF not in {frame[0] for frame in dialled.frames + dials.frames}
        assert "this peer itself" in str(bob.errors.wait(WrongSecret))
        assert bob.peers == []


def no_secret(ident: str) -> bytes:
    raise LookupError("the list of secrets can't be read")


@pytest.mark.parametrize("secret", [no_secret, lambda ident: "no bytes", lambda ident: b"short"])
def test_a_function_for_secrets_that_fails_refuses(
    secret: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        listener(SharedSecret(secret)) as bob,
        dialler(bob.addresses[0]) as alice,
    ):
        refused = alice.errors.wait(RefusedByPeer)
        assert isinstance(refused, RefusedByPeer)
        assert refused.code == Refusal.WRONG_SECRET
        bob.errors.wait(WrongSecret)
        assert bob.peers == []
    assert "Traceback" in caplog.text


def test_a_hand_made_peer_that_knows_the_secret_is_let_in() -> None:
    """And gets what waits for it behind the proof, not before."""
    with listener() as bob, Impostor.dial(bob.addresses[0]) as peer:
        bob.send("alice", "waited")
        peer.greet("alice")
        peer.prove(SECRET, "alice", "bob", Role.CONNECTOR, peer.nonce())
        peer.expect(PROOF)
        assert [frame[0] for frame in peer.frames] == [VERSION, IDENT, FEATURES, PROOF]
        assert peer.expect(3).endswith(b"waited")
        peer.send(message(b"answer"))
        received = bob.receive(DEADLINE)
        assert received is not None
        assert received.data == b"answer"


def test_a_stranger_with_the_name_of_a_connected_peer_changes_nothing() -> None:
    with listener() as bob, dialler(bob.addresses[0]) as alice:
        talk(alice, bob)
        gone: list[str] = []
        bob.on_peer_disconnect.add(gone.append)
        with Impostor.dial(bob.addresses[0]) as mallory:
            mallory.greet_as_16("alice")
            mallory.send(packet(b"\4"))
            assert mallory.refusal() == Refusal.AUTHENTICATION_MISSING
        talk(alice, bob)
        assert not gone
        assert bob.counters()["takeovers_refused"] == 0


def test_the_second_one_of_a_name_is_told_so() -> None:
    with (
        Peer("bob", listen=0) as bob,
        Peer("alice", connect=bob.addresses[0]) as alice,
        Impostor.dial(bob.addresses[0]) as second,
    ):
        talk(alice, bob)
        second.greet_as_16("alice")
        assert second.refusal() == Refusal.ALREADY_CONNECTED
        assert bob.counters()["takeovers_refused"] == 1


# Time and room of strangers.


def test_who_does_not_prove_itself_in_time_is_closed() -> None:
    limits = ConnectionLimits(identification_timeout=0.2)
    with listener(connection_limits=limits) as bob:
        for greet in (
            lambda peer: None,
            lambda peer: peer.greet_as_16("alice"),
            lambda peer: peer.greet("alice"),
        ):
            with Impostor.dial(bob.addresses[0]) as mallory:
                greet(mallory)
                assert mallory.refusal() == Refusal.IDENTIFICATION_TIMEOUT
        assert bob.counters()["identification_timeouts"] == 3


def test_who_is_a_stranger_for_longest_leaves_when_there_are_too_many() -> None:
    limits = ConnectionLimits(max_unidentified_per_address=3)
    with Peer("bob", listen=0, connection_limits=limits) as bob, contextlib.ExitStack() as stack:
        silent = []
        for _ in range(5):
            silent.append(stack.enter_context(Impostor.dial(bob.addresses[0])))
            silent[-1].expect(FEATURES)
        for evicted in silent[:2]:
            assert evicted.refusal() == Refusal.TOO_MANY_STRANGERS
        for _ in range(3):  # a real one is a stranger for a moment only
            with Peer("alice", connect=bob.addresses[0]) as alice:
                talk(alice, bob)
            wait_until(lambda: not bob.peers)
        silent[4].greet_as_16("carol")
        wait_until(lambda: bob.peers == ["carol"])
        assert bob.counters()["strangers_evicted"] >= 2


@pytest.mark.parametrize(
    "kind", [b"\x4f", b"\4", b"\0\0\0\0\1"], ids=["unknown", "ping", "version"]
)
def test_who_talks_a_lot_before_it_says_who_it_is_is_closed(kind: bytes) -> None:
    with listener(None) as bob, Impostor.dial(bob.addresses[0]) as mallory:
        mallory.send(packet(kind) * (8192 // len(packet(kind)) + 1))
        mallory.rest()
        exc = bob.errors.wait(SnakeMQBrokenMessage)
        assert "8192 bytes" in str(exc)


def test_a_large_message_may_come_right_behind_the_identification() -> None:
    """In the same piece of the stream: 1.6 knows who is there, and sends."""
    data = b"x" * 100_000
    with Peer("bob", listen=0) as bob, Impostor.dial(bob.addresses[0]) as old:
        old.send(packet(b"\0\0\0\0\1") + packet(b"\2alice") + message(data))
        received = bob.receive(DEADLINE)
        assert received is not None
        assert received.data == data


# The application's own check.


def test_the_application_is_asked_when_the_rest_is_satisfied() -> None:
    asked: list[tuple[str, str, object]] = []

    def authenticate(conn_id: str, ident: str, certificate: object) -> bool:
        asked.append((conn_id, ident, certificate))
        return True

    with (
        listener([SharedSecret(SECRET), authenticate]) as bob,
        dialler(bob.addresses[0]) as alice,
    ):
        with Impostor.dial(bob.addresses[0]) as mallory:
            mallory.greet("mallory")
            mallory.prove(OTHER, "mallory", "bob", Role.CONNECTOR, mallory.nonce())
            mallory.rest()
        talk(alice, bob)
        assert [(ident, certificate) for _, ident, certificate in asked] == [("alice", None)]


def refuse(conn_id: str, ident: str, certificate: object) -> bool:
    return False


def give_a_reason(conn_id: str, ident: str, certificate: object) -> bool:
    raise NotAdmitted("not on a Sunday")


def fail(conn_id: str, ident: str, certificate: object) -> bool:
    raise LookupError("the list of peers can't be read")


@pytest.mark.parametrize(
    ("authenticate", "words"),
    [
        (refuse, "does not admit"),
        (give_a_reason, "not on a Sunday"),
        (fail, "raised"),
    ],
)
def test_the_application_refuses(
    authenticate: Callable[[str, str, object], bool],
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with listener(authenticate) as bob, dialler(bob.addresses[0], None) as alice:
        alice.send("bob", "let me in")
        exc = bob.errors.wait(NotAdmitted)
        assert words in str(exc)
        refused = alice.errors.wait(RefusedByPeer)
        assert isinstance(refused, RefusedByPeer)
        assert refused.code == Refusal.NOT_ADMITTED
        assert bob.receive(0) is None
        assert bob.peers == []
    if authenticate is fail:
        assert "the list of peers can't be read" in caplog.text


def test_the_application_admits_one_of_16() -> None:
    with (
        listener(lambda conn_id, ident, certificate: ident == "alice") as bob,
        Impostor.dial(bob.addresses[0]) as old,
    ):
        old.greet_as_16("alice")
        old.send(message(b"from the past"))
        received = bob.receive(DEADLINE)
        assert received is not None
        assert received.data == b"from the past"


def test_the_application_closes_the_connection_while_it_is_asked() -> None:
    peers: list[Peer] = []

    def authenticate(conn_id: str, ident: str, certificate: object) -> bool:
        peers[0].link.close(conn_id)
        return True

    with listener(authenticate) as bob, Impostor.dial(bob.addresses[0]) as old:
        peers.append(bob)
        old.greet_as_16("alice")
        old.send(message(b"too late"))
        old.rest()
        assert bob.peers == []
        assert bob.receive(0) is None


@pytest.mark.parametrize("policy", [CertificateName(), CertificateFingerprint({"alice": "0" * 64})])
def test_without_tls_there_is_no_certificate(policy: Authentication) -> None:
    with listener(policy) as bob, dialler(bob.addresses[0], None) as alice:
        exc = bob.errors.wait(IdentityMismatch)
        assert "TLS" in str(exc)
        refused = alice.errors.wait(RefusedByPeer)
        assert isinstance(refused, RefusedByPeer)
        assert refused.code == Refusal.IDENTITY_MISMATCH


# Refusals that are lies.


@pytest.mark.parametrize("code", [0, 3, 5, 65535])
def test_a_refusal_ends_the_connection_and_nothing_else(
    code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Peer("bob", listen=0) as bob, Peer("alice", connect=bob.addresses[0]) as alice:
        talk(alice, bob)
        with Impostor.dial(bob.addresses[0]) as mallory:
            mallory.greet_as_16("mallory")
            mallory.send(packet(b"\x0a", code.to_bytes(2, "big"), b"\n\x1b[31mCRITICAL pwned"))
            mallory.rest()
        talk(alice, bob)
    assert "pwned" not in caplog.text


def test_a_refusal_that_is_cut_off_is_a_broken_frame() -> None:
    with (
        listener(None) as bob,
        Impostor.dial(bob.addresses[0]) as mallory,
    ):
        mallory.greet_as_16("mallory")
        mallory.send(packet(b"\x0a\0"))
        mallory.rest()
        bob.errors.wait(SnakeMQBrokenMessage)


def test_one_who_is_refused_again_and_again_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with listener() as bob:
        for _ in range(40):
            with Impostor.dial(bob.addresses[0]) as mallory:
                mallory.greet("alice")
                mallory.send(packet(b"\x09", bytes(32)))
                mallory.rest()
        assert bob.counters()["authentications_failed"] == 40
    lines = [record for record in caplog.records if "WrongSecret" in record.getMessage()]
    assert 20 <= len(lines) <= 30


# Under faults.


def test_nothing_is_lost_or_repeated_over_cuts() -> None:
    network = SimNetwork(11)
    random = network.random

    def secret() -> SharedSecret:
        return SharedSecret(SECRET, random=random.randbytes)

    bob = SimStack(network, "bob", authentication=secret())
    alice = SimStack(network, "alice", authentication=secret())
    alice.connect(bob)
    for number in range(400):
        alice.send("bob", b"%d" % number, ttl=None)
        if number % 20 == 0:
            network.run(random.random() * 5)
            network.cut("alice", "bob")
    assert network.run_until(lambda: len(bob.received) >= 400)
    assert [message.data for _, message in bob.received] == [b"%d" % n for n in range(400)]
