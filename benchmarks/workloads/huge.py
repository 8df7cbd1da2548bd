"""One message that is so large that it is felt in the memory."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterator
from typing import Final

from benchmarks.channel import Channel, Facts
from benchmarks.memory import forget_peak, peak_resident
from benchmarks.payloads import clock
from benchmarks.peers import PeerModule, Setting
from benchmarks.workloads.base import Figures, Workload, Wrong

__all__ = ["Contents", "Huge"]

_MEBIBYTE: Final = 1024 * 1024

#: Seconds in which it has to arrive.
_TIMEOUT: Final = 150.0


class Contents:
    """A message whose parts can be told apart, made and checked without a second copy.

    :param size: in bytes, a multiple of a mebibyte
    """

    _PART: Final = 4096

    def __init__(self, size: int) -> None:
        self._count = size // self._PART
        self._filler = bytes(range(256)) * (self._PART // 256)

    def _pieces(self) -> Iterator[bytes]:
        filler = self._filler[8:]
        for number in range(self._count):
            yield number.to_bytes(8, "big")
            yield filler

    def make(self) -> bytes:
        return b"".join(self._pieces())

    def is_in(self, data: bytes | bytearray | memoryview) -> bool:
        if len(data) != self._count * self._PART:
            return False
        expected = 0
        for piece in self._pieces():
            expected = zlib.crc32(piece, expected)
        return zlib.crc32(data) == expected


class Huge(Workload):
    """One message; how long it takes, and how much memory both sides need for it at most.

    The time is that from before it is sent until it has arrived. Memory is the
    growth of the resident set since before there was a message, so the message
    itself is in it.
    """

    counted = "MiB"
    _WARM_UP: Final = b"This is smaller."

    def __init__(self, title: str, *, mebibytes: int) -> None:
        super().__init__(title, "seconds", more_is_better=False, count=mebibytes)

    def listen(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        arrived: list[bytes | bytearray] = []
        is_there = threading.Event()
        times: list[float] = []
        peaks: list[int | None] = []

        def receive(data: bytes | bytearray) -> None:
            times.append(clock())
            peaks.append(peak_resident())
            arrived.append(data)
            is_there.set()

        listening = peer.receive(receive)
        runner.tell("listening", address=listening.address, version=peer.version())

        runner.hear("prepare")
        is_there.wait(_TIMEOUT)
        wrong = "" if [bytes(data) for data in arrived] == [self._WARM_UP] else "the first is wrong"
        for kept in (arrived, times, peaks):
            kept.clear()
        is_there.clear()
        forget_peak()
        before = peak_resident()
        cpu = time.process_time()
        runner.tell("prepared")

        runner.hear("finish")
        is_there.wait(_TIMEOUT)
        cpu = time.process_time() - cpu
        if not wrong and len(arrived) != 1:
            wrong = f"{len(arrived)} messages arrived of 1"
        elif not wrong and not Contents(count * _MEBIBYTE).is_in(arrived[0]):
            wrong = "the message is not what was sent"
        runner.tell(
            "finished",
            wrong=wrong,
            at=times[0] if times else 0.0,
            cpu=cpu,
            growth=_growth(before, peaks[0] if peaks else None),
        )

        runner.hear("close")
        listening.close()
        runner.tell("closed")

    def dial(self, peer: PeerModule, runner: Channel, setting: Setting, count: int) -> None:
        sending = peer.connect(runner.hear("dial")["address"])
        sending.send(self._WARM_UP)
        sending.flush()
        runner.tell("ready")

        runner.hear("go")
        forget_peak()
        before = peak_resident()
        data = Contents(count * _MEBIBYTE).make()
        cpu = time.process_time()
        started = clock()
        sending.send(data)
        sending.flush()
        runner.tell("done", at=started)

        runner.hear("finish")
        cpu = time.process_time() - cpu
        runner.tell("finished", cpu=cpu, growth=_growth(before, peak_resident()))
        runner.hear("close")
        sending.close()
        runner.tell("closed")

    def figures(self, count: int, listened: Facts, dialled: Facts) -> Figures:
        if listened["wrong"]:
            raise Wrong(listened["wrong"])
        figures = {self.unit: listened["at"] - dialled["at"]}
        for side, facts in (("sender", dialled), ("receiver", listened)):
            if facts["growth"] is not None:
                figures[f"payloads in memory, {side}"] = facts["growth"] / (count * _MEBIBYTE)
        figures["CPU s, sender"] = dialled["cpu"]
        figures["CPU s, receiver"] = listened["cpu"]
        return figures


def _growth(before: int | None, peak: int | None) -> int | None:
    return None if before is None or peak is None else max(0, peak - before)
