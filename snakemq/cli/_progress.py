"""What long commands show while they run, and say when they end too early."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Progress", "undivided"]

#: From one redrawing to the next, in seconds.
_INTERVAL: Final = 0.1


class Progress:
    """A line on standard error that tells how far it is, if that is a terminal.

    A context manager. When something goes wrong inside, or Ctrl-C ends it, it
    says how far it came, terminal or not.

    :param what: what becomes of the messages: "moved"
    :param total: of the work; 0 if it is not known
    :param quiet: show nothing while it runs
    :param so_far: what to say if it ends too early
    """

    def __init__(
        self, what: str, total: int, *, quiet: bool, so_far: Callable[[], str] | None = None
    ) -> None:
        self._what = what
        #: the whole work; may grow
        self.total = total
        #: how many messages are done
        self.messages = 0
        self._work = 0
        self._so_far = so_far
        self._shows = not quiet and sys.stderr is not None and sys.stderr.isatty()
        self._shown = ""
        self._started = time.monotonic()
        self._drawn_at = self._started - _INTERVAL

    def advance(self, messages: int, work: int | None = None) -> None:
        """So many more are done.

        :param work: how much of the total that was, if it is not counted in messages
        """
        self.messages += messages
        self._work += messages if work is None else work
        now = time.monotonic()
        if self._shows and now - self._drawn_at >= _INTERVAL:
            self._drawn_at = now
            self._draw(self._line(now - self._started))

    def _line(self, seconds: float) -> str:
        share = f"{min(self._work / self.total, 1):4.0%} " if self.total else ""
        rate = f", {self.messages / seconds:,.0f}/s" if seconds > 0 else ""
        return f"{share}{self._what}: {self.messages:,} messages{rate}"

    def _draw(self, line: str) -> None:
        # Blanks, because not every terminal knows how to clear a line.
        sys.stderr.write(f"\r{line:<{len(self._shown)}}")
        sys.stderr.flush()
        self._shown = line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._shown:
            self._draw("")
            sys.stderr.write("\r")
            sys.stderr.flush()
        # Who read the output and went away is not there to be told.
        if exc is not None and not isinstance(exc, BrokenPipeError) and self._so_far is not None:
            print(f"snakemq queues: {self._so_far()}", file=sys.stderr)


@contextmanager
def undivided() -> Generator[None, None, None]:
    """Let Ctrl-C and SIGTERM wait for the end of the block, but not when they are repeated.

    For what has to be counted when it is done, and would not be if the signal
    came in between.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    previous: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def handler(signum: int, frame: FrameType | None) -> None:
        came.append((signum, frame))
        if len(came) > 1:
            previous[signum](signum, frame)

    for number in (signal.SIGINT, signal.SIGTERM):
        current = signal.getsignal(number)
        if callable(current):  # else it is ignored, or ends the process at once
            previous[number] = current
            signal.signal(number, handler)
    try:
        yield
    finally:
        for restored in previous:
            signal.signal(restored, previous[restored])
    if came:
        signum, frame = came[0]
        previous[signum](signum, frame)
