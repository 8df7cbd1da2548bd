"""What is going to happen in a history: all of it follows from a seed.

A plan is data. It can be printed, and a history that goes wrong can be made
shorter by leaving out steps of its plan, one after the other.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TypeAlias

from snakemq.testing import Conditions, Fault, FaultPlan
from tests.simulation.disk import MOMENTS
from tests.simulation.records import BACKUP, CRASH, LOST, POWER, SAME, STOP

#: How long messages are sent and faults happen, in virtual seconds.
ACTIVE = 20.0

#: What can go wrong in a history: nothing; the network; processes are killed
#: and stopped, too; the power fails, too; disks are lost and old copies of them
#: restored, too.
KINDS = ("calm", "network", "crashes", "power", "disasters")
_WEIGHTS = (6, 14, 48, 20, 12)

_NETWORK_FAULTS = ("cut", "drop", "partition", "slow")


@dataclass(frozen=True)
class PeerPlan:
    """What a peer is like."""

    name: str
    #: "none", "old" (written for 1.6) or "full"
    storage: str
    durable: bool
    max_attempts: int
    retry_delay: float
    throttle: float | None
    keepalive: float | None
    #: how many messages may be queued for another peer, ``None``: the default
    limit: int | None
    drops_oldest: bool
    #: how long it takes to start it again after a crash that nobody planned
    down: float
    # How likely its callbacks do such a thing.
    raises: float
    closes: float
    dies: float
    replies: float
    pauses: float
    #: it says only later that it has handled a message, if ``durable``
    defers: float


@dataclass(frozen=True)
class MessagePlan:
    """A message that is going to be sent."""

    receiver: str
    size: int
    ttl: float | None
    persistent: bool
    urgent: bool = False
    #: how many messages have the same uuid
    times: int = 1
    #: its uuid is shorter than 16 bytes
    short: bool = False


@dataclass(frozen=True)
class Burst:
    """A peer sends messages, one after the other or as a batch."""

    at: float
    sender: str
    messages: tuple[MessagePlan, ...]
    batch: bool


@dataclass(frozen=True)
class Kill:
    """A process ends, and a new one starts after a while."""

    at: float
    peer: str
    how: str
    #: nobody is told that its connections are gone
    silent: bool
    #: what the system took is still delivered
    flush: bool
    #: what the new process finds
    disk: str
    down: float


@dataclass(frozen=True)
class Fuse:
    """From then on the process ends at the access to disk or network with this number."""

    at: float
    peer: str
    count: int
    moment: str
    how: str
    flush: bool


@dataclass(frozen=True)
class FullDisk:
    """For a while nothing more can be written to the disk of a peer."""

    at: float
    peer: str
    lasts: float


Step: TypeAlias = Burst | Kill | Fuse | FullDisk | Fault


@dataclass(frozen=True)
class Plan:
    """What happens in a history."""

    seed: int
    kind: str
    conditions: Conditions
    loop_delay: float
    #: how many messages, and how many bytes, a peer may send without an
    #: acknowledgement; ``None``: the default
    window: tuple[int, int] | None
    peers: tuple[PeerPlan, ...]
    #: who dials whom
    dials: tuple[tuple[str, str], ...]
    steps: tuple[Step, ...]
    #: the dead letters are tried again in the end
    retries_dead: bool
    #: the disks are SQLite databases, which takes longer
    sqlite: bool

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}: {self.kind}, loop delay {self.loop_delay} s, window {self.window}"
            + (", SQLite" if self.sqlite else ""),
            f"  {self.conditions}",
            *(f"  {peer}" for peer in self.peers),
            "  " + ", ".join(f"{one} dials {other}" for one, other in self.dials),
            *(f"  {step}" for step in self.steps),
        ]
        return "\n".join(lines)


def make_plan(seed: int) -> Plan:
    """The plan of this seed."""
    return _Planner(seed).plan()


class _Planner:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.kind = self.rng.choices(KINDS, _WEIGHTS)[0]
        self.rough = self.kind != "calm"
        self.sizes: tuple[int, ...] = ()
        self.once: set[str] = set()
        self.crashes = self.kind in ("crashes", "power", "disasters")

    def plan(self) -> Plan:
        rng = self.rng
        names = "abc"[: rng.choice((2, 2, 3))]
        peers = tuple(self._peer(name) for name in names)
        dials = tuple(self._dials(names))
        faults = list(self._faults(names)) if self.rough else []
        times = [step.at for step in faults]
        # A keepalive gives up a connection on which a large message takes too long.
        self.sizes = (0, 10, 10, 10, 300, 3000)
        if all(peer.keepalive is None for peer in peers):
            self.sizes *= 10
            self.sizes += (30_000,)
        # Which of two messages with the same uuid is dropped a storage can't say.
        self.once = {peer.name for peer in peers if peer.limit is not None and peer.drops_oldest}
        bursts = self._bursts(dials, times)
        return Plan(
            seed=self.seed,
            kind=self.kind,
            conditions=self._conditions(),
            loop_delay=rng.choice((0.0, 0.001, 0.05, 0.2)),
            window=rng.choice((None, (2, 100), (5, 1000), (20, 5000))),
            peers=peers,
            dials=dials,
            steps=tuple(sorted([*faults, *bursts], key=lambda step: step.at)),
            retries_dead=rng.random() < 0.5,
            sqlite=self.seed % 16 == 0,
        )

    def _chance(self, probability: float, value: float) -> float:
        return value if self.rng.random() < probability else 0.0

    def _peer(self, name: str) -> PeerPlan:
        rng = self.rng
        storage = rng.choice(("none", "none", "old", "full", "full", "full", "full"))
        durable = storage == "full" and rng.random() < 0.4
        return PeerPlan(
            name=name,
            storage=storage,
            durable=durable,
            max_attempts=rng.randint(1, 4),
            retry_delay=rng.choice((0.1, 1.0)),
            throttle=rng.choice((3000, 30_000)) if rng.random() < 0.15 else None,
            keepalive=rng.uniform(1.0, 5.0) if rng.random() < 0.5 else None,
            limit=rng.choice((3, 10)) if rng.random() < 0.15 else None,
            drops_oldest=rng.random() < 0.5,
            down=rng.uniform(0.1, 3.0),
            raises=self._chance(0.2, 0.1) if not durable else self._chance(0.7, 0.3),
            closes=self._chance(0.2, 0.02) if self.rough else 0.0,
            dies=self._chance(0.3, 0.03) if self.crashes else 0.0,
            replies=self._chance(0.3, 0.2),
            pauses=self._chance(0.2, 0.05),
            defers=self._chance(0.3, 0.2) if durable else 0.0,
        )

    def _conditions(self) -> Conditions:
        rng = self.rng
        bad = rng.random() if self.rough else 0.2
        return Conditions(
            delay=rng.uniform(0.0005, 0.1) * bad,
            jitter=rng.uniform(0.0, 0.2) * bad,
            send_buffer=rng.choice((65536, 3000, 500)),
            recv_buffer=rng.choice((65536, 3000, 500)),
            split=rng.choice((0.0, 0.3, 1.0)),
            partial_send=rng.choice((0.0, 0.3, 0.7)),
        )

    def _dials(self, names: Sequence[str]) -> list[tuple[str, str]]:
        dials = []
        for one, other in combinations(names, 2):
            way = self.rng.random()
            if one != names[0] and way < 0.2:
                continue  # these two do not know each other
            if way < 0.75:
                dials.append((one, other))
            if way >= 0.6:
                dials.append((other, one))
        return dials

    def _faults(self, names: Sequence[str]) -> list[Step]:
        rng = self.rng
        count = rng.choice((1, 2, 5))
        kinds = rng.sample(_NETWORK_FAULTS, rng.randint(1, len(_NETWORK_FAULTS)))
        if self.crashes and rng.random() < 0.4:
            count = 0  # crashes alone
        plan = FaultPlan.random(rng, names, duration=ACTIVE, count=count, kinds=kinds)
        steps: list[Step] = list(plan.faults)
        if self.crashes:
            for _ in range(rng.choice((1, 2, 4))):
                kill = self._kill(rng.choice(names))
                steps.append(kill)
                if rng.random() < 0.15:
                    other = rng.choice([name for name in names if name != kill.peer])
                    steps.append(replace(self._kill(other), at=kill.at))
            for _ in range(rng.choice((0, 1, 3))):
                steps.append(self._fuse(rng.choice(names)))
        if rng.random() < 0.1:
            at = rng.random() * ACTIVE
            steps.append(FullDisk(at, rng.choice(names), rng.uniform(0.0, 5.0)))
        return steps

    def _how(self) -> str:
        return POWER if self.kind == "power" and self.rng.random() < 0.6 else CRASH

    def _kill(self, name: str) -> Kill:
        rng = self.rng
        disk = rng.choice((LOST, BACKUP)) if self.kind == "disasters" else SAME
        how = STOP if rng.random() < 0.1 else self._how()
        silent = rng.random() < (0.6 if how == POWER else 0.1)
        return Kill(
            at=rng.random() * ACTIVE,
            peer=name,
            how=how,
            silent=silent and how != STOP,
            flush=not silent and how == CRASH and rng.random() < 0.5,
            disk=disk,
            down=rng.uniform(0.0, 3.0),
        )

    def _fuse(self, name: str) -> Fuse:
        rng = self.rng
        how = self._how()
        return Fuse(
            at=rng.random() * ACTIVE,
            peer=name,
            count=int(40 ** rng.random()),
            moment=rng.choice(MOMENTS),
            how=how,
            flush=how == CRASH and rng.random() < 0.5,
        )

    def _bursts(self, dials: Sequence[tuple[str, str]], faults: list[float]) -> list[Burst]:
        rng = self.rng
        ways = sorted({*dials, *((other, one) for one, other in dials)})
        count = rng.choice((5, 20, 40, 80))
        bursts = []
        while count > 0:
            # What is sent together travels together.
            size = min(count, rng.choice((1, 1, 3, 20)))
            count -= size
            sender, receiver = rng.choice(ways)
            receivers = [receiver]
            if rng.random() < 0.1:
                receivers = [other for one, other in ways if one == sender]
            at = rng.random() * ACTIVE
            if faults and rng.random() < 0.7:
                # On its way when something goes wrong, or just after.
                at = rng.choice(faults) + rng.choice((-0.3, -0.05, 0.5)) * rng.random()
            twice = 0.06 if sender not in self.once else 0.0
            messages = tuple(self._message(rng.choice(receivers), twice) for _ in range(size))
            bursts.append(Burst(max(at, 0.0), sender, messages, rng.random() < 0.3))
        return bursts

    def _message(self, receiver: str, twice: float) -> MessagePlan:
        rng = self.rng
        ttl = rng.choice((None, None, None, None, None, 0.0, 0.0, 0.7, 2.0, 20.0))
        return MessagePlan(
            receiver=receiver,
            size=rng.choice(self.sizes),
            ttl=ttl,
            persistent=rng.random() < 0.5,
            urgent=ttl == 0 and rng.random() < 0.3,
            times=2 if ttl is None and rng.random() < twice else 1,
            short=rng.random() < 0.5,
        )
