"""Messages that a Peer queues together, or with the transaction of a database."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from snakemq import (
    FLAG_PERSISTENT,
    DeliveryState,
    Message,
    Peer,
    PeerClosed,
    QueueFull,
    QueueLimits,
    StorageError,
)
from snakemq.storage import MemoryQueuesStorage
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.helpers import DEADLINE
from tests.layers.peers import connected_pair


def texts(peer: Peer, count: int) -> list[str]:
    found = []
    for received in peer.messages(DEADLINE):
        found.append(received.text)
        if len(found) == count:
            break
    return found


# Several at once.


def test_messages_are_sent_in_order_to_whom_they_are_for() -> None:
    with connected_pair() as (bob, alice):
        uuids = alice.send_messages(
            [("bob", "one"), ("carol", "two"), ("bob", b"three"), ("bob", Message(b"four"))]
        )
        received = [next(bob.messages(DEADLINE)) for _ in range(3)]
        assert [one.text for one in received] == ["one", "three", "four"]
        assert [one.uuid for one in received] == [uuids[0], uuids[2], uuids[3]]
        assert alice.queued("carol") == 1


def test_options_are_for_payloads_and_a_message_is_sent_as_it_is() -> None:
    class Counting(MemoryQueuesStorage):
        commits: ClassVar[list[int]] = []

        def change_items(self, push: Any, *args: Any, **options: Any) -> list[int]:
            self.commits.append(len(push))
            return super().change_items(push, *args, **options)

    storage = Counting()
    with Peer("alice", storage=storage) as alice:
        entries: list[tuple[str, str | Message]] = [
            ("bob", "x"),
            ("bob", Message(b"y", None)),
            ("carol", "z"),
        ]
        alice.send_messages(entries, ttl=60)
        alice.send_messages(entries, persistent=False)
        assert [(m.data, m.ttl) for m in storage.get_items("bob")] == [(b"x", 60.0)]
        assert [(m.data, m.flags) for m in storage.get_items("carol")] == [(b"z", FLAG_PERSISTENT)]
        assert storage.commits == [2]
        assert alice.queued() == 6


@pytest.mark.parametrize(
    ("entry", "exception"),
    [
        (("alice", "to oneself"), ValueError),
        (("", "x"), ValueError),
        (("bob", 7), TypeError),
        ((7, Message(b"x")), TypeError),
        (("alice", Message(b"to oneself")), ValueError),
        (("bob", bytes(2000)), ValueError),  # PacketTooLarge
    ],
)
def test_one_that_can_not_be_sent_keeps_the_others_from_it(
    entry: Any, exception: type[Exception]
) -> None:
    with Peer("alice") as alice:
        alice.packeter.max_packet_size = 1000
        with pytest.raises(exception):
            alice.send_messages([("bob", "good"), entry])
        with pytest.raises(exception):
            alice.send_messages([("bob", "good"), entry], track=True)
        assert alice.queued() == 0
        assert not alice._deliveries._open


def test_more_than_there_is_room_for() -> None:
    with Peer("alice", queue_limits=QueueLimits(max_messages=2)) as alice:
        with pytest.raises(QueueFull):
            alice.send_messages([("bob", "x")] * 3)
        assert alice.queued() == 0


def test_messages_that_are_sent_together_can_be_tracked() -> None:
    same = Message(b"the same for both", None)
    with connected_pair() as (bob, alice):
        one, two, late = alice.send_messages(
            [("bob", same), ("carol", same), ("carol", Message(b"for now", 0))], track=True
        )
        assert one.wait(timeout=DEADLINE) is DeliveryState.ACKNOWLEDGED
        assert (two.ident, two.state) == ("carol", DeliveryState.QUEUED)
        assert one.uuid == two.uuid == same.uuid
        assert late.state is DeliveryState.DROPPED
        assert texts(bob, 1) == ["the same for both"]


# Batches.


def test_a_batch_is_queued_at_the_end_of_its_block() -> None:
    with connected_pair() as (bob, alice):
        with alice.batch() as batch:
            uuid = batch.send("bob", "one")
            delivery = batch.send("bob", "two", track=True)
            assert alice.queued() == 0
            assert delivery.state is DeliveryState.QUEUED
        assert delivery.wait(timeout=DEADLINE) is DeliveryState.ACKNOWLEDGED
        received = bob.receive(DEADLINE)
        assert received is not None
        assert received.uuid == uuid
        assert texts(bob, 1) == ["two"]


def test_a_batch_that_an_exception_leaves_is_not_queued() -> None:
    with Peer("alice", storage=MemoryQueuesStorage()) as alice:
        with contextlib.suppress(ZeroDivisionError), alice.batch() as batch:
            delivery = batch.send("bob", "x", track=True)
            _ = 1 / 0
        assert alice.queued() == 0
        assert (delivery.state, delivery.is_final) == (DeliveryState.DROPPED, True)
        with pytest.raises(RuntimeError, match="make another one"):
            batch.send("bob", "x")


def test_a_wrong_argument_in_a_batch_is_told_where_it_is() -> None:
    with Peer("alice") as alice, alice.batch() as batch:
        with pytest.raises(ValueError, match="give the peer storage=PATH"):
            batch.send("bob", "x", persistent=True)
        batch.send("bob", "y")
    assert batch._is_over


def test_a_batch_that_can_not_be_queued() -> None:
    with Peer("alice", queue_limits=QueueLimits(max_messages=1)) as alice:
        with pytest.raises(QueueFull), alice.batch() as batch:
            deliveries = [batch.send("bob", "x", track=True) for _ in range(2)]
        assert {one.state for one in deliveries} == {DeliveryState.DROPPED}
        assert alice.queued() == 0


def test_an_empty_batch_is_none() -> None:
    with Peer("alice") as alice:
        with alice.batch():
            pass
        assert alice.send_messages([]) == []


def test_the_end_of_the_peer_is_the_end_of_its_batches() -> None:
    alice = Peer("alice", storage=MemoryQueuesStorage())
    batch = alice.batch()
    delivery = batch.send("bob", "x", track=True)
    alice.stop()
    assert (delivery.state, delivery.is_final) == (DeliveryState.DROPPED, True)
    with pytest.raises(PeerClosed), batch:
        pass
    with pytest.raises(PeerClosed):
        alice.send_messages([("bob", "x")])


# Transactions.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "alice.db"


@pytest.fixture
def alice(file: Path) -> Iterator[Peer]:
    with sqlite3.connect(file) as db:
        db.execute("CREATE TABLE notes (text)")
    db.close()
    with Peer("alice", listen=0, storage=file) as alice:
        yield alice


def rows(file: Path) -> list[str]:
    db = sqlite3.connect(file)
    try:
        return [text for (text,) in db.execute("SELECT text FROM notes ORDER BY rowid")]
    finally:
        db.close()


@pytest.mark.parametrize("own", [False, True])
def test_what_is_sent_in_a_transaction_is_sent_with_it(alice: Peer, file: Path, own: bool) -> None:
    connection = sqlite3.connect(file) if own else None
    with alice.transaction(connection) as transaction:
        assert connection in (None, transaction.db)
        transaction.db.execute("INSERT INTO notes VALUES ('one')")
        uuid = transaction.send("bob", "one")
        delivery = transaction.send("bob", "two", ttl=600, flags=0x80, track=True)
        assert (delivery.state, delivery.is_final) == (DeliveryState.QUEUED, False)
    assert delivery.state is DeliveryState.STORED
    assert rows(file) == ["one"]
    with Peer("bob", connect=alice.addresses) as bob:
        first, second = (next(bob.messages(DEADLINE)) for _ in range(2))
        assert delivery.wait(timeout=DEADLINE) is DeliveryState.ACKNOWLEDGED
    assert (first.uuid, second.uuid) == (uuid, delivery.uuid)
    assert (second.text, second.flags) == ("two", FLAG_PERSISTENT | 0x80)
    if connection is not None:
        connection.close()


@pytest.mark.parametrize("own", [False, True])
def test_what_is_sent_in_a_transaction_is_rolled_back_with_it(
    alice: Peer, file: Path, own: bool
) -> None:
    connection = sqlite3.connect(file) if own else None
    with contextlib.suppress(ZeroDivisionError), alice.transaction(connection) as transaction:
        transaction.db.execute("INSERT INTO notes VALUES ('one')")
        transaction.send("bob", "one")
        delivery = transaction.send("bob", "two", track=True)
        _ = 1 / 0
    assert (delivery.state, delivery.is_final) == (DeliveryState.DROPPED, True)
    assert rows(file) == []
    assert alice.queued() == 0
    if connection is not None:
        connection.close()
    alice.stop()
    with SqliteQueuesStorage(str(file), read_only=True) as storage:
        assert storage.get_queues() == []


def test_a_message_that_is_not_stored_can_not_be_in_a_transaction(alice: Peer) -> None:
    with alice.transaction() as transaction:
        with pytest.raises(ValueError, match="persistent message with a time to live"):
            transaction.send("bob", "x", ttl=0)
        with pytest.raises(ValueError, match="persistent message with a time to live"):
            transaction.send("bob", "x", ttl=0, track=True)
        with pytest.raises(ValueError, match="to itself"):
            transaction.send("alice", "x")
    assert alice.queued() == 0
    assert not alice._deliveries._open


def test_a_transaction_takes_a_storage_in_a_file() -> None:
    for storage in (None, MemoryQueuesStorage()):
        alice = Peer("alice", storage=storage)
        with alice, pytest.raises(StorageError), alice.transaction():
            pytest.fail("there is none")
        with pytest.raises(PeerClosed), alice.transaction():
            pytest.fail("it was stopped")
