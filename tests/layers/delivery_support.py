"""What the tests of acknowledged delivery share: a hand-made peer, and stacks that tell."""

from __future__ import annotations

from collections.abc import Iterable

from snakemq._core.features import DeliveryFeature, Feature, encode_features
from snakemq._core.frames import (
    FRAME_PING,
    FRAME_PONG,
    FRAME_VERSION,
    FrameType,
    Sequence,
    decode_acknowledgement,
    decode_message,
    decode_sequence,
    encode_acknowledgement,
    encode_identification,
    encode_message,
    encode_sequence,
)
from snakemq._core.framing import PacketDecoder, encode_packet
from snakemq.message import Message
from snakemq.testing import SimNetwork, SimStack

__all__ = ["Events", "HandMade", "connect", "data", "message", "stacks"]

#: What this package announces.
WINDOW = DeliveryFeature(8192, 16 * 1024 * 1024)

_CHUNK = 1 << 18


class HandMade:
    """A peer without a stack, which speaks the protocol by hand, right or wrong.

    :param target: whom it dials, at once
    :param window: what it announces; ``None``: no features, as 1.6
    """

    def __init__(
        self,
        network: SimNetwork,
        name: str,
        target: SimStack,
        window: DeliveryFeature | None = WINDOW,
    ) -> None:
        self.network = network
        self.name = name
        self.target = target
        self.window = window
        #: whether it answers pings
        self.answers = True
        self.stream = b"handmade"
        self.link = network.link(f"host of {name}")
        self.link.on_connect.add(self._connected)
        self.link.on_disconnect.add(self._disconnected)
        self.link.on_recv.add(self._received)
        self.link.on_ready_to_send.add(self._ready)
        self.connection: str | None = None
        self.closed = 0
        self.link.add_connector(target.address, 10_000)
        self._begin()
        assert network.run_until(lambda: self.connection)

    def _begin(self) -> None:
        self.frames: list[bytes] = []
        self._decoder = PacketDecoder()
        self._out = bytearray()

    def _connected(self, conn_id: str) -> None:
        self.connection = conn_id

    def _disconnected(self, conn_id: str) -> None:
        self.connection = None
        self.closed += 1

    def _received(self, conn_id: str, received: bytes) -> None:
        buffer, bounds = self._decoder.feed(received)
        for start, end in zip(bounds[::2], bounds[1::2], strict=True):
            self.frames.append(buffer[start:end])
            if buffer[start:end] == FRAME_PING and self.answers:
                self.say(FRAME_PONG, wait=False)

    def _ready(self, conn_id: str, sent: int) -> None:
        del self._out[:sent]
        self._send(conn_id)

    def _send(self, conn_id: str) -> None:
        if self._out:
            self.link.send(conn_id, bytes(self._out[:_CHUNK]))

    def say(self, *frames: bytes, wait: bool = True) -> None:
        """Send frames, and give them the time to arrive and be handled."""
        assert self.connection is not None
        idle = not self._out
        self._out += b"".join(encode_packet(frame) for frame in frames)
        if idle:
            self._send(self.connection)
        if wait:
            self.network.run(0.1)

    def greet(self) -> None:
        """Say who it is, and what it can do."""
        frames = [FRAME_VERSION, encode_identification(self.name)]
        if self.window is not None:
            features = encode_features({Feature.DELIVERY: self.window.encode()})
            frames.append(bytes([FrameType.FEATURES]) + features)
        self.say(*frames)
        assert self.target.messaging.is_connected(self.name)

    def reconnect(self) -> None:
        """Break the connection, and come back on a new one."""
        if self.connection is not None:
            self.link.close(self.connection)
        self.link.del_connector(self.target.address)
        self.network.run(1)
        self._begin()
        self.link.add_connector(self.target.address, 10_000)
        assert self.network.run_until(lambda: self.connection)
        self.greet()

    def announce(self, number: int, stored: int = 0, repeated: int = 0) -> bytes:
        """A sequence frame."""
        return encode_sequence(Sequence(self.stream, number, stored, repeated))

    def acknowledge(self, total: int) -> None:
        self.say(encode_acknowledgement(total))

    def of(self, kind: FrameType) -> list[bytes]:
        """Payloads of the frames of a type that came on this connection."""
        return [frame[1:] for frame in self.frames if frame[0] == kind]

    @property
    def acks(self) -> list[int]:
        return [decode_acknowledgement(payload) for payload in self.of(FrameType.ACKNOWLEDGEMENT)]

    @property
    def sequences(self) -> list[Sequence]:
        return [decode_sequence(payload) for payload in self.of(FrameType.SEQUENCE)]

    @property
    def messages(self) -> list[Message]:
        return [
            decode_message(frame, 0, len(frame))
            for frame in self.frames
            if frame[0] == FrameType.MESSAGE
        ]

    @property
    def data(self) -> list[bytes]:
        return [message.data for message in self.messages]


def message(
    payload: bytes, ttl: float | None = None, flags: int = 0, uuid: bytes | None = None
) -> bytes:
    """A message frame."""
    return encode_message(Message(payload, ttl, flags, uuid))


class Events(list[tuple[str, object]]):
    """What a stack tells of its messages, in order, as (event, data or what is told).

    Messages are told apart by their data, of those sent by way of :meth:`send`.
    """

    def __init__(self, stack: SimStack) -> None:
        super().__init__()
        self._names: dict[bytes, bytes] = {}
        self.stack = stack
        messaging = stack.messaging
        messaging.on_message_sent.add(lambda conn, ident, uuid: self._add("sent", uuid))
        messaging.on_message_acked.add(lambda conn, ident, uuid: self._add("acked", uuid))
        messaging.on_messages_left.add(
            lambda conn, ident, messages: self.extend(("left", m.data) for m in messages)
        )
        messaging.on_messages_dropped.add(
            lambda ident, messages, reason: self.extend((reason.value, m.data) for m in messages)
        )
        messaging.on_error.add(lambda conn, exc: self.append(("error", exc)))

    def _add(self, event: str, uuid: bytes) -> None:
        self.append((event, self._names.get(uuid, uuid)))

    def send(
        self, ident: str, *payloads: bytes, ttl: float | None = None, flags: int = 0
    ) -> list[Message]:
        messages = [self.stack.send(ident, payload, ttl, flags) for payload in payloads]
        for sent in messages:
            self._names[sent.uuid] = sent.data
        return messages

    def of(self, event: str) -> list[object]:
        return [about for name, about in self if name == event]


def stacks(network: SimNetwork, *names: str, **options: object) -> list[SimStack]:
    return [SimStack(network, name, **options) for name in names]  # type: ignore[arg-type]


def connect(network: SimNetwork, one: SimStack, other: SimStack) -> None:
    """One dials the other, and both know each other."""
    one.connect(other)
    assert network.run_until(
        lambda: one.messaging.is_connected(other.name) and other.messaging.is_connected(one.name)
    )


def data(stack: SimStack) -> list[bytes]:
    return [received.data for _, received in stack.received]


def numbered(count: int, start: int = 0) -> Iterable[bytes]:
    return [b"%d" % number for number in range(start, start + count)]
