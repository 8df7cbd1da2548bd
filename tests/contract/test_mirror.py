"""A storage without pages gets them by a copy in memory, and is told of every change."""

from __future__ import annotations

import contextlib
import inspect
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

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
from snakemq.storage._mirror import MirroredStorage
from snakemq.testing.storage_contract import StorageContract
from tests.contract.test_storage_contract import PickledStorage
from tests.helpers import wait_until


class OldStorage(QueuesStorageBase):
    """As 1.6 had it, with nothing but its methods; notes what is called, and can fail."""

    def __init__(self) -> None:
        self.content = MemoryQueuesStorage()
        self.calls: list[str] = []
        self.failing: set[str] = set()

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failing:
            raise OSError(f"{name} does not work")

    def close(self) -> None:
        self._called("close")

    def get_queues(self) -> list[str]:
        self._called("get_queues")
        return self.content.get_queues()

    def get_items(self, queue_name: str) -> list[Message]:
        self._called("get_items")
        return self.content.get_items(queue_name)

    def push(self, queue_name: str, item: Message) -> None:
        self._called("push")
        self.content.push(queue_name, item)

    def delete_items(self, items: Sequence[Message]) -> None:
        self._called("delete_items")
        self.content.delete_items(items)

    def delete_all(self) -> None:
        self._called("delete_all")
        self.content.delete_all()

    def update_items_ttl(self, items: Sequence[Message]) -> None:
        self._called("update_items_ttl")
        self.content.update_items_ttl(items)

    def left(self, queue_name: str = "bob") -> list[bytes]:
        """What a restart would find."""
        return [item.data for item in self.content.get_items(queue_name)]


class BetterStorage(OldStorage):
    """It overrides what the base class can do only badly."""

    def push_many(self, entries: Iterable[tuple[str, Message]]) -> None:
        self._called("push_many")
        self.content.push_many(entries)

    def remove_items(self, queue_name: str, items: Iterable[Message]) -> None:
        self._called("remove_items")
        self.content.remove_items(queue_name, items)

    def advance_ttl(self, queue_name: str, seconds: float) -> None:
        self._called("advance_ttl")
        self.content.advance_ttl(queue_name, seconds)


def message(data: bytes, ttl: float | None = 60.0) -> Message:
    return Message(data, ttl, uuid=data)


def page(storage: QueuesStorageBase, queue_name: str = "bob") -> list[StoredItem]:
    return storage.get_page(queue_name, 0, max_messages=1000, max_bytes=1_000_000)


def datas(storage: QueuesStorageBase, queue_name: str = "bob") -> list[bytes]:
    return [item.message.data for item in page(storage, queue_name)]


def removal(storage: QueuesStorageBase, queue_name: str = "bob") -> Removal:
    """All that is in a queue."""
    items = page(storage, queue_name)
    return Removal(
        queue_name,
        [item.position for item in items],
        sum(len(item.message.data) for item in items),
    )


class Mirrored(StorageContract):
    """It is a storage like any other, but for one thing."""

    def test_the_oldest_is_when_the_first_was_pushed(self) -> None:
        storage = self._open()
        storage.push("peer", message(b""))
        assert storage.oldest("peer") is not None
        # The storage has no place for it.
        assert self._reopen(storage).oldest("peer") is None


class TestContractOverOneOf16(Mirrored):
    atomic = False
    removes_one = False

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self._path = tmp_path / "storage.pickle"

    def open_storage(self) -> QueuesStorageBase:
        return MirroredStorage(PickledStorage(self._path))


class TestContractOverABetterOne(Mirrored):
    """Nothing is lost of what the storage can do."""

    @pytest.fixture(autouse=True)
    def _place(self) -> None:
        class Storage(MemoryQueuesStorage):
            has_pages = False

        self._storage = Storage()

    def open_storage(self) -> QueuesStorageBase:
        return MirroredStorage(self._storage)


