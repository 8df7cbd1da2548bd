"""Every exception that the stack raises or reports, in one tree.

::

    SnakeMQException
    ├── NoConnection               the connection is not (or no longer) there
    ├── SendNotFinished            second Link.send before on_ready_to_send
    ├── SnakeMQBrokenFormat        the other side sent something malformed
    │   ├── SnakeMQBrokenPacket    ... on the packet level
    │   │   └── PacketTooLarge     a packet over the limit, received or sent
    │   └── SnakeMQBrokenMessage   ... on the frame level
    ├── TooMuchUnfinished          too much was received of packets that are not complete
    ├── SnakeMQIncompatibleProtocol
    ├── SnakeMQNoIdent             a message before the identification
    ├── TlsError                   a TLS connection could not be made, or broke
    │   ├── CertificateExpired     ... the other side's certificate is not valid now
    │   ├── CertificateNotTrusted  ... it was not issued by anybody that is trusted here
    │   ├── CertificateMissing     ... the other side has shown none
    │   ├── WrongHostName          ... it is for another host than the one that was dialled
    │   ├── OwnCertificateRefused  ... the other side did not accept what this side showed
    │   └── NotTls                 ... one side speaks TLS, and the other one does not
    ├── AuthenticationError        the other side has not proved that it is who it says
    │   ├── AuthenticationMissing  ... it did not even try
    │   ├── IdentityMismatch       ... its certificate is somebody else's
    │   ├── WrongSecret            ... it does not know the secret
    │   └── NotAdmitted            ... the application's own check refused it
    ├── RefusedByPeer              the other side says that it does not want this one
    ├── SnakeMQUnknownRoute
    ├── QueueFull                  no room for one more message
    ├── StorageError               a queue storage can't do what was asked
    │   ├── StorageInUse           ... because another process has it open
    │   ├── StorageUnavailable     ... because its server can't be reached now
    │   └── StorageDamaged         ... because it is not what it should be
    └── PeerClosed                 the Peer was stopped

Names that start with ``SnakeMQ`` and :class:`NoConnection` and
:class:`SendNotFinished` are 1.6's. The exceptions of remote calls live in
:mod:`snakemq.rpc`, where 1.6 has them.
"""

from __future__ import annotations

__all__ = [
    "AuthenticationError",
    "AuthenticationMissing",
    "CertificateExpired",
    "CertificateMissing",
    "CertificateNotTrusted",
    "IdentityMismatch",
    "NoConnection",
    "NotAdmitted",
    "NotTls",
    "OwnCertificateRefused",
    "PacketTooLarge",
    "PeerClosed",
    "QueueFull",
    "RefusedByPeer",
    "SendNotFinished",
    "SnakeMQBrokenFormat",
    "SnakeMQBrokenMessage",
    "SnakeMQBrokenPacket",
    "SnakeMQException",
    "SnakeMQIncompatibleProtocol",
    "SnakeMQNoIdent",
    "SnakeMQUnknownRoute",
    "StorageDamaged",
    "StorageError",
    "StorageInUse",
    "StorageUnavailable",
    "TlsError",
    "TooMuchUnfinished",
    "WrongHostName",
    "WrongSecret",
]


class SnakeMQException(Exception):
    """Base of all exceptions of this package."""


class NoConnection(SnakeMQException):
    """The connection does not exist, or not any more. Nothing was sent."""


class SendNotFinished(SnakeMQException):
    """A send is in progress on this connection; wait for ``on_ready_to_send``.

    The connection is not affected and the data of this call was not taken.
    """


class SnakeMQBrokenFormat(SnakeMQException):
    """The other side sent something malformed; its connection is closed."""


class SnakeMQBrokenPacket(SnakeMQBrokenFormat):
    """A received packet has the wrong structure."""


class PacketTooLarge(SnakeMQBrokenPacket, ValueError):
    """A packet is over the limit.

    Raised to the caller who sends such a packet (nothing was sent); reported
    through ``on_error`` when the other side announces one (its connection is
    closed).

    :ivar size: size of the packet, in bytes
    :ivar limit: the limit, in bytes
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return f"a packet of {self.size} bytes is over the limit of {self.limit} bytes"


class TooMuchUnfinished(SnakeMQException):
    """All connections together have received too much of packets that are not complete.

    Reported through ``on_error`` for the connection that has most of it; it is closed.

    :ivar limit: in bytes
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"more than {self.limit} bytes of unfinished packets on all connections together"


class SnakeMQBrokenMessage(SnakeMQBrokenFormat):
    """A received frame has the wrong structure."""


class SnakeMQIncompatibleProtocol(SnakeMQException):
    """The other side speaks another version of the protocol."""


class SnakeMQNoIdent(SnakeMQException):
    """The other side sent a message before it identified itself."""


class TlsError(SnakeMQException):
    """A TLS connection could not be made, or was ended by TLS; the message says why.

    :ivar remote_peer: address of the other side
    """

    def __init__(self, message: str, remote_peer: object = None) -> None:
        super().__init__(message)
        self.remote_peer = remote_peer


class CertificateExpired(TlsError):
    """The other side's certificate is not valid any more, or not yet."""


class CertificateNotTrusted(TlsError):
    """The other side's certificate was not issued by anybody that is trusted here."""


class CertificateMissing(TlsError):
    """The other side has shown no certificate, and it has to."""


class WrongHostName(TlsError):
    """The other side's certificate is not for the host that was dialled."""


class OwnCertificateRefused(TlsError):
    """The other side did not accept the certificate of this one, or asks for one."""


class NotTls(TlsError):
    """One of the two sides speaks TLS, and the other one does not."""


class AuthenticationError(SnakeMQException):
    """The other side has not proved that it is who it says; its connection is closed.

    :ivar ident: who it says that it is
    """

    def __init__(self, message: str, ident: str = "") -> None:
        super().__init__(message)
        self.ident = ident


class AuthenticationMissing(AuthenticationError):
    """It did not try to prove anything: it is, or pretends to be, one of 1.6; or has no secret."""


class IdentityMismatch(AuthenticationError):
    """Its certificate is somebody else's, or it has none."""


class WrongSecret(AuthenticationError):
    """Its proof is wrong: another secret, or a proof that was made for another connection."""


class NotAdmitted(AuthenticationError):
    """The application's own check refused it."""


class RefusedByPeer(SnakeMQException):
    """The other side says why it closes the connection.

    :ivar code: the reason, a number of the protocol
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class SnakeMQUnknownRoute(SnakeMQException):
    """The destination of a message is unknown. (1.6's; never raised.)"""


class QueueFull(SnakeMQException):
    """There is no room for the message (or the batch); nothing of it was queued.

    See :class:`snakemq.limits.QueueLimits`.
    """


class StorageError(SnakeMQException):
    """A queue storage can't do what was asked; the message says what to do."""


class StorageInUse(StorageError):
    """Another process (or another storage object) has the queue storage open.

    :ivar holder: who has it, as far as that is known, else an empty string
    """

    def __init__(self, message: str, holder: str = "") -> None:
        super().__init__(message)
        self.holder = holder


class StorageUnavailable(StorageError):
    """The server of a queue storage can't be reached now; try again later."""


class StorageDamaged(StorageError):
    """The content of a queue storage is not what it should be; it was left as it is."""


class PeerClosed(SnakeMQException):
    """The operation needs a running :class:`snakemq.Peer`, and it was stopped."""
