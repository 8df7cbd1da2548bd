"""Peers that talk TLS."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from snakemq import Peer, SSLConfig
from snakemq.exceptions import (
    CertificateMissing,
    CertificateNotTrusted,
    NotTls,
    OwnCertificateRefused,
    TlsError,
    WrongHostName,
)
from tests.helpers import DEADLINE, wait_until
from tests.integration.command_line import Background, run, run_in_vain
from tests.layers.peers import Recorder


class Files:
    """A certificate authority, and a peer's key and certificate by it."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("peer.example", "127.0.0.1")
        self.ca = directory / "ca.pem"
        self.key = directory / "key.pem"
        self.cert = directory / "cert.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        issued.private_key_pem.write_to_path(str(self.key))
        issued.cert_chain_pems[0].write_to_path(str(self.cert))

    def config(self, ca: Path | None = None) -> SSLConfig:
        return SSLConfig(self.key, self.cert, ca_certs=ca or self.ca, cert_reqs=ssl.CERT_REQUIRED)


@pytest.fixture(scope="module")
def make_files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Files]:
    return lambda: Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def files(make_files: Callable[[], Files]) -> Files:
    return make_files()


def test_messages_and_calls_go_over_tls(files: Files) -> None:
    with (
        Peer("bob", listen=0, tls=files.config(), serve={"text": "some text"}) as bob,
        Peer("alice", connect=bob.addresses[0], tls=files.config()) as alice,
    ):
        payload = bytes(range(256)) * 10_000
        alice.send("bob", payload)
        received = bob.receive(DEADLINE)
        assert received is not None
        assert received.data == payload
        certificate = bob.link.get_socket_by_conn(received.conn_id).getpeercert()
        assert certificate is not None
        assert ("DNS", "peer.example") in certificate["subjectAltName"]
        assert alice.proxy("bob", "text").upper() == "SOME TEXT"


def test_stop_over_tls_delivers_what_was_sent(files: Files) -> None:
    with Peer("bob", listen=0, tls=files.config()) as bob:
        with Peer("alice", connect=bob.addresses[0], tls=files.config()) as alice:
            assert alice.wait_connected("bob", DEADLINE)
            for _ in range(20):
                alice.send("bob", bytes(200_000))
        for _ in range(20):
            received = bob.receive(DEADLINE)
            assert received is not None
            assert len(received.data) == 200_000


def test_a_certificate_of_somebody_else_is_refused(
    files: Files, make_files: Callable[[], Files]
) -> None:
    other = make_files()
    with (
        Peer("bob", listen=0, tls=files.config()) as bob,
        # Accepts bob's, and shows one that bob does not accept.
        Peer("mallory", connect=bob.addresses[0], tls=other.config(ca=files.ca)) as mallory,
        Peer("alice", connect=bob.addresses[0], tls=files.config()) as alice,
    ):
        come = Recorder()
        bob.on_peer_connect.add(come)
        mallory.send("bob", "let me in")
        assert alice.wait_connected("bob", DEADLINE)
        alice.send("bob", "hello")
        received = bob.receive(DEADLINE)
        assert received is not None
        assert received.ident == "alice"
        assert not mallory.wait_connected("bob", 0.2)
        assert "mallory" not in bob.peers


class Errors:
    """What a peer reports of TLS."""

    def __init__(self, peer: Peer) -> None:
        self.found: list[TlsError] = []
        peer.on_error.add(self._note)

    def _note(self, conn_id: str | None, exc: Exception) -> None:
        if isinstance(exc, TlsError):
            assert conn_id is None
            self.found.append(exc)

    def first(self) -> TlsError:
        wait_until(lambda: self.found)
        return self.found[0]


@pytest.mark.parametrize("tls_side", ["listener", "connector"])
def test_a_plain_peer_and_a_tls_peer_do_not_meet(files: Files, tls_side: str) -> None:
    tls = {"listener": None, "connector": None, tls_side: files.config()}
    bob = Peer("bob", listen=0, tls=tls["listener"])
    alice = Peer("alice", connect=bob.addresses[0], tls=tls["connector"])
    errors = Errors(bob), Errors(alice)
    with bob, alice:
        for error in (one.first() for one in errors):
            assert type(error) is NotTls
        assert bob.peers == alice.peers == []
        # Nobody waits for hundreds of megabytes, which the hello of TLS would announce.
        wait_until(lambda: not bob.link._sockets)


