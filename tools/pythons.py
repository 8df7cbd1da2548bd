"""Print the Pythons on this machine that the project supports, one path for each version.

    python3 tools/pythons.py            all of them
    python3 tools/pythons.py --others   without the version that runs this

Looked for on PATH and among pyenv's. A name on PATH may be a shim that does
not run, so each is asked for its version.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SUPPORTED = [(3, minor) for minor in range(10, 14)]

_ASK = "import sys, ssl, sqlite3; print(*sys.version_info[:2], sys.implementation.name)"


def candidates() -> Iterator[str]:
    """Every path that may be one of the Pythons."""
    yield sys.executable
    for major, minor in SUPPORTED:
        for directory in os.get_exec_path():
            on_path = shutil.which(f"python{major}.{minor}", path=directory)
            if on_path:
                yield on_path
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    with contextlib.suppress(OSError):  # it may be somebody else's
        # Of several patch releases the newest first.
        found = sorted(pyenv.glob("versions/3.*/bin/python"), key=_patch_release, reverse=True)
        yield from map(str, found)


def _patch_release(path: Path) -> list[int]:
    name = path.parent.parent.name
    return [int(part) if part.isdigit() else -1 for part in name.split(".")]


def version_of(python: str) -> tuple[int, int] | None:
    """What version it is; ``None`` if it does not run, or lacks what snakemq needs."""
    try:
        answer = subprocess.run(
            [python, "-c", _ASK], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode:
        return None
    major, minor, implementation = answer.stdout.split()
    return (int(major), int(minor)) if implementation == "cpython" else None


def main() -> None:
    found: dict[tuple[int, int], str] = {}
    for python in candidates():
        version = version_of(python)
        if version in SUPPORTED:
            found.setdefault(version, python)
    if "--others" in sys.argv[1:]:
        found.pop(sys.version_info[:2], None)
    for _version, python in sorted(found.items()):
        print(python)


if __name__ == "__main__":
    main()
