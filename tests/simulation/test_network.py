"""The simulated network itself: its clock, its faults, and that one seed is one history."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from snakemq.testing.faults import KINDS, Fault, FaultPlan
from snakemq.testing.network import Conditions, LinkCrashed, SimLink, SimNetwork, TraceEntry

NASTY = Conditions(
    delay=0.01,
    jitter=0.05,
    send_buffer=700,
    recv_buffer=300,
    max_chunk=200,
    split=0.7,
    partial_send=0.4,
)


class Streams:
    """Sends a stream over each connection of a link, and keeps what arrives."""

    def __init__(self, link: SimLink, data: bytes = b"") -> None:
        self.link = link
        self.data = data
        self.sent: dict[str, int] = {}
        self.received: dict[str, bytearray] = {}
        self.gone: list[str] = []
        link.on_connect.add(self._connected)
        link.on_recv.add(lambda conn_id, data: self.received[conn_id].extend(data))
        link.on_ready_to_send.add(self._ready)
        link.on_disconnect.add(self.gone.append)

    def _connected(self, conn_id: str) -> None:
        self.received[conn_id] = bytearray()
        self.sent[conn_id] = 0
        if self.data:
            self.link.send(conn_id, self.data)

    def _ready(self, conn_id: str, size: int) -> None:
        self.sent[conn_id] += size
        if self.sent[conn_id] < len(self.data):
            self.link.send(conn_id, memoryview(self.data)[self.sent[conn_id] :])

    @property
    def all_received(self) -> bytes:
        return b"".join(self.received.values())


def connected_pair(network: SimNetwork) -> tuple[SimLink, SimLink]:
    """alice dials bob; both have been told."""
    alice, bob = network.link("alice"), network.link("bob")
    alice.add_connector(bob.add_listener(("bob", 4000)), reconnect_interval=1.0)
    assert network.run_until(lambda: alice.connections and bob.connections)
    assert network.run_until_idle()
    return alice, bob


class TestTime:
    def test_it_is_virtual(self) -> None:
        network = SimNetwork()
        link = network.link("alice")
        calls: list[float] = []
        link.call_later(1_000_000, lambda: calls.append(link.time()))
        network.run(999_999)
        assert calls == []
        network.run(1)
        assert calls == [1_000_000]
        assert network.time() == link.time() == 1_000_000

    def test_run_until_stops_at_the_condition(self) -> None:
        network = SimNetwork()
        link = network.link("alice")
        done: list[int] = []
        for second in range(1, 6):
            link.call_later(second, done.append, second)
        assert network.run_until(lambda: len(done) == 3, timeout=100)
        assert (done, network.now) == ([1, 2, 3], 3)

    def test_run_until_gives_up_after_the_timeout(self) -> None:
        network = SimNetwork()
        assert not network.run_until(lambda: False, timeout=7)
        assert network.now == 7

    def test_run_until_may_wait_for_a_time(self) -> None:
        network = SimNetwork()
        assert network.run_until(lambda: network.now >= 5, timeout=5)

    def test_idle_does_not_wait_for_timers(self) -> None:
        network = SimNetwork()
        alice, _ = connected_pair(network)
        calls: list[str] = []
        alice.call_later(30, calls.append, "timer")
        alice.call_soon(calls.append, "soon")
        alice.call_later(0, calls.append, "due")
        assert network.run_until_idle()
        assert calls == ["due", "soon"]

    def test_idle_waits_for_what_is_on_its_way(self) -> None:
        network = SimNetwork(conditions=Conditions(delay=3.0))
        alice, bob = connected_pair(network)
        streams = Streams(bob)
        streams.received[bob.connections[0]] = bytearray()
        alice.send(alice.connections[0], b"hello")
        assert network.run_until_idle()
        assert streams.all_received == b"hello"

    def test_something_that_goes_on_for_ever_is_never_idle(self) -> None:
        network = SimNetwork()
        alice, bob = connected_pair(network)
        alice.on_recv.add(alice.send)
        bob.on_recv.add(bob.send)
        alice.send(alice.connections[0], b"ball")
        assert not network.run_until_idle(timeout=1)

    def test_stop_makes_the_run_return(self) -> None:
        network = SimNetwork()
        link = network.link("alice")
        link.call_later(2, link.stop)
        network.run(10)
        assert network.now == 2
        network.run(10)
        assert network.now == 12

    def test_it_does_not_run_inside_of_itself(self) -> None:
        network = SimNetwork()
        link = network.link("alice")
        errors: list[Exception] = []
        link.on_error.add(lambda conn_id, exc: errors.append(exc))
        link.call_soon(network.run, 1)
        network.run(1)
        assert [type(error) for error in errors] == [RuntimeError]

    def test_keyboard_interrupt_passes_and_the_network_goes_on(self) -> None:
        network = SimNetwork()
        link = network.link("alice")
        calls: list[int] = []

        def interrupt() -> None:
            raise KeyboardInterrupt

        for number in range(3):
            link.call_later(1, calls.append, number)
            link.call_soon(calls.append, 10 + number)
        link.call_later(1, interrupt)
        link.call_later(1, calls.append, 3)
        with pytest.raises(KeyboardInterrupt):
            network.run(5)
        network.run(5)
        assert calls == [10, 11, 12, 0, 1, 2, 3]

    def test_what_a_call_from_outside_raises_comes_out(self) -> None:
        network = SimNetwork()
        network.call_later(1, lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            network.run(5)
        network.run(1)
        assert network.now == 2

    def test_time_that_stands_still_is_an_error_and_no_endless_loop(self) -> None:
        network = SimNetwork()
        link = network.link("alice")

        def again() -> None:
            link.call_later(0, again)

        again()
        with pytest.raises(RuntimeError, match=r"time stands still at 0\.0"):
            network.run(1)

    def test_cancelled_timers_do_not_pile_up(self) -> None:
        network = SimNetwork()
        link = network.link("alice")
        kept = link.call_later(5, lambda: None)
        for _ in range(10_000):
            link.call_later(10, lambda: None).cancel()
        assert len(link._timers) < 200
        assert link.pending_timers == 1
        kept.cancel()
        kept.cancel()
        assert link.pending_timers == 0

    def test_other_threads_may_call_soon(self) -> None:
        network = SimNetwork()
        link = network.link("alice")
        calls: list[tuple[int, int]] = []

        def work(thread: int) -> None:
            for number in range(500):
                link.call_soon(calls.append, (thread, number))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            network.run(0.001)
        for thread in threads:
            thread.join()
        network.run(0.001)
        assert len(calls) == 2000
        for thread in range(4):
            assert [number for who, number in calls if who == thread] == list(range(500))


class TestStreams:
    @pytest.mark.parametrize("seed", range(20))
    def test_a_nasty_way_delivers_every_byte_in_order(self, seed: int) -> None:
        network = SimNetwork(seed, conditions=NASTY, loop_delay=0.01)
        alice, bob = network.link("alice"), network.link("bob")
        there = Streams(alice, random.Random(seed).randbytes(20_000))
        back = Streams(bob, random.Random(-seed).randbytes(20_000))
        alice.add_connector(bob.add_listener(("bob", 0)))
        assert network.run_until(
            lambda: len(there.all_received) == len(back.all_received) == 20_000, timeout=1000
        )
        assert back.all_received == there.data
        assert there.all_received == back.data

    def test_chunks_go_down_to_one_byte(self) -> None:
        network = SimNetwork(conditions=Conditions(split=1.0))
        _, bob = alice_bob = connected_pair(network)
        sizes: list[int] = []
        bob.on_recv.add(lambda conn_id, data: sizes.append(len(data)))
        alice = alice_bob[0]
        alice.send(alice.connections[0], bytes(5000))
        network.run_until_idle()
        assert sum(sizes) == 5000
        assert min(sizes) == 1
        assert max(sizes) > 100

    def test_a_receiver_that_does_not_read_stops_the_sender(self) -> None:
        network = SimNetwork(conditions=Conditions(send_buffer=1000, recv_buffer=500))
        alice, bob = connected_pair(network)
        stream = Streams(alice, bytes(10_000))
        arrived = Streams(bob)
        conn_id = bob.connections[0]
        arrived.received[conn_id] = bytearray()
        bob.pause_recv(conn_id)
        stream._connected(alice.connections[0])
        network.run(1000)
        assert sum(stream.sent.values()) <= 1500
        assert not arrived.all_received
        bob.resume_recv(conn_id)
        network.run_until_idle()
        assert len(arrived.all_received) == 10_000

    def test_sends_may_take_nothing_at_all(self) -> None:
        network = SimNetwork(conditions=Conditions(partial_send=0.9))
        alice, _ = connected_pair(network)
        sizes: list[int] = []
        alice.on_ready_to_send.add(lambda conn_id, size: sizes.append(size))
        for _ in range(200):
            alice.send(alice.connections[0], b"abc")
            network.run_until_idle()
        assert set(sizes) == {0, 1, 2, 3}

    def test_unreported_tells_what_was_taken(self) -> None:
        network = SimNetwork(conditions=Conditions(send_buffer=100, recv_buffer=10))
        alice, _ = connected_pair(network)
        conn_id = alice.connections[0]
        assert alice.unreported(conn_id) == 0
        alice.send(conn_id, bytes(1000))
        assert alice.unreported(conn_id) == 100
        network.run_until_idle()
        assert alice.unreported(conn_id) == 0

    def test_a_slow_direction_does_not_slow_the_other(self) -> None:
        network = SimNetwork()
        alice, bob = connected_pair(network)
        network.set_conditions("alice", bob, delay=5.0)
        arrivals: list[tuple[str, float]] = []
        for link in (alice, bob):
            link.on_recv.add(lambda *_, name=link.name: arrivals.append((name, network.now)))
            link.send(link.connections[0], b"x")
        start = network.now
        network.run(10)
        assert [(name, round(when - start, 3)) for name, when in arrivals] == [
            ("alice", 0.001),
            ("bob", 5.0),
        ]
        assert network.conditions(alice, bob).delay == 5.0
        assert network.conditions(bob, alice).delay == 0.001

    def test_conditions_that_make_no_sense_are_refused(self) -> None:
        for changes in (
            {"delay": -1},
            {"jitter": -1},
            {"send_buffer": 0},
            {"max_chunk": 0},
            {"split": 2},
            {"partial_send": 1.0},
        ):
            with pytest.raises(ValueError, match="must be"):
                Conditions(**changes)  # type: ignore[arg-type]


class TestNames:
    def test_a_name_is_used_once_at_a_time(self) -> None:
        network = SimNetwork()
        first = network.link("alice")
        with pytest.raises(ValueError, match="running"):
            network.link("alice")
        first.cleanup()
        assert not first.running
        assert network.link("alice").running

    def test_addresses_may_be_anything_hashable(self) -> None:
        network = SimNetwork()
        alice, bob = network.link("alice"), network.link("bob")
        assert bob.add_listener("the front door") == "the front door"
        alice.add_connector("the front door")
        assert network.run_until(lambda: bob.connections)

    def test_port_0_is_a_free_one(self) -> None:
        network = SimNetwork()
        bob = network.link("bob")
        first, second = bob.add_listener(("bob", 0)), bob.add_listener(("bob", 0))
        assert first != second
        assert bob.listeners == [first, second]
        bob.del_listener(first)
        assert bob.listeners == [second]
        with pytest.raises(KeyError):
            bob.del_listener(first)

    def test_a_busy_address_is_refused(self) -> None:
        network = SimNetwork()
        alice, bob = network.link("alice"), network.link("bob")
        bob.add_listener(("bob", 1))
        with pytest.raises(ValueError, match="already"):
            bob.add_listener(("bob", 1))
        with pytest.raises(OSError, match="bob listens"):
            alice.add_listener(("bob", 1))

    def test_a_link_may_dial_itself(self) -> None:
        network = SimNetwork()
        alice = network.link("alice")
        streams = Streams(alice, b"hello")
        alice.add_connector(alice.add_listener(("alice", 0)))
        network.run_until_idle()
        assert sorted(streams.received.values()) == [b"hello", b"hello"]
        alice.cleanup()
        assert network.connections == []


class TestConnecting:
    def test_refused_attempts_get_rarer(self) -> None:
        network = SimNetwork()
        alice = network.link("alice")
        alice.add_connector(("bob", 1), reconnect_interval=1.0)
        network.run(300)
        bob = network.link("bob")
        connects: list[float] = []
        bob.on_connect.add(lambda conn_id: connects.append(network.now))
        bob.add_listener(("bob", 1))
        assert network.run_until(lambda: connects, timeout=31)
        assert network.now > 301

    def test_a_lost_connection_comes_back(self) -> None:
        network = SimNetwork()
        alice, bob = connected_pair(network)
        first = alice.connections
        network.run(10)
        bob.close(bob.connections[0])
        assert network.run_until(lambda: not alice.connections)
        assert network.run_until(lambda: alice.connections, timeout=1.1)
        assert alice.connections != first

    def test_a_deleted_connector_does_not_dial(self) -> None:
        network = SimNetwork()
        alice, bob = connected_pair(network)
        gone: list[str] = []
        alice.on_disconnect.add(gone.append)
        assert alice.connectors == [("bob", 4000)]
        alice.del_connector(("bob", 4000))
        assert alice.connectors == []
        assert len(gone) == 1
        network.run(100)
        assert network.connections == []
        assert not bob.connections

    @pytest.mark.parametrize("steps", range(1, 8))
    def test_a_connector_can_be_deleted_at_any_moment(self, steps: int) -> None:
        network = SimNetwork(conditions=Conditions(delay=1.0))
        alice, bob = network.link("alice"), network.link("bob")
        events: list[tuple[str, str]] = []
        for link in (alice, bob):
            link.on_connect.add(lambda _, name=link.name: events.append((name, "connect")))
            link.on_disconnect.add(lambda _, name=link.name: events.append((name, "disconnect")))
        address = alice.add_connector(bob.add_listener(("bob", 1)))
        network.run(steps * 0.5 - 0.25)
        alice.del_connector(address)
        network.run(100)
        assert network.connections == []
        for name in ("alice", "bob"):
            mine = [event for who, event in events if who == name]
            assert mine in ([], ["connect", "disconnect"])

    def test_a_cut_before_the_dialler_knows_is_a_refusal(self) -> None:
        network = SimNetwork(conditions=Conditions(delay=1.0))
        alice, bob = network.link("alice"), network.link("bob")
        alice.add_connector(bob.add_listener(("bob", 1)), reconnect_interval=1.0)
        assert network.run_until(lambda: bob.connections)
        assert network.cut("alice", "bob") == 1
        network.run(1.5)
        assert not alice.connections
        assert not bob.connections
        assert network.run_until(lambda: alice.connections, timeout=10)

    def test_a_connector_is_added_once(self) -> None:
        alice = SimNetwork().link("alice")
        alice.add_connector(("bob", 1))
        with pytest.raises(ValueError, match="already"):
            alice.add_connector(("bob", 1))

    def test_an_unanswered_attempt_times_out(self) -> None:
        network = SimNetwork()
        alice, bob = network.link("alice"), network.link("bob")
        bob.add_listener(("bob", 1))
        network.drop_silently(bob, alice)
        alice.add_connector(("bob", 1))
        network.run(60)
        assert not alice.connections
        network.heal(bob, alice)
        assert network.run_until(lambda: alice.connections, timeout=60)
        assert len(bob.connections) == 1

    def test_an_answer_that_comes_too_late_is_refused(self) -> None:
        network = SimNetwork(conditions=Conditions(delay=1.0))
        alice, bob = network.link("alice"), network.link("bob")
        alice.add_connector(bob.add_listener(("bob", 1)))
        assert network.run_until(lambda: bob.connections)
        network.drop_silently(bob, alice)
        network.run(30)
        alice.del_connector(("bob", 1))
        assert bob.connections
        network.heal()
        network.run(5)
        assert not bob.connections
        assert network.connections == []


def stream_and_break(
    seed: int, break_it: Callable[[SimNetwork], object]
) -> tuple[SimNetwork, Streams, Streams]:
    network = SimNetwork(seed, conditions=NASTY, loop_delay=0.01)
    alice, bob = network.link("alice"), network.link("bob")
    there = Streams(alice, bytes(range(256)) * 40)
    back = Streams(bob)
    alice.add_connector(bob.add_listener(("bob", 1)), reconnect_interval=1000)
    assert network.run_until(lambda: len(back.all_received) > 2000)
    break_it(network)
    network.run(50)
    return network, there, back


class TestBreaking:
    def test_a_cut_is_told_on_both_sides_and_loses_the_end_of_the_stream(self) -> None:
        lost = set()
        for seed in range(30):
            network, there, back = stream_and_break(seed, lambda net: net.cut("bob", "alice"))
            assert len(there.gone) == len(back.gone) == 1
            assert network.connections == []
            assert there.data.startswith(back.all_received)
            lost.add(sum(there.sent.values()) - len(back.all_received))
        assert len(lost) > 5

    def test_cut_says_how_many(self) -> None:
        network = SimNetwork()
        connected_pair(network)
        assert network.cut("alice", "carol") == 0
        assert network.cut("alice", "bob") == 1

    def test_what_was_taken_before_close_is_delivered_before_the_end(self) -> None:
        for seed in range(30):
            network, there, back = stream_and_break(
                seed, lambda net: net.links["alice"].close(net.links["alice"].connections[0])
            )
            assert len(there.gone) == len(back.gone) == 1
            assert len(back.all_received) >= sum(there.sent.values())
            assert there.data.startswith(back.all_received)
            assert network.connections == []

    def test_a_paused_side_reads_everything_before_the_end(self) -> None:
        network = SimNetwork()
        alice, bob = connected_pair(network)
        back = Streams(bob)
        conn_id = bob.connections[0]
        back.received[conn_id] = bytearray()
        bob.pause_recv(conn_id)
        alice.send(alice.connections[0], b"farewell")
        network.run_until_idle()
        alice.del_connector(("bob", 4000))
        network.run(100)
        assert bob.connections == [conn_id]
        bob.resume_recv(conn_id)
        network.run_until_idle()
        assert back.all_received == b"farewell"
        assert back.gone == [conn_id]

    def test_a_silent_loss_is_told_to_nobody_and_loses_nothing_when_healed(self) -> None:
        network = SimNetwork(conditions=NASTY)
        alice, bob = network.link("alice"), network.link("bob")
        there, back = Streams(alice, bytes(range(256)) * 40), Streams(bob, bytes(5000))
        alice.add_connector(bob.add_listener(("bob", 1)))
        assert network.run_until(lambda: len(back.all_received) > 2000)
        network.drop_silently("alice", "bob")
        network.run(1)
        before = back.all_received
        network.run(3600)
        assert back.all_received == before
        assert sum(there.sent.values()) <= len(before) + 1000
        assert there.gone == back.gone == []
        # The other direction works until the window is full: nobody confirms.
        assert 0 < len(there.all_received) < 5000
        network.heal("alice", "bob")
        network.run(100)
        assert back.all_received == there.data
        assert there.all_received == back.data

    def test_a_close_behind_a_silent_loss_arrives_when_it_is_healed(self) -> None:
        network = SimNetwork()
        alice, bob = connected_pair(network)
        network.partition([alice], [bob])
        alice.del_connector(("bob", 4000))
        network.run(1000)
        assert len(bob.connections) == 1
        network.heal()
        network.run(1)
        assert bob.connections == []
        assert network.connections == []

    def test_a_partition_separates_groups_only(self) -> None:
        network = SimNetwork()
        links = {name: network.link(name) for name in "abcd"}
        for link in links.values():
            link.add_listener((link.name, 1))
        for source, target in ("ab", "ac", "cd"):
            links[source].add_connector((target, 1))
        network.partition("ab", "cd")
        network.run(30)
        assert sorted(network.connections) == [("a", "b"), ("c", "d")]
        network.heal()
        network.run(60)
        assert sorted(network.connections) == [("a", "b"), ("a", "c"), ("c", "d")]


class TestCrash:
    def test_the_dead_do_nothing_and_the_others_are_told(self) -> None:
        for seed in range(20):
            network, there, back = stream_and_break(seed, lambda net: net.crash("alice"))
            assert there.gone == []
            assert len(back.gone) == 1
            assert there.data.startswith(back.all_received)
            assert network.connections == []
            assert not there.link.running

    def test_no_timer_and_no_call_survives(self) -> None:
        network = SimNetwork()
        alice = network.link("alice")
        calls: list[str] = []
        alice.call_later(1, calls.append, "timer")
        alice.call_soon(calls.append, "soon")
        alice.on_loop_pass.add(lambda: calls.append("pass"))
        network.crash(alice)
        alice.call_later(1, calls.append, "timer after death")
        alice.call_soon(calls.append, "soon after death")
        alice.wakeup_poll()
        network.run(10)
        assert calls == []
        assert alice.pending_timers == 0

    @pytest.mark.parametrize("silent", [False, True])
    @pytest.mark.parametrize("steps", range(1, 8))
    def test_a_dialler_may_crash_at_any_moment(self, steps: int, silent: bool) -> None:
        network = SimNetwork(conditions=Conditions(delay=1.0))
        alice, bob = network.link("alice"), network.link("bob")
        events: list[str] = []
        bob.on_connect.add(lambda conn_id: events.append("connect"))
        bob.on_disconnect.add(lambda conn_id: events.append("disconnect"))
        alice.add_connector(bob.add_listener(("bob", 1)))
        network.run(steps * 0.5 - 0.25)
        network.crash(alice, silent=silent)
        network.link("alice")
        network.run(100)
        network.probe()
        network.run(100)
        assert network.connections == []
        assert events in ([], ["connect", "disconnect"])

    def test_its_listeners_refuse_and_its_name_is_free(self) -> None:
        network = SimNetwork()
        alice, bob = connected_pair(network)
        network.crash(bob)
        assert network.run_until(lambda: not alice.connections)
        network.run(20)
        assert not alice.connections
        again = network.link("bob")
        again.add_listener(("bob", 4000))
        assert network.run_until(lambda: again.connections)

    def test_a_crash_in_a_callback_ends_the_callback(self) -> None:
        network = SimNetwork()
        alice, bob = connected_pair(network)
        calls: list[str] = []

        def receive(conn_id: str, data: bytes) -> None:
            calls.append("first")
            network.crash(bob)
            calls.append("after the crash")

        bob.on_recv.add(receive)
        bob.on_recv.add(lambda conn_id, data: calls.append("second"))
        bob.on_disconnect.add(lambda conn_id: calls.append("disconnect"))
        alice.send(alice.connections[0], b"boom")
        network.run(0.5)
        assert calls == ["first"]
        assert not alice.connections

    def test_a_finally_in_the_callback_does_not_get_far(self) -> None:
        network = SimNetwork()
        alice, bob = connected_pair(network)
        calls: list[str] = []

        def receive(conn_id: str, data: bytes) -> None:
            try:
                network.crash(bob)
            finally:
                calls.append("finally")
                bob.send(conn_id, b"from beyond")
                calls.append("after the send")

        bob.on_recv.add(receive)
        alice.send(alice.connections[0], b"boom")
        network.run(0.5)
        assert calls == ["finally"]

    def test_a_crash_that_was_none_comes_out(self) -> None:
        network = SimNetwork()
        link = network.link("alice")

        def pretend() -> None:
            raise LinkCrashed("alice")

        link.call_soon(pretend)
        with pytest.raises(LinkCrashed):
            network.run(1)

    def test_a_crash_in_on_disconnect(self) -> None:
        network = SimNetwork()
        alice, bob = connected_pair(network)
        alice.on_disconnect.add(lambda conn_id: network.crash(alice))
        bob.close(bob.connections[0])
        network.run(100)
        assert network.connections == []
        assert list(network.links) == ["bob"]

    def test_a_crash_of_another_link_does_not_end_the_callback(self) -> None:
        network = SimNetwork()
        alice, bob = connected_pair(network)
        calls: list[str] = []

        def kill() -> None:
            network.crash(bob)
            calls.append("still here")

        alice.call_soon(kill)
        network.run(1)
        assert calls == ["still here"]

    def test_a_crash_from_outside_raises_nothing(self) -> None:
        network = SimNetwork()
        network.link("alice")
        network.crash("alice")
        with pytest.raises(KeyError):
            network.crash("alice")

    def test_link_crashed_is_not_an_exception(self) -> None:
        assert not issubclass(LinkCrashed, Exception)

    def test_a_machine_that_vanishes_is_noticed_when_it_is_back(self) -> None:
        network = SimNetwork()
        alice, bob = connected_pair(network)
        conn_id = alice.connections[0]
        network.crash(bob, silent=True)
        network.run(100)
        alice.send(conn_id, b"are you there?")
        network.run(100)
        assert alice.connections == [conn_id]
        network.link("bob")
        network.run(0.5)
        assert alice.connections == []

    def test_a_silent_connection_to_a_vanished_machine_lasts_for_ever(self) -> None:
        network = SimNetwork()
        alice, bob = connected_pair(network)
        conn_id = alice.connections[0]
        network.crash(bob, silent=True)
        network.link("bob")
        network.run(10_000)
        assert alice.connections == [conn_id]
        alice.send(conn_id, b"are you there?")
        network.run(0.5)
        assert alice.connections == []

    def test_nobody_can_dial_a_vanished_machine(self) -> None:
        network = SimNetwork()
        alice, bob = network.link("alice"), network.link("bob")
        bob.add_listener(("bob", 1))
        network.crash(bob, silent=True)
        alice.add_connector(("bob", 1), reconnect_interval=1.0)
        network.run(5)
        again = network.link("bob")
        again.add_listener(("bob", 1))
        network.run(4)
        assert not again.connections  # still waits for the answer to its first attempt
        assert network.run_until(lambda: again.connections, timeout=3)

    def test_cleanup_tells_everybody(self) -> None:
        network = SimNetwork()
        alice, bob = connected_pair(network)
        gone: list[str] = []
        bob.on_disconnect.add(gone.append)
        bob.cleanup()
        bob.cleanup()
        assert len(gone) == 1
        assert network.run_until(lambda: not alice.connections)

    def test_cleanup_in_a_callback(self) -> None:
        network = SimNetwork()
        alice, bob = connected_pair(network)
        calls: list[str] = []
        bob.on_recv.add(lambda conn_id, data: bob.cleanup())
        bob.on_ready_to_send.add(lambda conn_id, size: calls.append("ready"))
        bob.call_later(0, calls.append, "timer")
        bob.on_loop_pass.add(lambda: calls.append("pass") if not bob.running else None)
        alice.send(alice.connections[0], b"x")
        network.run_until(lambda: not bob.running)
        bob.call_soon(calls.append, "soon")
        network.run(100)
        assert calls == ["timer"]
        assert network.connections == []


class TestFaultPlan:
    def test_everything_is_well_in_the_end(self) -> None:
        for seed in range(200):
            plan = FaultPlan.random(random.Random(seed), "abc", duration=30, count=10)
            assert 1 <= len(plan.faults) <= 10
            assert plan.end <= 30
            assert list(plan.faults) == sorted(plan.faults, key=lambda fault: fault.at)

    def test_a_link_crashes_only_while_it_runs(self) -> None:
        for seed in range(200):
            plan = FaultPlan.random(
                random.Random(seed), "ab", duration=30, count=10, kinds=("crash", "vanish")
            )
            for name in "ab":
                mine = [fault for fault in plan.faults if fault.a == name]
                for earlier, later in itertools.pairwise(mine):
                    assert earlier.end < later.at

    def test_every_kind_happens(self) -> None:
        network = SimNetwork()
        network.link("a")
        network.link("b")
        happened: list[tuple[Any, ...]] = []
        plan = FaultPlan(
            tuple(Fault(number, kind, "a", "b", 0.5) for number, kind in enumerate(KINDS))
        )
        plan.start(
            network,
            crash=lambda name, silent: happened.append(("crash", name, silent)),
            restart=lambda name: happened.append(("restart", name)),
        )
        states = []
        for _ in KINDS:
            network.run(0.25)
            states.append(
                (
                    network.is_blocked("a", "b"),
                    network.is_blocked("b", "a"),
                    network.conditions("a", "b").delay > 0.01,
                )
            )
            network.run(0.75)
        assert states == [
            (False, False, False),
            (True, False, False),
            (True, True, False),
            (False, False, False),
            (False, False, False),
            (False, False, True),
        ]
        assert happened == [
            ("crash", "a", False),
            ("restart", "a"),
            ("crash", "a", True),
            ("restart", "a"),
        ]
        assert plan.end == 5.5
        assert not network.is_blocked("a", "b")
        assert network.conditions("a", "b").delay == 0.001

    def test_nonsense_is_refused(self) -> None:
        with pytest.raises(ValueError, match="two links"):
            FaultPlan.random(random.Random(0), "a", duration=1, count=1)
        with pytest.raises(ValueError, match="meteorite"):
            FaultPlan.random(random.Random(0), "ab", duration=1, count=1, kinds=("meteorite",))

    def test_no_faults_end_at_once(self) -> None:
        assert FaultPlan(()).end == 0


class TestDeterminism:
    @staticmethod
    def history(seed: int) -> list[TraceEntry]:
        network = SimNetwork(seed, conditions=NASTY, loop_delay=0.02, trace=True)
        names = "abc"

        def start(name: str) -> None:
            link = network.link(name)
            Streams(link, bytes(3000))
            link.add_listener((name, 1))
            for other in names:
                if other > name:
                    link.add_connector((other, 1), reconnect_interval=0.5)

        for name in names:
            start(name)
        FaultPlan.random(network.random, names, duration=10, count=6).start(
            network, crash=network.crash, restart=start
        )
        network.run(30)
        assert network.trace is not None
        return network.trace

    @pytest.mark.parametrize("seed", range(5))
    def test_one_seed_is_one_history(self, seed: int) -> None:
        history = self.history(seed)
        assert len(history) > 100
        assert self.history(seed) == history

    def test_another_seed_is_another_history(self) -> None:
        assert self.history(1) != self.history(2)

    def test_nothing_is_recorded_unless_asked_for(self) -> None:
        assert SimNetwork().trace is None


def test_representations_tell_the_state() -> None:
    network = SimNetwork()
    alice, _ = connected_pair(network)
    assert repr(alice) == "<SimLink alice connections=1>"
    assert repr(network).startswith("<SimNetwork now=0.00")
