"""Large records go in parts, and others between them."""

from __future__ import annotations

import logging
import queue
import random
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from snakemq._core.features import Feature, encode_features
from snakemq._core.frames import FRAME_VERSION, FrameType, encode_identification
from snakemq._core.rpc_parts import MIN_WINDOW, PART_SIZE, REQUEST_PARTS, encode_part
from snakemq._peer_log import LINES_PER_PEER
from snakemq.exceptions import PacketTooLarge, QueueFull
from snakemq.limits import QueueLimits, WhenFull
from snakemq.link import Link
from snakemq.message import Message
from snakemq.messaging import Messaging, ReceiveHook
from snakemq.packeter import Packeter
from snakemq.rpc._parts import PartReceiver, PartSender
from snakemq.rpc.errors import CallError
from snakemq.testing import Conditions, SimNetwork, SimStack
from tests.helpers import DEADLINE, wait_until
from tests.layers.delivery_support import HandMade
from tests.layers.delivery_support import message as message_frame
from tests.layers.rpc_fakes import FakeHook, FakeMessaging

MB = 1_000_000


def record(size: int, filling: bytes = b".") -> bytes:
    return b"rpcreq".ljust(size, filling)


class Ends:
    """Both ends of parts on one stack, and what comes of them."""

    def __init__(self, stack: SimStack, max_size: int = 1 << 30) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.failures: list[tuple[str, bytes, Exception]] = []
        self.arrived: list[tuple[str, bytes]] = []
        self.sender = PartSender(
            stack.hook,
            REQUEST_PARTS,
            lambda *failure: self.failures.append(failure),
            arrived=lambda _, ident, key: self.arrived.append((ident, key)),
        )
        self.receiver = PartReceiver(stack.hook, REQUEST_PARTS, self.deliver, max_size=max_size)
        stack.hook.register(b"rpcreq", self.deliver)

    def deliver(self, conn_id: str, ident: str, message: Message) -> None:
        self.received.append((ident, message.data))

    @property
    def data(self) -> list[bytes]:
        return [data for _, data in self.received]


class World:
    """Alice and bob, 10 ms away.

    :param speed: of alice, in bytes per second
    """

    def __init__(self, speed: float = MB, **of_bob: int) -> None:
        self.network = SimNetwork(conditions=Conditions(delay=0.01))
        self.alice = SimStack(self.network, "alice", throttle=speed)
        self.bob = SimStack(self.network, "bob")
        self.of_alice = Ends(self.alice)
        self.of_bob = Ends(self.bob, **of_bob)
        self.sender = self.of_alice.sender

    def connect(self) -> None:
        self.alice.connect(self.bob)
        self.until(lambda: self.alice.messaging.peer_features("bob") is not None)

    def until(self, condition: Callable[[], object]) -> float:
        """Run until then; how long it took."""
        start = self.network.time()
        assert self.network.run_until(condition, 600)
        return self.network.time() - start

    def break_off(self) -> None:
        self.network.cut("alice", "bob")
        self.until(lambda: not self.alice.messaging.is_connected("bob"))
        self.until(lambda: not self.bob.messaging.is_connected("alice"))

    def assert_nothing_is_left(self) -> None:
        assert self.sender.waiting_bytes() == 0
        assert self.of_bob.receiver.held_bytes == 0
        for remote in self.sender._remotes.values():
            assert not remote.flying
            assert not remote.unsent
            assert remote.unsent_bytes == 0
            assert [lane.window.flying for lane in remote.lanes] == [0, 0]
        assert not self.alice.messaging.queued_messages()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.connect()
    yield world
    world.alice.close()
    world.bob.close()


