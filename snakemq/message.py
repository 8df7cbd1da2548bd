"""The message: what the user sends and receives."""

from __future__ import annotations

import functools
import itertools
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

__all__ = [
    "FLAG_PERSISTENT",
    "MAX_UUID_LENGTH",
    "Message",
    "MessageHandler",
    "UniqueIds",
    "fleeting",
    "message_ids",
]

#: Keep the message in the storage until it is delivered.
FLAG_PERSISTENT: Final = 0x1

#: Length of a message identifier on the wire, in bytes.
MAX_UUID_LENGTH: Final = 16


class UniqueIds:
    """Makes identifiers: 8 random bytes of this process, then a counter.

    As unique as a random identifier, at a tenth of its cost: no system call
    for each. Not hard to guess. Thread-safe.

    :ivar next: ``func()``; gives the next identifier, 16 bytes
    :ivar prefix: the random bytes
    :ivar number: ``func()``; for those who put an identifier together themselves:
        what comes after the prefix of the next one, as a number of 8 bytes
    :ivar reseeded: called when there is another prefix
    """

    # A chain of iterators written in C and not a method: it is called for
    # each message that is made.
    next: Callable[[], bytes]
    prefix: bytes

    def __init__(self) -> None:
        self._count = itertools.count(1)
        self.number = self._count.__next__
        self.reseeded: Callable[[], object] = lambda: None
        self.reseed()
        if hasattr(os, "register_at_fork"):
            # A child would go on with its parent's identifiers.
            os.register_at_fork(after_in_child=self.reseed)

    def reseed(self) -> None:
        """Begin anew with other random bytes."""
        self.prefix = os.urandom(8)
        pack = functools.partial(struct.Struct("!8sQ").pack, self.prefix)
        self.next = map(pack, self._count).__next__
        self.reseeded()


#: Those of messages.
message_ids = UniqueIds()


class Message:
    """A payload with what it takes to deliver it.

    :param data: the payload
    :param ttl: time to live in seconds, integer or float. It runs only while
        the receiver is not connected. 0: deliver only if the receiver is
        connected now; ``None``: wait for ever.
    :param flags: combination of ``FLAG_*``; bits unknown to the stack reach
        the receiver
    :param uuid: identifier, at most 16 bytes (the rest is cut off); made up
        when it is not given. A shorter one arrives padded with NULs.
    :ivar redelivered: on a message that was received: it may have been handed
        to this program before. Without this mark it comes for the first time.
    :ivar attempts: likewise, with ``durable_receive``: how often its callbacks
        were called, this time included
    :raises TypeError: ``data`` or ``uuid`` is not bytes
    :raises ValueError: ``ttl`` is negative or not a number; ``flags`` does not
        fit into 32 bits
    """

    # __dict__ is there for programs that hang attributes of their own on a
    # message; it costs nothing as long as nobody does.
    __slots__ = ("__dict__", "__weakref__", "data", "flags", "ttl", "uuid")

    data: bytes
    ttl: float | None
    flags: int
    uuid: bytes
    redelivered: bool = False
    attempts: int = 1

    def __init__(
        self,
        data: bytes,
        ttl: float | None = 0,
        flags: int = 0,
        uuid: bytes | None = None,
    ) -> None:
        if type(data) is not bytes:
            raise TypeError(f"message data must be bytes, not {type(data).__name__}")
        if ttl == 0:
            ttl = 0.0
        elif ttl is not None:
            ttl = float(ttl)
            if not ttl >= 0:  # NaN too
                raise ValueError(f"ttl must be None or at least 0 seconds, not {ttl!r}")
            if ttl == _INFINITY:
                ttl = None
        if flags and not 0 <= flags <= 0xFFFFFFFF:
            raise ValueError(f"flags must fit into 32 bits, not {flags!r}")
        self.data = data
        self.ttl = ttl
        self.flags = flags
        if uuid is None:
            self.uuid = message_ids.next()
        elif type(uuid) is not bytes:
            raise TypeError(f"message uuid must be bytes, not {type(uuid).__name__}")
        else:
            self.uuid = uuid[:MAX_UUID_LENGTH] or message_ids.next()

    def with_ttl(self, ttl: float | None) -> Message:
        """The same message (same identifier) with another time to live."""
        return Message(self.data, ttl, self.flags, self.uuid)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} uuid={self.uuid.hex()} ttl={self.ttl!r} "
            f"flags={self.flags:#x} len={len(self.data)}>"
        )


_new: Final = Message.__new__


def fleeting(data: bytes) -> Message:
    """``Message(data)`` in half of the time, for layers: nothing is checked."""
    message = _new(Message)
    message.data = data
    message.ttl = 0.0
    message.flags = 0
    message.uuid = message_ids.next()
    return message


class MessageHandler(ABC):
    """A callback of received messages that can do without the object of most of them.

    For facades. If it is the only callback of ``messaging.on_message_recv``, messages
    without TTL and flags, which nothing else is known of, go to :meth:`take_data`.

    What a :class:`~snakemq.messaging.ReceiveHook` passes on to services is none of its
    business, and need not be brought to it.
    """

    @abstractmethod
    def __call__(self, conn_id: str, ident: str, message: Message) -> None:
        """A message has arrived."""

    @abstractmethod
    def take_data(self, conn_id: str, ident: str, uuid: bytes, data: bytes) -> None:
        """The message ``Message(data, None, 0, uuid)`` has arrived."""


_INFINITY: Final = float("inf")
