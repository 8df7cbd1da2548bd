"""What comes over the wire, before anybody has said who it is: packets, frames, handshakes.

Each target is a function of bytes that raises if something is wrong with what is done
with them.
"""

from __future__ import annotations

from snakemq._core.authentication import (
    NONCE_SIZE,
    PROOF_SIZE,
    Exchange,
    Role,
    decode_nonce,
    find_secret,
    make_proof,
)
from snakemq._core.features import (
    MAX_FEATURES_SIZE,
    DeliveryFeature,
    Feature,
    decode_features,
    encode_features,
)
from snakemq._core.frames import (
    INFINITE_TTL,
    MAX_IDENT_LENGTH,
    MESSAGE_OVERHEAD,
    FrameType,
    decode_acknowledgement,
    decode_identification,
    decode_message,
    decode_sequence,
    decode_version,
    encode_acknowledgement,
    encode_identification,
    encode_message,
    encode_message_packets,
    encode_sequence,
)
from snakemq._core.framing import HEADER_SIZE, MAX_LENGTH, PacketDecoder, encode_packet
from snakemq._core.refusal import decode_refusal, describe_refusal
from snakemq._core.session import Event, Session, SessionState
from snakemq._peer_log import quoted
from snakemq.exceptions import (
    AuthenticationMissing,
    SnakeMQBrokenMessage,
    SnakeMQIncompatibleProtocol,
    SnakeMQNoIdent,
)
from tests.fuzz.fodder import Fodder, check_brief, cut

__all__ = ["features", "frames", "log_text", "packets", "proofs", "session"]


def packets(data: bytes) -> None:
    """The packets in a stream of bytes, however it is cut, are those in all of it.

    Byte 0: the limit; then how many sizes of pieces there are, and these; the rest is the
    stream.
    """
    fodder = Fodder(data)
    limit = {0: 1, 1: 16, 2: 255}.get(fodder.byte(), MAX_LENGTH)
    sizes = fodder.take(fodder.byte() % 16)
    stream = fodder.rest()
    expected, tail, is_too_large = _split(stream, limit)

    decoder = PacketDecoder(limit)
    found: list[bytes] = []
    for piece in cut(stream, sizes):
        buffer, bounds = decoder.feed(piece)
        found += [buffer[start:end] for start, end in zip(bounds[::2], bounds[1::2], strict=True)]
        assert decoder.pending <= len(stream)
        if decoder.error is not None:
            assert decoder.feed(b"\0\0\0\0") == (b"", [])
    assert found == expected
    assert (decoder.error is not None) == is_too_large
    if not is_too_large:
        assert decoder.pending == len(tail)
        assert b"".join(map(encode_packet, found)) + tail == stream


def _split(stream: bytes, limit: int) -> tuple[list[bytes], bytes, bool]:
    """The packets of a stream, what is left of it, and whether that is too large."""
    found = []
    while len(stream) >= HEADER_SIZE:
        length = int.from_bytes(stream[:HEADER_SIZE], "big")
        if length > limit:
            return found, stream, True
        if HEADER_SIZE + length > len(stream):
            break
        found.append(stream[HEADER_SIZE : HEADER_SIZE + length])
        stream = stream[HEADER_SIZE + length :]
    return found, stream, False


def frames(data: bytes) -> None:
    """A frame is read, and written again as it was; or it is a broken message.

    Byte 0 is the type, as in a real frame.
    """
    if not data:
        return
    kind, payload = data[0], data[1:]
    try:
        if kind == FrameType.PROTOCOL_VERSION:
            assert decode_version(payload).to_bytes(4, "big") == payload
        elif kind == FrameType.IDENTIFICATION:
            _check_identification(payload)
        elif kind == FrameType.MESSAGE:
            _check_message(data)
        elif kind == FrameType.ACKNOWLEDGEMENT:
            assert encode_acknowledgement(decode_acknowledgement(payload)) == data
        elif kind == FrameType.SEQUENCE:
            assert encode_sequence(decode_sequence(payload)) == data
    except SnakeMQBrokenMessage as exc:
        check_brief(exc)


def _check_identification(payload: bytes) -> None:
    ident = decode_identification(payload)
    assert len(ident) <= MAX_IDENT_LENGTH
    again = decode_identification(encode_identification(ident)[1:])
    assert again == ident


def _check_message(frame: bytes) -> None:
    message = decode_message(b"before" + frame + b"behind", 6, 6 + len(frame))
    assert message.data == frame[MESSAGE_OVERHEAD:]
    ttl = int.from_bytes(frame[17:21], "big")
    assert message.ttl == (None if ttl == INFINITE_TTL else ttl)
    assert encode_message(message) == frame
    buffers: list[bytes] = []
    sizes: list[int] = []
    encode_message_packets([message], buffers, sizes)
    assert b"".join(buffers) == encode_packet(frame)
    assert sizes == [len(frame) + HEADER_SIZE]


