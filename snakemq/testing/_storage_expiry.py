"""The part of the storage suite for queues that are read in pages: time."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from snakemq.message import Message
from snakemq.storage import QueuesStorageBase, QueueSummary, StoredItem
from snakemq.testing._storage_paging import PagedSuite
from snakemq.testing._storage_suite import (
    DEADLINE,
    expect,
    expect_ttls,
    facts,
    message,
    page,
    removal,
)

__all__ = ["Expiry"]


class Expiry(PagedSuite):
    """Skipped if the storage does not say ``has_pages``.

    Times are multiples of 1/8 s, so that no storage has an excuse.
    """

    # When the next one runs out

    def test_the_next_expiry_is_the_least_of_what_remains(self) -> None:
        storage = self._paged()
        assert storage.next_expiry("peer") is None
        storage.push("peer", message(b"for ever", ttl=None))
        assert storage.next_expiry("peer") is None
        positions = _push(storage, 60.0, 2.5, None, 7.25)
        _expect_expiry(storage, 2.5)
        assert storage.next_expiry("other") is None
        storage = self._reopen(storage)
        _expect_expiry(storage, 2.5)
        storage.push("peer", message(b"", ttl=0.125))
        storage.push("other", message(b"", ttl=1.0))
        _expect_expiry(storage, 0.125)
        assert storage.last_position() > positions[-1]

    def test_the_next_expiry_of_what_is_behind_a_position(self) -> None:
        storage = self._paged()
        positions = _push(storage, 1.0, 60.0, 2.5, None, 7.25, None)
        expected = [1.0, 2.5, 2.5, 7.25, 7.25, None, None]
        for _ in range(2):
            for after, left in zip([0, *positions], expected, strict=True):
                _expect_expiry(storage, left, after)
        _expect_expiry(storage, None, positions[-1] + 1000)

    def test_the_next_expiry_follows_the_changes(self) -> None:
        storage = self._paged()
        storage.push("peer", message(b"", ttl=100.0))
        storage.advance_ttl("peer", 4.0)
        _expect_expiry(storage, 96.0)
        items = [message(b"%d" % number, ttl=ttl) for number, ttl in enumerate((10.0, 2.0, 5.0))]
        positions = storage.change_items([("peer", item) for item in items])
        _expect_expiry(storage, 2.0)
        _expect_expiry(storage, 5.0, positions[1])
        storage.remove_items("peer", [items[1]])
        _expect_expiry(storage, 5.0)
        storage.update_items_ttl([items[2].with_ttl(None), items[0].with_ttl(30.0)])
        _expect_expiry(storage, 30.0)
        storage = self._reopen(storage)
        _expect_expiry(storage, 30.0)
        storage.update_items_ttl([items[2].with_ttl(3.0)])
        storage.advance_ttl("peer", 1.0)
        _expect_expiry(storage, 2.0)
        storage.change_items([], [removal("peer", page(storage, "peer")[2:])])
        _expect_expiry(storage, 29.0)
        storage.delete_items([items[0]])
        _expect_expiry(storage, 95.0)
        storage.delete_all()
        _expect_expiry(storage, None)
        storage.push("peer", message(b"", ttl=8.0))
        _expect_expiry(storage, 8.0)

    def test_what_has_run_out_has_nothing_left(self) -> None:
        storage = self._paged()
        _push(storage, 1.0, 60.0)
        storage.advance_ttl("peer", 1.0)
        _expect_expiry(storage, 0.0)
        storage.advance_ttl("peer", 5.0)
        _expect_expiry(storage, 0.0)
        expect_ttls(storage, "peer", [0.0, 54.0])

    # Taking what ran out

    def test_nothing_ran_out_where_nothing_is(self) -> None:
        storage = self._paged()
        assert storage.take_expired("nobody", 10.0, 0, 10) == []
        _push(storage, None, 60.0)
        assert storage.take_expired("peer", 0.0, 0, 10) == []
        assert storage.take_expired("peer", 59.875, 0, 10) == []
        assert storage.take_expired("other", 60.0, 0, 10) == []
        expect_ttls(storage, "peer", [None, 60.0])

    def test_what_ran_out_is_taken_in_the_order_of_positions(self) -> None:
        storage = self._paged()
        items = [
            message(b"x" * number, ttl=ttl, flags=number)
            for number, ttl in enumerate((3.0, 1.0, None, 2.0, 2.125))
        ]
        positions = storage.change_items([("peer", item) for item in items])
        other = message(b"other", ttl=1.0)
        storage.change_items([("other", other)])
        storage.advance_ttl("peer", 1.0)
        taken = storage.take_expired("peer", 1.0, 0, 10)
        assert all(type(each) is StoredItem for each in taken)
        assert [each.position for each in taken] == [positions[1], positions[3]]
        left = [items[1].with_ttl(0.0), items[3].with_ttl(1.0)]
        assert facts([each.message for each in taken]) == facts(left)
        assert storage.take_expired("peer", 1.0, 0, 10) == []
        storage = self._reopen(storage)
        expected = [items[0].with_ttl(2.0), items[2], items[4].with_ttl(1.125)]
        expect(storage, {"peer": expected, "other": [other]})

    def test_what_runs_out_next_can_be_taken_at_once(self) -> None:
        storage = self._paged()
        positions = _push(storage, 60.1, 0.3, 7.7)
        storage.advance_ttl("peer", 0.1)
        for position in (positions[1], positions[2], positions[0]):
            left = storage.next_expiry("peer")
            assert left is not None
            # A timer may be late, but is never early; it may be right to the last bit.
            taken = storage.take_expired("peer", left, 0, 10)
            assert [each.position for each in taken] == [position]
        expect(storage, {})

    def test_of_too_many_those_that_ran_out_first_are_taken(self) -> None:
        storage = self._paged()
        positions = _push(storage, 5.0, 3.0, None, 1.0, 4.0, 2.0, 6.0)
        taken = storage.take_expired("peer", 10.0, 0, 2)
        assert [each.position for each in taken] == [positions[3], positions[5]]
        taken = storage.take_expired("peer", 10.0, 0, 3)
        assert [each.position for each in taken] == [positions[0], positions[1], positions[4]]
        taken = storage.take_expired("peer", 10.0, 0, 3)
        assert [each.position for each in taken] == [positions[6]]
        expect_ttls(storage, "peer", [None])

    def test_only_what_is_behind_a_position_is_taken(self) -> None:
        storage = self._paged()
        positions = _push(storage, 1.0, 2.0, 1.0, 3.0, 1.0)
        taken = storage.take_expired("peer", 2.0, positions[2], 10)
        assert [each.position for each in taken] == positions[4:]
        taken = storage.take_expired("peer", 2.0, positions[0], 10)
        assert [each.position for each in taken] == positions[1:3]
        assert storage.take_expired("peer", 2.0, positions[0], 10) == []
        expect_ttls(storage, "peer", [1.0, 3.0])
        _expect_expiry(storage, 1.0)

    def test_what_comes_later_runs_out_later(self) -> None:
        storage = self._paged()
        _push(storage, 10.0)
        storage.advance_ttl("peer", 4.0)
        _push(storage, 10.0, 6.0, None)
        storage = self._reopen(storage)
        storage.advance_ttl("peer", 6.0)
        taken = storage.take_expired("peer", 0.0, 0, 10)
        assert [each.message.ttl for each in taken] == [0.0, 0.0]
        assert storage.take_expired("peer", 0.0, 0, 10) == []
        storage = self._reopen(storage)
        expect_ttls(storage, "peer", [4.0, None])
        _expect_expiry(storage, 4.0)

    def test_a_queue_ends_with_what_is_taken_last(self) -> None:
        storage = self._paged()
        _push(storage, 1.0, 2.0)
        storage.push("other", message(b"", ttl=1.0))
        storage.advance_ttl("peer", 5.0)
        assert len(storage.take_expired("peer", 0.0, 0, 10)) == 2
        assert storage.summarize() == [QueueSummary("other", 1, 0)]
        # It begins anew, with no time gone.
        _push(storage, 8.0)
        expect_ttls(self._reopen(storage), "peer", [8.0])

    def test_new_ttls_count(self) -> None:
        storage = self._paged()
        items = [message(b"%d" % number, ttl=5.0) for number in range(4)]
        positions = storage.change_items([("peer", item) for item in items])
        ttls = (1.0, None, 20.0)
        storage.update_items_ttl(
            [item.with_ttl(ttl) for item, ttl in zip(items[:3], ttls, strict=True)]
        )
        taken = storage.take_expired("peer", 5.0, 0, 10)
        assert [each.position for each in taken] == [positions[0], positions[3]]
        expect_ttls(storage, "peer", [None, 20.0])

    def test_of_two_with_one_identifier_only_the_one_that_ran_out_is_taken(self) -> None:
        storage = self._paged()
        items = [message(b"%d" % ttl, ttl=ttl, uuid=b"same") for ttl in (9, 1, 5)]
        positions = storage.change_items([("peer", item) for item in items])
        storage.change_items([("other", items[1])])
        taken = storage.take_expired("peer", 1.0, 0, 10)
        assert [each.position for each in taken] == positions[1:2]
        expect(storage, {"peer": [items[0], items[2]], "other": [items[1]]})
        if self.removes_one:
            storage.remove_items("peer", [items[0]])
            expect(storage, {"peer": [items[2]], "other": [items[1]]})

    def test_many_can_run_out_at_once(self) -> None:
        storage = self._paged()
        entries = [message(b"x", ttl=10.0 if number % 3 else None) for number in range(3000)]
        storage.change_items([("peer", item) for item in entries])
        storage.advance_ttl("peer", 10.0)
        taken = [storage.take_expired("peer", 0.0, 0, 1500) for _ in range(3)]
        assert [len(each) for each in taken] == [1500, 500, 0]
        assert storage.summarize() == [QueueSummary("peer", 1000, 1000)]
        assert {each.message.ttl for each in page(storage, "peer")} == {None}

    def test_threads_take_each_of_them_once(self) -> None:
        self._needs(self.thread_safe, "several threads may use it at the same time")
        storage = self._paged()
        threads, each = 3, 60
        start = threading.Barrier(threads)

        def work(thread: int) -> list[StoredItem]:
            taken: list[StoredItem] = []
            start.wait(DEADLINE)
            for number in range(0, each, 4):
                storage.change_items(
                    [
                        ("peer", message(b"%d %d" % (thread, part), ttl=1.0 + part % 2))
                        for part in range(number, number + 4)
                    ]
                )
                storage.advance_ttl("peer", 0.125)
                taken += storage.take_expired("peer", 1.0, 0, 3)
                left = storage.next_expiry("peer")
                assert left is None or left <= 2.0
            return taken

        with ThreadPoolExecutor(threads) as pool:
            taken = [
                item for items in pool.map(work, range(threads), timeout=DEADLINE) for item in items
            ]
        while more := storage.take_expired("peer", 2.0, 0, 50):
            taken += more
        assert sorted(item.message.data for item in taken) == sorted(
            b"%d %d" % (thread, number) for thread in range(threads) for number in range(each)
        )
        assert len({item.position for item in taken}) == len(taken)
        expect(storage, {})

    # How long something is there

    def test_the_oldest_is_when_the_first_was_pushed(self) -> None:
        storage = self._paged()
        assert storage.oldest("peer") is None
        earliest = time.time()
        storage.change_items([("peer", message(b"first"))])
        first_latest = time.time()
        storage.push("peer", message(b"second"))
        storage.push_many([("peer", message(b"third"))])
        latest = time.time()
        assert storage.oldest("other") is None
        storage = self._reopen(storage)
        found = storage.oldest("peer")
        assert found is not None
        assert earliest - 1 <= found <= first_latest + 1
        storage.advance_ttl("peer", 30.0)
        assert storage.oldest("peer") == found
        for _ in range(2):
            stored = page(storage, "peer")
            storage.change_items([], [removal("peer", stored[:1])])
            later = storage.oldest("peer")
            assert later is not None
            assert found <= later <= latest + 1
        storage.change_items([], [removal("peer", page(storage, "peer"))])
        assert storage.oldest("peer") is None

    # All of it together

    def test_a_long_history_of_pages_leaves_what_it_should(self) -> None:
        """Random operations, always the same, beside a model of lists."""
        chance = random.Random(20120518)
        storage = self._paged()
        # Each item with its position and what remains of its TTL.
        model: dict[str, list[_Row]] = {"alice": [], "bob": [], "carol": []}

        def new() -> tuple[str, Message]:
            ttl = chance.choice([None, 0.5, 1.5, 4.0, 600.0])
            return chance.choice(list(model)), message(
                chance.randbytes(chance.randrange(9)), ttl=ttl
            )

        def note(entries: Sequence[tuple[str, Message]], positions: Sequence[int]) -> None:
            highest = max((row.position for rows in model.values() for row in rows), default=0)
            for (name, item), position in zip(entries, positions, strict=True):
                assert position > highest
                highest = position
                model[name].append(_Row(position, item))

        def change() -> None:
            entries = [new() for _ in range(chance.randrange(6))]
            removals = []
            for name in chance.sample(list(model), chance.randrange(3)):
                rows = model[name]
                gone = sorted(chance.sample(rows, min(chance.randrange(4), len(rows))))
                removals.append(removal(name, gone))
                model[name] = [row for row in rows if row not in gone]
            note(entries, storage.change_items(entries, removals, sync=chance.random() < 0.5))

        def push() -> None:
            name, item = new()
            storage.push(name, item)
            note([(name, item)], [page(storage, name)[-1].position])

        def remove() -> None:
            name = chance.choice(list(model))
            storage.remove_items(name, [row.message for row in model[name][:2]])
            del model[name][:2]

        def advance() -> None:
            name = chance.choice(list(model))
            storage.advance_ttl(name, 0.25)
            model[name] = [row.older(0.25) for row in model[name]]

        def take() -> None:
            name, count = chance.choice(list(model)), chance.randrange(1, 6)
            after = chance.choice([0, *(row.position for row in model[name])])
            seconds = chance.choice([0.0, 0.5, 3.0])
            taken = storage.take_expired(name, seconds, after, count)
            rows = [row for row in model[name] if row.position > after and row.left <= seconds]
            assert len(taken) == min(count, len(rows))
            gone = [row for row in rows if row.position in {each.position for each in taken}]
            assert [(row.position, row.message.uuid) for row in gone] == [
                (each.position, each.message.uuid) for each in taken
            ]
            if len(gone) < len(rows):
                # What stays does not run out before anything that went.
                assert max(row.left for row in gone) <= min(
                    row.left for row in rows if row not in gone
                )
            model[name] = [row for row in model[name] if row not in gone]

        def update() -> None:
            rows = [row for rows in model.values() for row in rows]
            for row in chance.sample(rows, min(2, len(rows))):
                row.message.ttl = chance.choice([None, 0.75, 30.0])
                storage.update_items_ttl([row.message])

        def restart() -> None:
            nonlocal storage
            storage = self._reopen(storage)
            for name, rows in model.items():
                stored = page(storage, name)
                model[name] = [
                    _Row(each.position, row.message) for each, row in zip(stored, rows, strict=True)
                ]

        def check(name: str) -> None:
            rows = model[name]
            stored = page(storage, name)
            assert [each.position for each in stored] == [row.position for row in rows]
            expect_ttls(storage, name, [row.message.ttl for row in rows])
            after = chance.choice([0, *(row.position for row in rows)])
            left = min((row.left for row in rows if row.position > after), default=math.inf)
            _expect_expiry(storage, None if left == math.inf else left, after, name)

        operations = [change, push, remove, advance, take, update, restart]
        weights = [12, 2, 1, 6, 5, 1, 1]
        for _ in range(self.long_history):
            chance.choices(operations, weights)[0]()
            check(chance.choice(list(model)))
            assert sorted(storage.summarize()) == [
                QueueSummary(name, len(rows), sum(len(row.message.data) for row in rows))
                for name, rows in sorted(model.items())
                if rows
            ]
        for name in model:
            check(name)


class _Row(StoredItem):
    """An item in a model of a storage."""

    @property
    def left(self) -> float:
        """How long it is until its TTL has run out."""
        return math.inf if self.message.ttl is None else self.message.ttl

    def older(self, seconds: float) -> _Row:
        ttl = self.message.ttl
        return _Row(
            self.position,
            self.message.with_ttl(None if ttl is None else max(ttl - seconds, 0.0)),
        )


def _push(storage: QueuesStorageBase, *ttls: float | None) -> list[int]:
    return storage.change_items([("peer", message(b"", ttl=ttl)) for ttl in ttls])


def _expect_expiry(
    storage: QueuesStorageBase, expected: float | None, after: int = 0, name: str = "peer"
) -> None:
    found = storage.next_expiry(name, after)
    right = (
        found is expected if found is None or expected is None else abs(found - expected) < 0.001
    )
    assert right, f"the next expiry in queue {name!r} behind {after} is {found}, not {expected}"
