"""Every exception that the stack raises or reports, in one tree.

::

    SnakeMQException
    ├── NoConnection               the connection is not (or no longer) there
    ├── SendNotFinished            second Link.send before on_ready_to_send
    ├── SnakeMQBrokenFormat        the other side sent something malformed
    │   ├── SnakeMQBrokenPacket    ... on the packet level
    │   │   └── PacketTooLarge     a packet over the limit, received or sent
    │   └── SnakeMQBrokenMessage   ... on the frame level
    ├── SnakeMQIncompatibleProtocol
    ├── SnakeMQNoIdent             a message before the identification
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
    "NoConnection",
    "PacketTooLarge",
    "PeerClosed",
    "QueueFull",
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


class SnakeMQBrokenMessage(SnakeMQBrokenFormat):
    """A received frame has the wrong structure."""


class SnakeMQIncompatibleProtocol(SnakeMQException):
    """The other side speaks another version of the protocol."""


class SnakeMQNoIdent(SnakeMQException):
    """The other side sent a message before it identified itself."""


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
