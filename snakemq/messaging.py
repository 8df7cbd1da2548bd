"""Messaging: peers that know each other by name, and messages between them."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable
from typing import Final

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
from snakemq._core.keepalive import Action, Keepalive
from snakemq._core.session import Event, Session
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

#: How long a connected peer has to prove that it is alive when a second
#: connection comes with its identifier, in seconds.
TAKEOVER_WAIT: Final = 2.0

#: What a connection may send while it waits for that, in bytes.
_HELD_LIMIT: Final = 256 * 1024

_MESSAGE: Final = int(FrameType.MESSAGE)


class _Connection:
    """One connection and what is known of its other side."""

    __slots__ = (
        "conn_id",
        "flights",
        "held",
        "held_bytes",
        "ident",
        "keepalive",
        "keepalive_timer",
        "pings",
        "queue",
        "rival",
        "rival_timer",
        "session",
    )

    def __init__(self, conn_id: str, now: float) -> None:
        self.conn_id = conn_id
        self.session = Session()
        #: the other side's identifier, from the moment on that it is connected
        self.ident: str | None = None
        self.queue: Queue | None = None
        self.keepalive = Keepalive(now)
        self.keepalive_timer: TimerHandle | None = None
        # The pings that wait for their pongs: when sent, whom to tell.
        self.pings: deque[tuple[float, Callable[[float], object] | None]] = deque()
        # Messages with the packeter: first and last packet id of each batch.
        self.flights: deque[tuple[int, int]] = deque()
        # Packets received that can't be handled yet.
        self.held: deque[tuple[bytes, list[int]]] = deque()
        self.held_bytes = 0
        # The connected one has, and the waiting one is, a rival.
        self.rival: _Connection | None = None
        self.rival_timer: TimerHandle | None = None


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
        #: see :data:`TAKEOVER_WAIT`
        self.takeover_wait = TAKEOVER_WAIT
        self._keepalive_interval: float | None = None
        self._connections: dict[str, _Connection] = {}
        self._by_ident: dict[str, _Connection] = {}
        self._expiry_timers: dict[str, tuple[float, TimerHandle]] = {}
        self._recv_slot = self.on_message_recv

        packeter.on_connect.wire(self._handle_connect)
        packeter.on_disconnect.wire(self._handle_disconnect)
        packeter.on_packets_recv.wire(self._handle_packets)
        packeter.on_packets_sent.wire(self._handle_sent)
        self.queues_manager.on_item_drop.wire(self._handle_drop)
        for queue in self.queues_manager.queues.values():
            self._arm_expiry(queue)

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
        queue = self.queues_manager.queues.get(ident)
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
        for _, timer in self._expiry_timers.values():
            timer.cancel()
        self._expiry_timers.clear()
        self.queues_manager.close()

    # Connections come and go.

    def _handle_connect(self, conn_id: str) -> None:
        connection = _Connection(conn_id, self.packeter.time())
        self._connections[conn_id] = connection
        self._arm_keepalive(connection)
        for frame in Session.greeting(self.identifier):
            self.packeter.send_packet(conn_id, frame)

    def _handle_disconnect(self, conn_id: str) -> None:
        connection = self._connections.pop(conn_id)
        if connection.keepalive_timer is not None:
            connection.keepalive_timer.cancel()
        rival = self._end_rivalry(connection)
        connection.held.clear()
        try:
            if connection.ident is not None:
                self._depart(connection, connection.ident)
        finally:
            if rival is not None and rival.ident is None:
                self._arrive(rival)

    def _identified(self, connection: _Connection) -> None:
        ident = connection.session.ident
        other = self._by_ident.get(ident)
        if other is None:
            self._arrive(connection)
        elif other.rival is not None:
            self._refuse(connection, "two connections have its identifier already")
        else:
            self._challenge(other, connection)

    def _arrive(self, connection: _Connection) -> None:
        ident = connection.session.ident
        connection.ident = ident
        self._by_ident[ident] = connection
        queue = connection.queue = self.queues_manager.get_queue(ident)
        queue.connect()
        self._disarm_expiry(ident)
        self.log.debug("conn=%s is %r", connection.conn_id, ident)
        if connection.held:
            self.packeter.call_soon(self._handle_held, connection)
        try:
            self.on_connect(connection.conn_id, ident)
        finally:  # also when a callback raised KeyboardInterrupt
            self._pump(connection)

    def _depart(self, connection: _Connection, ident: str) -> None:
        connection.ident = None
        del self._by_ident[ident]
        queue = connection.queue
        assert queue is not None
        connection.queue = None
        queue.disconnect()
        try:
            self.on_disconnect(connection.conn_id, ident)
        finally:  # also when a callback raised KeyboardInterrupt
            if not queue.forget():
                self._arm_expiry(queue)

    # Two connections with the same identifier.

    def _challenge(self, old: _Connection, new: _Connection) -> None:
        """A connected peer comes again: is the old connection still alive?

        1.6 refused the new one, so a peer that had rebooted was locked out
        until the system gave the old connection up.

        If each side dialled one of the two, both must come to the same
        verdict without asking, or each would close the connection that the
        other keeps: the one dialled by the peer with the smaller identifier
        stays. If one side dialled both, the other side decides, and this one
        waits longer than that takes.
        """
        ident = new.session.ident
        dialled_old = self.packeter.is_connector(old.conn_id)
        dialled_new = self.packeter.is_connector(new.conn_id)
        if dialled_old != dialled_new and dialled_new == (self.identifier < ident):
            self.log.info("conn=%s takes the place of %s", new.conn_id, old.conn_id)
            self.packeter.close(old.conn_id)
            # Unless a callback closed it, the new one has no rival now.
            if new.conn_id in self._connections:
                self._identified(new)
            return
        old.rival, new.rival = new, old
        wait = self.takeover_wait * (2 if dialled_new else 1)
        now = self.packeter.time()
        new.rival_timer = self.packeter.call_later(wait, self._judge, old, new, now)
        self._ping(old, lambda _: self._answered(old, new))

    def _answered(self, old: _Connection, new: _Connection) -> None:
        if old.rival is new and not self.packeter.is_connector(new.conn_id):
            self._refuse(new, f"{new.session.ident!r} is connected already")

    def _judge(self, old: _Connection, new: _Connection, challenged: float) -> None:
        new.rival_timer = None
        if old.keepalive.last_recv > challenged:
            self._refuse(new, f"{new.session.ident!r} is connected already")
        else:
            self.log.warning(
                "conn=%s does not answer, %s takes its place", old.conn_id, new.conn_id
            )
            self.packeter.close(old.conn_id)

    def _end_rivalry(self, connection: _Connection) -> _Connection | None:
        rival = connection.rival
        if rival is None:
            return None
        connection.rival = rival.rival = None
        for one in (connection, rival):
            if one.rival_timer is not None:
                one.rival_timer.cancel()
                one.rival_timer = None
        return rival

    def _refuse(self, connection: _Connection, reason: str) -> None:
        self.log.info("conn=%s refused: %s", connection.conn_id, reason)
        self.packeter.close(connection.conn_id)

    # Receiving.

    def _handle_packets(self, conn_id: str, buffer: bytes, bounds: list[int]) -> None:
        connection = self._connections.get(conn_id)
        if connection is None:
            return
        if connection.keepalive.received(self.packeter.time()):
            self._arm_keepalive(connection)
        if connection.held:
            self._hold(connection, buffer, bounds)
            if connection.rival is not None:
                self._answer_pings(connection, buffer, bounds)
        else:
            self._receive(connection, buffer, bounds)

    def _receive(self, connection: _Connection, buffer: bytes, bounds: list[int]) -> None:
        conn_id = connection.conn_id
        ident = connection.ident
        deliver = self._recv_slot
        position = 0
        try:
            for position in range(0, len(bounds), 2):
                start = bounds[position]
                end = bounds[position + 1]
                if ident is not None and start < end and buffer[start] == _MESSAGE:
                    deliver(conn_id, ident, decode_message(buffer, start, end))
                    if connection.ident is None:
                        return  # closed by a callback
                    continue
                self._handle_frame(connection, buffer[start:end])
                if conn_id not in self._connections:
                    return
                ident = connection.ident
                if connection.rival is not None and ident is None:
                    self._hold_rest(connection, buffer, bounds[position + 2 :])
                    return
        except SnakeMQException as exc:
            self._fail(connection, exc)
        except BaseException:
            # KeyboardInterrupt out of a callback: the loop may be called again.
            if bounds[position + 2 :]:
                self._hold_rest(connection, buffer, bounds[position + 2 :])
                self.packeter.call_soon(self._handle_held, connection)
            raise

    def _handle_frame(self, connection: _Connection, frame: bytes) -> None:
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

    def _fail(self, connection: _Connection, exc: SnakeMQException) -> None:
        conn_id = connection.conn_id
        self.log.error(
            "conn=%s ident=%r %s: %s", conn_id, connection.ident, type(exc).__name__, exc
        )
        if isinstance(exc, SnakeMQIncompatibleProtocol):
            self.packeter.send_packet(conn_id, FRAME_INCOMPATIBLE)
        self.on_error(conn_id, exc)
        if conn_id in self._connections:
            self.packeter.finish(conn_id)

    def _hold(self, connection: _Connection, buffer: bytes, bounds: list[int]) -> None:
        connection.held.append((buffer, bounds))
        connection.held_bytes += len(buffer)
        if connection.held_bytes > _HELD_LIMIT:
            self.packeter.pause_recv(connection.conn_id)

    @staticmethod
    def _hold_rest(connection: _Connection, buffer: bytes, bounds: list[int]) -> None:
        # It came before everything else that is held.
        connection.held.appendleft((buffer, bounds))
        connection.held_bytes += len(buffer)

    def _handle_held(self, connection: _Connection) -> None:
        while connection.held and connection.conn_id in self._connections:
            if connection.rival is not None and connection.ident is None:
                return
            buffer, bounds = connection.held.popleft()
            if not connection.held:
                connection.held_bytes = 0
                self.packeter.resume_recv(connection.conn_id)
            self._receive(connection, buffer, bounds)

    def _answer_pings(self, connection: _Connection, buffer: bytes, bounds: list[int]) -> None:
        for position in range(0, len(bounds), 2):
            start = bounds[position]
            if start < bounds[position + 1] and buffer[start] == FrameType.PING:
                self.packeter.send_packet(connection.conn_id, FRAME_PONG)

    # Sending.

    def _flush(self, queue: Queue) -> None:
        # Cleared first: who pushes from now on asks for another flush.
        queue.dirty = False
        connection = self._by_ident.get(queue.name)
        if connection is not None:
            self._pump(connection)
        elif not queue.forget():
            self._arm_expiry(queue)

    def _pump(self, connection: _Connection) -> None:
        """Hand over to the packeter what is waiting and fits into the window."""
        queue = connection.queue
        if queue is None or not queue.waiting:
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
        uuids = queue.sent(sent)
        try:
            if self.on_message_sent:
                ident = queue.name
                for uuid in uuids:
                    self.on_message_sent(conn_id, ident, uuid)
        finally:
            self._pump(connection)

    # Keepalive.

    def _ping(self, connection: _Connection, callback: Callable[[float], object] | None) -> None:
        if connection.conn_id in self._connections:
            connection.pings.append((self.packeter.time(), callback))
            self.packeter.send_packet(connection.conn_id, FRAME_PING)

    def _handle_pong(self, connection: _Connection) -> None:
        if not connection.pings:
            return  # not asked for
        sent, callback = connection.pings.popleft()
        if callback is not None:
            callback(self.packeter.time() - sent)

    def _arm_all_keepalives(self) -> None:
        for connection in self._connections.values():
            self._arm_keepalive(connection)

    def _arm_keepalive(self, connection: _Connection) -> None:
        if connection.keepalive_timer is not None:
            connection.keepalive_timer.cancel()
            connection.keepalive_timer = None
        interval = self._keepalive_interval
        if interval is not None:
            deadline = connection.keepalive.deadline(interval, self.keepalive_wait)
            connection.keepalive_timer = self.packeter.call_later(
                max(0.0, deadline - self.packeter.time()), self._check_keepalive, connection
            )

    def _check_keepalive(self, connection: _Connection) -> None:
        connection.keepalive_timer = None
        interval = self._keepalive_interval
        if interval is None:
            return
        action = connection.keepalive.handle_deadline(
            self.packeter.time(), interval, self.keepalive_wait
        )
        if action is Action.DEAD:
            self.log.warning(
                "conn=%s ident=%r does not answer, closing", connection.conn_id, connection.ident
            )
            self.packeter.close(connection.conn_id)
            return
        if action is Action.PING:
            self._ping(connection, None)
        self._arm_keepalive(connection)

    # TTL.

    def _arm_expiry(self, queue: Queue) -> None:
        """Have the queue of an absent peer looked at when its next message expires."""
        when = queue.next_expiry()
        armed = self._expiry_timers.get(queue.name)
        if armed is not None:
            if armed[0] == when:
                return
            self._disarm_expiry(queue.name)
        if when is not None:
            delay = max(0.0, when - self.packeter.time())
            timer = self.packeter.call_later(delay, self._expire, queue)
            self._expiry_timers[queue.name] = (when, timer)

    def _disarm_expiry(self, ident: str) -> None:
        armed = self._expiry_timers.pop(ident, None)
        if armed is not None:
            armed[1].cancel()

    def _expire(self, queue: Queue) -> None:
        self._expiry_timers.pop(queue.name, None)
        queue.expire()
        if not queue.connected and not queue.forget():
            self._arm_expiry(queue)

    def _handle_drop(self, queue_name: str, item_uuid: bytes) -> None:
        self.log.debug("ident=%r drop %s", queue_name, item_uuid.hex())
        self.on_message_drop(queue_name, item_uuid)

    def __repr__(self) -> str:
        return f"<Messaging {self.identifier!r} peers={len(self._by_ident)}>"


class ReceiveHook:
    """Sorts received messages by regular expressions.

    It joins the callbacks of ``messaging.on_message_recv``; others stay. (1.6
    replaced them.)

    :param messaging: :class:`Messaging`
    """

    def __init__(self, messaging: Messaging) -> None:
        self.messaging = messaging
        self._hooks: dict[
            bytes, tuple[re.Pattern[bytes], Callable[[str, str, Message], object]]
        ] = {}
        messaging.on_message_recv.wire(self._handle_message)

    def register(self, regexp: bytes, callback: Callable[[str, str, Message], object]) -> None:
        """Have messages whose data begins with what ``regexp`` matches passed on.

        Every match is called, in the order of registration. Registering an
        expression again replaces its callback.

        :param regexp: as for :func:`re.match`
        :param callback: ``func(conn_id, ident, message)``, from the loop's thread
        """
        hooks = dict(self._hooks)
        hooks[regexp] = (re.compile(regexp), callback)
        self._hooks = hooks

    def unregister(self, regexp: bytes) -> None:
        """Undo :meth:`register`.

        :raises KeyError: not registered
        """
        hooks = dict(self._hooks)
        del hooks[regexp]
        self._hooks = hooks

    def clear(self) -> None:
        """Unregister all."""
        self._hooks = {}

    def _handle_message(self, conn_id: str, ident: str, message: Message) -> None:
        for regexp, callback in self._hooks.values():
            if regexp.match(message.data):
                try:
                    callback(conn_id, ident, message)
                except Exception as exc:
                    self.messaging.callback_failed("ReceiveHook", callback, (conn_id,), exc)
