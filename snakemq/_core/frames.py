"""Frames: what a packet contains. One type byte, then the payload.

====  ====================  ==============================================
type  name                  payload
====  ====================  ==============================================
0     protocol version      ``!I``: 1
1     incompatible protocol none
2     identification        identifier, UTF-8, at most 50 characters
3     message               ``!16sII``: uuid, TTL in whole seconds
                            (0xffffffff: infinite), flags; then the data
4     ping                  none
5     pong                  none
6     features              see :mod:`snakemq._core.features`
7     acknowledgement       ``!Q``: how many messages of this connection are done
8     sequence              ``!8sQII``: stream, number of the next message in it,
                            how many of the next messages may have been sent by
                            an earlier process, and how many by this one
9     proof                 see :mod:`snakemq._core.authentication`
10    refusal               see :mod:`snakemq._core.refusal`
====  ====================  ==============================================

Frames of unknown types are ignored: that is how the protocol is extended.
"""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from snakemq._core.framing import HEADER_SIZE
from snakemq.exceptions import SnakeMQBrokenMessage
from snakemq.message import Message
from snakemq.version import PROTOCOL_VERSION

__all__ = [
    "FRAME_INCOMPATIBLE",
    "FRAME_PING",
    "FRAME_PONG",
    "FRAME_VERSION",
    "INFINITE_TTL",
    "MAX_IDENT_LENGTH",
    "MESSAGE_OVERHEAD",
    "FrameType",
    "Sequence",
    "decode_acknowledgement",
    "decode_fleeting",
    "decode_identification",
    "decode_message",
    "decode_sequence",
    "decode_version",
    "encode_acknowledgement",
    "encode_identification",
    "encode_message",
    "encode_message_packets",
    "encode_sequence",
]

#: The longest identifier, in characters.
MAX_IDENT_LENGTH: Final = 50

#: The TTL on the wire that means "wait for ever".
INFINITE_TTL: Final = 0xFFFFFFFF

_MAX_FINITE_TTL: Final = INFINITE_TTL - 1

_VERSION: Final = struct.Struct("!I")
_ACKNOWLEDGEMENT: Final = struct.Struct("!BQ")
_SEQUENCE: Final = struct.Struct("!B8sQII")
_MESSAGE: Final = struct.Struct("!B16sII")
_PACKET_AND_MESSAGE: Final = struct.Struct("!IB16sII")
_MESSAGE_FIELDS: Final = struct.Struct("!16sII")

#: ``func(buffer, position)``; the identifier of a message, and its TTL and flags as one
#: number, from behind the type of its frame. For those who want nothing but
#: :data:`PLAIN` messages, or :data:`FLEETING` ones.
unpack_head: Final = struct.Struct("!16sQ").unpack_from

#: That number of a message without TTL and flags.
PLAIN: Final = INFINITE_TTL << 32

#: Of one with TTL 0 and without flags.
FLEETING: Final = 0

#: Size of a message frame without the data, in bytes.
MESSAGE_OVERHEAD: Final = _MESSAGE.size

_LARGE: Final = 64 * 1024


class FrameType(enum.IntEnum):
    """The first byte of a frame."""

    PROTOCOL_VERSION = 0
    INCOMPATIBLE_PROTOCOL = 1
    IDENTIFICATION = 2
    MESSAGE = 3
    PING = 4
    PONG = 5
    FEATURES = 6
    ACKNOWLEDGEMENT = 7
    SEQUENCE = 8
    PROOF = 9
    REFUSAL = 10


_TYPE_MESSAGE: Final = int(FrameType.MESSAGE)

FRAME_VERSION: Final = bytes([FrameType.PROTOCOL_VERSION]) + _VERSION.pack(PROTOCOL_VERSION)
FRAME_INCOMPATIBLE: Final = bytes([FrameType.INCOMPATIBLE_PROTOCOL])
FRAME_PING: Final = bytes([FrameType.PING])
FRAME_PONG: Final = bytes([FrameType.PONG])


def encode_acknowledgement(total: int) -> bytes:
    """An acknowledgement frame: ``total`` messages of this connection are done."""
    return _ACKNOWLEDGEMENT.pack(FrameType.ACKNOWLEDGEMENT, total)


def decode_acknowledgement(payload: bytes) -> int:
    """The number in an acknowledgement frame.

    :raises SnakeMQBrokenMessage: wrong size
    """
    if len(payload) != _ACKNOWLEDGEMENT.size - 1:
        raise SnakeMQBrokenMessage(f"an acknowledgement of {len(payload)} bytes")
    return int.from_bytes(payload, "big")


class Sequence(NamedTuple):
    """Where in the line of its messages a sender is."""

    #: 8 bytes that the sender made up; numbers mean something within it
    stream: bytes
    #: of the next message; each that follows has the next one
    number: int
    #: how many of the next messages may have been sent by an earlier process
    stored: int
    #: how many of the next messages may have been sent before by this process
    repeated: int


def encode_sequence(sequence: Sequence) -> bytes:
    """A sequence frame."""
    return _SEQUENCE.pack(FrameType.SEQUENCE, *sequence)


