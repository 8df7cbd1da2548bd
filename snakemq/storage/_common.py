"""Small rules that all storages share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime, timezone

from snakemq.message import MAX_UUID_LENGTH, Message

__all__ = [
    "check_keep",
    "check_seconds",
    "check_uuids",
    "make_message",
    "remaining",
    "wall_clock",
]


def check_seconds(seconds: float) -> None:
    """Refuse what no TTL can run for.

    :raises ValueError: it is negative or not finite
    """
    if not (seconds >= 0 and math.isfinite(seconds)):
        raise ValueError(f"seconds must be a finite number and at least 0, not {seconds!r}")


def remaining(ttl: float | None, seconds: float) -> float | None:
    """What is left of a TTL that ran for so long."""
    return None if ttl is None else max(ttl - seconds, 0.0)


def check_keep(keep: int) -> None:
    """Refuse to remember nothing.

    :raises ValueError: it is less than 1
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep!r}")


def check_uuids(uuids: Iterable[bytes]) -> list[bytes]:
    """The identifiers as a list.

    :raises ValueError: one is empty or too long
    """
    found = list(uuids)
    for uuid in found:
        if not 1 <= len(uuid) <= MAX_UUID_LENGTH:
            raise ValueError(f"a message uuid has 1 to {MAX_UUID_LENGTH} bytes, not {len(uuid)}")
    return found


def make_message(
    data: bytes, ttl: float | None, flags: int, uuid: bytes, redelivered: object
) -> Message:
    """A received message as it was."""
    message = Message(data, ttl, flags, uuid)
    if redelivered:
        message.redelivered = True
    return message


def wall_clock() -> float:
    """Seconds since 1970 (UTC); what people are told, and nothing is timed by."""
    return datetime.now(timezone.utc).timestamp()