class TestReading:
    def test_it_is_read_once(self) -> None:
        storage = OldStorage()
        storage.content.push_many([("bob", message(b"1")), ("eve", message(b"22"))])
        mirror = MirroredStorage(storage)
        storage.calls.clear()
        assert datas(mirror) == [b"1"]
        assert [item.data for item in mirror.get_items("eve")] == [b"22"]
        assert sorted(mirror.get_queues()) == ["bob", "eve"]
        assert sorted(mirror.summarize()) == [
            QueueSummary("bob", 1, 1),
            QueueSummary("eve", 1, 2),
        ]
        assert mirror.next_expiry("bob") == 60.0
        assert mirror.last_position() == 2
        assert storage.calls == []

    def test_a_queue_that_is_named_twice_is_read_once(self) -> None:
        class Storage(OldStorage):
            def get_queues(self) -> list[str]:
                return super().get_queues() * 2

        storage = Storage()
        storage.content.push("bob", message(b"1"))
        assert datas(MirroredStorage(storage)) == [b"1"]

    def test_when_it_was_pushed_is_known_of_what_came_later(self) -> None:
        storage = OldStorage()
        storage.content.push("bob", message(b"1"))
        mirror = MirroredStorage(storage, wall_clock=lambda: 1234.5)
        mirror.change_items([("bob", message(b"2"))])
        assert mirror.oldest("bob") is None
        first = page(mirror)[0].position
        mirror.change_items([], [Removal("bob", [first], 1)])
        assert mirror.oldest("bob") == 1234.5

    def test_a_storage_that_can_not_be_read_says_so(self) -> None:
        storage = OldStorage()
        storage.content.push("bob", message(b"1"))
        storage.failing = {"get_items"}
        with pytest.raises(OSError, match="get_items does not work"):
            MirroredStorage(storage)


class TestChanging:
    def test_one_is_pushed_and_many_are_pushed_together(self) -> None:
        storage = BetterStorage()
        mirror = MirroredStorage(storage)
        storage.calls.clear()
        mirror.push("bob", message(b"1"))
        mirror.change_items([("bob", message(b"2"))])
        mirror.change_items([("bob", message(b"3")), ("bob", message(b"4"))])
        mirror.push_many(iter([("bob", message(b"5")), ("bob", message(b"6"))]))
        assert storage.calls == ["push", "push", "push_many", "push_many"]
        assert storage.left() == datas(mirror) == [b"%d" % number for number in range(1, 7)]

    def test_what_comes_is_stored_before_anything_leaves(self) -> None:
        for storage in (BetterStorage(), OldStorage()):
            mirror = MirroredStorage(storage)
            mirror.change_items([("bob", message(b"1"))])
            storage.calls.clear()
            mirror.change_items([("bob", message(b"2"))], [removal(mirror)])
            assert storage.calls[0] == "push"
            assert len(storage.calls) == 2
            assert storage.left() == datas(mirror) == [b"2"]

    @pytest.mark.parametrize("method", ["push", "push_many", "remove_items"])
    def test_what_fails_there_is_not_made_here(self, method: str) -> None:
        storage = BetterStorage()
        mirror = MirroredStorage(storage)
        mirror.change_items([("bob", message(b"1"))])
        new = [("bob", message(b"2")), ("eve", message(b"3"))]
        before = mirror.last_position()
        storage.failing = {method}
        with pytest.raises(OSError, match=f"{method} does not work"):
            mirror.change_items(new[:1] if method == "push" else new, [removal(mirror)])
        assert mirror.last_position() == before
        assert datas(mirror) == [b"1"]
        assert datas(mirror, "eve") == []
        storage.failing.clear()
        mirror.change_items([("eve", message(b"4"))], [removal(mirror)])
        assert datas(mirror) == []
        assert datas(mirror, "eve") == [b"4"]

    def test_the_same_for_the_methods_of_1_6(self) -> None:
        storage = BetterStorage()
        mirror = MirroredStorage(storage)
        item = message(b"1", 10.0)
        mirror.push("bob", item)
        storage.failing = {
            "push",
            "push_many",
            "remove_items",
            "delete_items",
            "delete_all",
            "update_items_ttl",
            "advance_ttl",
        }
        for change in (
            lambda: mirror.push("bob", message(b"2")),
            lambda: mirror.push_many([("bob", message(b"2")), ("bob", message(b"3"))]),
            lambda: mirror.remove_items("bob", [item]),
            lambda: mirror.delete_items([item]),
            lambda: mirror.delete_all(),
            lambda: mirror.update_items_ttl([item.with_ttl(5.0)]),
            lambda: mirror.advance_ttl("bob", 5.0),
            lambda: mirror.take_expired("bob", 10.0, 0, 1),
        ):
            with pytest.raises(OSError, match="does not work"):
                change()
            assert [each.message.ttl for each in page(mirror)] == [10.0]

    def test_what_can_not_be_read_is_not_pushed_there(self) -> None:
        storage = BetterStorage()
        mirror = MirroredStorage(storage)
        broken = message(b"2")
        broken.ttl = "soon"  # type: ignore[assignment]
        storage.calls.clear()
        with pytest.raises(ValueError, match="soon"):
            mirror.change_items([("bob", message(b"1")), ("bob", broken)])
        assert storage.calls == []
        assert datas(mirror) == []

    def test_what_expired_leaves_the_storage_too(self) -> None:
        for storage in (BetterStorage(), OldStorage()):
            mirror = MirroredStorage(storage)
            mirror.push_many([("bob", message(b"%d" % ttl, float(ttl))) for ttl in (3, 1, 2)])
            mirror.advance_ttl("bob", 2.0)
            taken = mirror.take_expired("bob", 0.0, 0, 10)
            assert [each.message.data for each in taken] == [b"1", b"2"]
            assert storage.left() == datas(mirror) == [b"3"]


