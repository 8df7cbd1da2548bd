"""Transactions that the SQLite storage shares with the application, and the other way round."""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from snakemq.exceptions import StorageError
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.helpers import DEADLINE
from tests.layers.sqlite_support import (
    connection_of,
    contents,
    execute,
    message,
    running,
    setting,
)

FULL = 2


class Broken(Exception):
    """Something in the application."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "storage.db"


@pytest.fixture
def storage(path: Path) -> Iterator[SqliteQueuesStorage]:
    with SqliteQueuesStorage(path, busy_timeout=0.05) as storage:
        execute(path, "CREATE TABLE orders (name TEXT UNIQUE)")
        yield storage


def orders(path: Path) -> list[object]:
    return [name for (name,) in execute(path, "SELECT name FROM orders ORDER BY rowid")]


class TestTransaction:
    def test_all_of_it_is_stored(self, path: Path, storage: SqliteQueuesStorage) -> None:
        first, second = storage.push_inbox("alice", [message(b"1"), message(b"2")], keep=10)
        storage.add_received("alice", [b"late"], keep=10, sync=False)
        with storage.transaction() as connection:
            connection.execute("INSERT INTO orders VALUES ('one')")
            storage.push_many([("peer", message(b"one")), ("other", message(b"two"))])
            storage.push("peer", message(b"three"))
            storage.advance_inbox(first, second)
            # Nobody else sees any of it yet.
            assert orders(path) == []
            with SqliteQueuesStorage(path, read_only=True) as other:
                assert other.get_queues() == []
                assert [item.id for item in other.get_inbox()] == [first, second]
            # In here it is visible.
            assert contents(storage) == [b"one", b"three"]
            assert [(item.id, item.attempts) for item in storage.get_inbox()] == [(second, 1)]
        assert setting(storage, "synchronous") == FULL
        storage.close()
        assert orders(path) == ["one"]
        with SqliteQueuesStorage(path) as again:
            assert contents(again) == [b"one", b"three"]
            assert contents(again, "other") == [b"two"]
            assert [(item.id, item.attempts) for item in again.get_inbox()] == [(second, 1)]

    def test_an_exception_undoes_all_of_it(self, path: Path, storage: SqliteQueuesStorage) -> None:
        (waiting,) = storage.push_inbox("alice", [message()], keep=10)
        with pytest.raises(Broken), storage.transaction() as connection:  # noqa: PT012
            connection.execute("INSERT INTO orders VALUES ('one')")
            storage.push("peer", message())
            storage.advance_inbox(waiting, None)
            raise Broken
        assert orders(path) == []
        assert storage.get_queues() == []
        assert [item.id for item in storage.get_inbox()] == [waiting]
        storage.push("peer", message(b"goes on"))
        assert contents(storage) == [b"goes on"]

    def test_errors_of_the_application_come_out_as_they_are(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        with pytest.raises(sqlite3.IntegrityError), storage.transaction() as connection:  # noqa: PT012
            storage.push("peer", message())
            for _ in range(2):
                connection.execute("INSERT INTO orders VALUES ('one')")
        assert (orders(path), storage.get_queues()) == ([], [])

    def test_an_error_in_it_leaves_the_rest(self, path: Path, storage: SqliteQueuesStorage) -> None:
        with storage.transaction() as connection:
            connection.execute("INSERT INTO orders VALUES ('one')")
            storage.push("peer", message(b"before"))
            with pytest.raises(UnicodeEncodeError):
                storage.push_many([("peer", message(b"good")), ("no \ud800 text", message())])
            storage.push("peer", message(b"after"))
        assert orders(path) == ["one"]
        assert contents(storage) == [b"before", b"after"]

    def test_what_can_not_take_part_is_refused(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        item = message()
        (waiting,) = storage.push_inbox("alice", [item], keep=10)
        refused: list[Callable[[], object]] = [
            lambda: storage.remove_items("peer", [item]),
            lambda: storage.delete_items([item]),
            lambda: storage.update_items_ttl([item]),
            lambda: storage.advance_ttl("peer", 1.0),
            storage.delete_all,
            storage.sync,
            lambda: storage.add_received("alice", [b"1"], keep=1, sync=False),
            lambda: storage.add_received("alice", [b"1"], keep=1, sync=True),
            lambda: storage.push_inbox("alice", [item], keep=1),
            lambda: storage.bury(waiting, "tired of it"),
            storage.close,
        ]
        with storage.transaction() as connection:
            connection.execute("INSERT INTO orders VALUES ('one')")
            storage.push("peer", item)
            for change in refused:
                with pytest.raises(StorageError, match=r"only push.* take part"):
                    change()
            with (
                pytest.raises(StorageError, match="can't begin a transaction"),
                storage.transaction(),
            ):
                pass
        assert orders(path) == ["one"]
        assert contents(storage) == [b"data"]
        assert [item.id for item in storage.get_inbox()] == [waiting]
        # Afterwards it is as before.
        storage.bury(waiting, "tired of it")
        storage.delete_all()

    @pytest.mark.parametrize("end", ["commit", "rollback", "__exit__"])
    def test_ending_it_inside_is_reported(self, storage: SqliteQueuesStorage, end: str) -> None:
        with (  # noqa: PT012
            pytest.raises(StorageError, match="ended before its 'with' block did"),
            storage.transaction() as connection,
        ):
            storage.push("peer", message(b"one"))
            getattr(connection, end)(*[None] * 3 * (end == "__exit__"))
            with pytest.raises(StorageError, match="ended before its 'with' block did"):
                storage.push("peer", message(b"two"))
        assert contents(storage) == ([] if end == "rollback" else [b"one"])

    def test_closing_the_connection_is_reported(self, path: Path) -> None:
        storage = SqliteQueuesStorage(path)
        with pytest.raises(StorageError, match="closed"), storage.transaction() as connection:
            connection.close()
        with pytest.raises(StorageError, match="closed"):
            storage.push("peer", message())
        storage.close()

    def test_what_the_application_sets_is_for_the_block(self, storage: SqliteQueuesStorage) -> None:
        with storage.transaction() as connection:
            connection.row_factory = lambda cursor, row: None
            connection.text_factory = bytes
        storage.push("peer", message(b"one"))
        assert storage.get_queues() == ["peer"]
        assert contents(storage) == [b"one"]

    def test_other_threads_wait(self, storage: SqliteQueuesStorage) -> None:
        begun = threading.Event()

        def others() -> None:
            begun.set()
            storage.push("peer", message(b"second"))
            storage.add_received("alice", [b"1"], keep=1, sync=False)

        with ThreadPoolExecutor(1) as pool:
            with storage.transaction():
                pushing = pool.submit(others)
                assert begun.wait(DEADLINE)
                storage.push("peer", message(b"first"))
                assert contents(storage) == [b"first"]
                assert not pushing.done()
            pushing.result(DEADLINE)
        assert contents(storage) == [b"first", b"second"]

    @pytest.mark.parametrize("pushes", [1, 2])
    def test_what_an_interrupt_left_open_is_undone_by_who_comes_next(
        self, path: Path, storage: SqliteQueuesStorage, pushes: int
    ) -> None:
        """Else what is accepted next is a part of it, and is never committed."""
        storage.push("peer", message(b"before"))
        connection = connection_of(storage)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM items")
        storage.push_many([("peer", message(b"after"))] * pushes)
        with SqliteQueuesStorage(path, read_only=True) as other:
            assert contents(other) == [b"before"] + [b"after"] * pushes
            assert storage.summarize() == other.summarize()

    def test_an_interrupt_when_it_has_begun_ends_it(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        def interrupt(frame: FrameType, event: str, arg: object) -> None:
            # It has begun, and is going to be handed out.
            caller = frame.f_back
            if (
                event == "return"
                and frame.f_code.co_name == "__exit__"
                and caller is not None
                and caller.f_code.co_name == "shared_transaction"
            ):
                sys.setprofile(None)
                raise KeyboardInterrupt

        sys.setprofile(interrupt)
        with pytest.raises(KeyboardInterrupt), storage.transaction():
            pass
        execute(path, "BEGIN IMMEDIATE", "INSERT INTO orders VALUES ('one')", "COMMIT")
        storage.push("peer", message())

    def test_a_kill_in_it_undoes_all_of_it(self, path: Path, storage: SqliteQueuesStorage) -> None:
        program = """
            import os, sys
            from snakemq.message import Message
            from snakemq.storage.sqlite import SqliteQueuesStorage
            storage = SqliteQueuesStorage(sys.argv[1])
            with storage.transaction() as connection:
                connection.execute("INSERT INTO orders VALUES ('one')")
                storage.push("peer", Message(bytes(5_000_000), None, 1))
                print("inside", flush=True)
                sys.stdin.readline()
        """
        storage.close()
        with running(program, path) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "inside\n"
            process.kill()
            process.wait(DEADLINE)
        assert orders(path) == []
        with SqliteQueuesStorage(path) as again:
            assert again.get_queues() == []

    def test_a_full_disk_undoes_all_of_it(self, path: Path, storage: SqliteQueuesStorage) -> None:
        pages = setting(storage, "page_count")
        connection_of(storage).execute(f"PRAGMA max_page_count = {pages + 20}")
        with pytest.raises(StorageError, match="disk is full"), storage.transaction() as connection:  # noqa: PT012
            connection.execute("INSERT INTO orders VALUES ('one')")
            storage.push("peer", message(bytes(1_000_000)))
        assert orders(path) == []
        with pytest.raises(sqlite3.OperationalError), storage.transaction() as connection:  # noqa: PT012
            storage.push("peer", message())
            connection.execute("INSERT INTO orders VALUES (zeroblob(1000000))")
        assert storage.get_queues() == []

    def test_a_locked_file_is_reported(self, path: Path, storage: SqliteQueuesStorage) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with (
                pytest.raises(StorageError, match=r"locked for 0\.05 s"),
                storage.transaction(),
            ):
                pass
            other.execute("ROLLBACK")
        with storage.transaction():
            storage.push("peer", message(b"one"))
        assert contents(storage) == [b"one"]


MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "immediate": {"isolation_level": "IMMEDIATE"},
    "explicit": {"isolation_level": None},
}
if sys.version_info >= (3, 12):
    MODES["autocommit off"] = {"autocommit": False}


@pytest.fixture
def connection(path: Path, storage: SqliteQueuesStorage) -> Iterator[sqlite3.Connection]:
    """Of the application, as the module makes them."""
    with closing(sqlite3.connect(path, timeout=0.05)) as connection:
        yield connection


class TestPushWith:
    @pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
    @pytest.mark.parametrize("end", ["commit", "rollback"])
    def test_it_is_stored_if_the_application_commits(
        self, path: Path, storage: SqliteQueuesStorage, mode: dict[str, Any], end: str
    ) -> None:
        items = [message(b"\0data", ttl=0.125, uuid=b"abc\0"), message(b"ever", ttl=None)]
        with closing(sqlite3.connect(path, timeout=0.05, **mode)) as connection:
            if mode == MODES["explicit"]:
                connection.execute("BEGIN")
            connection.execute("INSERT INTO orders VALUES ('one')")
            storage.push_with(connection, (("peer", item) for item in items))
            storage.push_with(connection, [])
            storage.push_with(connection, [("other", items[0])])
            assert connection.in_transaction
            assert storage.get_queues() == []
            getattr(connection, end)()
        committed = end == "commit"
        assert storage.get_queues() == []
        adopted = storage.adopt()
        assert storage.adopt() == []
        assert orders(path) == ["one"] * committed
        found = storage.get_items("peer") + storage.get_items("other")
        assert [(item.data, item.ttl, item.flags, item.uuid) for item in found] == [
            (item.data, item.ttl, item.flags, item.uuid) for item in [*items, items[0]]
        ] * committed
        assert [(name, item.message.data) for name, item in adopted] == [
            ("peer", b"\0data"),
            ("peer", b"ever"),
            ("other", b"\0data"),
        ] * committed
        assert [item.position for _, item in adopted] == [1, 2, 3] * committed
        storage.remove_items("peer", found)
        assert contents(storage) == []

    def test_it_begins_a_transaction_if_there_is_none(
        self, storage: SqliteQueuesStorage, connection: sqlite3.Connection
    ) -> None:
        storage.push_with(connection, [("peer", message(b"one"))])
        assert connection.in_transaction
        assert contents(storage) == []
        connection.rollback()
        assert contents(storage) == []
        storage.push_with(connection, [("peer", message(b"two"))])
        connection.commit()
        storage.adopt()
        assert contents(storage) == [b"two"]

    def test_a_connection_that_would_commit_at_once_is_refused(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        modes: list[dict[str, Any]] = [{"isolation_level": None}]
        if sys.version_info >= (3, 12):
            modes.append({"autocommit": True})
        for mode in modes:
            with (
                closing(sqlite3.connect(path, **mode)) as connection,
                pytest.raises(ValueError, match="no open transaction and would commit at once"),
            ):
                storage.push_with(connection, [("peer", message())])
        assert storage.get_queues() == []

    def test_another_file_is_refused(
        self, tmp_path: Path, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        with SqliteQueuesStorage(tmp_path / "other.db") as other:
            wrong = [":memory:", "", str(tmp_path / "other.db")]
            for name in wrong:
                with closing(sqlite3.connect(name)) as connection:
                    # Having it attached does not help.
                    connection.execute("ATTACH ? AS mq", (str(path),))
                    with pytest.raises(ValueError, match="only a connection to the same file"):
                        storage.push_with(connection, [("peer", message())])
                    assert not connection.in_transaction
            assert other.get_queues() == storage.get_queues() == []

    def test_a_storage_in_memory_is_refused(self, connection: sqlite3.Connection) -> None:
        with (
            SqliteQueuesStorage(":memory:") as storage,
            pytest.raises(ValueError, match="the queue storage is in memory"),
        ):
            storage.push_with(connection, [("peer", message())])

    def test_what_is_no_connection_is_refused(self, storage: SqliteQueuesStorage) -> None:
        with pytest.raises(TypeError, match=r"must be an sqlite3\.Connection, not str"):
            storage.push_with("storage.db", [("peer", message())])  # type: ignore[arg-type]

    def test_a_closed_connection_is_the_application_s_mistake(
        self, storage: SqliteQueuesStorage, connection: sqlite3.Connection
    ) -> None:
        connection.close()
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            storage.push_with(connection, [("peer", message())])

    def test_other_names_of_the_file_are_known(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(path.parent)
        link = path.with_name("link.db")
        with SqliteQueuesStorage(path.name) as storage:
            names = [str(path)]
            try:
                link.symlink_to(path)
            except OSError:
                assert sys.platform == "win32"  # which asks for a privilege
            else:
                names.append(str(link))
            monkeypatch.chdir(tempfile.gettempdir())
            for name in names:
                with closing(sqlite3.connect(name)) as connection:
                    storage.push_with(connection, [("peer", message())])
                    connection.commit()
            storage.adopt()
            assert len(contents(storage)) == len(names)

    def test_an_error_leaves_the_transaction_as_it_was(
        self, path: Path, storage: SqliteQueuesStorage, connection: sqlite3.Connection
    ) -> None:
        huge = message(b"bad")
        huge.flags = 1 << 70
        for _ in range(2):  # without a transaction, then inside of one
            with pytest.raises(StorageError, match="nothing was appended"):
                storage.push_with(connection, [("peer", message(b"good")), ("peer", huge)])
            with pytest.raises(UnicodeEncodeError):
                storage.push_with(connection, [("peer", message()), ("no \ud800", message())])
            if not connection.in_transaction:
                connection.execute("INSERT INTO orders VALUES ('one')")
        connection.commit()
        assert orders(path) == ["one"]
        assert storage.adopt() == []
        assert storage.get_queues() == []

    def test_a_locked_file_is_reported(
        self, path: Path, storage: SqliteQueuesStorage, connection: sqlite3.Connection
    ) -> None:
        with storage.transaction(), pytest.raises(StorageError, match="database is locked"):
            storage.push_with(connection, [("peer", message())])
        # And the other way round.
        storage.push_with(connection, [("peer", message(b"one"))])
        with pytest.raises(StorageError, match="or by another connection of this one"):
            storage.push("peer", message(b"two"))
        connection.commit()
        storage.adopt()
        assert contents(storage) == [b"one"]

    def test_a_ttl_runs_from_when_it_was_adopted(
        self, storage: SqliteQueuesStorage, connection: sqlite3.Connection
    ) -> None:
        storage.push("peer", message(ttl=60.0))
        storage.advance_ttl("peer", 20.0)
        storage.push_with(connection, [("peer", message(ttl=60.0)), ("new", message(ttl=60.0))])
        connection.commit()
        storage.adopt()
        assert [item.ttl for item in storage.get_items("peer")] == [40.0, 60.0]
        storage.advance_ttl("peer", 20.0)
        storage.advance_ttl("new", 20.0)
        assert [item.ttl for item in storage.get_items("peer")] == [20.0, 40.0]
        assert [item.ttl for item in storage.get_items("new")] == [40.0]

    def test_what_the_application_does_with_its_connection_is_no_trouble(
        self, storage: SqliteQueuesStorage, connection: sqlite3.Connection
    ) -> None:
        for name in ("items", "snakemq_pushed"):
            connection.execute(f"CREATE TEMP TABLE {name} (mine)")
        connection.row_factory = lambda cursor, row: {"row": row}
        connection.text_factory = bytes
        storage.push_with(connection, [("peer", message(b"one"))])
        connection.commit()
        storage.adopt()
        assert contents(storage) == [b"one"]
        assert connection.execute("SELECT * FROM temp.items").fetchall() == []

    def test_a_commit_of_the_application_is_synced(self, connection: sqlite3.Connection) -> None:
        """As long as it does not ask for less."""
        assert connection.execute("PRAGMA synchronous").fetchone() == (FULL,)
