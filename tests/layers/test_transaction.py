"""Messages that are sent if, and only if, a transaction commits."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from snakemq.exceptions import PacketTooLarge, QueueFull, StorageError
from snakemq.limits import QueueLimits, WhenFull
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.messaging import Messaging
from snakemq.packeter import Packeter
from snakemq.storage import MemoryQueuesStorage
from snakemq.storage.sqlite import SqliteQueuesStorage
from snakemq.testing import SimNetwork, SimStack
from tests.helpers import DEADLINE, wait_until
from tests.layers.delivery_support import connect, data


class Broken(Exception):
    """Something in the application."""


def persistent(payload: bytes, ttl: float | None = None) -> Message:
    return Message(payload, ttl, FLAG_PERSISTENT)


@pytest.fixture
def network() -> SimNetwork:
    return SimNetwork(seed=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "storage.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders (name TEXT)")
        connection.commit()
    return path


@pytest.fixture
def alice(network: SimNetwork, path: Path) -> Iterator[SimStack]:
    stack = SimStack(network, "alice", storage=SqliteQueuesStorage(path))
    yield stack
    stack.close()


@pytest.fixture
def bob(network: SimNetwork, alice: SimStack) -> SimStack:
    stack = SimStack(network, "bob")
    connect(network, alice, stack)
    return stack


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as opened:
        yield opened


def orders(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as other:
        return [name for (name,) in other.execute("SELECT name FROM orders")]


def stored(path: Path, ident: str = "bob") -> list[bytes]:
    with closing(SqliteQueuesStorage(path, read_only=True)) as other:
        return [item.data for item in other.get_items(ident)]


class TestOwnStorage:
    def test_committed(
        self, network: SimNetwork, alice: SimStack, bob: SimStack, path: Path
    ) -> None:
        with alice.messaging.transaction() as transaction:
            transaction.db.execute("INSERT INTO orders VALUES ('one')")
            transaction.send_message("bob", persistent(b"1"))
            transaction.send_message("carol", persistent(b"c"))
            transaction.send_message("bob", persistent(b"2"))
            network.run(1)
            assert data(bob) == [], "not before the end"
        assert orders(path) == ["one"]
        assert stored(path) == [b"1", b"2"]
        network.run(1)
        assert data(bob) == [b"1", b"2"]
        assert alice.messaging.queued_messages("carol") == 1
        assert stored(path) == []

    def test_rolled_back(
        self, network: SimNetwork, alice: SimStack, bob: SimStack, path: Path
    ) -> None:
        with suppress(Broken), alice.messaging.transaction() as transaction:
            transaction.db.execute("INSERT INTO orders VALUES ('one')")
            transaction.send_message("bob", persistent(b"1"))
            assert alice.messaging.queued_messages("bob") == 1, "there is room for it"
            raise Broken
        assert orders(path) == []
        assert stored(path) == []
        assert alice.messaging.queued_messages() == 0
        network.run(1)
        assert data(bob) == []
        with alice.messaging.transaction() as transaction:
            transaction.send_message("bob", persistent(b"2"))
        network.run(1)
        assert data(bob) == [b"2"]

    def test_without_messages(self, alice: SimStack, path: Path) -> None:
        with alice.messaging.transaction() as transaction:
            transaction.db.execute("INSERT INTO orders VALUES ('one')")
        assert orders(path) == ["one"]

    def test_a_mistake_inside_that_is_caught_leaves_the_rest(
        self, network: SimNetwork, alice: SimStack, bob: SimStack, path: Path
    ) -> None:
        alice.messaging.queue_limits = QueueLimits(max_stored_bytes=10)
        with alice.messaging.transaction() as transaction:
            transaction.send_message("bob", persistent(b"1"))
            with pytest.raises(QueueFull):
                transaction.send_message("bob", persistent(bytes(10)))
            for message in (Message(b"t", None), Message(b"z", 0, FLAG_PERSISTENT)):
                with pytest.raises(ValueError, match="persistent message with a time to live"):
                    transaction.send_message("bob", message)
            with pytest.raises(sqlite3.OperationalError):
                transaction.db.execute("INSERT INTO nothing VALUES (1)")
            transaction.send_message("bob", persistent(b"2"))
        network.run(1)
        assert data(bob) == [b"1", b"2"]
        assert alice.messaging.queued_messages() == 0
        assert stored(path) == []

    def test_order_with_what_is_sent_before_and_after(
        self, network: SimNetwork, alice: SimStack, bob: SimStack
    ) -> None:
        alice.send("bob", b"before", flags=FLAG_PERSISTENT)
        with alice.messaging.transaction() as transaction:
            transaction.send_message("bob", persistent(b"inside"))
        alice.send("bob", b"after", flags=FLAG_PERSISTENT)
        network.run(1)
        assert data(bob) == [b"before", b"inside", b"after"]

    def test_it_survives_a_restart_in_that_order(
        self, network: SimNetwork, alice: SimStack, path: Path
    ) -> None:
        with alice.messaging.transaction() as transaction:
            transaction.send_message("bob", persistent(b"1", 100))
        alice.send("bob", b"2", flags=FLAG_PERSISTENT)
        alice.crash()
        assert alice.storage is not None
        alice.storage.close()
        alice.storage = SqliteQueuesStorage(path)
        alice.restart()
        bob = SimStack(network, "bob")
        alice.connect(bob)
        network.run(1)
        assert data(bob) == [b"1", b"2"]

    def test_a_ttl_runs_from_when_it_was_sent(
        self, network: SimNetwork, alice: SimStack, path: Path
    ) -> None:
        """Though the storage does not know yet how long the others have run."""
        alice.send("bob", b"old", ttl=100, flags=FLAG_PERSISTENT)
        network.run(30)
        with alice.messaging.transaction() as transaction:
            transaction.send_message("bob", persistent(b"new", 100))
        network.run(1)
        alice.close()
        with closing(SqliteQueuesStorage(path, read_only=True)) as other:
            ttls = [item.ttl for item in other.get_items("bob")]
        assert ttls == pytest.approx([69, 99], abs=0.01)

    def test_nested_is_refused(self, alice: SimStack, path: Path) -> None:
        with alice.messaging.transaction() as transaction:
            transaction.send_message("bob", persistent(b"1"))
            with (
                pytest.raises(StorageError, match="inside a transaction already"),
                alice.messaging.transaction(),
            ):
                pass
        assert stored(path) == [b"1"]

    def test_the_usual_way_of_sending_is_refused_inside(
        self, network: SimNetwork, alice: SimStack, bob: SimStack, path: Path
    ) -> None:
        """It would wait for the end of the transaction, in the thread that has to end it."""
        with alice.messaging.transaction() as transaction:
            for refused in (
                lambda: alice.messaging.send_message("bob", persistent(b"no")),
                lambda: alice.messaging.send_messages([("bob", persistent(b"no"))]),
            ):
                with pytest.raises(StorageError, match="the transaction's own method"):
                    refused()
            transaction.send_message("bob", persistent(b"yes"))
        assert stored(path) == [b"yes"]
        network.run(1)
        assert data(bob) == [b"yes"]
        alice.send("bob", b"again", flags=FLAG_PERSISTENT)

    def test_what_needs_no_storage_can_be_sent_inside(
        self, network: SimNetwork, alice: SimStack, bob: SimStack
    ) -> None:
        with suppress(Broken), alice.messaging.transaction():
            alice.send("bob", b"transient")
            raise Broken
        network.run(1)
        assert data(bob) == [b"transient"]

    def test_no_storage(self, network: SimNetwork) -> None:
        bob = SimStack(network, "bob")
        with pytest.raises(StorageError, match="there is none"), bob.messaging.transaction():
            pass

    def test_a_storage_that_has_none(self, network: SimNetwork) -> None:
        bob = SimStack(network, "bob", storage=MemoryQueuesStorage())
        with pytest.raises(StorageError), bob.messaging.transaction():
            pass
        bob.send("raw", b"x", flags=FLAG_PERSISTENT)
        assert bob.messaging.queued_messages() == 1

    def test_too_large_a_message(self, network: SimNetwork, tmp_path: Path) -> None:
        """It could never be sent."""
        packeter = Packeter(network.link("small"), max_packet_size=100)
        messaging = Messaging("small", "", packeter, SqliteQueuesStorage(tmp_path / "small.db"))
        with messaging.transaction() as transaction:
            transaction.send_message("bob", persistent(bytes(75)))
            with pytest.raises(PacketTooLarge):
                transaction.send_message("bob", persistent(bytes(76)))
        assert messaging.queued_messages() == 1
        messaging.close()

    def test_wrong_arguments(self, alice: SimStack) -> None:
        with alice.messaging.transaction() as transaction:
            with pytest.raises(TypeError, match="ident"):
                transaction.send_message(b"bob", persistent(b""))  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="Message"):
                transaction.send_message("bob", b"data")  # type: ignore[arg-type]
        assert alice.messaging.queued_messages() == 0


class TestThreads:
    def test_the_loop_makes_a_queue_while_another_thread_is_inside(
        self, network: SimNetwork, alice: SimStack, path: Path
    ) -> None:
        """Neither waits for a lock of the other."""
        inside, go_on, done = threading.Event(), threading.Event(), threading.Event()

        def application() -> None:
            with alice.messaging.transaction() as transaction:
                inside.set()
                assert go_on.wait(DEADLINE)
                transaction.send_message("somebody new", persistent(b"1"))
                transaction.send_message("bob", persistent(b"2"))
            done.set()

        thread = threading.Thread(target=application)
        thread.start()
        try:
            assert inside.wait(DEADLINE)

            def loop() -> None:
                alice.messaging.queues_manager.get_queue("another one")
                alice.send("yet another", b"transient")

            other = threading.Thread(target=loop)
            other.start()
            go_on.set()
            assert done.wait(DEADLINE), "a deadlock"
            other.join(DEADLINE)
            assert not other.is_alive()
        finally:
            go_on.set()
            thread.join(DEADLINE)
        assert stored(path) == [b"2"]
        assert stored(path, "somebody new") == [b"1"]

    def test_other_threads_that_store_wait_for_the_end(self, alice: SimStack, path: Path) -> None:
        sent = threading.Event()

        def other() -> None:
            alice.send("bob", b"other", flags=FLAG_PERSISTENT)
            sent.set()

        thread = threading.Thread(target=other)
        with alice.messaging.transaction() as transaction:
            transaction.send_message("bob", persistent(b"1"))
            thread.start()
            wait_until(lambda: alice.messaging.queues_manager.writer.waiting == 1)
            transaction.send_message("bob", persistent(b"2"))
            assert not sent.is_set()
        thread.join(DEADLINE)
        assert sent.is_set()
        assert stored(path) == [b"1", b"2", b"other"]

    def test_inside_nobody_waits_for_room(self, alice: SimStack, path: Path) -> None:
        """The loop, which could make it, may wait for the storage."""
        alice.messaging.queue_limits = QueueLimits(max_stored_messages=1, when_full=WhenFull.BLOCK)
        with alice.messaging.transaction() as transaction:
            transaction.send_message("bob", persistent(b"1"))
            with pytest.raises(QueueFull):
                transaction.send_message("bob", persistent(b"2"))
        assert stored(path) == [b"1"]


MODES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "isolation_level=None": {"isolation_level": None},
    "immediate": {"isolation_level": "IMMEDIATE"},
}
if sys.version_info >= (3, 12):
    MODES["autocommit"] = {"autocommit": True}
    MODES["no autocommit"] = {"autocommit": False}


class TestOwnConnection:
    @pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
    @pytest.mark.parametrize("commits", [True, False])
    def test_each_mode_of_sqlite3(
        self,
        network: SimNetwork,
        alice: SimStack,
        bob: SimStack,
        path: Path,
        mode: dict[str, Any],
        commits: bool,
    ) -> None:
        with closing(sqlite3.connect(path, **mode)) as connection:
            try:
                with alice.messaging.transaction(connection) as transaction:
                    assert transaction.db is connection
                    connection.execute("INSERT INTO orders VALUES ('one')")
                    transaction.send_message("bob", persistent(b"1"))
                    if not commits:
                        raise Broken
            except Broken:
                assert not commits
            assert orders(path) == ["one"] * commits
            assert stored(path) == [b"1"] * commits
            network.run(1)
            assert data(bob) == [b"1"] * commits
            assert alice.messaging.queued_messages() == 0
            # And what is written then does not hang.
            alice.send("bob", b"2", flags=FLAG_PERSISTENT)
            network.run(1)
            assert data(bob)[commits:] == [b"2"]

    def test_one_in_which_something_was_done_before(
        self, alice: SimStack, connection: sqlite3.Connection, path: Path
    ) -> None:
        connection.execute("INSERT INTO orders VALUES ('before')")
        with alice.messaging.transaction(connection) as transaction:
            transaction.send_message("bob", persistent(b"1"))
            connection.execute("INSERT INTO orders VALUES ('inside')")
        assert orders(path) == ["before", "inside"]
        assert stored(path) == [b"1"]

    def test_a_commit_that_fails_sends_nothing(
        self, network: SimNetwork, alice: SimStack, bob: SimStack, path: Path
    ) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(
                "CREATE TABLE lines (item TEXT PRIMARY KEY,"
                " parent TEXT REFERENCES lines (item) DEFERRABLE INITIALLY DEFERRED)"
            )

            def use() -> None:
                with alice.messaging.transaction(connection) as transaction:
                    connection.execute("INSERT INTO lines VALUES ('a', 'nobody')")
                    transaction.send_message("bob", persistent(b"1"))

            with pytest.raises(sqlite3.IntegrityError):
                use()
            assert not connection.in_transaction
        assert stored(path) == []
        assert alice.messaging.queued_messages() == 0
        network.run(1)
        assert data(bob) == []

    def test_another_file_is_refused(self, alice: SimStack, tmp_path: Path, path: Path) -> None:
        with (
            closing(sqlite3.connect(tmp_path / "other.db")) as other,
            pytest.raises((StorageError, ValueError)),
            alice.messaging.transaction(other) as transaction,
        ):
            transaction.send_message("bob", persistent(b"1"))
        assert alice.messaging.queued_messages() == 0
        assert stored(path) == []

    def test_a_ttl_runs_from_when_it_was_sent(
        self, network: SimNetwork, alice: SimStack, connection: sqlite3.Connection, path: Path
    ) -> None:
        alice.send("bob", b"old", ttl=100, flags=FLAG_PERSISTENT)
        network.run(30)
        with alice.messaging.transaction(connection) as transaction:
            transaction.send_message("bob", persistent(b"new", 100))
        network.run(1)
        alice.close()
        with closing(SqliteQueuesStorage(path, read_only=True)) as other:
            ttls = [item.ttl for item in other.get_items("bob")]
        assert ttls == pytest.approx([69, 99], abs=0.01)

    def test_the_usual_way_of_sending_is_refused_inside(
        self, alice: SimStack, connection: sqlite3.Connection
    ) -> None:
        """The file is locked by this very thread."""
        with (
            alice.messaging.transaction(connection),
            pytest.raises(StorageError, match="the transaction's own method"),
        ):
            alice.send("bob", b"x", flags=FLAG_PERSISTENT)


def test_what_was_dropped_for_a_transaction_that_failed_is_told(
    network: SimNetwork, alice: SimStack, path: Path
) -> None:
    alice.messaging.queue_limits = QueueLimits(
        max_stored_messages=2, when_full=WhenFull.DROP_OLDEST
    )
    dropped: list[bytes] = []
    alice.messaging.on_messages_dropped.add(
        lambda ident, messages, reason: dropped.extend(m.data for m in messages)
    )
    for payload in (b"1", b"2"):
        alice.send("bob", payload, flags=FLAG_PERSISTENT)
    network.run(0.1)
    with suppress(Broken), alice.messaging.transaction() as transaction:
        transaction.send_message("bob", persistent(b"3"))
        raise Broken
    network.run(0.1)
    # What is gone is told and not in the storage; or it is not gone at all.
    assert dropped in ([], [b"1"])
    assert stored(path) == [b"1", b"2"][len(dropped) :]
    assert alice.messaging.queued_messages() == 2 - len(dropped)
