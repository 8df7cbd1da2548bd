"""Queues: order, what is in flight, TTL on a clock that the test turns."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Sequence

import pytest

from snakemq.exceptions import StorageError
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.queues import Queue, QueuesManager
from snakemq.storage import MemoryQueuesStorage, QueuesStorageBase, Removal


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


def lock_is_held(manager: QueuesManager) -> bool:
    """By any thread: another one can't have it."""
    tried: list[bool] = []

    def try_it() -> None:
        tried.append(manager.room.lock.acquire(blocking=False))
        if tried[0]:
            manager.room.lock.release()

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    return not tried[0]


def data(messages: list[Message]) -> list[bytes]:
    return [message.data for message in messages]


def take(queue: Queue, count: int = 1000, size: int = 10**9) -> list[bytes]:
    """What messaging takes one after the other, as far as there is room."""
    found: list[Message] = []
    while len(found) < count:
        left = size - sum(len(message.data) for message in found)
        taken = queue.take(count - len(found), left).messages if left > 0 else []
        if not taken:
            break
        found += taken
    return data(found)


def connect(queue: Queue, *, confirms_all: bool = True) -> None:
    """What messaging does when it knows what the peer can do."""
    queue.connect()
    queue.expect_confirmations(of_all=confirms_all)


def arrive(queue: Queue, count: int) -> list[bytes]:
    """The peer has confirmed the first ``count`` messages in flight."""
    queue.sent(count)
    return data(queue.confirmed(count))


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


def test_what_is_not_confirmed_comes_back_in_front_and_in_order() -> None:
    queue = Fixture().queue()
    connect(queue)
    for number in range(5):
        queue.push(Message(b"%d" % number, ttl=None if number % 2 else 60))
    assert take(queue, 4) == [b"0", b"1", b"2", b"3"]
    told, left = queue.sent(2)
    assert (data(told), left) == ([b"0", b"1"], [])
    assert data(queue.confirmed(1)) == [b"0"]
    assert (len(queue), queue.in_flight, queue.flying()[1], queue.flying()[2]) == (4, 2, 3, 3)
    queue.disconnect()
    assert (len(queue), queue.in_flight, queue.flying()[1], queue.flying()[2]) == (4, 0, 0, 0)
    connect(queue)
    again, new = queue.take(10, 1000), queue.take(10, 1000)
    assert (data(again.messages), again.number, again.repeated) == ([b"1"], 1, True)
    assert (data(new.messages), new.number, new.repeated) == ([b"2", b"3", b"4"], 2, False)


def test_toward_a_peer_without_acknowledgements_only_persistent_ones_wait_for_a_word() -> None:
    """As messaging does it toward 1.6, with pings."""
    queue = Fixture(MemoryQueuesStorage()).queue()
    connect(queue, confirms_all=False)
    for number in range(4):
        flags = FLAG_PERSISTENT if number % 2 else 0
        queue.push(Message(b"%d" % number, ttl=None, flags=flags))
    assert take(queue, 3) == [b"0", b"1", b"2"]
    told, left = queue.sent(3)
    assert (data(told), data(left)) == ([b"0", b"1", b"2"], [b"0", b"2"])
    assert (len(queue), queue.flying()[1]) == (2, 1), "1 waits for a word, 3 to be sent"
    queue.disconnect()
    connect(queue, confirms_all=False)
    again = queue.take(10, 1000)
    assert (data(again.messages), again.stored) == ([b"1"], 1)
    assert queue.sent(1) == ([], []), "it was told of"
    assert data(queue.confirmed(1)) == [b"1"]
    assert take(queue) == [b"3"]
    assert arrive(queue, 1) == [b"3"]
    assert len(queue) == 0


def test_each_queue_has_a_stream_of_its_own() -> None:
    """Numbers begin anew with each, so no two may be mistaken for one: not in one
    process, nor in the next one of the same name."""
    fixture = Fixture()
    streams = []
    for _ in range(50):
        queue = fixture.queue()
        streams.append(queue.stream)
        assert queue.forget()
    fixture.open()
    streams.append(fixture.queue().stream)
    assert {len(stream) for stream in streams} == {8}
    assert len(set(streams)) == len(streams)
    program = "import snakemq.queues as q; print(q.QueuesManager().get_queue('q').stream.hex())"
    others = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
        for _ in range(2)
    }
    assert len(others) == 2


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
    connect(queue)
    # A thread that saw it connected, and had to wait for the storage.
    reserved = fixture.manager.reserve([("q", Message(b"late", uuid=b"1"))])
    queue.disconnect()
    assert len(queue) == 1
    fixture.manager.append(reserved)
    connect(queue)
    assert take(queue) == []
    assert fixture.dropped == [b"1"]
    assert len(queue) == 0