def test_a_large_record_arrives_as_one(world: World) -> None:
    data = record(3 * MB)
    most = 0
    assert world.sender.send("bob", data)

    def arrived() -> bool:
        nonlocal most
        queue = world.alice.messaging.queues_manager.get_queue("bob")
        most = max(most, queue.bytes)
        return bool(world.of_bob.received)

    seconds = world.until(arrived)
    assert world.of_bob.received == [("alice", data)]
    # The way is used, and it has never waited as a whole.
    assert 3 < seconds < 4
    assert MIN_WINDOW / 2 < most < 2 * MIN_WINDOW
    world.until(lambda: not world.alice.messaging.queued_messages())
    world.assert_nothing_is_left()
    assert not world.of_alice.failures


def test_there_is_no_copy_of_the_whole(world: World) -> None:
    world.bob.messaging.on_message_recv.remove(world.bob._receive)  # which keeps all messages
    data = record(20 * MB)
    tracemalloc.start()
    try:
        world.sender.send("bob", data)
        world.until(lambda: world.of_bob.received)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # What was received, as it grows, and what is on its way.
    assert peak < 1.25 * len(data) + 4 * MIN_WINDOW


def test_a_long_and_wide_way_is_used() -> None:
    world = World(speed=50 * MB)
    for way in (("alice", "bob"), ("bob", "alice")):
        # As far as bytes can be under way here: what the systems buffer.
        buffers: dict[str, Any] = {
            "send_buffer": 1 << 23,
            "recv_buffer": 1 << 23,
            "max_chunk": 1 << 23,
        }
        world.network.set_conditions(*way, delay=0.05, **buffers)
    world.connect()
    world.sender.send("bob", record(100 * MB))
    # With the smallest window it would take 40 seconds.
    assert world.until(lambda: world.of_bob.received) < 6


