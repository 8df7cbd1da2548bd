"""A queue of a storage in memory."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from itertools import chain, islice
from typing import Final

from snakemq.message import Message
from snakemq.storage._common import remaining
from snakemq.storage._numbered import Numbered
from snakemq.storage.base import StoredItem

__all__ = ["MemoryQueue"]

#: So many ends of TTLs that are no more are kept at the least before the heap
#: is made anew.
_SLACK: Final = 64


class MemoryQueue:
    """Items in order. Any can be found and removed at once, by position or by uuid."""

    def __init__(self) -> None:
        self.bytes = 0
        self._items: Numbered[_Item] = Numbered()
        # The first item with a uuid; those that follow, which hardly ever
        # exist, are apart to spare each item a container of its own.
        self._first: dict[bytes, int] = {}
        self._later: dict[bytes, deque[int]] = {}
        # For how long TTLs ran here.
        self._ran = 0.0
        # A heap of when TTLs run out, by that clock. Entries that are no
        # longer those of their item are passed over.
        self._ends: list[_End] = []

    def __len__(self) -> int:
        return len(self._items)

    def append(self, position: int, message: Message, now: float | None) -> None:
        """Put an item at the end.

        :param position: higher than any before
        :param message: kept, and changed
        :param now: the time, in seconds since 1970; ``None`` if it was pushed
            nobody knows when
        """
        self._items[position] = item = _Item(message, now)
        self.bytes += len(message.data)
        self._start_ttl(position, item)
        if self._first.setdefault(message.uuid, position) != position:
            self._later.setdefault(message.uuid, deque()).append(position)

    def items(self) -> list[Message]:
        """Copies of all items, with what remains of their TTLs."""
        return [self._current(self._items[position]) for position in self._items.numbers()]

    def page(self, after: int, max_messages: int, max_bytes: int) -> list[StoredItem]:
        found: list[StoredItem] = []
        size = 0
        for position in self._items.numbers(after, max_messages):
            found.append(StoredItem(position, self._current(self._items[position])))
            size += len(found[-1].message.data)
            if size >= max_bytes:
                break
        return found

    def first_pushed(self) -> float | None:
        """When the first item was pushed, in seconds since 1970, if that is known."""
        (position,) = self._items.numbers(limit=1)
        return self._items[position].pushed_at

    def remove(self, positions: Iterable[int]) -> None:
        for position in positions:
            item = self._items.pop(position)
            if item is not None:
                self.bytes -= len(item.message.data)
                self._forget(item.message.uuid, position)

    def positions_of(self, uuid: bytes, limit: int | None = None) -> list[int]:
        """Where the items with this uuid are, in order; at most so many of them."""
        first = self._first.get(uuid)
        if first is None:
            return []
        return list(islice(chain([first], self._later.get(uuid, ())), limit))

    def messages_at(self, positions: Iterable[int]) -> list[Message]:
        """Copies of the items that are there."""
        items = [self._items.get(position) for position in positions]
        return [self._current(item) for item in items if item is not None]

    def set_ttl(self, uuid: bytes, ttl: float | None) -> None:
        """Let the TTL of all items with this uuid start anew."""
        for position in self.positions_of(uuid):
            item = self._items[position]
            item.message.ttl = ttl
            self._start_ttl(position, item)

    def advance(self, seconds: float) -> None:
        """Let the TTLs of all items run for so long."""
        self._ran += seconds

    def next_expiry(self, after: int) -> float | None:
        """How long it is until a TTL behind this position has run out."""
        first = self._first_ends(None, after, 1)
        return self._remaining(self._items[first[0]]) if first else None

    def expired(self, seconds: float, after: int, max_messages: int) -> list[StoredItem]:
        """What is behind this position and has so much of its TTL or less, by position."""
        positions = sorted(self._first_ends(seconds, after, max_messages))
        return [StoredItem(number, self._current(self._items[number])) for number in positions]

    def _first_ends(self, seconds: float | None, after: int, count: int) -> list[int]:
        """The positions of those behind this one whose TTLs run out first.

        :param seconds: those that run out within so many seconds only; ``None``: all
        """
        found: list[int] = []
        seen: list[_End] = []
        while self._ends and len(found) < count:
            end = self._ends[0]
            item = self._items.get(end[1])
            if item is not None and item.end is end:
                left = self._remaining(item)
                if seconds is not None and left is not None and left > seconds:
                    break
                seen.append(end)
                if end[1] > after:
                    found.append(end[1])
            heapq.heappop(self._ends)
        for end in seen:
            heapq.heappush(self._ends, end)
        return found

    def _start_ttl(self, position: int, item: _Item) -> None:
        item.set_at = self._ran
        ttl = item.message.ttl
        item.end = None if ttl is None else (self._ran + ttl, position)
        if item.end is not None:
            heapq.heappush(self._ends, item.end)
        if len(self._ends) > 2 * len(self._items) + _SLACK:
            items = (self._items[number] for number in self._items.numbers())
            self._ends = [item.end for item in items if item.end is not None]
            heapq.heapify(self._ends)

    def _remaining(self, item: _Item) -> float | None:
        return remaining(item.message.ttl, self._ran - item.set_at)

    def _current(self, item: _Item) -> Message:
        return item.message.with_ttl(self._remaining(item))

    def _forget(self, uuid: bytes, position: int) -> None:
        later = self._later.get(uuid)
        if later is None:
            del self._first[uuid]
        elif self._first[uuid] == position:
            self._first[uuid] = later.popleft()
        else:
            later.remove(position)
        if later is not None and not later:
            del self._later[uuid]


#: When the TTL of an item runs out, by the clock of its queue, and its position.
_End = tuple[float, int]


class _Item:
    __slots__ = ("end", "message", "pushed_at", "set_at")

    def __init__(self, message: Message, pushed_at: float | None) -> None:
        self.message = message
        self.pushed_at = pushed_at
        #: at what reading of the queue's clock its TTL was set
        self.set_at = 0.0
        self.end: _End | None = None
