"""Serves remote calls."""

from __future__ import annotations

import contextlib
import logging
import pickle
import traceback
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from snakemq._core.rpc_records import (
    REPLY_PREFIX,
    REQUEST_PREFIX,
    Request,
    error_record,
    parse_request,
    value_record,
)
from snakemq._io.workers import WorkerPool
from snakemq.exceptions import QueueFull
from snakemq.message import Message
from snakemq.rpc.errors import Error, NoInstanceError, NoMethodError, SignalCallWarning
from snakemq.rpc.remote_traceback import describe, format_remote
from snakemq.rpc.serializer import Serializer, loads_with_stand_ins

if TYPE_CHECKING:
    from snakemq.messaging import ReceiveHook

__all__ = ["DEFAULT_MAX_WORKERS", "METHOD_RPC_AS_SIGNAL_ATTR", "RpcServer", "as_signal"]

#: How many calls a server runs at a time. Threads are started when they are
#: needed, so this costs nothing; it is so large because methods written for
#: 1.6, which started a thread for each call, may block for long.
DEFAULT_MAX_WORKERS: Final = 64

#: Attribute of a method that is marked as a signal; the value is 1.6's.
METHOD_RPC_AS_SIGNAL_ATTR: Final = "__snakemw_rpc_as_signal"

_F = TypeVar("_F")


def as_signal(method: _F) -> _F:
    """Mark a method as a signal on the side of the server. A decorator.

    The caller does not wait for a signal and gets nothing back; it says so
    with :meth:`RemoteMethod.as_signal`. Put it above other decorators: the
    mark has to be visible on what the object has in the end.

    :param method: a function or method
    :return: the same object
    """
    # What static methods, class methods and bound methods show of their
    # attributes is those of the function inside.
    marked = getattr(method, "__func__", method)
    setattr(marked, METHOD_RPC_AS_SIGNAL_ATTR, True)
    return method


