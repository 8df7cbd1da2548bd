"""Messages that are on disk when they are accepted."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from benchmarks.channel import Channel, Facts
from benchmarks.payloads import Inbox, Payloads, clock
from benchmarks.peers import Durable as DurableSide
from benchmarks.peers import PeerModule, Setting
from benchmarks.workloads.base import Figures, Workload, Wrong

__all__ = ["Durable"]


class Durable(Workload):
    """Each message is accepted when it is on disk, and removed when it was acknowledged.

    The time is that from before the first one is sent until the last one has
    arrived, is acknowledged and removed.

    :param batch: so many are accepted together
    :param threads: so many send at the same time
    """

    limit = "sqlite"
    _SIZE: Final = 1024
    _WARM_UP: Final = 0.05

    def __init__(self, title: str, *, count: int, batch: int = 1, threads: int = 1) -> None:
        super().__init__(title, "messages/s", more_is_better=True, count=count)
        self._batch = batch
        self._threads = threads

    def _payloads(self, count: int) -> tuple[list[Payloads], list[Payloads]]:
        """Of each thread those to warm up with, and those to measure with."""
        each = count // self._threads
        warm_up = max(1, int(each * self._WARM_UP))
        first, second = (
            [Payloads(self._SIZE, part, first=number * part) for number in range(self._threads)]
            for part in (warm_up, each)
        )
        return first, second

    def listen(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        warm_up, payloads = self._payloads(count)
        inbox = Inbox(self._SIZE)
        inbox.expect(sum(map(len, warm_up)))
        listening = peer.keep(setting, inbox.receive)
        runner.tell("listening", address=listening.address, version=peer.version())

        runner.hear("prepare")
        inbox.wait()
        wrong = inbox.check_each(warm_up)
        inbox.expect(sum(map(len, payloads)))
        runner.tell("prepared")

        runner.hear("finish")
        inbox.wait()
        settled_at = listening.settle(inbox.completed_at)
        wrong = wrong or inbox.check_each(payloads)
        runner.tell("finished", wrong=wrong, at=settled_at)

        runner.hear("close")
        listening.close()
        runner.tell("closed")

    def dial(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        warm_up, payloads = self._payloads(count)
        sending = peer.connect_durably(setting, runner.hear("dial")["address"])
        with ThreadPoolExecutor(self._threads) as pool:
            self._send_all(sending, warm_up, pool)
            sending.wait_until_removed()
            runner.tell("ready")

            runner.hear("go")
            cpu = time.process_time()
            started_at = clock()
            self._send_all(sending, payloads, pool)
            accepted_at = clock()
            cpu = time.process_time() - cpu
            removed_at = sending.wait_until_removed()
        runner.tell("done", at=started_at, accepted_at=accepted_at, removed_at=removed_at, cpu=cpu)

        runner.hear("finish")
        runner.tell("finished")
        runner.hear("close")
        sending.close()
        runner.tell("closed")

    def _send_all(
        self, sending: DurableSide, parts: list[Payloads], pool: ThreadPoolExecutor
    ) -> None:
        if len(parts) == 1:
            # Here: not every storage can be used by another thread.
            self._send(sending, parts[0])
            return
        # None of the threads takes a second part before each has one.
        together = threading.Barrier(len(parts))

        def send(part: Payloads) -> None:
            together.wait()
            self._send(sending, part)

        for _ in pool.map(send, parts):
            """It raises what was raised in the thread."""

    def _send(self, sending: DurableSide, payloads: Payloads) -> None:
        if self._batch == 1:
            for data in payloads:
                sending.send(data)
        else:
            for batch in payloads.batches(self._batch):
                sending.send_batch(batch)

    def figures(self, count: int, listened: Facts, dialled: Facts) -> Figures:
        if listened["wrong"]:
            raise Wrong(listened["wrong"])
        count -= count % self._threads
        started_at = dialled["at"]
        ended_at = max(listened["at"], dialled["accepted_at"], dialled["removed_at"])
        return {
            self.unit: count / (ended_at - started_at),
            "accepted/s": count / (dialled["accepted_at"] - started_at),
            # Later there is not much to do any more.
            "CPU µs, sender": dialled["cpu"] / count * 1e6,
        }
