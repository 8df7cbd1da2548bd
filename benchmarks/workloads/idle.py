"""What connections cost on which nothing happens."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Final

from benchmarks.channel import Channel, Facts
from benchmarks.memory import resident, voluntary_switches
from benchmarks.payloads import Inbox, Payloads, clock
from benchmarks.peers import Calling, PeerModule, Setting
from benchmarks.workloads.base import Figures, Side, Workload, Wrong, end

__all__ = ["Connections", "Idle"]


class _Rest:
    """What a process does while nothing is to be done.

    :param seconds: it lets pass
    """

    def __init__(self, seconds: float) -> None:
        switches = voluntary_switches()
        cpu = time.process_time()
        time.sleep(seconds)
        #: seconds of the processor
        self.cpu = time.process_time() - cpu
        after = voluntary_switches()
        #: how often a thread went to sleep; ``None`` where that is not known
        self.switches = None if switches is None or after is None else after - switches


class Idle(Workload):
    """A sender and a receiver that are connected, and nothing to send."""

    counted = "ms"
    rounds = 2
    _SIZE: Final = 64
    _WARM_UP: Final = 16  # messages

    def __init__(self, title: str, *, seconds: int) -> None:
        super().__init__(title, "CPU ms", more_is_better=False, count=seconds * 1000)

    def conduct(
        self, listener: Side, dialler: Side, start: Callable[[str], Side]
    ) -> tuple[Facts, Facts]:
        listened = listener.hear("listening")
        dialler.tell("dial", address=listened["address"])
        dialler.hear("ready")
        listener.tell("prepare")
        listened.update(listener.hear("prepared"))
        for side in (listener, dialler):
            side.tell("rest")
        listened.update(listener.hear("rested"))
        dialled = dialler.hear("rested")
        end(dialler, listener)
        return listened, dialled

    def listen(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        warm_up = Payloads(self._SIZE, self._WARM_UP)
        inbox = Inbox(self._SIZE)
        inbox.expect(len(warm_up))
        listening = peer.receive(inbox.receive)
        runner.tell("listening", address=listening.address, version=peer.version())
        runner.hear("prepare")
        inbox.wait()
        runner.tell("prepared", wrong=inbox.check(warm_up))
        self._rest(runner, count)
        runner.hear("close")
        listening.close()
        runner.tell("closed")

    def dial(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        sending = peer.connect(runner.hear("dial")["address"])
        for data in Payloads(self._SIZE, self._WARM_UP):
            sending.send(data)
        sending.flush()
        runner.tell("ready")
        self._rest(runner, count)
        runner.hear("close")
        sending.close()
        runner.tell("closed")

    def _rest(self, runner: Channel, count: int) -> None:
        runner.hear("rest")
        rest = _Rest(count / 1000)
        runner.tell("rested", cpu=rest.cpu, switches=rest.switches)

    def figures(self, count: int, listened: Facts, dialled: Facts) -> Figures:
        if listened["wrong"]:
            raise Wrong(listened["wrong"])
        figures = {
            self.unit: (listened["cpu"] + dialled["cpu"]) * 1000,
            "ms, receiver": listened["cpu"] * 1000,
            "ms, sender": dialled["cpu"] * 1000,
        }
        if listened["switches"] is not None and dialled["switches"] is not None:
            figures["context switches"] = listened["switches"] + dialled["switches"]
        return figures


class _Timed:
    """Calls to one process, and how long they have taken."""

    def __init__(self, calling: Calling) -> None:
        self._calling = calling
        #: in seconds
        self.times: list[float] = []
        #: how many have returned something else than they were given
        self.wrong = 0
        self.close = calling.close

    def make(self, payloads: Payloads) -> None:
        """One call with each."""
        for data in payloads:
            before = clock()
            answer = self._calling.call(data)
            self.times.append(clock() - before)
            self.wrong += answer != data


class Connections(Workload):
    """Many connections to one process, on which nothing happens; and one that is used.

    They are held by a third process. Memory is the growth of the resident set of
    the process that listens, without what the system needs for its sockets. Calls
    are made when the others are there; and in turns with them to one more process that
    listens, to which nobody else connects. Before and after would be seconds apart, in
    which a machine changes more than what is asked for.
    """

    counted = "connections"
    _SIZE: Final = 64

    #: Calls of which the median is taken, with and without others; so many of either are made
    #: before it is the turn of the other; connections for each second of rest.
    _CALLS: Final = 2000
    _TURN: Final = 100
    _PER_SECOND: Final = 200

    def __init__(self, title: str, *, count: int) -> None:
        super().__init__(title, "bytes each", more_is_better=False, count=count)

    def conduct(
        self, listener: Side, dialler: Side, start: Callable[[str], Side]
    ) -> tuple[Facts, Facts]:
        # Both do the same, but for who connects.
        lonely = start("listen")
        listened = listener.hear("listening")
        address = listened["address"]
        dialler.tell("dial", address=address, lonely=lonely.hear("listening")["address"])
        dialled = dialler.hear("ready")
        for side in (listener, lonely):
            side.tell("prepare")
            side.hear("prepared")
        holder = start("hold")
        holder.tell("dial", address=address)
        holder.hear("ready")
        for side in (listener, lonely):
            side.tell("rest")
        listened.update(listener.hear("rested"))
        lonely.hear("rested")
        dialler.tell("go")
        dialled.update(dialler.hear("done"))
        holder.tell("finish")
        dialled["held"] = holder.hear("finished")["held"]
        end(holder, dialler, listener, lonely)
        return listened, dialled

    def listen(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        listening = peer.serve(lambda data: data)
        runner.tell("listening", address=listening.address, version=peer.version())
        runner.hear("prepare")
        gc.collect()
        before = resident()
        runner.tell("prepared")
        runner.hear("rest")
        gc.collect()
        after = resident()
        rest = _Rest(count / self._PER_SECOND)
        runner.tell(
            "rested",
            growth=None if before is None or after is None else after - before,
            cpu=rest.cpu,
        )
        runner.hear("close")
        listening.close()
        runner.tell("closed")

    def dial(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        addresses = runner.hear("dial")
        among_many = _Timed(peer.caller(addresses["address"]))
        alone = _Timed(peer.caller(addresses["lonely"]))
        payloads = Payloads(self._SIZE, min(self._TURN, count))
        for timed in (among_many, alone):
            timed.make(payloads)
        runner.tell("ready")
        runner.hear("go")
        for timed in (among_many, alone):
            timed.make(payloads)  # warms up
            timed.times.clear()
        for _ in range(max(1, min(self._CALLS, count) // len(payloads))):
            for timed in (among_many, alone):
                timed.make(payloads)
        runner.tell(
            "done",
            among_many=statistics.median(among_many.times),
            alone=statistics.median(alone.times),
            wrong=among_many.wrong + alone.wrong,
        )
        runner.hear("close")
        among_many.close()
        alone.close()
        runner.tell("closed")

    def hold(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        holding = peer.hold(runner.hear("dial")["address"], count)
        runner.tell("ready")
        runner.hear("finish")
        runner.tell("finished", held=holding.count())
        runner.hear("close")
        holding.close()
        runner.tell("closed")

    def figures(self, count: int, listened: Facts, dialled: Facts) -> Figures:
        if dialled["wrong"]:
            raise Wrong(f"{dialled['wrong']} calls returned something else than they were given")
        if dialled["held"] != count:
            raise Wrong(f"{dialled['held']} connections are there of {count}")
        if listened["growth"] is None:
            raise Wrong("it is not known here how much memory a process has")
        return {
            self.unit: max(0, listened["growth"]) / count,
            "CPU ms, idle": listened["cpu"] * 1000,
            "µs a call": dialled["among_many"] * 1e6,
            "times alone": dialled["among_many"] / dialled["alone"],
        }
