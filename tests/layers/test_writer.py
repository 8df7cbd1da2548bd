"""Group commit: who writes, what goes along, and what becomes of it when something fails.

The storage is held by the test, so that it is known who waits while it writes.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator, Sequence

import pytest

from snakemq import _writer
from snakemq._writer import Writer
from snakemq.exceptions import StorageError, StorageUnavailable
from snakemq.message import Message
from snakemq.storage import Removal
from tests.helpers import DEADLINE, wait_until
from tests.layers.writer_support import (
    Bench,
    Change,
    HeldStorage,
    Thread,
    persistent,
    refuse,
    report,
)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.storage.let_all()


def test_who_is_alone_writes_at_once_and_the_disk_is_synced(bench: Bench) -> None:
    bench.push(b"a", b"b")
    assert bench.storage.changes == [Change([b"a", b"b"], [], True)]
    assert bench.told == [(b"a", 1), (b"b", 2)]
    assert bench.writer.changes == 1
    assert bench.writer.is_settled


def test_what_was_written_is_not_kept_in_memory(bench: Bench) -> None:
    class Entries(list[tuple[str, Message]]):
        """A list that can be watched."""

    entries = Entries([("q", persistent(b"large"))])
    watched = weakref.ref(entries)
    bench.writer.push(entries, None, lambda positions: None)
    del entries
    gc.collect()
    assert watched() is None
    assert bench.storage.content() == [b"large"]


def test_who_comes_while_one_writes_is_served_with_one_change(bench: Bench) -> None:
    threads = [bench.start_writing(b"first")]
    threads += [bench.start(b"%d" % number) for number in range(10)]
    assert len(bench.storage.changes) == 1
    bench.storage.let_all()
    assert [thread.end() for thread in threads] == [None] * 11
    expected = [b"%d" % number for number in range(10)]
    assert bench.storage.changes == [Change([b"first"], [], True), Change(expected, [], True)]
    assert bench.storage.content() == [b"first", *expected]
    assert bench.told == list(zip([b"first", *expected], range(1, 12), strict=True))


class Joining:
    """Has somebody come each time the one who writes gives way, as long as there is one."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bench = bench
        self.coming: list[bytes] = []
        self.threads: list[Thread] = []
        self.rounds = 0
        self.clock = 0.0
        monkeypatch.setattr(_writer, "give_way", self.come)
        monkeypatch.setattr(_writer, "monotonic", lambda: self.clock)

    def write_together(self, count: int) -> None:
        """Have so many stored with one change."""
        before = len(self.bench.storage.changes)
        threads = [self.bench.start_writing(b"first")]
        threads += [self.bench.start(b"of many") for _ in range(count)]
        self.bench.storage.let_all()
        assert [thread.end() for thread in threads] == [None] * (count + 1)
        sizes = [len(change.pushed) for change in self.bench.storage.changes[before:]]
        assert sizes == [1, count]
        self.rounds = 0

    def come(self) -> None:
        self.rounds += 1
        if self.coming:
            self.threads.append(self.bench.start(self.coming.pop(0)))

    def end(self) -> list[bytes]:
        """What was written together."""
        assert all(thread.end() is None for thread in self.threads)
        return self.bench.storage.changes[-1].pushed


@pytest.fixture
def joining(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Joining:
    return Joining(bench, monkeypatch)


def test_who_is_alone_gives_way_to_nobody(bench: Bench, joining: Joining) -> None:
    for _ in range(3):
        bench.push(b"alone")
    assert joining.rounds == 0


def test_those_who_were_served_together_join_again(bench: Bench, joining: Joining) -> None:
    joining.write_together(4)
    joining.coming = [b"2", b"3", b"4"]
    bench.push(b"1")
    assert joining.end() == [b"1", b"2", b"3", b"4"]
    assert joining.rounds == 3


def test_nobody_waits_for_more_than_there_were(bench: Bench, joining: Joining) -> None:
    joining.write_together(3)
    joining.coming = [b"2", b"3", b"4"]
    bench.push(b"1")
    assert joining.end() == [b"1", b"2", b"3"]
    assert joining.coming == [b"4"]


def test_nobody_waits_for_who_does_not_come(bench: Bench, joining: Joining) -> None:
    joining.write_together(16)
    joining.coming = [b"2"]
    bench.push(b"1")
    assert joining.end() == [b"1", b"2"]
    assert joining.rounds == 2
    # They are not expected any more then.
    bench.push(b"3")
    bench.push(b"4")
    assert joining.rounds == 3


def test_nobody_waits_for_long(bench: Bench, joining: Joining) -> None:
    joining.write_together(16)
    joining.coming = [b"%d" % number for number in range(9)]
    come = joining.come

    def compute() -> None:
        come()
        joining.clock += 1.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_writer, "give_way", compute)
        bench.push(b"first")
    assert joining.end() == [b"first", b"0"]


