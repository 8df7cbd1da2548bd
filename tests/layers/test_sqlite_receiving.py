"""The SQLite storage: old files, what may be late, what was received."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from snakemq.exceptions import StorageError
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.helpers import DEADLINE
from tests.layers.sqlite_support import (
    TABLE_OF_16,
    connection_of,
    contents,
    execute,
    execute_as_16,
    message,
    run,
    running,
    setting,
    statements,
    steps,
)

NORMAL, FULL, EXTRA = 1, 2, 3


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "storage.db"


@pytest.fixture
def storage(path: Path) -> Iterator[SqliteQueuesStorage]:
    with SqliteQueuesStorage(path, busy_timeout=0.05) as storage:
        yield storage


def ttls(storage: SqliteQueuesStorage, queue_name: str = "peer") -> list[float | None]:
    return [item.ttl for item in storage.get_items(queue_name)]


class TestOldFiles:
    ROWS = (
        "INSERT INTO items VALUES ('peer', x'3031', x'00', 60.0, 1)",
        "INSERT INTO items VALUES ('peer', x'3032', x'00', NULL, 1)",
    )

    def test_ttls_run_from_when_the_file_is_opened(self, path: Path) -> None:
        execute(path, TABLE_OF_16, *self.ROWS)
        with SqliteQueuesStorage(path) as storage:
            assert ttls(storage) == [60.0, None]
            storage.advance_ttl("peer", 20.0)
            assert ttls(storage) == [40.0, None]
        execute_as_16(
            path,
            "INSERT INTO items (queue_name, uuid, data, ttl, flags)"
            " VALUES ('peer', x'3033', x'00', 60.0, 1)",
        )
        with SqliteQueuesStorage(path) as storage:
            assert ttls(storage) == [40.0, None, 60.0]
            storage.advance_ttl("peer", 20.0)
        with SqliteQueuesStorage(path) as storage:
            assert ttls(storage) == [20.0, None, 40.0]

    def test_a_file_of_before_the_receiving_side_gets_it(self, path: Path) -> None:
        execute(
            path,
            TABLE_OF_16,
            *self.ROWS,
            "CREATE INDEX items_queue ON items (queue_name)",
            "PRAGMA journal_mode = WAL",
        )
        with SqliteQueuesStorage(path) as storage:
            storage.push_inbox("peer", [message(b"received")], keep=10)
            storage.advance_ttl("peer", 20.0)
        with SqliteQueuesStorage(path) as storage:
            assert ttls(storage) == [40.0, None]
            assert [item.message.data for item in storage.get_inbox()] == [b"received"]

    def test_it_gets_all_of_it_or_nothing(self, path: Path) -> None:
        # In the way of the last thing that is made.
        execute(path, TABLE_OF_16, *self.ROWS, "CREATE TABLE items_expiry (a)")
        objects = "SELECT type, name, sql FROM sqlite_master"
        before = execute(path, objects)
        with pytest.raises(StorageError, match="items_expiry"):
            SqliteQueuesStorage(path)
        assert execute(path, objects) == before
        execute(path, "DROP TABLE items_expiry")
        with SqliteQueuesStorage(path) as storage:
            assert ttls(storage) == [60.0, None]

    def test_a_file_with_all_of_it_is_opened_without_the_lock_of_writers(self, path: Path) -> None:
        with SqliteQueuesStorage(path) as storage:
            storage.push("peer", message(b"stored"))
            storage.advance_ttl("peer", 1.0)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with SqliteQueuesStorage(path, busy_timeout=0.05) as storage:
                assert contents(storage) == [b"stored"]
            other.execute("ROLLBACK")

    def test_the_clock_of_a_queue_ends_with_it(self, path: Path) -> None:
        clocks = "SELECT queue_name, seconds FROM snakemq_queues ORDER BY queue_name"
        with SqliteQueuesStorage(path) as storage:
            storage.advance_ttl("never", 1.0)
            items = {name: message() for name in ("stays", "gone", "back")}
            for name, item in items.items():
                storage.push(name, item)
                storage.advance_ttl(name, 1.0)
            storage.delete_items([items["gone"], items["back"]])
            storage.push("back", message())
            storage.advance_ttl("back", 0.5)
            assert execute(path, clocks) == [("back", 0.5), ("stays", 1.0)]
            assert ttls(storage, "back") == [59.5]
        # 1.6 knows of no clock.
        execute_as_16(path, "DELETE FROM items WHERE queue_name = 'back'")
        with SqliteQueuesStorage(path) as storage:
            assert execute(path, clocks) == [("stays", 1.0)]
            assert ttls(storage, "stays") == [59.0]
            storage.delete_all()
            assert execute(path, clocks) == []


#: What may be late.
LATE: dict[str, Callable[[SqliteQueuesStorage], object]] = {
    "add_received": lambda storage: storage.add_received("alice", [b"1"], keep=1, sync=False),
    "advance_inbox": lambda storage: storage.advance_inbox(1, 2),
    "advance_ttl": lambda storage: storage.advance_ttl("peer", 1.0),
}

#: What takes it along.
DURABLE: dict[str, Callable[[SqliteQueuesStorage], object]] = {
    "sync": lambda storage: storage.sync(),
    "add_received": lambda storage: storage.add_received("bob", [b"1"], keep=1, sync=True),
    "push_inbox": lambda storage: storage.push_inbox("alice", [message()], keep=1),
    "push": lambda storage: storage.push("peer", message()),
    # These change nothing, and a commit that changes nothing syncs nothing.
    "remove_items": lambda storage: storage.remove_items("peer", [message()]),
    "update_items_ttl": lambda storage: storage.update_items_ttl(storage.get_items("peer")),
    "bury": lambda storage: storage.bury(1000, "nobody"),
    "transaction": lambda storage: _nothing_inside(storage),
}


class TestLate:
    """What need not be synced is not; and what is synced takes it along."""

    @pytest.fixture(autouse=True)
    def _content(self, storage: SqliteQueuesStorage) -> None:
        storage.push_inbox("alice", [message(b"%d" % number) for number in range(3)], keep=10)
        storage.push("peer", message())

    @pytest.mark.parametrize("late", LATE.values(), ids=LATE)
    @pytest.mark.parametrize("durable", DURABLE.values(), ids=DURABLE)
    def test_what_is_durable_syncs_what_was_late(
        self,
        path: Path,
        storage: SqliteQueuesStorage,
        late: Callable[[SqliteQueuesStorage], object],
        durable: Callable[[SqliteQueuesStorage], object],
    ) -> None:
        before = _log_size(path)
        late(storage)
        assert setting(storage, "synchronous") == NORMAL  # a commit does not sync
        written = _log_size(path)
        assert written > before
        durable(storage)
        assert setting(storage, "synchronous") == FULL  # ... and now it does,
        assert _log_size(path) > written  # ... as there is something to commit
        assert statements(storage, storage.sync) == []

    def test_a_sync_of_nothing_costs_nothing(self, storage: SqliteQueuesStorage) -> None:
        assert statements(storage, storage.sync) == []
        storage.advance_inbox(1, None)
        assert any(one == "COMMIT" for one in statements(storage, storage.sync))
        assert statements(storage, storage.sync) == []

    def test_the_first_sync_is_for_what_a_killed_process_left(self, path: Path) -> None:
        program = """
            import os, sys
            from snakemq.storage.sqlite import SqliteQueuesStorage
            storage = SqliteQueuesStorage(sys.argv[1])
            storage.add_received("bob", [b"1"], keep=1, sync=False)
            os._exit(0)
        """
        killed = path.with_name("killed.db")
        run(program, killed)
        with SqliteQueuesStorage(killed) as storage:
            written = _log_size(killed)
            assert written > 0
            storage.sync()
            assert _log_size(killed) > written
            assert setting(storage, "synchronous") == FULL
            assert statements(storage, storage.sync) == []
            assert storage.load_received("bob") == [b"1"]

    def test_a_row_of_late_changes_is_not_more_than_the_changes(
        self, storage: SqliteQueuesStorage
    ) -> None:
        storage.add_received("alice", [b"1"], keep=10, sync=False)
        found = statements(
            storage, lambda: storage.add_received("alice", [b"2"], keep=10, sync=False)
        )
        assert [one.split()[0] for one in found] == ["INSERT"]
        found = statements(storage, lambda: storage.advance_inbox(1, 2))
        assert [one.split()[0] for one in found] == ["BEGIN", "DELETE", "UPDATE", "COMMIT"]
        found = statements(storage, lambda: storage.advance_inbox(None, 2))
        assert [one.split()[0] for one in found] == ["UPDATE"]

    def test_a_late_change_that_fails_changes_nothing(self, storage: SqliteQueuesStorage) -> None:
        with closing(sqlite3.connect(storage.filename, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for late in LATE.values():
                with pytest.raises(StorageError, match="locked"):
                    late(storage)
            other.execute("ROLLBACK")
        assert [item.attempts for item in storage.get_inbox()] == [0, 0, 0]
        assert ttls(storage) == [60.0]
        connection_of(storage).execute(
            "CREATE TEMP TRIGGER fails BEFORE UPDATE ON snakemq_inbox"
            " BEGIN SELECT raise(ABORT, 'no'); END"
        )
        with pytest.raises(StorageError, match="does not work"):
            storage.advance_inbox(1, 2)
        assert [item.id for item in storage.get_inbox()] == [1, 2, 3]
        storage.push("peer", message(b"goes on"))

    def test_without_a_log_everything_is_synced(self) -> None:
        with SqliteQueuesStorage(":memory:") as storage:
            storage.push_inbox("alice", [message(), message()], keep=10)
            storage.push("peer", message())
            for late in LATE.values():
                late(storage)
                assert setting(storage, "synchronous") == EXTRA
            assert statements(storage, storage.sync) == []

    def test_what_was_late_survives_a_kill(self, path: Path, storage: SqliteQueuesStorage) -> None:
        storage.close()
        program = """
            import sys
            from snakemq.message import Message
            from snakemq.storage.sqlite import SqliteQueuesStorage
            storage = SqliteQueuesStorage(sys.argv[1])
            previous = None
            for number in range(1000000):
                storage.add_received("bob", [b"%d" % number], keep=1000000, sync=False)
                (item_id,) = storage.push_inbox("bob", [Message(b"%d" % number)], keep=1000000)
                storage.advance_inbox(previous, item_id)
                previous = item_id
                print(number, flush=True)
        """
        told = []
        with running(program, path) as process:
            assert process.stdout is not None
            while len(told) < 50:
                told.append(int(process.stdout.readline()))
            process.kill()
            told += [int(line) for line in process.stdout if line.endswith("\n")]
        last = told[-1]
        with SqliteQueuesStorage(path) as again:
            assert b"%d" % last in again.load_received("bob")
            (first, *others) = [item for item in again.get_inbox() if item.ident == "bob"]
            # It may have come further without time to say so.
            assert int(first.message.data) > last or (first.message.data, first.attempts) == (
                b"%d" % last,
                1,
            )
            assert len(others) <= 1


class TestCost:
    @pytest.mark.parametrize("operation", ["add", "push", "advance", "bury"])
    def test_it_does_not_depend_on_what_is_there(self, operation: str) -> None:
        def cost(there: int) -> int:
            with SqliteQueuesStorage(":memory:") as storage:
                ids = storage.push_inbox("alice", [message()] * there, keep=10_000)
                for number in range(there):
                    uuid = b"%d" % number
                    storage.add_received("alice", [uuid], keep=10_000, sync=False)
                    storage.add_received(f"peer{number % 500}", [uuid], keep=99, sync=False)
                middle = ids[there // 2]
                operations: dict[str, Callable[[], object]] = {
                    "add": lambda: storage.add_received("alice", [b"x"], keep=9999, sync=False),
                    "push": lambda: storage.push_inbox("alice", [message()], keep=9999),
                    "advance": lambda: storage.advance_inbox(middle, middle + 1),
                    "bury": lambda: storage.bury(middle, "tired of it"),
                }
                return steps(storage, operations[operation])

        assert cost(2000) <= cost(20) + 30

    def test_trimming_happens_now_and_then(self) -> None:
        with SqliteQueuesStorage(":memory:") as storage:
            deletions = 0
            for number in range(1000):
                found = statements(
                    storage,
                    lambda uuid=b"%d" % number: storage.add_received(
                        "alice", [uuid], keep=100, sync=False
                    ),
                )
                deletions += any(one.startswith("DELETE") for one in found)
            assert deletions == 8
            assert storage.load_received("alice")[-100:] == [b"%d" % n for n in range(900, 1000)]

    def test_a_large_message_is_not_written_again_with_an_attempt(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        (large,) = storage.push_inbox("alice", [message(bytes(500_000))], keep=10)
        before = _log_size(path)
        storage.advance_inbox(None, large)
        assert _log_size(path) - before < 20_000


class TestReceived:
    def test_a_damaged_row_is_reported(self, path: Path, storage: SqliteQueuesStorage) -> None:
        storage.push_inbox("alice", [message(), message()], keep=10)
        storage.bury(2, "tired of it")
        execute(path, "UPDATE snakemq_inbox SET uuid = 'text'", "UPDATE snakemq_dead SET ttl = -1")
        with pytest.raises(StorageError, match=r"'snakemq_inbox' .* delete the row with rowid 1"):
            storage.get_inbox()
        with pytest.raises(StorageError, match=r"'snakemq_dead' .* delete the row with rowid 2"):
            storage.get_dead()

    def test_a_full_disk_loses_nothing(self, path: Path, storage: SqliteQueuesStorage) -> None:
        pages = setting(storage, "page_count")
        connection_of(storage).execute(f"PRAGMA max_page_count = {pages + 20}")
        stored: list[int] = []
        with pytest.raises(StorageError, match="the disk is full; nothing was changed"):  # noqa: PT012
            while True:
                stored += storage.push_inbox("alice", [message(bytes(1000))], keep=1000)
        assert [item.id for item in storage.get_inbox()] == stored
        assert len(storage.load_received("alice")) == len(stored)
        for _ in range(8):  # so that a page is free again
            storage.advance_inbox(stored.pop(0), stored[0])
        stored += storage.push_inbox("alice", [message(bytes(1000))], keep=1000)
        assert [item.id for item in storage.get_inbox()] == stored

    def test_a_new_thread_may_do_it(self, storage: SqliteQueuesStorage) -> None:
        with ThreadPoolExecutor(1) as pool:
            (item_id,) = pool.submit(
                storage.push_inbox, "alice", [message(b"here")], keep=1
            ).result(DEADLINE)
            pool.submit(storage.sync).result(DEADLINE)
        assert [item.id for item in storage.get_inbox()] == [item_id]


def _log_size(path: Path) -> int:
    return os.path.getsize(f"{path}-wal")


def _nothing_inside(storage: SqliteQueuesStorage) -> None:
    with storage.transaction():
        pass
