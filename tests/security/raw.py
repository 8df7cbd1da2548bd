"""A peer by hand over a real socket, who keeps to the protocol or not."""

from __future__ import annotations

import contextlib
import pickle
import socket
from types import TracebackType
from typing import Any

from snakemq import Peer
from snakemq._core.frames import (
    FRAME_PING,
    FRAME_VERSION,
    FrameType,
    encode_identification,
    encode_message,
)
from snakemq._core.framing import PacketDecoder, encode_packet
from snakemq._core.rpc_records import REPLY_PREFIX, REQUEST_PREFIX, call_record
from snakemq.message import Message
from snakemq.rpc import Serializer
from tests.helpers import DEADLINE

__all__ = ["RawPeer", "is_closed"]


class RawPeer:
    """Connects to a peer, and says what the test wants.

    :param target: whom it dials
    :param connection: a connection to use in the place of that
    """

    def __init__(self, target: Peer | None = None, connection: socket.socket | None = None) -> None:
        if connection is None:
            assert target is not None
            connection = socket.create_connection(target.addresses[0], DEADLINE)
        connection.settimeout(DEADLINE)
        self.socket = connection
        self._decoder = PacketDecoder()
        self._frames: list[bytes] = []
        self._serial = 0

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def say(self, *frames: bytes) -> None:
        """Send frames."""
        self.socket.sendall(b"".join(map(encode_packet, frames)))

    def greet(self, name: str = "mallory") -> None:
        """Say who it is, as 1.6 does, and something more, so that this is all."""
        self.say(FRAME_VERSION, encode_identification(name), FRAME_PING)

    def send(self, data: bytes) -> None:
        """Send a message."""
        self.say(encode_message(Message(data, ttl=60)))

    def frame(self, kind: FrameType) -> bytes:
        """The payload of the next frame of a kind. Others are passed over.

        :raises EOFError: the other side has closed the connection
        """
        while True:
            while self._frames:
                frame = self._frames.pop(0)
                if frame[:1] == bytes([kind]):
                    return frame[1:]
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            buffer, bounds = self._decoder.feed(data)
            starts, ends = bounds[::2], bounds[1::2]
            self._frames += [buffer[s:e] for s, e in zip(starts, ends, strict=True)]

    def message(self, prefix: bytes) -> bytes:
        """What is behind the prefix in the next message that has it."""
        while True:
            data = self.frame(FrameType.MESSAGE)[24:]
            if data.startswith(prefix):
                return data[len(prefix) :]

    def call(
        self,
        object_name: Any,
        method: Any,
        *args: Any,
        serializer: Serializer = pickle,
        **more: Any,
    ) -> dict[str, Any]:
        """Call something, and wait for the reply."""
        self._serial += 1
        record = call_record(object_name, method, args, {}, b"%016d" % self._serial)
        self.send(REQUEST_PREFIX + serializer.dumps({**record, **more}))
        return self.reply(serializer)

    def reply(self, serializer: Serializer = pickle) -> dict[str, Any]:
        """The next reply."""
        found: dict[str, Any] = serializer.loads(self.message(REPLY_PREFIX))
        return found


def is_closed(raw: RawPeer) -> bool:
    """Waits until the other side has closed the connection."""
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            raw.frame(FrameType.REFUSAL)
    return True
