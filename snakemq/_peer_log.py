"""Lines in the log that others can cause: how many, and what of theirs is in them."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

__all__ = ["LINES_PER_PEER", "LINES_TIME", "PeerLog", "quoted"]

#: So many lines of a peer, or of an address, are logged at once...
LINES_PER_PEER: Final = 20

#: ... and one more after each time of so many seconds.
LINES_TIME: Final = 5.0

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
        text = bytes(text[:shown])
        size, text = len(text), repr(text)[1:]
        return text if size < shown else f"{text}..."
    text = str(text)
    if len(text) > shown:
        return f"{text[:shown]!a}... ({len(text)} characters)"
    # Not only what is no ASCII: a line end would begin a line that nobody wrote.
    return ascii(text)


class _Allowance:
    """How many lines one peer may still cause, and how many were left out."""

    __slots__ = ("left_out", "lines", "since")

    def __init__(self, now: float) -> None:
        self.lines = float(LINES_PER_PEER)
        self.since = now
        self.left_out = 0


class PeerLog:
    """A logger for what others can cause, with a limit for each of them. Thread-safe.

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
            allowance = self._allowance(peer)
            if allowance.lines < 1:
                allowance.left_out += 1
                self.left_out += 1
                return
            allowance.lines -= 1
            left_out, allowance.left_out = allowance.left_out, 0
        if left_out:
            message += " (%d lines about the same peer were left out before this one)"
            args = (*args, left_out)
        self._log.log(level, message, *args, exc_info=exc_info, stacklevel=3)

    def _allowance(self, peer: object) -> _Allowance:
        now = self._clock()
        allowance = self._peers.get(peer)
        if allowance is None:
            allowance = self._peers[peer] = _Allowance(now)
            if len(self._peers) > _MAX_PEERS:
                self._peers.popitem(last=False)
            return allowance
        self._peers.move_to_end(peer)
        passed = now - allowance.since
        allowance.lines = min(LINES_PER_PEER, allowance.lines + passed / LINES_TIME)
        allowance.since = now
        return allowance
