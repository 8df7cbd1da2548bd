"""A Peer that keeps what it receives in its storage until it is handled."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator
from pathlib import Path

import pytest

from snakemq import Message, Peer, PeerClosed, ReceivedMessage, StorageError
from snakemq.storage import MemoryQueuesStorage
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.helpers import DEADLINE, wait_until
from tests.layers.peers import Recorder, connected_pair


@contextlib.contextmanager
def bob_of(path: Path, on_message: object = None) -> Generator[Peer]:
    """Bob, whose storage is that file, and who tries again soon."""
    bob = Peer(
        "bob",
        listen=0,
        storage=path,
        durable_receive=True,
        on_message=on_message,  # type: ignore[arg-type]
    )
    bob.messaging.inbox.retry_delay = bob.messaging.inbox.max_retry_delay = 0.01
    with bob:
        yield bob


def deliver(bob: Peer, *texts: str) -> None:
    """Alice sends, and all of it is acknowledged."""
    with Peer("alice", connect=bob.addresses) as alice:
        for text in texts:
            alice.send("bob", text)
        assert alice.flush(timeout=DEADLINE)


def stored(path: Path) -> list[str]:
    """What is in the inbox of a file that nobody has open."""
    with SqliteQueuesStorage(str(path), read_only=True) as storage:
        return [item.message.data.decode() for item in storage.get_inbox()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bob.db"


def read(bob: Peer) -> ReceivedMessage:
    received = bob.receive(DEADLINE)
    assert received is not None
    return received


# Readers.


def test_what_nobody_has_read_comes_again_after_a_restart(path: Path) -> None:
    with bob_of(path) as bob:
        deliver(bob, "one", "two", "three")
        received = read(bob)
        assert (received.text, received.redelivered, received.attempts) == ("one", False, 1)
        wait_until(lambda: len(bob._inbox) == 2)
    with pytest.raises(PeerClosed):
        bob.receive(0)  # it is in the storage, for the next one
    assert stored(path) == ["two", "three"]
    with bob_of(path) as bob:
        for text in ("two", "three"):
            received = read(bob)
            assert (received.text, received.redelivered, received.attempts) == (text, True, 1)
            assert received.ident == "alice"
        assert bob.receive(0) is None
    assert stored(path) == []


def test_a_message_is_handled_when_the_body_of_the_loop_is_through_with_it(path: Path) -> None:
    with bob_of(path) as bob:
        deliver(bob, "one", "two", "three")
        with contextlib.suppress(ZeroDivisionError):
            for received in bob.messages(DEADLINE):
                if received.text == "two":
                    _ = 1 / 0
    assert stored(path) == ["two", "three"]
    with bob_of(path) as bob:
        for expected in [("two", True, 2), ("three", True, 1)]:
            received = read(bob)
            assert (received.text, received.redelivered, received.attempts) == expected
    assert stored(path) == []


def test_leaving_the_loop_leaves_its_message_unless_it_is_said_that_it_is_done(path: Path) -> None:
    with bob_of(path) as bob:
        deliver(bob, "one", "two")
        for received in bob.messages(DEADLINE):
            assert received.text == "one"
            break
        for received in bob.messages(DEADLINE):
            assert received.text == "two"
            received.done()
            received.done()
            break
    assert stored(path) == ["one"]


def test_a_peer_that_is_stopped_in_the_body_of_the_loop(path: Path) -> None:
    with bob_of(path) as bob:
        deliver(bob, "quit", "more")
        for received in bob.messages(DEADLINE):
            received.done()
            bob.stop()
    assert stored(path) == ["more"]


def test_who_restarts_often_without_reading_loses_nothing(path: Path) -> None:
    with bob_of(path) as bob:
        deliver(bob, "old")
    for _ in range(12):  # more than there may be attempts
        with bob_of(path) as bob:
            wait_until(lambda bob=bob: len(bob._inbox) == 1)  # type: ignore[misc]
    with bob_of(path) as bob:
        assert read(bob).text == "old"
        assert bob.dead_letters() == []


def test_the_inbox_in_memory_has_a_limit_all_the_same(path: Path) -> None:
    count = 50
    with (
        Peer("bob", listen=0, storage=path, durable_receive=True, inbox_limit=10_000) as bob,
        Peer("alice", connect=bob.addresses) as alice,
    ):
        for number in range(count):
            alice.send("bob", number.to_bytes(1000, "big"))
        wait_until(lambda: bob._inbox._paused)
        numbers = [int.from_bytes(read(bob).data, "big") for _ in range(count)]
        assert numbers == list(range(count))
        assert bob.inbox_dropped == 0
        assert alice.flush(timeout=DEADLINE)


# Callbacks.


def test_a_callback_that_raises_gets_the_message_again(path: Path) -> None:
    seen: list[tuple[str, bool, int]] = []
    errors = Recorder()

    def handle(received: ReceivedMessage) -> None:
        seen.append((received.text, received.redelivered, received.attempts))
        if received.text == "one" and received.attempts < 3:
            raise ValueError("not yet")

    with bob_of(path, handle) as bob:
        bob.on_error.add(errors)
        deliver(bob, "one", "two")
        wait_until(lambda: len(seen) == 4)
    assert seen == [("one", False, 1), ("one", True, 2), ("one", True, 3), ("two", False, 1)]
    assert [str(error) for _, error in errors] == ["not yet", "not yet"]
    assert stored(path) == []


def test_one_of_several_callbacks_raises(path: Path) -> None:
    calls: list[str] = []
    errors = Recorder()

    def handle(name: str, received: ReceivedMessage) -> None:
        calls.append(name)
        if received.attempts == 1:
            raise ValueError(name)

    with bob_of(path, lambda received: handle("first", received)) as bob:
        bob.on_message.add(lambda received: handle("second", received))
        bob.on_message.add(lambda received: calls.append("third"))
        bob.on_error.add(errors)
        deliver(bob, "x")
        wait_until(lambda: len(calls) == 6)
    assert calls == ["first", "second", "third"] * 2
    assert sorted(str(error) for _, error in errors) == ["first", "second"]


def test_what_fails_too_often_is_a_dead_letter(path: Path) -> None:
    seen = Recorder()
    works: list[bool] = []

    def handle(received: ReceivedMessage) -> None:
        fails = received.text == "bad" and not works
        seen((received.text, received.attempts))
        if fails:
            raise ValueError("never")

    with bob_of(path, handle) as bob:
        bob.messaging.inbox.max_attempts = 2
        deliver(bob, "bad", "good")
        seen.wait(3)
        assert list(seen) == [("bad", 1), ("bad", 2), ("good", 1)]
        (letter,) = bob.dead_letters()
        assert (letter.ident, letter.message.data, letter.attempts) == ("alice", b"bad", 2)
        assert "never" in letter.reason
        works.append(True)
        assert bob.retry_dead_letters() == 1
        assert seen.wait(4)[3] == ("bad", 1)
        assert bob.dead_letters() == []
        works.clear()
        deliver(bob, "bad")
        wait_until(bob.dead_letters)
        (letter,) = bob.dead_letters()
        assert bob.drop_dead_letters([letter.id]) == 1
        assert bob.dead_letters() == []
        assert bob.retry_dead_letters() == bob.drop_dead_letters() == 0


def test_the_first_callback_gets_what_waited_for_a_reader(path: Path) -> None:
    seen, errors = Recorder(), Recorder()

    def handle(received: ReceivedMessage) -> None:
        seen(received.text)
        if received.text == "two":
            raise ValueError("two")

    with bob_of(path) as bob:
        bob.on_error.add(errors)
        deliver(bob, "one", "two")
        wait_until(lambda: len(bob._inbox) == 2)
        bob.on_message.add(handle)
        deliver(bob, "three")
        assert seen.wait(3) == ["one", "two", "three"]
        ((_, error),) = errors
        assert str(error) == "two"
    # Its turn is over: it comes with the next start.
    assert stored(path) == ["two"]


def test_an_interrupt_comes_out_after_all_callbacks_have_run(path: Path) -> None:
    calls: list[str] = []

    def interrupt(received: ReceivedMessage) -> None:
        calls.append("first")
        raise KeyboardInterrupt

    with bob_of(path, interrupt) as bob:
        bob.on_message.add(lambda received: calls.append("second"))
        with Peer("alice", connect=bob.addresses) as alice:
            alice.send("bob", "x")
            wait_until(lambda: not bob.running)
            with pytest.raises(PeerClosed, match="KeyboardInterrupt"):
                bob.stop()
    assert calls == ["first", "second"]


# Exactly once.


def notes(path: Path) -> list[str]:
    db = sqlite3.connect(path)
    try:
        return [text for (text,) in db.execute("SELECT text FROM notes ORDER BY rowid")]
    finally:
        db.close()


@pytest.fixture
def path_with_notes(path: Path) -> Path:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE notes (text)")
    db.commit()
    db.close()
    return path


def note(received: ReceivedMessage, *, fail: bool) -> None:
    with received.transaction() as transaction:
        transaction.db.execute("INSERT INTO notes VALUES (?)", [received.text])
        transaction.send("alice", f"noted {received.text}")
        if fail:
            raise ValueError("not yet")


def test_a_callback_with_a_transaction_has_its_effect_once(path_with_notes: Path) -> None:
    def handle(received: ReceivedMessage) -> None:
        note(received, fail=received.attempts == 1)
        if received.attempts == 2:
            raise ValueError("too late: it is committed")

    with (
        bob_of(path_with_notes, handle) as bob,
        Peer("alice", connect=bob.addresses) as alice,
    ):
        alice.send_messages([("bob", "one"), ("bob", "two")])
        assert [read(alice).text for _ in range(2)] == ["noted one", "noted two"]
        assert alice.receive(0.05) is None
    assert notes(path_with_notes) == ["one", "two"]
    assert stored(path_with_notes) == []


def test_a_transaction_in_the_body_of_the_loop(path_with_notes: Path) -> None:
    with bob_of(path_with_notes) as bob:
        deliver(bob, "one", "two")
        first = next(bob.messages(DEADLINE))
        with pytest.raises(ValueError, match="not yet"):
            note(first, fail=True)
        assert bob.queued() == 0
        note(first, fail=False)
        with pytest.raises(StorageError, match="not there"):
            note(first, fail=False)
        assert bob.queued("alice") == 1
    assert notes(path_with_notes) == ["one"]
    assert stored(path_with_notes) == ["two"]


def test_without_durable_receive_there_is_nothing_to_be_exact_about() -> None:
    with connected_pair() as (bob, alice):
        alice.send("bob", "x")
        received = read(bob)
        received.done()
        assert (received.redelivered, received.attempts) == (False, 1)
        with pytest.raises(StorageError, match="durable_receive=True"):
            received.transaction()
        for method in (bob.dead_letters, bob.retry_dead_letters, bob.drop_dead_letters):
            with pytest.raises(StorageError, match="durable_receive is off"):
                method()


def test_a_storage_is_needed_that_can_do_it() -> None:
    with pytest.raises(StorageError, match="durable_receive needs a storage"):
        Peer("bob", durable_receive=True)
    with (
        Peer("bob", listen=0, storage=MemoryQueuesStorage(), durable_receive=True) as bob,
        Peer("alice", connect=bob.addresses) as alice,
    ):
        alice.send("bob", "x")
        assert read(bob).text == "x"


# What is for now only.


class Echo:
    def echo(self, value: int) -> int:
        return value


def test_calls_do_not_wait_behind_a_message_that_fails(path: Path) -> None:
    seen = Recorder()

    def fail(received: ReceivedMessage) -> None:
        seen(received.text)
        raise ValueError("again and again")

    with bob_of(path, fail) as bob:
        bob.messaging.inbox.retry_delay = bob.messaging.inbox.max_retry_delay = 1000
        bob.serve(Echo(), "echo")
        with Peer("alice", connect=bob.addresses) as alice:
            alice.serve(Echo(), "echo")
            alice.send("bob", "x")
            seen.wait()
            assert alice.proxy("bob", "echo").echo(1) == 1
            assert bob.proxy("alice", "echo").echo(2) == 2
    assert stored(path) == ["x"]


def test_a_message_with_no_time_to_live_is_not_stored(path: Path) -> None:
    with bob_of(path) as bob, Peer("alice", connect=bob.addresses) as alice:
        assert alice.wait_connected("bob", DEADLINE)
        for text in ("one", "two"):
            alice.send("bob", text, ttl=0)
        received = read(bob)
        assert (received.text, received.attempts) == ("one", 1)
        wait_until(lambda: len(bob._inbox) == 1)
        alice.stop()
        bob.stop()
        # As without durable_receive: it can still be had.
        assert read(bob).text == "two"
    assert stored(path) == []


def test_a_message_knows_where_it_came_from(path: Path) -> None:
    with bob_of(path) as bob:
        deliver(bob, "x")
        wait_until(lambda: len(bob._inbox) == 1)
    with bob_of(path) as bob:
        received = read(bob)
    assert isinstance(received.message, Message)
    assert received.conn_id == ""
