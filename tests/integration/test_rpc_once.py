"""Each call runs once, and its caller gets the answer, wherever the connection breaks."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any

import pytest

from snakemq.limits import QueueLimits
from snakemq.rpc import AnswerGone, AnswerLimits, Busy, NotConnected, current_call
from tests.crash.proxy import CuttingProxy, Direction, Ending, Trap
from tests.helpers import DEADLINE, wait_until
from tests.integration.rpc_support import (
    RpcNodes,
    SimPair,
    leftovers_of_client,
    leftovers_of_server,
    sim_pair,
)
from tests.layers.rpc_fakes import InThread


class Counting:
    """Counts the effects of its methods, by the token of the call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.effects: Counter[int] = Counter()
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()

    def _count(self, token: int) -> None:
        with self._lock:
            self.effects[token] += 1

    def hold(self, token: int, size: int = 0) -> tuple[int, bytes]:
        self._count(token)
        self.entered.release()
        assert self.gate.wait(DEADLINE)
        return token, bytes(size)

    def effect(self, token: int, *args: object) -> int:
        self._count(token)
        return token

    def large(self, token: int, data: bytes) -> bytes:
        self._count(token)
        return data

    def fail(self, token: int) -> None:
        self._count(token)
        raise LookupError(token)

    def wait_entered(self) -> None:
        assert self.entered.acquire(timeout=DEADLINE)


@pytest.fixture
def sim() -> Iterator[SimPair]:
    with sim_pair() as pair:
        yield pair


@pytest.fixture
def counting(sim: SimPair) -> Counting:
    counting = Counting()
    sim.server.register_object(counting, "obj")
    return counting


@pytest.fixture
def nodes() -> Iterator[RpcNodes]:
    nodes = RpcNodes()
    yield nodes
    nodes.close()


def ends(sim: SimPair, future: Future[Any]) -> Any:
    sim.until(future.done)
    return future.result(0)


