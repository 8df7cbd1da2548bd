"""Every example of the protocol specification is what the code encodes, decodes and does.

The examples are the literal blocks with a caption in docs/reference/protocol.rst:
bytes in hexadecimal, two spaces, a remark.
"""

from __future__ import annotations

import pickle
import re
import socket
import threading
from collections.abc import Iterator

import pytest

from snakemq import Message, Peer
from snakemq._core import frames, rpc_records
from snakemq._core.framing import PacketDecoder, encode_header
from snakemq._core.session import Event, Session
from snakemq.rpc import as_signal
from tests.docs.runner import ROOT
from tests.helpers import DEADLINE, wait_until

SPECIFICATION = ROOT / "docs" / "reference" / "protocol.rst"

_EXAMPLE = re.compile(
    r"^\.\. code-block:: none\n   :caption: (?P<caption>.+)\n\n(?P<lines>(?:   .*\n)+)",
    re.MULTILINE,
)

UUID = b"0123456789abcdef"
REQ_ID = bytes(range(16))


def _bytes_of(line: str) -> bytes:
    return bytes.fromhex(line.split("  ")[0])


def examples() -> dict[str, list[str]]:
    """The lines of each example, by its caption."""
    text = SPECIFICATION.read_text("utf-8")
    found = {
        match["caption"]: [line.strip() for line in match["lines"].splitlines()]
        for match in _EXAMPLE.finditer(text)
    }
    assert len(found) == text.count(".. code-block:: none"), "one without a caption, or twice"
    return found


def example(caption: str) -> bytes:
    """The bytes of an example that is no conversation."""
    return b"".join(map(_bytes_of, examples()[caption]))


def packet(content: bytes) -> bytes:
    return encode_header(len(content)) + content


def message_packet(message: Message) -> bytes:
    """As messages are sent: through the encoder of many at once."""
    buffers: list[bytes] = []
    sizes: list[int] = []
    frames.encode_message_packets([message], buffers, sizes)
    encoded = b"".join(buffers)
    assert sizes == [len(encoded)]
    assert encoded == packet(frames.encode_message(message))
    return encoded


def pickled(prefix: bytes, record: dict[str, object]) -> bytes:
    return prefix + pickle.dumps(record, protocol=4)


#: What the code makes of the same.
PACKETS = {
    "A packet": packet(b"abc"),
    "A frame of an unknown type": packet(b"\x41???"),
    "A protocol version": packet(Session.greeting("bob")[0]),
    "An identification": packet(Session.greeting("bob")[1]),
    "An identification beyond ASCII": packet(frames.encode_identification("č€😀")),
    "The other side is incompatible": packet(frames.FRAME_INCOMPATIBLE),
    "A message": message_packet(Message(b"hello", ttl=600.5, flags=1, uuid=UUID)),
    "A message without data that may wait for ever": message_packet(
        Message(b"", ttl=None, uuid=b"ab")
    ),
    "A ping": packet(frames.FRAME_PING),
    "A pong": packet(frames.FRAME_PONG),
}

_CALL = rpc_records.call_record("calc", "add", (2, 40), {}, REQ_ID)

RECORDS = {
    "A call, pickled by Python": pickled(rpc_records.REQUEST_PREFIX, _CALL),
    "A reply with a value, pickled by Python": pickled(
        rpc_records.REPLY_PREFIX, rpc_records.value_record(REQ_ID, 42)
    ),
    "A reply with a failure, pickled by Python": pickled(
        rpc_records.REPLY_PREFIX,
        rpc_records.error_record(REQ_ID, ZeroDivisionError("division by zero"), "Traceback\n"),
    ),
    "A signal, pickled by Python": pickled(
        rpc_records.REQUEST_PREFIX,
        rpc_records.signal_record("calc", "note", ("tea",), {"loud": True}),
    ),
}

BY_HAND = "A call, pickled by hand"
CONVERSATION = "A conversation with bob"


def test_every_example_is_tested() -> None:
    assert set(examples()) == {*PACKETS, *RECORDS, BY_HAND, CONVERSATION}


@pytest.mark.parametrize("caption", PACKETS)
def test_packet(caption: str) -> None:
    assert example(caption).hex(" ") == PACKETS[caption].hex(" ")


@pytest.mark.parametrize("caption", PACKETS)
def test_packet_is_found_in_a_stream(caption: str) -> None:
    encoded = example(caption)
    decoder = PacketDecoder()
    for byte in encoded[:-1]:
        assert decoder.feed(bytes([byte]))[1] == []
    buffer, bounds = decoder.feed(encoded[-1:])
    assert buffer[bounds[0] : bounds[1]] == encoded[4:]
    assert decoder.pending == 0


