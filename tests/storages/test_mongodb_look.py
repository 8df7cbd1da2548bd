"""Looking at a storage on a MongoDB server beside the program that has it, and making none."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from snakemq.cli import main
from snakemq.exceptions import StorageDamaged, StorageError, StorageInUse, StorageUnavailable
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage import QueueSummary, Removal
from snakemq.storage.base import DeadLetter
from snakemq.storage.mongodb import MongoDbQueuesStorage
from tests.helpers import wait_until
from tests.servers.mongodb import (
    MongoDbServer,
    mongodb,
    mongodb_client,
    mongodb_of_my_own,
    mongodb_server,
)

__all__ = ["mongodb", "mongodb_client", "mongodb_of_my_own", "mongodb_server"]

Open = Callable[..., MongoDbQueuesStorage]


def item(data: bytes, ttl: float | None = None) -> Message:
    return Message(data, ttl, FLAG_PERSISTENT, data[:16] or b"0")


@pytest.fixture
def open_storage(mongodb: Any) -> Iterator[Open]:
    """Opens the storage in the database of the test."""
    with ExitStack() as stack:

        def opened(**options: Any) -> MongoDbQueuesStorage:
            storage = MongoDbQueuesStorage(database=mongodb.name, client=mongodb.client, **options)
            return stack.enter_context(storage)

        yield opened


def content(mongodb: Any) -> dict[str, Any]:
    """All documents of the database, but for the lease, which is renewed all the time."""
    names = set(mongodb.list_collection_names()) - {"snakemq.lock"}
    return {name: list(mongodb[name].find({}).sort("_id", 1)) for name in sorted(names)}


def data_of(storage: MongoDbQueuesStorage, name: str) -> list[bytes]:
    return [message.data for message in storage.get_items(name)]


def plain(value: Any) -> Any:
    """The same with all messages as what they consist of, which can be compared."""
    if isinstance(value, Message):
        return value.data, value.ttl, value.flags, value.uuid, value.redelivered
    return list(map(plain, value)) if isinstance(value, (list, tuple)) else value


def everything(storage: MongoDbQueuesStorage) -> Any:
    """What can be read."""
    names = sorted(storage.get_queues())
    found = [
        sorted(storage.summarize()),
        [storage.get_items(name) for name in names],
        [storage.get_page(name, 0, max_messages=2, max_bytes=99) for name in names],
        [storage.get_page(name, 1, max_messages=99, max_bytes=1) for name in names],
        [(storage.next_expiry(name), storage.oldest(name)) for name in [*names, "nobody"]],
        [storage.next_expiry(name, 2) for name in names],
        storage.get_inbox(),
        storage.get_inbox(1, 1),
        storage.get_inbox(0, 0),
        storage.get_dead(),
        storage.get_dead(0, 1),
        storage.count_dead(),
        sorted(storage.received_peers()),
        [list(dict.fromkeys(storage.load_received(name))) for name in ("alice", "bob", "nobody")],
    ]
    return plain(found)


def fill(storage: MongoDbQueuesStorage) -> None:
    """Something of everything, in groups and alone, and something gone."""
    positions = storage.change_items(
        [("a", item(b"1", 60.0)), ("b", item(b"22")), ("a", item(b"333", 50.0))]
    )
    storage.push("a", item(b"4444", 70.0))
    storage.advance_ttl("a", 20.0)
    storage.change_items([("b", item(b"55555", 5.0))], [Removal("b", positions[1:2], 2)])
    storage.push_inbox("bob", [item(b"i1"), item(b"i2"), item(b"i3")], keep=10)
    storage.push_inbox("alice", [item(b"i4")], keep=10)
    first, second, third, _ = (each.id for each in storage.get_inbox())
    storage.advance_inbox(None, first)
    storage.bury(second, "tired of it")
    storage.bury(third, "tired of it, too")
    storage.retry_dead([second])
    storage.add_received("alice", [b"x", b"y"], keep=10, sync=True)


def test_it_reads_what_the_program_that_has_it_reads(open_storage: Open) -> None:
    storage = open_storage()
    look = open_storage(read_only=True)
    assert everything(look)[0] == []
    fill(storage)
    assert everything(look) == everything(storage)
    assert look.next_expiry("a") == 30.0
    assert look.last_position() == storage.last_position()
    storage.delete_all()
    storage.drop_dead(None)
    assert everything(look) == everything(storage)
    storage.push("a", item(b"goes on"))
    assert data_of(look, "a") == [b"goes on"]
    look.close()
    with pytest.raises(StorageError, match="is closed"):
        look.summarize()
    storage.push("a", item(b"still has it"))
    with pytest.raises(StorageInUse):
        open_storage()


def test_it_changes_nothing(mongodb: Any, open_storage: Open) -> None:
    with open_storage() as storage:
        fill(storage)
    before, lock = content(mongodb), list(mongodb["snakemq.lock"].find({}))
    look = open_storage(read_only=True)
    one = item(b"1")
    changes: list[Callable[[], object]] = [
        lambda: look.push("a", one),
        lambda: look.push_many([]),
        lambda: look.remove_items("a", [one]),
        lambda: look.delete_items([one]),
        look.delete_all,
        lambda: look.update_items_ttl([one]),
        lambda: look.advance_ttl("a", 1.0),
        lambda: look.change_items([("a", one)]),
        lambda: look.change_items([], [Removal("a", [1], 1)], sync=False),
        lambda: look.take_expired("a", 1000.0, 0, 1),
        lambda: look.add_received("bob", [b"1"], keep=1, sync=False),
        lambda: look.push_inbox("bob", [one], keep=1),
        lambda: look.advance_inbox(1, None),
        lambda: look.uncount_attempt(1),
        lambda: look.bury(1, ""),
        lambda: look.add_dead([DeadLetter(1, "bob", one, 1, "", 0.0)]),
        lambda: look.retry_dead(None),
        lambda: look.drop_dead(None),
    ]
    for change in changes:
        with pytest.raises(StorageError, match=r"opened with read_only, so nothing .* open it"):
            change()
    assert (look.maintain(), look.adopt()) == (False, [])
    look.sync()
    everything(look)
    look.close()
    assert content(mongodb) == before
    assert list(mongodb["snakemq.lock"].find({})) == lock
    with open_storage() as storage:
        assert data_of(storage, "a") == [b"1", b"333", b"4444"]


def test_what_a_killed_process_left_does_not_count(mongodb: Any, open_storage: Open) -> None:
    """Batches that were not finished, removals that were; and the memory is completed."""
    storage = open_storage()
    fill(storage)
    gone = list(mongodb["snakemq.items"].find({"queue": "a"}).sort("_id", 1).limit(1))
    storage.change_items(
        [("a", item(b"6")), ("b", item(b"7"))], [Removal("a", [gone[0]["_id"]], 1)]
    )
    buried = storage.push_inbox("bob", [item(b"i5")], keep=10)[0]
    in_inbox = list(mongodb["snakemq.inbox"].find({"_id": buried}))
    storage.bury(buried, "the last one")
    storage.push("b", item(b"alone"))
    right = everything(storage)
    storage.close()
    # Items and letters that were removed, and are there still.
    mongodb["snakemq.items"].insert_many(gone)
    mongodb["snakemq.inbox"].insert_many(in_inbox)
    # Batches of which the end is missing.
    for mark, name in (("outbox", "items"), ("inbox", "inbox"), ("inbox", "dead")):
        (confirmed,) = (each["confirmed"] for each in mongodb["snakemq.meta"].find({"_id": mark}))
        highest = mongodb[f"snakemq.{name}"].find_one({}, sort=[("_id", -1)])
        number = max(confirmed, highest["_id"]) + 1
        mongodb[f"snakemq.{name}"].insert_many(
            [{**highest, "_id": number + each, "group": number + 1} for each in range(2)]
        )
    before = content(mongodb)
    look = open_storage(read_only=True)
    assert everything(look) == right
    assert content(mongodb) == before
    look.close()
    assert everything(open_storage()) == right


def test_the_memory_of_what_is_in_the_inbox_is_complete(mongodb: Any, open_storage: Open) -> None:
    storage = open_storage()
    storage.add_received("bob", [b"before"], keep=9, sync=True)
    storage.push_inbox("alice", [item(b"1"), item(b"2")], keep=9)
    storage.close()
    # As a process leaves it that is killed between inbox and memory.
    assert mongodb["snakemq.received"].delete_one({"ident": "alice"}).deleted_count == 1
    look = open_storage(read_only=True)
    assert sorted(look.received_peers()) == ["alice", "bob"]
    assert look.load_received("alice") == [b"1", b"2"]
    assert look.load_received("bob") == [b"before"]
    assert mongodb["snakemq.received"].count_documents({}) == 1


@pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}], ids=str)
def test_one_that_is_not_there_is_not_made(
    mongodb: Any, open_storage: Open, options: dict[str, Any]
) -> None:
    mongodb["others"].insert_one({"_id": 1})
    for _ in range(2):
        with pytest.raises(StorageError, match=r"there is no queue storage in .*check the names"):
            open_storage(**options)
    assert mongodb.list_collection_names() == ["others"]
    open_storage(collection="other").close()
    with pytest.raises(StorageError, match="there is no queue storage in"):
        open_storage(**options)
    open_storage().close()
    assert open_storage(**options).summarize() == []


def old_document(name: str, number: int) -> dict[str, Any]:
    """As 1.6 stored it."""
    return {
        "queue_name": name,
        "uuid": base64.encodebytes(b"%016d" % number),
        "data": base64.encodebytes(b"message %d" % number),
        "ttl": number + 0.5 if number % 2 else None,
        "flags": number,
    }


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a storage of ours"])
def test_what_16_has_stored_is_seen_where_it_is(
    mongodb: Any, open_storage: Open, beside: bool
) -> None:
    if beside:
        with open_storage() as storage:
            fill(storage)
    old = mongodb["snakemq.snakemq_items"]
    old.insert_many([old_document("ac"[number % 3 == 2], number) for number in range(1, 7)])
    before = content(mongodb)
    with open_storage(create=False, read_only=True) as look:
        seen = everything(look)
        ours = [b"1", b"333", b"4444"] if beside else []
        assert data_of(look, "a") == [*ours, b"message 1", b"message 3", b"message 4", b"message 6"]
        positions: list[int] = []
        while page := look.get_page(
            "c", positions[-1] if positions else 0, max_messages=9, max_bytes=1
        ):
            positions += [each.position for each in page]
        assert len(positions) == 2
        assert positions[-1] < look.last_position()
        assert [each.ttl for each in look.get_items("c")] == [None, 5.5]
        assert look.next_expiry("c") == 5.5
        # It is there once, whoever has it.
        assert content(mongodb) == before
        with open_storage() as storage:
            everything(look)
            taken = everything(storage)
            assert everything(look)[:2] == taken[:2] == seen[:2]
    assert old.count_documents({}) == 0


def test_what_is_taken_over_in_this_moment_is_seen_once(mongodb: Any, open_storage: Open) -> None:
    old = mongodb["snakemq.snakemq_items"]
    old.insert_many([old_document("a", number) for number in range(4)])
    documents = list(old.find({}))
    open_storage().close()
    # Stored as ours, and the old ones not all deleted yet; one is still to come.
    old.insert_many([*documents[2:], old_document("a", 4)])
    look = open_storage(read_only=True)
    assert data_of(look, "a") == [b"message %d" % number for number in range(5)]
    assert look.summarize() == [QueueSummary("a", 5, 45)]
    old.insert_one(old_document("b", 5))
    old.insert_one({**old_document("b", 6), "data": "no base64!"})
    with pytest.raises(StorageDamaged, match=r"is none of snakeMQ 1\.6"):
        look.get_queues()
    old.delete_one({"flags": 6})
    assert data_of(look, "b") == [b"message 5"]


@pytest.mark.slow
def test_who_looks_waits_for_the_server_too(mongodb_of_my_own: MongoDbServer) -> None:
    with MongoDbQueuesStorage(mongodb_of_my_own.uri) as storage:
        storage.push("a", item(b"1"))
    with MongoDbQueuesStorage(mongodb_of_my_own.uri, read_only=True) as look:
        mongodb_of_my_own.stop()
        look.may_wait = lambda: False
        with pytest.raises(StorageUnavailable, match="can't be reached"):
            look.get_items("a")
        mongodb_of_my_own.start()
        wait_until(lambda: look._calls._away is None)
        assert look.summarize() == [QueueSummary("a", 1, 1)]


def test_the_command_line_looks_beside_a_running_program(
    mongodb_server: MongoDbServer,
    mongodb: Any,
    open_storage: Open,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = f"{mongodb_server.uri}/{mongodb.name}"

    def run(*args: str) -> tuple[int, str, str]:
        status = main(["queues", url, *args])
        return status, *capsys.readouterr()

    status, _, err = run("ls")
    assert status != 0
    assert "there is no queue storage in" in err
    storage = open_storage()
    fill(storage)

    def lines(*args: str) -> list[Any]:
        status, out, err = run(*args)
        assert (status, err) == (0, "")
        return [json.loads(line) for line in out.splitlines()]

    assert [(each["peer"], each["messages"]) for each in lines("ls", "--json")] == [
        ("a", 3),
        ("b", 1),
    ]
    assert len(lines("show", "a", "--json")) == 3
    assert len(lines("dead", "--json")) == 1
    assert len(lines("export", "--all")) > 4 + 3 + 1
    status, _, err = run("purge", "--all", "--yes")
    assert status != 0
    assert "in use by process" in err
    assert data_of(storage, "a") == [b"1", b"333", b"4444"]
