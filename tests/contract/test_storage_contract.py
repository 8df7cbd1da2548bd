"""Every storage passes one and the same suite, also one that was written for 1.6."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from snakemq.exceptions import StorageError
from snakemq.message import Message
from snakemq.storage import MemoryQueuesStorage, QueuesStorageBase
from snakemq.storage.sqlite import SqliteQueuesStorage
from snakemq.testing.storage_contract import StorageContract


class TestMemoryStorage(StorageContract):
    """The object is the disk: it is opened again by using it again."""

    @pytest.fixture(autouse=True)
    def _place(self) -> None:
        self._storage = MemoryQueuesStorage()

    def open_storage(self) -> QueuesStorageBase:
        return self._storage


class TestSqliteFile(StorageContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self._path = tmp_path / "storage.db"

    def open_storage(self) -> QueuesStorageBase:
        return SqliteQueuesStorage(self._path)


class TestSqliteInMemory(StorageContract):
    persistent = False

    def open_storage(self) -> QueuesStorageBase:
        return SqliteQueuesStorage(":memory:")


class PickledStorage(QueuesStorageBase):
    """A storage as a user of 1.6 may have written it: its seven methods, no constructor call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[tuple[str, Message]] = []
        if path.exists():
            self.rows = [
                (name, Message(data, ttl, flags, uuid))
                for name, data, ttl, flags, uuid in pickle.loads(path.read_bytes())
            ]

    def save(self) -> None:
        self.path.write_bytes(
            pickle.dumps(
                [(name, item.data, item.ttl, item.flags, item.uuid) for name, item in self.rows]
            )
        )

    def close(self) -> None:
        self.save()

    def get_queues(self) -> list[str]:
        return list({name for name, item in self.rows})

    def get_items(self, queue_name: str) -> list[Message]:
        return [item for name, item in self.rows if name == queue_name]

    def push(self, queue_name: str, item: Message) -> None:
        self.rows.append((queue_name, item.with_ttl(item.ttl)))

    def delete_items(self, items: Sequence[Message]) -> None:
        # Goes over them twice, as a list allowed in 1.6.
        assert len(items) == len([item.uuid for item in items])
        uuids = {item.uuid for item in items}
        self.rows = [row for row in self.rows if row[1].uuid not in uuids]

    def delete_all(self) -> None:
        self.rows.clear()

    def update_items_ttl(self, items: Sequence[Message]) -> None:
        ttls = {item.uuid: item.ttl for item in items}
        for _, item in self.rows:
            item.ttl = ttls.get(item.uuid, item.ttl)


class TestStorageWrittenFor16(StorageContract):
    atomic = False
    removes_one = False
    thread_safe = False

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self._path = tmp_path / "storage.pickle"

    def open_storage(self) -> QueuesStorageBase:
        return PickledStorage(self._path)

    def test_the_base_class_pushes_many_one_by_one(self) -> None:
        storage = self.open_storage()
        first, second = Message(b"1", 1), Message(b"2", 1)
        storage.push_many(iter([("a", first), ("b", second)]))
        assert [item.data for item in storage.get_items("a")] == [b"1"]
        assert [item.data for item in storage.get_items("b")] == [b"2"]

    def test_the_base_class_removes_every_copy(self) -> None:
        storage = self.open_storage()
        item = Message(b"1", 1)
        storage.push_many([("a", item), ("a", item), ("b", item)])
        storage.remove_items("a", iter([item]))
        assert storage.get_queues() == []


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("close", ()),
        ("get_queues", ()),
        ("get_items", ("a",)),
        ("push", ("a", Message(b""))),
        ("delete_items", ([],)),
        ("delete_all", ()),
        ("update_items_ttl", ([],)),
    ],
)
def test_a_storage_has_to_have_the_seven_methods(name: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(NotImplementedError):
        getattr(QueuesStorageBase(), name)(*arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "keywords"),
    [
        ("load_received", ("a",), {}),
        ("add_received", ("a", [b"1"]), {"keep": 1, "sync": True}),
        ("sync", (), {}),
        ("push_inbox", ("a", []), {"keep": 1}),
        ("get_inbox", (), {}),
        ("advance_inbox", (None, None), {}),
        ("bury", (1, "reason"), {}),
        ("get_dead", (), {}),
        ("retry_dead", (None,), {}),
        ("drop_dead", (None,), {}),
    ],
)
def test_a_storage_need_not_keep_what_was_received(
    name: str, arguments: tuple[object, ...], keywords: dict[str, object]
) -> None:
    storage = QueuesStorageBase()
    assert not storage.keeps_received
    with pytest.raises(NotImplementedError):
        getattr(storage, name)(*arguments, **keywords)


