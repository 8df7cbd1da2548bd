"""Build the sdist and the wheel, and try the wheel where nothing else is installed.

    .venv/bin/python tools/check_wheel.py

Needs the package ``build``. Every module must import in an environment that
holds nothing but snakemq, without help from the work tree.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from environment import ROOT, EnvironmentProblem, run

#: Runs in the clean environment, isolated from the work tree and the user's site.
IMPORT_EVERYTHING = """
import importlib, json, pkgutil, snakemq
names = [info.name for info in pkgutil.walk_packages(snakemq.__path__, "snakemq.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(json.dumps({"file": snakemq.__file__, "modules": len(names)}))
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        try:
            check(Path(directory))
        except EnvironmentProblem as problem:
            print(problem, file=sys.stderr)
            return 1
    return 0


def check(directory: Path) -> None:
    """Raises EnvironmentProblem if anything about the distributions is wrong."""
    dist = directory / "dist"
    # The wheel is built out of the sdist: so that one is complete, too.
    run(sys.executable, "-m", "build", "--outdir", dist, ROOT, quiet=True)
    wheels, sdists = list(dist.glob("*.whl")), list(dist.glob("*.tar.gz"))
    require(len(wheels) == len(sdists) == 1, f"one wheel and one sdist, not {wheels} {sdists}")
    check_contents(wheels[0])

    venv = directory / "venv"
    run(sys.executable, "-m", "venv", venv, quiet=True)
    scripts = venv / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-index", wheels[0])

    listed = output(python, "-m", "pip", "list", "--format=json")
    installed = {package["name"].lower() for package in json.loads(listed)}
    require(
        installed - {"pip", "setuptools"} == {"snakemq"},
        f"more than snakemq is installed: {sorted(installed)}",
    )
    # Before Python 3.12, an environment starts with setuptools in it.
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools", quiet=True)

    imported = json.loads(output(python, "-I", "-W", "error", "-c", IMPORT_EVERYTHING))
    require(
        Path(imported["file"]).is_relative_to(venv),
        f"imported from {imported['file']} instead of the wheel",
    )
    require(imported["modules"] > 20, f"only {imported['modules']} modules in the wheel")
    version = output(scripts / "snakemq", "version").strip()
    print(f"{wheels[0].name} and {sdists[0].name}: {imported['modules']} modules import")
    print(f"snakemq version: {version}")


def check_contents(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    require("snakemq/py.typed" in names, "py.typed is not in the wheel")
    strangers = {
        name for name in names if not name.startswith("snakemq/") and ".dist-info/" not in name
    }
    require(not strangers, f"in the wheel, but not part of the package: {strangers}")


def output(*command: str | Path) -> str:
    """What a command prints, run outside of the work tree."""
    done = subprocess.run(
        [str(argument) for argument in command],
        cwd=tempfile.gettempdir(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    require(done.returncode == 0, f"{command} failed: {done.stdout}{done.stderr}")
    return done.stdout


def require(condition: bool, problem: str) -> None:
    if not condition:
        raise EnvironmentProblem(problem)


if __name__ == "__main__":
    sys.exit(main())
