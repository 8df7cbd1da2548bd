"""Measure the package side by side with others.

Each run is two new processes that talk over the loopback interface. Rounds are
interleaved: every peer does the workload once, then every peer again, so that a
machine that slows down slows down all of them. What arrives is verified: count,
order and content. Figures are medians, and ratios are medians of the ratios
within each round.

Other packages are installed from the package index when they are needed first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from benchmarks.environments import CACHE
from benchmarks.peers.catalogue import PEERS
from benchmarks.processes import RunFailed
from benchmarks.report import Report, machine
from benchmarks.runner import measure, prepare
from benchmarks.workloads import WORKLOADS

#: How many rounds and how much of the full count: of a full run, of a quick one.
_FULL: Final = (5, 1.0)
_QUICK: Final = (3, 0.1)


def main() -> int:
    options = _options()
    rounds, scale = _QUICK if options.quick else _FULL
    environments, left_out = prepare(options.peers or PEERS, options.cache)
    for name, reason in left_out.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    if not environments or (options.peers and left_out):
        return 1
    where = machine()
    progress = _show_progress if sys.stderr.isatty() else _ignore
    try:
        measured = measure(
            environments,
            options.workloads or list(WORKLOADS),
            options.rounds or rounds,
            options.scale or scale,
            progress,
        )
    except RunFailed as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        progress("")
    report = Report(measured, where)
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=1) + "\n", "utf-8")
    print(report.as_table())
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="workloads:\n"
        + "\n".join(f"  {name:<8} {workload.title}" for name, workload in WORKLOADS.items())
        + f"\n\npeers: {', '.join(PEERS)}",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds of a tenth the size")
    parser.add_argument("--workloads", type=_names_of(WORKLOADS), metavar="A,B", help="only these")
    parser.add_argument("--peers", type=_names_of(PEERS), metavar="A,B", help="only these")
    parser.add_argument("--rounds", type=_positive(int), metavar="N")
    parser.add_argument(
        "--scale", type=_positive(float), metavar="X", help="so many times the operations"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")
    parser.add_argument(
        "--cache",
        type=lambda path: Path(path).resolve(),
        default=CACHE,
        metavar="DIR",
        help="where other packages are installed (default: build/benchmarks)",
    )
    return parser.parse_args()


def _names_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        found = [name.strip() for name in text.split(",")]
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return found

    return names


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not more than 0")
        return value

    return number


def _show_progress(what: str) -> None:
    print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


def _ignore(what: str) -> None:
    """Nobody is looking."""


if __name__ == "__main__":
    sys.exit(main())
