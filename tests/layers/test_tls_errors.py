"""What ssl raises, in words: also what no OpenSSL here can be brought to say."""

from __future__ import annotations

import errno
import ssl
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemq._io.tls_errors import (
    PROTOCOL_VERSION_ALERT,
    Circumstances,
    explain,
    not_tls,
    tls_in_plain,
)
from snakemq.exceptions import (
    CertificateExpired,
    CertificateNotTrusted,
    NotTls,
    OwnCertificateRefused,
    TlsError,
    WrongHostName,
)

PEER = ("10.0.0.7", 4000)


def about(**changes: Any) -> Circumstances:
    return Circumstances(PEER, True, "bob.example", True, True)._replace(**changes)


def tls_error(reason: str | None, text: str = "") -> ssl.SSLError:
    error = ssl.SSLError(1, text or f"[SSL: {reason}] something (_ssl.c:1006)")
    error.reason = reason  # type: ignore[assignment]
    return error


def verify_error(code: int, message: str = "some words") -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code = code
    error.verify_message = message
    return error


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (10, CertificateExpired, "has expired"),
        (9, CertificateExpired, "is not valid yet"),
        (18, CertificateNotTrusted, "is self-signed"),
        (2, CertificateNotTrusted, "put the certificate of that authority into ca_certs"),
        (19, CertificateNotTrusted, "put the certificate of that authority into ca_certs"),
        (20, CertificateNotTrusted, "put the certificate of that authority into ca_certs"),
        (21, CertificateNotTrusted, "put the certificate of that authority into ca_certs"),
        (23, CertificateNotTrusted, "was revoked"),
        (26, CertificateNotTrusted, "not meant for a server"),
        (62, WrongHostName, "is not for bob.example"),
        (64, WrongHostName, "is not for bob.example"),
        (67, CertificateNotTrusted, "can't be trusted: some words"),
    ],
)
def test_certificates(code: int, kind: type[TlsError], words: str) -> None:
    cause = verify_error(code)
    error = explain(cause, about())
    assert type(error) is kind
    assert words in str(error)
    assert error.__cause__ is cause
    assert error.remote_peer == PEER


def test_a_certificate_of_a_client() -> None:
    error = explain(verify_error(26), about(is_connector=False))
    assert "not meant for a client" in str(error)


ALERTS = [
    ("CERTIFICATE_REQUIRED", OwnCertificateRefused, "set certfile and keyfile"),
    ("UNKNOWN_CA", OwnCertificateRefused, "its ca_certs has to hold"),
    ("CERTIFICATE_EXPIRED", OwnCertificateRefused, "is not valid now"),
    ("CERTIFICATE_REVOKED", OwnCertificateRefused, "was revoked"),
    ("UNSUPPORTED_CERTIFICATE", OwnCertificateRefused, "extendedKeyUsage"),
    ("CERTIFICATE_UNKNOWN", OwnCertificateRefused, "its log says why"),
    ("ACCESS_DENIED", OwnCertificateRefused, "its log says why"),
    ("BAD_CERTIFICATE", OwnCertificateRefused, "its log says why"),
    ("PROTOCOL_VERSION", TlsError, "no version of TLS in common"),
    ("INSUFFICIENT_SECURITY", TlsError, "no cipher in common"),
    ("NO_APPLICATION_PROTOCOL", TlsError, "ALPN"),
    ("INTERNAL_ERROR", TlsError, "the alert 'internal error'"),
]


@pytest.mark.parametrize(("alert", "kind", "words"), ALERTS)
def test_alerts_in_every_spelling(alert: str, kind: type[TlsError], words: str) -> None:
    """OpenSSL says with which version an alert came, or not; Python may not know its name."""
    spoken = alert.replace("_", " ").lower()
    for cause in (
        tls_error(f"SSLV3_ALERT_{alert}"),
        tls_error(f"TLSV1_ALERT_{alert}"),
        tls_error(f"TLSV13_ALERT_{alert}"),
        tls_error(None, f"[SSL] ssl/tls alert {spoken} (_ssl.c:1006)"),
    ):
        error = explain(cause, about())
        assert type(error) is kind
        assert words in str(error)


@pytest.mark.parametrize(
    ("circumstances", "kind", "words"),
    [
        (about(has_certificate=False), OwnCertificateRefused, "it asks for a certificate"),
        (about(is_agreed=False), TlsError, "no cipher in common"),
        (about(), TlsError, "'handshake failure'"),
        (about(is_connector=False, has_certificate=False), TlsError, "'handshake failure'"),
    ],
)
def test_the_alert_that_says_everything_and_nothing(
    circumstances: Circumstances, kind: type[TlsError], words: str
) -> None:
    error = explain(tls_error("SSLV3_ALERT_HANDSHAKE_FAILURE"), circumstances)
    assert type(error) is kind
    assert words in str(error)


@pytest.mark.parametrize(
    ("cause", "kind", "words"),
    [
        (ssl.SSLEOFError(8, "EOF occurred"), TlsError, "it hung up"),
        (ssl.SSLZeroReturnError(6, "closed"), TlsError, "it hung up"),
        (ConnectionResetError(104, "Connection reset by peer"), TlsError, "it hung up"),
        (BrokenPipeError(32, "Broken pipe"), TlsError, "it hung up"),
        # What ssl itself raises has not all that an SSLError has.
        (ssl.SSLError(errno.ENOTCONN, "Closed before TLS handshake"), TlsError, "it hung up"),
        (ssl.SSLError(1, "words"), TlsError, "words"),
        (OSError(113, "No route to host"), TlsError, "No route to host"),
        (ValueError("what is this"), TlsError, "what is this"),
        (tls_error("WRONG_VERSION_NUMBER"), NotTls, "set ssl_config"),
        (tls_error("DECRYPTION_FAILED_OR_BAD_RECORD_MAC"), TlsError, "bad record mac"),
        (tls_error(None, "odd\nwords"), TlsError, r"odd\nwords"),
    ],
)
def test_the_rest(cause: Exception, kind: type[TlsError], words: str) -> None:
    error = explain(cause, about())
    assert type(error) is kind
    assert words in str(error)


def test_what_is_said_already_is_not_said_again() -> None:
    error = NotTls("words", PEER)
    assert explain(error, about()) is error


@pytest.mark.parametrize("is_connector", [True, False])
@given(first=st.binary(min_size=1, max_size=20))
def test_nothing_that_comes_is_too_odd(is_connector: bool, first: bytes) -> None:
    error = not_tls(first, PEER, is_connector=is_connector)
    assert (error is None) == (first[0] == 0x16 or (is_connector and first[0] == 0x15))
    if error is not None:
        assert "\n" not in str(error)
    plain = tls_in_plain(first, PEER, is_connector=is_connector)
    assert plain is None or first[:2] in (b"\x16\x03", b"\x15\x03")


def test_the_beginning_of_real_tls_is_recognised() -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    tls = context.wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    assert isinstance(tls_in_plain(outgoing.read(), PEER, is_connector=False), NotTls)
    assert isinstance(tls_in_plain(PROTOCOL_VERSION_ALERT, PEER, is_connector=True), NotTls)
