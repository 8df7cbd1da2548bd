"""What a peer can do beyond protocol version 1, announced in one frame.

The frame's payload is a sequence of entries:

======  ======  ==================================================
offset  size    meaning
======  ======  ==================================================
0       2       number of the feature, unsigned, big-endian
2       2       length of its value, likewise
4       length  value
======  ======  ==================================================

A feature is used only between peers that both announced it. Features that are
not known are passed over, and so is what a value has beyond what is known:
that is how features are extended.
"""

from __future__ import annotations

import enum
import functools
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from snakemq.exceptions import SnakeMQBrokenMessage

__all__ = [
    "MAX_FEATURES_SIZE",
    "DeliveryFeature",
    "Feature",
    "decode_features",
    "encode_features",
]

#: The longest payload of a features frame, in bytes.
MAX_FEATURES_SIZE: Final = 4096

_ENTRY: Final = struct.Struct("!HH")
_DELIVERY: Final = struct.Struct("!II")


class Feature(enum.IntEnum):
    """Numbers of features."""

    #: acknowledged delivery; the value is a :class:`DeliveryFeature`
    DELIVERY = 1
    #: remote calls beyond those of 1.6, large ones in parts; without a value
    CALLS = 2
    #: wants a proof that the other side knows a shared secret; the value is a nonce,
    #: see :mod:`snakemq._core.authentication`
    AUTHENTICATION = 3


class DeliveryFeature(NamedTuple):
    """What a peer lets the other side send it before it has acknowledged anything."""

    #: so many messages
    window_messages: int
    #: so many bytes of data; one message may go over it
    window_bytes: int

    def encode(self) -> bytes:
        """The value of the feature."""
        return _DELIVERY.pack(*self)

    @classmethod
    def decode(cls, value: bytes) -> DeliveryFeature:
        """Read the value of the feature.

        :raises SnakeMQBrokenMessage: too short, or a window in which nothing fits
        """
        if len(value) < _DELIVERY.size:
            raise SnakeMQBrokenMessage(f"a delivery feature of {len(value)} bytes")
        feature = _delivery_feature(value[: _DELIVERY.size])
        if not (feature.window_messages and feature.window_bytes):
            raise SnakeMQBrokenMessage("a delivery window in which nothing fits")
        return feature


@functools.lru_cache(maxsize=64)  # one for all connections on which it is the same
def _delivery_feature(value: bytes) -> DeliveryFeature:
    return DeliveryFeature(*_DELIVERY.unpack(value))


def encode_features(features: Mapping[Feature, bytes]) -> bytes:
    """The payload of a features frame."""
    return b"".join(
        _ENTRY.pack(number, len(value)) + value for number, value in sorted(features.items())
    )


def decode_features(payload: bytes) -> dict[int, bytes]:
    """Read the payload of a features frame. Of a number that comes twice the last counts.

    :raises SnakeMQBrokenMessage: too long, or cut off
    """
    if len(payload) > MAX_FEATURES_SIZE:
        raise SnakeMQBrokenMessage(f"a features frame of {len(payload)} bytes")
    features: dict[int, bytes] = {}
    position = 0
    while position < len(payload):
        if position + _ENTRY.size > len(payload):
            raise SnakeMQBrokenMessage("a features frame that is cut off")
        number, length = _ENTRY.unpack_from(payload, position)
        position += _ENTRY.size
        if position + length > len(payload):
            raise SnakeMQBrokenMessage("a features frame that is cut off")
        features[number] = payload[position : position + length]
        position += length
    return features