def test_nobody_returns_before_its_messages_are_stored(bench: Bench) -> None:
    first = bench.start_writing(b"a")
    second = bench.start(b"b")
    bench.storage.let()
    assert first.end() is None
    bench.storage.wait_until_begun()
    assert second.is_alive()
    assert bench.told == [(b"a", 1)]
    bench.storage.let()
    assert second.end() is None


def test_a_group_is_not_larger_than_the_limits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_writer, "GROUP_MESSAGES", 3)
    threads = [bench.start_writing(b"first")]
    threads += [bench.start(*[b"%d" % number] * 2) for number in range(5)]
    bench.storage.let_all()
    assert [thread.end() for thread in threads] == [None] * 6
    assert [change.pushed for change in bench.storage.changes] == [
        [b"first"],
        [b"0", b"0", b"1", b"1"],
        [b"2", b"2", b"3", b"3"],
        [b"4", b"4"],
    ]


def test_a_group_has_no_more_data_than_the_limit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_writer, "GROUP_BYTES", 10)
    threads = [bench.start_writing(b"first")]
    threads += [bench.start(b"%d" % number * 9) for number in range(3)]
    bench.storage.let_all()
    assert [thread.end() for thread in threads] == [None] * 4
    sizes = [sum(map(len, change.pushed)) for change in bench.storage.changes]
    assert sizes == [5, 18, 9]


def test_more_than_the_limit_in_one_call_is_one_change(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_writer, "GROUP_MESSAGES", 3)
    bench.push(*[b"x"] * 10)
    assert [len(change.pushed) for change in bench.storage.changes] == [10]


# Failures.


def test_what_the_storage_refuses_fails_alone(bench: Bench) -> None:
    bench.storage.check = refuse(b"bad")
    first = bench.start_writing(b"first")
    before, bad, after = bench.start(b"1", b"2"), bench.start(b"bad"), bench.start(b"3")
    bench.storage.let_all()
    assert [thread.end() for thread in (first, before, after)] == [None] * 3
    assert isinstance(bad.end(), StorageError)
    assert bench.storage.content() == [b"first", b"1", b"2", b"3"]
    assert bench.told == [(b"first", 1), (b"1", 2), (b"2", 3), (b"3", 4)]


def test_the_first_of_a_group_may_be_the_one_that_fails(bench: Bench) -> None:
    bench.storage.check = refuse(b"bad")
    first = bench.start_writing(b"first")
    bad, good = bench.start(b"bad"), bench.start(b"good")
    bench.storage.let_all()
    assert (first.end(), good.end()) == (None, None)
    assert isinstance(bad.end(), StorageError)
    assert bench.storage.content() == [b"first", b"good"]


def test_one_that_fails_alone_is_not_tried_twice(bench: Bench) -> None:
    bench.storage.check = refuse(b"bad")
    with pytest.raises(StorageError, match="does not take"):
        bench.push(b"bad")
    assert len(bench.storage.changes) == 1
    bench.push(b"good")
    assert bench.storage.content() == [b"good"]


def test_a_storage_that_is_not_there_fails_all_who_wait_with_one_call(bench: Bench) -> None:
    first = bench.start_writing(b"first")
    others = [bench.start(b"%d" % number) for number in range(5)]

    def check(change: Change) -> None:
        if b"first" not in change.pushed:
            raise StorageUnavailable("the server is gone")

    bench.storage.check = check
    bench.storage.let_all()
    assert first.end() is None
    assert all(isinstance(thread.end(), StorageUnavailable) for thread in others)
    assert len(bench.storage.changes) == 2
    bench.storage.check = lambda change: None
    bench.push(b"later")
    assert bench.storage.content() == [b"first", b"later"]


def test_what_can_not_be_prepared_fails_alone(bench: Bench) -> None:
    def broken() -> None:
        raise OSError("the clock is broken")

    first = bench.start_writing(b"first")
    leader = bench.start(b"leader", prepare=broken)
    follower = bench.start(b"follower", prepare=broken)
    good = bench.start(b"good")
    bench.storage.let_all()
    assert (first.end(), good.end()) == (None, None)
    for thread in (leader, follower):
        assert isinstance(thread.end(), OSError)
    assert [change.pushed for change in bench.storage.changes] == [[b"first"], [b"good"]]


