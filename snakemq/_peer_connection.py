"""What messaging knows of one connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from snakemq._core.keepalive import Keepalive
from snakemq._core.session import Session
from snakemq.contracts import TimerHandle
from snakemq.queues import Queue

__all__ = ["PeerConnection"]


class PeerConnection:
    """One connection and what is known of its other side."""

    __slots__ = (
        "arrived_at",
        "conn_id",
        "flights",
        "held",
        "held_bytes",
        "ident",
        "identification_timer",
        "keepalive",
        "keepalive_timer",
        "pings",
        "queue",
        "rival",
        "rival_timer",
        "sent_at_check",
        "session",
        "settle_timer",
    )

    def __init__(self, conn_id: str, now: float) -> None:
        self.conn_id = conn_id
        self.session = Session()
        #: the other side's identifier, from the moment on that it is connected
        self.ident: str | None = None
        self.arrived_at = 0.0
        self.queue: Queue | None = None
        self.keepalive = Keepalive(now)
        self.keepalive_timer: TimerHandle | None = None
        self.sent_at_check = 0
        self.identification_timer: TimerHandle | None = None
        #: runs while nothing is to be sent: see Takeover
        self.settle_timer: TimerHandle | None = None
        # The pings that wait for their pongs: when sent, whom to tell.
        self.pings: deque[tuple[float, Callable[[float], object] | None]] = deque()
        # Messages with the packeter: first and last packet id of each batch.
        self.flights: deque[tuple[int, int]] = deque()
        # Packets received that can't be handled yet.
        self.held: deque[tuple[bytes, list[int]]] = deque()
        self.held_bytes = 0
        # The connected one has, and the waiting one is, a rival.
        self.rival: PeerConnection | None = None
        self.rival_timer: TimerHandle | None = None

    def cancel_timers(self) -> None:
        """The connection is gone: nothing is to be looked at any more."""
        for timer in (self.keepalive_timer, self.identification_timer, self.settle_timer):
            if timer is not None:
                timer.cancel()

    @property
    def is_waiting(self) -> bool:
        """Whether it said who it is, and a connection with that identifier is there."""
        return self.rival is not None and self.ident is None
