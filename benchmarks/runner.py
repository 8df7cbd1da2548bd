"""All runs: every peer does every workload once, then again, round by round."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.environments import Environment, Unavailable
from benchmarks.peers import Certificates
from benchmarks.peers.catalogue import PEERS
from benchmarks.processes import Process, RunFailed
from benchmarks.servers import Server
from benchmarks.workloads import WORKLOADS, Figures, Wrong

__all__ = ["Measurements", "Place", "Ready", "measure", "prepare"]

#: Which core each side has. Servers, and who only holds connections, have none of their own.
_CORES: Final = {"dial": "0", "listen": "1"}


@dataclass
class Measurements:
    """What was measured.

    :ivar figures: of each workload and peer, round by round
    :ivar versions: what each peer says it is
    :ivar counts: operations of a run of each workload
    :ivar failed: why a peer has no figures of a workload that it takes part in
    """

    figures: dict[tuple[str, str], list[Figures]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ready:
    """Everything that a peer needs is there.

    :param environment: what it runs with
    :param server: what it talks to, if it needs one
    :param workloads: in which it takes part
    """

    environment: Environment
    server: Server | None = None
    workloads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where runs take place.

    :param directory: for what the peers store; each run has a new one in it
    :param certificates: for workloads with TLS
    :param apart: each side has a core of its own
    """

    directory: Path
    certificates: Certificates | None = None
    apart: bool = True


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
        takes_part_in = tuple(workload for workload in workloads if workload in peer.workloads)
        if not takes_part_in:
            continue
        try:
            environment = peer.environment(cache)
            server = peer.server and servers.enter_context(peer.server(directory))
        except Unavailable as exc:
            left_out[name] = str(exc)
        else:
            ready[name] = Ready(environment, server, takes_part_in)
    return ready, left_out


def measure(
    peers: dict[str, Ready],
    workloads: Iterable[str],
    rounds: int,
    scale: float,
    place: Place,
    progress: Callable[[str], object],
) -> Measurements:
    """Do all runs.

    A peer that fails in a workload, or for which something else arrives than was
    sent, has no figures of it, and does not try again. What it said goes to
    standard error.

    :param rounds: how many; fewer of workloads that are not worth more
    :param scale: how much of the full count of operations is done
    :param progress: is told what comes next
    """
    measured = Measurements()
    for name in workloads:
        measured.counts[name] = WORKLOADS[name].scaled(scale)
    for number in range(1, rounds + 1):
        for name, count in measured.counts.items():
            if number > WORKLOADS[name].rounds:
                continue
            for peer, ready in peers.items():
                if name not in ready.workloads or (name, peer) in measured.failed:
                    continue
                progress(f"round {number} of {rounds}: {name}, {peer}")
                run = _Run(name, peer, ready, count, place)
                try:
                    figures = run.do()
                except RunFailed as exc:
                    print(f"{name}, {peer}: {exc}", file=sys.stderr)
                    measured.failed[name, peer] = f"in round {number}: {exc.summary}"
                    measured.figures.pop((name, peer), None)
                else:
                    measured.figures.setdefault((name, peer), []).append(figures)
                    measured.versions[peer] = run.version
    return measured


class _Run:
    def __init__(self, workload: str, peer: str, ready: Ready, count: int, place: Place) -> None:
        self._workload = workload
        self._peer = peer
        self._ready = ready
        self._count = count
        self._place = place
        self.version = ""

    def do(self) -> Figures:
        work = WORKLOADS[self._workload]
        with (
            TemporaryDirectory(prefix="run-", dir=self._place.directory) as directory,
            ExitStack() as processes,
        ):

            def start(side: str) -> Process:
                return processes.enter_context(self._process(side, directory))

            listened, dialled = work.conduct(start("listen"), start("dial"), start)
        self.version = str(listened["version"])
        if self._ready.server is not None:
            self.version = f"{self._ready.server.version} with {self.version}"
        try:
            return work.figures(self._count, listened, dialled)
        except Wrong as exc:
            raise RunFailed(str(exc)) from exc

    def _process(self, side: str, directory: str) -> Process:
        what = f"the process that {side}s"
        server = self._ready.server
        certificates = self._place.certificates
        return Process(
            self._ready.environment,
            what,
            "benchmarks.endpoint",
            [
                *(PEERS[self._peer].module, self._workload, side, str(self._count), directory),
                json.dumps(server and server.address),
                json.dumps(certificates and str(certificates.directory)),
                _CORES.get(side, "") if self._place.apart else "",
            ],
        )