def test_each_is_prepared_once_and_before_anything_of_its_group_is_stored(bench: Bench) -> None:
    prepared: list[int] = []
    first = bench.start_writing(b"first")
    threads = [
        bench.start(b"a", prepare=lambda: prepared.append(len(bench.storage.changes)))
        for _ in range(3)
    ]
    assert prepared == []
    bench.storage.let_all()
    assert [thread.end() for thread in (first, *threads)] == [None] * 4
    assert prepared == [1, 1, 1]


def test_nothing_is_written_when_nobody_could_be_prepared(bench: Bench) -> None:
    def broken() -> None:
        raise StorageError("no")

    with pytest.raises(StorageError, match="no"):
        bench.push(b"a", prepare=broken)
    assert bench.storage.changes == []
    bench.push(b"b")
    assert bench.storage.content() == [b"b"]


# What leaves.


def test_removals_alone_are_made_at_once_and_need_not_be_durable(bench: Bench) -> None:
    bench.push(b"a", b"b", b"c")
    bench.remove(1, 2)
    assert bench.storage.changes[1:] == [Change([], [1, 2], False)]
    assert bench.storage.content() == [b"c"]
    assert not bench.writer.is_settled
    bench.writer.settle()
    assert bench.storage.syncs == 1
    assert bench.writer.is_settled
    bench.writer.settle()
    assert bench.storage.syncs == 1


def test_removals_while_somebody_writes_do_not_wait_and_go_with_the_next_change(
    bench: Bench,
) -> None:
    bench.push(b"a", b"b", b"c")
    first = bench.start_writing(b"first")
    second = bench.start(b"second")
    bench.remove(3)
    bench.remove(1, 2)
    assert len(bench.storage.changes) == 2, "nobody waits for it"
    bench.storage.let_all()
    assert (first.end(), second.end()) == (None, None)
    assert bench.storage.changes[2:] == [Change([b"second"], [1, 2, 3], True)]
    assert bench.storage.content() == [b"first", b"second"]
    assert bench.writer.is_settled


def test_a_few_removals_wait_for_the_next_change_or_a_flush(bench: Bench) -> None:
    for data in (b"a", b"b"):
        bench.push(data)
    first = bench.start_writing(b"first")
    bench.remove(1)
    bench.storage.let_all()
    assert first.end() is None
    assert bench.storage.changes[3:] == []
    assert bench.writer.has_removals
    bench.push(b"second")
    assert bench.storage.changes[3:] == [Change([b"second"], [1], True)]
    assert not bench.writer.has_removals
    third = bench.start_writing(b"third")
    bench.remove(2)
    bench.storage.let_all()
    assert third.end() is None
    bench.writer.flush()
    assert bench.storage.changes[5:] == [Change([], [2], False)]
    assert bench.storage.content() == [b"first", b"second", b"third"]


def test_many_removals_are_made_by_who_writes_last(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_writer, "MAX_LEFT", 0)
    bench.push(b"a")
    first = bench.start_writing(b"first")
    bench.remove(1)
    bench.storage.let_all()
    assert first.end() is None
    assert bench.storage.changes[2:] == [Change([], [1], False)]
    assert bench.storage.content() == [b"first"]


def test_the_positions_of_a_removal_rise_and_its_bytes_are_their_sum(bench: Bench) -> None:
    found: list[Removal] = []

    class Storage(HeldStorage):
        def change_items(
            self,
            push: Sequence[tuple[str, Message]],
            remove: Sequence[Removal] = (),
            *,
            sync: bool = True,
        ) -> list[int]:
            found.extend(remove)
            return super().change_items(push, remove, sync=sync)

    writer = Writer(Storage(), report)
    with writer.exclusive():
        writer.remove([Removal("q", [5, 9], 10), Removal("r", [7], 1)])
        writer.remove([Removal("q", [2, 6], 32)])
    assert sorted(found) == [Removal("q", [2, 5, 6, 9], 42), Removal("r", [7], 1)]


