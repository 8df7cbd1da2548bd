"""``python3 -m tests.work [-v] [PATH...]``: what is counted, beside the budgets.

``-v`` tells who was called how often for each message.
"""

from __future__ import annotations

import sys

from tests.work.every_path import PATHS


def main(arguments: list[str]) -> int:
    verbose = "-v" in arguments
    wanted = [argument for argument in arguments if argument != "-v"]
    for name, measure in PATHS.items():
        if wanted and name not in wanted:
            continue
        measured = measure()
        print(name)
        for figure, value in measured.figures.items():
            print(f"  {figure:50} {value:10.2f}")
        if verbose:
            print(measured.report())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
