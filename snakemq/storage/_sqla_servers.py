"""What differs from one SQL database to another: locks, timeouts, limits."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, Final

from snakemq.exceptions import StorageError, StorageInUse
from snakemq.storage._sqlite_lock import FileLock

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

__all__ = ["HEARTBEAT", "IO_TIMEOUT", "Server", "server_for"]

#: After so many seconds without an answer a network counts as dead.
IO_TIMEOUT: Final = 15

#: A session that is idle for so many seconds is one whose process hangs or is
#: cut off; the server ends it, and with it its lock.
_IDLE_TIMEOUT: Final = 60

#: How often the holder gives a sign of life, in seconds.
HEARTBEAT: Final = 15.0

#: For how many seconds a statement waits for somebody else's lock on a table.
_LOCK_WAIT: Final = 10

#: What a statement has besides the data, in bytes; generously.
_STATEMENT_BYTES: Final = 4096


class Server:
    """A database of which nothing special is known.

    :param prefix: that of the storage's tables
    """

    #: Whether it is reached by a network, so that it can be away for a while.
    is_remote: bool = True

    #: Run first in a transaction, makes its commit return before it is on disk.
    late: str | None = None

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def connect_args(self, url: URL) -> dict[str, Any]:
        """For the driver, where the user says nothing else."""
        return {}

    def prepare(self, conn: Connection) -> None:
        """Set up a new session."""

    def try_lock(self, conn: Connection) -> bool:
        """Get the lock for as long as the session lives; whether nobody else has it.

        Some have no such lock. There, who comes later takes the storage from
        who has it.
        """
        return True

    def unlock(self, conn: Connection) -> None:
        """Give the lock back now, and not when the server has noticed the end of the session."""

    def session(self, conn: Connection) -> Any:
        """What :meth:`end` needs to find this session."""
        return None

    def end(self, conn: Connection, session: Any) -> None:
        """End a session that this process has lost, if the server still has it."""

    def close(self) -> None:
        """Give back what is not a part of a session."""

    def abandon(self) -> None:
        """In a forked child: leave alone what is the parent's."""

    def check_size(self, data: bytes) -> None:
        """Refuse data that can't be stored.

        :raises snakemq.exceptions.StorageError: it is too large
        """


class _Postgresql(Server):
    late = "SET LOCAL synchronous_commit = off"

    def connect_args(self, url: URL) -> dict[str, Any]:
        if url.get_driver_name() not in ("psycopg", "psycopg2"):
            return {}
        return {
            "connect_timeout": IO_TIMEOUT,
            "keepalives": 1,
            "keepalives_idle": 5,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": IO_TIMEOUT * 1000,
        }

    def prepare(self, conn: Connection) -> None:
        # The server's own view of a client that is cut off: without these it
        # takes hours until the lock is free.
        settings = {
            "lock_timeout": f"{_LOCK_WAIT}s",
            "tcp_keepalives_idle": "10",
            "tcp_keepalives_interval": "5",
            "tcp_keepalives_count": "3",
            "idle_in_transaction_session_timeout": f"{_IDLE_TIMEOUT}s",
            # What is read in order is in an index in that order. Before it has
            # statistics of a table, the planner would rather sort a whole queue.
            "enable_sort": "off",
            "enable_bitmapscan": "off",
            # What that makes look expensive it would compile first.
            "jit": "off",
        }
        version = conn.dialect.server_version_info or (0,)
        if version >= (14,):
            settings["idle_session_timeout"] = f"{_IDLE_TIMEOUT}s"
        calls = ", ".join(
            f"set_config('{name}', '{value}', false)" for name, value in settings.items()
        )
        conn.exec_driver_sql(f"SELECT {calls}")

    def try_lock(self, conn: Connection) -> bool:
        schema = conn.exec_driver_sql("SELECT current_schema()").scalar()
        digest = hashlib.sha256(f"snakemq {schema} {self._prefix}".encode()).digest()
        key = int.from_bytes(digest[:8], "big", signed=True)
        return bool(conn.exec_driver_sql(f"SELECT pg_try_advisory_lock({key})").scalar())

    def unlock(self, conn: Connection) -> None:
        conn.exec_driver_sql("SELECT pg_advisory_unlock_all()")

    def session(self, conn: Connection) -> Any:
        # With the time of its start, because process numbers come again.
        found = conn.exec_driver_sql(
            "SELECT pid, CAST(backend_start AS text) FROM pg_stat_activity"
            " WHERE pid = pg_backend_pid()"
        ).one()
        return int(found[0]), str(found[1])

    def end(self, conn: Connection, session: Any) -> None:
        pid, start = session
        conn.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE pid = {pid} AND CAST(backend_start AS text) = '{start}'"
        )