def test_after_many_removals_the_disk_is_synced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a power failure never brings back more than the other side remembers."""
    monkeypatch.setattr(_writer, "MAX_UNSYNCED", 10)
    bench.push(*[b"x"] * 30)
    for start in range(1, 25, 4):
        bench.remove(*range(start, start + 4))
    assert [change.sync for change in bench.storage.changes[1:]] == [
        False, False, True, False, False, True,
    ]  # fmt: skip
    bench.remove(25)
    bench.push(b"y")
    assert bench.writer.is_settled, "it was synced with what was stored"
    bench.remove(*range(26, 31))
    bench.remove(1)
    assert [change.sync for change in bench.storage.changes[-2:]] == [False, False]


def test_a_removal_that_fails_is_kept_and_not_tried_again_and_again(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def check(change: Change) -> None:
        if change.removed:
            raise StorageError("the disk is write-protected")

    bench.push(b"a", b"b", b"c")
    bench.storage.check = check
    bench.remove(1)
    assert len(bench.storage.changes) == 2
    assert "write-protected" in caplog.text
    assert not bench.writer.is_settled
    bench.remove(2)
    assert len(bench.storage.changes) == 2
    bench.storage.check = lambda change: None
    bench.push(b"d")
    assert bench.storage.changes[2:] == [Change([b"d"], [1, 2], True)]
    assert bench.storage.content() == [b"c", b"d"]
    bench.remove(3)
    assert bench.storage.content() == [b"d"]


def test_a_removal_that_fails_does_not_keep_messages_from_being_stored(bench: Bench) -> None:
    def check(change: Change) -> None:
        if change.removed:
            raise StorageError("the disk is write-protected")

    bench.push(b"a")
    bench.storage.check = check
    bench.remove(1)
    for number in range(3):
        bench.push(b"%d" % number)
    assert bench.storage.content() == [b"a", b"0", b"1", b"2"]
    assert not bench.writer.is_settled
    assert len(bench.storage.changes) <= 2 + 3 * 3
    bench.storage.check = lambda change: None
    bench.writer.settle()
    assert bench.storage.content() == [b"0", b"1", b"2"]
    assert bench.writer.is_settled


def test_settle_tries_what_failed_before_and_syncs(bench: Bench) -> None:
    def check(change: Change) -> None:
        raise StorageError("not now")

    bench.push(b"a", b"b")
    bench.remove(1)
    bench.storage.check = check
    bench.remove(2)
    bench.writer.settle()
    assert len(bench.storage.changes) == 4
    assert not bench.writer.is_settled
    assert bench.storage.syncs == 0
    bench.storage.check = lambda change: None
    bench.writer.settle()
    assert bench.storage.content() == []
    assert bench.storage.syncs == 1
    assert bench.writer.is_settled


def test_settle_raises_what_the_storage_raises_and_others_go_on(bench: Bench) -> None:
    class Storage(HeldStorage):
        def sync(self) -> None:
            raise StorageError("the disk is gone")

    storage = Storage()
    writer = Writer(storage, report)
    writer.remove([Removal("q", [1], 0)])
    with pytest.raises(StorageError, match="gone"):
        writer.settle()
    assert not writer.is_settled
    writer.push([("q", persistent(b"a"))], lambda: None, lambda positions: None)
    assert writer.is_settled


def test_settle_does_not_wait_for_who_is_writing(bench: Bench) -> None:
    bench.push(b"a")
    bench.remove(1)
    first = bench.start_writing(b"first")
    bench.writer.settle()
    assert bench.storage.syncs == 0
    bench.storage.let_all()
    assert first.end() is None
    assert bench.writer.is_settled


def test_who_comes_while_something_is_removed_is_served(bench: Bench) -> None:
    bench.push(b"a", b"b")
    bench.storage.hold()
    remover = Thread(lambda: bench.remove(1))
    bench.storage.wait_until_begun()
    sender = bench.start(b"c")
    bench.remove(2)
    bench.storage.let_all()
    assert (remover.end(), sender.end()) == (None, None)
    assert bench.storage.content() == [b"c"]
    assert len(bench.storage.changes) == 3


def test_who_comes_while_it_settles_is_served(bench: Bench) -> None:
    syncing, go_on = threading.Event(), threading.Event()

    class Storage(HeldStorage):
        def sync(self) -> None:
            syncing.set()
            assert go_on.wait(DEADLINE)

    bench.storage = Storage()
    bench.writer = Writer(bench.storage, report)
    bench.push(b"a")
    bench.remove(1)
    settler = Thread(bench.writer.settle)
    assert syncing.wait(DEADLINE)
    sender = bench.start(b"b")
    go_on.set()
    assert (settler.end(), sender.end()) == (None, None)
    assert bench.storage.content() == [b"b"]


# Who wants to be alone.


def test_nobody_writes_while_one_has_it_for_itself(bench: Bench) -> None:
    bench.push(b"a")
    with bench.writer.exclusive():
        senders = [bench.start(b"%d" % number) for number in range(3)]
        bench.remove(1)
        bench.writer.settle()
        assert len(bench.storage.changes) == 1
    assert [sender.end() for sender in senders] == [None] * 3
    assert bench.storage.changes[1:] == [Change([b"0", b"1", b"2"], [1], True)]


def test_what_left_meanwhile_is_removed_at_the_end(bench: Bench) -> None:
    bench.push(b"a")
    with bench.writer.exclusive():
        bench.remove(1)
        assert bench.storage.content() == [b"a"]
    assert bench.storage.content() == []


def test_an_error_in_between_ends_it(bench: Bench) -> None:
    senders: list[Thread] = []

    def fail() -> None:
        with bench.writer.exclusive():
            senders.append(bench.start(b"a"))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert senders[0].end() is None


def test_who_wants_it_alone_keeps_its_place_among_those_who_write(bench: Bench) -> None:
    seen: list[list[bytes]] = []

    def alone() -> None:
        with bench.writer.exclusive():
            seen.append(bench.storage.content())

    threads = [bench.start_writing(b"first"), bench.start(b"1"), bench.start(b"2")]
    for number in range(2):
        threads.append(Thread(alone))
        wait_until(lambda number=number: bench.writer.waiting == 3 + 2 * number)
        threads.append(bench.start(b"after %d" % number))
    bench.storage.let_all()
    assert [thread.end() for thread in threads] == [None] * 7
    assert seen == [[b"first", b"1", b"2"], [b"first", b"1", b"2", b"after 0"]]
    assert [change.pushed for change in bench.storage.changes] == [
        [b"first"],
        [b"1", b"2"],
        [b"after 0"],
        [b"after 1"],
    ]


# All at once.


class SlowStorage(HeldStorage):
    """Takes as long to sync as it takes until others have come."""

    def __init__(self, senders: int) -> None:
        super().__init__()
        self.writer: Writer | None = None
        self.senders = senders

    def change_items(
        self,
        push: Sequence[tuple[str, Message]],
        remove: Sequence[Removal] = (),
        *,
        sync: bool = True,
    ) -> list[int]:
        writer = self.writer
        if sync and writer is not None:
            wait_until(
                lambda: self.writer is None or len(push) + writer.waiting >= self.senders // 2
            )
        return super().change_items(push, remove, sync=sync)


@pytest.mark.slow
@pytest.mark.parametrize("is_slow", [False, True])
def test_many_threads_push_and_one_removes(is_slow: bool) -> None:
    senders, count = 8, 1000
    storage = SlowStorage(senders)
    writer = Writer(storage, report)
    if is_slow:
        storage.writer = writer
    told: list[tuple[int, int, int]] = []
    left = threading.Semaphore(0)

    def push(sender: int) -> None:
        for number in range(count):

            def stored(positions: list[int], number: int = number) -> None:
                told.append((positions[0], sender, number))
                left.release()

            message = persistent(b"%d %d" % (sender, number))
            writer.push([("q", message)], lambda: None, stored)
            if number == count * 3 // 4:
                # From here on there are not enough to wait for.
                storage.writer = None

    def remove() -> None:
        # All but every tenth, a few at a time.
        for start in range(1, senders * count, 4):
            for _ in range(4):
                assert left.acquire(timeout=DEADLINE)
            positions = [position for position in range(start, start + 4) if position % 10]
            writer.remove([Removal("q", positions, 0)])

    threads = [Thread(remove)] + [Thread(lambda i=i: push(i)) for i in range(senders)]
    assert [thread.end() for thread in threads] == [None] * (senders + 1)
    writer.settle()
    assert [position for position, _, _ in told] == list(range(1, senders * count + 1))
    for sender in range(senders):
        assert [n for _, who, n in told if who == sender] == list(range(count))
    expected = [b"%d %d" % (who, n) for position, who, n in told if position % 10 == 0]
    assert storage.content() == expected
    assert writer.is_settled
    assert writer.waiting == 0
    pushes = sum(1 for change in storage.changes if change.pushed)
    if is_slow:
        assert pushes < senders * count / 2
