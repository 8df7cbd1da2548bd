"""What must hold at the side that sends, and what it is told."""

from __future__ import annotations

from typing import Final

from tests.simulation.books import Books
from tests.simulation.records import Entry, Way

#: How late something that is due by the clock may be, in seconds: a loop
#: looks after up to 0.2 s, and has other things to do.
SLACK: Final = 1.0

_ROUNDING: Final = 1e-3


class SendingRules(Books):
    """Told of what is sent and of what its sender hears about it."""

    def sending(
        self,
        sender: str,
        receiver: str,
        key: bytes,
        *,
        uuid: bytes = b"",
        persistent: bool = False,
        ttl: float | None = None,
        urgent: bool = False,
        offline: bool = False,
        batch: int | None = None,
    ) -> Entry:
        """A message is about to be sent; the caller sets what comes of it.

        :param key: what is in it
        :param uuid: if other messages have the same one
        """
        way = self.way(sender, receiver)
        entry = Entry(
            len(way.entries),
            key,
            uuid or key,
            self._clock(),
            self.process(sender).number,
            self.process(receiver).number,
            persistent,
            ttl,
            stored=persistent and ttl != 0 and self.peers[sender].keeps,
            offline=offline,
            urgent=urgent,
            batch=batch,
            meter=way.offline.at(self._clock()),
        )
        way.entries.append(entry)
        way.by_key.setdefault(key, []).append(entry)
        way.by_uuid.setdefault(entry.uuid, []).append(entry)
        if batch is not None:
            self._batches.setdefault(batch, []).append(entry)
        return entry

    def removed(self, sender: str, receiver: str, key: bytes) -> None:
        """A message leaves the storage of its sender."""
        way = self.way(sender, receiver)
        process = self.process(sender).number
        entry = self._next_of(way, key, lambda entry: entry.stored and not entry.removed)
        if entry is None:
            entry = self._next_of(way, key, lambda entry: entry.stored)
        if entry is None:
            self.wrong(f"{way}: {key!r} was removed from the storage, where it never was")
            return
        entry.removed.append((self._clock(), process))
        if entry.ttl is None and not self._has_it(way, entry) and not self._may_drop_oldest(way):
            self.wrong(f"{way}: {entry} was removed from the storage, but is not delivered")

    def _may_drop_oldest(self, way: Way) -> bool:
        return self.peers[way.sender].drops_oldest

    # What senders are told

    def reported_sent(self, sender: str, receiver: str, uuid: bytes) -> None:
        """The sender is told that a message was handed to the system."""
        way = self.way(sender, receiver)
        process = self.process(sender).number
        entries = self._known_by(way, uuid, process)
        entry = self._first(
            entries, lambda entry: process not in entry.sent and process not in entry.dropped
        ) or self._first(entries, lambda entry: process not in entry.sent)
        if entry is None:
            self.wrong(f"{way}: {uuid!r} was reported as sent more than once")
            return
        entry.sent.append(process)
        # If the connection breaks in a callback for a message that was sent with
        # it, that one is told of first.
        broke = self._clock() in way.broke
        if (process in entry.dropped or process in entry.acked) and not broke:
            self.wrong(f"{way}: {entry} was reported as sent after it was done with")
        if process != entry.process and process not in entry.loaded:
            self.wrong(f"{way}: {entry} was reported as sent by a process that does not have it")

    @staticmethod
    def _known_by(way: Way, uuid: bytes, process: int) -> list[Entry]:
        """The messages with this uuid; those first that a process of the sender has."""
        entries = way.by_uuid.get(uuid, [])
        return sorted(
            entries, key=lambda entry: entry.process != process and process not in entry.loaded
        )

    def reported_acked(self, sender: str, receiver: str, uuid: bytes) -> None:
        """The sender is told that a message was acknowledged."""
        way = self.way(sender, receiver)
        process = self.process(sender).number
        entries = self._known_by(way, uuid, process)
        entry = self._first(
            entries, lambda entry: process not in entry.acked and process not in entry.dropped
        ) or self._first(entries, lambda entry: process not in entry.acked)
        if entry is None:
            self.wrong(f"{way}: {uuid!r} was reported as acknowledged more than once")
            return
        if process in entry.dropped:
            self.wrong(f"{way}: {entry} was reported as acknowledged and as dropped")
        if process not in entry.sent:
            self.wrong(f"{way}: {entry} was reported as acknowledged before it was sent")
        entry.acked.append(process)
        if not self._has_it(way, entry):
            self.wrong(f"{way}: {entry} was reported as acknowledged, but is not delivered")

    def reported_dropped(
        self, sender: str, receiver: str, key: bytes, reason: str = "EXPIRED"
    ) -> None:
        """The sender is told that a message was dropped."""
        way = self.way(sender, receiver)
        process = self.process(sender).number
        entry = self._next_of(
            way, key, lambda entry: process not in entry.dropped and process not in entry.acked
        )
        if entry is None:
            self.wrong(f"{way}: {key!r} was reported as dropped more than once")
            return
        entry.dropped.append(process)
        entry.dropped_at.append(self._clock())
        if reason == "QUEUE_FULL":
            if not self._may_drop_oldest(way):
                self.wrong(f"{way}: {entry} was dropped to make room")
        elif reason != "EXPIRED":
            self.wrong(f"{way}: {entry} was dropped for an unknown reason, {reason}")
        elif entry.ttl is None:
            self.wrong(f"{way}: {entry} expired, though it may wait for ever")
        elif entry.offline:
            self.wrong(f"{way}: {entry} was reported as dropped, though it was never queued")
        else:
            self._check_expiry(way, entry, process)

    def _check_expiry(self, way: Way, entry: Entry, process: int) -> None:
        assert entry.ttl is not None
        waited = way.offline.at(self._clock()) - entry.meter
        if waited < entry.ttl - _ROUNDING:
            self.wrong(f"{way}: {entry} expired too early, after {waited:.3f} s")
        if process == entry.process and waited > entry.ttl + SLACK:
            self.wrong(f"{way}: {entry} expired too late, after {waited:.3f} s")
