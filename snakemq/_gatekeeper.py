"""Who is let in: the policies of a peer, and the proofs that they ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from snakemq._core.authentication import Exchange, Role, find_secret, make_proof
from snakemq._core.features import Feature
from snakemq._core.frames import FrameType
from snakemq._peer_connection import PeerConnection
from snakemq._peer_log import PeerLog
from snakemq.authentication import (
    Authentication,
    CertificateFingerprint,
    CertificateName,
    SharedSecret,
)
from snakemq.exceptions import NotAdmitted, WrongSecret
from snakemq.packeter import Packeter

__all__ = ["Gatekeeper"]


class Gatekeeper:
    """Checks the claims of those who connect. Loop thread only.

    First the certificate, as soon as it is known who the other side claims to
    be; then the secret, for which a message has to go each way; at last the
    application is asked, so that it hears only of those who satisfied the rest.

    :param packeter: the layer below
    :param identifier: this peer's
    :param authentication: one way to show who one is, or several; all have to be
        satisfied
    :param log: where failures of the application's own check are told
    :raises TypeError: something that is no such way
    :raises ValueError: two shared secrets, or an empty list
    """

    def __init__(
        self,
        packeter: Packeter,
        identifier: str,
        authentication: Authentication | Sequence[Authentication] | None,
        log: PeerLog,
    ) -> None:
        self._packeter = packeter
        self._identifier = identifier
        self._log = log
        self._certificates: list[CertificateName | CertificateFingerprint] = []
        self._secret: SharedSecret | None = None
        self._checks: list[Callable[[str, str, dict[str, Any] | None], object]] = []
        for one in _as_list(authentication):
            if isinstance(one, (CertificateName, CertificateFingerprint)):
                self._certificates.append(one)
            elif isinstance(one, SharedSecret):
                if self._secret is not None:
                    raise ValueError("one SharedSecret is enough: it takes several secrets")
                self._secret = one
            elif callable(one):
                self._checks.append(one)
            else:
                raise TypeError(
                    "authentication takes SharedSecret, CertificateName, CertificateFingerprint "
                    f"or a function, not {type(one).__name__}"
                )

    @property
    def wants_proof(self) -> bool:
        """Whether the other sides have to prove that they know a secret."""
        return self._secret is not None

    def features(self, connection: PeerConnection) -> dict[Feature, bytes]:
        """What has to be announced on a new connection."""
        if self._secret is None:
            return {}
        connection.nonce = self._secret.make_nonce()
        return {Feature.AUTHENTICATION: connection.nonce}

    def check_claim(self, connection: PeerConnection) -> None:
        """Look at the identifier, and compare it with the certificate.

        :raises IdentityMismatch: it is somebody else's
        :raises WrongSecret: it is this peer's own
        """
        if self._secret is not None and connection.session.ident == self._identifier:
            # What this peer proves where it dials would prove it where it listens.
            raise WrongSecret("it says that it is this peer itself", self._identifier)
        if self._certificates:
            tls = self._packeter.get_tls(connection.conn_id)
            for one in self._certificates:
                one.check(connection.session.ident, tls)

    def prove_first(self, connection: PeerConnection) -> None:
        """The nonce of the other side is known: the side that dialled proves itself now."""
        if self._packeter.is_connector(connection.conn_id):
            secret = self._secrets_of(connection)[0]
            self._prove(connection, secret, Role.CONNECTOR, self._exchange(connection))

    def check_proof(self, connection: PeerConnection, proof: bytes) -> None:
        """The other side proves itself. If it is right, a listener does so now, too.

        :raises WrongSecret: it is not
        """
        ident = connection.session.ident
        dialled = self._packeter.is_connector(connection.conn_id)
        exchange = self._exchange(connection)
        secret = find_secret(
            self._secrets_of(connection),
            proof,
            Role.LISTENER if dialled else Role.CONNECTOR,
            exchange,
        )
        if secret is None:
            raise WrongSecret(
                "its proof is wrong: it has another shared secret, or somebody is in between", ident
            )
        if not dialled:
            self._prove(connection, secret, Role.LISTENER, exchange)
        connection.nonce = b""
        connection.session.proved()

    def ask_application(self, connection: PeerConnection) -> None:
        """All the rest is satisfied.

        :raises NotAdmitted: the application does not want it
        """
        conn_id, ident = connection.conn_id, connection.session.ident
        for check in self._checks:
            try:
                admitted = check(conn_id, ident, self._packeter.get_certificate(conn_id))
            except NotAdmitted as exc:
                raise NotAdmitted(str(exc), ident) from exc
            except Exception as exc:
                self._log.exception(ident, "conn=%s ident=%a authenticate() raised", conn_id, ident)
                raise NotAdmitted("authenticate() raised", ident) from exc
            except BaseException:
                # The loop may be called again, and nobody has said yes.
                if not connection.is_gone:
                    self._packeter.close(conn_id)
                raise
            if not admitted:
                raise NotAdmitted("authenticate() does not admit it", ident)

    @staticmethod
    def admitted(connection: PeerConnection) -> str:
        """Whose a message is that came.

        :raises NotAdmitted: it was not found out who it is: that was interrupted
        """
        ident = connection.session.ident
        if not connection.is_known:
            raise NotAdmitted("the check of who it is was interrupted", ident)
        return ident

    def _secrets_of(self, connection: PeerConnection) -> tuple[bytes, ...]:
        assert self._secret is not None
        ident = connection.session.ident
        try:
            return self._secret.secrets_of(ident)
        except Exception as exc:
            self._log.exception(ident, "conn=%s ident=%a no secret", connection.conn_id, ident)
            raise WrongSecret("the function of SharedSecret failed", ident) from exc

    def _prove(
        self, connection: PeerConnection, secret: bytes, role: Role, exchange: Exchange
    ) -> None:
        proof = make_proof(secret, role, exchange)
        self._packeter.send_packet(connection.conn_id, bytes([FrameType.PROOF]) + proof)

    def _exchange(self, connection: PeerConnection) -> Exchange:
        tls = self._packeter.get_tls(connection.conn_id)
        mine = (self._identifier, connection.nonce)
        others = (connection.session.ident, connection.session.nonce)
        dialled = self._packeter.is_connector(connection.conn_id)
        connector, listener = (mine, others) if dialled else (others, mine)
        return Exchange(
            connector[0],
            listener[0],
            connector[1],
            listener[1],
            tls.channel_binding if tls is not None else b"",
        )


def _as_list(
    authentication: Authentication | Sequence[Authentication] | None,
) -> Sequence[Authentication]:
    if authentication is None:
        return ()
    if not isinstance(authentication, Sequence):
        return (authentication,)
    if not authentication:
        raise ValueError(
            "authentication has nothing in it, so everybody would be let in: leave it out if "
            "that is what is meant"
        )
    return authentication
