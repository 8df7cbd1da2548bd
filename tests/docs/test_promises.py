"""Every sentence of the promise about messages names tests that exist; and here are the short ones.

They show what a sentence says in the plainest case. That it holds in all the
others is shown by histories, by killed processes, and by peers of 1.6.
"""

from __future__ import annotations

import ast
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from snakemq import FLAG_PERSISTENT, Message
from snakemq._incoming import WINDOW
from snakemq.storage import MemoryQueuesStorage
from snakemq.storage.sqlite import SqliteQueuesStorage
from snakemq.testing import Conditions, SimNetwork, SimStack, pair
from tests.docs.runner import ROOT

DOCUMENT = ROOT / "docs" / "explanation" / "delivery.rst"


def promises() -> dict[int, str]:
    """The numbered sentences, each in one line."""
    text = DOCUMENT.read_text("utf-8")
    section = text.partition("\nThe promise\n===========\n")[2].partition("\n====")[0]
    items = re.findall(r"^(\d+)\. +((?:.+\n| +.+\n|\n(?= ))+)", section, re.MULTILINE)
    return {int(number): " ".join(item.split()) for number, item in items}


def names_in(path: Path) -> set[str]:
    """The tests of a module, those in classes as ``Class::test``."""
    found: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}::{part.name}"
                for part in node.body
                if isinstance(part, ast.FunctionDef) and part.name.startswith("test_")
            }
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            found.add(node.name)
    return found


def named_tests(text: str) -> list[tuple[str, str]]:
    return re.findall(r"``(tests/[\w/]+\.py)::([\w:]+)``", text)


class TestTheDocument:
    def test_the_sentences_are_numbered(self) -> None:
        assert list(promises()) == list(range(1, len(promises()) + 1))
        assert len(promises()) >= 10

    @pytest.mark.parametrize("number", promises())
    def test_each_names_tests_that_exist(self, number: int) -> None:
        sentence, shown_by, tests = promises()[number].partition("*Shown by*")
        assert sentence
        assert shown_by
        assert named_tests(tests)
        for module, test in named_tests(tests):
            assert test in names_in(ROOT / module), f"{module}::{test}"

    def test_each_short_test_shows_a_sentence(self) -> None:
        here = Path(__file__).relative_to(ROOT).as_posix()
        named = {
            test
            for sentence in promises().values()
            for module, test in named_tests(sentence)
            if module == here
        }
        assert named == {name for name in names_in(Path(__file__)) if "TestTheDocument" not in name}


def texts(stack: SimStack) -> list[str]:
    return [message.data.decode() for _, message in stack.received]


def marks(stack: SimStack) -> list[bool]:
    return [message.redelivered for _, message in stack.received]


def send_numbers(stack: SimStack, numbers: range) -> None:
    for number in numbers:
        stack.send("bob", str(number).encode(), flags=FLAG_PERSISTENT)


@pytest.fixture
def slow_line() -> Iterator[tuple[SimStack, SimStack]]:
    """Alice and Bob, both with a storage, and a second from one to the other."""
    storages = MemoryQueuesStorage(), MemoryQueuesStorage()
    with pair(storages=storages, conditions=Conditions(delay=1.0)) as (alice, bob):
        yield alice, bob


def test_a_message_leaves_its_queue_when_it_is_acknowledged(
    slow_line: tuple[SimStack, SimStack],
) -> None:
    alice, bob = slow_line
    alice.send("bob", b"hello", flags=FLAG_PERSISTENT)
    assert alice.network.run_until(lambda: bob.received)
    assert alice.messaging.queued_messages("bob") == 1
    assert alice.storage is not None
    assert len(alice.storage.get_items("bob")) == 1
    assert alice.network.run_until(lambda: not alice.messaging.queued_messages("bob"))
    assert alice.storage.get_items("bob") == []


def test_it_is_acknowledged_when_the_callbacks_have_returned() -> None:
    with pair() as (alice, bob):
        acked: list[bytes] = []
        alice.messaging.on_message_acked.add(lambda conn_id, ident, uuid: acked.append(uuid))
        seen: list[int] = []
        bob.messaging.on_message_recv.add(lambda *_: seen.append(len(acked)))
        alice.send("bob", b"hello")
        assert alice.network.run_until(lambda: acked)
        assert seen == [0]


def test_a_broken_connection_loses_nothing_and_repeats_nothing(
    slow_line: tuple[SimStack, SimStack],
) -> None:
    alice, bob = slow_line
    send_numbers(alice, range(100))
    # They have arrived, and their acknowledgement is on its way.
    assert alice.network.run_until(lambda: len(bob.received) == 100)
    alice.network.cut("alice", "bob")
    send_numbers(alice, range(100, 200))
    assert alice.network.run_until(lambda: not alice.messaging.queued_messages())
    assert texts(bob) == [str(number) for number in range(200)]
    assert not any(marks(bob))


def test_a_killed_sender_loses_nothing_and_repeats_nothing(
    slow_line: tuple[SimStack, SimStack],
) -> None:
    alice, bob = slow_line
    send_numbers(alice, range(100))
    assert alice.network.run_until(lambda: len(bob.received) == 100)
    send_numbers(alice, range(100, 200))
    alice.crash()
    alice.restart()
    assert alice.network.run_until(lambda: not alice.messaging.queued_messages())
    assert texts(bob) == [str(number) for number in range(200)]


def test_a_killed_receiver_loses_nothing_and_repeats_only_what_its_callback_had(
    slow_line: tuple[SimStack, SimStack],
) -> None:
    alice, bob = slow_line

    def die(conn_id: str, ident: str, message: Message) -> None:
        if message.data == b"50":
            bob.crash()

    bob.messaging.on_message_recv.add(die)
    send_numbers(alice, range(100))
    assert alice.network.run_until(lambda: not bob.running)
    bob.restart()
    assert alice.network.run_until(lambda: not alice.messaging.queued_messages())
    assert texts(bob) == [str(number) for number in (*range(51), *range(50, 100))]
    assert bob.received[51][1].redelivered


