"""Messaging: peers that know each other by name, and messages between them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from snakemq._core.frames import (
    FRAME_INCOMPATIBLE,
    FRAME_PING,
    FRAME_PONG,
    MAX_IDENT_LENGTH,
    MESSAGE_OVERHEAD,
    FrameType,
    decode_message,
    encode_message_packets,
)
from snakemq._core.keepalive import Action
from snakemq._core.session import Event, Session
from snakemq._expiry_timers import ExpiryTimers
from snakemq._peer_connection import PeerConnection
from snakemq._receive_hook import ReceiveHook
from snakemq._takeover import Takeover
from snakemq.callbacks import CallbackOwner, CallbackSlot
from snakemq.contracts import TimerHandle
from snakemq.exceptions import (
    NoConnection,
    PacketTooLarge,
    SnakeMQBrokenMessage,
    SnakeMQException,
    SnakeMQIncompatibleProtocol,
)
from snakemq.message import Message
from snakemq.packeter import Packeter
from snakemq.queues import Queue, QueuesManager
from snakemq.storage import QueuesStorageBase

__all__ = ["MAX_IDENT_LENGTH", "Messaging", "ReceiveHook"]

#: How much of a queue is handed to the packeter at once: enough to keep the
#: system busy, and little enough that a pong does not wait long behind it.
SEND_WINDOW_BYTES: Final = 1024 * 1024
SEND_WINDOW_MESSAGES: Final = 8192

#: How long a connection has to say who it is, in seconds.
IDENTIFICATION_TIMEOUT: Final = 30.0

#: What a connection may send while it waits for that, in bytes.
_HELD_LIMIT: Final = 256 * 1024

_MESSAGE: Final = int(FrameType.MESSAGE)


class Messaging(CallbackOwner):
    """Sends messages to peers by name and receives theirs.

    All callbacks come from the loop's thread. :meth:`send_message`,
    :meth:`ping` and the methods that ask something may be called from any.

    :param identifier: this peer's name; cut to 50 characters
    :param domain: not used (1.6 reserved it for routing)
    :param packeter: the layer below
    :param queues_storage: where persistent messages are kept
    """

    #: ``func(conn_id, exception)``; a callback raised, or the other side made
    #: a mistake and is disconnected. ``conn_id`` may be ``None``.
    on_error = CallbackSlot[[str | None, Exception]]()
    #: ``func(conn_id, ident, message)``
    on_message_recv = CallbackSlot[[str, str, Message]]()
    #: ``func(conn_id, ident, message_uuid)``; the message was handed to the system
    on_message_sent = CallbackSlot[[str, str, bytes]]()
    #: ``func(conn_id, ident, messages)``; likewise, for layers: one call for
    #: all that were handed over together
    on_messages_sent = CallbackSlot[[str, str, list[Message]]]()
    #: ``func(ident, message_uuid)``; its TTL ran out
    on_message_drop = CallbackSlot[[str, bytes]]()
    #: ``func(conn_id, ident)``
    on_connect = CallbackSlot[[str, str]]()
    #: ``func(conn_id, ident)``
    on_disconnect = CallbackSlot[[str, str]]()

    def __init__(
        self,
        identifier: str,
        domain: str,
        packeter: Packeter,
        queues_storage: QueuesStorageBase | None = None,
    ) -> None:
        if not isinstance(identifier, str):
            raise TypeError(f"identifier must be a str, not {type(identifier).__name__}")
        self.log = logging.getLogger("snakemq.messaging")
        self.identifier = identifier[:MAX_IDENT_LENGTH]
        self.domain = domain
        self.packeter = packeter
        self.queues_manager = QueuesManager(queues_storage, clock=packeter.time)
        #: how long a pong may take, in seconds
        self.keepalive_wait = 0.5
        self._keepalive_interval: float | None = None
        self._connections: dict[str, PeerConnection] = {}
        self._by_ident: dict[str, PeerConnection] = {}
        self._takeover = Takeover(packeter, self.identifier, self._ping, self.log)
        self._expiry = ExpiryTimers(packeter, self._expire)
        self._queues = self.queues_manager.queues
        self._recv_callback = self.on_message_recv

        packeter.on_connect.wire(self._handle_connect)
        packeter.on_disconnect.wire(self._handle_disconnect)
        packeter.on_packets_recv.wire(self._handle_packets)
        packeter.on_packets_sent.wire(self._handle_sent)
        self.queues_manager.on_item_drop.wire(self._handle_drop)
        for queue in self.queues_manager.queues.values():
            self._expiry.arm(queue)

    @property
    def takeover_wait(self) -> float:
        """How long a connected peer has to answer when its identifier comes again, in seconds."""
        return self._takeover.wait

    @takeover_wait.setter
    def takeover_wait(self, seconds: float) -> None:
        self._takeover.wait = seconds

    # What can be called from any thread.

    def send_message(self, ident: str, message: Message) -> None:
        """Queue a message for a peer. Returns at once. Thread-safe.

        A persistent message is in the storage when this returns.

        :param ident: identifier of the receiver
        :raises TypeError: not an identifier, or not a message
        :raises PacketTooLarge: the message can't be sent in one packet
        :raises snakemq.exceptions.StorageError: it could not be stored and is
            not queued
        """
        if not isinstance(message, Message):
            raise TypeError(f"message must be a Message, not {type(message).__name__}")
        size = len(message.data) + MESSAGE_OVERHEAD
        if size > self.packeter.max_packet_size:
            raise PacketTooLarge(size, self.packeter.max_packet_size)
        queue = self._queues.get(ident)
        if queue is None:
            if not isinstance(ident, str):
                raise TypeError(f"ident must be a str, not {type(ident).__name__}")
            if message.ttl == 0:
                return  # nobody connected: not worth a queue
            queue = self.queues_manager.get_queue(ident)
        queue.push(message)
        if not queue.dirty:
            queue.dirty = True
            self.packeter.call_soon(self._flush, queue)
            self.packeter.wakeup_poll()

    def ping(self, ident: str, callback: Callable[[float], object]) -> None:
        """Measure the round trip to a connected peer. Thread-safe.

        :param callback: ``func(seconds)``, from the loop's thread when the
            pong comes. The other side answers after its receive callbacks for
            what was sent before have returned. If the connection breaks
            before, it is never called.
        :raises NoConnection: the peer is not connected
        """
        connection = self._by_ident.get(ident)
        if connection is None:
            raise NoConnection(f"{ident!r} is not connected")
        self.packeter.call_soon(self._ping, connection, callback)

    def is_connected(self, ident: str) -> bool:
        """Whether the peer is connected and identified. Thread-safe."""
        return ident in self._by_ident

    def connected_peers(self) -> list[str]:
        """Identifiers of the connected peers. Thread-safe."""
        return list(self._by_ident)

    def queued_messages(self, ident: str | None = None) -> int:
        """How many messages are not yet handed to the system. Thread-safe.

        :param ident: the receiver; ``None`` for all together
        """
        queues = self.queues_manager.queues
        if ident is not None:
            queue = queues.get(ident)
            return 0 if queue is None else len(queue)
        return sum(len(queue) for queue in list(queues.values()))

    def is_inside_loop(self) -> bool:
        """See :meth:`snakemq.contracts.LinkInterface.is_inside_loop`."""
        return self.packeter.is_inside_loop()

    def time(self) -> float:
        """See :meth:`snakemq.contracts.LinkInterface.time`."""
        return self.packeter.time()

    def call_soon(self, func: Callable[..., object], *args: object) -> None:
        """See :meth:`snakemq.contracts.LinkInterface.call_soon`."""
        self.packeter.call_soon(func, *args)

    def call_later(self, delay: float, func: Callable[..., object], *args: object) -> TimerHandle:
        """See :meth:`snakemq.contracts.LinkInterface.call_later`."""
        return self.packeter.call_later(delay, func, *args)

    @property
    def keepalive_interval(self) -> float | None:
        """After so many seconds of silence ping; ``None`` (the default): never.

        May be set at any time.
        """
        return self._keepalive_interval

    @keepalive_interval.setter
    def keepalive_interval(self, interval: float | None) -> None:
        if interval is not None and not interval > 0:
            raise ValueError(
                f"keepalive_interval must be None or more than 0 seconds, not {interval!r}"
            )
        self._keepalive_interval = interval
        self.packeter.call_soon(self._arm_all_keepalives)

    def close(self) -> None:
        """Close the storage. For when the loop has ended.

        What was stored stays stored, what was not is gone.
        """
        self._expiry.clear()
        self.queues_manager.close()

    # Connections come and go.

    def _handle_connect(self, conn_id: str) -> None:
        connection = PeerConnection(conn_id, self.packeter.time())
        self._connections[conn_id] = connection
        connection.identification_timer = self.packeter.call_later(
            IDENTIFICATION_TIMEOUT, self._give_up_identification, connection
        )
        self._arm_keepalive(connection)
        for frame in Session.greeting(self.identifier):
            self.packeter.send_packet(conn_id, frame)

    def _handle_disconnect(self, conn_id: str) -> None:
        connection = self._connections.pop(conn_id)
        connection.cancel_timers()
        rival = self._takeover.end(connection)
        connection.held.clear()
        try:
            if connection.ident is not None:
                self._depart(connection, connection.ident)
        finally:
            if rival is not None and rival.ident is None:
                self._arrive(rival)

    def _give_up_identification(self, connection: PeerConnection) -> None:
        connection.identification_timer = None
        self.log.info(
            "conn=%s did not identify itself within %.0f s, closing",
            connection.conn_id,
            IDENTIFICATION_TIMEOUT,
        )
        self.packeter.close(connection.conn_id)

    def _identified(self, connection: PeerConnection) -> None:
        if connection.identification_timer is not None:
            connection.identification_timer.cancel()
            connection.identification_timer = None
        ident = connection.session.ident
        other = self._by_ident.get(ident)
        if other is None:
            self._arrive(connection)
        else:
            self._takeover.challenge(other, connection)

    def _arrive(self, connection: PeerConnection) -> None:
        ident = connection.session.ident
        connection.ident = ident
        connection.arrived_at = self.packeter.time()
        self._by_ident[ident] = connection
        queue = connection.queue = self.queues_manager.get_queue(ident)
        queue.connect()
        self._expiry.disarm(ident)
        self.log.debug("conn=%s is %r", connection.conn_id, ident)
        if connection.held:
            self.packeter.call_soon(self._handle_held, connection)
        settle_time = self._takeover.settle_time(connection)
        if settle_time:
            connection.settle_timer = self.packeter.call_later(
                settle_time, self._settled, connection
            )
        try:
            self.on_connect(connection.conn_id, ident)
        finally:  # also when a callback raised KeyboardInterrupt
            self._pump(connection)

    def _settled(self, connection: PeerConnection) -> None:
        connection.settle_timer = None
        self._pump(connection)

    def _depart(self, connection: PeerConnection, ident: str) -> None:
        connection.ident = None
        del self._by_ident[ident]
        queue = connection.queue
        assert queue is not None
        connection.queue = None
        queue.disconnect()
        try:
            self.on_disconnect(connection.conn_id, ident)
        finally:  # also when a callback raised KeyboardInterrupt
            self._settle(queue)

    # Receiving.

    def _handle_packets(self, conn_id: str, buffer: bytes, bounds: list[int]) -> None:
        connection = self._connections.get(conn_id)
        if connection is None:
            return
        if connection.keepalive.received(self.packeter.last_recv(conn_id)):
            self._arm_keepalive(connection)
        if connection.held:
            if connection.is_waiting:
                bounds = self._answer_pings(connection, buffer, bounds)
            self._hold(connection, buffer, bounds)
        else:
            self._receive(connection, buffer, bounds)

    def _receive(self, connection: PeerConnection, buffer: bytes, bounds: list[int]) -> None:
        conn_id = connection.conn_id
        ident = connection.ident
        callback = self._recv_callback
        rest = iter(bounds)
        try:
            for start, end in zip(rest, rest, strict=True):
                if ident is not None and start < end and buffer[start] == _MESSAGE:
                    message = decode_message(buffer, start, end)
                    # What calling the callback does, without its cost, which
                    # is half of what it takes to receive a message.
                    funcs = iter(callback.funcs)
                    for func in funcs:
                        try:
                            func(conn_id, ident, message)
                        except Exception as exc:
                            callback.failed(func, (conn_id, ident, message), exc)
                        except (KeyboardInterrupt, SystemExit):
                            callback.call_rest(funcs, conn_id, ident, message)
                            raise
                    if connection.ident is None:
                        return  # closed by a callback
                    continue
                self._handle_frame(connection, buffer[start:end])
                if conn_id not in self._connections:
                    return
                ident = connection.ident
                if connection.is_waiting:
                    others = self._answer_pings(connection, buffer, list(rest))
                    self._hold_rest(connection, buffer, others)
                    return
        except SnakeMQException as exc:
            self._fail(connection, exc)
        except BaseException:
            # KeyboardInterrupt out of a callback: the loop may be called again.
            unhandled = list(rest)
            if unhandled:
                self._hold_rest(connection, buffer, unhandled)
                self.packeter.call_soon(self._handle_held, connection)
            raise

    def _handle_frame(self, connection: PeerConnection, frame: bytes) -> None:
        if not frame:
            raise SnakeMQBrokenMessage("an empty frame")
        event = connection.session.receive(frame[0], frame[1:])
        if event is Event.IDENTIFIED:
            self._identified(connection)
        elif event is Event.PING:
            self.packeter.send_packet(connection.conn_id, FRAME_PONG)
        elif event is Event.PONG:
            self._handle_pong(connection)
        elif event is Event.REJECTED:
            self.log.error(
                "conn=%s the other side does not speak this protocol version", connection.conn_id
            )

    def _fail(self, connection: PeerConnection, exc: SnakeMQException) -> None:
        conn_id = connection.conn_id
        self.log.error(
            "conn=%s ident=%r %s: %s", conn_id, connection.ident, type(exc).__name__, exc
        )
        if isinstance(exc, SnakeMQIncompatibleProtocol):
            self.packeter.send_packet(conn_id, FRAME_INCOMPATIBLE)
        self.on_error(conn_id, exc)
        if conn_id in self._connections:
            self.packeter.finish(conn_id)

    def _hold(self, connection: PeerConnection, buffer: bytes, bounds: list[int]) -> None:
        connection.held.append((buffer, bounds))
        connection.held_bytes += len(buffer)
        if connection.held_bytes > _HELD_LIMIT:
            self.packeter.pause_recv(connection.conn_id)

    @staticmethod
    def _hold_rest(connection: PeerConnection, buffer: bytes, bounds: list[int]) -> None:
        # It came before everything else that is held.
        connection.held.appendleft((buffer, bounds))
        connection.held_bytes += len(buffer)

    def _handle_held(self, connection: PeerConnection) -> None:
        while connection.held and connection.conn_id in self._connections:
            if connection.is_waiting:
                return
            buffer, bounds = connection.held.popleft()
            if not connection.held:
                connection.held_bytes = 0
                self.packeter.resume_recv(connection.conn_id)
            self._receive(connection, buffer, bounds)

    def _answer_pings(
        self, connection: PeerConnection, buffer: bytes, bounds: list[int]
    ) -> list[int]:
        """Answer the pings among the packets at once: the connection is alive.

        :return: the bounds of the other packets
        """
        others: list[int] = []
        ends = iter(bounds)
        for start, end in zip(ends, ends, strict=True):
            if start < end and buffer[start] == FrameType.PING:
                self.packeter.send_packet(connection.conn_id, FRAME_PONG)
            else:
                others += (start, end)
        return others

    def callback_failed(
        self, name: str, func: Callable[..., object], args: tuple[Any, ...], exc: Exception
    ) -> None:
        """See :meth:`snakemq.callbacks.CallbackOwner.callback_failed`."""
        # The one whose first argument is not a connection.
        super().callback_failed(name, func, () if name == "on_message_drop" else args, exc)

    # Sending.

    def _flush(self, queue: Queue) -> None:
        # Cleared first: who pushes from now on asks for another flush.
        queue.dirty = False
        connection = self._by_ident.get(queue.name)
        if connection is not None:
            self._pump(connection)
        else:
            self._settle(queue)

    def _pump(self, connection: PeerConnection) -> None:
        """Hand over to the packeter what is waiting and fits into the window."""
        queue = connection.queue
        if queue is None or not queue.waiting or connection.settle_timer is not None:
            return
        try:
            room = SEND_WINDOW_BYTES - self.packeter.unsent_bytes(connection.conn_id)
        except NoConnection:
            return  # this is its end
        count = SEND_WINDOW_MESSAGES - queue.in_flight
        if room <= 0 or count <= 0:
            return
        messages = queue.take(count, room)
        if messages:
            buffers: list[bytes] = []
            sizes: list[int] = []
            encode_message_packets(messages, buffers, sizes)
            last = self.packeter.send_encoded(connection.conn_id, buffers, sizes)
            connection.flights.append((last - len(sizes) + 1, last))

    def _handle_sent(self, conn_id: str, packet_id: int, count: int) -> None:
        connection = self._connections.get(conn_id)
        if connection is None:
            return
        flights = connection.flights
        sent = 0
        while flights and flights[0][0] <= packet_id:
            first, last = flights.popleft()
            if packet_id < last:
                flights.appendleft((packet_id + 1, last))
                last = packet_id
            sent += last - first + 1
        queue = connection.queue
        if not sent or queue is None:
            return
        messages = queue.sent(sent)
        ident = queue.name
        try:
            self.on_messages_sent(conn_id, ident, messages)
            if self.on_message_sent:
                for message in messages:
                    self.on_message_sent(conn_id, ident, message.uuid)
        finally:
            self._pump(connection)

    # Keepalive.

    def _ping(self, connection: PeerConnection, callback: Callable[[float], object] | None) -> None:
        if connection.conn_id in self._connections:
            connection.pings.append((self.packeter.time(), callback))
            self.packeter.send_packet(connection.conn_id, FRAME_PING)

    def _handle_pong(self, connection: PeerConnection) -> None:
        if not connection.pings:
            return  # not asked for
        sent, callback = connection.pings.popleft()
        if callback is not None:
            callback(self.packeter.time() - sent)

    def _arm_all_keepalives(self) -> None:
        for connection in self._connections.values():
            self._arm_keepalive(connection)

    def _arm_keepalive(self, connection: PeerConnection) -> None:
        if connection.keepalive_timer is not None:
            connection.keepalive_timer.cancel()
            connection.keepalive_timer = None
        interval = self._keepalive_interval
        if interval is not None:
            deadline = connection.keepalive.deadline(interval, self.keepalive_wait)
            connection.keepalive_timer = self.packeter.call_later(
                max(0.0, deadline - self.packeter.time()), self._check_keepalive, connection
            )

    def _check_keepalive(self, connection: PeerConnection) -> None:
        connection.keepalive_timer = None
        interval = self._keepalive_interval
        if interval is None:
            return
        now = self.packeter.time()
        keepalive = connection.keepalive
        # A part of a packet is a sign of life too: a large one takes its time.
        # While nothing is read nothing can be said.
        last_recv = self.packeter.last_recv(connection.conn_id)
        if self.packeter.is_paused(connection.conn_id):
            keepalive.received(now)
        elif last_recv > keepalive.last_recv:
            keepalive.received(last_recv)
        # And a ping that waits behind a large packet, which gets on, can't be
        # answered yet.
        sent = self.packeter.sent_bytes(connection.conn_id)
        if sent > connection.sent_at_check and self.packeter.unsent_bytes(connection.conn_id):
            keepalive.postpone(now)
        connection.sent_at_check = sent
        action = keepalive.handle_deadline(now, interval, self.keepalive_wait)
        if action is Action.DEAD:
            self.log.warning(
                "conn=%s ident=%r does not answer, closing", connection.conn_id, connection.ident
            )
            self.packeter.close(connection.conn_id)
            return
        if action is Action.PING:
            self._ping(connection, None)
        self._arm_keepalive(connection)

    # The rest.

    def _expire(self, queue: Queue) -> None:
        queue.expire()
        self._settle(queue)

    def _settle(self, queue: Queue) -> None:
        """The peer is not connected: forget its queue, or look at it again in time."""
        if not queue.connected and not queue.forget():
            self._expiry.arm(queue)

    def _handle_drop(self, queue_name: str, item_uuid: bytes) -> None:
        self.log.debug("ident=%r drop %s", queue_name, item_uuid.hex())
        self.on_message_drop(queue_name, item_uuid)

    def __repr__(self) -> str:
        return f"<Messaging {self.identifier!r} peers={len(self._by_ident)}>"
