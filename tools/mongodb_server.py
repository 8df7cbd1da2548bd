"""Build a server that speaks MongoDB's protocol, for the tests.

    python3 tools/mongodb_server.py            build it, if that was not done yet
    python3 tools/mongodb_server.py --where    tell where it is or would be

It is FerretDB 1 with its SQLite back end, out of the Go module proxy; see
tools/ferretdb. Needs Go 1.24 or newer, and takes a minute or two on two cores.
The program goes into the user's cache directory, so that the next run of the
tests, and the next work tree, find it there. Nothing else of the system is
touched; Go keeps its own caches, as always.

To test with another server, a real MongoDB for one, set SNAKEMQ_TEST_MONGODB to
its URL (mongodb://...) instead.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["HOW_TO_GET_IT", "SOURCE", "program"]

#: Our few lines around it, and which version of it and of all that it needs.
SOURCE = Path(__file__).resolve().parent / "ferretdb"

#: For those who miss it.
HOW_TO_GET_IT = (
    "python3 tools/mongodb_server.py builds it (needs Go); or set SNAKEMQ_TEST_MONGODB to the"
    " mongodb:// URL of a server"
)


def program() -> Path:
    """Where the server is, if it was built. Changes with everything that it is built from."""
    made_from = hashlib.sha256()
    for name in ("go.mod", "go.sum", "main.go"):
        made_from.update((SOURCE / name).read_bytes())
    name = f"ferretdb-{made_from.hexdigest()[:16]}"
    return _cache() / (f"{name}.exe" if os.name == "nt" else name)


def _cache() -> Path:
    if os.name == "nt" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"], "snakemq-tests")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "snakemq-tests")


def _go() -> str | None:
    return shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")


def build() -> int:
    """Build it where :func:`program` says.

    :returns: exit status
    """
    go = _go()
    if go is None:
        print(
            "there is no Go compiler (go) here; on Debian and Ubuntu: apt install golang-go."
            " Go 1.24 or newer is needed. Or set SNAKEMQ_TEST_MONGODB to the mongodb:// URL of a"
            " server.",
            file=sys.stderr,
        )
        return 2
    target = program()
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside it and renamed, so that nobody ever sees half of it.
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        built = Path(directory, target.name)
        done = subprocess.run(
            [go, "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", str(built), "."],
            cwd=SOURCE,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            print(
                "\nthe server could not be built; does Go reach a module proxy (go env GOPROXY)?",
                file=sys.stderr,
            )
            return 2
        built.replace(target)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--where", action="store_true", help="only tell where it is or would be")
    options = parser.parse_args()
    if not options.where and not program().is_file():
        print("== building a MongoDB server for the tests", flush=True)
        status = build()
        if status:
            return status
    print(program())
    return 0


if __name__ == "__main__":
    sys.exit(main())
