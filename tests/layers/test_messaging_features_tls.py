"""The certificate of a peer, as messaging knows it."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from snakemq import Peer, SSLConfig
from tests.helpers import DEADLINE, wait_until


class Files:
    """A certificate authority, and keys and certificates by it."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.directory = directory
        authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        for name in ("alice", "bob"):
            issued = authority.issue_cert(f"{name}.example", "127.0.0.1")
            issued.private_key_pem.write_to_path(str(directory / f"{name}.key"))
            issued.cert_chain_pems[0].write_to_path(str(directory / f"{name}.pem"))

    def config(self, name: str | None, reqs: ssl.VerifyMode = ssl.CERT_REQUIRED) -> SSLConfig:
        return SSLConfig(
            self.directory / f"{name}.key" if name else None,
            self.directory / f"{name}.pem" if name else None,
            ca_certs=self.directory / "ca.pem",
            cert_reqs=reqs,
        )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


class Connected:
    """Notes the connections of a peer, and the certificates in its callbacks."""

    def __init__(self, peer: Peer) -> None:
        self.conn_ids: list[str] = []
        self.seen: dict[str, dict[str, Any] | None] = {}
        self.messaging = peer.messaging
        self.messaging.on_connect.add(self._connected)
        self.messaging.on_disconnect.add(self._disconnected)

    def _connected(self, conn_id: str, ident: str) -> None:
        self.seen["connect"] = self.messaging.get_certificate(conn_id)
        self.conn_ids.append(conn_id)

    def _disconnected(self, conn_id: str, ident: str) -> None:
        self.seen["disconnect"] = self.messaging.get_certificate(conn_id)

    def wait(self) -> str:
        wait_until(lambda: self.conn_ids)
        return self.conn_ids[0]


def names(certificate: dict[str, Any] | None) -> list[str]:
    assert certificate is not None
    return [name for kind, name in certificate["subjectAltName"] if kind == "DNS"]


def test_each_side_knows_that_of_the_other(files: Files) -> None:
    with Peer("bob", listen=0, tls=files.config("bob")) as bob:
        of_bob = Connected(bob)
        with Peer("alice", connect=bob.addresses[0], tls=files.config("alice")) as alice:
            of_alice = Connected(alice)
            assert alice.wait_connected("bob", DEADLINE)
            conn_id = of_bob.wait()
            assert names(bob.messaging.get_certificate(conn_id)) == ["alice.example"]
            if of_alice.conn_ids:  # else it was connected before this looked
                certificate = alice.messaging.get_certificate(of_alice.conn_ids[0])
                assert names(certificate) == ["bob.example"]
        wait_until(lambda: "disconnect" in of_bob.seen)
        assert names(of_bob.seen["connect"]) == ["alice.example"]
        assert names(of_bob.seen["disconnect"]) == ["alice.example"]
        wait_until(lambda: bob.messaging.get_certificate(conn_id) is None)


@pytest.mark.parametrize(
    ("listener", "dialler"),
    [
        pytest.param(ssl.CERT_NONE, None, id="none is shown"),
        pytest.param(ssl.CERT_NONE, "alice", id="it is not verified"),
    ],
)
def test_without_one_that_was_verified_there_is_none(
    files: Files, listener: ssl.VerifyMode, dialler: str | None
) -> None:
    with Peer("bob", listen=0, tls=files.config("bob", listener)) as bob:
        of_bob = Connected(bob)
        with Peer("alice", connect=bob.addresses[0], tls=files.config(dialler)):
            assert bob.messaging.get_certificate(of_bob.wait()) is None


def test_any_thread_may_ask_while_the_connection_is_closed(files: Files) -> None:
    answers: list[str] = []
    failures: list[BaseException] = []

    def ask(get: Callable[[str], dict[str, Any] | None], conn_id: str) -> None:
        try:
            while (certificate := get(conn_id)) is not None:
                answers.append(names(certificate)[0])
        except BaseException as exc:
            failures.append(exc)

    with Peer("bob", listen=0, tls=files.config("bob")) as bob:
        of_bob = Connected(bob)
        with Peer("alice", connect=bob.addresses[0], tls=files.config("alice")):
            conn_id = of_bob.wait()
            threads = [
                threading.Thread(target=ask, args=(bob.messaging.get_certificate, conn_id))
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            wait_until(lambda: len(answers) > 100)
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
    assert not failures
    assert set(answers) == {"alice.example"}
