"""A call that was made and has not ended, and how it ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from snakemq._core.rpc_records import REQUEST_PREFIX, Reply
from snakemq._longest_wait import is_main_thread, longest_wait
from snakemq._sleepers import borrow_sleeper, return_sleeper, sleep_while
from snakemq._wakes import wake
from snakemq.rpc.errors import (
    CallError,
    NotConnected,
    PartialCall,
    RemoteError,
    ServerClosing,
    error_of,
)
from snakemq.rpc.remote_traceback import attach, describe

if TYPE_CHECKING:
    from snakemq._sleepers import Sleeper
    from snakemq.rpc._call_future import CallFuture
    from snakemq.rpc._deadlines import Deadline, Deadlines
    from snakemq.rpc._hook_chain import HookChain
    from snakemq.rpc._remote_stream import RemoteStream

__all__ = [
    "BlockingCall",
    "FutureCall",
    "OutgoingCall",
    "Pending",
    "failure_in",
    "not_connected",
    "too_late",
]


class Pending(Protocol):
    """What waits for replies of a peer: a call, or a stream."""

    #: what identifies it, to both sides
    req_id: bytes
    #: how often it was sent to a server that may have taken it
    sent: int
    #: False: it ends when the connection does
    wait_for_peer: bool

    def message(self) -> bytes:
        """What to send to the peer that is connected (again): prefix and record."""

    def end(self, reply: Reply | None, error: Exception | None = None) -> None:
        """The last reply, or why there will be none.

        For the one who took it out of those that wait, and nobody else.
        """


class OutgoingCall(ABC):
    """A call that waits for its end; it ends once.

    :ivar payload: the request as it is sent, and sent again
    :ivar timeout: how long it may take, in seconds
    :ivar hooks: those that are told of its end; ``None``: nobody
    """

    __slots__ = ("hooks", "ident", "payload", "req_id", "sent", "timeout", "wait_for_peer")

    def __init__(
        self,
        ident: str,
        req_id: bytes,
        record: bytes,
        wait_for_peer: bool,
        timeout: float | None,
        hooks: HookChain | None,
    ) -> None:
        self.ident = ident
        self.req_id = req_id
        self.payload = REQUEST_PREFIX + record
        self.wait_for_peer = wait_for_peer
        self.timeout = timeout
        self.hooks = hooks
        self.sent = 0

    def message(self) -> bytes:
        """See :class:`Pending`."""
        return self.payload

    @abstractmethod
    def end(self, reply: Reply | None, error: Exception | None = None) -> None:
        """See :class:`Pending`."""

    @abstractmethod
    def end_with_stream(self, stream: RemoteStream[Any]) -> None:
        """The result is a stream. It will tell the hooks of the end."""


class BlockingCall(OutgoingCall):
    """A call for whose end a thread waits."""

    # Without slots and __init__: the defaults are attributes of the class, and one is made
    # for each call.
    reply: Reply | None = None
    error: Exception | None = None
    has_ended = False
    # Where the caller sleeps; mostly it has the answer before it could fall asleep, or
    # there are many that call.
    _sleeper: Sleeper | None = None

    def end(self, reply: Reply | None, error: Exception | None = None) -> None:
        """See :class:`Pending`."""
        self.reply = reply
        self.error = error
        # In this order: the caller sets the other one first.
        self.has_ended = True
        if self._sleeper is not None:
            wake(self._sleeper)

    def end_with_stream(self, stream: RemoteStream[Any]) -> None:
        """See :class:`OutgoingCall`."""
        self.end(Reply(self.req_id, True, stream))

    def trace(self) -> bytes:
        """What the reply contains, whatever the serializer: pickles have bytes as they are."""
        return self.req_id if self.req_id in self.payload else self.req_id.hex().encode()

    def is_pending(self) -> bool:
        """Whether it has not ended."""
        return not self.has_ended

    def wait(self, timeout: float | None) -> bool:
        """Whether it ended within ``timeout`` seconds."""
        if self.has_ended:
            return True
        sleeper = self._sleeper = borrow_sleeper()
        try:
            if timeout is None and not is_main_thread():
                while not self.has_ended:
                    sleeper.sleep()
                return True
            return sleep_while(sleeper, self.is_pending, timeout, longest_wait())
        finally:
            return_sleeper(sleeper)

    def fail(self) -> NoReturn:
        """It ended and has no value: raise what it raises."""
        reply, error = self.reply, self.error
        # What is raised gets a traceback, which has this call in its frames:
        # they must not keep each other alive.
        self.reply = self.error = None
        try:
            if reply is not None:
                error = failure_in(reply, self.ident)
            assert error is not None
            raise error
        finally:
            del reply, error


class FutureCall(OutgoingCall):
    """A call whose end a future tells.

    :ivar future: ``None`` when it has ended
    :ivar deadline: in :attr:`deadlines`
    :ivar cancelled: whether it ended because somebody cancelled it
    """

    __slots__ = ("cancelled", "deadline", "deadlines", "future")

    def __init__(
        self,
        ident: str,
        req_id: bytes,
        record: bytes,
        wait_for_peer: bool,
        timeout: float | None,
        hooks: HookChain | None,
        deadlines: Deadlines[FutureCall],
    ) -> None:
        super().__init__(ident, req_id, record, wait_for_peer, timeout, hooks)
        self.future: CallFuture | None = None
        self.deadlines = deadlines
        self.deadline: Deadline[FutureCall] | None = None
        self.cancelled = False

    def let_go(self, error: BaseException | None) -> CallFuture | None:
        """It is over: keep nothing, tell the hooks. The future is still to be told."""
        # In this order: see where the deadline is added.
        future, self.future = self.future, None
        if self.deadline is not None:
            self.deadlines.discard(self.deadline)
        # The user may keep the future for long, and that keeps this.
        self.payload = b""
        if self.hooks is not None:
            self.hooks.end(error)
            self.hooks = None
        return future

    def end(self, reply: Reply | None, error: Exception | None = None) -> None:
        """See :class:`Pending`."""
        value: Any = None
        if reply is not None:
            if reply.ok:
                value = reply.value
            else:
                error = failure_in(reply, self.ident)
        future = self.let_go(error)
        assert future is not None
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    def end_with_stream(self, stream: RemoteStream[Any]) -> None:
        """See :class:`OutgoingCall`."""
        self.end(Reply(self.req_id, True, stream))


def failure_in(reply: Reply, ident: str) -> Exception:
    """The exception in a reply, with its remote traceback."""
    error: Any = error_of(reply.code, reply.exception) if reply.code else None
    if error is None:
        error = reply.exception
        if not isinstance(error, Exception):
            # A serializer that knows no exceptions, or one like SystemExit,
            # which another program does not get to raise here.
            error = RemoteError(error if isinstance(error, str) else describe(error))
    attach(error, reply.traceback, ident)
    failure: Exception = error
    return failure


def too_late(ident: str, connected: bool, sent: int) -> CallError:
    """What a call raises whose time is over."""
    if connected and not sent:
        return ServerClosing(f"{ident!r} is about to end, and no other has taken its place in time")
    if connected:
        return PartialCall(f"{ident!r} is connected and did not answer in time")
    return not_connected(ident, sent)


def not_connected(ident: str, sent: int) -> NotConnected:
    """What a call raises whose peer is not connected."""
    if not sent:
        return NotConnected(f"{ident!r} is not connected")
    error = NotConnected(
        f"{ident!r} is not connected any more; it was sent the request and did not answer"
    )
    error.request_sent = True
    return error
