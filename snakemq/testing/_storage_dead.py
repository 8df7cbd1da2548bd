"""The part of the storage suite for what was received: dead letters."""

from __future__ import annotations

import time
from collections.abc import Iterator

from snakemq.storage import DeadLetter, QueuesStorageBase
from snakemq.testing._storage_receiving import ReceivingSuite
from snakemq.testing._storage_suite import Broken, facts, message

__all__ = ["DeadLetters"]


class DeadLetters(ReceivingSuite):
    """Skipped if the storage does not say ``keeps_received``."""

    def test_a_dead_letter_has_all_that_is_known_of_it(self) -> None:
        storage = self._receiving()
        buried = message(b"\0data", ttl=0.5, flags=7, uuid=b"abc\0")
        buried.redelivered = True
        before, item_id, after = storage.push_inbox(
            "alice", [message(b"before"), buried, message(b"after")], keep=10
        )
        storage.advance_inbox(None, item_id)
        storage.advance_inbox(None, item_id)
        earliest = time.time()
        storage.bury(item_id, "ValueError: no číslo")
        latest = time.time()
        storage = self._reopen(storage)
        assert [item.id for item in storage.get_inbox()] == [before, after]
        (letter,) = storage.get_dead()
        assert type(letter) is DeadLetter
        assert letter[:2] == (item_id, "alice")
        assert facts([letter.message]) == facts([buried])
        assert letter.message.redelivered is True
        assert letter[3:5] == (2, "ValueError: no číslo")
        assert earliest - 1 <= letter.died_at <= latest + 1

    def test_what_is_not_in_the_inbox_can_not_be_buried(self) -> None:
        storage = self._receiving()
        a, b = storage.push_inbox("alice", [message(b"a"), message(b"b")], keep=10)
        storage.bury(b + 1000, "nobody")
        storage.bury(a, "the first time")
        storage.bury(a, "the second time")
        assert [(letter.id, letter.reason) for letter in storage.get_dead()] == [
            (a, "the first time")
        ]
        assert [item.id for item in storage.get_inbox()] == [b]

    def test_dead_letters_are_in_the_order_in_which_they_came(self) -> None:
        storage = self._receiving()
        ids = self._dead(storage, 5)
        assert [letter.id for letter in storage.get_dead()] == ids
        storage.get_dead().clear()
        assert [letter.id for letter in self._reopen(storage).get_dead()] == ids

    def test_dead_letters_can_be_read_in_pages_and_counted(self) -> None:
        storage = self._receiving()
        assert storage.count_dead() == 0
        ids = self._dead(storage, 7)

        def numbers(after: int = 0, limit: int | None = None) -> list[int]:
            return [letter.id for letter in storage.get_dead(after, limit)]

        for _ in range(2):
            assert storage.count_dead() == len(ids)
            for after in (0, *ids, ids[-1] + 1, 2**62):
                right = [number for number in ids if number > after]
                assert numbers(after) == right
                for limit in (1, 2, 5, 1000):
                    assert numbers(after, limit) == right[:limit]
            assert storage.drop_dead([ids.pop(3)]) == 1
            assert len(storage.retry_dead([ids.pop(3)])) == 1
            storage = self._reopen(storage)
        (letter,) = storage.get_dead(ids[0], 1)
        assert (letter.id, letter.message.data, letter.reason) == (ids[1], b"1", "tired of it")
        storage.drop_dead(None)
        assert storage.count_dead() == 0

    def test_letters_of_another_storage_can_be_added(self) -> None:
        storage = self._receiving()
        (before,) = self._dead(storage, 1)
        (waiting,) = storage.push_inbox("bob", [message(b"waiting")], keep=10)
        marked = message(b"\0data", ttl=0.5, flags=7, uuid=b"abc\0")
        marked.redelivered = True
        letters = [
            DeadLetter(waiting, "žluťoučký 🐍", marked, 3, "ValueError: no číslo", 1234567890.125),
            DeadLetter(7, "carol", message(b"second", ttl=None), 0, "", 1.5),
            DeadLetter(7, "carol", message(b"third"), 1, "tired of it", 0.0),
        ]
        storage.add_dead(iter(letters))
        storage.add_dead([])
        added: list[int] = []
        for _ in range(2):
            assert storage.count_dead() == 4
            first, *found = storage.get_dead()
            assert first.id == before
            added = [letter.id for letter in found]
            assert waiting < added[0] < added[1] < added[2]
            assert all(type(letter) is DeadLetter for letter in found)
            assert [letter[1:2] + letter[3:] for letter in found] == [
                letter[1:2] + letter[3:] for letter in letters
            ]
            assert facts([each.message for each in found]) == facts([e.message for e in letters])
            assert [each.message.redelivered for each in found] == [True, False, False]
            assert [item.id for item in storage.get_inbox()] == [waiting]
            storage = self._reopen(storage)
        # They are not received again by that, and nothing has their numbers later.
        assert storage.load_received("carol") == []
        (later,) = storage.push_inbox("bob", [message(b"later")], keep=10)
        assert later > added[-1]
        retried = storage.retry_dead([added[1]])
        assert [(item.ident, item.message.data) for item in retried] == [("carol", b"second")]
        assert storage.drop_dead([added[0], added[2]]) == 2
        assert storage.count_dead() == 1

    def test_adding_letters_that_fails_adds_none(self) -> None:
        storage = self._receiving()

        def letters() -> Iterator[DeadLetter]:
            yield DeadLetter(1, "alice", message(b"good"), 1, "tired of it", 1.0)
            raise Broken

        try:
            storage.add_dead(letters())
        except Broken:
            pass
        else:
            raise AssertionError("add_dead kept quiet about the exception of its iterable")
        assert storage.count_dead() == 0
        assert self._reopen(storage).get_dead() == []

    def test_dead_letters_are_tried_again_in_order_behind_the_others(self) -> None:
        storage = self._receiving()
        ids = self._dead(storage, 5)
        (waiting,) = storage.push_inbox("bob", [message(b"waiting")], keep=10)
        remembered = storage.load_received("alice")
        retried = storage.retry_dead([ids[3], ids[1], ids[3], waiting + 1000, 2**70])
        assert [item.message.data for item in retried] == [b"1", b"3"]
        assert [item.ident for item in retried] == ["alice", "alice"]
        assert [item.attempts for item in retried] == [0, 0]
        assert waiting < retried[0].id < retried[1].id
        for _ in range(2):
            inbox = storage.get_inbox()
            assert [item.id for item in inbox] == [waiting, retried[0].id, retried[1].id]
            assert facts([item.message for item in inbox[1:]]) == facts(
                [item.message for item in retried]
            )
            assert [item.attempts for item in inbox] == [0, 0, 0]
            assert [letter.id for letter in storage.get_dead()] == [ids[0], ids[2], ids[4]]
            storage = self._reopen(storage)
        assert storage.load_received("alice") == remembered
        assert [item.message.data for item in storage.retry_dead(None)] == [b"0", b"2", b"4"]
        assert storage.get_dead() == []
        assert len(storage.get_inbox()) == 6

    def test_what_is_tried_again_was_delivered_before_if_it_was_attempted(self) -> None:
        storage = self._receiving()
        marked = message(b"marked")
        marked.redelivered = True
        messages = [message(b"attempted"), message(b"never"), marked]
        ids = storage.push_inbox("alice", messages, keep=10)
        storage.advance_inbox(None, ids[0])
        for number in ids:
            storage.bury(number, "tired of it")
        retried = storage.retry_dead(None)
        expected = [(b"attempted", True), (b"never", False), (b"marked", True)]
        for items in (retried, self._reopen(storage).get_inbox()):
            found = [(i.message.data, i.message.redelivered) for i in items]
            assert found == expected

    def test_retrying_nothing_changes_nothing(self) -> None:
        storage = self._receiving()
        assert storage.retry_dead(None) == []
        ids = self._dead(storage, 2)
        assert storage.retry_dead([]) == []
        assert storage.retry_dead([ids[-1] + 1000]) == []
        assert [letter.id for letter in storage.get_dead()] == ids
        assert storage.get_inbox() == []

    def test_a_letter_can_die_again(self) -> None:
        storage = self._receiving()
        (first,) = self._dead(storage, 1)
        (again,) = storage.retry_dead([first])
        storage.advance_inbox(None, again.id)
        storage.bury(again.id, "once more")
        (letter,) = self._reopen(storage).get_dead()
        assert (letter.id, letter.attempts, letter.reason) == (again.id, 1, "once more")

    def test_dead_letters_can_be_dropped(self) -> None:
        storage = self._receiving()
        assert storage.drop_dead(None) == 0
        ids = self._dead(storage, 5)
        assert storage.drop_dead([]) == 0
        assert storage.drop_dead([ids[-1] + 1000, 2**70]) == 0
        assert storage.drop_dead([ids[2], ids[0], ids[2]]) == 2
        storage = self._reopen(storage)
        assert [letter.id for letter in storage.get_dead()] == [ids[1], ids[3], ids[4]]
        assert storage.drop_dead(None) == 3
        assert storage.get_dead() == []
        assert self._reopen(storage).get_inbox() == []

    @staticmethod
    def _dead(storage: QueuesStorageBase, count: int) -> list[int]:
        """Some dead letters of alice, with the data 0, 1 ...; the last died first."""
        messages = [message(b"%d" % number) for number in range(count)]
        ids = storage.push_inbox("alice", messages, keep=10)
        for number in reversed(ids):
            storage.advance_inbox(None, number)
            storage.bury(number, "tired of it")
        return ids
