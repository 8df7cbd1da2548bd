"""Why a connection is closed, said to the other side before it is.

The payload of a refusal frame is the number of the reason, ``!H``. What comes
behind it is passed over.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

from snakemq._core.frames import FrameType
from snakemq.exceptions import (
    AuthenticationError,
    AuthenticationMissing,
    IdentityMismatch,
    NotAdmitted,
    SnakeMQBrokenMessage,
    WrongSecret,
)

__all__ = ["Refusal", "decode_refusal", "describe_refusal", "encode_refusal", "refusal_of"]

_CODE: Final = struct.Struct("!H")


class Refusal(enum.IntEnum):
    """Numbers of reasons."""

    IDENTITY_MISMATCH = 1
    WRONG_SECRET = 2
    AUTHENTICATION_MISSING = 3
    NOT_ADMITTED = 4
    ALREADY_CONNECTED = 5
    IDENTIFICATION_TIMEOUT = 6
    TOO_MANY_STRANGERS = 7


_WORDS: Final[dict[int, str]] = {
    Refusal.IDENTITY_MISMATCH: "the certificate of this side is not for its identifier",
    Refusal.WRONG_SECRET: "this side does not have the same shared secret",
    Refusal.AUTHENTICATION_MISSING: (
        "it wants to see a shared secret proved, and this side is not set up for that"
    ),
    Refusal.NOT_ADMITTED: "its application does not admit this identifier",
    Refusal.ALREADY_CONNECTED: "a peer with this identifier is connected to it, and alive",
    Refusal.IDENTIFICATION_TIMEOUT: "this side took too long to say, or to prove, who it is",
    Refusal.TOO_MANY_STRANGERS: "too many connections have not said yet who they are",
}

_REASONS: Final[dict[type[AuthenticationError], Refusal]] = {
    IdentityMismatch: Refusal.IDENTITY_MISMATCH,
    WrongSecret: Refusal.WRONG_SECRET,
    AuthenticationMissing: Refusal.AUTHENTICATION_MISSING,
    NotAdmitted: Refusal.NOT_ADMITTED,
}


def encode_refusal(reason: Refusal) -> bytes:
    """A refusal frame."""
    return bytes([FrameType.REFUSAL]) + _CODE.pack(reason)


def decode_refusal(payload: bytes) -> int:
    """The number of the reason, which need not be a known one.

    :raises SnakeMQBrokenMessage: too short
    """
    if len(payload) < _CODE.size:
        raise SnakeMQBrokenMessage(f"a refusal of {len(payload)} bytes")
    (code,) = _CODE.unpack_from(payload)
    return int(code)


def describe_refusal(code: int) -> str:
    """In words, as the side that is refused sees it."""
    return _WORDS.get(code, f"reason {code}, which is not known here")


def refusal_of(exc: AuthenticationError) -> Refusal:
    """The reason that the other side is told."""
    return _REASONS.get(type(exc), Refusal.NOT_ADMITTED)
