"""Identities that are bound to certificates, and proofs that are bound to connections."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from snakemq import (
    CertificateFingerprint,
    CertificateName,
    Peer,
    RefusedByPeer,
    SharedSecret,
    SSLConfig,
)
from snakemq._core.refusal import Refusal
from snakemq.contracts import TlsInfo
from snakemq.exceptions import IdentityMismatch, WrongSecret
from tests.helpers import DEADLINE, wait_until
from tests.layers.impostor import Impostor, in_between, message, packet
from tests.layers.test_authentication import Watched, dialler, listener, talk

SECRET = SharedSecret(b"known to alice and bob only")


class Files:
    """An authority, and keys and certificates by it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        for name in ("alice", "bob", "mallory"):
            issued = authority.issue_cert("127.0.0.1", "localhost", common_name=name)
            issued.private_key_pem.write_to_path(str(directory / f"{name}.key"))
            issued.cert_chain_pems[0].write_to_path(str(directory / f"{name}.pem"))

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def config(self, name: str) -> SSLConfig:
        return SSLConfig(
            self.path(f"{name}.key"), self.path(f"{name}.pem"), ca_certs=self.path("ca.pem")
        )

    def context(self, name: str, *, server_side: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(
            ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT
        )
        context.check_hostname = False
        context.load_cert_chain(self.path(f"{name}.pem"), self.path(f"{name}.key"))
        context.load_verify_locations(self.path("ca.pem"))
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def fingerprint(self, name: str) -> str:
        pem = Path(self.path(f"{name}.pem")).read_text()
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


def test_the_name_in_the_certificate_is_who_it_is(files: Files) -> None:
    with (
        listener(CertificateName(), tls=files.config("bob")) as bob,
        dialler(bob.addresses[0], CertificateName(), tls=files.config("alice")) as alice,
    ):
        talk(alice, bob)


def test_a_certificate_of_somebody_else_does_not_get_in(files: Files) -> None:
    with (
        listener(CertificateName(), tls=files.config("bob")) as bob,
        dialler(bob.addresses[0], None, tls=files.config("mallory")) as alice,
    ):
        bob.send("alice", "for the real one")
        exc = bob.errors.wait(IdentityMismatch)
        assert isinstance(exc, IdentityMismatch)
        assert exc.ident == "alice"
        assert "'mallory'" in str(exc)
        refused = alice.errors.wait(RefusedByPeer)
        assert isinstance(refused, RefusedByPeer)
        assert refused.code == Refusal.IDENTITY_MISMATCH
        assert bob.peers == []
        assert bob.queued("alice") == 1


def test_a_listener_with_a_certificate_of_somebody_else_gets_nothing(files: Files) -> None:
    with (
        Watched("bob", listen=0, tls=files.config("mallory")) as bob,
        dialler(bob.addresses[0], CertificateName(), tls=files.config("alice")) as alice,
    ):
        alice.send("bob", "secret")
        alice.errors.wait(IdentityMismatch)
        bob.errors.wait(RefusedByPeer)
        assert bob.receive(0) is None
        assert alice.queued("bob") == 1


def test_one_of_16_with_the_right_certificate_gets_in(files: Files) -> None:
    with (
        listener(CertificateName(), tls=files.config("bob")) as bob,
        Impostor.dial(bob.addresses[0], files.context("alice", server_side=False)) as old,
    ):
        old.greet_as_16("alice")
        old.send(message(b"from the past"))
        received = bob.receive(DEADLINE)
        assert received is not None
        assert received.data == b"from the past"


def test_one_of_16_with_the_wrong_certificate_does_not(files: Files) -> None:
    with (
        listener(CertificateName(), tls=files.config("bob")) as bob,
        Impostor.dial(bob.addresses[0], files.context("mallory", server_side=False)) as old,
    ):
        old.greet_as_16("alice")
        old.send(message(b"let me in"))
        assert old.refusal() == Refusal.IDENTITY_MISMATCH
        assert bob.receive(0) is None


def test_the_application_is_shown_the_certificate(files: Files) -> None:
    seen: list[Any] = []

    def authenticate(conn_id: str, ident: str, certificate: Any) -> bool:
        seen.append(certificate)
        return True

    with (
        listener(authenticate, tls=files.config("bob")) as bob,
        dialler(bob.addresses[0], None, tls=files.config("alice")) as alice,
    ):
        talk(alice, bob)
        assert (("commonName", "alice"),) in seen[0]["subject"]


def test_fingerprints(files: Files) -> None:
    known = CertificateFingerprint(
        {
            "alice": [files.fingerprint("mallory").upper(), files.fingerprint("alice")],
            "carol": files.fingerprint("bob"),
        }
    )
    with listener(known, tls=files.config("bob")) as bob:
        with dialler(bob.addresses[0], None, tls=files.config("alice")) as alice:
            talk(alice, bob)
        with Watched("carol", connect=bob.addresses[0], tls=files.config("alice")):
            assert files.fingerprint("alice") in str(bob.errors.wait(IdentityMismatch))
        with Watched("dave", connect=bob.addresses[0], tls=files.config("alice")) as dave:
            dave.errors.wait(RefusedByPeer)
            # Bob tells dave first, and itself then.
            wait_until(lambda: any("no fingerprint" in str(exc) for exc in bob.errors.all))


def test_a_pinned_certificate_that_nobody_has_issued(files: Files) -> None:
    """The connector trusts no authority, and knows whom it wants to talk to all the same."""
    pinned = SSLConfig(cert_reqs=ssl.CERT_NONE, check_hostname=False)
    theirs = SSLConfig(files.path("bob.key"), files.path("bob.pem"))
    with Peer("bob", listen=0, tls=theirs) as bob:
        for name, admitted in (("bob", True), ("mallory", False)):
            policy = CertificateFingerprint({"bob": files.fingerprint(name)})
            with dialler(bob.addresses[0], policy, tls=pinned) as alice:
                if admitted:
                    assert alice.wait_connected("bob", DEADLINE)
                else:
                    alice.errors.wait(IdentityMismatch)
                    assert alice.peers == []


def test_a_secret_inside_tls(files: Files) -> None:
    with (
        listener(SECRET, tls=files.config("bob")) as bob,
        dialler(bob.addresses[0], SECRET, tls=files.config("alice")) as alice,
    ):
        talk(alice, bob)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_is_in_between_two_tls_connections_can_not_pass_proofs_on(
    files: Files, version: ssl.TLSVersion
) -> None:
    """With a certificate that both trust, and no check of names: the channels differ."""
    server, client = (files.context("mallory", server_side=side) for side in (True, False))
    server.maximum_version = client.maximum_version = version
    with (
        listener(SECRET, tls=files.config("bob")) as bob,
        in_between(bob.addresses[0], server, client) as somebody,
        dialler(somebody.address, SECRET, tls=files.config("alice")) as alice,
    ):
        exc = bob.errors.wait(WrongSecret)
        assert "in between" in str(exc)
        refused = alice.errors.wait(RefusedByPeer)
        assert isinstance(refused, RefusedByPeer)
        assert refused.code == Refusal.WRONG_SECRET
        assert bob.peers == alice.peers == []
    # It is the proof that fails, not the connection: without a secret they would talk.
    with (
        listener(None, tls=files.config("bob")) as bob,
        in_between(bob.addresses[0], server, client) as somebody,
        dialler(somebody.address, None, tls=files.config("alice")) as alice,
    ):
        talk(alice, bob)


def test_tls_on_one_side_of_somebody_in_between_only(files: Files) -> None:
    """Who ends TLS for a peer is in between, too."""
    with (
        listener(SECRET) as bob,
        in_between(bob.addresses[0], files.context("bob", server_side=True)) as somebody,
        dialler(somebody.address, SECRET, tls=files.config("alice")) as alice,
    ):
        bob.errors.wait(WrongSecret)
        alice.errors.wait(RefusedByPeer)


def test_everything_at_once(files: Files) -> None:
    policies = [CertificateName(), SECRET, lambda conn_id, ident, certificate: True]
    with (
        listener(policies, tls=files.config("bob")) as bob,
        dialler(bob.addresses[0], policies, tls=files.config("alice")) as alice,
    ):
        talk(alice, bob)
        with Impostor.dial(bob.addresses[0], files.context("alice", server_side=False)) as half:
            half.greet("alice")
            half.send(packet(b"\x09", bytes(32)))
            assert half.refusal() == Refusal.WRONG_SECRET


# Names in certificates.


def shown(**certificate: Any) -> TlsInfo:
    return TlsInfo(certificate, b"der", b"", "TLSv1.3", "cipher", None)


def subject(*names: str) -> tuple[Any, ...]:
    return tuple((("commonName", name),) for name in names)


@pytest.mark.parametrize(
    ("certificate", "names", "others"),
    [
        ({"subject": subject("bob")}, ["bob"], ["Bob", "bo", "bob ", ""]),
        ({"subject": subject("bob", "rob")}, ["bob", "rob"], ["bobrob"]),
        ({"subjectAltName": (("DNS", "bob"), ("DNS", "b.example"))}, ["bob", "b.example"], ["b"]),
        # No wildcards, no addresses, no addresses of mail.
        ({"subjectAltName": (("DNS", "*.example"),)}, ["*.example"], ["b.example"]),
        ({"subjectAltName": (("IP Address", "10.0.0.1"),)}, [], ["10.0.0.1"]),
        ({"subjectAltName": (("email", "bob"), ("URI", "bob"))}, [], ["bob"]),
        # Where identifiers are given as such, nothing else counts.
        (
            {
                "subject": subject("carol"),
                "subjectAltName": (("URI", "snakemq:bob"), ("DNS", "dave")),
            },
            ["bob"],
            ["carol", "dave", "snakemq:bob"],
        ),
        (
            {"subjectAltName": (("URI", "snakemq:b%C3%B6b%2F%20x"), ("URI", "snakemq:rob"))},
            ["böb/ x", "rob"],
            ["b%C3%B6b%2F%20x"],
        ),
        ({"subject": subject("bob"), "subjectAltName": (("URI", "snakemq:"),)}, [""], ["bob"]),
    ],
)
def test_which_names_count(certificate: Any, names: list[str], others: list[str]) -> None:
    policy = CertificateName()
    for name in names:
        policy.check(name, shown(**certificate))
    for name in others:
        with pytest.raises(IdentityMismatch):
            policy.check(name, shown(**certificate))


def test_common_names_can_be_left_out() -> None:
    policy = CertificateName(common_name=False)
    with pytest.raises(IdentityMismatch, match="nobody"):
        policy.check("bob", shown(subject=subject("bob")))


def test_a_certificate_that_was_not_verified_says_nothing() -> None:
    unverified = TlsInfo(None, b"der", b"", "TLSv1.3", "cipher", None)
    with pytest.raises(IdentityMismatch, match="verified"):
        CertificateName().check("bob", unverified)
    with pytest.raises(IdentityMismatch, match="no certificate"):
        CertificateFingerprint({"bob": "0" * 64}).check(
            "bob", unverified._replace(certificate_bytes=None)
        )


@pytest.mark.parametrize("fingerprint", ["", "abc", "0" * 63, "0" * 65, "g" * 64, "0" * 40])
def test_fingerprints_that_are_none(fingerprint: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        CertificateFingerprint({"bob": fingerprint})


def test_fingerprints_with_colons() -> None:
    digest = hashlib.sha256(b"der").hexdigest().upper()
    colons = ":".join(digest[i : i + 2] for i in range(0, 64, 2))
    CertificateFingerprint({"bob": colons}).check("bob", shown())
