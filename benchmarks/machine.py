"""Where it is measured."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Machine", "cores", "file_system", "take_core"]

#: File systems that write to no disk: there, to wait for the disk costs nothing.
_IN_MEMORY: Final = ("tmpfs", "ramfs", "devtmpfs")

_MOUNTS: Final = Path("/proc/self/mounts")


@dataclass(frozen=True)
class Machine:
    """What the figures depend on.

    :ivar load: how busy it was before the first run; ``None``: not known
    :ivar directory: where the data is
    :ivar file_system: of the directory; ``None``: not known
    :ivar apart: whether each end of a run has a core of its own
    """

    system: str
    cpus: int | None
    python: str
    load: float | None
    directory: str
    file_system: str | None
    apart: bool

    @classmethod
    def here(cls, directory: Path, *, apart: bool) -> Machine:
        """This one, now.

        :param apart: each end is to have a core of its own, if there are several
        """
        return cls(
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            cpus=os.cpu_count(),
            python=f"{platform.python_implementation()} {platform.python_version()}",
            load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            directory=str(directory),
            file_system=file_system(directory),
            apart=apart and len(cores()) > 1,
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
        apart = ", a core for each end" if self.apart else ""
        return (
            f"{self.python}, {self.system}, {self.cpus} CPUs{apart}{load}\n"
            f"data in {self.directory}{kind}"
        )


def cores() -> list[int]:
    """Those that this process may use. Empty where a process can't choose among them."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []


def take_core(number: int) -> None:
    """Stay on one core, with all threads that are started from now on.

    Where both ends of a run are on one core by chance, nobody has to wake another core:
    plain sockets that wait for each answer are four times as fast then. Two programs that
    have something to do do not share one.

    :param number: of the core, from 0 on; where there is only one, nothing is done
    """
    there = cores()
    if len(there) > 1:
        os.sched_setaffinity(0, {there[number % len(there)]})


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
