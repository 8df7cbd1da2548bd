"""The RPC side of a peer, made when it is needed."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

from snakemq.message import Message
from snakemq.messaging import ReceiveHook
from snakemq.rpc import REPLY_PREFIX, REQUEST_PREFIX, RpcClient, RpcServer

__all__ = ["Calls"]

_PREFIXES: Final = (REQUEST_PREFIX, REPLY_PREFIX)

#: Requests that came before there was a server are kept for it so long, in
#: seconds, and so many of them.
_EARLY_SECONDS: Final = 5.0
_EARLY_COUNT: Final = 100

#: How long to wait for threads that have nothing to do any more, in seconds.
_IDLE_END: Final = 0.2


class Calls:
    """Makes the server with the first object and the client with the first proxy.

    A program that does neither reads no requests and no replies, so nobody can
    send it any that do harm.

    A program that starts and then serves its objects is not yet a server for
    a moment, in which a caller that has waited for it may be faster. Such
    requests are kept for the server, else nobody would ever answer them.
    """

    def __init__(self, hook: ReceiveHook, log: logging.Logger) -> None:
        self._hook = hook
        self._log = log
        self._time = hook.messaging.time
        #: when it came, and what came
        self._early: deque[tuple[float, str, str, Message]] = deque(maxlen=_EARLY_COUNT)
        self._server: RpcServer | None = None
        self._client: RpcClient | None = None

    # In the loop's thread, or while no loop runs.

    def server(self) -> RpcServer:
        """The server; from now on there is one."""
        if self._server is None:
            self._server = RpcServer(self._hook)
        return self._server

    def client(self) -> RpcClient:
        """The client; from now on there is one."""
        if self._client is None:
            self._client = RpcClient(self._hook)
        return self._client

    def serve(self, obj: object, name: str) -> None:
        """Serve an object."""
        server = self.server()
        server.register_object(obj, name)
        latest = self._time() - _EARLY_SECONDS
        while self._early:
            came, conn_id, ident, message = self._early.popleft()
            if came >= latest:
                server.on_recv(conn_id, ident, message)

    def take(self, conn_id: str, ident: str, message: Message) -> bool:
        """Whether the message is one of a remote call, and so not for the program."""
        data = message.data
        if not data.startswith(_PREFIXES):
            return False
        if self._server is None and data.startswith(REQUEST_PREFIX):
            self._early.append((self._time(), conn_id, ident, message))
            self._log.info("%s calls, but nothing is served here", ident)
        return True

    # Any thread.

    @property
    def serving(self) -> bool:
        """Whether there is a server, which may be at work."""
        return self._server is not None

    def finish(self, seconds: float) -> bool:
        """Take no more requests, and wait until those that run are done.

        :param seconds: how long to wait at most
        :return: whether they are
        """
        return self._server is None or self._server.close(seconds)

    def close(self) -> None:
        """Release everybody who waits for a reply; there will be none."""
        self.finish(_IDLE_END)
        if self._client is not None:
            self._client.close()
