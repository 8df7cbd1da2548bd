"""What is sent, and what became of it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Final

__all__ = ["Inbox", "Payloads", "clock"]

#: Seconds on a clock that all processes of a machine share.
clock: Final = time.perf_counter

#: Seconds in which what was sent has to arrive.
_ARRIVAL_TIMEOUT: Final = 300.0


class Payloads:
    """Messages that can be told apart, and told from others.

    Each begins with its number. There are as many of them as fit into a limit,
    then they begin anew.

    :param size: of each, in bytes
    :param first: number of the first
    :param fresh: each is made when it is its turn, and not kept here: what it takes in memory
        is then for whoever keeps it
    """

    _LIMIT: Final = 64 * 1024 * 1024
    _NUMBER: Final = 8

    def __init__(self, size: int, count: int, first: int = 0, *, fresh: bool = False) -> None:
        self._filler = random.Random(size).randbytes(size - self._NUMBER)
        self._first = first
        self._count = count
        self._kept = None if fresh else list(self._make(min(count, self._LIMIT // size)))

    def _make(self, count: int) -> Iterator[bytes]:
        for number in range(self._first, self._first + count):
            yield number.to_bytes(self._NUMBER, "big") + self._filler

    def __iter__(self) -> Iterator[bytes]:
        if self._kept is None:
            return self._make(self._count)
        return islice(cycle(self._kept), self._count)

    def batches(self, size: int) -> Iterator[list[bytes]]:
        """All of them, so many at a time; the last time as many as remain."""
        messages = iter(self)
        while batch := list(islice(messages, size)):
            yield batch

    def __len__(self) -> int:
        return self._count


class Inbox:
    """What arrived, to be looked at when the clock has stopped.

    Of large messages, one of many is kept while the clock runs, and of the
    others the beginning and the size: to keep them all would be to measure how
    fast the system finds memory.

    :param size: of the messages, in bytes
    """

    _BEGINNING: Final = 8
    _SMALL: Final = 64 * 1024

    def __init__(self, size: int) -> None:
        self._one_of = max(1, size // self._SMALL)
        #: for the peer, to be called with each message
        self.receive = self._receive_all if self._one_of == 1 else self._receive_some
        self.expect(0)

    def expect(self, count: int, *, keep_all: bool = False) -> None:
        """From now on; what was there before is forgotten."""
        self._arrived: list[bytes | bytearray | tuple[bytes | bytearray, int]] = []
        self._expected = count
        self._kept = 1 if keep_all else self._one_of
        self._complete = threading.Event()
        self.completed_at = 0.0

    def _receive_all(self, data: bytes | bytearray) -> None:
        arrived = self._arrived
        arrived.append(data)
        if len(arrived) == self._expected:
            self._set_complete()

    def _receive_some(self, data: bytes | bytearray) -> None:
        arrived = self._arrived
        if len(arrived) % self._kept:
            arrived.append((data[: self._BEGINNING], len(data)))
        else:
            arrived.append(data)
        if len(arrived) == self._expected:
            self._set_complete()

    def _set_complete(self) -> None:
        self.completed_at = clock()
        self._complete.set()

    def wait(self) -> None:
        """Until all that is expected has arrived, or it is clear that it never will."""
        self._complete.wait(_ARRIVAL_TIMEOUT)

    def check(self, sent: Payloads) -> str:
        """What is wrong with what arrived; empty if nothing is."""
        if len(self._arrived) != len(sent):
            return f"{len(self._arrived)} messages arrived of {len(sent)}"
        for index, (there, data) in enumerate(zip(self._arrived, sent, strict=True)):
            if there != data and there != (data[: self._BEGINNING], len(data)):
                return f"message {index} of {len(sent)} is not what was sent"
        return ""

    def check_each(self, senders: Sequence[Payloads]) -> str:
        """As :meth:`check`, for several senders whose messages are all different.

        What each has sent is in order; what is between does not matter.
        """
        count = sum(map(len, senders))
        if len(self._arrived) != count:
            return f"{len(self._arrived)} messages arrived of {count}"
        sender_of = {data: number for number, sent in enumerate(senders) for data in sent}
        awaited = [iter(sent) for sent in senders]
        for index, data in enumerate(self._arrived):
            number = sender_of.get(bytes(data)) if isinstance(data, bytes | bytearray) else None
            if number is None or next(awaited[number], None) != data:
                return f"message {index} of {count} is not what was sent"
        return ""
