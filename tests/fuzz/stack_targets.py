"""A whole stack to which a stranger says anything, while a real peer goes on talking to it.

Each target is a function of bytes that raises if something is wrong with what is done
with them. The network is simulated, and its clock virtual, so that a timeout costs nothing
and the same bytes always do the same.
"""

from __future__ import annotations

from itertools import chain, count
from typing import Any

from snakemq._core.authentication import NONCE_SIZE, PROOF_SIZE
from snakemq._core.features import DeliveryFeature, Feature, encode_features
from snakemq._core.frames import (
    FRAME_PING,
    FRAME_PONG,
    FRAME_VERSION,
    FrameType,
    Sequence,
    encode_acknowledgement,
    encode_identification,
    encode_message,
    encode_sequence,
)
from snakemq._core.framing import PacketDecoder, encode_packet
from snakemq.authentication import SharedSecret
from snakemq.exceptions import SnakeMQException
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.testing import SimLink, SimNetwork, SimStack
from tests.fuzz.fodder import Fodder, cut
from tests.fuzz.watch import no_faults

__all__ = ["connection", "conversation", "guarded"]

#: So many virtual seconds after the last byte a stranger who has not said who it is has
#: been shown the door, and a peer that does not answer, too.
_PATIENCE = 200.0


class _Stranger:
    """Somebody without a stack who dials bob.

    :ivar received: all that bob has said to it, on any connection
    """

    def __init__(self, network: SimNetwork, bob: SimStack) -> None:
        self.network = network
        self.link: SimLink = network.link("stranger")
        self.received = bytearray()
        #: what each connection has still to send
        self._out: dict[str, bytearray] = {}
        self._decoders: dict[str, PacketDecoder] = {}
        self._frames: dict[str, list[bytes]] = {}
        self.link.on_connect.add(self._begin)
        self.link.on_recv.add(self._receive)
        self.link.on_ready_to_send.add(self._go_on)
        self._address = bob.address
        self.dial()

    def dial(self) -> None:
        """Once; and never again by itself."""
        self.link.add_connector(self._address, 10_000)
        self.network.run(0.01)

    def hang_up(self) -> None:
        self.link.del_connector(self._address)
        self.network.run(0.01)

    def listen(self, bob: SimStack) -> None:
        """Have bob dial it, from now on."""
        if not self.link.listeners:
            bob.link.add_connector(self.link.add_listener((self.link.name, 1)), 1.0)
            self.network.run(0.01)

    def say(self, data: bytes, which: int | None = None) -> None:
        """On all connections, or on one."""
        conn_ids = self.link.connections
        if which is not None:
            conn_ids = [conn_ids[which % len(conn_ids)]] if conn_ids else []
        for conn_id in conn_ids:
            out = self._out[conn_id]
            out += data
            if len(out) == len(data) > 0:
                self.link.send(conn_id, bytes(out))

    def frames(self) -> list[bytes]:
        """What bob has said, connection by connection."""
        return list(chain.from_iterable(self._frames.values()))

    def _begin(self, conn_id: str) -> None:
        self._out[conn_id] = bytearray()
        self._decoders[conn_id] = PacketDecoder()
        self._frames[conn_id] = []

    def _receive(self, conn_id: str, data: bytes) -> None:
        self.received += data
        buffer, bounds = self._decoders[conn_id].feed(data)
        starts, ends = bounds[::2], bounds[1::2]
        for start, end in zip(starts, ends, strict=True):
            self._frames[conn_id].append(buffer[start:end])

    def _go_on(self, conn_id: str, sent: int) -> None:
        out = self._out[conn_id]
        del out[:sent]
        if out:
            self.link.send(conn_id, bytes(out))


