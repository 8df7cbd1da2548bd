"""Makes remote calls."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from snakemq._core.rpc_records import (
    REPLY_PREFIX,
    REQUEST_PREFIX,
    Reply,
    call_record,
    parse_reply,
    signal_record,
)
from snakemq.message import Message
from snakemq.rpc.errors import (
    CallError,
    ClientClosed,
    NotConnected,
    PartialCall,
    RemoteError,
    UnreadableReply,
    WouldDeadlock,
)
from snakemq.rpc.proxy import RpcInstProxy
from snakemq.rpc.remote_traceback import attach, describe
from snakemq.rpc.request_ids import new_request_id
from snakemq.rpc.serializer import Serializer, loads_with_stand_ins

if TYPE_CHECKING:
    from snakemq.messaging import ReceiveHook

__all__ = ["RpcClient"]

# On Windows a waiting thread does not notice Ctrl-C before its wait is over.
# Elsewhere it does; there the limit keeps a huge timeout below the largest
# that a lock takes.
_LONGEST_WAIT: Final = 0.5 if os.name == "nt" else 86400.0
_FOR_EVER: Final = float("inf")


class _Call:
    """A call that waits for its end; it ends once."""

    __slots__ = ("_ended", "error", "payload", "reply", "req_id", "sent")

    def __init__(self, req_id: bytes, payload: bytes) -> None:
        self.req_id = req_id
        #: the request as it is sent, and sent again
        self.payload = payload
        self.sent = False
        self.reply: Reply | None = None
        self.error: Exception | None = None
        # A lock that the caller can't get before the end: the cheapest thing
        # there is to wait for.
        self._ended = threading.Lock()
        self._ended.acquire()

    def end(self, reply: Reply | None, error: Exception | None = None) -> None:
        """For the one who took the call out of those that wait, and nobody else."""
        self.reply = reply
        self.error = error
        self._ended.release()

    def wait(self, timeout: float | None) -> bool:
        """Whether it ended within ``timeout`` seconds."""
        remaining = _FOR_EVER if timeout is None else timeout
        while not self._ended.acquire(timeout=min(remaining, _LONGEST_WAIT)):
            remaining -= _LONGEST_WAIT
            if remaining <= 0:
                return False
        return True


class _Remote:
    """A peer that is connected or has been called."""

    __slots__ = ("calls", "conn_id", "connected")

    def __init__(self) -> None:
        self.connected = False
        #: ``None`` while it is not known
        self.conn_id: str | None = None
        #: calls without a reply yet, by ``req_id``
        self.calls: dict[bytes, _Call] = {}


def _too_late(remote_ident: str, connected: bool, sent: bool) -> CallError:
    if connected:
        return PartialCall(f"{remote_ident!r} is connected and did not answer in time")
    if not sent:
        return NotConnected(f"{remote_ident!r} is not connected")
    error = NotConnected(
        f"{remote_ident!r} is not connected any more; it was sent the request and did not answer"
    )
    error.request_sent = True
    return error


class RpcClient:
    """Makes calls to the objects that other peers have registered.

    One client serves any number of threads, peers and objects. A client and a
    server can share the receive hook; a second client on it takes the replies
    of the first.

    :param receive_hook: brings the replies; its messaging carries the requests
    :param pickler: :mod:`pickle` or something with its ``dumps(obj)`` and
        ``loads(data)``; both sides need the same. What ``loads`` accepts is
        what other peers may send here, and pickle may run any code: use it
        with peers that you trust.
    """

    def __init__(self, receive_hook: ReceiveHook, pickler: Serializer = pickle) -> None:
        self.log = logging.getLogger("snakemq.rpc.client")
        self.receive_hook = receive_hook
        self.pickler = pickler
        #: ``func(exception)``: gets what calls raise, except
        #: :class:`CallError`; the call then returns ``None``. It runs in the
        #: thread of the caller. ``None``: calls raise.
        self.exception_handler: Callable[[Exception], object] | None = None
        # Reentrant: a finalizer may make a call, and it may run anywhere.
        self._lock = threading.RLock()
        self._remotes: dict[str, _Remote] = {}
        self._closed = False

        messaging = receive_hook.messaging
        receive_hook.register(REPLY_PREFIX, self.on_recv)
        messaging.on_connect.wire(self.on_connect)
        messaging.on_disconnect.wire(self.on_disconnect)
        # Who is connected already does not connect again; asked in the loop,
        # where it can't change between the question and the answer.
        messaging.call_soon(self._look_around)

    def get_proxy(self, remote_ident: str, name: str) -> RpcInstProxy:
        """A stand-in for a remote object. Asks nobody: the peer need not be there.

        :param remote_ident: identifier of the peer
        :param name: name under which the peer has registered the object
        """
        return RpcInstProxy(self, remote_ident, name)

    def close(self) -> None:
        """Give up all calls: they raise :class:`ClientClosed`, as will new ones.

        From any thread; a second time is harmless.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            messaging = self.receive_hook.messaging
            messaging.on_connect.remove(self.on_connect)
            messaging.on_disconnect.remove(self.on_disconnect)
            with contextlib.suppress(KeyError):
                self.receive_hook.unregister(REPLY_PREFIX)
            remotes = list(self._remotes.values())
            self._remotes.clear()
        for remote in remotes:
            while remote.calls:
                _, call = remote.calls.popitem()
                call.end(None, ClientClosed("the client was closed during the call"))

    def call(
        self,
        remote_ident: str,
        object_name: str,
        method_name: str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """What a proxy does for a call, without the ``exception_handler``.

        :param timeout: for the whole call, in seconds; ``None``: for ever
        :return: what the method returns
        :raises CallError: the call failed
        :raises QueueFull: so many messages wait for the peer that the request can't
        :raises Exception: what the method raised, or the ``pickler`` with
            arguments that can't be sent
        :raises ValueError: the timeout is negative or not a number
        """
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"a timeout is None or at least 0 seconds, not {timeout!r}")
        if self.receive_hook.messaging.is_inside_loop():
            raise WouldDeadlock(
                f"{object_name}.{method_name} of {remote_ident!r} was called in a callback: "
                "the loop can't receive the reply before the callback returns; call it in "
                "another thread, or send a signal"
            )
        req_id = new_request_id()
        record = call_record(object_name, method_name, args, kwargs or {}, req_id)
        call = _Call(req_id, REQUEST_PREFIX + self.pickler.dumps(record))
        if self.log.isEnabledFor(logging.DEBUG):
            self.log.debug(
                "call ident=%s %s.%s req_id=%s",
                remote_ident,
                object_name,
                method_name,
                req_id.hex(),
            )
        try:
            self._begin(remote_ident, call)
            ended = call.wait(timeout)
        except BaseException:
            self._give_up(remote_ident, call)
            raise
        if not ended:
            remote = self._give_up(remote_ident, call)
            if remote is not None:
                raise _too_late(remote_ident, remote.connected, call.sent)
            # It is ending right now.
            call.wait(None)
        return self._outcome(remote_ident, call)

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

        :param ttl: how long it may wait for the peer to be connected, in seconds
        :raises ClientClosed: the client was closed
        :raises QueueFull: so many messages wait for the peer that the signal can't
        :raises Exception: the ``pickler`` can't do it with these arguments
        """
        if self._closed:
            raise ClientClosed("the client was closed")
        record = signal_record(object_name, method_name, args, kwargs or {})
        message = Message(REQUEST_PREFIX + self.pickler.dumps(record), ttl)
        if self.log.isEnabledFor(logging.DEBUG):
            self.log.debug("signal ident=%s %s.%s", remote_ident, object_name, method_name)
        self.receive_hook.messaging.send_message(remote_ident, message)

    # In the thread of the caller.

    def _begin(self, remote_ident: str, call: _Call) -> None:
        with self._lock:
            if self._closed:
                raise ClientClosed("the client was closed")
            remote = self._remotes.get(remote_ident)
            if remote is None:
                remote = self._remotes[remote_ident] = _Remote()
            remote.calls[call.req_id] = call
            if remote.connected:
                # Under the lock: on_connect, if it comes now, must find it
                # either not sent or sent on the old connection.
                self._send(remote_ident, call)

    def _send(self, remote_ident: str, call: _Call) -> None:
        call.sent = True
        # The TTL is 0, as in 1.6: what is not delivered now is repeated by
        # on_connect, and would else arrive twice.
        self.receive_hook.messaging.send_message(remote_ident, Message(call.payload))

    def _give_up(self, remote_ident: str, call: _Call) -> _Remote | None:
        """Forget the call. ``None``: too late, it has ended."""
        with self._lock:
            remote = self._remotes.get(remote_ident)
            if remote is None or remote.calls.pop(call.req_id, None) is None:
                return None
            self._tidy(remote_ident, remote)
            return remote

    def _tidy(self, remote_ident: str, remote: _Remote) -> None:
        if not remote.connected and not remote.calls:
            self._remotes.pop(remote_ident, None)

    def _outcome(self, remote_ident: str, call: _Call) -> Any:
        reply, error = call.reply, call.error
        # What is raised gets a traceback, which has this call in its frames:
        # they must not keep each other alive.
        call.reply = call.error = None
        try:
            if reply is None:
                assert error is not None
                raise error
            if reply.ok:
                return reply.value
            error = reply.exception
            if not isinstance(error, Exception):
                # A serializer that knows no exceptions, or one like SystemExit,
                # which another program does not get to raise here.
                error = RemoteError(error if isinstance(error, str) else describe(error))
            attach(error, reply.traceback, remote_ident)
            raise error
        finally:
            del reply, error

    # In the thread of the loop.

    def on_connect(self, conn_id: str, ident: str) -> None:
        """A peer is connected: send it what waits for it. Called by messaging."""
        self._connected(ident, conn_id)

    def _look_around(self) -> None:
        for ident in self.receive_hook.messaging.connected_peers():
            self._connected(ident, None)

    def _connected(self, ident: str, conn_id: str | None) -> None:
        with self._lock:
            if self._closed:
                return
            remote = self._remotes.get(ident)
            if remote is None:
                remote = self._remotes[ident] = _Remote()
            if conn_id is None and remote.connected:
                return
            remote.connected = True
            remote.conn_id = conn_id
            for call in list(remote.calls.values()):
                try:
                    self._send(ident, call)
                except Exception as exc:
                    self.log.exception("ident=%s can't repeat a request", ident)
                    del remote.calls[call.req_id]
                    call.end(None, exc)

    def on_disconnect(self, conn_id: str, ident: str) -> None:
        """A peer is gone. Called by messaging."""
        with self._lock:
            remote = self._remotes.get(ident)
            # A newer connection may have taken the place of this one.
            if remote is not None and remote.conn_id in (None, conn_id):
                remote.connected = False
                remote.conn_id = None
                self._tidy(ident, remote)

    def on_recv(self, conn_id: str, ident: str, message: Message) -> None:
        """A reply. Called by the receive hook."""
        data = message.data[len(REPLY_PREFIX) :]
        try:
            reply = parse_reply(self.pickler.loads(data))
        except Exception as exc:
            self._salvage(ident, data, exc)
            return
        if not self._end(ident, reply.req_id, reply):
            # Given up, or answered twice after a reconnect, or made up.
            self.log.debug("ident=%s reply to nothing, req_id=%s", ident, reply.req_id.hex())

    def _end(
        self, ident: str, req_id: bytes, reply: Reply | None, error: Exception | None = None
    ) -> bool:
        """False: nobody waits for a reply of this peer with this identifier."""
        remote = self._remotes.get(ident)
        # One step, so that of two threads one gets it.
        call = remote.calls.pop(req_id, None) if remote is not None else None
        if call is None:
            return False
        call.end(reply, error)
        return True

    def _salvage(self, ident: str, data: bytes, error: Exception) -> None:
        """A reply that can't be read. Somebody waits for it: who?"""
        try:
            reply = parse_reply(loads_with_stand_ins(self.pickler, data))
        except Exception as exc:
            # Serializers that keep bytes as they are leave a trace.
            remote = self._remotes.get(ident)
            found = [req_id for req_id in list(remote.calls) if req_id in data] if remote else []
            self.log.warning("ident=%s unreadable reply: %r; %r", ident, error, exc)
        else:
            if not reply.ok and self._end(ident, reply.req_id, reply):
                return
            found = [reply.req_id]
            self.log.warning("ident=%s unreadable reply: %r", ident, error)
        if len(found) == 1:
            failure = UnreadableReply(f"the reply of {ident!r} can't be read: {error!r}")
            self._end(ident, found[0], None, failure)

    def __repr__(self) -> str:
        remotes = list(self._remotes.values())
        return (
            f"<RpcClient connected={sum(remote.connected for remote in remotes)} "
            f"waiting={sum(len(remote.calls) for remote in remotes)}>"
        )
