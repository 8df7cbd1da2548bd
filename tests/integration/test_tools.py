"""The programs in tools/: they fail where a person can do something about it, and say what."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / "tools"


def run(*arguments: str | Path, **environment: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def pretend(code: str) -> subprocess.CompletedProcess[str]:
    return run("-c", f"import sys; sys.path.insert(0, {str(TOOLS)!r})\n{code}")


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "precious.txt").write_text("mine")
    done = run(TOOLS / "test.py", "--venv", theirs)
    assert done.returncode == 2
    assert f"{theirs} exists and was not made by this program" in done.stderr
    assert (theirs / "precious.txt").read_text() == "mine"


def test_an_old_python_is_told() -> None:
    done = pretend("import environment\nsys.version_info = (3, 9, 2)\nenvironment.require_python()")
    assert done.returncode == 1
    assert "snakemq needs Python 3.10 or newer, this is 3.9" in done.stderr


def test_a_python_without_venv_is_told_what_to_install(tmp_path: Path) -> None:
    done = pretend(
        "import environment, importlib.util\n"
        "importlib.util.find_spec = lambda name: None\n"
        f"sys.argv = ['test.py', '--venv', {str(tmp_path / 'new')!r}]\n"
        "import test\n"
        "sys.exit(test.main())"
    )
    assert done.returncode == 2
    assert "apt install python3-venv" in done.stderr


def test_a_failing_command_is_shown_with_what_it_printed() -> None:
    done = pretend(
        "from environment import run, EnvironmentProblem\n"
        "try:\n"
        "    run(sys.executable, '-c', 'print(\"why\"); exit(3)', quiet=True)\n"
        "except EnvironmentProblem as problem:\n"
        "    print(problem)\n"
    )
    assert done.stdout.startswith("why\n\nfailed with exit status 3: ")


@pytest.mark.parametrize("others", [False, True])
def test_the_pythons_are_those_that_run(others: bool) -> None:
    done = run(TOOLS / "pythons.py", *(["--others"] if others else []))
    assert done.returncode == 0, done.stderr
    versions = [
        subprocess.run(
            [python, "-c", "import sys; print(*sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for python in done.stdout.splitlines()
    ]
    assert len(versions) == len(set(versions))
    this = "{} {}\n".format(*sys.version_info[:2])
    assert (this in versions) is (not others and sys.version_info[:2] <= (3, 13))


def where_the_server_is(cache: Path) -> Path:
    done = run(TOOLS / "mongodb_server.py", "--where", XDG_CACHE_HOME=cache, LOCALAPPDATA=cache)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    return Path(line)


def test_where_the_mongodb_server_is_can_be_told_without_building_it(tmp_path: Path) -> None:
    there = where_the_server_is(tmp_path)
    assert there == where_the_server_is(tmp_path)
    assert there.parent == tmp_path / "snakemq-tests"
    assert there.name.startswith("ferretdb-")
    assert not there.exists()
    assert not there.parent.exists()


def test_a_mongodb_server_without_a_compiler_tells_what_to_install(tmp_path: Path) -> None:
    done = pretend(
        "import mongodb_server, sys\n"
        f"mongodb_server._cache = lambda: mongodb_server.Path({str(tmp_path)!r})\n"
        "mongodb_server._go = lambda: None\n"
        "sys.argv = ['mongodb_server.py']\n"
        "sys.exit(mongodb_server.main())"
    )
    assert done.returncode == 2
    assert "apt install golang-go" in done.stderr
    assert "SNAKEMQ_TEST_MONGODB" in done.stderr
