"""The handshake of one connection.

All rules about which frame may come when are here. This file does not know
which side dialled, nor about other connections.

==============  =======================  ==================  ================
state           version                  identification      message
==============  =======================  ==================  ================
``GREETING``    checked                  -> ``IDENTIFIED``   error
``IDENTIFIED``  checked                  ignored             delivered
==============  =======================  ==================  ================

In both states a ping is answered, and frames of unknown types are ignored. As
in 1.6 a version frame is not insisted on.
"""

from __future__ import annotations

import enum
from typing import Final

from snakemq._core.frames import (
    FRAME_VERSION,
    FrameType,
    decode_identification,
    decode_version,
    encode_identification,
)
from snakemq.exceptions import SnakeMQIncompatibleProtocol, SnakeMQNoIdent
from snakemq.version import PROTOCOL_VERSION

__all__ = ["Event", "Session", "SessionState"]


class SessionState(enum.Enum):
    """How far the handshake is."""

    GREETING = "greeting"
    IDENTIFIED = "identified"


class Event(enum.Enum):
    """What a frame means for the owner of the session."""

    NOTHING = "nothing"
    #: the other side said who it is: see :attr:`Session.ident`
    IDENTIFIED = "identified"
    #: a message may be delivered
    MESSAGE = "message"
    #: to be answered by a pong
    PING = "ping"
    PONG = "pong"
    #: the other side does not speak this version and will close
    REJECTED = "rejected"


_TABLE: Final[dict[SessionState, dict[int, Event]]] = {
    SessionState.GREETING: {
        FrameType.INCOMPATIBLE_PROTOCOL: Event.REJECTED,
        FrameType.IDENTIFICATION: Event.IDENTIFIED,
        FrameType.PING: Event.PING,
        FrameType.PONG: Event.PONG,
    },
    SessionState.IDENTIFIED: {
        FrameType.INCOMPATIBLE_PROTOCOL: Event.REJECTED,
        FrameType.MESSAGE: Event.MESSAGE,
        FrameType.PING: Event.PING,
        FrameType.PONG: Event.PONG,
    },
}


class Session:
    """The handshake as seen from one side; both run the same."""

    __slots__ = ("ident", "state")

    def __init__(self) -> None:
        self.state = SessionState.GREETING
        #: the other side's identifier, once it is known
        self.ident = ""

    @staticmethod
    def greeting(identifier: str) -> list[bytes]:
        """The frames to send as soon as the connection is there."""
        return [FRAME_VERSION, encode_identification(identifier)]

    def receive(self, frame_type: int, payload: bytes) -> Event:
        """A frame came in.

        :param payload: may be left out (empty) for messages
        :raises SnakeMQIncompatibleProtocol: the other side has another
            version; it is to be told so, and the connection to be closed
        :raises SnakeMQNoIdent: a message before the identification; to be closed
        :raises SnakeMQBrokenMessage: the frame is malformed; to be closed
        """
        if frame_type == FrameType.PROTOCOL_VERSION:
            version = decode_version(payload)
            if version != PROTOCOL_VERSION:
                raise SnakeMQIncompatibleProtocol(
                    f"the other side has protocol version {version}, not {PROTOCOL_VERSION}"
                )
            return Event.NOTHING
        event = _TABLE[self.state].get(frame_type, Event.NOTHING)
        if event is Event.IDENTIFIED:
            self.ident = decode_identification(payload)
            self.state = SessionState.IDENTIFIED
        elif frame_type == FrameType.MESSAGE and event is Event.NOTHING:
            raise SnakeMQNoIdent("a message before the identification")
        return event
