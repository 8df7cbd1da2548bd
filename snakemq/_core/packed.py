"""Messages that wait as the packets that are going to carry them.

A small message that waits for ever and has no flags needs no object of its own
until somebody asks for it. Its packet takes half of the memory, is nothing that
the garbage collector looks at, and many of them are sent by putting them
together: with them a message costs its sender a third of what it costs as a
:class:`~snakemq.Message`.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias, TypeGuard, cast, overload

from snakemq._core.frames import MESSAGE_OVERHEAD, PLAIN, FrameType, decode_message
from snakemq._core.framing import HEADER_SIZE, encode_header
from snakemq.message import Message, message_ids

__all__ = [
    "MAX_PACKED",
    "PACKET_OVERHEAD",
    "Sendable",
    "Unpacked",
    "are_packed",
    "mixed_size",
    "pack",
    "packed_size",
    "size_of",
    "total_size",
    "unpack",
    "unpacked",
]

#: What is sent: a message, or its packet.
Sendable: TypeAlias = "Message | bytes"

#: The largest data that is packed, in bytes: it is copied once more than that of others.
MAX_PACKED: Final = 1024

#: What a packet is larger than the data of its message, in bytes.
PACKET_OVERHEAD: Final = HEADER_SIZE + MESSAGE_OVERHEAD

_ONLY_BYTES: Final = {bytes}


class _Packers(dict[int, Callable[[int, int, bytes], bytes]]):
    """What makes packets, by the size of the data.

    All of a packet in one call: 0.2 us instead of 0.5 for an identifier, what
    precedes the data, and putting that together.
    """

    def __missing__(self, size: int) -> Callable[[int, int, bytes], bytes]:
        start = encode_header(size + MESSAGE_OVERHEAD) + bytes([FrameType.MESSAGE])
        layout = struct.Struct(f"!13sQQ{size}s")
        packer = self[size] = functools.partial(layout.pack, start + message_ids.prefix)
        return packer


_packers: Final = _Packers()
message_ids.reseeded = _packers.clear
_number: Final = message_ids.number


def pack(data: bytes) -> bytes:
    """The packet of a new message; its identifier is ``packet[5:21]``.

    :param data: of :data:`MAX_PACKED` bytes at most
    """
    return _packers[len(data)](_number(), PLAIN, data)


def unpack(packet: bytes) -> Message:
    """The message; another object each time."""
    return decode_message(packet, HEADER_SIZE, len(packet))


def are_packed(entries: Sequence[object]) -> TypeGuard[Sequence[bytes]]:
    """Whether all of these are packets."""
    return set(map(type, entries)) == _ONLY_BYTES


def size_of(entry: Sendable) -> int:
    """Its data, in bytes."""
    return len(entry) - PACKET_OVERHEAD if isinstance(entry, bytes) else len(entry.data)


def packed_size(packets: Sequence[bytes]) -> int:
    """Their data, in bytes."""
    return sum(map(len, packets)) - PACKET_OVERHEAD * len(packets)


def mixed_size(entries: Sequence[Sendable]) -> int:
    """Their data, in bytes; quicker if they are not all packets."""
    # A list, and not size_of(): a generator and a function are a call for each.
    return sum(
        [
            len(entry) - PACKET_OVERHEAD if isinstance(entry, bytes) else len(entry.data)
            for entry in entries
        ]
    )


def total_size(entries: Sequence[Sendable]) -> int:
    """Their data, in bytes."""
    return packed_size(entries) if are_packed(entries) else mixed_size(entries)


def unpacked(entries: Sequence[Sendable]) -> Sequence[Message]:
    """Their messages."""
    if bytes in set(map(type, entries)):
        return Unpacked(entries)
    return cast("Sequence[Message]", entries)


class Unpacked(Sequence[Message]):
    """Messages that become objects when somebody looks at them; most often nobody does.

    :param entries: their packets; or they themselves, where they are objects
    """

    __slots__ = ("_entries",)

    def __init__(self, entries: Sequence[Sendable]) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Message: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Message]: ...

    def __getitem__(self, index: int | slice) -> Message | Sequence[Message]:
        if isinstance(index, slice):
            return Unpacked(self._entries[index])
        return _as_message(self._entries[index])

    def __iter__(self) -> Iterator[Message]:
        return map(_as_message, self._entries)


def _as_message(entry: Sendable) -> Message:
    return unpack(entry) if isinstance(entry, bytes) else entry
