"""How a peer has to show that it is who it says.

For ``Peer(authentication=...)`` and ``Messaging(authentication=...)``: one of these, or
several, or a function of your own, ``authenticate(conn_id, ident, certificate)``.
All of them have to be satisfied; until then nothing is accepted from a
connection, and no message is sent on it.
"""

from __future__ import annotations

import hashlib
import os
import secrets as random_secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from snakemq._core.authentication import NONCE_SIZE
from snakemq.contracts import TlsInfo
from snakemq.exceptions import IdentityMismatch

__all__ = [
    "MIN_SECRET_SIZE",
    "Authentication",
    "CertificateFingerprint",
    "CertificateName",
    "SharedSecret",
]

#: The shortest secret that is taken, in bytes.
MIN_SECRET_SIZE: Final = 16

_URI_PREFIX: Final = "snakemq:"

_Secrets: TypeAlias = "bytes | Iterable[bytes]"


class SharedSecret:
    """Both sides prove that they know a secret, which neither of them sends.

    Whoever knows the secret can be any peer for which it counts. So give each pair of
    peers, or each peer and its server, a secret of its own if they do not trust each
    other. Without TLS a proof keeps others from connecting, but not from reading or changing
    what is sent later.

    The secret should be random: ``secrets.token_bytes(32)``, or what ``snakemq keygen
    secret`` writes. Who listens in can try to guess a weak one.

    Several secrets in the place of one: all of them are accepted, and with the first one
    this side proves itself if it dials. So a secret can be replaced, on one peer after the
    other: ``[old, new]`` everywhere, then ``[new, old]``, then ``[new]``.

    :param secret: one secret for all peers, or several; or for each identifier,
        as a dictionary; or as a function, which is called in the loop's thread and
        may return ``None``. A peer for which there is none is refused.
    :param random: where nonces come from, ``func(size)``
    :raises TypeError: a secret is not bytes
    :raises ValueError: a secret is shorter than 16 bytes, or there is none
    """

    def __init__(
        self,
        secret: _Secrets | Mapping[str, _Secrets] | Callable[[str], _Secrets | None],
        *,
        random: Callable[[int], bytes] = random_secrets.token_bytes,
    ) -> None:
        self._random = random
        self._of: Callable[[str], _Secrets | None]
        if isinstance(secret, Mapping):
            table = {ident: _checked(of_one) for ident, of_one in secret.items()}
            self._of = table.get
        elif callable(secret):
            self._of = secret
        else:
            for_all = _checked(secret)
            self._of = lambda ident: for_all
        # Who has no secret is refused like who has another one.
        self._nobodys = random_secrets.token_bytes(NONCE_SIZE)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> SharedSecret:
        """The secret is what is in a file, without white space around it.

        :raises OSError: it can't be read
        :raises ValueError: there is too little in it
        """
        try:
            return cls(Path(path).read_bytes().strip())
        except ValueError as exc:
            raise ValueError(f"{os.fspath(path)}: {exc}") from None

    def secrets_of(self, ident: str) -> tuple[bytes, ...]:
        """What a peer may prove itself with; never empty, but then perhaps unknown to anybody."""
        found = self._of(ident)
        return (self._nobodys,) if found is None else _checked(found)

    def make_nonce(self) -> bytes:
        """A nonce for one connection."""
        return self._random(NONCE_SIZE)

    def __repr__(self) -> str:
        return "<SharedSecret>"


def _checked(secrets: _Secrets) -> tuple[bytes, ...]:
    if isinstance(secrets, str):
        raise TypeError("a secret must be bytes, not str: encode() it")
    found = (bytes(secrets),) if isinstance(secrets, (bytes, bytearray)) else tuple(secrets)
    if not found:
        raise ValueError("at least one secret is needed")
    for secret in found:
        if not isinstance(secret, bytes):
            raise TypeError(f"a secret must be bytes, not {type(secret).__name__}")
        if len(secret) < MIN_SECRET_SIZE:
            raise ValueError(
                f"a secret must have {MIN_SECRET_SIZE} bytes at least, not {len(secret)}: "
                "use secrets.token_bytes(32)"
            )
    return found


