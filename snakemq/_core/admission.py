"""Admission: how many connections may be accepted, and how fast."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, TypeVar

from snakemq._core.token_bucket import TokenBucket

__all__ = ["Admission"]

_Key = TypeVar("_Key")

#: As many may come at once as in so many seconds.
_BURST: Final = 1.0

#: Whoever waits for its turn waits for so many seconds at least: a flood is taken
#: in portions, not with a timer for each of it.
_MIN_DELAY: Final = 0.02


class Admission(Generic[_Key]):
    """Who came in and is not gone yet; and how many more may come now.

    :param rate: so many in a second; as many as in one second may come at once
    :param now: the current time, in seconds
    """

    __slots__ = ("_bucket", "_inside", "_leaving", "_rate")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        # Full from the start.
        self._bucket = TokenBucket(rate, now - max(_BURST, 1 / rate))
        self._inside: set[_Key] = set()
        self._leaving: OrderedDict[_Key, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._inside)

    def room(self, now: float) -> int:
        """How many may come now for the sake of the rate; some may find that it is full."""
        return self._bucket.available(now, self._rate * _BURST)

    def delay(self) -> float:
        """Seconds from the last :meth:`room` on until it is worth to look again."""
        return max(_MIN_DELAY, self._bucket.delay_until(1))

    def is_full(self, max_inside: int) -> bool:
        """Whether there is no place for one more.

        :param max_inside: so many may be there at a time
        """
        return len(self._inside) >= max_inside

    def enter(self, key: _Key, max_inside: int) -> bool:
        """Somebody came.

        :param max_inside: so many may be there at a time
        :return: whether there is a place for it; if not it counts for the rate only
        """
        self._bucket.take(1)
        if self.is_full(max_inside):
            return False
        self._inside.add(key)
        return True

    def is_leaving(self, key: _Key) -> None:
        """Somebody is going to leave, and could go at once. Harmless if it had not come in."""
        if key in self._inside:
            self._leaving[key] = None

    def next_to_leave(self) -> _Key | None:
        """Who has been leaving for longest; ``None``: nobody is."""
        return next(iter(self._leaving), None)

    def leave(self, key: _Key) -> None:
        """Somebody is gone. Harmless if it had not come in."""
        self._inside.discard(key)
        self._leaving.pop(key, None)