def test_what_a_peer_checks_by_itself(files: Files, make_files: Callable[[], Files]) -> None:
    other = make_files()
    bob = Peer("bob", listen=0, tls=SSLConfig(files.key, files.cert))
    port = bob.addresses[0][1]
    cases = [
        # Somebody else's authority, the system's, another name, none at all.
        (Peer("a", connect=port, tls=SSLConfig(ca_certs=other.ca)), CertificateNotTrusted),
        (Peer("b", connect=port, tls=SSLConfig()), CertificateNotTrusted),
        (
            Peer(
                "c",
                connect=port,
                tls=SSLConfig(ca_certs=files.ca, server_hostname="else.example"),
            ),
            WrongHostName,
        ),
    ]
    with bob:
        for peer, kind in cases:
            errors = Errors(peer)
            with peer:
                assert type(errors.first()) is kind
        with Peer("d", connect=port, tls=SSLConfig(ca_certs=files.ca)) as peer:
            assert peer.wait_connected("bob", DEADLINE)
        with Peer("e", connect=port, tls=SSLConfig(cert_reqs=ssl.CERT_NONE)) as peer:
            assert peer.wait_connected("bob", DEADLINE)


def test_a_peer_without_a_certificate_learns_that_it_needs_one(files: Files) -> None:
    bob = Peer("bob", listen=0, tls=files.config())
    mallory = Peer("mallory", connect=bob.addresses[0], tls=SSLConfig(ca_certs=files.ca))
    of_bob, of_mallory = Errors(bob), Errors(mallory)
    with bob, mallory:
        assert type(of_bob.first()) is CertificateMissing
        assert type(of_mallory.first()) is OwnCertificateRefused
        assert bob.peers == []
    assert bob.link.counters["handshakes_failed"] >= 1
    assert mallory.link.counters["handshakes_failed"] >= 1


def test_new_certificates_leave_links_and_messages_alone(
    files: Files, make_files: Callable[[], Files]
) -> None:
    own = make_files()
    settings = own.config(ca=files.ca)
    for name in ("key", "cert"):
        shutil.copy(getattr(files, name), getattr(own, name))
    with (
        Peer("bob", listen=0, tls=settings) as bob,
        Peer("alice", connect=bob.addresses[0], tls=files.config()) as alice,
    ):
        assert alice.wait_connected("bob", DEADLINE)
        (before,) = bob.link._sockets
        for number in range(20):
            alice.send("bob", str(number))
            settings.reload()
        for number in range(20):
            received = bob.receive(DEADLINE)
            assert received is not None
            assert received.text == str(number)
        (after,) = bob.link._sockets
        assert after == before


def test_a_listener_without_a_certificate_is_refused_at_once(files: Files) -> None:
    with pytest.raises(ValueError, match="certfile"):
        Peer("bob", listen=0, tls=SSLConfig())


def test_the_command_line_talks_tls(files: Files) -> None:
    options = ("--tls-key", files.key, "--tls-cert", files.cert, "--tls-ca", files.ca)
    with Background(
        "listen", "--ident", "bob", "--listen", "0", "--count", "1", *options
    ) as process:
        port = process.address()[1]
        plain = run("send", "bob", "plain", "--connect", port, "--timeout", "0.3")
        assert plain.returncode == 3
        assert run("send", "bob", "secret", "--connect", port, *options).returncode == 0
        assert process.wait() == 0
    assert process.out.decode().splitlines() == ["secret"]


def test_the_command_line_verifies_the_other_side(
    files: Files, make_files: Callable[[], Files]
) -> None:
    stranger = make_files()
    with Peer("bob", listen=0, tls=SSLConfig(stranger.key, stranger.cert)) as bob:
        port = bob.addresses[0][1]
        reason = "its certificate is by an authority that is not trusted here"
        words = ("send", "bob", "x", "--connect", port, "--tls-ca", files.ca)
        assert run_in_vain(*words, until=reason).returncode == 3
