"""Every example of the protocol specification is what the code encodes, decodes and does.

The examples are the literal blocks with a caption in docs/reference/protocol.rst:
bytes in hexadecimal, two spaces, a remark.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import pickle
import re
import socket
import textwrap
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from snakemq import ConnectionLimits, Message, Peer, SharedSecret, _queue
from snakemq._core import frames, rpc_parts, rpc_records
from snakemq._core.authentication import NONCE_SIZE, PROOF_SIZE, Exchange, Role, make_proof
from snakemq._core.features import (
    MAX_FEATURES_SIZE,
    DeliveryFeature,
    Feature,
    decode_features,
    encode_features,
)
from snakemq._core.framing import PacketDecoder, encode_header
from snakemq._core.received import Received
from snakemq._core.refusal import Refusal, decode_refusal, encode_refusal
from snakemq._core.session import Event, Session, SessionState
from snakemq._failures import StorageFailures
from snakemq._incoming import WINDOW, Incoming
from snakemq._peer_connection import PeerConnection
from snakemq._strangers import MAX_GREETING_PACKET, MAX_GREETING_SIZE
from snakemq.exceptions import SnakeMQBrokenMessage
from snakemq.link import Link
from snakemq.packeter import Packeter
from snakemq.rpc import Busy, as_signal, current_call
from tests.docs.runner import ROOT
from tests.helpers import DEADLINE, wait_until

SPECIFICATION = ROOT / "docs" / "reference" / "protocol.rst"

_EXAMPLE = re.compile(
    r"^\.\. code-block:: none\n   :caption: (?P<caption>.+)\n\n(?P<lines>(?:   .*\n)+)",
    re.MULTILINE,
)

LOG = logging.getLogger(__name__)

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
    encoded = packet(frames.encode_message(message))
    for acknowledged in (False, True):
        assert batch(message, acknowledged=acknowledged) == encoded
    return encoded


def batch(message: Message, *, acknowledged: bool) -> bytes:
    buffers: list[bytes] = []
    sizes: list[int] = []
    frames.encode_message_packets([message], buffers, sizes, acknowledged=acknowledged)
    encoded = b"".join(buffers)
    assert sizes == [len(encoded)]
    return encoded


def pickled(prefix: bytes, record: dict[str, object]) -> bytes:
    return prefix + pickle.dumps(record, protocol=4)


BEGINNING = frames.Sequence(bytes.fromhex("9f27c15e08b344d2"), 0, 0, 0)
AGAIN = frames.Sequence(BEGINNING.stream, 256, stored=0, repeated=2)
RESTARTED = frames.Sequence(bytes.fromhex("40e61b97d57c20ae"), 0, stored=8192, repeated=0)

#: What the examples have for the 8 bytes that bob makes up.
BOBS_STREAM = bytes.fromhex("622d84f1390ac65b")

#: What each peer sends first.
GREETING_FRAMES = Session.greeting("bob", {Feature.DELIVERY: WINDOW.encode(), Feature.CALLS: b""})

SECRET = b"only anna and bob know this"
ANNAS_NONCE = bytes(range(0xA0, 0xC0))
BOBS_NONCE = bytes(range(0xC0, 0xE0))
EXCHANGE = Exchange("anna", "bob", ANNAS_NONCE, BOBS_NONCE, b"")

#: What bob sends last of his greeting if he has a secret.
WITH_NONCE = Session.greeting(
    "bob",
    {
        Feature.AUTHENTICATION: BOBS_NONCE,
        Feature.DELIVERY: WINDOW.encode(),
        Feature.CALLS: b"",
    },
)[2]


def proof(role: Role) -> bytes:
    return bytes([frames.FrameType.PROOF]) + make_proof(SECRET, role, EXCHANGE)


#: What the code makes of the same.
PACKETS = {
    "A packet": packet(b"abc"),
    "A frame of an unknown type": packet(b"\x41???"),
    "A protocol version": packet(GREETING_FRAMES[0]),
    "An identification": packet(GREETING_FRAMES[1]),
    "An identification beyond ASCII": packet(frames.encode_identification("č€😀")),
    "The other side is incompatible": packet(frames.FRAME_INCOMPATIBLE),
    "A message": message_packet(Message(b"hello", ttl=600.5, flags=1, uuid=UUID)),
    "A message without data that may wait for ever": message_packet(
        Message(b"", ttl=None, uuid=b"ab")
    ),
    "A ping": packet(frames.FRAME_PING),
    "A pong": packet(frames.FRAME_PONG),
    "The features of snakemq 2": packet(GREETING_FRAMES[2]),
    "No features": packet(b"\x06" + encode_features({})),
    "An acknowledgement": packet(frames.encode_acknowledgement(3)),
    "A sequence at the beginning": packet(frames.encode_sequence(BEGINNING)),
    "A sequence on the next connection": packet(frames.encode_sequence(AGAIN)),
    "A sequence after a restart": packet(frames.encode_sequence(RESTARTED)),
    "The features of a peer with a secret": packet(WITH_NONCE),
    "The proof of the connector": packet(proof(Role.CONNECTOR)),
    "The proof of the listener": packet(proof(Role.LISTENER)),
    "A wrong secret is refused": packet(encode_refusal(Refusal.WRONG_SECRET)),
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
    "A call with a deadline and a window, pickled by Python": pickled(
        rpc_records.REQUEST_PREFIX,
        rpc_records.call_record("", "count", (3,), {}, REQ_ID, timeout=2.5, window=64),
    ),
    "A call is cancelled, pickled by Python": pickled(
        rpc_records.REQUEST_PREFIX, rpc_records.cancel_record(REQ_ID)
    ),
    "Items of a stream, pickled by Python": pickled(
        rpc_records.REPLY_PREFIX, rpc_records.items_record(REQ_ID, 0, [0, 1, 2], end=True)
    ),
    "More of a stream, pickled by Python": pickled(
        rpc_records.REQUEST_PREFIX, rpc_records.more_record(REQ_ID, 3, 0)
    ),
    "A question for what is served, pickled by Python": pickled(
        rpc_records.REQUEST_PREFIX, rpc_records.describe_record(REQ_ID)
    ),
    "A failure of the call itself, pickled by Python": pickled(
        rpc_records.REPLY_PREFIX,
        rpc_records.error_record(REQ_ID, Busy("later"), "", code=rpc_records.Code.BUSY),
    ),
    "A part of a request": rpc_parts.encode_part(
        rpc_parts.REQUEST_PARTS,
        REQ_ID,
        0,
        100_000,
        pickled(rpc_records.REQUEST_PREFIX, _CALL)[:10],
    ),
    "The end of a transfer": rpc_parts.encode_part(
        rpc_parts.REQUEST_PARTS, REQ_ID, 10, 100_000, b""
    ),
    "A refusal": rpc_parts.encode_refusal(rpc_parts.REQUEST_PARTS, REQ_ID, "too large"),
}

BY_HAND = "A call, pickled by hand"
CONVERSATION = "A conversation with bob"
ACKNOWLEDGED = "A conversation with acknowledgements"
NEXT_CONNECTION = "The next connection"
AFTER_RESTART = "After a restart"
PROVED = "What the connector proves"
WITH_PROOFS = "A conversation with proofs"
WITHOUT_PROOF = "A conversation without a proof"


def test_every_example_is_tested() -> None:
    assert set(examples()) == {
        *PACKETS,
        *RECORDS,
        BY_HAND,
        CONVERSATION,
        ACKNOWLEDGED,
        NEXT_CONNECTION,
        AFTER_RESTART,
        PROVED,
        WITH_PROOFS,
        WITHOUT_PROOF,
    }


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
        ("The proof of the connector", Event.NOTHING),
        ("A wrong secret is refused", Event.REFUSAL),
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


#: Frames that are skipped when the one behind the identification is looked for.
SKIPPED = [
    "A frame of an unknown type",
    "A protocol version",
    "An identification",
    "An acknowledgement",
    "A sequence at the beginning",
    "The proof of the connector",
    "A wrong secret is refused",
]


def identified() -> Session:
    session = Session()
    frame = example("An identification")[4:]
    session.receive(frame[0], frame[1:])
    return session


def receive(session: Session, caption: str) -> Event:
    frame = example(caption)[4:]
    return session.receive(frame[0], frame[1:])


@pytest.mark.parametrize("skipped", [None, *SKIPPED])
def test_the_features_stand_right_behind_the_identification(skipped: str | None) -> None:
    session = identified()
    if skipped is not None:
        assert receive(session, skipped) in (Event.NOTHING, Event.REFUSAL)
        assert session.state is SessionState.IDENTIFIED
    assert receive(session, "The features of snakemq 2") is Event.FEATURES
    assert session.delivery == WINDOW
    assert receive(session, "An acknowledgement") is Event.ACKNOWLEDGEMENT
    assert receive(session, "A sequence at the beginning") is Event.SEQUENCE


@pytest.mark.parametrize("other", ["A message", "A ping", "A pong", "No features"])
def test_anything_else_at_that_place_means_no_features(other: str) -> None:
    session = identified()
    assert receive(session, other) is not Event.NOTHING
    assert receive(session, "The features of snakemq 2") is Event.NOTHING
    assert session.delivery is None
    assert receive(session, "An acknowledgement") is Event.NOTHING
    assert receive(session, "A sequence at the beginning") is Event.NOTHING


def test_features_before_the_identification_are_ignored() -> None:
    session = Session()
    assert receive(session, "The features of snakemq 2") is Event.NOTHING
    receive(session, "An identification")
    receive(session, "A ping")
    assert session.delivery is None


def test_features_are_extended_by_numbers_and_at_the_end_of_a_value() -> None:
    later = bytes.fromhex("0100 0003 616263  0001 000a 00000010 00010000 ffff")
    features = decode_features(bytes.fromhex("0001 0001 00") + later)
    assert features[0x100] == b"abc"
    assert DeliveryFeature.decode(features[Feature.DELIVERY]) == (16, 65536)


@pytest.mark.parametrize(
    "payload",
    [
        bytes.fromhex("000100"),
        bytes.fromhex("0001 0008 00002000 010000"),
        bytes.fromhex("0001 0007 00002000 010000"),
        bytes.fromhex("0001 0008 00000000 01000000"),
        bytes.fromhex("0001 0008 00002000 00000000"),
        bytes.fromhex("0100 0ffd") + bytes(0xFFD),
        bytes.fromhex("0003 001f") + bytes(0x1F),
    ],
    ids=[
        "cut off",
        "value cut off",
        "short value",
        "no messages",
        "no bytes",
        "too long",
        "short nonce",
    ],
)
def test_malformed_features_are_an_error(payload: bytes) -> None:
    with pytest.raises(SnakeMQBrokenMessage):
        identified().receive(6, payload)


def test_the_longest_features() -> None:
    payload = bytes.fromhex("0100 0ffc") + bytes(0xFFC)
    assert len(payload) == MAX_FEATURES_SIZE == 4096
    assert identified().receive(6, payload) is Event.FEATURES


def test_a_proof_is_what_the_words_say() -> None:
    """Without the code that is to be described."""
    proved = hmac.digest(SECRET, example(PROVED), "sha256")
    assert proved == example("The proof of the connector")[5:]
    of_listener = example(PROVED).replace(b"\0\0\0\x09connector", b"\0\0\0\x08listener")
    assert hmac.digest(SECRET, of_listener, "sha256") == example("The proof of the listener")[5:]
    assert (len(ANNAS_NONCE), len(proved)) == (NONCE_SIZE, PROOF_SIZE)
    assert f"``{SECRET.decode()}``" in SPECIFICATION.read_text("utf-8")


@pytest.mark.parametrize("reason", Refusal)
def test_every_reason_of_a_refusal_has_a_row(reason: Refusal) -> None:
    name = reason.name.lower().replace("_", " ")
    text = SPECIFICATION.read_text("utf-8")
    assert re.search(rf"^{reason.value}       {name}  ", text, re.MULTILINE)


def test_refusals_are_extended_by_numbers_and_at_the_end() -> None:
    assert decode_refusal(example("A wrong secret is refused")[5:] + b"because") == 2
    assert decode_refusal(b"\xff\xff") == 0xFFFF
    with pytest.raises(SnakeMQBrokenMessage):
        decode_refusal(b"\0")


def test_the_limits_of_strangers() -> None:
    text = " ".join(SPECIFICATION.read_text("utf-8").split())
    section = text.partition("A *stranger* is")[2].partition("1.6 has no such limits")[0]
    limits = ConnectionLimits()
    assert [int(number) for number in re.findall(r"\b(\d{2,})\b", section)] == [
        MAX_GREETING_PACKET,
        MAX_GREETING_SIZE,
        int(limits.identification_timeout),
        limits.max_unidentified,
        limits.max_unidentified_per_address,
    ]


def test_acknowledgements_and_sequences_are_decoded() -> None:
    assert frames.decode_acknowledgement(example("An acknowledgement")[5:]) == 3
    for caption, sequence in {
        "A sequence at the beginning": BEGINNING,
        "A sequence on the next connection": AGAIN,
        "A sequence after a restart": RESTARTED,
    }.items():
        assert frames.decode_sequence(example(caption)[5:]) == sequence


def test_messages_are_decoded() -> None:
    encoded = example("A message")
    message = frames.decode_message(encoded, 4, len(encoded))
    assert (message.data, message.ttl, message.flags, message.uuid) == (b"hello", 600.0, 1, UUID)
    encoded = example("A message without data that may wait for ever")
    message = frames.decode_message(encoded, 4, len(encoded))
    assert (message.data, message.ttl, message.flags) == (b"", None, 0)
    assert message.uuid == b"ab" + bytes(14)


@pytest.mark.parametrize(
    ("ttl", "acknowledged", "on_the_wire"),
    [(0, True, 0), (0.1, True, 1), (1.9, True, 1), (0.1, False, 0), (1.9, False, 1)],
)
def test_what_is_left_of_a_second(ttl: float, acknowledged: bool, on_the_wire: int) -> None:
    encoded = batch(Message(b"", ttl), acknowledged=acknowledged)
    assert int.from_bytes(encoded[21:25], "big") == on_the_wire


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


def read_message(sock: socket.socket) -> bytes:
    """The next frame but for a ping: bob may ask for features."""
    while (frame := read(sock, int.from_bytes(read(sock, 4), "big"))) == frames.FRAME_PING:
        pass
    return frame


GREETING = (
    PACKETS["A protocol version"]
    + PACKETS["An identification"]
    + PACKETS["The features of snakemq 2"]
)


@pytest.mark.parametrize("caption", ["A call, pickled by Python", BY_HAND])
def test_a_running_peer_answers_the_call(bob: Peer, caption: str) -> None:
    with dial(bob) as sock:
        sock.sendall(packet(b"\x02anna") + message_packet(Message(example(caption))))
        assert read(sock, len(GREETING)) == GREETING
        reply = read_message(sock)[frames.MESSAGE_OVERHEAD :]
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


def read_reply(sock: socket.socket) -> dict[str, Any]:
    data = read_message(sock)[frames.MESSAGE_OVERHEAD :]
    assert data[:6] == b"rpcrep"
    record: dict[str, Any] = pickle.loads(data[6:])
    assert record["req_id"] == REQ_ID
    return record


def test_a_running_peer_sends_the_stream(bob: Peer) -> None:
    @bob.function
    def count(upto: int) -> Iterator[int]:
        yield from range(upto)

    with dial(bob) as sock:
        call = example("A call with a deadline and a window, pickled by Python")
        sock.sendall(packet(b"\x02anna") + message_packet(Message(call)))
        assert read(sock, len(GREETING)) == GREETING
        items: list[int] = []
        end = False
        while not end:
            record = read_reply(sock)
            assert list(record) == ["ok", "return", "req_id", "position", "end"]
            assert record["position"] == len(items)
            items += record["return"]
            end = record["end"]
        assert items == [0, 1, 2]
        more = example("More of a stream, pickled by Python")
        sock.sendall(message_packet(Message(more)) + PACKETS["A ping"])
        assert read_message(sock) == frames.FRAME_PONG, "and no reply"


def test_a_running_peer_cancels_the_call(bob: Peer) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    @bob.function
    def count(upto: int) -> None:
        begun.set()
        current_call().on_cancel(cancelled.set)
        cancelled.wait(DEADLINE)

    with dial(bob) as sock:
        call = example("A call with a deadline and a window, pickled by Python")
        sock.sendall(packet(b"\x02anna") + message_packet(Message(call)))
        assert begun.wait(DEADLINE)
        cancel = example("A call is cancelled, pickled by Python")
        sock.sendall(message_packet(Message(cancel)))
        assert cancelled.wait(DEADLINE)


def test_a_running_peer_says_what_it_serves(bob: Peer) -> None:
    with dial(bob) as sock:
        question = example("A question for what is served, pickled by Python")
        sock.sendall(packet(b"\x02anna") + message_packet(Message(question)))
        assert read(sock, len(GREETING)) == GREETING
        (entry,) = read_reply(sock)["return"]
    documented = " ".join(SPECIFICATION.read_text("utf-8").split())
    text = documented.partition("The reply to ``describe`` is one")[2].partition("itself.")[0]
    assert {*entry, *entry["methods"][0], entry["kind"]} <= set(
        re.findall(r"``\"?(\w+)\"?``", text)
    )


@pytest.mark.parametrize("code", rpc_records.Code)
def test_every_code_has_a_row(code: rpc_records.Code) -> None:
    assert f"\n``{code.value}``  " in SPECIFICATION.read_text("utf-8")


@pytest.mark.parametrize("caption", ["A call, pickled by Python", BY_HAND])
def test_half_a_record_fails_if_it_says_what_call_it_is(bob: Peer, caption: str) -> None:
    with dial(bob) as sock:
        broken = message_packet(Message(example(caption)[:-1]))
        whole = message_packet(Message(example(caption)))
        sock.sendall(packet(b"\x02anna") + broken + whole)
        assert read(sock, len(GREETING)) == GREETING
        replies = [pickle.loads(read_message(sock)[31:]) for _ in range(2)]
        assert [reply["ok"] for reply in replies] == [False, True]
        assert replies[0]["code"] == "unreadable"
        assert replies[0]["req_id"] == replies[1]["req_id"]
        sock.sendall(PACKETS["A ping"])
        assert read(sock, 5) == PACKETS["A pong"]


def play(caption: str, bob: Peer, ident: str, sock: socket.socket) -> None:
    """Play a conversation from top to bottom against a running peer."""
    to_send = b""
    for line in examples()[caption]:
        data = _bytes_of(line[1:].strip())
        if line.startswith(">"):
            to_send += data
            continue
        # In one piece: bob would ask for features that come too late.
        sock.sendall(to_send)
        to_send = b""
        if "bob sends a" in line:
            wait_until(lambda: bob.is_connected(ident))
            bob.send(ident, "helo", uuid=b"fedcba9876543210")
        assert read(sock, len(data)).hex(" ") == data.hex(" "), line
    sock.sendall(to_send)


def test_conversation(bob: Peer) -> None:
    with dial(bob) as sock:
        play(CONVERSATION, bob, "anna", sock)
        assert sock.recv(1) == b"", "bob closes"
    received = bob.receive(DEADLINE)
    assert received is not None
    assert (received.data, received.uuid, received.ttl) == (b"hi!", UUID, 0)


@pytest.fixture
def bob_with_secret() -> Iterator[Peer]:
    shared = SharedSecret(SECRET, random=lambda size: BOBS_NONCE[:size])
    with Peer("bob", listen=0, authentication=shared) as peer:
        yield peer


def test_conversation_with_proofs(bob_with_secret: Peer) -> None:
    with dial(bob_with_secret) as sock:
        play(WITH_PROOFS, bob_with_secret, "anna", sock)
        received = bob_with_secret.receive(DEADLINE)
        assert received is not None
        assert received.data == b"hi!"


def test_conversation_without_a_proof(bob_with_secret: Peer) -> None:
    with dial(bob_with_secret) as sock:
        play(WITHOUT_PROOF, bob_with_secret, "anna", sock)
        assert sock.recv(1) == b"", "bob closes"
    assert not bob_with_secret.is_connected("anna")


@pytest.mark.parametrize(
    ("frame", "refusal"),
    [
        (proof(Role.LISTENER), Refusal.WRONG_SECRET),
        (proof(Role.CONNECTOR) + b"\0", Refusal.WRONG_SECRET),
        (frames.encode_message(Message(b"", uuid=UUID)), Refusal.AUTHENTICATION_MISSING),
    ],
    ids=["of the other role", "too long", "a message"],
)
def test_what_is_no_proof_is_refused(bob_with_secret: Peer, frame: bytes, refusal: int) -> None:
    features = packet(b"\x06" + encode_features({Feature.AUTHENTICATION: ANNAS_NONCE}))
    greeting = PACKETS["A protocol version"] + PACKETS["An identification"] + packet(WITH_NONCE)
    with dial(bob_with_secret) as sock:
        sock.sendall(packet(b"\x02anna") + features + packet(frame))
        assert read(sock, len(greeting)) == greeting
        assert read(sock, 7) == packet(encode_refusal(Refusal(refusal)))
        assert sock.recv(1) == b""


def test_who_has_the_name_of_this_side_is_refused_at_once(bob_with_secret: Peer) -> None:
    greeting = PACKETS["A protocol version"] + PACKETS["An identification"] + packet(WITH_NONCE)
    with dial(bob_with_secret) as sock:
        sock.sendall(PACKETS["An identification"])
        assert read(sock, len(greeting)) == greeting
        assert read(sock, 7) == PACKETS["A wrong secret is refused"]
        assert sock.recv(1) == b""


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob's stream is the one of the examples."""
    monkeypatch.setattr(_queue, "os", SimpleNamespace(urandom=lambda size: BOBS_STREAM[:size]))


