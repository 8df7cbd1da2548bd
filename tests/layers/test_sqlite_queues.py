"""The SQLite storage: positions, counters and pages, and what they cost."""

from __future__ import annotations

import random
import shutil
import sqlite3
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from types import FrameType

import pytest

from snakemq.exceptions import StorageError
from snakemq.message import Message
from snakemq.storage import QueueSummary, Removal
from snakemq.storage._sqlite_batches import _insertion
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.helpers import DEADLINE
from tests.layers.sqlite_support import (
    TABLE_OF_16,
    connection_of,
    contents,
    execute,
    execute_as_16,
    message,
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


def push(storage: SqliteQueuesStorage, count: int, queue_name: str = "peer") -> list[int]:
    return storage.change_items([(queue_name, message(b"%d" % n)) for n in range(count)])


def page(
    storage: SqliteQueuesStorage, after: int = 0, queue_name: str = "peer"
) -> list[tuple[int, bytes]]:
    found = storage.get_page(queue_name, after, max_messages=10_000, max_bytes=1 << 30)
    return [(item.position, item.message.data) for item in found]


def counted(path: Path) -> list[QueueSummary]:
    """What the counters should say."""
    rows = execute(
        path, "SELECT queue_name, count(*), sum(length(data)) FROM items GROUP BY queue_name"
    )
    return [QueueSummary(*row) for row in rows]  # type: ignore[arg-type]


class TestPositions:
    def test_they_are_those_of_the_rows(self, path: Path, storage: SqliteQueuesStorage) -> None:
        positions = push(storage, 5)
        rows = execute(path, "SELECT rowid, data FROM items ORDER BY rowid")
        assert rows == page(storage)
        assert [row[0] for row in rows] == positions

    @pytest.mark.parametrize("count", [1, 2, 3, 124, 125, 126, 248, 249, 600])
    def test_batches_of_every_size(
        self, path: Path, storage: SqliteQueuesStorage, count: int
    ) -> None:
        positions = push(storage, count)
        assert page(storage) == [(place, b"%d" % n) for n, place in enumerate(positions)]
        between = push(storage, 1, "other")
        assert len(set(positions + between)) == count + 1
        storage.change_items([], [Removal("peer", positions[: count // 2], 0)])
        assert [place for place, _ in page(storage)] == positions[count // 2 :]
        assert [queue.messages for queue in storage.summarize()] == [count - count // 2, 1]

    def test_scattered_ones_are_removed_and_no_others(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        chance = random.Random(4)
        entries = [(chance.choice(["alice", "bob"]), message(b"x" * n)) for n in range(3000)]
        positions = storage.change_items(entries)
        of_alice = [
            (place, item)
            for place, (name, item) in zip(positions, entries, strict=True)
            if name == "alice"
        ]
        gone = [of_alice[n] for n in sorted(chance.sample(range(len(of_alice)), 1200))]
        # All that there are between two of hers; a run of positions is none.
        gone = sorted({*gone, *of_alice[100:400]})
        places = [place for place, _ in gone]
        storage.change_items([], [Removal("alice", places, sum(len(m.data) for _, m in gone))])
        left = [place for place, _ in of_alice if place not in set(places)]
        assert [place for place, _ in page(storage, queue_name="alice")] == left
        assert len(page(storage, queue_name="bob")) == 3000 - len(of_alice)
        assert storage.summarize() == counted(path)

    def test_those_of_another_queue_are_passed_over(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        run = push(storage, 20, "bob")
        storage.change_items([], [Removal("alice", run, 20)])
        storage.change_items([], [Removal("alice", run[::2], 10)])
        assert len(page(storage, queue_name="bob")) == 20
        assert storage.summarize() == counted(path)

    def test_none_is_given_twice_after_a_failure(self, storage: SqliteQueuesStorage) -> None:
        first = push(storage, 3)
        with pytest.raises(RuntimeError), storage.transaction():  # noqa: PT012
            undone = push(storage, 2)
            raise RuntimeError
        again = push(storage, 2)
        assert max(first) < min(undone) < max(undone) < min(again)
        assert storage.last_position() == again[-1]

    def test_they_go_on_where_the_file_ends(self, path: Path) -> None:
        with SqliteQueuesStorage(path) as storage:
            highest = push(storage, 7)[-1]
        with SqliteQueuesStorage(path) as storage:
            assert storage.last_position() == highest
            assert push(storage, 1) == [highest + 1]


class TestCounters:
    """They are right whatever happens to the file."""

    def test_what_failed_is_not_counted(self, path: Path, storage: SqliteQueuesStorage) -> None:
        positions = push(storage, 4)
        bad = message(b"bad")
        bad.flags = 1 << 70
        for queue_name in ("peer", "new"):
            with pytest.raises(StorageError):
                storage.change_items(
                    [("peer", message(b"good")), (queue_name, bad)],
                    [Removal("peer", positions[:2], 2)],
                )
        assert storage.summarize() == counted(path) == [("peer", 4, 4)]
        assert len(page(storage)) == 4

    def test_what_was_undone_with_the_application_is_not(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        positions = push(storage, 4)
        with pytest.raises(RuntimeError), storage.transaction():  # noqa: PT012
            storage.change_items([("new", message())], [Removal("peer", positions, 4)])
            assert storage.summarize() == [("new", 1, 4)]
            raise RuntimeError
        assert storage.summarize() == counted(path) == [("peer", 4, 4)]
        with storage.transaction():
            storage.change_items([("new", message())], [Removal("peer", positions, 4)])
        assert storage.summarize() == counted(path) == [("new", 1, 4)]

    def test_those_that_were_not_there_are_not_subtracted(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        positions = push(storage, 12)
        storage.change_items([], [Removal("peer", positions[:4], 4)])
        storage.change_items([("peer", message())], [Removal("peer", positions[2:6], 4)])
        assert storage.summarize() == counted(path)
        storage.change_items([], [Removal("peer", [*positions, 1 << 40], 12)])
        assert storage.summarize() == counted(path) == [("peer", 1, 4)]
        storage.change_items([], [Removal("nobody", [1, 2], 2)])
        assert storage.summarize() == counted(path)

    def test_what_was_done_by_hand_is_noticed_where_all_of_a_queue_is_read(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        push(storage, 4)
        execute(path, "DELETE FROM items WHERE rowid = 2")
        storage.get_page("peer", 0, max_messages=3, max_bytes=99)
        storage.get_page("peer", 1, max_messages=9, max_bytes=99)
        assert storage.summarize() == [("peer", 4, 4)]
        assert len(page(storage)) == 3
        assert storage.summarize() == counted(path) == [("peer", 3, 3)]
        assert len(statements(storage, lambda: page(storage))) == 1
        execute(path, "DELETE FROM items")
        assert page(storage) == []
        assert storage.get_queues() == []
        push(storage, 1)
        assert storage.summarize() == [("peer", 1, 1)]

    def test_what_1_6_did_is_counted_when_the_file_is_opened(self, path: Path) -> None:
        with SqliteQueuesStorage(path) as storage:
            push(storage, 3, "alice")
            push(storage, 3, "bob")
        insert = "INSERT INTO items (queue_name, uuid, data, ttl, flags) VALUES"
        execute_as_16(
            path,
            "DELETE FROM items WHERE queue_name = 'alice'",
            f"{insert} ('bob', x'3031', x'000000', 60.0, 1)",
            f"{insert} ('carol', x'3031', x'0000', NULL, 1)",
        )
        with SqliteQueuesStorage(path) as storage:
            assert storage.summarize() == counted(path) == [("bob", 4, 6), ("carol", 1, 2)]
            assert storage.next_expiry("bob") == 60.0
            assert storage.oldest("carol") is None
            storage.advance_ttl("bob", 60.0)
            assert len(storage.take_expired("bob", 0.0, 0, 10)) == 4

    def test_a_kill_leaves_them_right(self, path: Path) -> None:
        program = """
            import sys
            from snakemq.message import Message
            from snakemq.storage import Removal
            from snakemq.storage.sqlite import SqliteQueuesStorage
            storage = SqliteQueuesStorage(sys.argv[1])
            number, last = 0, []
            while True:
                new = [(f"peer{number % 3}", Message(bytes(number % 50), None, 1))] * 30
                gone = [Removal(f"peer{(number - 1) % 3}", last[:20], 20 * ((number - 1) % 50))]
                last = storage.change_items(new, gone, sync=False)
                number += 1
                print(number, flush=True)
        """
        with running(program, path) as process:
            assert process.stdout is not None
            for _ in range(30):
                process.stdout.readline()
            process.kill()
            process.wait(DEADLINE)
        with SqliteQueuesStorage(path) as storage:
            assert sorted(storage.summarize()) == sorted(counted(path))
            assert storage.get_queues()

    @pytest.mark.parametrize("pushes", [1, 30, 999, 1000, 1001, 2100])
    def test_what_is_not_in_the_table_yet_is_counted(self, path: Path, pushes: int) -> None:
        """By the next process, if this one is killed; and by who looks while it is open."""
        with SqliteQueuesStorage(path) as storage:
            push(storage, 5, "alice")
            storage.change_items([], [Removal("alice", [4, 5], 2)])
            for number in range(pushes):
                push(storage, 1, f"peer{number % 3}")
            storage.change_items([("alice", message()), ("zoe", message())])
            expected = storage.summarize()
            assert sorted(expected) == sorted(counted(path))
            behind = execute(
                path,
                "SELECT count(*) FROM items"
                " WHERE rowid > (SELECT max(counted) FROM snakemq_queues)",
            )[0][0]
            assert behind <= 1000
            copy = path.with_name("copy.db")
            shutil.copy(path, copy)
            shutil.copy(f"{path}-wal", f"{copy}-wal")
            with SqliteQueuesStorage(path, read_only=True) as look:
                assert sorted(look.summarize()) == sorted(expected)
        with SqliteQueuesStorage(copy) as storage:
            assert sorted(storage.summarize()) == sorted(expected)
            positions = page(storage, queue_name="alice")
            storage.change_items([], [Removal("alice", [n for n, _ in positions], 7)])
            assert sorted(storage.summarize()) == sorted(counted(copy))

    def test_they_are_in_the_table_when_it_was_closed(self, path: Path) -> None:
        with SqliteQueuesStorage(path) as storage:
            push(storage, 3)
        columns = "queue_name, messages, bytes, counted"
        assert execute(path, f"SELECT {columns} FROM snakemq_queues") == [("peer", 3, 3, 3)]

    def test_it_is_closed_all_the_same_when_the_file_is_locked(self, path: Path) -> None:
        storage = SqliteQueuesStorage(path, busy_timeout=DEADLINE)
        push(storage, 3)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            storage.close()
        with SqliteQueuesStorage(path) as storage:
            assert storage.summarize() == [("peer", 3, 3)]

    def test_they_are_right_after_an_interrupt_of_the_end(self, path: Path) -> None:
        def interrupt(frame: FrameType, event: str, arg: object) -> None:
            if event == "return" and frame.f_code.co_name == "save":
                sys.setprofile(None)
                raise KeyboardInterrupt

        storage = SqliteQueuesStorage(path)
        push(storage, 1)
        sys.setprofile(interrupt)
        with pytest.raises(KeyboardInterrupt):
            storage.close()
        push(storage, 2, "other")
        storage.change_items([], [Removal("other", [2], 1)])
        storage.close()
        with SqliteQueuesStorage(path) as storage:
            assert sorted(storage.summarize()) == counted(path) == [("other", 1, 1), ("peer", 1, 1)]

    def test_a_position_that_was_counted_is_not_given_again(self, path: Path) -> None:
        """Else what is there next would seem to have been counted."""
        with SqliteQueuesStorage(path) as storage:
            push(storage, 5)
            storage.change_items([], [Removal("peer", [4, 5], 2)])
        with SqliteQueuesStorage(path) as storage:
            assert storage.last_position() == 5
            push(storage, 1)
            copy = path.with_name("copy.db")
            shutil.copy(path, copy)
            shutil.copy(f"{path}-wal", f"{copy}-wal")
        with SqliteQueuesStorage(copy) as storage:
            assert storage.summarize() == counted(copy) == [("peer", 4, 4)]

    def test_a_row_without_data_is_counted(self, path: Path) -> None:
        """Nobody stores one; whoever made it by hand is told when it is read."""
        with SqliteQueuesStorage(path) as storage:
            push(storage, 1)
        execute(path, "INSERT INTO items (queue_name) VALUES ('peer')")
        with SqliteQueuesStorage(path) as storage:
            assert storage.summarize() == [("peer", 2, 1)]
            with pytest.raises(StorageError, match="not a message"):
                storage.get_items("peer")

    def test_what_is_removed_next_after_a_failure_is_counted_once(self, path: Path) -> None:
        """Else there would seem to be less, or nothing at all, and who opens it gets nothing."""
        with SqliteQueuesStorage(path, busy_timeout=0.0) as storage:
            push(storage, 1, "other")
            for _ in range(3):
                push(storage, 1)
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                with pytest.raises(StorageError, match="locked"):
                    push(storage, 1)
                connection.execute("ROLLBACK")
            storage.change_items([], [Removal("peer", [3, 4], 2)], sync=False)
            assert sorted(storage.summarize()) == counted(path)
            push(storage, 1, "other")
        with SqliteQueuesStorage(path) as storage:
            assert sorted(storage.summarize()) == counted(path) == [("other", 2, 2), ("peer", 1, 1)]

    def test_the_clock_of_a_queue_that_is_not_in_the_table_yet_runs(self, path: Path) -> None:
        with SqliteQueuesStorage(path) as storage:
            storage.change_items([("peer", message(b"x", ttl=60.0))])
            storage.advance_ttl("peer", 20.0)
            storage.change_items([("new", message(b"x", ttl=60.0))])
            (item,) = storage.get_items("new")
            item.ttl = 30.0
            storage.update_items_ttl([item])
            storage.advance_ttl("new", 5.0)
        with SqliteQueuesStorage(path) as storage:
            assert [storage.get_items(name)[0].ttl for name in ("peer", "new")] == [40.0, 25.0]

    def test_threads_keep_them_right(self, path: Path, storage: SqliteQueuesStorage) -> None:
        def work(number: int) -> None:
            for _ in range(20):
                positions = push(storage, 5, f"peer{number % 2}")
                storage.change_items([], [Removal(f"peer{number % 2}", positions[:3], 3)])
                storage.advance_ttl(f"peer{number % 2}", 0.001)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4), timeout=DEADLINE))
        assert sorted(storage.summarize()) == sorted(counted(path))
        assert [queue.messages for queue in storage.summarize()] == [80, 80]


class TestAdoption:
    def test_what_was_pushed_is_adopted_at_the_latest_when_the_file_is_opened(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        push(storage, 2)
        with closing(sqlite3.connect(path)) as connection:
            storage.push_with(connection, [("peer", message(b"a", ttl=5.0))])
            connection.commit()
            storage.close()
        with SqliteQueuesStorage(path, read_only=True) as storage:
            assert contents(storage) == [b"0", b"1"]
        with SqliteQueuesStorage(path) as storage:
            assert page(storage) == [(1, b"0"), (2, b"1"), (3, b"a")]
            assert storage.last_position() == 3
            assert storage.adopt() == []
            assert storage.summarize() == counted(path)
            assert storage.get_items("peer")[2].ttl == 5.0
            assert storage.oldest("peer") is not None
        assert execute(path, "SELECT * FROM snakemq_pushed") == []

    def test_it_is_late(self, path: Path, storage: SqliteQueuesStorage) -> None:
        with closing(sqlite3.connect(path)) as connection:
            storage.push_with(connection, [("peer", message())])
            connection.commit()
        storage.adopt()
        assert setting(storage, "synchronous") == 1  # NORMAL
        storage.sync()
        assert setting(storage, "synchronous") == 2  # FULL

    def test_it_costs_nothing_if_there_is_nothing(self, storage: SqliteQueuesStorage) -> None:
        assert len(statements(storage, storage.adopt)) == 1

    def test_positions_rise_in_the_order_of_the_commits(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        with closing(sqlite3.connect(path)) as connection:
            before = push(storage, 1)
            storage.push_with(connection, [("peer", message(b"app"))])
            connection.commit()
            between = push(storage, 1)
            (adopted,) = [item.position for _, item in storage.adopt()]
            after = push(storage, 1)
            assert [*before, *between, adopted, *after] == [1, 2, 3, 4]

    def test_what_fails_stays_where_it_was(self, path: Path, storage: SqliteQueuesStorage) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            storage.push_with(connection, [("peer", message(b"app"))])
            connection.execute("COMMIT")
            connection.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageError, match="locked"):
                storage.adopt()
            connection.execute("ROLLBACK")
        assert [item.message.data for _, item in storage.adopt()] == [b"app"]


class TestCost:
    @pytest.mark.parametrize(
        "operation",
        ["push", "remove", "first page", "last page", "summarize", "expiry", "expired", "oldest"],
    )
    def test_it_does_not_depend_on_the_backlog(self, operation: str) -> None:
        def cost(backlog: int) -> int:
            with SqliteQueuesStorage(":memory:") as storage:
                positions = storage.change_items(
                    [
                        (f"peer{n % 3}", message(b"x", ttl=None if n % 2 else 60.0 + n))
                        for n in range(backlog)
                    ]
                )
                storage.advance_ttl("peer0", 60.5)
                middle = backlog // 2 // 3 * 3
                run: dict[str, Callable[[], object]] = {
                    "push": lambda: storage.change_items([("peer0", message())]),
                    "remove": lambda: storage.change_items(
                        [], [Removal("peer0", [positions[middle]], 1)]
                    ),
                    "first page": lambda: storage.get_page(
                        "peer0", 0, max_messages=4, max_bytes=99
                    ),
                    "last page": lambda: storage.get_page(
                        "peer0", positions[-13], max_messages=4, max_bytes=99
                    ),
                    "summarize": lambda: (
                        storage.summarize(),
                        storage.get_page("nobody", 0, max_messages=1, max_bytes=1),
                    ),
                    "expiry": lambda: storage.next_expiry("peer0"),
                    "expired": lambda: storage.take_expired("peer0", 0.0, 0, 4),
                    "oldest": lambda: storage.oldest("peer0"),
                }
                return steps(storage, run[operation])

        assert cost(6000) <= cost(60) + 30

    @pytest.mark.parametrize("unclean", [False, True])
    def test_opening_does_not_look_at_the_items(
        self, tmp_path: Path, unclean: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def cost(backlog: int) -> int:
            path = tmp_path / f"{backlog}.db"
            with SqliteQueuesStorage(path) as storage:
                storage.change_items(
                    [(f"peer{n % 3}", message(b"x", ttl=1.0 * (n % 2))) for n in range(backlog)]
                )
            if unclean:
                path.with_name(f"{path.name}-lock").write_text("process 1\n")
            count = 0

            def step() -> int:
                nonlocal count
                count += 1
                return 0

            class Counting(sqlite3.Connection):
                def __init__(self, *args: object, **kwargs: object) -> None:
                    super().__init__(*args, **kwargs)  # type: ignore[arg-type]
                    self.set_progress_handler(step, 1)

            connect = sqlite3.connect
            with monkeypatch.context() as patch:
                patch.setattr(
                    sqlite3, "connect", lambda *a, **k: connect(*a, factory=Counting, **k)
                )
                with SqliteQueuesStorage(path) as storage:
                    found = count
                    assert sum(queue.messages for queue in storage.summarize()) == backlog
            return found

        assert 0 < cost(20_000) <= cost(60) + 30

    def test_the_indexes_are_used(self, storage: SqliteQueuesStorage) -> None:
        storage.change_items([("peer", message(ttl=5.0 + n)) for n in range(50)])
        storage.advance_ttl("peer", 6.0)
        uses: dict[str, Callable[[], object]] = {
            "items_queue": lambda: storage.get_page("peer", 9, max_messages=5, max_bytes=99),
            "items_queue (queue_name=? AND rowid>?": lambda: page(storage, 9),
            "items_expiry": lambda: storage.next_expiry("peer", 3),
            "items_expiry (queue_name=? AND <expr><?": lambda: storage.take_expired(
                "peer", 0.0, 0, 5
            ),
            "INTEGER PRIMARY KEY (rowid=?)": lambda: storage.change_items(
                [], [Removal("peer", [30, 40], 8)]
            ),
            "INTEGER PRIMARY KEY (rowid>? AND rowid<?)": lambda: storage.change_items(
                [], [Removal("peer", list(range(10, 25)), 60)]
            ),
        }
        for index, use in uses.items():
            plans = []
            for statement in statements(storage, use):
                if "items" in statement and statement.startswith(("SELECT", "DELETE")):
                    plans += connection_of(storage).execute(f"EXPLAIN QUERY PLAN {statement}")
            details = [str(plan[3]) for plan in plans]
            assert any(index in detail for detail in details), (index, details)
            assert not any("SCAN" in one or "TEMP B-TREE" in one for one in details), details

    def test_a_batch_takes_few_statements(self, storage: SqliteQueuesStorage) -> None:
        """As each of them, and each of its steps, gives up the interpreter."""
        positions = push(storage, 256)
        entries = [("peer", message(b"x")) for _ in range(256)]
        found = statements(
            storage, lambda: storage.change_items(entries, [Removal("peer", positions, 256)])
        )
        assert [statement.split()[0] for statement in found] == [
            "BEGIN",
            "DELETE",
            *["INSERT"] * 3,
            "COMMIT",
        ]

    def test_a_message_takes_one_statement(self, storage: SqliteQueuesStorage) -> None:
        push(storage, 1)
        for item in (message(), message(ttl=60.0)):
            made = statements(storage, partial(storage.push, "peer", item))
            assert [statement.split()[0] for statement in made] == ["INSERT"]

    def test_a_message_that_takes_the_place_of_another_takes_one_statement(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        last = push(storage, 1)
        for _ in range(3):
            change = partial(
                storage.change_items, [("peer", message(b"1234"))], [Removal("peer", last, 4)]
            )
            made = statements(storage, change)
            assert [statement.split()[0] for statement in made] == ["UPDATE"]
            last = [storage.last_position()]
            assert page(storage) == [(last[0], b"1234")]

    def test_a_new_size_of_a_batch_is_no_new_statement(self, storage: SqliteQueuesStorage) -> None:
        """It would have to be prepared, which takes longer than running it."""
        push(storage, 1000)
        before = _insertion.cache_info().currsize
        for count in range(1, 200):
            push(storage, count)
        assert _insertion.cache_info().currsize - before <= 16

    def test_what_goes_by_uuid_takes_one_walk(self, storage: SqliteQueuesStorage) -> None:
        items = [message(b"%d" % n) for n in range(1500)]
        storage.push_many((f"peer{n % 2}", item) for n, item in enumerate(items))
        storage.advance_ttl("peer1", 1.0)
        uses: list[Callable[[], object]] = [
            lambda: storage.update_items_ttl([item.with_ttl(9.0) for item in items[:1000]]),
            lambda: storage.delete_items(items[:1000]),
            lambda: storage.remove_items("peer1", items[1001::2]),
        ]
        for use in uses:
            found = statements(storage, use)
            walks = [one for one in found if "uuid" in one and " items" in one]
            assert len(walks) == 1, walks
        assert sorted(storage.summarize()) == [("peer0", 250, 1000)]
        assert {item.ttl for item in storage.get_items("peer0")} == {60.0}


class TestPages:
    def test_what_1_6_on_python_2_stored(self, path: Path) -> None:
        execute(
            path,
            TABLE_OF_16,
            "INSERT INTO items VALUES ('peer', '0a', 'text', 5.0, 1)",
            "INSERT INTO items VALUES ('peer', '0b', 'more', NULL, 1)",
        )
        with SqliteQueuesStorage(path) as storage:
            assert page(storage) == [(1, b"text"), (2, b"more")]
            assert storage.summarize() == [("peer", 2, 8)]
            assert storage.next_expiry("peer") == 5.0
            storage.remove_items("peer", [Message(b"", uuid=b"\x0a")])
            assert storage.summarize() == [("peer", 1, 4)]

    def test_large_items_end_a_page_without_being_read(self, storage: SqliteQueuesStorage) -> None:
        storage.change_items([("peer", message(bytes(100_000))) for _ in range(50)])
        few = steps(
            storage, lambda: storage.get_page("peer", 0, max_messages=99, max_bytes=150_000)
        )
        all_of_them = steps(
            storage, lambda: storage.get_page("peer", 0, max_messages=99, max_bytes=1 << 30)
        )
        assert few * 5 < all_of_them

    def test_memory_does_not_depend_on_the_backlog(self, storage: SqliteQueuesStorage) -> None:
        for _ in range(20):
            storage.change_items([("peer", message(bytes(1000), ttl=1.0)) for _ in range(250)])
        tracemalloc.start()
        try:
            after = 0
            while found := storage.get_page("peer", after, max_messages=100, max_bytes=1 << 20):
                after = found[-1].position
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 1_000_000
