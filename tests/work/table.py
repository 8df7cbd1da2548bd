"""The table of budgets: what may be counted on each path, at most.

A budget is what is counted, and a little more: less than the work of two
calls for each message, so that two more break it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

from tests.work.paths import Figure

__all__ = ["FILE", "Budgets", "budget_for", "is_tight", "loose", "tightened", "too_much", "write"]

Budgets: TypeAlias = "dict[str, dict[str, float]]"

#: Where the table is.
FILE: Final = Path(__file__).with_name("budgets.py")

_HEADER: Final = '''"""What may be counted on each path, at most. See test_budgets.py."""

from __future__ import annotations

from typing import Final

__all__ = ["BUDGETS"]

BUDGETS: Final[dict[str, dict[str, float]]] = {
'''


def budget_for(figure: Figure) -> float:
    """What is allowed where so much is counted."""
    value = figure.value + figure.spare
    return float(f"{value:.4g}") if figure.spare else value


def is_tight(figure: Figure, budget: float) -> bool:
    """Whether twice of what is spare would be noticed: two calls for each message, mostly."""
    if not figure.spare:
        return budget <= figure.value
    return budget < figure.value + 2 * figure.spare


def too_much(figures: Mapping[str, Figure], budgets: Mapping[str, float]) -> list[str]:
    """What is over its budget, in words."""
    return [
        f"{what}: {figure.value:.2f}, at most {budgets[what]:.2f}"
        for what, figure in figures.items()
        if figure.value > budgets[what]
    ]


def loose(figures: Mapping[str, Figure], budgets: Mapping[str, float]) -> list[str]:
    """What is so far under its budget that it could become more, and nobody would see it."""
    return [
        f"{what}: {figure.value:.2f}, at most {budgets[what]:.2f}"
        for what, figure in figures.items()
        if not is_tight(figure, budgets[what])
    ]


def tightened(budgets: Budgets, measured: Mapping[str, Mapping[str, Figure]]) -> Budgets:
    """The same table with nothing in it that is loose.

    What has no budget gets one; what was not measured stays. Nothing is raised.
    """
    result = {path: dict(table) for path, table in budgets.items()}
    for path, figures in measured.items():
        old = budgets.get(path, {})
        result[path] = {
            what: budget_for(figure) if _is_loose(figure, old.get(what)) else old[what]
            for what, figure in figures.items()
        }
    return result


def _is_loose(figure: Figure, budget: float | None) -> bool:
    return budget is None or not is_tight(figure, budget)


def write(budgets: Budgets) -> None:
    """Replace the table by another one."""
    lines = [_HEADER]
    for path, table in budgets.items():
        lines.append(f'    "{path}": {{\n')
        lines += [f'        "{what}": {_number(budget)},\n' for what, budget in table.items()]
        lines.append("    },\n")
    FILE.write_text("".join([*lines, "}\n"]), "utf-8")


def _number(budget: float) -> str:
    return str(int(budget)) if float(budget).is_integer() else str(budget)
