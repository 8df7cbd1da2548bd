"""The bytes of protocol version 1, spoken by hand against this package.

Every number here was read off the wire between two peers of snakeMQ 1.6, but
for two things that 1.6 takes no notice of or answers as ever: the features
frame behind the identification, and the ping that finds out whether the other
side has features.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator

import pytest

from snakemq.exceptions import (
    PacketTooLarge,
    SnakeMQBrokenMessage,
    SnakeMQIncompatibleProtocol,
    SnakeMQNoIdent,
)
from snakemq.message import Message
from tests.compat.inprocess import (
    LOCALHOST,
    PING_PACKET,
    PONG_PACKET,
    VERSION_PACKET,
    RawPeer,
    Stack,
    ident_packet,
    message_packet,
    packet,
    stacks,
)
from tests.helpers import DEADLINE

#: 10 is a refusal, which ends the connection.
UNKNOWN_TYPES = [kind for kind in range(6, 256) if kind != 10]


@pytest.fixture
def stack() -> Iterator[Stack]:
    """A running peer named ``stack`` that listens at ``stack.port``."""
    made = Stack("stack")
    made.listen()
    with stacks(made.start()):
        yield made
        assert made.alive


@pytest.fixture
def port(stack: Stack) -> int:
    return stack.port


class TestGreeting:
    GREETING = bytes.fromhex(
        "00000005 00 00000001 00000006 02 73 74 61 63 6b"
        "00000011 06 0001 0008 00002000 01000000 0002 0000"
    )

    def test_a_listener_greets_at_once(self, port: int) -> None:
        with RawPeer.dial(port) as raw:
            assert raw.read(len(self.GREETING)) == self.GREETING

    def test_a_connector_greets_at_once(self, stack: Stack) -> None:
        with socket.create_server((LOCALHOST, 0)) as server:
            server.settimeout(DEADLINE)
            stack.in_loop(stack.connect, server.getsockname()[1])
            with RawPeer(server.accept()[0]) as raw:
                assert raw.read(len(self.GREETING)) == self.GREETING

    def test_it_comes_in_one_piece(self, port: int) -> None:
        """So who has read the identification knows whether there are features behind it."""
        with socket.create_connection((LOCALHOST, port), DEADLINE) as sock:
            assert sock.recv(65536) == self.GREETING

    def test_before_the_first_message_a_ping_finds_out_who_is_there(
        self, stack: Stack, port: int
    ) -> None:
        """1.6 answers it; who has features announces them before the pong."""
        stack.send("raw", b"hello", ttl=60, uuid=b"0123456789abcdef")
        with RawPeer.dial(port) as raw:
            raw.send(VERSION_PACKET + ident_packet("raw"))
            assert raw.read(len(self.GREETING) + 5) == self.GREETING + PING_PACKET
            stack.in_loop(lambda: None)  # has had its chance to send the message
            assert select.select([raw.sock], [], [], 0) == ([], [], [])
            raw.send(PONG_PACKET)
            assert raw.frame()[25:] == b"hello"

    @pytest.mark.parametrize("first", [PING_PACKET, message_packet(b"x")])
    def test_anything_else_behind_the_identification_tells_it_too(
        self, stack: Stack, port: int, first: bytes
    ) -> None:
        stack.send("raw", b"hello", ttl=60)
        with RawPeer.dial(port) as raw:
            raw.send(VERSION_PACKET + ident_packet("raw") + first)
            raw.read(len(self.GREETING))
            assert raw.frame()[25:] == b"hello"

    def test_an_identifier_travels_as_utf_8(self) -> None:
        stack = Stack("č€😀")
        port = stack.listen()
        with stacks(stack.start()), RawPeer.dial(port) as raw:
            raw.read(len(VERSION_PACKET))
            assert raw.read(14) == bytes.fromhex("0000000a 02 c48d e282ac f09f9880")

    def test_an_identifier_is_cut_to_fifty_characters(self) -> None:
        stack = Stack("ž" * 60)
        port = stack.listen()
        with stacks(stack.start()), RawPeer.dial(port) as raw:
            raw.read(len(VERSION_PACKET))
            assert raw.read(105) == bytes.fromhex("00000065 02") + "ž".encode() * 50
        assert stack.messaging.identifier == "ž" * 50


class TestMessageSent:
    @pytest.mark.parametrize(
        ("ttl", "on_the_wire"),
        [
            (0, "00000000"),
            (0.999, "00000000"),
            (1, "00000001"),
            (600.5, "00000258"),
            (0x12345678, "12345678"),
            (None, "ffffffff"),
        ],
    )
    def test_ttl(self, stack: Stack, port: int, ttl: float | None, on_the_wire: str) -> None:
        with RawPeer.identified(port, "raw") as raw:
            stack.wait("connected")
            stack.send("raw", b"hello", ttl=ttl, uuid=b"0123456789abcdef")
            assert raw.read(34) == (
                bytes.fromhex("0000001e 03")
                + b"0123456789abcdef"
                + bytes.fromhex(on_the_wire + "00000000")
                + b"hello"
            )

    @pytest.mark.parametrize(
        ("flags", "on_the_wire"),
        [(0, "00000000"), (1, "00000001"), (0x80000000, "80000000"), (0xFFFFFFFF, "ffffffff")],
    )
    def test_flags(self, stack: Stack, port: int, flags: int, on_the_wire: str) -> None:
        with RawPeer.identified(port, "raw") as raw:
            stack.wait("connected")
            stack.send("raw", b"", flags=flags, uuid=b"0123456789abcdef")
            assert raw.read(29) == (
                bytes.fromhex("00000019 03")
                + b"0123456789abcdef"
                + bytes.fromhex("00000000" + on_the_wire)
            )

    def test_a_short_uuid_is_padded_with_nuls(self, stack: Stack, port: int) -> None:
        with RawPeer.identified(port, "raw") as raw:
            stack.wait("connected")
            stack.send("raw", b"", uuid=b"ab")
            assert raw.frame() == b"\x03ab" + bytes(14) + bytes(8)

    def test_a_long_uuid_is_cut(self, stack: Stack, port: int) -> None:
        with RawPeer.identified(port, "raw") as raw:
            stack.wait("connected")
            stack.send("raw", b"", uuid=b"0123456789abcdefXYZ")
            assert raw.frame()[1:17] == b"0123456789abcdef"

    def test_a_uuid_of_its_own_has_sixteen_bytes(self, stack: Stack, port: int) -> None:
        with RawPeer.identified(port, "raw") as raw:
            stack.wait("connected")
            first, second = stack.send("raw"), stack.send("raw")
            assert [raw.frame()[1:17], raw.frame()[1:17]] == [first, second]
            assert len(first) == 16
            assert first != second

    def test_many_messages_are_packets_one_after_the_other(self, stack: Stack, port: int) -> None:
        with RawPeer.identified(port, "raw") as raw:
            stack.wait("connected")
            for number in range(1000):
                stack.send("raw", b"%d" % number)
            for number in range(1000):
                assert raw.frame()[25:] == b"%d" % number


class TestMessageReceived:
    @pytest.mark.parametrize(
        ("on_the_wire", "ttl"),
        [(0, 0), (1, 1), (0x12345678, 0x12345678), (0xFFFFFFFE, 0xFFFFFFFE), (0xFFFFFFFF, None)],
    )
    def test_ttl(self, stack: Stack, port: int, on_the_wire: int, ttl: float | None) -> None:
        with RawPeer.identified(port, "raw") as raw:
            raw.send(message_packet(b"data", ttl=on_the_wire))
            assert stack.wait("message")["ttl"] == ttl

    def test_flags_uuid_data_and_sender(self, stack: Stack, port: int) -> None:
        with RawPeer.identified(port, "rawß") as raw:
            raw.send(message_packet(b"\0data\xff", b"0123456789abcdef", 5, 0xF0000001))
            message = stack.wait("message")
            assert message["conn"] == stack.wait("connected")["conn"]
            del message["conn"]
            assert message == {
                "event": "message",
                "peer": "rawß",
                "data": b"\0data\xff",
                "uuid": b"0123456789abcdef",
                "ttl": 5.0,
                "flags": 0xF0000001,
            }

    def test_a_message_without_data(self, stack: Stack, port: int) -> None:
        with RawPeer.identified(port, "raw") as raw:
            raw.send(message_packet(b""))
            assert stack.wait("message")["data"] == b""

    def test_what_arrives_is_a_message(self, stack: Stack, port: int) -> None:
        received: list[Message] = []
        stack.messaging.on_message_recv.add(lambda conn, ident, m: received.append(m))
        with RawPeer.identified(port, "raw") as raw:
            raw.send(message_packet(b"x", b"id"))
            raw.ping()
        assert [type(m) for m in received] == [Message]
        assert received[0].uuid == b"id" + bytes(14)
        assert isinstance(received[0].ttl, float)


class TestPing:
    def test_a_ping_is_answered(self, port: int) -> None:
        with RawPeer.identified(port, "raw") as raw:
            raw.send(PING_PACKET)
            assert raw.read(5) == PONG_PACKET

    def test_a_ping_before_the_identification_is_answered(self, port: int) -> None:
        with RawPeer.dial(port) as raw:
            raw.read(len(TestGreeting.GREETING))
            raw.send(PING_PACKET * 2)
            assert raw.read(10) == PONG_PACKET * 2

    def test_a_pong_that_nobody_asked_for_is_ignored(self, stack: Stack, port: int) -> None:
        with RawPeer.dial(port) as raw:
            raw.send(PONG_PACKET + ident_packet("raw") + PONG_PACKET + message_packet(b"x"))
            stack.wait("message")
        assert not stack.log.all("error")

    def test_a_pong_comes_after_the_callbacks_of_earlier_messages(
        self, stack: Stack, port: int
    ) -> None:
        """A peer may conclude from a pong that its messages have been worked on."""
        running, go_on = threading.Event(), threading.Event()

        def slow(conn_id: str, ident: str, message: Message) -> None:
            running.set()
            assert go_on.wait(DEADLINE)

        stack.messaging.on_message_recv.add(slow)
        with RawPeer.identified(port, "raw") as raw:
            raw.send(message_packet(b"slow") + PING_PACKET)
            assert running.wait(DEADLINE)
            assert select.select([raw.sock], [], [], 0) == ([], [], [])
            go_on.set()
            assert raw.read(5) == PONG_PACKET

    def test_keepalive_sends_pings(self) -> None:
        stack = Stack()
        stack.messaging.keepalive_interval = 0.02
        stack.messaging.keepalive_wait = DEADLINE
        port = stack.listen()
        with stacks(stack.start()), RawPeer.identified(port, "raw") as raw:
            for _ in range(3):
                assert raw.read(5) == PING_PACKET
                raw.send(PONG_PACKET)


class TestUnknownFrames:
    def test_before_and_after_the_identification(self, stack: Stack, port: int) -> None:
        """1.6 ignores them, so they are how the protocol is extended."""
        with RawPeer.dial(port) as raw:
            for kind in UNKNOWN_TYPES:
                raw.send(packet(bytes([kind])) + packet(bytes([kind]) + b"payload"))
            raw.send(VERSION_PACKET + ident_packet("raw"))
            for kind in UNKNOWN_TYPES:
                raw.send(packet(bytes([kind])) + packet(bytes([kind]) + b"payload"))
            raw.send(message_packet(b"through"))
            assert stack.wait("message")["data"] == b"through"
        stack.wait("disconnected")
        assert not stack.log.all("error")

    def test_nothing_is_answered(self, port: int) -> None:
        with RawPeer.identified(port, "raw") as raw:
            for kind in UNKNOWN_TYPES:
                raw.send(packet(bytes([kind]) + bytes(30)))
            raw.ping()  # the next frame of a known type is the pong


class TestOrderOfFrames:
    def test_a_version_is_not_required(self, stack: Stack, port: int) -> None:
        with RawPeer.dial(port) as raw:
            raw.send(ident_packet("raw") + message_packet(b"x"))
            assert stack.wait("message")["peer"] == "raw"

    def test_a_version_after_the_identification(self, stack: Stack, port: int) -> None:
        with RawPeer.dial(port) as raw:
            raw.send(ident_packet("raw") + VERSION_PACKET + message_packet(b"x"))
            assert stack.wait("message")["peer"] == "raw"

    @pytest.mark.parametrize("second", ["raw", "somebody else"])
    def test_a_second_identification_is_ignored(self, stack: Stack, port: int, second: str) -> None:
        with RawPeer.identified(port, "raw") as raw:
            raw.send(ident_packet(second) + message_packet(b"x"))
            assert stack.wait("message")["peer"] == "raw"
            assert [e["peer"] for e in stack.log.all("connected")] == ["raw"]

    def test_a_message_before_the_identification_closes(self, stack: Stack, port: int) -> None:
        with RawPeer.dial(port) as raw:
            raw.send(VERSION_PACKET + message_packet(b"x"))
            raw.read(len(TestGreeting.GREETING))
            assert raw.is_closed()
        assert stack.wait("error")["type"] is SnakeMQNoIdent
        assert not stack.log.all("message")
        assert not stack.log.all("connected")

    @pytest.mark.parametrize("version", [0, 2, 0xFFFFFFFF])
    def test_another_version_gets_frame_one_and_a_close(
        self, stack: Stack, port: int, version: int
    ) -> None:
        with RawPeer.dial(port) as raw:
            raw.send(packet(b"\0" + version.to_bytes(4, "big")))
            assert raw.rest() == TestGreeting.GREETING + bytes.fromhex("00000001 01")
        assert stack.wait("error")["type"] is SnakeMQIncompatibleProtocol

    def test_being_called_incompatible_is_survived(self, stack: Stack, port: int) -> None:
        """It is the other side's business to close."""
        with RawPeer.dial(port) as raw:
            raw.send(bytes.fromhex("00000001 01"))
        stack.wait("link disconnected")
        with RawPeer.identified(port, "raw"):
            stack.wait("connected")


