"""What the file needs now and then, in small pieces, when there is nothing else to do."""

from __future__ import annotations

import logging
import os
import sqlite3
from typing import Final

from snakemq.storage._sqlite_file import SqliteFile

__all__ = ["SqliteUpkeep"]

_log = logging.getLogger("snakemq.storage")

#: Of a file that has fewer free pages than this, none are given back.
_MIN_FREE_PAGES: Final = 1000

#: Nor of one of which only this part is free, because more will be stored.
_MIN_FREE_PART: Final = 0.25

#: Pages to give back at a time.
_PIECE: Final = 50

#: A log that is so much longer than it has to be is made short, in bytes.
_MAX_SPARE: Final = 4 * 1024 * 1024


class SqliteUpkeep:
    """Moves what is in the log to the file, and gives free pages back to the file system.

    :param file: the file
    """

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._complained = False

    def do_a_piece(self) -> bool:
        """Do some of it, unless somebody else uses the file.

        What fails is tried again another time; who stores something will be
        told that the disk is full, say.

        :returns: whether there is more
        """
        with self._file.idle() as conn:
            if conn is None:
                return False
            try:
                more = self._do_a_piece(conn)
            except sqlite3.OperationalError as exc:
                if "locked" not in str(exc) and not self._complained:
                    self._complained = True
                    _log.warning("queue storage %r can't be tidied: %s", self._file.filename, exc)
                return False
            self._complained = False
            return more

    def _do_a_piece(self, conn: sqlite3.Connection) -> bool:
        if self._has_free_pages(conn):
            # execute() ends at the first of the rows without columns that this
            # gives for each page.
            conn.executescript(f"PRAGMA incremental_vacuum({_PIECE})")
            self._file.written = True
            return True
        if self._file.written and self._file.has_log:
            # Where readers need some of it, the rest is no reason to wait.
            conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            room = self._file.log_room
            # What is there is overwritten next, which takes less than to make
            # a file longer.
            if _size(f"{self._file.path}-wal") > room.size + _MAX_SPARE:
                conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                room.forget()
        self._file.written = False
        return False

    @staticmethod
    def _has_free_pages(conn: sqlite3.Connection) -> bool:
        free = _pragma(conn, "freelist_count")
        return (
            free > _MIN_FREE_PAGES
            and free > _MIN_FREE_PART * _pragma(conn, "page_count")
            and _pragma(conn, "auto_vacuum") != 0
        )


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # moved away while it is open, say
        return 0


def _pragma(conn: sqlite3.Connection, name: str) -> int:
    return int(conn.execute(f"PRAGMA {name}").fetchone()[0])
