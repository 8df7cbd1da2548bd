"""The messages for one peer, in order, and how far each of them is.

::

    waiting  ->  in flight  ->  unconfirmed  ->  gone
             take         sent           confirmed
    waiting  <---------------------------------
                       disconnect

*In flight* is what was handed to the packeter, *unconfirmed* what the system
has taken and the other side has not confirmed. Messages that the other side
does not confirm leave when they are sent.

What may have been sent before is always a run at the front, and what an
earlier process may have sent is always before what this one sent. So it takes
no more than a count to know it, whatever is dropped in between.

Each message gets a number when it is taken for the first time, and keeps it:
with that the other side recognises it when it comes again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, takewhile
from typing import Any, Final, NamedTuple, TypeAlias, cast

from snakemq._core.packed import (
    PACKET_OVERHEAD,
    Sendable,
    Unpacked,
    are_packed,
    mixed_size,
    packed_size,
    size_of,
    total_size,
    unpack,
)
from snakemq._core.ttl import Placed, Timed
from snakemq.message import FLAG_PERSISTENT, Message

__all__ = [
    "Entry",
    "Outbox",
    "Taken",
    "is_gone",
    "is_stored",
    "message_of",
    "sendables_of",
]

#: A message with a finite TTL, or with a place in the storage, is wrapped; the
#: others, which are the most, are not.
Entry: TypeAlias = "Sendable | Timed"

_SENDABLE: Final = {Message, bytes}


def message_of(entry: Entry) -> Message | None:
    """The message of an entry; ``None`` if it expired."""
    if isinstance(entry, bytes):
        return unpack(entry)
    return entry.message if isinstance(entry, Timed) else entry


def sendables_of(entries: Sequence[Entry]) -> Sequence[Sendable]:
    """What is to be sent of entries that have not expired."""
    # One cast, and not for each: it is a call.
    return cast(
        "list[Sendable]",
        [entry.message if isinstance(entry, Timed) else entry for entry in entries],
    )


def _messages_of(entries: list[Any]) -> Sequence[Message]:
    """The messages of entries that have not expired."""
    # One look at their types: this is done for each batch that is sent.
    kinds = set(map(type, entries))
    if not kinds <= _SENDABLE:
        entries = [entry.message if isinstance(entry, Timed) else entry for entry in entries]
    return Unpacked(entries) if bytes in kinds else entries


def is_gone(entry: Entry) -> bool:
    """Whether the message of an entry expired."""
    return isinstance(entry, Timed) and entry.message is None


def is_stored(entry: Entry) -> bool:
    """Whether the message of an entry is in the storage."""
    return isinstance(entry, Placed) and entry.is_stored


class Taken(NamedTuple):
    """Messages to be sent now."""

    messages: Sequence[Sendable]
    #: of the first one; the others have those that follow
    number: int = 0
    #: how many of them an earlier process may have sent
    stored: int = 0
    #: whether this process has sent all of them before (else none of them)
    repeated: bool = False


class Outbox:
    """The messages for one peer. Not thread-safe."""

    __slots__ = (
        "_confirms_all",
        "_flights",
        "_in_flight",
        "_next_number",
        "_numbers",
        "_stored",
        "_stored_flying",
        "_told",
        "_told_flying",
        "_unconfirmed",
        "bytes_flying",
        "dead",
        "urgent",
        "waiting",
    )

    def __init__(self) -> None:
        self.waiting: deque[Entry] = deque()
        #: how many entries of ``waiting`` have no message any more
        self.dead = 0
        #: what goes before all that waits and was not sent yet, in this order
        self.urgent: list[Message] = []
        self._in_flight: list[Entry] = []
        self._unconfirmed: list[Entry] = []
        #: data of what is in flight or unconfirmed, in bytes
        self.bytes_flying = 0
        self._confirms_all = True
        self._next_number = 0
        # The numbers of the first entries of waiting, which this process sent
        # before to a peer that knows them; and of what is under way, as runs.
        # Not all of these are deques, because an empty one takes 600 bytes.
        self._numbers: deque[int] | None = None
        self._flights: list[tuple[int, int]] = []
        # How many entries at the front of waiting, and of what is under way,
        # an earlier process may have sent; and how many at the front of
        # waiting, and of what is in flight, this process has told of as sent.
        self._stored = 0
        self._stored_flying = 0
        self._told = 0
        self._told_flying = 0

    def __len__(self) -> int:
        return len(self.waiting) - self.dead + len(self.urgent) + self.under_way

    @property
    def under_way(self) -> int:
        """How many messages are in flight or unconfirmed."""
        return len(self._in_flight) + len(self._unconfirmed)

    @property
    def in_flight(self) -> int:
        """How many messages are in flight."""
        return len(self._in_flight)

    @property
    def unconfirmed(self) -> int:
        """How many messages wait to be confirmed."""
        return len(self._unconfirmed)

    def flying(self) -> tuple[int, int, int]:
        """How many messages are in flight; in flight or unconfirmed; the data of all these."""
        in_flight = len(self._in_flight)
        return in_flight, in_flight + len(self._unconfirmed), self.bytes_flying

    @property
    def waits(self) -> bool:
        """Whether something waits that is not urgent."""
        return len(self.waiting) > self.dead

    def append_loaded(self, entry: Entry, *, maybe_sent: bool) -> None:
        """Append a message out of the storage.

        :param maybe_sent: an earlier process may have sent it, and with it all
            that is before it
        """
        self.waiting.append(entry)
        if maybe_sent:
            self._stored = len(self.waiting)

    def messages(self) -> Iterator[Message]:
        """All messages."""
        entries = chain(self._unconfirmed, self._in_flight, self.urgent, self.waiting)
        return (message for entry in entries if (message := message_of(entry)) is not None)

    def count_under_way(self, *, stored: bool) -> tuple[int, int]:
        """How many messages are under way, and their data in bytes; takes a look at each.

        :param stored: those in the storage, or the others
        """
        entries = [
            entry
            for entry in chain(self._unconfirmed, self._in_flight)
            if is_stored(entry) == stored
        ]
        return len(entries), total_size(sendables_of(entries))

    def _pop_first(self) -> None:
        """Take out the first entry that waits, and with it what is known of it."""
        if self._stored:
            self._stored -= 1
        if self._told:
            self._told -= 1
        if self._numbers:
            self._numbers.popleft()
        if is_gone(self.waiting.popleft()):
            self.dead -= 1

    def first(self) -> Entry | None:
        """The first entry that waits and has a message; it stays."""
        while self.waiting:
            entry = self.waiting[0]
            if not is_gone(entry):
                return entry
            self._pop_first()
        return None

    def drop_first(self, *, stored: bool | None = None) -> Entry | None:
        """Take out the first entry that waits and has a message.

        :param stored: of those in the storage, or of the others; of all if not given
        """
        entry = self.first()
        if entry is None:
            return None
        if stored is None or is_stored(entry) == stored:
            self._pop_first()
            return entry
        for index, entry in enumerate(self.waiting):
            if not is_gone(entry) and is_stored(entry) == stored:
                self.waiting[index] = _nothing()
                self.count_dead(1)
                return entry
        return None

    def count_dead(self, count: int) -> None:
        """So many entries more that wait have no message any more."""
        self.dead += count
        if self.dead * 2 > len(self.waiting):
            self.rebuild(lambda entry: None if is_gone(entry) else entry)

    def take(self, max_count: int, max_bytes: int, reading: float) -> Taken:
        """Move messages from waiting to in flight.

        :param max_count: at most so many
        :param max_bytes: stop when there are so many bytes of data
        :param reading: of the clock by which the messages expire
        """
        if self.dead:
            self.first()  # so that at least one is taken, if there is any
        if self._numbers or self._stored:
            taken = self._take_again(max_count, max_bytes, reading)
            if taken.messages:
                return taken
        number = self._next_number
        messages: list[Sendable] = []
        size = 0
        if self.urgent:
            left = self._take_urgent(max_count, max_bytes, messages)
            size, max_bytes = max_bytes - left, left
        if max_bytes > 0:
            size += self._take_new(max_count - len(messages), max_bytes, reading, messages)
        self._next_number += len(messages)
        return self._taken(Taken(messages, number), size)

    def fly(self, message: Message, number: int, window_messages: int, window_bytes: int) -> bool:
        """Put a new message in flight at once, if nothing has to be sent before it.

        What :meth:`take` does for the only message that there is.

        :param number: which one the other side expects it to have
        :param window_messages: how many may be under way
        :param window_bytes: when there are so many bytes of data under way, it has to wait
        :return: false: nothing was done
        """
        if (
            self._next_number != number
            or self.waiting
            or self.urgent
            or self._numbers
            or self._stored
            or not self._confirms_all
            or self.bytes_flying >= window_bytes
            or len(self._in_flight) + len(self._unconfirmed) >= window_messages
        ):
            return False
        # In this order: with Ctrl-C in between, no number may be given twice.
        self._in_flight.append(message)
        self._next_number = number + 1
        self.bytes_flying += len(message.data)
        self._flights.append((number, 1))
        return True

    def take_urgent(self, max_bytes: int) -> Taken:
        """Likewise, of the urgent ones only, as far as the other side does not store them."""
        number = self._next_number
        messages: list[Sendable] = []
        if not (self._numbers or self._stored):
            not_stored = takewhile(lambda m: not m.flags & FLAG_PERSISTENT, self.urgent)
            self._take_urgent(sum(1 for _ in not_stored), max_bytes, messages)
        self._next_number += len(messages)
        return self._taken(Taken(messages, number), total_size(messages))

    def _take_urgent(self, max_count: int, max_bytes: int, messages: list[Sendable]) -> int:
        """Take what goes before all that was never sent.

        :return: how many bytes there is still room for
        """
        urgent = self.urgent
        if len(urgent) <= max_count - len(messages):
            size = sum([len(message.data) for message in urgent])
            if size <= max_bytes > 0:
                # All of them at once, which takes a fifth of the time.
                self._in_flight += urgent
                messages += urgent
                urgent.clear()
                return max_bytes - size
        while urgent and len(messages) < max_count and max_bytes > 0:
            message = urgent.pop(0)
            self._in_flight.append(message)
            messages.append(message)
            max_bytes -= len(message.data)
        return max_bytes

    def _take_new(
        self, max_count: int, max_bytes: int, reading: float, messages: list[Sendable]
    ) -> int:
        """Take what was never sent, which is what counts for the speed.

        :return: its data, in bytes
        """
        room = max_bytes
        add = messages.append
        keep = self._in_flight.append
        waiting = self.waiting
        drop = waiting.popleft
        try:
            for _ in range(min(max_count, len(waiting))):
                entry = waiting[0]
                if isinstance(entry, bytes):
                    add(entry)
                    room -= len(entry) - PACKET_OVERHEAD
                else:
                    message: Message | None
                    if not isinstance(entry, Timed):
                        message = entry
                    elif entry.expires == math.inf:
                        message = entry.message
                    else:
                        message = entry.fresh(reading)
                    if message is None:
                        drop()
                        self.dead -= 1
                        continue
                    add(message)
                    room -= len(message.data)
                # In this order: what Ctrl-C comes between is not lost.
                keep(entry)
                drop()
                if room <= 0:
                    break
        except BaseException:
            if waiting and self._in_flight and self._in_flight[-1] is waiting[0]:
                self._in_flight.pop()
            raise
        return max_bytes - room

    def _take_again(self, max_count: int, max_bytes: int, reading: float) -> Taken:
        """Take what may have been sent before, up to where its numbers skip."""
        messages: list[Sendable] = []
        first = self._next_number
        stored = 0
        repeated = False
        while self.waiting and len(messages) < max_count and max_bytes > 0:
            entry = self.waiting[0]
            number = self._numbers[0] if self._numbers else None
            is_stored = self._stored > 0
            is_told = self._told > 0
            if is_gone(entry):
                self._pop_first()
                continue
            if not messages:
                repeated = number is not None
                if number is not None:
                    first = number
            if number != (first + len(messages) if repeated else None):
                break
            if number is None and not is_stored:
                break
            self._pop_first()
            message = entry.fresh(reading) if isinstance(entry, Timed) else entry
            assert message is not None
            self._in_flight.append(entry)
            messages.append(message)
            max_bytes -= size_of(message)
            stored += is_stored
            self._told_flying += is_told
        self._stored_flying += stored
        if not repeated:
            self._next_number += len(messages)
        return self._taken(Taken(messages, first, stored, repeated), total_size(messages))

    def _taken(self, taken: Taken, size: int) -> Taken:
        if taken.messages:
            if self._confirms_all:
                self._flights.append((taken.number, len(taken.messages)))
            self.bytes_flying += size
        return taken

    def expect(self, *, confirms_all: bool) -> None:
        """A connection is ready.

        :param confirms_all: all messages are going to be confirmed, and the
            other side knows their numbers; else only the persistent ones are
        """
        self._confirms_all = confirms_all

    def sent(self, count: int) -> tuple[Sequence[Message], list[Entry]]:
        """The first ``count`` in flight are with the system.

        :return: the messages that this process has not told of as sent before;
            and the entries that leave because they are not going to be confirmed
        """
        told = min(count, self._told_flying)
        self._told_flying -= told
        entries = self._in_flight[:count]
        del self._in_flight[:count]
        messages = _messages_of(entries)
        leaving: list[Entry] = []
        if self._confirms_all:
            self._unconfirmed.extend(entries)
        else:
            for entry, message in zip(entries, messages, strict=True):
                if message.flags & FLAG_PERSISTENT:
                    self._unconfirmed.append(entry)
                else:
                    leaving.append(entry)
                    self.bytes_flying -= len(message.data)
                    self._stored_flying -= len(self._unconfirmed) < self._stored_flying
        return messages[told:] if told else messages, leaving

    def confirmed(self, count: int) -> list[Entry]:
        """The first ``count`` unconfirmed have arrived.

        :return: their entries, which leave
        """
        self._stored_flying = max(0, self._stored_flying - count)
        entries = self._unconfirmed[:count]
        del self._unconfirmed[:count]
        flights = self._flights
        left = count
        while left and flights:
            number, size = flights.pop(0)
            if size > left:
                flights.insert(0, (number + left, size - left))
                break
            left -= size
        self.bytes_flying -= (
            packed_size(entries) if are_packed(entries) else mixed_size(sendables_of(entries))
        )
        return entries

    def disconnect(self) -> list[Message]:
        """The connection is gone: what is not confirmed waits again.

        :return: the urgent messages that were not sent; they leave
        """
        sent = len(self._unconfirmed) + self._told_flying
        # Not what is in flight: Ctrl-C may have come before that got its numbers.
        never_sent = max(0, sum(size for _, size in self._flights) - sent)
        if self._confirms_all:
            numbers = [number + offset for number, size in self._flights for offset in range(size)][
                :sent
            ]
            if numbers:
                self._numbers = deque(chain(numbers, self._numbers or ()))
            self._stored += self._stored_flying
            # What the other side has never had may get other numbers.
            self._next_number -= never_sent
        else:
            # Nobody knows their numbers: they are like those of an earlier process.
            self._stored = max(self._stored + self._stored_flying, sent + len(self._numbers or ()))
            self._numbers = None
        self._told += sent
        self.waiting.extendleft(reversed(self._in_flight))
        self.waiting.extendleft(reversed(self._unconfirmed))
        self._in_flight.clear()
        self._unconfirmed.clear()
        self._flights.clear()
        self._stored_flying = self._told_flying = self.bytes_flying = 0
        urgent = list(self.urgent)
        self.urgent.clear()
        return urgent

    def rebuild(self, keep: Callable[[Entry], Entry | None]) -> None:
        """Replace each entry that waits by what ``keep`` makes of it; ``None``: nothing."""
        waiting: deque[Entry] = deque()
        old_numbers = list(self._numbers or ())
        numbers: deque[int] = deque()
        stored = told = dead = 0
        for position, entry in enumerate(self.waiting):
            kept = keep(entry)
            if kept is None:
                continue
            waiting.append(kept)
            dead += is_gone(kept)
            stored += position < self._stored
            told += position < self._told
            if position < len(old_numbers):
                numbers.append(old_numbers[position])
        self.waiting = waiting
        self.dead = dead
        self._numbers = numbers
        self._stored = stored
        self._told = told


def _nothing() -> Timed:
    """An entry without a message."""
    entry = Timed(Message(b""), 0.0)
    entry.message = None
    return entry
