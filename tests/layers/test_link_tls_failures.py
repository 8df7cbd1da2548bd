"""Handshakes that fail: each for its own reason, said by its own error on each side."""

from __future__ import annotations

import contextlib
import errno
import random
import re
import socket
import ssl
import struct
from collections.abc import Callable
from typing import NamedTuple

import pytest

from snakemq.exceptions import (
    CertificateExpired,
    CertificateMissing,
    CertificateNotTrusted,
    NotTls,
    OwnCertificateRefused,
    TlsError,
    WrongHostName,
)
from snakemq.limits import ConnectionLimits
from snakemq.link import LinkSocket, SSLConfig
from tests.layers.tls_support import LOCALHOST, Files, Watched, drive, files, make_watched

__all__ = ["files", "make_watched"]  # fixtures

MakeWatched = Callable[..., Watched]

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

#: How a snakeMQ peer begins.
GREETING = b"\0\0\0\5\0\0\0\0\1\0\0\0\4\2bob"


class Case(NamedTuple):
    """The certificates of both sides, and what each of them says."""

    listener: str
    connector: str | None
    listener_error: type[TlsError]
    listener_words: str
    connector_error: type[TlsError]
    connector_words: str
    listener_trusts: bool = True
    connector_trusts: bool = True


CASES = {
    "listener expired": Case(
        *("expired", "good"),
        *(OwnCertificateRefused, "the certificate of this side is not valid now"),
        *(CertificateExpired, "its certificate has expired"),
    ),
    "listener not yet valid": Case(
        *("early", "good"),
        *(OwnCertificateRefused, "certificate of this (side|listener)"),
        *(CertificateExpired, "its certificate is not valid yet"),
    ),
    "listener unknown": Case(
        *("foreign", "good"),
        *(OwnCertificateRefused, "does not trust the certificate of this side"),
        *(CertificateNotTrusted, "by an authority that is not trusted here"),
    ),
    "listener elsewhere": Case(
        *("elsewhere", "good"),
        *(OwnCertificateRefused, "has dialled a name that is not in it"),
        *(WrongHostName, re.escape(f"is not for {LOCALHOST}: dial it by a name")),
    ),
    "connector without": Case(
        *("good", None),
        *(CertificateMissing, "has shown no certificate"),
        *(OwnCertificateRefused, "asks for a certificate, and this side has shown none"),
    ),
    "connector expired": Case(
        *("good", "expired"),
        *(CertificateExpired, "its certificate has expired"),
        *(OwnCertificateRefused, "the certificate of this side is not valid now"),
    ),
    "connector not yet valid": Case(
        *("good", "early"),
        *(CertificateExpired, "its certificate is not valid yet"),
        *(OwnCertificateRefused, "does not accept the certificate of this side"),
    ),
    "connector unknown": Case(
        *("good", "foreign"),
        *(CertificateNotTrusted, "by an authority that is not trusted here"),
        *(OwnCertificateRefused, "does not trust the certificate of this side"),
    ),
}


def limited(version: ssl.TLSVersion, config: SSLConfig) -> SSLConfig:
    """The same with one version of TLS."""
    context = config.create_context(server_side=True, verify=True)
    context.minimum_version = context.maximum_version = version
    return SSLConfig(context=context)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_side_says_why(
    files: Files,
    make_watched: MakeWatched,
    caplog: pytest.LogCaptureFixture,
    case: Case,
    version: str,
) -> None:
    caplog.set_level("INFO")
    server, client = make_watched(), make_watched()
    # Who dials may be done with the handshake before it is refused.
    client.speak(GREETING)
    address = server.listen(limited(VERSIONS[version], files.config(case.listener)))
    client.dial(address, files.config(case.connector))
    drive(server, client, until=lambda: server.errors and client.errors)
    client.link.del_connector(address)
    assert type(server.error) is case.listener_error
    assert type(client.error) is case.connector_error
    assert re.search(case.listener_words, str(server.error))
    assert re.search(case.connector_words, str(client.error))
    assert isinstance(server.error.__cause__, ssl.SSLError)
    assert client.error.remote_peer == address
    assert server.open == server.closed == client.open == []
    # Here there is one more only if the second attempt was made already.
    failed = server.link.counters["handshakes_failed"]
    assert len(server.errors) == failed
    lines = [
        record.getMessage() for record in caplog.records if "handshake with" in record.getMessage()
    ]
    ours = f"TLS handshake with {address!r} failed: {client.error}; next attempt in "
    theirs = f"failed: {server.error}"
    assert sum(line.startswith(ours) for line in lines) == len(client.errors)
    assert sum(line.endswith(theirs) for line in lines) == len(server.errors)
    assert all(
        record.levelname == "ERROR" for record in caplog.records if " failed: " in record.msg
    )