class TestCopies:
    """Of a message to several peers, a storage of 1.6 can delete all copies only."""

    def test_they_stay_until_the_last_has_left(self) -> None:
        storage = OldStorage()
        mirror = MirroredStorage(storage)
        item = message(b"to everybody")
        mirror.push_many([("alice", item), ("bob", item), ("bob", item), ("carol", item)])
        mirror.change_items([], [removal(mirror, "alice")])
        first = page(mirror)[0].position
        mirror.change_items([], [Removal("bob", [first], len(item.data))])
        mirror.remove_items("bob", [item, item, item])
        mirror.remove_items("bob", [item])
        assert mirror.get_queues() == ["carol"]
        assert storage.left("carol") == [item.data]
        mirror.take_expired("carol", 60.0, 0, 10)
        assert storage.content.get_queues() == mirror.get_queues() == []

    def test_all_of_them_can_leave_at_once(self) -> None:
        storage = OldStorage()
        mirror = MirroredStorage(storage)
        item = message(b"to everybody")
        mirror.push_many([("alice", item), ("bob", item), ("bob", item)])
        storage.calls.clear()
        mirror.change_items([], [removal(mirror, "alice"), removal(mirror, "bob")])
        assert storage.calls == ["delete_items"]
        assert storage.content.get_queues() == mirror.get_queues() == []

    def test_one_that_comes_while_the_last_leaves_stays(self) -> None:
        storage = OldStorage()
        mirror = MirroredStorage(storage)
        item = message(b"once more")
        mirror.push("bob", item)
        mirror.change_items([("bob", item)], [removal(mirror)])
        assert len(page(mirror)) == 1
        assert item.data in storage.left()
        mirror.change_items([], [removal(mirror)])
        assert storage.content.get_queues() == mirror.get_queues() == []

    def test_a_storage_that_can_remove_one_is_asked_to(self) -> None:
        storage = BetterStorage()
        mirror = MirroredStorage(storage)
        item = message(b"to everybody")
        mirror.push_many([("alice", item), ("bob", item), ("bob", item)])
        mirror.remove_items("bob", [item, message(b"missing")])
        assert storage.left("bob") == storage.left("alice") == [item.data]
        mirror.change_items([], [removal(mirror, "alice"), removal(mirror, "bob")])
        assert storage.content.get_queues() == mirror.get_queues() == []
        storage.calls.clear()
        mirror.remove_items("bob", [item])
        assert storage.calls == []


