"""A simulated connection: two ends and a flow of bytes in each direction.

The model is what a program can observe of TCP. Bytes that a send takes over
wait in the sender's buffer until the receiver's window lets them go, travel
for a while, wait in the receiver's buffer until they are read. Both buffers
are bounded, so a receiver that does not read stops the sender.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from snakemq.contracts import Buffer

if TYPE_CHECKING:
    from snakemq.testing._sim_link import Connector, SimLink
    from snakemq.testing.network import SimNetwork

__all__ = ["BENIGN", "Conditions", "End", "Flow"]


@dataclass(frozen=True)
class Conditions:
    """What the way from one link to another is like.

    :param delay: how long a byte travels, in seconds
    :param jitter: up to this much is added to ``delay``, in seconds; bytes
        never overtake each other
    :param send_buffer: how much a sender's system takes over and keeps until
        the receiver has room, in bytes
    :param recv_buffer: how much may be on the way and not yet read, in bytes
    :param max_chunk: the most that one ``on_recv`` gets, in bytes
    :param split: probability that an ``on_recv`` gets less than there is, down
        to 1 byte
    :param partial_send: probability that a send takes over less than there
        is room for, possibly nothing
    """

    delay: float = 0.001
    jitter: float = 0.0
    send_buffer: int = 65536
    recv_buffer: int = 65536
    max_chunk: int = 65536
    split: float = 0.0
    partial_send: float = 0.0

    def __post_init__(self) -> None:
        if self.delay < 0 or self.jitter < 0:
            raise ValueError("delay and jitter must be at least 0 seconds")
        if min(self.send_buffer, self.recv_buffer, self.max_chunk) < 1:
            raise ValueError("send_buffer, recv_buffer and max_chunk must be at least 1 byte")
        if not (0 <= self.split <= 1 and 0 <= self.partial_send < 1):
            raise ValueError("split must be in 0..1, partial_send at least 0 and below 1")


#: A fast and kind network.
BENIGN: Final = Conditions()


class _Mark(enum.Enum):
    """Something that travels in a flow in order with the bytes."""

    ACCEPTED = enum.auto()
    END = enum.auto()


class End:
    """One end of a connection, as the system of one link sees it."""

    __slots__ = (
        "alive",
        "announced",
        "closing",
        "conn_id",
        "connector",
        "expected",
        "inward",
        "link",
        "opening",
        "outward",
        "paused",
        "queued",
        "remote",
        "reset",
        "taken",
    )

    inward: Flow
    outward: Flow
    remote: End

    def __init__(self, link: SimLink, connector: Connector | None) -> None:
        self.link = link
        self.connector = connector
        self.conn_id = ""
        #: the dialling side, before it knows that it was accepted
        self.opening = connector is not None
        #: the link has it; after that it lingers only to deliver what was taken
        self.alive = connector is None
        #: on_connect ran
        self.announced = False
        #: on_disconnect is running
        self.closing = False
        #: on_recv is not wanted
        self.paused = False
        #: so many bytes belong together; 0: nothing is known of what comes
        self.expected = 0
        #: it broke; what arrived can still be read
        self.reset = False
        #: waits in its link's queue of ends with something to do
        self.queued = False
        #: size that the send in progress took, None without one
        self.taken: int | None = None

    @property
    def widowed(self) -> bool:
        """Whether the other side has gone and this one will not hear of it by itself."""
        remote = self.remote
        return self.alive and not (remote.alive or remote.opening or remote.outward.finished)

    def something_to_do(self) -> bool:
        """Whether its link's next pass should look at it."""
        if not self.alive:
            return False
        if not self.announced or self.reset:
            return True
        if self.taken is not None and self.outward.room() > 0:
            return True
        return not self.paused and self.inward.readable()

    def wake(self) -> None:
        """Have the link look at it in its next pass, if there is a reason."""
        if not self.queued and self.something_to_do():
            self.queued = True
            self.link.enqueue(self)

    def break_off(self) -> None:
        """The network says that the connection does not exist any more."""
        if self.opening:
            self.vanish()
            assert self.connector is not None
            self.connector.refused(self)
        elif self.alive and not self.reset:
            self.reset = True
            self.outward.abort()
            if self.paused or self.link.network.random.random() < 0.5:
                self.inward.lose_unread()
            self.wake()

    def vanish(self) -> None:
        """Whoever held it, program or machine, is gone without a goodbye."""
        self.opening = False
        self.alive = False
        self.outward.disown()
        self.inward.lose_unread()
        self.link.network.dissolve(self)

    def finish(self) -> None:
        """The program closed it: what it sent still goes out, then the end."""
        self.alive = False
        if not self.reset:
            self.outward.finish()
        self.inward.lose_unread()
        self.link.network.dissolve(self)


