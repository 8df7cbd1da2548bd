"""The SQLite storage: who may open a file, and what becomes of old and damaged ones."""

from __future__ import annotations

import logging
import os
import random
import shutil
import sqlite3
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from snakemq.exceptions import StorageDamaged, StorageError, StorageInUse
from snakemq.message import Message
from snakemq.storage import DeadLetter, Removal
from snakemq.storage import _sqlite_migrations as migrations
from snakemq.storage._sqlite_opening import _set_aside
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.helpers import DEADLINE
from tests.layers.sqlite_support import (
    TABLE_OF_16,
    connection_of,
    contents,
    execute,
    execute_as_16,
    expect_untouched,
    message,
    run,
    running,
    setting,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "storage.db"


def lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-lock")


def files(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


class TestLock:
    """One process, and one storage in it."""

    HOLDER = """
        import sys
        from snakemq.message import Message
        from snakemq.storage.sqlite import SqliteQueuesStorage
        storage = SqliteQueuesStorage(sys.argv[1])
        storage.push("peer", Message(b"stored", None, 1))
        print("open", flush=True)
        sys.stdin.readline()
    """

    def test_a_second_process_is_refused(self, path: Path) -> None:
        with running(self.HOLDER, path) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            with pytest.raises(StorageInUse, match="is in use by process") as caught:
                SqliteQueuesStorage(path)
            holder = caught.value.holder
            assert holder.startswith(f"process {process.pid} ('-c') on ")
            assert " since 20" in holder
            assert holder.endswith(" UTC")
            assert f"in use by {holder}; stop that one" in str(caught.value)
            assert lock_of(path).read_text().split("\n")[0] == holder
            process.kill()
            process.wait(DEADLINE)
        # What the killed process leaves is a file and no lock.
        assert lock_of(path).exists()
        with SqliteQueuesStorage(path) as storage:
            assert contents(storage) == [b"stored"]
        assert files(path) == ["storage.db"]

    def test_a_second_storage_of_this_process_is_refused(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = [path, Path("storage.db")]
        monkeypatch.chdir(tmp_path)
        link = tmp_path / "link.db"
        try:
            link.symlink_to(path)
        except OSError:
            assert sys.platform == "win32"  # which asks for a privilege
        else:
            names.append(link)
        with SqliteQueuesStorage(path) as storage:
            for name in names:
                with pytest.raises(StorageInUse, match="is already open in this process") as caught:
                    SqliteQueuesStorage(name)
                assert caught.value.holder.startswith(f"process {os.getpid()} ")
            storage.push("peer", message(b"as before"))
        for name in names:
            with SqliteQueuesStorage(name) as storage:
                assert contents(storage) == [b"as before"]

    def test_one_that_was_forgotten_holds_nothing(self, path: Path) -> None:
        program = """
            import gc, sys, warnings
            from snakemq.storage.sqlite import SqliteQueuesStorage
            warnings.simplefilter("ignore", ResourceWarning)
            SqliteQueuesStorage(sys.argv[1])
            gc.collect()
            SqliteQueuesStorage(sys.argv[1]).close()
            print("opened again")
        """
        assert run(program, path) == "opened again\n"

    def test_what_can_not_be_opened_is_not_locked(self, path: Path) -> None:
        path.write_bytes(b"no database")
        for _ in range(2):
            with pytest.raises(StorageError, match="is not an SQLite database"):
                SqliteQueuesStorage(path)
        expect_untouched(path, b"no database")

    def test_a_storage_in_memory_has_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with SqliteQueuesStorage(":memory:"), SqliteQueuesStorage(":memory:"):
            assert list(tmp_path.iterdir()) == []

    def test_who_is_unknown_is_called_so(self, path: Path) -> None:
        with SqliteQueuesStorage(path):
            lock_of(path).write_bytes(b"")
            with pytest.raises(StorageInUse, match="in use by another process") as caught:
                SqliteQueuesStorage(path)
            assert caught.value.holder == ""

    @pytest.mark.skipif(sys.platform == "win32", reason="an open file can't be removed there")
    def test_a_lock_file_that_was_removed_meanwhile_is_made_again(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between opening and locking it, its last holder may end."""
        samestat, compared = os.path.samestat, []

        def remove_once(one: os.stat_result, other: os.stat_result) -> bool:
            compared.append(samestat(one, other))
            if len(compared) == 1:
                lock_of(path).unlink()
                lock_of(path).write_text("another one\n")
                return samestat(one, os.stat(lock_of(path)))
            if len(compared) == 2:
                lock_of(path).unlink()
                os.stat(lock_of(path))
            return compared[-1]

        monkeypatch.setattr(os.path, "samestat", remove_once)
        with SqliteQueuesStorage(path):
            assert compared == [True, True, True]
            assert lock_of(path).read_text().startswith(f"process {os.getpid()} ")
            with pytest.raises(StorageInUse):
                SqliteQueuesStorage(path)

    def test_many_open_and_close_it_and_never_two_at_once(self, path: Path) -> None:
        inside: list[int] = []
        opened: list[int] = []

        def work(number: int) -> None:
            while len(opened) < 20:
                try:
                    with SqliteQueuesStorage(path) as storage:
                        inside.append(number)
                        assert inside == [number]
                        storage.push("peer", message())
                        opened.append(number)
                        inside.remove(number)
                except StorageInUse:
                    pass

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(work, range(3), timeout=DEADLINE))
        with SqliteQueuesStorage(path) as storage:
            assert len(contents(storage)) == len(opened) >= 20

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_a_forked_child_keeps_no_lock_of_a_dead_parent(self, path: Path) -> None:
        program = """
            import os, sys, time
            from snakemq.storage.sqlite import SqliteQueuesStorage
            storage = SqliteQueuesStorage(sys.argv[1])
            if not os.fork():
                print(os.getpid(), flush=True)
                sys.stdin.readline()
                storage.close()
                os._exit(0)
            os.wait()
        """
        with running(program, path) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            process.stdout.readline()
            with pytest.raises(StorageInUse, match=f"process {process.pid} "):
                SqliteQueuesStorage(path)
            process.kill()
            process.wait(DEADLINE)
            # The child lives, and its close() removes no lock of others.
            with SqliteQueuesStorage(path):
                process.stdin.write("\n")
                process.stdin.close()
                assert process.stdout.read() == ""
                assert lock_of(path).exists()

    @pytest.mark.skipif(sys.platform == "win32", reason="fcntl")
    def test_a_file_system_without_locks_is_worth_a_warning(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        import fcntl

        def refuse(fd: int, operation: int) -> None:
            raise OSError("no locks here")

        monkeypatch.setattr(fcntl, "flock", refuse)
        with SqliteQueuesStorage(path) as storage:
            storage.push("peer", message())
        assert [record.levelname for record in caplog.records if "no lock" in record.message] == [
            "WARNING"
        ]


class TestReadOnly:
    """A look at a file, also while a program uses it."""

    def test_it_sees_what_the_program_stored(self, path: Path) -> None:
        with SqliteQueuesStorage(path) as storage:
            storage.push("peer", message(b"one", ttl=60.0))
            storage.push_inbox("bob", [message(b"in"), message(b"dead")], keep=10)
            storage.bury(2, "tired of it")
            with SqliteQueuesStorage(path, read_only=True) as look:
                assert look.summarize() == [("peer", 1, 3)]
                storage.push("peer", message(b"two"))
                storage.advance_ttl("peer", 20.0)
                # What is in the log, too, and what was stored since.
                assert look.summarize() == [("peer", 2, 6)]
                assert look.get_queues() == ["peer"]
                assert [item.ttl for item in look.get_items("peer")] == [40.0, 40.0]
                assert look.next_expiry("peer") == 40.0
                assert look.oldest("peer") == storage.oldest("peer")
                assert [item.message.data for item in look.get_inbox()] == [b"in"]
                assert [letter.reason for letter in look.get_dead()] == ["tired of it"]
                assert look.count_dead() == 1
                assert look.received_peers() == ["bob"]
                assert len(look.load_received("bob")) == 2
                page = look.get_page("peer", 1, max_messages=1, max_bytes=1)
                assert [item.position for item in page] == [2]
            storage.push("peer", message(b"three"))
            assert len(contents(storage)) == 3

    def test_it_changes_nothing(self, path: Path) -> None:
        item = message(b"one")
        letter = DeadLetter(1, "bob", item, 1, "tired of it", 0.0)
        with SqliteQueuesStorage(path) as storage:
            storage.push("peer", item)
            storage.push_inbox("bob", [item, item], keep=10)
            storage.bury(2, "tired of it")
        content = path.read_bytes()
        with SqliteQueuesStorage(path, read_only=True) as look:
            changes: list[Callable[[], object]] = [
                lambda: look.push("peer", item),
                lambda: look.push_many([("peer", item)]),
                lambda: look.remove_items("peer", [item]),
                lambda: look.delete_items([item]),
                look.delete_all,
                lambda: look.update_items_ttl([item]),
                lambda: look.advance_ttl("peer", 1.0),
                lambda: look.change_items([("peer", item)]),
                lambda: look.change_items([], [Removal("peer", [1], 3)], sync=False),
                lambda: look.take_expired("peer", 1000.0, 0, 1),
                lambda: look.add_received("bob", [b"1"], keep=1, sync=False),
                lambda: look.add_received("bob", [b"1"], keep=1, sync=True),
                lambda: look.push_inbox("bob", [item], keep=1),
                lambda: look.advance_inbox(1, None),
                lambda: look.uncount_attempt(1),
                lambda: look.bury(1, ""),
                lambda: look.add_dead([letter]),
                lambda: look.retry_dead(None),
                lambda: look.drop_dead(None),
                look.transaction().__enter__,
            ]
            for change in changes:
                with pytest.raises(StorageError, match="opened with read_only=True; open it with"):
                    change()
            assert look.maintain() is False
            assert look.adopt() == []
            look.sync()
            assert contents(look) == [b"one"]
        expect_untouched(path, content)
        with SqliteQueuesStorage(path) as storage:
            assert [item.attempts for item in storage.get_inbox()] == [0]

    def test_a_file_of_1_6_is_left_one(self, path: Path) -> None:
        execute(
            path,
            TABLE_OF_16,
            "INSERT INTO items VALUES ('peer', x'3031', x'000000', 60.0, 1)",
            "INSERT INTO items VALUES ('peer', x'3032', x'00', NULL, 1)",
            "INSERT INTO items VALUES ('other', '03', 'text', 5.0, 1)",
        )
        content = path.read_bytes()
        with SqliteQueuesStorage(path, read_only=True) as look:
            assert sorted(look.summarize()) == [("other", 1, 4), ("peer", 2, 4)]
            assert contents(look) == [b"\0\0\0", b"\0"]
            assert look.get_items("other")[0].uuid == b"\x03"
            page = look.get_page("peer", 1, max_messages=9, max_bytes=99)
            assert [item.position for item in page] == [2]
            assert look.last_position() == 3
            assert [look.next_expiry(name) for name in ("peer", "other")] == [60.0, 5.0]
            assert look.oldest("peer") is None
            assert (look.get_inbox(), look.get_dead(), look.count_dead()) == ([], [], 0)
            assert (look.received_peers(), look.load_received("bob")) == ([], [])
            with pytest.raises(StorageError, match="read_only"):
                look.push("peer", message())
        expect_untouched(path, content)

    def test_what_1_6_did_to_a_file_of_ours_is_counted(self, path: Path) -> None:
        with SqliteQueuesStorage(path) as storage:
            storage.push_many([("alice", message(b"1")), ("bob", message(b"2"))])
            storage.advance_ttl("bob", 20.0)
        execute_as_16(
            path,
            "DELETE FROM items WHERE queue_name = 'alice'",
            "INSERT INTO items (queue_name, uuid, data, ttl, flags)"
            " VALUES ('bob', x'3031', x'0000', 60.0, 1)",
        )
        content = path.read_bytes()
        with SqliteQueuesStorage(path, read_only=True) as look:
            assert look.summarize() == [("bob", 2, 3)]
            assert [item.ttl for item in look.get_items("bob")] == [40.0, 60.0]
            assert [look.next_expiry("bob", after) for after in (0, 2, 3)] == [40.0, 60.0, None]
        expect_untouched(path, content)

    def test_what_a_killed_process_left_is_seen(self, path: Path) -> None:
        with running(TestLock.HOLDER, path) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            process.kill()
            process.wait(DEADLINE)
        log = path.with_name("storage.db-wal").read_bytes()
        assert log
        before = files(path)
        with SqliteQueuesStorage(path, read_only=True) as look:
            assert contents(look) == [b"stored"]
        assert path.with_name("storage.db-wal").read_bytes() == log
        assert files(path) == before

    def test_what_is_not_there_is_not_made(self, path: Path) -> None:
        with pytest.raises(StorageError, match=r"there is no queue storage .*; check the name"):
            SqliteQueuesStorage(path, read_only=True)
        assert files(path) == []
        execute(path, "CREATE TABLE theirs (a)")
        content = path.read_bytes()
        with pytest.raises(StorageError, match="there is no queue storage in"):
            SqliteQueuesStorage(path, read_only=True)
        expect_untouched(path, content)
        with pytest.raises(StorageError, match="is a directory"):
            SqliteQueuesStorage(path.parent, read_only=True)

    def test_names_are_names(self, tmp_path: Path) -> None:
        """They go through a URI."""
        odd = tmp_path / "50% off?#mode=rw é.db"
        try:
            with SqliteQueuesStorage(odd) as storage:
                storage.push("peer", message(b"one"))
        except StorageError:
            assert sys.platform == "win32"  # which does not know such names
            return
        with SqliteQueuesStorage(odd, read_only=True) as look:
            assert contents(look) == [b"one"]
        assert files(odd) == [odd.name]

    def test_memory_has_nothing_to_look_at(self) -> None:
        with pytest.raises(ValueError, match="a storage in memory is new"):
            SqliteQueuesStorage(":memory:", read_only=True)


#: A file of 1.6 with all kinds of rows.
OLD_ROWS = [("alice", b"%032d" % number, bytes(number), number % 3 or None) for number in range(60)]


def make_old(path: Path) -> list[tuple[bytes, float | None]]:
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute(TABLE_OF_16)
        conn.executemany("INSERT INTO items VALUES (?, ?, ?, ?, 1)", OLD_ROWS)
    return [(data, ttl) for _, _, data, ttl in OLD_ROWS]


def old_content(storage: SqliteQueuesStorage) -> list[tuple[bytes, float | None]]:
    return [(item.data, item.ttl) for item in storage.get_items("alice")]


class Snapshots:
    """Copies of a file and what is beside it: what is there if the process is killed now.

    They are taken before each statement of a connection, and during those that
    take long.

    :param path: the file
    :param directory: for the copies
    """

    def __init__(self, path: Path, directory: Path) -> None:
        self._path = path
        self._directory = directory
        self.taken: list[tuple[str, Path]] = []

    def take(self, moment: str) -> None:
        place = self._directory / str(len(self.taken))
        place.mkdir(parents=True)
        for suffix in ("", "-wal", "-journal"):
            if os.path.exists(f"{self._path}{suffix}"):
                shutil.copy(f"{self._path}{suffix}", place)
        self.taken.append((moment, place / self._path.name))

    def connection(self, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        """To be called in the place of :func:`sqlite3.connect`."""
        snapshots = self

        class Watched(sqlite3.Connection):
            def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
                moment = " ".join(sql.split())[:45]
                snapshots.take(moment)
                self.set_progress_handler(
                    lambda: snapshots.take(f"in {moment}"), 10 if sql == "VACUUM" else 400
                )
                return super().execute(sql, *args)

        return _connect(*args, factory=Watched, **kwargs)


_connect = sqlite3.connect


class TestMigration:
    def test_interrupted_anywhere_it_loses_nothing(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = make_old(path)
        snapshots = Snapshots(path, tmp_path / "copies")
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", snapshots.connection)
            SqliteQueuesStorage(path).close()
        moments = [moment for moment, _ in snapshots.taken]
        assert {
            "VACUUM",
            "in VACUUM",
            "PRAGMA journal_mode = WAL",
            "ALTER TABLE items ADD COLUMN offline REAL",
            "ALTER TABLE items ADD COLUMN stored_at REAL",
            "DELETE FROM snakemq_queues",
        } <= set(moments)
        for moment, copy in snapshots.taken:
            # 1.6 could go on with it.
            with closing(sqlite3.connect(copy)) as conn:
                rows = conn.execute("SELECT queue_name, uuid, data, ttl FROM items ORDER BY rowid")
                assert rows.fetchall() == OLD_ROWS, moment
            with SqliteQueuesStorage(copy) as storage:
                assert old_content(storage) == expected, moment
                assert storage.summarize() == [("alice", 60, sum(range(60)))]
                assert storage.next_expiry("alice") == 1.0
                assert setting(storage, "auto_vacuum") == 2

    #: Tells each statement before it runs, and runs it when it is told to.
    OPENER = """
        import sqlite3, sys
        import snakemq.storage.sqlite

        class Asking(sqlite3.Connection):
            def execute(self, sql, *args):
                print(" ".join(sql.split()), flush=True)
                sys.stdin.readline()
                return super().execute(sql, *args)

        connect = sqlite3.connect
        sqlite3.connect = lambda *args, **kwargs: connect(*args, factory=Asking, **kwargs)
        snakemq.storage.sqlite.SqliteQueuesStorage(sys.argv[1])
    """

    @pytest.mark.parametrize(
        "moment", ["PRAGMA journal_mode", "ALTER TABLE items ADD COLUMN stored_at", "PRAGMA schema"]
    )
    def test_a_killed_process_loses_nothing(self, path: Path, moment: str) -> None:
        expected = make_old(path)
        with running(self.OPENER, path) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            while not process.stdout.readline().startswith(moment):
                process.stdin.write("\n")
                process.stdin.flush()
            process.kill()
            process.wait(DEADLINE)
        with SqliteQueuesStorage(path) as storage:
            assert old_content(storage) == expected
            assert storage.summarize() == [("alice", 60, sum(range(60)))]

    def test_a_step_that_fails_never_began(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = make_old(path)

        def fails(conn: sqlite3.Connection) -> None:
            conn.execute("DELETE FROM items")
            conn.execute("CREATE TABLE half_of_it (a)")
            raise sqlite3.OperationalError("disk I/O error")

        with monkeypatch.context() as patch:
            patch.setattr(migrations, "STEPS", (*migrations.STEPS, fails))
            with pytest.raises(StorageError, match="can't be read or written"):
                SqliteQueuesStorage(path)
        objects = execute(path, "SELECT name FROM sqlite_master")
        assert ("half_of_it",) not in objects
        with SqliteQueuesStorage(path) as storage:
            assert old_content(storage) == expected

    def test_steps_are_done_once_and_in_order(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = []

        def step(number: int) -> Callable[[sqlite3.Connection], None]:
            return lambda conn: done.append(number)

        with SqliteQueuesStorage(path) as storage:
            storage.push("peer", message(b"one"))
        steps = migrations.STEPS
        for last in (1, 3):
            monkeypatch.setattr(
                migrations, "STEPS", (*steps, *(step(number) for number in range(last)))
            )
            for _ in range(2):
                with SqliteQueuesStorage(path) as storage:
                    assert contents(storage) == [b"one"]
        assert done == [0, 1, 2]

    def test_a_newer_version_is_refused(self, path: Path) -> None:
        with SqliteQueuesStorage(path) as storage:
            storage.push("peer", message(b"one"))
        execute(path, "UPDATE snakemq_meta SET value = 99 WHERE name = 'version'")
        content = path.read_bytes()
        for read_only in (False, True):
            with pytest.raises(StorageError, match=r"a newer snakemq \(version 99 of the file"):
                SqliteQueuesStorage(path, read_only=read_only)
        expect_untouched(path, content)

    @pytest.mark.parametrize("read_only", [False, True])
    def test_a_file_of_version_1(self, path: Path, read_only: bool) -> None:
        """Its counters were right with each change."""
        with SqliteQueuesStorage(path) as storage:
            storage.change_items([("peer", Message(b"abc", 60.0, 1))] * 3)
            storage.advance_ttl("peer", 20.0)
        execute(
            path,
            "DROP TABLE snakemq_queues",
            """CREATE TABLE snakemq_queues (queue_name TEXT PRIMARY KEY,
                messages INTEGER, bytes INTEGER, seconds REAL) WITHOUT ROWID""",
            "INSERT INTO snakemq_queues VALUES ('peer', 3, 9, 20.0)",
            "UPDATE snakemq_meta SET value = 1 WHERE name = 'version'",
            """UPDATE snakemq_meta SET value = (SELECT schema_version FROM pragma_schema_version)
                WHERE name = 'schema_version'""",
        )
        for _ in range(2):
            with SqliteQueuesStorage(path, read_only=read_only) as storage:
                assert storage.summarize() == [("peer", 3, 9)]
                assert [item.ttl for item in storage.get_items("peer")] == [40.0] * 3
                assert storage.last_position() == 3
        version = execute(path, "SELECT value FROM snakemq_meta WHERE name = 'version'")
        assert version == [(1 if read_only else 2,)]

    def test_the_version_of_the_application_is_its_own(self, path: Path) -> None:
        execute(path, "PRAGMA user_version = 4711")
        for _ in range(2):
            with SqliteQueuesStorage(path) as storage:
                storage.push("peer", message())
        assert execute(path, "PRAGMA user_version") == [(4711,)]

    def test_without_room_to_rewrite_it_is_used_as_it_is(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        expected = make_old(path)

        class Full(sqlite3.Connection):
            def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
                if sql == "VACUUM":
                    raise sqlite3.OperationalError("database or disk is full")
                return super().execute(sql, *args)

        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", lambda *a, **k: _connect(*a, factory=Full, **k))
            with SqliteQueuesStorage(path) as storage:
                assert old_content(storage) == expected
                assert setting(storage, "auto_vacuum") == 0
        assert any("is used as it is" in record.message for record in caplog.records)
        with SqliteQueuesStorage(path) as storage:
            storage.remove_items("alice", storage.get_items("alice"))
            assert storage.maintain() is False

    def test_a_locked_file_of_1_6_is_refused_as_a_whole(self, path: Path) -> None:
        make_old(path)
        content = path.read_bytes()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageError, match="locked"):
                SqliteQueuesStorage(path, busy_timeout=0.05)
            other.execute("ROLLBACK")
        expect_untouched(path, content)

    def test_an_old_file_of_many_items_is_rewritten_once(self, path: Path) -> None:
        make_old(path)
        with SqliteQueuesStorage(path) as storage:
            version = connection_of(storage).execute("PRAGMA schema_version").fetchone()
        with SqliteQueuesStorage(path) as storage:
            assert connection_of(storage).execute("PRAGMA schema_version").fetchone() == version


def damage(path: Path, start: int, end: int | None = None) -> bytes:
    content = bytearray(path.read_bytes())
    end = len(content) if end is None else end
    content[start:end] = random.Random(3).randbytes(end - start)
    path.write_bytes(content)
    return bytes(content)


def fill(path: Path) -> None:
    with SqliteQueuesStorage(path) as storage:
        storage.push_many(("peer", message(bytes(500))) for _ in range(1000))


class TestDamage:
    def test_it_is_never_replaced_without_being_asked(self, path: Path) -> None:
        fill(path)
        content = damage(path, 100)
        with pytest.raises(StorageDamaged, match="set_aside_damaged=True"):
            SqliteQueuesStorage(path)
        assert path.read_bytes() == content

    @pytest.mark.parametrize("start", [16, 100, 4096])
    def test_it_is_set_aside_on_request(
        self, path: Path, start: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        fill(path)
        content = damage(path, start)
        with SqliteQueuesStorage(path, set_aside_damaged=True) as storage:
            assert storage.get_queues() == []
            storage.push("peer", message(b"new"))
        (aside,) = (name for name in files(path) if "damaged" in name)
        assert aside.startswith("storage.db.damaged-20")
        assert path.with_name(aside).read_bytes() == content
        (record,) = [one for one in caplog.records if one.levelno >= logging.WARNING]
        assert str(path.with_name(aside)) in record.getMessage()
        with SqliteQueuesStorage(path, set_aside_damaged=True) as storage:
            assert contents(storage) == [b"new"]
        assert files(path) == ["storage.db", aside]

    def test_what_is_beside_it_goes_along(self, path: Path) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).write_text(f"content{suffix}")
        _set_aside(str(path), StorageDamaged("damaged"))
        names = files(path)
        assert [path.with_name(name).read_text() for name in names] == [
            "content",
            "content-journal",
            "content-shm",
            "content-wal",
        ]
        assert names == [names[0] + suffix for suffix in ("", "-journal", "-shm", "-wal")]

    def test_two_are_set_aside_under_two_names(self, path: Path) -> None:
        for _ in range(3):
            fill(path)
            damage(path, 100)
            SqliteQueuesStorage(path, set_aside_damaged=True).close()
        assert len(files(path)) == 4

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"All work and no play makes Jack a dull boy.\n" * 500, id="text"),
            pytest.param(bytes(10_000), id="zeros"),
        ],
    )
    def test_what_is_no_database_is_never_set_aside(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(StorageError, match="is not an SQLite database and was left as it is"):
            SqliteQueuesStorage(path, set_aside_damaged=True)
        expect_untouched(path, content)

    def test_nor_is_what_is_somebody_else_s(self, path: Path) -> None:
        execute(path, "CREATE TABLE items (id INTEGER PRIMARY KEY, price REAL)")
        content = path.read_bytes()
        with pytest.raises(StorageError, match="of some other program"):
            SqliteQueuesStorage(path, set_aside_damaged=True)
        expect_untouched(path, content)

    def _damage_items(self, path: Path) -> bytes:
        """So that it is not seen at once."""
        fill(path)
        size = path.stat().st_size
        return damage(path, size // 3, size // 2)

    def test_damage_that_is_found_later_is_set_aside_the_next_time(self, path: Path) -> None:
        content = self._damage_items(path)
        with SqliteQueuesStorage(path, set_aside_damaged=True) as storage:
            with pytest.raises(StorageDamaged, match="is damaged"):
                storage.get_items("peer")
            with pytest.raises(StorageDamaged, match="is damaged"):
                storage.get_page("peer", 0, max_messages=1000, max_bytes=1 << 30)
        assert "malformed" in lock_of(path).read_text()
        # Without being asked it stays, and is remembered.
        for _ in range(2):
            with SqliteQueuesStorage(path) as storage:
                assert storage.get_queues() == ["peer"]
        with SqliteQueuesStorage(path, set_aside_damaged=True) as storage:
            assert storage.get_queues() == []
        (aside,) = (name for name in files(path) if "damaged" in name)
        assert path.with_name(aside).stat().st_size == len(content)
        assert files(path) == ["storage.db", aside]

    def test_a_file_that_was_replaced_by_a_good_one_is_kept(self, path: Path) -> None:
        self._damage_items(path)
        with SqliteQueuesStorage(path) as storage, pytest.raises(StorageDamaged):
            storage.get_items("peer")
        path.unlink()
        fill(path)
        with SqliteQueuesStorage(path, set_aside_damaged=True) as storage:
            assert len(contents(storage)) == 1000
        assert files(path) == ["storage.db"]

    def test_a_change_that_finds_damage_reports_it(self, path: Path) -> None:
        self._damage_items(path)
        with SqliteQueuesStorage(path) as storage:
            with pytest.raises(StorageDamaged, match="is damaged"):
                storage.remove_items("peer", [Message(b"", uuid=b"unknown")])
            with pytest.raises(StorageDamaged, match="is damaged"):
                storage.change_items([], [Removal("peer", list(range(1, 1001)), 500_000)])
