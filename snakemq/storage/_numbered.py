"""Values by rising numbers, which can be read from any number on."""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import Final, Generic, TypeVar

__all__ = ["Numbered"]

_T = TypeVar("_T")

#: So many numbers that are gone are kept at the least before a list is made anew.
_SLACK: Final = 64


class Numbered(Generic[_T]):
    """Values in the order of their numbers.

    Adding one behind all others, and removing any, costs the same however many
    there are. No number may come again after it was removed.
    """

    def __init__(self) -> None:
        self._values: dict[int, _T] = {}
        # In order. The gaps in it are closed when somebody passes over them,
        # or when they are more than half of it.
        self._numbers: list[int] = []

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, number: int) -> bool:
        return number in self._values

    def __getitem__(self, number: int) -> _T:
        return self._values[number]

    def __setitem__(self, number: int, value: _T) -> None:
        if number not in self._values:
            insort(self._numbers, number)
        self._values[number] = value

    def get(self, number: int) -> _T | None:
        return self._values.get(number)

    def pop(self, number: int) -> _T | None:
        """Remove a value; it need not be there."""
        value = self._values.pop(number, None)
        if len(self._numbers) > 2 * len(self._values) + _SLACK:
            self._numbers = [number for number in self._numbers if number in self._values]
        return value

    def numbers(self, after: int = 0, limit: int | None = None) -> list[int]:
        """The numbers above one, in order, at most so many."""
        found: list[int] = []
        start = end = bisect_right(self._numbers, after)
        while end < len(self._numbers) and (limit is None or len(found) < limit):
            if self._numbers[end] in self._values:
                found.append(self._numbers[end])
            end += 1
        if len(found) < end - start:
            self._numbers[start:end] = found
        return found
