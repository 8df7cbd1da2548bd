"""Every program in examples/ prints what its first lines say that it prints."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.helpers import DEADLINE
from tests.integration.command_line import ROOT, environment

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def promised_output(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert docstring is not None
    _, promise, block = docstring.partition("Prints::\n\n")
    assert promise, f"{path.name} does not say what it prints"
    return textwrap.dedent(block)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_prints_what_it_promises(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.rstrip("\n") == promised_output(path).rstrip("\n")
    assert list(tmp_path.iterdir()) == []


def test_every_example_is_in_the_list_of_examples() -> None:
    text = (ROOT / "examples" / "README.rst").read_text("utf-8")
    listed = re.findall(r"^``(\w+\.py)``$", text, re.MULTILINE)
    assert sorted(listed) == [path.name for path in EXAMPLES]
