"""How long to wait before the next attempt to connect."""

from __future__ import annotations

from typing import Final, Protocol

__all__ = ["DEFAULT_CAP", "Backoff", "Rng"]

#: The longest delay between two attempts, in seconds.
DEFAULT_CAP: Final = 30.0

_FACTOR: Final = 2.0

# A delay is drawn from this much of its nominal value up to all of it, so that
# many peers which lost the same server do not come back in step. (Drawing from
# zero on would hammer a server that is just starting.)
_JITTER_FROM: Final = 0.5


class Rng(Protocol):
    """The part of :class:`random.Random` that is needed."""

    def uniform(self, a: float, b: float) -> float:
        """A number between ``a`` and ``b``."""


class Backoff:
    """Growing, jittered delays between attempts.

    The nominal delay is ``first``, then doubles up to ``cap``; the real one is
    drawn from the upper half of it.

    :param first: the first nominal delay, in seconds
    :param cap: the longest delay, in seconds; a longer ``first`` is its own cap
    :param rng: where the jitter comes from
    """

    __slots__ = ("_cap", "_first", "_nominal", "_rng")

    def __init__(self, first: float, *, cap: float = DEFAULT_CAP, rng: Rng) -> None:
        self._first = first
        self._cap = max(first, cap)
        self._rng = rng
        self._nominal = first

    def next_delay(self) -> float:
        """Seconds to wait before the next attempt."""
        nominal = self._nominal
        self._nominal = min(nominal * _FACTOR, self._cap)
        return self._rng.uniform(nominal * _JITTER_FROM, nominal)

    def reset(self) -> None:
        """An attempt succeeded: the next delay is the first again."""
        self._nominal = self._first
