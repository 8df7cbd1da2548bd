"""Proving that one knows a secret, without saying it.

Each side announces a nonce with its features (:attr:`Feature.AUTHENTICATION`).
The proof of a side is the HMAC-SHA-256, with the secret as its key, of all this::

    "snakemq 2 authentication" 00
    role of the side that proves           ("connector" or "listener")
    identifier of the connector            UTF-8
    identifier of the listener             UTF-8
    nonce of the connector
    nonce of the listener
    channel binding of TLS                 empty without TLS

Each of the six is preceded by its length, 4 bytes, unsigned, big-endian.

The connector proves itself first. A listener that has seen a right proof answers
with its own; so somebody who only dials gets nothing of which a weak secret could
be guessed. What was recorded on another connection is of no use, because the nonces
differ; what the other side itself has sent, because the role does; what was sent on
the other half of a connection that somebody in the middle has split in two, because
the channel binding does. Two peers with the same identifier can't prove anything to each
other, because the roles say nothing then.
"""

from __future__ import annotations

import enum
import hmac
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from snakemq.exceptions import SnakeMQBrokenMessage

__all__ = [
    "NONCE_SIZE",
    "PROOF_SIZE",
    "Exchange",
    "Role",
    "decode_nonce",
    "find_secret",
    "make_proof",
]

#: Size of a nonce, in bytes.
NONCE_SIZE: Final = 32

#: Size of a proof, in bytes.
PROOF_SIZE: Final = 32

_DOMAIN: Final = b"snakemq 2 authentication\0"
_LENGTH: Final = struct.Struct("!I")


class Role(enum.Enum):
    """Which side proves something."""

    CONNECTOR = b"connector"
    LISTENER = b"listener"


class Exchange(NamedTuple):
    """What both sides know of the connection on which something is proved."""

    connector: str
    listener: str
    connector_nonce: bytes
    listener_nonce: bytes
    channel_binding: bytes


def make_proof(secret: bytes, role: Role, exchange: Exchange) -> bytes:
    """The proof of one side that it knows the secret."""
    parts = (
        role.value,
        exchange.connector.encode(),
        exchange.listener.encode(),
        exchange.connector_nonce,
        exchange.listener_nonce,
        exchange.channel_binding,
    )
    message = _DOMAIN + b"".join(_LENGTH.pack(len(part)) + part for part in parts)
    return hmac.digest(secret, message, "sha256")


def find_secret(
    secrets: Iterable[bytes], proof: bytes, role: Role, exchange: Exchange
) -> bytes | None:
    """Which secret the other side has proved to know.

    :param role: of the other side
    :return: one of ``secrets``; ``None``: none of them
    """
    found = None
    if exchange.connector == exchange.listener:
        return None
    for secret in secrets:
        # All of them, so that the time says nothing about which one it is.
        if hmac.compare_digest(make_proof(secret, role, exchange), proof):
            found = secret
    return found


def decode_nonce(value: bytes) -> bytes:
    """The nonce in the value of the feature.

    :raises SnakeMQBrokenMessage: too short
    """
    if len(value) < NONCE_SIZE:
        raise SnakeMQBrokenMessage(f"a nonce of {len(value)} bytes")
    return value[:NONCE_SIZE]
