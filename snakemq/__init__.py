"""snakemq: brokerless messaging and RPC between peers, inside your process.

::

    from snakemq import Peer

    with Peer("bob", listen=4000) as bob, Peer("alice", connect=4000) as alice:
        alice.send("bob", "hello")
        print(bob.receive().text)

:class:`Peer` is a whole stack in one object. The layers that it is made of can
also be put together by hand, as with snakeMQ 1.6: :mod:`snakemq.link`,
:mod:`snakemq.packeter`, :mod:`snakemq.messaging`, :mod:`snakemq.rpc`.

``import snakemq`` opens nothing, starts nothing and loads the layers only when
one of them is used.
"""

from __future__ import annotations

import importlib
import logging
from typing import IO, TYPE_CHECKING, Any

from snakemq.exceptions import (
    AuthenticationError,
    NoConnection,
    PacketTooLarge,
    PeerClosed,
    QueueFull,
    RefusedByPeer,
    SendNotFinished,
    SnakeMQException,
    StorageDamaged,
    StorageError,
    StorageInUse,
    StorageUnavailable,
    TlsError,
)
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.version import VERSION

if TYPE_CHECKING:
    from snakemq.authentication import CertificateFingerprint, CertificateName, SharedSecret
    from snakemq.limits import ConnectionLimits, DropReason, QueueLimits, WhenFull
    from snakemq.link import SSLConfig
    from snakemq.peer import CallLimits, Delivery, DeliveryState, Peer, ReceivedMessage
    from snakemq.rpc import (
        as_signal,
        at_most_once,
        current_call,
        quick,
        register_type,
        transactional,
    )

__all__ = [
    "FLAG_PERSISTENT",
    "AuthenticationError",
    "CallLimits",
    "CertificateFingerprint",
    "CertificateName",
    "ConnectionLimits",
    "Delivery",
    "DeliveryState",
    "DropReason",
    "Message",
    "NoConnection",
    "PacketTooLarge",
    "Peer",
    "PeerClosed",
    "QueueFull",
    "QueueLimits",
    "ReceivedMessage",
    "RefusedByPeer",
    "SSLConfig",
    "SendNotFinished",
    "SharedSecret",
    "SnakeMQException",
    "StorageDamaged",
    "StorageError",
    "StorageInUse",
    "StorageUnavailable",
    "TlsError",
    "WhenFull",
    "__version__",
    "as_signal",
    "at_most_once",
    "current_call",
    "init_logging",
    "quick",
    "register_type",
    "transactional",
]

__version__ = VERSION

# Loaded when they are asked for: a program that builds its own stack does not
# pay for the facade, and `import snakemq` stays cheap.
_LAZY = {
    "CallLimits": "snakemq.peer",
    "CertificateFingerprint": "snakemq.authentication",
    "CertificateName": "snakemq.authentication",
    "ConnectionLimits": "snakemq.limits",
    "Delivery": "snakemq.peer",
    "DeliveryState": "snakemq.peer",
    "DropReason": "snakemq.limits",
    "Peer": "snakemq.peer",
    "QueueLimits": "snakemq.limits",
    "ReceivedMessage": "snakemq.peer",
    "SSLConfig": "snakemq.link",
    "SharedSecret": "snakemq.authentication",
    "WhenFull": "snakemq.limits",
    "as_signal": "snakemq.rpc",
    "at_most_once": "snakemq.rpc",
    "current_call": "snakemq.rpc",
    "quick": "snakemq.rpc",
    "register_type": "snakemq.rpc",
    "transactional": "snakemq.rpc",
}

# A library says nothing unless the program wants to hear it.
logging.getLogger("snakemq").addHandler(logging.NullHandler())

_log_handler: logging.Handler | None = None


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


def init_logging(stream: IO[str] | None = None) -> None:
    """Write what the stack logs to a stream. As in snakeMQ 1.6.

    The logger ``"snakemq"`` shows nothing below ``CRITICAL`` until the program
    sets another level::

        snakemq.init_logging()
        logging.getLogger("snakemq").setLevel(logging.DEBUG)

    A second call moves the log to its stream; nothing is written twice. (1.6
    added one more handler with each call, and reset the level.)

    :param stream: a text stream; standard error if it is not given
    """
    global _log_handler
    logger = logging.getLogger("snakemq")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    if _log_handler is not None:
        logger.removeHandler(_log_handler)
    _log_handler = handler
    logger.addHandler(handler)
