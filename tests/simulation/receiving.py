"""What must hold at the side that receives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tests.simulation.books import Books
from tests.simulation.records import Delivery, Entry, Way
from tests.simulation.sending import SLACK

_ROUNDING: Final = 1e-3


class ReceivingRules(Books):
    """Told of what a receiver does with messages."""

    def stored_in_inbox(self, receiver: str, sender: str, key: bytes) -> None:
        """A message is in the receiver's inbox, on its disk."""
        way = self.way(sender, receiver)
        entry = self._next_of(way, key, lambda entry: entry.in_inbox is None) or self._next_of(
            way, key, lambda entry: True
        )
        if entry is None:
            self.wrong(f"{way}: {key!r} is in the inbox, but nobody sent it")
        else:
            entry.in_inbox = self.process(receiver).number

    def acknowledging(self, receiver: str, sender: str, keys: Iterable[bytes]) -> None:
        """An acknowledgement of these messages leaves the receiver's process."""
        way = self.way(sender, receiver)
        for key in keys:
            entry = self._next_of(
                way, key, lambda entry: not entry.confirmed and self._has_it(way, entry)
            ) or self._next_of(way, key, lambda entry: self._has_it(way, entry))
            if entry is None:
                # What was dropped may arrive late, when those after it have come already.
                if self._next_of(way, key, lambda entry: not entry.dropped) is not None:
                    self.wrong(f"{way}: {key!r} is acknowledged, but was not handled")
                continue
            entry.confirmed = True
            stored = entry.in_inbox is not None or entry.deliveries or self._is_second(way, entry)
            if self._uses_inbox(way, entry) and not stored:
                self.wrong(f"{way}: {entry} is acknowledged, but not in the inbox")

    def _uses_inbox(self, way: Way, entry: Entry) -> bool:
        return self.peers[way.receiver].durable and not entry.passing

    def left_inbox(self, receiver: str, sender: str, key: bytes) -> None:
        """A message was removed from the receiver's inbox."""
        way = self.way(sender, receiver)
        for entry in way.by_key.get(key, ()):
            for delivery in entry.deliveries:
                if delivery.outcome == "deferred":
                    self.done(delivery, "returned")

    def buried(self, receiver: str, sender: str, key: bytes, attempts: int) -> None:
        """A message is one of the dead letters, at the end."""
        way = self.way(sender, receiver)
        entry = self._next_of(
            way, key, lambda entry: not entry.dead and self._failed_last(entry)
        ) or self._next_of(way, key, lambda entry: True)
        if entry is None:
            self.wrong(f"{way}: a dead letter that nobody sent: {key!r}")
            return
        entry.dead = True
        if attempts < self.peers[receiver].max_attempts:
            self.wrong(f"{way}: {entry} was given up after {attempts} attempts")

    @staticmethod
    def _failed_last(entry: Entry) -> bool:
        return not entry.deliveries or entry.deliveries[-1].outcome != "returned"

    def retried(self, receiver: str, sender: str, key: bytes) -> None:
        """A dead letter is put back into the inbox."""
        way = self.way(sender, receiver)
        entry = self._next_of(
            way, key, lambda entry: entry.retried is None and self._failed_last(entry)
        ) or self._next_of(way, key, lambda entry: True)
        if entry is None:
            self.wrong(f"{way}: {key!r} is tried again, but nobody sent it")
        else:
            entry.retried = len(entry.deliveries)

    def delivered(
        self,
        receiver: str,
        sender: str,
        key: bytes,
        *,
        redelivered: bool = False,
        attempts: int = 1,
        since: float | None = None,
    ) -> Delivery:
        """The receiver's callback begins.

        :param since: when the receiver got the connection; ``None`` if it comes
            out of the inbox
        """
        way = self.way(sender, receiver)
        process = self.process(receiver)
        delivery = Delivery(process.number, process.callbacks, self._clock(), redelivered, attempts)
        process.callbacks += 1
        way.deliveries.append(delivery)
        entry = self._entry_of(way, key, delivery)
        if entry is None:
            self.wrong(f"{way}: {key!r} was delivered, but never sent")
            return delivery
        delivery.entry = entry
        if entry.outcome == "refused":
            self.wrong(f"{way}: {entry} was delivered, though it was refused")
        if since is not None:
            self._check_lifetime(way, entry, since)
        if entry.deliveries:
            self._check_repetition(way, entry, delivery)
        else:
            self._check_first(way, entry, delivery)
        self._check_order(way, entry, delivery)
        if self._uses_inbox(way, entry):
            self._check_attempts(way, entry, delivery)
        entry.deliveries.append(delivery)
        return delivery

    def _entry_of(self, way: Way, key: bytes, delivery: Delivery) -> Entry | None:
        """Which of the entries of a message this is.

        It matters only if the same message was sent more than once.
        """
        entries = way.by_key.get(key, [])
        if len(entries) < 2:
            return entries[0] if entries else None
        sent = [entry for entry in entries if entry.outcome != "refused"] or entries
        for entry in sent:
            before = entry.deliveries[-1] if entry.deliveries else None
            if before is None:
                continue
            if entry.retried == len(entry.deliveries) and delivery.attempts == 1:
                return entry
            if before.outcome in ("raised", "crashed") and delivery.attempts > before.attempts:
                return entry  # the next attempt
        last = way.last.get(sent[0].lane, -1)
        behind = [entry for entry in sent if entry.number > last]
        fresh = [entry for entry in sent if not entry.deliveries and not entry.dropped]
        again = [entry for entry in sent if self._why_again(way, entry, delivery)]
        again.sort(key=lambda entry: entry.handled)
        orders = (
            [entry for entry in again if entry in behind],
            [entry for entry in fresh if entry in behind],
            again,
            fresh,
            behind,
            sent,
        )
        if not delivery.marked:
            orders = (orders[1], *orders[3:])
        return next(order[0] for order in orders if order)

    def _check_lifetime(self, way: Way, entry: Entry, since: float) -> None:
        if entry.offline:
            self.wrong(f"{way}: {entry} was delivered, though nobody was there")
        elif entry.ttl is not None and self.process(way.sender).number == entry.process:
            waited = way.offline.at(since) - entry.meter
            if waited > entry.ttl + SLACK:
                self.wrong(f"{way}: {entry} was delivered, though it had waited {waited:.3f} s")
            if entry.ttl == 0 and any(entry.when <= broke < since for broke in way.broke):
                self.wrong(f"{way}: {entry} outlived its connection")

    def _check_first(self, way: Way, entry: Entry, delivery: Delivery) -> None:
        if not delivery.redelivered or delivery.attempts > 1:
            return
        if entry.ttl == 0 and entry.in_inbox is None:
            self.wrong(f"{way}: {entry} is marked as redelivered, but is never sent again")
        if entry.process != self.process(way.sender).number:
            return
        if entry.in_inbox is not None and entry.in_inbox != delivery.process:
            return  # nobody knows whether its callback was started
        if not any(entry.when <= broke for broke in way.broke):
            self.wrong(f"{way}: {entry} is marked as redelivered, but can't have come before")
        elif self._knows_number(way, entry, delivery):
            self.wrong(f"{way}: {entry} is marked as redelivered, but the receiver knows better")

    @staticmethod
    def _knows_number(way: Way, entry: Entry, delivery: Delivery) -> bool:
        """Whether the receiver's process had an earlier message of the same stream."""
        for other in reversed(way.entries[: entry.number]):
            if other.process != entry.process or any(
                other.when <= broke <= entry.when for broke in way.broke
            ):
                return False  # the stream may have been another one
            # (One that is for now only is not waited for by those before it.)
            if not other.passing and any(
                before.process == delivery.process and not before.redelivered
                for before in other.deliveries
            ):
                return True
        return False

    def _check_repetition(self, way: Way, entry: Entry, delivery: Delivery) -> None:
        if not self._why_again(way, entry, delivery):
            before = entry.deliveries[-1]
            self.wrong(
                f"{way}: {entry} came again; before at {before.when:.3f}, "
                f"where the callback {before.outcome}"
            )
        elif not delivery.marked:
            self.wrong(f"{way}: {entry} came again and is not marked as redelivered")

    def _why_again(self, way: Way, entry: Entry, delivery: Delivery) -> str:
        """What excuses that a message comes again; empty if nothing does."""
        if not entry.deliveries:
            return ""
        before = entry.deliveries[-1]
        traits = self.peers[way.receiver]
        if entry.ttl == 0 and not self._uses_inbox(way, entry):
            return ""
        if self._disk_replaced(way.sender, entry.process):
            return "the sender does not know"
        if self._is_ambiguous(way, entry):
            return "it was taken for another one"
        if (
            self._forgot_that_it_left(way, entry)
            and len(way.deliveries) - way.deliveries.index(before) > self.keep
        ):
            return "it was too long ago"
        if before.process == delivery.process:
            # Only out of the inbox.
            return "it was raised" if traits.durable and before.outcome == "raised" else ""
        if before.outcome in ("raised", "crashed") and traits.durable:
            return "the callback did not return"
        if self._disk_replaced(way.receiver, before.process):
            return "the receiver does not know"
        if traits.durable and self._power_failed(way.receiver, before.process):
            return "it was not noted durably that it is done"
        if entry.acked and not traits.durable and not self._forgot_that_it_left(way, entry):
            return ""
        if traits.fails and not (entry.confirmed and not traits.durable):
            return "it could not be noted"
        process = self.processes[way.receiver][before.process]
        if before.when == process.ended and before.serial == process.callbacks - 1:
            return "the process ended with it"
        if not traits.remembers:
            return "there is no memory"
        if traits.durable:
            return ""
        if before.when == process.ended and not entry.persistent:
            return "a transient one of the last batch"
        if self._power_failed(way.receiver, before.process) and not (
            entry.persistent and entry.confirmed
        ):
            return "the memory went with the power"
        return ""

    def _check_order(self, way: Way, entry: Entry, delivery: Delivery) -> None:
        if entry.retried is not None:
            return  # a dead letter has lost its place
        if self._forgot_that_it_left(way, entry):
            return  # it came in its place before
        if self._disk_replaced(way.sender, entry.process):
            return  # an old copy of the disk may have sent it again
        if self._is_second(way, entry):
            return  # it may have been taken for the other one before
        if self.peers[way.sender].drops_oldest and self.process(way.sender).number > entry.process:
            return  # it had been dropped, and was still on the disk
        if entry.passing and self.peers[way.receiver].fails:
            return  # it may have waited for the disk, and others passed it
        lane = entry.lane
        if not entry.deliveries:
            highest = way.highest.get(lane, -1)
            if entry.number < highest:
                self.wrong(f"{way}: {entry} came for the first time after {highest}")
            way.highest[lane] = max(highest, entry.number)
        before = entry.deliveries[-1] if entry.deliveries else None
        again = before is not None and before.process == delivery.process
        last = way.last.get(lane, -1)
        if entry.number < last or (entry.number == last and not again):
            self.wrong(f"{way}: {entry} came after {last}")
        way.last[lane] = max(last, entry.number)

    def _check_attempts(self, way: Way, entry: Entry, delivery: Delivery) -> None:
        traits = self.peers[way.receiver]
        before = entry.deliveries[-1] if entry.deliveries else None
        fresh = before is None or entry.retried == len(entry.deliveries)
        expected = 1 if before is None or fresh else before.attempts + 1
        since = before.process if before is not None else 0
        # A process may end when an attempt is counted and has not begun yet.
        most = expected + delivery.process - since
        changed = (
            self._disk_replaced(way.receiver, since)
            or self._disk_replaced(way.sender, entry.process)
            or self._power_failed(way.receiver, since)
            or self._is_ambiguous(way, entry)
            or self._forgot_that_it_left(way, entry)
        )
        least = 1 if changed or traits.fails else expected
        if before is not None and before.loose:
            least -= 1
            most += 1
        if not least <= delivery.attempts <= most:
            self.wrong(f"{way}: {entry} has attempt {delivery.attempts}, not {expected}")
        if before is not None and not fresh and before.process == delivery.process:
            waited = delivery.when - before.until
            # It may be in the inbox twice.
            twice = self._disk_replaced(way.sender, entry.process)
            twice |= self._is_ambiguous(way, entry)
            twice |= self._forgot_that_it_left(way, entry)
            if not twice and waited < traits.retry_delay - _ROUNDING:
                self.wrong(f"{way}: {entry} came again after {waited:.3f} s already")
        if delivery.attempts > traits.max_attempts:
            self.wrong(f"{way}: {entry} should have been given up")