class TestMalformed:
    @pytest.mark.parametrize(
        "payload",
        [
            pytest.param(b"", id="empty packet"),
            pytest.param(b"\x00", id="version without a number"),
            pytest.param(b"\x00\0\0\0\1\0", id="version with something behind"),
            pytest.param(b"\x03", id="message without anything"),
            pytest.param(b"\x03" + bytes(23), id="message a byte too short"),
        ],
    )
    @pytest.mark.parametrize("identified", [True, False])
    def test_it_closes(self, stack: Stack, port: int, payload: bytes, identified: bool) -> None:
        with RawPeer.dial(port) as raw:
            raw.read(len(TestGreeting.GREETING))
            if identified:
                raw.send(ident_packet("raw"))
                assert raw.read(5) == PING_PACKET
            raw.send(packet(payload))
            assert raw.is_closed()
        error = stack.wait("error")
        assert error["conn"] == stack.wait("link disconnected")["conn"]
        expected: tuple[type[Exception], ...] = (SnakeMQBrokenMessage,)
        if payload[:1] == b"\x03" and not identified:
            expected += (SnakeMQNoIdent,)
        assert error["type"] in expected

    def test_a_packet_of_no_bytes_is_seen_before_anything_follows(
        self, stack: Stack, port: int
    ) -> None:
        """1.6 noticed it when the next byte came."""
        with RawPeer.identified(port, "raw") as raw:
            raw.send(bytes(4))
            assert stack.wait("error")["type"] is SnakeMQBrokenMessage

    def test_a_packet_that_is_announced_too_large(self, stack: Stack, port: int) -> None:
        limit = stack.packeter.max_packet_size
        stack.packeter.on_error.add(lambda conn, exc: stack.log.add("broken", exc=exc))
        with RawPeer.identified(port, "raw") as raw:
            raw.send((limit + 1).to_bytes(4, "big"))
            assert raw.is_closed()
        error = stack.wait("broken")["exc"]
        assert isinstance(error, PacketTooLarge)
        assert (error.size, error.limit) == (limit + 1, limit)

    def test_an_identifier_that_is_not_utf_8(self, stack: Stack, port: int) -> None:
        """Decoded with the replacement character, as in 1.6."""
        with RawPeer.dial(port) as raw:
            raw.send(ident_packet(b"a\xffb"))
            assert stack.wait("connected")["peer"] == "a�b"

    def test_the_longest_identifier(self, stack: Stack, port: int) -> None:
        with RawPeer.dial(port) as raw:
            raw.send(ident_packet("😀" * 50))
            assert stack.wait("connected")["peer"] == "😀" * 50


