"""Makes remote calls."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from snakemq._core.rpc_parts import REPLY_PARTS, REQUEST_PARTS
from snakemq._core.rpc_records import (
    MAX_COUNT,
    REPLY_PREFIX,
    REQUEST_PREFIX,
    Code,
    Reply,
    call_record,
    cancel_record,
    describe_record,
    parse_reply,
    signal_record,
)
from snakemq._peer_log import PeerLog, quoted
from snakemq._wakes import flush_wakes
from snakemq.counters import Counters
from snakemq.message import Message
from snakemq.rpc._awake import WaitingAwake
from snakemq.rpc._call_future import CallFuture
from snakemq.rpc._deadlines import Deadlines
from snakemq.rpc._hook_chain import HookChain, Hooked
from snakemq.rpc._known_types import UnknownType
from snakemq.rpc._outgoing_call import BlockingCall, FutureCall, OutgoingCall, Pending, too_late
from snakemq.rpc._outstanding import Outstanding
from snakemq.rpc._parts import PartReceiver, PartSender
from snakemq.rpc._remote_stream import IncomingStream, RemoteStream
from snakemq.rpc.errors import ClientClosed, UnreadableReply, WouldDeadlock
from snakemq.rpc.hooks import CallInfo, call_name
from snakemq.rpc.options import UNSET, CallOptions, Unset, checked_timeout
from snakemq.rpc.proxy import RpcInstProxy
from snakemq.rpc.remote_traceback import describe
from snakemq.rpc.request_ids import request_ids
from snakemq.rpc.safe_pickle import SAFE_PICKLE
from snakemq.rpc.serializer import (
    Serializer,
    explained,
    loads_with_stand_ins,
    request_id_in,
    write,
)

if TYPE_CHECKING:
    from snakemq.messaging import ReceiveHook

__all__ = ["DEFAULT_STREAM_WINDOW", "RpcClient"]

T = TypeVar("T")

#: How many items of a stream may be on their way or wait here for their reader.
DEFAULT_STREAM_WINDOW: Final = 64

_CLOSING: Final = Code.CLOSING.value

#: Characters of an error in the log: it may say what to do about it.
_SHOWN_ERROR: Final = 600

#: What is counted: replies that can't be read; large ones that are not taken.
CLIENT_COUNTERS: Final = ("replies_unreadable", "large_replies_refused")


class RpcClient(Hooked):
    """Makes calls to the objects that other peers have registered.

    One client serves any number of threads, peers and objects. A client and a
    server can share the receive hook; a second client on it takes the replies
    of the first.

    :param receive_hook: brings the replies; its messaging carries the requests
    :param pickler: what requests are written and replies are read with; both
        sides need the same. The default reads and writes pickle's format, and
        makes nothing but plain data, exceptions and what was registered with
        :func:`register_type`. :mod:`pickle` itself does everything that it is
        told by those who send: for peers that you trust.
    :param timeout: of the calls for which nothing nearer says anything: proxy,
        method, or the call itself; see :class:`~snakemq.rpc.options.CallOptions`
    :param wait_for_peer: likewise
    :ivar options: these two; may be changed
    :ivar late_replies: how many replies came for which nobody waited any more,
        or again; they were dropped
    """

    def __init__(
        self,
        receive_hook: ReceiveHook,
        pickler: Serializer = SAFE_PICKLE,
        *,
        timeout: float | None = None,
        wait_for_peer: bool = True,
    ) -> None:
        super().__init__()
        self.log = logging.getLogger("snakemq.rpc.client")
        self.receive_hook = receive_hook
        self.pickler = pickler
        self.options = CallOptions(checked_timeout(timeout), wait_for_peer)
        self._stream_window = DEFAULT_STREAM_WINDOW
        self.late_replies = 0
        #: ``func(exception)``: gets what calls raise, except
        #: :class:`CallError`; the call then returns ``None``. It runs in the
        #: thread of the caller. ``None``: calls raise. Not for futures and
        #: callbacks, which have places of their own for it.
        self.exception_handler: Callable[[Exception], object] | None = None

        messaging = self._messaging = receive_hook.messaging
        self._sender = PartSender(receive_hook, REQUEST_PARTS, self._not_sent)
        #: how often a limit was reached, or something could not be read
        self.counters = Counters(*CLIENT_COUNTERS)
        #: for lines that others can cause
        self.peer_log = PeerLog(self.log, messaging.time)
        self._receiver = PartReceiver(
            receive_hook,
            REPLY_PARTS,
            self.on_recv,
            refused=lambda: self.counters.add("large_replies_refused"),
        )
        self._outstanding = Outstanding(messaging, self._sender, self.log)
        self._deadlines: Deadlines[FutureCall] = Deadlines(messaging, self._expire)
        self._awake = WaitingAwake(messaging, REPLY_PREFIX, self._receive_here)
        receive_hook.register(REPLY_PREFIX, self.on_recv, any_thread=True, take=self._take_message)
        messaging.on_connect.wire(self.on_connect)
        messaging.on_disconnect.wire(self.on_disconnect)
        # Who is connected already does not connect again; asked in the loop,
        # where it can't change between the question and the answer.
        messaging.call_soon(self._outstanding.look_around)

    @overload
    def get_proxy(
        self,
        remote_ident: str,
        name: str = ...,
        interface: None = ...,
        *,
        timeout: float | Unset | None = ...,
        wait_for_peer: bool | Unset = ...,
    ) -> RpcInstProxy: ...

    @overload
    def get_proxy(
        self,
        remote_ident: str,
        name: str,
        interface: Callable[..., T],
        *,
        timeout: float | Unset | None = ...,
        wait_for_peer: bool | Unset = ...,
    ) -> T: ...

    def get_proxy(
        self,
        remote_ident: str,
        name: str = "",
        interface: Callable[..., Any] | None = None,
        *,
        timeout: float | Unset | None = UNSET,
        wait_for_peer: bool | Unset = UNSET,
    ) -> Any:
        """A stand-in for a remote object. Asks nobody: the peer need not be there.

        :param remote_ident: identifier of the peer
        :param name: name under which the peer has registered the object; empty:
            for functions, and for objects by ``proxy.name.method()``
        :param interface: a class that has what the remote object has: a
            protocol, an abstract class, the class of the object itself. For a type
            checker the proxy is an instance of it. A name that it has not is an
            ``AttributeError`` here, before anything is sent.
        :param timeout: of the calls by this proxy, see :class:`RpcClient`
        :param wait_for_peer: likewise
        :raises TypeError: the interface is no class
        """
        if timeout is not UNSET:
            timeout = checked_timeout(timeout)
        options = CallOptions(timeout, wait_for_peer, self.options)
        return RpcInstProxy(self, remote_ident, name, interface, options)

    @property
    def stream_window(self) -> int:
        """How many items of a stream may be on their way or wait for their reader.

        To be set before calls are made.
        """
        return self._stream_window

    @stream_window.setter
    def stream_window(self, items: int) -> None:
        if not 1 <= items <= MAX_COUNT:
            raise ValueError(f"a window is at least 1 item, not {items!r}")
        self._stream_window = items

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._outstanding.closed

    def close(self) -> None:
        """Give up all calls and streams: they raise :class:`ClientClosed`, as will new ones.

        From any thread; a second time is harmless. Callbacks of calls run in
        this thread, because the loop may have ended.
        """
        messaging = self._messaging
        given_up = self._outstanding.close()
        if given_up is None:
            return
        messaging.on_connect.remove(self.on_connect)
        messaging.on_disconnect.remove(self.on_disconnect)
        with contextlib.suppress(KeyError):
            self.receive_hook.unregister(REPLY_PREFIX)
        self._sender.close()
        self._receiver.close()
        for ident, pending in given_up:
            if pending.sent and messaging.is_connected(ident):
                try:
                    messaging.send_message(ident, Message(self._cancel_message(pending.req_id)))
                except Exception as exc:
                    # It only spares the other side some work.
                    self.log.debug("ident=%r can't be told of the end: %r", ident, exc)
            pending.end(None, ClientClosed("the client was closed during the call"))

    def pending_calls(self, ident: str | None = None) -> int:
        """How many calls and streams have not ended. From any thread.

        :param ident: those to this peer; ``None``: all
        """
        return self._outstanding.count(ident)

    def call(
        self,
        remote_ident: str,
        object_name: str,
        method_name: str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        timeout: float | None = None,
        wait_for_peer: bool = True,
    ) -> Any:
        """What a proxy does for a call, without the ``exception_handler``.

        :param timeout: for the whole call, in seconds; ``None``: for ever
        :param wait_for_peer: whether to wait while the peer is not connected
        :return: what the method returns; a :class:`RemoteStream` of what it yields
        :raises CallError: the call failed
        :raises QueueFull: so many messages wait for the peer that the request can't
        :raises Unserializable: the arguments can't be written
        :raises Exception: what the method or a hook raised
        :raises ValueError: the timeout is negative or not a number
        """
        if timeout is not None:
            timeout = checked_timeout(timeout)
        messaging = self._messaging
        if messaging.is_inside_loop() or messaging.queues_manager.in_transaction:
            self._check_may_wait(remote_ident, object_name, method_name)
        req_id = request_ids.next()
        kwargs = kwargs or {}
        hooks = None
        if self.hooks or self.log.isEnabledFor(logging.DEBUG):  # mostly not, and it is long
            hooks = self._announce(remote_ident, object_name, method_name, args, kwargs, req_id)
        try:
            data = self._write_call(object_name, method_name, args, kwargs, req_id, timeout, hooks)
            call = BlockingCall(remote_ident, req_id, data, wait_for_peer, timeout, hooks)
            value = self._wait(call)
        except BaseException as exc:
            if hooks is not None:
                hooks.end(exc)
            raise
        if call.hooks is not None:  # else there are none, or it is a stream, and has only begun
            call.hooks.end(None)
        return value

    def future(
        self,
        remote_ident: str,
        object_name: str,
        method_name: str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        timeout: float | None = None,
        wait_for_peer: bool = True,
    ) -> CallFuture:
        """Make a call and do not wait for it. From any thread.

        :param timeout: see :meth:`call`, as are the others. When it is over,
            the future has the exception.
        :return: has what the call returns or raises, also if it can't be sent
        :raises Unserializable: the arguments can't be written
        :raises ValueError: the timeout is negative or not a number
        :raises Exception: what a hook raised
        """
        timeout = checked_timeout(timeout)
        req_id = request_ids.next()
        kwargs = kwargs or {}
        hooks = self._announce(remote_ident, object_name, method_name, args, kwargs, req_id)
        try:
            data = self._write_call(object_name, method_name, args, kwargs, req_id, timeout, hooks)
        except BaseException as exc:
            if hooks is not None:
                hooks.end(exc)
            raise
        messaging = self._messaging
        call = FutureCall(
            remote_ident, req_id, data, wait_for_peer, timeout, hooks, self._deadlines
        )
        future = call.future = CallFuture(call, self._cancel, messaging)
        try:
            self._outstanding.begin(remote_ident, call)
        except Exception as exc:
            self._outstanding.give_up(remote_ident, call)
            call.end(None, exc)
            return future
        if timeout is not None:
            call.deadline = self._deadlines.add(messaging.time() + timeout, call)
            if call.future is None:  # it has ended, perhaps without a look at the deadline
                self._deadlines.discard(call.deadline)
        return future

    def signal(
        self,
        remote_ident: str,
        object_name: str,
        method_name: str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        ttl: float | None = 0,
    ) -> None:
        """What a proxy does for a signal, without the ``exception_handler``.

        :param ttl: how long it may wait for the peer to be connected, in
            seconds; ``None``: for ever
        :raises ClientClosed: the client was closed
        :raises QueueFull: so many messages wait for the peer that the signal can't
        :raises Unserializable: the arguments can't be written
        :raises Exception: what a hook raised
        """
        if self.closed:
            raise ClientClosed("the client was closed")
        if self.log.isEnabledFor(logging.DEBUG):
            self.log.debug("signal ident=%s %s", remote_ident, call_name(object_name, method_name))
        record = signal_record(object_name, method_name, args, kwargs or {})
        if not self.hooks:
            self._send_signal(remote_ident, record, ttl)
            return
        call = CallInfo(remote_ident, object_name, method_name, args, kwargs or {}, None, {})
        hooks = HookChain(self.hooks, call, self.log)
        hooks.begin()
        if call.headers:
            record["headers"] = call.headers
        try:
            self._send_signal(remote_ident, record, ttl)
        except BaseException as exc:
            hooks.end(exc)
            raise
        hooks.end(None)

    def describe(
        self,
        remote_ident: str,
        timeout: float | Unset | None = UNSET,
        *,
        wait_for_peer: bool | Unset = UNSET,
    ) -> Any:
        """Ask a peer what it serves. Waits for the answer, as a call does.

        1.6 does not answer this: without a timeout that would be waited for
        for ever.

        :param timeout: in seconds, see :class:`RpcClient`
        :param wait_for_peer: likewise
        :return: a list of dictionaries, see :meth:`RpcServer.describe`
        :raises CallError: it failed
        """
        options = CallOptions(timeout, wait_for_peer, self.options)
        limit = checked_timeout(options.timeout)
        self._check_may_wait(remote_ident, "", "describe")
        req_id = request_ids.next()
        data = self._write(describe_record(req_id))
        call = BlockingCall(remote_ident, req_id, data, options.wait_for_peer, limit, None)
        return self._wait(call)

    # In the thread of the caller.

    def _write(self, record: dict[str, Any]) -> bytes:
        return write(self.pickler, record, "a request about a call")

    def _request_about(self, record: dict[str, Any]) -> bytes:
        return REQUEST_PREFIX + self._write(record)

    def _announce(
        self,
        remote_ident: str,
        object_name: str,
        method_name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        req_id: bytes,
    ) -> HookChain | None:
        """Tell the log and the hooks of a call; which hooks are to be told of its end."""
        if self.log.isEnabledFor(logging.DEBUG):
            self.log.debug(
                "call ident=%s %s req_id=%s",
                remote_ident,
                call_name(object_name, method_name),
                req_id.hex(),
            )
        if not self.hooks:
            return None
        info = CallInfo(remote_ident, object_name, method_name, args, kwargs, req_id, {})
        hooks = HookChain(self.hooks, info, self.log)
        hooks.begin()
        return hooks

    def _write_call(
        self,
        object_name: str,
        method_name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        req_id: bytes,
        timeout: float | None,
        hooks: HookChain | None,
    ) -> bytes:
        record = call_record(
            object_name,
            method_name,
            args,
            kwargs,
            req_id,
            timeout,
            self._stream_window,
            None if hooks is None else hooks.call.headers,
        )
        try:
            return self.pickler.dumps(record)
        except Exception as exc:
            what = f"the call of {call_name(object_name, method_name)}"
            raise explained(self.pickler, record, what, exc) from exc

    def _send_signal(self, ident: str, record: dict[str, Any], ttl: float | None) -> None:
        data = write(self.pickler, record, "the signal ", record["object"], record["method"])
        message = Message(REQUEST_PREFIX + data, ttl)
        self._messaging.send_message(ident, message)

    def _wait(self, call: BlockingCall) -> Any:
        ident = call.ident
        try:
            if self._outstanding.begin(ident, call):  # else there are many to be woken anyway
                self._awake.wait(ident, call.is_pending, longest=call.timeout, about=call.trace())
            ended = call.wait(call.timeout)
        except BaseException:
            self._outstanding.give_up(ident, call, self._cancel_message(call.req_id))
            raise
        if not ended:
            remote = self._outstanding.give_up(ident, call, self._cancel_message(call.req_id))
            if remote is not None:
                raise too_late(ident, remote.connected, call.sent)
            # It is ending right now.
            call.wait(None)
        # Not kept here: see fail().
        if call.reply is not None and call.reply.ok:
            return call.reply.value
        call.fail()

    def _check_may_wait(self, ident: str, object_name: str, method_name: str) -> None:
        messaging = self._messaging
        if messaging.is_inside_loop():
            raise WouldDeadlock(
                f"{call_name(object_name, method_name)} of {ident!r} was called in a callback: "
                "the loop can't receive the reply before the callback returns; call it in "
                "another thread, use .future or .callback, or send a signal"
            )
        if messaging.is_in_transaction():
            raise WouldDeadlock(
                f"{call_name(object_name, method_name)} of {ident!r} was called in a transaction "
                "of the storage, for whose end the loop may be waiting; call it before or "
                "after that"
            )

    # In any thread.

    def may_wait(self) -> bool:
        """Whether this thread may wait for what the loop brings. For streams."""
        return not self._messaging.is_inside_loop()

    def _cancel_message(self, req_id: bytes) -> bytes:
        return self._request_about(cancel_record(req_id))

    def _cancel(self, call: FutureCall) -> bool:
        cancel = self._cancel_message(call.req_id)
        with self._outstanding.lock:  # two may cancel it at the same time
            if self._outstanding.give_up(call.ident, call, cancel) is None:
                return call.cancelled
            call.cancelled = True
        future = call.let_go(CancelledError())
        if future is not None:
            future.cancel_now()
        return True

    def go_on(self, stream: IncomingStream) -> None:
        """The reader of a stream has used up what came: ask for more. For streams."""
        try:
            # In the order in which it was granted.
            with self._outstanding.lock:
                more = stream.grant()
                if more is not None:
                    self._outstanding.tell(stream.ident, more)
        except Exception as exc:
            # The other side would wait for ever, and so would the reader.
            if self._outstanding.give_up(stream.ident, stream) is not None:
                stream.end(None, exc)

    def give_up_stream(self, stream: IncomingStream) -> None:
        """The next item did not come in time. For streams."""
        cancel = self._cancel_message(stream.req_id)
        remote = self._outstanding.give_up(stream.ident, stream, cancel)
        if remote is not None:
            stream.end(None, too_late(stream.ident, remote.connected, stream.sent))

    def close_stream(self, stream: IncomingStream) -> None:
        """Nobody reads it any further. For streams."""
        cancel = self._cancel_message(stream.req_id)
        if self._outstanding.give_up(stream.ident, stream, cancel) is not None:
            stream.end(None)

    # In the thread of the loop.

    def on_connect(self, conn_id: str, ident: str) -> None:
        """A peer is connected: send it what waits for it. Called by messaging."""
        self._outstanding.connected(ident, conn_id)

    def on_disconnect(self, conn_id: str, ident: str) -> None:
        """A peer is gone. Called by messaging."""
        self._outstanding.disconnected(conn_id, ident)

    def on_recv(self, conn_id: str, ident: str, message: Message) -> None:
        """A reply. Called by the receive hook."""
        self._take_message(conn_id, ident, message.uuid, message.data)

    def _take_message(self, conn_id: str, ident: str, uuid: bytes, data: bytes) -> None:
        """Likewise."""
        data = data[len(REPLY_PREFIX) :]
        try:
            reply = parse_reply(self.pickler.loads(data))
        except Exception as exc:
            self._salvage(ident, data, exc)
            return
        self._outstanding.pause.before_waking(ident)
        self._take(ident, reply, len(data))

    def _receive_here(self, conn_id: str, ident: str, message: Message) -> bool:
        """Likewise, in the thread that waits for it; false: it is left to the loop."""
        data = message.data[len(REPLY_PREFIX) :]
        try:
            reply = parse_reply(self.pickler.loads(data))
        except Exception:
            if self._is_readable(data):
                raise  # it was not about the reply: a signal handler came just now
            return False
        if not isinstance(self._outstanding.find(ident, reply.req_id), BlockingCall):
            return False  # who gets that wants to be told in the loop's thread
        self._take(ident, reply, len(data))
        flush_wakes()  # this may be the loop of another stack, which puts off what it wakes
        return True

    def _is_readable(self, data: bytes) -> bool:
        try:
            parse_reply(self.pickler.loads(data))
        except Exception as exc:
            self.log.debug("a reply is left to the loop, which can't read it either: %r", exc)
            return False
        return True

    def _take(self, ident: str, reply: Reply, size: int) -> None:
        if reply.position is not None:
            self._take_part(ident, reply, size)
        elif reply.code == _CLOSING and self._keep_for_the_next(ident, reply.req_id):
            self.log.debug("ident=%r is about to end, req_id=%s", ident, reply.req_id.hex())
        else:
            pending = self._outstanding.end(ident, reply.req_id)
            if pending is not None:
                pending.end(reply)
            else:
                self._late(ident, reply)

    def _keep_for_the_next(self, ident: str, req_id: bytes) -> bool:
        """Whether a call that a server did not take waits for the next one.

        It is as if the server had ended a moment before: the request is
        repeated when the peer is connected again.
        """
        pending = self._outstanding.find(ident, req_id)
        if pending is None or not pending.wait_for_peer:
            return False
        with self._outstanding.lock:  # as where it is counted up
            pending.sent -= 1
        return True

    def _not_sent(self, ident: str, req_id: bytes, error: Exception) -> None:
        """A large request could not be sent, or the other side does not take it."""
        pending = self._outstanding.end(ident, req_id)
        if pending is not None:
            pending.end(None, error)

    def _expire(self, call: FutureCall) -> None:
        cancel = self._cancel_message(call.req_id)
        remote = self._outstanding.give_up(call.ident, call, cancel)
        if remote is not None:
            call.end(None, too_late(call.ident, remote.connected, call.sent))

    def _late(self, ident: str, reply: Reply) -> None:
        # Given up, or answered twice after a reconnect, or made up.
        self.late_replies += 1
        self.log.debug("ident=%r reply to nothing, req_id=%s", ident, reply.req_id.hex())

    def _take_part(self, ident: str, reply: Reply, size: int) -> None:
        pending: Pending | None = self._outstanding.find(ident, reply.req_id)
        call: OutgoingCall | None = None
        if isinstance(pending, IncomingStream):
            stream = pending
        elif isinstance(pending, OutgoingCall):
            call = pending
            stream = IncomingStream(call, self._stream_window, call.timeout, self._write)
            if not self._outstanding.replace(ident, call, stream):
                call = pending = None
        if pending is None:
            self._late(ident, reply)
            return
        answer = stream.take(reply, size)
        if stream.over:
            self._outstanding.end(ident, reply.req_id)
        if call is not None:
            call.end_with_stream(RemoteStream(self, stream))
        if answer is not None:
            try:
                self._outstanding.tell(ident, answer)
            except Exception as exc:
                self.log.warning("ident=%r can't be told about a stream: %r", ident, exc)

    def _salvage(self, ident: str, data: bytes, error: Exception) -> None:
        """A reply that can't be read. Somebody waits for it: who?"""
        try:
            reply = parse_reply(loads_with_stand_ins(self.pickler, data))
        except Exception as exc:
            req_id = request_id_in(data)
            # Other serializers that keep bytes as they are leave a trace.
            found = [req_id] if req_id else self._outstanding.mentioned(ident, data)
            if isinstance(exc, UnknownType):
                error = exc  # what is left if an unknown exception is no hindrance
        else:
            if not reply.ok:
                self._take(ident, reply, len(data))
                return
            found = [reply.req_id]
        self.counters.add("replies_unreadable")
        self.peer_log.warning(
            ident,
            "ident=%s unreadable reply: %s: %s",
            quoted(ident),
            type(error).__name__,
            quoted(error, _SHOWN_ERROR),
        )
        pending = self._outstanding.find(ident, found[0]) if len(found) == 1 else None
        if pending is None:
            return
        # If it is a part of a stream, the other side would go on with it.
        cancel = self._cancel_message(pending.req_id)
        if self._outstanding.give_up(ident, pending, cancel) is not None:
            reason = str(error) if isinstance(error, UnknownType) else describe(error)
            failure = UnreadableReply(f"the reply of {ident!r} can't be read: {reason}")
            pending.end(None, failure)

    def __repr__(self) -> str:
        outstanding = self._outstanding
        return (
            f"<RpcClient connected={outstanding.count_connected()} waiting={outstanding.count()}>"
        )
