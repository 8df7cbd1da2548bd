"""What all workloads have."""

from __future__ import annotations

from abc import ABC, abstractmethod

from benchmarks.channel import Channel, Facts
from benchmarks.peers import PeerModule, Setting

__all__ = ["Figures", "Workload", "Wrong"]

#: By name. The first is the one the workload is about.
Figures = dict[str, float]


class Wrong(Exception):
    """Something else arrived than was sent."""


class Workload(ABC):
    """Something that two processes do together, one that listens and one that dials.

    The steps are in :mod:`benchmarks.endpoint`. Each step of one side happens
    while the other side waits, except between ``go`` and ``done``.

    :param title: for people
    :param unit: of the main figure
    :param more_is_better: of the main figure
    :param count: of operations in a full run
    """

    def __init__(self, title: str, unit: str, *, more_is_better: bool, count: int) -> None:
        self.title = title
        self.unit = unit
        self.more_is_better = more_is_better
        self.count = count

    @abstractmethod
    def listen(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        """One side, all steps."""

    @abstractmethod
    def dial(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        """The other side, all steps."""

    @abstractmethod
    def figures(self, count: int, listened: Facts, dialled: Facts) -> Figures:
        """What comes out of what the two sides told at ``done`` and ``finished``.

        :raises Wrong: something else arrived than was sent
        """
