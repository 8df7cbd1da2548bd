"""The test suite that every queue storage has to pass.

Derive a class from :class:`StorageContract` in a test module of your own,
and pytest runs all of it against your storage::

    class TestMyStorage(StorageContract):
        @pytest.fixture(autouse=True)
        def place(self, tmp_path):
            self.directory = tmp_path

        def open_storage(self):
            return MyStorage(self.directory / "messages")
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from snakemq.message import Message
from snakemq.testing._storage_dead import DeadLetters
from snakemq.testing._storage_expiry import Expiry
from snakemq.testing._storage_paging import Paging
from snakemq.testing._storage_receiving import ReceivingSide
from snakemq.testing._storage_suite import DEADLINE, Broken, expect, expect_ttls, facts, message

__all__ = ["StorageContract"]


class StorageContract(Paging, Expiry, ReceivingSide, DeadLetters):
    """What :class:`~snakemq.storage.QueuesStorageBase` promises, as tests.

    Opening the storage is up to the subclass: :meth:`open_storage`. Four
    attributes tell what a storage does not promise; tests that need it are then
    skipped. A new storage should leave them as they are. The tests of pages are
    skipped if the storage does not say ``has_pages``, those of the receiving
    side if it does not say ``keeps_received``. For a storage that is slow,
    ``long_queue`` and ``long_history`` make the long tests shorter.
    """

    # What is stored

    def test_a_new_storage_is_empty(self) -> None:
        storage = self._open()
        assert list(storage.get_queues()) == []
        expect(storage, {})

    def test_a_queue_that_does_not_exist_has_no_items(self) -> None:
        storage = self._open()
        assert list(storage.get_items("nobody")) == []
        storage.push("somebody", message(b"for somebody"))
        assert list(storage.get_items("nobody")) == []
        # ... and asking for it does not make it exist.
        assert list(storage.get_queues()) == ["somebody"]

    def test_items_stay_in_the_order_in_which_they_were_pushed(self) -> None:
        storage = self._open()
        # Identifiers that fall: neither they nor the data may decide the order.
        items = [message(b"", uuid=b"%03d" % number) for number in range(200, 0, -1)]
        for item in items[:50]:
            storage.push("peer", item)
        storage.push_many(("peer", item) for item in items[50:])
        expect(storage, {"peer": items})
        expect(self._reopen(storage), {"peer": items})

    def test_the_order_holds_when_the_last_items_were_removed_before(self) -> None:
        storage = self._open()
        first, second, third, fourth, fifth = (message(b"%d" % number) for number in range(5))
        storage.push_many([("peer", first), ("peer", second), ("peer", third)])
        storage.remove_items("peer", [third])
        storage.push("peer", fourth)
        storage.remove_items("peer", [first])
        storage = self._reopen(storage)
        storage.push("peer", fifth)
        expect(storage, {"peer": [second, fourth, fifth]})

    def test_queues_are_apart(self) -> None:
        storage = self._open()
        expected: dict[str, list[Message]] = {"alice": [], "bob": [], "carol": []}
        for number in range(20):
            for name, items in expected.items():
                items.append(message(f"{name} {number}".encode()))
                storage.push(name, items[-1])
        expect(storage, expected)
        expect(self._reopen(storage), expected)

    def test_an_item_comes_back_as_it_was(self) -> None:
        storage = self._open()
        items = [
            message(b"waits for ever", ttl=None),
            message(b"a fraction of a second", ttl=0.125),
            message(b"the longest on the wire", ttl=float(0xFFFFFFFE)),
            message(b"whole seconds", ttl=3600),
            message(b"no flags", flags=0),
            message(b"the highest flag", flags=0x80000000),
            message(b"all flags", flags=0xFFFFFFFF),
            message(b"an identifier of one byte", uuid=b"x"),
            message(b"an identifier that ends in NULs", uuid=b"abc\0\0"),
            message(b"an identifier of NULs", uuid=bytes(16)),
            message(b"any bytes in the identifier", uuid=bytes(range(240, 256))),
        ]
        storage.push_many(("peer", item) for item in items)
        expect(storage, {"peer": items})
        expect(self._reopen(storage), {"peer": items})

    def test_data_may_be_any_bytes(self) -> None:
        storage = self._open()
        items = [
            message(b""),
            message(b"\0"),
            message(b"before\0after"),
            message(bytes(range(256))),
            message("text: žluťoučký kůň".encode()),
            message(random.Random(1).randbytes(5_000_000)),
            message(b"after the large one"),
        ]
        for item in items:
            storage.push("peer", item)
        expect(storage, {"peer": items})
        storage = self._reopen(storage)
        expect(storage, {"peer": items})
        storage.remove_items("peer", items)
        expect(storage, {})

    def test_names_of_queues_may_be_any_text(self) -> None:
        storage = self._open()
        names = [
            "a",
            "A",
            "with spaces ",
            " with spaces",
            "a'b\"c;--",
            "%_*?[a]",
            "příliš",
            "プロセス",
            "🐍" * 50,
            "x" * 50,
            "x" * 49 + "y",
            "new\nline",
            "7",
            "7.0",
        ]
        expected = {name: [message(name.encode())] for name in names}
        for name, items in expected.items():
            storage.push(name, items[0])
        expect(storage, expected)
        storage = self._reopen(storage)
        expect(storage, expected)
        for name in names:
            storage.remove_items(name, expected.pop(name))
            expect(storage, expected)

    def test_get_items_gives_a_list_that_may_be_changed(self) -> None:
        storage = self._open()
        item = message(b"stays")
        storage.push("peer", item)
        storage.get_items("peer").clear()
        expect(storage, {"peer": [item]})

    # Pushing many

    def test_push_many_keeps_the_order_in_each_queue(self) -> None:
        storage = self._open()
        items = [message(b"%d" % number) for number in range(30)]
        storage.push_many(("odd" if number % 2 else "even", items[number]) for number in range(30))
        expected = {"even": items[0::2], "odd": items[1::2]}
        expect(storage, expected)
        expect(self._reopen(storage), expected)

    def test_push_many_of_nothing_is_nothing(self) -> None:
        storage = self._open()
        storage.push_many([])
        storage.push_many(iter(()))
        expect(storage, {})

    def test_push_many_that_fails_stores_nothing(self) -> None:
        self._needs(self.atomic, "a batch is stored as a whole or not at all")
        storage = self._open()
        before = message(b"before")
        storage.push("peer", before)

        def entries() -> Iterator[tuple[str, Message]]:
            yield "peer", message(b"one")
            yield "other", message(b"two")
            raise Broken

        try:
            storage.push_many(entries())
        except Broken:
            pass
        else:
            raise AssertionError("push_many kept quiet about the exception of its iterable")
        expect(storage, {"peer": [before]})
        after = message(b"after")
        storage.push("peer", after)
        expect(self._reopen(storage), {"peer": [before, after]})

    # Removing

    def test_remove_items_from_the_front_the_middle_and_the_end(self) -> None:
        storage = self._open()
        items = [message(b"%d" % number) for number in range(6)]
        storage.push_many(("peer", item) for item in items)
        storage.remove_items("peer", [items[0]])
        expect(storage, {"peer": items[1:]})
        storage.remove_items("peer", iter([items[5], items[2]]))
        expect(storage, {"peer": [items[1], items[3], items[4]]})
        expect(self._reopen(storage), {"peer": [items[1], items[3], items[4]]})

    def test_items_are_found_by_their_uuid(self) -> None:
        storage = self._open()
        storage.push("peer", message(b"stored", uuid=b"same"))
        storage.push("peer", message(b"other", uuid=b"other"))
        storage = self._reopen(storage)
        # Another object, as after a restart; and nothing but the uuid is the same.
        storage.remove_items("peer", [Message(b"", 0, 0, b"same")])
        assert [item.uuid for item in storage.get_items("peer")] == [b"other"]
        storage.delete_items([Message(b"", 0, 0, b"other")])
        expect(storage, {})

    def test_a_uuid_is_not_the_same_as_its_beginning(self) -> None:
        storage = self._open()
        longer = message(b"longer", uuid=b"ab\0")
        storage.push("peer", longer)
        storage.remove_items("peer", [message(b"", uuid=b"ab")])
        storage.delete_items([message(b"", uuid=b"ab")])
        expect(storage, {"peer": [longer]})

    def test_what_is_not_stored_can_be_removed(self) -> None:
        storage = self._open()
        stored, missing = message(b"stored"), message(b"missing")
        storage.push("peer", stored)
        storage.remove_items("peer", [missing])
        storage.remove_items("nobody", [missing])
        storage.remove_items("peer", [])
        storage.delete_items([missing])
        storage.delete_items([])
        storage.update_items_ttl([missing])
        storage.update_items_ttl([])
        expect(storage, {"peer": [stored]})
        storage.remove_items("peer", [missing, stored])
        expect(storage, {})

    def test_remove_items_removes_one_of_two_with_the_same_uuid(self) -> None:
        self._needs(self.removes_one, "remove_items removes one item for each given one")
        storage = self._open()
        first = message(b"first", uuid=b"twice")
        between = message(b"between")
        second = message(b"second", uuid=b"twice")
        storage.push_many([("peer", first), ("peer", between), ("peer", second)])
        storage = self._reopen(storage)
        storage.remove_items("peer", [first])
        expect(storage, {"peer": [between, second]})
        third = message(b"third", uuid=b"twice")
        storage.push("peer", third)
        storage.remove_items("peer", [first])
        expect(storage, {"peer": [between, third]})
        storage.remove_items("peer", [first, first])
        expect(storage, {"peer": [between]})

    def test_remove_items_with_a_uuid_given_twice_removes_two(self) -> None:
        self._needs(self.removes_one, "remove_items removes one item for each given one")
        storage = self._open()
        items = [message(b"%d" % number, uuid=b"same") for number in range(3)]
        storage.push_many(("peer", item) for item in items)
        storage.remove_items("peer", items[:2])
        expect(storage, {"peer": items[2:]})

    def test_remove_items_leaves_the_other_queues_alone(self) -> None:
        self._needs(self.removes_one, "remove_items removes from the given queue only")
        storage = self._open()
        item = message(b"to everybody")
        storage.push_many((name, item) for name in ("alice", "bob", "carol"))
        storage.remove_items("bob", [item])
        storage.remove_items("dave", [item])
        expect(storage, {"alice": [item], "carol": [item]})
        expect(self._reopen(storage), {"alice": [item], "carol": [item]})

    def test_remove_items_that_fails_removes_nothing(self) -> None:
        self._needs(self.atomic, "a batch is removed as a whole or not at all")
        storage = self._open()
        items = [message(b"%d" % number) for number in range(3)]
        storage.push_many(("peer", item) for item in items)

        def some() -> Iterator[Message]:
            yield from items[:2]
            raise Broken

        try:
            storage.remove_items("peer", some())
        except Broken:
            pass
        else:
            raise AssertionError("remove_items kept quiet about the exception of its iterable")
        expect(self._reopen(storage), {"peer": items})

    def test_delete_items_deletes_every_copy_in_every_queue(self) -> None:
        storage = self._open()
        item, other = message(b"many times"), message(b"once")
        storage.push_many([("alice", item), ("alice", other), ("alice", item), ("bob", item)])
        storage.delete_items([item])
        expect(storage, {"alice": [other]})
        expect(self._reopen(storage), {"alice": [other]})

    def test_delete_all_deletes_all(self) -> None:
        storage = self._open()
        storage.delete_all()
        storage.push_many((f"peer{number % 3}", message(b"")) for number in range(10))
        storage.delete_all()
        expect(storage, {})
        storage = self._reopen(storage)
        expect(storage, {})
        item = message(b"as before")
        storage.push("peer1", item)
        expect(storage, {"peer1": [item]})

    # TTL

    def test_update_items_ttl_changes_the_given_items_only(self) -> None:
        storage = self._open()
        items = [message(b"%d" % number, ttl=10.0 + number) for number in range(4)]
        storage.push_many((f"peer{number % 2}", items[number]) for number in range(4))
        items[1].ttl = 0.5
        items[2].ttl = None
        storage.update_items_ttl([items[1], items[2]])
        expected = {"peer0": [items[0], items[2]], "peer1": [items[1], items[3]]}
        assert [item.ttl for item in items] == [10.0, 0.5, None, 13.0]
        expect(storage, expected)
        storage = self._reopen(storage)
        expect(storage, expected)
        items[2].ttl = 7.0
        storage.update_items_ttl([items[2]])
        expect(storage, expected)

    def test_update_items_ttl_changes_nothing_but_the_ttl(self) -> None:
        storage = self._open()
        storage.push("peer", message(b"data", ttl=10, flags=3, uuid=b"id"))
        storage.push("peer", message(b"the next", ttl=20, uuid=b"next"))
        storage.update_items_ttl([Message(b"something else", 5, 0xFF, b"id")])
        expected = [
            message(b"data", ttl=5, flags=3, uuid=b"id"),
            message(b"the next", ttl=20, uuid=b"next"),
        ]
        expect(storage, {"peer": expected})
        expect(self._reopen(storage), {"peer": expected})

    def test_update_items_ttl_reaches_every_copy(self) -> None:
        storage = self._open()
        item = message(b"many times", ttl=10)
        storage.push_many([("alice", item), ("alice", item), ("bob", item)])
        changed = item.with_ttl(5)
        storage.update_items_ttl([changed])
        expect(storage, {"alice": [changed, changed], "bob": [changed]})

    def test_advance_ttl_takes_from_what_is_in_the_queue(self) -> None:
        storage = self._open()
        storage.push_many(("alice", message(b"", ttl=ttl)) for ttl in (60.0, None, 2.5, 0.25))
        storage.push("bob", message(b"", ttl=60.0))
        storage.advance_ttl("alice", 1.5)
        expect_ttls(storage, "alice", [58.5, None, 1.0, 0.0])
        expect_ttls(storage, "bob", [60.0])
        storage = self._reopen(storage)
        expect_ttls(storage, "alice", [58.5, None, 1.0, 0.0])
        storage.advance_ttl("alice", 0.5)
        storage.advance_ttl("alice", 0)
        storage.advance_ttl("bob", 10.0)
        storage = self._reopen(storage)
        expect_ttls(storage, "alice", [58.0, None, 0.5, 0.0])
        expect_ttls(storage, "bob", [50.0])

    def test_advance_ttl_leaves_alone_what_comes_later(self) -> None:
        storage = self._open()
        storage.push("peer", message(b"", ttl=10.0))
        storage.advance_ttl("peer", 4.0)
        storage.push("peer", message(b"", ttl=10.0))
        storage = self._reopen(storage)
        storage.push_many(("peer", message(b"", ttl=ttl)) for ttl in (10.0, None))
        expect_ttls(storage, "peer", [6.0, 10.0, 10.0, None])
        storage.advance_ttl("peer", 1.0)
        expect_ttls(storage, "peer", [5.0, 9.0, 9.0, None])
        storage.remove_items("peer", storage.get_items("peer"))
        # Nothing of this concerns what is in the queue later.
        storage.advance_ttl("peer", 1.0)
        storage.advance_ttl("nobody", 1.0)
        storage = self._reopen(storage)
        storage.push("peer", message(b"", ttl=10.0))
        expect_ttls(storage, "peer", [10.0])
        storage.advance_ttl("peer", 3.0)
        expect_ttls(storage, "peer", [7.0])

    def test_update_items_ttl_after_advance_ttl_sets_it_anew(self) -> None:
        storage = self._open()
        items = [message(b"", ttl=ttl) for ttl in (10.0, 10.0, None, 10.0)]
        storage.push_many(("peer", item) for item in items)
        storage.advance_ttl("peer", 4.0)
        storage.update_items_ttl(
            [items[0].with_ttl(8.0), items[2].with_ttl(3.0), items[3].with_ttl(None)]
        )
        expect_ttls(storage, "peer", [8.0, 6.0, 3.0, None])
        storage.advance_ttl("peer", 1.0)
        expect_ttls(storage, "peer", [7.0, 5.0, 2.0, None])
        expect_ttls(self._reopen(storage), "peer", [7.0, 5.0, 2.0, None])

    def test_advance_ttl_refuses_what_is_no_time(self) -> None:
        storage = self._open()
        storage.push("peer", message(b"", ttl=10.0))
        for seconds in (-1.0, float("inf"), float("nan")):
            try:
                storage.advance_ttl("peer", seconds)
            except ValueError:
                pass
            else:
                raise AssertionError(f"advance_ttl took {seconds!r}")
        expect_ttls(storage, "peer", [10.0])

    # Opening and closing

    def test_what_was_stored_survives_closing(self) -> None:
        self._needs(self.persistent, "opening it again finds what was stored")
        expected: dict[str, list[Message]] = {"alice": [], "bob": []}
        for restart in range(3):
            storage = self._open()
            expect(storage, {name: items for name, items in expected.items() if items})
            for name, items in expected.items():
                items.append(message(f"{name} {restart}".encode()))
                storage.push(name, items[-1])
            storage.close()
        expect(self._open(), expected)

    def test_closing_twice_is_harmless(self) -> None:
        storage = self._open()
        storage.push("peer", message(b""))
        storage.close()
        storage.close()

    def test_it_is_a_context_manager_that_closes(self) -> None:
        item = message(b"kept")
        with self._open() as storage:
            storage.push("peer", item)
            expect(storage, {"peer": [item]})
        if self.persistent:
            expect(self._open(), {"peer": [item]})

    # Threads

    def test_any_thread_may_use_it(self) -> None:
        self._needs(self.thread_safe, "any thread may use it")
        storage = self._open()
        items = [message(b"%d" % number) for number in range(3)]
        for item in items:
            # A new thread each time: nothing may be bound to the one that opened it.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(storage.push, "peer", item).result(DEADLINE)
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(storage.get_items, "peer").result(DEADLINE)
            assert facts(found) == facts(items)
            pool.submit(storage.remove_items, "peer", items[:1]).result(DEADLINE)
            pool.submit(storage.close).result(DEADLINE)
        if self.persistent:
            expect(self._open(), {"peer": items[1:]})

    def test_threads_push_at_the_same_time(self) -> None:
        self._needs(self.thread_safe, "several threads may use it at the same time")
        storage = self._open()
        threads, each = 4, 40
        start = threading.Barrier(threads)

        def work(thread: int) -> list[Message]:
            items = [message(b"%d %d" % (thread, number)) for number in range(each)]
            start.wait(DEADLINE)
            for number in range(0, each, 4):
                storage.push("shared", items[number])
                storage.push_many(("shared", item) for item in items[number + 1 : number + 4])
                storage.push(f"own{thread}", items[number])
            return items

        with ThreadPoolExecutor(threads) as pool:
            pushed = list(pool.map(work, range(threads), timeout=DEADLINE))
        storage = self._reopen(storage)
        shared = facts(storage.get_items("shared"))
        assert len(shared) == threads * each
        for thread, items in enumerate(pushed):
            mine = [fact for fact in shared if fact[0].startswith(b"%d " % thread)]
            assert mine == facts(items), f"thread {thread}: lost, repeated or out of order"
            assert facts(storage.get_items(f"own{thread}")) == facts(items[::4])

    def test_threads_push_while_another_removes(self) -> None:
        self._needs(self.thread_safe, "several threads may use it at the same time")
        storage = self._open()
        threads, each = 3, 40
        start = threading.Barrier(threads + 1)
        finished = threading.Event()

        def push(thread: int) -> None:
            start.wait(DEADLINE)
            for number in range(each):
                storage.push("shared", message(b"%d %d" % (thread, number)))

        def drain() -> list[bytes]:
            drained: list[bytes] = []
            start.wait(DEADLINE)
            while True:
                last = finished.is_set()
                items = storage.get_items("shared")
                storage.remove_items("shared", items)
                drained += [item.data for item in items]
                if last:
                    return drained

        with ThreadPoolExecutor(threads + 1) as pool:
            drainer = pool.submit(drain)
            try:
                list(pool.map(push, range(threads), timeout=DEADLINE))
            finally:
                finished.set()
            drained = drainer.result(DEADLINE)
        expect(storage, {})
        assert max(Counter(drained).values()) == 1
        for thread in range(threads):
            mine = [data for data in drained if data.startswith(b"%d " % thread)]
            assert mine == [b"%d %d" % (thread, number) for number in range(each)]

    # All of it together

    def test_a_long_history_leaves_what_it_should(self) -> None:
        """Random operations, always the same, beside a model of lists."""
        chance = random.Random(20120518)
        storage = self._open()
        model: dict[str, list[Message]] = {"alice": [], "bob": [], "carol": []}
        ever: list[Message] = []

        def new() -> Message:
            if ever and self.removes_one and chance.random() < 0.1:
                return chance.choice(ever)
            ttl = chance.choice([None, 1.5, 600.0])
            ever.append(message(chance.randbytes(20), ttl=ttl, uuid=chance.randbytes(16)))
            return ever[-1]

        def push() -> None:
            name, item = chance.choice(list(model)), new()
            storage.push(name, item)
            model[name].append(item)

        def push_many() -> None:
            entries = [(chance.choice(list(model)), new()) for _ in range(chance.randrange(8))]
            storage.push_many(iter(entries))
            for name, item in entries:
                model[name].append(item)

        def remove_first() -> None:
            name = chance.choice(list(model))
            count = chance.randrange(1, 6)
            storage.remove_items(name, model[name][:count])
            del model[name][:count]

        def remove_any() -> None:
            name = chance.choice(list(model))
            some = chance.sample(model[name], min(2, len(model[name])))
            storage.remove_items(name, some)
            for item in some:
                model[name].remove(_first(model[name], item.uuid))

        def delete() -> None:
            gone = {item.uuid for item in chance.sample(ever, min(2, len(ever)))}
            storage.delete_items([item for item in ever if item.uuid in gone])
            for name, items in model.items():
                model[name] = [item for item in items if item.uuid not in gone]

        def update_ttl() -> None:
            some = chance.sample(ever, min(3, len(ever)))
            for item in some:
                item.ttl = chance.choice([None, 0.25, 30.0])
            storage.update_items_ttl(some)

        def restart() -> None:
            nonlocal storage
            storage = self._reopen(storage)

        operations = [push, push_many, remove_first, remove_any, delete, update_ttl, restart]
        weights = [10, 4, 6, 3, 1, 2, 1]
        for _ in range(self.long_history):
            chance.choices(operations, weights)[0]()
            expect(storage, {name: items for name, items in model.items() if items})


def _first(items: list[Message], uuid: bytes) -> Message:
    return next(item for item in items if item.uuid == uuid)
