"""Stand-ins for remote objects."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from snakemq.rpc._call_future import Callbacks, CallFuture
from snakemq.rpc._interface import Interface
from snakemq.rpc.errors import CallError
from snakemq.rpc.options import UNSET, CallOptions, Unset, checked_timeout

if TYPE_CHECKING:
    from snakemq.rpc.client import RpcClient

__all__ = ["RemoteMethod", "RpcInstProxy", "future"]

P = ParamSpec("P")
T = TypeVar("T")


class RemoteMethod:
    """A method of a remote object: call it like a local one.

    The proxy gives everybody the same object for a method, so a timeout that
    is set here holds for all threads; :meth:`clone` and :meth:`with_options`
    make one of your own.

    ``proxy.a.b.method`` is a method of the object ``a.b`` (of the object
    ``x.a.b``, if ``x`` is the name of the proxy's). An object whose name, or
    that of a method, is one that this class uses itself can be reached by
    ``get_proxy(ident, "a.clone")``.

    :ivar iproxy: the proxy of the object
    :ivar name: name of the method
    :ivar signal_timeout: see :meth:`as_signal`, in seconds
    """

    def __init__(self, iproxy: RpcInstProxy, name: str, options: CallOptions | None = None) -> None:
        self.iproxy = iproxy
        self.name = name
        self.signal_timeout: float | None = None
        self._options = options or CallOptions(parent=iproxy._options)
        # For calls: what a class with __getattr__ gives out one by one takes five times as long.
        self._target = (iproxy._client, iproxy._remote_ident, iproxy._name, name, self._options)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the remote method, or send the signal.

        A call waits until the other side is connected and has answered. After
        a reconnect the request is repeated. From any thread but the one of the
        loop; a signal from there too.

        :return: what the method returns; ``None`` for a signal
        :raises CallError: the call failed, see :mod:`snakemq.rpc`
        :raises Exception: what the remote method raised; its remote traceback
            is in ``__remote_traceback__``. With an ``exception_handler`` the
            client gives it to that, and ``None`` is returned.
        """
        client, ident, object_name, name, options = self._target
        try:
            if self.signal_timeout is None:
                revision, timeout, wait = options.known
                if revision is not options.root.revision:
                    _, timeout, wait = options.resolve()
                return client.call(ident, object_name, name, args, kwargs, timeout, wait)
            client.signal(ident, object_name, name, args, kwargs, self.signal_timeout)
        except CallError:
            raise
        except Exception as exc:
            handler = client.exception_handler
            if handler is None:
                raise
            handler(exc)
        return None

    def future(self, /, *args: Any, **kwargs: Any) -> CallFuture:
        """Call it and do not wait. From any thread, also in callbacks.

        :return: a :class:`concurrent.futures.Future`; it has what the call
            returns or raises, also if it can't be sent
        :raises Unserializable: the arguments can't be written
        :raises Exception: what a hook raised
        """
        client, ident, object_name, name, options = self._target
        _, timeout, wait = options.resolve()
        return client.future(ident, object_name, name, args, kwargs, timeout, wait)

    def callback(
        self,
        success: Callable[[Any], object] | None,
        error: Callable[[BaseException], object] | None = None,
    ) -> Callable[..., CallFuture]:
        """Call it, do not wait, and have a function called at the end.

        ::

            handle = proxy.method.callback(print, on_error)(arguments)

        Exactly one of the two is called, once, in the thread of the loop, so
        it must not block; after :meth:`RpcClient.close` in the thread that
        closes. What it raises is logged and reported through ``on_error`` of
        messaging.

        :param success: ``func(value)``; ``None``: nothing is to be done
        :param error: ``func(exception)``, with a
            :class:`concurrent.futures.CancelledError` if the call was
            cancelled; ``None``: a failure is logged
        :return: takes the arguments, makes the call, and returns its future;
            raises what :meth:`future` raises, and then calls nothing
        """

        def call(*args: Any, **kwargs: Any) -> CallFuture:
            proxy = self.iproxy
            future = self.future(*args, **kwargs)
            name = f"{self.name} of {proxy!r}"
            Callbacks(success, error, name, proxy._client).watch(future)
            return future

        return call

    def signal(self, ttl: float | None = 0) -> RemoteMethod:
        """One that sends signals: it does not wait, there is no result.

        ::

            proxy.method.signal(10)(arguments)

        :param ttl: how long the signal waits for the other side to be
            connected, in seconds; 0: it has to be connected now; ``None``: for
            ever
        """
        method = self.clone()
        method.signal_timeout = float("inf") if ttl is None else ttl
        return method

    def as_signal(self, timeout: float | None = 0) -> None:
        """From now on send a signal: do not wait, there is no result.

        :param timeout: how long the signal waits for the other side to be
            connected, in seconds; 0: it has to be connected now;
            ``float("inf")``: for ever. ``None`` makes it a regular call again.
        """
        self.signal_timeout = timeout

    @property
    def call_timeout(self) -> float | None:
        """How long a call may take, in seconds: what was set here, or for the
        proxy, or for the client. ``None``: for ever."""
        return self._options.timeout

    @call_timeout.setter
    def call_timeout(self, timeout: float | None) -> None:
        self._options.timeout = timeout

    def set_timeout(self, timeout: float | None) -> None:
        """From now on wait so long for the result, and then raise.

        For the whole call: waiting for the other side, repetitions after a
        reconnect, running the method.

        :param timeout: in seconds; ``None``: for ever
        """
        self._options.timeout = timeout

    def with_options(
        self,
        *,
        timeout: float | Unset | None = UNSET,
        wait_for_peer: bool | Unset = UNSET,
    ) -> RemoteMethod:
        """Another one with other options, for one call or more.

        ::

            proxy.method.with_options(timeout=2)(arguments)

        What is not given stays as it is here.

        :param timeout: how long a call may take, in seconds; ``None``: for ever
        :param wait_for_peer: whether it waits while the peer is not connected;
            if not, it raises :class:`NotConnected` at once, also when the
            connection is lost in mid-call
        :raises ValueError: the timeout is negative or not a number
        """
        method = self.clone()
        if timeout is not UNSET:
            method._options.timeout = checked_timeout(timeout)
        if wait_for_peer is not UNSET:
            method._options.wait_for_peer = wait_for_peer
        return method

    def clone(self) -> RemoteMethod:
        """Another one with the same settings, to be changed independently."""
        method = RemoteMethod(self.iproxy, self.name, self._options.copy())
        method.signal_timeout = self.signal_timeout
        return method

    def __getattr__(self, name: str) -> RemoteMethod:
        if name.startswith("_"):
            # Never served; and Python and its tools ask for many of these.
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        nested: RpcInstProxy = self.__dict__.setdefault("_nested", self.iproxy._nested(self.name))
        method: RemoteMethod = self.__dict__.setdefault(name, getattr(nested, name))
        return method

    def __repr__(self) -> str:
        return f"<RemoteMethod {self.name!r} of {self.iproxy!r}>"


class RpcInstProxy:
    """Stands for an object of another peer: its methods can be called here.

    Made by :meth:`RpcClient.get_proxy`. Any name that is asked for is taken for
    a method; whether there is one turns out when it is called. With an
    interface only the names that this has are. Thread-safe.
    """

    def __init__(
        self,
        client: RpcClient,
        remote_ident: str,
        name: str,
        interface: Callable[..., Any] | None = None,
        options: CallOptions | None = None,
    ) -> None:
        self._client = client
        self._remote_ident = remote_ident
        self._name = name
        self._interface = None if interface is None else Interface(interface)
        self._options = options or CallOptions(parent=client.options)
        if client.log.isEnabledFor(logging.DEBUG):
            client.log.debug("new proxy %r", self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            # Python asks for these (copy, pickle, inspect, ...), not the user.
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        namespace = None
        if self._interface is not None:
            if name not in self._interface:
                raise AttributeError(f"{self._interface!r} has no public {name!r}")
            namespace = self._interface.namespace(name)
        # Found without this method the next time. setdefault: all threads get
        # the same object.
        if namespace is not None:
            return self.__dict__.setdefault(name, self._nested(name, namespace))
        return self.__dict__.setdefault(name, RemoteMethod(self, name))

    def _nested(self, name: str, interface: type | None = None) -> RpcInstProxy:
        full_name = f"{self._name}.{name}" if self._name else name
        options = CallOptions(parent=self._options)
        return RpcInstProxy(self._client, self._remote_ident, full_name, interface, options)

    def __repr__(self) -> str:
        return f"<RpcInstProxy remote_ident={self._remote_ident!r} name={self._name!r}>"


def future(method: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Call a method of a typed proxy and do not wait: ``method.future(...)``, with types.

    ::

        thermometer = client.get_proxy("bob", "thermometer", Thermometer)
        reading = snakemq.rpc.future(thermometer.read, "kitchen")

    :param method: one of a proxy
    :raises TypeError: it is none
    :raises Exception: see :meth:`RemoteMethod.future`
    """
    if not isinstance(method, RemoteMethod):
        raise TypeError(f"a method of a proxy is needed, not {method!r}")
    return method.future(*args, **kwargs)
