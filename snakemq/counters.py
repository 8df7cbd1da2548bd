"""Counting what limits and refusals do."""

from __future__ import annotations

import threading

__all__ = ["Counters"]


class Counters:
    """How often each thing happened; all of them are known from the start. Thread-safe.

    For what is rare: each count takes a lock.

    :param names: of the things that are counted
    """

    __slots__ = ("_counts", "_lock")

    def __init__(self, *names: str) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(names, 0)

    def add(self, name: str, count: int = 1) -> None:
        """It happened.

        :raises KeyError: no such counter
        """
        with self._lock:
            self._counts[name] += count

    def __getitem__(self, name: str) -> int:
        return self._counts[name]

    def as_dict(self) -> dict[str, int]:
        """All of them as they are now."""
        with self._lock:
            return dict(self._counts)

    def __repr__(self) -> str:
        return f"<Counters {self.as_dict()}>"
