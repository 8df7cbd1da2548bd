"""The RPC side of a peer, made when it is needed."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from snakemq._core.rpc_parts import REPLY_PARTS, REQUEST_PARTS
from snakemq._peer_log import PeerLog, quoted
from snakemq.exceptions import StorageError
from snakemq.message import Message
from snakemq.messaging import ReceiveHook
from snakemq.peer._call_limits import CallLimits
from snakemq.peer._early_requests import EarlyRequests
from snakemq.rpc import RpcClient, RpcServer, Serializer
from snakemq.rpc.authorization import Authorize
from snakemq.rpc.client import CLIENT_COUNTERS
from snakemq.rpc.server import SERVER_COUNTERS

if TYPE_CHECKING:
    import asyncio

__all__ = ["CALL_PREFIXES", "COMMON_PREFIX", "CallSettings", "Calls"]

#: What comes for a server.
_REQUESTS: Final[tuple[bytes, ...]] = (REQUEST_PARTS.record, REQUEST_PARTS.part)

#: All that belongs to calls.
CALL_PREFIXES: Final = tuple(
    prefix
    for kind in (REQUEST_PARTS, REPLY_PARTS)
    for prefix in (kind.record, kind.part, kind.refusal)
)

#: What all of these begin with, and few others.
COMMON_PREFIX: Final = b"rpc"

#: How long to wait for threads that have nothing to do any more, in seconds.
_IDLE_END: Final = 0.2


class CallSettings(NamedTuple):
    """What :class:`~snakemq.Peer` was told about calls.

    :ivar pickler: serializer of both sides
    :ivar durable: keep answers in the storage
    :ivar authorize: who may call what; ``None``: everybody everything that is served
    """

    pickler: Serializer
    durable: bool
    limits: CallLimits | None
    asyncio_loop: asyncio.AbstractEventLoop | None
    authorize: Authorize | None = None


class Calls:
    """Makes the server with the first object and the client with the first proxy.

    A program that does neither reads no requests and no replies, so nobody can
    send it any that do harm.

    A program that starts and then serves its objects is not yet a server for
    a moment, in which a caller that has waited for it may be faster. Such
    requests are kept for the server, else nobody would ever answer them.

    :raises snakemq.exceptions.StorageError: answers have to be durable, and
        there is no storage
    """

    def __init__(self, hook: ReceiveHook, settings: CallSettings, log: logging.Logger) -> None:
        if settings.durable and hook.messaging.queues_manager.paged is None:
            raise StorageError(
                "durable_calls keeps answers in the storage, and there is none:"
                " give one, as storage=..."
            )
        self._hook = hook
        self._settings = settings
        self._time = hook.messaging.time
        self._early = EarlyRequests()
        self._peer_log = PeerLog(log, self._time)
        self._server: RpcServer | None = None
        #: beginnings of what nobody here would take, and :meth:`take` keeps
        self.early_prefixes = _REQUESTS
        self._client: RpcClient | None = None
        hook.messaging.on_disconnect.wire(self._disconnected)

    # In the loop's thread, or while no loop runs.

    def server(self) -> RpcServer:
        """The server; from now on there is one."""
        if self._server is None:
            settings = self._settings
            limits = settings.limits or CallLimits()
            self._server = RpcServer(
                self._hook,
                settings.pickler,
                max_workers=limits.max_workers,
                max_per_peer=limits.max_per_peer,
                max_per_object=limits.max_per_object,
                max_waiting=limits.max_waiting,
                max_waiting_per_peer=limits.max_waiting_per_peer,
                max_waiting_bytes=limits.max_waiting_bytes,
                max_waiting_bytes_per_peer=limits.max_waiting_bytes_per_peer,
                durable=settings.durable,
                answers=limits.answers,
                asyncio_loop=settings.asyncio_loop,
                authorize=settings.authorize,
            )
            self.early_prefixes = ()
        return self._server

    def client(self) -> RpcClient:
        """The client; from now on there is one."""
        if self._client is None:
            self._client = RpcClient(self._hook, self._settings.pickler)
        return self._client

    def serve(self, obj: object, name: str) -> None:
        """Serve an object or a function."""
        if inspect.isroutine(obj) or isinstance(obj, functools.partial):
            self.server().register_function(obj, name)
        else:
            self.server().register_object(obj, name)
        self._pass_on_early()

    def serve_function(
        self, f: Callable[..., Any], name: str | None, quick: bool, at_most_once: bool
    ) -> None:
        """Serve a function."""
        self.server().register_function(f, name, quick=quick, at_most_once=at_most_once)
        self._pass_on_early()

    def _pass_on_early(self) -> None:
        for early in self._early.take(self._time()):
            self._hook.pass_on(early.conn_id, early.ident, early.message)

    def take(self, conn_id: str, ident: str, message: Message) -> None:
        """Take a message for a server, and keep it for a moment.

        :param message: its data begins with one of :attr:`early_prefixes`
        """
        self._early.add(self._time(), conn_id, ident, message)
        self._peer_log.info(ident, "ident=%s calls, but nothing is served here", quoted(ident))

    def _disconnected(self, conn_id: str, ident: str) -> None:
        # The parts that are missing will not come: all of them are sent again.
        self._early.forget(conn_id, ident, REQUEST_PARTS.part)

    # Any thread.

    def counts(self) -> dict[str, int]:
        """How often each limit of calls was reached, also before there is a server."""
        counts = dict.fromkeys((*SERVER_COUNTERS, *CLIENT_COUNTERS), 0)
        counts |= self._early.counters.as_dict()
        for side in (self._server, self._client):
            if side is not None:
                counts |= side.counters.as_dict()
        return counts

    @property
    def serving(self) -> bool:
        """Whether there is a server, which may be at work."""
        return self._server is not None

    def drain(self, seconds: float) -> bool:
        """Take no more calls; finish those that were taken, and have their answers delivered.

        :param seconds: how long to wait at most
        :return: whether all of that is done
        """
        return self._server is None or self._server.drain(seconds)

    def finish(self) -> None:
        """Take nothing at all any more."""
        if self._server is not None:
            self._server.close(_IDLE_END)

    def close(self) -> None:
        """Release everybody who waits for a reply; there will be none."""
        self.finish()
        if self._client is not None:
            self._client.close()
