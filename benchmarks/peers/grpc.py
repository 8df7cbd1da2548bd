"""gRPC with bytes as messages, so nothing is spent on protocol buffers.

Each thread that makes calls has a channel of its own, with a connection of its
own, which they would share otherwise; with 16 threads that makes a fifth more
calls. The server runs the method in a pool of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc

from benchmarks.peers.held import HeldConnections
from benchmarks.peers.per_thread import CallerPerThread

__all__ = ["caller", "hold", "serve", "version"]

_SERVICE: Final = "benchmark"
_METHOD: Final = "Echo"

#: As many as make calls at the same time.
_WORKERS: Final = 16


def version() -> str:
    return f"grpcio {grpc.__version__}"


class _Served:
    def __init__(self, echo: Callable[[bytes], bytes]) -> None:
        self._workers = ThreadPoolExecutor(_WORKERS)
        self._server = grpc.server(self._workers)
        # Without serializers, messages are bytes.
        method = grpc.unary_unary_rpc_method_handler(lambda data, context: echo(data))
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: method}),)
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        self._server.stop(None).wait()
        self._workers.shutdown()


def serve(echo: Callable[[bytes], bytes]) -> _Served:
    return _Served(echo)


class _Connection:
    def __init__(self, address: str) -> None:
        channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.call: Callable[[bytes], bytes] = channel.unary_unary(f"/{_SERVICE}/{_METHOD}")
        self.close: Callable[[], None] = channel.close


def caller(address: Any) -> CallerPerThread:
    return CallerPerThread(lambda: _Connection(address))


def hold(address: Any, count: int) -> HeldConnections:
    return HeldConnections(lambda: _Connection(address), count)
