"""TLS settings and the contexts made of them."""

from __future__ import annotations

import os
import ssl
from typing import Final

__all__ = ["SSLConfig"]

# Python has a protocol constant for each version up to 1.2; the unversioned
# one, 1.6's default, is 2 (PROTOCOL_SSLv23, PROTOCOL_TLS).
_UNVERSIONED: Final = (2, int(ssl.PROTOCOL_TLS_CLIENT), int(ssl.PROTOCOL_TLS_SERVER))
_TLS_1_2: Final = 5


class SSLConfig:
    """TLS settings of a listener or a connector, with 1.6's arguments.

    The files are read when the listener or connector is added.

    :param keyfile: file with the private key (PEM); not needed if ``certfile``
        holds it too
    :param certfile: file with this side's certificate chain (PEM). A listener
        needs one; a connector if the other side asks for it.
    :param cert_reqs: ``ssl.CERT_NONE`` (the default, as in 1.6): the other
        side's certificate is not checked, so anybody may be there;
        ``ssl.CERT_OPTIONAL``: checked if it shows one; ``ssl.CERT_REQUIRED``
    :param ssl_version: any version that both sides know (the default) or
        ``ssl.PROTOCOL_TLSv1_2``. Versions before TLS 1.2 are refused.
    :param ca_certs: file with the certificates (PEM) of the authorities that
        are trusted
    :raises ValueError: the combination can't work; the message says why
    """

    def __init__(
        self,
        keyfile: str | os.PathLike[str] | None = None,
        certfile: str | os.PathLike[str] | None = None,
        cert_reqs: int = 0,
        ssl_version: int = 2,
        ca_certs: str | os.PathLike[str] | None = None,
    ) -> None:
        if ssl_version not in (*_UNVERSIONED, _TLS_1_2):
            raise ValueError(
                f"ssl_version {ssl_version!r} is not supported: leave it out for the best "
                "version both sides know, TLS 1.2 at least"
            )
        if keyfile is not None and certfile is None:
            raise ValueError("keyfile needs certfile: the certificate that belongs to the key")
        if cert_reqs and ca_certs is None:
            raise ValueError(
                "cert_reqs needs ca_certs: the authorities whose certificates are accepted"
            )
        self.keyfile = keyfile
        self.certfile = certfile
        self.cert_reqs = ssl.VerifyMode(cert_reqs)
        self.ssl_version = ssl_version
        self.ca_certs = ca_certs

    def create_context(self, *, server_side: bool) -> ssl.SSLContext:
        """Make the context of one side.

        :raises ValueError: a listener without a certificate
        :raises OSError: a file can't be read, or is not what it should be
            (:class:`ssl.SSLError`)
        """
        if server_side and self.certfile is None:
            raise ValueError("a TLS listener needs certfile (and keyfile)")
        context = ssl.SSLContext(
            ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT
        )
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ssl_version == _TLS_1_2:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False  # 1.6 has no way to say the name
        context.verify_mode = self.cert_reqs
        if self.certfile is not None:
            context.load_cert_chain(self.certfile, self.keyfile)
        if self.ca_certs is not None:
            context.load_verify_locations(self.ca_certs)
        return context

    def __repr__(self) -> str:
        return (
            f"<SSLConfig certfile={self.certfile!r} cert_reqs={self.cert_reqs.name} "
            f"ca_certs={self.ca_certs!r}>"
        )