class _Mysql(Server):
    """MySQL and MariaDB."""

    _max_packet = 0
    _token = ""

    def connect_args(self, url: URL) -> dict[str, Any]:
        if url.get_driver_name() not in ("pymysql", "mysqldb"):
            return {}
        return {
            "connect_timeout": IO_TIMEOUT,
            "read_timeout": IO_TIMEOUT,
            "write_timeout": IO_TIMEOUT,
        }

    def prepare(self, conn: Connection) -> None:
        conn.exec_driver_sql(
            f"SET SESSION wait_timeout = {_IDLE_TIMEOUT},"
            f" SESSION innodb_lock_wait_timeout = {_LOCK_WAIT},"
            # Anything that does not fit is to be refused and not cut.
            " SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')"
        )
        self._max_packet = int(conn.exec_driver_sql("SELECT @@max_allowed_packet").scalar() or 0)

    def try_lock(self, conn: Connection) -> bool:
        name = self._lock_name(conn)
        return bool(conn.exec_driver_sql(f"SELECT GET_LOCK('{name}', 0)").scalar() == 1)

    def _lock_name(self, conn: Connection) -> str:
        database = conn.exec_driver_sql("SELECT DATABASE()").scalar()
        # It is known to the whole server, and has at most 64 characters.
        digest = hashlib.sha256(f"{database} {self._prefix}".encode()).hexdigest()
        return f"snakemq {digest[:48]}"

    def unlock(self, conn: Connection) -> None:
        for lock in (self._lock_name(conn), self._token):
            conn.exec_driver_sql(f"DO RELEASE_LOCK('{lock}')")

    def session(self, conn: Connection) -> Any:
        # Numbers of connections come again when the server was restarted; a
        # lock that nobody else can have heard of does not.
        self._token = f"snakemq session {os.urandom(16).hex()}"
        conn.exec_driver_sql(f"SELECT GET_LOCK('{self._token}', 0)")
        return self._token

    def end(self, conn: Connection, session: Any) -> None:
        number = conn.exec_driver_sql(f"SELECT IS_USED_LOCK('{session}')").scalar()
        if number is not None:
            conn.exec_driver_sql(f"KILL {int(number)}")

    def check_size(self, data: bytes) -> None:
        # Drivers write two characters for a byte: all of them, or some.
        room = (self._max_packet - _STATEMENT_BYTES) // 2
        if self._max_packet and len(data) > room:
            raise StorageError(
                f"a message with {len(data)} bytes of data may not fit into a statement, which has"
                f" room for {room}; raise max_allowed_packet on this server, which is"
                f" {self._max_packet} bytes now, or send the data in parts"
            )


class _Sqlite(Server):
    is_remote = False
    _lock: FileLock | None = None

    def connect_args(self, url: URL) -> dict[str, Any]:
        return {"check_same_thread": False}  # calls wait for each other

    def try_lock(self, conn: Connection) -> bool:
        path = conn.exec_driver_sql("PRAGMA database_list").one()[2]
        if path and self._lock is None:
            try:
                self._lock = FileLock(path)
            except StorageInUse:
                return False
        # With a write-ahead log a transaction takes one sync instead of three
        # or four; where there can be none, FULL would promise too little.
        mode = conn.exec_driver_sql("PRAGMA journal_mode = WAL").scalar()
        conn.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if mode == 'wal' else 'EXTRA'}")
        return True

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def abandon(self) -> None:
        if self._lock is not None:
            self._lock.abandon()


_KINDS: Final[dict[str, type[Server]]] = {
    "postgresql": _Postgresql,
    "mysql": _Mysql,
    "mariadb": _Mysql,
    "sqlite": _Sqlite,
}


def server_for(dialect: str, prefix: str) -> Server:
    """The server for a dialect of SQLAlchemy.

    :param dialect: its name, such as ``"postgresql"``
    :param prefix: that of the storage's tables
    """
    return _KINDS.get(dialect, Server)(prefix)
