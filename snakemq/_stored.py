"""What of a queue is in the storage: most of it there only.

The queue in memory is a window: what is sent next is loaded in pages, and what
is pushed while the peer is connected and nothing waits on the disk stays in
memory, too. Everything else is a number here::

    gone | under way, waiting | on the disk only
         |     in memory      ^
         |                    loaded                last

Messages that are not stored keep their place among the others: while there is
something before them that is on the disk only, they wait in the tail.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from snakemq._core.ttl import Placed

if TYPE_CHECKING:
    from snakemq._queue import Queue

__all__ = ["PAGE_BYTES", "PAGE_MESSAGES", "WINDOW_BYTES", "WINDOW_MESSAGES", "StoredPart"]

#: How much is loaded at once.
PAGE_MESSAGES: Final = 1024
PAGE_BYTES: Final = 1024 * 1024

#: What is stored for a connected peer stays in memory, too, as long as no more
#: than this waits there.
WINDOW_MESSAGES: Final = 4096
WINDOW_BYTES: Final = 4 * 1024 * 1024


class StoredPart:
    """What one queue has in the storage; for those who hold the manager's lock.

    :param last: the highest position of all that is in the storage
    :ivar messages: how many messages are in the storage
    :ivar bytes: how many bytes of data these have
    :ivar unloaded: how many of them are on the disk only
    :ivar loaded: up to this position everything is in memory, or gone
    :ivar last: of the last one
    :ivar first_new: those below it may have been sent by an earlier process
    :ivar bytes_loaded: data of those that are in memory
    :ivar bytes_unloaded: data of those that are not
    :ivar next_expiry: not before the clock of the queue shows this, one of
        those on the disk expires; infinite if none does
    :ivar reading: of that clock, as far as the storage knows it
    """

    __slots__ = (
        "_dead",
        "_queue",
        "_tail",
        "bytes",
        "bytes_loaded",
        "bytes_unloaded",
        "first_new",
        "last",
        "loaded",
        "messages",
        "name",
        "next_expiry",
        "reading",
        "timed_loaded",
        "unloaded",
    )

    def __init__(self, queue: Queue, last: int) -> None:
        self._queue = queue
        self.name = queue.name
        self.messages = 0
        self.bytes = 0
        self.unloaded = 0
        # What has left an earlier queue of this name may still be there.
        self.loaded = last
        self.last = last
        self.first_new = 0
        self.bytes_loaded = 0
        self.bytes_unloaded = 0
        #: how many of those in memory have a TTL
        self.timed_loaded = 0
        self.next_expiry = math.inf
        self.reading = 0.0
        self._tail: deque[Placed] | None = None
        self._dead = 0

    # As snakemq._room.Countable.

    def count_fixed(self) -> tuple[int, int]:
        """How many messages can't be dropped, and their data in bytes."""
        return self._queue.count_under_way(stored=True)

    def drop_oldest(self) -> bool:
        """Drop the first one that waits."""
        return self._queue.drop_oldest_stored()

    # On the disk only.

    def take_over(self, messages: int, size: int, last: int) -> None:
        """An earlier process has left messages.

        It may have sent any of them. To write down how far it came would not
        help who has restored an old copy of the storage.

        :param last: of what is in the storage the highest position
        """
        self.unloaded = messages
        self.bytes_unloaded = size
        self.loaded = 0
        self.last = last
        self.first_new = last + 1

    def leave_on_disk(self, position: int, size: int, expires: float) -> None:
        """A message was stored, and is not in memory."""
        self.unloaded += 1
        self.bytes_unloaded += size
        self.last = position
        if expires < self.next_expiry:
            self.next_expiry = expires

    def keep_in_memory(self, entry: Placed, size: int) -> None:
        """A message is stored, and in memory."""
        self.bytes_loaded += size
        self.loaded = entry.position
        if entry.position > self.last:
            self.last = entry.position
        self.timed_loaded += entry.expires != math.inf

    def leaves_disk(self, count: int, size: int) -> None:
        """So many messages that were not in memory are, or are gone."""
        self.unloaded -= count
        self.bytes_unloaded -= size

    @property
    def is_from_before(self) -> bool:
        """Whether the next one on the disk may have been sent by an earlier process."""
        return self.unloaded > 0 and self.loaded < self.first_new - 1

    def left_memory(self, timed: int, size: int) -> None:
        """Messages that were in memory leave the queue.

        :param timed: how many of them have a TTL
        :param size: how many bytes of data they have
        """
        self.bytes_loaded -= size
        self.timed_loaded -= timed

    @property
    def has_timed(self) -> bool:
        """Whether the TTL of something in the storage may be running."""
        return self.timed_loaded > 0 or self.next_expiry != math.inf

    # Messages that are not stored, behind some that are on the disk only.

    def append_to_tail(self, entry: Placed) -> None:
        """A message comes behind what is on the disk."""
        if self._tail is None:
            self._tail = deque()
        self._tail.append(entry)

    def is_in_tail(self, entry: object) -> bool:
        """Whether an entry waits in the tail."""
        return isinstance(entry, Placed) and not entry.is_stored and entry.position > self.loaded

    def count_dead_in_tail(self, count: int) -> None:
        """So many entries of the tail have no message any more."""
        self._dead += count
        if self._tail is not None and self._dead * 2 > len(self._tail):
            self._tail = deque(entry for entry in self._tail if entry.message is not None)
            self._dead = 0

    def drop_first_of_tail(self) -> Placed | None:
        """Take out the first entry of the tail."""
        for entry in self.tail_up_to(self.last):
            return entry
        return None

    def tail_up_to(self, position: int) -> Iterator[Placed]:
        """Take out what comes before the item with a position above this."""
        while self._tail and self._tail[0].position <= position:
            entry = self._tail.popleft()
            if entry.message is None:
                self._dead -= 1
            else:
                yield entry
