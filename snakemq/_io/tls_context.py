"""Contexts of TLS: made of files, or checked if somebody else has made them."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from typing import Final, NamedTuple

__all__ = [
    "PROTOCOL_NAME",
    "TLS_1_2",
    "Files",
    "Kind",
    "Stamp",
    "check_ready_context",
    "make_context",
    "stamp_of",
]

#: What both sides say in the handshake that they speak (ALPN).
PROTOCOL_NAME: Final = "snakemq"

#: 1.6's way to ask for TLS 1.2 and nothing else, ``ssl.PROTOCOL_TLSv1_2``.
TLS_1_2: Final = 5

# For TLS 1.2: keys that are of no use later, and nothing but authenticated
# encryption. Those of TLS 1.3 are all like that.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"

#: A file, as far as one can see from outside whether it has changed.
Stamp = tuple[object, ...]


class Files(NamedTuple):
    """Where the key and the certificates are."""

    keyfile: str | os.PathLike[str] | None
    certfile: str | os.PathLike[str] | None
    ca_certs: str | os.PathLike[str] | None


class Kind(NamedTuple):
    """What a context is for; settings of one program may need several."""

    server_side: bool
    verify_mode: ssl.VerifyMode
    check_hostname: bool


def make_context(
    kind: Kind, files: Files, *, only_1_2: bool = False, ciphers: str | None = None
) -> ssl.SSLContext:
    """Read the files, and make a context of them.

    :param ciphers: in OpenSSL's way, for TLS 1.2
    :raises OSError: a file can't be read, or is not what it should be
        (:class:`ssl.SSLError`)
    :raises ValueError: the key is encrypted
    """
    context = ssl.SSLContext(
        ssl.PROTOCOL_TLS_SERVER if kind.server_side else ssl.PROTOCOL_TLS_CLIENT
    )
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if only_1_2:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers or _CIPHERS)
    context.set_alpn_protocols([PROTOCOL_NAME])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # Sessions are not resumed later: tickets would only take memory, and each connection
    # is to have a handshake of its own. (What OpenSSL remembers instead is forgotten with a
    # connection that ends without TLS's own farewell, as all do here.)
    context.options |= ssl.OP_NO_TICKET
    if kind.server_side:
        context.num_tickets = 0  # the same for TLS 1.3
    context.check_hostname = kind.check_hostname
    context.verify_mode = kind.verify_mode
    _load(context, kind, files)
    return context


def _load(context: ssl.SSLContext, kind: Kind, files: Files) -> None:
    for path in files:
        if path is not None:
            # What ssl says of a file that is not there has no name in it.
            with open(path, "rb"):
                pass
    if files.certfile is not None:
        keyfile = files.certfile if files.keyfile is None else files.keyfile
        try:
            context.load_cert_chain(files.certfile, files.keyfile, _refuse_encrypted(keyfile))
        except ssl.SSLError as exc:
            raise _named(exc, _what_is_wrong(exc, files.certfile, keyfile)) from exc
    if files.ca_certs is not None:
        try:
            context.load_verify_locations(files.ca_certs)
        except ssl.SSLError as exc:
            raise _named(
                exc, f"{os.fspath(files.ca_certs)}: there is no certificate (PEM) that can be read"
            ) from exc
    elif kind.verify_mode is not ssl.CERT_NONE:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)


def _refuse_encrypted(keyfile: str | os.PathLike[str]) -> Callable[[], str]:
    """What answers OpenSSL's own question on the terminal, which nobody may see."""

    def refuse() -> str:
        raise ValueError(
            f"{os.fspath(keyfile)}: the key is encrypted. Decrypt it ('openssl pkey'), or load "
            "it into an ssl.SSLContext, and pass that as context="
        )

    return refuse


def _what_is_wrong(
    exc: ssl.SSLError, certfile: str | os.PathLike[str], keyfile: str | os.PathLike[str]
) -> str:
    cert, key = os.fspath(certfile), os.fspath(keyfile)
    if exc.reason == "KEY_VALUES_MISMATCH":
        return f"the key in {key} does not belong to the certificate in {cert}"
    return f"{cert} has to hold a certificate, and {key} its private key, both PEM"


def _named(exc: ssl.SSLError, text: str) -> ssl.SSLError:
    return ssl.SSLError(exc.errno, f"{text} ({exc.reason or exc.strerror})")


def stamp_of(files: Files) -> Stamp:
    """What changes when a file is written, or another one is put in its place."""
    return tuple(_stamp(path) for path in files)


def _stamp(path: str | os.PathLike[str] | None) -> Stamp | None:
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def check_ready_context(context: ssl.SSLContext, *, server_side: bool) -> None:
    """See whether a context that the program has made can be used.

    :raises ValueError: it can't; the message says what to do
    """
    wrong = ssl.PROTOCOL_TLS_CLIENT if server_side else ssl.PROTOCOL_TLS_SERVER
    if context.protocol == wrong:
        right, who = (
            ("PROTOCOL_TLS_SERVER", "a listener")
            if server_side
            else ("PROTOCOL_TLS_CLIENT", "a connector")
        )
        raise ValueError(f"{who} needs a context of its side: ssl.SSLContext(ssl.{right})")
    if _allows_old_versions(context):
        raise ValueError(
            "the context allows versions before TLS 1.2: set its minimum_version to "
            "ssl.TLSVersion.TLSv1_2"
        )


def _allows_old_versions(context: ssl.SSLContext) -> bool:
    if int(context.protocol) == TLS_1_2:
        return False
    if context.minimum_version in (
        ssl.TLSVersion.TLSv1_2,
        ssl.TLSVersion.TLSv1_3,
        ssl.TLSVersion.MAXIMUM_SUPPORTED,
    ):
        return False
    # The way in which it was said before there was minimum_version.
    old = ssl.OP_NO_SSLv3 | ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    return context.options & old != old
