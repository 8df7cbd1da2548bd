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
from typing import Final, NamedTuple

from benchmarks.counting import Work

__all__ = ["CALL_SPARE", "PATHS", "Figure", "Measured", "Unavailable", "directory", "path"]


class Unavailable(Exception):
    """Something that is needed to measure is not here."""


class Figure(NamedTuple):
    """What was counted.

    :ivar value: how much
    :ivar spare: so much more may be counted by chance, or on another machine
    """

    value: float
    spare: float


#: Spare calls for each message, where nothing depends on chance: versions of
#: Python differ a little. Two calls more are too many.
CALL_SPARE: Final = 1.0


@dataclasses.dataclass
class Measured:
    """What was counted on a path.

    :ivar count: of messages, or calls
    :ivar parts: who did what
    :ivar figures: what has a budget
    :ivar notes: what a report says besides
    """

    count: int
    parts: dict[str, Work] = dataclasses.field(default_factory=dict)
    figures: dict[str, Figure] = dataclasses.field(default_factory=dict)
    notes: str = ""

    def add(self, what: str, value: float, spare: float) -> Measured:
        """Add a figure."""
        self.figures[what] = Figure(value, spare)
        return self

    def calls_of_each(self, spare: float = 0.0) -> Measured:
        """Add the calls of each part for each message.

        :param spare: as a share of the value
        """
        for name, work in self.parts.items():
            for what, calls in (("Python calls", work.calls), ("C calls", work.builtin_calls)):
                value = calls / self.count
                self.add(f"{name}: {what}", value, max(CALL_SPARE, value * spare))
        return self

    def system_calls_of_each(self, spare: float = 0.0) -> Measured:
        """Add the system calls of each part for all messages.

        :param spare: as a share of the value
        """
        for name, work in self.parts.items():
            value = work.system_calls
            self.add(f"{name}: system calls for {self.count:,}", value, value * spare)
        return self

    def report(self) -> str:
        """Who was called how often for each message."""
        parts = [
            f"--- {name}, for each of {self.count:,}\n{work.report(self.count)}"
            for name, work in self.parts.items()
        ]
        return "\n".join([*parts, self.notes])


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
