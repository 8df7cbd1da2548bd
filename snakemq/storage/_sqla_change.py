"""What a connection to an SQL database is asked for: changes, and how long to wait for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from snakemq._io.clock import monotonic

if TYPE_CHECKING:
    from sqlalchemy import Connection, Executable

__all__ = ["Change", "Doubt", "Options", "Patience"]


class Options:
    """How to use a database.

    :param lock_timeout: how long to wait for somebody who has the storage, in
        seconds; ``None``: for ever
    :param patience: how long a call waits for the database, in seconds
    :param create: whether to make missing tables
    :param read_only: take no lock and change nothing
    :raises ValueError: one of them is negative
    """

    def __init__(
        self, *, lock_timeout: float | None, patience: float, create: bool, read_only: bool
    ) -> None:
        for name, seconds in (("lock_timeout", lock_timeout), ("patience", patience)):
            if seconds is not None and not seconds >= 0:
                raise ValueError(f"{name} must be at least 0 seconds, not {seconds!r}")
        self.lock_timeout = lock_timeout
        self.patience = patience
        self.create = create
        self.read_only = read_only


class Change:
    """A transaction that is being made.

    :ivar last_id: the last number that was given in the inbox; to be raised
    :ivar undo: see :meth:`take_back_by`
    """

    def __init__(self, conn: Connection, last_id: int) -> None:
        self._conn = conn
        self.last_id = last_id
        self.undo: list[tuple[Executable, Any]] = []
        self._afterwards: list[Callable[[], None]] = []

    def run(self, statement: Executable, parameters: Any = None) -> Any:
        """Run a statement: once, or for each of a list of parameters."""
        return self._conn.execute(statement, parameters)

    def take_back_by(self, statement: Executable, parameters: Any) -> None:
        """What to run if it turns out that it was made after it was said to have failed."""
        self.undo.append((statement, parameters))

    def afterwards(self, call: Callable[[], None]) -> None:
        """To be called once it is made: for what is known of the content in memory."""
        self._afterwards.append(call)

    def made(self) -> None:
        """It was committed."""
        for call in self._afterwards:
            call()


class Doubt:
    """A change whose commit was cut off.

    :param number: of the change
    :param result: what to return if it was made
    """

    def __init__(self, number: int, result: Any, undo: Sequence[tuple[Executable, Any]]) -> None:
        self.number = number
        self.result = result
        self.undo = undo
        #: nobody waits to be told any more; it was said to have failed
        self.abandoned = False
        #: whether it was made, once that is known
        self.made: bool | None = None


class Patience:
    """How much longer a call may wait; it runs from the first time that it has to.

    :param seconds: ``None``: for ever
    :param may_wait: whether the calling thread may wait at all
    """

    def __init__(self, seconds: float | None, may_wait: Callable[[], bool]) -> None:
        self._seconds = seconds
        self._may_wait = may_wait
        self._deadline: float | None = None

    def left(self) -> float | None:
        """In seconds; ``None``: there is no limit."""
        if not self._may_wait():
            return 0.0
        if self._seconds is None:
            return None
        now = monotonic()
        if self._deadline is None:
            self._deadline = now + self._seconds
        return max(0.0, self._deadline - now)
