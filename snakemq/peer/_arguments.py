"""Checks of arguments: a mistake is reported to who made it, and says what is right."""

from __future__ import annotations

from typing import TypeAlias

from snakemq._core.frames import MAX_IDENT_LENGTH

__all__ = ["Data", "check_ident", "check_positive", "check_type", "to_bytes"]

#: What can be sent as a message.
Data: TypeAlias = "bytes | bytearray | memoryview | str"


def check_ident(ident: str, name: str) -> None:
    """Whether this can be the identifier of a peer.

    :param name: of the argument
    :raises TypeError: it is not a string
    :raises ValueError: it is too short or too long
    """
    if not isinstance(ident, str):
        raise TypeError(f"{name} must be a string, not {type(ident).__name__}: {ident!r}")
    if not 1 <= len(ident) <= MAX_IDENT_LENGTH:
        raise ValueError(
            f"{name} must have 1 to {MAX_IDENT_LENGTH} characters, not {len(ident)}: {ident!r}"
        )


def check_positive(value: float | None, name: str, unit: str) -> None:
    """Whether this is ``None`` or a number above 0.

    :param name: of the argument
    :param unit: of the number
    :raises TypeError: it is not a number
    :raises ValueError: it is not above 0
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} takes a number of {unit}, not {type(value).__name__}")
    if not value > 0:
        raise ValueError(f"{name} must be more than 0 {unit}, not {value!r}")


def check_type(value: object, name: str, *kinds: type) -> None:
    """Whether this is ``None`` or one of these.

    :param kinds: the first is the one that an error names
    :param name: of the argument
    :raises TypeError: it is not
    """
    if value is not None and not isinstance(value, kinds):
        raise TypeError(f"{name} takes a snakemq.{kinds[0].__name__}, not {type(value).__name__}")


def to_bytes(data: Data) -> bytes:
    """The payload; a string in UTF-8.

    :raises TypeError: it is neither bytes nor text
    """
    if isinstance(data, str):
        return data.encode("utf-8")
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"data must be bytes or str, not {type(data).__name__}")
