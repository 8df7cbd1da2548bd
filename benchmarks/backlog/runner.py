"""All runs: each size once, then again, round by round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.environments import Environment
from benchmarks.processes import Process, RunFailed

__all__ = ["BacklogFigures", "Backlogs", "measure_backlogs"]


@dataclass(frozen=True)
class BacklogFigures:
    """Of one run.

    :ivar queue: microseconds to queue a message
    :ivar queue_cpu: microseconds of CPU for that
    :ivar open: milliseconds to open what is queued
    :ivar drain: microseconds to send a message and remove it, from the connection on
    :ivar drain_cpu: microseconds of CPU for that, of the sender
    :ivar disk: bytes on disk for each message
    :ivar queue_memory: by how much the process grew while it queued, in MiB;
        ``None`` where that is not known
    :ivar open_memory: while it opened the storage
    :ivar drain_memory: since before it opened the storage, at most
    """

    queue: float
    queue_cpu: float
    open: float
    drain: float
    drain_cpu: float
    disk: float
    queue_memory: float | None
    open_memory: float | None
    drain_memory: float | None


@dataclass
class Backlogs:
    """What was measured.

    :ivar figures: of each size, round by round
    :ivar version: of the package
    """

    figures: dict[int, list[BacklogFigures]] = field(default_factory=dict)
    version: str = ""


def measure_backlogs(
    environment: Environment,
    sizes: Sequence[int],
    rounds: int,
    directory: Path,
    progress: Callable[[str], object],
) -> Backlogs:
    """Do all runs.

    :param sizes: how many messages are queued
    :param directory: for the data; each run has a new one in it
    :param progress: is told what comes next
    :raises RunFailed: a run failed, or something else arrived than was sent
    """
    measured = Backlogs()
    for number in range(1, rounds + 1):
        for size in sizes:
            progress(f"round {number} of {rounds}: backlog, {size:,} messages")
            with TemporaryDirectory(prefix="backlog-", dir=directory) as own_directory:
                run = _Run(environment, size, Path(own_directory) / "storage.db")
                measured.figures.setdefault(size, []).append(run.do())
                measured.version = run.version
    return measured


class _Run:
    def __init__(self, environment: Environment, size: int, file: Path) -> None:
        self._environment = environment
        self._size = size
        self._file = file
        self.version = ""

    def do(self) -> BacklogFigures:
        with self._start("queue") as process:
            process.tell("queue")
            queued = process.hear("queued")
            _close(process)
        with self._start("receive") as receiver, self._start("drain") as sender:
            receiver.tell("listen")
            address = receiver.hear("listening")["address"]
            sender.tell("open")
            opened = sender.hear("opened")
            self.version = str(opened["version"])
            sender.tell("drain", address=address)
            drained = sender.hear("drained")
            receiver.tell("finish")
            finished = receiver.hear("finished")
            _close(sender)
            _close(receiver)
        wrong = opened["wrong"] or finished["wrong"]
        if wrong:
            raise RunFailed(f"a backlog of {self._size:,}: {wrong}")
        seconds = max(drained["until"], finished["at"]) - drained["at"]
        return BacklogFigures(
            queue=queued["seconds"] / self._size * 1e6,
            queue_cpu=queued["cpu"] / self._size * 1e6,
            open=opened["seconds"] * 1e3,
            drain=seconds / self._size * 1e6,
            drain_cpu=drained["cpu"] / self._size * 1e6,
            disk=queued["size"] / self._size,
            queue_memory=_mebibytes(queued["growth"]),
            open_memory=_mebibytes(opened["growth"]),
            drain_memory=_mebibytes(drained["growth"]),
        )

    def _start(self, side: str) -> Process:
        what = f"a backlog of {self._size:,}: the process to {side}"
        arguments = [side, str(self._file), str(self._size)]
        return Process(self._environment, what, "benchmarks.backlog.sides", arguments)


def _close(process: Process) -> None:
    process.tell("close")
    process.hear("closed")


def _mebibytes(count: int | None) -> float | None:
    return None if count is None else count / 2**20