def has_come(sock: LinkSocket) -> bool:
    """Whether there is something to read."""
    try:
        return bool(sock.peek(1))
    except BlockingIOError:
        return False


def test_whose_send_fails_first_learns_the_reason_too(
    files: Files, make_watched: MakeWatched
) -> None:
    """The alert has come, and what is noticed first is that nothing can be sent."""
    server, client = make_watched(), make_watched()
    client.link.on_connect.add(client.link.pause_recv)
    client.dial(server.listen(files.config()), files.config(None))
    drive(server, client, until=lambda: client.open and server.errors)
    sock = client.link.get_socket_by_conn(client.open[0])
    drive(client, until=lambda: has_come(sock))
    sock.failure = BrokenPipeError(errno.EPIPE, "Broken pipe")
    client.link.call_soon(client.link._report_failure, sock)
    drive(client, until=lambda: client.errors)
    assert type(client.error) is OwnCertificateRefused
    assert client.counters == {"handshakes_failed": 1}


def test_a_certificate_that_vouches_for_itself(files: Files, make_watched: MakeWatched) -> None:
    server, client = make_watched(), make_watched()
    # That of an authority is one.
    pem = files.folder / "self.pem"
    pem.write_bytes(files.authority.private_key_pem.bytes() + files.authority.cert_pem.bytes())
    address = server.listen(SSLConfig(certfile=pem))
    client.dial(address, SSLConfig(ca_certs=files.stranger))
    drive(server, client, until=lambda: client.errors)
    assert type(client.error) is CertificateNotTrusted
    assert "its certificate is self-signed" in str(client.error)
    # And if it is put among those that are trusted, it is.
    again = make_watched()
    again.dial(address, SSLConfig(ca_certs=pem, check_hostname=False))
    drive(server, again, until=lambda: again.open)


def test_no_common_version(files: Files, make_watched: MakeWatched) -> None:
    server, client = make_watched(), make_watched()
    address = server.listen(limited(VERSIONS["1.3"], files.config()))
    client.dial(address, files.config(ssl_version=5))
    drive(server, client, until=lambda: server.errors and client.errors)
    for side in (server, client):
        assert type(side.error) is TlsError
        assert "no version of TLS in common" in str(side.error)


def test_no_common_cipher(files: Files, make_watched: MakeWatched) -> None:
    server, client = make_watched(), make_watched()
    address = server.listen(files.config(ssl_version=5, ciphers="ECDHE+CHACHA20"))
    client.dial(address, files.config(ssl_version=5, ciphers="ECDHE+AESGCM"))
    drive(server, client, until=lambda: server.errors and client.errors)
    for side in (server, client):
        assert type(side.error) is TlsError
        assert "no cipher in common" in str(side.error)


