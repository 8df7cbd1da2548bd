"""Put what was measured into the documentation's page about it.

    python3 -m benchmarks.page                  from what is committed
    python3 -m benchmarks.page results.json     from this, which is kept

The page is written by hand but for what stands between two comments, ``measured:
NAME`` and ``end of what was measured``. The pictures are drawn beside it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks.environments import CACHE, ROOT, Unavailable
from benchmarks.figures import GROUPS, Group
from benchmarks.plots import draw_elsewhere
from benchmarks.reach import Condition, Row, reach
from benchmarks.report import cells_of
from benchmarks.results import Figure, Results
from benchmarks.workloads import WORKLOADS

__all__ = ["FIGURES", "PAGE", "RESULTS", "publish", "refreshed"]

PAGE: Final = ROOT / "docs" / "explanation" / "speed.rst"
FIGURES: Final = ROOT / "docs" / "explanation" / "figures"
RESULTS: Final = ROOT / "benchmarks" / "results.json"

_MEASURED: Final = re.compile(
    r"^(?P<begin>\.\. measured: (?P<name>\w+)\n).*?^(?P<end>\.\. end of what was measured\n)",
    re.MULTILINE | re.DOTALL,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks.page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    options = parser.parse_args()
    try:
        publish(options.results, CACHE)
    except Unavailable as exc:
        sys.exit(str(exc))


def publish(results: Path, cache: Path) -> None:
    """Keep the results, and have the documentation show them.

    :param results: a file
    :param cache: where packages are installed
    :raises Unavailable: there can't be pictures; the message says why
    """
    if results.resolve() != RESULTS:
        shutil.copyfile(results, RESULTS)
    PAGE.write_text(refreshed(PAGE.read_text("utf-8"), Results.read(RESULTS)), "utf-8")
    draw_elsewhere(cache, RESULTS, FIGURES)


def refreshed(page: str, results: Results) -> str:
    """The page with these results."""

    def block(match: re.Match[str]) -> str:
        lines = "\n".join(_block(match["name"], results))
        return f"{match['begin']}\n{lines}\n\n{match['end']}"

    return _MEASURED.sub(block, page)


def _block(name: str, results: Results) -> list[str]:
    special: dict[str, Callable[[Results], list[str]]] = {
        "machine": _machine,
        "reach": _reach,
        "missing": _missing,
    }
    if name in special:
        return special[name](results)
    (group,) = (group for group in GROUPS if group.name == name)
    return _group(group, results)


def _machine(results: Results) -> list[str]:
    written = results.written
    machine = written["machine"]
    versions = "; ".join(f"{name} is {version}" for name, version in written["versions"].items())
    rounds = max(len(row["rounds"]) for row in written["results"])
    load = "" if machine["load"] is None else f" and a load of {machine['load']:.1f} before"
    how_long = f"{written['seconds'] / 60:.0f} minutes"
    size = "" if written["scale"] == 1 else f", at {written['scale']:g} of the full size"
    apart = ", a core for each end" if machine.get("apart") else ""
    where = f"{machine['python']}, {machine['system']}, {machine['cpus']} CPUs{apart}{load}"
    how_often = f"{rounds} round{'s' * (rounds != 1)} at most"
    return [f"{where}; {how_often}, in {how_long}{size}. {versions}."]


def _missing(results: Results) -> list[str]:
    written = results.written
    reasons = [f"* {name} is left out: {reason}" for name, reason in written["left_out"].items()]
    reasons += [
        f"* {failed['workload']}, {failed['peer']}, failed {failed['reason']}"
        for failed in written["failed"]
    ]
    return reasons or ["Nobody was left out, and nobody failed."]


def _reach(results: Results) -> list[str]:
    cells = [["workload", "at least", "measured", "", "aim", "measured", ""]]
    cells += [_reach_row(row) for row in reach(results)]
    return _list_table(cells, "14 22 24 10 16 24 10")


def _reach_row(row: Row) -> list[str]:
    return [row.workload, *_reach_cells(row.least), *_reach_cells(row.aims)]


def _reach_cells(conditions: Sequence[Condition]) -> list[str]:
    return [
        _lines([condition.asked for condition in conditions]),
        _lines([condition.measured or "?" for condition in conditions]),
        _lines([condition.verdict for condition in conditions]),
    ]


def _lines(texts: Sequence[str]) -> str:
    """Each on a line of its own, in one cell."""
    return "\n".join(texts if len(texts) <= 1 else [f"| {text}" for text in texts])


def _group(group: Group, results: Results) -> list[str]:
    lines = [
        f".. image:: figures/{group.name}.svg",
        f"   :alt: {group.title}, drawn from the tables below",
    ]
    for workload in group.workloads:
        if workload in results.workloads():
            lines += ["", *_workload(workload, results)]
    return lines


def _workload(workload: str, results: Results) -> list[str]:
    work = WORKLOADS[workload]
    count = results.written["counts"][workload]
    rounds = max(len(results.rounds(Figure(workload, peer))) for peer in results.peers(workload))
    heading = (
        f"**{workload}**: {work.title}; {count:,} {work.counted} in a run, median of {rounds}:"
    )
    cells = cells_of(results, workload)
    return [heading, "", *_list_table(cells)]


def _list_table(cells: Sequence[Sequence[str]], widths: str = "auto") -> list[str]:
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in cells:
        for number, cell in enumerate(row):
            first, *rest = cell.splitlines() or [""]
            lines.append(f"   {'* -' if not number else '  -'} {first}".rstrip())
            lines += [f"       {line}" for line in rest]
    return lines


if __name__ == "__main__":
    main()