@pytest.mark.usefixtures("made_up")
def test_conversation_with_acknowledgements(bob: Peer) -> None:
    with dial(bob) as sock:
        play(ACKNOWLEDGED, bob, "carl", sock)
        assert bob.flush("carl", DEADLINE), "it was acknowledged"
    for caption in (NEXT_CONNECTION, AFTER_RESTART):
        wait_until(lambda: not bob.is_connected("carl"))
        with dial(bob) as sock:
            play(caption, bob, "carl", sock)
            sock.sendall(PACKETS["A ping"])
            assert read(sock, 5) == PACKETS["A pong"], "and nothing before it"
    received = [bob.receive(DEADLINE) for _ in range(3)]
    assert [(one.text, one.message.redelivered) for one in received if one is not None] == [
        ("one", False),
        ("two", False),
        ("six", True),
    ]
    assert bob.receive(0) is None


@pytest.mark.parametrize(
    "frame",
    [
        frames.encode_acknowledgement(1),
        frames.encode_acknowledgement(0)[:-1],
        frames.encode_sequence(BEGINNING)[:-1],
        frames.encode_sequence(BEGINNING) + b"\0",
        frames.encode_message(Message(b"", uuid=UUID)),
    ],
    ids=["of nothing", "short acknowledgement", "short sequence", "long sequence", "no sequence"],
)
def test_malformed_delivery_frames_end_the_connection(bob: Peer, frame: bytes) -> None:
    with dial(bob) as sock:
        features = PACKETS["The features of snakemq 2"]
        sock.sendall(packet(b"\x02carl") + features + packet(frame) + PACKETS["A ping"])
        assert read(sock, len(GREETING)) == GREETING
        assert sock.recv(1) == b""


