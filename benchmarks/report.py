"""What comes out: medians, ratios, a table for people, JSON for programs."""

from __future__ import annotations

import os
import platform
import statistics
from typing import Any

from benchmarks.peers.catalogue import BASELINES
from benchmarks.runner import Measurements
from benchmarks.workloads import WORKLOADS

__all__ = ["Report", "machine"]


def machine() -> dict[str, Any]:
    """Where it was measured, and how busy the machine is right now."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load": load,
    }


class Report:
    """Measurements, to be read.

    :param where: what :func:`machine` said before the first run
    """

    def __init__(self, measured: Measurements, where: dict[str, Any]) -> None:
        self._measured = measured
        self._where = where
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
            "machine": self._where,
            "versions": self._measured.versions,
            "counts": self._measured.counts,
            "results": self._rows,
        }

    def as_table(self) -> str:
        """Medians and ratios."""
        lines = [self._heading()]
        for workload, count in self._measured.counts.items():
            rows = [row for row in self._rows if row["workload"] == workload]
            if not rows:
                continue
            lines.append("")
            lines.extend(_section(workload, count, rows))
        return "\n".join(lines)

    def _heading(self) -> str:
        where = self._where
        load = "" if where["load"] is None else f", load {where['load']:.1f} before"
        versions = ", ".join(f"{name} is {what}" for name, what in self._measured.versions.items())
        return (
            f"{where['python']}, {where['system']}, {where['cpus']} CPUs{load}\n{versions}\n"
            f"rounds: {len(self._rows[0]['rounds'])}; figures are medians; a ratio over 1 is better"
        )


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
                *(_number(row[key]) for key in ("median", "min", "max")),
                *(f"{row['ratio'][name]:.2f}" for name in baselines),
                *(_number(row["medians"][name]) for name in others),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [f"{workload}: {WORKLOADS[workload].title}, {count:,} a run"]
    for cells in table:
        first, *rest = (
            cell.ljust(width) if not index else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        lines.append("  " + "  ".join((first, *rest)).rstrip())
    return lines


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