class _Scene:
    """Bob, alice who knows him, and a stranger.

    :param options: what the stacks of bob and alice are made with
    """

    def __init__(self, **options: Any) -> None:
        self.network = SimNetwork(seed=1)
        self.errors: list[Exception] = []
        self.bob = SimStack(self.network, "bob", **options)
        self.alice = SimStack(self.network, "alice", **options)
        self.alice.connect(self.bob)
        self.bob.messaging.on_error.add(lambda conn_id, exc: self.errors.append(exc))
        self.bob.link.on_error.add(lambda conn_id, exc: self.errors.append(exc))
        self.network.run(0.1)
        # What there is for whoever comes by this name.
        self.bob.send("stranger", b"for the stranger")
        self.stranger = _Stranger(self.network, self.bob)

    def received(self) -> list[tuple[str, bytes]]:
        """What bob got, of others than alice."""
        return [(ident, message.data) for ident, message in self.bob.received if ident != "alice"]

    def check(self) -> None:
        """The stranger has said its last word."""
        for error in self.errors:
            assert isinstance(error, SnakeMQException), repr(error)
        for address in self.bob.link.connectors:
            self.bob.link.del_connector(address)
        self.network.run(_PATIENCE)
        peers = self.bob.messaging.connected_peers()
        assert len(peers) == len(self.bob.link.connections), "somebody without a name has stayed"
        assert "alice" in peers
        before = len(self.bob.received)
        self.alice.send("bob", b"still there")
        assert self.network.run_until(lambda: len(self.bob.received) > before)
        assert self.bob.received[-1][1].data == b"still there"
        self.close()

    def close(self) -> None:
        for stack in (self.bob, self.alice):
            stack.close()
        self.stranger.link.cleanup()


def connection(data: bytes) -> None:
    """Any bytes from a stranger, in any pieces, do the same to a stack.

    Byte 0: how many sizes of pieces there are; then these, and the stream.
    """
    fodder = Fodder(data)
    sizes = fodder.take(fodder.byte() % 16)
    stream = fodder.rest()
    with no_faults():
        whole = _after(stream, b"")
        if sizes:
            assert _after(stream, sizes) == whole, "it matters how the stream is cut"


def _after(stream: bytes, sizes: bytes) -> tuple[list[tuple[str, bytes]], list[str]]:
    """What bob got, and what he complained of."""
    scene = _Scene()
    for piece in cut(stream, sizes):
        scene.stranger.say(piece)
        scene.network.run(0.005)
    scene.network.run(1)
    # An answer, but no amplifier: a greeting with a message, then a pong for a ping.
    assert len(scene.stranger.received) <= 600 + 4 * len(stream), "it gets more than it sends"
    assert sum(len(data) for _, data in scene.received()) <= len(stream)
    scene.check()
    return scene.received(), [repr(error) for error in scene.errors]


#: What :func:`conversation` can do.
_GREET, _FRAME, _MESSAGE, _SEQUENCE, _ACKNOWLEDGE, _PING, _WAIT, _AGAIN, _RAW, _SEND = range(10)

_MAX_STEPS = 100

_NAMES = ("stranger", "alice", "bob", "", "x" * 50, "\0", "new")


def conversation(data: bytes) -> None:
    """A stranger who knows the protocol, and keeps to it or not.

    Each step begins with a byte that says what it is, modulo 10.
    """
    fodder = Fodder(data)
    with no_faults():
        scene = _Scene()
        steps = 0
        while fodder and steps < _MAX_STEPS:
            steps += 1
            said = _step(scene, fodder)
            if said:
                scene.stranger.say(said)
                scene.network.run(0.005)
        scene.check()


#: Nobody else knows it.
_SECRET = b"of alice and bob only"

#: More that :func:`guarded` can do.
_ECHO, _PROOF, _LISTEN = range(10, 13)


