"""Lines in the log that others can cause: how many, and what of theirs is in them."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

__all__ = [
    "LINES_OF_ALL",
    "LINES_OF_ALL_TIME",
    "LINES_PER_PEER",
    "LINES_TIME",
    "PeerLog",
    "quoted",
]

#: So many lines of a peer, or of an address, are logged at once...
LINES_PER_PEER: Final = 20

#: ... and one more after each time of so many seconds.
LINES_TIME: Final = 5.0

#: So many lines of all together are logged at once, because a name is quickly made up...
LINES_OF_ALL: Final = 200

#: ... and one more after each time of so many seconds.
LINES_OF_ALL_TIME: Final = 0.1

#: Of so many peers is known how many lines they had.
_MAX_PEERS: Final = 1000

#: How much of a text that came from somebody else is shown, in characters.
_SHOWN: Final = 200


def quoted(text: object, shown: int = _SHOWN) -> str:
    """What somebody else wrote, for a line in the log: escaped and cut.

    :param text: bytes, a string, or anything with a ``str()``
    :param shown: so many characters of it at most
    """
    if isinstance(text, (bytes, bytearray, memoryview)):
        escaped = repr(bytes(text[:shown]))[1:]
        return escaped if len(text) <= shown else f"{escaped}..."
    text = str(text)
    if len(text) > shown:
        return f"{text[:shown]!a}... ({len(text)} characters)"
    # Not only what is no ASCII: a line end would begin a line that nobody wrote.
    return ascii(text)


class _Allowance:
    """How many lines may still be caused, and how many were left out.

    :param most: so many at once
    :param time: one more after so many seconds
    """

    __slots__ = ("_lines", "_most", "_since", "_time", "left_out")

    def __init__(self, now: float, most: int, time: float) -> None:
        self._most = most
        self._time = time
        self._lines = float(most)
        self._since = now
        self.left_out = 0

    def refill(self, now: float) -> bool:
        """Time has passed; whether there may be a line."""
        self._lines = min(self._most, self._lines + (now - self._since) / self._time)
        self._since = now
        return self._lines >= 1

    def take(self) -> int:
        """There is a line; how many were left out before it."""
        self._lines -= 1
        left_out, self.left_out = self.left_out, 0
        return left_out


class PeerLog:
    """A logger for what others can cause, with a limit for each, and one for all. Thread-safe.

    What is left out is counted, and said with the next line. Lines for
    debugging have no limit: they are off unless somebody wants them all.

    :param log: where lines go
    :param clock: seconds on a clock that only goes forward
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._peers: OrderedDict[object, _Allowance] = OrderedDict()
        self._all = _Allowance(clock(), LINES_OF_ALL, LINES_OF_ALL_TIME)
        #: how many lines were left out
        self.left_out = 0

    def error(
        self, peer: object, message: str, *args: Any, exc_info: BaseException | None = None
    ) -> None:
        """A line about an error.

        :param peer: who has caused it: an identifier, or an address
        :param exc_info: the traceback of which is shown with it
        """
        self._write(logging.ERROR, peer, message, args, exc_info)

    def warning(self, peer: object, message: str, *args: Any) -> None:
        """A warning. See :meth:`error`."""
        self._write(logging.WARNING, peer, message, args)

    def info(self, peer: object, message: str, *args: Any) -> None:
        """A line for information. See :meth:`error`."""
        self._write(logging.INFO, peer, message, args)

    def exception(self, peer: object, message: str, *args: Any) -> None:
        """A line about an error, with the traceback of what is being handled. See :meth:`error`."""
        self._write(logging.ERROR, peer, message, args, exc_info=True)

    def _write(
        self,
        level: int,
        peer: object,
        message: str,
        args: tuple[Any, ...],
        exc_info: BaseException | bool | None = None,
    ) -> None:
        if not self._log.isEnabledFor(level):
            return
        with self._lock:
            now = self._clock()
            allowance = self._allowance(peer, now)
            if not allowance.refill(now):
                allowance.left_out += 1
                self.left_out += 1
                return
            if not self._all.refill(now):
                self._all.left_out += 1
                self.left_out += 1
                return
            of_peer, of_all = allowance.take(), self._all.take()
        if of_peer:
            message += " (%d lines about the same peer were left out before this one)"
            args = (*args, of_peer)
        if of_all:
            message += " (%d lines about many peers were left out before this one)"
            args = (*args, of_all)
        self._log.log(level, message, *args, exc_info=exc_info, stacklevel=3)

    def _allowance(self, peer: object, now: float) -> _Allowance:
        allowance = self._peers.get(peer)
        if allowance is None:
            allowance = self._peers[peer] = _Allowance(now, LINES_PER_PEER, LINES_TIME)
            if len(self._peers) > _MAX_PEERS:
                self._peers.popitem(last=False)
        else:
            self._peers.move_to_end(peer)
        return allowance
