"""The Pythons and packages that the peers run with."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.environment import EnvironmentProblem, make_environment
from tools.pythons import SUPPORTED, candidates, version_of

__all__ = [
    "CACHE",
    "ROOT",
    "Environment",
    "Unavailable",
    "importable",
    "installed",
    "this_tree",
]

ROOT: Final = Path(__file__).resolve().parent.parent

#: Where packages are installed, each in a directory of its own.
CACHE: Final = ROOT / "build" / "benchmarks"

#: Seconds that installing a package, and trying it, may take.
_INSTALL_TIMEOUT: Final = 300
_CHECK_TIMEOUT: Final = 30


class Unavailable(Exception):
    """A peer can't be measured here; the message says why."""


@dataclass(frozen=True)
class Environment:
    """A Python, and where it finds packages before all others.

    :param packages: a directory; ``None``: this work tree
    """

    python: str
    packages: Path | None = None

    @property
    def directory(self) -> Path:
        """Where to run it: what is here is found first."""
        return self.packages or ROOT

    @property
    def variables(self) -> dict[str, str]:
        """The variables to run it with."""
        return {**os.environ, "PYTHONPATH": os.pathsep.join((str(self.directory), str(ROOT)))}


def this_tree(cache: Path) -> Environment:
    """The Python that runs this, and this work tree."""
    return Environment(sys.executable)


def installed(requirement: str, check: str) -> Callable[[Path], Environment]:
    """A package in pure Python from the package index, without what it depends on.

    :param requirement: for pip
    :param check: a program that succeeds where the package works. The Python
        that runs this is tried first, so that all are measured with the same;
        then the others that are found.
    """

    def prepare(cache: Path) -> Environment:
        packages = _install(requirement, cache, "--no-deps")
        refused = []
        for python in _pythons():
            environment = Environment(python, packages)
            problem = _problem(environment, check)
            if problem is None:
                return environment
            refused.append(f"{python}: {problem}")
        raise Unavailable(f"{requirement} runs on no Python here: {'; '.join(refused)}")

    return prepare


def importable(module: str, requirement: str) -> Callable[[Path], Environment]:
    """This work tree, with a package that is there already or else installed.

    It is installed with what it depends on, for the Python that runs this: not
    everything that is compiled works with another.

    :param module: what to import; one that only new enough versions have, where
        old ones are around
    :param requirement: for pip
    """

    def prepare(cache: Path) -> Environment:
        check = f"import {module}"
        environment = this_tree(cache)
        if _problem(environment, check) is None:
            return environment
        own_cache = cache / sys.implementation.cache_tag
        environment = Environment(sys.executable, _install(requirement, own_cache))
        problem = _problem(environment, check)
        if problem is not None:
            raise Unavailable(f"{requirement} does not run on {sys.executable}: {problem}")
        return environment

    return prepare


def _install(requirement: str, cache: Path, *options: str) -> Path:
    target = cache / re.sub(r"[^\w.-]+", "-", requirement.lower())
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix="installing-", dir=cache))
    try:
        done = subprocess.run(
            [
                *(_python_with_pip(cache), "-m", "pip", "install", "--quiet", *options),
                *("--prefer-binary", "--disable-pip-version-check", "--no-warn-script-location"),
                *("--target", str(building), requirement),
            ],
            capture_output=True,
            text=True,
            timeout=_INSTALL_TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise Unavailable(f"pip install {requirement}: {done.stderr.strip()[-500:]}")
        try:
            building.rename(target)
        except OSError:
            # Another run was faster; what it made is as good.
            if not target.is_dir():
                raise
    except subprocess.TimeoutExpired as exc:
        raise Unavailable(f"pip install {requirement}: not within {exc.timeout:g} seconds") from exc
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _python_with_pip(cache: Path) -> str:
    """This Python, or one of the same version in an environment that is made for it.

    Debian's Python comes without pip.
    """
    if importlib.util.find_spec("pip") is not None:
        return sys.executable
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return str(make_environment(cache / "environment-with-pip", set()))
    except EnvironmentProblem as exc:
        raise Unavailable(f"{sys.executable} has no pip: {exc}") from exc


def _pythons() -> Iterator[str]:
    """This one first, then the other supported ones, one of each version."""
    yield sys.executable
    seen = {sys.version_info[:2]}
    for python in candidates():
        version = version_of(python)
        if version in SUPPORTED and version not in seen:
            seen.add(version)
            yield python


def _problem(environment: Environment, check: str) -> str | None:
    try:
        done = subprocess.run(
            [environment.python, "-W", "ignore", "-c", check],
            cwd=environment.directory,
            env=environment.variables,
            capture_output=True,
            text=True,
            timeout=_CHECK_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return str(exc)
    if done.returncode == 0:
        return None
    return (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