def features(data: bytes) -> None:
    """An announcement is read as it is described, and the same when it is announced again."""
    expected = _features(data)
    try:
        found = decode_features(data)
    except SnakeMQBrokenMessage:
        assert expected is None
        return
    assert found == expected
    again = encode_features(found)  # type: ignore[arg-type]
    assert decode_features(again) == found
    if Feature.DELIVERY in found:
        try:
            delivery = DeliveryFeature.decode(found[Feature.DELIVERY])
        except SnakeMQBrokenMessage:
            return
        assert min(delivery) > 0
        assert found[Feature.DELIVERY].startswith(delivery.encode())


def _features(data: bytes) -> dict[int, bytes] | None:
    """By number; ``None``: it is too long, or cut off."""
    found = {}
    rest = data
    while rest:
        end = 4 + int.from_bytes(rest[2:4], "big")
        if len(rest) < end or len(data) > MAX_FEATURES_SIZE:
            return None
        found[int.from_bytes(rest[:2], "big")] = rest[4:end]
        rest = rest[end:]
    return found


_ORDER = list(SessionState)

#: What means nothing before it is known who the other side is.
_TOO_EARLY = (Event.MESSAGE, Event.FEATURES, Event.ACKNOWLEDGEMENT, Event.SEQUENCE, Event.PROOF)


def session(data: bytes) -> None:
    """Frames in any order: the handshake goes forward only, and no message comes before it.

    Byte 0: whether the other side has to prove something, which it never does. Then frames,
    each with its length before it, in two bytes.
    """
    fodder = Fodder(data)
    state = Session(wants_proof=bool(fodder.byte() & 1))
    while fodder:
        frame = fodder.block() or b"\0"
        before = state.state
        ident = state.ident
        try:
            event = state.receive(frame[0], frame[1:])
        except (
            SnakeMQBrokenMessage,
            SnakeMQIncompatibleProtocol,
            SnakeMQNoIdent,
            AuthenticationMissing,
        ) as exc:
            check_brief(exc)
            return
        assert _ORDER.index(state.state) >= _ORDER.index(before)
        if state.state is SessionState.GREETING:
            assert event not in _TOO_EARLY
        if before is not SessionState.GREETING:
            assert state.ident == ident, "who it is has changed"
        if event is Event.MESSAGE:
            assert state.state is SessionState.READY
        if event in (Event.ACKNOWLEDGEMENT, Event.SEQUENCE):
            assert state.delivery is not None
        if state.wants_proof:
            assert state.state is not SessionState.READY, "ready without a proof"
        assert len(state.ident) <= MAX_IDENT_LENGTH
        assert state.features <= set(Feature)


def proofs(data: bytes) -> None:
    """A proof is right for what it was made for, and for nothing else; refusals are read.

    The data are two descriptions of an exchange, of blocks with their lengths before them.
    """
    fodder = Fodder(data)
    one, other = _exchange(fodder), _exchange(fodder)
    proof = make_proof(b"secret", *one)
    assert len(proof) == PROOF_SIZE
    is_clear = one[1].connector != one[1].listener
    assert find_secret([b"other", b"secret"], proof, *one) == (b"secret" if is_clear else None)
    assert find_secret([b"other"], proof, *one) is None
    assert find_secret([b"secret"], proof[1:], *one) is None
    if one != other:
        assert find_secret([b"secret"], proof, *other) is None
    rest = fodder.rest()
    if rest != proof:
        assert find_secret([b"secret"], rest, *one) is None
    try:
        assert describe_refusal(decode_refusal(rest)).isprintable()
        assert decode_nonce(rest) == rest[:NONCE_SIZE]
    except SnakeMQBrokenMessage as exc:
        check_brief(exc)


def _exchange(fodder: Fodder) -> tuple[Role, Exchange]:
    role = Role.CONNECTOR if fodder.byte() & 1 else Role.LISTENER
    connector, listener = (fodder.block().decode("utf-8", "replace") for _ in range(2))
    return role, Exchange(connector, listener, fodder.block(), fodder.block(), fodder.block())


def log_text(data: bytes) -> None:
    """What others wrote is one line in the log, short and without anything special."""
    for text in (data, data.decode("utf-8", "replace"), data.decode("latin-1")):
        shown = quoted(text)
        assert shown.isascii()
        assert shown.isprintable()
        assert len(shown) < 2500
