"""Who has a storage on a MongoDB server open: one at a time.

A collection has a document for each time that somebody took it, numbered from
1; who made the one with the highest number is the holder. Two can't make the
same number, on any server, so this needs nothing but a unique ``_id``. The
holder renews its document; if that stops for longer than :data:`LEASE`, another
one may take the next number. Older ones are then deleted.

How long a document was not renewed is told by the server's clock. Whether the
holder itself may still write it tells by its own, which has to run as fast.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from snakemq._io.clock import monotonic
from snakemq.exceptions import StorageInUse
from snakemq.storage._common import wall_clock
from snakemq.storage._mongodb_server import Document, MongoServer

__all__ = ["LEASE", "OWN", "RENEW", "Lease", "Onlooker"]

#: After so many seconds without renewal another one may take it.
LEASE: Final = 24.0

#: The holder may begin to write for so many seconds after a renewal. What it
#: has begun ends, or is given up, well within the rest.
OWN: Final = 12.0

#: Seconds between renewals.
RENEW: Final = 4.0

#: What seems to be left alone is looked at again after so many seconds: a
#: holder whose server was away for long renews as soon as it is back.
_GRACE: Final = 2.0

_NAME: Final = "lock"


class Lease:
    """The right to use a storage.

    :param server: where it is
    :param clock: seconds on a clock that only goes forward
    """

    def __init__(self, server: MongoServer, clock: Callable[[], float] = monotonic) -> None:
        self._server = server
        self._clock = clock
        self._me = secrets.token_hex(12)
        #: Which one this is: higher than all before it; 0 if it is not held.
        self.number = 0
        self._seen: tuple[Document, float] | None = None
        self._renewed = (float("-inf"), 0.0)
        self._lost: StorageInUse | None = None
        #: What the holder before left behind for us in good order, if it did.
        self.heritage: object = None

    @property
    def is_held(self) -> bool:
        """Whether it was taken, and not lost that we knew."""
        return self.number > 0 and self._lost is None

    def try_take(self) -> StorageInUse | None:
        """Take it, if nobody has it.

        :returns: ``None``; or why not
        """
        lock = self._server.collection(_NAME)
        while True:
            now = self._now()
            top = lock.find_one({}, sort=[("_id", -1)])
            if top is not None and top.get("owner") == self._me:
                # The answer to an earlier attempt was lost.
                number = int(top["_id"])
            else:
                if top is not None and not self._is_free(top):
                    return self._in_use(top)
                number = 1 if top is None else int(top["_id"]) + 1
                try:
                    lock.insert_one(self._document(number, top))
                except Exception as exc:
                    if not self._server.is_duplicate(exc):
                        raise
                    continue  # somebody was faster
                if lock.find_one({"_id": {"$gt": number}}, {"_id": 1}):
                    # What we saw last was gone when we made ours.
                    lock.delete_one({"_id": number})
                    continue
            mine = lock.find_one({"_id": number, "owner": self._me})
            if mine is None:
                continue
            lock.delete_many({"_id": {"$lt": number}})
            self.number, self._renewed = number, now
            self.heritage = mine.get("heritage")
            return None

    def was_ever_taken(self) -> bool:
        """Whether there is a storage: who takes it, now or long ago, leaves a document."""
        return self._server.collection(_NAME).find_one({}, {"_id": 1}) is not None

    def check_not_lost(self) -> None:
        """Refuse to go on if somebody else has it.

        :raises snakemq.exceptions.StorageInUse: that was found out
        """
        if self._lost is not None:
            raise StorageInUse(str(self._lost), self._lost.holder)

    def check(self) -> None:
        """Before each change: go on only while nobody else can have it.

        :raises snakemq.exceptions.StorageInUse: somebody else has it
        """
        self.check_not_lost()
        elapsed = [now - then for now, then in zip(self._now(), self._renewed, strict=True)]
        # The second is the time of day. It jumps, but it does not stand still
        # while the computer sleeps.
        if not (elapsed[0] < OWN and abs(elapsed[1]) < OWN):
            self.renew()

    def renew(self) -> None:
        """Go on having it. A durable write.

        :raises snakemq.exceptions.StorageInUse: somebody else has it
        """
        self.check_not_lost()
        now = self._now()
        lock = self._server.collection(_NAME)
        mine = lock.update_one(
            {"_id": self.number, "owner": self._me},
            {"$currentDate": {"renewed": True}, "$unset": {"heritage": ""}},
        )
        other = lock.find_one({"_id": {"$gt": self.number}}, sort=[("_id", -1)])
        if other is not None or not mine.matched_count:
            holder = _holder(other) if other is not None else ""
            self._lost = StorageInUse(
                f"the storage {self._server.place} was taken over"
                f"{f' by {holder}' if holder else ''}, because this process could not reach"
                " the server, or stood still, for too long; close it and open it again",
                holder,
            )
            self.check_not_lost()
        self._renewed = now

    def release(self, heritage: object) -> None:
        """Let it go.

        :param heritage: for the next one that takes it; ``None``: nothing
        """
        self._server.collection(_NAME).update_one(
            {"_id": self.number, "owner": self._me},
            {"$set": {"released": True, "heritage": heritage}},
        )
        self.number = 0

    def _now(self) -> tuple[float, float]:
        return self._clock(), wall_clock()

    def _document(self, number: int, before: Document | None) -> Document:
        return {
            "_id": number,
            "owner": self._me,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "program": Path(sys.argv[0] if sys.argv else "").name or "python",
            "machine": _machine(),
            "started": _started(os.getpid()),
            "renewed": datetime.fromtimestamp(self._server.time(), timezone.utc),
            "released": False,
            "heritage": before.get("heritage") if before and before.get("released") else None,
        }

    def _is_free(self, top: Document) -> bool:
        if top.get("released") or _is_dead(top):
            return True
        renewed = top["renewed"].replace(tzinfo=timezone.utc).timestamp()
        if self._server.time() - renewed < LEASE:
            self._seen = None
            return False
        if self._seen is None or self._seen[0] != top:
            self._seen = top, self._clock()
        return self._clock() - self._seen[1] >= _GRACE

    @property
    def decides_soon(self) -> bool:
        """Whether a holder seems to be gone, and one has to look again shortly."""
        return self._seen is not None

    def _in_use(self, top: Document) -> StorageInUse:
        holder = _holder(top)
        return StorageInUse(
            f"the storage {self._server.place} is in use by {holder}; one process at a time can"
            f" have it open. If that one is gone for good, it is free {LEASE:g} seconds after its"
            " last sign of life; lock_timeout tells how long to wait",
            holder,
        )


class Onlooker(Lease):
    """In place of a lease, for who only looks and so needs none."""

    def check(self) -> None:
        """Go on, whoever has it."""

    def renew(self) -> None:
        """See whether the server is there, nothing more."""
        self._server.time()


def _holder(document: Document) -> str:
    return f"process {document.get('pid')} ({document.get('program')}) on {document.get('host')}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text("ascii", "replace").strip()
    except OSError:
        return ""


def _machine() -> str:
    """Names the space that a process id is valid in, if that can be told, else empty."""
    boot = _read("/proc/sys/kernel/random/boot_id")
    try:
        return f"{boot} {os.readlink('/proc/self/ns/pid')}" if boot else ""
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process was started, if it can be told, else empty."""
    # The name of the program, in parentheses, may have spaces in it.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in ("Z", "X") else ""


def _is_dead(document: Document) -> bool:
    """Whether the process that made it ran on this machine and is no more."""
    machine = _machine()
    if not machine or document.get("machine") != machine:
        return False
    return bool(document.get("started")) and _started(document["pid"]) != document["started"]
