"""The methods of a peer that serve and make calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from snakemq.peer._arguments import check_ident
from snakemq.peer._calls import Calls
from snakemq.peer._runner import Runner
from snakemq.rpc import RpcClient, RpcInstProxy, RpcServer
from snakemq.rpc._registry import decorate
from snakemq.rpc.options import UNSET, Unset

__all__ = ["RemoteCalls"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class RemoteCalls:
    """Base of :class:`~snakemq.Peer`: all that is about remote calls."""

    _calls: Calls
    _runner: Runner

    def serve(self, obj: object, name: str) -> None:
        """Let other peers call the public methods of an object, or a function.

        They run in threads of their own, several at the same time. What has to
        be there when the first call comes is served before :meth:`start`: a
        call for an object that is not served fails.

        :param obj: a function, method, builtin or :class:`functools.partial` is
            served as a function, see :meth:`serve_function`; anything else as
            an object
        :param name: what the others call it; may have dots in it. What had this
            name before is replaced.
        :raises TypeError: the name is not a string
        :raises ValueError: a part of the name begins with an underscore
        """
        self._runner.call(self._calls.serve, obj, name)

    def serve_function(
        self,
        f: Callable[..., Any],
        name: str | None = None,
        *,
        quick: bool = False,
        at_most_once: bool = False,
    ) -> None:
        """Let other peers call a function.

        :param f: anything that can be called
        :param name: what the others call it, such as ``"math.add"``; ``None``:
            its own name
        :param quick: as if it was marked with :func:`snakemq.rpc.quick`
        :param at_most_once: as if it was marked with
            :func:`snakemq.rpc.at_most_once`
        :raises TypeError: it can't be called, or the name is not a string
        :raises ValueError: it has no name, the name has an empty part, or one
            that begins with an underscore
        """
        self._runner.call(self._calls.serve_function, f, name, quick, at_most_once)

    @overload
    def function(self, f: F, /) -> F: ...

    @overload
    def function(
        self, name: str | None = None, /, *, quick: bool = False, at_most_once: bool = False
    ) -> Callable[[F], F]: ...

    @overload
    def function(
        self, /, *, name: str | None = None, quick: bool = False, at_most_once: bool = False
    ) -> Callable[[F], F]: ...

    def function(
        self,
        f: Any = None,
        /,
        *,
        name: str | None = None,
        quick: bool = False,
        at_most_once: bool = False,
    ) -> Any:
        """Let other peers call the function below. A decorator, with or without arguments.

        ::

            @peer.function
            def add(a, b): ...

            @peer.function("math.multiply", quick=True)
            def multiply(a, b): ...

        The function itself is not changed. See :meth:`serve_function`.
        """
        if not (f is None or isinstance(f, str) or callable(f)):
            raise TypeError(f"function() takes a function or a name, not {f!r}")
        return decorate(self.serve_function, f, name, quick=quick, at_most_once=at_most_once)

    @overload
    def proxy(
        self,
        ident: str,
        name: str = ...,
        interface: None = ...,
        *,
        timeout: float | Unset | None = ...,
        wait_for_peer: bool | Unset = ...,
    ) -> RpcInstProxy: ...

    @overload
    def proxy(
        self,
        ident: str,
        name: str,
        interface: Callable[..., T],
        *,
        timeout: float | Unset | None = ...,
        wait_for_peer: bool | Unset = ...,
    ) -> T: ...

    def proxy(
        self,
        ident: str,
        name: str = "",
        interface: Callable[..., Any] | None = None,
        *,
        timeout: float | Unset | None = UNSET,
        wait_for_peer: bool | Unset = UNSET,
    ) -> Any:
        """A stand-in for an object that another peer serves.

        ``proxy.method(...)`` calls it there, waits, and returns what comes
        back; see :class:`snakemq.rpc.RemoteMethod` for what else it can. Not in a
        callback, which would wait for itself; futures and signals are fine there.

        :param ident: identifier of the peer that serves it; it need not be there yet
        :param name: what that peer calls the object. Empty: for functions, and for objects by
            ``proxy.name.method()``
        :param interface: a class that has what the remote object has, see
            :meth:`snakemq.rpc.RpcClient.get_proxy`
        :param timeout: how long a call may take, in seconds; ``None``: for ever,
            which is the default
        :param wait_for_peer: whether a call waits while the peer is not connected,
            which it does by default. If not, it raises :class:`snakemq.rpc.NotConnected`.
        :raises TypeError: an argument is of a wrong type
        :raises ValueError: the identifier is too short or too long, the timeout is
            negative or not a number
        """
        check_ident(ident, "ident")
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {type(name).__name__}: {name!r}")
        get: Any = self.rpc_client.get_proxy
        return get(ident, name, interface, timeout=timeout, wait_for_peer=wait_for_peer)

    @property
    def rpc_server(self) -> RpcServer:
        """What serves the calls; made with the first object. Without it no request is read."""
        return self._runner.call(self._calls.server)

    @property
    def rpc_client(self) -> RpcClient:
        """What makes the calls; made with the first proxy. Without it no reply is read."""
        return self._runner.call(self._calls.client)
