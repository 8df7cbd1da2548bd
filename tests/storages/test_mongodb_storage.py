"""What is special about the storage on a MongoDB server: 1.6's documents, the lease, errors."""

from __future__ import annotations

import base64
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from snakemq.exceptions import (
    StorageDamaged,
    StorageError,
    StorageInUse,
    StorageUnavailable,
)
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage import QueueSummary, Removal
from snakemq.storage.mongodb import MongoDbQueuesStorage
from tests.helpers import DEADLINE, wait_until
from tests.servers.mongodb import MongoDbServer, mongodb, mongodb_client, mongodb_server

__all__ = ["mongodb", "mongodb_client", "mongodb_server"]

Open = Callable[..., MongoDbQueuesStorage]

#: So much more data than fits into a document of MongoDB.
TOO_LARGE = 16 * 1024 * 1024


def item(data: bytes, ttl: float | None = None) -> Message:
    return Message(data, ttl, FLAG_PERSISTENT)


@pytest.fixture
def open_storage(mongodb_server: MongoDbServer, mongodb: Any) -> Iterator[Open]:
    """Opens the storage in the database of the test."""
    with ExitStack() as stack:

        def opened(**options: Any) -> MongoDbQueuesStorage:
            storage = MongoDbQueuesStorage(mongodb_server.uri, database=mongodb.name, **options)
            return stack.enter_context(storage)

        yield opened


def data_of(storage: MongoDbQueuesStorage, name: str) -> list[bytes]:
    return [message.data for message in storage.get_items(name)]


# 1.6's documents


def old_document(name: Any, number: int, *, text: bool = False) -> dict[str, Any]:
    """As 1.6 stored it, on Python 3; ``text``: on Python 2."""
    uuid = base64.encodebytes(b"%016d" % number)
    data = base64.encodebytes(b"message %d" % number).replace(b"\n", b"") + b"\n"
    return {
        "queue_name": name,
        "uuid": uuid.decode() if text else uuid,
        "data": data.decode() if text else data,
        "ttl": None if number % 2 else 60.5,
        "flags": number,
    }


def test_what_16_has_stored_is_taken_over(mongodb: Any, open_storage: Open) -> None:
    old = mongodb["snakemq.snakemq_items"]
    old.insert_many([old_document("ab"[number % 2], number) for number in range(6)])
    old.insert_one(old_document("a", 6, text=True))
    storage = open_storage()
    assert data_of(storage, "a") == [b"message 0", b"message 2", b"message 4", b"message 6"]
    found = storage.get_items("b")
    assert [message.uuid for message in found] == [b"%016d" % number for number in (1, 3, 5)]
    assert [message.flags for message in found] == [1, 3, 5]
    assert {message.ttl for message in found} == {None}
    assert {message.ttl for message in storage.get_items("a")} == {60.5}
    assert sorted(storage.summarize()) == [QueueSummary("a", 4, 36), QueueSummary("b", 3, 27)]
    assert storage.oldest("a") is None
    assert old.count_documents({}) == 0
    storage.push("a", item(b"new"))
    storage.close()
    assert data_of(open_storage(), "a")[-2:] == [b"message 6", b"new"]


def test_taking_over_goes_on_after_a_crash_in_the_middle(mongodb: Any, open_storage: Open) -> None:
    old = mongodb["snakemq.snakemq_items"]
    old.insert_many([old_document("a", number) for number in range(4)])
    documents = list(old.find({}))
    open_storage().close()
    # Stored as ours, and the old ones not all deleted yet; some are still to come.
    old.insert_many(documents[2:])
    old.insert_one(old_document("a", 4))
    storage = open_storage()
    assert data_of(storage, "a") == [b"message %d" % number for number in range(5)]
    assert storage.summarize() == [QueueSummary("a", 5, 45)]
    assert old.count_documents({}) == 0


def test_many_are_taken_over_in_their_order(mongodb: Any, open_storage: Open) -> None:
    mongodb["snakemq.snakemq_items"].insert_many(
        [old_document("a", number) for number in range(1200)]
    )
    storage = open_storage()
    assert data_of(storage, "a") == [b"message %d" % number for number in range(1200)]


