"""Sending what waits in the queues, and learning what has arrived."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import Final

from snakemq._core.features import DeliveryFeature
from snakemq._core.frames import (
    Sequence,
    decode_acknowledgement,
    encode_message_packets,
    encode_sequence,
)
from snakemq._core.framing import encode_packet
from snakemq._core.outbox import Taken
from snakemq._core.packed import Sendable, are_packed
from snakemq._peer_connection import PeerConnection
from snakemq.callbacks import Callback
from snakemq.counters import Counters
from snakemq.exceptions import NoConnection, SnakeMQBrokenMessage
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.packeter import Packeter
from snakemq.queues import Queue

__all__ = ["SEND_WINDOW_BYTES", "SEND_WINDOW_MESSAGES", "Outgoing"]

#: How much of a queue is handed to the packeter at once, in bytes: enough for
#: the next send, and not more, because a pong or an urgent message comes after
#: it. One message may go over it.
SEND_WINDOW_BYTES: Final = 256 * 1024
SEND_WINDOW_MESSAGES: Final = 8192

#: Toward a peer without acknowledgements, which has no window of its own.
_NO_WINDOW: Final = DeliveryFeature(0xFFFFFFFF, 0xFFFFFFFF)


class Outgoing:
    """The sending half of messaging. Loop thread only.

    Toward a peer that acknowledges, a message stays in its queue until it is
    acknowledged, and no more are under way than that peer allows. Toward a 1.6
    peer a persistent message stays until the pong of a ping that was sent after
    it: 1.6 answers when its callbacks have returned. Other messages leave when
    the system has taken their last byte.

    :param packeter: the layer below
    :param ping: ``func(connection, callback)``
    :param tell_sent: ``func(conn_id, ident, messages)``; they are with the system
    :param tell_left: likewise; and nothing more will be heard of them
    :param tell_acked: likewise; they are known to have arrived
    :param counters: with ``window_full``: what waits has to wait for the other side
    """

    def __init__(
        self,
        packeter: Packeter,
        ping: Callable[[PeerConnection, Callable[[float], object]], object],
        tell_sent: Callback[[str, str, SequenceOf[Message]]],
        tell_left: Callback[[str, str, SequenceOf[Message]]],
        tell_acked: Callback[[str, str, SequenceOf[Message]]],
        counters: Counters,
    ) -> None:
        self._packeter = packeter
        self._ping = ping
        self._tell_sent = tell_sent
        self._tell_left = tell_left
        self._tell_acked = tell_acked
        self._counters = counters

    def wait(self, connection: PeerConnection, seconds: float) -> None:
        """Send nothing on a new connection for so long."""
        connection.settle_timer = self._packeter.call_later(seconds, self._settled, connection)

    def _settled(self, connection: PeerConnection) -> None:
        connection.settle_timer = None
        self.pump(connection)

    def pump(self, connection: PeerConnection) -> None:
        """Hand over to the packeter what waits and fits into the windows."""
        queue = connection.queue
        if queue is None or not connection.is_ready or connection.settle_timer is not None:
            return
        queue.blocked = False
        while queue.waiting:
            taken = self._take(connection, queue)
            if taken is None or not taken.messages:
                return
            messages = taken.messages
            buffers: list[bytes] = []
            sizes: list[int] = []
            acknowledges = connection.session.delivery is not None
            if acknowledges:
                number = taken.number
                if taken.stored or taken.repeated or connection.next_number != number:
                    self._announce(queue, taken, buffers, sizes)
                connection.next_number = number + len(messages)
            if type(messages[0]) is bytes and are_packed(messages):
                buffers.append(b"".join(messages))
                sizes += map(len, messages)
            else:
                encode_message_packets(messages, buffers, sizes, acknowledged=acknowledges)
            last = self._packeter.send_encoded(connection.conn_id, buffers, sizes)
            connection.flights.append((last - len(messages) + 1, last))
            connection.sent_total += len(messages)
            if not acknowledges:
                self._ask_for_arrival(connection, messages)

    def pump_here(self, connection: PeerConnection, queue: Queue) -> bool:
        """Likewise, in a thread that has borrowed the stack; see ``run_here`` of the link.

        :return: false: it is left to the loop, because callbacks may have to be called,
            or it would have to wait
        """
        if (
            connection.queue is not queue
            or connection.session.delivery is None
            or queue.has_more_to_do
            or self._packeter.is_sending(connection.conn_id)
        ):
            return False
        queue.dirty = False
        try:
            self.pump(connection)
        except BaseException:
            # Ctrl-C, in the middle of something. What was under way is sent again
            # on the next connection; no other one is concerned.
            self._packeter.call_soon(self._give_up, connection)
            raise
        return True

    def send_here(self, connection: PeerConnection, message: Message) -> bool:
        """Send a message with TTL 0, likewise, if nothing has to be sent before it.

        A third of the Python calls that it takes by way of the queue.

        :return: false: nothing was done
        """
        queue = connection.queue
        window = connection.session.delivery
        number = connection.next_number
        conn_id = connection.conn_id
        if (
            queue is None
            or queue.dirty
            or window is None
            or number is None
            or connection.settle_timer is not None
            or self._packeter.is_sending(conn_id)
        ):
            return False
        try:
            if not queue.fly(message, number, window):
                return False
            connection.next_number = number + 1
            buffers: list[bytes] = []
            sizes: list[int] = []
            encode_message_packets((message,), buffers, sizes)
            packet = self._packeter.send_encoded(conn_id, buffers, sizes)
            connection.flights.append((packet, packet))
            connection.sent_total += 1
        except BaseException:
            self._packeter.call_soon(self._give_up, connection)  # as above
            raise
        return True

    def _give_up(self, connection: PeerConnection) -> None:
        """Nobody knows whether the system has got what is in flight, so it counts as sent.

        It keeps its numbers then, which the other side may have seen.
        """
        conn_id = connection.conn_id
        queue = connection.queue
        try:
            if queue is not None and (messages := queue.sent(queue.in_flight)[0]):
                self._tell_sent(conn_id, queue.name, messages)
        finally:
            with contextlib.suppress(KeyError):  # it may be gone already
                self._packeter.close(conn_id)

    def _take(self, connection: PeerConnection, queue: Queue) -> Taken | None:
        try:
            room = self._packeter.room(connection.conn_id, SEND_WINDOW_BYTES)
        except NoConnection:
            return None  # this is its end
        window = connection.session.delivery or _NO_WINDOW
        if room <= 0:
            queue.blocked = True
            return None
        in_flight, under_way, bytes_under_way = queue.flying()
        count = min(SEND_WINDOW_MESSAGES - in_flight, window.window_messages - under_way)
        window_room = window.window_bytes - bytes_under_way
        if count <= 0 or window_room <= 0:
            self._counters.add("window_full")
            queue.blocked = True
            # Urgent messages are not kept waiting on the other side, either.
            return queue.take_urgent(room)
        return queue.take(count, min(room, window_room))

    @staticmethod
    def _announce(queue: Queue, taken: Taken, buffers: list[bytes], sizes: list[int]) -> None:
        """Say which numbers the messages have: the other side does not know."""
        repeated = len(taken.messages) if taken.repeated else 0
        packet = encode_packet(
            encode_sequence(Sequence(queue.stream, taken.number, taken.stored, repeated))
        )
        buffers.append(packet)
        sizes.append(len(packet))

    def _ask_for_arrival(self, connection: PeerConnection, messages: SequenceOf[Sendable]) -> None:
        persistent = sum(
            1
            for message in messages
            if isinstance(message, Message) and message.flags & FLAG_PERSISTENT
        )
        if persistent:
            total = connection.sent_total
            self._ping(connection, lambda _: self._arrived(connection, total, persistent))

    def _arrived(self, connection: PeerConnection, total: int, persistent: int) -> None:
        """A 1.6 peer has received the first ``total`` messages of this connection."""
        queue = connection.queue
        if queue is not None:
            self._confirmed(connection, queue, total, persistent)

    def handle_sent(self, connection: PeerConnection, packet_id: int) -> None:
        """The packets up to this one are with the system."""
        flights = connection.flights
        sent = 0
        while flights and flights[0][0] <= packet_id:
            first, last = flights.pop(0)
            if packet_id < last:
                flights.insert(0, (packet_id + 1, last))
                last = packet_id
            sent += last - first + 1
        # Some may be known to have arrived, before the link said so.
        known = min(sent, connection.sent_early)
        connection.sent_early -= known
        queue = connection.queue
        if queue is not None:
            count = sent - known
            if not count:  # as for each message that was acknowledged meanwhile
                self.pump(connection)
                return
            connection.handed_total += count
            self._tell_all(connection, queue, queue.sent(count), [])

    def handle_acknowledgement(self, connection: PeerConnection, payload: bytes) -> None:
        """The other side has handled messages.

        :raises SnakeMQBrokenMessage: there were not so many, or it took one back
        """
        total = decode_acknowledgement(payload)
        if not connection.acked_total <= total <= connection.sent_total:
            raise SnakeMQBrokenMessage(
                f"an acknowledgement of {total} messages after {connection.acked_total} "
                f"of {connection.sent_total}"
            )
        queue = connection.queue
        if queue is None or total == connection.acked_total:
            return
        count = total - connection.acked_total
        connection.acked_total = total
        self._confirmed(connection, queue, total, count)

    def _confirmed(self, connection: PeerConnection, queue: Queue, total: int, count: int) -> None:
        """The first ``total`` messages of this connection have arrived.

        :param count: how many of them are to be confirmed now
        """
        missing = max(0, total - connection.handed_total)
        connection.sent_early += missing
        connection.handed_total += missing
        # Before anybody is told: a callback may close the connection, and the
        # queue takes back what is not confirmed then.
        sent = queue.sent(missing) if missing else ((), ())
        self._tell_all(connection, queue, sent, queue.confirmed(count))

    def _tell_all(
        self,
        connection: PeerConnection,
        queue: Queue,
        sent: tuple[SequenceOf[Message], SequenceOf[Message]],
        confirmed: SequenceOf[Message],
    ) -> None:
        conn_id = connection.conn_id
        messages, left = sent
        # All of it also when a callback raises KeyboardInterrupt.
        try:
            if messages:
                self._tell_sent(conn_id, queue.name, messages)
        finally:
            try:
                if left:
                    self._tell_left(conn_id, queue.name, left)
            finally:
                try:
                    if confirmed:
                        self._tell_acked(conn_id, queue.name, confirmed)
                finally:
                    if queue.blocked or queue.waiting:
                        self.pump(connection)
