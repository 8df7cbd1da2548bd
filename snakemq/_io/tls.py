"""TLS settings, and what connectors and listeners shake hands with."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Final

from snakemq._io.clock import monotonic
from snakemq._io.tls_context import (
    TLS_1_2,
    Files,
    Kind,
    Stamp,
    check_ready_context,
    make_context,
    stamp_of,
)
from snakemq._io.tls_socket import TlsSocket

__all__ = ["LOOK_INTERVAL", "SSLConfig", "TlsSide"]

# Python has a protocol constant for each version up to 1.2; the unversioned
# one, 1.6's default, is 2 (PROTOCOL_SSLv23, PROTOCOL_TLS).
_UNVERSIONED: Final = (2, int(ssl.PROTOCOL_TLS_CLIENT), int(ssl.PROTOCOL_TLS_SERVER))

#: So often at most it is looked whether a file has changed, in seconds.
LOOK_INTERVAL: Final = 1.0


class SSLConfig:
    """TLS settings of listeners and connectors. The first five arguments are 1.6's.

    Files are read when a listener or connector is added, and by :meth:`reload`. Keys must
    not be encrypted.

    What is checked of the other side depends on who asks, unless ``cert_reqs`` says it:

    * :class:`snakemq.Peer`, and ``Link(verify_tls=True)``: a connector wants a certificate
      by one of ``ca_certs`` (without that: by an authority that the system trusts) for the
      host that it dials. A listener wants a certificate by one of ``ca_certs`` if there
      are any, and asks for none otherwise.
    * ``Link()``, as in 1.6: nothing, so anybody may be there.

    :param keyfile: file with the private key (PEM); not needed if ``certfile``
        holds it too
    :param certfile: file with this side's certificate chain (PEM). A listener
        needs one; a connector if the other side asks for it.
    :param cert_reqs: ``ssl.CERT_NONE``: the other side's certificate is not checked;
        ``ssl.CERT_OPTIONAL``: checked if it shows one (a listener always shows one);
        ``ssl.CERT_REQUIRED``; ``None``: see above
    :param ssl_version: any version that both sides know (the default) or
        ``ssl.PROTOCOL_TLSv1_2``. Versions before TLS 1.2 are refused.
    :param ca_certs: file with the certificates (PEM) of the authorities that
        are trusted
    :param context: a ready context, for what can't be said here, in the place of all
        above and ``ciphers``. It is used as it is.
    :param check_hostname: whether a connector checks that the certificate is for the host
        that it dials. ``None``: see above; with ``Link()`` it does not.
    :param server_hostname: the name that a connector asks for and checks, if it is another
        one than the host that it dials
    :param ciphers: what TLS 1.2 may use, as OpenSSL writes it
    :param reload_on_change: see before handshakes, once a second at most, whether a file
        has changed, and :meth:`reload` then
    :raises ValueError: the combination can't work; the message says why
    :raises TypeError: ``context`` is none
    """

    def __init__(
        self,
        keyfile: str | os.PathLike[str] | None = None,
        certfile: str | os.PathLike[str] | None = None,
        cert_reqs: int | None = None,
        ssl_version: int = 2,
        ca_certs: str | os.PathLike[str] | None = None,
        *,
        context: ssl.SSLContext | None = None,
        check_hostname: bool | None = None,
        server_hostname: str | None = None,
        ciphers: str | None = None,
        reload_on_change: bool = False,
    ) -> None:
        if context is not None:
            if not isinstance(context, ssl.SSLContext):
                raise TypeError(f"context takes an ssl.SSLContext, not {type(context).__name__}")
            others = keyfile, certfile, cert_reqs, ca_certs, check_hostname, ciphers
            if reload_on_change or ssl_version != 2 or any(one is not None for one in others):
                raise ValueError(
                    "a ready context is used as it is: set there what the other arguments "
                    "say (server_hostname may be given here)"
                )
        if ssl_version not in (*_UNVERSIONED, TLS_1_2):
            raise ValueError(
                f"ssl_version {ssl_version!r} is not supported: leave it out for the best "
                "version both sides know, TLS 1.2 at least"
            )
        if keyfile is not None and certfile is None:
            raise ValueError("keyfile needs certfile: the certificate that belongs to the key")
        if check_hostname and cert_reqs is not None and not cert_reqs:
            raise ValueError(
                "check_hostname needs cert_reqs=ssl.CERT_REQUIRED: anybody can write any name "
                "into a certificate that is not checked"
            )
        if server_hostname is not None and _name_for_tls(server_hostname) is None:
            raise ValueError(f"server_hostname {server_hostname!r} is no host name")
        if ciphers is not None:
            _check_ciphers(ciphers)
        self.keyfile = keyfile
        self.certfile = certfile
        #: what was asked for; ``CERT_NONE`` also if nothing was
        self.cert_reqs = ssl.VerifyMode(cert_reqs or 0)
        self.ssl_version = ssl_version
        self.ca_certs = ca_certs
        self.context = context
        self.check_hostname = check_hostname
        self.server_hostname = server_hostname
        self.ciphers = ciphers
        self.reload_on_change = reload_on_change

        self._is_default = cert_reqs is None
        self._contexts = _Contexts(self._files, self._make)

    def create_context(self, *, server_side: bool, verify: bool = False) -> ssl.SSLContext:
        """Make a context of one side, that nothing else uses.

        :param verify: check what :class:`snakemq.Peer` checks
        :return: a new one, or the ready one
        :raises ValueError: it can't work, for instance a listener without a certificate
        :raises OSError: a file can't be read, or is not what it should be
            (:class:`ssl.SSLError`)
        """
        if self.context is not None:
            check_ready_context(self.context, server_side=server_side)
            return self.context
        return self._make(self._kind(server_side, verify))

    def reload(self) -> None:
        """Read the files again, for handshakes from now on. From any thread.

        Connections stay as they are. If a file can't be used, what was read before stays
        in use. Does nothing before a listener or connector was added.

        :raises OSError: a file can't be read, or is not what it should be
            (:class:`ssl.SSLError`)
        :raises ValueError: the key is encrypted, or there are no files but a ready context
        """
        if self.context is not None:
            raise ValueError("there are no files here: load them into the context again")
        self._contexts.reload()

    def _kind(self, server_side: bool, verify: bool) -> Kind:
        if server_side:
            if self.certfile is None:
                raise ValueError("a TLS listener needs certfile (and keyfile)")
            if self.cert_reqs and self.ca_certs is None:
                raise ValueError(
                    "cert_reqs of a listener needs ca_certs: the authorities whose "
                    "certificates are accepted"
                )
            wanted = verify and self.ca_certs is not None
            return Kind(True, self._verify_mode(wanted), False)
        mode = self._verify_mode(verify or bool(self.check_hostname))
        check = verify if self.check_hostname is None else self.check_hostname
        return Kind(False, mode, check and mode is not ssl.CERT_NONE)

    def _verify_mode(self, wanted: bool) -> ssl.VerifyMode:
        if self._is_default and wanted:
            return ssl.CERT_REQUIRED
        return self.cert_reqs

    def _files(self) -> Files:
        return Files(self.keyfile, self.certfile, self.ca_certs)

    def _make(self, kind: Kind) -> ssl.SSLContext:
        return make_context(
            kind, self._files(), only_1_2=self.ssl_version == TLS_1_2, ciphers=self.ciphers
        )

    def __repr__(self) -> str:
        if self.context is not None:
            return f"<SSLConfig context={self.context!r}>"
        return (
            f"<SSLConfig certfile={self.certfile!r} cert_reqs={self.cert_reqs.name} "
            f"ca_certs={self.ca_certs!r}>"
        )


class _Contexts:
    """The contexts that settings have been asked for, and when their files have changed.

    Thread-safe: listeners and connectors of several links may share settings.

    :param files: tells where they are
    :param make: makes a context of them
    """

    def __init__(self, files: Callable[[], Files], make: Callable[[Kind], ssl.SSLContext]) -> None:
        self._files = files
        self._make = make
        self._lock = threading.Lock()
        # Replaced, never changed: a handshake looks here without the lock.
        self._made: dict[Kind, ssl.SSLContext] = {}
        self._stamp: Stamp = ()  # of the files that are in use
        self._tried: Stamp = ()  # of those that were read the last time
        self._look_at = 0.0

    def current(self, kind: Kind) -> ssl.SSLContext:
        """What a handshake that begins now uses; :meth:`add` was called."""
        return self._made[kind]

    def add(self, kind: Kind) -> None:
        """Have one of this kind. If the files have changed all are made again."""
        with self._lock:
            if stamp_of(self._files()) != self._stamp:
                self._read([*self._made, kind])
            elif kind not in self._made:
                self._made = {**self._made, kind: self._make(kind)}

    def reload(self) -> None:
        """Make all again."""
        with self._lock:
            self._read(self._made)

    def reload_if_changed(self) -> None:
        """Make all again if the files have changed; looks once a second at most.

        Files that can't be used are left alone until they change again.
        """
        with self._lock:
            now = monotonic()
            if now < self._look_at:
                return
            self._look_at = now + LOOK_INTERVAL
            if stamp_of(self._files()) != self._tried:
                self._read(self._made)

    def _read(self, kinds: Iterable[Kind]) -> None:
        # The stamp first: what changes while it is read is seen the next time.
        self._tried = stamp_of(self._files())
        self._made = {kind: self._make(kind) for kind in kinds}
        self._stamp = self._tried


class TlsSide:
    """What one listener, or one connector, shakes hands with.

    :param settings: settings, or a ready context
    :param host: that a connector dials; ``None``: it is for a listener
    :param verify: whether the other side is checked if nothing else was said
    :raises TypeError: ``settings`` is neither
    :raises ValueError: it can't work; the message says why
    :raises OSError: a file can't be used
    """

    __slots__ = ("_kind", "config", "server_hostname")

    def __init__(
        self, settings: SSLConfig | ssl.SSLContext, host: str | None = None, *, verify: bool
    ) -> None:
        config = SSLConfig(context=settings) if isinstance(settings, ssl.SSLContext) else settings
        if not isinstance(config, SSLConfig):
            raise TypeError(
                "ssl_config takes a snakemq.SSLConfig or an ssl.SSLContext, not "
                f"{type(config).__name__}"
            )
        self.config = config
        #: that a connector asks for and checks
        self.server_hostname: str | None = None
        self._kind: Kind | None = None
        if host is not None:
            self.server_hostname = config.server_hostname or _name_for_tls(host)
        if config.context is None:
            self._kind = config._kind(host is None, verify)
            check_hostname = self._kind.check_hostname
        else:
            check_ready_context(config.context, server_side=host is None)
            check_hostname = host is not None and config.context.check_hostname
        if check_hostname and self.server_hostname is None:
            raise ValueError(
                f"{host!r} is no host name that a certificate can be for: set server_hostname, "
                "or check_hostname=False"
            )
        if self._kind is not None:
            config._contexts.add(self._kind)

    def look_for_changes(self) -> None:
        """For a handshake: read the files again if they have changed and this was asked for.

        :raises OSError: they can't be used. What was read before stays in use, and they
            are left alone until they change again.
        :raises ValueError: likewise
        """
        if self.config.reload_on_change:
            self.config._contexts.reload_if_changed()

    def wrap(self, sock: socket.socket, *, server_side: bool) -> TlsSocket:
        """TLS over a connected socket. The handshake is left to the caller."""
        context = self.config.context
        if self._kind is not None:
            context = self.config._contexts.current(self._kind)
        assert context is not None
        return TlsSocket(
            sock,
            context,
            server_side=server_side,
            server_hostname=None if server_side else self.server_hostname,
        )


def _name_for_tls(host: str) -> str | None:
    """How a host that is dialled is called in a handshake; ``None``: not at all."""
    name = host.partition("%")[0].rstrip(".")  # a zone is of this machine only
    try:
        name.encode("idna")
    except UnicodeError:
        return None
    return None if not name or name.startswith(".") else name


def _check_ciphers(ciphers: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers(ciphers)
    except ssl.SSLError:
        raise ValueError(f"ciphers {ciphers!r} has none that OpenSSL knows") from None