class TestTtls:
    def test_they_are_stored_when_asked_for(self) -> None:
        storage = OldStorage()
        mirror = MirroredStorage(storage)
        mirror.push_many([("bob", message(b"1", 10.0)), ("bob", message(b"2", None))])
        mirror.advance_ttl("bob", 3.0)
        mirror.advance_ttl("bob", 1.0)
        mirror.push("bob", message(b"3", 10.0))
        mirror.advance_ttl("eve", 1.0)
        assert [item.message.ttl for item in page(mirror)] == [6.0, None, 10.0]
        assert "update_items_ttl" not in storage.calls
        mirror.store_ttls("bob")
        assert [item.ttl for item in storage.content.get_items("bob")] == [6.0, None, 10.0]
        storage.calls.clear()
        # Nothing has changed since.
        mirror.store_ttls("bob")
        mirror.store_ttls("eve")
        assert storage.calls == []

    def test_those_that_did_not_run_are_not_stored(self) -> None:
        changed: list[list[bytes]] = []

        class Storage(OldStorage):
            def update_items_ttl(self, items: Sequence[Message]) -> None:
                changed.append([item.data for item in items])

        mirror = MirroredStorage(Storage())
        mirror.push("bob", message(b"1"))
        mirror.push("eve", message(b"2"))
        mirror.advance_ttl("bob", 3.0)
        mirror.push("bob", message(b"3"))
        mirror.store_ttls("bob")
        mirror.store_ttls("eve")
        assert changed == [[b"1"]]
        mirror.advance_ttl("bob", 3.0)
        mirror.store_ttls("bob")
        assert changed == [[b"1"], [b"1", b"3"]]

    def test_a_queue_that_was_emptied_has_none(self) -> None:
        storage = OldStorage()
        mirror = MirroredStorage(storage)
        mirror.push("bob", message(b"1"))
        mirror.advance_ttl("bob", 3.0)
        mirror.change_items([("bob", message(b"2"))], [removal(mirror)])
        storage.calls.clear()
        mirror.store_ttls("bob")
        assert storage.calls == []
        mirror.advance_ttl("bob", 3.0)
        mirror.delete_all()
        storage.calls.clear()
        mirror.close()
        assert storage.calls == ["close"]

    def test_closing_stores_them_and_closes_even_if_that_fails(self) -> None:
        storage = OldStorage()
        mirror = MirroredStorage(storage)
        mirror.push("bob", message(b"1", 10.0))
        mirror.advance_ttl("bob", 3.0)
        storage.failing = {"update_items_ttl"}
        with pytest.raises(OSError, match="update_items_ttl does not work"):
            mirror.close()
        assert storage.calls[-1] == "close"
        storage.failing.clear()
        mirror.close()
        assert [item.ttl for item in storage.content.get_items("bob")] == [7.0]

    def test_a_storage_with_a_clock_is_told_the_time(self) -> None:
        storage = BetterStorage()
        mirror = MirroredStorage(storage)
        mirror.push("bob", message(b"1", 10.0))
        mirror.advance_ttl("bob", 3.0)
        assert [item.ttl for item in storage.content.get_items("bob")] == [7.0]
        mirror.store_ttls("bob")
        mirror.close()
        assert "update_items_ttl" not in storage.calls

    def test_what_is_no_time_is_refused(self) -> None:
        storage = BetterStorage()
        mirror = MirroredStorage(storage)
        with pytest.raises(ValueError, match="seconds must be"):
            mirror.advance_ttl("bob", -1.0)
        assert "advance_ttl" not in storage.calls


class TestThreads:
    def test_a_storage_is_used_by_one_thread_at_a_time_and_read_meanwhile(self) -> None:
        entered, leave = threading.Event(), threading.Event()

        class Storage(OldStorage):
            def push(self, queue_name: str, item: Message) -> None:
                self.calls.append("push")
                entered.set()
                assert leave.wait(60)
                super().push(queue_name, item)

        storage = Storage()
        mirror = MirroredStorage(storage)
        threads = [
            threading.Thread(target=mirror.push, args=("bob", message(b"%d" % number)))
            for number in range(3)
        ]
        storage.calls.clear()
        for thread in threads:
            thread.start()
        assert entered.wait(60)
        # Who only reads does not wait for a slow storage.
        assert datas(mirror) == []
        assert mirror.next_expiry("bob") is None
        assert storage.calls == ["push"]
        leave.set()
        wait_until(lambda: not any(thread.is_alive() for thread in threads))
        assert storage.left() == datas(mirror)
        assert len(datas(mirror)) == 3


