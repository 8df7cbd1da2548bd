"""Remote procedure calls: methods of objects that live in other peers.

The side that serves::

    hook = ReceiveHook(messaging)
    server = RpcServer(hook)
    server.register_object(Thermometer(), "thermometer")

and the side that calls, in any thread but the one of the loop::

    client = RpcClient(ReceiveHook(messaging))
    thermometer = client.get_proxy("bob", "thermometer")
    thermometer.read("kitchen")

A peer can be both, on one hook. Connections need no care: a call waits for the
other side to appear and survives its restart, unless a timeout was set for the
method. What the remote method raises is raised by the call, with the remote
traceback in ``__remote_traceback__``.

A *signal* is a call that nobody waits for: ``thermometer.reset.as_signal(10)``
on the side that calls, :func:`as_signal` above the method on the side that
serves.
"""

from __future__ import annotations

from snakemq._core.rpc_records import REPLY_PREFIX, REQUEST_PREFIX
from snakemq.rpc.client import RpcClient
from snakemq.rpc.errors import (
    CallError,
    ClientClosed,
    Error,
    NoInstanceError,
    NoMethodError,
    NotConnected,
    PartialCall,
    RemoteError,
    SignalCallWarning,
    UnreadableReply,
    WouldDeadlock,
)
from snakemq.rpc.proxy import RemoteMethod, RpcInstProxy
from snakemq.rpc.remote_traceback import REMOTE_TRACEBACK_ATTR
from snakemq.rpc.serializer import Serializer
from snakemq.rpc.server import (
    DEFAULT_MAX_WORKERS,
    METHOD_RPC_AS_SIGNAL_ATTR,
    RpcServer,
    as_signal,
)

__all__ = [
    "DEFAULT_MAX_WORKERS",
    "METHOD_RPC_AS_SIGNAL_ATTR",
    "REMOTE_TRACEBACK_ATTR",
    "REPLY_PREFIX",
    "REQUEST_PREFIX",
    "CallError",
    "ClientClosed",
    "Error",
    "NoInstanceError",
    "NoMethodError",
    "NotConnected",
    "PartialCall",
    "RemoteError",
    "RemoteMethod",
    "RpcClient",
    "RpcInstProxy",
    "RpcServer",
    "Serializer",
    "SignalCallWarning",
    "UnreadableReply",
    "WouldDeadlock",
    "as_signal",
]
