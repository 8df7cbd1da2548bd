"""Queues: order, what is in flight, TTL on a clock that the test turns."""

from __future__ import annotations

import random
import threading

import pytest

from snakemq.exceptions import StorageError
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.queues import Queue, QueuesManager
from snakemq.storage import MemoryQueuesStorage


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Fixture:
    def __init__(self, storage: MemoryQueuesStorage | None = None) -> None:
        self.clock = Clock()
        self.dropped: list[bytes] = []
        self.storage = storage
        self.open()

    def open(self) -> None:
        self.manager = QueuesManager(self.storage, clock=self.clock)
        self.manager.on_item_drop.add(lambda name, uuid: self.dropped.append(uuid))

    def queue(self, name: str = "q") -> Queue:
        return self.manager.get_queue(name)


def data(messages: list[Message]) -> list[bytes]:
    return [message.data for message in messages]


def take(queue: Queue, count: int = 1000, size: int = 10**9) -> list[bytes]:
    return data(queue.take(count, size))


def test_get_leaves_and_pop_removes() -> None:
    queue = Fixture().queue()
    queue.push(Message(b"a", ttl=None))
    queue.push(Message(b"b", ttl=5))
    assert len(queue) == 2
    for expected in (b"a", b"b"):
        first, second = queue.get(), queue.get()
        assert first is not None
        assert second is not None
        assert first.data == second.data == expected
        queue.pop()
    assert queue.get() is None
    queue.pop()
    assert len(queue) == 0


def test_take_is_limited_by_count_and_bytes() -> None:
    queue = Fixture().queue()
    for number in range(6):
        queue.push(Message(b"%d" % number * 10, ttl=None))
    assert take(queue, 2) == [b"0" * 10, b"1" * 10]
    assert take(queue, 100, 11) == [b"2" * 10, b"3" * 10]
    assert take(queue, 0) == []
    assert queue.in_flight == 4
    assert len(queue) == 6


def test_what_is_in_flight_comes_back_in_front_and_in_order() -> None:
    queue = Fixture().queue()
    queue.connect()
    for number in range(5):
        queue.push(Message(b"%d" % number, ttl=None if number % 2 else 60))
    assert take(queue, 4) == [b"0", b"1", b"2", b"3"]
    assert len(queue.sent(1)) == 1
    queue.disconnect()
    assert queue.in_flight == 0
    queue.connect()
    assert take(queue) == [b"1", b"2", b"3", b"4"]


def test_zero_ttl_needs_a_connected_peer() -> None:
    fixture = Fixture()
    queue = fixture.queue()
    queue.push(Message(b"away"))
    assert len(queue) == 0
    assert fixture.dropped == [], "as in 1.6 there is no notice"
    queue.connect()
    queue.push(Message(b"here", uuid=b"1"))
    queue.push(Message(b"for ever", ttl=None))
    assert len(queue) == 2
    queue.disconnect()
    assert fixture.dropped == [b"1"]
    queue.connect()
    assert take(queue) == [b"for ever"]


def test_zero_ttl_pushed_while_the_peer_was_leaving_is_not_for_its_next_connection() -> None:
    fixture = Fixture()
    queue = fixture.queue()
    queue.connect()
    queue.disconnect()
    queue._append(Message(b"late", uuid=b"1"))  # a thread that still saw it connected
    queue.connect()
    assert take(queue) == []
    assert fixture.dropped == [b"1"]


def test_zero_ttl_in_flight_is_dropped_with_the_connection() -> None:
    fixture = Fixture()
    queue = fixture.queue()
    queue.connect()
    for number in range(3):
        queue.push(Message(b"%d" % number, uuid=b"%d" % number))
    assert take(queue, 2) == [b"0", b"1"]
    queue.sent(1)
    queue.disconnect()
    assert fixture.dropped == [b"1", b"2"]
    assert len(queue) == 0


def test_ttl_runs_only_while_the_peer_is_away() -> None:
    fixture = Fixture()
    queue = fixture.queue()
    queue.connect()
    queue.push(Message(b"a", ttl=10))
    fixture.clock.now += 100  # connected
    queue.disconnect()
    fixture.clock.now += 4
    queue.connect()
    fixture.clock.now += 100
    message = queue.get()
    assert message is not None
    assert message.ttl == 6
    queue.disconnect()
    fixture.clock.now += 5
    queue.expire()
    assert len(queue) == 1
    fixture.clock.now += 1
    queue.expire()
    assert len(queue) == 0
    assert len(fixture.dropped) == 1