@pytest.mark.parametrize("size", [PART_SIZE - 1, PART_SIZE, PART_SIZE + 1, 2 * PART_SIZE])
def test_from_which_size_on_it_goes_in_parts(world: World, size: int) -> None:
    assert world.sender.send("bob", record(size), urgent=True)
    world.until(lambda: world.of_bob.received)
    assert world.of_bob.data == [record(size)]
    # The stack counts all messages.
    assert len(world.bob.received) == -(-size // PART_SIZE)


def test_several_take_turns(world: World) -> None:
    for size in (5, 1, 2):
        world.sender.send("bob", record(size * MB), key=b"%d" % size)
    world.until(lambda: len(world.of_bob.received) == 3)
    assert [len(data) for data in world.of_bob.data] == [MB, 2 * MB, 5 * MB]
    world.until(lambda: len(world.of_alice.arrived) == 3)
    assert world.of_alice.arrived == [("bob", b"1"), ("bob", b"2"), ("bob", b"5")]
    world.until(lambda: not world.alice.messaging.queued_messages())
    world.assert_nothing_is_left()


@pytest.mark.parametrize("urgent", [False, True])
def test_a_small_one_waits_for_no_more_than_the_window(world: World, urgent: bool) -> None:
    alone = 0.0
    for beside in (False, True):
        if beside:
            world.sender.send("bob", record(20 * MB), urgent=urgent)
            world.network.run(5)  # in the middle of it
        waits = []
        for number in range(20):
            data = b"rpcreq %d %d" % (beside, number)
            world.sender.send("bob", data)
            waits.append(world.until(lambda data=data: data in world.of_bob.data))  # type: ignore[misc]
            world.network.run(0.1)
        if beside:
            # A window on the way, and what the loops take.
            assert max(waits) < alone + 1.2 * MIN_WINDOW / MB
            assert len(record(20 * MB)) not in [len(data) for data in world.of_bob.data]
        else:
            alone = max(waits)


def test_one_waits_once_in_a_queue_that_is_never_empty(world: World) -> None:
    """Not for each window of it."""
    before = [world.alice.send("bob", bytes(100_000)).data for _ in range(30)]

    def refill(conn_id: str, ident: str, uuid: bytes) -> None:
        world.alice.send("bob", bytes(100_000))

    world.alice.messaging.on_message_acked.add(refill)
    world.sender.send("bob", record(2 * MB))
    messages_before = 0

    def arrived() -> bool:
        nonlocal messages_before
        if not world.of_bob.receiver.held_bytes and not world.of_bob.received:
            messages_before = len(world.bob.received)
        return bool(world.of_bob.received)

    # 3 seconds for what was there before, 2 for itself, and a little more for others.
    assert world.until(arrived) < 3 + 2 + 4
    assert messages_before >= len(before)
    # Others are not kept waiting, either.
    others = [m for _, m in world.bob.received if not m.data.startswith(b"rpc")]
    assert len(others) > len(before) + 5
    assert len(world.of_bob.data[0]) == 2 * MB


def test_one_that_comes_before_it_is_known_what_the_other_side_can_do(world: World) -> None:
    world.break_off()
    ready: list[bool] = []
    world.alice.messaging.on_connect.add(
        lambda _, ident: ready.append(
            world.alice.messaging.peer_features("bob") is None
            and world.sender.send("bob", record(MB))
        )
    )
    world.until(lambda: world.of_bob.received)
    assert ready == [True]
    assert world.of_bob.data == [record(MB)]


class TestOtherPeers:
    def test_one_of_1_6_gets_one_message(self) -> None:
        network = SimNetwork()
        bob = SimStack(network, "bob")
        ends = Ends(bob)
        raw = HandMade(network, "raw", bob, None)
        raw.answers = False
        raw.greet()
        keys = [b"0123456789abcdef", b"fedcba9876543210"]
        assert ends.sender.send("raw", record(MB), key=keys[0])
        network.run(1)
        assert raw.data == []  # until its pong
        raw.say(bytes([FrameType.PONG]))
        assert network.run_until(lambda: raw.data)
        assert ends.sender.send("raw", record(2 * MB), key=keys[1], urgent=True)
        assert network.run_until(lambda: len(raw.data) == 2)
        assert raw.data == [record(MB), record(2 * MB)]
        assert [message.uuid for message in raw.messages] == keys
        assert ends.sender.waiting_bytes() == 0
        bob.packeter.max_packet_size = MB
        with pytest.raises(PacketTooLarge):
            ends.sender.send("raw", record(MB))

    def test_one_that_can_not_get_it_is_told_later(self) -> None:
        network = SimNetwork()
        bob = SimStack(network, "bob")
        ends = Ends(bob)
        raw = HandMade(network, "raw", bob, None)
        raw.answers = False
        raw.greet()
        bob.packeter.max_packet_size = MB
        assert ends.sender.send("raw", record(MB), key=b"key")
        raw.say(bytes([FrameType.PONG]))
        network.run(1)
        ((ident, key, failure),) = ends.failures
        assert (ident, key) == ("raw", b"key")
        assert isinstance(failure, PacketTooLarge)
        assert raw.data == []

    def test_one_that_does_not_acknowledge(self) -> None:
        network = SimNetwork()
        bob = SimStack(network, "bob")
        ends = Ends(bob)
        raw = HandMade(network, "raw", bob, None)
        features = bytes([FrameType.FEATURES]) + encode_features({Feature.CALLS: b""})
        raw.say(FRAME_VERSION, encode_identification("raw"), features)
        ends.sender.send("raw", record(10 * MIN_WINDOW))
        assert network.run_until(lambda: len(raw.data) == 10 * MIN_WINDOW // PART_SIZE)
        assert {len(data) - 38 for data in raw.data} == {PART_SIZE}

    def test_nobody(self, world: World) -> None:
        assert not world.sender.send("carol", record(MB))
        assert not world.sender.send("carol", record(10))
        assert world.sender.waiting_bytes() == 0


class TestLimits:
    def test_there_is_a_largest_record(self, world: World) -> None:
        world.sender._max_size = MB
        assert world.sender.send("bob", record(MB))
        with pytest.raises(PacketTooLarge):
            world.sender.send("bob", record(MB + 1))

    def test_there_is_a_limit_for_what_waits(self, world: World) -> None:
        world.alice.messaging.queue_limits = QueueLimits(max_bytes=3 * MB)
        for _ in range(3):
            world.sender.send("bob", record(MB))
        with pytest.raises(QueueFull, match="3000000 bytes"):
            world.sender.send("bob", record(MB))
        world.alice.messaging.queue_limits = QueueLimits(total_bytes=3 * MB)
        with pytest.raises(QueueFull, match="all peers"):
            world.sender.send("bob", record(MB))
        world.until(lambda: len(world.of_bob.received) == 3)

    def test_where_there_is_no_room_a_part_waits(self, world: World) -> None:
        world.sender.send("bob", record(MB))
        world.sender.send("bob", record(MB), urgent=True)
        messaging = world.alice.messaging
        messaging.queue_limits = QueueLimits(max_messages=1, max_bytes=2 * MB)
        world.until(lambda: world.sender._remotes["bob"].retry_timer)
        world.network.run(2)
        messaging.queue_limits = QueueLimits()
        world.until(lambda: len(world.of_bob.received) == 2)
        world.until(lambda: not world.alice.messaging.queued_messages())
        world.assert_nothing_is_left()

    def test_one_of_which_a_part_waits_for_room_is_given_up(self, world: World) -> None:
        world.sender.send("bob", record(MB), key=b"key")
        messaging = world.alice.messaging
        messaging.queue_limits = QueueLimits(max_messages=1, max_bytes=2 * MB)
        world.until(lambda: world.sender._remotes["bob"].retry_timer)
        assert world.sender.cancel("bob", b"key")
        messaging.queue_limits = QueueLimits()
        world.network.run(2)
        world.assert_nothing_is_left()
        assert world.of_bob.received == []

    def test_a_part_that_is_dropped_for_newer_messages(self, world: World) -> None:
        limits = QueueLimits(max_bytes=4 * MB, when_full=WhenFull.DROP_OLDEST)
        world.alice.messaging.queue_limits = limits
        # So that the parts wait in the queue, where they can be dropped.
        world.alice.send("bob", bytes(MB))
        world.sender.send("bob", record(3 * MB), key=b"key")
        world.network.run(0.1)
        for _ in range(4):
            world.alice.send("bob", bytes(MB - 1000))
        world.until(lambda: world.of_alice.failures)
        ((ident, key, failure),) = world.of_alice.failures
        assert (ident, key) == ("bob", b"key")
        assert isinstance(failure, QueueFull)
        world.until(lambda: not world.alice.messaging.queued_messages())
        world.assert_nothing_is_left()
        assert world.of_bob.received == []

    def test_one_that_is_refused(self, caplog: pytest.LogCaptureFixture) -> None:
        world = World(max_size=MB)
        world.connect()
        for key in (b"one", b"two"):
            world.sender.send("bob", record(2 * MB), key=key)
        world.sender.send("bob", record(MB))
        world.until(lambda: world.of_bob.received)
        assert world.of_bob.data == [record(MB)]
        assert [key for _, key, _ in world.of_alice.failures] == [b"one", b"two"]
        world.until(lambda: world.of_alice.arrived)
        assert world.of_alice.arrived == [("bob", b"")]
        for _, _, failure in world.of_alice.failures:
            assert isinstance(failure, CallError)
            assert "2000000 bytes are over the limit of 1000000 bytes" in str(failure)
        world.until(lambda: not world.alice.messaging.queued_messages())
        world.assert_nothing_is_left()
        complaints = [entry for entry in caplog.records if "conn=" in entry.getMessage()]
        assert len([entry for entry in complaints if entry.levelno >= logging.WARNING]) == 2

    def test_a_callback_that_raises_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        world = World(max_size=MB)
        world.connect()

        def fail(*_: object) -> None:
            raise RuntimeError("out of a callback")

        world.sender._failed = world.sender._arrived = fail
        for size in (MB, 2 * MB):
            world.sender.send("bob", record(size))
        world.until(lambda: caplog.text.count("RuntimeError: out of a callback") == 2)
        world.network.run(1)
        world.assert_nothing_is_left()


class TestCancel:
    def test_in_the_middle(self, world: World) -> None:
        world.sender.send("bob", record(5 * MB), key=b"five")
        world.sender.send("bob", record(3 * MB), key=b"three")
        world.network.run(1)
        assert world.of_bob.receiver.held_bytes > MIN_WINDOW
        assert world.sender.cancel("bob", b"five")
        assert not world.sender.cancel("bob", b"five")
        assert not world.sender.cancel("carol", b"five")
        seconds = world.until(lambda: world.of_bob.received)
        assert seconds < 3
        assert world.of_bob.data == [record(3 * MB)]
        world.until(lambda: not world.alice.messaging.queued_messages())
        world.assert_nothing_is_left()
        assert not world.of_alice.failures

    def test_before_it_is_known_what_the_other_side_can_do(self) -> None:
        network = SimNetwork()
        bob = SimStack(network, "bob")
        ends = Ends(bob)
        raw = HandMade(network, "raw", bob, None)
        raw.answers = False
        raw.greet()
        ends.sender.send("raw", record(MB), key=b"key")
        assert ends.sender.cancel("raw", b"key")
        raw.say(bytes([FrameType.PONG]))
        network.run(1)
        assert raw.data == []
        assert ends.sender.waiting_bytes() == 0


class TestDisconnect:
    def test_both_sides_forget_and_the_owner_repeats(self, world: World) -> None:
        world.sender.send("bob", record(5 * MB), key=b"key")
        world.sender.send("bob", record(5 * MB), urgent=True)
        world.network.run(2)
        world.break_off()
        world.assert_nothing_is_left()
        assert not world.sender._remotes
        world.until(lambda: world.alice.messaging.peer_features("bob"))
        world.network.run(5)
        assert world.of_bob.received == []
        world.sender.send("bob", record(5 * MB, b"!"))
        world.until(lambda: world.of_bob.received)
        assert world.of_bob.data == [record(5 * MB, b"!")]
        assert not world.of_alice.failures

    def test_while_a_part_waits_for_room(self, world: World) -> None:
        world.sender.send("bob", record(MB))
        world.alice.messaging.queue_limits = QueueLimits(max_messages=1, max_bytes=2 * MB)
        world.until(lambda: world.sender._remotes["bob"].retry_timer)
        world.break_off()
        world.assert_nothing_is_left()
        world.network.run(1)
        assert not world.sender._remotes

    def test_between_the_question_and_the_answer(self, world: World) -> None:
        """Another thread sends in the moment in which the connection ends."""
        sender = world.sender
        ask = world.alice.messaging.peer_features
        world.alice.messaging.peer_features = lambda ident: None  # type: ignore[method-assign]
        world.alice.messaging.is_connected = lambda ident: True  # type: ignore[method-assign]
        assert sender.send("nobody", record(MB))
        world.alice.messaging.peer_features = ask  # type: ignore[method-assign]
        del world.alice.messaging.is_connected
        world.network.run(1)
        assert not sender._remotes
        assert sender.waiting_bytes() == 0


def test_a_receiver_that_does_not_read_gets_no_more_than_the_window(world: World) -> None:
    conn_ids: list[str] = []
    world.bob.messaging.on_ready.add(lambda conn_id, _: conn_ids.append(conn_id))
    world.break_off()
    world.until(lambda: conn_ids and world.alice.messaging.peer_features("bob"))
    world.bob.messaging.pause(conn_ids[-1])
    world.sender.send("bob", record(3 * MB))
    world.network.run(60)
    assert world.sender.waiting_bytes("bob") == 3 * MB - MIN_WINDOW
    world.bob.messaging.resume(conn_ids[-1])
    world.until(lambda: world.of_bob.received)
    world.until(lambda: not world.alice.messaging.queued_messages())
    world.assert_nothing_is_left()


def test_parts_of_somebody_who_can_not_count(caplog: pytest.LogCaptureFixture) -> None:
    network = SimNetwork()
    bob = SimStack(network, "bob")
    ends = Ends(bob)
    raw = HandMade(network, "raw", bob)
    raw.greet()

    def part(offset: int, total: int, data: bytes) -> bytes:
        return message_frame(encode_part(REQUEST_PARTS, b"x" * 16, offset, total, data), 0)

    raw.say(raw.announce(0), part(0, 20, b"rpcreq"), part(7, 20, b"1"), part(6, 20, b"2"))
    raw.say(message_frame(b"rpcrqp too short", 0), message_frame(b"rpcrqx?", 0))
    network.run(1)
    assert ends.received == []
    assert ends.receiver.held_bytes == 0
    assert raw.data == [b"rpcrqx" + b"x" * 16 + b"the part before it is missing"]
    assert caplog.text.count("a record is not taken") == 2
    assert raw.acks[-1] == 5  # the connection is not affected
    raw.say(part(0, 20, b""), part(0, 7, b"rpcreq!"))
    network.run(1)
    assert ends.received == [("raw", b"rpcreq!")]
    assert bob.messaging.is_connected("raw")


def test_who_sends_parts_that_are_none_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = SimNetwork()
    bob = SimStack(network, "bob")
    ends = Ends(bob)
    for number in range(3):
        raw = HandMade(network, "raw", bob)
        raw.stream = b"stream %d" % number
        raw.greet()
        raw.say(raw.announce(0), *[message_frame(b"rpcrqp too short", 0)] * 15)
        network.run(0.1)
        assert raw.acks[-1] == 15
        raw.link.cleanup()
        network.run(0.1)
    assert caplog.text.count("a record is not taken") == LINES_PER_PEER
    assert ends.received == []


def test_closed_ends_neither_send_nor_receive(world: World) -> None:
    world.sender.send("bob", record(5 * MB))
    world.network.run(1)
    world.of_bob.receiver.close()
    world.of_bob.receiver.close()
    world.sender.close()
    world.sender.close()
    assert not world.sender.send("bob", record(MB))
    assert not world.sender.cancel("bob", b"")
    world.network.run(10)
    assert world.of_bob.received == []
    world.assert_nothing_is_left()
    # Others take their places.
    again = Ends(world.alice), Ends(world.bob)
    again[0].sender.send("bob", record(MB))
    world.until(lambda: again[1].received)


def test_who_sends_nothing_large_is_told_nothing(world: World) -> None:
    slot = world.alice.messaging.on_messages_acked
    before = slot.callbacks
    world.sender.send("bob", record(10))
    assert slot.callbacks == before
    world.sender.send("bob", record(MB))
    assert slot.callbacks == [*before, world.sender._handle_arrived]


def test_a_hook_that_was_cleared_does_not_keep_from_closing(world: World) -> None:
    world.sender.send("bob", record(MB))
    world.alice.hook.clear()
    world.sender.close()
    world.of_alice.receiver.close()
    assert world.sender._handle_ready not in world.alice.messaging.on_ready.callbacks


def test_packets_may_be_smaller_than_parts() -> None:
    network = SimNetwork()
    alice = SimStack(network, "alice")
    alice.packeter.max_packet_size = 1000
    ends = Ends(alice)
    bob = SimStack(network, "bob")
    of_bob = Ends(bob)
    alice.connect(bob)
    assert network.run_until(lambda: alice.messaging.peer_features("bob"))
    assert ends.sender.part_size < 1000
    for size in (ends.sender.part_size, 100_000):
        ends.sender.send("bob", record(size))
    assert network.run_until(lambda: len(of_bob.received) == 2)
    assert sorted(map(len, of_bob.data)) == [ends.sender.part_size, 100_000]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_they_arrive_whole_and_nothing_is_left(seed: int) -> None:
    """Connections break, bob is restarted, calls are given up; who waits asks again."""
    rng = random.Random(seed)
    conditions = Conditions(delay=0.01, jitter=0.05, split=0.1, partial_send=0.2)
    network = SimNetwork(seed, conditions=conditions, loop_delay=0.01)
    ends: list[Ends] = []
    alice = SimStack(network, "alice", throttle=MB)
    bob = SimStack(network, "bob", on_start=lambda stack: ends.append(Ends(stack)))
    of_alice = Ends(alice)
    sender = of_alice.sender
    outstanding: dict[bytes, tuple[bytes, bool]] = {}
    sent: set[bytes] = set()

    def arrived() -> set[bytes]:
        return {data for end in ends for data in end.data}

    def ask_again(conn_id: str, ident: str) -> None:
        for key, (data, urgent) in outstanding.items():
            if data not in arrived():
                sender.send("bob", data, key=key, urgent=urgent)

    alice.messaging.on_connect.add(ask_again)
    alice.connect(bob, 0.1)
    for number in range(40):
        action = rng.random()
        if action < 0.5:
            key = b"%d" % number
            data = b"rpcreq" + key + b" " + rng.randbytes(rng.randrange(1, 400_000))
            outstanding[key] = data, rng.random() < 0.5
            sent.add(data)
            sender.send("bob", data, key=key, urgent=outstanding[key][1])
        elif action < 0.6:
            alice.send("bob", bytes(rng.randrange(300_000)), ttl=rng.choice([0, None]))
        elif action < 0.75 and outstanding:
            key = rng.choice(list(outstanding))
            del outstanding[key]
            sender.cancel("bob", key)
        elif action < 0.85:
            network.cut("alice", "bob")
        elif action < 0.9:
            bob.crash()
            network.run(rng.random())
            bob.restart()
        network.run(rng.choice([0.0, 0.01, 0.1, 0.5]))
    everything = {data for data, _ in outstanding.values()}
    assert network.run_until(lambda: everything <= arrived(), 300)
    assert network.run_until(lambda: not alice.messaging.queued_messages(), 300)
    network.run(1)
    assert arrived() <= sent
    assert sender.waiting_bytes() == 0
    assert ends[-1].receiver.held_bytes == 0
    for remote in sender._remotes.values():
        assert not remote.flying
        assert not remote.unsent
        assert [lane.window.flying for lane in remote.lanes] == [0, 0]
        assert [len(lane) for lane in remote.lanes] == [0, 0]
    assert not of_alice.failures


class RealStack:
    """A peer with sockets, and the thread of its loop. It answers small records."""

    def __init__(self, name: str, port: int | None = None) -> None:
        self.link = Link()
        if port is None:
            self.address = self.link.add_listener(("127.0.0.1", 0))
        else:
            self.link.add_connector(("127.0.0.1", port))
        self.messaging = Messaging(name, "", Packeter(self.link))
        hook = ReceiveHook(self.messaging)
        self.large: list[int] = []
        self.answers: queue.Queue[bytes] = queue.Queue()
        self.failures: list[tuple[str, bytes, Exception]] = []
        self.sender = PartSender(hook, REQUEST_PARTS, lambda *args: self.failures.append(args))
        PartReceiver(hook, REQUEST_PARTS, lambda _, ident, m: self.large.append(len(m.data)))
        hook.register(b"rpcreq", self._answer)
        hook.register(b"rpcrep", lambda _, ident, message: self.answers.put(message.data))
        self._thread = threading.Thread(target=self.link.loop, name=name)
        self._thread.start()

    def _answer(self, conn_id: str, ident: str, message: Message) -> None:
        answer = Message(b"rpcrep" + message.data[6:])
        self.messaging.send_message(ident, answer, urgent=True)

    def call(self) -> None:
        """A small one, and wait for its answer."""
        assert self.sender.send("bob", b"rpcreq!")
        assert self.answers.get(timeout=DEADLINE) == b"rpcrep!"

    def close(self) -> None:
        self.link.stop()
        self._thread.join(DEADLINE)
        self.link.cleanup()
        self.messaging.close()


@pytest.fixture
def real() -> Iterator[Callable[..., RealStack]]:
    stacks: list[RealStack] = []

    def make(name: str, port: int | None = None) -> RealStack:
        stacks.append(RealStack(name, port))
        return stacks[-1]

    yield make
    for stack in stacks:
        stack.close()


def test_small_ones_beside_64_megabytes_over_sockets(real: Callable[..., RealStack]) -> None:
    bob = real("bob")
    alice, carol = (real(name, bob.address[1]) for name in ("alice", "carol"))
    wait_until(lambda: all(stack.messaging.peer_features("bob") for stack in (alice, carol)))
    data = record(64 * MB)
    counts = {}

    def count(stack: RealStack) -> None:
        calls = 0
        while not bob.large:
            stack.call()
            calls += 1
        counts[stack.messaging.identifier] = calls

    assert alice.sender.send("bob", data)
    threads = [threading.Thread(target=count, args=(stack,)) for stack in (alice, carol)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert bob.large == [64 * MB]
    # As one message it lets one of alice's pass at the most.
    assert min(counts.values()) >= 10, counts
    assert not alice.failures


def test_many_threads_send_and_cancel(real: Callable[..., RealStack]) -> None:
    bob = real("bob")
    alice = real("alice", bob.address[1])
    wait_until(lambda: alice.messaging.peer_features("bob"))
    arriving = 200_000

    def work(number: int) -> None:
        for _ in range(10):
            assert alice.sender.send("bob", record(arriving), urgent=bool(number % 2))
            key = b"key of %d" % number
            assert alice.sender.send("bob", record(5 * MB), key=key)
            alice.sender.cancel("bob", key)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    wait_until(lambda: bob.large.count(arriving) == 80)
    wait_until(lambda: not alice.messaging.queued_messages())
    assert alice.sender.waiting_bytes() == 0
    assert not alice.failures


def test_one_peer_does_not_take_the_room_for_the_parts_of_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """When there is too much of all, who has the most loses the largest."""
    messaging = FakeMessaging(("alice", "mallory"))
    hook = FakeHook(messaging)
    received: list[tuple[str, bytes]] = []
    refusals: list[None] = []
    receiver = PartReceiver(
        hook,  # type: ignore[arg-type]
        REQUEST_PARTS,
        lambda conn_id, ident, message: received.append((ident, message.data)),
        max_unfinished=2000,
        refused=lambda: refusals.append(None),
    )

    def part(ident: str, transfer: int, offset: int, data: bytes, total: int = 3000) -> None:
        hook.deliver(ident, encode_part(REQUEST_PARTS, bytes([transfer]) * 16, offset, total, data))

    part("mallory", 1, 0, record(400))
    part("mallory", 2, 0, record(900))
    part("alice", 3, 0, record(600), 700)
    assert receiver.held_bytes == 1900
    part("alice", 4, 0, record(200))
    assert receiver.held_bytes == 1200
    (sent,) = messaging.sent
    assert sent.ident == "mallory"
    assert sent.message.data.startswith(b"rpcrqx" + bytes([2]) * 16 + b"too much is unfinished")
    assert len(refusals) == 1
    part("mallory", 2, 900, b"more of what was refused")
    part("alice", 3, 600, bytes(100), 700)
    assert received == [("alice", record(600) + bytes(100))]
    assert receiver.held_bytes == 600
    messaging.disconnect("mallory", "conn of mallory")
    assert receiver.held_bytes == 200
    messaging.disconnect("alice", "conn of alice")
    assert receiver.held_bytes == 0
    receiver.close()