def test_a_message_without_the_mark_comes_for_the_first_time() -> None:
    """Nobody has a storage: nothing is known but what the sender says."""
    with pair(conditions=Conditions(delay=1.0)) as (alice, bob):
        send_numbers(alice, range(100))
        assert alice.network.run_until(lambda: len(bob.received) == 100)
        bob.crash()
        bob.restart()
        assert alice.network.run_until(lambda: not alice.messaging.is_connected("bob"))
        send_numbers(alice, range(100, 200))
        assert alice.network.run_until(lambda: not alice.messaging.queued_messages())
        assert texts(bob) == [str(number) for number in (*range(100), *range(200))]
        assert marks(bob) == [False] * 100 + [True] * 100 + [False] * 100


def test_the_order_is_kept() -> None:
    network = SimNetwork(seed=5, conditions=Conditions(delay=0.01, jitter=0.05))
    alice, bob = SimStack(network, "alice"), SimStack(network, "bob")
    alice.connect(bob, 0.1)
    for number in range(50):
        network.call_later(number * 0.1, send_numbers, alice, range(number * 10, number * 10 + 10))
        network.call_later(number * 0.13, network.cut, "alice", "bob")
    assert network.run_until(lambda: len(bob.received) == 500, timeout=1000)
    assert texts(bob) == [str(number) for number in range(500)]
    network.run(100)
    assert len(bob.received) == 500


def test_a_stored_message_is_tried_again_and_then_laid_aside() -> None:
    network = SimNetwork()
    alice = SimStack(network, "alice")
    bob = SimStack(network, "bob", storage=MemoryQueuesStorage(), durable_receive=True)
    bob.messaging.inbox.max_attempts = 3
    fails = True

    def callback(conn_id: str, ident: str, message: Message) -> None:
        if fails:
            raise ValueError(message.data.decode())

    bob.messaging.on_message_recv.add(callback)
    alice.connect(bob)
    send_numbers(alice, range(2))
    assert network.run_until(lambda: len(bob.messaging.inbox.dead_letters()) == 2)
    assert texts(bob) == ["0", "0", "0", "1", "1", "1"]
    fails = False
    bob.messaging.inbox.retry_dead_letters()
    network.run(10)
    assert texts(bob)[6:] == ["0", "1"]
    assert bob.messaging.inbox.dead_letters() == []


def test_what_is_written_with_the_message_is_written_once(tmp_path: Path) -> None:
    network = SimNetwork()
    alice = SimStack(network, "alice")
    storage = SqliteQueuesStorage(tmp_path / "bob.db")
    with closing(sqlite3.connect(tmp_path / "bob.db")) as db, db:
        db.execute("CREATE TABLE account (amount INTEGER)")
    attempts: list[int] = []

    def callback(conn_id: str, ident: str, message: Message) -> None:
        with bob.messaging.inbox.transaction(message) as transaction:
            attempts.append(message.attempts)
            transaction.db.execute("INSERT INTO account VALUES (?)", (int(message.data),))
            if message.attempts == 1:
                raise ValueError("not yet")
        if message.attempts == 2:
            raise ValueError("too late: it is committed")

    def on_start(stack: SimStack) -> None:
        stack.messaging.on_message_recv.add(callback)

    bob = SimStack(network, "bob", storage=storage, durable_receive=True, on_start=on_start)
    alice.connect(bob)
    send_numbers(alice, range(3))
    network.run(60)
    with closing(sqlite3.connect(tmp_path / "bob.db")) as db:
        amounts = [amount for (amount,) in db.execute("SELECT amount FROM account")]
    assert amounts == [0, 1, 2]
    assert attempts == [1, 2] * 3
    assert storage.get_inbox() == []
    alice.close()
    bob.close()


def test_messages_of_a_transaction_are_sent_if_it_commits(tmp_path: Path) -> None:
    network = SimNetwork()
    alice = SimStack(network, "alice", storage=SqliteQueuesStorage(tmp_path / "alice.db"))
    bob = SimStack(network, "bob")
    alice.connect(bob)
    with closing(sqlite3.connect(tmp_path / "alice.db")) as db:
        db.execute("CREATE TABLE orders (what TEXT)")
        with alice.messaging.transaction(db) as transaction:
            db.execute("INSERT INTO orders VALUES ('tea')")
            transaction.send_message("bob", Message(b"tea", None, FLAG_PERSISTENT))

        def order_milk() -> None:
            with alice.messaging.transaction(db) as transaction:
                db.execute("INSERT INTO orders VALUES ('milk')")
                transaction.send_message("bob", Message(b"milk", None, FLAG_PERSISTENT))
                raise ValueError("no milk today")

        with pytest.raises(ValueError, match="milk"):
            order_milk()
        assert db.execute("SELECT what FROM orders").fetchall() == [("tea",)]
    network.run(60)
    assert texts(bob) == ["tea"]
    alice.close()
    bob.close()


def test_a_slow_receiver_makes_its_sender_keep_the_rest() -> None:
    with pair() as (alice, bob):
        (conn_id,) = bob.link.connections
        bob.messaging.pause(conn_id)
        count = 2 * WINDOW.window_messages
        send_numbers(alice, range(count))
        alice.network.run(60)
        queue = alice.messaging.queues_manager.get_queue("bob")
        assert queue.flying()[1] == WINDOW.window_messages
        assert len(queue) == count
        bob.messaging.resume(conn_id)
        assert alice.network.run_until(lambda: len(bob.received) == count)
