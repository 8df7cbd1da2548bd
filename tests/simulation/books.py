"""The books of a simulated history: who ran when, who was connected, what was sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from tests.simulation.records import (
    CRASH,
    POWER,
    SAME,
    Delivery,
    Entry,
    Process,
    Traits,
    Way,
)


class Books:
    """What happened so far, and what of it must not have happened.

    :param clock: gives the time, in seconds
    :param peers: what is to be expected of each
    :param keep: how many messages of a peer are remembered
    """

    def __init__(
        self, clock: Callable[[], float], peers: Mapping[str, Traits], keep: int = 8192
    ) -> None:
        self._clock = clock
        self.peers = dict(peers)
        self.keep = keep
        self.ways: dict[tuple[str, str], Way] = {}
        self.processes: dict[str, list[Process]] = {name: [] for name in peers}
        self.problems: list[str] = []
        self._batches: dict[int, list[Entry]] = {}

    def wrong(self, what: str) -> None:
        """Something must not be."""
        self.problems.append(f"at {self._clock():.3f}: {what}")

    def way(self, sender: str, receiver: str) -> Way:
        """The messages from one peer to another."""
        way = self.ways.get((sender, receiver))
        if way is None:
            way = self.ways[sender, receiver] = Way(sender, receiver)
            way.offline.set(self._clock(), self._is_up(sender))
        return way

    def _is_up(self, name: str) -> bool:
        processes = self.processes[name]
        return bool(processes) and processes[-1].ended is None

    def process(self, name: str) -> Process:
        """The last process of a peer."""
        return self.processes[name][-1]

    def _ways_from(self, name: str) -> list[Way]:
        return [way for way in self.ways.values() if way.sender == name]

    # Processes and connections

    def started(
        self, name: str, disk: str = SAME, stored: Mapping[str, Iterable[bytes]] | None = None
    ) -> None:
        """A process starts.

        :param disk: what became of its disk since the last one
        :param stored: what it finds there: receivers, and what is in the messages
        """
        now = self._clock()
        number = len(self.processes[name])
        self.processes[name].append(Process(number, now, disk))
        for way in self._ways_from(name):
            way.offline.set(now, True)
        for way in self.ways.values():
            if way.receiver == name:
                way.last.clear()
        for receiver, keys in (stored or {}).items():
            way = self.way(name, receiver)
            for key in keys:
                entry = self._next_of(way, key, lambda entry: number not in entry.loaded)
                if entry is None:
                    self.wrong(f"{way}: the storage has a message that nobody sent: {key!r}")
                else:
                    entry.loaded.append(number)

    def ended(self, name: str, how: str = CRASH) -> None:
        """It ends, by a crash, a power failure or because it was stopped."""
        now = self._clock()
        process = self.process(name)
        process.ended = now
        process.how = how
        for way in self._ways_from(name):
            if way.connected:
                way.broke.append(now)
            way.connected = False
            way.offline.set(now, False)
        for way in self.ways.values():
            if way.receiver == name:
                for delivery in way.deliveries:
                    if delivery.outcome in ("running", "deferred"):
                        self.done(delivery, "crashed")

    def connected(self, sender: str, receiver: str) -> None:
        """A sender is told that a receiver is connected."""
        way = self.way(sender, receiver)
        way.connected = True
        way.offline.set(self._clock(), False)

    def disconnected(self, sender: str, receiver: str) -> None:
        """A sender is told that a receiver is not connected any more."""
        way = self.way(sender, receiver)
        way.connected = False
        way.broke.append(self._clock())
        way.offline.set(self._clock(), True)

    def done(self, delivery: Delivery, outcome: str) -> None:
        """The receiver's callback ends."""
        delivery.outcome = outcome
        delivery.until = self._clock()

    # What the rules ask

    def _next_of(self, way: Way, key: bytes, condition: Callable[[Entry], object]) -> Entry | None:
        return self._first(way.by_key.get(key, []), condition)

    @staticmethod
    def _first(entries: list[Entry], condition: Callable[[Entry], object]) -> Entry | None:
        for entry in entries:
            if entry.outcome != "refused" and condition(entry):
                return entry
        return None

    def _has_it(self, way: Way, entry: Entry) -> bool:
        """Whether the receiver need not be sent it any more."""
        return entry.handled or entry.in_inbox is not None or self._is_second(way, entry)

    def _is_second(self, way: Way, entry: Entry) -> bool:
        """Whether the receiver may take it for another one, which it has."""
        return self._is_ambiguous(way, entry) and any(
            other is not entry
            and other.outcome != "refused"
            and (other.handled or other.in_inbox is not None)
            for other in way.by_uuid[entry.uuid]
        )

    def _is_ambiguous(self, way: Way, entry: Entry) -> bool:
        """Whether it can't be told from another one with the same uuid.

        So it is when the process that sent both has ended, or the one that
        received one of them: then there are no numbers to tell them apart.
        """
        return len(way.by_uuid[entry.uuid]) > 1 and (
            self.process(way.sender).number > entry.process
            or self.process(way.receiver).number > entry.receiver
        )

    def _disk_replaced(self, name: str, since: int) -> bool:
        """Whether a process after number ``since`` found a new disk or an old copy."""
        return any(process.disk != SAME for process in self.processes[name][since + 1 :])

    def _forgot_that_it_left(self, way: Way, entry: Entry) -> bool:
        """Whether the sender lost power after a message had left, perhaps before its disk knew."""
        processes = self.processes[way.sender]
        left = {*entry.acked, *entry.dropped}
        return entry.persistent and any(processes[number].how == POWER for number in left)

    def _power_failed(self, name: str, since: int) -> bool:
        """Whether the power ended process ``since`` or a later one."""
        return any(process.how == POWER for process in self.processes[name][since:])
