"""What comes out, for people: medians, ratios, and what is reached of what is aimed at."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.catalogue import US
from benchmarks.reach import reach
from benchmarks.results import Figure, Results, as_written
from benchmarks.runner import Measurements
from benchmarks.table import as_lines, number
from benchmarks.workloads import WORKLOADS

__all__ = ["Report", "cells_of"]


class Report:
    """Measurements, to be read."""

    def __init__(self, measured: Measurements) -> None:
        self._written = as_written(measured)
        self._results = Results(self._written)

    def as_json(self) -> dict[str, Any]:
        """Everything, also each round."""
        return self._written

    def as_table(self) -> str:
        """Medians and ratios."""
        versions = ", ".join(
            f"{name} is {what}" for name, what in self._written["versions"].items()
        )
        lines = [versions, "figures are medians; a ratio over 1 is better"]
        for workload in self._results.workloads():
            lines += ["", *_section(self._results, workload)]
        for failed in self._written["failed"]:
            lines += ["", f"{failed['workload']}, {failed['peer']}, failed {failed['reason']}"]
        lines += _reached(self._results)
        return "\n".join(lines)


def _section(results: Results, workload: str) -> list[str]:
    work = WORKLOADS[workload]
    count = results.written["counts"][workload]
    rounds = max(len(results.rounds(Figure(workload, peer))) for peer in results.peers(workload))
    heading = f"{workload}: {work.title}, {count:,} {work.counted} a run, rounds: {rounds}"
    return [heading, *as_lines(cells_of(results, workload))]


def cells_of(results: Results, workload: str) -> list[list[str]]:
    """The table of a workload; the first line is the heading."""
    peers = results.peers(workload)
    baselines = results.baselines(workload)
    unit = WORKLOADS[workload].unit
    others = [name for name in results.names(workload, peers[0]) if name != unit]
    cells = [["", unit, "min", "max", *(f"vs {name}" for name in baselines), *others]]
    for peer in peers:
        rounds = results.rounds(Figure(workload, peer))
        ratios = [results.times_better(workload, peer, baseline) for baseline in baselines]
        medians = [results.median(Figure(workload, peer, name)) for name in (None, *others)]
        shown = ["?" if median is None else number(median) for median in medians]
        cells.append(
            [
                *(peer, shown[0], number(min(rounds)), number(max(rounds))),
                *("?" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
                *shown[1:],
            ]
        )
    return cells


def _reached(results: Results) -> list[str]:
    cells = [["asked of " + US, "", "measured", ""]]
    for row in reach(results):
        name = row.workload
        for kind, conditions in (("at least", row.least), ("aim", row.aims)):
            for condition in conditions:
                cells.append(
                    [name, f"{kind}: {condition.asked}", condition.measured, condition.verdict]
                )
                name = ""
    return ["", *as_lines(cells, left=3)] if len(cells) > 1 else []
