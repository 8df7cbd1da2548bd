"""The SQLite storage beyond the contract of all storages: the file and what can go wrong."""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import pytest

from snakemq.exceptions import StorageDamaged, StorageError
from snakemq.message import Message
from snakemq.storage import Removal
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.helpers import DEADLINE
from tests.layers.sqlite_support import (
    TABLE_OF_16,
    connection_of,
    contents,
    execute,
    expect_untouched,
    message,
    run,
    running,
    setting,
    statements,
    steps,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "storage.db"


@pytest.fixture
def storage(path: Path) -> Iterator[SqliteQueuesStorage]:
    with SqliteQueuesStorage(path, busy_timeout=0.05) as storage:
        yield storage


class TestFile:
    """It is 1.6's file, and stays it."""

    def test_the_table_is_that_of_1_6_and_two_columns(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        storage.push("peer", Message(b"\0data", 1.5, 0x80000001, b"\x01\xab"))
        storage.push("peer", Message(b"", None, 1, b"x" * 16))
        assert execute(path, "PRAGMA table_info(items)") == [
            (0, "queue_name", "VARCHAR(50)", 0, None, 0),
            (1, "uuid", "VARCHAR(32)", 0, None, 0),
            (2, "data", "BLOB", 0, None, 0),
            (3, "ttl", "REAL", 0, None, 0),
            (4, "flags", "INTEGER", 0, None, 0),
            (5, "offline", "REAL", 0, None, 0),
            (6, "stored_at", "REAL", 0, None, 0),
        ]
        assert execute(path, "SELECT queue_name, uuid, data, ttl, flags FROM items") == [
            ("peer", b"01ab", b"\0data", 1.5, 0x80000001),
            ("peer", b"78" * 16, b"", None, 1),
        ]

    def test_a_file_of_1_6_on_python_2_is_read(self, path: Path) -> None:
        # There the text type was what Python 3 calls bytes.
        execute(
            path,
            TABLE_OF_16,
            "INSERT INTO items VALUES ('peer', '0a', 'text', 5.0, 1)",
            "INSERT INTO items VALUES ('peer', CAST('0b' AS BLOB), CAST('blob' AS BLOB), NULL, 1)",
            "INSERT INTO items VALUES ('peer', '0c', 'more text', 7.0, 1)",
        )
        with SqliteQueuesStorage(path) as storage:
            items = storage.get_items("peer")
            assert [(item.uuid, item.data, item.ttl) for item in items] == [
                (b"\x0a", b"text", 5.0),
                (b"\x0b", b"blob", None),
                (b"\x0c", b"more text", 7.0),
            ]
            items[2].ttl = 6.0
            storage.update_items_ttl(items)
            storage.remove_items("peer", items[:1])
            storage.delete_items(items[1:2])
            assert [(item.data, item.ttl) for item in storage.get_items("peer")] == [
                (b"more text", 6.0)
            ]

    def test_other_tables_in_the_database_are_left_alone(self, path: Path) -> None:
        execute(path, "CREATE TABLE theirs (a)", "INSERT INTO theirs VALUES (1)")
        with SqliteQueuesStorage(path) as storage:
            storage.push("peer", message())
            storage.delete_all()
        assert execute(path, "SELECT a FROM theirs") == [(1,)]

    def test_order_survives_a_vacuum_that_renumbers_rows(self, path: Path) -> None:
        items = [message(b"%d" % number, uuid=b"%02d" % (99 - number)) for number in range(50)]
        with SqliteQueuesStorage(path) as storage:
            storage.push_many(("peer", item) for item in items)
            storage.remove_items("peer", items[:20] + items[30:40])
        before = execute(path, "SELECT max(rowid) FROM items")
        indexes = ("items_queue", "items_expiry")
        execute(path, *(f"DROP INDEX {name}" for name in indexes), "VACUUM")
        assert execute(path, "SELECT max(rowid) FROM items") < before
        with SqliteQueuesStorage(path) as storage:
            storage.push("peer", message(b"last"))
            left = [item.data for item in items[20:30] + items[40:]]
            assert contents(storage) == [*left, b"last"]
        found = {name for (name,) in execute(path, "SELECT name FROM sqlite_master")}
        assert found >= set(indexes)

    def test_opening_does_not_rewrite_the_file(self, path: Path) -> None:
        items = [message(bytes(1000)) for _ in range(500)]
        with SqliteQueuesStorage(path) as storage:
            storage.push_many(("peer", item) for item in items)
            storage.remove_items("peer", items)
        large = path.stat().st_size
        with SqliteQueuesStorage(path) as storage:
            storage.push_many(("peer", item) for item in items)
        # Neither made small at the start, nor any larger afterwards.
        assert path.stat().st_size == large > 500_000

    def test_the_extra_files_are_gone_after_closing(self, path: Path) -> None:
        with SqliteQueuesStorage(path) as storage:
            storage.push("peer", message())
            assert path.with_name("storage.db-wal").exists()
            assert path.with_name("storage.db-lock").exists()
        assert [entry.name for entry in path.parent.iterdir()] == ["storage.db"]

    def test_names_of_the_file(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(path.parent)
        with SqliteQueuesStorage("storage.db") as storage:
            storage.push("peer", message(b"one"))
            assert storage.filename == "storage.db"
        with SqliteQueuesStorage(str(path)) as storage:
            storage.push("peer", message(b"two"))
        with SqliteQueuesStorage(path) as storage:
            assert contents(storage) == [b"one", b"two"]
            # Opened once, it does not depend on the working directory any more.
            monkeypatch.chdir("/")
            storage.push("peer", message(b"three"))
            assert contents(storage) == [b"one", b"two", b"three"]

    def test_two_storages_in_memory_are_two(self) -> None:
        with SqliteQueuesStorage(":memory:") as one, SqliteQueuesStorage(":memory:") as two:
            one.push("peer", message(b"one"))
            assert contents(one) == [b"one"]
            assert contents(two) == []

    def test_repr(self, path: Path) -> None:
        storage = SqliteQueuesStorage(path)
        assert repr(storage) == f"<SqliteQueuesStorage {str(path)!r} open>"
        storage.close()
        assert repr(storage) == f"<SqliteQueuesStorage {str(path)!r} closed>"


class TestDurabilityAndCost:
    def test_every_commit_is_synced(self, path: Path, storage: SqliteQueuesStorage) -> None:
        assert execute(path, "PRAGMA journal_mode") == [("wal",)]
        assert setting(storage, "synchronous") == 2  # FULL
        with SqliteQueuesStorage(":memory:") as other:
            assert setting(other, "synchronous") == 3  # EXTRA: there is no WAL

    def test_every_commit_is_synced_after_an_interrupt_at_the_wrong_moment(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        """Ctrl-C comes when SQLite has just been told that this change may be late."""

        def interrupt(frame: FrameType, event: str, arg: object) -> None:
            if event == "c_return" and setting(storage, "synchronous") == 1:  # NORMAL
                raise KeyboardInterrupt

        positions = storage.change_items([("peer", message()), ("peer", message())])
        removal = Removal("peer", positions[:1], 4)
        sys.setprofile(interrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                storage.change_items([], [removal], sync=False)
        finally:
            sys.setprofile(None)
        storage.push("peer", message())
        assert setting(storage, "synchronous") == 2  # FULL

    def test_what_push_returned_for_survives_a_kill(self, path: Path) -> None:
        program = """
            import sys
            from snakemq.message import Message
            from snakemq.storage.sqlite import SqliteQueuesStorage
            storage = SqliteQueuesStorage(sys.argv[1])
            number = 0
            while True:
                storage.push("peer", Message(b"%d" % number, None, 1))
                print(number, flush=True)
                number += 1
        """
        accepted = []
        with running(program, path) as process:
            assert process.stdout is not None
            while len(accepted) < 100:
                accepted.append(int(process.stdout.readline()))
            process.kill()
            # Also what it wrote before the kill reached it.
            accepted += [int(line) for line in process.stdout if line.endswith("\n")]
        with SqliteQueuesStorage(path) as storage:
            found = [int(data) for data in contents(storage)]
        assert found == list(range(len(found)))
        # The last one may have been stored without time to say so.
        assert len(found) - len(accepted) in (0, 1)

    @pytest.mark.parametrize("operation", ["push", "remove", "load", "age"])
    def test_the_cost_does_not_depend_on_the_backlog(self, operation: str) -> None:
        def cost(backlog: int) -> int:
            chance = random.Random(backlog)
            with SqliteQueuesStorage(":memory:") as storage:
                items = [message(b"x", uuid=chance.randbytes(16)) for _ in range(backlog)]
                # The same message to everybody: its uuid alone says little.
                everybody = message(b"to all")
                storage.push_many((f"peer{n % 10}", item) for n, item in enumerate(items))
                storage.push_many((f"peer{n}", everybody) for n in range(backlog))
                storage.push("alone", everybody)
                run: dict[str, Callable[[], object]] = {
                    "push": lambda: storage.push("peer0", message()),
                    "remove": lambda: storage.remove_items("alone", [everybody]),
                    "load": lambda: storage.get_items("alone"),
                    "age": lambda: storage.advance_ttl("peer0", 1.0),
                }
                return steps(storage, run[operation])

        assert cost(3000) <= cost(30) + 30

    def test_a_batch_is_one_transaction(self, path: Path, storage: SqliteQueuesStorage) -> None:
        items = [message(b"%d" % number) for number in range(100)]
        for change, syncs in (
            (lambda: storage.push_many(("peer", item) for item in items), 1),
            (lambda: storage.update_items_ttl(items), 1),
            (lambda: storage.remove_items("peer", items[:50]), 1),
            (lambda: storage.delete_items(items), 1),
            (lambda: storage.push_many([]), 0),
            (lambda: storage.remove_items("peer", []), 0),
            (lambda: storage.push_inbox("peer", items, keep=10), 1),
            (lambda: storage.push_inbox("peer", [], keep=10), 0),
            (lambda: storage.add_received("peer", [b"1", b"2"], keep=10, sync=True), 1),
            (lambda: storage.add_received("peer", [], keep=10, sync=True), 0),
            (lambda: storage.bury(1, "tired of it"), 1),
            (lambda: storage.retry_dead(None), 1),
        ):
            assert _transactions(storage, change) == syncs


class TestRefusedFiles:
    """What is somebody else's is not touched."""

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"hello", id="tiny"),
            pytest.param(b"All work and no play makes Jack a dull boy.\n" * 500, id="text"),
            pytest.param(bytes(10_000), id="zeros"),
            pytest.param(random.Random(7).randbytes(10_000), id="noise"),
        ],
    )
    def test_not_a_database(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(StorageError, match="is not an SQLite database and was left as it is"):
            SqliteQueuesStorage(path)
        expect_untouched(path, content)

    @pytest.mark.parametrize(
        "statement",
        [
            pytest.param("CREATE TABLE items (id INTEGER PRIMARY KEY, price REAL)", id="other"),
            pytest.param(TABLE_OF_16.replace("ttl REAL,", ""), id="fewer"),
            pytest.param(TABLE_OF_16.replace("ttl REAL,", "ttl REAL, owner TEXT,"), id="more"),
            pytest.param(
                "CREATE VIEW items AS SELECT 1 AS queue_name, 2 AS uuid, 3 AS data, 4 AS ttl,"
                " 5 AS flags",
                id="view",
            ),
        ],
    )
    def test_a_database_of_some_other_program(self, path: Path, statement: str) -> None:
        execute(path, statement)
        content = path.read_bytes()
        with pytest.raises(StorageError, match=r"'items' (table|view) of some other program"):
            SqliteQueuesStorage(path)
        expect_untouched(path, content)

    def test_what_is_not_to_be_created_is_not(self, path: Path) -> None:
        with pytest.raises(StorageError, match=r"there is no queue storage .*; check the name"):
            SqliteQueuesStorage(path, create=False)
        assert not path.exists()
        execute(path, "CREATE TABLE theirs (a)")
        content = path.read_bytes()
        with pytest.raises(StorageError, match=r"there is no queue storage in .* left as it is"):
            SqliteQueuesStorage(path, create=False)
        expect_untouched(path, content)
        with SqliteQueuesStorage(path) as storage:
            storage.push("peer", message(b"one"))
        with SqliteQueuesStorage(path, create=False) as storage:
            assert contents(storage) == [b"one"]

    def test_an_empty_file_is_a_new_database(self, path: Path) -> None:
        path.touch()
        with SqliteQueuesStorage(path) as storage:
            storage.push("peer", message(b"one"))
            assert contents(storage) == [b"one"]

    def test_no_such_directory(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing"
        with pytest.raises(StorageError, match="there is no directory") as caught:
            SqliteQueuesStorage(missing / "storage.db")
        assert repr(str(missing)) in str(caught.value)
        assert isinstance(caught.value.__cause__, OSError)
        assert not missing.exists()

    def test_a_directory(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="is a directory"):
            SqliteQueuesStorage(tmp_path)

    def test_an_empty_name(self) -> None:
        with pytest.raises(ValueError, match="empty"):
            SqliteQueuesStorage("")


class TestDamage:
    def test_a_damaged_file_is_reported(self, path: Path) -> None:
        with SqliteQueuesStorage(path) as storage:
            storage.push_many(("peer", message(bytes(500))) for _ in range(1000))
        content = bytearray(path.read_bytes())
        # All pages but the first, which is read when it is opened.
        content[8192:] = random.Random(3).randbytes(len(content) - 8192)
        path.write_bytes(content)

        def read() -> None:
            with SqliteQueuesStorage(path) as storage:
                storage.get_items("peer")

        with pytest.raises(StorageDamaged, match="is damaged; keep a copy") as caught:
            read()
        assert str(path) in str(caught.value)

    def test_a_row_that_is_not_a_message_is_reported(self, path: Path) -> None:
        execute(path, TABLE_OF_16)
        with SqliteQueuesStorage(path) as storage:
            storage.push("good", message(b"fine"))
            for row in (
                "'no hex', x'00', 1.0, 1",
                "NULL, x'00', 1.0, 1",
                "'00', NULL, 1.0, 1",
                "'00', x'00', 'soon', 1",
                "'00', x'00', -1.0, 1",
                "'00', x'00', 1.0, 4294967296",
            ):
                execute(path, f"INSERT INTO items VALUES ('bad', {row}, NULL, NULL)")
                with pytest.raises(StorageDamaged, match="delete the row with rowid 2"):
                    storage.get_items("bad")
                assert contents(storage, "good") == [b"fine"]
                execute(path, "DELETE FROM items WHERE rowid = 2")
            assert contents(storage, "bad") == []

    def test_a_table_that_vanishes_is_reported(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        execute(path, "DROP TABLE items")
        with pytest.raises(StorageError, match="no such table: items"):
            storage.push("peer", message())
        with pytest.raises(StorageError, match="no such table: items"):
            storage.get_items("peer")


class TestFullDisk:
    def test_nothing_that_was_accepted_is_lost(self, path: Path) -> None:
        with SqliteQueuesStorage(path) as storage:
            pages = setting(storage, "page_count")
            setting(storage, f"max_page_count = {pages + 20}")
            accepted = []
            with pytest.raises(StorageError, match="the disk is full; nothing was changed"):  # noqa: PT012
                while True:
                    data = b"%1000d" % len(accepted)
                    storage.push("peer", message(data))
                    accepted.append(data)
            assert 10 < len(accepted) < 100
            assert contents(storage) == accepted

            batch = [message(b"%1000d" % number) for number in range(1000, 1100)]
            with pytest.raises(StorageError, match="the disk is full"):
                storage.push_many(("other", item) for item in batch)
            assert storage.get_queues() == ["peer"]

            # Delivering makes room, as it does on a disk.
            storage.remove_items("peer", storage.get_items("peer")[:10])
            storage.push("peer", message(b"after"))
            expected = [*accepted[10:], b"after"]
            assert contents(storage) == expected
        with SqliteQueuesStorage(path) as storage:
            assert contents(storage) == expected

    @pytest.mark.skipif(sys.platform == "win32", reason="needs setrlimit")
    def test_a_failing_write_is_reported(self, path: Path) -> None:
        program = """
            import resource, signal, sys
            from snakemq.exceptions import StorageError
            from snakemq.message import Message
            from snakemq.storage.sqlite import SqliteQueuesStorage
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            storage = SqliteQueuesStorage(sys.argv[1])
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limits[1]))
            stored = 0
            try:
                while True:
                    storage.push("peer", Message(b"%1000d" % stored, None, 1))
                    stored += 1
            except StorageError as exc:
                print(stored, exc, sep="|")
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            storage.push("peer", Message(b"after", None, 1))
            print([item.data for item in storage.get_items("peer")][-2:], sep="|")
        """
        stored, error, last = re.split(r"[|\n]", run(program, path).strip())
        assert "can't be read or written; check the disk" in error
        assert last == str([b"%1000d" % (int(stored) - 1), b"after"])
        with SqliteQueuesStorage(path) as storage:
            assert len(contents(storage)) == int(stored) + 1 > 10


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
class TestPermissions:
    """In a process without privileges: for root nothing is read-only."""

    PROGRAM = """
        import os, sys
        import urllib.parse  # which the user below may not be able to read later
        from snakemq.exceptions import StorageError
        from snakemq.message import Message
        from snakemq.storage.sqlite import SqliteQueuesStorage
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            with SqliteQueuesStorage(sys.argv[1]) as storage:
                storage.push("peer", Message(b"new", None, 1))
        except StorageError as exc:
            print(exc)
        else:
            print("accepted")
    """

    @pytest.fixture
    def public(self) -> Iterator[Path]:
        """A directory that every user can get to, unlike pytest's."""
        directory = Path(tempfile.mkdtemp())
        try:
            directory.chmod(0o777)
            yield directory
        finally:
            directory.chmod(0o777)
            shutil.rmtree(directory)

    @staticmethod
    def _store(path: Path) -> None:
        with SqliteQueuesStorage(path) as storage:
            storage.push("peer", message(b"old"))

    def _try(self, path: Path) -> str:
        return run(self.PROGRAM, path).strip()

    def _look(self, path: Path) -> str:
        program = self.PROGRAM.replace("argv[1])", "argv[1], read_only=True)")
        for old, new in (
            ('storage.push("peer", Message(b"new", None, 1))', "found = storage.get_items('peer')"),
            ('print("accepted")', "print([item.data for item in found])"),
        ):
            program = program.replace(old, new)
        return run(program, path).strip()

    def test_writable(self, public: Path) -> None:
        path = public / "storage.db"
        self._store(path)
        path.chmod(0o666)
        assert self._try(path) == "accepted"

    def test_read_only_file(self, public: Path) -> None:
        path = public / "storage.db"
        self._store(path)
        path.chmod(0o444)
        assert "is read-only; make the file and its directory writable" in self._try(path)

    def test_read_only_file_of_1_6(self, public: Path) -> None:
        path = public / "storage.db"
        execute(path, TABLE_OF_16)
        path.chmod(0o444)
        content = path.read_bytes()
        assert "is read-only; make the file and its directory writable" in self._try(path)
        expect_untouched(path, content)

    def test_read_only_directory(self, public: Path) -> None:
        path = public / "storage.db"
        self._store(path)
        path.chmod(0o666)
        public.chmod(0o555)
        # Which of the two it is depends on the version of SQLite.
        assert re.search("read-only|permissions", self._try(path))

    def test_a_new_file_in_a_read_only_directory(self, public: Path) -> None:
        public.chmod(0o555)
        assert "permissions of the file and its directory" in self._try(public / "storage.db")

    @pytest.mark.parametrize("mode", [0o777, 0o555])
    def test_a_look_needs_no_right_to_write(self, public: Path, mode: int) -> None:
        path = public / "storage.db"
        self._store(path)
        path.chmod(0o444)
        public.chmod(mode)
        content = path.read_bytes()
        assert self._look(path) == "[b'old']"
        expect_untouched(path, content)

    def test_a_look_at_what_another_user_has_open(self, public: Path) -> None:
        path = public / "storage.db"
        with SqliteQueuesStorage(path) as storage:
            storage.push("peer", message(b"old"))
            for name in public.iterdir():
                name.chmod(0o644)
            assert self._look(path) == "[b'old']"
            storage.push("peer", message(b"new"))
            assert self._look(path) == "[b'old', b'new']"

    def test_a_lock_of_another_user(self, public: Path) -> None:
        path = public / "storage.db"
        self._store(path)
        path.chmod(0o666)
        lock = public / "storage.db-lock"
        lock.write_text("process 1\n")
        lock.chmod(0)
        assert "if nobody uses the storage, delete that file" in self._try(path)
        lock.unlink()
        assert self._try(path) == "accepted"

    def test_unreadable_file(self, public: Path) -> None:
        path = public / "storage.db"
        self._store(path)
        path.chmod(stat.S_IWUSR)
        assert "permissions of the file and its directory" in self._try(path)


class TestOtherProcesses:
    HOLDER = """
        import sqlite3, sys
        conn = sqlite3.connect(sys.argv[1], isolation_level=None)
        conn.execute("BEGIN IMMEDIATE")
        print("locked", flush=True)
        sys.stdin.readline()
        conn.execute("COMMIT")
        conn.close()
    """

    def test_a_locked_file_is_reported(self, path: Path, storage: SqliteQueuesStorage) -> None:
        storage.push("peer", message(b"before"))
        with running(self.HOLDER, path) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            with pytest.raises(StorageError, match=r"locked for 0\.05 s, by another process"):
                storage.push("peer", message(b"refused"))
            # Readers are not in its way, in WAL mode; nor is what writes nothing.
            assert contents(storage) == [b"before"]
            storage.remove_items("peer", [])
            process.stdin.write("\n")
            process.stdin.close()
            assert process.wait(DEADLINE) == 0
        storage.push("peer", message(b"after"))
        assert contents(storage) == [b"before", b"after"]

    def test_opening_a_locked_file_is_reported(self, path: Path) -> None:
        execute(path, TABLE_OF_16)
        with running(self.HOLDER, path) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            with pytest.raises(StorageError, match=r"locked for 0\.05 s, by another process"):
                SqliteQueuesStorage(path, busy_timeout=0.05)

    def test_it_waits_for_a_lock_that_is_released(self, path: Path) -> None:
        with (
            SqliteQueuesStorage(path, busy_timeout=DEADLINE) as storage,
            running(self.HOLDER, path) as process,
            ThreadPoolExecutor(1) as pool,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            pushing = pool.submit(storage.push, "peer", message(b"patient"))
            process.stdin.write("\n")
            process.stdin.flush()
            pushing.result(DEADLINE)
            assert contents(storage) == [b"patient"]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.parametrize("leave", ["os._exit(0)", "sys.exit(0)", "forget()"])
    def test_a_forked_child_is_refused(self, path: Path, leave: str) -> None:
        program = f"""
            import gc, os, sys, weakref
            from snakemq.exceptions import StorageError
            from snakemq.message import Message
            from snakemq.storage.sqlite import SqliteQueuesStorage

            storage = SqliteQueuesStorage(sys.argv[1])
            item = Message(b"from the parent", None, 1)
            storage.push("peer", item)

            def forget():
                # Closing the parent's connection in the child may harm the file.
                global storage
                alive = weakref.ref(storage._file)
                del storage
                gc.collect()
                assert alive()

            # Nobody in the child would ever release this.
            held = storage._file._lock
            held.acquire()
            pid = os.fork()
            if not pid:
                for use in (
                    storage.get_queues,
                    storage.delete_all,
                    lambda: storage.get_items("peer"),
                    lambda: storage.push("peer", item),
                    lambda: storage.push_many([]),
                    lambda: storage.remove_items("peer", [item]),
                    lambda: storage.delete_items([item]),
                    lambda: storage.update_items_ttl([item]),
                    lambda: storage.advance_ttl("peer", 1.0),
                    storage.summarize,
                    storage.last_position,
                    lambda: storage.get_page("peer", 0, max_messages=1, max_bytes=1),
                    lambda: storage.change_items([("peer", item)]),
                    lambda: storage.change_items([]),
                    lambda: storage.next_expiry("peer"),
                    lambda: storage.take_expired("peer", 0.0, 0, 1),
                    lambda: storage.oldest("peer"),
                    storage.adopt,
                    storage.maintain,
                    storage.received_peers,
                    storage.count_dead,
                    lambda: storage.add_dead([]),
                    lambda: storage.load_received("peer"),
                    lambda: storage.add_received("peer", [b"1"], keep=1, sync=False),
                    lambda: storage.add_received("peer", [], keep=1, sync=True),
                    storage.sync,
                    lambda: storage.push_inbox("peer", [item], keep=1),
                    storage.get_inbox,
                    lambda: storage.advance_inbox(None, None),
                    lambda: storage.advance_inbox(None, 1),
                    lambda: storage.bury(1, ""),
                    storage.get_dead,
                    lambda: storage.retry_dead(None),
                    lambda: storage.drop_dead([]),
                    storage.transaction().__enter__,
                    lambda: storage.push_with(None, []),
                ):
                    try:
                        use()
                    except StorageError as exc:
                        assert "was forked off" in str(exc), exc
                        assert str(os.getppid()) in str(exc), exc
                    else:
                        print("not refused")
                storage.close()
                with SqliteQueuesStorage(sys.argv[1] + ".child") as own:
                    own.push("peer", Message(b"from the child", None, 1))
                print("child done", flush=True)
                del use, own, held
                {leave}
                sys.exit(0)
            held.release()
            assert os.waitpid(pid, 0)[1] == 0
            storage.push("peer", Message(b"after the child", None, 1))
            print("parent done", flush=True)
            os.kill(os.getpid(), 9)
        """
        with running(program, path) as process:
            output, errors = process.communicate(timeout=DEADLINE)
        assert (output, errors) == ("child done\nparent done\n", "")
        with SqliteQueuesStorage(path) as storage:
            assert contents(storage) == [b"from the parent", b"after the child"]
        with SqliteQueuesStorage(f"{path}.child") as storage:
            assert contents(storage) == [b"from the child"]


class TestUse:
    def test_a_closed_storage_refuses_everything(self, path: Path) -> None:
        storage = SqliteQueuesStorage(path)
        item = message()
        storage.push("peer", item)
        storage.close()
        storage.close()
        connection = sqlite3.connect(":memory:")
        connection.close()
        uses: list[Callable[[], object]] = [
            storage.get_queues,
            storage.delete_all,
            lambda: storage.get_items("peer"),
            lambda: storage.push("peer", item),
            lambda: storage.push_many([]),
            lambda: storage.remove_items("peer", [item]),
            lambda: storage.delete_items([item]),
            lambda: storage.update_items_ttl([item]),
            lambda: storage.advance_ttl("peer", 1.0),
            storage.summarize,
            storage.last_position,
            lambda: storage.get_page("peer", 0, max_messages=1, max_bytes=1),
            lambda: storage.change_items([("peer", item)]),
            lambda: storage.change_items([]),
            lambda: storage.next_expiry("peer"),
            lambda: storage.take_expired("peer", 0.0, 0, 1),
            lambda: storage.oldest("peer"),
            storage.adopt,
            storage.maintain,
            storage.received_peers,
            storage.count_dead,
            lambda: storage.add_dead([]),
            lambda: storage.load_received("peer"),
            lambda: storage.add_received("peer", [b"1"], keep=1, sync=False),
            lambda: storage.add_received("peer", [], keep=1, sync=True),
            storage.sync,
            lambda: storage.push_inbox("peer", [item], keep=1),
            storage.get_inbox,
            lambda: storage.advance_inbox(None, None),
            lambda: storage.advance_inbox(None, 1),
            lambda: storage.bury(1, ""),
            storage.get_dead,
            lambda: storage.retry_dead(None),
            lambda: storage.drop_dead([]),
            storage.transaction().__enter__,
            lambda: storage.push_with(connection, [("peer", item)]),
        ]
        for use in uses:
            with pytest.raises(StorageError, match="is closed; open the file again"):
                use()
        with SqliteQueuesStorage(path) as again:
            assert contents(again) == [b"data"]
            assert again.get_inbox() == []

    def test_closing_waits_for_the_other_threads(self, path: Path) -> None:
        storage = SqliteQueuesStorage(path)
        pushed: list[int] = []
        pushing = threading.Event()

        def push() -> None:
            with pytest.raises(StorageError, match="is closed"):  # noqa: PT012
                while True:
                    storage.push("peer", message(b"%d" % len(pushed)))
                    pushed.append(len(pushed))
                    if len(pushed) == 10:
                        pushing.set()

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(push)
            assert pushing.wait(DEADLINE)
            storage.close()
            future.result(DEADLINE)
        with SqliteQueuesStorage(path) as storage:
            assert contents(storage) == [b"%d" % number for number in pushed]

    def test_an_entry_that_can_not_be_stored_undoes_the_batch(
        self, storage: SqliteQueuesStorage
    ) -> None:
        storage.push("peer", message(b"before"))
        with pytest.raises(UnicodeEncodeError):
            storage.push_many([("peer", message(b"good")), ("no \ud800 text", message(b"bad"))])
        huge = message(b"bad")
        huge.flags = 1 << 70
        with pytest.raises(StorageError, match="can't hold a value of this size"):
            storage.push_many([("peer", message(b"good")), ("peer", huge)])
        assert contents(storage) == [b"before"]
        storage.push("peer", message(b"after"))
        assert contents(storage) == [b"before", b"after"]

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="needs Connection.setlimit")
    def test_too_much_data_is_reported(self, storage: SqliteQueuesStorage) -> None:
        connection_of(storage).setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000)
        with pytest.raises(StorageError, match="can't hold a value of this size"):
            storage.push("peer", message(bytes(20_000)))
        storage.push("peer", message(b"small"))
        assert contents(storage) == [b"small"]


def _transactions(storage: SqliteQueuesStorage, operation: Callable[[], object]) -> int:
    found = statements(storage, operation)
    begun = sum(statement.startswith("BEGIN") for statement in found)
    assert begun == found.count("COMMIT")
    changing = [one for one in found if one.startswith(("INSERT", "UPDATE", "DELETE"))]
    assert bool(begun) == bool(changing)
    return begun
