"""Workloads that leave nothing on a disk: messages in one direction, and calls."""

from __future__ import annotations

import statistics
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

from benchmarks.channel import Channel, Facts
from benchmarks.payloads import Inbox, Payloads, clock
from benchmarks.peers import PeerModule, Setting
from benchmarks.workloads.base import Figures, Workload, Wrong

__all__ = ["Calls", "OneWay"]


class OneWay(Workload):
    """Messages in one direction, as fast as the sender can and the receiver keeps up.

    The time is that from before the first send until the last one has arrived.

    :param secured: with TLS
    """

    #: What is sent before, as a part of the whole. All of it is kept and checked.
    _WARM_UP: Final = 0.05

    def __init__(self, title: str, *, size: int, count: int, secured: bool = False) -> None:
        in_bytes = size >= 1024 * 1024
        super().__init__(
            title, "MB/s" if in_bytes else "messages/s", more_is_better=True, count=count
        )
        self._size = size
        self._scale = size / 1e6 if in_bytes else 1.0
        self.needs_certificates = secured

    def _payloads(self, count: int) -> tuple[Payloads, Payloads]:
        """Those to warm up with, and those to measure with."""
        warm_up = max(1, int(count * self._WARM_UP))
        return Payloads(self._size, warm_up), Payloads(self._size, count)

    def listen(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        warm_up, payloads = self._payloads(count)
        inbox = Inbox(self._size)
        inbox.expect(len(warm_up), keep_all=True)
        if self.needs_certificates:
            assert setting.certificates is not None
            listening = peer.receive_secured(setting.certificates, inbox.receive)
        else:
            listening = peer.receive(inbox.receive)
        runner.tell("listening", address=listening.address, version=peer.version())

        runner.hear("prepare")
        inbox.wait()
        wrong = inbox.check(warm_up)
        inbox.expect(len(payloads))
        cpu = time.process_time()
        runner.tell("prepared")

        runner.hear("finish")
        inbox.wait()
        cpu = time.process_time() - cpu
        wrong = wrong or inbox.check(payloads)
        runner.tell("finished", wrong=wrong, at=inbox.completed_at, cpu=cpu)

        runner.hear("close")
        listening.close()
        runner.tell("closed")

    def dial(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        warm_up, payloads = self._payloads(count)
        address = runner.hear("dial")["address"]
        if self.needs_certificates:
            assert setting.certificates is not None
            sending = peer.connect_secured(setting.certificates, address)
        else:
            sending = peer.connect(address)
        send = sending.send
        for data in warm_up:
            send(data)
        sending.flush()
        runner.tell("ready")

        runner.hear("go")
        cpu = time.process_time()
        started = clock()
        for data in payloads:
            send(data)
        sending.flush()
        runner.tell("done", at=started)

        runner.hear("finish")
        runner.tell("finished", cpu=time.process_time() - cpu)
        runner.hear("close")
        sending.close()
        runner.tell("closed")

    def figures(self, count: int, listened: Facts, dialled: Facts) -> Figures:
        if listened["wrong"]:
            raise Wrong(listened["wrong"])
        return {
            self.unit: count * self._scale / (listened["at"] - dialled["at"]),
            "CPU µs, sender": dialled["cpu"] / count * 1e6,
            "CPU µs, receiver": listened["cpu"] / count * 1e6,
        }


class _Caller(threading.Thread):
    """Makes calls, one after the other, and takes the time of each."""

    def __init__(self, call: Callable[[bytes], bytes], warm_up: Payloads, calls: Payloads) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._warm_up = warm_up
        self._calls = calls
        self.warm = threading.Event()
        self.go = threading.Event()
        self.times: list[float] = []
        #: what went wrong; empty if nothing did
        self.wrong = ""

    def run(self) -> None:
        try:
            for data in self._warm_up:
                self._call(data)
            self.warm.set()
            self.go.wait()
            for data in self._calls:
                before = clock()
                answer = self._call(data)
                self.times.append(clock() - before)
                if answer != data:
                    self.wrong = "a call returned something else than it was given"
        except Exception as exc:
            traceback.print_exc()
            self.wrong = f"a call failed: {exc!r}"
        finally:
            self.warm.set()


class Calls(Workload):
    """Remote calls that return what they are given.

    :param threads: so many make calls at the same time
    """

    counted = "calls"
    _SIZE: Final = 64
    _WARM_UP: Final = 20  # calls of each thread

    def __init__(self, title: str, *, threads: int, count: int) -> None:
        alone = threads == 1
        super().__init__(
            title, "µs (median)" if alone else "calls/s", more_is_better=not alone, count=count
        )
        self._threads = threads

    def listen(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        calls: list[None] = []  # appending is atomic, counting is not

        def echo(data: bytes) -> bytes:
            calls.append(None)
            return data

        listening = peer.serve(echo)
        runner.tell("listening", address=listening.address, version=peer.version())
        runner.hear("prepare")
        calls.clear()
        cpu = time.process_time()
        runner.tell("prepared")
        runner.hear("finish")
        runner.tell("finished", calls=len(calls), cpu=time.process_time() - cpu)
        runner.hear("close")
        listening.close()
        runner.tell("closed")

    def dial(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        calling = peer.caller(runner.hear("dial")["address"])
        each = count // self._threads
        callers = [
            _Caller(
                calling.call,
                Payloads(self._SIZE, self._WARM_UP),
                Payloads(self._SIZE, each, first=number * each),
            )
            for number in range(self._threads)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.warm.wait()
        runner.tell("ready")

        runner.hear("go")
        cpu = time.process_time()
        started = clock()
        for caller in callers:
            caller.go.set()
        for caller in callers:
            caller.join()
        ended = clock()
        wrong = next((caller.wrong for caller in callers if caller.wrong), "")
        times = sorted(seconds for caller in callers for seconds in caller.times)
        runner.tell(
            "done",
            wrong=wrong,
            seconds=ended - started,
            median=statistics.median(times or [0.0]),
            p99=times[len(times) * 99 // 100] if times else 0.0,
            cpu=time.process_time() - cpu,
        )
        runner.hear("finish")
        runner.tell("finished")
        runner.hear("close")
        calling.close()
        runner.tell("closed")

    def figures(self, count: int, listened: Facts, dialled: Facts) -> Figures:
        count -= count % self._threads
        if dialled["wrong"]:
            raise Wrong(dialled["wrong"])
        if listened["calls"] != count:
            raise Wrong(f"the server was called {listened['calls']} times, not {count} times")
        median = {"µs (median)": dialled["median"] * 1e6}
        rate = {"calls/s": count / dialled["seconds"]}
        return {
            **(rate if self.more_is_better else median),
            **median,
            **rate,
            "µs (p99)": dialled["p99"] * 1e6,
            "CPU µs, caller": dialled["cpu"] / count * 1e6,
            "CPU µs, server": listened["cpu"] / count * 1e6,
        }
