"""Packed messages: the packet of a message in the place of the message."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from snakemq._core import frames
from snakemq._core.packed import (
    MAX_PACKED,
    PACKET_OVERHEAD,
    Unpacked,
    are_packed,
    pack,
    unpack,
)
from snakemq.message import Message


@pytest.mark.parametrize("data", [b"", b"x", b"y" * MAX_PACKED])
def test_it_is_the_packet_that_the_message_becomes(data: bytes) -> None:
    packet = pack(data)
    message = unpack(packet)
    assert (message.data, message.ttl, message.flags) == (data, None, 0)
    assert message.uuid == packet[5:21]
    assert len(packet) == len(data) + PACKET_OVERHEAD
    buffers: list[bytes] = []
    sizes: list[int] = []
    frames.encode_message_packets([message], buffers, sizes)
    assert (b"".join(buffers), sizes) == (packet, [len(packet)])


def test_each_has_an_identifier_of_its_own() -> None:
    uuids = {unpack(pack(b"x")).uuid for _ in range(1000)}
    uuids |= {Message(b"x").uuid for _ in range(1000)}
    assert len(uuids) == 2000
    assert {len(uuid) for uuid in uuids} == {16}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_makes_identifiers_of_its_own() -> None:
    program = """if True:
        import os
        from snakemq._core.packed import pack
        pack(b"x")
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, pack(b"x")[5:21])
            os._exit(0)
        assert os.read(reader, 16)[:8] != pack(b"x")[5:13]
        os.wait()
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_packets_and_messages_can_be_encoded_together() -> None:
    entries = [Message(b"1", None), pack(b"2"), Message(b"x" * 100_000, None), pack(b"4")]
    buffers: list[bytes] = []
    sizes: list[int] = []
    frames.encode_message_packets(entries, buffers, sizes)
    assert len(sizes) == 4
    stream = b"".join(buffers)
    data = []
    for size in sizes:
        data.append(unpack(stream[:size]).data)
        stream = stream[size:]
    assert data == [b"1", b"2", b"x" * 100_000, b"4"]


def test_are_packed() -> None:
    packed, message = pack(b"1"), Message(b"2")
    assert are_packed([packed, packed])
    assert not are_packed([packed, message])
    assert not are_packed([message])
    assert not are_packed([])


class TestUnpacked:
    def test_is_a_sequence_of_messages(self) -> None:
        packets = [pack(b"a"), pack(b"b"), pack(b"c")]
        messages = Unpacked(packets)
        assert len(messages) == 3
        assert [message.data for message in messages] == [b"a", b"b", b"c"]
        assert messages[1].uuid == packets[1][5:21]
        assert [message.data for message in messages[1:]] == [b"b", b"c"]
        assert messages
        assert not Unpacked([])
