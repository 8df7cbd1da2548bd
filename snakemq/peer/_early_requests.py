"""Requests that came before there was anything to serve them."""

from __future__ import annotations

from collections import deque
from operator import attrgetter
from typing import Final, NamedTuple

from snakemq.counters import Counters
from snakemq.message import Message

__all__ = ["EarlyRequests"]

#: Requests that came before there was a server are kept for it so long, in
#: seconds, and so many of them, with so many bytes. (Of large ones each part counts.)
_EARLY_SECONDS: Final = 5.0
_EARLY_COUNT: Final = 1000
_EARLY_BYTES: Final = 16 * 1024 * 1024


class _Early(NamedTuple):
    number: int
    came: float
    conn_id: str
    ident: str
    message: Message


class _Line:
    """Those of one peer, in order."""

    __slots__ = ("bytes", "requests")

    def __init__(self) -> None:
        self.requests: deque[_Early] = deque()
        self.bytes = 0

    def add(self, early: _Early) -> None:
        self.requests.append(early)
        self.bytes += len(early.message.data)

    def drop(self) -> None:
        self.bytes -= len(self.requests.popleft().message.data)


class EarlyRequests:
    """Keeps some. When there are too many, those go first of the peer that has sent most.

    :ivar counters: ``early_requests_dropped``: how many there was no room for
    """

    def __init__(self) -> None:
        self.counters = Counters("early_requests_dropped")
        self._lines: dict[str, _Line] = {}
        self._number = self._count = 0
        #: how large they are together
        self.bytes = 0

    def __len__(self) -> int:
        return self._count

    def add(self, now: float, conn_id: str, ident: str, message: Message) -> None:
        """One came."""
        self._number += 1
        line = self._lines.setdefault(ident, _Line())
        line.add(_Early(self._number, now, conn_id, ident, message))
        self._count += 1
        self.bytes += len(message.data)
        while self._count > _EARLY_COUNT:
            self._drop_of(max(self._lines, key=lambda each: len(self._lines[each].requests)))
        while self.bytes > _EARLY_BYTES:
            self._drop_of(max(self._lines, key=lambda each: self._lines[each].bytes))

    def _drop_of(self, ident: str) -> None:
        line = self._lines[ident]
        before = line.bytes
        line.drop()
        self._count -= 1
        self.bytes += line.bytes - before
        if not line.requests:
            del self._lines[ident]
        self.counters.add("early_requests_dropped")

    def take(self, now: float) -> list[_Early]:
        """All that are not too old, in the order in which they came. They are not kept any more."""
        found = [early for line in self._lines.values() for early in line.requests]
        self._lines.clear()
        self._count = self.bytes = 0
        fresh = (early for early in found if early.came >= now - _EARLY_SECONDS)
        return sorted(fresh, key=attrgetter("number"))

    def forget(self, conn_id: str, ident: str, prefix: bytes) -> None:
        """A connection has ended: forget what came on it and begins with this."""
        old = self._lines.pop(ident, None)
        if old is None:
            return
        left = _Line()
        for early in old.requests:
            if early.conn_id != conn_id or not early.message.data.startswith(prefix):
                left.add(early)
        self._count += len(left.requests) - len(old.requests)
        self.bytes += left.bytes - old.bytes
        if left.requests:
            self._lines[ident] = left
