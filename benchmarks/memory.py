"""How much memory this process has needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

__all__ = ["forget_peak", "peak_resident"]

_STATUS: Final = Path("/proc/self/status")
_FORGET: Final = Path("/proc/self/clear_refs")


def forget_peak() -> None:
    """From now on, only what is needed from now on counts. Linux only."""
    if _FORGET.exists():
        _FORGET.write_text("5", "ascii")


def peak_resident() -> int | None:
    """The largest resident set since then, in bytes; ``None`` where that is not known."""
    if not _STATUS.exists():
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB$", _STATUS.read_text("ascii", "replace"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None
