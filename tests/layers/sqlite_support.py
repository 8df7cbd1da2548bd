"""Looks at an SQLite storage from outside, and runs programs that use one."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import snakemq
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.helpers import DEADLINE

__all__ = [
    "TABLE_OF_16",
    "connection_of",
    "contents",
    "execute",
    "execute_as_16",
    "expect_untouched",
    "message",
    "run",
    "running",
    "setting",
    "statements",
    "steps",
]

ROOT = Path(next(iter(snakemq.__path__))).parent

TABLE_OF_16 = (
    "CREATE TABLE items (queue_name VARCHAR(50), uuid VARCHAR(32), data BLOB, ttl REAL,"
    " flags INTEGER)"
)


def message(data: bytes = b"data", ttl: float | None = 60.0, uuid: bytes | None = None) -> Message:
    return Message(data, ttl, FLAG_PERSISTENT, uuid)


def contents(storage: SqliteQueuesStorage, queue_name: str = "peer") -> list[bytes]:
    return [item.data for item in storage.get_items(queue_name)]


def execute(path: Path, *statements: str) -> list[tuple[object, ...]]:
    """What the last statement returns, by way of a connection of its own."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        rows = []
        for statement in statements:
            rows = conn.execute(statement).fetchall()
        return rows


def execute_as_16(path: Path, *statements: str) -> list[tuple[object, ...]]:
    """The same, after what 1.6 does whenever it opens a file."""
    return execute(path, "VACUUM", *statements)


def connection_of(storage: SqliteQueuesStorage) -> sqlite3.Connection:
    connection = storage._file._conn
    assert connection is not None
    return connection


def setting(storage: SqliteQueuesStorage, pragma: str) -> int:
    """A setting of this connection, which no other connection can see."""
    return int(connection_of(storage).execute(f"PRAGMA {pragma}").fetchone()[0])


def steps(storage: SqliteQueuesStorage, operation: Callable[[], object]) -> int:
    """How many instructions of SQLite's machine an operation takes."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    connection = connection_of(storage)
    connection.set_progress_handler(step, 1)
    try:
        operation()
    finally:
        connection.set_progress_handler(None, 1)
    assert count
    return count


def statements(storage: SqliteQueuesStorage, operation: Callable[[], object]) -> list[str]:
    """The SQL that an operation runs."""
    found: list[str] = []
    connection = connection_of(storage)
    connection.set_trace_callback(found.append)
    try:
        operation()
    finally:
        connection.set_trace_callback(None)
    return found


def expect_untouched(path: Path, content: bytes) -> None:
    assert path.read_bytes() == content
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def _command(program: str, path: Path) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(program), str(path)]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def run(program: str, path: Path) -> str:
    """Run a program to its end; its argument is the path. What it prints."""
    done = subprocess.run(
        _command(program, path),
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def running(program: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A program while it runs; its argument is the path."""
    started = subprocess.Popen(
        _command(program, path),
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with started:
        try:
            yield started
        finally:
            started.kill()
