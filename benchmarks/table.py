"""Tables for people."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["as_lines", "number"]


def as_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned: names on the left, numbers on the right.

    :param rows: all of the same length; the first is the heading
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for cells in rows:
        first, *rest = (
            cell.ljust(width) if not index else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        lines.append("  " + "  ".join((first, *rest)).rstrip())
    return lines


def number(value: float) -> str:
    """With as many digits as are worth reading."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
