"""The part of the storage suite for queues that are read in pages: positions and changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import overload

from snakemq.storage import QueuesStorageBase, QueueSummary, Removal, StoredItem
from snakemq.testing._storage_suite import (
    DEADLINE,
    Broken,
    BrokenMessage,
    StorageSuite,
    all_pages,
    expect,
    expect_ttls,
    facts,
    message,
    page,
    removal,
)

__all__ = ["PagedSuite", "Paging"]


class PagedSuite(StorageSuite):
    """Tests of what only a storage with pages has."""

    def _paged(self) -> QueuesStorageBase:
        storage = self._open()
        self._needs(storage.has_pages, "its queues can be read in pages (has_pages)")
        return storage


class Paging(PagedSuite):
    """Skipped if the storage does not say ``has_pages``."""

    # Reading

    def test_there_are_no_pages_of_what_is_not_there(self) -> None:
        storage = self._paged()
        assert storage.last_position() == 0
        assert storage.summarize() == []
        assert page(storage, "nobody") == []
        storage.push("somebody", message(b""))
        assert page(storage, "nobody") == []
        assert list(storage.get_queues()) == ["somebody"]

    def test_a_page_has_the_items_as_they_were(self) -> None:
        storage = self._paged()
        items = [
            message(b"waits for ever", ttl=None),
            message(b"a fraction of a second", ttl=0.125),
            message(b"all flags", flags=0xFFFFFFFF),
            message(b"an identifier that ends in NULs", uuid=b"abc\0\0"),
            message(bytes(range(256)), uuid=bytes(range(240, 256))),
        ]
        positions = storage.change_items([("žluťoučký 🐍", item) for item in items])
        for _ in range(2):
            found = page(storage, "žluťoučký 🐍")
            assert all(type(item) is StoredItem for item in found)
            assert facts([item.message for item in found]) == facts(items)
            assert [item.position for item in found] == positions
            found.clear()  # it is the caller's
        (found_again,) = page(storage, "žluťoučký 🐍", positions[-2])
        assert facts([found_again.message]) == facts(items[-1:])

    def test_a_page_ends_with_so_many_messages(self) -> None:
        storage = self._paged()
        positions = storage.change_items([("peer", message(b"")) for _ in range(5)])
        for count in range(1, 7):
            found = page(storage, "peer", max_messages=count)
            assert [item.position for item in found] == positions[:count]
        found = page(storage, "peer", positions[1], max_messages=2)
        assert [item.position for item in found] == positions[2:4]

    def test_a_page_ends_with_so_many_bytes(self) -> None:
        storage = self._paged()
        sizes = [10, 0, 10, 10, 500, 0, 10]
        positions = storage.change_items([("peer", message(bytes(size))) for size in sizes])

        def count(max_bytes: int, after: int = 0, max_messages: int = 100) -> int:
            found = storage.get_page("peer", after, max_messages=max_messages, max_bytes=max_bytes)
            start = positions.index(after) + 1 if after else 0
            assert [item.position for item in found] == positions[start : start + len(found)]
            return len(found)

        assert [count(size) for size in (1, 10, 11, 20, 21, 30, 31, 530)] == [
            1,
            1,
            3,
            3,
            4,
            4,
            5,
            5,
        ]
        assert count(531) == count(540) == count(10**9) == 7
        assert [count(size, positions[3]) for size in (1, 500, 501)] == [1, 1, 3]
        assert count(1, positions[0]) == 2
        assert count(531, max_messages=2) == 2
        assert count(10, max_messages=2) == 1

    def test_a_page_begins_behind_any_position(self) -> None:
        storage = self._paged()
        entries = [
            ("alice" if number % 3 else "bob", message(b"%d" % number)) for number in range(12)
        ]
        positions = storage.change_items(entries)
        mine = positions[::3]
        for after in (0, *positions, positions[-1] + 1, positions[-1] + 1000):
            found = page(storage, "bob", after)
            assert [item.position for item in found] == [each for each in mine if each > after]
        # ... also of what is gone.
        stored = page(storage, "bob")
        storage.change_items([], [removal("bob", stored[1:3])])
        for after in mine[:3]:
            assert [item.position for item in page(storage, "bob", after)] == mine[3:]
        storage.change_items([], [removal("bob", stored[:1])])
        assert [item.position for item in page(storage, "bob")] == mine[3:]

    def test_what_is_larger_than_a_page_has_one_of_its_own(self) -> None:
        storage = self._paged()
        items = [message(b"small"), message(bytes(1_000_000)), message(b"small")]
        storage.change_items([("peer", item) for item in items])
        after, sizes = 0, []
        while found := storage.get_page("peer", after, max_messages=10, max_bytes=100):
            after = found[-1].position
            sizes.append([len(item.message.data) for item in found])
        assert sizes == [[5, 1_000_000], [5]]

    def test_a_long_queue_is_read_page_by_page(self) -> None:
        storage = self._paged()
        batch, last = 2_000, 0
        for start in range(0, self.long_queue, batch):
            numbers = range(start, min(start + batch, self.long_queue))
            positions = storage.change_items([("peer", message(b"%06d" % n)) for n in numbers])
            assert positions == sorted(set(positions))
            assert len(positions) == len(numbers)
            assert positions[0] > last
            last = positions[-1]
        assert storage.summarize() == [QueueSummary("peer", self.long_queue, 6 * self.long_queue)]
        storage = self._reopen(storage)
        stored = all_pages(storage, "peer", 700)
        assert [item.message.data for item in stored] == [
            b"%06d" % n for n in range(self.long_queue)
        ]
        half = self.long_queue // 2
        # All at once, and of the rest what is in between.
        storage.change_items([], [removal("peer", stored[:half])])
        for start in range(half, self.long_queue, batch):
            storage.change_items([], [removal("peer", stored[start : start + batch : 2])])
        left = stored[half + 1 :: 2]
        assert storage.summarize() == [QueueSummary("peer", len(left), 6 * len(left))]
        found = all_pages(storage, "peer", 900)
        assert [item.position for item in found] == [item.position for item in left]
        assert [item.message.data for item in found] == [item.message.data for item in left]
        storage.change_items([], [removal("peer", left)])
        expect(storage, {})

    # Positions

    def test_positions_rise_across_queues(self) -> None:
        storage = self._paged()
        first = storage.change_items([("alice", message(b"1")), ("bob", message(b"2"))])
        storage.push("alice", message(b"3"))
        storage.push_many([("carol", message(b"4")), ("bob", message(b"5"))])
        (last,) = storage.change_items([("alice", message(b"6"))])
        assert storage.last_position() == last
        stored = [item for name in ("alice", "bob", "carol") for item in page(storage, name)]
        stored.sort()
        assert [item.message.data for item in stored] == [b"%d" % n for n in range(1, 7)]
        positions = [item.position for item in stored]
        assert positions == sorted(set(positions))
        assert positions[0] >= 1
        assert positions[:2] == first
        assert positions[-1] == last
        assert all(type(position) is int for position in positions + first)

    def test_no_position_is_given_twice(self) -> None:
        storage = self._paged()
        used: list[int] = []
        for way in range(5):
            used += storage.change_items([("alice", message(b"1")), ("bob", message(b"2"))])
            assert storage.last_position() == used[-1]
            stored = page(storage, "bob")
            if way == 0:
                storage.change_items([], [removal("bob", stored)])
            elif way == 1:
                storage.remove_items("bob", [item.message for item in stored])
            elif way == 2:
                storage.delete_items([item.message for item in stored])
            elif way == 3:
                storage.take_expired("bob", 1e6, 0, 10)
            else:
                storage.delete_all()
            assert page(storage, "bob") == []
            assert storage.last_position() == used[-1]
        used += storage.change_items([("alice", message(b"1"))])
        assert used == sorted(set(used))

    def test_a_position_stays_while_others_go(self) -> None:
        storage = self._paged()
        positions = storage.change_items([("peer", message(b"%d" % n)) for n in range(6)])
        stored = page(storage, "peer")
        storage.change_items([("peer", message(b"6"))], [removal("peer", stored[1:4])])
        storage.remove_items("peer", [stored[0].message])
        storage.update_items_ttl([stored[4].message.with_ttl(1.0)])
        storage.advance_ttl("peer", 0.5)
        left = page(storage, "peer")
        assert [item.message.data for item in left] == [b"4", b"5", b"6"]
        assert [item.position for item in left[:2]] == positions[4:]

    def test_after_opening_positions_go_on_above_what_is_there(self) -> None:
        storage = self._paged()
        storage.change_items([(name, message(name.encode())) for name in ("alice", "bob", "carol")])
        storage.change_items([], [removal("carol", page(storage, "carol"))])
        storage = self._reopen(storage)
        there = [*page(storage, "alice"), *page(storage, "bob")]
        assert [item.message.data for item in there] == [b"alice", b"bob"]
        before = storage.last_position()
        assert len({item.position for item in there}) == 2
        assert all(1 <= item.position <= before for item in there)
        positions = storage.change_items([("alice", message(b"later"))] * 2)
        assert before < positions[0] < positions[1] == storage.last_position()
        data = [item.message.data for item in page(storage, "alice")]
        assert data == [b"alice", b"later", b"later"]

    def test_after_opening_an_emptied_storage_it_still_works(self) -> None:
        storage = self._paged()
        storage.change_items([("peer", message(b"gone"))])
        storage.change_items([], [removal("peer", page(storage, "peer"))])
        storage = self._reopen(storage)
        before = storage.last_position()
        (position,) = storage.change_items([("peer", message(b"new"))])
        assert position > before
        assert [item.position for item in page(storage, "peer")] == [position]

    # Changing

    def test_changing_nothing_changes_nothing(self) -> None:
        storage = self._paged()
        item = message(b"stays")
        (position,) = storage.change_items((("peer", item),))
        assert storage.change_items([]) == []
        assert storage.change_items((), ()) == []
        assert storage.change_items([], [], sync=False) == []
        assert storage.change_items([], [Removal("peer", (), 0)]) == []
        assert storage.last_position() == position
        expect(storage, {"peer": [item]})

    def test_pushing_and_removing_is_one_change(self) -> None:
        storage = self._paged()
        first, second, third, fourth, fifth, sixth = (message(b"x" * size) for size in range(1, 7))
        storage.change_items([("alice", first), ("bob", second), ("alice", third)])
        stored = page(storage, "alice")
        positions = storage.change_items(
            [("bob", fourth), ("carol", fifth)],
            [removal("alice", stored[:1]), removal("bob", page(storage, "bob"))],
        )
        expect(storage, {"alice": [third], "bob": [fourth], "carol": [fifth]})
        assert [item.position for item in page(storage, "bob")] == positions[:1]
        assert [item.position for item in page(storage, "carol")] == positions[1:]
        storage = self._reopen(storage)
        expect(storage, {"alice": [third], "bob": [fourth], "carol": [fifth]})
        # The last one goes as another one comes.
        storage.change_items([("carol", sixth)], [removal("carol", page(storage, "carol"))])
        storage.change_items([], [removal("alice", page(storage, "alice"))])
        expect(storage, {"bob": [fourth], "carol": [sixth]})
        expect(self._reopen(storage), {"bob": [fourth], "carol": [sixth]})

    def test_positions_may_be_any_sequence(self) -> None:
        storage = self._paged()
        items = [message(b"%d" % number) for number in range(6)]
        positions = storage.change_items(tuple(("peer", item) for item in items))
        storage.change_items([], (Removal("peer", range(positions[0], positions[2]), 2),))
        storage.change_items([], [Removal("peer", (positions[3],), 1)])
        expect(storage, {"peer": [items[2], *items[4:]]})

    def test_what_is_missing_is_passed_over(self) -> None:
        storage = self._paged()
        items = [message(b"x" * size) for size in range(1, 5)]
        storage.change_items([("peer", item) for item in items])
        stored = page(storage, "peer")
        last = stored[-1].position
        storage.change_items([], [removal("peer", stored[1:2])])
        # What is said of the bytes counts those that are gone already, too.
        storage.change_items([], [removal("peer", stored[:3])])
        expect(storage, {"peer": items[3:]})
        storage.change_items([], [removal("peer", stored[:3])])
        storage.change_items([], [Removal("peer", [last + 1, last + 1000, 2**62], 0)])
        storage.change_items([], [Removal("nobody", [last], 4)])
        expect(storage, {"peer": items[3:]})
        expect(self._reopen(storage), {"peer": items[3:]})

    def test_a_removal_is_for_one_queue_only(self) -> None:
        storage = self._paged()
        item = message(b"to everybody")
        positions = storage.change_items([(name, item) for name in ("alice", "bob", "alice")])
        storage.change_items([], [Removal("bob", positions, len(item.data))])
        expect(storage, {"alice": [item, item]})
        # Of two with one identifier, it takes the one at the position.
        storage.change_items([], [Removal("alice", positions[2:], len(item.data))])
        assert [stored.position for stored in page(storage, "alice")] == positions[:1]
        if self.removes_one:
            expect(self._reopen(storage), {"alice": [item]})

    def test_the_first_of_two_with_one_identifier_can_be_removed_both_ways(self) -> None:
        storage = self._paged()
        items = [message(b"%d" % number, uuid=b"same") for number in range(5)]
        storage.change_items([("peer", item) for item in items])
        stored = page(storage, "peer")
        storage.change_items([], [removal("peer", [stored[0], stored[2]])])
        expect(storage, {"peer": [items[1], *items[3:]]})
        if self.removes_one:
            storage.remove_items("peer", [items[0]])
            expect(storage, {"peer": items[3:]})
        storage.delete_items([items[0]])
        expect(storage, {})

    def test_many_leave_several_queues_at_once(self) -> None:
        storage = self._paged()
        names = [f"peer{number}" for number in range(7)]
        entries = [(names[number % 7], message(b"%d" % number)) for number in range(3500)]
        positions = storage.change_items(entries)
        storage.change_items(
            [("peer0", message(b"new"))],
            [
                Removal(
                    name,
                    positions[number::7],
                    sum(len(item.data) for _, item in entries[number::7]),
                )
                for number, name in enumerate(names)
            ],
        )
        assert [stored.message.data for stored in page(storage, "peer0")] == [b"new"]
        assert storage.summarize() == [QueueSummary("peer0", 1, 3)]

    def test_a_change_that_fails_changes_nothing(self) -> None:
        self._needs(self.atomic, "a change is made as a whole or not at all")
        storage = self._paged()
        before = [message(b"%d" % number) for number in range(3)]
        storage.change_items([("peer", item) for item in before])
        stored = page(storage, "peer")
        good = ("other", message(b"good"))
        unreadable = Removal("peer", _BrokenSequence([stored[2].position]), 1)
        for push, remove in (
            ([good, ("peer", BrokenMessage(b"bad"))], [removal("peer", stored[:1])]),
            ([good], [removal("peer", stored[:1]), unreadable]),
            ([], [removal("peer", stored[:2]), unreadable]),
        ):
            try:
                storage.change_items(push, remove)
            except Broken:
                pass
            else:
                raise AssertionError("change_items kept quiet about what it could not read")
            expect(storage, {"peer": before})
        (position,) = storage.change_items([good], [removal("peer", stored[:1])])
        assert position > stored[-1].position
        expect(self._reopen(storage), {"other": [good[1]], "peer": before[1:]})

    def test_what_may_be_late_is_there_at_once_and_after_closing(self) -> None:
        storage = self._paged()
        items = [message(b"%d" % number) for number in range(4)]
        storage.change_items([("peer", item) for item in items], sync=False)
        expect(storage, {"peer": items})
        storage.change_items([], [removal("peer", page(storage, "peer")[:1])], sync=False)
        expect(storage, {"peer": items[1:]})
        storage.sync()
        storage = self._reopen(storage)
        expect(storage, {"peer": items[1:]})
        storage.change_items([], [removal("peer", page(storage, "peer")[:1])], sync=False)
        storage.change_items([("other", items[0])])
        storage.change_items([], [removal("peer", page(storage, "peer")[:1])], sync=False)
        expect(self._reopen(storage), {"peer": items[3:], "other": items[:1]})

    # Counting

    def test_a_summary_keeps_up_with_every_change(self) -> None:
        storage = self._paged()

        def check(*expected: tuple[str, int, int]) -> None:
            summary = storage.summarize()
            assert all(type(each) is QueueSummary for each in summary)
            assert sorted(summary) == sorted(expected)
            assert sorted(storage.get_queues()) == sorted(name for name, _, _ in expected)

        items = [message(b"x" * 10**digits) for digits in range(4)]
        storage.push("alice", items[3])
        check(("alice", 1, 1000))
        storage.push_many([("bob", items[2]), ("alice", items[2]), ("bob", message(b""))])
        check(("alice", 2, 1100), ("bob", 2, 100))
        storage.change_items([("alice", items[1]), ("carol", items[1]), ("alice", items[0])])
        check(("alice", 4, 1111), ("bob", 2, 100), ("carol", 1, 10))
        storage.update_items_ttl([items[0].with_ttl(1.0)])
        storage.advance_ttl("alice", 0.5)
        storage = self._reopen(storage)
        check(("alice", 4, 1111), ("bob", 2, 100), ("carol", 1, 10))
        assert len(storage.take_expired("alice", 0.75, 0, 10)) == 1
        check(("alice", 3, 1110), ("bob", 2, 100), ("carol", 1, 10))
        storage.change_items([("bob", items[0])], [removal("alice", page(storage, "alice")[:1])])
        check(("alice", 2, 110), ("bob", 3, 101), ("carol", 1, 10))
        storage.remove_items("bob", [items[0], message(b"missing")])
        check(("alice", 2, 110), ("bob", 2, 100), ("carol", 1, 10))
        storage.delete_items([items[1], message(b"missing")])
        storage = self._reopen(storage)
        check(("alice", 1, 100), ("bob", 2, 100))
        storage.delete_items([items[2]])
        check(("bob", 1, 0))
        storage.delete_all()
        check()
        storage = self._reopen(storage)
        check()

    # Threads

    def test_who_reads_page_by_page_misses_nothing(self) -> None:
        """A lower position never appears behind the back of a reader."""
        self._needs(self.thread_safe, "several threads may use it at the same time")
        storage = self._paged()
        threads, each = 3, 40
        start = threading.Barrier(threads + 1)
        finished = threading.Event()

        def push(thread: int) -> list[int]:
            positions: list[int] = []
            start.wait(DEADLINE)
            for number in range(0, each, 2):
                pair = [message(b"%d %d" % (thread, part)) for part in (number, number + 1)]
                positions += storage.change_items(
                    [("shared", pair[0]), (f"own{thread}", pair[0]), ("shared", pair[1])]
                )
                own = page(storage, f"own{thread}")
                assert len(own) == 1
                storage.change_items([], [removal(f"own{thread}", own)], sync=False)
            return positions

        def read() -> list[StoredItem]:
            found: list[StoredItem] = []
            start.wait(DEADLINE)
            while True:
                last = finished.is_set()
                while more := page(
                    storage, "shared", found[-1].position if found else 0, max_messages=7
                ):
                    found += more
                    storage.change_items([], [removal("shared", more)], sync=False)
                if last:
                    return found

        with ThreadPoolExecutor(threads + 1) as pool:
            reader = pool.submit(read)
            try:
                pushed = list(pool.map(push, range(threads), timeout=DEADLINE))
            finally:
                finished.set()
            found = reader.result(DEADLINE)
        expect(storage, {})
        given = sorted(position for positions in pushed for position in positions)
        assert len(set(given)) == len(given)
        assert storage.last_position() == given[-1]
        for thread, positions in enumerate(pushed):
            assert positions == sorted(positions)
            mine = [item for item in found if item.message.data.startswith(b"%d " % thread)]
            assert [item.message.data for item in mine] == [
                b"%d %d" % (thread, number) for number in range(each)
            ]
            assert {item.position for item in mine} <= set(positions)

    # What the stack does besides

    def test_what_has_to_be_done_now_and_then_changes_nothing(self) -> None:
        storage = self._paged()
        items = [message(bytes(1000)) for _ in range(200)]
        storage.change_items([("peer", item) for item in items])
        storage.change_items([], [removal("peer", page(storage, "peer")[:150])])
        storage.advance_ttl("peer", 1.0)
        for _ in range(10_000):
            if not storage.maintain():
                break
        else:
            raise AssertionError("maintain always has more to do")
        expect_ttls(storage, "peer", [59.0] * 50)
        left = facts([item.message for item in page(storage, "peer")])
        assert [fact[3] for fact in left] == [item.uuid for item in items[150:]]

    def test_threads_that_may_not_wait_are_served_too(self) -> None:
        storage = self._paged()
        assert storage.may_wait() is True
        storage.may_wait = lambda: False
        item = message(b"stored")
        storage.change_items([("peer", item)])
        expect(storage, {"peer": [item]})
        storage.may_wait = lambda: True
        expect(storage, {"peer": [item]})

    def test_there_is_nothing_to_adopt(self) -> None:
        storage = self._paged()
        storage.push("peer", message(b"not by the application's connection"))
        assert storage.adopt() == []
        assert len(page(storage, "peer")) == 1


class _BrokenSequence(Sequence[int]):
    """It can't be read to its end."""

    def __init__(self, values: list[int]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values) + 1

    def __iter__(self) -> Iterator[int]:
        yield from self._values
        raise Broken

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...

    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        if isinstance(index, slice) or index == len(self._values):
            raise Broken
        return self._values[index]
