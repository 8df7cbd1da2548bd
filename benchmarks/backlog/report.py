"""What comes out: medians, and how many times those of the smallest size they are."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any, Final

from benchmarks.backlog import BATCH, SIZE
from benchmarks.backlog.runner import BacklogFigures, Backlogs
from benchmarks.table import as_lines, number

__all__ = ["BacklogReport"]

#: What a column is called, and whether it is compared with the smallest size.
_COLUMNS: Final = {
    "queue": ("µs to queue", True),
    "queue_cpu": ("CPU µs", True),
    "open": ("ms to open", True),
    "drain": ("µs to drain", True),
    "drain_cpu": ("CPU µs", True),
    "disk": ("bytes on disk", False),
    "queue_memory": ("MiB, queueing", False),
    "open_memory": ("MiB, open", False),
    "drain_memory": ("MiB, draining", False),
}


class BacklogReport:
    """Measurements, to be read."""

    def __init__(self, measured: Backlogs) -> None:
        self._measured = measured
        self._smallest = min(measured.figures)

    def as_json(self) -> dict[str, Any]:
        """Everything, also each round."""
        return {"version": self._measured.version, "results": [*map(self._row, self._sizes())]}

    def as_table(self) -> str:
        """Medians and ratios."""
        rows = [["messages", *(title for title, _ in _COLUMNS.values())]]
        for row in map(self._row, self._sizes()):
            cells = [f"{row['messages']:,}"]
            for name in _COLUMNS:
                median = row["medians"][name]
                cell = "?" if median is None else number(median)
                ratio = row["ratio"].get(name)
                cells.append(cell if ratio is None else f"{cell} ({ratio:.2f})")
            rows.append(cells)
        rounds = len(self._measured.figures[self._smallest])
        title = f"backlog: persistent messages of {SIZE} bytes for a peer that is not there"
        notes = (
            f"snakemq is {self._measured.version}; rounds: {rounds}; queued {BATCH} at a time;"
            f" µs are for each message, ms for all; (1.00) is as much as with {self._smallest:,}"
        )
        return "\n".join([title, f"  {notes}", *as_lines(rows)])

    def _sizes(self) -> list[int]:
        return sorted(self._measured.figures)

    def _row(self, size: int) -> dict[str, Any]:
        rounds = self._measured.figures[size]
        return {
            "messages": size,
            "medians": {name: _median(rounds, name) for name in _COLUMNS},
            "ratio": {
                name: statistics.median(
                    getattr(mine, name) / getattr(smallest, name)
                    for mine, smallest in zip(
                        rounds, self._measured.figures[self._smallest], strict=True
                    )
                )
                for name, (_, has_ratio) in _COLUMNS.items()
                if has_ratio
            },
            "rounds": [dataclasses.asdict(figures) for figures in rounds],
        }


def _median(rounds: list[BacklogFigures], name: str) -> float | None:
    known = [value for figures in rounds if (value := getattr(figures, name)) is not None]
    return statistics.median(known) if known else None
