"""What happened in a simulated history, as far as the checker has to know it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

#: How a process ended.
CRASH = "crash"
POWER = "power failure"
STOP = "stop"

#: What a process found on its disk.
SAME = "same"
LOST = "lost"
BACKUP = "backup"


@dataclass(frozen=True)
class Traits:
    """What is to be expected of a peer.

    :param keeps: it has a storage
    :param remembers: there it keeps what it received, too
    :param durable: what it received is stored before it is acknowledged
    :param max_attempts: how often a callback that raises is called, if ``durable``
    :param retry_delay: the least time in between, in seconds
    :param drops_oldest: a full queue drops the oldest
    :param fails: writing to its disk may fail for a while
    """

    keeps: bool = False
    remembers: bool = False
    durable: bool = False
    max_attempts: int = 0
    retry_delay: float = 0.0
    drops_oldest: bool = False
    #: its disk may be full for a while
    fails: bool = False


@dataclass
class Process:
    """One life of a peer."""

    number: int
    started: float
    disk: str = SAME
    ended: float | None = None
    how: str = ""
    #: how many callbacks for messages it started
    callbacks: int = 0


@dataclass
class Delivery:
    """One time that a callback was called for a message."""

    process: int  # of the receiver
    serial: int  # among those that this process started
    when: float
    redelivered: bool
    attempts: int
    #: "running", "deferred", "returned", "raised" or "crashed"
    outcome: str = "running"
    #: its attempt may or may not have been taken back
    loose: bool = False
    #: when it ended
    until: float = 0.0
    #: of which entry it is taken to be
    entry: Entry | None = None

    @property
    def finished(self) -> bool:
        """It ran to its end, be it with an exception."""
        return self.outcome in ("returned", "raised")

    @property
    def marked(self) -> bool:
        """It says that the message may have come before."""
        return self.redelivered or self.attempts > 1


@dataclass
class Entry:
    """One message that was sent once. The same message sent again is another entry."""

    number: int  # in the order in which they were sent
    #: what is in it; the same if the same message is sent twice
    key: bytes
    #: what the stack knows it by; other messages may have the same one
    uuid: bytes
    when: float
    process: int  # of the sender
    #: the last one of the receiver
    receiver: int
    persistent: bool
    ttl: float | None
    #: it survives the process of its sender
    stored: bool
    #: with TTL 0, and the receiver is not connected
    offline: bool
    urgent: bool = False
    batch: int | None = None
    #: reading of the way's offline meter
    meter: float = 0.0
    #: "sending", "accepted", "refused", "crashed"
    outcome: str = "sending"
    deliveries: list[Delivery] = field(default_factory=list)
    #: the process of the receiver that put it into the inbox
    in_inbox: int | None = None
    #: an acknowledgement of it has left the receiver
    confirmed: bool = False
    #: it is one of the dead letters
    dead: bool = False
    #: how many deliveries there were when it was put back from the dead letters
    retried: int | None = None
    #: processes of the sender that reported it as such
    sent: list[int] = field(default_factory=list)
    acked: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    #: when it was dropped
    dropped_at: list[float] = field(default_factory=list)
    #: when it left the storage of the sender, and in which process
    removed: list[tuple[float, int]] = field(default_factory=list)
    #: processes of the sender that found it in the storage
    loaded: list[int] = field(default_factory=list)

    @property
    def passing(self) -> bool:
        """It is for now only: neither stored nor remembered, and may overtake others."""
        return self.ttl == 0 and not self.persistent

    @property
    def lane(self) -> tuple[bool, bool]:
        """Order is kept among the messages with the same one."""
        return self.urgent, self.passing

    @property
    def handled(self) -> bool:
        """The application of the receiver has done with it."""
        return self.dead or any(delivery.finished for delivery in self.deliveries)

    def __str__(self) -> str:
        ttl = "for ever" if self.ttl is None else f"{self.ttl:g} s"
        words = [
            f"message {self.number}",
            "persistent" if self.persistent else "transient",
            ttl,
            *(["urgent"] if self.urgent else []),
            *([f"batch {self.batch}"] if self.batch is not None else []),
            f"sent at {self.when:.3f}",
        ]
        return f"{words[0]} ({', '.join(words[1:])})"


class OfflineMeter:
    """For how long a sender was up while its receiver was not connected, in seconds."""

    def __init__(self) -> None:
        self._times = [0.0]
        self._readings = [0.0]
        self._running = False

    def set(self, now: float, running: bool) -> None:
        if running != self._running:
            self._readings.append(self.at(now))
            self._times.append(now)
            self._running = running

    def at(self, when: float) -> float:
        """The reading at a time that is not before the last but one change."""
        index = bisect_right(self._times, when) - 1
        reading = self._readings[index]
        # It ran in every other span, and runs in the last one if it says so.
        runs = self._running == ((len(self._times) - 1 - index) % 2 == 0)
        return reading + (when - self._times[index]) if runs else reading


@dataclass
class Way:
    """From one peer to another."""

    sender: str
    receiver: str
    entries: list[Entry] = field(default_factory=list)
    by_key: dict[bytes, list[Entry]] = field(default_factory=dict)
    by_uuid: dict[bytes, list[Entry]] = field(default_factory=dict)
    deliveries: list[Delivery] = field(default_factory=list)
    #: when the sender lost a connection, by its end or its own
    broke: list[float] = field(default_factory=list)
    offline: OfflineMeter = field(default_factory=OfflineMeter)
    connected: bool = False
    #: the highest number that was delivered, of each lane
    highest: dict[tuple[bool, bool], int] = field(default_factory=dict)
    #: the same in the receiver's process that runs, of all deliveries
    last: dict[tuple[bool, bool], int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.sender} to {self.receiver}"
