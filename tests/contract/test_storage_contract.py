"""Every storage passes one and the same suite, also one that was written for 1.6."""

from __future__ import annotations

import pickle
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from snakemq.exceptions import StorageError
from snakemq.message import Message
from snakemq.storage import (
    DeadLetter,
    MemoryQueuesStorage,
    QueuesStorageBase,
    QueueSummary,
    Removal,
    StoredItem,
)
from snakemq.storage._memory_queue import MemoryQueue
from snakemq.storage.sqlite import SqliteQueuesStorage
from snakemq.testing.storage_contract import StorageContract
from tests.helpers import DEADLINE


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
        ("push_inbox", ("a", []), {"keep": 1}),
        ("get_inbox", (), {}),
        ("advance_inbox", (None, None), {}),
        ("bury", (1, "reason"), {}),
        ("get_dead", (), {}),
        ("retry_dead", (None,), {}),
        ("drop_dead", (None,), {}),
        ("received_peers", (), {}),
        ("uncount_attempt", (1,), {}),
        ("count_dead", (), {}),
        ("add_dead", ([],), {}),
    ],
)
def test_a_storage_need_not_keep_what_was_received(
    name: str, arguments: tuple[object, ...], keywords: dict[str, object]
) -> None:
    storage = QueuesStorageBase()
    assert not storage.keeps_received
    with pytest.raises(NotImplementedError):
        getattr(storage, name)(*arguments, **keywords)


@pytest.mark.parametrize(
    ("name", "arguments", "keywords"),
    [
        ("summarize", (), {}),
        ("last_position", (), {}),
        ("get_page", ("a", 0), {"max_messages": 1, "max_bytes": 1}),
        ("change_items", ([],), {}),
        ("next_expiry", ("a",), {}),
        ("take_expired", ("a", 0.0, 0, 1), {}),
        ("oldest", ("a",), {}),
    ],
)
def test_a_storage_need_not_have_pages(
    name: str, arguments: tuple[object, ...], keywords: dict[str, object]
) -> None:
    storage = QueuesStorageBase()
    assert not storage.has_pages
    with pytest.raises(NotImplementedError):
        getattr(storage, name)(*arguments, **keywords)


