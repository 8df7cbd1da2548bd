"""The way of every call to a MongoDB server: one at a time, and patient or not."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, TypeVar

from snakemq._io.clock import monotonic
from snakemq.exceptions import StorageError, StorageInUse, StorageUnavailable
from snakemq.storage._mongodb_lease import LEASE, OWN, RENEW, Lease
from snakemq.storage._mongodb_server import MongoServer, Unreachable

__all__ = ["LONG", "Calls"]

T = TypeVar("T")

logger = logging.getLogger("snakemq.storage")

#: Seconds for one attempt of a thread that may wait. With it a write ends, one
#: way or the other, before another process can take over.
_ATTEMPT: Final = min(10.0, LEASE - OWN)

#: Seconds for one attempt of a thread that may not, and for its turn to come.
_BRIEF: Final = 2.0

#: For what reads or deletes all there is: as long as it takes.
LONG: Final = None

#: Seconds for a renewal: closing may have to wait for one.
_RENEWAL: Final = 4.0

#: Seconds between two looks whether the server is back.
_PROBE: Final = 0.25


class Calls:
    """Runs what a storage does on its server.

    Between calls, a thread of its own renews the lease and finds out when a
    server that was away is back.

    :param server: the server
    :param lease: the right to use the storage, or only to look at it
    :param patience: seconds that a thread which may wait waits for the server
    :param may_wait: whether the calling thread may
    :param settle: first in each attempt: brings to an end what an earlier one left
    """

    def __init__(
        self,
        server: MongoServer,
        lease: Lease,
        patience: float,
        may_wait: Callable[[], bool],
        settle: Callable[[], None],
    ) -> None:
        self._server = server
        self._lease = lease
        self._patience = patience
        self._may_wait = may_wait
        self._settle = settle
        self._pid = os.getpid()
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        # Why, while it is.
        self._away: str | None = None
        self._closed = False
        self._wake = threading.Event()
        self._keeper = threading.Thread(
            target=self._keep, name="snakemq MongoDB lease", daemon=True
        )

    @property
    def is_open(self) -> bool:
        """Whether :meth:`close` was not called yet."""
        return not self._closed

    @property
    def is_own_process(self) -> bool:
        """Whether this is not a forked child."""
        return os.getpid() == self._pid

    def start(self) -> None:
        """Begin to renew the lease, which was taken."""
        self._keeper.start()

    def check_usable(self) -> None:
        """Refuse to work when closed, in a forked child, or when the lease is lost.

        :raises snakemq.exceptions.StorageError: with the reason
        """
        if not self.is_own_process:
            raise StorageError(
                f"the storage {self._server.place} belongs to the process that opened it; a forked"
                " child has to open one of its own"
            )
        if self._closed:
            raise StorageError(f"the storage {self._server.place} is closed")
        self._lease.check_not_lost()

    def run(self, attempt: Callable[[], T], seconds: float | None = _ATTEMPT) -> T:
        """Run something on the server, again if the server was away in between.

        :param attempt: does it; may be called several times
        :param seconds: that one attempt may take in a thread that may wait
        :raises snakemq.exceptions.StorageUnavailable: the server is away and
            patience is over, or there is none
        """
        deadline: float | None = None
        while True:
            self.check_usable()
            waits = self._may_wait()
            away, cause = self._away, None
            if away is None:
                try:
                    return self._attempt(attempt, waits, seconds)
                except Unreachable as exc:
                    away, cause = str(exc), exc
            if not waits:
                raise StorageUnavailable(away) from cause
            now = monotonic()
            if deadline is None:
                deadline = now + self._patience
            if now >= deadline:
                raise StorageUnavailable(f"{away} (after {self._patience:g} seconds)") from cause
            with self._changed:
                self._changed.wait_for(self._is_worth_trying, deadline - now)

    def try_now(self, work: Callable[[], object]) -> None:
        """In an attempt: do something that can be done later, too.

        :param work: what settling will repeat, if it fails
        """
        try:
            with self._server.errors():
                work()
        except StorageError as exc:
            logger.warning("left for later: %s", exc)

    def first(self, attempt: Callable[[], T], seconds: float | None = _ATTEMPT) -> T:
        """Like :meth:`run`, while the lease is not held yet and nobody renews it."""
        deadline = monotonic() + self._patience
        while True:
            try:
                with self._server.errors(), self._limited(seconds):
                    return attempt()
            except Unreachable as exc:
                if not self._may_wait() or monotonic() >= deadline:
                    raise StorageUnavailable(f"{exc} (after {self._patience:g} seconds)") from exc
            self._wake.wait(_PROBE)

    def close(self, farewell: Callable[[], None]) -> None:
        """Let no further call begin, and end the thread.

        :param farewell: what is done on the server then, if it is there
        """
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        if not self.is_own_process:
            return
        self._wake.set()
        if self._keeper.is_alive():
            self._keeper.join()
        if self._turn.acquire(timeout=-1 if self._may_wait() else _BRIEF):
            try:
                if self._lease.is_held:
                    with self._server.errors(), self._server.limited(_BRIEF):
                        self._lease.check()
                        self._settle()
                        farewell()
            except StorageError as exc:
                # What is stored is stored; the next one has a little more to do.
                logger.warning("closing the storage %s: %s", self._server.place, exc)
            finally:
                self._turn.release()
        self._server.close()

    def _limited(self, seconds: float | None) -> AbstractContextManager[object]:
        if seconds is not None:
            seconds = min(seconds, max(self._patience, _BRIEF))
        return self._server.limited(seconds)

    def _attempt(self, attempt: Callable[[], T], waits: bool, seconds: float | None) -> T:
        if not self._turn.acquire(timeout=-1 if waits else _BRIEF):
            raise Unreachable(
                f"the storage {self._server.place} is busy with something else for more than"
                f" {_BRIEF:g} seconds"
            )
        try:
            self.check_usable()
            if self._away is not None:
                raise Unreachable(self._away)
            try:
                with self._server.errors(), self._limited(seconds if waits else _BRIEF):
                    self._lease.check()
                    self._settle()
                    return attempt()
            except Unreachable as exc:
                self._note_away(exc)
                raise
        finally:
            self._turn.release()

    def _is_worth_trying(self) -> bool:
        return self._away is None or self._closed

    def _note_away(self, exc: Unreachable) -> None:
        with self._changed:
            if self._away is None:
                logger.warning("%s", exc)
            self._away = str(exc)
        self._wake.set()

    def _note_back(self) -> None:
        with self._changed:
            if self._away is not None:
                logger.info("the MongoDB server %s is back", self._server.place)
            self._away = None
            self._changed.notify_all()

    def _keep(self) -> None:
        while not self._closed:
            self._wake.wait(RENEW if self._away is None else _PROBE)
            self._wake.clear()
            if self._closed:
                return
            try:
                with self._server.errors(), self._server.limited(_RENEWAL):
                    self._lease.renew()
            except Unreachable as exc:
                self._note_away(exc)
                self._wake.clear()
            except StorageInUse as exc:
                logger.error("%s", exc)
                self._note_back()  # for those that wait, to be told
                return
            except StorageError as exc:
                logger.warning("%s", exc)
            else:
                self._note_back()
