"""Stacks on the simulated network, as the users of ``snakemq.testing`` have them."""

from __future__ import annotations

import pytest

import snakemq.testing
from snakemq import Peer
from snakemq.message import FLAG_PERSISTENT
from snakemq.storage import MemoryQueuesStorage
from snakemq.testing import Conditions, LinkCrashed, SimNetwork, SimStack


def data_of(stack: SimStack) -> list[tuple[str, bytes]]:
    return [(ident, message.data) for ident, message in stack.received]


class TestPair:
    def test_a_pair_in_one_line(self) -> None:
        with snakemq.testing.pair() as (alice, bob):
            alice.send("bob", b"hello")
            bob.send("alice", b"hello yourself")
            assert alice.network is bob.network
            assert alice.network.run_until(lambda: bob.received and alice.received)
            assert data_of(bob) == [("alice", b"hello")]
            assert data_of(alice) == [("bob", b"hello yourself")]
        assert not alice.running
        assert not bob.running

    def test_it_is_connected_and_the_first_dialled(self) -> None:
        with snakemq.testing.pair(("carol", "dave")) as (carol, dave):
            assert carol.messaging.connected_peers() == ["dave"]
            assert dave.messaging.connected_peers() == ["carol"]
            assert carol.network.connections == [("carol", "dave")]
            assert repr(carol) == "<SimStack carol running=True>"

    def test_the_network_is_as_bad_as_asked_for(self) -> None:
        with snakemq.testing.pair(seed=5, conditions=Conditions(delay=2.0)) as (alice, bob):
            start = alice.network.now
            alice.send("bob", b"slow")
            assert alice.network.run_until(lambda: bob.received)
            assert alice.network.now - start >= 2.0

    def test_a_throttle_slows_the_senders(self) -> None:
        with snakemq.testing.pair(throttle=1000) as (alice, bob):
            start = alice.network.now
            alice.send("bob", bytes(10_000))
            assert alice.network.run_until(lambda: bob.received)
            assert alice.network.now - start == pytest.approx(10, rel=0.05)

    def test_what_a_test_raises_comes_out_and_everything_is_closed(self) -> None:
        with pytest.raises(ZeroDivisionError), snakemq.testing.pair() as (alice, _):
            raise ZeroDivisionError
        assert not alice.running

    def test_the_receive_hook_is_there(self) -> None:
        with snakemq.testing.pair() as (alice, bob):
            hooked: list[bytes] = []
            bob.hook.register(b"news", lambda conn_id, ident, message: hooked.append(message.data))
            alice.send("bob", b"olds")
            alice.send("bob", b"news!")
            assert alice.network.run_until(lambda: len(bob.received) == 2)
            assert hooked == [b"news!"]