def guarded(data: bytes) -> None:
    """Who does not know the secret is nobody: nothing comes in, and nothing goes out.

    As :func:`conversation`; and the stranger can say again what bob has said to it, and
    have bob dial it. Modulo 13.
    """
    fodder = Fodder(data)
    serial = count(1)
    with no_faults():
        scene = _Scene(
            authentication=SharedSecret(
                _SECRET, random=lambda size: next(serial).to_bytes(size, "big")
            )
        )
        scene.bob.messaging.on_connect.add(
            lambda conn_id, ident: _only_alice(ident, "is connected")
        )
        steps = 0
        while fodder and steps < _MAX_STEPS:
            steps += 1
            said = _guarded_step(scene, fodder)
            if said:
                scene.stranger.say(said, fodder.byte())
                scene.network.run(0.005)
        for ident, _ in scene.bob.received:
            _only_alice(ident, "sends messages")
        assert b"for the stranger" not in scene.stranger.received
        scene.check()


def _only_alice(ident: str, what: str) -> None:
    assert ident == "alice", f"{ident!r} {what}"


def _guarded_step(scene: _Scene, fodder: Fodder) -> bytes:
    kind = fodder.byte() % 13
    if kind == _GREET:
        name = _NAMES[fodder.byte() % len(_NAMES)]
        # Those of bob count up from 1.
        nonce = fodder.byte().to_bytes(NONCE_SIZE, "big")
        features = {Feature.CALLS: b"", Feature.AUTHENTICATION: nonce}
        return _packets(
            FRAME_VERSION,
            encode_identification(name),
            bytes([FrameType.FEATURES]) + encode_features(features),
        )
    if kind == _ECHO:
        start = fodder.byte()
        return bytes(scene.stranger.received[start : start + (fodder.byte() or 256)])
    if kind == _PROOF:
        made = bytes([FrameType.PROOF]) + fodder.take(fodder.byte() % 40).ljust(PROOF_SIZE, b"p")
        heard = [frame for frame in scene.stranger.frames() if frame[0] == FrameType.PROOF]
        return _packets(heard[fodder.byte() % len(heard)] if heard else made)
    if kind == _LISTEN:
        scene.stranger.listen(scene.bob)
        return b""
    return _do(kind, scene, fodder)


def _step(scene: _Scene, fodder: Fodder) -> bytes:
    return _do(fodder.byte() % 10, scene, fodder)


def _do(kind: int, scene: _Scene, fodder: Fodder) -> bytes:
    """Do something, or say what is to be said."""
    if kind == _GREET:
        name = _NAMES[fodder.byte() % len(_NAMES)]
        features = {Feature.CALLS: b""}
        window = fodder.byte()
        if window:
            features[Feature.DELIVERY] = DeliveryFeature(window, window * 100).encode()
        return _packets(
            FRAME_VERSION,
            encode_identification(name),
            bytes([FrameType.FEATURES]) + encode_features(features),
        )
    if kind == _FRAME:
        return _packets(fodder.take(1 + fodder.byte()))
    if kind == _MESSAGE:
        ttl = fodder.byte()
        flags = FLAG_PERSISTENT if ttl & 1 else 0
        uuid = bytes([fodder.byte()]) * 16
        message = Message(fodder.take(fodder.byte()), None if ttl > 127 else ttl, flags, uuid)
        return _packets(encode_message(message))
    if kind == _SEQUENCE:
        stream = bytes([fodder.byte()]) * 8
        numbers = (fodder.number(8) if fodder.byte() & 1 else fodder.byte(), fodder.byte())
        return _packets(encode_sequence(Sequence(stream, *numbers, fodder.byte())))
    if kind == _ACKNOWLEDGE:
        return _packets(encode_acknowledgement(fodder.byte()))
    if kind == _PING:
        return _packets(*[FRAME_PING] * (fodder.byte() % 8), FRAME_PONG)
    if kind == _WAIT:
        scene.network.run(fodder.byte() / 4)
    elif kind == _AGAIN:
        scene.stranger.hang_up()
        scene.stranger.dial()
    elif kind == _RAW:
        return fodder.take(fodder.byte())
    elif kind == _SEND:
        scene.bob.send(_NAMES[fodder.byte() % len(_NAMES)] or "x", bytes(fodder.byte()))
    return b""


def _packets(*frames: bytes) -> bytes:
    return b"".join(map(encode_packet, frames))
