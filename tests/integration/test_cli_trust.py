"""The options that say who the other side has to be, and what is said when it is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from snakemq import Peer, SSLConfig
from snakemq.authentication import CertificateName, SharedSecret
from snakemq.cli import main
from tests.helpers import DEADLINE
from tests.integration.command_line import Background, run

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="the program openssl is not installed"
)

Send = Callable[..., int]
Fail = Callable[..., str]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an authority, certificates of bob and alice, and two secrets."""
    directory = tmp_path_factory.mktemp("keys")
    for secret in ("secret", "other"):
        assert main(["keygen", "secret", str(directory / secret)]) == 0
    if shutil.which("openssl") is not None:
        for what in (["ca"], ["peer", "bob"], ["peer", "alice", "--host", "alice.example"]):
            assert main(["keygen", *what, "--dir", str(directory)]) == 0
    return directory


@contextmanager
def serving(peer: Peer) -> Generator[Send]:
    """Sends to a peer by command, with its address, and more options."""
    with peer:

        def send(*options: object, timeout: float = DEADLINE) -> int:
            words = ("send", "bob", "hello", "--connect", peer.addresses[0][1])
            return main([*map(str, (*words, *options, "--timeout", timeout))])

        yield send


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str]) -> Fail:
    """What is said when a command has waited in vain.

    It waits as briefly as it can, and longer if it was too short for the reason
    to come.
    """

    def try_it(send: Send, *options: object, until: str) -> str:
        message = ""
        for timeout in (0.3, 3, DEADLINE):
            assert send(*options, timeout=timeout) == 3
            (message,) = (
                line
                for line in capsys.readouterr().err.splitlines()
                if line.startswith("snakemq send: bob was not connected within ")
            )
            if until in message:
                break
        return message

    return try_it


def tls_options(keys: Path, name: str) -> list[object]:
    return ["--tls-key", keys / f"{name}.key", "--tls-cert", keys / f"{name}.crt"]


def tls_bob(keys: Path, name: str = "bob") -> Peer:
    config = SSLConfig(keys / f"{name}.key", keys / f"{name}.crt", ca_certs=keys / "ca.crt")
    return Peer("bob", listen=0, tls=config, authentication=CertificateName())


def secret_bob(keys: Path) -> Peer:
    return Peer("bob", listen=0, authentication=SharedSecret.from_file(keys / "secret"))


# A shared secret.


def test_the_same_secret(keys: Path) -> None:
    bob = secret_bob(keys)
    with serving(bob) as send:
        assert send("--secret-file", keys / "secret") == 0
        received = bob.receive(DEADLINE)
        assert received is not None
        assert received.text == "hello"


def test_another_secret(keys: Path, fail: Fail) -> None:
    until = "refused by the other side: this side does not have the same shared secret"
    with serving(secret_bob(keys)) as send:
        message = fail(send, "--secret-file", keys / "other", until=until)
    assert message.endswith(f"; {until}")
    assert (keys / "other").read_text().strip() not in message


def test_no_secret_here(keys: Path, fail: Fail) -> None:
    until = "refused by the other side: it wants to see a shared secret proved"
    with serving(secret_bob(keys)) as send:
        assert until in fail(send, until=until)


def test_no_secret_there(keys: Path, fail: Fail) -> None:
    until = "'bob' was refused here: it does not prove that it knows the shared secret"
    with serving(Peer("bob", listen=0)) as send:
        assert until in fail(send, "--secret-file", keys / "secret", until=until)


def test_all_that_dial_can_take_a_secret(keys: Path) -> None:
    bob = secret_bob(keys)
    bob.serve({"a": 1}.get, "get")
    with bob:
        port = str(bob.addresses[0][1])
        options = ["--connect", port, "--secret-file", str(keys / "secret")]
        assert main(["ping", "bob", "-c", "1", *options]) == 0
        assert main(["call", "bob", "get", "a", *options]) == 0


@needs_openssl
def test_processes_with_certificates_and_a_secret(keys: Path) -> None:
    def options(name: str) -> list[object]:
        return [
            *tls_options(keys, name),
            *("--tls-ca", keys / "ca.crt", "--verify-ident"),
            *("--secret-file", keys / "secret", "--ident", name),
        ]

    with Background("listen", "--listen", "0", "--count", "1", *options("bob")) as process:
        _host, port = process.address()
        result = run("send", "bob", "hello", "--connect", port, *options("alice"))
        assert (result.returncode, result.stderr) == (0, "")
        assert process.wait() == 0
        assert process.out.split() == [b"hello"]


