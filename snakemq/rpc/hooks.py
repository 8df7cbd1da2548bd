"""Looking at every call, on either side: for logging, metrics, tracing, authorisation."""

from __future__ import annotations

from typing import Any

__all__ = ["CallHook", "CallInfo", "call_name"]


def call_name(object_name: str, method_name: str) -> str:
    """The full name of what is called: with a dot, but a function's without an object."""
    return f"{object_name}.{method_name}" if object_name else method_name


class CallInfo:
    """One call, as hooks see it.

    :ivar ident: identifier of the peer on the other side
    :ivar object: name of the object
    :ivar method: name of the method
    :ivar args: positional arguments
    :ivar kwargs: arguments by name
    :ivar headers: what the hooks of the caller tell those of the server. They
        travel with the call, so they are for what the serializer can write.
    :ivar req_id: identifies the call, 16 bytes; ``None``: it is a signal
    """

    __slots__ = ("args", "headers", "ident", "kwargs", "method", "object", "req_id")

    def __init__(
        self,
        ident: str,
        object_name: str,
        method: str,
        args: tuple[Any, ...] | list[Any],
        kwargs: dict[str, Any],
        req_id: bytes | None,
        headers: dict[str, Any],
    ) -> None:
        self.ident = ident
        self.object = object_name
        self.method = method
        self.args = args
        self.kwargs = kwargs
        self.req_id = req_id
        self.headers = headers

    @property
    def name(self) -> str:
        """Object and method, with a dot between them; a function has a name only."""
        return call_name(self.object, self.method)


class CallHook:
    """Base of hooks. One object may be a hook of several clients and servers.

    Several hooks are called one after the other, ``after`` in reverse order.
    Their methods are called from any thread, several at a time.
    """

    def before(self, call: CallInfo) -> None:
        """A call is about to be made, or to be served.

        On the side of the caller this runs in the thread of the caller, before
        the arguments are serialized, and may put something into
        ``call.headers``. On the side of the server it runs in the thread in
        which the method will run.

        :raises Exception: then it is not made, or not served: the caller gets
            what was raised. :class:`~snakemq.rpc.Refused` says why best.
        """

    def after(self, call: CallInfo, error: BaseException | None) -> None:
        """It has ended. Called if ``before`` returned. What this raises is logged.

        In the thread that learns of the end: on the side of the caller that of
        the caller if the call blocks, else mostly that of the loop. A stream
        ends with its last item, or when it is closed.

        :param error: what it raised; ``None``: it returned
        """
