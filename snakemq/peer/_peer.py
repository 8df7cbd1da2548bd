"""The facade: a whole stack in one object."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from snakemq.callbacks import CallbackOwner, CallbackSlot
from snakemq.exceptions import NoConnection, PeerClosed
from snakemq.limits import DropReason
from snakemq.link import SSLConfig
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.peer._address import Address, Addresses, AddressLike, format_address
from snakemq.peer._address import parse as parse_address
from snakemq.peer._address import parse_many as parse_addresses
from snakemq.peer._arguments import Data, check_ident, check_positive, to_bytes
from snakemq.peer._inbox import DEFAULT_INBOX_LIMIT, Inbox, ReceivedMessage
from snakemq.peer._runner import Runner
from snakemq.peer._shutdown import Shutdown
from snakemq.peer._stack import Stack, StorageLike
from snakemq.peer._waiting import Changes
from snakemq.rpc import RpcClient, RpcInstProxy, RpcServer

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DEFAULT_DRAIN", "DEFAULT_KEEPALIVE", "Peer"]

#: How long :meth:`Peer.stop` waits at most, in seconds.
DEFAULT_DRAIN: Final = 5.0

#: After how much silence a connection is probed, in seconds.
DEFAULT_KEEPALIVE: Final = 30.0

#: By how many seconds the end may be late before it is logged what keeps it.
STUCK: Final = 5.0


class Peer(CallbackOwner):
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
    The inbox holds ``inbox_limit`` bytes. When that is full, a program that has read from it
    before is taken for a slow reader: the connections that bring more are
    paused and their senders keep the rest. A program
    that has never read is taken for one that does not want messages: the
    oldest are dropped, counted in :attr:`inbox_dropped` and logged as a
    warning. Calls and their replies are no messages in this sense.

    The layers are there for those who want them: :attr:`link`,
    :attr:`throttle` (or ``None``), :attr:`packeter`, :attr:`messaging`,
    :attr:`receive_hook`, :attr:`rpc_server`, :attr:`rpc_client`. What they say
    about threads holds.

    :param identifier: name of this peer, 1 to 50 characters; no two peers that
        meet may have the same
    :param listen: where to listen; one address or a list of them
    :param connect: whom to dial, again and again until it works and after it
        broke; one address or a list of them
    :param storage: where messages wait on disk: path of an SQLite file, or a
        storage, which then belongs to the peer (it is closed with it)
    :param tls: encrypt all connections of this peer with this configuration
    :param throttle: most that is sent on each connection, in bytes per second
    :param keepalive: after how many seconds of silence a connection is probed,
        and closed if nothing comes back; ``None``: never
    :param reconnect_interval: seconds until the first new attempt to dial;
        later ones take longer. ``None``: the link's default
    :param inbox_limit: in bytes; each message counts its data and a little more
    :param serve: objects to serve from the first moment, by name; see
        :meth:`serve`
    :param on_message: first callback of :attr:`on_message`
    :raises TypeError: an argument is of a wrong type; the message says which
    :raises ValueError: an argument can't be what it is, an address for instance
    :raises OSError: an address can't be listened on; the message names it
    :raises snakemq.exceptions.StorageError: the storage can't be opened
    """

    #: ``func(received)``, a :class:`ReceivedMessage`
    on_message = CallbackSlot[[ReceivedMessage]]()
    #: ``func(ident, uuid)``; the message was handed over
    on_message_sent = CallbackSlot[[str, bytes]]()
    #: ``func(ident, uuid)``; its time to live was over before the peer came
    on_message_drop = CallbackSlot[[str, bytes]]()
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
        tls: SSLConfig | None = None,
        throttle: float | None = None,
        keepalive: float | None = DEFAULT_KEEPALIVE,
        reconnect_interval: float | None = None,
        inbox_limit: int = DEFAULT_INBOX_LIMIT,
        serve: Mapping[str, object] | None = None,
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
        if tls is not None and not isinstance(tls, SSLConfig):
            raise TypeError(f"tls takes a snakemq.SSLConfig, not {type(tls).__name__}")

        self.identifier = identifier
        self.log = logging.getLogger("snakemq.peer")
        self.on_message = on_message
        # Looked up once, for the sake of the hot paths.
        self._message_slot = self.on_message
        self._sent_slot = self.on_message_sent
        self._tls = tls
        self._reconnect_interval = reconnect_interval
        self._addresses: list[Address] = []
        self._closed = False

        self._stack = stack = Stack(identifier, storage, throttle, keepalive, self.log)
        self.link = stack.link
        self.throttle = stack.throttle
        self.packeter = stack.packeter
        self.messaging = stack.messaging
        self.receive_hook = stack.receive_hook
        self._calls = stack.calls

        self._changes = Changes(stack.link)
        self._shutdown = Shutdown(stack.link, stack.lowest, stack.messaging, stack.calls)
        self._inbox = Inbox(stack.packeter, inbox_limit, self.log)
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
        messaging.on_message_recv.wire(self._handle_message)
        messaging.on_messages_sent.wire(self._handle_sent)
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
        """Hand over what is queued for connected peers, then close everything.

        Messages for peers that are not connected are not waited for: the
        persistent ones stay in the storage, the others are lost, which is
        logged as a warning. (:meth:`flush` waits for them.) When this returns
        there is no thread, no socket and no open file left.

        In a callback or a signal handler of the loop's thread it can't wait:
        it returns at once and all of this happens afterwards. Harmless if the
        peer is stopped already.

        :param drain: how long to wait for messages to be handed over, in
            seconds at most; 0 not to wait
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

    def add_listener(self, address: AddressLike) -> Address:
        """Listen on one more address.

        :return: the address really bound; use it to delete the listener
        :raises OSError: it can't be listened on; the message names it
        :raises ValueError: it is not an address, or is there already
        """
        return self._runner.call(self._listen, parse_address(address, listen=True))

    def del_listener(self, address: AddressLike) -> None:
        """Listen there no more. The connections that came that way stay.

        :raises KeyError: no such listener
        """
        self._runner.call(self._unlisten, parse_address(address, listen=True))

    def add_connector(self, address: AddressLike) -> Address:
        """Dial one more address, again and again.

        :return: the address; use it to delete the connector
        :raises ValueError: it is not an address, or is there already
        """
        return self._runner.call(self._connect, parse_address(address, listen=False))

    def del_connector(self, address: AddressLike) -> None:
        """Dial this address no more, and close the connection to it.

        :raises KeyError: no such connector
        """
        self._runner.call(self.link.del_connector, parse_address(address, listen=False))

    def _listen(self, address: Address) -> Address:
        bound = self.link.add_listener(address, ssl_config=self._tls)
        self._addresses.append(bound)
        return bound

    def _unlisten(self, address: Address) -> None:
        self.link.del_listener(address)
        self._addresses.remove(address)

    def _connect(self, address: Address) -> Address:
        return self.link.add_connector(address, self._reconnect_interval, self._tls)

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

    def send(
        self,
        ident: str,
        data: Data,
        *,
        ttl: float | None = None,
        persistent: bool | None = None,
        uuid: bytes | None = None,
        flags: int = 0,
    ) -> bytes:
        """Queue a message for a peer. Returns at once.

        It is sent when the peer is connected, first in, first out. A
        persistent message is on disk when this returns.

        :param ident: identifier of the receiver
        :param data: the payload; a string is encoded in UTF-8
        :param ttl: time to live, in seconds. It runs while the receiver is not
            connected; 0: deliver only if it is connected now; ``None``: wait
            for ever
        :param persistent: survive the end of this process. ``None``: exactly
            if this peer has a storage
        :param uuid: identifier of the message, at most 16 bytes; made up if it
            is not given
        :param flags: more ``FLAG_*``, also some of your own
        :return: identifier of the message
        :raises TypeError: an argument is of a wrong type
        :raises ValueError: persistent without a storage, to oneself, or to
            nobody
        :raises PeerClosed: this peer was stopped
        """
        check_ident(ident, "ident")
        if ident == self.identifier:
            raise ValueError("a peer can't send messages to itself: no connection leads there")
        has_storage = self._stack.storage is not None
        if persistent is None:
            persistent = has_storage
        elif persistent and not has_storage:
            raise ValueError("a persistent message needs a storage: give the peer storage=PATH")
        if persistent:
            flags |= FLAG_PERSISTENT
        message = Message(to_bytes(data), ttl, flags, uuid)
        if self._closed:
            raise self._runner.closed()
        self.messaging.send_message(ident, message)
        return message.uuid

    def queued(self, ident: str | None = None) -> int:
        """How many messages wait, for a peer or for all of them."""
        return self.messaging.queued_messages(ident)

    def flush(self, ident: str | None = None, timeout: float | None = None) -> bool:
        """Wait until nothing is queued, for a peer or for anybody.

        :param timeout: seconds at most; ``None``: for ever
        :return: whether nothing is queued
        :raises PeerClosed: this peer was stopped
        """
        return self._wait(lambda: not self.messaging.queued_messages(ident), timeout)

    def receive(self, timeout: float | None = None) -> ReceivedMessage | None:
        """Take the oldest message that has arrived, or wait for one.

        :param timeout: seconds at most; ``None``: for ever
        :return: ``None`` if none came in time
        :raises PeerClosed: this peer was stopped and there is nothing left
        :raises RuntimeError: there are callbacks in :attr:`on_message`, which
            get everything
        """
        self._refuse_in_loop()
        if self.on_message:
            raise RuntimeError(
                "messages go to on_message; to receive() them, let on_message be empty"
            )
        received = self._inbox.get(timeout)
        if received is None and self._closed:
            raise self._runner.closed()
        return received

    def messages(self, timeout: float | None = None) -> Iterator[ReceivedMessage]:
        """Iterate over the messages that arrive, until this peer is stopped.

        :param timeout: end when none came for so many seconds; ``None``: go on
        :raises PeerClosed: the loop died
        :raises RuntimeError: see :meth:`receive`
        """
        while True:
            try:
                received = self.receive(timeout)
            except PeerClosed:
                if self.failure is not None:
                    raise
                return
            if received is None:
                return
            yield received

    @property
    def inbox_dropped(self) -> int:
        """How many messages were dropped because nobody reads the inbox."""
        return self._inbox.dropped

    # Calls.

    def serve(self, obj: object, name: str) -> None:
        """Let other peers call the public methods of an object.

        They run in threads of their own, several at the same time. What has to
        be there when the first call comes is served before :meth:`start`: a
        call for an object that is not served fails.

        :param name: what the others call it
        """
        self._runner.call(self._calls.serve, obj, name)

    def proxy(self, ident: str, name: str) -> RpcInstProxy:
        """A stand-in for an object that another peer serves.

        ``proxy.method(...)`` calls it there, waits, and returns what comes
        back; see :mod:`snakemq.rpc`. Not in a callback, which would wait for
        itself; a signal is fine there.

        :param ident: identifier of the peer that serves it
        :param name: what it calls it
        """
        check_ident(ident, "ident")
        return self.rpc_client.get_proxy(ident, name)

    @property
    def rpc_server(self) -> RpcServer:
        """What serves the calls; made with the first object. Without it no request is read."""
        return self._runner.call(self._calls.server)

    @property
    def rpc_client(self) -> RpcClient:
        """What makes the calls; made with the first proxy. Without it no reply is read."""
        return self._runner.call(self._calls.client)

    # In the loop's thread.

    def callback_failed(
        self, name: str, func: Callable[..., object], args: tuple[Any, ...], exc: Exception
    ) -> None:
        """See :class:`~snakemq.callbacks.CallbackOwner`. None here gets a ``conn_id``."""
        super().callback_failed(name, func, (), exc)

    def _handle_message(self, conn_id: str, ident: str, message: Message) -> None:
        if self._calls.take(conn_id, ident, message):
            return
        received = ReceivedMessage(ident, message, conn_id)
        on_message = self._message_slot
        if not on_message:
            self._inbox.put(received)
            return
        if self._inbox:
            for earlier in self._inbox.take_all():
                on_message(earlier)
        on_message(received)

    def _handle_sent(self, conn_id: str, ident: str, messages: list[Message]) -> None:
        if self._sent_slot:
            for message in messages:
                self._sent_slot(ident, message.uuid)
        self._less_queued(ident)

    def _handle_acked(self, conn_id: str, ident: str, messages: list[Message]) -> None:
        self._less_queued(ident)

    def _handle_drops(self, ident: str, messages: list[Message], reason: DropReason) -> None:
        for message in messages:
            self.on_message_drop(ident, message.uuid)
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
        if left and self._stack.storage is None:
            self.log.warning("stopped; messages that were still queued and are lost: %d", left)
        elif left:
            self.log.info("stopped; messages that are still queued: %d", left)
        try:
            self._stack.close()
        finally:
            self._closed = True
            self._inbox.close()
            self._changes.notify()
            self._shutdown.join()

    # For the methods above.

    def _refuse_in_loop(self) -> None:
        if self._runner.in_loop:
            raise RuntimeError("a callback can't wait for its own thread; do this in another one")

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
