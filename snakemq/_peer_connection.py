"""What messaging knows of one connection."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import Final

from snakemq._core.frames import Sequence
from snakemq._core.keepalive import Keepalive
from snakemq._core.received import Received
from snakemq._core.session import Session
from snakemq.contracts import TimerHandle
from snakemq.message import Message
from snakemq.queues import Queue

__all__ = ["Hold", "PeerConnection"]


class Hold(enum.Enum):
    """Why messages that arrive are not handled yet."""

    #: the application asked for it
    PAUSED = "paused"
    #: the storage did not take what was received
    STORAGE = "storage"
    #: the inbox is full of messages that wait for another attempt
    INBOX = "inbox"


_NO_HOLDS: Final[frozenset[Hold]] = frozenset()


class PeerConnection:
    """One connection and what is known of its other side."""

    __slots__ = (
        "ack_due",
        "ack_timer",
        "acked_received",
        "acked_total",
        "arrived_at",
        "check_number",
        "conn_id",
        "doubtful",
        "flights",
        "greeting_bytes",
        "handed_total",
        "held",
        "held_bytes",
        "holds",
        "ident",
        "identification_timer",
        "interrupted",
        "is_gone",
        "is_known",
        "is_ready",
        "keepalive",
        "keepalive_timer",
        "knows_all",
        "last_ack",
        "last_number",
        "last_pong",
        "memory",
        "must_sync",
        "next_number",
        "nonce",
        "number",
        "pings",
        "pongs_due",
        "queue",
        "received_at_challenge",
        "received_total",
        "retry_timer",
        "rival",
        "rival_timer",
        "sent_at_check",
        "sent_early",
        "sent_total",
        "sequence",
        "session",
        "settle_timer",
        "unacked_bytes",
        "unmarked",
        "unstored",
    )

    def __init__(self, conn_id: str, now: float, *, wants_proof: bool = False) -> None:
        self.conn_id = conn_id
        self.session = Session(wants_proof=wants_proof)
        #: this side's, for proofs; empty when they are not wanted, or done
        self.nonce = b""
        #: what came before it was known who is there
        self.greeting_bytes = 0
        self.is_known = False
        self.is_gone = False
        #: the other side's identifier, from the moment on that it is connected
        self.ident: str | None = None
        self.arrived_at = 0.0
        self.queue: Queue | None = None
        #: it is known what the other side can do
        self.is_ready = False
        self.keepalive = Keepalive(now)
        self.keepalive_timer: TimerHandle | None = None
        self.sent_at_check = 0
        self.identification_timer: TimerHandle | None = None
        #: runs while nothing is to be sent: see Takeover
        self.settle_timer: TimerHandle | None = None
        # The pings that wait for their pongs: when sent, whom to tell.
        # This and others are lists, and deques only where many may be in it: an empty
        # deque takes ten times as much, and most connections are idle.
        self.pings: list[tuple[float, Callable[[float], object] | None]] = []

        #: the last pong that is not with the system yet, and how many come after it
        self.last_pong: int | None = None
        self.pongs_due = 0

        # Sending. Messages with the packeter: first and last packet id of each batch.
        self.flights: list[tuple[int, int]] = []
        # How many messages were given to the packeter, of these to the system,
        # of these without a word of the link; and how many are acknowledged.
        self.sent_total = 0
        self.handed_total = 0
        self.sent_early = 0
        self.acked_total = 0
        #: the number that the other side expects the next message to have
        self.next_number: int | None = None

        # Receiving: how many messages, how many of them are acknowledged.
        self.received_total = 0
        self.acked_received = 0
        self.unacked_bytes = 0
        self.ack_timer: TimerHandle | None = None
        #: packet of the last acknowledgement, until it is with the system; and
        #: whether there is to be another one then
        self.last_ack: int | None = None
        self.ack_due = False
        #: what was received of the other side before, if it acknowledges
        self.memory: Received | None = None
        # Where the other side is in its stream; how many of its next messages
        # have to be looked at, and the number of the first of these.
        self.sequence: Sequence | None = None
        self.number = 0
        self.doubtful = 0
        self.check_number = 0
        #: the number of the last message of that stream handled before
        self.last_number: int | None = None
        #: whether what has a higher number was certainly not received
        self.knows_all = False
        # What the storage does not know yet.
        self.unmarked: list[bytes] = []
        self.unstored: list[Message] = []
        self.must_sync = False
        self.retry_timer: TimerHandle | None = None

        # Packets received that can't be handled yet, and why.
        self.held: deque[tuple[bytes, list[int]]] | None = None
        self.held_bytes = 0
        self.holds: frozenset[Hold] = _NO_HOLDS
        #: what was received together is not to be handled any further now: it
        #: is gone, or there is a hold
        self.interrupted = False
        # The connected one has, and the waiting one is, a rival.
        self.rival: PeerConnection | None = None
        self.rival_timer: TimerHandle | None = None
        self.received_at_challenge = 0

    def cancel_identification(self) -> None:
        """It has not to say any more who it is. Harmless a second time."""
        if self.identification_timer is not None:
            self.identification_timer.cancel()
            self.identification_timer = None

    def cancel_timers(self) -> None:
        """The connection is gone: nothing is to be looked at any more."""
        for timer in (
            self.keepalive_timer,
            self.identification_timer,
            self.settle_timer,
            self.ack_timer,
            self.retry_timer,
        ):
            if timer is not None:
                timer.cancel()

    @property
    def acknowledges(self) -> bool:
        """Whether the other side knows acknowledged delivery."""
        return self.session.delivery is not None

    @property
    def is_waiting(self) -> bool:
        """Whether it said who it is, and a connection with that identifier is there."""
        return self.rival is not None and self.ident is None
