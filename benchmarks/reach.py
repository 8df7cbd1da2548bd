"""What is asked of the package, and what of that a run has reached.

All of it is ratios within one run, but for what is about memory or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.peers.catalogue import US
from benchmarks.results import Figure, Results
from benchmarks.table import number
from benchmarks.workloads import WORKLOADS

__all__ = ["Condition", "Row", "reach"]

#: Milliseconds of the processor that are none: to look at the clock takes some.
_NO_CPU: Final = 2.0

#: What 1.6 needs for the whole backlog, where a run has not measured it, in MB.
_BACKLOG_OF_1_6: Final = 295.0


@dataclass(frozen=True)
class Condition:
    """Something that is asked.

    :ivar asked: for people
    :ivar measured: likewise
    :ivar met: ``None``: the run has no figures of it
    """

    asked: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """For people."""
        return {True: "met", False: "not met", None: "not measured"}[self.met]


@dataclass(frozen=True)
class Row:
    """What is asked in one workload.

    :ivar least: what there has to be
    :ivar aims: what would be better still
    """

    workload: str
    least: Sequence[Condition]
    aims: Sequence[Condition] = ()


def reach(results: Results) -> list[Row]:
    """What is asked, and what was measured, of all workloads of which there are figures."""
    ask = _Asking(results)
    return [row for row in _rows(ask) if any(c.measured for c in (*row.least, *row.aims))]


def _rows(ask: _Asking) -> Iterator[Row]:
    yield Row(
        "small, acknowledged",
        [ask.part_of("pyzmq", 0.4, "small"), ask.ahead_of_all_but("pyzmq", "small")],
        [ask.part_of("pyzmq", 1.0, "small")],
    )
    yield Row("large", [ask.part_of("pyzmq", 1.0, "large")], [ask.part_of("raw", 1.0, "large")])
    memory = ("payloads in memory, sender", "payloads in memory, receiver")
    yield Row(
        "huge",
        [
            ask.times("raw", 2.0, "huge"),
            *(ask.at_most(1.3, Figure("huge", name=name), name) for name in memory),
        ],
        [
            ask.times("raw", 1.0, "huge"),
            *(ask.at_most(1.06, Figure("huge", name=name), name) for name in memory),
        ],
    )
    yield Row(
        "RPC p50, one thread",
        [ask.times("raw", 1.8, "rpc"), ask.ahead_of(("pyzmq", "pyro5", "rpyc"), "rpc")],
        [ask.times("raw", 1.3, "rpc")],
    )
    yield Row(
        "RPC, 16 threads on one proxy",
        [ask.part_of("pyzmq", 0.55, "rpc16"), ask.ahead_of(("multiprocessing", "nats"), "rpc16")],
        [ask.part_of("pyzmq", 1.0, "rpc16")],
    )
    for title, workload in (("batches", "durable256"), ("16 threads", "durable16")):
        yield Row(
            f"durable, {title}",
            [ask.part_of("rabbitmq", 2.5, workload), ask.ahead_of(("nats",), workload)],
            [ask.part_of("sqlite", 0.8, workload)],
        )
    yield Row(
        "durable, one at a time",
        [ask.part_of("sqlite", 0.8, "durable")],
        [ask.part_of("sqlite", 1.0, "durable")],
    )
    each = Figure("connections")
    yield Row(
        "idle connections",
        [
            ask.at_most(_NO_CPU, Figure("connections", name="CPU ms, idle"), "ms of CPU"),
            ask.at_most(6000.0, each, "bytes each"),
            ask.at_most(1.2, Figure("connections", name="times alone"), "times RPC p50 alone"),
        ],
        [ask.at_most(3000.0, each, "bytes each")],
    )
    peak = Figure("transient", name="MB, sender")
    whole = ask.is_whole("transient")
    theirs = ask.median(peak._replace(peer="snakemq-1.6"))
    limit = _BACKLOG_OF_1_6 if theirs is None else theirs
    yield Row(
        "transient backlog",
        [
            ask.part_of_figure(Figure("small"), 0.5, "the small rate", Figure("transient")),
            ask.at_most(limit, peak, "MB, as 1.6", known=whole or theirs is not None),
        ],
        [
            ask.part_of_figure(Figure("small"), 0.9, "the small rate", Figure("transient")),
            ask.at_most(200.0, peak, "MB", known=whole),
        ],
    )
    yield Row("idle pair", [ask.at_most(_NO_CPU, Figure("idle"), "ms of CPU")])
    yield Row(
        "TLS",
        [
            ask.part_of_figure(Figure(name), part, f"{name} without", Figure(f"tls-{name}"))
            for name, part in (("small", 0.7), ("large", 0.3))
        ],
    )


class _Asking:
    """Makes conditions about us."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self.median = results.median

    def part_of(self, peer: str, part: float, workload: str) -> Condition:
        """At least this part of another's rate."""
        return self.part_of_figure(Figure(workload, peer), part, peer, Figure(workload))

    def part_of_figure(self, other: Figure, part: float, name: str, ours: Figure) -> Condition:
        asked = _part(part, name)
        ratio = self._results.ratio(ours, other)
        if ratio is None:
            return _unknown(asked)
        return Condition(asked, f"{ratio:.2f} of {name}", ratio >= part)

    def times(self, peer: str, limit: float, workload: str) -> Condition:
        """At most so many times another's time."""
        asked = f"{limit:g} times {peer}"
        ratio = self._results.ratio(Figure(workload), Figure(workload, peer))
        if ratio is None:
            return _unknown(asked)
        return Condition(asked, f"{ratio:.2f} times {peer}", ratio <= limit)

    def ahead_of(self, peers: Iterable[str], workload: str) -> Condition:
        """Better than each of these; compared with the best of them."""
        peers = list(peers)
        return self._ahead(f"ahead of {', '.join(peers)}", peers, workload)

    def ahead_of_all_but(self, allowed: str, workload: str) -> Condition:
        """Better than all others, but the limit, and one."""
        ours = ("snakemq", US, "raw", allowed)
        peers = [peer for peer in self._results.peers(workload) if peer not in ours]
        return self._ahead("ahead of every other peer", peers, workload)

    def _ahead(self, asked: str, peers: list[str], workload: str) -> Condition:
        ratios = {
            peer: ratio
            for peer in peers
            if (ratio := self._results.times_better(workload, US, peer)) is not None
        }
        missing = [peer for peer in peers if peer not in ratios]
        if not ratios:
            return _unknown(asked)
        best = min(ratios, key=lambda peer: ratios[peer])
        measured = f"{ratios[best]:.2f} times as good as {best}"
        if missing:
            measured += f" (not measured: {', '.join(missing)})"
        behind = ratios[best] <= 1
        return Condition(asked, measured, False if behind else None if missing else True)

    def is_whole(self, workload: str) -> bool:
        """Whether it was measured with as many operations as in a full run."""
        return bool(self._results.written["counts"].get(workload, 0) >= WORKLOADS[workload].count)

    def at_most(self, limit: float, figure: Figure, unit: str, *, known: bool = True) -> Condition:
        """A figure of ours that is to be no more than this; if that says anything."""
        shown = f"{limit:,.0f}" if limit >= 10 else f"{limit:g}"
        asked = f"at most {shown} {unit}"
        median = self._results.median(figure)
        if median is None or not known:
            return _unknown(asked)
        return Condition(asked, f"{number(median)} {unit}", median <= limit)


def _part(part: float, name: str) -> str:
    return name if part == 1 else f"{part:g} {'times' if part > 1 else 'of'} {name}"


def _unknown(asked: str) -> Condition:
    return Condition(asked, "", None)
