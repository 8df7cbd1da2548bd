"""The simulated disk: what is left of what was written when a process or the power goes."""

from __future__ import annotations

import random

import pytest

from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage import QueuesStorageBase, Removal
from snakemq.storage.sqlite import SqliteQueuesStorage
from snakemq.testing.storage_contract import StorageContract
from tests.simulation.disk import AFTER, BEFORE, MADE, Disk, DiskStorage, OldDiskStorage


class Killed(BaseException):
    """The process is dead."""


class Killer:
    """Notes the accesses to a disk; one of them is the last."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.last: tuple[str, str] | None = None

    def __call__(self, method: str, moment: str) -> None:
        self.seen.append((method, moment))
        if (method, moment) == self.last:
            raise Killed


def message(data: bytes) -> Message:
    return Message(data, None, FLAG_PERSISTENT, data)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def killer() -> Killer:
    return Killer()


@pytest.fixture
def storage(disk: Disk, killer: Killer) -> DiskStorage:
    return DiskStorage(disk, killer)


def datas(storage: QueuesStorageBase, queue: str = "bob") -> list[bytes]:
    return [item.data for item in storage.get_items(queue)]


class TestProcess:
    def test_what_is_written_is_there_for_the_next_process(
        self, disk: Disk, storage: DiskStorage
    ) -> None:
        storage.push("bob", message(b"1"))
        storage.add_received("bob", [b"x"], keep=10, sync=False)
        after = DiskStorage(disk, lambda method, moment: None)
        assert [item.data for item in after.get_items("bob")] == [b"1"]
        assert after.load_received("bob") == [b"x"]

    @pytest.mark.parametrize(("moment", "left"), [(BEFORE, []), (MADE, [b"1"]), (AFTER, [b"1"])])
    def test_it_can_be_killed_before_and_after_a_change(
        self, disk: Disk, storage: DiskStorage, killer: Killer, moment: str, left: list[bytes]
    ) -> None:
        killer.last = ("push", moment)
        with pytest.raises(Killed):
            storage.push("bob", message(b"1"))
        assert datas(disk.content) == left

    def test_every_method_can_be_the_last(self, storage: DiskStorage, killer: Killer) -> None:
        storage.push("bob", message(b"1"))
        storage.push_many([("bob", message(b"2"))])
        storage.update_items_ttl([message(b"2")])
        storage.advance_ttl("bob", 1.0)
        storage.remove_items("bob", [message(b"1")])
        storage.delete_items([message(b"2")])
        storage.delete_all()
        (position,) = storage.change_items([("bob", Message(b"5", 1.0))])
        assert storage.summarize() == [("bob", 1, 1)]
        assert storage.last_position() == position
        assert storage.next_expiry("bob") == 1.0
        assert storage.oldest("bob") is not None
        assert len(storage.get_page("bob", 0, max_messages=1, max_bytes=1)) == 1
        assert len(storage.take_expired("bob", 1.0, 0, 1)) == 1
        storage.add_received("bob", [b"x"], keep=10, sync=True)
        assert storage.received_peers() == ["bob"]
        storage.sync()
        ids = storage.push_inbox("bob", [message(b"3"), message(b"4")], keep=10)
        storage.advance_inbox(None, ids[0])
        storage.uncount_attempt(ids[0])
        storage.advance_inbox(None, ids[0])
        storage.bury(ids[0], "it was no good")
        assert [item.id for item in storage.get_inbox()] == [ids[1]]
        (letter,) = storage.get_dead()
        assert letter.attempts == 1
        assert len(storage.retry_dead(None)) == 1
        storage.add_dead([letter])
        assert storage.count_dead() == 1
        storage.bury(ids[1], "no good either")
        assert storage.drop_dead(None) == 2
        assert storage.get_queues() == storage.get_items("bob") == []
        assert storage.load_received("bob")
        storage.close()
        methods = {name for name in vars(DiskStorage) if not name.startswith("_")}
        methods -= {"keeps_received", "has_pages"}
        assert {method for method, _ in killer.seen} == methods
        assert all((method, BEFORE) in killer.seen for method in methods)
        assert all((method, AFTER) in killer.seen for method in methods)

    def test_what_only_removes_is_told_apart(self, storage: DiskStorage, killer: Killer) -> None:
        (position,) = storage.change_items([("bob", message(b"1"))])
        storage.change_items([("bob", message(b"2"))], [Removal("bob", [position], 1)])
        assert {what for what, _ in killer.seen} == {"change_items"}
        killer.seen.clear()
        storage.change_items([], [Removal("bob", [position + 1], 1)], sync=False)
        assert killer.seen == [("remove_items", moment) for moment in (BEFORE, MADE, AFTER)]
        assert datas(storage) == []

    def test_what_changes_later_does_not_change_the_disk(
        self, disk: Disk, storage: DiskStorage
    ) -> None:
        item = Message(b"1", 10.0, FLAG_PERSISTENT)
        storage.push("bob", item)
        positions = storage.change_items([("bob", item)])
        stored = disk.content.get_page("bob", 0, max_messages=1, max_bytes=1)
        leaving = [each.position for each in stored]
        storage.change_items([], [Removal("bob", leaving, 1)])
        item.ttl = 1.0
        leaving += positions
        disk.revert(3)
        assert [item.ttl for item in disk.content.get_items("bob")] == [10.0]

    def test_who_looks_on_is_told_of_changes(self, disk: Disk) -> None:
        seen: list[str] = []
        storage = DiskStorage(
            disk, lambda method, moment: None, lambda method, args, result: seen.append(method)
        )
        storage.push("bob", message(b"1"))
        storage.get_items("bob")
        storage.sync()
        assert seen == ["push"]


class TestPowerFailure:
    def test_it_takes_nothing_that_is_durable(self, disk: Disk, storage: DiskStorage) -> None:
        storage.push("bob", message(b"1"))
        storage.remove_items("bob", [message(b"1")])
        storage.push("bob", message(b"2"))
        for seed in range(20):
            disk.fail_power(random.Random(seed))
        assert datas(disk.content) == [b"2"]

    def test_it_takes_any_number_of_the_last_late_changes(self) -> None:
        left = set()
        for seed in range(50):
            disk = Disk()
            storage = DiskStorage(disk, lambda method, moment: None)
            storage.add_received("bob", [b"1"], keep=10, sync=True)
            for number in (b"2", b"3"):
                storage.add_received("bob", [number], keep=10, sync=False)
            assert len(disk.late) == 2
            disk.fail_power(random.Random(seed))
            left.add(tuple(disk.content.load_received("bob")))
        assert left == {(b"1",), (b"1", b"2"), (b"1", b"2", b"3")}

    @pytest.mark.parametrize("how", ["sync", "push"])
    def test_not_after_a_sync_or_a_durable_change(
        self, disk: Disk, storage: DiskStorage, how: str
    ) -> None:
        storage.add_received("bob", [b"1"], keep=10, sync=False)
        if how == "sync":
            storage.sync()
        else:
            storage.push("bob", message(b"2"))
        assert disk.late == []
        for seed in range(20):
            disk.fail_power(random.Random(seed))
        assert disk.content.load_received("bob") == [b"1"]

    def test_in_the_middle_of_a_durable_change(self, storage: DiskStorage, killer: Killer) -> None:
        left = set()
        for seed in range(20):
            disk = Disk()
            killer.last = ("push", MADE)
            with pytest.raises(Killed):
                DiskStorage(disk, killer).push("bob", message(b"1"))
            disk.fail_power(random.Random(seed))
            left.add(tuple(datas(disk.content)))
        assert left == {(), (b"1",)}

    def test_a_removal_may_be_forgotten_and_positions_are_the_same_again(
        self, disk: Disk, storage: DiskStorage
    ) -> None:
        first, second = storage.change_items([("bob", message(b"1")), ("bob", Message(b"2", 1.0))])
        storage.change_items([], [Removal("bob", [first], 1)], sync=False)
        storage.take_expired("bob", 1.0, 0, 10)
        assert [change.method for change in disk.late] == ["change_items", "take_expired"]
        assert datas(disk.content) == []
        disk.revert(2)
        (left,) = disk.content.get_page("bob", 0, max_messages=10, max_bytes=10)
        assert (left.position, left.message.data) == (second, b"2")
        # A process that starts now gives positions above what is there.
        assert storage.change_items([("bob", message(b"3"))]) == [second + 1]
        assert disk.late == []

    def test_attempts_may_be_forgotten(self, disk: Disk, storage: DiskStorage) -> None:
        (number,) = storage.push_inbox("bob", [message(b"1")], keep=10)
        storage.advance_inbox(None, number)
        assert [change.method for change in disk.late] == ["advance_inbox"]
        disk.revert(1)
        assert [item.attempts for item in disk.content.get_inbox()] == [0]


class TestReplacedDisk:
    def test_an_old_copy(self, disk: Disk, storage: DiskStorage) -> None:
        storage.push("bob", message(b"1"))
        size = len(disk)
        storage.remove_items("bob", [message(b"1")])
        storage.push("bob", message(b"2"))
        disk.revert(size)
        assert datas(disk.content) == [b"1"]
        assert len(disk) == size
        # A process that starts from it goes on from there.
        DiskStorage(disk, lambda method, moment: None).push("bob", message(b"3"))
        assert datas(disk.content) == [b"1", b"3"]

    def test_a_new_disk(self, disk: Disk, storage: DiskStorage) -> None:
        storage.push("bob", message(b"1"))
        disk.revert(0)
        assert disk.content.get_queues() == []
        assert len(disk) == 0


def test_what_is_on_it_may_be_a_database() -> None:
    disk = Disk(lambda: SqliteQueuesStorage(":memory:"))
    storage = DiskStorage(disk, lambda method, moment: None)
    storage.push("bob", message(b"1"))
    storage.add_received("bob", [b"x"], keep=10, sync=False)
    storage.close()
    assert datas(disk.content) == [b"1"]
    disk.revert(1)
    assert datas(disk.content) == [b"1"]
    assert disk.content.load_received("bob") == []
    disk.close()


class TestContract(StorageContract):
    """It is a storage like any other."""

    @pytest.fixture(autouse=True)
    def a_disk(self, disk: Disk) -> None:
        self.disk = disk

    def open_storage(self) -> DiskStorage:
        return DiskStorage(self.disk, lambda method, moment: None)


def test_a_storage_that_was_written_for_1_6_has_only_its_methods() -> None:
    assert DiskStorage.keeps_received
    assert DiskStorage.has_pages
    assert not OldDiskStorage.keeps_received
    assert not OldDiskStorage.has_pages
