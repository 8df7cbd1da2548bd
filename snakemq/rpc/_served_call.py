"""One call that is being served: what a worker does with it.

States::

    WAITING   -> RUNNING    a worker took it
    RUNNING   -> SUSPENDED  an ``async def`` runs in the asyncio loop
    RUNNING, SUSPENDED -> STREAMING   it returned an iterator
    any of them -> ENDED    the caller has its answer, or wants none
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from snakemq._core.rpc_records import Code, Command, Request
from snakemq._peer_log import quoted
from snakemq.rpc._answers import End
from snakemq.rpc._arguments import wrong_arguments
from snakemq.rpc._async_calls import AsyncItems, Carried, InLoop
from snakemq.rpc._executions import Execution, Executions, State
from snakemq.rpc._hook_chain import HookChain
from snakemq.rpc._stream_source import StreamSource
from snakemq.rpc.context import CurrentCall, activate, deactivate
from snakemq.rpc.errors import (
    Error,
    Expired,
    NoInstanceError,
    NoMethodError,
    NotAuthorized,
    Refused,
    SignalCallWarning,
    Unserializable,
    WrongArguments,
)
from snakemq.rpc.remote_traceback import describe, format_remote

if TYPE_CHECKING:
    import asyncio

    from snakemq.rpc._registry import Served
    from snakemq.rpc.server import RpcServer

__all__ = ["ServedCall"]

_log: Final = logging.getLogger("snakemq.rpc.server")

_DESCRIBE: Final = Command.DESCRIBE

#: What has these types is neither awaited nor iterated over: it is sent as it is.
_PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict})

_CODES: dict[type, Code] = {
    NoInstanceError: Code.NO_INSTANCE,
    NoMethodError: Code.NO_METHOD,
    WrongArguments: Code.ARGUMENTS,
    Unserializable: Code.UNSERIALIZABLE,
    Refused: Code.REFUSED,
    NotAuthorized: Code.NOT_AUTHORIZED,
    Expired: Code.EXPIRED,
}


class ServedCall:
    """A call or a signal, from the waiting line to its answer.

    :param server: whose objects are called
    :param ident: who has sent it
    :param conn_id: the connection on which it came
    :param request: what came
    :param execution: that of a call; ``None``: it is a signal
    :param size: of the request, in bytes
    """

    __slots__ = (
        "_hooks",
        "_is_cancelled",
        "_made",
        "conn_id",
        "deadline",
        "execution",
        "ident",
        "is_quick",
        "object_name",
        "request",
        "server",
        "size",
        "source",
    )

    def __init__(
        self,
        server: RpcServer,
        ident: str,
        conn_id: str,
        request: Request,
        execution: Execution | None,
        size: int,
    ) -> None:
        self.server = server
        self.ident = ident
        self.conn_id = conn_id
        self.request = request
        self.execution = execution
        self.size = size
        timeout = request.timeout
        #: until when somebody waits for the answer, in seconds on the clock of the link
        self.deadline = None if timeout is None else server.time() + timeout
        #: whose limit counts, and whether it may run in the loop's thread
        self.object_name, self.is_quick = server.preview(request.object, request.method)
        self.source: StreamSource | None = None
        self._is_cancelled = False
        # Empty, or the call: a dictionary, so that of two threads that make one, one wins.
        self._made: dict[None, CurrentCall] = {}
        self._hooks = HookChain(server.hooks, self.call, server.log) if server.hooks else None

    @property
    def call(self) -> CurrentCall:
        """What the method and the hooks see of it. Any thread.

        It is made when somebody asks for it, which few methods do.
        """
        call = self._made.get(None)
        if call is None:
            # No lock: a finalizer may ask for it in the middle of this.
            call = self.server.current_call(self)
            if self._is_cancelled:
                call.cancel()
            call = self._made.setdefault(None, call)
            # Whoever cancels sets this first, and then looks for the call.
            if self._is_cancelled:
                call.cancel()
        return call

    # In a worker, or in the thread of the loop if the method is quick.

    def run(self) -> bool:
        """Call the method, and answer.

        :return: false: it goes on in the asyncio loop
        """
        token = activate(self)
        try:
            if self._is_unwanted():
                self._not_wanted()
                return True
            return self._run()
        except BaseException as exc:
            self._give_up(exc)
            return True
        finally:
            deactivate(token)

    def _is_unwanted(self) -> bool:
        if self._made:
            return self.call.cancelled
        return self._is_cancelled or (
            self.deadline is not None and self.server.time() >= self.deadline
        )

    def _give_up(self, exc: BaseException) -> None:
        """It could not even be said what went wrong: say at least that."""
        server = self.server
        server.peer_log.error(
            self.ident,
            "ident=%s %s could not be answered",
            quoted(self.ident),
            quoted(self.call.name),
            exc_info=exc,
        )
        execution = self.execution
        if execution is None or execution.state is not State.BEGUN:
            return
        text = f"{self.call.name} could not be answered: {type(exc).__name__}; its log says more"
        self._answer(execution, server.replies.error(execution.req_id, Error(text), ""))

    def _not_wanted(self) -> None:
        """It was cancelled, or its time is over, before it could begin."""
        if self.execution is not None:
            self._fail(Expired(f"{self.call.name} was not begun in time"), "")

    def _run(self) -> bool:
        request = self.request
        server = self.server
        served: Served | None = None
        try:
            if self._hooks is not None:
                self._hooks.begin()
            if request.command is _DESCRIBE:
                self._returned(server.describe_to(self.call))
                return True
            served = server.resolve(request.object, request.method, hints=server.gives_hints)
            func, marks = served
            if marks.is_signal is not (request.req_id is None):
                self._warn()
            if marks.at_most_once and self.execution is not None:
                server.executions.store_begin(self.execution)
            if marks.is_transactional:
                self._run_in_transaction(func)
                return True
            value = func(*request.args, **request.kwargs)
        except BaseException as exc:
            # SystemExit too: it ends no thread here, and the caller waits.
            self._raised(exc, served)
            return True
        if type(value) in _PLAIN and self.execution is not None:
            self._reply(self.execution, value)
        elif hasattr(type(value), "__await__"):
            return self._go_on_in_asyncio(value)
        else:
            self._returned(value)
        return True

    def _run_in_transaction(self, func: Callable[..., Any]) -> None:
        """What the method writes, what it sends, and its answer: all of it or nothing."""
        request = self.request
        execution = self.execution
        answer = b""
        with self.server.begin_transaction() as transaction:
            self.call.set_transaction(transaction)
            try:
                value = func(*request.args, **request.kwargs)
            finally:
                self.call.set_transaction(None)
            if any(hasattr(type(value), name) for name in ("__next__", "__anext__", "__await__")):
                _close(value)
                raise Error(
                    f"{self.call.name} is transactional, so it has to be over when it returns: it"
                    " can be no generator and no async def"
                )
            if execution is not None:
                answer = self.server.replies.value(execution.req_id, value, request)
                self.server.keep_in(transaction, *Executions.record(execution, answer))
        self._call_after(None)
        if execution is not None:
            self.server.answers.keep_and_send(execution, answer, is_stored=True)

    def _warn(self) -> None:
        name = self.call.name
        if self.request.req_id is None:
            text = f"{name} is not marked as a signal and was called as one"
        else:
            text = f"{name} is marked as a signal and was called as a regular method"
        warnings.warn(text, SignalCallWarning, stacklevel=2)

    def _raised(self, exc: BaseException, served: Served | None = None) -> None:
        request = self.request
        if isinstance(exc, TypeError) and served is not None:
            name = self.call.name
            wrong = wrong_arguments(served[0], request.args, request.kwargs, exc, name)
            if wrong is not None:
                self._fail(WrongArguments(f"{name}: {wrong}"), format_remote(exc), exc)
                return
        text = format_remote(exc)
        if isinstance(exc, Exception):
            self._fail(exc, text, exc)
        else:
            # Another program does not get to raise SystemExit in the caller.
            self._fail(Error(f"{self.call.name} raised {describe(exc)}"), text, exc)

    def _fail(self, exc: Exception, text: str, cause: BaseException | None = None) -> None:
        """Have an exception raised by the caller.

        :param cause: what was raised here, if it is another one
        """
        server = self.server
        self._call_after(cause or exc)
        execution = self.execution
        if execution is None or not server.transfer_exceptions:
            # A call that is wrong is not worth a traceback: nothing of the program has run.
            server.peer_log.error(
                self.ident,
                "ident=%s exception in %s: %s",
                quoted(self.ident),
                quoted(self.call.name),
                quoted(describe(exc)),
                exc_info=None if type(exc) in _CODES else cause or exc,
            )
            if execution is not None:
                server.answers.keep_and_send(execution, b"")
            return
        if server.log.isEnabledFor(logging.DEBUG):
            server.log.debug(
                "ident=%r exception to the caller: %s", self.ident, quoted(describe(exc))
            )
        code = _CODES.get(type(exc))
        self._answer(execution, server.replies.error(execution.req_id, exc, text, code=code))

    def _returned(self, value: Any, *, in_worker: bool = True) -> None:
        execution = self.execution
        if execution is None:
            self._call_after(None)
            return
        if hasattr(type(value), "__next__"):
            self._stream(execution, value, in_worker=in_worker)
            return
        if hasattr(type(value), "__anext__"):
            loop = self._running_loop()
            if loop is not None:
                self._stream(execution, AsyncItems(value, loop, self.call), in_worker=in_worker)
            return
        self._reply(execution, value)

    def _reply(self, execution: Execution, value: Any) -> None:
        try:
            answer = self.server.replies.value(execution.req_id, value, self.request)
        except Unserializable as exc:
            self.server.peer_log.warning(self.ident, "ident=%s %s", quoted(self.ident), quoted(exc))
            self._fail(exc, format_remote(exc))
            return
        if self._hooks is not None:
            self._hooks.end(None)
        self._answer(execution, answer)

    def _answer(self, execution: Execution, answer: bytes | None) -> None:
        """Answer a call; ``None``: with silence, because nothing can be written."""
        if answer is None:
            self.server.answers.keep_and_send(execution, b"")
        elif self._is_cancelled:
            # Who cancels a call does not ask for it again.
            self.server.executions.forget(execution)
        else:
            self.server.answers.keep_and_send(execution, answer)

    def _call_after(self, error: BaseException | None) -> None:
        if self._hooks is not None:
            self._hooks.end(error)

    # An async def.

    def _go_on_in_asyncio(self, value: Any) -> bool:
        if self.is_quick:
            _close(value)
            self._raised(Error(f"{self.call.name} is marked as quick, so it can't be awaited"))
            return True
        loop = self._running_loop()
        if loop is None:
            _close(value)
            return True
        # It gets the context of this thread, and with it the current call.
        running = InLoop(value, loop)
        self.call.on_cancel(running.cancel)
        running.future.add_done_callback(self._awaited)
        return False

    def _awaited(self, future: Future[Any]) -> None:
        # Not in the asyncio loop: the answer may have to be stored.
        try:
            self.server.helpers.submit(self._finish, future)
        except RuntimeError:  # the server was closed
            self._finish(future)

    def _finish(self, future: Future[Any]) -> None:
        try:
            if future.cancelled():
                # By the caller, or by itself, or because its loop ends.
                self._fail(Error(f"{self.call.name} was cancelled in its asyncio loop"), "")
                return
            exc = future.exception()
            if exc is None:
                self._returned(future.result(), in_worker=False)
            else:
                self._raised(exc.error if isinstance(exc, Carried) else exc)
        except BaseException as exc:
            self._give_up(exc)
        finally:
            self.server.dispatcher.finished(self)

    def _running_loop(self) -> asyncio.AbstractEventLoop | None:
        """The asyncio loop. ``None``: there is none, and the caller was told."""
        loop = self.server.asyncio_loop
        if loop is not None and loop.is_running():
            return loop
        self._raised(
            Error(
                f"{self.call.name} is asynchronous, which needs a running asyncio loop; give"
                " the server one: RpcServer(..., asyncio_loop=asyncio.get_running_loop())"
            )
        )
        return None

    # A stream.

    def _stream(self, execution: Execution, iterator: Iterator[Any], *, in_worker: bool) -> None:
        window = self.request.window
        if window is None:
            self._return_iterator(execution, iterator)
            return
        if not self.server.streams.admit(self):
            _close(iterator)
            self._raised(Error("so many streams of this caller are open that there is no other"))
            return
        self.source = StreamSource(iterator, window, execution.received_on, self)
        # Whoever cancels sets this first, and then looks for the source.
        if self._is_cancelled:
            self.source.cancel()
        if in_worker and not self.is_quick:
            self.source.run()
        else:
            self.run_source()

    def _return_iterator(self, execution: Execution, iterator: Iterator[Any]) -> None:
        """As 1.6, to one who takes no streams: some iterators can be written."""
        try:
            answer = self.server.replies.value(execution.req_id, iterator, self.request)
        except Unserializable:
            _close(iterator)
            self._raised(
                Error(
                    f"{self.call.name} gives a stream, which this caller (snakeMQ 1.6?) can't"
                    " receive; call it with snakemq 2, or have the method return a list"
                )
            )
            return
        self._call_after(None)
        self._answer(execution, answer)

    def write_items(self, position: int, items: list[Any], end: bool) -> bytes:
        """See :class:`StreamWriter`, as for the next ones."""
        request = self.request
        assert request.req_id is not None
        return self.server.replies.items(request.req_id, position, items, request, end=end)

    def write_error(self, position: int, error: BaseException) -> bytes | None:
        assert self.request.req_id is not None
        text = format_remote(error)
        if not isinstance(error, Exception):
            error = Error(f"{self.call.name} raised {describe(error)}")
        return self.server.replies.error(
            self.request.req_id, error, text, code=_CODES.get(type(error)), position=position
        )

    def send(self, record: bytes) -> None:
        source = self.source
        assert source is not None
        self.server.answers.send(
            self.ident, record, lambda end, conn_id: source.batch_left(lost=end is End.LOST)
        )

    def run_source(self) -> None:
        self.server.dispatcher.submit(_Continuation(self), force=True)

    def flush_source(self) -> None:
        source = self.source
        assert source is not None
        self.server.helpers.submit(source.flush)

    def ended(self, error: BaseException | None) -> None:
        self._call_after(error)
        if self._is_cancelled:
            self.server.streams.left(self)

    def delivered(self) -> None:
        self.server.streams.left(self)

    # Any thread.

    def cancel(self) -> None:
        """The caller does not wait any more."""
        self._is_cancelled = True
        if self._made:
            self.call.cancel()
        if self.source is not None:
            self.source.cancel()


class _Continuation:
    """Takes more items of a stream."""

    size = 0

    def __init__(self, served: ServedCall) -> None:
        self._served = served
        self.ident = served.ident
        self.object_name = served.object_name

    def run(self) -> bool:
        source = self._served.source
        assert source is not None
        token = activate(self._served)
        try:
            source.run()
        finally:
            deactivate(token)
        return True


def _close(value: Any) -> None:
    """Close a generator or coroutine that nobody wants."""
    close = getattr(value, "close", None)
    if close is not None:
        try:
            close()
        except Exception:
            # What the caller is to be told is something else.
            _log.exception("exception while closing %s", type(value))
