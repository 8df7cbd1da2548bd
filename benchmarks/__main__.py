"""Measure the package side by side with others.

Each run is two new processes that talk over the loopback interface, each on a
core of its own; servers of others run where there is room. Rounds are
interleaved: every peer does the workload once, then every peer again, so that a
machine that slows down slows down all of them. What arrives is verified: count,
order and content. Figures are medians, and ratios are medians of the ratios
within each round. A peer that fails in a workload is listed with the reason,
and the exit status is 1 then.

Other packages are installed from the package index when they are needed first,
into a directory of their own. What is stored is all below one directory, so
that everybody waits for the same disk. Servers run for the benchmarks alone,
where their programs are there; --install gets them on Debian and its kin.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.backlog.report import BacklogReport
from benchmarks.backlog.runner import measure_backlogs
from benchmarks.certificates import make_certificates
from benchmarks.environments import CACHE, ROOT, Unavailable, this_tree
from benchmarks.machine import Machine
from benchmarks.page import RESULTS, publish
from benchmarks.peers import Certificates
from benchmarks.peers.catalogue import PEERS
from benchmarks.plots import draw_elsewhere
from benchmarks.processes import RunFailed
from benchmarks.report import Report
from benchmarks.results import rounded
from benchmarks.runner import Place, measure, prepare
from benchmarks.servers.packages import install_missing
from benchmarks.workloads import WORKLOADS

#: How many rounds, how much of the full count, and backlogs of which sizes: of
#: a full run, of a quick one.
_FULL: Final = (5, 1.0, (1_000, 10_000, 100_000))
_QUICK: Final = (1, 0.1, (1_000, 5_000))

_BACKLOG: Final = "backlog"


def main() -> int:
    options = _options()
    # So that whoever ends this ends the servers, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    progress = _show_progress if sys.stderr.isatty() else _ignore
    try:
        with ExitStack() as stack:
            stack.callback(progress, "")
            options.directory.mkdir(parents=True, exist_ok=True)
            directory = Path(
                stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="data-", dir=options.directory)
                )
            )
            # A server that runs as another user has to get to its own directory.
            directory.chmod(0o711)
            return _measure_and_report(options, directory, stack, progress)
    except RunFailed as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _measure_and_report(
    options: argparse.Namespace,
    directory: Path,
    servers: ExitStack,
    progress: Callable[[str], object],
) -> int:
    started = time.monotonic()
    machine = Machine.here(directory, apart=not options.free_cores)
    if machine.warning:
        print(f"warning: {machine.warning}", file=sys.stderr)
    workloads = [name for name in options.workloads if name != _BACKLOG]
    progress("getting everything that is needed")
    shown = [str(machine)]
    if options.install:
        try:
            install_missing()
        except Unavailable as exc:
            shown.append(f"servers that are not there: {exc}")
    peers, left_out = prepare(options.peers or PEERS, workloads, options.cache, directory, servers)
    if workloads and (not peers or (options.peers and left_out)):
        reasons = [f"{name} is left out: {reason}" for name, reason in left_out.items()]
        print("\n".join(reasons) or "none of these peers does that", file=sys.stderr)
        return 1
    workloads, certificates = _with_certificates(workloads, directory, left_out)
    place = Place(directory, certificates, machine.apart)
    measured = measure(peers, workloads, options.rounds, options.scale, place, progress)
    report = Report(measured)
    shown += [f"{name} is left out: {reason}" for name, reason in left_out.items()]
    if workloads:
        shown.append(report.as_table())
    facts = dataclasses.asdict(machine)
    facts.pop("directory")  # nobody elsewhere has it
    written: dict[str, Any] = {
        "machine": facts,
        "left_out": left_out,
        "scale": options.scale,
        **report.as_json(),
    }
    if _BACKLOG in options.workloads:
        backlogs = BacklogReport(
            measure_backlogs(
                this_tree(options.cache), options.sizes, options.rounds, directory, progress
            )
        )
        written[_BACKLOG] = backlogs.as_json()
        shown += ["", backlogs.as_table()]
    progress("")
    written["seconds"] = rounded(time.monotonic() - started)
    shown += ["", f"it took {time.monotonic() - started:.0f} seconds"]
    print("\n".join(shown))
    _write(options, directory, written)
    return 1 if measured.failed else 0


def _write(options: argparse.Namespace, directory: Path, written: dict[str, Any]) -> None:
    results: Path = options.json or directory / "results.json"
    results.write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    try:
        if options.plots:
            draw_elsewhere(options.cache, results, options.plots)
        if options.docs:
            publish(results, options.cache)
    except Unavailable as exc:
        raise RunFailed(str(exc)) from exc


def _with_certificates(
    workloads: list[str], directory: Path, left_out: dict[str, str]
) -> tuple[list[str], Certificates | None]:
    """The workloads that can be done, and the certificates for those with TLS."""
    secured = [name for name in workloads if WORKLOADS[name].needs_certificates]
    if not secured:
        return workloads, None
    made = directory / "certificates"
    made.mkdir()
    try:
        return workloads, make_certificates(made)
    except Unavailable as exc:
        left_out[", ".join(secured)] = str(exc)
        return [name for name in workloads if name not in secured], None


def _options() -> argparse.Namespace:
    width = max(map(len, WORKLOADS))
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="workloads:\n"
        + "\n".join(f"  {name:<{width}} {workload.title}" for name, workload in WORKLOADS.items())
        + f"\n  {_BACKLOG:<{width}} what waits for a peer that is not there, by its size"
        + f"\n\npeers: {', '.join(PEERS)}",
    )
    names = [*WORKLOADS, _BACKLOG]
    parser.add_argument("--quick", action="store_true", help="fewer rounds of a tenth the size")
    parser.add_argument(
        "--workloads", type=_names_of(names), default=names, metavar="A,B", help="only these"
    )
    parser.add_argument("--peers", type=_names_of(PEERS), metavar="A,B", help="only these")
    parser.add_argument(
        "--free-cores",
        action="store_true",
        help="let the system choose on which cores the processes run, each time anew",
    )
    parser.add_argument("--rounds", type=_positive(int), metavar="N")
    parser.add_argument(
        "--scale", type=_positive(float), metavar="X", help="so many times the operations"
    )
    parser.add_argument(
        "--sizes",
        type=_sizes,
        metavar="N,N",
        help="of the backlog, in messages (default: 1000,10000,100000; 1000000 takes minutes)",
    )
    parser.add_argument(
        "--install", action="store_true", help="install servers that are missing, with apt; as root"
    )
    parser.add_argument("--json", type=_path, metavar="FILE", help="write everything there, too")
    parser.add_argument("--plots", type=_path, metavar="DIR", help="draw everything there, too")
    parser.add_argument(
        "--docs",
        action="store_true",
        help=f"keep it in {RESULTS.relative_to(ROOT)}, and have the documentation show it",
    )
    parser.add_argument(
        "--directory",
        type=_path,
        default=_path(os.environ.get("TMPDIR") or CACHE),
        metavar="DIR",
        help="on the disk to measure with (default: $TMPDIR if it is set, else build/benchmarks)",
    )
    parser.add_argument(
        "--cache",
        type=_path,
        default=CACHE,
        metavar="DIR",
        help="where other packages are installed (default: build/benchmarks)",
    )
    options = parser.parse_args()
    rounds, scale, sizes = _QUICK if options.quick else _FULL
    options.rounds = options.rounds or rounds
    options.scale = options.scale or scale
    options.sizes = options.sizes or sizes
    return options


def _path(text: str | Path) -> Path:
    return Path(text).resolve()


def _sizes(text: str) -> list[int]:
    return sorted({int(_positive(int)(size)) for size in text.split(",")})


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
