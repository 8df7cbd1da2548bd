"""What was received of one peer: to recognise what comes again.

Two memories, for two cases:

* The sender's process lives. Each of its messages has a number in a *stream*,
  so one number for each stream tells exactly what was handled.
* The sender was restarted and sends what its storage had kept, or this process
  was restarted. Then there are only the identifiers of the messages. They need
  not reach further back than the sender's window: what it may send again is
  among its last messages, at most so many as it may have unacknowledged.

Nothing here can disagree after a restored backup, a lost storage or a second
process of the same name: what is not recognised is delivered. And nobody can
tell from an identifier that is missing that the message was not received: the
process may have been killed before it wrote that down. So what may have been
sent before, and is not known by its number, is delivered as such.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

__all__ = ["MAX_STREAMS", "Received", "last_of_each"]

#: Of how many streams of a peer the last number is remembered. A peer has one
#: for as long as something is queued; more than one if two processes have its
#: name by mistake.
MAX_STREAMS: Final = 4

_UUID_SIZE: Final = 16


def last_of_each(uuids: Iterable[bytes]) -> list[bytes]:
    """Each identifier once, in the order in which they came last.

    What is recognised is noted again. Its older notes must not push out those
    of messages that may still come again.
    """
    return list(reversed(dict.fromkeys(reversed(list(uuids)))))


def _split(uuids: bytearray) -> Iterator[bytes]:
    frozen = bytes(uuids)
    return (frozen[start : start + _UUID_SIZE] for start in range(0, len(frozen), _UUID_SIZE))


class _Stream:
    """What is known of one stream."""

    __slots__ = ("has_new", "last", "start")

    def __init__(self, start: int) -> None:
        self.last: int | None = None
        self.has_new = False
        #: where in the memory of identifiers it begins
        self.start = start


class Received:
    """The memory of what was received of one peer.

    :param size: how many identifiers are to be remembered at least
    :param known: those that an earlier process remembered, the oldest first
    """

    __slots__ = ("_again", "_met", "_recent", "_size", "_streams")

    def __init__(self, size: int, known: Iterable[bytes] = ()) -> None:
        self._size = size
        self._recent = bytearray().join(known)
        # The one that was heard of last is the last.
        self._streams: dict[bytes, _Stream] = {}
        # Counted when the first one is asked for, taken out as they come: the
        # application may send the same identifier twice on purpose.
        self._again: Counter[bytes] | None = None
        self._met: _Stream | None = None  # the one on this connection

    def __len__(self) -> int:
        return len(self._recent) // _UUID_SIZE

    @property
    def is_empty(self) -> bool:
        """Whether nothing was received."""
        return not self._recent and all(known.last is None for known in self._streams.values())

    def begin(self) -> None:
        """A new connection: what was received until now may come again."""
        self._again = None
        self._met = None

    def meet(self, stream: bytes) -> None:
        """The messages that follow belong to this stream.

        What this process handled of the same stream it knows by the numbers. So
        an identifier of those proves nothing about another message, which may
        have been given the same.
        """
        known = self._stream(stream)
        if known is not self._met:
            self._met = known
            self._again = None

    def _stream(self, stream: bytes) -> _Stream:
        streams = self._streams
        known = streams.pop(stream, None)
        if known is None:
            while len(streams) >= MAX_STREAMS:
                del streams[next(iter(streams))]
            known = _Stream(len(self._recent))
        streams[stream] = known
        return known

    def last_number(self, stream: bytes) -> int | None:
        """The number of the last message handled of a stream; ``None``: not known."""
        known = self._streams.get(stream)
        return None if known is None else known.last

    def knows_all(self, stream: bytes) -> bool:
        """Whether all that has a higher number than the last one was not received.

        It may have been, by an earlier process, as long as all that is known
        of the stream are repetitions.
        """
        known = self._streams.get(stream)
        return known is not None and known.has_new

    def handled(self, stream: bytes, number: int, *, has_new: bool) -> None:
        """All messages of the stream up to this one were handled.

        :param has_new: some of them the sender had never sent before
        """
        # Of a single one, which is the rule, it need not be noted that it is the last.
        known = self._streams.get(stream) if len(self._streams) == 1 else None
        if known is None:
            known = self._stream(stream)
        known.last = number if known.last is None else max(known.last, number)
        known.has_new |= has_new

    def add(self, uuid: bytes) -> None:
        """Remember an identifier.

        :param uuid: 16 bytes
        """
        recent = self._recent
        recent += uuid
        if len(recent) >= 2 * self._size * _UUID_SIZE:
            self._trim()

    def _trim(self) -> None:
        uuids = list(_split(self._recent))
        left = last_of_each(uuids)[-self._size :]
        for known in self._streams.values():
            of_it = set(uuids[known.start // _UUID_SIZE :])
            known.start = len(left) * _UUID_SIZE - _UUID_SIZE * sum(uuid in of_it for uuid in left)
        self._recent = bytearray().join(left)

    def recognise(self, uuid: bytes) -> bool:
        """Whether a message that may come again was received on an earlier connection."""
        if self._again is None:
            until = None if self._met is None else self._met.start
            self._again = Counter(_split(self._recent[:until]))
        if self._again[uuid]:
            self._again[uuid] -= 1
            return True
        return False
