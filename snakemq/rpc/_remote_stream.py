"""The client's end of a stream: the items that a remote generator yields."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from snakemq._core.rpc_records import REQUEST_PREFIX, Reply, more_record
from snakemq._longest_wait import longest_wait
from snakemq.rpc._outgoing_call import OutgoingCall, failure_in
from snakemq.rpc.errors import StreamGone, WouldDeadlock

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from snakemq.rpc.client import RpcClient

__all__ = ["IncomingStream", "RemoteStream"]

T = TypeVar("T")

_FOR_EVER: Final = float("inf")

#: What was read is acknowledged when it is so much, in bytes, however few the
#: items are: the other side keeps them until then.
_MANY_BYTES: Final = 1024 * 1024


class IncomingStream:
    """A stream that has not come to its end: what it brings, and how far it is.

    It keeps the items for which nobody has asked yet, at most as many as the
    other side was allowed to send.

    :param call: the call that it is the result of
    :param window: how many items that call allows
    :param timeout: how long a reader waits for the next item, in seconds;
        ``None``: for ever
    :param write: ``func(record)``: the record as bytes
    """

    __slots__ = (
        "_bytes",
        "_changed",
        "_consumed",
        "_early",
        "_error",
        "_granted",
        "_hooks",
        "_items",
        "_parts",
        "_received",
        "_window",
        "_write",
        "ident",
        "over",
        "req_id",
        "sent",
        "timeout",
        "wait_for_peer",
    )

    def __init__(
        self,
        call: OutgoingCall,
        window: int,
        timeout: float | None,
        write: Callable[[dict[str, Any]], bytes],
    ) -> None:
        self.ident = call.ident
        self.req_id = call.req_id
        self.wait_for_peer = call.wait_for_peer
        # It was, though the thread that has sent it may not have noted that yet.
        self.sent = max(call.sent, 1)
        self.timeout = timeout
        #: whether nothing more will come; what has come may still be to be read
        self.over = False
        self._hooks, call.hooks = call.hooks, None
        self._write = write
        self._window = window
        self._changed = threading.Condition()
        self._items: deque[Any] = deque()
        self._received = 0
        self._consumed = 0
        # The position up to which the other side may send.
        self._granted = window
        # Parts before which others are missing, by position.
        self._early: dict[int, tuple[Reply, int]] = {}
        # For each part, the position behind it and its size; of those that
        # were read since the other side was told to go on, the size together.
        self._parts: deque[tuple[int, int]] = deque()
        self._bytes = 0
        self._error: Exception | None = None

    # For those who keep the calls and streams that have not ended.

    def message(self) -> bytes:
        """See :class:`~snakemq.rpc._outgoing_call.Pending`: go on from here."""
        with self._changed:
            self._granted = self._consumed + self._window
            return self._more(self._granted - self._received)

    def end(self, reply: Reply | None, error: Exception | None = None) -> None:
        """See :class:`~snakemq.rpc._outgoing_call.Pending`."""
        if reply is not None:
            if reply.ok:
                error = StreamGone(f"{self.ident!r} has sent something else instead of the rest")
            else:
                error = failure_in(reply, self.ident)
        self._finish(error)

    # In the thread of the loop.

    def take(self, reply: Reply, size: int) -> bytes | None:
        """A part has come. It may be the last one: then this is :attr:`over`.

        :param size: of the record, in bytes
        :return: what to answer
        """
        position = reply.position
        assert position is not None
        count = len(reply.value) if reply.ok else 0
        with self._changed:
            if self.over:  # it was closed at this moment
                return None
            if position + count > self._granted:
                is_over = True
                error: Exception | None = StreamGone(
                    f"{self.ident!r} has sent more than it was asked for"
                )
            else:
                # Large parts are overtaken by small ones.
                self._early[position] = (reply, size)
                is_over, error = self._take_in_order()
            self._changed.notify_all()
        if not is_over:
            return None
        self._finish(error)
        # All of it has arrived.
        return self._more(0)

    def _take_in_order(self) -> tuple[bool, Exception | None]:
        """Whether that was the end, and why, if it failed."""
        early = self._early
        while early:
            position = min(early)
            if position > self._received:
                break
            reply, size = early.pop(position)
            if not reply.ok:
                return True, failure_in(reply, self.ident)
            # What was sent before a reconnect may come again.
            items = reply.value[self._received - position :]
            if items:
                self._items.extend(items)
                self._received += len(items)
                self._parts.append((self._received, size))
            if reply.end:
                return True, None
        return False, None

    # For the reader, in any thread.

    def read(self, may_wait: Callable[[], bool]) -> tuple[bool, Any]:
        """The next item, and whether it is one.

        :param may_wait: False: this thread must not
        :return: no item: the time is over
        :raises StopIteration: there is none
        :raises WouldDeadlock: there is none yet, and this thread must not wait
        :raises Exception: the stream has failed
        """
        remaining = _FOR_EVER if self.timeout is None else self.timeout
        longest = longest_wait()
        with self._changed:
            while not self._items:
                if self.over:
                    self._raise()
                if not may_wait():
                    raise WouldDeadlock(
                        "the next item of a stream was waited for in a callback: the loop can't "
                        "receive it before the callback returns; read it in another thread"
                    )
                if self._changed.wait(min(remaining, longest)):
                    # Perhaps for another thread; then the next part is another one.
                    remaining = _FOR_EVER if self.timeout is None else self.timeout
                    continue
                remaining -= longest
                if remaining <= 0 and not self._items and not self.over:
                    return False, None
            self._consumed += 1
            parts = self._parts
            while parts and parts[0][0] <= self._consumed:
                self._bytes += parts.popleft()[1]
            return True, self._items.popleft()

    def wants_more(self) -> bool:
        """Whether it is time to let the other side go on."""
        return not self.over and (
            (self._granted - self._consumed) * 2 <= self._window or self._bytes >= _MANY_BYTES
        )

    def grant(self) -> bytes | None:
        """What to tell the other side, if it is time."""
        with self._changed:
            if not self.wants_more():
                return None
            self._bytes = 0
            self._granted = self._consumed + self._window
            return self._more(self._granted - self._received)

    def discard(self) -> None:
        """Nobody reads any further."""
        with self._changed:
            self._items.clear()
            self._parts.clear()
            self._early.clear()
            self._error = None

    def _more(self, window: int) -> bytes:
        return REQUEST_PREFIX + self._write(more_record(self.req_id, self._received, window))

    def _finish(self, error: Exception | None) -> None:
        with self._changed:
            if self.over:
                return
            self.over = True
            self._error = error
            self._changed.notify_all()
        hooks, self._hooks = self._hooks, None
        if hooks is not None:
            hooks.end(error)

    def _raise(self) -> None:
        error = self._error
        if error is None:
            raise StopIteration
        try:
            # Each time it would be raised its traceback would grow.
            raise error.with_traceback(None)
        finally:
            del self, error


class RemoteStream(Generic[T]):
    """What a remote generator yields, as it comes: the result of such a call.

    An iterator, for one thread or several. The other side goes on while items
    are taken out here, and is a window ahead at most. What the remote generator
    raises is raised behind its last item, with the remote traceback.

    After a reconnect the stream goes on where it was. If the other side has no
    memory of it, :class:`StreamGone` is raised.

    The timeout of the call is for the first item, and again for each next one.

    A stream that is not read to its end should be closed: with :meth:`close`,
    as a context manager, or by letting go of it. The generator on the other
    side is closed then.
    """

    def __init__(self, client: RpcClient, stream: IncomingStream) -> None:
        self._client = client
        self._stream = stream

    @property
    def req_id(self) -> bytes:
        """Identifies the call, to both sides; 16 bytes."""
        return self._stream.req_id

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """Wait for the next item. From any thread; not in the loop's, if it has to wait.

        :raises StopIteration: there are no more
        :raises CallError: the next item did not come in time, or can't come any more
        :raises WouldDeadlock: it would wait in the thread of the loop
        :raises Exception: what the remote generator raised
        """
        stream = self._stream
        while True:
            found, item = stream.read(self._client.may_wait)
            if found:
                if stream.wants_more():
                    self._client.go_on(stream)
                value: T = item
                return value
            self._client.give_up_stream(stream)

    def close(self) -> None:
        """Read no further, and tell the other side. From any thread; a second time is harmless."""
        self._client.close_stream(self._stream)
        self._stream.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # The collector may run it anywhere: also while this thread holds a lock.
        if not self._stream.over:
            self._client.receive_hook.messaging.call_soon(self._client.close_stream, self._stream)

    def __repr__(self) -> str:
        state = "over" if self._stream.over else "open"
        return f"<RemoteStream of {self._stream.ident!r} {state}>"