class TestEveryStage:
    """With the simulated network, where it is known what is how far."""

    def test_before_the_request_is_sent(self, sim: SimPair, counting: Counting) -> None:
        sim.disconnect()
        future = sim.proxy.effect.future(1)
        sim.run(5)
        assert not future.done()
        sim.reconnect()
        assert ends(sim, future) == 1
        assert counting.effects == {1: 1}

    def test_while_the_request_is_on_its_way(self, sim: SimPair, counting: Counting) -> None:
        """Of what is in flight any part is lost."""
        for token in range(20):
            sim.network.set_conditions("bob", "alice", delay=1.0)
            future = sim.proxy.effect.future(token)
            sim.run(0.5)
            sim.disconnect()
            sim.network.set_conditions("bob", "alice", delay=0.0)
            sim.reconnect()
            assert ends(sim, future) == token
        assert counting.effects == dict.fromkeys(range(20), 1)

    def test_while_the_method_runs(self, sim: SimPair, counting: Counting) -> None:
        future = sim.proxy.hold.future(1)
        sim.until(lambda: counting.effects)
        for _ in range(3):
            sim.disconnect()
            sim.reconnect()
            sim.run(1)
        assert not future.done()
        counting.gate.set()
        assert ends(sim, future) == (1, b"")
        assert counting.effects == {1: 1}

    @pytest.mark.parametrize("size", [0, 3_000_000], ids=["small", "in parts"])
    def test_the_answer_is_made_while_there_is_no_connection(
        self, sim: SimPair, counting: Counting, size: int
    ) -> None:
        future = sim.proxy.hold.future(1, size)
        sim.until(lambda: counting.effects)
        sim.disconnect()
        counting.gate.set()
        wait_until(lambda: sim.server.dispatcher.idle(0))
        sim.run(100)
        sim.reconnect()
        assert ends(sim, future) == (1, bytes(size))
        assert counting.effects == {1: 1}
        sim.until(lambda: not leftovers_of_server(sim.server))

    @pytest.mark.parametrize("size", [0, 3_000_000], ids=["small", "in parts"])
    def test_the_answer_is_lost_on_its_way(
        self, sim: SimPair, counting: Counting, size: int
    ) -> None:
        sim.network.drop_silently("alice", "bob")
        future = sim.proxy.hold.future(1, size)
        sim.until(lambda: counting.effects)
        counting.gate.set()
        sim.until(lambda: sim.server.answers.under_way == 1)
        assert not future.done()
        sim.disconnect()
        assert sim.server.answers.under_way == 0
        sim.reconnect()
        assert ends(sim, future) == (1, bytes(size))
        assert counting.effects == {1: 1}
        sim.until(lambda: not leftovers_of_server(sim.server))

    def test_the_answer_arrived_and_its_acknowledgement_is_lost(
        self, sim: SimPair, counting: Counting
    ) -> None:
        future = sim.proxy.hold.future(1)
        sim.until(lambda: counting.effects)
        sim.network.drop_silently("bob", "alice")
        counting.gate.set()
        assert ends(sim, future) == (1, b"")
        sim.disconnect()
        sim.reconnect()
        sim.run(10)
        assert counting.effects == {1: 1}
        # It is not known whether it will be asked for: it is kept for as long as answers are.
        assert len(sim.server.executions) == 1
        sim.until(lambda: not sim.server.dispatcher.running)
        sim.run(sim.server.executions.limits.max_age + 20)
        assert leftovers_of_server(sim.server) == {}

    def test_an_exception_is_an_answer_as_well(self, sim: SimPair, counting: Counting) -> None:
        sim.network.drop_silently("alice", "bob")
        future = sim.proxy.fail.future(7)
        sim.until(lambda: sim.server.answers.under_way == 1)
        sim.disconnect()
        sim.reconnect()
        sim.until(future.done)
        with pytest.raises(LookupError, match="7"):
            future.result(0)
        assert counting.effects == {7: 1}

    def test_many_calls_at_all_stages_at_once(self, sim: SimPair, counting: Counting) -> None:
        counting.gate.set()
        futures = []
        for token in range(300):
            futures.append(sim.proxy.hold.future(token))
            if token % 20 == 10:
                sim.run(sim.network.random.random() * 0.001)
                sim.disconnect()
            elif token % 20 == 15:
                sim.reconnect()
        for token, future in enumerate(futures):
            assert ends(sim, future) == (token, b"")
        assert counting.effects == dict.fromkeys(range(300), 1)
        assert leftovers_of_client(sim.client) == {}

    def test_who_does_not_wait_for_the_peer_is_told_whether_it_may_have_run(
        self, sim: SimPair, counting: Counting
    ) -> None:
        future = sim.proxy.hold.with_options(wait_for_peer=False).future(1)
        sim.until(lambda: counting.effects)
        sim.disconnect()
        error = future.exception(0)
        assert isinstance(error, NotConnected)
        assert error.request_sent
        counting.gate.set()
        sim.reconnect()
        sim.run(1)
        assert counting.effects == {1: 1}

    def test_the_deadline_counts_through_reconnects(self, sim: SimPair, counting: Counting) -> None:
        future = sim.proxy.hold.with_options(timeout=10).future(1)
        sim.until(lambda: counting.effects)
        start = sim.network.now
        for _ in range(4):
            sim.disconnect()
            sim.run(1)
            sim.reconnect()
            sim.run(1)
        sim.until(future.done)
        assert future.exception(0) is not None
        assert sim.network.now - start < 11
        assert leftovers_of_client(sim.client) == {}
        counting.gate.set()

    def test_a_call_that_is_cancelled_while_there_is_no_connection(
        self, sim: SimPair, counting: Counting
    ) -> None:
        """It is not asked for again, and so the server finds out by and by."""
        told: list[bool] = []

        class Patient:
            def wait(self) -> None:
                counting.entered.release()
                told.append(current_call().wait_cancelled(DEADLINE))

        sim.server.register_object(Patient(), "patient")
        method: Any = sim.client.get_proxy("alice", "patient").wait
        running, other = method.future(), sim.proxy.hold.future(1)
        sim.until(lambda: counting.effects)
        counting.wait_entered()
        counting.wait_entered()
        sim.disconnect()
        assert running.cancel()
        sim.reconnect()
        sim.run(2000)
        wait_until(lambda: told == [True])
        counting.gate.set()
        assert ends(sim, other) == (1, b"")
        sim.until(lambda: not sim.server.dispatcher.running)
        sim.run(2 * sim.server.executions.limits.max_age)
        assert leftovers_of_server(sim.server) == {}


