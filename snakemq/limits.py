"""How much may be queued, how many may connect, and what happens when that is reached."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields, replace
from math import isinf
from typing import Final

__all__ = ["ConnectionLimits", "DropReason", "QueueLimits", "WhenFull"]


class WhenFull(enum.Enum):
    """What happens to a message for which there is no room."""

    #: :exc:`~snakemq.exceptions.QueueFull` is raised
    REFUSE = "refuse"
    #: the caller waits until there is room; ``QueueFull`` after
    #: :attr:`QueueLimits.block_timeout`, and at once in a callback, for which
    #: the loop would have to wait
    BLOCK = "block"
    #: the oldest messages that wait for the same peer are dropped; ``QueueFull``
    #: if that is not enough, because what is on its way is not dropped
    DROP_OLDEST = "drop oldest"


class DropReason(enum.Enum):
    """Why a message was dropped."""

    #: its time to live was over, or it was 0 and the connection was lost
    EXPIRED = "expired"
    #: the queue was full, and it was the oldest
    QUEUE_FULL = "queue full"


_NUMBERS: Final = (
    "max_messages",
    "max_bytes",
    "total_messages",
    "total_bytes",
    "max_stored_messages",
    "max_stored_bytes",
    "total_stored_messages",
    "total_stored_bytes",
)


@dataclass(frozen=True)
class QueueLimits:
    """How much may be queued: waiting, on its way or not yet acknowledged.

    The first four are about memory: messages that are not persistent, and all
    of them if there is no storage. The next four are about the storage: what
    is in it takes room on the disk, and next to none in memory. What a storage
    has kept is queued whatever the limits; it counts, though.

    :ivar max_messages: for one peer
    :ivar max_bytes: likewise, of data
    :ivar total_messages: for all peers together
    :ivar total_bytes: likewise, of data
    :ivar max_stored_messages: in the storage, for one peer
    :ivar max_stored_bytes: likewise, of data
    :ivar total_stored_messages: in the storage, for all peers together
    :ivar total_stored_bytes: likewise, of data
    :ivar when_full: what happens to a message over that
    :ivar block_timeout: how long :attr:`WhenFull.BLOCK` waits, in seconds;
        ``None``: until there is room
    :raises ValueError: a limit of less than 1, or a negative timeout
    """

    max_messages: int = 2_000_000
    max_bytes: int = 1 << 30
    total_messages: int = 4_000_000
    total_bytes: int = 2 << 30
    max_stored_messages: int = 100_000_000
    max_stored_bytes: int = 64 << 30
    total_stored_messages: int = 200_000_000
    total_stored_bytes: int = 128 << 30
    when_full: WhenFull = WhenFull.REFUSE
    block_timeout: float | None = None

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            value = getattr(self, name)
            if not isinstance(value, int):
                raise TypeError(f"{name} must be an int, not {type(value).__name__}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not isinstance(self.when_full, WhenFull):
            raise TypeError(f"when_full takes a WhenFull, not {type(self.when_full).__name__}")
        if self.block_timeout is not None and not self.block_timeout >= 0:
            raise ValueError(
                f"block_timeout must be None or at least 0 seconds, not {self.block_timeout!r}"
            )

    def of_storage(self) -> QueueLimits:
        """The same with the limits of the storage in the place of those of the memory."""
        return replace(
            self,
            max_messages=self.max_stored_messages,
            max_bytes=self.max_stored_bytes,
            total_messages=self.total_stored_messages,
            total_bytes=self.total_stored_bytes,
        )


@dataclass(frozen=True)
class ConnectionLimits:
    """What those who connect may take, above all before it is known who they are.

    A stranger is never kept waiting by other strangers: when there are too many, the
    one that has been there for longest without saying who it is has to go. The addresses
    of a network of IPv6 whose first 64 bits are the same count as one.

    :ivar max_connections: accepted connections at a time; more are closed at once
    :ivar accept_rate: connections accepted in a second; more wait with the system.
        As many as in one second may come at once.
    :ivar max_handshakes: TLS handshakes at a time of connections that were accepted
    :ivar max_handshakes_per_address: of these from one address
    :ivar handshake_timeout: how long a TLS handshake may take, in seconds;
        ``math.inf``: for ever
    :ivar max_unidentified: connections at a time of which it is not known who they are
    :ivar max_unidentified_per_address: of these from one address
    :ivar identification_timeout: how long a connection may take to say who it is, and
        to prove it if it has to, in seconds; ``math.inf``: for ever
    :ivar max_packet_size: the largest packet that is sent or accepted, in bytes
    :ivar max_unfinished_bytes: what all connections together may have received of
        packets that are not complete, in bytes; the connection that has most of it is
        closed
    :raises TypeError: a limit is not a number
    :raises ValueError: a limit is too small, or too large
    """

    max_connections: int = 16_384
    accept_rate: float = 1000.0
    max_handshakes: int = 1024
    max_handshakes_per_address: int = 512
    handshake_timeout: float = 10.0
    max_unidentified: int = 4096
    max_unidentified_per_address: int = 1024
    identification_timeout: float = 10.0
    max_packet_size: int = 1 << 30
    max_unfinished_bytes: int = 2 << 30

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            is_seconds = field.type == "float"
            allowed = (int, float) if is_seconds else int
            if isinstance(value, bool) or not isinstance(value, allowed):
                kind = "a number" if is_seconds else "a whole number"
                raise TypeError(f"{field.name} takes {kind}, not {type(value).__name__}")
            if not value > 0:
                raise ValueError(f"{field.name} must be more than 0, not {value!r}")
        if isinf(self.accept_rate):
            raise ValueError("accept_rate must be finite: a million is as good as no limit")
        if self.max_packet_size > 0xFFFFFFFF:
            raise ValueError(
                f"max_packet_size must be at most {0xFFFFFFFF}, not {self.max_packet_size}"
            )