def documented_judge() -> Callable[..., str]:
    """What the specification has as a program."""
    text = SPECIFICATION.read_text("utf-8")
    (source,) = re.findall(r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", text, re.MULTILINE)
    namespace: dict[str, Any] = {}
    exec(textwrap.dedent(source), namespace)

    def judge(number: int, uuid: bytes, sequence: frames.Sequence, known: Any, uuids: Any) -> str:
        streams = {} if known is None else {sequence.stream: namespace["Stream"](*known)}
        return str(namespace["judge"](number, uuid, tuple(sequence), streams, uuids))

    return judge


@pytest.mark.parametrize("known", [None, (2, False), (2, True)])
@pytest.mark.parametrize("stored", range(4))
@pytest.mark.parametrize("repeated", range(4))
def test_the_program_is_what_the_code_does(
    known: tuple[int, bool] | None, stored: int, repeated: int
) -> None:
    """For all that may have come before, and five messages of which two are known."""
    judge = documented_judge()
    sequence = frames.Sequence(b"astream.", 1, stored, repeated)
    uuids = [bytes([number] * 16) for number in (2, 4)]
    memory = Received(100, uuids)
    if known is not None:
        memory.handled(sequence.stream, known[0], has_new=known[1])
    with new_link() as network_link:
        incoming = Incoming(
            Packeter(network_link), None, None, lambda *_: None, StorageFailures(LOG, print)
        )
        connection = PeerConnection("connection", 0.0)
        connection.memory = memory
        incoming.expect(connection, frames.encode_sequence(sequence)[1:])
        for number in range(1, 6):
            message = Message(b"", uuid=bytes([number] * 16))
            wanted = not connection.doubtful or incoming.is_wanted(connection, message)
            verdict = "leave out" if not wanted else "deliver"
            if message.redelivered:
                verdict += ", redelivered"
            assert judge(number, message.uuid, sequence, known, uuids) == verdict


@contextlib.contextmanager
def new_link() -> Iterator[Link]:
    network_link = Link()
    try:
        yield network_link
    finally:
        network_link.cleanup()
