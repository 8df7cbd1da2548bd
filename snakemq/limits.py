"""How much may be queued, and what happens when that is reached."""

from __future__ import annotations

import enum
from dataclasses import dataclass

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


@dataclass(frozen=True)
class QueueLimits:
    """How much may be queued: waiting, on its way or not yet acknowledged.

    What a storage has kept is queued whatever the limits; it counts, though.

    :ivar max_messages: for one peer
    :ivar max_bytes: likewise, of data
    :ivar total_messages: for all peers together
    :ivar total_bytes: likewise, of data
    :ivar when_full: what happens to a message over that
    :ivar block_timeout: how long :attr:`WhenFull.BLOCK` waits, in seconds;
        ``None``: until there is room
    :raises ValueError: a limit of less than 1, or a negative timeout
    """

    max_messages: int = 2_000_000
    max_bytes: int = 1 << 30
    total_messages: int = 4_000_000
    total_bytes: int = 2 << 30
    when_full: WhenFull = WhenFull.REFUSE
    block_timeout: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_messages", "max_bytes", "total_messages", "total_bytes"):
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
