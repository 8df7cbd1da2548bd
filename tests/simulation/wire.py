"""What goes over a connection, read by somebody who stands beside it.

Written after the description of the protocol and not with the stack's own
decoders, so that the two can't be wrong together.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

MESSAGE: Final = 3
PONG: Final = 5
FEATURES: Final = 6
ACKNOWLEDGEMENT: Final = 7
SEQUENCE: Final = 8

_LENGTH: Final = struct.Struct("!I")
_MESSAGE_HEADER: Final = struct.Struct("!16sII")


class Frame(NamedTuple):
    """A frame and how much of its payload matters here."""

    type: int
    payload: bytes

    @property
    def ttl(self) -> int:
        """Of a message."""
        return int(_MESSAGE_HEADER.unpack_from(self.payload)[1])

    @property
    def data(self) -> bytes:
        """Of a message."""
        return self.payload[_MESSAGE_HEADER.size :]

    @property
    def total(self) -> int:
        """Of an acknowledgement."""
        return int.from_bytes(self.payload, "big")


class FrameReader:
    """Makes frames of a stream of bytes."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        rest = self._rest + data
        position = 0
        while len(rest) - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(rest, position)
            end = position + _LENGTH.size + length
            if end > len(rest):
                break
            frame = rest[position + _LENGTH.size : end]
            position = end
            if frame:
                yield Frame(frame[0], frame[1:])
        self._rest = rest[position:]


@dataclass
class Tap:
    """What one side of a connection has sent and received."""

    incoming: FrameReader = field(default_factory=FrameReader)
    outgoing: FrameReader = field(default_factory=FrameReader)
    #: what the other side can do is known
    ready: bool = False
    #: a sequence was sent
    numbered: bool = False
    #: sizes of the messages that were sent and are not acknowledged
    unacknowledged: list[int] = field(default_factory=list)
    acknowledged: int = 0
    #: data of the messages that were received and are not acknowledged
    received: list[bytes] = field(default_factory=list)
    acknowledging: int = 0

    def receive(self, data: bytes) -> list[str]:
        """Bytes arrive.

        :returns: what is wrong with them
        """
        problems = []
        for frame in self.incoming.feed(data):
            if frame.type in (FEATURES, PONG):
                self.ready = True
            elif frame.type == MESSAGE:
                self.received.append(frame.data)
            elif frame.type == ACKNOWLEDGEMENT:
                count = frame.total - self.acknowledged
                if not 0 <= count <= len(self.unacknowledged):
                    problems.append(f"an acknowledgement of {count} messages")
                del self.unacknowledged[: max(count, 0)]
                self.acknowledged = frame.total
        return problems

    def send(self, data: bytes, window: tuple[int, int]) -> tuple[list[bytes], list[str]]:
        """The system takes bytes.

        :param window: how many messages and bytes the other side allows
        :returns: the data of the messages that are acknowledged by them, and
            what is wrong with them
        """
        done: list[bytes] = []
        problems = []
        for frame in self.outgoing.feed(data):
            if frame.type == SEQUENCE:
                self.numbered = True
            elif frame.type == MESSAGE:
                self.unacknowledged.append(len(frame.data))
                problems += self._check_message(frame, window)
            elif frame.type == ACKNOWLEDGEMENT:
                count = frame.total - self.acknowledging
                if not 0 <= count <= len(self.received):
                    problems.append(f"acknowledges {count} messages of {len(self.received)}")
                done += self.received[: max(count, 0)]
                del self.received[: max(count, 0)]
                self.acknowledging = frame.total
        return done, problems

    def _check_message(self, frame: Frame, window: tuple[int, int]) -> Iterator[str]:
        messages, size = window
        if not self.ready:
            yield "sends a message before it is known what the other side can do"
        if not self.numbered:
            yield "sends a message without a number"
        if frame.ttl == 0:
            return  # it may be urgent, which is not kept at the other side
        if len(self.unacknowledged) > messages:
            yield f"sends {len(self.unacknowledged)} messages into a window of {messages}"
        if sum(self.unacknowledged[:-1]) >= size:
            yield f"sends more than {size} bytes into the window"
