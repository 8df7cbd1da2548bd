"""All runs: every peer does every workload once, then again, round by round."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.environments import Environment, Unavailable
from benchmarks.peers.catalogue import PEERS
from benchmarks.processes import Process, RunFailed
from benchmarks.workloads import WORKLOADS, Figures, Wrong

__all__ = ["Measurements", "measure", "prepare"]


@dataclass
class Measurements:
    """What was measured.

    :ivar figures: of each workload and peer, round by round
    :ivar versions: what each peer says it is
    :ivar counts: operations of a run of each workload
    """

    figures: dict[tuple[str, str], list[Figures]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


def prepare(peers: Iterable[str], cache: Path) -> tuple[dict[str, Environment], dict[str, str]]:
    """Get everything that the peers need.

    :return: what each runs with, and why some can't
    """
    environments: dict[str, Environment] = {}
    left_out: dict[str, str] = {}
    for name in peers:
        try:
            environments[name] = PEERS[name].environment(cache)
        except Unavailable as exc:
            left_out[name] = str(exc)
    return environments, left_out


def measure(
    environments: dict[str, Environment],
    workloads: list[str],
    rounds: int,
    scale: float,
    progress: Callable[[str], object],
) -> Measurements:
    """Do all runs.

    :param scale: how much of the full count of operations is done
    :param progress: is told what comes next
    :raises RunFailed: a run failed, or something else arrived than was sent
    """
    measured = Measurements()
    for name in workloads:
        measured.counts[name] = max(16, int(WORKLOADS[name].count * scale))
    for number in range(1, rounds + 1):
        for name in workloads:
            for peer, environment in environments.items():
                progress(f"round {number} of {rounds}: {name}, {peer}")
                run = _Run(name, peer, environment, measured.counts[name])
                figures = run.do()
                measured.figures.setdefault((name, peer), []).append(figures)
                measured.versions[peer] = run.version
    return measured


class _Run:
    def __init__(self, workload: str, peer: str, environment: Environment, count: int) -> None:
        self._workload = workload
        self._peer = peer
        self._environment = environment
        self._count = count
        self.version = ""

    def do(self) -> Figures:
        with self._start("listen") as listener, self._start("dial") as dialler:
            listening = listener.hear("listening")
            self.version = str(listening["version"])
            dialler.tell("dial", address=listening["address"])
            dialler.hear("ready")
            listener.tell("prepare")
            listener.hear("prepared")
            dialler.tell("go")
            dialled = dialler.hear("done")
            listener.tell("finish")
            listened = listener.hear("finished")
            dialler.tell("finish")
            dialled.update(dialler.hear("finished"))
            for process in (dialler, listener):
                process.tell("close")
                process.hear("closed")
        try:
            return WORKLOADS[self._workload].figures(self._count, listened, dialled)
        except Wrong as exc:
            raise RunFailed(f"{self._workload}, {self._peer}: {exc}") from exc

    def _start(self, side: str) -> Process:
        what = f"{self._workload}, {self._peer}: the process that {side}s"
        arguments = [PEERS[self._peer].module, self._workload, side, str(self._count)]
        return Process(self._environment, what, arguments)
