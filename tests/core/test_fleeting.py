"""Messages that a waiting thread may take by itself: a single one, whole, with TTL 0."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemq._core.frames import MESSAGE_OVERHEAD, decode_fleeting, encode_message_packets
from snakemq._core.framing import HEADER_SIZE, encode_packet
from snakemq.message import FLAG_PERSISTENT, Message

PREFIX = b"rpcrep"


def packet_of(message: Message) -> bytes:
    buffers: list[bytes] = []
    encode_message_packets((message,), buffers, [])
    return b"".join(buffers)


PACKET = packet_of(Message(PREFIX + b"about this", 0))


def test_a_whole_message_is_taken_as_it_was_sent() -> None:
    message = Message(PREFIX + b"data", 0, FLAG_PERSISTENT)
    taken = decode_fleeting(packet_of(message), PREFIX)
    assert taken is not None
    assert (taken.data, taken.ttl, taken.flags, taken.uuid) == (
        message.data,
        0,
        message.flags,
        message.uuid,
    )
    assert not taken.redelivered


@pytest.mark.parametrize("end", range(len(PACKET)))
def test_not_if_anything_is_missing(end: int) -> None:
    assert decode_fleeting(PACKET[:end], PREFIX) is None


@pytest.mark.parametrize("start", range(1, len(PACKET)))
def test_not_if_the_beginning_is_missing(start: int) -> None:
    assert decode_fleeting(PACKET[start:], PREFIX) is None


@pytest.mark.parametrize(
    "more",
    [b"\0", PACKET, PACKET[:5], encode_packet(b"\4")],
    ids=["a byte", "a packet", "half a packet", "another frame"],
)
def test_not_if_there_is_more(more: bytes) -> None:
    assert decode_fleeting(PACKET + more, PREFIX) is None
    assert decode_fleeting(more + PACKET, PREFIX) is None


@pytest.mark.parametrize("ttl", [None, 1, 60])
def test_not_if_it_may_be_repeated(ttl: float | None) -> None:
    assert decode_fleeting(packet_of(Message(PREFIX, ttl)), PREFIX) is None


@pytest.mark.parametrize("data", [b"", b"rpcre", b"rpcreq", b"xrpcrep", b"RPCREP"])
def test_not_if_it_begins_in_another_way(data: bytes) -> None:
    assert decode_fleeting(packet_of(Message(data, 0)), PREFIX) is None


@pytest.mark.parametrize("kind", [0, 1, 2, 4, 5, 255])
def test_not_if_it_is_no_message(kind: int) -> None:
    other = PACKET[:HEADER_SIZE] + bytes([kind]) + PACKET[HEADER_SIZE + 1 :]
    assert decode_fleeting(other, PREFIX) is None


def test_only_what_is_about_something() -> None:
    assert decode_fleeting(PACKET, PREFIX, b"about this") is not None
    assert decode_fleeting(PACKET, PREFIX, b"about that") is None


def test_what_it_is_about_is_in_the_data_and_not_before_it() -> None:
    message = Message(PREFIX, 0)
    assert decode_fleeting(packet_of(message), PREFIX, message.uuid) is None


@pytest.mark.parametrize("length", range(MESSAGE_OVERHEAD + 1))
def test_the_prefix_of_a_later_packet_does_not_count(length: int) -> None:
    # A message that is too short to be one, and behind it what looks like data.
    frame = (b"\3" + b"\0" * MESSAGE_OVERHEAD)[:length]
    short = struct.pack("!I", length) + frame
    filler = b"\0" * (HEADER_SIZE + MESSAGE_OVERHEAD - len(short))
    assert decode_fleeting(short + filler + PREFIX, PREFIX) is None


@given(st.binary(max_size=60))
def test_whatever_comes_it_never_raises(data: bytes) -> None:
    assert decode_fleeting(data, PREFIX) is None


@given(st.binary(max_size=200), st.integers(0, 0xFFFFFFFF), st.data())
def test_all_messages_with_ttl_0_and_nothing_else(
    rest: bytes, flags: int, data: st.DataObject
) -> None:
    message = Message(PREFIX + rest, 0)
    message.flags = flags
    packet = packet_of(message)
    taken = decode_fleeting(packet, PREFIX, rest[:16])
    assert taken is not None
    assert (taken.data, taken.flags, taken.uuid) == (message.data, flags, message.uuid)
    cut = data.draw(st.integers(0, len(packet) - 1))
    assert decode_fleeting(packet[:cut], PREFIX) is None
