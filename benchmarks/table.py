"""Tables for people."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["as_lines", "number"]


def as_lines(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Aligned: names on the left, numbers on the right.

    :param rows: all of the same length; the first is the heading
    :param left: so many columns are no numbers
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for cells in rows:
        aligned = (
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        lines.append("  " + "  ".join(aligned).rstrip())
    return lines


def number(value: float) -> str:
    """With as many digits as are worth reading."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 0.1 or not value else f"{value:.4f}"
