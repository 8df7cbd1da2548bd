"""What a run has written, to be asked: figures, medians, ratios."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.peers.catalogue import US
from benchmarks.runner import Measurements
from benchmarks.workloads import WORKLOADS

__all__ = ["Figure", "Results", "as_written", "rounded"]

#: What stands for a figure of 0, which nothing can be compared with.
_NOTHING: Final = 1e-9

#: Digits that are worth keeping.
_DIGITS: Final = 5


class Figure(NamedTuple):
    """One of the figures of a peer in a workload.

    :ivar name: ``None``: the one that the workload is about
    """

    workload: str
    peer: str = US
    name: str | None = None


class Results:
    """The medians of a run, and the ratios between them.

    :param written: what :func:`as_written` has made, or what was read from a file
        that was written with ``--json``
    """

    def __init__(self, written: dict[str, Any]) -> None:
        self.written = written
        self._rounds: dict[tuple[str, str], list[dict[str, float]]] = {
            (row["workload"], row["peer"]): row["rounds"] for row in written.get("results", ())
        }

    @classmethod
    def read(cls, path: Path) -> Results:
        """From a file.

        :raises OSError: it can't be read
        :raises ValueError: it is not JSON
        """
        return cls(json.loads(path.read_text("utf-8")))

    def workloads(self) -> list[str]:
        """Those of which there are figures, in the order in which they are listed."""
        measured = {workload for workload, _ in self._rounds}
        return [name for name in WORKLOADS if name in measured]

    def peers(self, workload: str) -> list[str]:
        """Those of which there are figures of this workload."""
        return [peer for name, peer in self._rounds if name == workload]

    def names(self, workload: str, peer: str) -> list[str]:
        """Of the figures; the first is the one that the workload is about."""
        return list(self._rounds[workload, peer][0])

    def rounds(self, figure: Figure) -> list[float]:
        """A figure, round by round; empty if there is none."""
        rounds = self._rounds.get((figure.workload, figure.peer), [])
        if not rounds:
            return []
        name = next(iter(rounds[0])) if figure.name is None else figure.name
        return [figures[name] for figures in rounds] if name in rounds[0] else []

    def median(self, figure: Figure) -> float | None:
        """``None`` if there is no such figure."""
        rounds = self.rounds(figure)
        return statistics.median(rounds) if rounds else None

    def ratio(self, one: Figure, other: Figure) -> float | None:
        """One by the other: the median of the ratios within each round.

        Of a workload that has fewer rounds than another, these are compared.
        ``None`` if there is one figure only, or none.
        """
        pairs = list(zip(self.rounds(one), self.rounds(other), strict=False))
        if not pairs:
            return None
        return statistics.median(max(a, _NOTHING) / max(b, _NOTHING) for a, b in pairs)

    def times_better(self, workload: str, one: str, other: str) -> float | None:
        """How many times better one peer is than another: over 1 is better."""
        ratio = self.ratio(Figure(workload, one), Figure(workload, other))
        if ratio is None or WORKLOADS[workload].more_is_better:
            return ratio
        return 1 / ratio

    def baselines(self, workload: str) -> list[str]:
        """Whom the peers are compared with: us, and the limit, if there are figures of them."""
        there = self.peers(workload)
        return [peer for peer in (US, WORKLOADS[workload].limit) if peer in there]


def as_written(measured: Measurements) -> dict[str, Any]:
    """Everything, also each round; to be written as JSON."""
    written: dict[str, Any] = {
        "versions": measured.versions,
        "counts": measured.counts,
        "failed": [
            {"workload": workload, "peer": peer, "reason": reason}
            for (workload, peer), reason in measured.failed.items()
        ],
        "results": [
            {
                "workload": workload,
                "peer": peer,
                "unit": WORKLOADS[workload].unit,
                "rounds": [
                    {name: rounded(value) for name, value in figures.items()} for figures in rounds
                ],
            }
            for (workload, peer), rounds in measured.figures.items()
        ],
    }
    results = Results(written)
    for row in written["results"]:
        workload, peer = row["workload"], row["peer"]
        main = results.rounds(Figure(workload, peer))
        row |= {
            "median": statistics.median(main),
            "min": min(main),
            "max": max(main),
            "ratio": {
                baseline: rounded(results.times_better(workload, peer, baseline) or 0.0)
                for baseline in results.baselines(workload)
            },
            "medians": _medians(row["rounds"]),
        }
    return written


def _medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}


def rounded(value: float) -> float:
    """With the digits that are worth keeping."""
    return float(f"{value:.{_DIGITS}g}")
