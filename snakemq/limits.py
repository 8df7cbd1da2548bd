"""How much may be queued, and what happens when that is reached."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final

__all__ = ["DropReason", "QueueLimits", "WhenFull"]


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
