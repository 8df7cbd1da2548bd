"""A token bucket: how many bytes may go out now, and when there will be more."""

from __future__ import annotations

__all__ = ["TokenBucket"]


class TokenBucket:
    """Tokens flow in at ``rate`` a second; each byte that is sent takes one out.

    It starts empty.

    :param rate: bytes per second
    :param now: the current time, in seconds
    """

    __slots__ = ("_rate", "_time", "_tokens")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._time = now
        self._tokens = 0.0

    def available(self, now: float, burst: float) -> int:
        """How many bytes may be sent now.

        :param burst: what the bucket holds; more than that runs over
        """
        self._tokens += max(0.0, now - self._time) * self._rate
        self._time = max(self._time, now)
        # At least one byte must fit, or the slowest rates would never send.
        self._tokens = min(self._tokens, max(1.0, burst))
        return max(0, int(self._tokens))

    def take(self, count: int) -> None:
        """``count`` bytes were sent."""
        self._tokens -= count

    def delay_until(self, count: int) -> float:
        """Seconds from the last look on until ``count`` bytes may be sent."""
        return max(0.0, (count - self._tokens) / self._rate)
