"""Messaging: peers that know each other by name, and messages between them."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from snakemq._attendant import Attendant
from snakemq._core.features import Feature
from snakemq._core.frames import FRAME_PING, MAX_IDENT_LENGTH, MESSAGE_OVERHEAD, FrameType
from snakemq._core.framing import encode_packet
from snakemq._core.packed import MAX_PACKED
from snakemq._core.session import Event, Session, SessionState
from snakemq._drops import call_drop_callbacks, tell_each
from snakemq._failures import StorageFailures
from snakemq._gatekeeper import Gatekeeper
from snakemq._holding import Holding
from snakemq._inbox import Inbox
from snakemq._incoming import WINDOW, Incoming
from snakemq._keepalive_timers import KeepaliveTimers
from snakemq._outgoing import Outgoing
from snakemq._peer_connection import Hold, PeerConnection
from snakemq._peer_log import PeerLog
from snakemq._pongs import Pongs
from snakemq._receive_hook import ReceiveHook
from snakemq._receiving import Receiving
from snakemq._refusals import REFUSAL_COUNTERS, Refusals
from snakemq._shortcut import Shortcut
from snakemq._strangers import Strangers
from snakemq._takeover import Takeover
from snakemq._transaction import Transaction, begin
from snakemq._upkeep import Upkeep
from snakemq.authentication import Authentication
from snakemq.callbacks import CallbackOwner, CallbackSlot
from snakemq.counters import Counters
from snakemq.exceptions import NoConnection, PacketTooLarge, SnakeMQBrokenMessage, StorageError
from snakemq.limits import ConnectionLimits, DropReason, QueueLimits
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.packeter import Packeter
from snakemq.queues import Ledger, Queue, QueuesManager
from snakemq.storage import QueuesStorageBase

if TYPE_CHECKING:
    import sqlite3

__all__ = ["MAX_IDENT_LENGTH", "Messaging", "ReceiveHook", "Transaction"]

_MESSAGE: Final = int(FrameType.MESSAGE)

#: What this stack can do beyond 1.6.
_FEATURES: Final = {Feature.DELIVERY: WINDOW.encode(), Feature.CALLS: b""}


class Messaging(CallbackOwner):
    """Sends messages to peers by name and receives theirs.

    All callbacks come from the loop's thread. :meth:`send_message`,
    :meth:`ping` and the methods that ask something may be called from any.

    :param identifier: this peer's name; cut to 50 characters
    :param domain: not used (1.6 reserved it for routing)
    :param packeter: the layer below
    :param queues_storage: where persistent messages are kept, and what has to be
        remembered of those that were received
    :param authentication: how other peers have to show that they are who they say: one
        way or several of :mod:`snakemq.authentication`, all of which have to be
        satisfied before anything is accepted from a connection, and any message
        sent on it. Not given, an identifier is a claim that is believed, as in 1.6.
    :param limits: what connections may take until it is known who is there;
        ``None``: as the link says
    :param durable_receive: store each message before it is acknowledged, and
        remove it when its callbacks have returned. One whose callback raises
        comes again, and is a dead letter after some attempts; see :attr:`inbox`.
        This is not for messages with TTL 0, which are never repeated.
    :raises TypeError: ``identifier`` is no string; ``authentication`` is no way to show
        who one is
    :raises ValueError: ``authentication`` has two shared secrets, or is an empty list
    :raises StorageError: ``durable_receive`` without a storage that can do that;
        what is stored can't be read
    """

    #: ``func(conn_id, exception)``; a callback raised, or the other side made a mistake and is
    #: disconnected, or the storage failed where nobody waits for it. ``conn_id`` may be ``None``.
    on_error = CallbackSlot[[str | None, Exception]]()
    #: ``func(conn_id, ident, message)``
    on_message_recv = CallbackSlot[[str, str, Message]]()
    #: ``func(conn_id, ident, message_uuid)``; the message was handed to the system
    on_message_sent = CallbackSlot[[str, str, bytes]]()
    #: ``func(conn_id, ident, messages)``; likewise, for layers: one call for
    #: all that were handed over together
    on_messages_sent = CallbackSlot[[str, str, Sequence[Message]]]()
    #: ``func(conn_id, ident, messages)``; they were handed to the system for a peer that does not
    #: acknowledge them, and nothing more will be heard. After ``on_messages_sent``, for layers.
    on_messages_left = CallbackSlot[[str, str, Sequence[Message]]]()
    #: ``func(conn_id, ident, message_uuid)``; it is known to have arrived: the other side
    #: acknowledged it, or, for a persistent message to a 1.6 peer, answered a ping that was
    #: sent after it. Never for other messages to a 1.6 peer.
    on_message_acked = CallbackSlot[[str, str, bytes]]()
    #: ``func(conn_id, ident, messages)``; likewise, for layers
    on_messages_acked = CallbackSlot[[str, str, Sequence[Message]]]()
    #: ``func(ident, message_uuid)``, or ``func(ident, message_uuid, reason)`` for
    #: those that have a third parameter, a :class:`~snakemq.limits.DropReason`;
    #: its TTL ran out, or its queue was full
    on_message_drop = CallbackSlot[[str, bytes]]()
    #: ``func(ident, messages, reason)``; likewise, for layers
    on_messages_dropped = CallbackSlot[[str, list[Message], DropReason]]()
    #: ``func(conn_id, ident)``
    on_connect = CallbackSlot[[str, str]]()
    #: ``func(conn_id, ident)``; after ``on_connect``: it is known what the other
    #: side can do, see :meth:`peer_features`
    on_ready = CallbackSlot[[str, str]]()
    #: ``func(conn_id, ident)``
    on_disconnect = CallbackSlot[[str, str]]()

    def __init__(
        self,
        identifier: str,
        domain: str,
        packeter: Packeter,
        queues_storage: QueuesStorageBase | None = None,
        *,
        durable_receive: bool = False,
        authentication: Authentication | Sequence[Authentication] | None = None,
        limits: ConnectionLimits | None = None,
    ) -> None:
        if not isinstance(identifier, str):
            raise TypeError(f"identifier must be a str, not {type(identifier).__name__}")
        self.log = logging.getLogger("snakemq.messaging")
        self.identifier = identifier[:MAX_IDENT_LENGTH]
        self.domain = domain
        self.packeter = packeter
        #: see :meth:`snakemq.contracts.LinkInterface.time`, as for the next ones
        self.time = packeter.time
        self.is_inside_loop = packeter.is_inside_loop
        self.call_later = packeter.call_later
        self.call_soon = packeter.call_soon
        self.queues_manager = QueuesManager(queues_storage, clock=packeter.time)
        self.queues_manager.may_wait = lambda: not packeter.is_inside_loop()
        # Of the receiving side, and of the queues, which have a logger of their own.
        self._failures, self.queues_manager.failures = (
            StorageFailures(log, lambda exc: packeter.call_soon(self.on_error, None, exc))
            for log in (self.log, self.queues_manager.log)
        )
        self._upkeep = Upkeep(packeter, self.queues_manager)
        self._connections: dict[str, PeerConnection] = {}
        self._by_ident: dict[str, PeerConnection] = {}
        self.counters = Counters(
            *REFUSAL_COUNTERS, "connections_held", "dead_letters", "window_full"
        )
        self._peer_log = peer_log = PeerLog(self.log, packeter.time)
        self._refusals = Refusals(packeter, self.on_error, peer_log, self.counters)
        self._gatekeeper = Gatekeeper(packeter, self.identifier, authentication, peer_log)
        self._strangers = Strangers(packeter, limits or packeter.limits, self._refusals)
        self._takeover = Takeover(packeter, self.identifier, self._ping, self._refusals)
        self._keepalive = KeepaliveTimers(packeter, self._ping, peer_log)
        self._outgoing = Outgoing(
            packeter,
            self._ping,
            self.on_messages_sent,
            self.on_messages_left,
            self.on_messages_acked,
            self.counters,
        )
        self._inbox = self._make_inbox(queues_storage) if durable_receive else None
        memory = queues_storage if queues_storage and queues_storage.keeps_received else None
        fail, on_message = self._takeover.fail, self.on_message_recv.call
        self._pongs = pongs = Pongs(packeter)
        self._holding = Holding(
            packeter, pongs, self._handle_frame, self._receive, on_message, fail, self.counters
        )
        self._incoming = Incoming(packeter, memory, self._inbox, self._holding.set, self._failures)
        self._receiving = Receiving(
            self._incoming,
            self._inbox is not None,
            self.on_message_recv,
            self._handle_frame,
            self._gatekeeper.admitted,
            self._holding.put_aside,
            self._refusals.fail,
        )
        self.services = self._receiving.services  # for receive hooks
        self._attendant = Attendant(packeter, self.queues_manager, self._pump, self._pump_here)
        self._queues = self.queues_manager.queues
        #: for remote calls
        self.shortcut = Shortcut(
            packeter, self._by_ident, self._outgoing, self._incoming, self.services
        )
        if durable_receive:
            self.shortcut.forbid()
        self.shortcut.unless_used(self.on_message_recv, self.on_messages_sent, self.on_message_sent)
        self.on_messages_sent.wire(functools.partial(tell_each, self.on_message_sent))
        self.on_messages_acked.wire(functools.partial(tell_each, self.on_message_acked))
        packeter.on_connect.wire(self._handle_connect)
        packeter.on_disconnect.wire(self._handle_disconnect)
        packeter.large_head_size = MESSAGE_OVERHEAD
        packeter.on_packets_recv.wire(self._handle_packets)
        packeter.on_large_packet_recv.wire(self._handle_large_packet)
        packeter.on_packets_sent.wire(self._handle_sent)
        self.queues_manager.on_items_dropped.wire(self._handle_drops)

    def _make_inbox(self, storage: QueuesStorageBase | None) -> Inbox:
        return Inbox(
            self.packeter,
            storage,
            self.on_message_recv.call,
            self._inbox_has_room,
            lambda remove: begin(self.queues_manager, None, self._check, remove),
            self._peer_log,
            self._failures,
            self.counters,
        )

    @property
    def takeover_wait(self) -> float:
        """How long a connected peer has to answer when its identifier comes again, in seconds."""
        return self._takeover.wait

    @takeover_wait.setter
    def takeover_wait(self, seconds: float) -> None:
        self._takeover.wait = seconds

    # What can be called from any thread.

    def send_message(
        self,
        ident: str,
        message: Message,
        *,
        urgent: bool = False,
        prompt: bool = False,
        hold: bool = False,
    ) -> bool:
        """Queue a message for a peer. Thread-safe.

        Returns at once, unless :attr:`queue_limits` say that it waits for room.
        A persistent message is in the storage when this returns.

        :param ident: identifier of the receiver
        :param prompt: somebody waits for it: if the loop sleeps it is handed to the system
            by this thread, as what is stored. That it was sent is told with the loop's next pass.
        :param hold: it may stay in the queue until :meth:`release`; for those who hold a lock
        :param urgent: before all that wait for this peer and were not sent yet;
            only a message with TTL 0 can be (a reply that somebody waits for)
        :return: whether it is queued: a message with TTL 0 is not if the peer
            is not connected
        :raises TypeError: not an identifier, or not a message
        :raises ValueError: an urgent message with another TTL
        :raises PacketTooLarge: the message can't be sent in one packet
        :raises QueueFull: there is no room for it
        :raises snakemq.exceptions.StorageError: it could not be stored and is
            not queued
        """
        if (
            type(ident) is not str
            or type(message) is not Message
            or len(message.data) + MESSAGE_OVERHEAD > self.packeter.max_packet_size
        ):
            self._check(ident, message)  # it may be of a subclass
        queue = self._queues.get(ident)
        if queue is None:
            if message.ttl == 0:
                return False  # nobody connected: not worth a queue
            queue = self.queues_manager.get_queue(ident)
        if urgent and message.ttl != 0:
            raise ValueError("only a message with TTL 0 can be urgent")
        queued = queue.push_urgent(message) if urgent else queue.push(message)
        if not queue.dirty and not hold:
            # Who has waited for the disk sends it, too: the loop would be in its way.
            if message.flags & FLAG_PERSISTENT and self.queues_manager.stores:
                prompt |= not self.shortcut.is_heard
            self._attendant.attend(queue, prompt=prompt)
        return queued

    def release(self, ident: str) -> None:
        """Send what waits for a peer, as with ``prompt``. Thread-safe."""
        queue = self._queues.get(ident)
        if queue is not None and not queue.dirty:
            self._attendant.attend(queue, prompt=True)

    def send_data(self, ident: str, data: object) -> bytes | None:
        """Queue a new message without TTL and flags in the quickest way there is. Thread-safe.

        For facades: half of what :meth:`send_message` takes, its message included.

        :return: its identifier; ``None``: nothing is queued, it takes :meth:`send_message`
        """
        if type(data) is not bytes or type(ident) is not str:
            return None
        size = len(data)
        if (
            size > MAX_PACKED
            or ident == self.identifier
            or size + MESSAGE_OVERHEAD > self.packeter.max_packet_size
        ):
            return None
        queue = self._queues.get(ident)
        if queue is None:
            if not 1 <= len(ident) <= MAX_IDENT_LENGTH:
                return None
            queue = self.queues_manager.get_queue(ident)
        uuid = queue.push_data(data)
        # A loop that can't send is not woken to find that out.
        if not (queue.dirty or queue.blocked) and uuid is not None:
            self._attendant.look_soon((queue,))
        return uuid

    def _check(self, ident: str, message: Message) -> None:
        if not isinstance(ident, str):
            raise TypeError(f"ident must be a str, not {type(ident).__name__}")
        if not isinstance(message, Message):
            raise TypeError(f"message must be a Message, not {type(message).__name__}")
        size = len(message.data) + MESSAGE_OVERHEAD
        if size > self.packeter.max_packet_size:
            raise PacketTooLarge(size, self.packeter.max_packet_size)

    def send_messages(self, entries: Iterable[tuple[str, Message]]) -> list[bool]:
        """Queue messages, all of them or none, with one commit in the storage. Thread-safe.

        :param entries: pairs of identifier and message
        :return: for each, whether it is queued; see :meth:`send_message`
        :raises Exception: as :meth:`send_message`; nothing is queued then
        """
        entries = list(entries)
        for ident, message in entries:
            self._check(ident, message)
        reserved = self.queues_manager.push_many(entries)
        self._attendant.look_soon(dict.fromkeys(queue for queue, _ in reserved))
        # In the same order, and some may be left out.
        queued = []
        rest = iter([(queue.name, message) for queue, message in reserved])
        following = next(rest, None)
        for entry in entries:
            queued.append(entry == following)
            if queued[-1]:
                following = next(rest, None)
        return queued

    def transaction(
        self, connection: sqlite3.Connection | None = None
    ) -> AbstractContextManager[Transaction]:
        """Send messages if, and only if, a transaction of a database commits.

        ::

            with messaging.transaction(connection) as transaction:
                connection.execute("UPDATE ...")
                transaction.send_message("bob", Message(b"...", None, FLAG_PERSISTENT))

        It is committed at the end of the block, and rolled back if an
        exception leaves it. The messages are sent after that.

        :param connection: the application's own connection to the file of the
            storage; ``None``: the storage's, see :attr:`Transaction.db`. All
            other threads that want to store something wait until the end.
        :raises StorageError: there is no storage that can do this
        """
        return begin(self.queues_manager, connection, self._check)

    def open_ledger(self, name: str) -> Ledger:
        """Keep small records in the storage, beside the messages; for layers.

        :raises StorageError: there is no storage
        """
        return self.queues_manager.open_ledger(name)

    def pause(self, conn_id: str) -> None:
        """No messages from this connection until :meth:`resume`. Loop thread only.

        What arrives is held and not acknowledged, so its sender keeps the rest.

        :raises KeyError: no such connection
        """
        self._holding.set(self._connections[conn_id], Hold.PAUSED, True)

    def resume(self, conn_id: str) -> None:
        """Undo :meth:`pause`. Harmless if it is not paused. Loop thread only.

        :raises KeyError: no such connection
        """
        self._holding.set(self._connections[conn_id], Hold.PAUSED, False)

    def ping(self, ident: str, callback: Callable[[float], object]) -> None:
        """Measure the round trip to a connected peer. Thread-safe.

        :param callback: ``func(seconds)``, from the loop's thread when the
            pong comes. The other side answers after its receive callbacks for
            what was sent before have returned, unless it has put these off. If
            the connection breaks before, it is never called.
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

    def peer_features(self, ident: str) -> frozenset[Feature] | None:
        """What a peer can do beyond snakeMQ 1.6. Thread-safe.

        :return: of what is known here; ``None``: the peer is not connected, or
            has not said it yet, see :attr:`on_ready`
        """
        connection = self._by_ident.get(ident)
        return connection.session.features if connection and connection.is_ready else None

    def get_certificate(self, conn_id: str) -> dict[str, Any] | None:
        """See :meth:`snakemq.contracts.LinkInterface.get_certificate`. Thread-safe."""
        return self.packeter.get_certificate(conn_id)

    def queued_messages(self, ident: str | None = None) -> int:
        """How many messages are not yet known to have left for good. Thread-safe.

        That is when they are acknowledged; toward a 1.6 peer see
        :attr:`on_message_acked`.

        :param ident: the receiver; ``None`` for all together
        """
        if ident is not None:
            queue = self._queues.get(ident)
            return 0 if queue is None else len(queue)
        return sum(len(queue) for queue in list(self._queues.values()))

    def transient_messages(self) -> int:
        """How many queued messages end with this process. Thread-safe."""
        return sum(len(queue) - queue.stored.messages for queue in list(self._queues.values()))

    def acknowledge(self, conn_id: str | None = None) -> None:
        """Send the acknowledgements that wait, now. Loop thread only.

        :param conn_id: on this connection, if it is still there; ``None``: on
            all, and with the pongs that wait, for before the end
        """
        if conn_id is None:
            for connection in list(self._by_ident.values()):
                self._incoming.acknowledge_at_last(connection)
                self._pongs.pay(connection)
        elif conn_id in self._connections:
            self._incoming.acknowledge_now(self._connections[conn_id])

    def is_in_transaction(self) -> bool:
        """Whether this thread is inside a transaction, for whose end the loop may be waiting."""
        return threading.get_ident() in self.queues_manager.in_transaction

    @property
    def queue_limits(self) -> QueueLimits:
        """How much may be queued. May be set at any time."""
        return self.queues_manager.limits

    @queue_limits.setter
    def queue_limits(self, limits: QueueLimits) -> None:
        if not isinstance(limits, QueueLimits):
            raise TypeError(f"queue_limits takes a QueueLimits, not {type(limits).__name__}")
        self.queues_manager.limits = limits

    @property
    def overflowed(self) -> int:
        """How many messages were dropped to make room for newer ones."""
        return self.queues_manager.overflowed

    @property
    def inbox(self) -> Inbox:
        """Where messages wait for their callbacks, with ``durable_receive``.

        :raises StorageError: it is off
        """
        if self._inbox is None:
            raise StorageError("there is no inbox: durable_receive is off")
        return self._inbox

    @property
    def keepalive_wait(self) -> float:
        """How long a pong may take, in seconds."""
        return self._keepalive.wait

    @keepalive_wait.setter
    def keepalive_wait(self, seconds: float) -> None:
        self._keepalive.wait = seconds

    @property
    def keepalive_interval(self) -> float | None:
        """After so many seconds of silence ping; ``None`` (the default): never.

        May be set at any time.
        """
        return self._keepalive.interval

    @keepalive_interval.setter
    def keepalive_interval(self, interval: float | None) -> None:
        self._keepalive.set_interval(interval, self._connections.values())

    def close(self) -> None:
        """Close the storage. For when the loop has ended.

        What was stored stays stored, what was not is gone.
        """
        self._attendant.close()
        self._upkeep.cancel()
        self.queues_manager.close()

    # Connections come and go.

    def _handle_connect(self, conn_id: str) -> None:
        connection = PeerConnection(
            conn_id, self.packeter.time(), wants_proof=self._gatekeeper.wants_proof
        )
        self._connections[conn_id] = connection
        self._strangers.meet(connection)
        self._keepalive.arm(connection)
        features = _FEATURES | self._gatekeeper.features(connection)
        # In one piece: what is behind the identification is known with it.
        packets = [encode_packet(frame) for frame in Session.greeting(self.identifier, features)]
        self.packeter.send_encoded(conn_id, packets, [len(packet) for packet in packets])

    def _handle_disconnect(self, conn_id: str) -> None:
        connection = self._connections.pop(conn_id)
        connection.cancel_timers()
        self._strangers.leave(connection)
        rival = self._takeover.end(connection)
        connection.is_gone = connection.interrupted = True
        connection.held = None
        try:
            if connection.ident is not None:
                self._depart(connection, connection.ident)
        finally:
            if rival is not None and rival.ident is None:
                if self._takeover.may_follow(rival, connection):
                    self._arrive(rival)
                else:
                    self.packeter.close(rival.conn_id)

    def _claims(self, connection: PeerConnection) -> None:
        """It says who it is."""
        self._gatekeeper.check_claim(connection)
        if not self._gatekeeper.wants_proof:
            self._identified(connection)
        else:  # one of 1.6 says nothing by itself
            self.packeter.call_soon(self._ask_for_features, connection)

    def _identified(self, connection: PeerConnection) -> None:
        """It is known who it is, as far as that is wanted."""
        self._gatekeeper.ask_application(connection)
        if connection.is_gone:
            return
        self._strangers.welcome(connection)
        ident = connection.session.ident
        other = self._by_ident.get(ident)
        if other is None:
            self._arrive(connection)
        else:
            self._takeover.challenge(other, connection)
            connection.interrupted |= connection.is_waiting

    def _arrive(self, connection: PeerConnection) -> None:
        ident = connection.session.ident
        connection.ident = ident
        connection.interrupted = False
        connection.arrived_at = self.packeter.time()
        queue = connection.queue = self.queues_manager.get_queue(ident)
        # Who finds it connected can send what is for now only.
        queue.connect(lambda: self._by_ident.__setitem__(ident, connection))
        self._attendant.arrived(ident)
        self.log.debug("conn=%s is %r", connection.conn_id, ident)
        try:
            self.on_connect(connection.conn_id, ident)
        finally:  # also when a callback raised KeyboardInterrupt
            if connection.ident is not None:
                self._find_features(connection)

    def _find_features(self, connection: PeerConnection) -> None:
        """Nothing is sent before it is known what the other side can do."""
        if connection.session.state is SessionState.READY:
            self._ready(connection)
        else:
            # It may be in the very data that is being handled.
            self.packeter.call_soon(self._ask_for_features, connection)
        if connection.held:
            self.packeter.call_soon(self._holding.release, connection)

    def _ask_for_features(self, connection: PeerConnection) -> None:
        # If it has features they are on their way, and come before the pong.
        if connection.session.state is SessionState.IDENTIFIED:
            self._ping(connection, None)

    def _ready(self, connection: PeerConnection) -> None:
        """It is known what the other side can do."""
        queue = connection.queue
        assert queue is not None
        connection.is_ready = True
        queue.expect_confirmations(of_all=connection.acknowledges)
        if connection.acknowledges:
            self._incoming.arrive(connection, queue.name)
        if self._inbox is not None and self._inbox.is_full(queue.name):
            self._holding.set(connection, Hold.INBOX, True)
        settle_time = self._takeover.settle_time(connection)
        if settle_time:
            self._outgoing.wait(connection, settle_time)
        try:
            self.on_ready(connection.conn_id, queue.name)
        finally:  # also when a callback raised KeyboardInterrupt
            self._outgoing.pump(connection)

    def _depart(self, connection: PeerConnection, ident: str) -> None:
        connection.ident = None
        self._by_ident.pop(ident, None)
        self._incoming.depart(connection, ident)
        queue = connection.queue
        assert queue is not None
        connection.queue = None
        queue.disconnect()
        try:
            self.on_disconnect(connection.conn_id, ident)
        finally:  # also when a callback raised KeyboardInterrupt
            self._attendant.settle(queue)

    # Receiving.

    def _handle_packets(self, conn_id: str, buffer: bytes, bounds: list[int]) -> None:
        connection = self._connections.get(conn_id)
        if connection is None:
            return
        if connection.keepalive.pinged is not None:
            self._keepalive.received(connection)
        if connection.held or connection.interrupted:
            self._holding.hold(connection, buffer, bounds)
        else:
            self._receiving.receive(connection, buffer, bounds)

    def _handle_large_packet(self, conn_id: str, head: bytes, body: bytes) -> None:
        connection = self._connections.get(conn_id)
        bounds = [0, len(head) + len(body)]
        if (
            connection is None
            or not connection.is_ready
            or connection.held
            or connection.interrupted
            or head[0] != _MESSAGE
        ):
            self._handle_packets(conn_id, head + body, bounds)
        else:
            if connection.keepalive.pinged is not None:
                self._keepalive.received(connection)
            self._receiving.receive(connection, head, bounds, body)

    def _receive(self, connection: PeerConnection, buffer: bytes, bounds: list[int]) -> None:
        self._receiving.receive(connection, buffer, bounds)

    def _handle_frame(self, connection: PeerConnection, frame: bytes) -> None:
        if not frame:
            raise SnakeMQBrokenMessage("an empty frame")
        session = connection.session
        if not connection.is_known:
            self._strangers.listen(connection, frame)
        event = session.receive(frame[0], frame[1:])
        if event is Event.IDENTIFIED:
            self._claims(connection)
        elif event is Event.PROOF:
            self._gatekeeper.check_proof(connection, frame[1:])
            self._identified(connection)
        elif event is Event.FEATURES and session.state is SessionState.PROVING:
            self._gatekeeper.prove_first(connection)
        elif (
            session.state is SessionState.READY
            and not connection.is_ready
            and connection.ident is not None
        ):
            self._ready(connection)
        if event is Event.PING:
            self._pongs.answer(connection)
        elif event is Event.PONG:
            self._handle_pong(connection)
        elif event is Event.ACKNOWLEDGEMENT:
            self._outgoing.handle_acknowledgement(connection, frame[1:])
        elif event is Event.SEQUENCE:
            self._incoming.expect(connection, frame[1:])
        elif event is Event.REJECTED:
            self._refusals.rejected(connection)
        elif event is Event.REFUSAL:
            self._refusals.refused(connection, frame[1:])

    def _inbox_has_room(self, ident: str) -> None:
        connection = self._by_ident.get(ident)
        if connection is not None:
            self._holding.set(connection, Hold.INBOX, False)

    def callback_failed(
        self, name: str, func: Callable[..., object], args: tuple[Any, ...], exc: Exception
    ) -> None:
        """See :meth:`snakemq.callbacks.CallbackOwner.callback_failed`."""
        # The one whose first argument is not a connection.
        super().callback_failed(name, func, () if name == "on_message_drop" else args, exc)

    # Sending.

    def _pump(self, ident: str) -> bool:
        """Send what waits for a peer; whether it is connected."""
        connection = self._by_ident.get(ident)
        if connection is not None:
            self._outgoing.pump(connection)
        return connection is not None

    def _pump_here(self, queue: Queue) -> bool:
        """Likewise, in a thread that has borrowed the stack; whether that was done."""
        connection = self._by_ident.get(queue.name)
        return connection is not None and self._outgoing.pump_here(connection, queue)

    def _handle_sent(self, conn_id: str, packet_id: int, count: int) -> None:
        connection = self._connections.get(conn_id)
        if connection is None:
            return
        if connection.last_pong is not None:
            self._pongs.handle_sent(connection, packet_id)
        if connection.last_ack is not None:
            self._incoming.handle_sent(connection, packet_id)
        if connection.flights:
            self._outgoing.handle_sent(connection, packet_id)

    def _ping(self, connection: PeerConnection, callback: Callable[[float], object] | None) -> None:
        if connection.conn_id in self._connections:
            connection.pings.append((self.packeter.time(), callback))
            self.packeter.send_packet(connection.conn_id, FRAME_PING)

    def _handle_pong(self, connection: PeerConnection) -> None:
        # One that was not asked for is nobody's.
        sent, callback = connection.pings.pop(0) if connection.pings else (0.0, None)
        if callback is not None:
            callback(self.packeter.time() - sent)

    def _handle_drops(self, ident: str, messages: list[Message], reason: DropReason) -> None:
        self.log.debug("ident=%r dropped %d messages: %s", ident, len(messages), reason.value)
        self.on_messages_dropped(ident, messages, reason)
        call_drop_callbacks(self.on_message_drop, ident, messages, reason)

    def __repr__(self) -> str:
        return f"<Messaging {self.identifier!r} peers={len(self._by_ident)}>"
