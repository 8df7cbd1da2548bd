"""Random schedules of faults for a :class:`~snakemq.testing.SimNetwork`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from snakemq.testing.network import SimNetwork

__all__ = ["KINDS", "Fault", "FaultPlan"]

#: What can happen: the connections between two links are cut; one direction
#: drops everything silently; both do; a process crashes and is started again;
#: a machine goes away silently and comes back; a direction gets slow.
KINDS: Final = ("cut", "drop", "partition", "crash", "vanish", "slow")

_CRASHES: Final = ("crash", "vanish")


@dataclass(frozen=True)
class Fault:
    """Something goes wrong.

    :param at: when, in virtual seconds from the start of the plan
    :param kind: what, one of :data:`KINDS`
    :param a: the name of the link that it happens to
    :param b: the link at the other end; not for crashes
    :param lasts: how long until it is over, in virtual seconds; not for cuts
    """

    at: float
    kind: str
    a: str
    b: str = ""
    lasts: float = 0.0

    @property
    def end(self) -> float:
        """When all is well again, in virtual seconds from the start of the plan."""
        return self.at + self.lasts


@dataclass(frozen=True)
class FaultPlan:
    """Faults, in the order of their times. When the last is over all is well."""

    faults: tuple[Fault, ...]

    @classmethod
    def random(
        cls,
        rng: random.Random,
        names: Sequence[str],
        *,
        duration: float,
        count: int,
        kinds: Sequence[str] = KINDS,
    ) -> FaultPlan:
        """Make one up.

        A link that crashed does not crash again before it was restarted.

        :param rng: where the randomness comes from, :attr:`SimNetwork.random`
            for one
        :param names: the links that faults may happen to, at least two
        :param duration: all is well again after so many virtual seconds
        :param count: how many faults there are at most
        :param kinds: which kinds, some of :data:`KINDS`
        :raises ValueError: fewer than two names, or an unknown kind
        """
        if len(names) < 2:
            raise ValueError("faults need at least two links")
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            raise ValueError(f"no such fault: {unknown}; there are {list(KINDS)}")
        faults: list[Fault] = []
        for _ in range(count):
            kind = rng.choice(kinds)
            a, b = rng.sample(names, 2)
            at = rng.random() * duration
            lasts = 0.0 if kind == "cut" else rng.random() * (duration - at)
            fault = Fault(at, kind, a, "" if kind in _CRASHES else b, lasts)
            if not any(_both_crash(fault, other) for other in faults):
                faults.append(fault)
        faults.sort(key=lambda fault: fault.at)
        return cls(tuple(faults))

    @property
    def end(self) -> float:
        """When all is well again, in virtual seconds from the start of the plan."""
        return max((fault.end for fault in self.faults), default=0.0)

    def start(
        self,
        network: SimNetwork,
        *,
        crash: Callable[[str, bool], object],
        restart: Callable[[str], object],
    ) -> None:
        """Let the faults happen, counted from now.

        :param crash: called with the name of the link to crash and whether
            silently; it is to call :meth:`SimNetwork.crash`
        :param restart: called with the name of the link to start again
        """
        for fault in self.faults:
            begin, over = self._actions(fault, network, crash, restart)
            network.call_later(fault.at, begin)
            if over is not None:
                network.call_later(fault.end, over)

    def _actions(
        self,
        fault: Fault,
        network: SimNetwork,
        crash: Callable[[str, bool], object],
        restart: Callable[[str], object],
    ) -> tuple[Callable[[], object], Callable[[], object] | None]:
        a, b = fault.a, fault.b
        if fault.kind == "cut":
            return lambda: network.cut(a, b), None
        if fault.kind == "drop":
            return lambda: network.drop_silently(a, b), lambda: network.heal(a, b)
        if fault.kind == "partition":
            return lambda: network.partition([a], [b]), lambda: _heal_both_ways(network, a, b)
        if fault.kind == "slow":
            delay = network.conditions(a, b).delay
            return (
                lambda: network.set_conditions(a, b, delay=delay + fault.lasts / 10),
                lambda: network.set_conditions(a, b, delay=delay),
            )
        return lambda: crash(a, fault.kind == "vanish"), lambda: restart(a)


def _heal_both_ways(network: SimNetwork, a: str, b: str) -> None:
    network.heal(a, b)
    network.heal(b, a)


def _both_crash(one: Fault, other: Fault) -> bool:
    return (
        one.a == other.a
        and one.kind in _CRASHES
        and other.kind in _CRASHES
        and one.at <= other.end
        and other.at <= one.end
    )