@pytest.mark.parametrize(
    ("caption", "event"),
    [
        ("A frame of an unknown type", Event.NOTHING),
        ("A protocol version", Event.NOTHING),
        ("An identification", Event.IDENTIFIED),
        ("The other side is incompatible", Event.REJECTED),
        ("A ping", Event.PING),
        ("A pong", Event.PONG),
    ],
)
def test_what_a_frame_means(caption: str, event: Event) -> None:
    frame = example(caption)[4:]
    assert Session().receive(frame[0], frame[1:]) is event


@pytest.mark.parametrize(
    ("caption", "ident"),
    [("An identification", "bob"), ("An identification beyond ASCII", "č€😀")],
)
def test_identifier(caption: str, ident: str) -> None:
    session = Session()
    session.receive(2, example(caption)[5:])
    assert session.ident == ident


def test_messages_are_decoded() -> None:
    encoded = example("A message")
    message = frames.decode_message(encoded, 4, len(encoded))
    assert (message.data, message.ttl, message.flags, message.uuid) == (b"hello", 600.0, 1, UUID)
    encoded = example("A message without data that may wait for ever")
    message = frames.decode_message(encoded, 4, len(encoded))
    assert (message.data, message.ttl, message.flags) == (b"", None, 0)
    assert message.uuid == b"ab" + bytes(14)


@pytest.mark.parametrize("caption", RECORDS)
def test_record(caption: str) -> None:
    assert example(caption).hex(" ") == RECORDS[caption].hex(" ")


def test_the_record_by_hand_is_the_same_record() -> None:
    assert pickle.loads(example(BY_HAND)[6:]) == _CALL


class Calculator:
    """What the examples call."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, bool]] = []
        self.noted = threading.Event()

    def add(self, a: int, b: int) -> int:
        return a + b

    @as_signal
    def note(self, text: str, loud: bool) -> None:
        self.notes.append((text, loud))
        self.noted.set()


@pytest.fixture
def bob() -> Iterator[Peer]:
    with Peer("bob", listen=0, serve={"calc": Calculator()}) as peer:
        yield peer


def dial(peer: Peer) -> socket.socket:
    sock = socket.create_connection(peer.addresses[0], DEADLINE)
    sock.settimeout(DEADLINE)
    return sock


def read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, f"closed after {data.hex(' ')}"
        data += piece
    return data


GREETING = PACKETS["A protocol version"] + PACKETS["An identification"]


@pytest.mark.parametrize("caption", ["A call, pickled by Python", BY_HAND])
def test_a_running_peer_answers_the_call(bob: Peer, caption: str) -> None:
    with dial(bob) as sock:
        sock.sendall(packet(b"\x02anna") + message_packet(Message(example(caption))))
        assert read(sock, len(GREETING)) == GREETING
        length = int.from_bytes(read(sock, 4), "big")
        reply = read(sock, length)[frames.MESSAGE_OVERHEAD :]
    expected = example("A reply with a value, pickled by Python")
    assert reply[:6] == expected[:6]
    assert pickle.loads(reply[6:]) == pickle.loads(expected[6:])
    if pickle.DEFAULT_PROTOCOL == 4:
        assert reply.hex(" ") == expected.hex(" ")


def test_a_running_peer_takes_the_signal(bob: Peer) -> None:
    calculator = bob.rpc_server.instances["calc"]
    with dial(bob) as sock:
        data = example("A signal, pickled by Python")
        sock.sendall(packet(b"\x02anna") + message_packet(Message(data)))
        assert calculator.noted.wait(DEADLINE)
    assert calculator.notes == [("tea", True)]


@pytest.mark.parametrize("caption", ["A call, pickled by Python", BY_HAND])
def test_no_reply_to_half_a_record(bob: Peer, caption: str) -> None:
    with dial(bob) as sock:
        broken = message_packet(Message(example(caption)[:-1]))
        whole = message_packet(Message(example(caption)))
        sock.sendall(packet(b"\x02anna") + broken + whole)
        assert read(sock, len(GREETING)) == GREETING
        length = int.from_bytes(read(sock, 4), "big")
        assert read(sock, length)[25:31] == b"rpcrep"
        sock.sendall(PACKETS["A ping"])
        assert read(sock, 5) == PACKETS["A pong"]


def test_conversation(bob: Peer) -> None:
    """Played from top to bottom against a running peer."""
    sends_his = "bob sends a message"
    with dial(bob) as sock:
        for line in examples()[CONVERSATION]:
            data = _bytes_of(line[1:].strip())
            if line.startswith(">"):
                sock.sendall(data)
                continue
            if sends_his in line:
                wait_until(lambda: bob.is_connected("anna"))
                bob.send("anna", "helo", uuid=b"fedcba9876543210")
            assert read(sock, len(data)).hex(" ") == data.hex(" "), line
        assert sock.recv(1) == b"", "bob closes"
    received = bob.receive(DEADLINE)
    assert received is not None
    assert (received.data, received.uuid, received.ttl) == (b"hi!", UUID, 0)
