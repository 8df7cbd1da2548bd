"""What went wrong with TLS, in plain words: what ssl raises becomes a ``TlsError``."""

from __future__ import annotations

import errno
import re
import ssl
from typing import Final, NamedTuple

from snakemq._peer_log import quoted
from snakemq.exceptions import (
    CertificateExpired,
    CertificateMissing,
    CertificateNotTrusted,
    NotTls,
    OwnCertificateRefused,
    TlsError,
    WrongHostName,
)

__all__ = ["PROTOCOL_VERSION_ALERT", "Circumstances", "explain", "not_tls", "tls_in_plain"]

#: How whoever speaks TLS is told, in TLS, that this can't work: a fatal alert.
PROTOCOL_VERSION_ALERT: Final = b"\x15\x03\x03\x00\x02\x02\x46"

# First byte of a record of TLS.
_ALERT: Final = 0x15
_HANDSHAKE: Final = 0x16

# A snakeMQ packet begins with its length, and the first packet is a small one.
_PLAIN_PEER: Final = b"\0\0\0"

_HELLOS: Final = (1, 2)  # of a client, of a server: first byte of a handshake message


class Circumstances(NamedTuple):
    """What the words depend on."""

    #: address of the other side
    remote_peer: object
    #: whether this side dialled
    is_connector: bool
    #: that the certificate has to be for, or that was asked for
    server_hostname: str | None
    #: whether this side has a certificate to show
    has_certificate: bool
    #: whether both sides had agreed how to go on
    is_agreed: bool


# By X.509 verification code.
_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_SELF_SIGNED: Final = 18
_UNKNOWN_ISSUER: Final = (2, 19, 20, 21)
_REVOKED: Final = 23
_WRONG_PURPOSE: Final = 26
_WRONG_NAME: Final = (62, 64)  # host name, address

_NO_COMMON_CIPHER: Final = (
    "the two sides have no cipher in common: compare the ciphers argument of both, and the "
    "kind of their keys"
)
_NO_COMMON_VERSION: Final = (
    "the two sides have no version of TLS in common: snakemq speaks TLS 1.2 and newer; compare "
    "ssl_version, or the versions that the context of each side allows"
)

_BY_REASON: Final = {
    "NO_SHARED_CIPHER": _NO_COMMON_CIPHER,
    "NO_CIPHERS_AVAILABLE": _NO_COMMON_CIPHER,
    "NO_SUITABLE_KEY_SHARE": _NO_COMMON_CIPHER,
    "NO_SUITABLE_SIGNATURE_ALGORITHM": _NO_COMMON_CIPHER,
    "NO_SHARED_SIGNATURE_ALGORITHMS": _NO_COMMON_CIPHER,
    "NO_SHARED_GROUPS": _NO_COMMON_CIPHER,
    "UNSUPPORTED_PROTOCOL": _NO_COMMON_VERSION,
    "VERSION_TOO_LOW": _NO_COMMON_VERSION,
    "WRONG_SSL_VERSION": _NO_COMMON_VERSION,
    "NO_PROTOCOLS_AVAILABLE": _NO_COMMON_VERSION,
}

# What came was no TLS, and it came after it was looked at.
_NOT_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST")

# What the other side sends when it gives up, by the name of the alert: first those
# that are about the certificate of this side.
_SHOWN_NONE: Final = (
    "it asks for a certificate, and this side has shown none: set certfile and keyfile"
)
_NOT_ACCEPTED: Final = "it does not accept the certificate of this side; its log says why"
_REFUSED: Final = {
    "CERTIFICATE_REQUIRED": _SHOWN_NONE,
    "NO_CERTIFICATE": _SHOWN_NONE,
    "UNKNOWN_CA": "it does not trust the certificate of this side: its ca_certs has to hold the "
    "certificate of the authority that issued it",
    "CERTIFICATE_EXPIRED": "the certificate of this side is not valid now, says the other side: "
    "make a new one (if it is valid, the clock of the other side is wrong)",
    "CERTIFICATE_REVOKED": "the certificate of this side was revoked, says the other side: make "
    "a new one",
    "UNSUPPORTED_CERTIFICATE": "the certificate of this side is not meant for what it is used "
    "for, says the other side: see its extendedKeyUsage",
    "CERTIFICATE_UNKNOWN": _NOT_ACCEPTED,
    "ACCESS_DENIED": _NOT_ACCEPTED,
}
_BROKEN_OFF: Final = {
    "PROTOCOL_VERSION": _NO_COMMON_VERSION,
    "INSUFFICIENT_SECURITY": _NO_COMMON_CIPHER,
    "NO_APPLICATION_PROTOCOL": "it does not speak snakeMQ's protocol over TLS (ALPN)",
}

_ALERT_NAME: Final = re.compile(r"ALERT[_ ]([A-Z_ ]+)")


def explain(exc: Exception, about: Circumstances) -> TlsError:
    """The error that says what happened, and what to do.

    :param exc: what a handshake, or a read after it, has raised
    """
    if isinstance(exc, TlsError):
        return exc
    kind, message = _explain(exc, about)
    error = kind(message, about.remote_peer)
    error.__cause__ = exc
    return error


def _explain(exc: Exception, about: Circumstances) -> tuple[type[TlsError], str]:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return _unverified(exc, about)
    if isinstance(exc, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)):
        return TlsError, _hung_up(about)
    if isinstance(exc, OSError) and exc.errno == errno.ENOTCONN:
        return TlsError, _hung_up(about)
    if isinstance(exc, ssl.SSLError):
        return _refused(exc, about)
    if isinstance(exc, ConnectionError):
        return TlsError, _hung_up(about)
    return TlsError, _quoted_reason(exc)


