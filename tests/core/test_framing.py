"""Packets on a stream: every split of the input gives the same packets."""

from __future__ import annotations

import itertools
import random
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemq._core.framing import MAX_LENGTH, PacketDecoder, encode_header
from snakemq.exceptions import PacketTooLarge


def encode(packets: list[bytes]) -> bytes:
    return b"".join(encode_header(len(packet)) + packet for packet in packets)


def decode(decoder: PacketDecoder, pieces: list[bytes]) -> list[bytes]:
    found = []
    for piece in pieces:
        buffer, bounds = decoder.feed(piece)
        assert len(bounds) % 2 == 0
        found += [buffer[s:e] for s, e in zip(bounds[::2], bounds[1::2], strict=True)]
    return found


def test_a_header_is_the_length_in_network_order() -> None:
    assert encode_header(0x01020304) == bytes([1, 2, 3, 4])


def test_every_split_in_two_and_three_gives_the_same_packets() -> None:
    packets = [b"ab", b"", b"cde", b"", b"f" * 7]
    stream = encode(packets)
    for first, second in itertools.combinations_with_replacement(range(len(stream) + 1), 2):
        pieces = [stream[:first], stream[first:second], stream[second:]]
        decoder = PacketDecoder()
        assert decode(decoder, [p for p in pieces if p]) == packets
        assert decoder.pending == 0


def test_byte_by_byte() -> None:
    packets = [b"", b"x" * 300, b"y"]
    stream = encode(packets)
    assert decode(PacketDecoder(), [stream[i : i + 1] for i in range(len(stream))]) == packets


@given(
    packets=st.lists(st.binary(max_size=40), max_size=20),
    cuts=st.lists(st.integers(min_value=0, max_value=1000), max_size=30),
)
def test_any_packets_in_any_pieces(packets: list[bytes], cuts: list[int]) -> None:
    stream = encode(packets)
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    decoder = PacketDecoder()
    assert decode(decoder, pieces) == packets
    assert decoder.pending == 0


def test_an_empty_packet_does_not_wait_for_the_next_bytes() -> None:
    assert decode(PacketDecoder(), [encode([b""])]) == [b""]


def test_what_is_held_is_what_came_and_not_what_was_announced() -> None:
    decoder = PacketDecoder()
    assert decoder.feed(struct.pack("!I", MAX_LENGTH)) == (struct.pack("!I", MAX_LENGTH), [])
    assert decoder.feed(b"x" * 10) == (b"", [])
    assert decoder.pending == 14


def test_a_packet_over_the_limit_ends_the_stream_after_what_came_before() -> None:
    decoder = PacketDecoder(max_size=5)
    stream = encode([b"12345", b"123456", b"1"])
    assert decode(decoder, [stream]) == [b"12345"]
    assert isinstance(decoder.error, PacketTooLarge)
    assert (decoder.error.size, decoder.error.limit) == (6, 5)
    assert "6 bytes" in str(decoder.error)
    assert decode(decoder, [encode([b"1"])]) == []


@pytest.mark.parametrize("chunk", [1000, 65536, 262144])
def test_a_large_packet_in_pieces_is_joined_once(chunk: int) -> None:
    packet = bytes(range(256)) * 8192  # 2 MiB
    stream = encode([packet, b"next"])
    pieces = [stream[i : i + chunk] for i in range(0, len(stream), chunk)]
    assert decode(PacketDecoder(), pieces) == [packet, b"next"]


def test_many_small_pieces_take_hardly_more_than_what_is_in_them() -> None:
    decoder = PacketDecoder()
    count = 50_000
    tracemalloc.start()
    try:
        decoder.feed(struct.pack("!I", count + 1))
        for number in range(count):
            decoder.feed(bytes([number % 256]))
        assert tracemalloc.get_traced_memory()[0] < 1.2 * count
    finally:
        tracemalloc.stop()
    assert decoder.pending == count + 4
    buffer, bounds = decoder.feed(b"x")
    expected = bytes(number % 256 for number in range(count)) + b"x"
    assert buffer[bounds[0] : bounds[1]] == expected


def read_as_wanted(decoder: PacketDecoder, stream: bytes, most: int) -> list[tuple[bytes, bytes]]:
    """Feed as a link does that pays attention; head and the rest of each packet."""
    found = []
    position = 0
    while position < len(stream):
        size = min(decoder.wanted or most, most)
        piece = stream[position : position + size]
        position += len(piece)
        buffer, bounds = decoder.feed(piece)
        head = decoder.head
        for start, end in zip(bounds[::2], bounds[1::2], strict=True):
            found.append((head, buffer[start:end]))
            head = b""
    return found


@pytest.mark.parametrize("head_size", [0, 25])
@pytest.mark.parametrize("most", [1000, 65536, 1 << 20, 1 << 24])
@pytest.mark.parametrize("is_heard", [True, False])
def test_a_large_packet_comes_in_two_parts(head_size: int, most: int, is_heard: bool) -> None:
    large = [bytes([number]) * 17 + bytes(300_000 + number) for number in range(4)]
    huge = random.Random(1).randbytes(10_000_000)
    packets = [b"small", large[0], large[1], b"", huge, large[2], b"x" * 100_000, large[3], b"end"]
    stream = encode(packets)
    decoder = PacketDecoder(head_size=head_size)
    if is_heard:
        found = read_as_wanted(decoder, stream, most)
    else:
        found = []
        for position in range(0, len(stream), most):
            decoder.wanted = 0
            found += read_as_wanted(decoder, stream[position : position + most], most)
    assert [head + rest for head, rest in found] == packets
    assert {len(head) for head, _ in found} <= {0, head_size}
    assert decoder.pending == 0


def test_a_large_packet_that_comes_with_one_read_is_not_copied() -> None:
    content = bytes(1_000_000)
    decoder = PacketDecoder(head_size=25)
    decoder.feed(encode([content]))  # the next one is large, too
    decoder.feed(encode([content])[:1000])
    decoder.feed(encode([content])[1000:])
    assert decoder.wanted == 29
    decoder.feed(encode([content])[:29])
    assert decoder.wanted == len(content) - 25
    body = content[25:]
    buffer, bounds = decoder.feed(body)
    assert buffer is body
    assert bounds == [0, len(body)]
    assert decoder.head == content[:25]


def test_a_huge_packet_is_there_once() -> None:
    size = 64 * 1024 * 1024
    piece = bytes(1024 * 1024)
    decoder = PacketDecoder(head_size=25)
    tracemalloc.start()
    try:
        decoder.feed(struct.pack("!I", size + 25) + bytes(25))
        for _ in range(size // len(piece)):
            assert decoder.wanted
            # As far as it has come: not what was announced.
            assert tracemalloc.get_traced_memory()[0] < 1.2 * decoder.pending + 4096
            buffer, bounds = decoder.feed(piece)
        assert bounds == [0, size]
        assert buffer[: bounds[1]] is buffer
        assert tracemalloc.get_traced_memory()[1] < 1.2 * size
    finally:
        tracemalloc.stop()


def test_after_a_small_packet_nothing_is_wanted() -> None:
    decoder = PacketDecoder(head_size=25)
    content = bytes(300_000)
    decoder.feed(encode([content])[:1000])
    decoder.feed(encode([content])[1000:])
    assert decoder.wanted == 29
    stream = encode([b"small"] * 10)
    decoder.feed(stream[:29])
    assert decoder.wanted == 0
    assert decode(decoder, [stream[29:]])[-1] == b"small"
