"""What the link contract works with: two links, what drives them, and recorders."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from snakemq.contracts import Buffer, LinkInterface

__all__ = ["Contract", "LinkPair", "Recorder", "Stream"]


class LinkPair:
    """Two links under test and what makes them run. To be written for each kind of link.

    :ivar a: the link that dials
    :ivar b: the link that listens
    """

    a: LinkInterface
    b: LinkInterface

    #: Whether :meth:`run_until` waits for real time, so that other threads get
    #: a chance to do something.
    real_time: bool = True

    def connect(self) -> None:
        """Have ``b`` listen and ``a`` dial once more; do not wait for the connection.

        The connector should dial again soon after a loss. Called more than
        once in a test, for more connections.
        """
        raise NotImplementedError

    def hang_up(self) -> None:
        """Delete all connectors of ``a``, which closes their connections."""
        raise NotImplementedError

    def break_connections(self) -> None:
        """Break all connections from outside, so that both links get a reset."""
        raise NotImplementedError

    def run_until(self, condition: Callable[[], object], what: str = "") -> None:
        """Run both links until ``condition()`` is true.

        :param what: what is waited for, for the message of the failure
        :raises AssertionError: it does not become true in a generous time
        """
        raise NotImplementedError

    def run(self, seconds: float) -> None:
        """Run both links for so many seconds of their own time."""
        start = self.a.time()
        self.run_until(lambda: self.a.time() - start >= seconds, f"{seconds} seconds to pass")

    def cleanup(self) -> None:
        """Clean up both links, and everything else."""
        raise NotImplementedError


class Recorder:
    """Keeps what a link tells, and notices at once what it may not tell."""

    def __init__(self, link: LinkInterface, name: str) -> None:
        self.link = link
        self.name = name
        #: all events in order: connection, name of the callback, argument
        self.events: list[tuple[str, str, object]] = []
        #: the connections that are there, in order
        self.connections: list[str] = []
        #: all that ever were
        self.known: set[str] = set()
        self.received: dict[str, bytearray] = {}
        self.passes = 0
        #: what went wrong; looked at when the test ends
        self.faults: list[str] = []
        #: the size of the send that is not finished, of each connection
        self.sending: dict[str, int] = {}
        self._in_send = False
        self._thread = threading.get_ident()
        link.on_connect.add(self._on_connect)
        link.on_recv.add(self._on_recv)
        link.on_ready_to_send.add(self._on_ready)
        link.on_disconnect.add(self._on_disconnect)
        link.on_loop_pass.add(self._on_loop_pass)

    def send(self, conn_id: str, *data: Buffer) -> None:
        """Send over the link, and watch that nothing is called meanwhile."""
        self._in_send = True
        try:
            self.link.send(conn_id, *data)
        finally:
            self._in_send = False
        self.sending[conn_id] = sum(memoryview(piece).nbytes for piece in data)

    def count(self, callback: str, conn_id: str | None = None) -> int:
        """How many times ``callback`` was called, for one connection or all."""
        return sum(name == callback and conn_id in (None, who) for who, name, _ in self.events)

    @property
    def all_received(self) -> bytes:
        """All bytes that arrived, connection by connection."""
        return b"".join(self.received.values())

    def _called(self, conn_id: str, callback: str, argument: object) -> None:
        self.events.append((conn_id, callback, argument))
        if self._in_send:
            self._fault(f"{callback} was called inside of send")
        if threading.get_ident() != self._thread:
            self._fault(f"{callback} was called in another thread")
        if callback != "on_connect" and conn_id not in self.connections:
            self._fault(f"{callback} was called for {conn_id}, which is not connected")

    def _fault(self, what: str) -> None:
        self.faults.append(f"{self.name}: {what}")

    def _on_connect(self, conn_id: str) -> None:
        self._called(conn_id, "on_connect", None)
        if not isinstance(conn_id, str):
            self._fault(f"the identifier {conn_id!r} is not a string")
        if conn_id in self.known:
            self._fault(f"the identifier {conn_id} was used before")
        self.known.add(conn_id)
        self.connections.append(conn_id)
        self.received[conn_id] = bytearray()

    def _on_recv(self, conn_id: str, data: bytes) -> None:
        self._called(conn_id, "on_recv", None)
        if type(data) is not bytes or not data:
            self._fault(f"on_recv got {data!r}")
        self.received[conn_id] += data

    def _on_ready(self, conn_id: str, size: int) -> None:
        self._called(conn_id, "on_ready_to_send", size)
        most = self.sending.pop(conn_id, -1)
        if most < 0:
            self._fault("on_ready_to_send was called, but nothing was sent")
        elif not 0 <= size <= most:
            self._fault(f"on_ready_to_send tells {size} of {most} bytes")

    def _on_disconnect(self, conn_id: str) -> None:
        self._called(conn_id, "on_disconnect", None)
        self.sending.pop(conn_id, None)
        self.connections.remove(conn_id)

    def _on_loop_pass(self) -> None:
        self.passes += 1


class Stream:
    """Sends all of ``data`` over one connection, as a layer above a link does."""

    def __init__(
        self, recorder: Recorder, conn_id: str, data: bytes, *, cuts: Sequence[int] = ()
    ) -> None:
        self.recorder = recorder
        self.conn_id = conn_id
        self.data = data
        #: where it is cut into pieces that are sent together
        self.cuts = cuts
        #: how many bytes were reported as taken
        self.taken = 0
        #: called when all of it is taken
        self.on_finished: Callable[[], object] = lambda: None
        recorder.link.on_ready_to_send.add(self._ready)
        if data:
            self._send_rest()

    @property
    def finished(self) -> bool:
        """Whether all of it was taken."""
        return self.taken == len(self.data)

    def _ready(self, conn_id: str, size: int) -> None:
        if conn_id != self.conn_id or self.finished:
            return
        self.taken += size
        if self.finished:
            self.on_finished()
        elif conn_id in self.recorder.connections:
            self._send_rest()

    def _send_rest(self) -> None:
        cuts = [self.taken, *(cut for cut in self.cuts if cut > self.taken), len(self.data)]
        view = memoryview(self.data)
        self.recorder.send(self.conn_id, *(view[a:b] for a, b in pairwise(cuts)))


class Contract:
    """Sets up a pair of links with recorders for each test, and takes it down."""

    pair: LinkPair
    a: LinkInterface
    b: LinkInterface
    at_a: Recorder
    at_b: Recorder

    def make_pair(self) -> LinkPair:
        """Make the links under test. To be written by the subclass."""
        raise NotImplementedError

    def setup_method(self) -> None:
        """Before each test; a subclass that has its own calls this one."""
        self.pair = self.make_pair()
        self.a, self.b = self.pair.a, self.pair.b
        self.at_a = Recorder(self.a, "the dialling link")
        self.at_b = Recorder(self.b, "the listening link")

    def teardown_method(self) -> None:
        """After each test; a subclass that has its own calls this one."""
        self.pair.cleanup()
        for recorder in (self.at_a, self.at_b):
            faults = recorder.faults + [
                f"{recorder.name}: {conn_id} was not told to be no more"
                for conn_id in recorder.connections
            ]
            assert not faults, "; ".join(faults)

    # For the tests

    def connect(self) -> tuple[str, str]:
        """One more connection; its identifiers on both sides."""
        before = len(self.at_a.known), len(self.at_b.known)
        self.pair.connect()
        self.pair.run_until(
            lambda: (
                len(self.at_a.known) > before[0]
                and len(self.at_b.known) > before[1]
                and self.at_a.connections
                and self.at_b.connections
            ),
            "a connection",
        )
        return self.at_a.connections[-1], self.at_b.connections[-1]

    def until_gone(self) -> None:
        """Run until no connection is left on either side."""
        self.pair.run_until(
            lambda: not self.at_a.connections and not self.at_b.connections,
            "both sides to be disconnected",
        )

    def until_gone_from(self, recorder: Recorder, conn_id: str) -> None:
        """Run until one side has been told that a connection is no more."""
        self.pair.run_until(
            lambda: conn_id not in recorder.connections,
            f"{recorder.name} to be disconnected",
        )

    def until_connected(self, times: int) -> None:
        """Run until both sides are connected, for the so many-th time."""
        self.pair.run_until(
            lambda: (
                self.at_a.count("on_connect") == self.at_b.count("on_connect") == times
                and self.at_a.connections
                and self.at_b.connections
            ),
            "the connection to come back",
        )

    def transfer(self, sender: Recorder, conn_id: str, data: bytes, receiver: Recorder) -> None:
        """Send ``data`` and see it arrive whole, after what has arrived before."""
        before = len(receiver.all_received)
        stream = Stream(sender, conn_id, data)
        self.pair.run_until(
            lambda: stream.finished and len(receiver.all_received) >= before + len(data),
            f"{len(data)} bytes to arrive",
        )
        assert receiver.all_received[before:] == data

    def still_works(self) -> None:
        """The links can still make a connection and use it."""
        # A connector that is just dialling again would mix up the two ends.
        self.pair.hang_up()
        self.until_gone()
        conn_a, conn_b = self.connect()
        self.at_a.received[conn_a].clear()
        self.at_b.received[conn_b].clear()
        Stream(self.at_a, conn_a, b"there")
        Stream(self.at_b, conn_b, b"back")
        self.pair.run_until(
            lambda: (
                self.at_b.received[conn_b] == b"there" and self.at_a.received[conn_a] == b"back"
            ),
            "bytes to arrive in both directions",
        )

    @staticmethod
    def random_bytes(size: int, seed: int = 0) -> bytes:
        """Bytes without a pattern, the same for the same seed."""
        return random.Random(seed).randbytes(size)

    @staticmethod
    def raises(expected: type[BaseException], func: Callable[..., Any], *args: Any) -> None:
        """``func(*args)`` raises exactly that."""
        raised: BaseException | None = None
        try:
            func(*args)
        except expected as exc:
            raised = exc
        assert type(raised) is expected, f"{func.__qualname__} raised {raised!r}"
