"""All runs: every peer does every workload once, then again, round by round."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.environments import Environment, Unavailable
from benchmarks.peers.catalogue import PEERS
from benchmarks.processes import Process, RunFailed
from benchmarks.servers import Server
from benchmarks.workloads import WORKLOADS, Figures, Wrong

__all__ = ["Measurements", "Ready", "measure", "prepare"]


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


@dataclass(frozen=True)
class Ready:
    """Everything that a peer needs is there.

    :param environment: what it runs with
    :param server: what it talks to, if it needs one
    """

    environment: Environment
    server: Server | None = None


def prepare(
    peers: Iterable[str],
    workloads: Sequence[str],
    cache: Path,
    directory: Path,
    servers: ExitStack,
) -> tuple[dict[str, Ready], dict[str, str]]:
    """Get everything that the peers need for these workloads.

    :param cache: where packages are installed
    :param directory: for the data of servers
    :param servers: closing it ends the servers
    :return: the peers that take part in one of the workloads: those that can,
        and why some can't
    """
    ready: dict[str, Ready] = {}
    left_out: dict[str, str] = {}
    for name in peers:
        peer = PEERS[name]
        if not set(workloads).intersection(peer.workloads):
            continue
        try:
            environment = peer.environment(cache)
            server = peer.server and servers.enter_context(peer.server(directory))
        except Unavailable as exc:
            left_out[name] = str(exc)
        else:
            ready[name] = Ready(environment, server)
    return ready, left_out


def measure(
    peers: dict[str, Ready],
    workloads: Iterable[str],
    rounds: int,
    scale: float,
    directory: Path,
    progress: Callable[[str], object],
) -> Measurements:
    """Do all runs.

    :param scale: how much of the full count of operations is done
    :param directory: for what the peers store; each run has a new one in it
    :param progress: is told what comes next
    :raises RunFailed: a run failed, or something else arrived than was sent
    """
    measured = Measurements()
    for name in workloads:
        measured.counts[name] = max(16, int(WORKLOADS[name].count * scale))
    for number in range(1, rounds + 1):
        for name, count in measured.counts.items():
            for peer, ready in peers.items():
                if name not in PEERS[peer].workloads:
                    continue
                progress(f"round {number} of {rounds}: {name}, {peer}")
                with TemporaryDirectory(prefix="run-", dir=directory) as own_directory:
                    run = _Run(name, peer, ready, count, own_directory)
                    figures = run.do()
                measured.figures.setdefault((name, peer), []).append(figures)
                measured.versions[peer] = run.version
    return measured


class _Run:
    def __init__(self, workload: str, peer: str, ready: Ready, count: int, directory: str) -> None:
        self._workload = workload
        self._peer = peer
        self._ready = ready
        self._count = count
        self._directory = directory
        self.version = ""

    def do(self) -> Figures:
        with self._start("listen") as listener, self._start("dial") as dialler:
            listening = listener.hear("listening")
            self.version = str(listening["version"])
            if self._ready.server is not None:
                self.version = f"{self._ready.server.version} with {self.version}"
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
        module = PEERS[self._peer].module
        server = self._ready.server
        return Process(
            self._ready.environment,
            what,
            "benchmarks.endpoint",
            [
                *(module, self._workload, side, str(self._count)),
                *(self._directory, json.dumps(server and server.address)),
            ],
        )
