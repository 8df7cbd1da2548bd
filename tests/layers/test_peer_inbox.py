"""The inbox of a Peer: how much it holds, and what happens when it is full."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from snakemq import Message, Peer
from snakemq.peer import ReceivedMessage
from snakemq.peer._inbox import MESSAGE_COST, Inbox
from tests.helpers import DEADLINE, wait_until
from tests.layers.peers import connected_pair

LOG = logging.getLogger("tests.inbox")


class FakeMessaging:
    """What an inbox asks of messaging."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.soon: list[tuple[Any, ...]] = []
        self.gone: set[str] = set()

    def time(self) -> float:
        return 0.0

    def call_soon(self, func: Any, *args: object) -> None:
        self.soon.append((func, *args))

    def run(self) -> None:
        while self.soon:
            func, *args = self.soon.pop(0)
            func(*args)

    def pause(self, conn_id: str) -> None:
        self._call("pause", conn_id)

    def resume(self, conn_id: str) -> None:
        self._call("resume", conn_id)

    def _call(self, name: str, conn_id: str) -> None:
        if conn_id in self.gone:
            raise KeyError(conn_id)
        self.calls.append((name, conn_id))


def item(number: int, conn_id: str = "c1", size: int = 100 - MESSAGE_COST % 100) -> ReceivedMessage:
    return ReceivedMessage("alice", Message(bytes(size), uuid=str(number).encode()), conn_id)


#: What one of these items counts.
UNIT = MESSAGE_COST + 100 - MESSAGE_COST % 100


def numbers(inbox: Inbox) -> list[int]:
    found = []
    while (received := inbox.get(0)) is not None:
        found.append(int(received.uuid))
    return found


@pytest.fixture
def messaging() -> FakeMessaging:
    return FakeMessaging()


def make(messaging: FakeMessaging, units: int) -> Inbox:
    return Inbox(messaging, units * UNIT, LOG)  # type: ignore[arg-type]


