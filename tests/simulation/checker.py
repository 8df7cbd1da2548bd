"""What must hold whatever goes wrong: the promises of acknowledged delivery.

A :class:`Checker` is told what happens, as it happens, and keeps a list of what
must not have happened. It knows nothing of the stack; ``test_checker.py`` shows
for each promise that a broken one is noticed.
"""

from __future__ import annotations

from tests.simulation.receiving import ReceivingRules
from tests.simulation.records import Entry, Way
from tests.simulation.sending import SendingRules


class Checker(SendingRules, ReceivingRules):
    """Notices what must not happen; :meth:`finish` when all is over."""

    def finish(self) -> None:
        """All is quiet: nothing more will happen."""
        for way in self.ways.values():
            for entry in way.entries:
                self._check_end(way, entry)
        for batch, entries in self._batches.items():
            self._check_batch(batch, entries)

    def _check_end(self, way: Way, entry: Entry) -> None:
        if entry.outcome == "refused":
            return
        last = self.process(way.sender)
        if last.ended is None and not entry.offline:
            has_it = entry.process == last.number and entry.outcome == "accepted"
            if has_it or last.number in entry.loaded:
                reports = entry.acked.count(last.number) + entry.dropped.count(last.number)
                if reports != 1:
                    self.wrong(f"{way}: {entry} was reported {reports} times as done with")
        if entry.dropped and entry.handled and not self._disk_replaced(way.sender, entry.process):
            broke = [broke for broke in way.broke if entry.when <= broke]
            if (not broke or broke[0] > entry.dropped_at[-1]) and not self._forgot_that_it_left(
                way, entry
            ):
                self.wrong(f"{way}: {entry} was delivered and dropped, but no connection broke")
        if not self._excuse(way, entry):
            self.wrong(f"{way}: {entry} is lost")
        elif self._uses_inbox(way, entry):
            self._check_end_of_inbox(way, entry)

    def _check_end_of_inbox(self, way: Way, entry: Entry) -> None:
        if (
            entry.deliveries
            and not entry.dead
            and entry.deliveries[-1].outcome != "returned"
            and not self._excuse_of_receiver(way, entry)
            and (entry.in_inbox is not None or entry.acked)
        ):
            self.wrong(f"{way}: {entry} was given up after its callback raised")

    def _excuse(self, way: Way, entry: Entry) -> str:
        """Why a message need not have been handled; empty if it must have been."""
        if entry.handled:
            return "it was"
        if entry.outcome == "crashed":
            return "nobody knows whether it was accepted"
        if entry.offline:
            return "nobody was there"
        if entry.dropped:
            return "it was dropped"
        if self._is_second(way, entry):
            return "it was taken for the first one"
        processes = self.processes[way.sender][entry.process :]
        own = processes[0]
        if own.ended is not None and not entry.stored:
            return "it went with the process that sent it"
        if entry.stored and self._disk_replaced(way.sender, entry.process):
            return "the disk was lost"
        if (entry.ttl is not None or self._may_drop_oldest(way)) and any(
            self.processes[way.sender][number].ended == when for when, number in entry.removed
        ):
            return "it was dropped, and the process ended before it could say so"
        return self._excuse_of_receiver(way, entry)

    def _excuse_of_receiver(self, way: Way, entry: Entry) -> str:
        if entry.in_inbox is not None and self._disk_replaced(way.receiver, entry.in_inbox):
            return "the inbox was lost"
        return ""

    def _check_batch(self, batch: int, entries: list[Entry]) -> None:
        """What was stored together is there together, or not at all."""
        crashed = [entry for entry in entries if entry.outcome == "crashed" and entry.stored]
        there = [entry for entry in crashed if self._was_stored(entry)]
        if there and len(there) < len(crashed):
            missing = [str(entry.number) for entry in crashed if entry not in there]
            self.wrong(f"of batch {batch} only a part was stored, not {', '.join(missing)}")

    def _was_stored(self, entry: Entry) -> bool:
        return bool(entry.loaded or entry.removed)