class TestLimits:
    """What is kept is bounded, and the caller learns of it."""

    def test_an_answer_that_was_not_kept(self) -> None:
        with sim_pair(answers=AnswerLimits(max_bytes=1000)) as sim:
            counting = Counting()
            sim.server.register_object(counting, "obj")
            sim.network.drop_silently("alice", "bob")
            counting.gate.set()
            futures = [sim.proxy.hold.future(token, 600) for token in range(3)]
            sim.until(lambda: sim.server.answers.under_way == 3)
            sim.disconnect()
            sim.reconnect()
            sim.until(lambda: all(future.done() for future in futures))
            gone = [isinstance(future.exception(0), AnswerGone) for future in futures]
            assert sorted(gone) == [False, True, True]
            assert counting.effects == {0: 1, 1: 1, 2: 1}

    def test_a_call_that_was_refused_may_be_made_again(self) -> None:
        with sim_pair(max_workers=1, max_waiting=0) as sim:
            counting = Counting()
            sim.server.register_object(counting, "obj")
            first = sim.proxy.hold.future(1)
            sim.until(lambda: counting.effects)
            second = sim.proxy.effect.future(2)
            sim.until(second.done)
            assert isinstance(second.exception(0), Busy)
            counting.gate.set()
            assert ends(sim, first) == (1, b"")
            wait_until(lambda: sim.server.dispatcher.idle(0))
            assert ends(sim, sim.proxy.effect.future(2)) == 2
            assert counting.effects == {1: 1, 2: 1}
            sim.until(lambda: not leftovers_of_server(sim.server))

    def test_answers_for_which_there_is_no_room_come_later(
        self, sim: SimPair, counting: Counting
    ) -> None:
        sim.alice.messaging.queue_limits = QueueLimits(max_messages=5)
        futures = [sim.proxy.effect.future(token) for token in range(100)]
        # While threads of this machine run, no time should pass in that network.
        sim.until(lambda: len(counting.effects) == 100)
        wait_until(lambda: sim.server.dispatcher.idle(0))
        start = sim.network.now
        assert [ends(sim, future) for future in futures] == [*range(100)]
        assert counting.effects == dict.fromkeys(range(100), 1)
        assert sim.network.now - start < 10
        sim.until(lambda: not leftovers_of_server(sim.server))

    def test_a_queue_that_is_full_of_other_messages(self, sim: SimPair, counting: Counting) -> None:
        sim.alice.messaging.queue_limits = QueueLimits(max_messages=3)
        sim.network.drop_silently("alice", "bob")
        for _ in range(3):
            sim.alice.send("bob", b"x")
        future = sim.proxy.effect.future(1)
        sim.until(lambda: counting.effects)
        wait_until(lambda: sim.server.dispatcher.idle(0))
        sim.network.heal()
        assert ends(sim, future) == 1


class TestSockets:
    """With real ones, cut behind any byte."""

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(2))
    def test_cuts_behind_any_byte(self, nodes: RpcNodes, seed: int) -> None:
        rng = random.Random(seed)
        with CuttingProxy() as proxy:
            counting = Counting()
            alice = nodes.add("alice", listen=True)
            alice.server.register_object(counting, "obj")
            proxy.lead_to(alice.port)
            bob = nodes.add("bob", proxy.port)
            remote: Any = bob.client.get_proxy("alice", "obj")
            stop = threading.Event()

            def block(first: int) -> int:
                token = first
                while not stop.is_set():
                    kind = token % 4
                    if kind == 0:
                        data = bytes([token % 251]) * 150_000
                        assert remote.large(token, data) == data
                    elif kind == 1:
                        with pytest.raises(LookupError):
                            remote.fail(token)
                    else:
                        assert remote.effect(token, "x" * 500) == token
                    token += 1
                return token

            def flood(first: int) -> int:
                token = first
                while not stop.is_set():
                    futures = [remote.effect.future(token + n) for n in range(50)]
                    done, late = wait(futures, DEADLINE)
                    assert not late
                    assert {future.result() for future in done} == {*range(token, token + 50)}
                    token += 50
                return token

            firsts = (0, 10**6, 2 * 10**6)
            callers = [
                InThread(func, n) for func, n in zip((block, block, flood), firsts, strict=True)
            ]
            try:
                for _ in range(25):
                    direction = rng.choice(list(Direction))
                    after = int(10 ** rng.uniform(0, 5))
                    trap = Trap(direction, after, rng.choice((Ending.CLOSE, Ending.RESET)))
                    assert proxy.arm(trap).wait()
            finally:
                stop.set()
            made = [range(n, caller.result()) for n, caller in zip(firsts, callers, strict=True)]
            expected = {token for tokens in made for token in tokens}
            assert counting.effects == dict.fromkeys(expected, 1)
            wait_until(lambda: not leftovers_of_client(bob.client))
            # Those that stay are answers whose acknowledgement was lost; and if a call was being
            # served when bob came back, alice looks a minute later whether he asked again.
            kept = {"executions", "bytes of answers", "callers that are away"}
            wait_until(lambda: set(leftovers_of_server(alice.server)) <= kept)

    def test_a_connection_that_is_silently_gone(self, nodes: RpcNodes) -> None:
        """A new connection takes the place of one that nobody has closed."""
        with CuttingProxy() as proxy:
            counting = Counting()
            alice = nodes.add("alice", listen=True)
            alice.server.register_object(counting, "obj")
            proxy.lead_to(alice.port)
            bob = nodes.add("bob", proxy.port)
            remote: Any = bob.client.get_proxy("alice", "obj")
            futures = [remote.hold.future(token) for token in range(10)]
            for _ in futures:
                counting.wait_entered()
            proxy.cut_all(Ending.SILENCE)
            counting.gate.set()
            assert [future.result(DEADLINE)[0] for future in futures] == [*range(10)]
            assert counting.effects == dict.fromkeys(range(10), 1)
