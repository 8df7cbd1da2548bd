"""The storage in an SQL database passes the suite of all storages, on each database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from snakemq.storage import QueuesStorageBase
from snakemq.storage.sqla import SqlAlchemyQueuesStorage
from snakemq.testing.storage_contract import StorageContract

sqlalchemy = pytest.importorskip("sqlalchemy", reason="there is no SQLAlchemy")

PREFIX = "contract_"


class TestSqlite(StorageContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self._url = f"sqlite:///{tmp_path / 'storage.db'}"

    def open_storage(self) -> QueuesStorageBase:
        return SqlAlchemyQueuesStorage(self._url)


class OnServer(StorageContract):
    """Empties the tables after each test, which is quicker than to make new ones."""

    long_queue = 3_000
    long_history = 100
    url: str

    def open_storage(self) -> SqlAlchemyQueuesStorage:
        return SqlAlchemyQueuesStorage(self.url, prefix=PREFIX)

    def empty(self, url: str) -> Iterator[None]:
        self.url = url
        yield
        for storage in self._opened:
            storage.close()
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        with engine.begin() as connection:
            for name in ("outbox", "queues", "received", "inbox", "dead"):
                connection.exec_driver_sql(f"DELETE FROM {PREFIX}{name}")


@pytest.fixture(scope="module")
def empty_postgresql(postgresql_url: str) -> Iterator[str]:
    yield postgresql_url
    drop(postgresql_url)


@pytest.fixture(scope="module")
def empty_mariadb(mariadb_url: str) -> Iterator[str]:
    yield mariadb_url
    drop(mariadb_url)


def drop(url: str) -> None:
    with SqlAlchemyQueuesStorage(url, prefix=PREFIX) as storage:
        storage.drop_structures()


class TestPostgresql(OnServer):
    @pytest.fixture(autouse=True)
    def _place(self, empty_postgresql: str) -> Iterator[None]:
        yield from self.empty(empty_postgresql)


class TestMariadb(OnServer):
    @pytest.fixture(autouse=True)
    def _place(self, empty_mariadb: str) -> Iterator[None]:
        yield from self.empty(empty_mariadb)