def test_there_is_nothing_else_that_a_storage_has_to_do() -> None:
    storage = QueuesStorageBase()
    assert storage.maintain() is False
    assert storage.adopt() == []
    assert storage.may_wait() is True


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

    def test_positions_that_come_again(self) -> None:
        class Storage(MemoryQueuesStorage):
            def remove_items(self, queue_name: str, items: Iterable[Message]) -> None:
                super().remove_items(queue_name, items)
                self._last_position = 1

        with pytest.raises(AssertionError):
            self._run(Storage(), "test_no_position_is_given_twice")

    def test_pages_without_an_end(self) -> None:
        class Storage(MemoryQueuesStorage):
            limited = "max_bytes"

            def get_page(self, queue_name: str, after: int, **limits: int) -> list[StoredItem]:
                return super().get_page(queue_name, after, **{**limits, self.limited: 1 << 40})

        with pytest.raises(AssertionError):
            self._run(Storage(), "test_a_page_ends_with_so_many_bytes")
        Storage.limited = "max_messages"
        with pytest.raises(AssertionError):
            self._run(Storage(), "test_a_page_ends_with_so_many_messages")

    def test_pages_that_go_on_in_the_wrong_place(self) -> None:
        class Storage(MemoryQueuesStorage):
            def get_page(self, queue_name: str, after: int, **limits: int) -> list[StoredItem]:
                return super().get_page(queue_name, max(after - 1, 0), **limits)

        with pytest.raises(AssertionError):
            self._run(Storage(), "test_a_page_begins_behind_any_position")

    def test_a_count_that_believes_what_it_is_told(self) -> None:
        class Storage(MemoryQueuesStorage):
            said = 0

            def change_items(
                self,
                push: Sequence[tuple[str, Message]],
                remove: Sequence[Removal] = (),
                *,
                sync: bool = True,
            ) -> list[int]:
                positions = super().change_items(push, remove, sync=sync)
                self.said += sum(len(item.data) for _, item in push)
                self.said -= sum(removal.bytes for removal in remove)
                return positions

            def summarize(self) -> list[QueueSummary]:
                return [each._replace(bytes=self.said) for each in super().summarize()]

        with pytest.raises(AssertionError, match="the summary is"):
            self._run(Storage(), "test_what_is_missing_is_passed_over")

    def test_a_change_of_two_halves(self) -> None:
        class Storage(MemoryQueuesStorage):
            def change_items(
                self,
                push: Sequence[tuple[str, Message]],
                remove: Sequence[Removal] = (),
                *,
                sync: bool = True,
            ) -> list[int]:
                positions = super().change_items(push)
                for each in remove:
                    super().change_items([], [each])
                return positions

        with pytest.raises(AssertionError):
            self._run(Storage(), "test_a_change_that_fails_changes_nothing")

    def test_a_removal_from_every_queue(self) -> None:
        class Storage(MemoryQueuesStorage):
            def change_items(
                self,
                push: Sequence[tuple[str, Message]],
                remove: Sequence[Removal] = (),
                *,
                sync: bool = True,
            ) -> list[int]:
                everywhere = [
                    each._replace(queue_name=name) for each in remove for name in self.get_queues()
                ]
                return super().change_items(push, everywhere, sync=sync)

        with pytest.raises(AssertionError):
            self._run(Storage(), "test_a_removal_is_for_one_queue_only")

    def test_items_that_appear_behind_a_reader(self) -> None:
        class Storage(MemoryQueuesStorage):
            """Gives its positions in one step and shows the items in another.

            The first to push something is overtaken by another one, and seen
            to be by a reader.
            """

            def __init__(self) -> None:
                super().__init__()
                self.is_first = threading.Semaphore(1)
                self.overtaken = threading.Event()
                self.seen = threading.Event()

            def change_items(
                self,
                push: Sequence[tuple[str, Message]],
                remove: Sequence[Removal] = (),
                *,
                sync: bool = True,
            ) -> list[int]:
                with self._lock:
                    first = self._last_position + 1
                    self._last_position += len(push)
                is_first = bool(push) and self.is_first.acquire(blocking=False)
                if is_first:
                    assert self.seen.wait(DEADLINE)
                with self._lock:
                    for number, (name, item) in enumerate(push, first):
                        self._queues.setdefault(name, MemoryQueue()).append(number, item, 0.0)
                    for each in remove:
                        self._remove(each.queue_name, each.positions)
                if push and not is_first:
                    self.overtaken.set()
                return list(range(first, first + len(push)))

            def get_page(self, queue_name: str, *args: Any, **options: Any) -> list[StoredItem]:
                found = super().get_page(queue_name, *args, **options)
                if found and queue_name == "shared" and self.overtaken.is_set():
                    self.seen.set()
                return found

        with pytest.raises(AssertionError):
            self._run(Storage(), "test_who_reads_page_by_page_misses_nothing")

    def test_what_expired_in_the_wrong_order(self) -> None:
        class Storage(MemoryQueuesStorage):
            def take_expired(
                self, queue_name: str, seconds: float, after: int, max_messages: int
            ) -> list[StoredItem]:
                taken = super().take_expired(queue_name, seconds, after, max_messages)
                return sorted(taken, key=lambda item: item.message.ttl or 0.0)

        with pytest.raises(AssertionError):
            self._run(Storage(), "test_of_too_many_those_that_ran_out_first_are_taken")
        with pytest.raises(AssertionError):
            self._run(Storage(), "test_a_long_history_of_pages_leaves_what_it_should")

    def test_an_expiry_that_is_not_that_of_the_rest(self) -> None:
        class Storage(MemoryQueuesStorage):
            def next_expiry(self, queue_name: str, after: int = 0) -> float | None:
                return super().next_expiry(queue_name)

        with pytest.raises(AssertionError, match="the next expiry in queue 'peer' behind"):
            self._run(Storage(), "test_the_next_expiry_of_what_is_behind_a_position")

    def test_letters_that_keep_their_numbers(self) -> None:
        class Storage(MemoryQueuesStorage):
            def add_dead(self, letters: Iterable[DeadLetter]) -> None:
                for letter in letters:
                    self._dead[letter.id] = letter

        with pytest.raises(AssertionError):
            self._run(Storage(), "test_letters_of_another_storage_can_be_added")
        with pytest.raises(AssertionError):
            self._run(Storage(), "test_adding_letters_that_fails_adds_none")

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