def test_time_before_it_was_pushed_does_not_count() -> None:
    fixture = Fixture()
    queue = fixture.queue()
    fixture.clock.now += 1000
    queue.push(Message(b"a", ttl=10))
    fixture.clock.now += 9
    queue.connect()
    assert take(queue) == [b"a"]


def test_what_is_taken_carries_what_remains_and_the_senders_message_is_not_changed() -> None:
    fixture = Fixture()
    queue = fixture.queue()
    message = Message(b"a", ttl=10)
    queue.push(message)
    fixture.clock.now += 3
    queue.connect()
    (taken,) = queue.take(1, 100)
    assert (taken.ttl, message.ttl) == (7, 10)
    assert taken.uuid == message.uuid


def test_the_next_expiry() -> None:
    fixture = Fixture()
    queue = fixture.queue()
    assert queue.next_expiry() is None
    queue.push(Message(b"a", ttl=None))
    assert queue.next_expiry() is None
    queue.push(Message(b"b", ttl=20))
    queue.push(Message(b"c", ttl=10))
    assert queue.next_expiry() == fixture.clock.now + 10
    queue.connect()
    assert queue.next_expiry() is None


def test_the_expired_in_the_middle_are_left_out() -> None:
    fixture = Fixture()
    queue = fixture.queue()
    for number in range(200):
        ttl = None if number % 20 == 0 else 5
        queue.push(Message(b"%d" % number, ttl=ttl, uuid=b"%d" % number))
    fixture.clock.now += 6
    queue.expire()
    assert len(queue) == 10
    assert len(queue._waiting) < 30, "the dead do not stay for long"
    assert len(fixture.dropped) == 190
    queue.connect()
    assert take(queue) == [b"%d" % number for number in range(0, 200, 20)]


def test_a_few_expired_among_many_stay_but_do_not_count() -> None:
    fixture = Fixture()
    queue = fixture.queue()
    for number in range(100):
        queue.push(Message(b"%d" % number, ttl=5 if number == 50 else None))
    fixture.clock.now += 6
    queue.expire()
    assert len(queue) == 99
    queue.connect()
    assert len(take(queue)) == 99
    assert len(queue) == 99
    queue.sent(99)
    assert len(queue) == 0


def test_persistent_messages_are_in_the_storage_until_they_are_sent() -> None:
    fixture = Fixture(MemoryQueuesStorage())
    storage = fixture.storage
    assert storage is not None
    queue = fixture.queue()
    queue.connect()
    queue.push(Message(b"a", ttl=None, flags=FLAG_PERSISTENT))
    queue.push(Message(b"b", ttl=None))
    queue.push(Message(b"c", ttl=9, flags=FLAG_PERSISTENT))
    queue.push(Message(b"d", ttl=0, flags=FLAG_PERSISTENT))
    assert data(storage.get_items("q")) == [b"a", b"c"]
    take(queue, 3)
    assert data(storage.get_items("q")) == [b"a", b"c"]
    queue.sent(1)
    assert data(storage.get_items("q")) == [b"c"]
    queue.sent(2)
    assert data(storage.get_items("q")) == []


def test_what_was_stored_is_there_after_a_restart_and_downtime_does_not_count() -> None:
    fixture = Fixture(MemoryQueuesStorage())
    fixture.queue().push(Message(b"a", ttl=10, flags=FLAG_PERSISTENT))
    fixture.queue("r").push(Message(b"b", ttl=None, flags=FLAG_PERSISTENT))
    fixture.queue("s").push(Message(b"c", ttl=None))
    fixture.clock.now += 4
    fixture.manager.close()
    fixture.clock.now += 1000
    fixture.open()
    assert sorted(fixture.manager.queues) == ["q", "r"]
    message = fixture.queue().get()
    assert message is not None
    assert (message.data, message.ttl) == (b"a", 6)
    fixture.clock.now += 7
    fixture.queue().expire()
    assert len(fixture.queue()) == 0
    assert fixture.storage is not None
    assert data(fixture.storage.get_items("q")) == []


