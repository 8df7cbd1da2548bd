"""Decisions out of the bytes that a fuzzer has made up."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Fodder", "check_brief", "cut"]

#: Characters of the message of an exception, most of which may be the sender's.
_BRIEF = 4000


class Fodder:
    """Takes bytes from the front; when they are used up there are zeros.

    :param data: what the fuzzer has made up
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def byte(self) -> int:
        """A number from 0 to 255."""
        return self.number(1)

    def number(self, size: int) -> int:
        """An unsigned number of ``size`` bytes."""
        return int.from_bytes(self.take(size).ljust(size, b"\0"), "big")

    def take(self, size: int) -> bytes:
        """At most so many bytes."""
        start = self._position
        self._position += size
        return self._data[start : self._position]

    def block(self) -> bytes:
        """Bytes with their length before them, in two bytes."""
        return self.take(self.number(2))

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))


def cut(data: bytes, sizes: bytes) -> Iterator[bytes]:
    """The data in pieces, none of them empty.

    :param sizes: of the pieces, one byte for each, over and over; 0 is 256. Without any
        the data is one piece.
    """
    position = turn = 0
    while position < len(data):
        size = sizes[turn % len(sizes)] or 256 if sizes else len(data)
        turn += 1
        yield data[position : position + size]
        position += size


def check_brief(exc: Exception) -> None:
    """A refusal does not say again all that was sent."""
    assert len(str(exc)) < _BRIEF