class TestSplits:
    """A stream means the same however it is cut into pieces."""

    STREAM = (
        VERSION_PACKET
        + ident_packet("raw")
        + packet(b"\x41?")
        + message_packet(b"one", b"1", 1, 1)
        + message_packet(b"", b"2", 0xFFFFFFFF, 2)
        + PING_PACKET
        + message_packet(b"three", b"3", 3, 3)
    )
    EXPECTED = (
        (b"one", b"1" + bytes(15), 1, 1),
        (b"", b"2" + bytes(15), None, 2),
        (b"three", b"3" + bytes(15), 3, 3),
    )

    def check(self, port: int, stack: Stack, *pieces: bytes) -> None:
        """Send the pieces, each as soon as the link has got the one before."""
        arrived = threading.Semaphore(0)
        got = 0
        since = stack.log.mark()

        def count(conn_id: str, data: bytes) -> None:
            nonlocal got
            got += len(data)
            arrived.release()

        stack.link.on_recv.add(count)
        with RawPeer.dial(port) as raw:
            sent = 0
            for piece in pieces:
                raw.send(piece)
                sent += len(piece)
                while got < sent:
                    assert arrived.acquire(timeout=DEADLINE)
            messages = stack.log.wait("message", since=since, count=3)
            assert [(m["data"], m["uuid"], m["ttl"], m["flags"]) for m in messages] == list(
                self.EXPECTED
            )
            raw.read(len(TestGreeting.GREETING))
            while (frame := raw.frame()) != b"\x05":
                assert frame == b"\x04"  # asked before the rest came
        stack.wait("disconnected", since=since)
        stack.link.on_recv.remove(count)
        assert not stack.log.all("error")

    def test_one_byte_at_a_time(self, stack: Stack, port: int) -> None:
        self.check(port, stack, *(bytes([byte]) for byte in self.STREAM))

    def test_cut_in_two_at_every_place(self, stack: Stack, port: int) -> None:
        for position in range(1, len(self.STREAM)):
            self.check(port, stack, self.STREAM[:position], self.STREAM[position:])

    def test_all_at_once(self, stack: Stack, port: int) -> None:
        self.check(port, stack, self.STREAM)