@pytest.mark.parametrize(
    "wrong",
    [{"data": b"no base64!"}, {"queue_name": 7}, {"ttl": "long"}, {"flags": None}, {"uuid": 1}],
    ids=lambda wrong: str(*wrong),
)
def test_what_is_none_of_16_is_told_and_left_alone(
    mongodb: Any, open_storage: Open, wrong: dict[str, Any]
) -> None:
    old = mongodb["snakemq.snakemq_items"]
    old.insert_many([old_document("a", 1), {**old_document("a", 2), "_id": "wrong", **wrong}])
    with pytest.raises(StorageDamaged, match=r"'wrong' in .*snakemq_items is none of snakeMQ 1\.6"):
        open_storage()
    assert old.count_documents({}) == 2
    old.delete_one({"_id": "wrong"})
    assert data_of(open_storage(), "a") == [b"message 1"]


# One at a time


def test_who_opens_it_twice_is_told_by_whom_it_is_used(open_storage: Open) -> None:
    storage = open_storage()
    with pytest.raises(StorageInUse, match="in use by process") as told:
        open_storage()
    assert f"process {os.getpid()} (" in told.value.holder
    storage.push("a", item(b"still works"))
    storage.close()
    assert data_of(open_storage(), "a") == [b"still works"]


def test_other_collections_are_other_storages(open_storage: Open) -> None:
    one, other = open_storage(), open_storage(collection="other")
    one.push("a", item(b"one"))
    other.push("a", item(b"other"))
    assert data_of(one, "a") == [b"one"]
    assert data_of(other, "a") == [b"other"]


def test_one_can_wait_until_it_is_free(open_storage: Open) -> None:
    first = open_storage()
    first.push("a", item(b"1"))
    with pytest.raises(StorageInUse):
        open_storage(lock_timeout=0.01)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(open_storage, lock_timeout=None)
        first.push("a", item(b"2"))
        assert not waiting.done()
        first.close()
        assert data_of(waiting.result(DEADLINE), "a") == [b"1", b"2"]


def test_only_one_of_many_that_wait_gets_it(open_storage: Open) -> None:
    start = threading.Barrier(4)

    def take(_: int) -> bool:
        start.wait(DEADLINE)
        try:
            open_storage()
        except StorageInUse:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(take, range(4), timeout=DEADLINE)) == 1


