"""Acknowledged delivery: when a message is acknowledged, repeated and recognised."""

from __future__ import annotations

import collections.abc
from collections.abc import Iterable
from typing import Any

import pytest

from snakemq._core.features import DeliveryFeature
from snakemq._core.frames import FRAME_PING, FRAME_PONG, FrameType, Sequence
from snakemq._incoming import ACK_DELAY, MAX_ABSENT, STORAGE_RETRY
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage import MemoryQueuesStorage, Removal
from snakemq.testing import SimNetwork, SimStack
from tests.layers.delivery_support import Events, HandMade, connect, data, message, numbered, stacks


@pytest.fixture
def network() -> SimNetwork:
    return SimNetwork(seed=1)


@pytest.fixture
def bob(network: SimNetwork) -> SimStack:
    return SimStack(network, "bob")


class TestHandshake:
    def test_nothing_is_sent_before_it_is_known_what_the_other_side_can_do(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        bob.send("raw", b"hello")
        raw = HandMade(network, "raw", bob, window=None)
        raw.answers = False
        raw.greet()
        assert raw.frames[-1] == FRAME_PING
        assert raw.messages == []
        raw.say(FRAME_PONG)
        assert raw.data == [b"hello"]
        assert raw.sequences == []

    def test_features_that_come_late_count_if_nothing_came_before(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        """They may be cut off from the identification: a stream has no borders."""
        bob.send("raw", b"hello")
        raw = HandMade(network, "raw", bob, window=None)
        raw.answers = False
        raw.greet()
        raw.say(b"\x06" + bytes.fromhex("0001 0008 00002000 01000000"), FRAME_PONG)
        assert raw.data == [b"hello"]
        assert len(raw.sequences) == 1

    def test_features_of_which_none_is_known(self, network: SimNetwork, bob: SimStack) -> None:
        raw = HandMade(network, "raw", bob, window=None)
        raw.say(b"\x02raw", b"\x06" + bytes.fromhex("00ff 0001 00"))
        events = Events(bob)
        events.send("raw", b"hello")
        network.run(1)
        assert raw.data == [b"hello"]
        assert raw.sequences == []
        assert events == [("sent", b"hello"), ("left", b"hello")]


class TestAcknowledging:
    """What this package does for a sender."""

    def test_it_counts_what_was_handled(self, network: SimNetwork, bob: SimStack) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        raw.say(raw.announce(0), *(message(b"x") for _ in range(5)))
        assert raw.acks == [5]
        raw.say(message(b"x"))
        raw.say(message(b"x"), message(b"x"))
        assert raw.acks == [5, 6, 8]

    def test_one_for_all_that_came_together(self, network: SimNetwork) -> None:
        alice, bob = stacks(network, "alice", "bob")
        connect(network, alice, bob)
        frames: list[int] = []
        bob.packeter.on_packet_sent.add(lambda conn, packet_id: frames.append(packet_id))
        for payload in numbered(1000):
            alice.send("bob", payload)
        assert network.run_until(lambda: alice.messaging.queued_messages() == 0)
        assert len(frames) < 20

    def test_only_after_the_callbacks_have_run(self, network: SimNetwork, bob: SimStack) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        acks_at_the_time: list[list[int]] = []

        def callback(conn: str, ident: str, message: Message) -> None:
            acks_at_the_time.append(raw.acks)
            bob.packeter.send_packet(conn, b"\xee" + message.data)

        bob.messaging.on_message_recv.add(callback)
        raw.say(raw.announce(0), message(b"1"), message(b"2"))
        assert acks_at_the_time == [[], []]
        kinds = [frame[:2] for frame in raw.frames if frame[0] in (0xEE, FrameType.ACKNOWLEDGEMENT)]
        assert kinds == [b"\xee1", b"\xee2", b"\x07\x00"]

    def test_a_callback_that_raises_has_run(self, network: SimNetwork) -> None:
        alice, bob = stacks(network, "alice", "bob")
        connect(network, alice, bob)
        bob.messaging.on_message_recv.add(lambda *args: 1 / 0)
        alice.send("bob", b"hello")
        assert network.run_until(lambda: alice.messaging.queued_messages() == 0)
        assert data(bob) == [b"hello"]

    def test_an_interrupt_acknowledges_what_was_handled(self, network: SimNetwork) -> None:
        alice, bob = stacks(network, "alice", "bob")
        connect(network, alice, bob)

        def interrupt(conn: str, ident: str, message: Message) -> None:
            if message.data == b"3":
                raise KeyboardInterrupt

        bob.messaging.on_message_recv.add(interrupt)
        for payload in numbered(6):
            alice.send("bob", payload)
        with pytest.raises(KeyboardInterrupt):
            network.run(1)
        network.run(1)
        assert data(bob) == list(numbered(6))
        assert alice.messaging.queued_messages() == 0

    def test_those_with_ttl_zero_wait_a_moment_for_more(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        raw.say(raw.announce(0), wait=False)
        for _ in range(10):
            raw.say(message(b"x", ttl=0), wait=False)
            network.run(ACK_DELAY / 20)
        assert raw.acks == []
        network.run(2 * ACK_DELAY)
        assert raw.acks == [10]

    def test_but_not_when_the_window_is_used_up(self, network: SimNetwork, bob: SimStack) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        large = 1 << 24
        network.set_conditions(
            raw.link, bob.link, send_buffer=large, recv_buffer=large, max_chunk=large
        )
        raw.say(raw.announce(0), *(message(bytes(100_000), ttl=0) for _ in range(50)), wait=False)
        assert network.run_until(lambda: raw.acks, ACK_DELAY / 2)

    def test_or_another_message_can_not_wait(self, network: SimNetwork, bob: SimStack) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        raw.say(raw.announce(0), message(b"x", ttl=0), message(b"y", ttl=1), wait=False)
        assert network.run_until(lambda: raw.acks == [2], ACK_DELAY / 2)

    def test_the_ones_that_wait_can_be_sent_at_once(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        raw.say(raw.announce(0), message(b"x", ttl=0), wait=False)
        assert network.run_until(lambda: bob.received, ACK_DELAY / 2)
        bob.link.call_soon(bob.messaging.acknowledge)
        assert network.run_until(lambda: raw.acks == [1], ACK_DELAY / 4)

    def test_one_without_features_gets_none(self, network: SimNetwork, bob: SimStack) -> None:
        raw = HandMade(network, "raw", bob, window=None)
        raw.greet()
        raw.say(message(b"x"), message(b"y"))
        assert data(bob) == [b"x", b"y"]
        assert raw.acks == []


class TestSending:
    """What this package does as a sender."""

    def test_sent_and_acknowledged_are_told_in_order(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        events = Events(bob)
        events.send("raw", b"1", b"2", b"3")
        network.run(1)
        assert events == [("sent", b"1"), ("sent", b"2"), ("sent", b"3")]
        assert bob.messaging.queued_messages("raw") == 3
        events.clear()
        raw.acknowledge(2)
        assert events == [("acked", b"1"), ("acked", b"2")]
        assert bob.messaging.queued_messages("raw") == 1
        raw.acknowledge(3)
        assert events[2:] == [("acked", b"3")]
        assert bob.messaging.queued_messages() == 0

    def test_a_sequence_comes_before_the_first_message_and_where_numbers_skip(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        for payload in numbered(3):
            bob.send("raw", payload)
            network.run(0.1)
        stream = bob.messaging.queues_manager.get_queue("raw").stream
        assert raw.sequences == [Sequence(stream, 0, 0, 0)]
        raw.acknowledge(1)
        raw.reconnect()
        assert raw.data == [b"1", b"2"]
        bob.send("raw", b"3")
        network.run(0.1)
        assert raw.data == [b"1", b"2", b"3"]
        assert raw.sequences == [Sequence(stream, 1, 0, 2)]

    def test_what_the_storage_had_is_announced(self, network: SimNetwork) -> None:
        bob = SimStack(network, "bob", storage=MemoryQueuesStorage())
        for payload in numbered(2):
            bob.send("raw", payload, flags=FLAG_PERSISTENT)
        bob.crash()
        bob.restart()
        bob.send("raw", b"2", flags=FLAG_PERSISTENT)
        raw = HandMade(network, "raw", bob)
        raw.greet()
        assert raw.data == [b"0", b"1", b"2"]
        assert raw.sequences[0][1:] == (0, 2, 0)

    def test_acknowledged_before_the_link_said_that_it_is_sent(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        """Sent is told first nevertheless, and once."""
        raw = HandMade(network, "raw", bob)
        raw.greet()
        events = Events(bob)
        connection = bob.messaging._connections[bob.link.connections[0]]
        (sent,) = events.send("raw", b"1")
        bob.link.call_soon(lambda: None)
        bob.messaging._outgoing.pump(connection)
        bob.messaging._outgoing.handle_acknowledgement(connection, bytes(7) + b"\1")
        assert events == [("sent", b"1"), ("acked", b"1")]
        network.run(1)
        assert events == [("sent", b"1"), ("acked", b"1")]
        assert raw.data == [sent.data]
        assert bob.messaging.queued_messages() == 0

    def test_an_acknowledgement_that_says_nothing_new(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        events = Events(bob)
        events.send("raw", b"1")
        for _ in range(3):
            raw.acknowledge(1)
        assert events == [("sent", b"1"), ("acked", b"1")]
        assert raw.connection

    def test_ttl_zero_is_not_repeated(self, network: SimNetwork, bob: SimStack) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        events = Events(bob)
        events.send("raw", b"now", ttl=0)
        events.send("raw", b"any time")
        network.run(1)
        assert raw.data == [b"now", b"any time"]
        raw.reconnect()
        assert raw.data == [b"any time"]
        assert events.of("expired") == [b"now"]
        assert events.of("sent") == [b"now", b"any time"], "each once"
        assert raw.sequences[0].number == 1

    def test_a_callback_that_raises_stops_nothing(self, network: SimNetwork) -> None:
        alice, bob = stacks(network, "alice", "bob")
        connect(network, alice, bob)
        for slot in ("on_message_sent", "on_messages_sent", "on_message_acked"):
            getattr(alice.messaging, slot).add(lambda *args: 1 / 0)
        acked: list[int] = []
        alice.messaging.on_messages_acked.add(lambda conn, ident, ms: acked.append(len(ms)))
        for payload in numbered(10):
            alice.send("bob", payload)
        assert network.run_until(lambda: sum(acked) == 10)
        assert alice.messaging.queued_messages() == 0

    @pytest.mark.parametrize("slot", ["on_message_sent", "on_message_acked"])
    def test_an_interrupt_out_of_a_callback_loses_nothing(
        self, network: SimNetwork, slot: str
    ) -> None:
        alice, bob = stacks(network, "alice", "bob")
        connect(network, alice, bob)
        interrupts: list[bytes] = []

        def interrupt(conn: str, ident: str, uuid: bytes) -> None:
            if not interrupts:
                interrupts.append(uuid)
                raise KeyboardInterrupt

        getattr(alice.messaging, slot).add(interrupt)
        acked: list[bytes] = []
        alice.messaging.on_messages_acked.add(lambda c, i, ms: acked.extend(m.data for m in ms))
        for payload in numbered(300):
            alice.send("bob", payload + bytes(10_000))
        with pytest.raises(KeyboardInterrupt):
            network.run(10)
        network.run(10)
        assert len(bob.received) == len(acked) == 300
        assert alice.messaging.queued_messages() == 0

    def test_closing_the_connection_in_a_callback(self, network: SimNetwork) -> None:
        alice, bob = stacks(network, "alice", "bob")
        connect(network, alice, bob)
        closed: list[str] = []

        def close(conn: str, ident: str, uuid: bytes) -> None:
            if len(closed) < 3:
                closed.append(conn)
                alice.packeter.close(conn)

        alice.messaging.on_message_sent.add(close)
        alice.messaging.on_message_acked.add(close)
        for payload in numbered(20):
            alice.send("bob", payload)
        assert network.run_until(lambda: alice.messaging.queued_messages() == 0)
        assert data(bob) == list(numbered(20))


class TestToward16:
    def test_persistent_ones_wait_for_a_pong(self, network: SimNetwork) -> None:
        bob = SimStack(network, "bob", storage=MemoryQueuesStorage())
        raw = HandMade(network, "raw", bob, window=None)
        raw.greet()
        raw.answers = False
        events = Events(bob)
        events.send("raw", b"p", flags=FLAG_PERSISTENT)
        events.send("raw", b"t")
        network.run(1)
        assert raw.data == [b"p", b"t"]
        assert sorted(events) == [("left", b"t"), ("sent", b"p"), ("sent", b"t")]
        assert bob.messaging.queued_messages("raw") == 1
        assert bob.storage is not None
        assert [item.data for item in bob.storage.get_items("raw")] == [b"p"]
        raw.say(FRAME_PONG)
        assert events.of("acked") == [b"p"]
        assert bob.messaging.queued_messages() == 0
        assert bob.storage.get_items("raw") == []

    def test_each_pong_is_for_what_was_sent_before_its_ping(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        raw = HandMade(network, "raw", bob, window=None)
        raw.greet()
        raw.answers = False
        events = Events(bob)
        bob.messaging.ping("raw", lambda seconds: events.append(("pong", None)))
        network.run(0.1)
        for payload in numbered(3):
            events.send("raw", payload, flags=FLAG_PERSISTENT)
            network.run(0.1)
        del events[:]
        for expected in ([("pong", None)], [("acked", b"0")], [("acked", b"1")], [("acked", b"2")]):
            raw.say(FRAME_PONG)
            assert events == expected
            del events[:]

    def test_one_ping_for_many(self, network: SimNetwork, bob: SimStack) -> None:
        raw = HandMade(network, "raw", bob, window=None)
        raw.greet()
        before = raw.frames.count(FRAME_PING)
        for payload in numbered(1000):
            bob.send("raw", payload, flags=FLAG_PERSISTENT)
        assert network.run_until(lambda: bob.messaging.queued_messages() == 0)
        assert len(raw.data) == 1000
        assert raw.frames.count(FRAME_PING) - before <= 3

    def test_a_connection_that_breaks_before_the_pong(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        raw = HandMade(network, "raw", bob, window=None)
        raw.greet()
        raw.answers = False
        events = Events(bob)
        events.send("raw", b"p", flags=FLAG_PERSISTENT)
        events.send("raw", b"t")
        network.run(1)
        raw.answers = True
        raw.reconnect()
        assert raw.data == [b"p"]
        assert events.of("sent") == [b"p", b"t"]
        assert events.of("acked") == [b"p"]

    def test_it_may_come_back_as_one_that_acknowledges(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        raw = HandMade(network, "raw", bob, window=None)
        raw.greet()
        raw.answers = False
        events = Events(bob)
        events.send("raw", b"0", b"1", flags=FLAG_PERSISTENT)
        network.run(1)
        raw.window = DeliveryFeature(100, 1000)
        raw.reconnect()
        bob.send("raw", b"2")
        network.run(1)
        assert raw.data == [b"0", b"1", b"2"]
        assert raw.sequences[0].stored == 2, "nobody knows their numbers"
        raw.acknowledge(3)
        assert bob.messaging.queued_messages() == 0

    def test_one_that_acknowledged_may_come_back_as_1_6(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        events = Events(bob)
        events.send("raw", b"t")
        events.send("raw", b"p", flags=FLAG_PERSISTENT)
        network.run(1)
        raw.window = None
        raw.reconnect()
        assert raw.data == [b"t", b"p"]
        assert raw.sequences == []
        network.run(1)
        assert events.of("left") == [b"t"]
        assert events.of("acked") == [b"p"]
        assert bob.messaging.queued_messages() == 0


class TestRepeated:
    """A receiver that meets a message again."""

    def test_by_its_number_while_both_live(self, network: SimNetwork) -> None:
        alice, bob = stacks(network, "alice", "bob")
        connect(network, alice, bob)
        network.drop_silently("bob", "alice")  # acknowledgements get lost
        for payload in numbered(10):
            alice.send("bob", payload)
        assert network.run_until(lambda: len(bob.received) == 10)
        assert alice.messaging.queued_messages() == 10
        network.heal()
        network.cut("alice", "bob")
        alice.send("bob", b"10")
        assert network.run_until(lambda: alice.messaging.queued_messages() == 0)
        assert data(bob) == list(numbered(11))
        assert not any(received.redelivered for _, received in bob.received)

    def test_the_same_identifier_twice_is_two_messages(self, network: SimNetwork) -> None:
        alice, bob = stacks(network, "alice", "bob")
        connect(network, alice, bob)
        network.drop_silently("bob", "alice")
        for payload in (b"1", b"2"):
            alice.messaging.send_message("bob", Message(payload, None, 0, b"same"))
            network.run(0.1)
        network.heal()
        network.cut("alice", "bob")
        alice.messaging.send_message("bob", Message(b"3", None, 0, b"same"))
        assert network.run_until(lambda: alice.messaging.queued_messages() == 0)
        assert data(bob) == [b"1", b"2", b"3"]

    @pytest.mark.parametrize("flags", [0, FLAG_PERSISTENT])
    def test_by_its_identifier_after_a_restart_of_the_receiver(
        self, network: SimNetwork, flags: int
    ) -> None:
        alice = SimStack(network, "alice", storage=MemoryQueuesStorage())
        bob = SimStack(network, "bob", storage=MemoryQueuesStorage())
        connect(network, alice, bob)
        network.drop_silently("bob", "alice")
        for payload in numbered(10):
            alice.send("bob", payload, flags=flags)
        assert network.run_until(lambda: len(bob.received) == 10)
        bob.crash()
        network.heal()
        network.probe()
        bob.restart()
        assert network.run_until(lambda: alice.messaging.queued_messages() == 0)
        assert data(bob) == list(numbered(10))

    def test_by_its_identifier_after_a_restart_of_the_sender(self, network: SimNetwork) -> None:
        alice = SimStack(network, "alice", storage=MemoryQueuesStorage())
        bob = SimStack(network, "bob")
        connect(network, alice, bob)
        network.drop_silently("bob", "alice")
        for payload in numbered(10):
            alice.send("bob", payload, flags=FLAG_PERSISTENT)
        assert network.run_until(lambda: len(bob.received) == 10)
        alice.crash()
        network.heal()
        alice.restart()
        alice.send("bob", b"10", flags=FLAG_PERSISTENT)
        assert network.run_until(lambda: alice.messaging.queued_messages() == 0)
        assert data(bob) == list(numbered(11))

    def test_what_can_not_be_told_is_marked(self, network: SimNetwork) -> None:
        """A receiver that was restarted, and has no storage to remember by."""
        alice, bob = stacks(network, "alice", "bob")
        connect(network, alice, bob)
        network.drop_silently("bob", "alice")
        for payload in numbered(3):
            alice.send("bob", payload)
        assert network.run_until(lambda: len(bob.received) == 3)
        bob.crash()
        network.heal()
        network.probe()
        assert network.run_until(lambda: not alice.messaging.is_connected("bob"))
        bob.restart()
        alice.send("bob", b"3")
        assert network.run_until(lambda: alice.messaging.queued_messages() == 0)
        assert [(m.data, m.redelivered) for _, m in bob.received[3:]] == [
            (b"0", True),
            (b"1", True),
            (b"2", True),
            (b"3", False),
        ]

    def test_a_new_process_of_the_sender_is_not_taken_for_the_old_one(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        """Its numbers begin at 0 again, in another stream."""
        raw = HandMade(network, "raw", bob)
        raw.greet()
        raw.say(raw.announce(0), *(message(payload) for payload in numbered(3)))
        raw.stream = b"another1"
        raw.reconnect()
        raw.say(raw.announce(0), *(message(payload) for payload in numbered(3)))
        assert data(bob) == list(numbered(3)) * 2
        assert not any(received.redelivered for _, received in bob.received)
        assert raw.acks == [3]

    def test_a_receiver_that_comes_again_skips_and_acknowledges(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        raw.say(raw.announce(0), *(message(payload) for payload in numbered(5)))
        raw.reconnect()
        raw.say(raw.announce(2, repeated=3), *(message(p) for p in (*numbered(3, 2), b"5")))
        assert data(bob) == list(numbered(6))
        assert raw.acks == [4]

    def test_a_message_taken_from_a_backup_is_recognised_once(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        persistent = {"flags": FLAG_PERSISTENT, "uuid": b"same"}
        raw.say(raw.announce(0), message(b"1", **persistent))
        raw.stream = b"another1"
        raw.reconnect()
        raw.say(raw.announce(0, stored=2), *(message(p, **persistent) for p in (b"1", b"2")))
        assert data(bob) == [b"1", b"2"]
        assert [m.redelivered for _, m in bob.received] == [False, True]
        assert raw.acks == [2]

    def test_absent_peers_are_remembered_up_to_a_number(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        memories = bob.messaging._incoming._memories
        for number in range(5):
            raw = HandMade(network, f"raw {number}", bob)
            raw.greet()
            if number % 2:
                raw.say(raw.announce(0), message(b"x"))
            raw.link.cleanup()
            network.run(0.1)
        assert sorted(memories) == ["raw 1", "raw 3"], "nothing is kept of who sent nothing"
        assert MAX_ABSENT == 1000

    def test_the_one_who_was_absent_longest_is_forgotten(
        self, network: SimNetwork, bob: SimStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("snakemq._incoming.MAX_ABSENT", 3)
        raws = [HandMade(network, f"raw {number}", bob) for number in range(6)]
        for raw in raws:
            raw.greet()
            raw.say(raw.announce(0), message(b"x"))
        assert len(bob.messaging._incoming._memories) == 6, "the connected ones do not count"
        for raw in (raws[2], raws[0], raws[1], raws[5]):
            raw.link.cleanup()
            network.run(0.1)
        assert sorted(bob.messaging._incoming._memories) == [
            "raw 0", "raw 1", "raw 3", "raw 4", "raw 5"
        ]  # fmt: skip


class FailingStorage(MemoryQueuesStorage):
    """Fails as long as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: set[str] = set()
        self.calls: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise OSError(f"{name}: no space left on device")

    def add_received(self, ident: str, uuids: Iterable[bytes], *, keep: int, sync: bool) -> None:
        self._call("add_received")
        super().add_received(ident, uuids, keep=keep, sync=sync)

    def sync(self) -> None:
        self._call("sync")
        super().sync()

    def load_received(self, ident: str) -> list[bytes]:
        self._call("load_received")
        return super().load_received(ident)

    def change_items(
        self,
        push: collections.abc.Sequence[tuple[str, Message]],
        remove: collections.abc.Sequence[Removal] = (),
        *,
        sync: bool = True,
    ) -> list[int]:
        if remove:
            self._call("remove")
        return super().change_items(push, remove, sync=sync)


class TestStorageOfTheReceiver:
    @pytest.fixture
    def storage(self) -> FailingStorage:
        return FailingStorage()

    @pytest.fixture
    def bob(self, network: SimNetwork, storage: FailingStorage) -> SimStack:
        stack = SimStack(network, "bob", storage=storage)
        storage.calls.clear()
        return stack

    @pytest.mark.parametrize("what", ["add_received", "sync"])
    def test_nothing_is_acknowledged_before_it_is_remembered(
        self,
        network: SimNetwork,
        bob: SimStack,
        storage: FailingStorage,
        what: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        storage.fails.add(what)
        raw.say(raw.announce(0), message(b"1", flags=FLAG_PERSISTENT), message(b"2"))
        network.run(3 * STORAGE_RETRY)
        assert data(bob) == [b"1", b"2"], "it is handled nevertheless"
        assert raw.acks == []
        assert "not acknowledged" in caplog.text
        storage.fails.clear()
        network.run(1.1 * STORAGE_RETRY)
        assert raw.acks == [2]
        assert len(storage.load_received("raw")) == 2

    def test_a_sync_that_fails_behind_a_pending_acknowledgement(
        self, network: SimNetwork, bob: SimStack, storage: FailingStorage
    ) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        storage.fails.add("sync")
        raw.say(raw.announce(0), message(b"1", ttl=0), wait=False)
        assert network.run_until(lambda: bob.received, ACK_DELAY / 2)
        raw.say(message(b"2", flags=FLAG_PERSISTENT))
        network.run(3 * ACK_DELAY)
        assert raw.acks in ([], [1])
        storage.fails.clear()
        network.run(2 * STORAGE_RETRY)
        assert raw.acks[-1] == 2

    def test_a_persistent_message_is_noted_before_the_next_one_is_handled(
        self, network: SimNetwork, bob: SimStack, storage: FailingStorage
    ) -> None:
        """So a kill can make come again only the one that is being handled."""
        raw = HandMade(network, "raw", bob)
        raw.greet()
        noted: list[int] = []
        bob.messaging.on_message_recv.add(
            lambda *args: noted.append(len(MemoryQueuesStorage.load_received(storage, "raw")))
        )
        raw.say(raw.announce(0), *(message(p, flags=FLAG_PERSISTENT) for p in numbered(4)))
        assert noted == [0, 1, 2, 3]
        assert storage.calls.count("sync") == 1

    def test_others_are_noted_together(
        self, network: SimNetwork, bob: SimStack, storage: FailingStorage
    ) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        raw.say(raw.announce(0), *(message(p) for p in numbered(100)))
        assert storage.calls.count("add_received") == 1
        assert "sync" not in storage.calls
        assert len(storage.load_received("raw")) == 100

    def test_ttl_zero_is_not_noted(
        self, network: SimNetwork, bob: SimStack, storage: FailingStorage
    ) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        raw.say(raw.announce(0), *(message(p, ttl=0) for p in numbered(100)))
        assert len(bob.received) == 100
        assert "add_received" not in storage.calls

    def test_a_memory_that_can_not_be_read_is_said(
        self,
        network: SimNetwork,
        bob: SimStack,
        storage: FailingStorage,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        storage.fails.add("load_received")
        raw = HandMade(network, "raw", bob)
        raw.greet()
        raw.say(raw.announce(0, repeated=1), message(b"x"))
        assert "redelivered" in caplog.text
        assert [m.redelivered for _, m in bob.received] == [True]

    def test_what_can_not_be_removed_at_the_sender_is_logged_and_sent_again_later(
        self,
        network: SimNetwork,
        bob: SimStack,
        storage: FailingStorage,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        events = Events(bob)
        events.send("raw", b"x", flags=FLAG_PERSISTENT)
        network.run(0.1)
        storage.fails.add("remove")
        raw.acknowledge(1)
        assert events[:2] == [("sent", b"x"), ("acked", b"x")]
        assert [type(exc) for _, exc in events[2:]] == [OSError]
        assert "is removed later" in caplog.text
        assert bob.messaging.queued_messages() == 0
        storage.fails.clear()
        bob.crash()
        bob.restart()
        assert bob.messaging.queued_messages("raw") == 1


class TestWindow:
    def test_a_receiver_that_does_not_acknowledge_stops_its_sender_at_so_many_messages(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        raw = HandMade(network, "raw", bob, DeliveryFeature(100, 1 << 20))
        raw.greet()
        for payload in numbered(250):
            bob.send("raw", payload)
        network.run(10)
        assert raw.data == list(numbered(100))
        raw.acknowledge(30)
        assert raw.data == list(numbered(130))
        raw.acknowledge(130)
        raw.acknowledge(230)
        assert raw.data == list(numbered(250))

    def test_or_at_so_many_bytes(self, network: SimNetwork, bob: SimStack) -> None:
        raw = HandMade(network, "raw", bob, DeliveryFeature(1000, 10_000))
        raw.greet()
        for _ in range(30):
            bob.send("raw", bytes(1000))
        network.run(10)
        assert len(raw.data) == 10
        raw.acknowledge(1)
        assert len(raw.data) == 11

    def test_one_message_may_go_over_it(self, network: SimNetwork, bob: SimStack) -> None:
        raw = HandMade(network, "raw", bob, DeliveryFeature(1000, 100))
        raw.greet()
        for _ in range(3):
            bob.send("raw", bytes(100_000))
        network.run(10)
        assert len(raw.data) == 1
        raw.acknowledge(1)
        network.run(10)
        assert len(raw.data) == 2

    def test_the_window_of_this_package(self, network: SimNetwork) -> None:
        """Small messages stop at 8,192, large ones at 16 MiB."""
        alice, bob = stacks(network, "alice", "bob")
        connect(network, alice, bob)
        bob.messaging.pause(bob.link.connections[0])
        for _ in range(10_000):
            alice.send("bob", b"")
        network.run(10)
        queue = alice.messaging.queues_manager.get_queue("bob")
        assert queue.flying()[1] == 8192

    def test_the_window_of_this_package_in_bytes(self, network: SimNetwork) -> None:
        alice, bob = stacks(network, "alice", "bob")
        connect(network, alice, bob)
        bob.messaging.pause(bob.link.connections[0])
        payload = bytes(1 << 20)
        for _ in range(40):
            alice.send("bob", payload)
        network.run(10)
        queue = alice.messaging.queues_manager.get_queue("bob")
        assert queue.flying()[2] == 16 << 20

    def test_expired_messages_in_front_do_not_close_it(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        for _ in range(20):
            bob.send("raw", b"old", ttl=1)
        bob.send("raw", b"new")
        for _ in range(30):
            bob.send("raw", b"more")
        network.run(2)
        raw = HandMade(network, "raw", bob, DeliveryFeature(2, 1000))
        raw.greet()
        assert raw.data == [b"new", b"more"]


class TestUrgent:
    def test_before_a_bulk_transfer(self, network: SimNetwork) -> None:
        alice, bob = SimStack(network, "alice", throttle=1_000_000), SimStack(network, "bob")
        connect(network, alice, bob)
        for _ in range(100):
            alice.send("bob", bytes(100_000))
        network.run(0.1)
        alice.messaging.send_message("bob", Message(b"urgent"), urgent=True)
        assert network.run_until(lambda: b"urgent" in data(bob))
        assert len(bob.received) < 8, "at most what had been handed over"

    def test_also_when_the_window_is_closed(self, network: SimNetwork, bob: SimStack) -> None:
        raw = HandMade(network, "raw", bob, DeliveryFeature(2, 1000))
        raw.greet()
        for payload in numbered(5):
            bob.send("raw", payload)
        network.run(1)
        bob.messaging.send_message("raw", Message(b"u"), urgent=True)
        network.run(1)
        assert raw.data == [b"0", b"1", b"u"]
        raw.acknowledge(3)
        assert raw.data == [b"0", b"1", b"u", b"2", b"3"]
        assert len(raw.sequences) == 1

    def test_but_not_before_what_is_repeated(self, network: SimNetwork, bob: SimStack) -> None:
        """It has a higher number, and to the receiver all lower ones would be done with it."""
        raw = HandMade(network, "raw", bob)
        raw.greet()
        for payload in numbered(5):
            bob.send("raw", payload)
        network.run(1)
        raw.window = DeliveryFeature(2, 1000)
        raw.reconnect()
        bob.messaging.send_message("raw", Message(b"u"), urgent=True)
        network.run(1)
        assert raw.data == [b"0", b"1"]
        for total in (2, 4, 6):
            raw.acknowledge(total)
        numbers = [sequence.number for sequence in raw.sequences]
        assert numbers == sorted(numbers)
        assert raw.data == [b"0", b"1", b"2", b"3", b"4", b"u"]

    def test_in_the_order_among_themselves(self, network: SimNetwork, bob: SimStack) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        for payload in numbered(3):
            bob.send("raw", payload)
        for payload in (b"u", b"v"):
            bob.messaging.send_message("raw", Message(payload), urgent=True)
        network.run(1)
        assert raw.data == [b"u", b"v", b"0", b"1", b"2"]

    def test_only_with_ttl_zero(self, bob: SimStack) -> None:
        with pytest.raises(ValueError, match="TTL 0"):
            bob.messaging.send_message("raw", Message(b"", ttl=1), urgent=True)

    def test_not_to_one_who_is_not_there(self, network: SimNetwork, bob: SimStack) -> None:
        assert not bob.messaging.send_message("raw", Message(b""), urgent=True)
        bob.send("raw", b"x")
        assert not bob.messaging.send_message("raw", Message(b""), urgent=True)
        assert bob.messaging.queued_messages() == 1

    def test_what_was_not_sent_ends_with_the_connection(
        self, network: SimNetwork, bob: SimStack
    ) -> None:
        raw = HandMade(network, "raw", bob)
        raw.greet()
        events = Events(bob)
        assert bob.messaging.send_message("raw", Message(b"u"), urgent=True)
        bob.packeter.close(bob.link.connections[0])
        network.run(1)
        assert events.of("expired") == [b"u"]
        assert bob.messaging.queued_messages() == 0


class TestBatch:
    def test_all_or_none(self, network: SimNetwork) -> None:
        alice, bob, carol = stacks(network, "alice", "bob", "carol")
        connect(network, alice, bob)
        connect(network, alice, carol)
        with pytest.raises(TypeError, match="Message"):
            alice.messaging.send_messages([("bob", Message(b"1")), ("bob", b"2")])  # type: ignore[list-item]
        with pytest.raises(TypeError, match="ident"):
            alice.messaging.send_messages([("bob", Message(b"1")), (3, Message(b"2"))])  # type: ignore[list-item]
        assert alice.messaging.queued_messages() == 0
        names = ["bob", "carol", "bob"]
        batch = [
            (name, Message(payload, 60)) for name, payload in zip(names, numbered(3), strict=True)
        ]
        assert alice.messaging.send_messages(batch) == [True, True, True]
        network.run(1)
        assert (data(bob), data(carol)) == ([b"0", b"2"], [b"1"])

    def test_it_is_told_which_are_queued(self, network: SimNetwork) -> None:
        alice, bob = stacks(network, "alice", "bob")
        connect(network, alice, bob)
        now, later = Message(b"now"), Message(b"later", 60)
        batch = [("nobody", now), ("bob", now), ("nobody", later), ("nobody", now), ("bob", now)]
        assert alice.messaging.send_messages(batch) == [False, True, True, False, True]
        assert alice.messaging.send_messages([]) == []

    def test_with_one_commit(self, network: SimNetwork) -> None:
        class Storage(MemoryQueuesStorage):
            commits = 0

            def change_items(self, *args: Any, **options: Any) -> list[int]:
                self.commits += 1
                return super().change_items(*args, **options)

        storage = Storage()
        alice = SimStack(network, "alice", storage=storage)
        alice.messaging.send_messages(
            [("bob", Message(p, None, FLAG_PERSISTENT)) for p in numbered(50)]
        )
        assert storage.commits == 1
        assert [item.data for item in storage.get_items("bob")] == list(numbered(50))
