"""The storage on a MongoDB server passes the suite that every storage passes."""

from __future__ import annotations

from typing import Any

import pytest

from snakemq.storage import QueuesStorageBase
from snakemq.storage.mongodb import MongoDbQueuesStorage
from snakemq.testing.storage_contract import StorageContract
from tests.servers.mongodb import mongodb, mongodb_client, mongodb_server

__all__ = ["mongodb", "mongodb_client", "mongodb_server"]


pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Not here: the client, which all tests share, keeps connections for the next one."""


class TestMongoDb(StorageContract):
    # The server of these tests goes through all documents for each page.
    long_queue = 1_000
    long_history = 50

    @pytest.fixture(autouse=True)
    def _place(self, mongodb: Any) -> None:
        self._mongodb = mongodb

    def open_storage(self) -> QueuesStorageBase:
        return MongoDbQueuesStorage(database=self._mongodb.name, client=self._mongodb.client)
