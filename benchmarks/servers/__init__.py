"""Servers that some peers need; they run while the peers are measured."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Server"]


class Server(NamedTuple):
    """A server that runs.

    :ivar address: for the processes of the peer; it travels as JSON
    :ivar version: what it says that it is
    """

    address: Any
    version: str