def test_zero_ttl_in_flight_is_dropped_with_the_connection() -> None:
    fixture = Fixture()
    queue = fixture.queue()
    queue.connect()
    for number in range(3):
        queue.push(Message(b"%d" % number, uuid=b"%d" % number))
    assert take(queue, 2) == [b"0", b"1"]
    queue.sent(1)
    queue.disconnect()
    assert fixture.dropped == [b"0", b"1", b"2"], "sent is not acknowledged"
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
    (taken,) = queue.take(1, 100).messages
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
    assert len(queue._outbox.waiting) < 30, "the dead do not stay for long"
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
    assert len(arrive(queue, 99)) == 99
    assert len(queue) == 0


def test_persistent_messages_are_in_the_storage_until_they_are_confirmed() -> None:
    fixture = Fixture(MemoryQueuesStorage())
    storage = fixture.storage
    assert storage is not None
    queue = fixture.queue()
    connect(queue)
    queue.push(Message(b"a", ttl=None, flags=FLAG_PERSISTENT))
    queue.push(Message(b"b", ttl=None))
    queue.push(Message(b"c", ttl=9, flags=FLAG_PERSISTENT))
    queue.push(Message(b"d", ttl=0, flags=FLAG_PERSISTENT))
    assert data(storage.get_items("q")) == [b"a", b"c"]
    take(queue, 4)
    queue.sent(4)
    assert data(storage.get_items("q")) == [b"a", b"c"]
    queue.confirmed(2)
    assert data(storage.get_items("q")) == [b"c"]
    queue.confirmed(2)
    assert data(storage.get_items("q")) == []
    assert list(storage.get_queues()) == []


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


def test_what_an_earlier_process_may_have_sent_is_told_apart() -> None:
    fixture = Fixture(MemoryQueuesStorage())
    for number in range(3):
        fixture.queue().push(Message(b"%d" % number, ttl=None, flags=FLAG_PERSISTENT))
    fixture.manager.close()
    fixture.open()
    queue = fixture.queue()
    queue.push(Message(b"3", ttl=None, flags=FLAG_PERSISTENT))
    connect(queue)
    assert queue.take(2, 1000).stored == 2
    assert queue.take(9, 1000).stored == 1
    last = queue.take(9, 1000)
    assert (data(last.messages), last.number, last.stored) == ([b"3"], 3, 0)