class TestCrashAndRestart:
    def test_a_persistent_message_survives_the_crash_of_its_sender(self) -> None:
        storages = MemoryQueuesStorage(), None
        with snakemq.testing.pair(storages=storages) as (alice, bob):
            network = alice.network
            network.partition([alice.link], [bob.link])
            network.cut("alice", "bob")
            assert network.run_until(lambda: not alice.messaging.is_connected("bob"))
            alice.send("bob", b"persistent", flags=FLAG_PERSISTENT)
            alice.send("bob", b"transient")
            alice.crash()
            assert not alice.running
            network.run(10)
            alice.restart()
            network.heal()
            assert network.run_until(lambda: bob.received)
            network.run(10)
            assert data_of(bob) == [("alice", b"persistent")]

    def test_a_restarted_stack_is_a_new_one_that_dials_again(self) -> None:
        with snakemq.testing.pair() as (alice, bob):
            before = alice.link, alice.packeter, alice.messaging, alice.hook
            alice.crash()
            alice.restart()
            after = alice.link, alice.packeter, alice.messaging, alice.hook
            assert not set(map(id, before)) & set(map(id, after))
            assert alice.network.run_until(lambda: alice.messaging.is_connected("bob"))
            bob.send("alice", b"welcome back")
            assert alice.network.run_until(lambda: alice.received)

    def test_callbacks_are_added_at_each_start(self) -> None:
        network = SimNetwork()
        started: list[SimStack] = []
        stack = SimStack(network, "alice", on_start=started.append)
        stack.crash(silent=True)
        stack.restart()
        assert started == [stack, stack]
        with pytest.raises(ValueError, match="running"):
            stack.restart()

    def test_a_receiver_may_crash_in_its_own_callback(self) -> None:
        with snakemq.testing.pair() as (alice, bob):
            reached: list[str] = []

            def die(*_: object) -> None:
                reached.append("crash")
                bob.crash()
                reached.append("after the crash")

            bob.messaging.on_message_recv.add(die)
            bob.messaging.on_message_recv.add(lambda *_: reached.append("next callback"))
            alice.send("bob", b"poison")
            alice.network.run(5)
            assert reached == ["crash"]
            assert not bob.running
            assert not alice.messaging.is_connected("bob")

    def test_a_killed_process_may_still_deliver_what_its_system_had_taken(self) -> None:
        with snakemq.testing.pair(conditions=Conditions(delay=1.0)) as (alice, bob):
            sent: list[bytes] = []
            alice.messaging.on_message_sent.add(lambda conn_id, ident, uuid: sent.append(uuid))
            alice.send("bob", b"last words")
            assert alice.network.run_until(lambda: sent)
            alice.crash(flush=True)
            alice.network.run(5)
            assert data_of(bob) == [("alice", b"last words")]
            assert not bob.messaging.is_connected("alice")

    def test_gone_and_flushed_makes_no_sense(self) -> None:
        network = SimNetwork()
        stack = SimStack(network, "alice")
        with pytest.raises(ValueError, match="flush"):
            stack.crash(silent=True, flush=True)
        assert stack.running

    def test_a_crash_is_no_exception_that_a_stack_could_survive(self) -> None:
        assert not issubclass(LinkCrashed, Exception)


class TestTopology:
    def test_three_stacks_and_one_that_leaves(self) -> None:
        network = SimNetwork()
        alice, bob, carol = (SimStack(network, name) for name in ("alice", "bob", "carol"))
        alice.connect(bob)
        alice.connect(carol, reconnect_interval=0.5)
        assert network.run_until(lambda: len(alice.messaging.connected_peers()) == 2)
        alice.disconnect(bob)
        network.run(60)
        assert alice.messaging.connected_peers() == ["carol"]
        assert bob.messaging.connected_peers() == []
        carol.close()
        network.run(1)
        assert alice.messaging.connected_peers() == []

    def test_a_vanished_machine_is_noticed_by_probing(self) -> None:
        with snakemq.testing.pair() as (alice, bob):
            assert alice.network.probe() == 0
            bob.crash(silent=True)
            alice.network.run(1000)
            assert alice.messaging.is_connected("bob")
            assert alice.network.probe() == 1
            alice.network.run(1)
            assert not alice.messaging.is_connected("bob")


class TestPeerPair:
    def test_two_real_peers_in_one_line(self) -> None:
        with snakemq.testing.peer_pair() as (alice, bob):
            assert alice.is_connected("bob")
            assert bob.is_connected("alice")
            alice.send("bob", "hello")
            received = bob.receive(timeout=20)
            assert received is not None
            assert (received.ident, received.text) == ("alice", "hello")
        assert not alice.running
        assert not bob.running

    def test_options_go_to_both(self) -> None:
        with snakemq.testing.peer_pair(("x", "y"), throttle=1_000_000) as peers:
            assert [peer.identifier for peer in peers] == ["x", "y"]
            assert all(peer.throttle is not None for peer in peers)

    def test_no_connection_in_time_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Peer, "wait_connected", lambda self, ident, timeout: False)
        with (
            pytest.raises(TimeoutError, match="'alice' and 'bob' did not connect"),
            snakemq.testing.peer_pair(),
        ):
            raise AssertionError("nobody waited for the connection")
