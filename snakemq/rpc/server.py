"""Serves remote calls."""

from __future__ import annotations

import contextlib
import logging
import pickle
import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from snakemq._core.rpc_parts import REQUEST_PARTS
from snakemq._core.rpc_records import (
    REQUEST_PREFIX,
    Code,
    Command,
    Request,
    parse_request,
)
from snakemq._io.workers import WorkerPool
from snakemq._peer_log import PeerLog, quoted
from snakemq.counters import Counters
from snakemq.exceptions import StorageError
from snakemq.message import Message
from snakemq.rpc._answers import Answers
from snakemq.rpc._authorizer import Authorizer, unambiguous
from snakemq.rpc._awake import Lingering
from snakemq.rpc._deferred import Later, Unread
from snakemq.rpc._dispatcher import (
    DEFAULT_MAX_PER_OBJECT,
    DEFAULT_MAX_PER_PEER,
    DEFAULT_MAX_WAITING,
    DEFAULT_MAX_WAITING_BYTES,
    DEFAULT_MAX_WAITING_BYTES_PER_PEER,
    DEFAULT_MAX_WAITING_PER_PEER,
    DEFAULT_MAX_WORKERS,
    Dispatcher,
)
from snakemq.rpc._draining import Draining
from snakemq.rpc._executions import AnswerLimits, Execution, Executions, State
from snakemq.rpc._hook_chain import Hooked
from snakemq.rpc._known_types import UnknownType
from snakemq.rpc._open_streams import OpenStreams
from snakemq.rpc._parts import PartReceiver
from snakemq.rpc._pause import Pause
from snakemq.rpc._peek import PEEKED, call_in
from snakemq.rpc._registry import Registry
from snakemq.rpc._replies import ReplyWriter
from snakemq.rpc._served_call import ServedCall
from snakemq.rpc.authorization import AuthorizeLike, authorize_of
from snakemq.rpc.context import CurrentCall
from snakemq.rpc.errors import (
    Busy,
    CallInterrupted,
    Error,
    NoInstanceError,
    NotAuthorized,
    ServerClosing,
    StreamGone,
    UnreadableRequest,
)
from snakemq.rpc.hooks import call_name
from snakemq.rpc.remote_traceback import describe
from snakemq.rpc.safe_pickle import SAFE_PICKLE
from snakemq.rpc.serializer import Serializer, is_safe, request_id_in

if TYPE_CHECKING:
    import asyncio

    from snakemq.messaging import ReceiveHook, Transaction

__all__ = ["RpcServer"]

_PREFIX_SIZE: Final = len(REQUEST_PREFIX)

#: Longer requests are read by a worker, in bytes: the loop has other things to do.
_MAX_READ_IN_LOOP: Final = 64 * 1024

#: So much of either end of a request is looked at for its identifier, in bytes.
_ENDS: Final = 4096

#: So many threads at most answer calls that were finished in the asyncio loop,
#: and send items of streams whose next one takes a while.
_MAX_HELPERS: Final = 8

#: Characters of an error in the log: it may say what to do about it.
_SHOWN_ERROR: Final = 600

#: What is counted.
SERVER_COUNTERS: Final = (
    # refused by ``authorize``
    "calls_unauthorized",
    # refused or, if nobody waits, dropped: too many waited
    "calls_busy",
    "signals_dropped",
    # requests that can't be read
    "requests_unreadable",
    # not taken: too large, too many at a time, not in order
    "large_requests_refused",
    # too many of a caller, or of all, were open
    "streams_refused",
    # cancelled before they were read, too many of a caller
    "cancellations_forgotten",
    # answers that were not kept until their callers had them
    "answers_forgotten",
    # no room in the queue of a caller, for too many
    "replies_lost",
)

# Looking for them in their class takes longer.
_CALL: Final = Command.CALL
_DESCRIBE: Final = Command.DESCRIBE
_INTERRUPTED: Final = State.INTERRUPTED

#: Under this name answers are kept in the storage.
_LEDGER: Final = "answers to calls"


