"""For peers whose connections belong to one thread, or are fastest with one for each."""

from __future__ import annotations

import threading
from collections.abc import Callable

from benchmarks.peers import Calling

__all__ = ["CallerPerThread"]


class CallerPerThread:
    """Makes the calls of each thread over a connection of its own.

    :param connect: makes one that can be used by the thread that calls it
    """

    def __init__(self, connect: Callable[[], Calling]) -> None:
        self._connect = connect
        self._local = threading.local()
        self._all: list[Calling] = []

    def call(self, data: bytes) -> bytes:
        local = self._local
        if not hasattr(local, "call"):
            own = self._connect()
            self._all.append(own)
            local.call = own.call
        answer: bytes = local.call(data)
        return answer

    def close(self) -> None:
        """Close all connections, from the thread that calls this."""
        for own in self._all:
            own.close()
