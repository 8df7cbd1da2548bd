"""Messaging over the simulated network: what 1.6 did not do, or did wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from snakemq import _outgoing
from snakemq._core.frames import FRAME_PING, FRAME_VERSION, encode_identification, encode_message
from snakemq._core.framing import encode_header
from snakemq.exceptions import (
    NoConnection,
    PacketTooLarge,
    SnakeMQBrokenMessage,
    SnakeMQException,
)
from snakemq.limits import ConnectionLimits
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.messaging import Messaging, ReceiveHook
from snakemq.packeter import Packeter
from snakemq.queues import Queue
from snakemq.storage import MemoryQueuesStorage
from snakemq.testing import SimNetwork, SimStack, pair


@pytest.fixture
def network() -> SimNetwork:
    return SimNetwork(seed=1)


class Raw:
    """A connection without a stack: it says what the test wants."""

    def __init__(self, network: SimNetwork, name: str, target: SimStack) -> None:
        self.network = network
        self.link = network.link(name)
        self.received = b""
        self.connections: list[str] = []
        self.closed = 0
        self.link.on_connect.add(self.connections.append)
        self.link.on_disconnect.add(self._gone)
        self.link.on_recv.add(self._recv)
        self.link.add_connector(target.address, 10_000)
        assert network.run_until(lambda: self.connections)

    def _gone(self, conn: str) -> None:
        self.closed += 1

    def _recv(self, conn: str, data: bytes) -> None:
        self.received += data

    def say(self, *frames: bytes) -> None:
        self.link.send(self.connections[-1], b"".join(encode_header(len(f)) + f for f in frames))
        self.network.run(0.5)

    def greet(self, name: str) -> None:
        self.say(FRAME_VERSION, encode_identification(name))


def events_of(stack: SimStack) -> list[str]:
    events: list[str] = []
    stack.messaging.on_connect.add(lambda conn, ident: events.append(f"+{ident}"))
    stack.messaging.on_disconnect.add(lambda conn, ident: events.append(f"-{ident}"))
    return events


def data(stack: SimStack) -> list[bytes]:
    return [message.data for _, message in stack.received]


def connected(network: SimNetwork) -> tuple[SimStack, SimStack]:
    alice, bob = SimStack(network, "alice"), SimStack(network, "bob")
    alice.connect(bob)
    assert network.run_until(
        lambda: alice.messaging.is_connected("bob") and bob.messaging.is_connected("alice")
    )
    return alice, bob


# Sending.


def test_all_that_is_ready_goes_out_together(network: SimNetwork) -> None:
    alice, bob = connected(network)
    passes: list[int] = []
    bob.link.on_loop_pass.add(lambda: passes.append(1))
    for number in range(1000):
        alice.messaging.send_message("bob", Message(b"%d" % number))
    assert network.run_until(lambda: len(bob.received) == 1000)
    assert data(bob) == [b"%d" % number for number in range(1000)]
    assert len(passes) < 50, "1.6 needed a pass for each"


def test_a_backlog_is_handed_over_in_portions(network: SimNetwork) -> None:
    alice, bob = connected(network)
    for _ in range(100):
        alice.messaging.send_message("bob", Message(bytes(100_000)))
    most = 0

    def look() -> bool:
        nonlocal most
        most = max(most, alice.packeter.unsent_bytes(alice.link.connections[0]))
        return len(bob.received) == 100

    assert network.run_until(look)
    assert 0 < most <= _outgoing.SEND_WINDOW_BYTES + 200_000


def test_a_pong_does_not_wait_behind_the_whole_backlog(network: SimNetwork) -> None:
    alice, bob = connected(network)
    for _ in range(200):
        bob.messaging.send_message("alice", Message(bytes(100_000)))
    answered: list[int] = []
    alice.messaging.ping("bob", lambda seconds: answered.append(len(alice.received)))
    assert network.run_until(lambda: answered)
    assert answered[0] < 50


def test_sent_is_told_in_order_and_when_it_is_with_the_system(network: SimNetwork) -> None:
    alice, _ = connected(network)
    told: list[bytes] = []
    alice.messaging.on_message_sent.add(lambda conn, ident, uuid: told.append(uuid))
    messages = [Message(bytes(size)) for size in (10, 200_000, 0, 50_000, 1)]
    for message in messages:
        alice.messaging.send_message("bob", message)
    assert told == []
    assert alice.messaging.queued_messages("bob") == alice.messaging.queued_messages() == 5
    assert network.run_until(lambda: alice.messaging.queued_messages() == 0)
    assert told == [message.uuid for message in messages]


def test_a_message_over_the_packet_size_is_refused_to_its_sender(network: SimNetwork) -> None:
    link = network.link("small")
    messaging = Messaging("small", "", Packeter(link, max_packet_size=100))
    messaging.send_message("bob", Message(bytes(75), ttl=None))
    with pytest.raises(PacketTooLarge, match="101 bytes"):
        messaging.send_message("bob", Message(bytes(76), ttl=None))
    assert messaging.queued_messages("bob") == 1


def test_wrong_arguments_are_told_at_once(network: SimNetwork) -> None:
    messaging = SimStack(network, "alice").messaging
    with pytest.raises(TypeError, match="Message"):
        messaging.send_message("bob", b"data")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ident must be a str, not bytes"):
        messaging.send_message(b"bob", Message(b""))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="identifier must be a str"):
        Messaging(b"alice", "", messaging.packeter)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="keepalive_interval"):
        messaging.keepalive_interval = 0


def test_messages_from_many_threads_keep_the_order_of_each(network: SimNetwork) -> None:
    alice, bob = connected(network)

    def send(thread: int) -> None:
        for number in range(500):
            alice.messaging.send_message("bob", Message(b"%d %d" % (thread, number)))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert network.run_until(lambda: len(bob.received) == 2000)
    pairs = [tuple(map(int, one.split())) for one in data(bob)]
    for number in range(4):
        assert [n for t, n in pairs if t == number] == list(range(500))


def test_invented_receivers_leave_nothing(network: SimNetwork) -> None:
    alice = SimStack(network, "alice")
    for number in range(100):
        alice.messaging.send_message(f"nobody {number}", Message(b""))
        alice.messaging.send_message(f"somebody {number}", Message(b"", ttl=1))
    network.run(2)
    assert len(alice.messaging.queues_manager.queues) == 0
    assert alice.messaging.queued_messages() == 0


# TTL.


def test_a_message_expires_when_it_expires(network: SimNetwork) -> None:
    alice = SimStack(network, "alice")
    dropped: list[tuple[float, str, bytes]] = []
    alice.messaging.on_message_drop.add(
        lambda ident, uuid: dropped.append((network.time(), ident, uuid))
    )
    start = network.time()
    for ttl in (7.5, 3, None, 5):
        uuid = str(ttl).encode()
        alice.messaging.send_message("bob", Message(b"", ttl=ttl, uuid=uuid))
    network.run(20)
    assert [(ident, uuid) for _, ident, uuid in dropped] == [
        ("bob", b"3"),
        ("bob", b"5"),
        ("bob", b"7.5"),
    ]
    assert [when - start for when, _, _ in dropped] == pytest.approx([3, 5, 7.5], abs=0.01)
    assert alice.messaging.queued_messages("bob") == 1


def test_ttl_stands_still_while_the_peer_is_connected(network: SimNetwork) -> None:
    alice = SimStack(network, "alice")
    dropped: list[str] = []
    alice.messaging.on_message_drop.add(lambda ident, uuid: dropped.append(ident))
    alice.messaging.send_message("bob", Message(b"x", ttl=10))
    network.run(6)
    bob = SimStack(network, "bob")
    bob.link.on_recv.add(lambda conn, _: None)
    alice.connect(bob)
    assert network.run_until(lambda: bob.received)
    assert bob.received[0][1].ttl == 3  # whole seconds, rounded down
    assert dropped == []


def test_what_expires_is_gone_from_the_storage_too(network: SimNetwork) -> None:
    storage = MemoryQueuesStorage()
    alice = SimStack(network, "alice", storage=storage)
    alice.messaging.send_message("bob", Message(b"x", ttl=2, flags=FLAG_PERSISTENT))
    assert len(storage.get_items("bob")) == 1
    network.run(3)
    assert storage.get_items("bob") == []


# Receiving.


def test_a_callback_that_raises_loses_no_message(network: SimNetwork) -> None:
    alice, bob = connected(network)
    errors: list[Exception] = []
    seen: list[bytes] = []

    def fail_sometimes(conn: str, ident: str, message: Message) -> None:
        seen.append(message.data)
        if message.data == b"1":
            raise RuntimeError("a mistake")

    bob.messaging.on_message_recv.add(fail_sometimes)
    bob.messaging.on_error.add(lambda conn, exc: errors.append(exc))
    for number in range(4):
        alice.messaging.send_message("bob", Message(b"%d" % number))
    assert network.run_until(lambda: len(seen) == 4)
    assert [str(error) for error in errors] == ["a mistake"]
    assert bob.messaging.is_connected("alice")


def test_an_interrupt_in_the_middle_of_a_batch_loses_no_message(network: SimNetwork) -> None:
    alice, bob = connected(network)
    interrupted: list[bytes] = []

    def interrupt(conn: str, ident: str, message: Message) -> None:
        if message.data in (b"1", b"2", b"5"):
            interrupted.append(message.data)
            raise KeyboardInterrupt

    bob.messaging.on_message_recv.add(interrupt)
    for number in range(8):
        alice.messaging.send_message("bob", Message(b"%d" % number))
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            network.run(5)
    network.run(5)
    assert interrupted == [b"1", b"2", b"5"]
    assert data(bob) == [b"%d" % number for number in range(8)]


@pytest.mark.parametrize("frame", [b"", b"\0", b"\3" + bytes(23)])
def test_a_broken_frame_ends_its_connection_only(network: SimNetwork, frame: bytes) -> None:
    alice, bob = connected(network)
    errors: list[Exception] = []
    bob.messaging.on_error.add(lambda conn, exc: errors.append(exc))
    raw = Raw(network, "raw", bob)
    raw.greet("raw")
    assert bob.messaging.is_connected("raw")
    raw.say(encode_message(Message(b"before")), frame, frame, encode_message(Message(b"after")))
    assert raw.closed == 1
    assert isinstance(errors[0], SnakeMQBrokenMessage)
    assert len(errors) == 1
    assert data(bob) == [b"before"]
    assert bob.messaging.is_connected("alice")
    alice.send("bob", b"still there")
    assert network.run_until(lambda: b"still there" in data(bob))


def test_who_does_not_say_who_it_is_is_closed(network: SimNetwork) -> None:
    bob = SimStack(network, "bob")
    raw = Raw(network, "raw", bob)
    network.run(ConnectionLimits().identification_timeout - 1)
    raw.say(FRAME_VERSION, FRAME_PING)
    assert raw.closed == 0
    network.run(1)
    assert raw.closed == 1


# Pings and keepalive.


def test_ping_measures_the_round_trip(network: SimNetwork) -> None:
    alice, _ = connected(network)
    network.set_conditions("alice", "bob", delay=0.25)
    network.set_conditions("bob", "alice", delay=0.5)
    measured: list[float] = []
    alice.messaging.ping("bob", measured.append)
    assert network.run_until(lambda: measured)
    assert measured[0] == pytest.approx(0.75, abs=0.05)


def test_ping_needs_a_connection(network: SimNetwork) -> None:
    alice, _ = connected(network)
    with pytest.raises(NoConnection, match="carol"):
        alice.messaging.ping("carol", lambda seconds: None)


def test_an_unasked_pong_is_ignored(network: SimNetwork) -> None:
    bob = SimStack(network, "bob")
    raw = Raw(network, "raw", bob)
    raw.greet("raw")
    raw.say(b"\5", b"\5")
    assert bob.messaging.is_connected("raw")


def test_keepalive_closes_dead_peers_and_only_them(network: SimNetwork) -> None:
    hub = SimStack(network, "hub")
    hub.messaging.keepalive_interval = 5
    hub.messaging.keepalive_wait = 1
    others = [SimStack(network, f"peer {number}") for number in range(5)]
    for other in others:
        hub.connect(other, 10_000)
    assert network.run_until(lambda: len(hub.messaging.connected_peers()) == 5)
    events = events_of(hub)
    network.partition(["hub", *(o.name for o in others[3:])], [o.name for o in others[:3]])
    network.run(20)
    assert sorted(events) == ["-peer 0", "-peer 1", "-peer 2"]
    assert sorted(hub.messaging.connected_peers()) == ["peer 3", "peer 4"]


def test_a_large_packet_that_takes_its_time_is_a_sign_of_life() -> None:
    with pair(throttle=3000) as (alice, bob):
        bob.messaging.keepalive_interval = 1.0
        alice.messaging.keepalive_interval = 1.0
        bob.messaging.takeover_wait = 1.0
        alice.send("bob", bytes(60_000))
        second = Raw(alice.network, "second", bob)
        second.greet("alice")
        assert alice.network.run_until(lambda: bob.received, 60)
        assert second.closed == 1


def test_a_callback_for_what_expired_can_send_to_the_peer_that_has_just_come(
    network: SimNetwork,
) -> None:
    alice, bob = SimStack(network, "alice"), SimStack(network, "bob")
    alice.messaging.on_message_drop.add(
        lambda ident, uuid: (
            alice.messaging.send_message("bob", Message(b"instead"))
            if alice.messaging.is_connected("bob")
            else None
        )
    )
    alice.messaging.send_message("bob", Message(b"old", ttl=1))
    # The timer for the expiry and the connection come at the same time.
    queue = alice.messaging.queues_manager.get_queue("bob")
    queue.manager.clock = lambda: network.time() + 5
    alice.messaging._attendant.close()
    alice.connect(bob)
    assert network.run_until(lambda: data(bob) == [b"instead"])


def test_who_is_told_that_a_peer_is_connected_can_send_what_is_for_now(
    network: SimNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may see it at any moment."""
    alice, bob = SimStack(network, "alice"), SimStack(network, "bob")
    seen: list[tuple[bool, bool]] = []
    connect = Queue.connect

    def watched_connect(queue: Queue, *args: Any) -> None:
        if queue.manager is alice.messaging.queues_manager:
            seen.append((alice.messaging.is_connected("bob"), queue.connected))
            connect(queue, *args)
            seen.append((alice.messaging.is_connected("bob"), queue.connected))
        else:
            connect(queue, *args)

    monkeypatch.setattr(Queue, "connect", watched_connect)
    alice.connect(bob)
    assert network.run_until(lambda: seen)
    assert seen == [(False, False), (True, True)]