def test_the_same_uuid_twice_is_two_messages() -> None:
    fixture = Fixture(MemoryQueuesStorage())
    queue = fixture.queue()
    queue.connect()
    for _ in range(2):
        queue.push(Message(b"again", ttl=None, flags=FLAG_PERSISTENT, uuid=b"same"))
    take(queue)
    queue.sent(1)
    assert fixture.storage is not None
    assert len(fixture.storage.get_items("q")) == 1


class FullStorage(MemoryQueuesStorage):
    def push(self, queue_name: str, item: Message) -> None:
        raise StorageError("the disk is full")


def test_a_message_that_can_not_be_stored_is_refused() -> None:
    queue = Fixture(FullStorage()).queue()
    with pytest.raises(StorageError):
        queue.push(Message(b"a", ttl=None, flags=FLAG_PERSISTENT))
    assert len(queue) == 0


def test_only_empty_queues_of_absent_peers_are_forgotten() -> None:
    fixture = Fixture()
    fixture.queue("full").push(Message(b"a", ttl=None))
    fixture.queue("connected").connect()
    fixture.queue("empty")
    fixture.manager.cleanup()
    assert sorted(fixture.manager.queues) == ["connected", "full"]


def test_forgetting_a_queue_again_leaves_its_successor_alone() -> None:
    fixture = Fixture()
    old = fixture.queue()
    assert old.forget()
    new = fixture.queue()
    new.push(Message(b"a", ttl=None))
    assert old.forget()
    assert fixture.queue() is new


def test_a_timer_set_for_the_expiry_finds_it_expired() -> None:
    # With sums that can't be represented there would be one rounding left.
    for start in range(200):
        fixture = Fixture()
        fixture.clock.now = 0.1 * start
        queue = fixture.queue()
        fixture.clock.now += 0.7
        queue.push(Message(b"a", ttl=2.0))
        when = queue.next_expiry()
        assert when is not None
        fixture.clock.now = when
        queue.expire()
        assert len(queue) == 0


def test_a_message_pushed_into_a_forgotten_queue_finds_the_new_one() -> None:
    for storage in (None, MemoryQueuesStorage()):
        fixture = Fixture(storage)
        old = fixture.queue()
        assert old.forget()
        old.push(Message(b"a", ttl=None))
        old.push(Message(b"b", ttl=5, flags=FLAG_PERSISTENT))
        assert fixture.queue() is not old
        assert take(fixture.queue()) == [b"a", b"b"]


@pytest.mark.slow
@pytest.mark.parametrize("flags", [0, FLAG_PERSISTENT])
def test_pushing_while_queues_are_forgotten_loses_and_doubles_nothing(flags: int) -> None:
    fixture = Fixture(MemoryQueuesStorage() if flags else None)
    manager = fixture.manager
    count = 3000
    done = threading.Event()
    got: list[tuple[int, int]] = []

    def produce(producer: int) -> None:
        for number in range(count):
            payload = b"%d %d" % (producer, number)
            ttl = random.choice([None, 1000])
            manager.get_queue("q").push(Message(payload, ttl=ttl, flags=flags))

    def consume() -> None:
        # What the loop's thread does.
        while True:
            last = done.is_set()
            queue = manager.queues.get("q")
            if queue is not None:
                queue.connect()
                for message in queue.take(100, 10**6):
                    producer, number = message.data.split()
                    got.append((int(producer), int(number)))
                queue.sent(queue.in_flight)
                queue.disconnect()
                queue.forget()
            if last:
                return

    consumer = threading.Thread(target=consume)
    consumer.start()
    producers = [threading.Thread(target=produce, args=(i,)) for i in range(2)]
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join()
    while len(got) < 2 * count and consumer.is_alive() and manager.queues:
        consumer.join(0.01)
    done.set()
    consumer.join()
    for number in range(2):
        assert [n for p, n in got if p == number] == list(range(count))


def test_pushing_and_popping_cost_the_same_in_a_long_queue() -> None:
    queue = Fixture().queue()
    for _ in range(200_000):
        queue.push(Message(b"", ttl=None))
    queue.connect()
    taken = 0
    while queue.waiting:
        taken += len(queue.take(1000, 10**9))
        queue.sent(queue.in_flight)
    assert taken == 200_000


def test_a_storage_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="QueuesStorageBase"):
        QueuesManager("storage.db")  # type: ignore[arg-type]
