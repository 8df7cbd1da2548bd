"""What all workloads have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

from benchmarks.channel import Channel, Facts
from benchmarks.peers import PeerModule, Setting

__all__ = ["Figures", "Side", "Workload", "Wrong"]

#: By name. The first is the one the workload is about.
Figures = dict[str, float]


class Wrong(Exception):
    """Something else arrived than was sent."""


class Side(Protocol):
    """The process of one side, as the runner sees it."""

    def tell(self, step: str, **facts: Any) -> None:
        """Have this step done."""

    def hear(self, step: str) -> Facts:
        """Wait until this step is done."""


class Workload(ABC):
    """Something that two processes do together, one that listens and one that dials.

    :param title: for people
    :param unit: of the main figure
    :param more_is_better: of the main figure
    :param count: of operations in a full run
    """

    #: what is counted, for people
    counted = "messages"

    #: so many operations are done at least, however small a run is
    least = 16

    #: the peer that nobody can be faster than
    limit = "raw"

    #: rounds that are worth their time, at most
    rounds = 100

    #: whether there have to be certificates
    needs_certificates = False

    def __init__(self, title: str, unit: str, *, more_is_better: bool, count: int) -> None:
        self.title = title
        self.unit = unit
        self.more_is_better = more_is_better
        self.count = count

    def scaled(self, scale: float) -> int:
        """How many operations a run of this size does."""
        return max(self.least, int(self.count * scale))

    @abstractmethod
    def listen(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        """One side, all steps."""

    @abstractmethod
    def dial(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        """The other side, all steps."""

    def hold(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        """A third side, where a workload starts one."""
        raise NotImplementedError(f"{self.title}: there is no third side")

    def conduct(
        self, listener: Side, dialler: Side, start: Callable[[str], Side]
    ) -> tuple[Facts, Facts]:
        """Have all steps done, in the runner, until the sides have closed.

        The steps are in :mod:`benchmarks.endpoint`. Each step of one side happens
        while the other side waits, except between ``go`` and ``done``.

        :param start: starts a process of another side
        :return: what the two sides told; the one that listens tells its ``version``
        """
        listened = listener.hear("listening")
        dialler.tell("dial", address=listened["address"])
        dialler.hear("ready")
        listener.tell("prepare")
        listener.hear("prepared")
        dialler.tell("go")
        dialled = dialler.hear("done")
        listener.tell("finish")
        listened.update(listener.hear("finished"))
        dialler.tell("finish")
        dialled.update(dialler.hear("finished"))
        end(dialler, listener)
        return listened, dialled

    @abstractmethod
    def figures(self, count: int, listened: Facts, dialled: Facts) -> Figures:
        """What comes out of what the two sides told.

        :raises Wrong: something else arrived than was sent
        """


def end(*sides: Side) -> None:
    """Have them close, one after the other."""
    for side in sides:
        side.tell("close")
        side.hear("closed")
