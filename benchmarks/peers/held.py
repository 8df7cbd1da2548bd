"""Many connections of the same kind, on which nothing happens."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.peers import Calling

__all__ = ["HeldConnections"]

_DATA = b"still there?"


class HeldConnections:
    """So many of them; a call was made over each when this is made.

    :param connect: makes one
    """

    def __init__(self, connect: Callable[[], Calling], count: int) -> None:
        self._all = [connect() for _ in range(count)]
        self.count()

    def count(self) -> int:
        """How many are still there: a call is made over each.

        :raises Exception: what it raises over one that is not
        """
        return sum(each.call(_DATA) == _DATA for each in self._all)

    def close(self) -> None:
        for each in self._all:
            each.close()