def test_transactions_are_for_sqlite_only() -> None:
    storage = MemoryQueuesStorage()
    with pytest.raises(StorageError, match="MemoryQueuesStorage has no transactions to share"):
        storage.transaction()
    with (
        closing(sqlite3.connect(":memory:")) as connection,
        pytest.raises(StorageError, match="MemoryQueuesStorage has no file"),
    ):
        storage.push_with(connection, [("peer", Message(b"", 1))])
    assert storage.get_queues() == []


@pytest.mark.parametrize("kind", [MemoryQueuesStorage, partial(SqliteQueuesStorage, ":memory:")])
def test_advance_ttl_leaves_the_same_message_to_others_alone(
    kind: Callable[[], QueuesStorageBase],
) -> None:
    with kind() as storage:
        item = Message(b"to everybody", 60)
        storage.push_many([("alice", item), ("bob", item)])
        storage.advance_ttl("alice", 20)
        assert [item.ttl for item in storage.get_items("alice")] == [40]
        assert [item.ttl for item in storage.get_items("bob")] == [60]


class TestTheSuiteFindsFaults:
    """A contract that a broken storage passes would be none."""

    @staticmethod
    def _run(storage: QueuesStorageBase, test: str) -> None:
        class Contract(StorageContract):
            def open_storage(self) -> QueuesStorageBase:
                return storage

        contract = Contract()
        contract.setup_method()
        try:
            getattr(contract, test)()
        finally:
            contract.teardown_method()

    def test_items_out_of_order(self) -> None:
        class Storage(MemoryQueuesStorage):
            def get_items(self, queue_name: str) -> list[Message]:
                return sorted(super().get_items(queue_name), key=lambda item: item.uuid)

        with pytest.raises(AssertionError, match="item 0 of queue 'peer' differs"):
            self._run(Storage(), "test_items_stay_in_the_order_in_which_they_were_pushed")

    def test_lost_items(self) -> None:
        class Storage(MemoryQueuesStorage):
            def remove_items(self, queue_name: str, items: Iterable[Message]) -> None:
                self.delete_items(list(items))

        with pytest.raises(AssertionError):
            self._run(Storage(), "test_remove_items_removes_one_of_two_with_the_same_uuid")
        with pytest.raises(AssertionError):
            self._run(Storage(), "test_remove_items_leaves_the_other_queues_alone")
        with pytest.raises(AssertionError):
            self._run(Storage(), "test_a_long_history_leaves_what_it_should")

    def test_half_a_batch(self) -> None:
        class Storage(MemoryQueuesStorage):
            def push(self, queue_name: str, item: Message) -> None:
                MemoryQueuesStorage.push_many(self, [(queue_name, item)])

            def push_many(self, entries: Iterable[tuple[str, Message]]) -> None:
                QueuesStorageBase.push_many(self, entries)

        with pytest.raises(AssertionError, match="the queues are"):
            self._run(Storage(), "test_push_many_that_fails_stores_nothing")

    def test_threads_that_disturb_each_other(self) -> None:
        class Storage(MemoryQueuesStorage):
            def get_items(self, queue_name: str) -> list[Message]:
                raise RuntimeError("only in the thread that opened it")

        with pytest.raises(RuntimeError):
            self._run(Storage(), "test_any_thread_may_use_it")

    def test_ttls_that_do_not_run(self) -> None:
        class Storage(MemoryQueuesStorage):
            def advance_ttl(self, queue_name: str, seconds: float) -> None:
                super().advance_ttl(queue_name, 0.0)

        with pytest.raises(AssertionError, match="what remains of the TTLs in queue 'alice' is"):
            self._run(Storage(), "test_advance_ttl_takes_from_what_is_in_the_queue")
        with pytest.raises(AssertionError, match=r"advance_ttl took -1\.0"):
            self._run(Storage(), "test_advance_ttl_refuses_what_is_no_time")

    def test_a_memory_that_is_too_short_or_too_long(self) -> None:
        class Storage(MemoryQueuesStorage):
            factor = 0.5

            def add_received(
                self, ident: str, uuids: Iterable[bytes], *, keep: int, sync: bool
            ) -> None:
                super().add_received(ident, uuids, keep=int(keep * self.factor), sync=sync)

        test = "test_the_last_are_kept_and_at_most_twice_as_many"
        with pytest.raises(AssertionError):
            self._run(Storage(), test)
        Storage.factor = 2
        with pytest.raises(AssertionError):
            self._run(Storage(), test)
        Storage.factor = 1
        self._run(Storage(), test)

    def test_an_inbox_without_a_memory(self) -> None:
        class Storage(MemoryQueuesStorage):
            def load_received(self, ident: str) -> list[bytes]:
                return []

        with pytest.raises(AssertionError):
            self._run(Storage(), "test_what_is_put_into_the_inbox_is_remembered_too")

    def test_attempts_that_are_not_counted(self) -> None:
        class Storage(MemoryQueuesStorage):
            def advance_inbox(self, done: int | None, starting: int | None) -> None:
                super().advance_inbox(done, None)

        with pytest.raises(AssertionError):
            self._run(Storage(), "test_going_on_removes_one_and_counts_an_attempt_of_another")
        with pytest.raises(AssertionError):
            self._run(Storage(), "test_a_long_history_of_receiving_leaves_what_it_should")