class RpcServer:
    """Serves the public methods of the objects that are registered with it.

    Methods run in threads of their own, several at a time, in no guaranteed
    order; they may block. A name that begins with an underscore is never
    served. Registering is safe from any thread.

    Replies are sent before all messages that wait for the caller. They carry
    TTL 0: if the caller is not connected any more when the
    method returns, the reply is dropped. The caller repeats its request when it
    is back, and the method runs again.

    :param receive_hook: brings the requests; its messaging carries the replies
    :param pickler: :mod:`pickle` or something with its ``dumps(obj)`` and
        ``loads(data)``; both sides need the same. What ``loads`` accepts is
        what other peers may send here, and pickle may run any code: use it
        with peers that you trust.
    :param max_workers: how many methods run at a time; further requests wait
        in the order in which they came. Methods that call back to a peer
        whose call they serve need a worker each.
    """

    def __init__(
        self,
        receive_hook: ReceiveHook,
        pickler: Serializer = pickle,
        *,
        max_workers: int = DEFAULT_MAX_WORKERS,
    ) -> None:
        self.log = logging.getLogger("snakemq.rpc.server")
        self.receive_hook = receive_hook
        self.pickler = pickler
        #: the registered objects by name
        self.instances: dict[str, Any] = {}
        #: Whether the caller gets what a method raised. If not, the exception
        #: is logged here and, as in 1.6, nothing is sent: the caller waits
        #: until its timeout and raises :class:`PartialCall`.
        self.transfer_exceptions = True
        self._closed = False
        self._workers = WorkerPool(max_workers, "snakemq-rpc")
        receive_hook.register(REQUEST_PREFIX, self.on_recv)

    def register_object(self, instance: Any, name: str) -> None:
        """Serve the methods of an object.

        :param name: under which callers know it; an object that had this name
            is replaced
        """
        self.instances[name] = instance

    def unregister_object(self, name: str) -> None:
        """Serve an object no more. What runs is not interrupted.

        :raises KeyError: there is none of this name
        """
        del self.instances[name]

    def get_registered_objects(self) -> dict[str, Any]:
        """The registered objects by name: the dictionary itself, as in 1.6."""
        return self.instances

    def close(self, timeout: float = 0.0) -> bool:
        """Take no more requests and drop those that wait for a worker.

        What runs goes on, and is answered if messaging still can. From any
        thread; a second call only waits once more.

        :param timeout: how long to wait for what runs, in seconds
        :return: whether everything has ended
        """
        if not self._closed:
            self._closed = True
            with contextlib.suppress(KeyError):
                self.receive_hook.unregister(REQUEST_PREFIX)
        return self._workers.stop(timeout)

    def on_recv(self, conn_id: str, ident: str, message: Message) -> None:
        """A request. Called by the receive hook, in the thread of the loop."""
        # Even reading it can take long, and import modules.
        if not self._closed:
            self._workers.submit(self._serve, ident, message.data)

    # In a worker.

    def _serve(self, ident: str, data: bytes) -> None:
        request = self._read(ident, data[len(REQUEST_PREFIX) :])
        if request is None:
            return
        req_id = request.req_id
        if self.log.isEnabledFor(logging.DEBUG):
            self.log.debug(
                "%s ident=%s %s.%s req_id=%s",
                "signal" if req_id is None else "call",
                ident,
                request.object,
                request.method,
                req_id and req_id.hex(),
            )
        try:
            method = self._find_method(request)
            if hasattr(method, METHOD_RPC_AS_SIGNAL_ATTR) is not (req_id is None):
                self._warn(request)
            value = method(*request.args, **request.kwargs)
        except BaseException as exc:
            # SystemExit too: it ends no thread here, and the caller waits.
            self._raised(ident, request, exc)
            return
        if req_id is not None:
            self._reply_value(ident, request, req_id, value)

    def _read(self, ident: str, data: bytes) -> Request | None:
        try:
            return parse_request(self.pickler.loads(data))
        except Exception as exc:
            self.log.warning("ident=%s unreadable request: %r", ident, exc)
            self._refuse(ident, data, exc)
            return None

    def _refuse(self, ident: str, data: bytes, error: Exception) -> None:
        """A request with an argument of an unknown class: somebody waits, tell him."""
        try:
            request = parse_request(loads_with_stand_ins(self.pickler, data))
        except Exception as exc:
            self.log.debug("ident=%s nobody to tell: %r", ident, exc)
            return
        if request.req_id is not None:
            text = f"the request can't be read by {self.receive_hook.messaging.identifier!r}: "
            self._reply_error(ident, request.req_id, Error(text + describe(error)), "")

    def _find_method(self, request: Request) -> Callable[..., Any]:
        try:
            instance = self.instances[request.object]
        except (KeyError, TypeError):  # TypeError: not hashable
            raise NoInstanceError(request.object) from None
        if request.method.startswith("_"):
            raise NoMethodError(request.method)
        try:
            method = getattr(instance, request.method)
        except AttributeError:
            raise NoMethodError(request.method) from None
        if not callable(method):
            raise NoMethodError(request.method)
        found: Callable[..., Any] = method
        return found

    def _warn(self, request: Request) -> None:
        name = f"{request.object}.{request.method}"
        if request.req_id is None:
            text = f"{name} is not marked as a signal and was called as one"
        else:
            text = f"{name} is marked as a signal and was called as a regular method"
        warnings.warn(text, SignalCallWarning, stacklevel=2)

    def _raised(self, ident: str, request: Request, exc: BaseException) -> None:
        req_id = request.req_id
        if req_id is None or not self.transfer_exceptions:
            self.log.error(
                "ident=%s exception in %s.%s",
                ident,
                request.object,
                request.method,
                exc_info=exc,
            )
            return
        if self.log.isEnabledFor(logging.DEBUG):
            self.log.debug("ident=%s exception to the caller: %s", ident, describe(exc))
        text = format_remote(exc)
        if isinstance(exc, Exception):
            self._reply_error(ident, req_id, exc, text)
        else:
            # Another program does not get to raise SystemExit in the caller.
            substitute = Error(f"{request.object}.{request.method} raised {describe(exc)}")
            self._reply_error(ident, req_id, substitute, text)

    def _reply_value(self, ident: str, request: Request, req_id: bytes, value: Any) -> None:
        try:
            self._send(ident, self.pickler.dumps(value_record(req_id, value)))
        except Exception as exc:
            self.log.warning(
                "ident=%s the result of %s.%s can't be sent: %r",
                ident,
                request.object,
                request.method,
                exc,
            )
            text = f"the result of {request.object}.{request.method} can't be sent: "
            self._reply_error(ident, req_id, Error(text + describe(exc)), traceback.format_exc())

    def _reply_error(self, ident: str, req_id: bytes, exc: Exception, text: str) -> None:
        try:
            data = self.pickler.dumps(error_record(req_id, exc, text))
            # Many exceptions can be written and not be read again, such as
            # those with other arguments than their class takes. Better found
            # out here than by the caller, who would know of no reply at all.
            self.pickler.loads(data)
            self._send(ident, data)
        except Exception as reason:
            self.log.debug("ident=%s %s can't be sent: %r", ident, describe(exc), reason)
            self._reply_substitute(ident, req_id, exc, text, reason)

    def _reply_substitute(
        self, ident: str, req_id: bytes, exc: Exception, text: str, reason: Exception
    ) -> None:
        message = f"{describe(exc)} (a substitute; the exception can't be sent: {reason!r})"
        # The second for serializers that know no exceptions.
        for substitute in (Error(message), describe(exc)):
            try:
                self._send(ident, self.pickler.dumps(error_record(req_id, substitute, text)))
            except Exception as error:
                self.log.debug("ident=%s neither can %r: %r", ident, substitute, error)
            else:
                return
        self.log.error("ident=%s can't be answered: %s", ident, message, exc_info=exc)

    def _send(self, ident: str, data: bytes) -> None:
        # Somebody waits for it: it goes before the messages that wait.
        message = Message(REPLY_PREFIX + data)
        try:
            self.receive_hook.messaging.send_message(ident, message, urgent=True)
        except QueueFull as exc:
            # Nor is there room for any other answer.
            self.log.error("ident=%s is not answered, for its queue is full: %s", ident, exc)

    def __repr__(self) -> str:
        return f"<RpcServer objects={sorted(map(str, self.instances))} workers={self._workers!r}>"
