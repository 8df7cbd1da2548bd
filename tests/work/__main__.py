"""What is counted, beside the budgets."""

from __future__ import annotations

import argparse
import sys

from tests.work import table
from tests.work.budgets import BUDGETS
from tests.work.every_path import PATHS
from tests.work.paths import Figure, Measured, Unavailable


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.work", description=__doc__)
    parser.add_argument("paths", nargs="*", metavar="PATH", help="only these; default: all")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="tell who was called how often"
    )
    parser.add_argument(
        "--tighten",
        action="store_true",
        help="lower the budgets to what is counted; what has none gets one, nothing is raised",
    )
    options = parser.parse_args()
    unknown = set(options.paths) - set(PATHS)
    if unknown:
        parser.error(f"no such path: {', '.join(sorted(unknown))}; there are: {', '.join(PATHS)}")
    figures: dict[str, dict[str, Figure]] = {}
    over = False
    for name in options.paths or PATHS:
        print(name)
        try:
            measured = PATHS[name]()
        except Unavailable as reason:
            print(f"  not here: {reason}")
            continue
        figures[name] = measured.figures
        over |= _show(name, measured)
        if options.verbose:
            print(measured.report())
    if options.tighten:
        table.write(table.tightened(BUDGETS, figures))
    return int(over)


def _show(name: str, measured: Measured) -> bool:
    """Print it; whether a budget is not enough."""
    over = False
    for what, figure in measured.figures.items():
        budget = BUDGETS.get(name, {}).get(what)
        if budget is None:
            remark, at_most = "no budget", "-"
        else:
            over |= figure.value > budget
            at_most = f"{budget:.2f}"
            remark = (
                "TOO MUCH"
                if figure.value > budget
                else ""
                if table.is_tight(figure, budget)
                else "can be tightened"
            )
        print(f"  {what:45} {figure.value:10.2f} of {at_most:>10}  {remark}".rstrip())
    return over


if __name__ == "__main__":
    sys.exit(main())