class CertificateName:
    """The identifier has to be in the certificate that the peer has shown with TLS.

    As one of these, in this order; the first kind that a certificate has is the one
    that counts:

    * a subject alternative name ``URI:snakemq:<identifier>``, percent-encoded, as
      ``snakemq keygen`` makes it;
    * a subject alternative name ``DNS:<identifier>``, or the common name.

    The certificate must have been verified: TLS on both sides, with ``ca_certs`` and
    ``cert_reqs=ssl.CERT_REQUIRED`` (which is what a ``Peer`` does if it is given
    ``ca_certs``).

    :param common_name: whether the common name counts
    """

    def __init__(self, *, common_name: bool = True) -> None:
        self.common_name = common_name

    def check(self, ident: str, tls: TlsInfo | None) -> None:
        """Compare.

        :raises IdentityMismatch: it is not
        """
        if tls is None:
            raise IdentityMismatch("without TLS there is no certificate", ident)
        if not tls.certificate:
            raise IdentityMismatch("it has shown no certificate that was verified", ident)
        names = self._names(tls.certificate)
        if ident not in names:
            listed = ", ".join(map(ascii, sorted(names)[:5])) or "nobody"
            raise IdentityMismatch(f"its certificate is for {listed}", ident)

    def _names(self, certificate: Mapping[str, Any]) -> set[str]:
        alternatives = certificate.get("subjectAltName", ())
        own = {
            unquote(value.removeprefix(_URI_PREFIX))
            for kind, value in alternatives
            if kind == "URI" and value.startswith(_URI_PREFIX)
        }
        if own:
            return own
        names = {value for kind, value in alternatives if kind == "DNS"}
        if self.common_name:
            subject = certificate.get("subject", ())
            names |= {value for rdn in subject for kind, value in rdn if kind == "commonName"}
        return names

    def __repr__(self) -> str:
        return f"CertificateName(common_name={self.common_name})"


class CertificateFingerprint:
    """The certificate that the peer has shown with TLS has to be a known one.

    Nobody has to have issued it: with ``cert_reqs=ssl.CERT_NONE`` and
    ``check_hostname=False`` a connector can so pin a certificate that signed itself.
    (A listener is shown certificates only if it asks for them, and then they have to
    be trusted: put them into its ``ca_certs``.)

    :param fingerprints: for each identifier the SHA-256 of its certificate (64
        hexadecimal digits, with or without colons), or several. Others are refused.
    :raises ValueError: that is no SHA-256
    """

    def __init__(self, fingerprints: Mapping[str, str | Iterable[str]]) -> None:
        self._known = {
            ident: frozenset(
                map(_normalized, [prints] if isinstance(prints, str) else list(prints))
            )
            for ident, prints in fingerprints.items()
        }

    def check(self, ident: str, tls: TlsInfo | None) -> None:
        """Compare.

        :raises IdentityMismatch: it is not
        """
        if tls is None:
            raise IdentityMismatch("without TLS there is no certificate", ident)
        if tls.certificate_bytes is None:
            raise IdentityMismatch("it has shown no certificate", ident)
        if ident not in self._known:
            raise IdentityMismatch("there is no fingerprint of its certificate here", ident)
        shown = hashlib.sha256(tls.certificate_bytes).hexdigest()
        if shown not in self._known[ident]:
            raise IdentityMismatch(f"its certificate has the fingerprint {shown}", ident)

    def __repr__(self) -> str:
        return f"<CertificateFingerprint of {len(self._known)} peers>"


def _normalized(fingerprint: str) -> str:
    digits = fingerprint.replace(":", "").lower()
    try:
        is_sha256 = len(bytes.fromhex(digits)) == hashlib.sha256().digest_size
    except ValueError:
        is_sha256 = False
    if not is_sha256:
        raise ValueError(
            f"a fingerprint is the SHA-256 of a certificate, 64 hexadecimal digits, not {digits!r}"
        )
    return digits


#: One way to show who one is; a function is called as ``func(conn_id, ident,
#: certificate)`` in the loop's thread, and says whether the peer is admitted.
Authentication: TypeAlias = (
    "SharedSecret | CertificateName | CertificateFingerprint "
    "| Callable[[str, str, dict[str, Any] | None], object]"
)
