"""Room for the write-ahead log of SQLite, made before it is needed.

To sync a file that has grown takes the file system twice as long as to sync
one that was overwritten: its new size has to be written down as well. SQLite
goes back to the beginning of its log after some thousand pages, but until then
each commit makes it longer. So it is made as long as it is going to be, once.

What is there are zeros, which are no part of the log: SQLite takes for that
only what has the right checksums.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from typing import Final

__all__ = ["LogRoom"]

_log = logging.getLogger("snakemq.storage")

#: After so many syncs there will be more: what was gained by now, the room costs.
_SYNCS: Final = 32

#: Nobody is denied the last of the disk for it, in bytes.
_MIN_FREE: Final = 256 * 1024 * 1024

#: What a page takes in the log in addition to its size.
_FRAME_HEADER: Final = 24

#: With pages of the usual size it is 5 MB; it is never more than this.
_MAX_SIZE: Final = 8 * 1024 * 1024

#: How much longer the log gets than where SQLite goes back to the beginning,
#: which it does after a commit.
_SLACK: Final = 1.2


class LogRoom:
    """Makes the log long when there was a number of syncs."""

    def __init__(self) -> None:
        #: after so many there will be room; 0: there is
        self.syncs_left = _SYNCS
        #: how long the log is then, in bytes
        self.size = 0

    def count_sync(self, conn: sqlite3.Connection, path: str) -> None:
        """There was another one.

        :param path: the file whose log it is
        :raises sqlite3.Error: somebody else writes, and does not come to an end
        """
        if self.syncs_left:
            if self.syncs_left == 1:
                self._make(conn, path)
            self.syncs_left -= 1

    def forget(self) -> None:
        """The log was made short."""
        self.syncs_left = _SYNCS

    def _make(self, conn: sqlite3.Connection, path: str) -> None:
        pages = _pragma(conn, "wal_autocheckpoint") * _SLACK
        size = int(pages * (_pragma(conn, "page_size") + _FRAME_HEADER))
        self.size = min(size, _MAX_SIZE)
        # Keeps away whoever appends to it or makes it short: not every system
        # finds the end and writes there in one step.
        conn.execute("BEGIN IMMEDIATE")
        try:
            with open(f"{path}-wal", "ab", opener=_open_existing) as log:
                missing = self.size - log.tell()
                if missing > 0 and shutil.disk_usage(path).free > _MIN_FREE:
                    log.write(bytes(missing))
        except OSError as exc:
            _log.debug("queue storage %r: no room was made for its log: %s", path, exc)
        finally:
            conn.execute("ROLLBACK")


def _open_existing(path: str, flags: int) -> int:
    # Where it was removed, or moved, none is left behind.
    return os.open(path, flags & ~os.O_CREAT)


def _pragma(conn: sqlite3.Connection, name: str) -> int:
    return int(conn.execute(f"PRAGMA {name}").fetchone()[0])
