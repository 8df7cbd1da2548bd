"""The call that is being served: for methods that want to know more than their arguments."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, overload

from snakemq.exceptions import StorageError
from snakemq.message import Message
from snakemq.rpc.hooks import CallInfo

if TYPE_CHECKING:
    import sqlite3

__all__ = ["CallTransaction", "CurrentCall", "Serving", "activate", "current_call", "deactivate"]

_D = TypeVar("_D")

_log = logging.getLogger("snakemq.rpc.server")


class CallTransaction(Protocol):
    """The transaction in which a method runs, with its answer.

    See :meth:`snakemq.messaging.Messaging.transaction`; for the thread in which
    the method runs, until it returns.
    """

    @property
    def db(self) -> sqlite3.Connection:
        """The connection to the database. The server commits or rolls back."""

    def send_message(self, ident: str, message: Message) -> None:
        """Queue a persistent message for a peer, if the transaction is committed."""


class CurrentCall(CallInfo):
    """A call that is being served, as its method and the hooks of the server see it.

    Beside what :class:`CallInfo` has:

    :ivar conn_id: the connection on which the request came (last)
    :ivar deadline: until when somebody waits for the answer, in seconds on the
        clock of the link, see :meth:`remaining`; ``None``: for ever

    May be used from any thread, also when the call has ended.

    :param clock: returns the time
    :param certificate_of: returns the certificate of a connection
    """

    __slots__ = (
        "_callbacks",
        "_cancelled",
        "_certificate_of",
        "_clock",
        "_event",
        "_lock",
        "_transaction",
        "conn_id",
        "deadline",
    )

    def __init__(
        self,
        ident: str,
        conn_id: str,
        object_name: str,
        method: str,
        args: tuple[Any, ...] | list[Any],
        kwargs: dict[str, Any],
        req_id: bytes | None,
        headers: dict[str, Any],
        *,
        clock: Callable[[], float],
        certificate_of: Callable[[str], dict[str, Any] | None],
        deadline: float | None = None,
    ) -> None:
        # Without super(): one is made for each call.
        self.ident = ident
        self.object = object_name
        self.method = method
        self.args = args
        self.kwargs = kwargs
        self.req_id = req_id
        self.headers = headers
        self.conn_id = conn_id
        self.deadline = deadline
        self._clock = clock
        self._certificate_of = certificate_of
        self._transaction: CallTransaction | None = None
        self._lock = threading.Lock()
        self._cancelled = False
        # Few methods ask, so there is something to wait for only if one does.
        self._event: threading.Event | None = None
        self._callbacks: list[Callable[[], object]] = []

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The caller's certificate, as :meth:`ssl.SSLSocket.getpeercert` has it.

        ``None``: the connection has no TLS, or no certificate that was
        verified, or has ended.
        """
        return self._certificate_of(self.conn_id)

    @property
    def transaction(self) -> CallTransaction:
        """The transaction in which a method runs that is marked as ``transactional``.

        :raises snakemq.exceptions.StorageError: it runs in none
        """
        if self._transaction is None:
            raise StorageError(
                f"{self.name} does not run in a transaction: mark it as transactional, "
                "and have the server keep its answers in a storage"
            )
        return self._transaction

    def set_transaction(self, transaction: CallTransaction | None) -> None:
        """What :attr:`transaction` is from now on. For the server."""
        self._transaction = transaction

    def remaining(self) -> float | None:
        """How long somebody waits for the answer, in seconds; ``None``: for ever."""
        if self._cancelled:  # which may come before the deadline here
            return 0.0
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - self._clock())

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more.

        The caller has cancelled the call, or the deadline is over. A method
        that takes long may look at it now and then, and give up.
        """
        return self._cancelled or (self.deadline is not None and self._clock() >= self.deadline)

    def wait_cancelled(self, timeout: float | None = None) -> bool:
        """Wait until nobody waits for the answer any more. Blocks, so not in ``async`` methods.

        :param timeout: how long, in seconds; ``None``: for ever
        :return: whether it is so, see :attr:`cancelled`
        """
        with self._lock:
            if self._event is None:
                self._event = threading.Event()
                if self._cancelled:
                    self._event.set()
        end = None if timeout is None else self._clock() + timeout
        ends = [moment for moment in (end, self.deadline) if moment is not None]
        if not ends:
            return self._event.wait()
        # More than once only if the clock of the link and that of the system differ.
        while (left := min(ends) - self._clock()) > 0:
            if self._event.wait(min(left, threading.TIMEOUT_MAX)):
                return True
        return self.cancelled

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Have something called when the call is cancelled; now, if it was already.

        :param callback: ``func()``, called once in any thread, mostly that of
            the loop: it must not block. What it raises is logged.
        """
        with self._lock:
            if not self._cancelled:
                self._callbacks.append(callback)
                return
        self._tell(callback)

    def cancel(self) -> None:
        """Nobody waits for the answer any more. For the server; harmless a second time."""
        with self._lock:
            if self._cancelled:
                return
            self._cancelled = True
            callbacks, self._callbacks = self._callbacks, []
            if self._event is not None:
                self._event.set()
        for callback in callbacks:
            self._tell(callback)

    def _tell(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except Exception:
            _log.exception("%r: exception in %r", self, callback)

    def __repr__(self) -> str:
        kind = "signal" if self.req_id is None else f"call {self.req_id.hex()}"
        state = " cancelled" if self.cancelled else ""
        return f"<CurrentCall {self.name} ident={self.ident!r} {kind}{state}>"


class Serving(Protocol):
    """What serves a call."""

    @property
    def call(self) -> CurrentCall:
        """That call; always the same object. Any thread."""


# Not the call itself: few methods ask for it, and who serves it makes it for these only.
_current: ContextVar[Serving] = ContextVar("snakemq.rpc.current_call")

#: ``activate(serving)`` makes its call the current one of this thread or asyncio task,
#: and of what is begun from there; returns what :func:`deactivate` wants.
activate: Final = _current.set

#: ``deactivate(token)`` undoes it, in the same thread or task.
deactivate: Final = _current.reset

_RAISE: Final = object()


@overload
def current_call() -> CurrentCall: ...


@overload
def current_call(default: _D) -> CurrentCall | _D: ...


def current_call(default: Any = _RAISE) -> Any:
    """The call that is being served here: in the method, and what it calls.

    In ``async`` methods and in tasks that they start, too; in threads that a
    method starts only if they run in a copy of its context
    (:func:`contextvars.copy_context`).

    :param default: returned if there is none
    :raises RuntimeError: there is none, and no default
    """
    serving = _current.get(None)
    if serving is not None:
        return serving.call
    if default is _RAISE:
        raise RuntimeError(
            "no call is being served here: ask for current_call() in a method while it is "
            "called by a peer, in the thread or task in which it runs"
        )
    return default
