"""What comes out: medians, and how many times those of the smallest size they are."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any, Final

from benchmarks.backlog import BATCH, SIZE
from benchmarks.backlog.runner import BacklogFigures, Backlogs
from benchmarks.table import as_lines, number

__all__ = ["BacklogReport"]

#: What a column is called, and whether what it is for the smallest size stands
#: beside it.
_COLUMNS: Final = {
    "queue": ("µs to queue", True),
    "open": ("ms to open", True),
    "drain": ("µs to drain", True),
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
        smallest = f"vs {self._smallest:,}"
        heading = ["messages"]
        for title, has_ratio in _COLUMNS.values():
            heading += [title, smallest] if has_ratio else [title]
        rows = [heading]
        for row in map(self._row, self._sizes()):
            cells = [f"{row['messages']:,}"]
            for name, (_, has_ratio) in _COLUMNS.items():
                median = row["medians"][name]
                cells.append("?" if median is None else number(median))
                if has_ratio:
                    cells.append(f"{row['ratio'][name]:.2f}")
            rows.append(cells)
        rounds = len(self._measured.figures[self._smallest])
        title = f"backlog: persistent messages of {SIZE} bytes for a peer that is not there"
        notes = (
            f"snakemq is {self._measured.version}; rounds: {rounds}; queued {BATCH} at a time;"
            " µs are for each message, ms for all; a ratio of 1 is flat"
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
