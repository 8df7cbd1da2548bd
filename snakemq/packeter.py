"""Packets over a link: what is sent in one piece arrives in one piece."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, chain
from typing import Any, Final, NoReturn

from snakemq._core.framing import HEADER_SIZE, MAX_LENGTH, PacketDecoder, encode_header
from snakemq._peer_log import PeerLog
from snakemq.callbacks import CallbackOwner, CallbackSlot
from snakemq.contracts import LARGEST_POLLED, Buffer, LinkInterface, TimerHandle, TlsInfo
from snakemq.counters import Counters
from snakemq.exceptions import NoConnection, PacketTooLarge, SnakeMQException, TooMuchUnfinished
from snakemq.limits import ConnectionLimits

__all__ = [
    "DEFAULT_MAX_PACKET_SIZE",
    "DEFAULT_MAX_UNFINISHED_BYTES",
    "FINISH_TIMEOUT",
    "SEND_BLOCK_SIZE",
    "Packeter",
]

#: Small packets are put together into sends of about this size, in bytes.
SEND_BLOCK_SIZE: Final = 256 * 1024

#: The largest packet that is sent or accepted, in bytes.
DEFAULT_MAX_PACKET_SIZE: Final = ConnectionLimits.max_packet_size

#: What may be held of unfinished packets of all connections, in bytes.
DEFAULT_MAX_UNFINISHED_BYTES: Final = ConnectionLimits.max_unfinished_bytes

#: How long :meth:`Packeter.finish` waits for the system, in seconds.
FINISH_TIMEOUT: Final = 2.0


#: Buffers of this size or more are not copied to be sent together with others, in bytes.
_LARGE_BUFFER: Final = 16 * 1024

#: Unless there is no more than this to send at all, in bytes.
_JOINED: Final = 64 * 1024

#: Of packets that are larger than such a block two are sent at once, if that is not more
#: than this, in bytes, as long as the system takes it. A pass of the loop for each takes a
#: fifth longer: while it goes on, the other side has nothing to read.
_MOST_AT_ONCE: Final = 2 * 1024 * 1024

#: How many buffers are sent at once; no system takes fewer.
_MOST_BUFFERS: Final = 16


def _next_block(buffers: list[Buffer], block_size: int) -> list[Buffer]:
    """Take what is to be sent next out of the buffers that wait: about so many bytes."""
    block: list[Buffer] = []
    small: list[Buffer] = []
    size = count = 0
    for piece in buffers:
        if size >= block_size or len(block) >= _MOST_BUFFERS - 2:
            break
        size += len(piece)
        count += 1
        if len(piece) < _LARGE_BUFFER:
            small.append(piece)
        else:
            if small:
                block.append(b"".join(small))
                small.clear()
            block.append(piece)
    if small:
        block.append(b"".join(small))
    del buffers[:count]
    return block


class _Batch:
    """Packets that were queued together and are not all with the system yet.

    :param first_id: identifier of the first
    :param bounds: where in the stream of bytes the first begins and each of
        them ends
    """

    __slots__ = ("bounds", "first_id", "sent")

    def __init__(self, first_id: int, bounds: list[int]) -> None:
        self.first_id = first_id
        self.bounds = bounds
        #: how many of them are known to be with the system
        self.sent = 0

    @property
    def size_of_each(self) -> int:
        """Of the packets, in bytes, headers included, on average."""
        return (self.bounds[-1] - self.bounds[0]) // (len(self.bounds) - 1)


class _Connection:
    """What is on its way on one connection."""

    __slots__ = (
        "at_once",
        "batches",
        "buffers",
        "decoder",
        "expected",
        "finishing",
        "last_recv",
        "queued",
        "sending",
        "taken",
    )

    def __init__(self, decoder: PacketDecoder, now: float) -> None:
        self.decoder = decoder
        #: what the link was told of the next bytes
        self.expected = 0
        self.last_recv = now
        # Lists and no deques: an empty deque takes ten times as much, and most
        # connections are idle.
        self.buffers: list[Buffer] = []
        #: what the link has been given and has not reported yet
        self.sending: Sequence[Buffer] = ()
        self.batches: list[_Batch] = []
        # The stream, in bytes since its beginning: how much was queued, and
        # how much of that is with the system.
        self.queued = 0
        self.taken = 0
        #: how much should be sent at once, in bytes, where that is more than usual
        self.at_once = 0
        #: runs while the connection waits to be closed
        self.finishing: TimerHandle | None = None

    @property
    def unsent(self) -> int:
        """How many bytes are still to go."""
        return self.queued - self.taken


class _Connections(dict[str, _Connection]):
    """Connections by their identifiers."""

    def __missing__(self, conn_id: str) -> NoReturn:
        raise NoConnection(conn_id)


class Packeter(CallbackOwner):
    """Sends and receives packets over a link.

    Methods are for the loop's thread, callbacks come from there.

    :param link: anything that satisfies :class:`snakemq.contracts.LinkInterface`
    :param max_packet_size: the largest packet that is sent or accepted, in bytes
    :param max_unfinished_bytes: what all connections together may have received of packets
        that are not complete, in bytes; the one that has received most of it has to go
    """

    #: ``func(conn_id)``
    on_connect = CallbackSlot[[str]]()
    #: ``func(conn_id)``
    on_disconnect = CallbackSlot[[str]]()
    #: ``func(conn_id, packet)``
    on_packet_recv = CallbackSlot[[str, bytes]]()
    #: ``func(conn_id, packet_id)``; all of the packet is with the system
    on_packet_sent = CallbackSlot[[str, int]]()
    #: ``func(conn_id, exception)``
    on_error = CallbackSlot[[str | None, Exception]]()
    #: ``func(conn_id, buffer, bounds)``; packets that arrived together: the
    #: start and end of each in ``buffer``. For layers; a copy less than
    #: ``on_packet_recv``.
    on_packets_recv = CallbackSlot[[str, bytes, list[int]]]()
    #: ``func(conn_id, head, body)``; a large packet, whose first
    #: :attr:`large_head_size` bytes come apart from the others: those are a
    #: buffer that nobody else has. For layers; who listens here gets no large
    #: packets in ``on_packets_recv``, and often no copy.
    on_large_packet_recv = CallbackSlot[[str, bytes, bytes]]()
    #: ``func(conn_id, packet_id, count)``; the ``count`` packets up to this
    #: one are with the system. For layers; one call where ``on_packet_sent``
    #: is called for each.
    on_packets_sent = CallbackSlot[[str, int, int]]()

    def __init__(
        self,
        link: LinkInterface,
        max_packet_size: int = DEFAULT_MAX_PACKET_SIZE,
        *,
        max_unfinished_bytes: int = DEFAULT_MAX_UNFINISHED_BYTES,
    ) -> None:
        if not 1 <= max_packet_size <= MAX_LENGTH:
            raise ValueError(
                f"max_packet_size must be from 1 to {MAX_LENGTH} bytes, not {max_packet_size}"
            )
        self.link = link
        # These are the link's, and not methods that call them: they are called more
        # than anything else, by way of messaging, too.
        #: see :meth:`snakemq.contracts.LinkInterface.time`
        self.time = link.time
        #: see :meth:`snakemq.contracts.LinkInterface.is_inside_loop`
        self.is_inside_loop = link.is_inside_loop
        #: see :meth:`snakemq.contracts.LinkInterface.call_later`
        self.call_later = link.call_later
        #: see :meth:`snakemq.contracts.LinkInterface.call_soon`
        self.call_soon = link.call_soon
        #: see :meth:`snakemq.contracts.LinkInterface.run_here`
        self.run_here = link.run_here
        #: see :meth:`snakemq.contracts.LinkInterface.wakeup_poll`
        self.wakeup_poll = link.wakeup_poll
        self.max_packet_size = max_packet_size
        self.max_unfinished_bytes = max_unfinished_bytes
        #: see :attr:`on_large_packet_recv`; for connections from now on
        self.large_head_size = 0
        #: how often its limits were reached
        self.counters = Counters("packets_too_large", "unfinished_refused")
        self._unfinished = 0
        self.log = logging.getLogger("snakemq.packeter")
        self._peer_log = PeerLog(self.log, link.time)
        self._connections = _Connections()
        self._paused: set[str] = set()
        self._last_packet_id = 0

        # Looked up once, for the sake of the hot paths.
        self._recv_slot = self.on_packet_recv
        self._all_recv_slot = self.on_packets_recv
        self._sent_slot = self.on_packet_sent
        self._all_sent_slot = self.on_packets_sent

        link.on_connect.wire(self._handle_connect)
        link.on_disconnect.wire(self._handle_disconnect)
        link.on_recv.wire(self._handle_recv)
        link.on_ready_to_send.wire(self._handle_ready_to_send)

    # For the layer above, which knows this one only.

    def close(self, conn_id: str) -> None:
        """Close the connection. See :meth:`snakemq.contracts.LinkInterface.close`."""
        self.link.close(conn_id)

    def finish(self, conn_id: str) -> None:
        """Close the connection when what is queued is with the system.

        What arrives until then is thrown away. After :data:`FINISH_TIMEOUT`
        it is closed in any case.

        :raises NoConnection: no such connection
        """
        connection = self._connections[conn_id]
        if not connection.unsent:
            self.link.close(conn_id)
        elif connection.finishing is None:
            connection.finishing = self.link.call_later(FINISH_TIMEOUT, self.link.close, conn_id)

    def is_connector(self, conn_id: str) -> bool:
        """Whether this side dialled."""
        return self.link.is_connector(conn_id)

    def is_mesh(self) -> bool:
        """See :meth:`snakemq.contracts.LinkInterface.is_mesh`."""
        return self.link.is_mesh()

    def get_certificate(self, conn_id: str) -> dict[str, Any] | None:
        """See :meth:`snakemq.contracts.LinkInterface.get_certificate`."""
        return self.link.get_certificate(conn_id)

    @property
    def limits(self) -> ConnectionLimits:
        """See :attr:`snakemq.contracts.LinkInterface.limits`."""
        return self.link.limits

    def get_tls(self, conn_id: str) -> TlsInfo | None:
        """See :meth:`snakemq.contracts.LinkInterface.get_tls`."""
        return self.link.get_tls(conn_id)

    def get_remote_host(self, conn_id: str) -> str:
        """See :meth:`snakemq.contracts.LinkInterface.get_remote_host`."""
        return self.link.get_remote_host(conn_id)

    def pause_recv(self, conn_id: str) -> None:
        """See :meth:`snakemq.contracts.LinkInterface.pause_recv`."""
        self.link.pause_recv(conn_id)
        self._paused.add(conn_id)

    def resume_recv(self, conn_id: str) -> None:
        """See :meth:`snakemq.contracts.LinkInterface.resume_recv`."""
        self.link.resume_recv(conn_id)
        self._paused.discard(conn_id)

    def read_now(self, conn_id: str) -> None:
        """Have what is there read, be it less than belongs together: see :meth:`last_recv`.

        :raises NoConnection: no such connection
        """
        connection = self._connections[conn_id]
        if connection.expected:
            connection.expected = 0
            self.link.expect(conn_id, 0)

    def limit_received(self, conn_id: str, max_packet_size: int) -> None:
        """From now on accept packets of so many bytes at most on a connection.

        Also of a packet that came together with the one that is being handled.

        :raises NoConnection: no such connection
        """
        self._connections[conn_id].decoder.max_size = max_packet_size

    def is_paused(self, conn_id: str) -> bool:
        """Whether :meth:`pause_recv` was called for it."""
        return conn_id in self._paused

    # Sending.

    def send_packet(self, conn_id: str, buf: bytes) -> int:
        """Queue a packet.

        :param buf: the content, 0 bytes or more
        :return: identifier of the packet; each is greater than the last
        :raises NoConnection: no such connection
        :raises PacketTooLarge: over ``max_packet_size``
        :raises TypeError: ``buf`` is not bytes
        """
        if type(buf) is not bytes:
            raise TypeError(f"a packet must be bytes, not {type(buf).__name__}")
        size = len(buf)
        if size > self.max_packet_size:
            raise PacketTooLarge(size, self.max_packet_size)
        header = encode_header(size)
        buffers = [header + buf] if size < _LARGE_BUFFER else [header, buf]
        return self.send_encoded(conn_id, buffers, [size + HEADER_SIZE])

    def send_encoded(self, conn_id: str, buffers: list[bytes], sizes: list[int]) -> int:
        """Queue packets that :mod:`snakemq._core` has encoded, headers included.

        :param buffers: the bytes of all packets, in pieces of any size
        :param sizes: size of each packet, its header included
        :return: identifier of the last packet; those before it have the
            numbers before it
        :raises NoConnection: no such connection
        """
        connection = self._connections[conn_id]
        connection.buffers.extend(buffers)
        bounds = list(accumulate(sizes, initial=connection.queued))
        connection.batches.append(_Batch(self._last_packet_id + 1, bounds))
        connection.queued = bounds[-1]
        self._last_packet_id += len(sizes)
        self._pump(conn_id, connection)
        return self._last_packet_id

    def poll_here(
        self,
        conn_id: str,
        take: Callable[[bytes], bool],
        wanted: Callable[[], bool],
        deadline: float,
    ) -> bool:
        """See :meth:`snakemq.contracts.LinkInterface.poll_here`.

        Not in the middle of a packet, nor if any callback here is not the stack's own.

        :param take: gets what was read from where a packet begins on, which may be anything
        """
        connection = self._connections.get(conn_id)
        if (
            connection is None
            or connection.finishing is not None
            or connection.decoder.pending
            or connection.decoder.max_size < LARGEST_POLLED
            or self._recv_slot.users
            or self._all_recv_slot.users
            or self._sent_slot.users
            or self._all_sent_slot.users
        ):
            return False
        received = self.link.poll_here(conn_id, take, wanted, deadline)
        if received:
            connection.last_recv = self.link.time()
        return received

    def is_sending(self, conn_id: str) -> bool:
        """Whether what is sent now has to wait for something sent before.

        :raises NoConnection: no such connection
        """
        return bool(self._connections[conn_id].sending)

    def unsent_bytes(self, conn_id: str) -> int:
        """How many bytes wait to be taken over by the system.

        :raises NoConnection: no such connection
        """
        connection = self._connections[conn_id]
        return connection.queued - connection.taken

    def room(self, conn_id: str, window: int) -> int:
        """How many bytes should be queued now, so that there is enough for the next send.

        :param window: so many may wait to be taken over by the system; of large packets
            somewhat more, as long as the system takes them at once
        :raises NoConnection: no such connection
        """
        connection = self._connections[conn_id]
        return max(window, connection.at_once) - connection.queued + connection.taken

    def sent_bytes(self, conn_id: str) -> int:
        """How many bytes the system has taken over since the connection was made.

        :raises NoConnection: no such connection
        """
        return self._connections[conn_id].taken

    def last_recv(self, conn_id: str) -> float:
        """When something was received last, be it a part of a packet, on the link's clock.

        Of a large packet a part may be there for long that is not read yet, if it comes
        slowly: whoever is going to ask here does :meth:`read_now` some time before.

        :raises NoConnection: no such connection
        """
        return self._connections[conn_id].last_recv

    def _pump(self, conn_id: str, connection: _Connection) -> None:
        """Give the link the next block, if it has none."""
        buffers = connection.buffers
        if not buffers or connection.sending:
            return
        if len(buffers) == 1:
            connection.sending = tuple(buffers)
            buffers.clear()
        elif connection.unsent <= _JOINED:
            connection.sending = (b"".join(buffers),)
            buffers.clear()
        else:
            connection.sending = _next_block(buffers, max(SEND_BLOCK_SIZE, connection.at_once))
        self.link.send(conn_id, *connection.sending)

    def _handle_ready_to_send(self, conn_id: str, sent: int) -> None:
        connection = self._connections.get(conn_id)
        if connection is None or not connection.sending:
            # The link is shared: somebody else sent something of his own.
            return
        pieces = connection.sending
        connection.sending = ()
        connection.taken += sent
        if sent >= SEND_BLOCK_SIZE:
            size = 2 * connection.batches[0].size_of_each
            connection.at_once = min(size, _MOST_AT_ONCE) if size > 2 * SEND_BLOCK_SIZE else 0
        for index, piece in enumerate(pieces):
            if sent < len(piece):
                connection.buffers[:0] = (memoryview(piece)[sent:], *pieces[index + 1 :])
                connection.at_once = 0
                break
            sent -= len(piece)
        try:
            self._report_sent(conn_id, connection)
        finally:
            # Also when a callback raised KeyboardInterrupt. It may have sent
            # something, or closed the connection.
            if self._connections.get(conn_id) is connection:
                if connection.finishing is not None and not connection.unsent:
                    self.link.close(conn_id)
                elif connection.buffers:
                    self._pump(conn_id, connection)

    def _report_sent(self, conn_id: str, connection: _Connection) -> None:
        # First all the accounting: a callback may close the connection, and
        # what is not reported then counts as not sent.
        done: list[range] = []
        complete = 0
        for batch in connection.batches:
            sent = bisect_right(batch.bounds, connection.taken) - 1
            if sent > batch.sent:
                done.append(range(batch.first_id + batch.sent, batch.first_id + sent))
                batch.sent = sent
            if sent < len(batch.bounds) - 1:
                break
            complete += 1
        del connection.batches[:complete]
        if not done:
            return
        self._all_sent_slot(conn_id, done[-1][-1], sum(map(len, done)))
        if self._sent_slot.funcs:
            for packet_id in chain.from_iterable(done):
                self._sent_slot(conn_id, packet_id)

    # Receiving.

    def _handle_connect(self, conn_id: str) -> None:
        decoder = PacketDecoder(self.max_packet_size, self.large_head_size)
        self._connections[conn_id] = _Connection(decoder, self.link.time())
        self.on_connect(conn_id)

    def _handle_disconnect(self, conn_id: str) -> None:
        connection = self._connections.pop(conn_id, None)
        self._paused.discard(conn_id)
        if connection is None:
            return
        self._unfinished -= connection.decoder.pending
        if connection.finishing is not None:
            connection.finishing.cancel()
        # A packet that is with the system must not count as unsent: whoever
        # sends it again would send it twice.
        if connection.sending:
            connection.taken += self.link.unreported(conn_id)
            self._report_sent(conn_id, connection)
        self.on_disconnect(conn_id)

    def _handle_recv(self, conn_id: str, data: bytes) -> None:
        connection = self._connections.get(conn_id)
        if connection is None or connection.finishing is not None:
            return
        connection.last_recv = self.link.time()
        decoder = connection.decoder
        while True:
            before = decoder.pending
            buffer, bounds = decoder.feed(data)
            self._unfinished += decoder.pending - before
            if decoder.wanted != connection.expected:
                connection.expected = decoder.wanted
                self.link.expect(conn_id, decoder.wanted)
            if decoder.head:
                self._deliver_large(conn_id, decoder.head, buffer[: bounds[1]])
                del bounds[:2]
                if self._connections.get(conn_id) is not connection or connection.finishing:
                    return
            if bounds:
                self._all_recv_slot(conn_id, buffer, bounds)
                if self._recv_slot.funcs:
                    self._deliver_each(conn_id, buffer, bounds)
                if self._connections.get(conn_id) is not connection or connection.finishing:
                    return
            if decoder.error is None or not decoder.retry():
                break
            data = b""
        if decoder.error is not None:
            self.counters.add("packets_too_large")
            self._refuse(conn_id, decoder.error)
        while self._unfinished > self.max_unfinished_bytes:
            self._refuse_largest()

    def _deliver_each(self, conn_id: str, buffer: bytes, bounds: list[int]) -> None:
        for position in range(0, len(bounds), 2):
            connection = self._connections.get(conn_id)
            if connection is None or connection.finishing is not None:
                return
            self._recv_slot(conn_id, buffer[bounds[position] : bounds[position + 1]])

    def _deliver_large(self, conn_id: str, head: bytes, body: bytes) -> None:
        self.on_large_packet_recv(conn_id, head, body)
        if self.on_packet_recv or not self.on_large_packet_recv:
            packet = head + body
            if not self.on_large_packet_recv:
                self.on_packets_recv(conn_id, packet, [0, len(packet)])
            connection = self._connections.get(conn_id)
            if connection is not None and connection.finishing is None:
                self.on_packet_recv(conn_id, packet)

    def _refuse_largest(self) -> None:
        # Not the one with which it became more: for the sake of one who stays just
        # below the limit everybody else would have to go.
        connections = self._connections
        conn_id = max(connections, key=lambda one: connections[one].decoder.pending)
        self.counters.add("unfinished_refused")
        self._refuse(conn_id, TooMuchUnfinished(self.max_unfinished_bytes))

    def _refuse(self, conn_id: str, error: SnakeMQException) -> None:
        self._peer_log.error(self.link.get_remote_host(conn_id), "conn=%s %s", conn_id, error)
        self.on_error(conn_id, error)
        if conn_id in self._connections:
            self.link.close(conn_id)
