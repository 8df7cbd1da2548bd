"""The figures in docs/explanation/speed_of_storages.rst are what the benchmarks print today."""

from __future__ import annotations

import re
import shlex
import textwrap

import pytest

from benchmarks.__main__ import main
from benchmarks.backlog.report import BacklogReport
from benchmarks.backlog.runner import BacklogFigures, Backlogs
from benchmarks.peers.catalogue import PEERS
from benchmarks.report import Report
from benchmarks.runner import Measurements
from benchmarks.workloads import WORKLOADS
from tests.docs.runner import ROOT

DOCUMENT = ROOT / "docs" / "explanation" / "speed_of_storages.rst"

DURABLE = [name for name in WORKLOADS if name.startswith("durable")]


def blocks() -> dict[str, list[str]]:
    """What is shown: the lines below each command."""
    text = DOCUMENT.read_text("utf-8")
    found = re.findall(r"^\.\. code-block:: text\n\n((?:   .*\n|\n)+)", text, re.MULTILINE)
    shown = {}
    for block in found:
        command, *lines = textwrap.dedent(block).strip().splitlines()
        assert command.startswith("$ ")
        shown[command.removeprefix("$ ")] = lines
    return shown


def shapes(lines: list[str]) -> list[str]:
    """The same whatever the numbers."""
    shapes = [re.sub(r"\b[\d,.]+", "N", " ".join(line.split())) for line in lines]
    return [shape for shape in shapes if shape]


def durable_report() -> list[str]:
    listened = {"wrong": "", "at": 2.0}
    dialled = {"at": 1.0, "accepted_at": 1.5, "removed_at": 1.5, "cpu": 0.1}
    measured = Measurements(counts={name: WORKLOADS[name].count for name in DURABLE})
    for name, peer in PEERS.items():
        for workload in DURABLE:
            if workload in peer.workloads:
                figures = WORKLOADS[workload].figures(160, listened, dialled)
                measured.figures[workload, name] = [figures]
    return Report(measured).as_table().splitlines()


def backlog_report(sizes: list[int]) -> list[str]:
    figures = [BacklogFigures(*[1.5] * 9)]
    return BacklogReport(Backlogs(dict.fromkeys(sizes, figures), "2.0")).as_table().splitlines()


def test_the_tables_are_those_of_the_program() -> None:
    durable, backlog = blocks().values()
    printed = shapes(durable_report())
    start = printed.index(shapes([f"durable: {WORKLOADS['durable'].title}, 1 a run"])[0])
    assert shapes(durable)[-len(printed) + start :] == printed[start:]
    sizes = [
        int(size.replace(",", ""))
        for size in re.findall(r"^ *([\d,]+)  ", "\n".join(backlog), re.M)
    ]
    assert len(sizes) == 4
    printed = shapes(backlog_report(sizes))[1:]
    versions = re.compile(r"snakemq is [^;]+")
    shown, expected = (
        [versions.sub("", shape) for shape in lines]
        for lines in (shapes(backlog)[-len(printed) :], printed)
    )
    assert shown == expected


def test_the_commands_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = list(blocks())
    assert len(commands) == 2
    for command in commands:
        python, *arguments = shlex.split(command)
        assert [python, *arguments[:2]] == ["python3", "-m", "benchmarks"]
        # It stops when everything is parsed.
        monkeypatch.setattr("sys.argv", ["benchmarks", *arguments[2:], "--help"])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 0