class RpcServer(Registry, Hooked):
    """Serves the public methods of objects, and functions, that are registered with it.

    Methods run in threads of their own, several at a time, in no guaranteed
    order; they may block. A name that begins with an underscore is never
    served. All methods are for any thread.

    **Once.** A caller that was disconnected repeats its request. It is attached
    to the call that runs, or gets the answer that was kept: the method runs
    once for each call, as long as this object lives. With ``durable`` answers
    are in the storage before they are sent, so that holds across restarts for
    calls that were answered. One that was running when the process was killed
    is run again, unless its method is marked as :func:`at_most_once`; if it is
    marked as :func:`transactional`, what it had written is not there.

    **Who may call what.** By default, everybody who is connected may call every
    public method of what is registered. ``authorize`` is asked before anything
    else is done about a request: a table, :class:`Permissions`, or a function that
    gets a :class:`CallRequest` and returns ``True`` or ``False``. It is called in
    the thread of the loop or in a worker while the loop waits, and for large requests in
    others, so it must not block; when it raises, the request is refused. The caller gets
    :class:`NotAuthorized`.

    **Limits.** A call that can't run yet waits in line; callers and objects
    take turns. When the line is full, or as much of it as one caller may have, a
    caller gets :class:`Busy`. :attr:`counters` says how often that was.

    :param receive_hook: brings the requests; its messaging carries the replies
    :param pickler: what requests are read and replies are written with; both
        sides need the same. The default reads and writes pickle's format, and
        makes nothing but plain data and what was registered with
        :func:`register_type`. :mod:`pickle` itself does everything that it is told by
        those who send: for peers that you trust.
    :param max_workers: how many methods run at a time. Methods that call back
        to a peer whose call they serve need a worker each.
    :param max_per_peer: how many of them for one caller
    :param max_per_object: how many of them of one object, or of one function
    :param max_waiting: how many calls wait beyond those
    :param max_waiting_per_peer: how many of them of one caller
    :param max_waiting_bytes: how large the requests of those that wait may be, in bytes
    :param max_waiting_bytes_per_peer: likewise, of one caller
    :param durable: keep answers in the storage
    :param answers: how many answers are kept, and for how long
    :param asyncio_loop: a running loop, for methods that are ``async def``
    :param authorize: who may call what: a function, a :class:`Permissions`, or the
        dictionary that one is made of; ``None``: everybody everything that is served
    :raises TypeError: ``authorize`` is nothing of that
    :raises snakemq.exceptions.StorageError: ``durable``, and there is no storage
    """

    def __init__(
        self,
        receive_hook: ReceiveHook,
        pickler: Serializer = SAFE_PICKLE,
        *,
        max_workers: int = DEFAULT_MAX_WORKERS,
        max_per_peer: int = DEFAULT_MAX_PER_PEER,
        max_per_object: int = DEFAULT_MAX_PER_OBJECT,
        max_waiting: int = DEFAULT_MAX_WAITING,
        max_waiting_per_peer: int = DEFAULT_MAX_WAITING_PER_PEER,
        max_waiting_bytes: int = DEFAULT_MAX_WAITING_BYTES,
        max_waiting_bytes_per_peer: int = DEFAULT_MAX_WAITING_BYTES_PER_PEER,
        durable: bool = False,
        answers: AnswerLimits | None = None,
        asyncio_loop: asyncio.AbstractEventLoop | None = None,
        authorize: AuthorizeLike | None = None,
    ) -> None:
        ask = authorize_of(authorize)
        Registry.__init__(self)
        Hooked.__init__(self)
        self.log = logging.getLogger("snakemq.rpc.server")
        self.receive_hook = receive_hook
        self.pickler = pickler
        self.asyncio_loop = asyncio_loop
        #: Whether the caller gets what a method raised. If not, the exception
        #: is logged here and, as in 1.6, nothing is sent: the caller waits
        #: until its timeout and raises :class:`PartialCall`.
        self.transfer_exceptions = True
        self.replies = ReplyWriter(pickler, self.log)
        messaging = self._messaging = receive_hook.messaging
        self.time = messaging.time
        self._ledger = messaging.open_ledger(_LEDGER) if durable else None
        #: how often a limit was reached, or a request refused
        self.counters = Counters(*SERVER_COUNTERS)
        #: for lines that others can cause
        self.peer_log = PeerLog(self.log, messaging.time)
        self._authorizer = ask and Authorizer(ask, messaging, self.peer_log, self.counters)
        #: Whoever may not call everything is not told what else there is.
        self.gives_hints = self._authorizer is None
        self.executions = Executions(
            messaging.time, answers or AnswerLimits(), self._ledger, self.counters
        )
        self.answers = Answers(receive_hook, self.executions, self.replies, self.peer_log)
        self._lingering = Lingering(messaging, self.on_recv)
        self._pause = Pause(messaging, lambda _: self.dispatcher.running)
        self.dispatcher = Dispatcher(
            "snakemq-rpc",
            max_workers=max_workers,
            max_per_peer=max_per_peer,
            max_per_object=max_per_object,
            max_waiting=max_waiting,
            max_waiting_bytes=max_waiting_bytes,
            max_waiting_per_peer=max_waiting_per_peer,
            max_waiting_bytes_per_peer=max_waiting_bytes_per_peer,
            linger=self._lingering.wait,
            pause=self._pause,
        )
        #: write what is ready while those who made it do something else
        self.helpers = WorkerPool(_MAX_HELPERS, "snakemq-rpc-helper")
        self._reader = _loop_reader(pickler)
        self._unread = Unread(lambda: self.counters.add("cancellations_forgotten"))
        self._lock = threading.Lock()
        self._draining = Draining(
            messaging,
            self.dispatcher,
            lambda: not self.answers.under_way and not self.streams.any_connected(),
        )
        self.streams = OpenStreams(
            messaging, self.executions, self.dispatcher, self.counters, self._draining.tell
        )
        self.answers.on_change = self._draining.tell
        self.answers.on_lost = lambda: self.counters.add("replies_lost")
        self._is_closed = False
        self._parts = PartReceiver(
            receive_hook,
            REQUEST_PARTS,
            self.on_recv,
            objection=self._objection,
            refused=lambda: self.counters.add("large_requests_refused"),
        )
        receive_hook.register(
            REQUEST_PREFIX, self.on_recv, any_thread=True, take=self._take_message
        )

    def get_registered_objects(self) -> dict[str, Any]:
        """The registered objects by name: the dictionary itself, as in 1.6."""
        return self.instances

    # The end.

    def drain(self, timeout: float | None = None) -> bool:
        """Take nothing new, finish what was taken, and bring the answers to the callers.

        For the moment before the end, such as SIGTERM: :meth:`close` comes next.
        New calls are not begun. A caller who waits for peers repeats them when
        it is connected to the next process, as does 1.6; another one gets
        :class:`ServerClosing`. Answers are waited for until the callers have
        acknowledged them, unless they are not connected. Signals that come now
        are served: nobody would send them again. Not in the loop's thread,
        which has to go on.

        :param timeout: how long to wait at most, in seconds; ``None``: for ever
        :return: whether all of that was done in time
        :raises RuntimeError: called in the thread of the loop
        """
        return self._draining.wait(timeout)

    def close(self, timeout: float = 0.0) -> bool:
        """Take no more requests and drop those that wait for a worker.

        What runs goes on, and is answered if messaging still can. A second
        call only waits once more.

        :param timeout: how long to wait for what runs, in seconds
        :return: whether everything has ended
        """
        with self._lock:
            first, self._is_closed = not self._is_closed, True
        if first:
            with contextlib.suppress(KeyError):
                self.receive_hook.unregister(REQUEST_PREFIX)
            self._parts.close()
            self.streams.close()
        ended = self.dispatcher.stop(timeout)
        if ended:
            ended = self.helpers.stop(timeout)
        if first:
            self.answers.close()
        return ended

    # Receiving; in the thread of the loop, or in a worker while that sleeps.

    def on_recv(self, conn_id: str, ident: str, message: Message) -> bool:
        """A request. Called by the receive hook.

        :return: false: nothing more is received here; a worker leaves it to the loop, for
            whoever serves next
        """
        return self._take_message(conn_id, ident, message.uuid, message.data)

    def _take_message(self, conn_id: str, ident: str, uuid: bytes, data: bytes) -> bool:
        """Likewise."""
        if self._is_closed:
            return False
        lingering = self._lingering
        lingering.caller = ident
        if not lingering.is_active:  # so this is the loop
            self._pause.before_waking("")
        reader = self._reader
        if reader is not None and len(data) <= _MAX_READ_IN_LOOP:
            try:
                request = parse_request(reader.loads(data[_PREFIX_SIZE:]))
            except Exception as exc:
                if reader is self.pickler:
                    self._unreadable(ident, data, exc)
                    return True
                # The program's serializer may know more.
            else:
                if self._authorizer is None or self._is_allowed(conn_id, ident, request):
                    self._receive(conn_id, ident, request, len(data))
                return True
        if not self._refused_unread(conn_id, ident, data):
            self._read_later(conn_id, ident, data)
        return True

    def _read_later(self, conn_id: str, ident: str, data: bytes) -> None:
        # It can take long, run code of the program, and import modules.
        self._unread.begin(ident)
        self.executions.defer(ident)
        later = Later(ident, self._read, conn_id, ident, data, size=len(data))
        if not self._submit_later(later):
            self._too_large_to_wait(conn_id, ident, data)

    def _submit_later(self, later: Later, *, force: bool = False) -> bool:
        try:
            return self.dispatcher.submit(later, force=force)
        except RuntimeError as exc:
            return self._without_thread(later.ident, exc)

    def _refused_unread(self, conn_id: str, ident: str, data: bytes) -> bool:
        """Whether a request is for something that is not allowed, as far as can be seen."""
        refusal = self._refusal_unread(conn_id, ident, data)
        if refusal is None:
            return False
        req_id = _find_request_id(data)
        if req_id is not None:
            self._refuse(ident, req_id, refusal, Code.NOT_AUTHORIZED)
        return True

    def _objection(self, conn_id: str, ident: str, beginning: memoryview) -> str:
        """Why a large request is not even received."""
        refusal = self._refusal_unread(conn_id, ident, bytes(beginning[:PEEKED]))
        return "" if refusal is None else f"{Code.NOT_AUTHORIZED.value}: {refusal}"

    def _refusal_unread(self, conn_id: str, ident: str, data: bytes) -> NotAuthorized | None:
        found = None if self._authorizer is None else call_in(data)
        if self._authorizer is None or found is None:
            return None
        object_name, method, is_signal = found
        name = unambiguous(object_name, method)
        return self._authorizer.refusal(ident, conn_id, *name, is_signal=is_signal)

    def _too_large_to_wait(self, conn_id: str, ident: str, data: bytes) -> None:
        """There is no room for a request that has to be read by a worker."""
        self.peer_log.warning(
            ident, "ident=%s a request is not read: too many wait for that", quoted(ident)
        )
        req_id = _find_request_id(data)
        if req_id is not None:
            execution = self.executions.find(ident, req_id)
            if execution is not None:
                self.executions.receive(ident, req_id, conn_id)
                self._repeated(conn_id, execution)
            else:
                # Its first copy may wait to be read.
                self._unread.cancel(ident, req_id)
                self._refuse_busy(ident, req_id)
        self.executions.deferred(ident)
        self._unread.end(ident)

    def _read(self, conn_id: str, ident: str, data: bytes) -> None:
        """Read a request that could not be read in the loop. In a worker."""
        try:
            try:
                request = parse_request(self.pickler.loads(data[_PREFIX_SIZE:]))
            except Exception as exc:
                self._unreadable(ident, data, exc)
            else:
                if self._authorizer is None or self._is_allowed(conn_id, ident, request):
                    self._receive(conn_id, ident, request, len(data))
        finally:
            self._unread.end(ident)
            self.executions.deferred(ident)

    def _unreadable(self, ident: str, data: bytes, error: Exception) -> None:
        """Somebody waits, and is told if it can be seen for what."""
        self.counters.add("requests_unreadable")
        self.peer_log.warning(
            ident,
            "ident=%s unreadable request: %s: %s",
            quoted(ident),
            type(error).__name__,
            quoted(error, _SHOWN_ERROR),
        )
        req_id = request_id_in(data)
        if req_id is None:
            self.log.debug("ident=%r nobody to tell", ident)
            return
        reason = str(error) if isinstance(error, UnknownType) else describe(error)
        text = f"the request can't be read by {self._messaging.identifier!r}: {reason}"
        self._refuse(ident, req_id, UnreadableRequest(text), Code.UNREADABLE)

    def _refuse(self, ident: str, req_id: bytes, error: Exception, code: Code | None) -> None:
        """Answer that a call was not begun; it is not remembered."""
        record = self.replies.error(req_id, error, "", code=code)
        if record is not None:
            self.answers.send(ident, record)

    # Any thread from here on.

    def _receive_other(self, conn_id: str, ident: str, request: Request, size: int) -> None:
        """A request that is not answered, or is about one that was received before."""
        command = request.command
        if command is Command.SIGNAL:
            if isinstance(request.object, str):
                self._begin(conn_id, ident, request, None, size)
            else:
                self.peer_log.warning(
                    ident, "ident=%s a signal whose object is no string is dropped", quoted(ident)
                )
        elif command is Command.CANCEL:
            self._cancel(ident, request)
        elif command is Command.MORE:
            self._more(conn_id, ident, request)

    def _is_allowed(self, conn_id: str, ident: str, request: Request) -> bool:
        """Whether a caller may ask for this. If not, it has been told."""
        assert self._authorizer is not None
        command = request.command
        name: Any = request.object, request.method
        if command is Command.MORE:
            work = self._work_of(ident, request)
            if work is None:
                return True
            name = work.request.object, work.request.method
        elif command not in (Command.CALL, Command.SIGNAL) or not isinstance(name[0], str):
            return True
        else:
            name = request.object, request.method = unambiguous(*name)
        is_signal = command is Command.SIGNAL
        refusal = self._authorizer.refusal(ident, conn_id, *name, is_signal=is_signal)
        if refusal is not None and request.req_id is not None:
            if command is Command.MORE:
                self._cancel(ident, request)
            self._refuse(ident, request.req_id, refusal, Code.NOT_AUTHORIZED)
        return refusal is None

    def _receive(self, conn_id: str, ident: str, request: Request, size: int) -> None:
        """A request that is allowed."""
        if request.command is _DESCRIBE:
            request.object = ""  # as hooks see it: a method without a name
        elif request.command is not _CALL:
            self._receive_other(conn_id, ident, request, size)
            return
        req_id = request.req_id
        assert req_id is not None
        if not isinstance(request.object, str):
            unknown = NoInstanceError(
                f"an object's name is a string, not {type(request.object).__name__}"
            )
            self._refuse(ident, req_id, unknown, Code.NO_INSTANCE)
            return
        if self._draining.is_active and not self._is_known(ident, req_id):
            # Who takes no streams is 1.6, and would raise what it does not know.
            if request.window is not None:
                failure = ServerClosing(f"{self._messaging.identifier!r} is about to end")
                self._refuse(ident, req_id, failure, Code.CLOSING)
            return
        executions = self.executions
        if (
            self._ledger is not None
            and executions.is_of_earlier(ident, req_id)
            and self._messaging.is_inside_loop()
        ):
            # Its answer is read from the storage, which may take a while. It has
            # run, so it is not refused.
            again = Later(ident, self._receive_later, conn_id, ident, request, size)
            executions.defer(ident)
            if not self._submit_later(again, force=True):
                executions.deferred(ident)
            return
        received = executions.receive(ident, req_id, conn_id)
        if received is None:
            return
        execution, is_new = received
        if not is_new:
            self._repeated(conn_id, execution)
        elif self._unread.cancelled and self._unread.is_cancelled(ident, req_id):
            # Another copy of it may have run, and was forgotten when it was cancelled.
            executions.forget(execution)
        elif execution.state is _INTERRUPTED:
            interrupted = CallInterrupted(
                f"{call_name(request.object, request.method)} was running when its server was"
                " restarted, and is not run again"
            )
            record = self.replies.error(req_id, interrupted, "", code=Code.INTERRUPTED)
            if record is not None:
                self.answers.keep_and_send(execution, record)
        else:
            try:
                self._begin(conn_id, ident, request, execution, size)
            except Exception as exc:
                self.peer_log.exception(ident, "ident=%s a call can't be begun", quoted(ident))
                executions.forget(execution)
                self._refuse(ident, req_id, Error(f"it can't be begun: {describe(exc)}"), None)

    def _is_known(self, ident: str, req_id: bytes) -> bool:
        executions = self.executions
        return executions.find(ident, req_id) is not None or executions.is_of_earlier(ident, req_id)

    def _receive_later(self, conn_id: str, ident: str, request: Request, size: int) -> None:
        try:
            self._receive(conn_id, ident, request, size)
        finally:
            self.executions.deferred(ident)

    def _repeated(self, conn_id: str, execution: Execution) -> None:
        """A request that is known came once more."""
        work = execution.work
        if execution.state is State.ANSWERED:
            self.answers.send_again(execution)
        elif isinstance(work, ServedCall) and work.source is not None:
            work.source.repeat(conn_id)

    def _begin(
        self,
        conn_id: str,
        ident: str,
        request: Request,
        execution: Execution | None,
        size: int,
    ) -> None:
        """Call a method, now or later."""
        served = ServedCall(self, ident, conn_id, request, execution, size)
        if execution is not None:
            execution.work = served
        if self.log.isEnabledFor(logging.DEBUG):
            self.log.debug(
                "%s ident=%s %s req_id=%s",
                request.command.value,
                quoted(ident),
                quoted(call_name(request.object, request.method)),
                request.req_id and request.req_id.hex(),
            )
        # Where answers are stored, that may take a while.
        if served.is_quick and self._ledger is None and self._messaging.is_inside_loop():
            self._lingering.run_in_loop(served.run)
            return
        # As _submit_later(), without a call more for each.
        try:
            taken = self.dispatcher.submit(served)
        except RuntimeError as exc:
            taken = self._without_thread(ident, exc)
        if not taken:
            self._no_room_for(served)

    def _without_thread(self, ident: str, error: RuntimeError) -> bool:
        """Something is not begun, because the system gives no thread at all."""
        self.peer_log.error(ident, "ident=%s a call can't be served: %s", quoted(ident), error)
        return False

    def _no_room_for(self, served: ServedCall) -> None:
        execution = served.execution
        ident = served.ident
        if execution is not None:
            self.executions.forget(execution)
            self._refuse_busy(ident, execution.req_id)
            return
        self.counters.add("signals_dropped")
        self.peer_log.warning(
            ident, "ident=%s a signal is dropped, too many calls wait", quoted(ident)
        )

    def _refuse_busy(self, ident: str, req_id: bytes) -> None:
        self.counters.add("calls_busy")
        busy = Busy(f"too many calls wait at {self._messaging.identifier!r}; try again later")
        self._refuse(ident, req_id, busy, Code.BUSY)

    def _cancel(self, ident: str, request: Request) -> None:
        req_id = request.req_id
        assert req_id is not None
        # A copy of the request may wait to be read.
        self._unread.cancel(ident, req_id)
        execution = self.executions.find(ident, req_id)
        if execution is not None:
            self._cancel_work(execution)

    def _cancel_work(self, execution: Execution) -> None:
        work = execution.work
        if work is None:
            self.executions.forget(execution)
            return
        work.cancel()
        if self.dispatcher.cancel(work):
            self.executions.forget(execution)

    def _work_of(self, ident: str, request: Request) -> ServedCall | None:
        """The call that a request is about, if it is one with a stream."""
        assert request.req_id is not None
        execution = self.executions.find(ident, request.req_id)
        work = None if execution is None else execution.work
        return work if isinstance(work, ServedCall) and work.source is not None else None

    def _more(self, conn_id: str, ident: str, request: Request) -> None:
        assert request.req_id is not None
        assert request.window is not None
        work = self._work_of(ident, request)
        if work is None or work.source is None or work.execution is None:
            if not request.window:
                return  # it has got all of it, and says so
            failure = StreamGone("this stream is not known here (any more)")
            self._refuse(ident, request.req_id, failure, Code.STREAM_GONE)
            return
        work.execution.received_on = conn_id
        work.source.more(request.position, request.window, conn_id)

    # For the calls that are served.

    def current_call(self, served: ServedCall) -> CurrentCall:
        """What a method sees of its call."""
        request = served.request
        return CurrentCall(
            served.ident,
            served.conn_id,
            request.object,
            request.method,
            request.args,
            request.kwargs,
            request.req_id,
            request.headers,
            clock=self.time,
            certificate_of=self._messaging.get_certificate,
            deadline=served.deadline,
        )

    def describe_to(self, call: CurrentCall) -> list[dict[str, Any]]:
        """What is served, as far as this caller may call it."""
        ask = self._authorizer
        if ask is None:
            return self.describe()
        ident, conn_id = call.ident, call.conn_id
        return self.describe(lambda name, method: ask.allows(ident, conn_id, name, method))

    def begin_transaction(self) -> AbstractContextManager[Transaction]:
        """See :func:`snakemq.rpc.transactional`.

        :raises snakemq.exceptions.StorageError: there is nothing to keep the answer in
        """
        if self._ledger is None:
            raise StorageError(
                "a transactional method needs a server that keeps its answers:"
                " RpcServer(..., durable=True)"
            )
        return self._messaging.transaction()

    def keep_in(self, transaction: Transaction, key: bytes, record: bytes) -> None:
        """Store an answer with a transaction."""
        assert self._ledger is not None
        transaction.keep(self._ledger, key, record)

    def __repr__(self) -> str:
        return f"<RpcServer objects={sorted(map(str, self.instances))} {self.dispatcher!r}>"


def _find_request_id(data: bytes) -> bytes | None:
    """The identifier of a request that may be large: it is near the end, most often."""
    return request_id_in(data[:_ENDS]) or request_id_in(data[-_ENDS:])


def _loop_reader(serializer: Serializer) -> Serializer | None:
    """What reads requests in the loop; ``None``: nothing may."""
    if is_safe(serializer):
        return serializer
    # Most requests are plain data, for which it does the same.
    return SAFE_PICKLE if serializer is pickle else None
