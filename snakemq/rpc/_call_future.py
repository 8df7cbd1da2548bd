"""The result of a call that nobody waits for yet."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

from snakemq.rpc.errors import RemoteError, WouldDeadlock
from snakemq.rpc.remote_traceback import describe

if TYPE_CHECKING:
    from snakemq.messaging import Messaging
    from snakemq.rpc._outgoing_call import FutureCall
    from snakemq.rpc.client import RpcClient

__all__ = ["CallFuture", "Callbacks"]


class CallFuture(Future[Any]):
    """A :class:`concurrent.futures.Future` of a remote call.

    It works with everything that works with those: :func:`concurrent.futures.wait`,
    :func:`concurrent.futures.as_completed`, :func:`asyncio.wrap_future`. Its
    done-callbacks run in the thread that ends the call, which is mostly that of
    the loop: they must not block. What they raise is logged.

    :param call: tells this future of its end
    :param cancel: ``func(call)``: whether it was cancelled
    :param messaging: knows which thread is that of the loop
    """

    def __init__(
        self, call: FutureCall, cancel: Callable[[FutureCall], bool], messaging: Messaging
    ) -> None:
        super().__init__()
        self._call = call
        self._cancel_call = cancel
        self._messaging = messaging

    @property
    def req_id(self) -> bytes:
        """Identifies the call, to both sides; 16 bytes."""
        return self._call.req_id

    def cancel(self) -> bool:
        """Give up the call, unless it has ended. From any thread.

        If the request was sent and the peer is connected, the peer is told: a
        method that has not begun does not run, and one that runs can ask.

        :return: whether it is cancelled; not if it has ended otherwise
        """
        return self._cancel_call(self._call)

    def cancel_now(self) -> None:
        """It was cancelled: become so, and tell those who wait. For the client."""
        super().cancel()
        # Without this, wait() and as_completed() would not hear of it.
        self.set_running_or_notify_cancel()

    def result(self, timeout: float | None = None) -> Any:
        """Wait for what the call returns.

        :param timeout: how long to wait, in seconds; ``None``: until the call
            ends. The call has a timeout of its own, and goes on after this one.
        :raises WouldDeadlock: it would wait in the thread of the loop
        :raises TimeoutError: it has not ended in time;
            :class:`concurrent.futures.TimeoutError` before Python 3.11
        :raises concurrent.futures.CancelledError: it was cancelled
        :raises CallError: the call failed
        :raises Exception: what the method raised
        """
        error = self._wait(timeout)
        if error is None:
            return super().result(0)
        try:
            # Each time it would be raised its traceback would grow.
            raise error.with_traceback(None)
        finally:
            del self, error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for what the call raises.

        :param timeout: see :meth:`result`, as are the exceptions
        :return: what it raised; ``None``: it returned. A ``StopIteration``, which
            no future of asyncio takes, comes as a :class:`RemoteError`.
        """
        error = self._wait(timeout)
        if isinstance(error, StopIteration):
            stand_in = RemoteError(describe(error))
            stand_in.class_name = "builtins.StopIteration"
            stand_in.__cause__ = error
            return stand_in
        return error

    def _wait(self, timeout: float | None) -> BaseException | None:
        if (
            (timeout is None or timeout > 0)
            and not self.done()
            and self._messaging.is_inside_loop()
        ):
            raise WouldDeadlock(
                "the result of a call was waited for in a callback: the loop can't receive "
                "the reply before the callback returns; use add_done_callback"
            )
        return super().exception(timeout)


class Callbacks:
    """Calls one of two functions when a call has ended, in the thread of the loop.

    :param success: ``func(value)``
    :param error: ``func(exception)``; ``None``: it is logged
    :param name: of the call, for the log
    """

    def __init__(
        self,
        success: Callable[[Any], object] | None,
        error: Callable[[BaseException], object] | None,
        name: str,
        client: RpcClient,
    ) -> None:
        self._success = success
        self._error = error
        self._name = name
        self._client = client
        self._messaging = client.receive_hook.messaging

    def watch(self, future: CallFuture) -> None:
        """Wait for the end of this call, without blocking."""
        if future.done():
            # Nothing runs before the one who makes the call has the future.
            self._messaging.call_soon(self._run, future)
        else:
            future.add_done_callback(self._ended)

    def _ended(self, future: Future[Any]) -> None:
        # After close() there may be no loop any more.
        if self._client.closed or self._messaging.is_inside_loop():
            self._run(future)
        else:
            self._messaging.call_soon(self._run, future)

    def _run(self, future: Future[Any]) -> None:
        success, self._success = self._success, None
        on_error, self._error = self._error, None
        error: BaseException | None
        try:
            error = future.exception(0)
        except CancelledError as exc:
            error = exc
        try:
            if error is None:
                if success is not None:
                    success(future.result(0))
            elif on_error is not None:
                on_error(error)
            elif future.cancelled():
                self._client.log.debug("%s was cancelled", self._name)
            else:
                self._client.log.error("%s failed: %r", self._name, error, exc_info=error)
        except Exception as exc:
            func: Any = success if error is None else on_error
            self._messaging.callback_failed("rpc callback", func, (), exc)
