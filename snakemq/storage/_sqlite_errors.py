"""What goes wrong with an SQLite file, and what to do about it."""

from __future__ import annotations

import os
import sqlite3
from typing import Final

from snakemq.exceptions import StorageDamaged, StorageError

__all__ = ["ERRORS", "HEADER", "storage_error", "why_not_opened"]

#: What the module raises for SQLite's troubles.
ERRORS: Final = (sqlite3.Error, OverflowError)

#: What a database begins with.
HEADER: Final = b"SQLite format 3\0"


def storage_error(exc: Exception, filename: str, busy_timeout: float) -> StorageError:
    """What to raise for one of :data:`ERRORS`.

    :param filename: the file, or ``":memory:"``
    :param busy_timeout: how long it was waited for others, in seconds
    """
    text = str(exc)
    if _is_damage(text, filename):
        return StorageDamaged(
            f"queue storage {filename!r} is damaged; keep a copy of it and of its '-wal', and save"
            " what 'sqlite3 FILE .recover' can read, or begin with an empty one by"
            f" set_aside_damaged=True ({exc})"
        )
    return StorageError(
        f"queue storage {filename!r} {_advice(exc, filename, busy_timeout)} ({exc})"
    )


def _is_damage(text: str, filename: str) -> bool:
    if "is not a database" in text:
        # It was one if it still begins like one.
        try:
            with open(filename, "rb") as file:
                return file.read(len(HEADER)) == HEADER
        except OSError:
            return False
    return "malformed" in text


def _advice(exc: Exception, filename: str, busy_timeout: float) -> str:
    # By text, because Python 3.10 does not tell SQLite's error codes. The
    # texts have been the same for many years, and the tests cause each of them.
    text = str(exc)
    if "database or disk is full" in text:
        return "can't grow because the disk is full; nothing was changed, make room and try again"
    if "readonly" in text:
        return "is read-only; make the file and its directory writable for this user"
    if "locked" in text:
        return (
            f"has been locked for {busy_timeout:g} s, by another process or by another connection"
            " of this one; end that transaction, or give each process a file of its own"
        )
    if "is not a database" in text:
        return "is not an SQLite database and was left as it is; choose another file name"
    if "unable to open" in text:
        return why_not_opened(filename)
    if "disk I/O error" in text:
        return "can't be read or written; check the disk and the limits of this process"
    if "too big" in text or isinstance(exc, OverflowError):
        return "can't hold a value of this size, SQLite's limit is about 1 GB; send it in parts"
    return "does not work"


def why_not_opened(filename: str) -> str:
    """Why a file can't be opened, as the second half of a sentence."""
    directory = os.path.dirname(os.path.abspath(filename))
    if os.path.isdir(filename):
        return "is a directory; give the name of a file in it"
    if not os.path.isdir(directory):
        return f"can't be made because there is no directory {directory!r}; create it first"
    return "can't be opened; check the permissions of the file and its directory"
