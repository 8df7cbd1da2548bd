"""Whole stacks over a simulated network, and a pair of them in one line.

::

    with snakemq.testing.pair() as (alice, bob):
        alice.send("bob", b"hello")
        assert alice.network.run_until(lambda: bob.received)
        alice.network.cut("alice", "bob")
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from snakemq.contracts import LinkInterface
from snakemq.message import Message
from snakemq.messaging import Messaging, ReceiveHook
from snakemq.packeter import Packeter
from snakemq.storage import QueuesStorageBase
from snakemq.testing.network import BENIGN, Conditions, SimLink, SimNetwork
from snakemq.throttle import Throttle

__all__ = ["SimStack", "pair"]


class SimStack:
    """A peer on a :class:`SimNetwork`: a link with all the layers on it.

    It listens at :attr:`address`. All its callbacks come while the network
    runs.

    :param network: where it lives
    :param name: its identifier, and the name of its link
    :param storage: where it keeps persistent messages; it survives
        :meth:`crash`
    :param throttle: how fast each of its connections may send, in bytes per
        second; ``None``: as fast as it can
    :param on_start: ``func(stack)``, called when the layers have been built,
        also after each :meth:`restart`: the place to add callbacks
    :param options: more arguments of :class:`~snakemq.messaging.Messaging`
    :ivar storage: what the next :meth:`restart` opens
    :ivar link: the link
    :ivar packeter: the packeter
    :ivar messaging: the messaging
    :ivar hook: the receive hook
    :ivar received: all messages that it ever received, as pairs of the
        sender's identifier and the message
    """

    link: SimLink
    packeter: Packeter
    messaging: Messaging
    hook: ReceiveHook

    def __init__(
        self,
        network: SimNetwork,
        name: str,
        *,
        storage: QueuesStorageBase | None = None,
        throttle: float | None = None,
        on_start: Callable[[SimStack], object] | None = None,
        **options: Any,
    ) -> None:
        self.network = network
        self.name = name
        self.storage = storage
        self.received: list[tuple[str, Message]] = []
        self._throttle = throttle
        self._on_start = on_start
        self._options = options
        self._connectors: dict[Hashable, float | None] = {}
        self._start()

    def __repr__(self) -> str:
        return f"<SimStack {self.name} running={self.running}>"

    def _start(self) -> None:
        self.link = self.network.link(self.name)
        self.link.add_listener(self.address)
        below: LinkInterface = self.link
        if self._throttle is not None:
            below = Throttle(self.link, self._throttle)
        self.packeter = Packeter(below)
        self.messaging = Messaging(self.name, "", self.packeter, self.storage, **self._options)
        self.hook = ReceiveHook(self.messaging)
        self.messaging.on_message_recv.wire(self._receive)
        for address, interval in self._connectors.items():
            self.link.add_connector(address, interval)
        if self._on_start is not None:
            self._on_start(self)

    def _receive(self, conn_id: str, ident: str, message: Message) -> None:
        self.received.append((ident, message))

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return (self.name, 1)

    @property
    def running(self) -> bool:
        """False between :meth:`crash` and :meth:`restart`, and after :meth:`close`."""
        return self.link.running

    def connect(self, other: SimStack, reconnect_interval: float | None = None) -> None:
        """Keep dialling another stack, also after a restart.

        :param reconnect_interval: the first delay before dialling again, in
            seconds
        """
        self.link.add_connector(other.address, reconnect_interval)
        self._connectors[other.address] = reconnect_interval

    def disconnect(self, other: SimStack) -> None:
        """Undo :meth:`connect`; its connection is closed.

        :raises KeyError: it does not dial that stack
        """
        del self._connectors[other.address]
        self.link.del_connector(other.address)

    def send(self, ident: str, data: bytes, ttl: float | None = None, flags: int = 0) -> Message:
        """Send a message.

        :param ident: the receiver
        :param data: the payload
        :param ttl: its time to live, in seconds; ``None``: for ever
        :param flags: combination of ``FLAG_*``
        :returns: the message
        """
        message = Message(data, ttl, flags)
        self.messaging.send_message(ident, message)
        return message

    def crash(self, silent: bool = False, flush: bool = False) -> None:
        """Kill it. Its storage survives, and so does :attr:`received`.

        :param silent: see :meth:`SimNetwork.crash`
        :param flush: see :meth:`SimNetwork.crash`
        :raises snakemq.testing.LinkCrashed: it is called from one of its own
            callbacks
        """
        self.network.crash(self.link, silent, flush)

    def restart(self) -> None:
        """Start it again after a crash: new layers, on the same storage.

        :raises ValueError: it is running
        """
        self._start()

    def close(self) -> None:
        """Close its connections and its storage."""
        self.link.cleanup()
        self.messaging.close()


@contextmanager
def pair(
    names: tuple[str, str] = ("alice", "bob"),
    *,
    seed: int = 0,
    conditions: Conditions = BENIGN,
    throttle: float | None = None,
    storages: tuple[QueuesStorageBase | None, QueuesStorageBase | None] = (None, None),
) -> Iterator[tuple[SimStack, SimStack]]:
    """Two connected peers on a simulated network; the first dialled.

    :param names: their identifiers
    :param seed: see :class:`SimNetwork`
    :param conditions: what the way between them is like
    :param throttle: how fast each may send, in bytes per second
    :param storages: where they keep persistent messages
    """
    network = SimNetwork(seed, conditions=conditions)
    first, second = (
        SimStack(network, name, storage=storage, throttle=throttle)
        for name, storage in zip(names, storages, strict=True)
    )
    first.connect(second)
    network.run_until(
        lambda: (
            first.messaging.is_connected(second.name) and second.messaging.is_connected(first.name)
        )
    )
    try:
        yield first, second
    finally:
        for stack in (first, second):
            stack.close()