@pytest.mark.slow
def test_who_gives_no_sign_of_life_for_long_is_taken_for_dead(
    mongodb: Any, open_storage: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage()
    storage.push("a", item(b"before"))
    # As from another machine, which was cut off.
    mongodb["snakemq.lock"].update_one({}, {"$set": {"machine": "elsewhere", "pid": 1}})
    with pytest.raises(StorageInUse, match="process 1 "):
        open_storage()
    # A holder that lives would renew it soon; this one can't.
    monkeypatch.setattr(storage._lease, "renew", lambda: None)
    past = mongodb["snakemq.lock"].find_one()["renewed"].replace(year=2020)
    mongodb["snakemq.lock"].update_one({}, {"$set": {"renewed": past}})
    other = open_storage()
    assert data_of(other, "a") == [b"before"]
    monkeypatch.undo()
    assert "taken over by process" in told_that_it_was_taken(storage)
    other.push("a", item(b"after"))
    assert data_of(other, "a") == [b"before", b"after"]


def told_that_it_was_taken(storage: MongoDbQueuesStorage) -> str:
    """What a storage says that has lost its lease; it finds out at the latest when it renews it."""
    with pytest.raises(StorageInUse) as told:
        storage._lease.renew()
    return str(told.value)


def take_by_hand(mongodb: Any) -> None:
    """Have the lease taken by somebody else."""
    lock = mongodb["snakemq.lock"]
    (held,) = lock.find({})
    other = {"owner": "somebody", "pid": 4711, "program": "other", "host": "elsewhere"}
    lock.insert_one({**held, **other, "machine": "elsewhere", "_id": held["_id"] + 1})


def test_who_lost_it_is_told_and_stops(mongodb: Any, open_storage: Open) -> None:
    storage = open_storage()
    storage.push("a", item(b"before"))
    take_by_hand(mongodb)
    assert "by process 4711 (other) on elsewhere" in told_that_it_was_taken(storage)
    uses: list[Callable[[], object]] = [
        lambda: storage.push("a", item(b"after")),
        lambda: storage.get_items("a"),
        lambda: storage.change_items([], []),
        storage.delete_all,
        storage.summarize,
    ]
    for use in uses:
        with pytest.raises(StorageInUse, match="was taken over by process 4711"):
            use()
    storage.close()
    assert mongodb["snakemq.items"].count_documents({}) == 1
    assert mongodb["snakemq.lock"].count_documents({"released": False, "owner": "somebody"}) == 1


def test_who_lost_it_and_does_not_know_yet_can_not_finish_a_batch(
    mongodb: Any, open_storage: Open
) -> None:
    storage = open_storage()
    take_by_hand(mongodb)
    # The new holder has begun.
    mongodb["snakemq.meta"].update_many({}, {"$inc": {"holder": 1}})
    with pytest.raises(StorageInUse):
        storage.push_many([("a", item(b"1")), ("a", item(b"2"))])
    with pytest.raises(StorageInUse):
        storage.push("a", item(b"3"))
    storage.close()
    assert mongodb["snakemq.items"].count_documents({}) == 2
    mongodb["snakemq.lock"].update_one({"owner": "somebody"}, {"$set": {"released": True}})
    assert open_storage().summarize() == []
    assert mongodb["snakemq.items"].count_documents({}) == 0


# What is refused


def test_what_is_too_large_is_refused_with_all_that_goes_with_it(open_storage: Open) -> None:
    storage = open_storage()
    large = item(bytes(TOO_LARGE))
    with pytest.raises(StorageError, match="does not fit into a document"):
        storage.push_many([("a", item(b"small")), ("a", large)])
    with pytest.raises(StorageError, match="does not fit into a document"):
        storage.push_inbox("a", [large], keep=5)
    storage.push("a", item(b"next"))
    assert storage.summarize() == [QueueSummary("a", 1, 4)]
    assert data_of(storage, "a") == [b"next"]
    assert storage.get_inbox() == []


def test_a_name_that_is_no_text_is_refused(open_storage: Open) -> None:
    storage = open_storage()
    with pytest.raises((StorageError, UnicodeEncodeError)):
        storage.push_many([("a", item(b"")), ("\ud800", item(b""))])
    storage.push("b", item(b""))
    assert storage.get_queues() == ["b"]


def test_a_closed_storage_refuses(open_storage: Open) -> None:
    storage = open_storage()
    storage.close()
    storage.close()
    assert "closed" in repr(storage)
    for use in (storage.summarize, storage.get_inbox, lambda: storage.push("a", item(b""))):
        with pytest.raises(StorageError, match="is closed"):
            use()


@pytest.mark.slow
def test_a_server_that_is_not_there_is_told_without_the_password() -> None:
    with pytest.raises(StorageUnavailable, match=r"127\.0\.0\.1:1 ") as told:
        MongoDbQueuesStorage("mongodb://me:s3cr%40t@127.0.0.1:1/db", patience=0.0)
    text = repr(told.value) + str(told.value.__cause__)
    assert "s3cr" not in text
    assert "me:" not in text


def test_settings_that_are_none_are_told_without_the_password() -> None:
    for host, options in (
        ("mongodb://me:s3cr@t@host", {}),
        ("mongodb://me:s3cret@host:port", {}),
        ("localhost", {"nonsense": "yes", "password": "s3cret"}),
    ):
        with pytest.raises(StorageError, match="no valid settings") as told:
            MongoDbQueuesStorage(host, **options)
        assert "s3cr" not in str(told.value)
        assert told.value.__cause__ is None


def test_without_pymongo_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymongo", None)
    with pytest.raises(ImportError, match=r"pip install snakemq\[mongodb\]"):
        MongoDbQueuesStorage()


def test_a_client_of_the_caller_stays_open(mongodb: Any, open_storage: Open) -> None:
    import pymongo

    host, port = mongodb.client.address
    with pymongo.MongoClient(host, port) as client:
        with MongoDbQueuesStorage(database=mongodb.name, client=client) as storage:
            storage.push("a", item(b"1"))
        assert client[mongodb.name]["snakemq.items"].count_documents({}) == 1
    assert data_of(open_storage(), "a") == [b"1"]


def test_a_write_that_nobody_confirms_is_refused(open_storage: Open) -> None:
    import pymongo

    with pytest.raises(ValueError, match="write_concern"):
        open_storage(write_concern=pymongo.WriteConcern(0))
    storage = open_storage(write_concern=pymongo.WriteConcern(1))
    storage.push("a", item(b"1"))
    assert data_of(storage, "a") == [b"1"]


def test_the_database_of_a_uri_is_used(mongodb_server: MongoDbServer, mongodb: Any) -> None:
    with MongoDbQueuesStorage(f"{mongodb_server.uri}/{mongodb.name}") as storage:
        storage.push("a", item(b"1"))
        assert mongodb.name in repr(storage)
    assert mongodb["snakemq.items"].count_documents({}) == 1


# Opening


def test_a_storage_that_was_closed_is_not_counted_again(mongodb: Any, open_storage: Open) -> None:
    storage = open_storage()
    storage.push_many([("a", item(b"12")), ("b", item(b"3"))])
    storage.close()
    # Only by this can it be told where the numbers come from.
    mongodb["snakemq.items"].update_many({}, {"$set": {"bytes": 100}})
    storage = open_storage()
    assert sorted(storage.summarize()) == [QueueSummary("a", 1, 2), QueueSummary("b", 1, 1)]
    storage.close()
    mongodb["snakemq.lock"].update_many({}, {"$unset": {"heritage": ""}})
    storage = open_storage()
    assert sorted(storage.summarize()) == [QueueSummary("a", 1, 100), QueueSummary("b", 1, 100)]


def test_what_no_batch_ended_with_is_not_there(mongodb: Any, open_storage: Open) -> None:
    """As a process leaves it that is killed between the steps of a batch."""
    storage = open_storage()
    positions = storage.change_items([("a", item(b"%d" % number)) for number in range(2)])
    storage.close()
    (mark,) = mongodb["snakemq.meta"].find({"_id": "outbox"})
    (last,) = mongodb["snakemq.items"].find({"_id": positions[-1]})
    behind = mark["confirmed"] + 1
    mongodb["snakemq.items"].insert_many(
        [{**last, "_id": behind + number, "group": behind + 1} for number in range(2)]
    )
    storage = open_storage()
    assert data_of(storage, "a") == [b"0", b"1"]
    assert mongodb["snakemq.items"].count_documents({}) == 2


def test_what_a_batch_has_removed_is_gone(mongodb: Any, open_storage: Open) -> None:
    """As a process leaves it that is killed when a batch counts, but before it has removed."""
    storage = open_storage()
    positions = storage.change_items([("a", item(b"%d" % number)) for number in range(4)])
    gone = list(mongodb["snakemq.items"].find({"_id": {"$in": positions[1:3]}}))
    storage.change_items([("a", item(b"new"))], [Removal("a", positions[1:3], 2)])
    mongodb["snakemq.items"].insert_many(gone)
    with pytest.MonkeyPatch.context() as patch:
        # It is killed, so it leaves nothing behind in good order.
        patch.setattr(storage._outbox, "heritage", lambda: None)
        storage.close()
    storage = open_storage()
    assert data_of(storage, "a") == [b"0", b"3", b"new"]
    assert storage.summarize() == [QueueSummary("a", 3, 5)]


def test_the_memory_of_what_is_in_the_inbox_is_completed(mongodb: Any, open_storage: Open) -> None:
    """As a process leaves it that is killed between inbox and memory."""
    for count in (1, 3):
        storage = open_storage(collection=f"c{count}")
        storage.add_received("peer", [b"before"], keep=9, sync=True)
        uuids = [b"%d" % number for number in range(count)]
        storage.push_inbox("peer", [Message(b"", None, 0, uuid) for uuid in uuids], keep=9)
        storage.close()
        assert mongodb[f"c{count}.received"].delete_one({"uuids": uuids}).deleted_count == 1
        storage = open_storage(collection=f"c{count}")
        assert storage.load_received("peer") == [b"before", *uuids]
        storage.close()
        storage = open_storage(collection=f"c{count}")
        assert storage.load_received("peer") == [b"before", *uuids]


def test_a_document_that_is_no_message_is_told(mongodb: Any, open_storage: Open) -> None:
    storage = open_storage()
    storage.push("a", item(b"1"))
    mongodb["snakemq.items"].update_one({}, {"$set": {"data": 7}})
    with pytest.raises(StorageDamaged, match="is no message"):
        storage.get_items("a")


# Processes


def _in_a_child(storage: MongoDbQueuesStorage, told: Any) -> None:
    try:
        storage.push("a", item(b"from the child"))
    except StorageError as exc:
        told.put(str(exc))
    storage.close()


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods() or sys.platform == "darwin",
    reason="no process forks here",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:MongoClient opened before fork:UserWarning")
def test_a_forked_child_is_refused(open_storage: Open) -> None:
    storage = open_storage()
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()
    child = context.Process(target=_in_a_child, args=(storage, told))
    child.start()
    child.join(DEADLINE)
    assert child.exitcode == 0
    assert "belongs to the process that opened it" in told.get()
    told.close()
    child.close()
    storage.push("a", item(b"from the parent"))
    assert data_of(storage, "a") == [b"from the parent"]
    wait_until(lambda: storage.summarize() == [QueueSummary("a", 1, 15)])