class TestMemoryStorageAlone:
    def test_a_hundred_thousand_items_are_removed_in_order(self) -> None:
        storage = MemoryQueuesStorage()
        items = [Message(b"", 60) for _ in range(100_000)]
        storage.push_many(("peer", item) for item in items)
        # Quadratic, this would take many minutes.
        for item in items[:-1]:
            storage.remove_items("peer", [item])
        assert [item.uuid for item in storage.get_items("peer")] == [items[-1].uuid]

    def test_a_message_may_be_changed_after_it_was_pushed(self) -> None:
        storage = MemoryQueuesStorage()
        item = Message(b"data", 60)
        storage.push("peer", item)
        item.ttl = 1
        storage.get_items("peer")[0].ttl = 2
        assert storage.get_items("peer")[0].ttl == 60

    def test_it_tells_the_time_of_a_death_by_the_given_clock(self) -> None:
        storage = MemoryQueuesStorage(wall_clock=lambda: 1234.5)
        (item_id,) = storage.push_inbox("alice", [Message(b"")], keep=1)
        storage.bury(item_id, "tired of it")
        assert [letter.died_at for letter in storage.get_dead()] == [1234.5]

    def test_a_received_message_may_be_changed_after_it_was_stored(self) -> None:
        storage = MemoryQueuesStorage()
        item = Message(b"data", 60)
        storage.push_inbox("alice", [item], keep=1)
        item.ttl = 1
        storage.get_inbox()[0].message.ttl = 2
        assert storage.get_inbox()[0].message.ttl == 60

    def test_repr_counts(self) -> None:
        storage = MemoryQueuesStorage()
        storage.push_many((name, Message(b"", 1)) for name in "aab")
        assert repr(storage) == "<MemoryQueuesStorage queues=2 items=3>"
