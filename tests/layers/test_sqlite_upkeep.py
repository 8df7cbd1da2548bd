"""The SQLite storage: what it does when it is idle, how it syncs, and a full disk."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from snakemq.exceptions import StorageError
from snakemq.message import Message
from snakemq.storage import Removal
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.helpers import DEADLINE
from tests.layers.sqlite_support import (
    TABLE_OF_16,
    connection_of,
    contents,
    execute,
    message,
    run,
    setting,
    statements,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "storage.db"


@pytest.fixture
def storage(path: Path) -> Iterator[SqliteQueuesStorage]:
    with SqliteQueuesStorage(path, busy_timeout=DEADLINE) as storage:
        yield storage


def log_size(path: Path) -> int:
    return os.path.getsize(f"{path}-wal")


def maintain(storage: SqliteQueuesStorage) -> int:
    """All of it; how many pieces it took."""
    pieces = 1
    while storage.maintain():
        pieces += 1
    return pieces


def in_the_file(path: Path) -> list[bytes]:
    """What is stored as far as the file itself knows, without the log beside it."""
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    with SqliteQueuesStorage(copy) as copied:
        return contents(copied)


class TestRoomForTheLog:
    """It is made once, so that a commit need not make the log longer."""

    SYNCS = 32

    def test_it_is_made_when_there_were_some_syncs(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        def push() -> int:
            storage.push("peer", message(bytes(1000)))
            return log_size(path)

        before = [push() for _ in range(self.SYNCS)]
        assert before[-2] < 10**6
        assert 4 * 10**6 < before[-1] < 8 * 10**6
        # So long that SQLite has gone back to the beginning before it is full.
        assert {push() for _ in range(600)} == {before[-1]}
        assert storage.maintain() is False
        assert push() == before[-1]

    def test_it_is_no_part_of_the_log(self, path: Path, storage: SqliteQueuesStorage) -> None:
        data = [b"%d" % number for number in range(self.SYNCS + 3)]
        for one in data:
            storage.push("peer", message(one))
        # As if this process had ended here.
        copy = path.with_name("copy.db")
        shutil.copy(path, copy)
        shutil.copy(f"{path}-wal", f"{copy}-wal")
        assert log_size(copy) > 4 * 10**6
        with SqliteQueuesStorage(copy) as copied:
            assert contents(copied) == data
        assert not os.path.exists(f"{copy}-wal")

    def test_nobody_else_appends_meanwhile(
        self, path: Path, storage: SqliteQueuesStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """To append is two steps on Windows: zeros must not cover what came in between."""
        seen: list[str] = []

        def disk_usage(where: str) -> SimpleNamespace:
            with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
                with pytest.raises(sqlite3.OperationalError, match="locked"):
                    other.execute("BEGIN IMMEDIATE")
                seen.append(where)
            return SimpleNamespace(free=2**40)

        monkeypatch.setattr(shutil, "disk_usage", disk_usage)
        for _ in range(self.SYNCS):
            storage.push("peer", message())
        assert seen == [str(path)]
        assert 4 * 10**6 < log_size(path) < 8 * 10**6
        execute(path, "BEGIN IMMEDIATE", "COMMIT")

    @pytest.mark.parametrize("problem", ["there is little left of the disk", "it fails"])
    def test_it_can_do_without(
        self,
        path: Path,
        storage: SqliteQueuesStorage,
        problem: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def disk_usage(where: str) -> SimpleNamespace:
            if problem == "it fails":
                raise PermissionError
            return SimpleNamespace(free=200 * 2**20)

        monkeypatch.setattr(shutil, "disk_usage", disk_usage)
        for _ in range(self.SYNCS + 1):
            storage.push("peer", message())
        assert 0 < log_size(path) < 10**6
        assert len(contents(storage)) == self.SYNCS + 1

    def test_it_is_made_later_if_somebody_else_writes(self, path: Path) -> None:
        with SqliteQueuesStorage(path, busy_timeout=0.0) as storage:
            for _ in range(self.SYNCS - 1):
                storage.push("peer", message())
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(StorageError, match="locked"):
                    storage.push("peer", message())
            assert 0 < log_size(path) < 10**6
            storage.push("peer", message())
            assert 4 * 10**6 < log_size(path) < 8 * 10**6
            assert len(contents(storage)) == self.SYNCS

    def test_it_is_made_again_when_the_log_was_made_short(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        for _ in range(2):
            storage.push_many([("peer", message(bytes(10**6)))] * 10)
            storage.maintain()
            assert log_size(path) == 0
            for _ in range(self.SYNCS):
                storage.push("peer", message())
            assert 4 * 10**6 < log_size(path) < 8 * 10**6

    @pytest.mark.skipif(sys.platform == "win32", reason="what is open can't be moved")
    def test_a_file_that_was_moved_away_leaves_none_behind(self, tmp_path: Path) -> None:
        before, after = tmp_path / "before", tmp_path / "after"
        before.mkdir()
        with SqliteQueuesStorage(before / "storage.db") as storage:
            storage.push("peer", message())
            after.mkdir()
            for entry in list(before.iterdir()):
                entry.rename(after / entry.name)
            for _ in range(self.SYNCS):
                storage.push("peer", message())
            assert storage.maintain() is False
            assert len(contents(storage)) == self.SYNCS + 1
            assert list(before.iterdir()) == []

    def test_removals_make_none(self, path: Path, storage: SqliteQueuesStorage) -> None:
        storage.push_many([("peer", message())] * (self.SYNCS + 1))
        for position in range(1, self.SYNCS + 2):
            storage.change_items([], [Removal("peer", [position], 4)], sync=False)
        assert 0 < log_size(path) < 10**6


class TestCheckpoint:
    def test_what_is_in_the_log_goes_to_the_file(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        storage.push("peer", message(b"one"))
        size = log_size(path)
        assert size > 0
        assert storage.maintain() is False
        assert contents(storage) == [b"one"]
        assert in_the_file(path) == [b"one"]
        # From its beginning, what is there is overwritten.
        storage.push("peer", message(b"two"))
        assert log_size(path) == size

    def test_a_log_that_became_very_long_is_made_short(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        storage.push_many([("peer", message(bytes(10**6)))] * 5)
        storage.push("peer", message(b"six"))
        assert log_size(path) > 5 * 10**6
        storage.maintain()
        assert log_size(path) == 0
        assert len(in_the_file(path)) == 6

    def test_once_is_enough(self, storage: SqliteQueuesStorage) -> None:
        changes: list[Callable[[], object]] = [
            lambda: storage.push("peer", message()),
            lambda: storage.advance_ttl("peer", 1.0),
        ]
        for change in changes:
            change()
            assert any("checkpoint" in one for one in statements(storage, storage.maintain))
            assert not any("checkpoint" in one for one in statements(storage, storage.maintain))
        with storage.transaction() as connection:
            connection.execute("CREATE TABLE theirs (a)")
        assert any("checkpoint" in one for one in statements(storage, storage.maintain))

    def test_it_waits_for_no_reader(self, path: Path, storage: SqliteQueuesStorage) -> None:
        storage.push("peer", message(b"one"))
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM items").fetchall()
            storage.push("peer", message(b"two"))
            # It would wait for as long as the test may take.
            assert storage.maintain() is False
            reader.execute("COMMIT")
        storage.push("peer", message(b"three"))
        storage.maintain()
        assert in_the_file(path) == [b"one", b"two", b"three"]
        assert setting(storage, "busy_timeout") == int(DEADLINE * 1000)

    def test_it_waits_for_no_writer(self, path: Path, storage: SqliteQueuesStorage) -> None:
        storage.push("peer", message(b"one"))
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            assert storage.maintain() is False
            writer.execute("ROLLBACK")
        storage.push("peer", message(b"two"))

    def test_it_waits_for_no_thread(self, storage: SqliteQueuesStorage) -> None:
        with ThreadPoolExecutor(1) as pool, storage.transaction():
            assert storage.maintain() is False
            assert pool.submit(storage.maintain).result(DEADLINE) is False

    def test_there_is_nothing_to_do_in_memory(self) -> None:
        with SqliteQueuesStorage(":memory:") as storage:
            storage.push("peer", message())
            assert storage.maintain() is False
            assert contents(storage) == [b"data"]

    def test_what_fails_is_tried_again(
        self, path: Path, storage: SqliteQueuesStorage, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Full:
            in_transaction = False

            def __init__(self, connection: sqlite3.Connection) -> None:
                self._connection = connection

            def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
                if "checkpoint" in sql:
                    raise sqlite3.OperationalError("database or disk is full")
                return self._connection.execute(sql, *args)

        storage.push("peer", message(b"one"))
        connection = connection_of(storage)
        storage._file._conn = Full(connection)  # type: ignore[assignment]
        for _ in range(3):
            assert storage.maintain() is False
        assert [one.getMessage() for one in caplog.records if one.levelname == "WARNING"] == [
            f"queue storage {str(path)!r} can't be tidied: database or disk is full"
        ]
        storage._file._conn = connection
        assert in_the_file(path) == []
        storage.maintain()
        assert in_the_file(path) == [b"one"]

    def test_what_was_late_is_synced_as_before(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        storage.push("peer", message())
        storage.advance_ttl("peer", 1.0)
        storage.maintain()
        found = statements(storage, storage.sync)
        assert found[-1] == "COMMIT"
        assert setting(storage, "synchronous") == 2  # FULL


class TestShrinking:
    def _fill_and_drain(self, storage: SqliteQueuesStorage, count: int, left: int) -> None:
        positions = storage.change_items([("peer", message(bytes(4000)))] * count)
        gone = positions[: count - left]
        storage.change_items([], [Removal("peer", gone, 4000 * len(gone))])

    def test_a_file_that_is_mostly_free_shrinks(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        self._fill_and_drain(storage, 3000, 300)
        storage.push("peer", message(b"last"))
        before = contents(storage)
        size = path.stat().st_size + log_size(path)
        free = setting(storage, "freelist_count")
        assert free // 100 < maintain(storage) <= free // 50 + 2
        assert path.stat().st_size < size / 3
        assert log_size(path) == 0
        assert contents(storage) == before
        assert setting(storage, "freelist_count") <= 1000
        assert [item.messages for item in storage.summarize()] == [301]
        assert execute(path, "PRAGMA integrity_check") == [("ok",)]

    @pytest.mark.parametrize(("count", "left"), [(900, 0), (6000, 4900)])
    def test_a_little_room_is_kept(
        self, storage: SqliteQueuesStorage, count: int, left: int
    ) -> None:
        self._fill_and_drain(storage, count, left)
        free = setting(storage, "freelist_count")
        assert free > 800
        assert maintain(storage) == 1
        assert setting(storage, "freelist_count") == free

    def test_others_come_in_between(self, path: Path, storage: SqliteQueuesStorage) -> None:
        self._fill_and_drain(storage, 2000, 0)
        pieces = 0
        while storage.maintain():
            pieces += 1
            storage.push("peer", message(b"%d" % pieces))
        assert contents(storage) == [b"%d" % (number + 1) for number in range(pieces)]
        assert pieces > 5

    def test_somebody_in_its_way_is_no_error(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        self._fill_and_drain(storage, 3000, 0)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert storage.maintain() is False
            other.execute("ROLLBACK")
        assert storage.maintain() is True

    def test_a_file_of_1_6_shrinks_too(self, path: Path) -> None:
        execute(path, TABLE_OF_16)
        with SqliteQueuesStorage(path) as storage:
            self._fill_and_drain(storage, 2000, 0)
            maintain(storage)
            assert path.stat().st_size < 1100 * 4096

    def test_a_kill_in_the_middle_loses_nothing(self, path: Path) -> None:
        program = """
            import os, sys
            from snakemq.message import Message
            from snakemq.storage import Removal
            from snakemq.storage.sqlite import SqliteQueuesStorage
            storage = SqliteQueuesStorage(sys.argv[1])
            item = Message(bytes(4000), None, 1)
            positions = storage.change_items([("peer", item)] * 3000)
            storage.change_items([], [Removal("peer", positions[:2700], 4000 * 2700)])
            for _ in range(5):
                assert storage.maintain()
            os._exit(0)
        """
        run(program, path)
        with SqliteQueuesStorage(path) as storage:
            assert len(contents(storage)) == 300
            assert storage.maintain()


class TestSynchronous:
    @pytest.mark.parametrize(
        ("level", "number"), [("OFF", 0), ("NORMAL", 1), ("FULL", 2), ("EXTRA", 3)]
    )
    def test_it_is_as_asked(self, path: Path, level: str, number: int) -> None:
        with SqliteQueuesStorage(path, synchronous=level) as storage:
            assert setting(storage, "synchronous") == number
            for _ in range(2):
                storage.push("peer", message())
                assert setting(storage, "synchronous") == number
                storage.advance_ttl("peer", 1.0)
                assert setting(storage, "synchronous") == min(number, 1)
                if number <= 1:
                    # Nobody waits for the disk.
                    assert statements(storage, storage.sync) == []
                else:
                    storage.sync()
                    assert setting(storage, "synchronous") == number

    def test_without_a_log(self) -> None:
        for level, number in (("OFF", 0), ("NORMAL", 1), ("FULL", 3), ("EXTRA", 3)):
            with SqliteQueuesStorage(":memory:", synchronous=level) as storage:
                storage.push("peer", message())
                storage.advance_ttl("peer", 1.0)
                assert setting(storage, "synchronous") == number

    @pytest.mark.parametrize("level", ["", "full", "2", "FULL; DROP TABLE items", None])
    def test_anything_else_is_refused(self, path: Path, level: str) -> None:
        with pytest.raises(ValueError, match="synchronous must be one of"):
            SqliteQueuesStorage(path, synchronous=level)
        assert not path.exists()

    def test_removals_alone_are_late(self, path: Path, storage: SqliteQueuesStorage) -> None:
        positions = storage.change_items([("peer", message()), ("peer", message())])
        storage.change_items([], [Removal("peer", positions[:1], 4)], sync=False)
        assert setting(storage, "synchronous") == 1  # NORMAL
        assert statements(storage, storage.sync)[-1] == "COMMIT"
        storage.change_items([], [Removal("peer", positions[1:], 4)], sync=False)
        # What is pushed next takes it along, and nothing needs to be marked.
        found = statements(storage, lambda: storage.change_items([("peer", message())]))
        assert not any("snakemq_syncs" in one for one in found)
        assert setting(storage, "synchronous") == 2  # FULL
        assert statements(storage, storage.sync) == []


#: Stores until the disk is full, lets go of something, and stores again.
FULL_DISK = """
    import sys
    from snakemq.exceptions import StorageError
    from snakemq.message import Message
    from snakemq.storage import Removal
    from snakemq.storage.sqlite import SqliteQueuesStorage

    storage = SqliteQueuesStorage(sys.argv[1])
    accepted = {}
    try:
        while True:
            new = [b"%d" % (len(accepted) + n) + bytes(1000) for n in range(20)]
            places = storage.change_items([("peer", Message(data, None, 1)) for data in new])
            accepted.update(zip(places, new))
    except StorageError as exc:
        print(exc)
    refused = 0
    for change in (
        lambda: storage.push("peer", Message(bytes(200_000), None, 1)),
        lambda: storage.push_inbox("bob", [Message(bytes(200_000), None, 1)], keep=1),
        lambda: storage.change_items([("new", Message(bytes(200_000), None, 1))]),
    ):
        try:
            change()
        except StorageError:
            refused += 1
    assert refused == 3
    def check():
        found = storage.get_page("peer", 0, max_messages=1 << 30, max_bytes=1 << 30)
        assert [(item.position, item.message.data) for item in found] == sorted(accepted.items())
        size = sum(map(len, accepted.values()))
        assert storage.summarize() == [("peer", len(accepted), size)], storage.summarize()
    check()
    assert len(accepted) > 100
    {more_room}
    gone = sorted(accepted)[: len(accepted) // 2]
    storage.change_items([], [Removal("peer", gone, sum(len(accepted.pop(n)) for n in gone))])
    check()
    for number in range(50):
        (place,) = storage.change_items([("peer", Message(b"after" + bytes(900), None, 1))])
        accepted[place] = b"after" + bytes(900)
    check()
    storage.close()
    storage = SqliteQueuesStorage(sys.argv[1])
    check()
"""


class TestFullDisk:
    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs tmpfs")
    def test_a_disk_that_is_full(self, tmp_path: Path) -> None:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        if mounted.returncode:
            pytest.skip(f"no disk of 3 MB: {mounted.stderr.strip()}")
        try:
            room = "storage.maintain()\n    import os\n    os.unlink(sys.argv[1] + '.ballast')"
            ballast = tmp_path / "storage.db.ballast"
            ballast.write_bytes(bytes(1_500_000))
            output = run(FULL_DISK.replace("{more_room}", room), tmp_path / "storage.db")
        finally:
            subprocess.run(["umount", "-l", str(tmp_path)], timeout=DEADLINE, check=True)
        assert "because the disk is full; nothing was changed, make room and try again" in output

    def test_a_file_that_may_not_grow(self, path: Path) -> None:
        program = FULL_DISK.replace(
            "accepted = {}",
            "accepted = {}\n    storage._file._conn.execute('PRAGMA max_page_count = 100')",
        ).replace("{more_room}", "")
        assert "because the disk is full" in run(program, path)

    @pytest.mark.skipif(sys.platform == "win32", reason="needs setrlimit")
    def test_a_process_that_may_write_no_more(self, path: Path) -> None:
        before = """
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, limits[1]))
    accepted = {}"""
        program = FULL_DISK.replace("    accepted = {}", before.strip("\n"), 1).replace(
            "{more_room}", "resource.setrlimit(resource.RLIMIT_FSIZE, limits)"
        )
        assert "can't be read or written" in run(program, path)

    def test_a_full_disk_when_a_file_of_1_6_is_taken_over(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as conn, conn:
            conn.execute(TABLE_OF_16)
            rows = [("peer", b"%02d" % n, bytes(3000), 60.0, 1) for n in range(99)]
            conn.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", rows)
        connect = sqlite3.connect

        class Small(sqlite3.Connection):
            def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
                if sql.startswith("PRAGMA synchronous"):
                    super().execute("PRAGMA max_page_count = 1")  # as many as there are
                return super().execute(sql, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, factory=Small, **k))
            with pytest.raises(StorageError, match="the disk is full; nothing was changed"):
                SqliteQueuesStorage(path)
        assert len(execute(path, "SELECT data FROM items")) == 99
        with SqliteQueuesStorage(path) as storage:
            assert [len(data) for data in contents(storage)] == [3000] * 99

    def test_marking_a_sync_that_fails_leaves_no_transaction(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        storage.push("peer", message(b"one"))
        storage.advance_ttl("peer", 1.0)
        connection_of(storage).execute(
            "CREATE TEMP TRIGGER full BEFORE INSERT ON snakemq_syncs"
            " BEGIN SELECT raise(ABORT, 'database or disk is full'); END"
        )
        for _ in range(2):
            with pytest.raises(StorageError, match="disk is full"):
                storage.sync()
            with pytest.raises(StorageError, match="disk is full"):
                storage.remove_items("peer", [Message(b"")])
        connection_of(storage).execute("DROP TRIGGER temp.full")
        storage.sync()
        assert contents(storage) == [b"one"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_file_that_becomes_read_only_refuses_and_loses_nothing(
    path: Path, storage: SqliteQueuesStorage
) -> None:
    positions = storage.change_items([("peer", message(b"one")), ("peer", message(b"two"))])
    connection_of(storage).execute("PRAGMA query_only = ON")
    changes: list[Callable[[], object]] = [
        lambda: storage.change_items([("peer", message())]),
        lambda: storage.change_items([], [Removal("peer", positions, 6)], sync=False),
        lambda: storage.push_inbox("bob", [message()], keep=1),
        lambda: storage.advance_ttl("peer", 1.0),
        lambda: storage.take_expired("peer", 1e6, 0, 1),
    ]
    for change in changes:
        with pytest.raises(StorageError, match="is read-only; make the file"):
            change()
    assert storage.summarize() == [("peer", 2, 6)]
    assert contents(storage) == [b"one", b"two"]
    assert [item.ttl for item in storage.get_items("peer")] == [60.0, 60.0]
    connection_of(storage).execute("PRAGMA query_only = OFF")
    storage.change_items([("peer", message(b"three"))])
    assert contents(storage) == [b"one", b"two", b"three"]
