"""Tells what was lost, what came twice and what came out of order.

From the records of a sender and a receiver alone, so it is exact whatever
happened to the two: see :mod:`tests.crash.workers.records`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.crash.workers.records import (
    ACCEPTED,
    BEGUN,
    ENDED,
    OFFERED,
    RECEIVED,
    TOGETHER,
    Record,
    Workload,
)

__all__ = ["Findings", "compare"]


@dataclass
class Findings:
    """What the records of a run say.

    A message is in one of the lists once for each thing that is wrong with it.

    :ivar accepted: how many messages ``send`` accepted
    :ivar received: how many of the numbers came, once or more
    :ivar undecided: numbers that were offered when the sender was killed; they
        may come or not
    :ivar lost: numbers that were accepted and never came
    :ivar duplicated: records of numbers that had come before, without an excuse
    :ivar repeated: records that have one: the receiver was killed in the
        callback of this message, and got it again, marked
    :ivar reordered: numbers that came after a higher one
    :ivar foreign: records of what was never offered, or with another's identifier
    :ivar damaged: records of data that are not as they were sent
    :ivar torn: numbers that came while others did not that were offered together with them
    """

    accepted: int = 0
    received: int = 0
    undecided: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    duplicated: list[Record] = field(default_factory=list)
    repeated: list[Record] = field(default_factory=list)
    reordered: list[int] = field(default_factory=list)
    foreign: list[Record] = field(default_factory=list)
    damaged: list[Record] = field(default_factory=list)
    torn: list[int] = field(default_factory=list)

    def problems(self) -> list[str]:
        """One line for each kind of thing that is wrong."""
        return [
            f"{len(found)} {name}: {', '.join(map(str, found[:8]))}{' ...' * (len(found) > 8)}"
            for name in ("lost", "duplicated", "reordered", "foreign", "damaged", "torn")
            if (found := getattr(self, name))
        ]

    def __str__(self) -> str:
        return (
            f"accepted {self.accepted}, received {self.received}, "
            f"undecided {len(self.undecided)}, repeated {len(self.repeated)}, "
            f"lost {len(self.lost)}, duplicated {len(self.duplicated)}, "
            f"reordered {len(self.reordered)}"
        )


def compare(
    sent: Iterable[Record],
    received: Iterable[Record],
    workload: Workload,
    *,
    remembers: bool = True,
) -> Findings:
    """Compare what was sent with what was received.

    :param sent: records of all processes that sent, in the order of the file
    :param received: records of all processes that received, likewise
    :param remembers: whether the receiver remembers what it received when it is
        killed. If not, a new process may get any number of messages again, all
        of them marked, in order, and none out of those that it got itself.
    """
    found = Findings()
    offered, accepted = set(), set()
    groups: list[tuple[int, list[int]]] = []
    for record in sent:
        if record.kind == OFFERED:
            offered.add(record.number)
            if groups and len(groups[-1][1]) < groups[-1][0]:
                groups[-1][1].append(record.number)
        elif record.kind == ACCEPTED:
            accepted.add(record.number)
        elif record.kind == TOGETHER:
            groups.append((record.number, []))
        elif record.kind == BEGUN:
            groups.append((0, []))
    history = _Received(found, remembers)
    for record in received:
        if record.kind == BEGUN:
            history.begin()
        elif record.kind == ENDED:
            history.end()
        elif record.kind == RECEIVED:
            if record.damaged:
                found.damaged.append(record)
            elif record.number not in offered or record.uuid != workload.uuid(record.number):
                found.foreign.append(record)
            else:
                history.add(record)
    found.accepted = len(accepted)
    found.received = len(history.numbers)
    found.undecided = sorted(offered - accepted)
    found.lost = sorted(accepted - history.numbers)
    for size, group in groups:
        came = history.numbers.intersection(group)
        # One that was not offered as a whole was not sent.
        if 0 < len(came) < size:
            found.torn += sorted(came)
    return found


class _Received:
    """What the receiver has got until now, over all of its processes."""

    def __init__(self, found: Findings, remembers: bool) -> None:
        self.numbers: set[int] = set()
        self._found = found
        self._remembers = remembers
        self._highest = 0
        self._running = False
        #: last and highest number that the present process got
        self._last: int | None = None
        self._own_highest = 0
        #: in whose callback a process may have been killed; no other got one since
        self._interrupted: int | None = None
        self._was_killed = False

    def begin(self) -> None:
        """A new process. If the one before had not ended, it was killed."""
        if self._running:
            self._was_killed = True
            if self._last is not None:
                self._interrupted = self._last
        self._running = True
        self._last = None
        self._own_highest = 0

    def end(self) -> None:
        """The process ended by itself: nothing is excused by that."""
        self._running = False

    def add(self, record: Record) -> None:
        number = record.number
        if number not in self.numbers:
            self.numbers.add(number)
            if number < self._highest:
                self._found.reordered.append(number)
            self._highest = max(number, self._highest)
        elif self._is_excused(record):
            self._found.repeated.append(record)
        else:
            self._found.duplicated.append(record)
        self._interrupted = None
        self._last = number
        self._own_highest = max(number, self._own_highest)

    def _is_excused(self, record: Record) -> bool:
        if not record.redelivered:
            return False
        if self._remembers:
            return record.number == self._interrupted
        return self._was_killed and record.number > self._own_highest
