"""Bare SQLite: the limit for what keeps messages in an SQLite file.

There is no network in it and no second process: the sender inserts and commits,
with a log that is written to the disk at each commit, and in the end deletes
everything at once. What it had stored is read back after that, when the clock
has stopped, and handed to the other side to be checked.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.payloads import clock
from benchmarks.peers import OnMessage, Setting, raw

__all__ = ["connect_durably", "keep", "version"]


def version() -> str:
    return f"SQLite {sqlite3.sqlite_version}"


class _Checking:
    """Gets what was read back."""

    def __init__(self, on_message: OnMessage) -> None:
        self._listening = raw.receive(on_message)
        self.address = self._listening.address

    def settle(self, received_at: float) -> float:
        """It was over before."""
        return 0.0

    def close(self) -> None:
        self._listening.close()


def keep(setting: Setting, on_message: OnMessage) -> _Checking:
    return _Checking(on_message)


class _Table:
    def __init__(self, setting: Setting, address: Any) -> None:
        self._path = setting.directory / "limit.db"
        self._lock = threading.Lock()
        self._connection = _open(self._path)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, data BLOB)")
        self._execute = self._connection.execute
        self._checking = raw.connect(address)

    def send(self, data: bytes) -> None:
        with self._lock:
            self._execute("INSERT INTO messages (data) VALUES (?)", (data,))

    def send_batch(self, batch: Sequence[bytes]) -> None:
        self._execute("BEGIN IMMEDIATE")
        self._connection.executemany(
            "INSERT INTO messages (data) VALUES (?)", [(data,) for data in batch]
        )
        self._execute("COMMIT")

    def wait_until_removed(self) -> float:
        # A reader goes on to see what was there when it began.
        with contextlib.closing(_open(self._path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
            self._execute("DELETE FROM messages")
            removed_at = clock()
            for (data,) in reader.execute("SELECT data FROM messages ORDER BY id"):
                self._checking.send(data)
            self._checking.flush()
        return removed_at

    def close(self) -> None:
        (left,) = self._execute("SELECT count(*) FROM messages").fetchone()
        assert left == 0, f"{left} messages are left"
        self._checking.close()
        self._connection.close()


def _open(path: Path) -> sqlite3.Connection:
    """Any thread may use it, and it commits what is not in a transaction of its own."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def connect_durably(setting: Setting, address: Any) -> _Table:
    return _Table(setting, address)