#: Methods that are none of the mirror's business, and how to call them.
CALLS: Final[dict[str, tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "received_peers": ((), {}),
    "load_received": (("alice",), {}),
    "add_received": (("alice", [b"1"]), {"keep": 1, "sync": True}),
    "sync": ((), {}),
    "push_inbox": (("alice", []), {"keep": 1}),
    "get_inbox": ((3, 4), {}),
    "advance_inbox": ((1, 2), {}),
    "uncount_attempt": ((1,), {}),
    "bury": ((1, "reason"), {}),
    "get_dead": ((3, 4), {}),
    "count_dead": ((), {}),
    "add_dead": (([],), {}),
    "retry_dead": (([1],), {}),
    "drop_dead": (([1],), {}),
    "maintain": ((), {}),
    "transaction": ((), {}),
    "push_with": ((None, []), {}),
}


class TestEverythingElse:
    def test_it_reaches_the_storage(self) -> None:
        called: list[tuple[str, Any, Any, Any]] = []

        def method(name: str) -> Any:
            def call(self: object, *args: Any, **options: Any) -> object:
                result = object()
                called.append((name, args, options, result))
                return result

            return call

        kind = type("Storage", (OldStorage,), {name: method(name) for name in CALLS})
        mirror = MirroredStorage(kind())
        for name, (args, options) in CALLS.items():
            result = getattr(mirror, name)(*args, **options)
            assert called[-1][:3] == (name, args, options)
            returns = inspect.signature(getattr(QueuesStorageBase, name)).return_annotation
            assert result is (None if returns == "None" else called[-1][3])
        assert len(called) == len(CALLS)

    def test_no_method_was_forgotten(self) -> None:
        methods = {
            name
            for name, _ in inspect.getmembers(QueuesStorageBase, inspect.isfunction)
            if not name.startswith("_") and name != "may_wait"
        }
        base = vars(QueuesStorageBase)
        assert {name for name in methods if getattr(MirroredStorage, name) is base[name]} == set()

    def test_what_it_can_do_is_what_the_storage_can(self) -> None:
        old = MirroredStorage(OldStorage())
        assert old.has_pages
        assert not old.keeps_received
        old.sync()
        assert old.maintain() is False
        assert old.adopt() == []
        with pytest.raises(NotImplementedError):
            old.received_peers()
        with pytest.raises(StorageError, match="OldStorage has no transactions"):
            old.transaction()
        with (
            closing(sqlite3.connect(":memory:")) as connection,
            pytest.raises(StorageError, match="OldStorage has no file"),
        ):
            old.push_with(connection, [])

        class Receiving(OldStorage):
            keeps_received = True

            def get_dead(self, after: int = 0, limit: int | None = None) -> list[DeadLetter]:
                return []

        assert MirroredStorage(Receiving()).keeps_received
        assert MirroredStorage(Receiving()).get_dead() == []

    def test_who_may_wait_is_known_to_the_storage(self) -> None:
        storage = OldStorage()
        mirror = MirroredStorage(storage)
        assert mirror.may_wait() is True
        mirror.may_wait = lambda: False
        assert storage.may_wait() is False
        assert mirror.may_wait() is False

    def test_what_is_adopted_gets_positions_here(self) -> None:
        class Storage(BetterStorage):
            def adopt(self) -> list[tuple[str, StoredItem]]:
                items = [
                    ("bob", StoredItem(1, message(b"2"))),
                    ("eve", StoredItem(2, message(b"3"))),
                ]
                for name, item in items:
                    self.content.push(name, item.message)
                return items

        mirror = MirroredStorage(Storage())
        mirror.push("bob", message(b"1"))
        adopted = mirror.adopt()
        assert [(name, item.message.data) for name, item in adopted] == [
            ("bob", b"2"),
            ("eve", b"3"),
        ]
        (eve,) = page(mirror, "eve")
        assert [item.position for _, item in adopted] == [page(mirror)[1].position, eve.position]

    def test_a_transaction_is_that_of_the_storage(self) -> None:
        class Storage(OldStorage):
            @contextlib.contextmanager
            def transaction(self) -> Iterator[sqlite3.Connection]:
                with closing(sqlite3.connect(":memory:")) as connection:
                    yield connection

        with MirroredStorage(Storage()).transaction() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
