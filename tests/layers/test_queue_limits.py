"""Limits of queues: what happens when one is full, and that all room is given back."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final
from unittest.mock import Mock

import pytest

from snakemq._core.features import DeliveryFeature
from snakemq._stored import PAGE_MESSAGES
from snakemq.exceptions import QueueFull, StorageError
from snakemq.limits import DropReason, QueueLimits, WhenFull
from snakemq.link import Link
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.messaging import Messaging
from snakemq.packeter import Packeter
from snakemq.storage import MemoryQueuesStorage
from snakemq.testing import SimNetwork, SimStack
from tests.helpers import DEADLINE, wait_until
from tests.layers.delivery_support import Events, HandMade, data, numbered


@pytest.fixture
def network() -> SimNetwork:
    return SimNetwork(seed=1)


@pytest.fixture
def bob(network: SimNetwork) -> SimStack:
    return SimStack(network, "bob")


def limit(stack: SimStack, **limits: Any) -> None:
    stack.messaging.queue_limits = QueueLimits(**limits)


def waiting(stack: SimStack, ident: str) -> list[bytes]:
    """What is in a queue, in the order of leaving."""
    queue = stack.messaging.queues_manager.get_queue(ident)
    return [message.data for message in queue._outbox.messages()]


def sums(stack: SimStack) -> tuple[int, int]:
    """What is counted in total; it has to be the sum of the queues."""
    room = stack.messaging.queues_manager.room
    queues = stack.messaging.queues_manager.queues.values()
    assert room.messages == sum(queue.messages for queue in queues)
    assert room.bytes == sum(queue.bytes for queue in queues)
    return room.messages, room.bytes


def stored_sums(stack: SimStack) -> tuple[int, int]:
    """Likewise, in the storage."""
    room = stack.messaging.queues_manager.stored_room
    queues = stack.messaging.queues_manager.queues.values()
    assert room.messages == sum(queue.stored.messages for queue in queues)
    assert room.bytes == sum(queue.stored.bytes for queue in queues)
    return room.messages, room.bytes


class TestLimits:
    def test_by_default_a_million_small_messages_can_wait(self) -> None:
        limits = QueueLimits()
        assert limits.max_messages >= 1_000_000
        assert limits.max_bytes >= 1_000_000 * 500
        assert limits.total_messages >= limits.max_messages
        assert limits.when_full is WhenFull.REFUSE

    def test_by_default_ten_million_can_wait_in_the_storage(self) -> None:
        limits = QueueLimits()
        assert limits.max_stored_messages >= 10_000_000
        assert limits.max_stored_bytes >= 10_000_000 * 1000
        assert limits.total_stored_messages >= limits.max_stored_messages

    def test_they_are_in_force_from_the_start(self, bob: SimStack) -> None:
        manager = bob.messaging.queues_manager
        assert bob.messaging.queue_limits == QueueLimits()
        assert manager.room.limits == QueueLimits()
        assert manager.stored_room.limits.max_messages == QueueLimits().max_stored_messages
        assert manager.stored_room.limits.total_bytes == QueueLimits().total_stored_bytes

    @pytest.mark.parametrize(
        "name",
        [
            "max_messages",
            "max_bytes",
            "total_messages",
            "total_bytes",
            "max_stored_messages",
            "max_stored_bytes",
            "total_stored_messages",
            "total_stored_bytes",
        ],
    )
    def test_what_makes_no_sense_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            QueueLimits(**{name: 0})
        with pytest.raises(TypeError, match=f"{name} must be an int"):
            QueueLimits(**{name: 1.5})  # type: ignore[arg-type]

    def test_other_arguments(self, bob: SimStack) -> None:
        with pytest.raises(TypeError, match="WhenFull"):
            QueueLimits(when_full="block")  # type: ignore[arg-type]
        for timeout in (-1.0, float("nan")):
            with pytest.raises(ValueError, match="block_timeout"):
                QueueLimits(block_timeout=timeout)
        with pytest.raises(TypeError, match="QueueLimits"):
            bob.messaging.queue_limits = 5  # type: ignore[assignment]

    def test_they_can_be_asked_and_set_at_any_time(self, bob: SimStack) -> None:
        assert bob.messaging.queue_limits == QueueLimits()
        for payload in numbered(3):
            bob.send("raw", payload)
        limit(bob, max_messages=2)
        assert bob.messaging.queue_limits.max_messages == 2
        with pytest.raises(QueueFull):
            bob.send("raw", b"3")
        assert waiting(bob, "raw") == [b"0", b"1", b"2"], "what is queued stays"


class TestRefuse:
    @pytest.mark.parametrize("flags", [0, FLAG_PERSISTENT])
    @pytest.mark.parametrize("ttl", [None, 60])
    def test_messages(self, bob: SimStack, ttl: float | None, flags: int) -> None:
        limit(bob, max_messages=2)
        for payload in numbered(2):
            bob.send("raw", payload, ttl, flags)
        with pytest.raises(QueueFull, match="2 messages are queued for 'raw'"):
            bob.send("raw", b"2", ttl, flags)
        bob.send("other", b"0", ttl, flags)
        assert sums(bob) == (3, 3)

    def test_bytes(self, bob: SimStack) -> None:
        limit(bob, max_bytes=10)
        bob.send("raw", bytes(6))
        with pytest.raises(QueueFull, match="6 bytes are queued for 'raw', and 5 more"):
            bob.send("raw", bytes(5))
        bob.send("raw", bytes(4))
        bob.send("raw", b"")

    def test_messages_in_total(self, bob: SimStack) -> None:
        limit(bob, total_messages=3)
        for number in range(3):
            bob.send(f"peer {number}", b"x")
        with pytest.raises(QueueFull, match="3 messages are queued for all peers together"):
            bob.send("one more", b"x")

    def test_bytes_in_total(self, bob: SimStack) -> None:
        limit(bob, total_bytes=3)
        for number in range(3):
            bob.send(f"peer {number}", b"x")
        with pytest.raises(QueueFull, match="3 bytes are queued for all peers together"):
            bob.send("one more", b"x")

    def test_a_name_that_is_refused_costs_nothing(self, bob: SimStack, network: SimNetwork) -> None:
        limit(bob, total_messages=1)
        bob.send("first", b"x")
        for number in range(10):
            with pytest.raises(QueueFull):
                bob.send(f"peer {number}", b"x")
        network.run(1)
        bob.messaging.queues_manager.cleanup()
        assert list(bob.messaging.queues_manager.queues) == ["first"]

    def test_nothing_is_stored_that_is_refused(self, network: SimNetwork) -> None:
        storage = MemoryQueuesStorage()
        bob = SimStack(network, "bob", storage=storage)
        limit(bob, max_stored_messages=1)
        bob.send("raw", b"0", flags=FLAG_PERSISTENT)
        with pytest.raises(QueueFull, match="stored for 'raw'"):
            bob.send("raw", b"1", flags=FLAG_PERSISTENT)
        assert [item.data for item in storage.get_items("raw")] == [b"0"]

    def test_what_is_stored_takes_no_room_in_memory(self, network: SimNetwork) -> None:
        bob = SimStack(network, "bob", storage=MemoryQueuesStorage())
        limit(bob, max_messages=1, max_bytes=1, total_messages=1, total_bytes=1)
        for payload in numbered(5):
            bob.send("raw", payload, flags=FLAG_PERSISTENT)
        bob.send("raw", b"x")
        with pytest.raises(QueueFull, match="queued for 'raw'"):
            bob.send("raw", b"y")
        assert (sums(bob), stored_sums(bob)) == ((1, 1), (5, 5))

    def test_a_place_that_is_over_its_limit_does_not_refuse_what_is_for_the_other(
        self, network: SimNetwork
    ) -> None:
        """As when limits are lowered, or a storage was opened that holds more."""
        bob = SimStack(network, "bob", storage=MemoryQueuesStorage())
        for payload in numbered(5):
            bob.send("raw", payload, flags=FLAG_PERSISTENT)
            bob.send("raw", payload)
        limit(bob, total_stored_messages=2)
        assert bob.messaging.send_messages([("raw", Message(b"x", 60))]) == [True]
        with pytest.raises(QueueFull, match="stored"):
            bob.send("raw", b"y", flags=FLAG_PERSISTENT)
        limit(bob, total_messages=2)
        bob.send("raw", b"y", flags=FLAG_PERSISTENT)
        with pytest.raises(QueueFull, match="queued"):
            bob.send("raw", b"x")

    @pytest.mark.parametrize(
        "limits",
        [
            {"max_stored_messages": 3},
            {"max_stored_bytes": 3},
            {"total_stored_messages": 3},
            {"total_stored_bytes": 3},
        ],
    )
    def test_each_limit_of_the_storage(self, network: SimNetwork, limits: dict[str, int]) -> None:
        bob = SimStack(network, "bob", storage=MemoryQueuesStorage())
        limit(bob, **limits)
        for payload in numbered(3):
            bob.send("raw", payload, flags=FLAG_PERSISTENT)
        with pytest.raises(QueueFull):
            bob.send("raw", b"3", flags=FLAG_PERSISTENT)
        assert stored_sums(bob) == (3, 3)

    def test_what_the_storage_has_is_loaded_and_counts(self, network: SimNetwork) -> None:
        bob = SimStack(network, "bob", storage=MemoryQueuesStorage())
        for payload in numbered(5):
            bob.send("raw", payload, flags=FLAG_PERSISTENT)
        bob.crash()
        bob.restart()
        limit(bob, max_stored_messages=5)
        assert stored_sums(bob) == (5, 5)
        with pytest.raises(QueueFull):
            bob.send("raw", b"5", flags=FLAG_PERSISTENT)

    def test_a_batch_is_refused_as_a_whole(self, bob: SimStack) -> None:
        limit(bob, max_messages=3)
        bob.send("raw", b"x")
        with pytest.raises(QueueFull):
            bob.messaging.send_messages(
                [("other", Message(b"o", 60)), *(("raw", Message(p, 60)) for p in numbered(3))]
            )
        assert sums(bob) == (1, 1)
        assert bob.messaging.send_messages([("raw", Message(p, 60)) for p in numbered(2)])

    @pytest.mark.parametrize("limits", [{"total_messages": 3}, {"total_bytes": 3}])
    def test_a_batch_over_the_totals(self, bob: SimStack, limits: dict[str, int]) -> None:
        """Each queue alone would do."""
        limit(bob, **limits)
        batch = [(f"peer {number}", Message(b"x", 60)) for number in range(4)]
        with pytest.raises(QueueFull, match="batch"):
            bob.messaging.send_messages(batch)
        assert sums(bob) == (0, 0)
        bob.messaging.send_messages(batch[:3])

    def test_ttl_zero_to_one_who_is_not_there_needs_no_room(self, bob: SimStack) -> None:
        limit(bob, max_messages=1)
        bob.send("raw", b"x")
        assert not bob.messaging.send_message("raw", Message(b"now"))
        assert bob.messaging.send_messages([("raw", Message(b"now"))]) == [False]

    def test_urgent_messages_need_room_too(self, network: SimNetwork, bob: SimStack) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        limit(bob, max_messages=1)
        bob.send("raw", b"x")
        with pytest.raises(QueueFull):
            bob.messaging.send_message("raw", Message(b"u"), urgent=True)


class TestRoomIsGivenBack:
    """On each of the ways out."""

    @pytest.fixture
    def raw(self, network: SimNetwork, bob: SimStack) -> HandMade:
        made = HandMade(network, "raw", bob)
        made.greet()
        return made

    def test_acknowledged(self, network: SimNetwork, bob: SimStack, raw: HandMade) -> None:
        limit(bob, max_messages=2, max_bytes=20)
        for _ in range(2):
            bob.send("raw", bytes(10))
        network.run(1)
        with pytest.raises(QueueFull):
            bob.send("raw", b"")
        raw.acknowledge(1)
        assert sums(bob) == (1, 10)
        bob.send("raw", bytes(10))
        network.run(1)
        raw.acknowledge(3)
        assert sums(bob) == (0, 0)

    def test_sent_to_one_that_does_not_acknowledge(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        old = HandMade(network, "old", bob, window=None)
        old.greet()
        for flags in (0, FLAG_PERSISTENT):
            bob.send("old", bytes(10), flags=flags)
        assert sums(bob) == (2, 20)
        network.run(1)
        assert sums(bob) == (0, 0)

    def test_expired(self, network: SimNetwork, bob: SimStack) -> None:
        bob.send("away", bytes(10), ttl=5)
        bob.send("away", bytes(10), ttl=7, flags=FLAG_PERSISTENT)
        network.run(6)
        assert sums(bob) == (1, 10)
        network.run(2)
        assert sums(bob) == (0, 0)

    def test_the_connection_broke(self, network: SimNetwork, bob: SimStack, raw: HandMade) -> None:
        bob.send("raw", bytes(10), ttl=0)
        network.run(1)
        bob.send("raw", bytes(10), ttl=0)
        bob.messaging.send_message("raw", Message(bytes(10)), urgent=True)
        bob.send("raw", bytes(10))
        assert sums(bob) == (4, 40)
        bob.packeter.close(bob.link.connections[0])
        assert sums(bob) == (1, 10)
        del raw

    def test_popped(self, bob: SimStack) -> None:
        bob.send("away", bytes(10))
        bob.messaging.queues_manager.get_queue("away").pop()
        assert sums(bob) == (0, 0)

    def test_dropped(self, bob: SimStack) -> None:
        limit(bob, max_messages=2, when_full=WhenFull.DROP_OLDEST)
        for _ in range(5):
            bob.send("away", bytes(10))
        assert sums(bob) == (2, 20)

    def test_not_stored(self, network: SimNetwork) -> None:
        class Storage(MemoryQueuesStorage):
            def change_items(self, *args: Any, **options: Any) -> list[int]:
                raise StorageError("the disk is full")

        bob = SimStack(network, "bob", storage=Storage())
        for _ in range(3):
            with pytest.raises(StorageError):
                bob.send("away", bytes(10), flags=FLAG_PERSISTENT)
        assert sums(bob) == (0, 0)


class TestDropOldest:
    @pytest.fixture(autouse=True)
    def limits(self, bob: SimStack) -> None:
        limit(bob, max_messages=3, max_bytes=30, when_full=WhenFull.DROP_OLDEST)

    def test_the_oldest_go_and_that_is_told(self, network: SimNetwork, bob: SimStack) -> None:
        events = Events(bob)
        events.send("away", *numbered(5))
        assert waiting(bob, "away") == [b"2", b"3", b"4"]
        assert events == [], "callbacks come from the loop"
        network.run(0.1)
        assert events == [("queue full", b"0"), ("queue full", b"1")]
        assert bob.messaging.queues_manager.room.overflowed == 2

    def test_as_many_as_it_takes(self, network: SimNetwork, bob: SimStack) -> None:
        events = Events(bob)
        events.send("away", bytes(10), bytes(11), bytes(9), bytes(20))
        network.run(0.1)
        assert [len(payload) for payload in waiting(bob, "away")] == [9, 20]
        assert len(events) == 2

    def test_they_leave_the_storage_too(self, network: SimNetwork) -> None:
        storage = MemoryQueuesStorage()
        bob = SimStack(network, "stored", storage=storage)
        limit(bob, max_stored_messages=3, when_full=WhenFull.DROP_OLDEST)
        events = Events(bob)
        for payload in numbered(5):
            events.send("away", payload, flags=FLAG_PERSISTENT)
        network.run(0.1)
        assert [item.data for item in storage.get_items("away")] == [b"2", b"3", b"4"]
        assert events.of("queue full") == [b"0", b"1"]
        assert stored_sums(bob) == (3, 3)
        assert bob.messaging.overflowed == 2

    def test_of_each_kind_the_oldest(self, network: SimNetwork) -> None:
        storage = MemoryQueuesStorage()
        bob = SimStack(network, "stored", storage=storage)
        limit(bob, max_stored_messages=2, max_messages=2, when_full=WhenFull.DROP_OLDEST)
        events = Events(bob)
        for number in range(3):
            events.send("raw", b"stored %d" % number, flags=FLAG_PERSISTENT)
            events.send("raw", b"not %d" % number)
        network.run(0.1)
        assert events.of("queue full") == [b"stored 0", b"not 0"]
        raw = HandMade(network, "raw", bob)
        raw.greet()
        network.run(1)
        assert raw.data == [b"stored 1", b"not 1", b"stored 2", b"not 2"]
        assert (sums(bob), stored_sums(bob)) == ((2, 10), (2, 16))
        raw.acknowledge(4)
        network.run(1)
        assert (sums(bob), stored_sums(bob)) == ((0, 0), (0, 0))
        assert storage.get_queues() == []

    def test_what_is_on_the_disk_only_is_dropped_in_pages(self, network: SimNetwork) -> None:
        storage = MemoryQueuesStorage()
        bob = SimStack(network, "stored", storage=storage)
        count = 3 * PAGE_MESSAGES
        for payload in numbered(count):
            bob.send("away", payload, flags=FLAG_PERSISTENT)
        bob.crash()
        bob.restart()
        limit(bob, max_stored_messages=10, when_full=WhenFull.DROP_OLDEST)
        bob.send("away", b"new", flags=FLAG_PERSISTENT)
        network.run(5)
        left = [item.data for item in storage.get_items("away")]
        assert left == [*list(numbered(count))[-9:], b"new"]
        assert stored_sums(bob)[0] == 10

    def test_what_is_on_its_way_is_not_dropped(self, network: SimNetwork, bob: SimStack) -> None:
        raw = HandMade(network, "raw", bob, DeliveryFeature(2, 1000))
        raw.greet()
        events = Events(bob)
        for payload in numbered(5):
            events.send("raw", payload)
            network.run(0.1)
        assert events.of("queue full") == [b"2", b"3"]
        assert waiting(bob, "raw") == [b"0", b"1", b"4"]
        raw.acknowledge(2)
        assert raw.data == [b"0", b"1", b"4"]

    def test_if_all_is_on_its_way_it_is_refused(self, network: SimNetwork, bob: SimStack) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        events = Events(bob)
        events.send("raw", *numbered(3))
        network.run(0.1)
        with pytest.raises(QueueFull):
            bob.send("raw", b"3")
        network.run(0.1)
        assert events.of("queue full") == []

    def test_one_that_can_never_fit_drops_nothing(self, network: SimNetwork, bob: SimStack) -> None:
        events = Events(bob)
        events.send("away", *numbered(3))
        with pytest.raises(QueueFull):
            bob.send("away", bytes(31))
        with pytest.raises(QueueFull):
            bob.messaging.send_messages([("away", Message(b"", 60))] * 4)
        network.run(0.1)
        assert waiting(bob, "away") == [b"0", b"1", b"2"]
        assert events == []

    def test_the_messages_of_others_are_not_dropped(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        limit(bob, total_messages=4, when_full=WhenFull.DROP_OLDEST)
        events = Events(bob)
        events.send("one", *numbered(3))
        events.send("two", *numbered(2, 10))
        network.run(0.1)
        assert waiting(bob, "one") == [b"0", b"1", b"2"]
        assert waiting(bob, "two") == [b"11"]
        with pytest.raises(QueueFull):
            bob.messaging.send_messages([("two", Message(b"", 60))] * 2)
        assert waiting(bob, "two") == [b"11"], "nothing is dropped for nothing"

    def test_a_batch_for_several(self, network: SimNetwork, bob: SimStack) -> None:
        limit(bob, total_messages=4, when_full=WhenFull.DROP_OLDEST)
        for name in ("one", "two"):
            for payload in (b"old", b"older"):
                bob.send(name, payload)
        batch = [(name, Message(b"new", 60)) for name in ("one", "two", "one", "two")]
        assert bob.messaging.send_messages(batch) == [True] * 4
        network.run(0.1)
        assert waiting(bob, "one") == waiting(bob, "two") == [b"new", b"new"]
        assert sums(bob) == (4, 12)

    def test_what_was_sent_before_and_is_to_be_repeated(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        """It waits again; the receiver is not confused by what is missing."""
        raw = HandMade(network, "raw", bob)
        raw.greet()
        for payload in numbered(3):
            bob.send("raw", payload)
        network.run(0.1)
        assert raw.connection
        raw.link.close(raw.connection)
        network.run(0.1)
        bob.send("raw", b"3")
        raw.reconnect()
        assert raw.data == [b"1", b"2", b"3"]
        assert [sequence[1:] for sequence in raw.sequences] == [(1, 0, 2)]


class TestBlock:
    """With a thread that waits, and so on a real link."""

    @pytest.fixture
    def messaging(self) -> Iterator[Messaging]:
        link = Link()
        made = Messaging("bob", "", Packeter(link))
        made.queue_limits = QueueLimits(max_messages=1, when_full=WhenFull.BLOCK)
        loop = threading.Thread(target=link.loop)
        loop.start()
        yield made
        link.stop()
        loop.join(DEADLINE)
        link.cleanup()
        made.close()

    def waits(self, messaging: Messaging, func: Callable[[], object]) -> list[object]:
        """Runs it in a thread that has to wait; where its outcome will be."""
        outcome: list[object] = []

        def run() -> None:
            try:
                outcome.append(func())
            except QueueFull as exc:
                outcome.append(exc)

        self.thread = threading.Thread(target=run)
        self.thread.start()
        wait_until(lambda: messaging.queues_manager.room._waiters == 1)
        assert not outcome
        return outcome

    def test_until_there_is_room(self, messaging: Messaging) -> None:
        messaging.send_message("away", Message(b"1", 1))
        outcome = self.waits(messaging, lambda: messaging.send_message("away", Message(b"2", 60)))
        self.thread.join(DEADLINE)  # the first one expires
        assert outcome == [True]
        assert messaging.queued_messages("away") == 1

    def test_room_elsewhere_does_not_help(self, messaging: Messaging) -> None:
        messaging.send_message("away", Message(b"1", None))
        messaging.send_message("other", Message(b"1", None))
        outcome = self.waits(messaging, lambda: messaging.send_message("away", Message(b"2", 60)))
        other = messaging.queues_manager.get_queue("other")
        messaging.call_soon(other.pop)
        wait_until(lambda: len(other) == 0)
        assert not outcome
        messaging.call_soon(messaging.queues_manager.get_queue("away").pop)
        self.thread.join(DEADLINE)
        assert outcome == [True]

    def test_not_longer_than_it_was_told_to(self, messaging: Messaging) -> None:
        messaging.queue_limits = QueueLimits(
            max_messages=1, when_full=WhenFull.BLOCK, block_timeout=0.05
        )
        messaging.send_message("away", Message(b"1", None))
        start = messaging.time()
        with pytest.raises(QueueFull):
            messaging.send_message("away", Message(b"2", None))
        assert messaging.time() - start >= 0.05
        assert messaging.queued_messages("away") == 1

    def test_in_the_thread_of_the_loop_it_is_refused_at_once(self, messaging: Messaging) -> None:
        messaging.send_message("away", Message(b"1", None))
        outcome: list[BaseException] = []

        def send() -> None:
            try:
                messaging.send_message("away", Message(b"2", None))
            except QueueFull as exc:
                outcome.append(exc)

        messaging.call_soon(send)
        wait_until(lambda: outcome)

    @pytest.mark.parametrize("count", [1, 2])
    def test_what_can_never_fit_is_refused_at_once(self, messaging: Messaging, count: int) -> None:
        messaging.queue_limits = QueueLimits(max_messages=1, max_bytes=10, when_full=WhenFull.BLOCK)
        batch = [("away", Message(bytes(11 if count == 1 else 1), None))] * count
        with pytest.raises(QueueFull):
            messaging.send_messages(batch)

    def test_higher_limits_let_in_who_waits(self, messaging: Messaging) -> None:
        messaging.send_message("away", Message(b"1", None))
        outcome = self.waits(messaging, lambda: messaging.send_message("away", Message(b"2", 60)))
        messaging.queue_limits = QueueLimits(max_messages=2, when_full=WhenFull.BLOCK)
        self.thread.join(DEADLINE)
        assert outcome == [True]

    def test_a_batch_waits_as_a_whole(self, messaging: Messaging) -> None:
        messaging.queue_limits = QueueLimits(max_messages=2, when_full=WhenFull.BLOCK)
        queue = messaging.queues_manager.get_queue("away")
        for _ in range(2):
            messaging.send_message("away", Message(b"1", None))
        batch = [("away", Message(b"2", 60)), ("away", Message(b"3", 60))]
        outcome = self.waits(messaging, lambda: messaging.send_messages(batch))
        messaging.call_soon(queue.pop)
        wait_until(lambda: len(queue) == 1)
        assert not outcome
        messaging.call_soon(queue.pop)
        self.thread.join(DEADLINE)
        assert outcome == [[True, True]]
        assert len(queue) == 2

    def test_who_waits_is_woken_by_the_end(self) -> None:
        messaging = Messaging("bob", "", Packeter(Link()))
        messaging.queue_limits = QueueLimits(max_messages=1, when_full=WhenFull.BLOCK)
        messaging.send_message("away", Message(b"1", None))
        outcome = self.waits(messaging, lambda: messaging.send_message("away", Message(b"2", 60)))
        messaging.close()
        self.thread.join(DEADLINE)
        messaging.packeter.link.cleanup()
        assert isinstance(outcome[0], QueueFull)


def test_nothing_persistent_is_accepted_after_the_end(network: SimNetwork) -> None:
    """It would not be on the disk when ``send_message`` returns."""
    bob = SimStack(network, "bob", storage=MemoryQueuesStorage())
    bob.close()
    with pytest.raises(StorageError, match="closed"):
        bob.send("away", b"x", flags=FLAG_PERSISTENT)


class TestDropCallbacks:
    """``on_message_drop`` has two arguments as in 1.6, or a third one: why."""

    @pytest.fixture
    def drop(self, network: SimNetwork, bob: SimStack) -> Callable[[Any], None]:
        """Drops ``expired`` (5 s) and ``full`` with a callback in place."""

        def drop(callback: Any) -> None:
            limit(bob, max_messages=1, when_full=WhenFull.DROP_OLDEST)
            bob.messaging.on_message_drop.add(callback)
            for uuid in (b"full", b"expired"):
                bob.messaging.send_message("away", Message(b"", 5, 0, uuid))
            network.run(6)

        return drop

    TWO: Final = [("away", b"full"), ("away", b"expired")]
    THREE: Final = [
        ("away", b"full", DropReason.QUEUE_FULL),
        ("away", b"expired", DropReason.EXPIRED),
    ]

    def test_two(self, drop: Callable[[Any], None]) -> None:
        calls: list[tuple[object, ...]] = []
        drop(lambda ident, uuid: calls.append((ident, uuid)))
        assert calls == self.TWO

    def test_three(self, drop: Callable[[Any], None]) -> None:
        calls: list[tuple[object, ...]] = []
        drop(lambda ident, uuid, reason: calls.append((ident, uuid, reason)))
        assert calls == self.THREE

    def test_any_number_is_two(self, drop: Callable[[Any], None]) -> None:
        """A program of 1.6 may count on what it gets."""
        calls: list[tuple[object, ...]] = []
        drop(lambda *args: calls.append(args))
        assert calls == self.TWO

    def test_a_mock_is_two(self, drop: Callable[[Any], None]) -> None:
        mock = Mock()
        drop(mock)
        assert [call.args for call in mock.call_args_list] == self.TWO

    def test_methods(self, drop: Callable[[Any], None]) -> None:
        class Program:
            def __init__(self) -> None:
                self.calls: list[tuple[object, ...]] = []

            def two(self, ident: str, uuid: bytes) -> None:
                self.calls.append((ident, uuid))

            def __call__(self, ident: str, uuid: bytes, reason: DropReason) -> None:
                self.calls.append((ident, uuid, reason))

        one, other = Program(), Program()

        def both(callback: Any) -> None:
            drop(callback)

        # The second adds to what is there.
        both(one.two)
        assert one.calls == self.TWO
        one.calls.clear()
        both(other)
        assert one.calls == self.TWO
        assert other.calls == self.THREE

    def test_a_partial(self, drop: Callable[[Any], None]) -> None:
        calls: list[tuple[object, ...]] = []

        def callback(name: str, ident: str, uuid: bytes) -> None:
            calls.append((name, ident, uuid))

        drop(functools.partial(callback, "name"))
        assert calls == [("name", *two) for two in self.TWO]

    def test_one_written_in_c(self, drop: Callable[[Any], None]) -> None:
        calls: dict[str, bytes] = {}
        drop(calls.setdefault)
        assert calls == {"away": b"full"}

    def test_one_that_raises_does_not_stop_the_others(
        self, bob: SimStack, drop: Callable[[Any], None]
    ) -> None:
        errors: list[tuple[str | None, Exception]] = []
        bob.messaging.on_error.add(lambda conn, exc: errors.append((conn, exc)))
        bob.messaging.on_message_drop.add(lambda ident, uuid: 1 / 0)
        calls: list[tuple[object, ...]] = []
        drop(lambda ident, uuid, reason: calls.append((ident, uuid, reason)))
        assert calls == self.THREE
        assert [(conn, type(exc)) for conn, exc in errors] == [(None, ZeroDivisionError)] * 2

    def test_nobody_asks(self, network: SimNetwork, bob: SimStack) -> None:
        bob.send("away", b"", ttl=1)
        network.run(2)
        assert data(bob) == []
        assert sums(bob) == (0, 0)