@pytest.mark.parametrize("says", [b"", b"\x16\x03\x01\x02\x00"], ids=["nothing", "a beginning"])
def test_who_does_not_finish_in_time(files: Files, make_watched: MakeWatched, says: bytes) -> None:
    server = make_watched(limits=ConnectionLimits(handshake_timeout=0.05))
    address = server.listen(files.config())
    with socket.create_connection(address) as sock:
        sock.sendall(says)
        drive(server, until=lambda: server.errors)
        assert "within 0.05 s (handshake_timeout)" in str(server.error)
        assert server.counters == {"handshakes_failed": 1, "handshakes_timed_out": 1}
        sock.settimeout(10)
        assert is_at_end(sock)
    assert not server.link._anonymous
    assert not server.link._timers


def is_at_end(sock: socket.socket) -> bool:
    try:
        return sock.recv(1000) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("says", [b"", b"\x16\x03\x01\x02\x00"], ids=["nothing", "a beginning"])
def test_who_hangs_up(
    files: Files, make_watched: MakeWatched, caplog: pytest.LogCaptureFixture, says: bytes
) -> None:
    caplog.set_level("INFO")
    server = make_watched()
    with socket.create_connection(server.listen(files.config())) as sock:
        sock.sendall(says)
    drive(server, until=lambda: server.errors)
    assert type(server.error) is TlsError
    assert "it hung up during the handshake" in str(server.error)
    # Those who only look whether there is a listener are no reason for alarm.
    (record,) = [record for record in caplog.records if "handshake with" in record.msg]
    assert record.levelname == ("ERROR" if says else "INFO")


def test_a_listener_that_hangs_up(files: Files, make_watched: MakeWatched) -> None:
    client = make_watched()
    with socket.create_server((LOCALHOST, 0)) as listener:
        client.dial(listener.getsockname(), files.config())
        listener.settimeout(10)
        drive(client, until=lambda: client.link._anonymous)
        listener.accept()[0].close()
        drive(client, until=lambda: client.errors)
    assert "it hung up during the handshake: if it is a listener with TLS" in str(client.error)


class TestTlsMeetsPlain:
    def test_a_plain_connector_and_a_listener_with_tls(
        self, files: Files, make_watched: MakeWatched, caplog: pytest.LogCaptureFixture
    ) -> None:
        server, client = make_watched(), make_watched()
        client.speak(GREETING)
        address = server.listen(files.config())
        client.dial(address, None)
        drive(server, client, until=lambda: server.errors and client.errors)
        assert type(server.error) is type(client.error) is NotTls
        assert "it speaks without TLS, and this listener wants TLS" in str(server.error)
        assert "it speaks TLS, and this connector does not" in str(client.error)
        assert server.open == server.closed == []
        assert client.closed
        assert client.received == {}
        assert server.link.counters["tls_meets_plain"] >= 1
        assert client.link.counters["tls_meets_plain"] >= 1
        assert f"connection with {address!r} closed: {client.error}; next attempt in" in caplog.text

    def test_a_connector_with_tls_and_a_plain_listener(
        self, files: Files, make_watched: MakeWatched
    ) -> None:
        server, client = make_watched(), make_watched()
        server.speak(GREETING)
        client.dial(server.listen(None), files.config())
        drive(server, client, until=lambda: server.errors and client.errors)
        assert type(server.error) is type(client.error) is NotTls
        assert "it speaks TLS, and this listener does not" in str(server.error)
        assert "it speaks without TLS, and this connector wants TLS" in str(client.error)
        assert server.received == {}
        assert client.open == client.closed == []

    def test_a_plain_listener_that_waits(self, files: Files, make_watched: MakeWatched) -> None:
        """Who has nothing to say first finds out by what comes."""
        server, client = make_watched(), make_watched()
        client.dial(server.listen(None), files.config())
        drive(server, client, until=lambda: server.errors and client.errors)
        assert type(server.error) is NotTls
        assert "it hung up during the handshake" in str(client.error)

    def test_somebody_else_altogether(self, files: Files, make_watched: MakeWatched) -> None:
        server = make_watched()
        with socket.create_connection(server.listen(files.config())) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            drive(server, until=lambda: server.errors)
            assert type(server.error) is NotTls
            assert r"(it begins with 'GET / HTTP/1.1\r\n'" in str(server.error)
            # It is told in TLS what the matter is, and then nothing more.
            sock.settimeout(10)
            assert sock.recv(100) == b"\x15\x03\x03\x00\x02\x02\x46"
            assert sock.recv(100) == b""
        drive(server, until=lambda: not server.link._anonymous)
        assert not server.link._timers

    @pytest.mark.parametrize(
        "first",
        [
            b"\x16",
            b"\x16\x03\x01\x00\x10\x05\x00\x00",
            b"\x15\x03\x03\x00\x02\x01\x00",
            b"\x16" * 9,
        ],
    )
    def test_what_only_looks_like_it_gets_through(
        self, make_watched: MakeWatched, first: bytes
    ) -> None:
        server = make_watched()
        with socket.create_connection(server.listen(None)) as sock:
            sock.sendall(first)
            drive(server, until=lambda: server.received)
        assert list(server.received.values()) == [first]
        assert server.errors == []

    def test_later_it_is_data_like_any_other(self, make_watched: MakeWatched) -> None:
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01"
        server = make_watched()
        with socket.create_connection(server.listen(None)) as sock:
            sock.sendall(b"x")
            drive(server, until=lambda: server.received)
            sock.sendall(hello)
            drive(server, until=lambda: b"x" + hello in server.received.values())
        assert server.errors == []