def test_a_paused_connection_is_not_dead(network: SimNetwork) -> None:
    alice, bob = connected(network)
    alice.messaging.keepalive_interval = 1
    (conn,) = alice.link.connections
    alice.packeter.pause_recv(conn)
    network.run(20)
    assert alice.messaging.is_connected("bob")
    alice.packeter.resume_recv(conn)
    network.drop_silently("bob", "alice")
    network.run(5)
    assert not alice.messaging.is_connected("bob")
    del bob


def test_an_error_about_a_dropped_message_names_no_connection(network: SimNetwork) -> None:
    alice = SimStack(network, "alice")
    errors: list[str | None] = []
    alice.messaging.on_error.add(lambda conn, exc: errors.append(conn))
    alice.messaging.on_message_drop.add(lambda ident, uuid: 1 / 0)
    alice.send("bob", b"", ttl=1)
    network.run(2)
    assert errors == [None]


def test_keepalive_can_be_switched_on_and_off_while_connected(network: SimNetwork) -> None:
    alice, bob = connected(network)
    bob.messaging.keepalive_interval = 2
    network.run(10)
    assert alice.messaging.is_connected("bob")
    network.drop_silently("bob", "alice")
    alice.messaging.keepalive_interval = 2
    network.run(0.1)
    alice.messaging.keepalive_interval = None
    network.run(20)
    assert alice.messaging.is_connected("bob")
    alice.messaging.keepalive_interval = 2
    network.run(5)
    assert not alice.messaging.is_connected("bob")


