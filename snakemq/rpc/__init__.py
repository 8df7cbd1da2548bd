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
from snakemq.rpc._dispatcher import (
    DEFAULT_MAX_PER_OBJECT,
    DEFAULT_MAX_PER_PEER,
    DEFAULT_MAX_WAITING,
    DEFAULT_MAX_WAITING_BYTES,
    DEFAULT_MAX_WAITING_BYTES_PER_PEER,
    DEFAULT_MAX_WAITING_PER_PEER,
    DEFAULT_MAX_WORKERS,
)
from snakemq.rpc._executions import AnswerLimits
from snakemq.rpc._known_types import UnknownType
from snakemq.rpc._remote_stream import RemoteStream
from snakemq.rpc.authorization import CallRequest, Permissions
from snakemq.rpc.client import RpcClient
from snakemq.rpc.context import CurrentCall, current_call
from snakemq.rpc.errors import (
    AnswerGone,
    Busy,
    CallError,
    CallInterrupted,
    ClientClosed,
    Error,
    Expired,
    NoInstanceError,
    NoMethodError,
    NotAuthorized,
    NotConnected,
    PartialCall,
    Refused,
    RemoteError,
    ServerClosing,
    SignalCallWarning,
    StreamGone,
    UnreadableReply,
    UnreadableRequest,
    Unserializable,
    WouldDeadlock,
    WrongArguments,
)
from snakemq.rpc.hooks import CallHook, CallInfo
from snakemq.rpc.json_serializer import JSON, Json
from snakemq.rpc.marks import (
    METHOD_RPC_AS_SIGNAL_ATTR,
    as_signal,
    at_most_once,
    quick,
    transactional,
)
from snakemq.rpc.proxy import RemoteMethod, RpcInstProxy, future
from snakemq.rpc.remote_traceback import REMOTE_TRACEBACK_ATTR
from snakemq.rpc.safe_pickle import SAFE_PICKLE, SafePickle, register_type
from snakemq.rpc.serializer import Serializer
from snakemq.rpc.server import RpcServer

__all__ = [
    "DEFAULT_MAX_PER_OBJECT",
    "DEFAULT_MAX_PER_PEER",
    "DEFAULT_MAX_WAITING",
    "DEFAULT_MAX_WAITING_BYTES",
    "DEFAULT_MAX_WAITING_BYTES_PER_PEER",
    "DEFAULT_MAX_WAITING_PER_PEER",
    "DEFAULT_MAX_WORKERS",
    "JSON",
    "METHOD_RPC_AS_SIGNAL_ATTR",
    "REMOTE_TRACEBACK_ATTR",
    "REPLY_PREFIX",
    "REQUEST_PREFIX",
    "SAFE_PICKLE",
    "AnswerGone",
    "AnswerLimits",
    "Busy",
    "CallError",
    "CallHook",
    "CallInfo",
    "CallInterrupted",
    "CallRequest",
    "ClientClosed",
    "CurrentCall",
    "Error",
    "Expired",
    "Json",
    "NoInstanceError",
    "NoMethodError",
    "NotAuthorized",
    "NotConnected",
    "PartialCall",
    "Permissions",
    "Refused",
    "RemoteError",
    "RemoteMethod",
    "RemoteStream",
    "RpcClient",
    "RpcInstProxy",
    "RpcServer",
    "SafePickle",
    "Serializer",
    "ServerClosing",
    "SignalCallWarning",
    "StreamGone",
    "UnknownType",
    "UnreadableReply",
    "UnreadableRequest",
    "Unserializable",
    "WouldDeadlock",
    "WrongArguments",
    "as_signal",
    "at_most_once",
    "current_call",
    "future",
    "quick",
    "register_type",
    "transactional",
]