class CountingStorage(MemoryQueuesStorage):
    """Notes what is done about time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[object] = []

    def advance_ttl(self, queue_name: str, seconds: float) -> None:
        self.calls.append((queue_name, seconds))
        super().advance_ttl(queue_name, seconds)

    def update_items_ttl(self, items: Sequence[Message]) -> None:
        self.calls.append([item.ttl for item in items])
        super().update_items_ttl(items)


class Storage16(CountingStorage):
    """One that was written for 1.6."""

    advance_ttl = QueuesStorageBase.advance_ttl


def test_the_storage_is_told_of_the_time_once_however_many_messages_there_are() -> None:
    """1.6 wrote each row at each connect."""
    storage = CountingStorage()
    fixture = Fixture(storage)
    queue = fixture.queue()
    for _ in range(100):
        queue.push(Message(b"a", ttl=100, flags=FLAG_PERSISTENT))
        queue.push(Message(b"b", ttl=None, flags=FLAG_PERSISTENT))
    assert storage.calls == []
    fixture.clock.now += 30
    connect(queue)
    assert storage.calls == [("q", 30)]
    fixture.clock.now += 1000
    queue.push(Message(b"c", ttl=100, flags=FLAG_PERSISTENT))
    queue.disconnect()
    fixture.clock.now += 5
    queue.push(Message(b"d", ttl=100, flags=FLAG_PERSISTENT))
    fixture.clock.now += 1
    fixture.manager.close()
    assert storage.calls == [("q", 30), ("q", 5), ("q", 1)]
    remains = {item.data: item.ttl for item in storage.get_items("q")}
    assert remains == {b"a": 64, b"b": None, b"c": 94, b"d": 99}


def test_no_time_is_stored_where_nothing_depends_on_it() -> None:
    storage = CountingStorage()
    fixture = Fixture(storage)
    queue = fixture.queue()
    queue.push(Message(b"a", ttl=None, flags=FLAG_PERSISTENT))
    queue.push(Message(b"b", ttl=100))
    fixture.clock.now += 30
    connect(queue)
    queue.disconnect()
    fixture.manager.close()
    assert storage.calls == []


def test_a_storage_written_for_1_6_gets_each_ttl() -> None:
    storage = Storage16()
    fixture = Fixture(storage)
    queue = fixture.queue()
    queue.push(Message(b"a", ttl=100, flags=FLAG_PERSISTENT))
    queue.push(Message(b"b", ttl=None, flags=FLAG_PERSISTENT))
    fixture.clock.now += 30
    queue.push(Message(b"c", ttl=100, flags=FLAG_PERSISTENT))
    connect(queue)
    assert storage.calls == [[70]]
    assert [item.ttl for item in storage.get_items("q")] == [70, None, 100]


class BrokenClockStorage(MemoryQueuesStorage):
    def advance_ttl(self, queue_name: str, seconds: float) -> None:
        raise OSError("no space left on device")


def test_time_that_can_not_be_stored_is_logged_and_holds_nobody_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fixture = Fixture(BrokenClockStorage())
    queue = fixture.queue()
    queue.push(Message(b"a", ttl=100, flags=FLAG_PERSISTENT))
    fixture.clock.now += 30
    connect(queue)
    assert take(queue) == [b"a"]
    assert "no space left" in caplog.text


def test_many_are_queued_together_or_not_at_all() -> None:
    class Storage(MemoryQueuesStorage):
        broken = False

        def change_items(
            self,
            push: Sequence[tuple[str, Message]],
            remove: Sequence[Removal] = (),
            *,
            sync: bool = True,
        ) -> list[int]:
            assert not lock_is_held(manager), "a disk is slow"
            if self.broken:
                raise StorageError("the disk is full")
            return super().change_items(push, remove, sync=sync)

    storage = Storage()
    fixture = Fixture(storage)
    manager = fixture.manager
    batch = [
        ("a", Message(b"1", ttl=None, flags=FLAG_PERSISTENT)),
        ("b", Message(b"22", ttl=60)),
        ("a", Message(b"333", ttl=60, flags=FLAG_PERSISTENT)),
        ("nobody", Message(b"", ttl=0)),
    ]
    storage.broken = True
    with pytest.raises(StorageError):
        manager.push_many(batch)
    for room in (manager.room, manager.stored_room):
        assert (room.messages, room.bytes) == (0, 0)
    assert not any(len(queue) for queue in manager.queues.values())
    storage.broken = False
    manager.push_many(batch)
    assert (manager.room.messages, manager.room.bytes) == (1, 2)
    assert (manager.stored_room.messages, manager.stored_room.bytes) == (2, 4)
    assert data(storage.get_items("a")) == [b"1", b"333"]
    assert list(storage.get_queues()) == ["a"]
    for name, expected in (("a", [b"1", b"333"]), ("b", [b"22"])):
        connect(fixture.queue(name))
        assert take(fixture.queue(name)) == expected


def test_room_that_is_taken_keeps_a_queue_from_being_forgotten() -> None:
    fixture = Fixture()
    reserved = fixture.manager.reserve([("q", Message(b"a", ttl=None))])
    queue = fixture.queue()
    assert not queue.forget()
    fixture.manager.append(reserved)
    connect(queue)
    assert take(queue) == [b"a"]


def test_room_that_is_given_up_is_free_again() -> None:
    fixture = Fixture()
    reserved = fixture.manager.reserve([("q", Message(b"abc", ttl=None))])
    assert (len(fixture.queue()), fixture.queue().bytes) == (1, 3)
    fixture.manager.release(reserved)
    assert (len(fixture.queue()), fixture.queue().bytes) == (0, 0)
    assert fixture.queue().forget()


def test_the_same_uuid_twice_is_two_messages() -> None:
    fixture = Fixture(MemoryQueuesStorage())
    queue = fixture.queue()
    queue.connect()
    for _ in range(2):
        queue.push(Message(b"again", ttl=None, flags=FLAG_PERSISTENT, uuid=b"same"))
    take(queue)
    arrive(queue, 1)
    assert fixture.storage is not None
    assert len(fixture.storage.get_items("q")) == 1


class FullStorage(MemoryQueuesStorage):
    def change_items(self, *args: object, **options: object) -> list[int]:
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
                connect(queue)
                for message in queue.take(100, 10**6).messages:
                    producer, number = message.data.split()
                    got.append((int(producer), int(number)))
                arrive(queue, queue.in_flight)
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
    connect(queue)
    taken = 0
    while queue.waiting:
        taken += len(take(queue))
        arrive(queue, queue.in_flight)
    assert taken == 200_000


def test_a_storage_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="QueuesStorageBase"):
        QueuesManager("storage.db")  # type: ignore[arg-type]