class Flow:
    """The bytes from one end to the other."""

    __slots__ = (
        "_aborted",
        "_in_flight",
        "_last_arrival",
        "_network",
        "_offset",
        "_reset_due",
        "_stranded",
        "_survive",
        "_unread",
        "_unread_size",
        "_unsent",
        "_unsent_size",
        "_update_due",
        "conditions",
        "ended",
        "finished",
        "source",
        "target",
    )

    def __init__(
        self, network: SimNetwork, source: End, target: End, conditions: Conditions
    ) -> None:
        self._network = network
        self.source = source
        self.target = target
        self.conditions = conditions
        #: the source will send no more
        self.finished = False
        #: the end of the stream has arrived
        self.ended = False
        self._unsent: deque[bytes | _Mark] = deque()
        self._unsent_size = 0
        self._in_flight = 0
        self._unread: deque[bytes] = deque()
        self._unread_size = 0
        self._offset = 0  # how much of the first unread piece was read
        self._last_arrival = 0.0
        # Segments that a silent loss holds back. TCP sends them again and
        # again: they arrive when the way is open.
        self._stranded: list[bytes | _Mark] = []
        # A reset that could not get back. TCP sends what was not acknowledged
        # again, and with it the answer comes again.
        self._reset_due = False
        self._update_due = False
        self._aborted = False
        # After an abort: how many of the bytes in flight still make it.
        self._survive = 0

    # The source's side

    def room(self) -> int:
        """How much the source's buffer can take now, in bytes."""
        return self.conditions.send_buffer - self._unsent_size

    def take(self, data: Buffer) -> int:
        """Take over what there is room for; return how much, in bytes."""
        view = memoryview(data)
        size = min(view.nbytes, self.room())
        conditions = self.conditions
        if conditions.partial_send:
            random = self._network.random
            if random.random() < conditions.partial_send:
                size = int(random.random() * (size + 1))
        if size > 0:
            self._unsent_size += size
            if not self._aborted:
                whole = size == view.nbytes and type(data) is bytes
                self._unsent.append(data if whole else bytes(view[:size]))  # type: ignore[arg-type]
                self._pump()
        return size

    def finish(self) -> None:
        """No more bytes will come."""
        if not self._aborted:
            self.finished = True
            self._unsent.append(_Mark.END)
            self._pump()

    def accept(self) -> None:
        """Tell the target, which dialled, that it is connected."""
        self._transmit(_Mark.ACCEPTED)

    def abort(self) -> None:
        """Lose what was not sent, and what is in flight from some byte on."""
        if not self._aborted:
            self._aborted = True
            self._unsent.clear()
            self._unsent_size = 0
            self._survive = self._network.random.randrange(self._in_flight + 1)

    def disown(self) -> None:
        """Nobody at the source knows this connection any more."""
        self.finished = False
        self.abort()

    def _pump(self) -> None:
        unsent = self._unsent
        window = self.conditions.recv_buffer - self._in_flight - self._unread_size
        while unsent:
            first = unsent[0]
            if isinstance(first, _Mark):
                self._transmit(unsent.popleft())
                continue
            if window <= 0:
                break
            if len(first) > window:
                unsent[0] = first[window:]
                first = first[:window]
            else:
                unsent.popleft()
            size = len(first)
            window -= size
            self._unsent_size -= size
            self._in_flight += size
            self._transmit(first)

    def _transmit(self, segment: bytes | _Mark) -> None:
        network = self._network
        conditions = self.conditions
        arrival = network.now + conditions.delay
        if conditions.jitter:
            arrival += network.random.random() * conditions.jitter
        if arrival < self._last_arrival:
            arrival = self._last_arrival
        self._last_arrival = arrival
        network.push(arrival, self._arrive, segment)

    # In between

    def _blocked(self) -> bool:
        return self._network.is_blocked(self.source.link.name, self.target.link.name)

    def _arrive(self, segment: bytes | _Mark) -> None:
        # What comes behind a stranded segment waits for it.
        if self._stranded or self._blocked():
            self._stranded.append(segment)
        else:
            self._land(segment)

    def way_is_open(self) -> None:
        """A silent loss is over, in one direction or in the other."""
        if self._stranded:
            self._network.push(self._network.now + self.conditions.delay, self._land_stranded, None)
        if self._reset_due:
            self._answer_with_reset()
        self._update_window()

    def _land_stranded(self, _: object) -> None:
        if not self._blocked():
            stranded, self._stranded = self._stranded, []
            for segment in stranded:
                self._land(segment)

    def _land(self, segment: bytes | _Mark) -> None:
        target = self.target
        if isinstance(segment, _Mark):
            if segment is _Mark.ACCEPTED and target.opening:
                assert target.connector is not None
                target.connector.accepted(target)
            elif segment is _Mark.END and target.alive:
                self.ended = True
                target.wake()
            elif segment is _Mark.ACCEPTED:
                self._answer_with_reset()
            return
        self._in_flight -= len(segment)
        if not target.alive:
            if not target.outward.finished:
                self._answer_with_reset()
            return
        if self._aborted:
            # A reset is on its way to the target too; until it comes the
            # survivors can be read.
            segment = segment[: self._survive]
            self._survive -= len(segment)
            if not segment:
                return
        if not target.reset:
            self._unread.append(segment)
            self._unread_size += len(segment)
            target.wake()

    def _answer_with_reset(self) -> None:
        # Nobody at the target knows this connection, and says so.
        back = self.target.outward
        self._reset_due = back._blocked()
        if not self._reset_due:
            self._network.push(self._network.now + back.conditions.delay, self._reset_source, None)

    def _reset_source(self, _: object) -> None:
        self.source.break_off()

    # The target's side

    def readable(self) -> bool:
        """Whether there is something to read, be it the end of the stream."""
        return self._unread_size > 0 or self.ended

    def read(self, expected: int = 0) -> bytes:
        """Some of what has arrived; empty at the end of the stream.

        :param expected: see :meth:`snakemq.contracts.LinkInterface.expect`
        """
        if not self._unread_size:
            return b""
        conditions = self.conditions
        limit = min(conditions.max_chunk, expected) if expected else conditions.max_chunk
        if conditions.split:
            random = self._network.random
            if random.random() < conditions.split:
                limit = int(min(limit, self._unread_size) ** random.random())
        data = self._pieces(limit)
        self._unread_size -= len(data)
        if self._unsent and not self._update_due:
            # The source learns of the room when the news has travelled back.
            self._update_due = True
            back = self.target.outward.conditions
            self._network.push(self._network.now + back.delay, self._window_news, None)
        return data

    def _pieces(self, limit: int) -> bytes:
        unread = self._unread
        offset = self._offset
        if limit >= self._unread_size:
            self._offset = 0
            if offset:
                unread[0] = unread[0][offset:]
            data = unread[0] if len(unread) == 1 else b"".join(unread)
            unread.clear()
            return data
        pieces = []
        while limit:
            piece = unread[0][offset : offset + limit]
            limit -= len(piece)
            offset += len(piece)
            pieces.append(piece)
            if offset == len(unread[0]):
                unread.popleft()
                offset = 0
        self._offset = offset
        return b"".join(pieces)

    def _window_news(self, _: object) -> None:
        self._update_due = False
        self._update_window()

    def _update_window(self) -> None:
        if not self._unsent or self._aborted or self.target.outward._blocked():
            return
        self._pump()
        self.source.wake()

    def lose_unread(self) -> None:
        """Nobody will read it: what has arrived is thrown away."""
        self._unread.clear()
        self._unread_size = 0
        self._offset = 0
