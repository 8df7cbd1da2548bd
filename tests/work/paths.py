"""The paths whose work has a budget, and what is counted on each of them.

A path is a function that sends something and returns a :class:`Measured`.
Those that can be are stepped, so that they do the same work each time.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.counting import Work

__all__ = ["PATHS", "Measured", "directory", "path"]


@dataclasses.dataclass
class Measured:
    """What was counted on a path.

    :ivar count: of messages, or calls
    :ivar parts: who did what
    :ivar figures: what has a budget
    """

    count: int
    parts: dict[str, Work]
    figures: dict[str, float] = dataclasses.field(default_factory=dict)

    def per_message(self) -> Measured:
        """Add the calls of each part for each message."""
        for name, work in self.parts.items():
            self.figures[f"{name}: Python calls"] = work.calls / self.count
            self.figures[f"{name}: C calls"] = work.builtin_calls / self.count
        return self

    def per_thousand(self) -> Measured:
        """Add the system calls of each part for a thousand messages."""
        for name, work in self.parts.items():
            self.figures[f"{name}: system calls for 1,000"] = work.system_calls / self.count * 1000
        return self

    def report(self) -> str:
        """Who was called how often for each message."""
        return "\n".join(
            f"--- {name}, for each of {self.count:,}\n{work.report(self.count)}"
            for name, work in self.parts.items()
        )


#: By name.
PATHS: Final[dict[str, Callable[[], Measured]]] = {}


def path(name: str) -> Callable[[Callable[[], Measured]], Callable[[], Measured]]:
    """A decorator: the function is a path of that name."""

    def register(func: Callable[[], Measured]) -> Callable[[], Measured]:
        PATHS[name] = func
        return func

    return register


@contextmanager
def directory() -> Iterator[Path]:
    """A directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="snakemq-work-") as name:
        yield Path(name)
