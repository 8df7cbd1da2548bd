"""Sending: from what the program gives to what is queued."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Final, cast

from snakemq.exceptions import PeerClosed
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.messaging import Messaging
from snakemq.peer._arguments import Data, check_ident, to_bytes
from snakemq.peer._delivery import Deliveries, Delivery

__all__ = ["Outgoing", "Sender"]

_TO_ONESELF: Final = "a peer can't send messages to itself: no connection leads there"


class Outgoing:
    """Messages that are going to be queued together.

    :param sender: makes them
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._entries: list[tuple[str, Message]] = []
        self._tracked: dict[int, Delivery] = {}

    def add(self, ident: str, message: Message, *, track: bool) -> bytes | Delivery:
        """Append one. See :meth:`snakemq.Peer.send`."""
        if track:
            delivery = self._sender.track(ident, message)
            self._tracked[len(self._entries)] = delivery
        self._entries.append((ident, message))
        return delivery if track else message.uuid

    def queue(self) -> None:
        """Queue all of them, or none.

        :raises Exception: as :meth:`snakemq.Peer.send_messages`
        """
        sender = self._sender
        sender.refuse_closed()
        deliveries = sender.deliveries
        deliveries.queue(self._tracked.values())
        accepted = sender.messaging.send_messages(self._entries)
        for position, delivery in self._tracked.items():
            deliveries.queued(delivery, accepted[position])

    def forget(self) -> None:
        """None of them is going to be queued."""
        self._sender.deliveries.forget(self._tracked.values())


class Sender:
    """Makes messages and hands them to messaging. Thread-safe.

    :param identifier: of this peer
    :param messaging: queues what is sent
    :param has_storage: whether something can be persistent
    :param deliveries: watches what is to be tracked
    :param closed: what to raise if the peer is closed, else ``None``
    """

    def __init__(
        self,
        identifier: str,
        messaging: Messaging,
        has_storage: bool,
        deliveries: Deliveries,
        closed: Callable[[], PeerClosed | None],
    ) -> None:
        self.messaging = messaging
        self.deliveries = deliveries
        self._identifier = identifier
        self.has_storage = has_storage
        self._closed = closed

    def refuse_closed(self) -> None:
        """Nothing can be sent any more if the peer is closed.

        :raises PeerClosed: it is
        """
        closed = self._closed()
        if closed is not None:
            raise closed

    def make(
        self,
        ident: str,
        data: Data,
        ttl: float | None,
        persistent: bool | None,
        uuid: bytes | None,
        flags: int,
    ) -> Message:
        """The message that is to be sent. See :meth:`snakemq.Peer.send`."""
        # As check_receiver(); without its call, for each message.
        check_ident(ident, "ident")
        if ident == self._identifier:
            raise ValueError(_TO_ONESELF)
        if persistent is None:
            persistent = self.has_storage
        elif persistent and not self.has_storage:
            raise ValueError("a persistent message needs a storage: give the peer storage=PATH")
        if persistent:
            flags |= FLAG_PERSISTENT
        return Message(to_bytes(data), ttl, flags, uuid)

    def check_receiver(self, ident: str) -> None:
        """Whether messages can be sent to this peer.

        :raises TypeError: it is not an identifier
        :raises ValueError: it is none, or this peer
        """
        check_ident(ident, "ident")
        if ident == self._identifier:
            raise ValueError(_TO_ONESELF)

    def track(self, ident: str, message: Message) -> Delivery:
        """Watch a message from now on."""
        return self.deliveries.track(ident, message, has_storage=self.has_storage)

    def send_all(
        self,
        entries: Iterable[tuple[str, Data | Message]],
        ttl: float | None,
        persistent: bool | None,
        *,
        track: bool,
    ) -> list[bytes] | list[Delivery]:
        """See :meth:`snakemq.Peer.send_messages`."""
        outgoing = Outgoing(self)
        with contextlib.ExitStack() as undo:
            undo.callback(outgoing.forget)
            results = []
            for ident, data in entries:
                if isinstance(data, Message):
                    self.check_receiver(ident)
                    # Its handle hangs on it, and the program may send it twice.
                    message = data.with_ttl(data.ttl) if track else data
                else:
                    message = self.make(ident, data, ttl, persistent, None, 0)
                results.append(outgoing.add(ident, message, track=track))
            outgoing.queue()
            undo.pop_all()
        return cast("list[bytes] | list[Delivery]", results)

    def send_tracked(self, ident: str, message: Message) -> Delivery:
        """Queue a message and watch it."""
        delivery = self.track(ident, message)
        try:
            self.deliveries.queue([delivery])
            accepted = self.messaging.send_message(ident, message)
        except BaseException:
            self.deliveries.forget([delivery])
            raise
        self.deliveries.queued(delivery, accepted)
        return delivery
