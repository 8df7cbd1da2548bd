"""Who is measured: what a module here has to have, and nothing else.

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

A module is imported only in the processes that it is measured in, with the
Python and the packages that :mod:`benchmarks.peers.catalogue` gives it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, cast

__all__ = ["Address", "Calling", "Listening", "OnMessage", "PeerModule", "Sending"]

#: Whatever the other side needs to find this one; it travels as JSON.
Address: TypeAlias = Any

OnMessage: TypeAlias = "Callable[[bytes | bytearray], object]"


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


class PeerModule(Protocol):
    """A module in this package, as a type."""

    def version(self) -> str: ...

    def receive(self, on_message: OnMessage) -> Listening: ...

    def connect(self, address: Address) -> Sending: ...

    def serve(self, echo: Callable[[bytes], bytes]) -> Listening: ...

    def caller(self, address: Address) -> Calling: ...


def as_peer(module: object) -> PeerModule:
    """The module, for the type checker."""
    return cast(PeerModule, module)
