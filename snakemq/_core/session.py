"""The handshake of one connection.

All rules about which frame may come when are here. This file does not know
which side dialled, nor about other connections.

==============  =========  ==================  ============  =========  ==========
state           version    identification      features      message    proof
==============  =========  ==================  ============  =========  ==========
``GREETING``    checked    -> ``IDENTIFIED``   ignored       error      ignored
``IDENTIFIED``  checked    ignored             -> ``READY``  -> ``READY`` ignored
``PROVING``     checked    ignored             ignored       error      to be checked
``READY``       checked    ignored             ignored       delivered  ignored
==============  =========  ==================  ============  =========  ==========

A peer that has features announces them right behind its identification, so
anything else at that place says that it has none, as a 1.6 peer:
``IDENTIFIED`` is left with the next frame of a known type, whatever it is.
Acknowledgements and sequences are noticed only from a peer that announced
acknowledged delivery.

If the other side has to prove that it knows a secret, ``IDENTIFIED`` is left for
``PROVING``, and only with features that have a nonce; anything else at that place is an
error. ``PROVING`` is left when the owner has found the proof to be right.

In all states a ping is answered, a refusal is noticed, and frames of unknown types
are ignored. As in 1.6 a version frame is not insisted on.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from snakemq._core.authentication import decode_nonce
from snakemq._core.features import (
    DeliveryFeature,
    Feature,
    decode_features,
    encode_features,
)
from snakemq._core.frames import (
    FRAME_VERSION,
    FrameType,
    decode_identification,
    decode_version,
    encode_identification,
)
from snakemq.exceptions import (
    AuthenticationMissing,
    SnakeMQIncompatibleProtocol,
    SnakeMQNoIdent,
)
from snakemq.version import PROTOCOL_VERSION

__all__ = ["Event", "Session", "SessionState"]


class SessionState(enum.Enum):
    """How far the handshake is."""

    GREETING = "greeting"
    IDENTIFIED = "identified"
    PROVING = "proving"
    READY = "ready"


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
    #: it is known what the other side can do: see :attr:`Session.features`
    FEATURES = "features"
    #: the other side has handled messages
    ACKNOWLEDGEMENT = "acknowledgement"
    #: where the other side is in the line of its messages
    SEQUENCE = "sequence"
    #: the other side does not speak this version and will close
    REJECTED = "rejected"
    #: the other side proves that it knows the secret
    PROOF = "proof"
    #: the other side says why it closes
    REFUSAL = "refusal"


_ALWAYS: Final[dict[int, Event]] = {
    FrameType.INCOMPATIBLE_PROTOCOL: Event.REJECTED,
    FrameType.PING: Event.PING,
    FrameType.PONG: Event.PONG,
    FrameType.REFUSAL: Event.REFUSAL,
}

_TABLE: Final[dict[SessionState, dict[int, Event]]] = {
    SessionState.GREETING: {
        **_ALWAYS,
        FrameType.IDENTIFICATION: Event.IDENTIFIED,
    },
    SessionState.IDENTIFIED: {
        **_ALWAYS,
        FrameType.MESSAGE: Event.MESSAGE,
        FrameType.FEATURES: Event.FEATURES,
    },
    SessionState.PROVING: {
        **_ALWAYS,
        FrameType.PROOF: Event.PROOF,
    },
    SessionState.READY: {
        **_ALWAYS,
        FrameType.MESSAGE: Event.MESSAGE,
        FrameType.ACKNOWLEDGEMENT: Event.ACKNOWLEDGEMENT,
        FrameType.SEQUENCE: Event.SEQUENCE,
    },
}

_NO_FEATURES: Final[frozenset[Feature]] = frozenset()

_DELIVERY_EVENTS: Final = (Event.ACKNOWLEDGEMENT, Event.SEQUENCE)


#: Each combination once, and not once for each connection.
_FEATURES: Final[dict[frozenset[Feature], frozenset[Feature]]] = {}


class Session:
    """The handshake as seen from one side; both run the same.

    :param wants_proof: whether the other side has to prove that it knows a secret
    """

    __slots__ = ("delivery", "features", "ident", "nonce", "state", "wants_proof")

    def __init__(self, *, wants_proof: bool = False) -> None:
        self.state = SessionState.GREETING
        self.wants_proof = wants_proof
        #: the other side's identifier, once it is known
        self.ident = ""
        #: what the other side says of acknowledged delivery; ``None`` if it
        #: does not know that. Final in ``READY``.
        self.delivery: DeliveryFeature | None = None
        #: what the other side can do, of what is known here. Final in ``READY``.
        self.features: frozenset[Feature] = _NO_FEATURES
        #: the other side's, for proofs; empty if it has none
        self.nonce = b""

    @staticmethod
    def greeting(identifier: str, features: Mapping[Feature, bytes]) -> list[bytes]:
        """The frames to send as soon as the connection is there."""
        return [
            FRAME_VERSION,
            encode_identification(identifier),
            bytes([FrameType.FEATURES]) + encode_features(features),
        ]

    def receive(self, frame_type: int, payload: bytes) -> Event:
        """A frame came in.

        :param payload: may be left out (empty) for messages
        :raises SnakeMQIncompatibleProtocol: the other side has another
            version; it is to be told so, and the connection to be closed
        :raises SnakeMQNoIdent: a message before the identification; to be closed
        :raises AuthenticationMissing: it should prove something, and does not; to
            be refused and closed
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
        elif event is Event.REFUSAL:
            pass  # that is all that it has to say
        elif event is not Event.NOTHING and self.state is SessionState.IDENTIFIED:
            if event is Event.FEATURES:
                self._note_features(payload)
            self.state = self._after_identification()
        elif frame_type == FrameType.MESSAGE and self.state is SessionState.PROVING:
            raise AuthenticationMissing("a message before the proof", self.ident)
        elif event in _DELIVERY_EVENTS and self.delivery is None:
            return Event.NOTHING
        elif frame_type == FrameType.MESSAGE and event is Event.NOTHING:
            raise SnakeMQNoIdent("a message before the identification")
        return event

    def proved(self) -> None:
        """The other side's proof is right."""
        self.state = SessionState.READY

    def _after_identification(self) -> SessionState:
        if not self.wants_proof:
            return SessionState.READY
        if not self.nonce:
            raise AuthenticationMissing(
                "it does not prove that it knows the shared secret: it is of snakeMQ 1.6, "
                "or has none",
                self.ident,
            )
        return SessionState.PROVING

    def _note_features(self, payload: bytes) -> None:
        features = decode_features(payload)
        value = features.get(Feature.DELIVERY)
        if value is not None:
            self.delivery = DeliveryFeature.decode(value)
        if Feature.AUTHENTICATION in features:
            self.nonce = decode_nonce(features[Feature.AUTHENTICATION])
        known = frozenset(feature for feature in Feature if feature in features)
        self.features = _FEATURES.setdefault(known, known)
