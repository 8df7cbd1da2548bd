"""What connectors and listeners need of the link they belong to."""

from __future__ import annotations

import logging
import random
import selectors
from collections.abc import Callable
from typing import Protocol

from snakemq._core.admission import Admission
from snakemq._io.link_socket import LinkSocket
from snakemq._io.timers import Timer
from snakemq._io.tls import TlsSide
from snakemq._peer_log import PeerLog
from snakemq.counters import Counters
from snakemq.limits import ConnectionLimits

__all__ = ["LinkHost"]


class LinkHost(Protocol):
    """The link, as seen from :mod:`snakemq._io`."""

    log: logging.Logger
    peer_log: PeerLog
    limits: ConnectionLimits
    counters: Counters
    admission: Admission[LinkSocket]
    selector: selectors.BaseSelector
    rng: random.Random
    reconnect_interval_max: float

    def call_soon(self, func: Callable[..., object], *args: object) -> None:
        """Call in the loop's thread, soon. Thread-safe."""

    def call_later(self, delay: float, func: Callable[..., object], *args: object) -> Timer:
        """Call in the loop's thread after ``delay`` seconds."""

    def watch(self, sock: LinkSocket, interest: int) -> None:
        """Have the loop look at the socket for these selector events; 0: no more.

        What is done then is up to the one that the socket belongs to, by its state.
        """

    def give_up(self, sock: LinkSocket, *, linger: bool) -> float | None:
        """Close a socket that is not open.

        :param linger: have the other side read what was sent
        :return: seconds until its connector tries again, if it has one
        """

    def adopt(self, sock: LinkSocket, tls: TlsSide | None) -> None:
        """Take over a connected socket."""

    # For who has borrowed the stack.

    def is_asleep(self) -> bool:
        """Whether the loop waits for events, and nobody has asked it for anything."""

    def report_here(self, sock: LinkSocket) -> bool:
        """Tell the layer above that the last send is finished; false: there is nothing to tell."""

    def failed_here(self, sock: LinkSocket, exc: OSError) -> None:
        """Have the loop close a broken connection."""

    def give_up_here(self, sock: LinkSocket) -> None:
        """Have the loop close a connection of which nobody knows what was received."""

    def read(self, sock: LinkSocket) -> None:
        """There is something to read, whatever the selector says. In the loop's thread."""
