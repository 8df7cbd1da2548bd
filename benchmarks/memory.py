"""What the system gives this process: memory, sleep, open files."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

__all__ = ["allow_open_files", "forget_peak", "peak_resident", "resident", "voluntary_switches"]

_STATUS: Final = Path("/proc/self/status")
_FORGET: Final = Path("/proc/self/clear_refs")

_OPEN_FILES: Final = 4096


def forget_peak() -> None:
    """From now on, only what is needed from now on counts. Linux only."""
    if _FORGET.exists():
        _FORGET.write_text("5", "ascii")


def peak_resident() -> int | None:
    """The largest resident set since then, in bytes; ``None`` where that is not known.

    Where it can't be forgotten it is that since the process began.
    """
    known = _kilobytes("VmHWM")
    if known is None:
        with contextlib.suppress(ImportError):
            import resource

            largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return largest if sys.platform == "darwin" else largest * 1024
    return known


def resident() -> int | None:
    """The resident set now, in bytes; ``None`` where that is not known."""
    known = _kilobytes("VmRSS")
    if known is None and (ps := shutil.which("ps")) is not None:
        command = [ps, "-o", "rss=", "-p", str(os.getpid())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return int(done.stdout) * 1024 if done.returncode == 0 else None
    return known


def _kilobytes(name: str) -> int | None:
    if not _STATUS.exists():
        return None
    text = _STATUS.read_text("ascii", "replace")
    found = re.search(rf"^{name}:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def voluntary_switches() -> int | None:
    """How often threads of this process went to sleep; ``None`` where that is not known."""
    with contextlib.suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    return None


def allow_open_files() -> None:
    """Raise the limit of open files to what thousands of connections need, if that is allowed."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < _OPEN_FILES:
            resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, hard))
