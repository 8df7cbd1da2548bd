"""The storage on a MongoDB server passes the suite that every storage passes."""

from __future__ import annotations

from typing import Any

import pytest

from snakemq.storage import QueuesStorageBase
from snakemq.storage.mongodb import MongoDbQueuesStorage
from snakemq.testing.storage_contract import StorageContract
from tests.servers.mongodb import MongoDbServer, mongodb, mongodb_server

__all__ = ["mongodb", "mongodb_server"]


class TestMongoDb(StorageContract):
    # The server of these tests goes through all documents for each page.
    long_queue = 2_000

    @pytest.fixture(autouse=True)
    def _place(self, mongodb_server: MongoDbServer, mongodb: Any) -> None:
        self._uri = mongodb_server.uri
        self._database = mongodb.name

    def open_storage(self) -> QueuesStorageBase:
        return MongoDbQueuesStorage(self._uri, database=self._database)
