"""Who is measured: what a module here has to have, and nothing else.

Each has the first, and of the others those that its workloads use. Where a
server is between the sides, the module has ``version`` and ``over`` only, and
``over(server)`` gives all that is below; ``server`` is the address in
:class:`benchmarks.servers.Server`.

``version() -> str``
    What is measured really, as the program that is running knows it.

``receive(on_message) -> Listening``
    Listen on the loopback interface for one sender; call ``on_message(data)``
    for each message, from any one thread, in order.

``connect(address) -> Sending``
    The other side: return when messages can be sent.

``serve(echo) -> Listening``
    Listen for remote calls; each is ``echo(data)``.

``caller(address) -> Calling``
    The other side: return when calls can be made.

``keep(setting, on_message) -> Keeping``
    As ``receive``, for a sender whose messages are durable. A message is
    acknowledged when ``on_message`` has returned.

``connect_durably(setting, address) -> Durable``
    The other side. What it stores is below ``setting.directory``.

``receive_secured(certificates, on_message) -> Listening``
    As ``receive``, with TLS; both sides show a certificate and check the other's.

``connect_secured(certificates, address) -> Sending``
    The other side.

``queue_for_later() -> Queueing``
    Take messages for one receiver, which is not there yet. They are in memory, and
    wait for as long as it takes: nobody looks at the time.

``fetch(address, on_message) -> Fetching``
    The receiver comes, and gets everything that was queued for it.

``hold(address, count) -> Holding``
    Connect so many times to a side that does ``serve``, and return when the
    connections are all there. Nothing happens on them; what is here should take
    as little of the machine as it can.

A module is imported only in the processes that it is measured in, with the
Python and the packages that :mod:`benchmarks.peers.catalogue` gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

__all__ = [
    "Address",
    "Calling",
    "Certificates",
    "Durable",
    "Fetching",
    "Holding",
    "Keeping",
    "Listening",
    "OnMessage",
    "PeerModule",
    "Queueing",
    "Sending",
    "Setting",
]

#: Whatever the other side needs to find this one; it travels as JSON.
Address: TypeAlias = Any

OnMessage: TypeAlias = "Callable[[bytes | bytearray], object]"


@dataclass(frozen=True)
class Certificates:
    """Files in a directory, for the two sides of a connection with TLS.

    :param directory: where they are
    """

    directory: Path

    @property
    def authority(self) -> Path:
        """The certificate of the authority that has signed the others."""
        return self.directory / "ca.crt"

    def certificate(self, side: str) -> Path:
        """Of the side with this name: ``listener``, at 127.0.0.1, or ``dialler``."""
        return self.directory / f"{side}.crt"

    def key(self, side: str) -> Path:
        """Likewise."""
        return self.directory / f"{side}.key"


@dataclass(frozen=True)
class Setting:
    """Where a run takes place.

    :param directory: for the data of this run only; empty in the beginning
    :param certificates: for workloads with TLS
    """

    directory: Path
    certificates: Certificates | None = None


class Listening(Protocol):
    """Receives messages, or serves calls, until it is closed."""

    @property
    def address(self) -> Address:
        """For the other side."""

    def close(self) -> None:
        """The other side is gone already, or about to go."""


class Sending(Protocol):
    """Sends to one receiver. Used by one thread."""

    def send(self, data: bytes) -> None:
        """Send, or have sent by another thread. May wait while too much is under way."""

    def flush(self) -> None:
        """That was all for now: hold nothing back."""

    def close(self) -> None:
        """Everything has arrived."""


class Calling(Protocol):
    """Makes calls to one server. Used by many threads at the same time."""

    def call(self, data: bytes) -> bytes:
        """The server's ``echo(data)``."""

    def close(self) -> None:
        """All calls have returned."""


class Keeping(Listening, Protocol):
    """Receives and acknowledges messages until it is closed.

    Closing fails if the sender, or a server between, still has one.
    """

    def settle(self, received_at: float) -> float:
        """Wait until all that was received is acknowledged, and it is known that it is.

        :param received_at: when the last one was received, on
            :data:`benchmarks.payloads.clock`
        :return: when that was
        """


class Durable(Protocol):
    """Sends to one receiver what survives a power failure."""

    def send(self, data: bytes) -> None:
        """Send; it is on disk when this returns. Used by several threads at the same time."""

    def send_batch(self, batch: Sequence[bytes]) -> None:
        """Send; all of them are on disk when this returns."""

    def wait_until_removed(self) -> float:
        """Wait until none is stored any more, on this side.

        :return: when that was, on :data:`benchmarks.payloads.clock`
        """

    def close(self) -> None:
        """Everything was removed; it fails if not."""


class Queueing(Protocol):
    """Has messages for a receiver that is not there yet. Used by one thread."""

    @property
    def address(self) -> Address:
        """Where the receiver gets them."""

    def send(self, data: bytes) -> None:
        """Keep it, and send it when the receiver is there."""

    def close(self) -> None:
        """Everything has arrived."""


class Fetching(Protocol):
    """Gets what was queued for it."""

    def close(self) -> None:
        """Everything has arrived."""


class Holding(Protocol):
    """Many connections on which nothing happens."""

    def count(self) -> int:
        """How many are still there, as far as this side knows."""

    def close(self) -> None:
        """End all of them."""


class PeerModule(Protocol):
    """A module in this package, as a type."""

    def version(self) -> str: ...

    def over(self, server: Address) -> PeerModule: ...

    def receive(self, on_message: OnMessage) -> Listening: ...

    def connect(self, address: Address) -> Sending: ...

    def serve(self, echo: Callable[[bytes], bytes]) -> Listening: ...

    def caller(self, address: Address) -> Calling: ...

    def keep(self, setting: Setting, on_message: OnMessage) -> Keeping: ...

    def connect_durably(self, setting: Setting, address: Address) -> Durable: ...

    def receive_secured(self, certificates: Certificates, on_message: OnMessage) -> Listening: ...

    def connect_secured(self, certificates: Certificates, address: Address) -> Sending: ...

    def queue_for_later(self) -> Queueing: ...

    def fetch(self, address: Address, on_message: OnMessage) -> Fetching: ...

    def hold(self, address: Address, count: int) -> Holding: ...


def as_peer(module: object, server: Address | None) -> PeerModule:
    """The module, or what it gives for its server, for the type checker."""
    peer = cast(PeerModule, module)
    return peer if server is None else peer.over(server)
