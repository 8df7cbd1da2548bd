"""Draw what was measured: one picture for each group of workloads.

    python3 -m benchmarks.plots results.json DIR

Needs matplotlib, which the extra ``bench`` brings; ``python3 -m benchmarks
--plots DIR`` installs it where it is missing. Bars are medians, the lines on
them reach from the lowest to the highest round.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.environments import Unavailable, importable
from benchmarks.figures import Group, groups_of
from benchmarks.peers.catalogue import US
from benchmarks.results import Figure, Results
from benchmarks.table import number
from benchmarks.workloads import WORKLOADS

__all__ = ["draw", "draw_elsewhere"]

_WIDTH: Final = 7.5  # inches
_BAR: Final = 0.26
_AROUND_PANEL: Final = 0.75

#: Colours that are told apart on light and dark pages: us, the limits, all others.
_OURS: Final = "#d1495b"
_LIMIT: Final = "#8d99ae"
_OTHERS: Final = "#3d7ea6"
_TEXT: Final = "#7a7a7a"

_TIMEOUT: Final = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks.plots",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, help="what --json has written")
    parser.add_argument("directory", type=Path, metavar="DIR", help="where to put the pictures")
    options = parser.parse_args()
    for path in draw(Results.read(options.results), options.directory):
        print(path)


def draw_elsewhere(cache: Path, results: Path, directory: Path) -> list[Path]:
    """Draw with a Python that has matplotlib; it is installed if there is none.

    :param cache: where packages are installed
    :param results: a file
    :return: the pictures
    :raises Unavailable: it can't be had; the message says why
    """
    environment = importable("matplotlib.figure", "matplotlib>=3.9")(cache)
    try:
        done = subprocess.run(
            [environment.python, "-m", "benchmarks.plots", str(results), str(directory)],
            cwd=environment.directory,
            env=environment.variables,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=True,
        )
    except subprocess.CalledProcessError as exc:
        raise Unavailable(f"there are no plots: {exc.stderr.strip()[-500:]}") from exc
    return [Path(line) for line in done.stdout.splitlines()]


def draw(results: Results, directory: Path) -> list[Path]:
    """Draw everything.

    :return: the pictures
    """
    directory.mkdir(parents=True, exist_ok=True)
    return [_draw_group(results, group, directory) for group in groups_of(results)]


def _draw_group(results: Results, group: Group, directory: Path) -> Path:
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    panels = [
        (Figure(workload, name=name), title)
        for workload, name, title in group.panels
        if _bars(results, Figure(workload, name=name))
    ]
    heights = [len(_bars(results, figure)) * _BAR + _AROUND_PANEL for figure, _ in panels]
    # Text stays text, and the same figures make the same file.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": group.name}
    with matplotlib.rc_context(settings):
        canvas = Canvas(figsize=(_WIDTH, sum(heights)), layout="constrained")
        axes = canvas.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for (figure, title), panel in zip(panels, axes, strict=True):
            _draw_panel(panel, _bars(results, figure), title, _colour_for(figure.workload))
        path = directory / f"{group.name}.svg"
        canvas.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
    # Each line of it ends with a space, which is nothing to keep.
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", "utf-8")
    return path


def _bars(results: Results, figure: Figure) -> list[tuple[str, float, float, float]]:
    """Peer, median, lowest and highest, of those who have the figure."""
    bars = []
    for peer in results.peers(figure.workload):
        rounds = results.rounds(figure._replace(peer=peer))
        median = results.median(figure._replace(peer=peer))
        if median is not None:
            bars.append((peer, median, min(rounds), max(rounds)))
    return bars


def _colour_for(workload: str) -> Callable[[str], str]:
    limit = WORKLOADS[workload].limit
    return lambda peer: {US: _OURS, "snakemq": _OURS, limit: _LIMIT}.get(peer, _OTHERS)


def _draw_panel(
    panel: Any,
    bars: list[tuple[str, float, float, float]],
    title: str,
    colour: Callable[[str], str],
) -> None:
    names, medians, lowest, highest = zip(*bars, strict=True)
    places = range(len(bars))
    spread = [
        [median - low for median, low in zip(medians, lowest, strict=True)],
        [high - median for median, high in zip(medians, highest, strict=True)],
    ]
    panel.barh(
        places,
        medians,
        height=0.7,
        color=[colour(name) for name in names],
        xerr=spread,
        error_kw={"ecolor": _TEXT, "elinewidth": 1},
    )
    for place, median, high in zip(places, medians, highest, strict=True):
        panel.annotate(
            number(median),
            (high, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=_TEXT,
        )
    panel.set_yticks(places, names, fontsize=8)
    panel.invert_yaxis()
    panel.set_xlim(0, max(highest) * 1.15)
    panel.set_title(title, loc="left", fontsize=9, color=_TEXT)
    panel.tick_params(colors=_TEXT, labelsize=8, length=0)
    panel.xaxis.set_visible(False)
    for spine in panel.spines.values():
        spine.set_visible(False)
    # Nothing reaches beyond the panel, and the names of clippings differ each time.
    for artist in panel.findobj():
        artist.set_clip_on(False)


if __name__ == "__main__":
    main()