def test_what_nobody_reads_is_dropped_the_oldest_first(
    messaging: FakeMessaging, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = make(messaging, 3)
    for number in range(5):
        inbox.put(item(number))
    assert inbox.dropped == 2
    assert numbers(inbox) == [2, 3, 4]
    assert messaging.calls == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "set on_message or call receive()" in record.getMessage()


def test_a_flood_that_nobody_reads_is_no_flood_of_log_records(
    messaging: FakeMessaging, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = make(messaging, 1)
    for number in range(1201):
        inbox.put(item(number))
    assert inbox.dropped == 1200
    assert len(caplog.records) == 4  # at the 1st, the 10th, the 100th, the 1000th
    assert "1000 of the oldest" in caplog.messages[-1]


def test_a_message_over_the_limit_is_kept_if_it_is_alone(messaging: FakeMessaging) -> None:
    inbox = make(messaging, 2)
    inbox.put(item(0))
    inbox.put(item(1, size=10 * UNIT))
    assert numbers(inbox) == [1]
    inbox.put(item(2))
    assert numbers(inbox) == [2]


def test_a_slow_reader_pauses_the_connections_that_bring_more(
    messaging: FakeMessaging, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = make(messaging, 4)
    assert inbox.get(0) is None  # now there is a reader
    for number in range(4):
        inbox.put(item(number, "c1"))
    assert messaging.calls == []
    inbox.put(item(4, "c2"))
    inbox.put(item(5, "c2"))  # was on its way already
    inbox.put(item(6, "c3"))
    assert messaging.calls == [("pause", "c2"), ("pause", "c3")]
    assert inbox.dropped == 0
    assert "5 messages wait to be read: conn=c2 ident=alice paused" in caplog.messages
    messaging.calls.clear()
    for number in range(4):
        received = inbox.get(0)
        assert received is not None
        assert int(received.uuid) == number
    messaging.run()
    assert messaging.calls == []  # more than half is left
    assert inbox.get(0) is not None
    messaging.run()
    assert sorted(messaging.calls) == [("resume", "c2"), ("resume", "c3")]
    assert numbers(inbox) == [5, 6]


def test_connections_may_go_while_they_are_paused(messaging: FakeMessaging) -> None:
    inbox = make(messaging, 1)
    inbox.get(0)
    for number, conn_id in enumerate(["c1", "c1", "c2", "c3"]):
        inbox.put(item(number, conn_id))
    inbox.forget("c1")
    messaging.gone.add("c2")  # nobody has told the inbox yet
    messaging.gone.add("c4")
    inbox.put(item(4, "c4"))
    messaging.calls.clear()
    assert numbers(inbox) == [0, 1, 2, 3, 4]
    messaging.run()
    assert messaging.calls == [("resume", "c3")]


def test_a_reader_that_was_faster_than_the_pause_ends_it() -> None:
    messaging = FakeMessaging()
    inbox = make(messaging, 1)
    inbox.get(0)

    def read_everything(conn_id: str) -> None:
        messaging.calls.append(("pause", conn_id))
        numbers(inbox)

    messaging.pause = read_everything  # type: ignore[method-assign]
    inbox.put(item(0))
    inbox.put(item(1))
    messaging.run()
    assert messaging.calls == [("pause", "c1"), ("resume", "c1")]


def test_closing_lets_the_readers_go() -> None:
    messaging = FakeMessaging()
    inbox = make(messaging, 2)
    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(inbox.get, None) for _ in range(2)]
        inbox.put(item(1))
        wait_until(lambda: any(reader.done() for reader in readers))
        inbox.close()
        results = [reader.result(DEADLINE) for reader in readers]
    assert sum(result is None for result in results) == 1


# With real peers.


def test_a_slow_reader_gets_every_message_in_order() -> None:
    count, size = 400, 10_000
    limit = 20 * (size + MESSAGE_COST)
    with connected_pair(bob={"inbox_limit": limit}) as (bob, alice):
        bob.receive(0)
        for number in range(count):
            alice.send("bob", number.to_bytes(4, "big") + bytes(size - 4))
        wait_until(lambda: bob._inbox._paused)
        got = []
        for received in bob.messages(DEADLINE):
            got.append(int.from_bytes(received.data[:4], "big"))
            if len(got) == count:
                break
    assert got == list(range(count))


def test_a_peer_that_reads_nothing_can_still_make_calls() -> None:
    class Echo:
        def echo(self, value: int) -> int:
            return value

    with connected_pair(bob={"inbox_limit": 10_000}) as (bob, alice):
        alice.serve(Echo(), "echo")
        for _ in range(100):
            alice.send("bob", bytes(1000))
        echo = bob.proxy("alice", "echo")
        assert [echo.echo(number) for number in range(10)] == list(range(10))
        assert bob.inbox_dropped > 0
        assert len(bob._inbox) > 0


def test_the_reader_of_one_peer_does_not_disturb_the_other_direction() -> None:
    with connected_pair(bob={"inbox_limit": 1000}) as (bob, alice):
        bob.receive(0)
        for _ in range(100):
            alice.send("bob", bytes(1000))
        wait_until(lambda: bob._inbox._paused)
        bob.send("alice", "I am busy")
        received = alice.receive(DEADLINE)
        assert received is not None
        assert received.text == "I am busy"
        bob.stop(drain=0)  # else alice waits until her messages are read


def test_reading_and_receiving_at_the_same_time_loses_nothing() -> None:
    count = 5000
    with connected_pair(bob={"inbox_limit": 3 * MESSAGE_COST}) as (bob, alice):
        started = threading.Event()

        def read(peer: Peer) -> list[str]:
            started.set()
            texts = []
            for received in peer.messages(DEADLINE):
                texts.append(received.text)
                if len(texts) == count:
                    break
            return texts

        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read, bob)
            assert started.wait(DEADLINE)
            wait_until(lambda: bob._inbox._read)
            for number in range(count):
                alice.send("bob", str(number))
            assert reading.result(2 * DEADLINE) == [str(number) for number in range(count)]
