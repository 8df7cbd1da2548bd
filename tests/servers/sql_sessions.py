"""The sessions on an SQL server, and how to end them."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["end", "sessions"]


def sessions(url: str) -> list[int]:
    """The sessions of others."""
    if url.startswith("postgresql"):
        query = (
            "SELECT pid FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
    else:
        query = (
            "SELECT id FROM information_schema.processlist"
            " WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        )
    engine = _engine(url)
    with engine.connect() as connection:
        return list(connection.exec_driver_sql(query).scalars())


def end(url: str, numbers: list[int]) -> None:
    """End sessions, as an administrator or a firewall may do."""
    assert numbers
    engine = _engine(url)
    call = "SELECT pg_terminate_backend({})" if url.startswith("postgresql") else "KILL {}"
    with engine.connect() as connection:
        for number in numbers:
            connection.exec_driver_sql(call.format(number))


def _engine(url: str) -> Any:
    sqlalchemy = pytest.importorskip("sqlalchemy", reason="there is no SQLAlchemy")
    return sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
