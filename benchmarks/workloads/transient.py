"""A backlog in memory: messages for a receiver that comes later."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from benchmarks.channel import Channel, Facts
from benchmarks.memory import forget_peak, peak_resident
from benchmarks.payloads import Inbox, Payloads, clock
from benchmarks.peers import PeerModule, Setting
from benchmarks.workloads.base import Figures, Side, Workload, Wrong, end

__all__ = ["Transient"]


class _FirstTimed(Inbox):
    """Knows when the first message arrived, too."""

    first_at = 0.0

    def _receive_all(self, data: bytes | bytearray) -> None:
        if not self._arrived:
            self.first_at = clock()
        super()._receive_all(data)


class Transient(Workload):
    """So many messages are queued in memory; then the receiver comes and gets them.

    The rate is that from when the first one arrives until the last one does.
    Memory is that of the whole process that has queued them, at most. Each message is
    another one, made when it is queued, as in a program: what it takes is in the queue and
    nowhere else, whether it is kept there or copied.
    """

    rounds = 3
    _SIZE: Final = 100

    def __init__(self, title: str, *, count: int) -> None:
        super().__init__(title, "messages/s", more_is_better=True, count=count)

    def _payloads(self, count: int) -> Payloads:
        return Payloads(self._SIZE, count, fresh=True)

    def conduct(
        self, listener: Side, dialler: Side, start: Callable[[str], Side]
    ) -> tuple[Facts, Facts]:
        fetched = listener.hear("listening")
        dialler.tell("queue")
        queued = dialler.hear("queued")
        listener.tell("fetch", address=queued["address"])
        fetched.update(listener.hear("fetched"))
        dialler.tell("finish")
        queued.update(dialler.hear("finished"))
        end(listener, dialler)
        return fetched, queued

    def listen(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        runner.tell("listening", version=peer.version())
        address = runner.hear("fetch")["address"]
        inbox = _FirstTimed(self._SIZE)
        inbox.expect(count)
        fetching = peer.fetch(address, inbox.receive)
        inbox.wait()
        runner.tell(
            "fetched",
            first_at=inbox.first_at,
            at=inbox.completed_at,
            wrong=inbox.check(self._payloads(count)),
        )
        runner.hear("close")
        fetching.close()
        runner.tell("closed")

    def dial(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        runner.hear("queue")
        payloads = self._payloads(count)
        forget_peak()
        queueing = peer.queue_for_later()
        send = queueing.send
        started = clock()
        for data in payloads:
            send(data)
        seconds = clock() - started
        runner.tell("queued", address=queueing.address, seconds=seconds)
        cpu = time.process_time()
        runner.hear("finish")
        runner.tell("finished", cpu=time.process_time() - cpu, peak=peak_resident())
        runner.hear("close")
        queueing.close()
        runner.tell("closed")

    def figures(self, count: int, listened: Facts, dialled: Facts) -> Figures:
        if listened["wrong"]:
            raise Wrong(listened["wrong"])
        figures = {self.unit: count / (listened["at"] - listened["first_at"])}
        if dialled["peak"] is not None:
            figures["MB, sender"] = dialled["peak"] / 1e6
        figures["queued/s"] = count / dialled["seconds"]
        figures["CPU µs, sender"] = dialled["cpu"] / count * 1e6
        return figures
