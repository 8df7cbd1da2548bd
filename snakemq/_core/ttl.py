"""Time to live: it runs only while the receiver is not connected.

Each queue has an :class:`OfflineClock`. A message that may wait for ``ttl``
seconds gets the reading of that clock at which it expires, once; nothing has
to be rewritten when the receiver comes and goes.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator
from typing import Final

from snakemq.message import Message

__all__ = ["ExpiryHeap", "OfflineClock", "Placed", "Timed"]


class OfflineClock:
    """Counts the seconds for which the receiver has not been connected.

    It starts running.

    :param now: the current time, in seconds
    """

    __slots__ = ("_since", "_total")

    def __init__(self, now: float) -> None:
        self._total = 0.0
        self._since: float | None = now

    def reading(self, now: float) -> float:
        """Seconds so far."""
        since = self._since
        return self._total if since is None else self._total + max(0.0, now - since)

    def start(self, now: float) -> None:
        """The receiver is gone."""
        if self._since is None:
            self._since = now

    def stop(self, now: float) -> None:
        """The receiver is connected."""
        self._total = self.reading(now)
        self._since = None

    def time_of(self, reading: float, now: float) -> float | None:
        """When the clock will show ``reading``; ``None`` while it stands still."""
        if self._since is None:
            return None
        return now + (reading - self.reading(now))


class Timed:
    """A message in a queue with the reading of the queue's clock when it expires."""

    __slots__ = ("expires", "message")

    def __init__(self, message: Message, expires: float) -> None:
        #: ``None`` when it left the queue or expired
        self.message: Message | None = message
        self.expires = expires

    def fresh(self, reading: float) -> Message | None:
        """The message with what remains of its TTL."""
        message = self.message
        if message is None:
            return None
        remaining = max(0.0, self.expires - reading)
        return message if message.ttl == remaining else message.with_ttl(remaining)


class Placed(Timed):
    """A message in a queue with its place among those that are in the storage.

    Its time to live need not be limited.

    :param message: the message, with what remains of its TTL at ``reading``
    :param reading: of the clock of the queue
    :param position: its own in the storage; of one that is not in the storage,
        that of the last one that is before it
    :param is_stored: whether it is in the storage
    """

    __slots__ = ("is_stored", "position")

    def __init__(self, message: Message, reading: float, position: int, is_stored: bool) -> None:
        # Not by way of the class above: it is for each message that is stored.
        self.message = message
        self.expires = math.inf if message.ttl is None else reading + message.ttl
        self.position = position
        self.is_stored = is_stored

    def fresh(self, reading: float) -> Message | None:
        message = self.message
        if message is None or message.ttl is None:
            return message
        return super().fresh(reading)


#: Dead entries are swept out when there are more than this and they are the majority.
_SWEEP: Final = 64


class ExpiryHeap:
    """Which of many :class:`Timed` expires next. Entries may die in place.

    Most messages of a queue have the same time to live and expire in the order in which
    they came. Those wait in a line, where each takes 8 bytes and not 110.
    """

    __slots__ = ("_dead", "_heap", "_line", "_next_number")

    def __init__(self) -> None:
        #: made when it is needed: an empty one takes 760 bytes
        self._line: deque[Timed] | None = None
        self._heap: list[tuple[float, int, Timed]] = []
        self._next_number = 0  # the first in expires first on a tie
        self._dead = 0

    def __len__(self) -> int:
        return len(self._heap) + len(self._line or ()) - self._dead

    def push(self, entry: Timed) -> None:
        """Watch ``entry``."""
        line = self._line
        # What is in the line was there before all in the heap that expire with it: it does
        # not begin anew as long as there are any.
        if line and line[-1].expires <= entry.expires:
            line.append(entry)
        elif line or self._heap:
            heapq.heappush(self._heap, (entry.expires, self._next_number, entry))
            self._next_number += 1
        else:
            self._line = deque((entry,))

    def discard(self, entry: Timed) -> None:
        """``entry`` is needed no more; its ``message`` becomes ``None``."""
        entry.message = None
        self._dead += 1
        if self._dead > _SWEEP and self._dead > len(self):
            if self._line:
                self._line = deque(entry for entry in self._line if entry.message is not None)
            self._heap = [item for item in self._heap if item[2].message is not None]
            heapq.heapify(self._heap)
            self._dead = 0

    def next_expiry(self) -> float | None:
        """The reading at which the next entry expires."""
        first = self._first()
        return None if first is None else first.expires

    def pop_expired(self, reading: float) -> Iterator[Timed]:
        """Take out what has expired, in order. The entries keep their messages."""
        while (entry := self._first()) is not None and entry.expires <= reading:
            if self._line and self._line[0] is entry:
                self._line.popleft()
            else:
                heapq.heappop(self._heap)
            yield entry

    def _first(self) -> Timed | None:
        """What expires next; it stays."""
        line, heap = self._line, self._heap
        while line and line[0].message is None:
            line.popleft()
            self._dead -= 1
        while heap and heap[0][2].message is None:
            heapq.heappop(heap)
            self._dead -= 1
        if line and not (heap and heap[0][0] < line[0].expires):
            return line[0]
        return heap[0][2] if heap else None
