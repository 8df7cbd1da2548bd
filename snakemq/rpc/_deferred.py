"""Requests that a worker has to read, or receive, before they can be served."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

__all__ = ["Later", "Unread"]

#: So many calls of one caller are remembered as cancelled before they are read.
_MAX_CANCELLED: Final = 1000


class Later:
    """Something about a request that a worker has to do.

    :param func: called with the other arguments
    :param size: of the request, in bytes
    """

    object_name = ""

    def __init__(self, ident: str, func: Callable[..., object], *args: Any, size: int = 0) -> None:
        self.ident = ident
        self.size = size
        self._func = func
        self._args = args

    def run(self) -> bool:
        """See :class:`~snakemq.rpc._dispatcher.Task`."""
        self._func(*self._args)
        return True


class Unread:
    """How many requests of whom are being read, and which of them were cancelled meanwhile.

    :param forgotten: called when too many are cancelled to remember one more
    """

    def __init__(self, forgotten: Callable[[], object]) -> None:
        self._forgotten = forgotten
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        #: those that were, by caller
        self.cancelled: dict[str, set[bytes]] = {}

    def begin(self, ident: str) -> None:
        """One is going to be read."""
        with self._lock:
            self._counts[ident] = self._counts.get(ident, 0) + 1

    def cancel(self, ident: str, req_id: bytes) -> None:
        """A call is cancelled that is not known; it may be one of them."""
        with self._lock:
            if ident in self._counts:
                cancelled = self.cancelled.setdefault(ident, set())
                if len(cancelled) < _MAX_CANCELLED:
                    cancelled.add(req_id)
                elif req_id not in cancelled:
                    self._forgotten()

    def is_cancelled(self, ident: str, req_id: bytes) -> bool:
        """Whether a call was cancelled before it was read."""
        return req_id in self.cancelled.get(ident, ())

    def end(self, ident: str) -> None:
        """One was read and received."""
        with self._lock:
            count = self._counts[ident] = self._counts[ident] - 1
            if not count:
                del self._counts[ident]
                self.cancelled.pop(ident, None)