def came(server: Watched) -> int:
    """How many connections came that are not open: in their handshake, or failed."""
    return len(server.link._handshakes) + len(server.errors)


def wait_open(server: Watched, number: int, client: Watched) -> None:
    drive(server, client, until=lambda: client.open and len(server.open) == number)


def wait_errors(server: Watched, number: int) -> None:
    drive(server, until=lambda: len(server.errors) == number)


class TestTooMany:
    def test_the_oldest_handshake_goes(self, files: Files, make_watched: MakeWatched) -> None:
        server = make_watched(limits=ConnectionLimits(max_handshakes=3))
        address = server.listen(files.config())
        silent = []
        try:
            for _ in range(5):
                silent.append(socket.create_connection(address))
                drive(server, until=lambda: came(server) == len(silent))
            assert len(server.link._handshakes) == 3
            assert "it had to go, because others came" in str(server.error)
            assert server.counters == {"handshakes_failed": 2, "handshakes_over_limit": 2}
            for sock in silent[:2]:
                sock.settimeout(10)
                assert is_at_end(sock)
            # A real one gets in although all places are taken.
            client = make_watched()
            client.dial(address, files.config())
            drive(server, client, until=lambda: client.open and server.open)
        finally:
            for sock in silent:
                sock.close()

    def test_those_of_one_address(self, files: Files, make_watched: MakeWatched) -> None:
        server = make_watched(limits=ConnectionLimits(max_handshakes_per_address=1))
        address = server.listen(files.config())
        with socket.create_connection(address), socket.create_connection(address):
            drive(server, until=lambda: server.errors)
            assert len(server.link._handshakes) == 1

    def test_one_that_has_failed_keeps_its_place_until_it_was_told(
        self, files: Files, make_watched: MakeWatched
    ) -> None:
        server = make_watched(limits=ConnectionLimits(max_handshakes=2))
        address = server.listen(files.config())
        plain = [socket.create_connection(address) for _ in range(5)]
        try:
            for sock in plain:
                sock.sendall(GREETING)
            drive(server, until=lambda: len(server.errors) == 5)
            assert len(server.link._anonymous) == 2
            assert server.link.counters["handshakes_over_limit"] == 0
        finally:
            for sock in plain:
                sock.close()
        drive(server, until=lambda: not server.link._anonymous)

    def test_one_that_is_done_takes_no_place(self, files: Files, make_watched: MakeWatched) -> None:
        server = make_watched(limits=ConnectionLimits(max_handshakes=1))
        address = server.listen(files.config())
        clients = [make_watched() for _ in range(3)]
        for number, client in enumerate(clients, 1):
            client.dial(address, files.config())
            wait_open(server, number, client)
        assert server.counters == {}

    def test_lines_in_the_log_have_a_limit(
        self, files: Files, make_watched: MakeWatched, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = make_watched()
        address = server.listen(files.config())
        for number in range(1, 31):
            with socket.create_connection(address) as sock:
                sock.sendall(GREETING)
                wait_errors(server, number)
        assert caplog.text.count("TLS handshake") <= 21
        assert server.link.counters["handshakes_failed"] == 30


def test_waiting_costs_nothing(files: Files, make_watched: MakeWatched) -> None:
    """A handshake that is stuck, or refused, does not keep the loop busy."""
    server = make_watched(limits=ConnectionLimits(handshake_timeout=60))
    address = server.listen(files.config())
    with (
        socket.create_connection(address) as silent,
        socket.create_connection(address) as slow,
        socket.create_connection(address) as plain,
    ):
        slow.sendall(b"\x16\x03\x01\x02\x00\x01")
        plain.sendall(GREETING)
        drive(server, until=lambda: server.errors and len(server.link._handshakes) == 2)
        assert silent.fileno() > 0
        drive(server, until=lambda: server.link.step(0.01) == 0)
        events = [server.link.step(0.01) for _ in range(10)]
    assert not any(events)


def test_damaged_data_ends_the_connection(files: Files, make_watched: MakeWatched) -> None:
    """Whoever is on the way and changes something."""
    server = make_watched()
    address = server.listen(files.config("good", trust=False))
    context = SSLConfig().create_context(server_side=False)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    with socket.create_connection(address) as sock:
        sock.settimeout(0.01)

        def shake() -> bool:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                with contextlib.suppress(TimeoutError):
                    incoming.write(sock.recv(65536))
                return False
            sock.sendall(outgoing.read())
            return True

        drive(server, until=shake)
        tls.write(b"hello")
        sock.sendall(outgoing.read())
        drive(server, until=lambda: server.received)
        tls.write(b"one million")
        record = bytearray(outgoing.read())
        record[-1] ^= 1
        sock.sendall(record)
        drive(server, until=lambda: server.errors)
    assert server.closed
    assert list(server.received.values()) == [b"hello"]
    assert type(server.error) is TlsError
    assert server.counters == {"tls_broken": 1}


def test_whatever_comes_leaves_nothing_behind(files: Files, make_watched: MakeWatched) -> None:
    """Connections that end in every way, some with a reset at any time."""
    server = make_watched(limits=ConnectionLimits(max_handshakes=8, handshake_timeout=0.2))
    address = server.listen(files.config())
    reset = struct.pack("ii", 1, 0)
    rng = random.Random(6)
    hello = client_hello()
    for _ in range(150):
        with socket.create_connection(address) as sock:
            if rng.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            says = rng.choice((hello, hello, GREETING, rng.randbytes(40), b""))
            for piece in (says[: len(says) // 2], says[len(says) // 2 :]):
                if rng.random() < 0.5:
                    server.link.step(0)
                # It may have been closed by then.
                with contextlib.suppress(OSError):
                    sock.sendall(piece)
    drive(server, until=lambda: not server.link._anonymous and len(server.errors) > 100)
    assert len(server.link._handshakes) == 0
    assert len(server.link._handshakes._places) == 0
    assert len(server.link.admission) == 0
    assert not server.link._timers
    assert server.open == server.closed == []
    assert all(type(error) in (TlsError, NotTls) for _, error in server.errors)


def client_hello() -> bytes:
    """How TLS begins."""
    outgoing = ssl.MemoryBIO()
    tls = SSLConfig().create_context(server_side=False).wrap_bio(ssl.MemoryBIO(), outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()
