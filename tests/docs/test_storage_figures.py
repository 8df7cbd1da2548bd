"""The figures in docs/explanation/speed_of_storages.rst are what the benchmarks print today."""

from __future__ import annotations

import re
import shlex
import textwrap

import pytest

from benchmarks.__main__ import main
from benchmarks.backlog.report import BacklogReport
from benchmarks.backlog.runner import BacklogFigures, Backlogs
from tests.docs.runner import ROOT

DOCUMENT = ROOT / "docs" / "explanation" / "speed_of_storages.rst"


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


def backlog_report(sizes: list[int]) -> list[str]:
    figures = [BacklogFigures(*[1.5] * 9)]
    return BacklogReport(Backlogs(dict.fromkeys(sizes, figures), "2.0")).as_table().splitlines()


def test_the_table_is_that_of_the_program() -> None:
    """That of durable messages is in another document, which is made from the results."""
    durable, backlog = blocks().values()
    assert not durable
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
