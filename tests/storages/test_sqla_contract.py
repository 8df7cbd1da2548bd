"""The storage in an SQL database passes the suite of all storages, on each database."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from snakemq.storage import QueuesStorageBase
from snakemq.testing.storage_contract import StorageContract
from tests.servers.mariadb import mariadb, mariadb_url
from tests.servers.postgresql import postgresql, postgresql_url

pytest.importorskip("sqlalchemy", reason="there is no SQLAlchemy")

from snakemq.storage.sqla import SqlAlchemyQueuesStorage

__all__ = ["mariadb", "mariadb_url", "postgresql", "postgresql_url"]


class TestSqlite(StorageContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self._url = f"sqlite:///{tmp_path / 'storage.db'}"

    def open_storage(self) -> QueuesStorageBase:
        return SqlAlchemyQueuesStorage(self._url)


class _OnServer(StorageContract):
    """Tables of its own for each test."""

    url: str

    @pytest.fixture(autouse=True)
    def _prefix(self) -> Iterator[None]:
        self._prefix_of_test = f"t{secrets.token_hex(6)}_"
        yield
        for storage in self._opened:
            storage.close()
        with self.open_storage() as storage:
            storage.drop_structures()

    def open_storage(self) -> SqlAlchemyQueuesStorage:
        return SqlAlchemyQueuesStorage(self.url, prefix=self._prefix_of_test)


class TestPostgresql(_OnServer):
    @pytest.fixture(autouse=True)
    def _url(self, postgresql_url: str) -> None:
        self.url = postgresql_url


class TestMariadb(_OnServer):
    @pytest.fixture(autouse=True)
    def _url(self, mariadb_url: str) -> None:
        self.url = mariadb_url


del _OnServer