# The same identifier twice.


def test_a_rebooted_peer_takes_the_place_of_its_dead_connection(network: SimNetwork) -> None:
    alice = SimStack(network, "alice")
    bob = SimStack(network, "bob")
    bob.connect(alice)
    assert network.run_until(lambda: alice.messaging.is_connected("bob"))
    events = events_of(alice)
    bob.crash(silent=True)  # nobody tells alice
    bob.restart()
    assert network.run_until(lambda: events == ["-bob", "+bob"], 5)
    alice.send("bob", b"welcome back")
    assert network.run_until(lambda: data(bob) == [b"welcome back"])


def test_a_second_connection_is_refused_while_the_first_is_alive(network: SimNetwork) -> None:
    alice, bob = connected(network)
    events = events_of(bob)
    impostor = Raw(network, "impostor", bob)
    impostor.say(encode_identification("alice"), encode_message(Message(b"believe me")))
    network.run(10)
    assert impostor.closed == 1
    assert events == []
    assert data(bob) == []
    alice.send("bob", b"it is me")
    assert network.run_until(lambda: data(bob) == [b"it is me"])


def test_a_connection_whose_probe_waits_behind_others_is_not_dead() -> None:
    """As long as what is in front of the ping gets on, nobody could have answered it."""
    with pair(throttle=3000) as (alice, bob):
        events = events_of(alice)
        alice.send("bob", bytes(60_000))
        alice.network.run(0.1)
        second = Raw(alice.network, "second", alice)
        second.greet("bob")
        assert alice.network.run_until(lambda: bob.received, 60)
        alice.network.run(5)
        assert second.closed == 1
        assert events == []


