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
from io import BytesIO
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

#: Unfinished packets from this size on are put together as they come, in bytes: what
#: is joined in the end is there twice for a moment.
_HUGE: Final = 8 * 1024 * 1024

#: A content of this size or more gets a buffer of its own, in bytes. Below, the copy
#: costs less than another read.
_LARGE_CONTENT: Final = 256 * 1024

_decode_header = _HEADER.unpack_from


def encode_packet(content: bytes) -> bytes:
    """A packet, its header included. For small ones: it copies."""
    return encode_header(len(content)) + content


class _Assembly:
    """What came of a packet that is not complete.

    Bytes are copied at most once until :meth:`take` returns them, and not at all if
    there is only one piece; but those that come in small pieces are put together first.
    """

    __slots__ = ("_huge", "_pieces", "_size")

    def __init__(self) -> None:
        self._size = 0
        self._pieces: list[bytes] = []
        self._huge: BytesIO | None = None

    def add(self, piece: bytes) -> None:
        """The next piece."""
        self._size += len(piece)
        pieces = self._pieces
        if self._huge is not None:
            self._huge.write(piece)
        elif self._size > _HUGE:
            self._huge = BytesIO()
            for one in (*pieces, piece):
                self._huge.write(one)
            pieces.clear()
        # An object for each byte that somebody sends alone would take many times
        # what was sent.
        elif pieces and len(piece) < _SMALL_PIECE and len(pieces[-1]) < _LARGE_PIECE:
            pieces[-1] += piece
        else:
            pieces.append(piece)

    def take(self) -> bytes:
        """All of it, for good."""
        if self._huge is not None:
            return self._huge.getvalue()  # the very object that was written to
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


class PacketDecoder:
    """Finds the packets in a stream that arrives in pieces of any size.

    Memory grows with what was received, never with what was announced. Bytes
    are copied at most once before :meth:`feed` returns them; but those that come in
    small pieces are put together first.

    A large packet gets a buffer of its own, and not even that copy if no piece is larger
    than :attr:`wanted`.

    :param max_size: the longest content that is accepted, in bytes; may be
        changed at any time
    :param head_size: how much of the beginning of a large packet's content is not in its
        buffer but in :attr:`head`, in bytes
    """

    __slots__ = (
        "_assembly",
        "_body_size",
        "_head_size",
        "_missing",
        "_next_head",
        "error",
        "head",
        "max_size",
        "pending",
        "wanted",
    )

    def __init__(self, max_size: int = MAX_LENGTH, head_size: int = 0) -> None:
        self.max_size = max_size
        #: A packet was announced that is over the limit. What came before it
        #: was returned; the stream is unusable from there, see :meth:`retry`.
        self.error: PacketTooLarge | None = None
        #: How many bytes of an unfinished packet are held.
        self.pending = 0
        #: What comes before the first content that :meth:`feed` has returned, and belongs
        #: to it; empty if that packet is not a large one.
        self.head = b""
        #: The next piece should not have more bytes than this; 0: any number.
        self.wanted = 0
        # The beginning of an unfinished packet, its header included, and how
        # many bytes it takes at least before it is worth looking again.
        self._assembly: _Assembly | None = None
        self._missing = 0
        # Of a large one, header and head are not in there: how long the rest is.
        self._head_size = head_size
        self._next_head = b""
        self._body_size = 0

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
        if self.head:
            self.head = b""
        self.wanted = 0
        bounds: list[int] = []
        position = 0
        if self._assembly is not None:
            self._assembly.add(data)
            self._missing -= len(data)
            if self._missing > 0:
                self.pending += len(data)
                self.wanted = self._missing if self._body_size else 0
                return b"", []
            data = self._assembly.take()
            self._assembly = None
            self.pending = 0
            if self._body_size:
                position = self._end_large(bounds)

        add = bounds.append
        decode = _decode_header
        max_size = self.max_size
        size = len(data)
        last = size - HEADER_SIZE
        while position <= last:
            (length,) = decode(data, position)
            start = position + HEADER_SIZE
            end = start + length
            if length > max_size:
                self.error = PacketTooLarge(length, max_size)
                self._missing = 0
                break
            if end > size:
                if length >= _LARGE_CONTENT:
                    beginning = start + self._head_size
                    if beginning <= size:
                        self._begin_large(data, start, end)
                        self.pending = size - position
                        return data, bounds
                    end = beginning
                self._missing = end - size
                break
            add(start)
            add(end)
            position = end
        else:
            self._missing = position - last
        if position < size:
            self._assembly = _Assembly()
            self._assembly.add(data[position:] if position else data)
            self.pending = size - position
        return data, bounds

    def _begin_large(self, data: bytes, start: int, end: int) -> None:
        """A large packet's content is from here to there, and not all of it has come."""
        body = start + self._head_size
        self._next_head = data[start:body]
        self._body_size = end - body
        self._missing = self.wanted = end - len(data)
        self._assembly = _Assembly()
        if body < len(data):
            self._assembly.add(data[body:])

    def _end_large(self, bounds: list[int]) -> int:
        """All of it has come; where its buffer goes on with something else, if it does."""
        self.head = self._next_head
        end = self._body_size
        bounds += (0, end)
        self._next_head = b""
        self._body_size = 0
        # The next one is probably large, too: read what comes before its body alone.
        self.wanted = HEADER_SIZE + self._head_size
        return end
