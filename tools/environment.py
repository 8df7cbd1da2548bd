"""Make the virtual environments that tests and checks run in.

    python3 tools/environment.py test lint docs build

makes .venv with these optional dependencies of pyproject.toml and with the
project itself installed in place, and prints where its Python is.

Needs nothing but Python itself, not even what some distributions split off
from it: Debian and Ubuntu ship ``venv`` without the ``ensurepip`` that it
leans on.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = [
    "ROOT",
    "EnvironmentProblem",
    "add_venv_option",
    "make_environment",
    "require_python",
    "run",
    "run_in_environment",
]

ROOT = Path(__file__).resolve().parent.parent

#: In the directory of an environment that was made here: what it was made from.
STAMP = "made-by-snakemq-tools"


class EnvironmentProblem(Exception):
    """The environment can't be made; the message tells a person what to do."""


def require_python() -> None:
    """Leave with a clear message on a Python that is too old."""
    if sys.version_info < (3, 10):  # noqa: UP036 - here it is found out
        found = "{}.{} ({})".format(*sys.version_info[:2], sys.executable)
        sys.exit("snakemq needs Python 3.10 or newer, this is " + found)


def run(*command: str | Path, quiet: bool = False, cwd: Path = ROOT) -> None:
    """Run a command.

    :param quiet: show what it prints only if it fails
    :param cwd: where it runs; the project's root if it is not given
    :raises EnvironmentProblem: it failed
    """
    arguments = [str(argument) for argument in command]
    done = subprocess.run(
        arguments,
        cwd=cwd,
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


def make_environment(path: Path, extras: set[str]) -> Path:
    """Make, or bring up to date, an environment with this project installed in it.

    The project is installed in place: the environment runs the files of the
    work tree.

    :param path: its directory
    :param extras: which of the project's optional dependencies to install
    :returns: its Python
    :raises EnvironmentProblem: it can't be made
    """
    python = path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = path / STAMP
    made_from, installed = _read(stamp)
    if made_from != _fingerprint() or not _runs(python):
        if path.exists() and not stamp.is_file() and any(path.iterdir()):
            raise EnvironmentProblem(
                f"{path} exists and was not made by this program; move it away, or choose"
                " another directory with --venv"
            )
        print(f"== making {path} with Python {sys.version.split()[0]}", flush=True)
        installed = set()
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        # So that an environment whose making is interrupted is known as ours.
        stamp.touch()
        (path / ".gitignore").write_text("*\n", "utf-8")
        _make_bare_environment(path, python)
        _write(stamp, installed)
    if not extras <= installed:
        installed |= extras
        wanted = f"{ROOT}[{','.join(sorted(installed))}]"
        print(f"== installing {wanted} and what it needs into it", flush=True)
        try:
            run(python, "-m", "pip", "install", "--quiet", "--editable", wanted)
        except EnvironmentProblem as problem:
            raise EnvironmentProblem(
                f"{problem}\n\nThe packages come from the package index that pip is set up for;"
                " is it reachable?"
            ) from None
        _write(stamp, installed)
    return python


def run_in_environment(path: Path, extras: set[str], arguments: list[str]) -> int:
    """Make an environment, and run its Python.

    :param path: of the environment
    :param extras: see :func:`make_environment`
    :param arguments: of Python
    :returns: the exit status of a program that does just that
    """
    try:
        python = make_environment(path, extras)
        return subprocess.run([str(python), *arguments], cwd=ROOT, check=False).returncode
    except EnvironmentProblem as problem:
        print(problem, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _read(stamp: Path) -> tuple[str, set[str]]:
    """What an environment was made from, and the extras that are installed in it."""
    if not stamp.is_file():
        return "", set()
    made_from, _, extras = stamp.read_text("utf-8").partition("\n")
    return made_from, set(extras.split())


def _write(stamp: Path, extras: set[str]) -> None:
    stamp.write_text(f"{_fingerprint()}\n{' '.join(sorted(extras))}\n", "utf-8")


def _fingerprint() -> str:
    """Changes when an environment has to be made anew."""
    made_from = hashlib.sha256((ROOT / "pyproject.toml").read_bytes())
    for what in (sys.version, sys.base_prefix, str(ROOT)):
        made_from.update(what.encode("utf-8", "surrogateescape"))
    return made_from.hexdigest()


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
    """The same wheel out of its package, which is downloaded but not installed.

    With package lists of its own, because a fresh machine may have none yet
    and only root may get those of the system.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise EnvironmentProblem("this is no system with apt-get")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # apt downloads as a user of its own
        for part in ("lists/partial", "archives/partial"):
            (directory / part).mkdir(parents=True)
        lists = (f"Dir::State::Lists={directory}/lists", f"Dir::Cache={directory}")
        options = [word for option in lists for word in ("-o", option)]
        run("apt-get", *options, "update", quiet=True)
        run("apt-get", *options, "download", "python3-pip-whl", quiet=True, cwd=directory)
        for package in directory.glob("*.deb"):
            run("dpkg-deb", "-x", package, directory, quiet=True)
        _pip_of_wheel(python, directory / "usr/share/python-wheels")


def _pip_of_wheel(python: Path, directory: Path) -> None:
    wheels = sorted(directory.glob("pip-*.whl"))
    if not wheels:
        raise EnvironmentProblem(f"no pip in {directory}")
    pip_in_wheel = wheels[-1] / "pip"
    run(python, pip_in_wheel, "install", "--no-index", wheels[-1], quiet=True)


def main() -> int:
    require_python()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("extras", nargs="+", metavar="EXTRA", help="what to install")
    add_venv_option(parser)
    options = parser.parse_args()
    try:
        print(make_environment(options.venv, set(options.extras)))
    except EnvironmentProblem as problem:
        print(problem, file=sys.stderr)
        return 2
    return 0


def add_venv_option(parser: argparse.ArgumentParser) -> None:
    """``--venv DIR``, as an absolute path."""
    parser.add_argument(
        "--venv",
        type=lambda path: Path(path).resolve(),
        default=ROOT / ".venv",
        metavar="DIR",
        help="where the environment is or will be made (default: .venv)",
    )


if __name__ == "__main__":
    sys.exit(main())
