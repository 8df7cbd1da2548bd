"""Keeps a second process away from a file, by a lock on another one beside it.

The lock goes with the process, however that ends; the file that is locked may
stay then, and does not matter. A line in it tells who has it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import weakref
from datetime import datetime, timezone
from typing import Final

from snakemq.exceptions import StorageError, StorageInUse
from snakemq.storage._sqlite_errors import why_not_opened

__all__ = ["FileLock"]

_log = logging.getLogger("snakemq.storage")

_MAX_CONTENT: Final = 4096


class FileLock:
    """Locks a file for this object alone, by ``FILE-lock``.

    :param filename: the file, which need not exist
    :raises StorageInUse: somebody else has it locked
    :raises StorageError: there can't be such a file
    """

    def __init__(self, filename: str) -> None:
        self._filename = filename
        # Whatever name it was given, there is one lock.
        self._path = f"{os.path.realpath(filename)}-lock"
        self._fd: int | None = self._acquire()
        # If nobody calls release() it goes with this object.
        self._closing = weakref.finalize(self, os.close, self._fd)
        _, _, left = self._content(self._fd).partition("\n")
        self._damage = left
        self._me = _who(os.getpid(), datetime.now(timezone.utc))
        self._write()

    @property
    def damage(self) -> str:
        """What an earlier holder, or this one, noted of the file; or nothing."""
        return self._damage

    def note_damage(self, problem: str) -> None:
        """Tell this holder and the next ones that the file is damaged.

        :param problem: in what way; if empty, that it is not
        """
        if bool(problem) != bool(self._damage):
            self._damage = " ".join(problem.split())
            self._write()

    def release(self) -> None:
        """Let others have the file. Harmless when repeated."""
        if self._fd is None:
            return
        self._fd = None
        # While it is still locked: nobody else's is removed. (Windows does
        # not remove what is open; there it may stay if somebody is quick.)
        if not self._damage and sys.platform != "win32":
            self._remove()
        self._closing()
        if not self._damage and sys.platform == "win32":
            self._remove()

    def abandon(self) -> None:
        """In a forked child: the lock is the parent's, and must end with it."""
        self._fd = None
        self._closing()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def _acquire(self) -> int:
        while True:
            try:
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as exc:
                raise StorageError(self._refusal()) from exc
            try:
                if not _lock(fd):
                    raise self._in_use(self._content(fd).split("\n")[0])
                # Its last holder may have removed it since it was opened.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), os.stat(self._path)):
                        return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _refusal(self) -> str:
        if os.path.exists(self._path):
            return (
                f"queue storage {self._filename!r} can't be locked because {self._path!r} is not"
                " this user's to write to; if nobody uses the storage, delete that file"
            )
        return f"queue storage {self._filename!r} {why_not_opened(self._filename)}"

    def _in_use(self, holder: str) -> StorageInUse:
        if (
            holder.startswith(f"process {os.getpid()} ")
            and f" on {socket.gethostname()} " in holder
        ):
            return StorageInUse(
                f"queue storage {self._filename!r} is already open in this process; use the storage"
                " object that there is, or close it first",
                holder,
            )
        return StorageInUse(
            f"queue storage {self._filename!r} is in use by {holder or 'another process'}; stop"
            " that one, or give each process a file of its own (to only look at it there is"
            " read_only=True)",
            holder,
        )

    @staticmethod
    def _content(fd: int) -> str:
        try:
            os.lseek(fd, 0, os.SEEK_SET)
            return os.read(fd, _MAX_CONTENT).decode(errors="replace")
        except OSError:
            # Nobody can be named then; it is locked all the same.
            return ""

    def _write(self) -> None:
        if self._fd is None:
            return
        try:
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
            os.write(self._fd, f"{self._me}\n{self._damage}".encode(errors="replace"))
        except OSError as exc:
            # The disk is full, say. What counts is the lock.
            _log.debug("could not write to %r: %s", self._path, exc)


def _who(pid: int, since: datetime) -> str:
    program = " ".join(sys.argv[:1]) or "?"
    return (
        f"process {pid} ({program!r}) on {socket.gethostname()} since {since:%Y-%m-%d %H:%M:%S} UTC"
    )


if sys.platform == "win32":
    import msvcrt

    # Behind all content, because what is locked can't be read by others.
    _PLACE: Final = 1 << 20

    def _lock(fd: int) -> bool:
        """Whether nobody else had it."""
        os.lseek(fd, _PLACE, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(fd: int) -> bool:
        """Whether nobody else had it."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as exc:
            # Some file systems have no locks. The file worked there before.
            _log.warning("queue storage: no lock against a second process (%s)", exc)
        return True
