"""What people read of what is stored: tables, and text that does no harm to a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime

__all__ = ["Table", "duration", "local_time", "one_line"]


class Table:
    """Prints rows page by page, each column as wide as it needs to be so far.

    :param header: the names of the columns; the last may be of any width
    :param right: of the columns, those with numbers
    """

    def __init__(self, header: Sequence[str], right: frozenset[str]) -> None:
        self._header = tuple(header)
        self._right = [name in right for name in header]
        self._widths = [0] * len(self._header)
        self._begun = False

    def print(self, rows: Sequence[Sequence[str]]) -> None:
        """Print some more rows, and before the first the header."""
        if not self._begun:
            self._begun = True
            rows = [self._header, *rows]
        for row in rows:
            self._widths = [
                max(width, len(cell)) for width, cell in zip(self._widths, row, strict=True)
            ]
        for row in rows:
            cells = [
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, self._widths, self._right, strict=True)
            ]
            print("  ".join(cells).rstrip())


def one_line(text: str) -> str:
    """Without what would disturb a table, or steer a terminal."""
    encoding = sys.stdout.encoding
    shown = text.encode(encoding, "backslashreplace").decode(encoding)
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown
    )


def local_time(timestamp: float) -> str:
    """Seconds since 1970, as the clock on the wall shows it."""
    return datetime.fromtimestamp(timestamp).isoformat(" ", "seconds")


def duration(seconds: float) -> str:
    """About how long this is."""
    for length, unit in ((172800, "d"), (7200, "h"), (120, "min")):
        if seconds >= length:
            return f"{seconds / (length / 2):.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