def decode_sequence(payload: bytes) -> Sequence:
    """Read a sequence frame.

    :raises SnakeMQBrokenMessage: wrong size
    """
    if len(payload) != _SEQUENCE.size - 1:
        raise SnakeMQBrokenMessage(f"a sequence of {len(payload)} bytes")
    return Sequence(*_SEQUENCE.unpack(bytes([FrameType.SEQUENCE]) + payload)[1:])


def decode_version(payload: bytes) -> int:
    """The number in a protocol version frame.

    :raises SnakeMQBrokenMessage: wrong size
    """
    if len(payload) != _VERSION.size:
        raise SnakeMQBrokenMessage(
            f"a protocol version of {len(payload)} bytes instead of {_VERSION.size}"
        )
    (version,) = _VERSION.unpack(payload)
    return int(version)


def encode_identification(identifier: str) -> bytes:
    """An identification frame."""
    return bytes([FrameType.IDENTIFICATION]) + identifier.encode("utf-8")


def decode_identification(payload: bytes) -> str:
    """The identifier in an identification frame. As in 1.6 broken UTF-8 is replaced.

    :raises SnakeMQBrokenMessage: longer than any valid identifier
    """
    if len(payload) > MAX_IDENT_LENGTH * 4:
        raise SnakeMQBrokenMessage(f"an identifier of {len(payload)} bytes")
    ident = payload.decode("utf-8", "replace")
    if len(ident) > MAX_IDENT_LENGTH:
        raise SnakeMQBrokenMessage(f"an identifier of {len(ident)} characters")
    return ident


def _wire_ttl(ttl: float | None) -> int:
    """A TTL as it is on the wire: whole seconds, rounded down as in 1.6."""
    if ttl is None:
        return INFINITE_TTL
    return min(math.floor(ttl), _MAX_FINITE_TTL)


def _wire_ttl_up(ttl: float) -> int:
    """A TTL that is not 0, for a peer that acknowledges: 0 would say that nothing is repeated."""
    return min(math.floor(ttl) or 1, _MAX_FINITE_TTL)


def encode_message(message: Message) -> bytes:
    """A message frame."""
    return (
        _MESSAGE.pack(_TYPE_MESSAGE, message.uuid, _wire_ttl(message.ttl), message.flags)
        + message.data
    )


def encode_message_packets(
    messages: Iterable[Message | bytes],
    buffers: list[bytes],
    sizes: list[int],
    *,
    acknowledged: bool = False,
) -> None:
    """Append the packets of ``messages``, headers included, and the size of each.

    One that is bytes is a packet already. Small messages that follow each other
    become one buffer. The data of a large one follows its header as a buffer of
    its own and is not copied.

    :param acknowledged: the other side acknowledges them. To it a TTL below a
        second is a second, because 0 says that a message is never repeated.
    """
    pack = _PACKET_AND_MESSAGE.pack
    overhead = MESSAGE_OVERHEAD
    pieces: list[bytes] = []
    add_piece = pieces.append
    add_size = sizes.append
    wire_ttl = _wire_ttl_up if acknowledged else _wire_ttl
    for message in messages:
        if isinstance(message, bytes):
            add_size(len(message))
            add_piece(message)
            continue
        data = message.data
        ttl = message.ttl
        length = overhead + len(data)
        head = pack(
            length,
            3,  # FrameType.MESSAGE; a literal, because this is the hottest line there is
            message.uuid,
            INFINITE_TTL if ttl is None else wire_ttl(ttl) if ttl else 0,
            message.flags,
        )
        add_size(length + HEADER_SIZE)
        add_piece(head)
        if length < _LARGE:
            add_piece(data)
        else:
            buffers.append(b"".join(pieces))
            buffers.append(data)
            pieces.clear()
    if pieces:
        buffers.append(b"".join(pieces))


def decode_message(buffer: bytes, start: int, end: int, data: bytes | None = None) -> Message:
    """The message in a message frame that lies in ``buffer[start:end]``.

    :param data: of the message, if it is not in the buffer
    :raises SnakeMQBrokenMessage: too short
    """
    data_start = start + MESSAGE_OVERHEAD
    if data_start > end:
        raise SnakeMQBrokenMessage(f"a message frame of {end - start} bytes")
    uuid, ttl, flags = _MESSAGE_FIELDS.unpack_from(buffer, start + 1)
    # Made without __init__, which checks what the wire format already ensures.
    message = _new_message(Message)
    message.data = buffer[data_start:end] if data is None else data
    message.ttl = None if ttl == INFINITE_TTL else float(ttl)
    message.flags = flags
    message.uuid = uuid
    return message


_new_message = Message.__new__


def decode_fleeting(packet: bytes, prefix: bytes, about: bytes = b"") -> Message | None:
    """The message in a packet, if that is all there is, and the message has TTL 0.

    :param prefix: what its data begins with
    :param about: what else its data contains
    :return: ``None``: it is something else, or more, or less
    """
    data = HEADER_SIZE + MESSAGE_OVERHEAD
    if not packet.startswith(prefix, data) or packet.find(about, data) < 0:
        return None
    length, kind, _, ttl, _ = _PACKET_AND_MESSAGE.unpack_from(packet)
    if kind != FrameType.MESSAGE or ttl or length != len(packet) - HEADER_SIZE:
        return None
    return decode_message(packet, HEADER_SIZE, len(packet))
