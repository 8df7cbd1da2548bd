"""What comes out: medians, ratios, a table for people, JSON for programs."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.peers.catalogue import BASELINES
from benchmarks.runner import Measurements
from benchmarks.table import as_lines, number
from benchmarks.workloads import WORKLOADS

__all__ = ["Report"]


class Report:
    """Measurements, to be read."""

    def __init__(self, measured: Measurements) -> None:
        self._measured = measured
        self._rows = [self._row(workload, peer) for workload, peer in measured.figures]

    def _row(self, workload: str, peer: str) -> dict[str, Any]:
        rounds = self._measured.figures[workload, peer]
        main = [next(iter(figures.values())) for figures in rounds]
        return {
            "workload": workload,
            "peer": peer,
            "unit": WORKLOADS[workload].unit,
            "median": statistics.median(main),
            "min": min(main),
            "max": max(main),
            "ratio": {
                baseline: self._ratio(workload, main, baseline)
                for baseline in BASELINES
                if (workload, baseline) in self._measured.figures
            },
            "medians": {
                name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]
            },
            "rounds": rounds,
        }

    def _ratio(self, workload: str, main: list[float], baseline: str) -> float:
        """How many times better: the median over the rounds."""
        theirs = [
            next(iter(figures.values())) for figures in self._measured.figures[workload, baseline]
        ]
        ratios = [mine / other for mine, other in zip(main, theirs, strict=True)]
        ratio = statistics.median(ratios)
        return ratio if WORKLOADS[workload].more_is_better else 1 / ratio

    def as_json(self) -> dict[str, Any]:
        """Everything, also each round."""
        return {
            "versions": self._measured.versions,
            "counts": self._measured.counts,
            "results": self._rows,
        }

    def as_table(self) -> str:
        """Medians and ratios."""
        versions = ", ".join(f"{name} is {what}" for name, what in self._measured.versions.items())
        rounds = len(self._rows[0]["rounds"])
        lines = [
            versions,
            f"rounds: {rounds}; figures are medians; a ratio over 1 is better",
        ]
        for workload, count in self._measured.counts.items():
            rows = [row for row in self._rows if row["workload"] == workload]
            if not rows:
                continue
            lines.append("")
            lines.extend(_section(workload, count, rows))
        return "\n".join(lines)


def _section(workload: str, count: int, rows: list[dict[str, Any]]) -> list[str]:
    unit = rows[0]["unit"]
    baselines = list(rows[0]["ratio"])
    others = [name for name in rows[0]["medians"] if name != unit]
    heading = ["", unit, "min", "max", *(f"vs {name}" for name in baselines), *others]
    table = [heading]
    for row in rows:
        table.append(
            [
                row["peer"],
                *(number(row[key]) for key in ("median", "min", "max")),
                *(f"{row['ratio'][name]:.2f}" for name in baselines),
                *(number(row["medians"][name]) for name in others),
            ]
        )
    return [f"{workload}: {WORKLOADS[workload].title}, {count:,} a run", *as_lines(table)]
