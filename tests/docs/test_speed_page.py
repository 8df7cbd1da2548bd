"""docs/explanation/speed.rst shows what benchmarks/results.json says, and its pictures."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.__main__ import main
from benchmarks.figures import GROUPS, groups_of
from benchmarks.page import FIGURES, PAGE, RESULTS, refreshed
from benchmarks.peers.catalogue import PEERS
from benchmarks.results import Results
from benchmarks.workloads import WORKLOADS


def test_the_page_is_made_from_the_results() -> None:
    """If not: python3 -m benchmarks.page"""
    text = PAGE.read_text("utf-8")
    assert refreshed(text, Results.read(RESULTS)) == text


def test_figures_that_changed_would_be_noticed() -> None:
    results = Results.read(RESULTS)
    text = PAGE.read_text("utf-8")
    for row in results.written["results"]:
        if (row["workload"], row["peer"]) == ("small", "snakemq-peer"):
            for figures in row["rounds"]:
                figures["messages/s"] *= 2
    assert refreshed(text, Results(results.written)) != text


def test_all_that_is_measured_has_its_place() -> None:
    text = PAGE.read_text("utf-8")
    places = re.findall(r"^\.\. measured: (\w+)$", text, re.MULTILINE)
    assert sorted(places) == sorted(["machine", "reach", "missing", *(g.name for g in GROUPS)])
    assert text.count(".. end of what was measured\n") == len(places)
    shown = [workload for group in GROUPS for workload in group.workloads]
    assert sorted(shown) == sorted(WORKLOADS)
    for peer in PEERS:
        assert f"``{peer}``" in text, peer


def test_the_pictures_are_those_of_the_page() -> None:
    shown = re.findall(r"^\.\. image:: figures/(\S+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert sorted(shown) == sorted(path.name for path in FIGURES.iterdir())
    assert shown == [f"{group.name}.svg" for group in groups_of(Results.read(RESULTS))]
    for path in FIGURES.iterdir():
        assert path.stat().st_size < 60_000


def test_nothing_of_the_machine_is_in_the_results() -> None:
    """Where its directories are is of no use to anybody."""
    text = RESULTS.read_text("utf-8")
    assert not re.search(r"/(root|home|work|tmp|Users)\b", text)


def test_the_commands_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = re.findall(r"^   \$ (.*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(commands) == 7
    for command in commands:
        python, *arguments = shlex.split(command)
        if arguments == ["-m", "benchmarks.page"]:
            continue
        assert [python, *arguments[:2]] == ["python3", "-m", "benchmarks"]
        # It stops when everything is parsed.
        monkeypatch.setattr("sys.argv", ["benchmarks", *arguments[2:], "--help"])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 0


def test_another_run_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The results are kept, the page shows them, and the pictures are drawn from them."""
    written = Results.read(RESULTS).written
    written["versions"]["raw"] = "sockets of another world"
    new = tmp_path / "new.json"
    new.write_text(json.dumps(written), "utf-8")
    for name, path in {"PAGE": PAGE, "RESULTS": RESULTS}.items():
        shutil.copy(path, tmp_path / path.name)
        monkeypatch.setattr(page, name, tmp_path / path.name)
    drawn: list[Path] = []
    monkeypatch.setattr(page, "draw_elsewhere", lambda cache, results, to: drawn.extend([results]))
    page.publish(new, tmp_path)
    assert drawn == [tmp_path / RESULTS.name]
    assert drawn[0].read_text("utf-8") == new.read_text("utf-8")
    assert "raw is sockets of another world" in (tmp_path / PAGE.name).read_text("utf-8")
