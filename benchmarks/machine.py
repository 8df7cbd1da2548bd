"""Where it is measured."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Machine", "file_system"]

#: File systems that write to no disk: there, to wait for the disk costs nothing.
_IN_MEMORY: Final = ("tmpfs", "ramfs", "devtmpfs")

_MOUNTS: Final = Path("/proc/self/mounts")


@dataclass(frozen=True)
class Machine:
    """What the figures depend on.

    :ivar load: how busy it was before the first run; ``None``: not known
    :ivar directory: where the data is
    :ivar file_system: of the directory; ``None``: not known
    """

    system: str
    cpus: int | None
    python: str
    load: float | None
    directory: str
    file_system: str | None

    @classmethod
    def here(cls, directory: Path) -> Machine:
        """This one, now."""
        return cls(
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            cpus=os.cpu_count(),
            python=f"{platform.python_implementation()} {platform.python_version()}",
            load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            directory=str(directory),
            file_system=file_system(directory),
        )

    @property
    def warning(self) -> str:
        """What makes figures about disks worthless here; empty if nothing does."""
        if self.file_system in _IN_MEMORY:
            return (
                f"{self.directory} is in memory ({self.file_system}): what waits for the disk is"
                " measured wrongly; choose another place with --directory"
            )
        return ""

    def __str__(self) -> str:
        load = "" if self.load is None else f", load {self.load:.1f} before"
        kind = "" if self.file_system is None else f" ({self.file_system})"
        return (
            f"{self.python}, {self.system}, {self.cpus} CPUs{load}\ndata in {self.directory}{kind}"
        )


def file_system(path: Path) -> str | None:
    """The kind of file system that a path is in. Linux only; ``None`` elsewhere."""
    try:
        mounts = _MOUNTS.read_text("utf-8", "surrogateescape")
    except OSError:
        return None
    path = path.resolve()
    found: tuple[str | None, str] = None, ""
    for line in mounts.splitlines():
        _, where, kind, *_ = line.split(" ")
        # Spaces and their like are written in octal.
        where = where.encode("utf-8", "surrogateescape").decode("unicode_escape")
        # A later one is on top of an earlier one.
        if path.is_relative_to(where) and len(where) >= len(found[1]):
            found = kind, where
    return found[0]
