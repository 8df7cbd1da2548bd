"""Records of one's own in the storage, beside the messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from snakemq.exceptions import StorageError
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.queues import Ledger, QueuesManager
from snakemq.storage import MemoryQueuesStorage, QueuesStorageBase
from snakemq.storage.sqlite import SqliteQueuesStorage

ONE, TWO = bytes(15) + b"1", bytes(15) + b"2"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "storage.db"


@pytest.fixture
def manager(path: Path) -> Iterator[QueuesManager]:
    manager = QueuesManager(SqliteQueuesStorage(path))
    yield manager
    manager.close()


def content(ledger: Ledger) -> dict[bytes, bytes]:
    return {key: record for key, record, _ in ledger.load()}


def reopened(path: Path) -> dict[bytes, bytes]:
    manager = QueuesManager(SqliteQueuesStorage(path))
    try:
        assert list(manager.queues) == []
        return content(manager.open_ledger("notes"))
    finally:
        manager.close()


def test_records_are_there_after_a_restart(manager: QueuesManager, path: Path) -> None:
    ledger = manager.open_ledger("notes")
    assert content(ledger) == {}
    ledger.put(ONE, b"first")
    ledger.put(TWO, b"")
    assert ledger.get(ONE) == b"first"
    assert ledger.get(bytes(16)) is None
    assert ONE in ledger
    assert len(ledger) == 2
    manager.close()
    assert reopened(path) == {ONE: b"first", TWO: b""}


def test_a_record_replaces_the_one_before(manager: QueuesManager, path: Path) -> None:
    ledger = manager.open_ledger("notes")
    ledger.put(ONE, b"old")
    ledger.put(ONE, b"new")
    assert ledger.get(ONE) == b"new"
    manager.close()
    assert reopened(path) == {ONE: b"new"}


def test_what_is_removed_is_gone(manager: QueuesManager, path: Path) -> None:
    ledger = manager.open_ledger("notes")
    ledger.put(ONE, b"first")
    ledger.put(TWO, b"second")
    ledger.remove([ONE, bytes(16)])
    assert ledger.get(ONE) is None
    manager.close()
    assert reopened(path) == {TWO: b"second"}


def test_many_are_loaded_page_by_page_with_their_ages(manager: QueuesManager, path: Path) -> None:
    ledger = manager.open_ledger("notes")
    keys = [b"%16d" % number for number in range(2500)]
    with manager.paged.transaction():  # type: ignore[union-attr]
        items = [ledger.item(key, key) for key in keys]
        manager.paged.push_many([(ledger.name, item) for item in items])  # type: ignore[union-attr]
    loaded = list(manager.open_ledger("notes").load())
    assert [key for key, _, _ in loaded] == keys
    assert all(record == key for key, record, _ in loaded)
    assert all(0 <= age < 60 for _, _, age in loaded)


def test_messages_and_other_ledgers_are_apart(manager: QueuesManager) -> None:
    ledger, other = manager.open_ledger("notes"), manager.open_ledger("others")
    ledger.put(ONE, b"note")
    other.put(ONE, b"other")
    manager.push_many([("bob", Message(b"message", None, FLAG_PERSISTENT, ONE))])
    assert (ledger.get(ONE), other.get(ONE)) == (b"note", b"other")
    ledger.remove([ONE])
    assert other.get(ONE) == b"other"
    assert list(manager.queues) == ["bob"]
    assert len(manager.get_queue("bob")) == 1


class Failing(MemoryQueuesStorage):
    fails = False

    def change_items(self, *args: object, **kwargs: object) -> list[int]:
        if self.fails:
            raise StorageError("the disk is full")
        return super().change_items(*args, **kwargs)  # type: ignore[arg-type]


def test_what_could_not_be_stored_is_not_there() -> None:
    storage = Failing()
    manager = QueuesManager(storage)
    ledger = manager.open_ledger("notes")
    ledger.put(ONE, b"old")
    storage.fails = True
    with pytest.raises(StorageError, match="the disk is full"):
        ledger.put(ONE, b"new")
    assert ledger.get(ONE) == b"old"
    storage.fails = False
    manager.close()


@pytest.mark.parametrize("storage", [None, MemoryQueuesStorage()])
def test_without_a_storage_there_is_none(storage: QueuesStorageBase | None) -> None:
    manager = QueuesManager(storage)
    if storage is not None:
        ledger = manager.open_ledger("notes")
        manager.close()
        with pytest.raises(StorageError, match="there is no storage"):
            ledger.put(ONE, b"too late")
    else:
        with pytest.raises(StorageError, match="there is no storage"):
            manager.open_ledger("notes")


def test_a_key_has_16_bytes(manager: QueuesManager) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        manager.open_ledger("notes").put(b"short", b"")


def test_somebody_elses_item_is_an_empty_record(manager: QueuesManager) -> None:
    ledger = manager.open_ledger("notes")
    assert manager.paged is not None
    manager.paged.push(ledger.name, Message(b"abc", None, FLAG_PERSISTENT, ONE))
    assert content(ledger) == {ONE: b""}
