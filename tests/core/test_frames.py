"""Frames, byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemq._core import frames
from snakemq._core.framing import PacketDecoder
from snakemq.exceptions import SnakeMQBrokenMessage
from snakemq.message import Message

UUID = bytes(range(16))


def test_the_fixed_frames() -> None:
    assert bytes.fromhex("0000000001") == frames.FRAME_VERSION
    assert bytes.fromhex("01") == frames.FRAME_INCOMPATIBLE
    assert bytes.fromhex("04") == frames.FRAME_PING
    assert bytes.fromhex("05") == frames.FRAME_PONG


def test_identification() -> None:
    assert frames.encode_identification("bob") == b"\x02bob"
    assert frames.encode_identification("žluť") == b"\x02" + "žluť".encode()
    assert frames.decode_identification("žluť".encode()) == "žluť"


def test_broken_utf8_is_replaced() -> None:
    assert frames.decode_identification(b"a\xffb") == "a�b"


def test_a_longer_identifier_than_any_is_refused() -> None:
    assert len(frames.decode_identification("\N{MUSICAL SYMBOL G CLEF}".encode() * 50)) == 50
    with pytest.raises(SnakeMQBrokenMessage, match="51 characters"):
        frames.decode_identification(b"x" * 51)
    with pytest.raises(SnakeMQBrokenMessage, match="201 bytes"):
        frames.decode_identification(b"x" * 201)


@pytest.mark.parametrize("payload", [b"", b"\0\0\1", b"\0\0\0\0\1"])
def test_a_version_of_the_wrong_size_is_refused(payload: bytes) -> None:
    with pytest.raises(SnakeMQBrokenMessage, match="protocol version"):
        frames.decode_version(payload)


@pytest.mark.parametrize(
    ("ttl", "wire"),
    [
        (None, "ffffffff"),
        (0, "00000000"),
        (0.9, "00000000"),
        (1.999, "00000001"),
        (600, "00000258"),
        (0xFFFFFFFE, "fffffffe"),
        # Not the number that means "for ever", and nothing that does not fit.
        (0xFFFFFFFF, "fffffffe"),
        (1e30, "fffffffe"),
    ],
)
def test_ttl_on_the_wire(ttl: float | None, wire: str) -> None:
    frame = frames.encode_message(Message(b"data", ttl=ttl, flags=0x80000001, uuid=UUID))
    assert frame.hex() == "03" + UUID.hex() + wire + "80000001" + b"data".hex()


def test_a_short_uuid_is_padded() -> None:
    frame = frames.encode_message(Message(b"", uuid=b"abc"))
    assert frame[1:17] == b"abc" + bytes(13)


@given(
    data=st.binary(max_size=100),
    ttl=st.none() | st.integers(0, 0xFFFFFFFE),
    flags=st.integers(0, 0xFFFFFFFF),
    before=st.binary(max_size=5),
    after=st.binary(max_size=5),
)
def test_what_is_encoded_is_decoded(
    data: bytes, ttl: int | None, flags: int, before: bytes, after: bytes
) -> None:
    frame = frames.encode_message(Message(data, ttl, flags, UUID))
    message = frames.decode_message(before + frame + after, len(before), len(before + frame))
    assert (message.data, message.ttl, message.flags, message.uuid) == (data, ttl, flags, UUID)
    assert message.ttl is None or isinstance(message.ttl, float)


@pytest.mark.parametrize("size", range(1, frames.MESSAGE_OVERHEAD))
def test_a_short_message_frame_is_refused(size: int) -> None:
    buffer = b"\x03" + bytes(100)
    with pytest.raises(SnakeMQBrokenMessage, match=f"{size} bytes"):
        frames.decode_message(buffer, 0, size)


def test_packets_of_messages() -> None:
    messages = [
        Message(b"small", None, 1, UUID),
        Message(b"L" * 100_000, 5, 0, UUID),
        Message(b"", 0, 0, UUID),
    ]
    buffers: list[bytes] = []
    sizes: list[int] = []
    frames.encode_message_packets(messages, buffers, sizes)
    assert any(buffer is messages[1].data for buffer in buffers), "large data is not copied"
    stream = b"".join(buffers)
    assert sum(sizes) == len(stream)
    buffer, bounds = PacketDecoder().feed(stream)
    assert [buffer[s:e] for s, e in zip(bounds[::2], bounds[1::2], strict=True)] == [
        frames.encode_message(message) for message in messages
    ]
    assert [e - s + 4 for s, e in zip(bounds[::2], bounds[1::2], strict=True)] == sizes


@pytest.mark.parametrize(
    ("ttl", "wire"),
    [(None, "ffffffff"), (0, "00000000"), (0.001, "00000001"), (1.9, "00000001"), (7, "00000007")],
)
def test_ttl_toward_one_that_acknowledges(ttl: float | None, wire: str) -> None:
    """0 says that the message is never repeated, so a part of a second is not 0."""
    buffers: list[bytes] = []
    frames.encode_message_packets([Message(b"", ttl, 0, UUID)], buffers, [], acknowledged=True)
    assert b"".join(buffers).hex() == "00000019" + "03" + UUID.hex() + wire + "00000000"


def test_acknowledgement() -> None:
    frame = frames.encode_acknowledgement(0x0102)
    assert frame.hex() == "07" + "0000000000000102"
    assert frames.decode_acknowledgement(frame[1:]) == 0x0102


@pytest.mark.parametrize("size", [0, 7, 9])
def test_an_acknowledgement_of_the_wrong_size_is_refused(size: int) -> None:
    with pytest.raises(SnakeMQBrokenMessage, match=f"acknowledgement of {size} bytes"):
        frames.decode_acknowledgement(bytes(size))


def test_sequence() -> None:
    sequence = frames.Sequence(stream=b"streamid", number=0x0304, stored=5, repeated=6)
    frame = frames.encode_sequence(sequence)
    assert frame.hex() == ("08" + b"streamid".hex() + "0000000000000304" + "00000005" + "00000006")
    assert frames.decode_sequence(frame[1:]) == sequence


@pytest.mark.parametrize("size", [0, 23, 25])
def test_a_sequence_of_the_wrong_size_is_refused(size: int) -> None:
    with pytest.raises(SnakeMQBrokenMessage, match=f"sequence of {size} bytes"):
        frames.decode_sequence(bytes(size))


@given(
    st.binary(min_size=8, max_size=8),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)
def test_any_sequence_and_acknowledgement_is_read_as_written(
    stream: bytes, number: int, stored: int, repeated: int
) -> None:
    sequence = frames.Sequence(stream, number, stored, repeated)
    assert frames.decode_sequence(frames.encode_sequence(sequence)[1:]) == sequence
    assert frames.decode_acknowledgement(frames.encode_acknowledgement(number)[1:]) == number
