"""Every program in examples/ runs to its end.

An example is a file that does everything itself, or a directory of programs
that are run at the same time and all come to their end.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.runner import ROOT

EXAMPLES = sorted(
    path
    for path in (ROOT / "examples").glob("*")
    if not path.name.startswith(("_", "."))
    and (path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py"))))
)

#: Seconds that an example may take.
EXAMPLE_TIMEOUT = 50.0


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(path: Path, tmp_path: Path) -> None:
    programs = sorted(path.glob("*.py")) if path.is_dir() else [path]
    outputs = [tmp_path / f"{program.stem}.out" for program in programs]
    with contextlib.ExitStack() as cleanup:
        processes = []
        for program, output in zip(programs, outputs, strict=True):
            process = subprocess.Popen(
                [sys.executable, "-W", "error::ResourceWarning", str(program)],
                cwd=tmp_path,
                env=dict(os.environ, PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1"),
                stdin=subprocess.DEVNULL,
                stdout=cleanup.enter_context(output.open("w")),
                stderr=subprocess.STDOUT,
            )
            cleanup.callback(process.wait)
            cleanup.callback(process.kill)
            processes.append(process)
        statuses = [process.wait(EXAMPLE_TIMEOUT) for process in processes]
    printed = "\n".join(output.read_text() for output in outputs)
    assert not any(statuses), f"exit statuses {statuses}:\n{printed}"
    assert "Traceback" not in printed
