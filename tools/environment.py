"""Makes the virtual environments that tests and checks run in.

Needs nothing but Python itself, not even what some distributions split off
from it: Debian and Ubuntu ship ``venv`` without the ``ensurepip`` that it
leans on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["ROOT", "EnvironmentProblem", "make_environment", "require_python", "run"]

ROOT = Path(__file__).resolve().parent.parent

#: In the directory of an environment that was made here: what it was made from.
STAMP = "made-by-snakemq-tools"


class EnvironmentProblem(Exception):
    """The environment can't be made; the message tells a person what to do."""


def require_python():
    """Leave with a clear message on a Python that is too old."""
    if sys.version_info < (3, 10):  # noqa: UP036 - here it is found out
        found = "{}.{} ({})".format(*sys.version_info[:2], sys.executable)
        sys.exit("snakemq needs Python 3.10 or newer, this is " + found)


def run(*command: str | Path, quiet: bool = False) -> None:
    """Run a command in the project's root.

    :param quiet: show what it prints only if it fails
    :raises EnvironmentProblem: it failed
    """
    arguments = [str(argument) for argument in command]
    done = subprocess.run(
        arguments,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        shown = (done.stdout or "").strip()
        raise EnvironmentProblem(
            f"{shown}\n\nfailed with exit status {done.returncode}: {' '.join(arguments)}".strip()
        )


def make_environment(path: Path, extras: str) -> Path:
    """Make, or bring up to date, an environment with this project installed in it.

    The project is installed in place: the environment runs the files of the
    work tree.

    :param path: its directory
    :param extras: the project's optional dependencies to install: ``"test,docs"``
    :returns: its Python
    :raises EnvironmentProblem: it can't be made
    """
    python = path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = path / STAMP
    made_from = _fingerprint(extras)
    if stamp.is_file() and stamp.read_text("utf-8") == made_from and _runs(python):
        return python
    if path.exists():
        if not stamp.is_file() and any(path.iterdir()):
            raise EnvironmentProblem(
                f"{path} exists and was not made by this program; move it away, or choose"
                " another directory with --venv"
            )
        shutil.rmtree(path)
    print(f"== making {path} with Python {sys.version.split()[0]}", flush=True)
    path.mkdir(parents=True)
    # Written first and completed last: a run that was interrupted is redone.
    stamp.write_text("incomplete", "utf-8")
    _make_bare_environment(path, python)
    print(f"== installing snakemq[{extras}] and what it needs into it", flush=True)
    try:
        run(python, "-m", "pip", "install", "--quiet", "-e", f"{ROOT}[{extras}]")
    except EnvironmentProblem as problem:
        raise EnvironmentProblem(
            f"{problem}\n\nThe packages come from the package index that pip is set up for;"
            " is it reachable?"
        ) from None
    stamp.write_text(made_from, "utf-8")
    return python


def _fingerprint(extras: str) -> str:
    project = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    return f"{sys.version}\n{sys.base_prefix}\n{ROOT}\n{extras}\n{project}\n"


def _runs(python: Path) -> bool:
    try:
        return subprocess.run([str(python), "-c", ""], check=False).returncode == 0
    except OSError:
        return False


def _make_bare_environment(path: Path, python: Path) -> None:
    if importlib.util.find_spec("venv") is None:
        raise EnvironmentProblem(
            f"this Python ({sys.executable}) has no venv module;"
            " on Debian and Ubuntu: apt install python3-venv"
        )
    run(sys.executable, "-m", "venv", "--without-pip", path, quiet=True)
    problems = []
    for provide_pip in (_pip_of_python, _pip_of_system, _pip_of_distribution, _pip_of_apt):
        try:
            provide_pip(python)
        except (EnvironmentProblem, OSError) as problem:
            problems.append(str(problem))
        else:
            return
    raise EnvironmentProblem(
        "\n\n".join(problems)
        + f"\n\nThis Python ({sys.executable}) comes without ensurepip, and no other pip was found."
        "\nInstall it first; on Debian and Ubuntu: apt install python3-venv"
    )


def _pip_of_python(python: Path) -> None:
    """Python's own copy: the ordinary way."""
    run(python, "-m", "ensurepip", "--default-pip", quiet=True)


def _pip_of_system(python: Path) -> None:
    """A pip that is installed for the Python that runs this."""
    run(sys.executable, "-m", "pip", "--python", python, "install", "pip", quiet=True)


def _pip_of_distribution(python: Path) -> None:
    """The wheel that Debian's own tools build environments from, if it is there."""
    _pip_of_wheel(python, Path("/usr/share/python-wheels"))


def _pip_of_apt(python: Path) -> None:
    """The same wheel out of its package, which is downloaded but not installed."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise EnvironmentProblem("this is no system with apt-get")
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            ["apt-get", "download", "python3-pip-whl"],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        packages = list(Path(directory).glob("*.deb"))
        if done.returncode or not packages:
            raise EnvironmentProblem(f"apt-get download python3-pip-whl: {done.stdout.strip()}")
        run("dpkg-deb", "-x", packages[0], directory, quiet=True)
        _pip_of_wheel(python, Path(directory, "usr/share/python-wheels"))


def _pip_of_wheel(python: Path, directory: Path) -> None:
    wheels = sorted(directory.glob("pip-*.whl"))
    if not wheels:
        raise EnvironmentProblem(f"no pip in {directory}")
    pip_in_wheel = wheels[-1] / "pip"
    run(python, pip_in_wheel, "install", "--no-index", wheels[-1], quiet=True)
