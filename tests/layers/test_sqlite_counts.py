"""The counters of the SQLite storage, of which few are written down."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from snakemq.exceptions import StorageError
from snakemq.storage import QueueSummary, Removal
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.layers.sqlite_support import execute, message, statements

QUEUES = ("alice", "bob", "carol")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "storage.db"


@pytest.fixture
def storage(path: Path) -> Iterator[SqliteQueuesStorage]:
    with SqliteQueuesStorage(path) as storage:
        yield storage


def push(storage: SqliteQueuesStorage, data: bytes = b"data", name: str = "peer") -> int:
    return storage.change_items([(name, message(data))])[0]


def counted(path: Path) -> list[QueueSummary]:
    """What the counters should say."""
    rows = execute(
        path, "SELECT queue_name, count(*), sum(length(data)) FROM items GROUP BY queue_name"
    )
    return [QueueSummary(*row) for row in rows]  # type: ignore[arg-type]


def in_table(path: Path) -> list[tuple[object, ...]]:
    return execute(
        path,
        "SELECT queue_name, messages, bytes, counted FROM snakemq_queues ORDER BY queue_name",
    )


def copied(path: Path) -> Path:
    """The file as it is when the process is killed now."""
    copy = path.with_name("copy.db")
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    return copy


def remove(storage: SqliteQueuesStorage, positions: list[int], size: int) -> None:
    storage.change_items([], [Removal("peer", positions, size)], sync=False)


def is_right(path: Path, storage: SqliteQueuesStorage) -> bool:
    """Whether it is what is in the file, to this process, to one that looks, and to the next."""
    expected = counted(path)
    found = [sorted(storage.summarize())]
    with SqliteQueuesStorage(path, read_only=True) as look:
        found.append(sorted(look.summarize()))
    with SqliteQueuesStorage(copied(path)) as after:
        found.append(sorted(after.summarize()))
    return found == [expected] * 3


class TestTable:
    def test_what_comes_and_goes_is_not_written_to_it(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        push(storage, b"stays", "other")
        last = push(storage)
        for number in range(50):
            data = bytes(number)
            entry = [("peer", message(data))]
            (last,) = storage.change_items(entry, [Removal("peer", [last], max(number - 1, 0))])
        assert in_table(path) == []
        remove(storage, [last], 49)
        assert in_table(path) == []
        assert storage.get_queues() == ["other"]
        assert is_right(path, storage)

    def test_what_it_has_is_taken_off_and_no_more_comes_to_it(self, path: Path) -> None:
        """Else all that leaves would have to be taken off, for ever."""
        with SqliteQueuesStorage(path) as storage:
            old = [push(storage, b"four") for _ in range(3)]
        with SqliteQueuesStorage(path) as storage:
            assert in_table(path) == [("peer", 3, 12, 3)]
            new = [push(storage, b"fifth") for _ in range(3)]
            remove(storage, new[:1], 5)
            assert in_table(path) == [("peer", 3, 12, 3)]
            for left, position in zip((2, 1), old, strict=False):
                remove(storage, [position], 4)
                assert in_table(path) == [("peer", left, left * 4, 3)]
                assert is_right(path, storage)
            remove(storage, old[2:], 4)
            assert in_table(path) == []
            assert is_right(path, storage)
            remove(storage, new[1:], 10)
            assert storage.get_queues() == []
            assert is_right(path, storage)

    def test_some_that_it_has_and_some_that_it_has_not_leave_together(self, path: Path) -> None:
        with SqliteQueuesStorage(path) as storage:
            positions = [push(storage, b"four") for _ in range(3)]
        with SqliteQueuesStorage(path) as storage:
            positions += [push(storage, b"fifth") for _ in range(3)]
            remove(storage, positions[2:4], 9)
            assert in_table(path) == [("peer", 4, 18, 6)]
            assert is_right(path, storage)

    def test_the_clock_of_a_queue_stays_when_what_it_has_is_gone(self, path: Path) -> None:
        with SqliteQueuesStorage(path) as storage:
            old = storage.change_items([("peer", message(b"x", ttl=60.0))])
            storage.advance_ttl("peer", 20.0)
            storage.change_items([("peer", message(b"x", ttl=60.0))])
            remove(storage, old, 1)
            storage.advance_ttl("peer", 5.0)
            for place in (path, copied(path)):
                with SqliteQueuesStorage(place, read_only=True) as look:
                    assert look.next_expiry("peer") == 55.0
            assert is_right(path, storage)


class TestPlaces:
    """A message in the place of another one."""

    def test_of_one_that_is_not_there(self, path: Path, storage: SqliteQueuesStorage) -> None:
        kept = push(storage)
        gone = push(storage)
        execute(path, f"DELETE FROM items WHERE rowid = {gone}")
        (position,) = storage.change_items([("peer", message(b"x"))], [Removal("peer", [gone], 4)])
        assert kept < gone < position
        assert is_right(path, storage)

    def test_of_one_of_another_queue(self, path: Path, storage: SqliteQueuesStorage) -> None:
        first = push(storage, b"12", "other")
        storage.change_items([("peer", message(b"x"))], [Removal("other", [first], 2)])
        assert storage.summarize() == [("peer", 1, 1)]
        second = push(storage, b"12", "other")
        storage.change_items([("peer", message(b"x"))], [Removal("peer", [second], 2)])
        assert is_right(path, storage)
        assert len(storage.get_items("other")) == 1

    def test_with_all_that_it_has(self, storage: SqliteQueuesStorage) -> None:
        old = storage.change_items([("peer", message(b"x", ttl=60.0))])
        item = message(bytes(10_000), ttl=None)
        item.flags = 5
        storage.change_items([("peer", item)], [Removal("peer", old, 1)])
        (found,) = storage.get_items("peer")
        assert (found.data, found.ttl, found.flags, found.uuid) == (item.data, None, 5, item.uuid)
        assert storage.next_expiry("peer") is None

    def test_nothing_changes_when_it_fails(self, path: Path, storage: SqliteQueuesStorage) -> None:
        old = push(storage)
        bad = message(b"bad")
        bad.flags = 1 << 70
        with pytest.raises(StorageError):
            storage.change_items([("peer", bad)], [Removal("peer", [old], 4)])
        assert [item.data for item in storage.get_items("peer")] == [b"data"]
        assert is_right(path, storage)

    def test_in_a_transaction_of_the_application(
        self, path: Path, storage: SqliteQueuesStorage
    ) -> None:
        old = push(storage)
        with pytest.raises(RuntimeError), storage.transaction():  # noqa: PT012
            storage.change_items([("peer", message(b"x"))], [Removal("peer", [old], 4)])
            raise RuntimeError
        assert storage.summarize() == [("peer", 1, 4)]
        with storage.transaction():
            storage.change_items([("peer", message(b"x"))], [Removal("peer", [old], 4)])
        assert storage.summarize() == [("peer", 1, 1)]
        assert is_right(path, storage)


class TestFew:
    """What several threads store, together with what has left."""

    @staticmethod
    def change(
        storage: SqliteQueuesStorage, names: Sequence[str], removals: Sequence[Removal], size: int
    ) -> list[str]:
        """The statements that it takes."""
        entries = [(name, message(bytes(size))) for name in names]
        made = statements(storage, partial(storage.change_items, entries, removals))
        # What a statement triggers is shown, too: as a comment, or as that statement again.
        return [one.split()[0] for one in dict.fromkeys(made) if not one.startswith("--")]

    @pytest.mark.parametrize("count", [2, 4, 16, 64])
    def test_take_one_statement(self, path: Path, storage: SqliteQueuesStorage, count: int) -> None:
        old = storage.change_items([("peer", message(b"x"))] * count)
        removals = [Removal("peer", old[: count // 2], count // 2)]
        assert self.change(storage, ["peer", "other"] * (count // 2), removals, 9) == ["INSERT"]
        assert is_right(path, storage)
        assert self.change(storage, ["peer"], [Removal("peer", old[-1:], 1)], 9) == ["UPDATE"]
        positions = storage.change_items([("peer", message(b"x"))] * count)
        assert positions == list(range(positions[0], positions[0] + count))
        found = storage.get_page("peer", positions[0] - 1, max_messages=99, max_bytes=99)
        assert [item.position for item in found] == positions
        assert is_right(path, storage)

    @pytest.mark.parametrize(
        ("count", "removed", "size"),
        [(65, 1, 1), (2, 5, 1), (2, 1, 200_000)],
        ids=["more", "more gaps", "more data"],
    )
    def test_take_more_if_they_are_more(
        self, path: Path, storage: SqliteQueuesStorage, count: int, removed: int, size: int
    ) -> None:
        old = storage.change_items([("peer", message(b"x"))] * 2 * removed)
        removals = [Removal("peer", old[::2], removed)]
        assert self.change(storage, ["peer"] * count, removals, size)[0] == "BEGIN"
        assert is_right(path, storage)

    def test_one_that_is_not_there(self, path: Path, storage: SqliteQueuesStorage) -> None:
        old = storage.change_items([("peer", message(b"x"))] * 4)
        execute(path, f"DELETE FROM items WHERE rowid = {old[1]}")
        assert self.change(storage, ["peer"] * 2, [Removal("peer", old[:3], 3)], 9) == ["INSERT"]
        assert is_right(path, storage)

    def test_those_of_another_queue_stay(self, path: Path, storage: SqliteQueuesStorage) -> None:
        old = storage.change_items([("other", message(b"x"))] * 4)
        assert self.change(storage, ["peer"] * 2, [Removal("peer", old, 4)], 9) == ["INSERT"]
        assert len(storage.get_items("other")) == 4
        assert is_right(path, storage)

    def test_nothing_changes_when_one_fails(self, path: Path, storage: SqliteQueuesStorage) -> None:
        old = storage.change_items([("peer", message(b"x"))] * 4)
        bad = message(b"bad")
        bad.flags = 1 << 70
        with pytest.raises(StorageError):
            storage.change_items([("peer", message()), ("peer", bad)], [Removal("peer", old, 4)])
        assert storage.summarize() == [("peer", 4, 4)]
        assert is_right(path, storage)


@pytest.mark.parametrize("seed", range(6))
def test_they_are_right_after_any_changes(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    there: dict[str, dict[int, int]] = {name: {} for name in QUEUES}
    storage = SqliteQueuesStorage(path)
    for step in range(100):
        names = [chance.choice(QUEUES) for _ in range(chance.choice((0, 1, 1, 1, 3, 40)))]
        new = [
            (name, message(bytes(chance.randrange(9)), ttl=chance.choice((None, 99.0))))
            for name in names
        ]
        removals = []
        for name in chance.sample(QUEUES, chance.choice((0, 1, 1, 2))):
            oldest = sorted(there[name])[: chance.choice((1, 1, 2, 60))]
            size = sum(there[name].pop(position) for position in oldest)
            if oldest:
                removals.append(Removal(name, oldest, size))
        positions = storage.change_items(new, removals, sync=chance.random() < 0.7)
        for position, (name, item) in zip(positions, new, strict=True):
            there[name][position] = len(item.data)
        if chance.random() < 0.05:
            storage.advance_ttl(chance.choice(QUEUES), 1.0)
        if step % 25 == 0:
            assert is_right(path, storage)
        if chance.random() < 0.05:
            storage.close()
            storage = SqliteQueuesStorage(path)
    expected = sorted(
        QueueSummary(name, len(sizes), sum(sizes.values()))
        for name, sizes in there.items()
        if sizes
    )
    assert counted(path) == expected
    assert is_right(path, storage)
    storage.close()
