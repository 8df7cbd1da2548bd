"""The SQL servers: one of each in a process, for all modules here.

All that is here takes minutes, on three servers and SQLite. By default a part
of it runs: the suite that every storage passes on PostgreSQL, and everything
else on one server of a kind. ``SNAKEMQ_ALL_SERVERS=1`` runs all of it, as
does a number of rounds of killed processes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.servers.mariadb import mariadb, mariadb_url
from tests.servers.postgresql import postgresql, postgresql_url

__all__ = ["mariadb", "mariadb_url", "postgresql", "postgresql_url"]

_HERE = Path(__file__).parent

#: Parts of names of what is left out by default: whole modules, then single tests.
_LONG = (
    "test_mongodb_contract.py",
    "test_mongodb_answers.py",
    "test_mongodb_crashes.py",
    "test_mongodb_look.py",
    "test_cli_queues_servers.py",
    "TestMariadb",
    "TestSqlite",
    "[mariadb",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("SNAKEMQ_ALL_SERVERS") or os.environ.get("SNAKEMQ_CRASH_ROUNDS"):
        return
    skip = pytest.mark.skip(reason="takes long: SNAKEMQ_ALL_SERVERS=1 runs it")
    for item in items:
        if item.path.parent == _HERE and any(part in item.nodeid for part in _LONG):
            item.add_marker(skip)