def _quoted_reason(exc: Exception) -> str:
    """What the system says, in its own words."""
    text = exc.strerror if isinstance(exc, OSError) else None
    return text or str(exc) or type(exc).__name__


def _hung_up(about: Circumstances) -> str:
    if about.is_connector:
        return "it hung up during the handshake: if it is a listener with TLS, its log says why"
    return "it hung up during the handshake"


def _unverified(
    exc: ssl.SSLCertVerificationError, about: Circumstances
) -> tuple[type[TlsError], str]:
    code = exc.verify_code
    if code == _EXPIRED:
        return CertificateExpired, (
            "its certificate has expired: it needs a new one (if not, the clock of this "
            "machine is wrong)"
        )
    if code == _NOT_YET_VALID:
        return CertificateExpired, (
            "its certificate is not valid yet: compare the clocks of the machines"
        )
    if code in _WRONG_NAME:
        return WrongHostName, (
            f"its certificate is not for {about.server_hostname}: dial it by a name that its "
            "certificate has, set server_hostname to one, or give it a certificate that has "
            "this name (subjectAltName)"
        )
    if code == _SELF_SIGNED:
        return CertificateNotTrusted, (
            "its certificate is self-signed, and not known here: if it is to be trusted, put "
            "it into ca_certs"
        )
    if code in _UNKNOWN_ISSUER:
        return CertificateNotTrusted, (
            "its certificate is by an authority that is not trusted here: if it is to be, put "
            "the certificate of that authority into ca_certs"
        )
    if code == _REVOKED:
        return CertificateNotTrusted, "its certificate was revoked: it needs a new one"
    if code == _WRONG_PURPOSE:
        return CertificateNotTrusted, (
            f"its certificate is not meant for a {'server' if about.is_connector else 'client'}: "
            "it needs one with that extendedKeyUsage, or without any"
        )
    return CertificateNotTrusted, f"its certificate can't be trusted: {exc.verify_message}"


def _refused(exc: ssl.SSLError, about: Circumstances) -> tuple[type[TlsError], str]:
    reason = _reason(exc)
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return CertificateMissing, (
            "it has shown no certificate, and only those who have one are let in here: set "
            "certfile and keyfile there"
        )
    if reason in _NOT_TLS:
        return NotTls, _speaks_plain(about.is_connector)
    if reason in _BY_REASON:
        return TlsError, _BY_REASON[reason]
    alert = _alert_name(exc)
    if alert in _REFUSED:
        return OwnCertificateRefused, _REFUSED[alert]
    if alert == "BAD_CERTIFICATE":
        return OwnCertificateRefused, _bad_certificate(about)
    if alert == "HANDSHAKE_FAILURE":
        # It says so also when TLS 1.2 is spoken, and a certificate is missing.
        if about.is_agreed and about.is_connector and not about.has_certificate:
            return OwnCertificateRefused, _SHOWN_NONE
        if not about.is_agreed:
            return TlsError, _NO_COMMON_CIPHER
    if alert in _BROKEN_OFF:
        return TlsError, _BROKEN_OFF[alert]
    if alert:
        words = alert.replace("_", " ").lower()
        return TlsError, f"it ended TLS with the alert '{words}'; its log may say more"
    return TlsError, quoted(reason.replace("_", " ").lower() or str(exc)).strip("'")


def _bad_certificate(about: Circumstances) -> str:
    if about.is_connector:
        return _NOT_ACCEPTED
    return (
        "it does not accept the certificate of this listener: most likely it has dialled a name "
        "that is not in it (subjectAltName)"
    )


def _reason(exc: ssl.SSLError) -> str:
    """OpenSSL's name of it; empty: it has none, or ssl itself has raised it."""
    return getattr(exc, "reason", None) or ""


def _alert_name(exc: ssl.SSLError) -> str:
    """The alert that the other side has sent, as its specification calls it; empty: none."""
    # What OpenSSL puts before it (which version introduced it) is no help.
    found = _ALERT_NAME.search((_reason(exc) or exc.strerror or "").upper())
    return found[1].strip().replace(" ", "_") if found else ""


def not_tls(first: bytes, remote_peer: object, *, is_connector: bool) -> NotTls | None:
    """For a side that speaks TLS: does the other one?

    :param first: the first bytes that came from there, one at least
    :return: ``None``: it does
    """
    if first[0] == _HANDSHAKE or (is_connector and first[0] == _ALERT):
        return None
    if first.startswith(_PLAIN_PEER[: len(first)]):
        return NotTls(_speaks_plain(is_connector), remote_peer)
    return NotTls(
        f"what it says is not TLS (it begins with {quoted(first)}): who is there?", remote_peer
    )


def _speaks_plain(is_connector: bool) -> str:
    here, there = ("connector", "listener") if is_connector else ("listener", "connector")
    return (
        f"it speaks without TLS, and this {here} wants TLS: set ssl_config (of a Peer: tls) of "
        f"the {there} too, or of neither"
    )


def tls_in_plain(first: bytes, remote_peer: object, *, is_connector: bool) -> NotTls | None:
    """For a side that does not speak TLS: does the other one?

    Only what can't be anything else counts: the beginning of a handshake, or a fatal alert.

    :param first: the first bytes that came from there
    :return: ``None``: it does not
    """
    if len(first) < 7 or first[1] != 3 or first[2] > 4:
        return None
    is_hello = first[0] == _HANDSHAKE and first[5] in _HELLOS
    is_alert = first[0] == _ALERT and first[3:6] == b"\0\2\2"
    if not (is_hello or is_alert):
        return None
    here, there = ("connector", "listener") if is_connector else ("listener", "connector")
    return NotTls(
        f"it speaks TLS, and this {here} does not: set ssl_config (of a Peer: tls) of the "
        f"{here} too, or of neither; the {there} has one",
        remote_peer,
    )
