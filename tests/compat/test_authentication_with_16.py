"""Peers that have to show who they are, and the real 1.6, which can do so with a certificate."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from snakemq import CertificateName, Peer, SharedSecret
from snakemq.exceptions import AuthenticationMissing, IdentityMismatch
from snakemq.link import SSLConfig
from tests.compat.harness import PeerProcesses, PythonEnv, run_python
from tests.helpers import DEADLINE, wait_until

PROGRAM = "messenger.py"

HOST = "127.0.0.1"


class Files:
    """A certificate for each identifier, by one authority."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(directory / "ca.crt"))

    def arguments(self, ident: str) -> dict[str, Any]:
        """Of an ``SSLConfig``, as they are given to a process."""
        key, cert = (str(self._directory / f"{ident}.{kind}") for kind in ("key", "crt"))
        if not Path(key).exists():
            issued = self._authority.issue_cert(HOST, common_name=ident)
            issued.private_key_pem.write_to_path(key)
            issued.cert_chain_pems[0].write_to_path(cert)
        return {
            "keyfile": key,
            "certfile": cert,
            "ca_certs": str(self._directory / "ca.crt"),
            "cert_reqs": int(ssl.CERT_REQUIRED),
        }

    def config(self, ident: str) -> SSLConfig:
        arguments = self.arguments(ident)
        return SSLConfig(
            arguments["keyfile"], arguments["certfile"], ca_certs=arguments["ca_certs"]
        )


@pytest.fixture
def files(snakemq16_env: PythonEnv, tmp_path: Path) -> Files:
    """Skips where 1.6 has no TLS."""
    probe = "import ssl; ssl.wrap_socket"
    if run_python(snakemq16_env, ["-W", "ignore", "-c", probe]).returncode:
        pytest.skip(f"1.6 has no TLS on {snakemq16_env.python}: it needs Python 3.11 or older")
    return Files(tmp_path)


def errors_of(peer: Peer) -> list[Exception]:
    errors: list[Exception] = []
    peer.on_error.add(lambda conn_id, exc: errors.append(exc))
    return errors


def test_with_its_certificate_it_gets_in(files: Files, peers: PeerProcesses) -> None:
    with Peer(
        "bob", listen=(HOST, 0), tls=files.config("bob"), authentication=CertificateName()
    ) as bob:
        old = peers.connector(
            "old", PROGRAM, "alice", bob.addresses[0][1], tls=files.arguments("alice")
        )
        old.wait_one("connected", peer="bob")
        old.tell("send", to="bob", data="hello", ttl=None)
        received = bob.receive(DEADLINE)
        assert received is not None
        assert (received.ident, received.text) == ("alice", "hello")
        bob.send("alice", "and back")
        assert old.wait_one("message")["data"] == "and back"
        assert old.stop() == 0


def test_and_so_it_does_where_it_listens(files: Files, peers: PeerProcesses) -> None:
    old = peers.listener("old", PROGRAM, "alice", tls=files.arguments("alice"))
    with Peer(
        "bob",
        connect=f"{HOST}:{old.port}",
        tls=files.config("bob"),
        authentication=CertificateName(),
        reconnect_interval=0.1,
    ) as bob:
        bob.send("alice", "hello")
        assert old.wait_one("message")["data"] == "hello"
    assert old.stop() == 0


def test_with_that_of_somebody_else_it_does_not(files: Files, peers: PeerProcesses) -> None:
    bob = Peer("bob", listen=(HOST, 0), tls=files.config("bob"), authentication=CertificateName())
    errors = errors_of(bob)
    with bob:
        bob.send("alice", "for the real one")
        old = peers.connector(
            "old", PROGRAM, "alice", bob.addresses[0][1], tls=files.arguments("mallory")
        )
        old.tell("send", to="bob", data="it is me", ttl=None)
        wait_until(lambda: errors)
        assert isinstance(errors[0], IdentityMismatch)
        old.kill()
        assert bob.receive(0) is None
        assert bob.queued("alice") == 1
        assert old.all("message") == []


@pytest.mark.parametrize("old_listens", [False, True])
def test_a_shared_secret_keeps_it_out(peers: PeerProcesses, old_listens: bool) -> None:
    where: dict[str, Any] = {"listen": (HOST, 0)}
    if old_listens:
        old = peers.listener("old", PROGRAM, "alice")
        where = {"connect": f"{HOST}:{old.port}", "reconnect_interval": 0.1}
    bob = Peer("bob", authentication=SharedSecret(bytes(32)), **where)
    errors = errors_of(bob)
    with bob:
        bob.send("alice", "for one that can prove it")
        if not old_listens:
            old = peers.connector("old", PROGRAM, "alice", bob.addresses[0][1])
        old.tell("send", to="bob", data="it is me", ttl=None)
        wait_until(lambda: len(errors) >= 2)
        assert all(isinstance(exc, AuthenticationMissing) for exc in errors)
        old.kill()
        assert bob.receive(0) is None
        assert bob.queued("alice") == 1
        assert old.all("message") == []
