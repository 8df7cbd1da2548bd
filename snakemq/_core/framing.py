"""Packets on a stream of bytes.

======  ======  =========================================
offset  size    meaning
======  ======  =========================================
0       4       length of the content, unsigned, big-endian
4       length  content
======  ======  =========================================
"""

from __future__ import annotations

import struct
from typing import Final

from snakemq.exceptions import PacketTooLarge

__all__ = ["HEADER_SIZE", "MAX_LENGTH", "PacketDecoder", "encode_header", "encode_packet"]

_HEADER: Final = struct.Struct("!I")

#: Size of the length that precedes each packet, in bytes.
HEADER_SIZE: Final = _HEADER.size

#: The longest content that the length can express, in bytes.
MAX_LENGTH: Final = 0xFFFFFFFF

#: ``encode_header(length)`` gives the bytes that precede a content of ``length``.
encode_header = _HEADER.pack

#: Pieces below the first size are put together up to the second one, in bytes.
_SMALL_PIECE: Final = 2048
_LARGE_PIECE: Final = 16 * 1024

_decode_header = _HEADER.unpack_from


def encode_packet(content: bytes) -> bytes:
    """A packet, its header included. For small ones: it copies."""
    return encode_header(len(content)) + content


class PacketDecoder:
    """Finds the packets in a stream that arrives in pieces of any size.

    Memory grows with what was received, never with what was announced. Bytes
    are copied at most once before :meth:`feed` returns them; but those that come in
    small pieces are put together first.

    :param max_size: the longest content that is accepted, in bytes; may be
        changed at any time
    """

    __slots__ = ("_missing", "_pieces", "error", "max_size", "pending")

    def __init__(self, max_size: int = MAX_LENGTH) -> None:
        self.max_size = max_size
        #: A packet was announced that is over the limit. What came before it
        #: was returned; the stream is unusable from there, see :meth:`retry`.
        self.error: PacketTooLarge | None = None
        #: How many bytes of an unfinished packet are held.
        self.pending = 0
        # The beginning of an unfinished packet, its header included, and how
        # many bytes it takes at least before it is worth looking again.
        self._pieces: list[bytes] = []
        self._missing = 0

    def retry(self) -> bool:
        """The limit may be another one now, because of what came before that packet.

        :return: whether to go on, with an empty piece
        """
        if self.error is None or self.error.size > self.max_size:
            return False
        self.error = None
        return True

    def feed(self, data: bytes) -> tuple[bytes, list[int]]:
        """Take the next piece of the stream.

        :return: a buffer and the bounds of the packets complete in it: start
            and end of the first, start and end of the second, and so on. After
            an :attr:`error` there are no more.
        """
        if self.error is not None:
            return b"", []
        pieces = self._pieces
        if pieces:
            # An object for each byte that somebody sends alone would take many times
            # what was sent.
            if len(data) < _SMALL_PIECE and len(pieces[-1]) < _LARGE_PIECE:
                pieces[-1] += data
            else:
                pieces.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                self.pending += len(data)
                return b"", []
            data = b"".join(self._pieces)
            self._pieces.clear()
            self.pending = 0

        bounds: list[int] = []
        add = bounds.append
        decode = _decode_header
        max_size = self.max_size
        size = len(data)
        last = size - HEADER_SIZE
        position = 0
        while position <= last:
            (length,) = decode(data, position)
            start = position + HEADER_SIZE
            end = start + length
            if length > max_size:
                self.error = PacketTooLarge(length, max_size)
                self._missing = 0
                break
            if end > size:
                self._missing = end - size
                break
            add(start)
            add(end)
            position = end
        else:
            self._missing = position - last
        if position < size:
            self._pieces.append(data[position:] if position else data)
            self.pending = size - position
        return data, bounds