def test_what_was_there_before_the_question_is_no_answer(
    network: SimNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of something, which was not read because the rest of it did not come."""
    alice, bob = connected(network)
    network.drop_silently("bob", "alice")
    packeter = alice.packeter
    ask = packeter.read_now

    def read_now(conn_id: str) -> None:
        ask(conn_id)
        packeter._connections[conn_id].last_recv = packeter.time() + 0.01

    monkeypatch.setattr(packeter, "read_now", read_now)
    events = events_of(alice)
    second = Raw(network, "second", alice)
    second.greet("bob")
    assert network.run_until(lambda: events, 10)
    assert events == ["-bob", "+bob"]
    assert second.closed == 0
    del bob


def test_a_probe_that_does_not_get_on_waits_for_nobody(network: SimNetwork) -> None:
    alice, _ = connected(network)
    network.drop_silently("alice", "bob")
    alice.send("bob", bytes(1_000_000))
    network.run(1)
    events = events_of(alice)
    second = Raw(network, "second", alice)
    started = network.time()
    second.greet("bob")
    assert network.run_until(lambda: events, 60)
    assert events == ["-bob", "+bob"]
    assert network.time() - started == pytest.approx(alice.messaging.takeover_wait, abs=0.2)


def test_a_third_one_is_refused_at_once(network: SimNetwork) -> None:
    alice = SimStack(network, "alice")
    first, second, third = (Raw(network, f"raw {n}", alice) for n in range(3))
    for raw in (first, second, third):
        raw.greet("bob")
    assert [raw.closed for raw in (first, second, third)] == [0, 0, 1]
    network.run(5)
    assert [raw.closed for raw in (first, second, third)] == [1, 0, 1]
    assert alice.messaging.is_connected("bob")


def test_what_the_second_one_sends_meanwhile_is_kept_for_when_it_is_accepted(
    network: SimNetwork,
) -> None:
    alice = SimStack(network, "alice")
    dead = Raw(network, "dead", alice)
    dead.greet("bob")
    new = Raw(network, "new", alice)
    new.greet("bob")
    network.run(alice.messaging.takeover_wait - 1.5)
    assert alice.messaging.is_connected("bob")
    new.say(encode_message(Message(b"one")), FRAME_PING, encode_message(Message(b"two")))
    pong = b"\0\0\0\1\5"
    assert new.received.endswith(pong), "a waiting connection is alive too"
    assert data(alice) == []
    assert network.run_until(lambda: len(alice.received) == 2, 5)
    assert data(alice) == [b"one", b"two"]
    network.run(1)
    assert new.received.count(pong) == 1


def test_what_the_second_one_sends_meanwhile_is_bounded(network: SimNetwork) -> None:
    alice = SimStack(network, "alice")
    alice.messaging.takeover_wait = 1000.0
    dead = Raw(network, "dead", alice)
    dead.greet("bob")
    new = Raw(network, "new", alice)
    new.greet("bob")
    frame = encode_message(Message(bytes(20_000)))
    stream = (encode_header(len(frame)) + frame) * 100
    progress = 0

    def go_on(conn: str, sent: int) -> None:
        nonlocal progress
        progress += sent
        if progress < len(stream):
            new.link.send(conn, stream[progress:])

    new.link.on_ready_to_send.add(go_on)
    new.link.send(new.connections[0], stream)
    network.run(100)
    assert progress < 1_000_000
    dead.link.close(dead.connections[0])
    assert network.run_until(lambda: len(alice.received) == 100, 100)


def test_the_second_one_moves_up_when_the_first_goes(network: SimNetwork) -> None:
    alice = SimStack(network, "alice")
    alice.messaging.takeover_wait = 1000.0
    first, second = Raw(network, "first", alice), Raw(network, "second", alice)
    first.greet("bob")
    second.greet("bob")
    events = events_of(alice)
    first.link.close(first.connections[0])
    network.run(1)
    assert events == ["-bob", "+bob"]
    assert second.closed == 0


def test_when_the_second_one_goes_the_first_stays(network: SimNetwork) -> None:
    alice = SimStack(network, "alice")
    first, second = Raw(network, "first", alice), Raw(network, "second", alice)
    first.greet("bob")
    second.greet("bob")
    second.link.close(second.connections[0])
    network.run(10)
    assert alice.messaging.is_connected("bob")
    assert first.closed == 0


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("dialling", ["each other", "twice from one side"])
def test_two_connections_at_the_same_time_settle_on_one(seed: int, dialling: str) -> None:
    network = SimNetwork(seed=seed)
    for way in (("alice", "bob"), ("bob", "alice")):
        network.set_conditions(*way, delay=0.02, jitter=0.05)
    alice, bob = SimStack(network, "alice"), SimStack(network, "bob")
    events = events_of(alice)
    alice.connect(bob)
    if dialling == "each other":
        bob.connect(alice)
    else:
        bob.link.add_listener(("bob", "second"))
        alice.link.add_connector(("bob", "second"))
    network.run(1.5)
    assert alice.messaging.is_connected("bob"), "not both are closed"
    assert bob.messaging.is_connected("alice")
    network.run(60)
    assert len(network.connections) <= 2  # one, and perhaps an attempt
    # Not more than one change after the first meeting.
    assert len(events) <= 3
    alice.send("bob", b"x")
    assert network.run_until(lambda: data(bob) == [b"x"])


@pytest.mark.parametrize("seed", range(100))
def test_two_peers_that_dial_each_other_lose_nothing(seed: int) -> None:
    network = SimNetwork(seed=seed)
    for way in (("alice", "bob"), ("bob", "alice")):
        network.set_conditions(*way, delay=0.02, jitter=0.05)
    alice, bob = SimStack(network, "alice"), SimStack(network, "bob")
    for number in range(20):
        alice.send("bob", b"%d" % number)
        bob.send("alice", b"%d" % number)
    alice.connect(bob)
    bob.connect(alice)
    assert network.run_until(lambda: len(data(alice)) >= 20 and len(data(bob)) >= 20)
    network.run(5)
    assert data(alice) == data(bob) == [b"%d" % number for number in range(20)]


def test_only_those_who_may_dial_each_other_wait_a_moment(network: SimNetwork) -> None:
    # Zoe dials, and would lose against alice's own attempt; but alice dials nobody.
    alice = SimStack(network, "alice")
    link = network.link("zoe")
    zoe = Messaging("zoe", "", Packeter(link))
    link.add_connector(alice.address)
    assert network.run_until(lambda: zoe.is_connected("alice"))
    zoe.send_message("alice", Message(b"at once"))
    start = network.time()
    assert network.run_until(lambda: alice.received)
    assert network.time() - start < 0.01


# The hook.


def test_every_match_is_called_in_the_order_of_registration(network: SimNetwork) -> None:
    alice, bob = connected(network)
    calls: list[str] = []

    def record(name: str) -> Callable[[str, str, Message], None]:
        return lambda conn, ident, message: calls.append(name)

    bob.messaging.on_message_recv.add(record("other"))
    hook = ReceiveHook(bob.messaging)
    hook.register(b"ab", record("ab"))
    hook.register(b"a", record("a"))
    hook.register(b"b", record("b"))
    alice.messaging.send_message("bob", Message(b"abc"))
    network.run(1)
    assert calls == ["ab", "a", "other"]
    calls.clear()
    hook.register(b"ab", record("new"))
    hook.unregister(b"a")
    with pytest.raises(KeyError):
        hook.unregister(b"a")
    alice.messaging.send_message("bob", Message(b"abc"))
    network.run(1)
    assert calls == ["new", "other"]
    hook.clear()
    calls.clear()
    alice.messaging.send_message("bob", Message(b"abc"))
    network.run(1)
    assert calls == ["other"]


def test_a_failing_hook_stops_no_other(network: SimNetwork) -> None:
    alice, bob = connected(network)
    errors: list[Exception] = []
    calls: list[bytes] = []
    bob.messaging.on_error.add(lambda conn, exc: errors.append(exc))
    hook = ReceiveHook(bob.messaging)
    hook.register(b"a", lambda conn, ident, message: 1 / 0)
    hook.register(b"", lambda conn, ident, message: calls.append(message.data))
    alice.messaging.send_message("bob", Message(b"abc"))
    network.run(1)
    assert calls == [b"abc"]
    assert isinstance(errors[0], ZeroDivisionError)
    assert not isinstance(errors[0], SnakeMQException)
