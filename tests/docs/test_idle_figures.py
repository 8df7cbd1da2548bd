"""The program that measured docs/explanation/idle.rst runs, and prints what is shown there."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.docs.runner import ROOT

DOCUMENT = ROOT / "docs" / "explanation" / "idle.rst"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")


def run(*options: str) -> str:
    done = subprocess.run(
        [sys.executable, "benchmarks/idle_connections.py", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=45,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_pattern(shown: str) -> str:
    """Matches the same text with other numbers."""
    return re.sub(r"\\?\d+(?:\\?\.\d+)*(?:\\?\.dev\d+)?", r"\\S+", re.escape(shown))


def test_it_prints_what_is_shown() -> None:
    shown = re.search(r"idle_connections\.py\n((?:   .+\n)+)", DOCUMENT.read_text("utf-8"))
    assert shown is not None
    expected = "".join(line.strip() + "\n" for line in shown[1].splitlines())
    printed = run("--connections", "30", "--seconds", "0.2")
    assert re.fullmatch(as_pattern(expected), printed), printed


def test_pings_are_counted() -> None:
    printed = run("--connections", "30", "--seconds", "0.5", "--keepalive", "0.1")
    pings = re.search(r"(\d+) pings answered", printed)
    assert pings is not None
    assert int(pings[1]) > 0
