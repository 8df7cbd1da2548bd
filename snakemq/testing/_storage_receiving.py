"""The part of the storage suite for what was received: memory and inbox."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

from snakemq.message import Message
from snakemq.storage import InboxItem, QueuesStorageBase
from snakemq.storage.base import MAX_RECEIVED_PEERS
from snakemq.testing._storage_suite import DEADLINE, Broken, StorageSuite, expect, facts, message

__all__ = ["ReceivingSide", "ReceivingSuite"]


class ReceivingSuite(StorageSuite):
    """Tests of what only a storage has that serves the receiving side."""

    def _receiving(self) -> QueuesStorageBase:
        storage = self._open()
        self._needs(storage.keeps_received, "it keeps what was received (keeps_received)")
        return storage


class ReceivingSide(ReceivingSuite):
    """Skipped if the storage does not say ``keeps_received``."""

    # The memory

    def test_nothing_is_remembered_of_an_unknown_peer(self) -> None:
        storage = self._receiving()
        assert list(storage.load_received("nobody")) == []
        storage.add_received("somebody", [b"1"], keep=10, sync=True)
        assert list(storage.load_received("nobody")) == []

    def test_what_was_received_is_remembered_in_order(self) -> None:
        storage = self._receiving()
        storage.add_received("alice", [b"z"], keep=10, sync=True)
        storage.add_received("alice", iter([b"y", b"x"]), keep=10, sync=False)
        storage.add_received("bob", [b"z", b"b"], keep=10, sync=False)
        storage.add_received("alice", [], keep=10, sync=True)
        storage.add_received("alice", [b"a"], keep=10, sync=True)
        for _ in range(2):
            assert storage.load_received("alice") == [b"z", b"y", b"x", b"a"]
            assert storage.load_received("bob") == [b"z", b"b"]
            storage = self._reopen(storage)
        storage.add_received("alice", [b"w"], keep=10, sync=False)
        assert storage.load_received("alice") == [b"z", b"y", b"x", b"a", b"w"]

    def test_what_may_be_late_is_there_after_a_sync_and_after_closing(self) -> None:
        storage = self._receiving()
        storage.sync()
        storage.add_received("alice", [b"1"], keep=10, sync=False)
        storage.sync()
        storage.sync()
        assert storage.load_received("alice") == [b"1"]
        storage.add_received("alice", [b"2"], keep=10, sync=False)
        assert self._reopen(storage).load_received("alice") == [b"1", b"2"]

    def test_identifiers_are_remembered_as_they_were(self) -> None:
        storage = self._receiving()
        uuids = [b"x", b"abc\0\0", b"abc", bytes(16), b"\0", bytes(range(240, 256)), b"\xff" * 15]
        storage.add_received("příliš 🐍", uuids, keep=10, sync=True)
        assert self._reopen(storage).load_received("příliš 🐍") == uuids

    def test_an_identifier_that_comes_again_counts_from_then_on(self) -> None:
        storage = self._receiving()
        storage.add_received("alice", [b"again"], keep=3, sync=True)
        storage.add_received("alice", [b"%d" % number for number in range(3)], keep=3, sync=True)
        storage.add_received("alice", [b"again"], keep=3, sync=True)
        for number in range(2):
            storage.add_received("alice", [b"more %d" % number], keep=3, sync=True)
        assert storage.load_received("alice")[-3:] == [b"again", b"more 0", b"more 1"]

    def test_it_knows_of_which_peers_something_was_received(self) -> None:
        storage = self._receiving()
        assert storage.received_peers() == []
        storage.add_received("alice", [b"1"], keep=10, sync=True)
        storage.push_inbox("žluťoučký 🐍", [message(b"")], keep=10)
        storage.add_received("nobody", [], keep=10, sync=True)
        storage.push_inbox("nobody", [], keep=10)
        storage.add_received("alice", [b"2"], keep=10, sync=True)
        storage.push("bob", message(b"to him, not from him"))
        storage.load_received("carol")
        for _ in range(2):
            peers = storage.received_peers()
            assert sorted(peers) == ["alice", "žluťoučký 🐍"]
            peers.clear()  # it is the caller's
            storage = self._reopen(storage)

    def test_older_notes_of_what_comes_again_push_out_nothing(self) -> None:
        storage = self._receiving()
        storage.add_received("alice", [b"first", b"last"], keep=2, sync=True)
        for _ in range(20):
            storage.add_received("alice", [b"first"], keep=2, sync=False)
            assert set(storage.load_received("alice")) == {b"first", b"last"}
        assert set(self._reopen(storage).load_received("alice")) == {b"first", b"last"}

    def test_the_last_are_kept_and_at_most_twice_as_many(self) -> None:
        for sizes in ([1], [4], [1, 7, 2], [10], [11, 1], [35, 3]):
            storage = self._receiving()
            ident = f"peer {sizes}"
            ever: list[bytes] = []
            for round_ in range(40):
                new = [b"%d %d" % (round_, number) for number in range(sizes[round_ % len(sizes)])]
                storage.add_received(ident, new, keep=10, sync=False)
                ever += new
                found = storage.load_received(ident)
                assert found[-10:] == ever[-10:]
                assert len(found) <= 20
                if round_ % 13 == 0:
                    storage = self._reopen(storage)
            storage.close()

    def test_less_can_be_kept_than_before(self) -> None:
        storage = self._receiving()
        uuids = [b"%d" % number for number in range(100)]
        storage.add_received("alice", uuids, keep=100, sync=True)
        storage.add_received("alice", [b"new"], keep=3, sync=True)
        found = storage.load_received("alice")
        assert found[-3:] == [b"98", b"99", b"new"]
        assert len(found) <= 6

    def test_the_peer_not_heard_of_for_longest_is_forgotten(self) -> None:
        storage = self._receiving()
        for number in range(MAX_RECEIVED_PEERS):
            storage.add_received(f"peer{number}", [b"1"], keep=5, sync=False)
        storage.add_received("peer0", [b"2"], keep=5, sync=False)
        storage.push_inbox("peer1", [message(b"", uuid=b"2")], keep=5)
        # Asking is not hearing.
        assert storage.load_received("peer2") == [b"1"]
        storage = self._reopen(storage)
        storage.add_received("one more", [b"1"], keep=5, sync=False)
        storage.push_inbox("another", [message(b"", uuid=b"1")], keep=5)
        storage = self._reopen(storage)
        assert storage.load_received("peer0") == [b"1", b"2"]
        assert storage.load_received("peer1") == [b"1", b"2"]
        assert storage.load_received("peer2") == []
        assert storage.load_received("peer3") == []
        peers = storage.received_peers()
        assert len(peers) == len(set(peers)) == MAX_RECEIVED_PEERS
        assert not {"peer2", "peer3"} & set(peers)
        for ident in ("peer4", f"peer{MAX_RECEIVED_PEERS - 1}", "one more", "another"):
            assert storage.load_received(ident) == [b"1"]

    def test_nonsense_is_refused_and_changes_nothing(self) -> None:
        storage = self._receiving()
        storage.add_received("alice", [b"1"], keep=1, sync=True)
        wrong: list[tuple[list[bytes], int]] = [([b"2"], 0), ([b"2"], -1)]
        wrong += [([b"2", b""], 5), ([b"2", bytes(17)], 5)]
        for uuids, keep in wrong:
            try:
                storage.add_received("alice", uuids, keep=keep, sync=True)
            except ValueError:
                pass
            else:
                raise AssertionError(f"add_received took {uuids!r} with keep={keep}")
        assert self._reopen(storage).load_received("alice") == [b"1"]

    # The inbox

    def test_a_new_inbox_is_empty(self) -> None:
        storage = self._receiving()
        assert storage.get_inbox() == []
        assert storage.get_dead() == []
        assert storage.push_inbox("alice", [], keep=10) == []
        assert storage.get_inbox() == []

    def test_the_inbox_has_what_was_received(self) -> None:
        storage = self._receiving()
        messages = [
            message(b"", ttl=0.0),
            message(b"waits for ever", ttl=None),
            message(b"a fraction of a second", ttl=0.125),
            message(b"all flags", flags=0xFFFFFFFF),
            message(b"no flags", flags=0),
            message(b"an identifier that ends in NULs", uuid=b"abc\0\0"),
            message(bytes(range(256)), uuid=bytes(range(240, 256))),
            message(random.Random(1).randbytes(1_000_000)),
        ]
        ids = storage.push_inbox("alice", iter(messages[:5]), keep=10)
        ids += storage.push_inbox("žluťoučký 🐍", messages[5:], keep=10)
        assert ids == sorted(set(ids))
        for _ in range(2):
            items = storage.get_inbox()
            assert [item.id for item in items] == ids
            assert [item.ident for item in items] == ["alice"] * 5 + ["žluťoučký 🐍"] * 3
            assert facts([item.message for item in items]) == facts(messages)
            assert [item.attempts for item in items] == [0] * 8
            assert all(type(item) is InboxItem for item in items)
            items.clear()  # it is the caller's
            storage = self._reopen(storage)

    def test_the_inbox_knows_what_may_have_been_delivered_before(self) -> None:
        storage = self._receiving()
        marked, unmarked = message(b"marked"), message(b"unmarked")
        marked.redelivered = True
        storage.push_inbox("alice", [marked, unmarked], keep=10)
        storage = self._reopen(storage)
        found = [item.message for item in storage.get_inbox()]
        assert [item.redelivered for item in found] == [True, False]

    def test_what_is_put_into_the_inbox_is_remembered_too(self) -> None:
        storage = self._receiving()
        storage.add_received("alice", [b"before"], keep=3, sync=False)
        storage.push_inbox("alice", [message(b"", uuid=b"1"), message(b"", uuid=b"2")], keep=3)
        assert storage.load_received("alice") == [b"before", b"1", b"2"]
        for number in range(3, 30):
            storage.push_inbox("alice", [message(b"", uuid=b"%d" % number)], keep=3)
            assert len(storage.load_received("alice")) <= 6
        storage = self._reopen(storage)
        assert storage.load_received("alice")[-3:] == [b"27", b"28", b"29"]
        assert len(storage.get_inbox()) == 29

    def test_what_is_never_repeated_is_not_remembered(self) -> None:
        storage = self._receiving()
        now = [message(b"", uuid=b"now", ttl=0)]
        assert len(storage.push_inbox("alice", now, keep=2)) == 1
        assert storage.load_received("alice") == []
        storage.push_inbox("alice", [*now, message(b"", uuid=b"later", ttl=None)], keep=2)
        assert storage.load_received("alice") == [b"later"]
        assert len(self._reopen(storage).get_inbox()) == 3

    def test_push_inbox_that_fails_stores_nothing(self) -> None:
        storage = self._receiving()
        (first,) = storage.push_inbox("alice", [message(b"before", uuid=b"1")], keep=10)

        def messages() -> Iterator[Message]:
            yield message(b"", uuid=b"2")
            raise Broken

        try:
            storage.push_inbox("alice", messages(), keep=10)
        except Broken:
            pass
        else:
            raise AssertionError("push_inbox kept quiet about the exception of its iterable")
        storage = self._reopen(storage)
        assert [item.id for item in storage.get_inbox()] == [first]
        assert storage.load_received("alice") == [b"1"]

    def test_a_number_is_never_used_again(self) -> None:
        storage = self._receiving()
        used: list[int] = []
        for round_ in range(4):
            used += storage.push_inbox("alice", [message(b""), message(b"")], keep=10)
            if round_ == 1:
                storage.bury(used[-1], "tired of it")
                storage.drop_dead(None)
            if round_ == 2:
                storage.bury(used[-1], "tired of it")
                used += [item.id for item in storage.retry_dead(None)]
            for item in storage.get_inbox():
                storage.advance_inbox(item.id, None)
            assert storage.get_inbox() == []
            storage = self._reopen(storage)
        assert used == sorted(set(used))

    def test_the_inbox_can_be_read_in_pages(self) -> None:
        storage = self._receiving()
        ids = storage.push_inbox("alice", [message(b"%d" % n) for n in range(4)], keep=10)
        ids += storage.push_inbox("bob", [message(b"%d" % n) for n in range(4, 9)], keep=10)

        def numbers(after: int = 0, limit: int | None = None) -> list[int]:
            return [item.id for item in storage.get_inbox(after, limit)]

        for _ in range(2):
            for after in (0, *ids, ids[-1] + 1, 2**62):
                right = [number for number in ids if number > after]
                assert numbers(after) == right
                for limit in (1, 2, 5, 1000):
                    assert numbers(after, limit) == right[:limit]
            storage.advance_inbox(ids.pop(3), None)
            storage.bury(ids.pop(5), "tired of it")
            storage = self._reopen(storage)
        assert numbers(ids[2]) == ids[3:]
        (item,) = storage.get_inbox(ids[3], 1)
        assert (item.id, item.ident, item.message.data) == (ids[4], "bob", b"7")

    def test_going_on_removes_one_and_counts_an_attempt_of_another(self) -> None:
        storage = self._receiving()
        a, b, c = storage.push_inbox("alice", [message(b"%d" % n) for n in range(3)], keep=10)
        storage.advance_inbox(None, a)
        assert _attempts(storage) == {a: 1, b: 0, c: 0}
        storage.advance_inbox(a, b)
        assert _attempts(storage) == {b: 1, c: 0}
        storage = self._reopen(storage)
        assert _attempts(storage) == {b: 1, c: 0}
        storage.advance_inbox(None, b)
        storage.advance_inbox(None, b)
        assert _attempts(storage) == {b: 3, c: 0}
        storage.advance_inbox(None, None)
        # What is not there any more is no trouble.
        storage.advance_inbox(a, a)
        storage.advance_inbox(b, None)
        storage.advance_inbox(c + 1000, None)
        assert _attempts(storage) == {c: 0}
        storage.advance_inbox(c, c)
        assert storage.get_inbox() == []
        assert self._reopen(storage).get_inbox() == []

    def test_an_attempt_can_be_taken_back(self) -> None:
        storage = self._receiving()
        a, b = storage.push_inbox("alice", [message(b"a"), message(b"b")], keep=10)
        storage.advance_inbox(None, a)
        storage.advance_inbox(None, a)
        storage.uncount_attempt(a)
        storage.uncount_attempt(b)
        storage.uncount_attempt(b + 1000)
        assert _attempts(storage) == {a: 1, b: 0}
        assert _attempts(self._reopen(storage)) == {a: 1, b: 0}

    def test_queues_and_what_was_received_are_apart(self) -> None:
        storage = self._receiving()
        item = message(b"both ways", uuid=b"same")
        first, second = storage.push_inbox("alice", [item, message(b"dead", uuid=b"x")], keep=10)
        storage.bury(second, "tired of it")
        expect(storage, {})
        storage.push_many([("alice", item), ("bob", item)])
        storage.update_items_ttl([item.with_ttl(1.0)])
        storage.advance_ttl("alice", 0.5)
        storage.remove_items("alice", [item])
        storage.delete_items([item])
        storage.push("alice", item)
        storage.delete_all()
        storage = self._reopen(storage)
        expect(storage, {})
        assert storage.load_received("alice") == [b"same", b"x"]
        (left,) = storage.get_inbox()
        assert (left.id, facts([left.message])) == (first, facts([item]))
        assert [letter.id for letter in storage.get_dead()] == [second]

    # Threads

    def test_threads_receive_at_the_same_time(self) -> None:
        storage = self._receiving()
        self._needs(self.thread_safe, "several threads may use it at the same time")
        threads, each = 3, 30
        start = threading.Barrier(threads + 1)
        finished = threading.Event()

        def receive(thread: int) -> list[int]:
            ids: list[int] = []
            start.wait(DEADLINE)
            for number in range(each):
                messages = [message(b"%d %d %d" % (thread, number, part)) for part in range(3)]
                ids += storage.push_inbox(f"peer{thread}", messages, keep=1000)
                storage.add_received(f"peer{thread}", [b"%d" % number], keep=1000, sync=False)
            return ids

        def process() -> list[InboxItem]:
            done: list[InboxItem] = []
            start.wait(DEADLINE)
            while True:
                last = finished.is_set()
                for item in storage.get_inbox():
                    storage.advance_inbox(None, item.id)
                    storage.advance_inbox(item.id, None)
                    done.append(item)
                if last:
                    return done

        with ThreadPoolExecutor(threads + 1) as pool:
            processing = pool.submit(process)
            try:
                received = list(pool.map(receive, range(threads), timeout=DEADLINE))
            finally:
                finished.set()
            done = processing.result(DEADLINE)
        assert storage.get_inbox() == []
        assert sorted(item.id for item in done) == sorted(chain(*received))
        storage = self._reopen(storage)
        for thread in range(threads):
            mine = [item for item in done if item.ident == f"peer{thread}"]
            assert [item.id for item in mine] == received[thread]
            assert [item.message.data for item in mine] == [
                b"%d %d %d" % (thread, number, part) for number in range(each) for part in range(3)
            ]
            assert len(storage.load_received(f"peer{thread}")) == 4 * each

    # All of it together

    def test_a_long_history_of_receiving_leaves_what_it_should(self) -> None:
        """Random operations, always the same, beside a model of lists."""
        chance = random.Random(20120518)
        storage = self._receiving()
        inbox: dict[int, list[Any]] = {}  # ident, data, attempts
        dead: dict[int, list[Any]] = {}
        received: dict[str, list[bytes]] = {"alice": [], "bob": []}

        def push() -> None:
            ident = chance.choice(list(received))
            messages = [message(chance.randbytes(20)) for _ in range(chance.randrange(4))]
            ids = storage.push_inbox(ident, messages, keep=8)
            assert all(new > old for new in ids for old in (*inbox, *dead))
            for number, item in zip(ids, messages, strict=True):
                inbox[number] = [ident, item.data, 0]
                received[ident].append(item.uuid)

        def add() -> None:
            ident = chance.choice(list(received))
            uuids = [chance.randbytes(16) for _ in range(chance.randrange(1, 12))]
            storage.add_received(ident, uuids, keep=8, sync=chance.random() < 0.5)
            received[ident] += uuids

        def advance() -> None:
            done = chance.choice([None, *inbox])
            starting = chance.choice([None, *inbox])
            storage.advance_inbox(done, starting)
            if done is not None:
                del inbox[done]
            if starting in inbox:
                inbox[starting][2] += 1

        def bury() -> None:
            if inbox:
                number = chance.choice(list(inbox))
                storage.bury(number, "tired of it")
                dead[number] = inbox.pop(number)

        def some_dead() -> list[int] | None:
            return chance.choice([None, chance.sample(list(dead), min(2, len(dead)))])

        def retry() -> None:
            ids = some_dead()
            found = sorted(dead if ids is None else ids)
            items = storage.retry_dead(ids)
            for old, item in zip(found, items, strict=True):
                inbox[item.id] = [*dead.pop(old)[:2], 0]

        def drop() -> None:
            ids = some_dead()
            found = list(dead) if ids is None else ids
            assert storage.drop_dead(ids) == len(found)
            for number in found:
                del dead[number]

        def restart() -> None:
            nonlocal storage
            storage = self._reopen(storage)

        operations = [push, add, advance, bury, retry, drop, storage.sync, restart]
        weights = [10, 6, 12, 4, 2, 1, 0, 1]
        for _ in range(self.long_history):
            chance.choices(operations, weights)[0]()
            found = [[i.id, i.ident, i.message.data, i.attempts] for i in storage.get_inbox()]
            assert found == [[number, *inbox[number]] for number in sorted(inbox)]
            found = [[i.id, i.ident, i.message.data, i.attempts] for i in storage.get_dead()]
            assert found == [[number, *dead[number]] for number in sorted(dead)]
            for ident, uuids in received.items():
                assert storage.load_received(ident)[-8:] == uuids[-8:]


def _attempts(storage: QueuesStorageBase) -> dict[int, int]:
    return {item.id: item.attempts for item in storage.get_inbox()}
