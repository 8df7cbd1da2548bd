"""The inbox of a Peer: how much it holds, and what happens when it is full."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from snakemq import FLAG_PERSISTENT, Message, Peer
from snakemq.peer import ReceivedMessage
from snakemq.peer._inbox import MESSAGE_COST, Inbox
from snakemq.storage import MemoryQueuesStorage
from tests.helpers import DEADLINE, wait_until
from tests.layers.peers import Recorder, connected_pair

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


def item(
    number: int,
    conn_id: str = "c1",
    size: int = 100 - MESSAGE_COST % 100,
    flags: int = 0,
) -> ReceivedMessage:
    message = Message(bytes(size), None, flags, str(number).encode())
    return ReceivedMessage("alice", message, conn_id)


def persistent(number: int, conn_id: str = "c1") -> ReceivedMessage:
    return item(number, conn_id, flags=FLAG_PERSISTENT)


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


def test_persistent_messages_are_not_dropped_though_nobody_reads_them(
    messaging: FakeMessaging, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = make(messaging, 3)
    for number, make_item in enumerate([item, persistent, item, persistent]):
        inbox.put(make_item(number))
    assert inbox.dropped == 1
    assert messaging.calls == []
    inbox.put(persistent(4, "c2"))
    assert inbox.dropped == 2  # both that could be
    assert messaging.calls == []
    inbox.put(persistent(5, "c2"))
    assert messaging.calls == [("pause", "c2")]
    assert caplog.messages[-1] == (
        "4 messages wait to be read, and nobody has read any; set on_message or call receive(): "
        "conn=c2 ident='alice' paused"
    )
    # For this there is no room, and its connection may bring other things.
    inbox.put(item(6, "c3"))
    assert inbox.dropped == 3
    assert messaging.calls == [("pause", "c2")]
    assert numbers(inbox) == [1, 3, 4, 5]
    messaging.run()
    assert messaging.calls == [("pause", "c2"), ("resume", "c2")]


def test_nothing_is_dropped_any_more_when_somebody_has_read(messaging: FakeMessaging) -> None:
    inbox = make(messaging, 2)
    inbox.put(item(0))
    inbox.put(item(1))
    received = inbox.get(0)
    assert received is not None
    for number in range(2, 6):
        inbox.put(item(number))
    assert inbox.dropped == 0
    assert messaging.calls == [("pause", "c1")]
    assert numbers(inbox) == [1, 2, 3, 4, 5]


def test_a_large_message_that_nobody_reads_pauses_nothing(messaging: FakeMessaging) -> None:
    inbox = make(messaging, 1)
    inbox.put(item(0, size=10 * UNIT))
    assert messaging.calls == []
    assert len(inbox) == 1


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
    assert "5 messages wait to be read: conn=c2 ident='alice' paused" in caplog.messages
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


def test_a_peer_that_is_paused_is_alive() -> None:
    """The other side probes it, and gets answers."""
    with connected_pair(bob={"inbox_limit": 1000}, alice={"keepalive": 0.02}) as (bob, alice):
        alice.messaging.keepalive_wait = DEADLINE
        bob.receive(0)
        gone = Recorder()
        alice.on_peer_disconnect.add(gone)
        for _ in range(10):
            alice.send("bob", bytes(1000))
        wait_until(lambda: bob._inbox._paused)
        pongs = Recorder()
        alice.packeter.on_packet_recv.add(
            lambda conn_id, packet: pongs(packet) if packet == b"\5" else None
        )
        pongs.wait(5)
        assert alice.ping("bob", DEADLINE) > 0
        assert bob._inbox._paused
        assert alice.queued("bob") > 0  # she keeps what he has not had
        assert gone == []
        assert len([next(bob.messages(DEADLINE)) for _ in range(10)]) == 10
        assert alice.flush(timeout=DEADLINE)


class Echo:
    def echo(self, value: int) -> int:
        return value


def test_a_worker_may_call_back_for_each_message_however_many_wait() -> None:
    """The replies come over the connection that is paused."""
    count = 100
    with connected_pair(bob={"inbox_limit": 2000}, alice={"serve": {"echo": Echo()}}) as (
        bob,
        alice,
    ):
        bob.receive(0)
        for _ in range(count):
            alice.send("bob", bytes(1000))
        echo = bob.proxy("alice", "echo").echo
        wait_until(lambda: bob._inbox._paused)
        for number in range(count):
            assert bob.receive(DEADLINE) is not None
            assert echo(number) == number


def test_calls_go_on_though_nobody_reads_persistent_messages() -> None:
    count = 100
    with connected_pair(
        bob={"inbox_limit": 2000, "serve": {"echo": Echo()}},
        alice={"storage": MemoryQueuesStorage(), "serve": {"echo": Echo()}},
    ) as (bob, alice):
        for _ in range(count):
            alice.send("bob", bytes(1000))
        wait_until(lambda: bob._inbox._paused)
        assert [alice.proxy("bob", "echo").echo(number) for number in range(3)] == [0, 1, 2]
        assert [bob.proxy("alice", "echo").echo(number) for number in range(3)] == [0, 1, 2]
        assert bob.inbox_dropped == 0
        assert len([next(bob.messages(DEADLINE)) for _ in range(count)]) == count


def test_what_was_held_back_when_the_connection_broke_comes_again() -> None:
    count = 50
    with connected_pair(bob={"inbox_limit": 2000}, alice={"reconnect_interval": 0.05}) as (
        bob,
        alice,
    ):
        bob.receive(0)
        for number in range(count):
            alice.send("bob", number.to_bytes(1000, "big"))
        wait_until(lambda: bob._inbox._paused)
        gone = Recorder()
        bob.on_peer_disconnect.add(gone)
        alice.link.call_soon(alice.link.close, *alice._shutdown._conn_ids)
        assert gone.wait() == ["alice"]
        received = [next(bob.messages(DEADLINE)) for _ in range(count)]
        assert [int.from_bytes(one.data, "big") for one in received] == list(range(count))
        assert not any(one.redelivered for one in received)
        assert alice.flush(timeout=DEADLINE)
