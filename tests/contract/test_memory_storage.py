"""The storage in memory: what it costs, and what it hands out."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from snakemq.message import Message
from snakemq.storage import MemoryQueuesStorage, QueuesStorageBase, Removal, StoredItem
from snakemq.storage._numbered import Numbered


def page(storage: QueuesStorageBase, after: int = 0, max_messages: int = 10) -> list[StoredItem]:
    return storage.get_page("peer", after, max_messages=max_messages, max_bytes=1_000_000)


class TestCosts:
    """They do not grow with what is stored. If they did, these would take many minutes."""

    def test_items_are_removed_one_by_one(self) -> None:
        storage = MemoryQueuesStorage()
        items = [Message(b"", 60) for _ in range(100_000)]
        storage.push_many(("peer", item) for item in items)
        for item in items[:-1]:
            storage.remove_items("peer", [item])
        assert [item.uuid for item in storage.get_items("peer")] == [items[-1].uuid]

    def test_pages_are_read_beside_a_gap(self) -> None:
        storage = MemoryQueuesStorage()
        positions = storage.change_items([("peer", Message(b"", 60)) for _ in range(60_000)])
        # So few that what is left is more than half.
        storage.change_items([], [Removal("peer", positions[1:25_000], 0)])
        for _ in range(20_000):
            assert page(storage, positions[0], 1)[0].position == positions[25_000]
            assert storage.oldest("peer") is not None

    def test_the_next_expiry_is_found_beside_those_that_are_gone(self) -> None:
        storage = MemoryQueuesStorage()
        first, *others = storage.change_items(
            [("peer", Message(b"", float(ttl))) for ttl in range(1, 60_001)]
        )
        storage.change_items([], [Removal("peer", others[:25_000], 0)])
        for _ in range(20_000):
            assert storage.next_expiry("peer", first) == 25_002.0
            assert storage.next_expiry("peer") == 1.0

    def test_a_message_is_sent_very_often(self) -> None:
        storage = MemoryQueuesStorage()
        item = Message(b"", 60)
        positions = storage.change_items([("peer", item)] * 50_000)
        for position in positions[:25_000]:
            storage.remove_items("peer", [item])
            storage.change_items([], [Removal("peer", [position], 0)])
        assert page(storage, max_messages=1)[0].position == positions[25_000]

    def test_memory_does_not_grow_with_the_changes(self) -> None:
        storage = MemoryQueuesStorage()
        items = [Message(b"", 60) for _ in range(10)]

        def change() -> None:
            for number in range(3000):
                storage.change_items([("peer", items[number % 10])])
                storage.update_items_ttl(items)
                storage.advance_ttl("peer", 0.001)
                storage.change_items([], [Removal("peer", [page(storage)[0].position], 0)])

        storage.push_many(("peer", item) for item in items)
        change()
        tracemalloc.start()
        try:
            change()
            assert tracemalloc.get_traced_memory()[0] < 100_000
        finally:
            tracemalloc.stop()
        assert len(page(storage)) == 10


class TestMemoryStorage:
    def test_a_message_may_be_changed_after_it_was_pushed(self) -> None:
        storage = MemoryQueuesStorage()
        item = Message(b"data", 60)
        storage.push("peer", item)
        item.ttl = 1
        storage.get_items("peer")[0].ttl = 2
        assert storage.get_items("peer")[0].ttl == 60

    def test_it_tells_the_time_of_a_death_by_the_given_clock(self) -> None:
        storage = MemoryQueuesStorage(wall_clock=lambda: 1234.5)
        (item_id,) = storage.push_inbox("alice", [Message(b"")], keep=1)
        storage.bury(item_id, "tired of it")
        assert [letter.died_at for letter in storage.get_dead()] == [1234.5]

    def test_it_tells_when_the_first_was_pushed_by_the_given_clock(self) -> None:
        times = iter([1.0, 2.0, 3.0])
        storage = MemoryQueuesStorage(wall_clock=lambda: next(times))
        first, *_ = storage.change_items([("peer", Message(b"", 60)), ("other", Message(b"", 60))])
        storage.push("peer", Message(b"", 60))
        assert storage.oldest("peer") == 1.0
        storage.change_items([], [Removal("peer", [first], 0)])
        assert (storage.oldest("peer"), storage.oldest("other")) == (2.0, 1.0)

    def test_a_received_message_may_be_changed_after_it_was_stored(self) -> None:
        storage = MemoryQueuesStorage()
        item = Message(b"data", 60)
        storage.push_inbox("alice", [item], keep=1)
        item.ttl = 1
        storage.get_inbox()[0].message.ttl = 2
        assert storage.get_inbox()[0].message.ttl == 60

    def test_repr_counts(self) -> None:
        storage = MemoryQueuesStorage()
        storage.push_many((name, Message(b"", 1)) for name in "aab")
        assert repr(storage) == "<MemoryQueuesStorage queues=2 items=3>"


class TestNumbered:
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["add", "add many", "remove", "remove many", "read"]),
                st.integers(0, 300),
                st.one_of(st.none(), st.integers(0, 20)),
            ),
            max_size=60,
        )
    )
    def test_it_is_a_sorted_dictionary(self, steps: list[tuple[str, int, int | None]]) -> None:
        numbered: Numbered[str] = Numbered()
        model: dict[int, str] = {}
        gone: set[int] = set()
        for what, number, limit in steps:
            if what.startswith("add"):
                numbers = range(number, number + (100 if "many" in what else 1))
                for each in numbers:
                    if each not in gone:
                        numbered[each] = model[each] = f"{each} {len(model)}"
            elif what.startswith("remove"):
                numbers = range(number, number + (100 if "many" in what else 1))
                for each in numbers:
                    assert numbered.pop(each) == model.pop(each, None)
                    gone.add(each)
            else:
                right = [each for each in sorted(model) if each > number]
                assert numbered.numbers(number, limit) == right[:limit]
            assert len(numbered) == len(model)
            assert (number in numbered) == (number in model)
            assert numbered.get(number) == model.get(number)
        assert [(each, numbered[each]) for each in numbered.numbers(-1)] == sorted(model.items())
