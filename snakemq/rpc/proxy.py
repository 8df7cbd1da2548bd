"""Stand-ins for remote objects."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from snakemq.rpc.errors import CallError

if TYPE_CHECKING:
    from snakemq.rpc.client import RpcClient

__all__ = ["RemoteMethod", "RpcInstProxy"]


class RemoteMethod:
    """A method of a remote object: call it like a local one.

    The proxy gives everybody the same object for a method, so a timeout that
    is set here holds for all threads; :meth:`clone` makes one of your own.

    :ivar iproxy: the proxy of the object
    :ivar name: name of the method
    :ivar call_timeout: see :meth:`set_timeout`, in seconds
    :ivar signal_timeout: see :meth:`as_signal`, in seconds
    """

    def __init__(self, iproxy: RpcInstProxy, name: str) -> None:
        self.iproxy = iproxy
        self.name = name
        self.call_timeout: float | None = None
        self.signal_timeout: float | None = None

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the remote method, or send the signal.

        A call waits until the other side is connected and has answered. After
        a reconnect the request is repeated, so the method may run more than
        once. From any thread but the one of the loop; a signal from there too.

        :return: what the method returns; ``None`` for a signal
        :raises CallError: the call failed, see :mod:`snakemq.rpc`
        :raises Exception: what the remote method raised; its remote traceback
            is in ``__remote_traceback__``. With an ``exception_handler`` the
            client gives it to that, and ``None`` is returned.
        """
        proxy = self.iproxy
        client = proxy._client
        try:
            if self.signal_timeout is None:
                return client.call(
                    proxy._remote_ident, proxy._name, self.name, args, kwargs, self.call_timeout
                )
            client.signal(
                proxy._remote_ident, proxy._name, self.name, args, kwargs, self.signal_timeout
            )
        except CallError:
            raise
        except Exception as exc:
            handler = client.exception_handler
            if handler is None:
                raise
            handler(exc)
        return None

    def as_signal(self, timeout: float | None = 0) -> None:
        """From now on send a signal: do not wait, there is no result.

        :param timeout: how long the signal waits for the other side to be
            connected, in seconds; 0: it has to be connected now;
            ``float("inf")``: for ever. ``None`` makes it a regular call again.
        """
        self.signal_timeout = timeout

    def set_timeout(self, timeout: float | None) -> None:
        """From now on wait so long for the result, and then raise.

        For the whole call: waiting for the other side, repetitions after a
        reconnect, running the method.

        :param timeout: in seconds; ``None``: for ever
        """
        self.call_timeout = timeout

    def clone(self) -> RemoteMethod:
        """Another one with the same settings, to be changed independently."""
        method = RemoteMethod(self.iproxy, self.name)
        method.call_timeout = self.call_timeout
        method.signal_timeout = self.signal_timeout
        return method

    def __repr__(self) -> str:
        return f"<RemoteMethod {self.name!r} of {self.iproxy!r}>"


class RpcInstProxy:
    """Stands for an object of another peer: its methods can be called here.

    Made by :meth:`RpcClient.get_proxy`. Any name that is asked for is taken for
    a method; whether there is one turns out when it is called. Thread-safe.
    """

    def __init__(self, client: RpcClient, remote_ident: str, name: str) -> None:
        self._client = client
        self._remote_ident = remote_ident
        self._name = name
        if client.log.isEnabledFor(logging.DEBUG):
            client.log.debug("new proxy %r", self)

    def __getattr__(self, name: str) -> RemoteMethod:
        if name.startswith("__") and name.endswith("__"):
            # Python asks for these (copy, pickle, inspect, ...), not the user.
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        # Found without this method the next time. setdefault: all threads get
        # the same object.
        method: RemoteMethod = self.__dict__.setdefault(name, RemoteMethod(self, name))
        return method

    def __repr__(self) -> str:
        return f"<RpcInstProxy remote_ident={self._remote_ident!r} name={self._name!r}>"
