"""The facade: a whole stack in one object."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from snakemq.authentication import Authentication
from snakemq.callbacks import Callback, CallbackOwner, CallbackSlot
from snakemq.exceptions import NoConnection, PeerClosed
from snakemq.limits import ConnectionLimits, DropReason, QueueLimits
from snakemq.link import SSLConfig
from snakemq.message import Message
from snakemq.peer._address import Address, Addresses, AddressLike, format_address
from snakemq.peer._address import parse as parse_address
from snakemq.peer._address import parse_many as parse_addresses
from snakemq.peer._arguments import check_ident, check_positive, check_type
from snakemq.peer._call_limits import CallLimits
from snakemq.peer._calls import CallSettings
from snakemq.peer._delivery import Deliveries
from snakemq.peer._durable import Durable
from snakemq.peer._inbox import DEFAULT_INBOX_LIMIT, Inbox, ReceivedMessage
from snakemq.peer._intake import Intake
from snakemq.peer._remote import RemoteCalls
from snakemq.peer._runner import Runner
from snakemq.peer._sending import Sender
from snakemq.peer._sends import Sends
from snakemq.peer._shutdown import Shutdown
from snakemq.peer._stack import Stack, StorageLike
from snakemq.peer._waiting import Changes
from snakemq.rpc import SAFE_PICKLE, Serializer
from snakemq.rpc.authorization import AuthorizeLike, authorize_of
from snakemq.storage import DeadLetter

if TYPE_CHECKING:
    import asyncio

    from typing_extensions import Self

__all__ = ["DEFAULT_DRAIN", "DEFAULT_KEEPALIVE", "Peer"]

#: How long :meth:`Peer.stop` waits at most, in seconds.
DEFAULT_DRAIN: Final = 5.0

#: After how much silence a connection is probed, in seconds.
DEFAULT_KEEPALIVE: Final = 30.0

#: By how many seconds the end may be late before it is logged what keeps it.
STUCK: Final = 5.0


class Peer(Sends, RemoteCalls, CallbackOwner):
    """A peer: identifier, connections, queues, messages and calls in one object.

    ::

        with Peer("bob", listen=4000) as bob:
            for received in bob.messages():
                print(received.ident, received.text)

    The addresses are bound and the storage is opened when the object is made;
    :meth:`start`, the ``with`` statement or :meth:`run_forever` make it move;
    :meth:`stop` or the end of the ``with`` block close everything, also when
    it was never started. A stopped peer can't be started again.

    **Addresses** are ``"host:port"``, ``"[::1]:4000"``, ``(host, port)`` or a
    port number. A port alone is on the loopback interface (127.0.0.1): to
    listen on all interfaces say so, with ``":4000"``. To listen on port 0 means
    on any free one; :attr:`addresses` tells which.

    **Threads.** All methods are for any thread. Those that wait
    (:meth:`receive`, :meth:`messages`, :meth:`wait_connected`, :meth:`flush`,
    :meth:`ping`) raise :exc:`RuntimeError` in a callback, where they would wait
    for themselves. All callbacks run in the loop's thread, one at a time.

    **Receiving.** Every message that arrives is seen once: by the callbacks of
    :attr:`on_message` if there are any at that time, else by :meth:`receive`
    or :meth:`messages`. For the latter it waits in the inbox. (What waits there
    when the first callback is added is handed to it with the next message.)

    The inbox holds ``inbox_limit`` bytes. When that is full, the connections
    that bring more are paused until half of it is read, and their senders keep
    the rest; a paused connection is alive all the same. A program
    that has never read may be one that does not want messages: as long as that
    is so, messages that are not persistent are dropped to make room, the oldest
    first, counted in :attr:`inbox_dropped` and logged as a warning. Persistent
    ones are never dropped. A program that wants no messages at all, and is sent
    persistent ones, throws them away with an ``on_message`` that does nothing.
    Calls and their replies are no messages in this sense: they go on, also
    over a connection that is paused.

    **Acknowledging.** A message is acknowledged, and leaves the queue of its
    sender, when the callbacks of :attr:`on_message` have returned for it, or
    when it is in the inbox. So what is in the inbox, which is in memory, is
    lost when this process is killed. With ``durable_receive`` it is in the
    storage until it is handled, and handled means: the callbacks returned; or
    :meth:`receive` handed it out; or the body of a loop over :meth:`messages`
    came to its end for it. If a callback raises it is called again after a
    while, and after too many attempts the message is one of the
    :meth:`dead_letters`. What was not handled when the process ended comes
    again when the storage is opened the next time, with
    :attr:`ReceivedMessage.redelivered` set.

    The layers are there for those who want them: :attr:`link`,
    :attr:`throttle` (or ``None``), :attr:`packeter`, :attr:`messaging`,
    :attr:`receive_hook`, :attr:`rpc_server`, :attr:`rpc_client`. What they say
    about threads holds.

    :param identifier: name of this peer, 1 to 50 characters; no two peers that
        meet may have the same
    :param listen: where to listen; one address or a list of them
    :param connect: whom to dial, again and again until it works and after it
        broke; one address or a list of them
    :param storage: where messages wait on disk: path of an SQLite file, URL of a
        database (see :func:`snakemq.storage.open_storage`), or a storage,
        which then belongs to the peer (it is closed with it)
    :param tls: encrypt the connections of this peer with this configuration. Certificates
        and host names are checked where it does not say otherwise; see
        :class:`snakemq.SSLConfig`.
    :param authentication: how other peers have to show that they are who they say, one
        way or several: :class:`snakemq.SharedSecret`, :class:`snakemq.CertificateName`,
        :class:`snakemq.CertificateFingerprint`, or a function ``authenticate(conn_id,
        ident, certificate)``, called in the loop's thread, that says whether a peer
        is admitted. ``None``: an identifier is believed
    :param connection_limits: how many may connect, and what they may take until it is
        known who they are; ``None``: the default, see :class:`snakemq.ConnectionLimits`
    :param throttle: most that is sent on each connection, in bytes per second
    :param keepalive: after how many seconds of silence a connection is probed,
        and closed if nothing comes back; ``None``: never
    :param reconnect_interval: seconds until the first new attempt to dial;
        later ones take longer. ``None``: the link's default
    :param inbox_limit: in bytes; each message counts its data and a little more
    :param durable_receive: keep messages in the storage until they are handled,
        see above. Not for those with a time to live of 0. How often and when
        they are tried again is set in ``peer.messaging.inbox``.
    :param queue_limits: how much may wait for other peers, and what happens to
        more; ``None``: the default, see :class:`snakemq.QueueLimits`
    :param serve: objects and functions to serve from the first moment, by name;
        see :meth:`serve`
    :param durable_calls: keep the answers to calls in the storage, so that a call
        that was answered is not run again after a restart; see
        :class:`snakemq.rpc.RpcServer`
    :param call_limits: how many calls are served at a time, and how many wait;
        ``None``: the default, see :class:`snakemq.CallLimits`
    :param authorize: who may call what: a :class:`snakemq.rpc.Permissions`, the dictionary
        that one is made of, or a function ``authorize(request)`` of a
        :class:`snakemq.rpc.CallRequest` that returns ``True`` or ``False`` and does not
        block; see :class:`snakemq.rpc.RpcServer`. ``None``: everybody may call every
        public method of what is served
    :param pickler: what calls and their replies are written and read with, here
        and at the peers on the other side; ``None``: pickle's format, and a reader
        that makes only plain data and registered types of it. See
        :class:`snakemq.rpc.Serializer`.
    :param asyncio_loop: a running loop, for served methods that are ``async def``
    :param on_message: first callback of :attr:`on_message`
    :raises TypeError: an argument is of a wrong type; the message says which
    :raises ValueError: an argument can't be what it is, an address for instance
    :raises OSError: an address can't be listened on; the message names it
    :raises snakemq.exceptions.StorageError: the storage can't be opened;
        ``durable_receive`` without a storage that can do that, or
        ``durable_calls`` without any
    """

    #: ``func(received)``, a :class:`ReceivedMessage`
    on_message = CallbackSlot[[ReceivedMessage]]()
    #: ``func(ident, uuid)``; the message was handed to the system
    on_message_sent = CallbackSlot[[str, bytes]]()
    #: ``func(ident, uuid)``; it is known to have arrived: the callbacks of the
    #: receiver have run. From a 1.6 peer this is known of persistent messages only.
    on_message_acked = CallbackSlot[[str, bytes]]()
    #: ``func(ident)``; the peer is connected and has said who it is
    on_peer_connect = CallbackSlot[[str]]()
    #: ``func(ident)``
    on_peer_disconnect = CallbackSlot[[str]]()
    #: ``func(conn_id, exception)``; something went wrong and the stack went on.
    #: ``conn_id`` is ``None`` if it was not about one connection. It is logged
    #: already.
    on_error = CallbackSlot[[str | None, Exception]]()

    def __init__(
        self,
        identifier: str,
        *,
        listen: Addresses = None,
        connect: Addresses = None,
        storage: StorageLike | None = None,
        tls: SSLConfig | ssl.SSLContext | None = None,
        authentication: Authentication | Sequence[Authentication] | None = None,
        connection_limits: ConnectionLimits | None = None,
        throttle: float | None = None,
        keepalive: float | None = DEFAULT_KEEPALIVE,
        reconnect_interval: float | None = None,
        inbox_limit: int = DEFAULT_INBOX_LIMIT,
        durable_receive: bool = False,
        queue_limits: QueueLimits | None = None,
        serve: Mapping[str, object] | None = None,
        durable_calls: bool = False,
        call_limits: CallLimits | None = None,
        authorize: AuthorizeLike | None = None,
        pickler: Serializer | None = None,
        asyncio_loop: asyncio.AbstractEventLoop | None = None,
        on_message: Callable[[ReceivedMessage], object] | None = None,
    ) -> None:
        # First all that can be wrong, while there is nothing to close.
        check_ident(identifier, "identifier")
        listeners = parse_addresses(listen, listen=True)
        connectors = parse_addresses(connect, listen=False)
        check_positive(throttle, "throttle", "bytes per second")
        check_positive(keepalive, "keepalive", "seconds")
        check_positive(reconnect_interval, "reconnect_interval", "seconds")
        check_positive(inbox_limit, "inbox_limit", "bytes")
        check_type(tls, "tls", SSLConfig, ssl.SSLContext)
        check_type(connection_limits, "connection_limits", ConnectionLimits)
        check_type(queue_limits, "queue_limits", QueueLimits)
        check_type(call_limits, "call_limits", CallLimits)
        if pickler is not None and not (hasattr(pickler, "dumps") and hasattr(pickler, "loads")):
            raise TypeError(f"pickler takes something with dumps and loads, not {pickler!r}")
        if asyncio_loop is not None and not hasattr(asyncio_loop, "call_soon_threadsafe"):
            raise TypeError(f"asyncio_loop takes a running asyncio loop, not {asyncio_loop!r}")
        if serve is not None and not isinstance(serve, Mapping):
            raise TypeError(
                f"serve takes a dictionary of names and objects, not {type(serve).__name__}"
            )

        self.identifier = identifier
        self.log = logging.getLogger("snakemq.peer")
        self.on_message = on_message
        # Looked up once, for the sake of the hot paths.
        self._sent_slot = self.on_message_sent
        self._acked_slot = self.on_message_acked
        self._tls = tls
        self._reconnect_interval = reconnect_interval
        self._addresses: list[Address] = []
        self._closed = False

        calls = CallSettings(
            SAFE_PICKLE if pickler is None else pickler,
            durable_calls,
            call_limits,
            asyncio_loop,
            authorize_of(authorize),
        )
        self._stack = stack = Stack(
            identifier,
            storage,
            throttle,
            keepalive,
            durable_receive,
            calls,
            self.log,
            authentication,
            connection_limits or ConnectionLimits(),
        )
        self.link = stack.link
        self.throttle = stack.throttle
        self.packeter = stack.packeter
        self.messaging = stack.messaging
        if queue_limits is not None:
            self.messaging.queue_limits = queue_limits
        self.receive_hook = stack.receive_hook
        self._calls = stack.calls

        self._changes = Changes(stack.link)
        self._deliveries = Deliveries(self._changes, self._prepare_to_wait, self)
        self._sender = Sender(
            identifier, stack.messaging, stack.storage is not None, self._deliveries, self._refusal
        )
        self._durable = Durable(stack.messaging, self._sender) if durable_receive else None
        self._shutdown = Shutdown(
            stack.link, stack.lowest, stack.packeter, stack.messaging, stack.calls
        )
        self._inbox = Inbox(stack.messaging, inbox_limit, self.log, self._durable)
        self._intake = Intake(
            stack.calls, self.on_message, self._inbox, self._durable, self.callback_failed
        )
        self._runner = Runner(stack.link, f"snakemq peer {identifier}", self.log, self._close)
        try:
            self._wire()
            for name, obj in (serve or {}).items():
                self.serve(obj, name)
            for address in listeners:
                self._listen(address)
            for address in connectors:
                self._connect(address)
        except BaseException:
            self._runner.abandon()
            raise

    def _wire(self) -> None:
        messaging = self.messaging
        messaging.on_message_recv.wire(self._intake)
        messaging.on_messages_sent.wire(self._handle_sent)
        messaging.shortcut.unless_used(self.on_message_sent)
        messaging.on_messages_left.wire(self._handle_left)
        messaging.on_messages_acked.wire(self._handle_acked)
        messaging.on_messages_dropped.wire(self._handle_drops)
        messaging.on_connect.wire(self._handle_connect)
        messaging.on_disconnect.wire(self._handle_disconnect)
        for layer in (self.link, self.throttle, self.packeter, messaging):
            if layer is not None:
                layer.on_error.wire(self.on_error)

    # Life.

    def start(self) -> Self:
        """Run the loop in a daemonic thread. Does nothing if it runs already.

        :return: the peer
        :raises PeerClosed: it was stopped
        """
        self._runner.start()
        return self

    def run_forever(self) -> None:
        """Run the loop in this thread until :meth:`stop`, then close everything.

        For daemons. Ctrl-C and whatever else ends the loop closes everything,
        too, and comes out of here. A signal handler may call :meth:`stop`::

            signal.signal(signal.SIGTERM, lambda *args: peer.stop())

        :raises PeerClosed: the peer was stopped
        :raises RuntimeError: it runs in another thread
        """
        self._runner.run()

    def stop(self, drain: float = DEFAULT_DRAIN) -> None:
        """Finish what was begun, send what is queued for connected peers, and close everything.

        Calls that were taken are served to their end and answered; new ones are
        left to the next process, see :meth:`snakemq.rpc.RpcServer.drain`. Then
        this waits until connected peers have acknowledged all that is queued. Messages for peers
        that are not connected are not waited for: the persistent ones stay in the storage, the
        others are lost, which is logged as a warning. (:meth:`flush` waits for them.) When this
        returns there is no thread, no socket and no open file left.

        In a callback or a signal handler of the loop's thread it can't wait:
        it returns at once and all of this happens afterwards. Harmless if the
        peer is stopped already.

        :param drain: how long to wait for acknowledgements, and for what this
            peer owes to the others, in seconds at most; 0 not to wait
        :raises PeerClosed: the loop died before, from the exception in
            ``__cause__``; raised once
        """
        if self._runner.abandon():
            return
        self.link.call_soon(self._shutdown.begin, drain)
        if not self._runner.in_loop:
            self._runner.join(drain + STUCK)
            failure = self._runner.take_failure()
            if failure is not None:
                raise failure

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop(drain=0)
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        hurry = exc is not None and not isinstance(exc, Exception)
        try:
            self.stop(drain=0 if hurry else DEFAULT_DRAIN)
        except PeerClosed:
            # It was logged when it happened, and must not hide another one.
            if exc is None:
                raise

    @property
    def running(self) -> bool:
        """Whether it was started and is not stopped."""
        return self._runner.started and not self._runner.ended

    @property
    def failure(self) -> BaseException | None:
        """What the loop died of; ``None`` if it did not."""
        return self._runner.failure

    # Where it listens and whom it dials.

    @property
    def addresses(self) -> list[Address]:
        """The addresses it listens on, with the ports really bound."""
        return list(self._addresses)

    def add_listener(
        self, address: AddressLike, tls: SSLConfig | ssl.SSLContext | None = None
    ) -> Address:
        """Listen on one more address.

        :param tls: its TLS settings; ``None``: those of the peer
        :return: the address really bound; use it to delete the listener
        :raises OSError: it can't be listened on; the message names it
        :raises ValueError: it is not an address, or is there already
        """
        check_type(tls, "tls", SSLConfig, ssl.SSLContext)
        return self._runner.call(self._listen, parse_address(address, listen=True), tls)

    def del_listener(self, address: AddressLike) -> None:
        """Listen there no more. The connections that came that way stay.

        :raises KeyError: no such listener
        """
        self._runner.call(self._unlisten, parse_address(address, listen=True))

    def add_connector(
        self, address: AddressLike, tls: SSLConfig | ssl.SSLContext | None = None
    ) -> Address:
        """Dial one more address, again and again.

        :param tls: its TLS settings; ``None``: those of the peer
        :return: the address; use it to delete the connector
        :raises ValueError: it is not an address, or is there already
        """
        check_type(tls, "tls", SSLConfig, ssl.SSLContext)
        return self._runner.call(self._connect, parse_address(address, listen=False), tls)

    def del_connector(self, address: AddressLike) -> None:
        """Dial this address no more, and close the connection to it.

        :raises KeyError: no such connector
        """
        self._runner.call(self.link.del_connector, parse_address(address, listen=False))

    def _listen(self, address: Address, tls: SSLConfig | ssl.SSLContext | None = None) -> Address:
        bound = self.link.add_listener(address, ssl_config=tls or self._tls)
        self._addresses.append(bound)
        return bound

    def _unlisten(self, address: Address) -> None:
        self.link.del_listener(address)
        self._addresses.remove(address)

    def _connect(self, address: Address, tls: SSLConfig | ssl.SSLContext | None = None) -> Address:
        return self.link.add_connector(address, self._reconnect_interval, tls or self._tls)

    # Who is there.

    @property
    def peers(self) -> list[str]:
        """Identifiers of the connected peers."""
        return self.messaging.connected_peers()

    def is_connected(self, ident: str) -> bool:
        """Whether this peer is connected now."""
        return self.messaging.is_connected(ident)

    def wait_connected(self, ident: str, timeout: float | None = None) -> bool:
        """Wait until a peer is connected.

        :param timeout: seconds at most; ``None``: for ever
        :return: whether it is connected
        :raises PeerClosed: this peer was stopped
        """
        check_ident(ident, "ident")
        return self._wait(lambda: self.messaging.is_connected(ident), timeout)

    def ping(self, ident: str, timeout: float = 10.0) -> float:
        """Ask a connected peer for an answer.

        It answers when its callbacks for all earlier messages have returned.

        :param timeout: seconds
        :return: seconds until the answer came
        :raises NoConnection: it is not connected, or not any more
        :raises TimeoutError: no answer in time
        :raises PeerClosed: this peer was stopped
        """
        check_ident(ident, "ident")
        self._refuse_in_loop()
        if self._closed:
            raise self._runner.closed()
        answers: list[float] = []

        def answered(seconds: float) -> None:
            answers.append(seconds)
            self._changes.notify()

        self.messaging.ping(ident, answered)
        connected = self.messaging.is_connected
        if not self._wait(lambda: bool(answers) or not connected(ident), timeout):
            raise TimeoutError(f"{ident!r} did not answer within {timeout:g} seconds")
        if not answers:
            raise NoConnection(f"the connection to {ident!r} was lost before the answer came")
        return answers[0]

    # Messages.

    @property
    def on_message_drop(self) -> Callback[...]:
        """``func(ident, uuid)``, or with a third parameter ``func(ident, uuid, reason)``.

        The message is not sent (again), for a :class:`snakemq.DropReason`: its
        time to live was over, or its queue was full. The slot is that of
        :attr:`messaging`.
        """
        return self.messaging.on_message_drop

    @on_message_drop.setter
    def on_message_drop(self, func: Callable[..., object] | None) -> None:
        self.messaging.on_message_drop = func

    def queued(self, ident: str | None = None) -> int:
        """How many messages wait or are not acknowledged, for a peer or for all of them."""
        return self.messaging.queued_messages(ident)

    def flush(self, ident: str | None = None, timeout: float | None = None) -> bool:
        """Wait until nothing is queued, for a peer or for anybody.

        That is when all was acknowledged, or dropped. (What is not persistent
        leaves the queue for a 1.6 peer when it was handed to the system.)

        :param timeout: seconds at most; ``None``: for ever
        :return: whether nothing is queued
        :raises PeerClosed: this peer was stopped
        """
        return self._wait(lambda: not self.messaging.queued_messages(ident), timeout)

    def receive(self, timeout: float | None = None) -> ReceivedMessage | None:
        """Take the oldest message that has arrived, or wait for one.

        With ``durable_receive`` it is handled with that: it does not come again
        (except if this process is killed right now).

        :param timeout: seconds at most; ``None``: for ever
        :return: ``None`` if none came in time
        :raises PeerClosed: this peer was stopped and there is nothing left
        :raises RuntimeError: there are callbacks in :attr:`on_message`, which
            get everything
        """
        received = self._receive(timeout)
        if received is not None:
            received.done()
        return received

    def messages(self, timeout: float | None = None) -> Iterator[ReceivedMessage]:
        """Iterate over the messages that arrive, until this peer is stopped.

        With ``durable_receive`` a message is handled when the body of the loop
        is through with it. If an exception, a ``break`` or a ``return`` leaves
        the loop, or the peer is stopped inside it, that message stays in the
        storage and comes again after the next start, unless
        :meth:`ReceivedMessage.done` was called.

        :param timeout: end when none came for so many seconds; ``None``: go on
        :raises PeerClosed: the loop died
        :raises RuntimeError: see :meth:`receive`
        """
        while True:
            try:
                received = self._receive(timeout)
            except PeerClosed:
                if self.failure is not None:
                    raise
                return
            if received is None:
                return
            yield received
            received.done()

    def _receive(self, timeout: float | None) -> ReceivedMessage | None:
        self._refuse_in_loop()
        if self.on_message:
            raise RuntimeError(
                "messages go to on_message; to receive() them, let on_message be empty"
            )
        received = self._inbox.get(timeout)
        if received is None and self._closed:
            raise self._runner.closed()
        return received

    def dead_letters(self) -> list[DeadLetter]:
        """The messages that were received and given up, the oldest first.

        That is, with ``durable_receive``: the callbacks failed too often.

        :raises snakemq.exceptions.StorageError: ``durable_receive`` is off
        """
        return self.messaging.inbox.dead_letters()

    def retry_dead_letters(self, ids: Sequence[int] | None = None) -> int:
        """Have dead letters handled once more, after what is there.

        :param ids: which ones of :meth:`dead_letters`; ``None``: all
        :return: how many
        :raises snakemq.exceptions.StorageError: ``durable_receive`` is off
        """
        return self.messaging.inbox.retry_dead_letters(ids)

    def drop_dead_letters(self, ids: Sequence[int] | None = None) -> int:
        """Delete dead letters.

        :param ids: which ones of :meth:`dead_letters`; ``None``: all
        :return: how many
        :raises snakemq.exceptions.StorageError: ``durable_receive`` is off
        """
        return self.messaging.inbox.drop_dead_letters(ids)

    @property
    def inbox_dropped(self) -> int:
        """How many messages were dropped because nobody reads the inbox."""
        return self._inbox.dropped

    def counters(self) -> dict[str, int]:
        """How often each limit was reached, and something refused, since the peer was made.

        What each one counts is said in the tables of the limits.
        """
        return {
            **self._stack.counters(),
            "inbox_dropped": self._inbox.dropped,
            "inbox_paused": self._inbox.pauses,
        }

    # In the loop's thread.

    def callback_failed(
        self, name: str, func: Callable[..., object], args: tuple[Any, ...], exc: Exception
    ) -> None:
        """See :class:`~snakemq.callbacks.CallbackOwner`. None here gets a ``conn_id``."""
        super().callback_failed(name, func, (), exc)

    def _handle_sent(self, conn_id: str, ident: str, messages: Sequence[Message]) -> None:
        self._deliveries.sent(ident, messages)
        _tell_each(self._sent_slot, ident, messages)

    def _handle_left(self, conn_id: str, ident: str, messages: Sequence[Message]) -> None:
        self._deliveries.left(ident, messages)
        self._less_queued(ident)

    def _handle_acked(self, conn_id: str, ident: str, messages: Sequence[Message]) -> None:
        self._deliveries.acked(ident, messages)
        _tell_each(self._acked_slot, ident, messages)
        self._less_queued(ident)

    def _handle_drops(self, ident: str, messages: list[Message], reason: DropReason) -> None:
        self._deliveries.dropped(ident, messages, reason)
        self._less_queued(ident)

    def _handle_connect(self, conn_id: str, ident: str) -> None:
        self._changes.notify()
        self.on_peer_connect(ident)

    def _handle_disconnect(self, conn_id: str, ident: str) -> None:
        self._inbox.forget(conn_id)
        self._changes.notify()
        self.on_peer_disconnect(ident)
        self._shutdown.check()

    def _less_queued(self, ident: str) -> None:
        self._changes.notify()
        self._shutdown.check(ident)

    def _close(self) -> None:
        """The loop is over. In its thread, or wherever a peer that never ran is stopped."""
        left = self.messaging.queued_messages()
        lost = self.messaging.transient_messages() if left else 0
        if lost:
            self.log.warning("stopped; messages that were still queued and are lost: %d", lost)
        if left > lost:
            self.log.info(
                "stopped; messages that are still queued, in the storage: %d", left - lost
            )
        try:
            self._stack.close()
        finally:
            self._closed = True
            self._inbox.close()
            self._deliveries.close()
            self._changes.notify()
            self._shutdown.join()

    # For the methods above.

    def _refuse_in_loop(self) -> None:
        if self._runner.in_loop:
            raise RuntimeError("a callback can't wait for its own thread; do this in another one")

    def _prepare_to_wait(self) -> None:
        self._refuse_in_loop()
        self.link.wakeup_poll()  # it tells what was sent by others than the loop

    def _refusal(self) -> PeerClosed | None:
        return self._runner.closed() if self._closed else None

    def _wait(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        self._refuse_in_loop()
        holds = False

        def settled() -> bool:
            nonlocal holds
            holds = not self._closed and condition()
            return holds or self._closed

        if not self._changes.wait_for(settled, timeout):
            return False
        if not holds:
            raise self._runner.closed()
        return True

    def __repr__(self) -> str:
        state = "stopped" if self._closed else "running" if self.running else "not started"
        listens = ", ".join(map(format_address, self._addresses)) or "nowhere"
        return f"<Peer {self.identifier!r} {state}, listens: {listens}, peers: {len(self.peers)}>"


def _tell_each(callback: Callback[[str, bytes]], ident: str, messages: Sequence[Message]) -> None:
    if callback.funcs:
        for message in messages:
            callback(ident, message.uuid)