# Certificates.


@needs_openssl
def test_whose_certificate_is_somebody_elses(keys: Path, fail: Fail) -> None:
    options = [*tls_options(keys, "alice"), "--tls-ca", keys / "ca.crt", "--ident"]
    until = "refused by the other side: the certificate of this side is not for its identifier"
    with serving(tls_bob(keys)) as send:
        assert send(*options, "alice") == 0
        assert until in fail(send, *options, "eve", until=until)


@needs_openssl
def test_bob_with_somebody_elses_certificate(keys: Path, fail: Fail) -> None:
    options = [
        *tls_options(keys, "alice"),
        *("--ident", "alice", "--tls-ca", keys / "ca.crt", "--tls-name", "alice.example"),
    ]
    until = "'bob' was refused here: its certificate is for 'alice'"
    with serving(tls_bob(keys, "alice")) as send:
        assert send(*options) == 0
        assert until in fail(send, *options, "--verify-ident", until=until)


@needs_openssl
def test_the_host_is_compared_unless_told_otherwise(keys: Path, fail: Fail) -> None:
    options = [*tls_options(keys, "alice"), "--ident", "alice", "--tls-ca", keys / "ca.crt"]
    bob = tls_bob(keys, "alice")  # whose certificate is for alice.example
    until = "its certificate is not for 127.0.0.1"
    with serving(bob) as send:
        message = fail(send, *options, until=until)
        assert f"; connection with 127.0.0.1:{bob.addresses[0][1]}: {until}" in message
        assert send(*options, "--tls-name", "alice.example") == 0
        assert send(*options, "--tls-no-host-check") == 0
        until = "its certificate is not for eve.example"
        assert until in fail(send, *options, "--tls-name", "eve.example", until=until)


@needs_openssl
@pytest.mark.parametrize("turned_on", ["--tls", "--tls-no-host-check"])
def test_without_an_authority_only_those_of_the_system_count(
    turned_on: str, keys: Path, fail: Fail
) -> None:
    config = SSLConfig(keys / "bob.key", keys / "bob.crt")
    until = "authority that is not trusted here"
    with serving(Peer("bob", listen=0, tls=config)) as send:
        assert until in fail(send, turned_on, until=until)
        assert send("--tls-no-verify") == 0


@needs_openssl
def test_only_one_side_with_tls(keys: Path, fail: Fail) -> None:
    with serving(tls_bob(keys)) as send:
        until = "it speaks TLS, and this connector does not"
        assert until in fail(send, until=until)
    with serving(Peer("bob", listen=0)) as send:
        until = "and this connector wants TLS"
        assert until in fail(send, "--tls", until=until)


# Options that make no sense.


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--tls-ca", "ca", "--tls-no-verify"], "either --tls-ca or --tls-no-verify"),
        (["--verify-ident"], "--verify-ident needs certificates"),
        (["--verify-ident", "--tls-no-verify"], "--verify-ident needs certificates"),
        (["--listen", "0", "--tls"], "to listen with TLS takes --tls-cert"),
        (
            ["--listen", "0", "--tls-cert", __file__, "--verify-ident"],
            "--verify-ident needs certificates",
        ),
        (["--tls-name", ""], "server_hostname '' is no host name"),
        (["--tls-name", "a..b"], "server_hostname 'a..b' is no host name"),
    ],
)
def test_options_that_make_no_sense_together(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["send", "bob", "hello", "--connect", "1", *options]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("contents", "complaint"),
    [
        (None, "secret: No such file"),
        (b"", "secret: a secret must have 16 bytes at least, not 0"),
        (b"  short secret  \n", "secret: a secret must have 16 bytes at least, not 12"),
    ],
)
def test_a_file_without_a_secret(
    contents: bytes | None, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "secret"
    if contents is not None:
        path.write_bytes(contents)
    assert main(["send", "bob", "hello", "--connect", "1", "--secret-file", str(path)]) == 1
    printed = capsys.readouterr().err
    assert complaint in printed
    assert "short secret" not in printed
