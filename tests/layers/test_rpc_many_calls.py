"""Many remote calls at a time over real sockets, and what is left of them: nothing."""

from __future__ import annotations

import contextlib
import gc
import pickle
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from snakemq import Peer
from snakemq._core.rpc_records import REPLY_PREFIX, REQUEST_PREFIX, value_record
from snakemq.message import Message
from snakemq.rpc import CallError, RemoteStream, RpcClient, current_call
from snakemq.testing import peer_pair
from tests.helpers import DEADLINE, wait_until
from tests.layers.rpc_fakes import InThread

THREADS = 32
CALLS = 1_000
FUTURES = 10_000
ITEMS = 3_000


class Service:
    def hold(self) -> None:
        """Until nobody waits for it any more."""
        assert current_call().wait_cancelled(DEADLINE)

    def size(self, data: bytes) -> int:
        return len(data)

    def square(self, number: int) -> int:
        return number * number

    def fail(self, number: int) -> None:
        raise LookupError(number)

    def count(self, limit: int) -> Iterator[int]:
        yield from range(limit)

    def blocks(self, count: int, size: int) -> Iterator[bytes]:
        for number in range(count):
            yield bytes([number]) * size


@pytest.fixture
def peers() -> Iterator[tuple[Peer, Peer]]:
    """Alice, who calls, and Bob."""
    with peer_pair(reconnect_interval=0.02) as (alice, bob):
        bob.serve(Service(), "obj")
        yield alice, bob


def proxy_of(alice: Peer) -> Any:
    return alice.proxy("bob", "obj")


def is_clean(client: RpcClient) -> bool:
    """Nothing is outstanding, and there is no timer."""
    deadlines = client._deadlines
    return not client.pending_calls() and not len(deadlines) and deadlines._timer is None


def cut(peer: Peer) -> None:
    """Break the connection; it is made again."""
    done = threading.Event()

    def close() -> None:
        for conn_id in list(peer.messaging._connections):
            peer.packeter.close(conn_id)
        done.set()

    peer.messaging.call_soon(close)
    assert done.wait(DEADLINE)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_32_threads_make_1000_calls_each_on_one_proxy() -> None:
    threads_before = threading.active_count()
    with peer_pair() as (alice, bob):
        bob.serve(Service(), "obj")
        square = alice.proxy("bob", "obj").square
        square.set_timeout(DEADLINE * 5)

        def call(first: int) -> int:
            for number in range(first, first + CALLS):
                assert square(number) == number * number
            return CALLS

        threads = [InThread(call, number * CALLS) for number in range(THREADS)]
        for thread in threads:
            while thread.running:
                thread._thread.join(1)
        assert sum(thread.result() for thread in threads) == THREADS * CALLS
        wait_until(lambda: is_clean(alice.rpc_client))
        assert alice.rpc_client.late_replies == 0
        wait_until(lambda: alice.messaging.queued_messages() == 0)
        wait_until(lambda: bob.messaging.queued_messages() == 0)
    wait_until(lambda: threading.active_count() <= threads_before)


@pytest.mark.slow
def test_10000_futures_are_outstanding_and_answered_in_any_order() -> None:
    threads_before = threading.active_count()
    with peer_pair() as (alice, bob):
        requests: list[tuple[bytes, int]] = []

        def note(conn_id: str, ident: str, message: Message) -> None:
            record = pickle.loads(message.data[len(REQUEST_PREFIX) :])
            requests.append((record["req_id"], record["args"][0]))

        bob.receive_hook.register(REQUEST_PREFIX, note)
        client = alice.rpc_client
        square = alice.proxy("bob", "obj").square.with_options(timeout=DEADLINE * 3)
        calls = [square.future(number) for number in range(FUTURES)]
        assert client.pending_calls("bob") == FUTURES
        # Nobody waits for them in a thread of his own.
        assert threading.active_count() <= threads_before + 4
        wait_until(lambda: len(requests) == FUTURES)
        chance = random.Random(11)
        chance.shuffle(requests)
        for req_id, number in requests:
            reply = pickle.dumps(value_record(req_id, number**2))
            bob.messaging.send_message("alice", Message(REPLY_PREFIX + reply))
        results = [call.result(DEADLINE) for call in calls]
        assert results == [number**2 for number in range(FUTURES)]
        wait_until(lambda: is_clean(client))
        assert client.late_replies == 0
    wait_until(lambda: threading.active_count() <= threads_before)


def test_futures_from_a_callback(peers: tuple[Peer, Peer]) -> None:
    alice, _ = peers
    proxy = proxy_of(alice)
    ends: list[Any] = []
    done = threading.Event()

    def end(value: Any) -> None:
        ends.append((value, alice.messaging.is_inside_loop()))
        if len(ends) == 3:
            done.set()

    def start() -> None:
        proxy.square.callback(end)(3)
        proxy.fail.callback(None, end)(5)
        proxy.square.future(4).add_done_callback(lambda future: end(future.result()))

    alice.messaging.call_soon(start)
    assert done.wait(DEADLINE)
    values = [value for value, _ in ends]
    assert {value for value in values if isinstance(value, int)} == {9, 16}
    assert [value.args for value in values if isinstance(value, LookupError)] == [(5,)]
    assert all(inside for _, inside in ends)
    assert is_clean(alice.rpc_client)


def test_a_deadline_in_real_time(peers: tuple[Peer, Peer]) -> None:
    alice, _ = peers
    method = alice.proxy("nobody", "obj").square
    calls = [method.with_options(timeout=0.05).future(1), method.with_options(timeout=60).future(2)]
    assert "not connected" in str(calls[0].exception(DEADLINE))
    assert not calls[1].done()
    assert calls[1].cancel()
    wait_until(lambda: is_clean(alice.rpc_client))


def test_a_stream(peers: tuple[Peer, Peer]) -> None:
    alice, _ = peers
    stream = proxy_of(alice).count(ITEMS)
    assert isinstance(stream, RemoteStream)
    assert list(stream) == list(range(ITEMS))
    # Not counted: late replies. What the reader grants may cross the end of the stream.
    wait_until(lambda: is_clean(alice.rpc_client))


def test_a_stream_of_large_items(peers: tuple[Peer, Peer]) -> None:
    """They travel in parts, and are more than either side keeps."""
    alice, _ = peers
    size = 400_000
    numbers = []
    for block in proxy_of(alice).blocks(40, size):
        assert block == block[:1] * size
        numbers.append(block[0])
    assert numbers == list(range(40))
    wait_until(lambda: is_clean(alice.rpc_client))


def test_a_stream_while_the_connection_is_lost_again_and_again(peers: tuple[Peer, Peer]) -> None:
    alice, bob = peers
    stream = proxy_of(alice).count(ITEMS)
    numbers = []
    for number in stream:
        numbers.append(number)
        if number % 700 == 699:
            cut((alice, bob)[number // 700 % 2])
    assert numbers == list(range(ITEMS))
    wait_until(lambda: is_clean(alice.rpc_client))


def test_a_stream_that_is_left_early(peers: tuple[Peer, Peer]) -> None:
    alice, _ = peers
    for number in proxy_of(alice).count(10**9):
        if number == 1_000:
            break
    with proxy_of(alice).count(10**9) as stream:
        assert next(stream) == 0
    wait_until(lambda: is_clean(alice.rpc_client))
    assert proxy_of(alice).square(3) == 9


class Soak:
    """Uses everything at random, in several threads, while connections break."""

    def __init__(self, alice: Peer) -> None:
        self.proxy = proxy_of(alice)
        self.callbacks = 0
        self.expected = 0
        self._lock = threading.Lock()

    def run(self, seed: int) -> None:
        chance = random.Random(seed)
        uses = (
            self.block,
            self.wait,
            self.cancel,
            self.expire,
            self.call_back,
            self.read,
            self.leave,
        )
        for number in range(100):
            chance.choice(uses)(chance, number)

    def block(self, chance: random.Random, number: int) -> None:
        if chance.random() < 0.2:
            assert self.proxy.size(bytes(300_000)) == 300_000
        assert self.proxy.square(number) == number**2

    def wait(self, chance: random.Random, number: int) -> None:
        calls = [self.proxy.square.with_options(timeout=DEADLINE).future(n) for n in range(20)]
        assert [call.result(DEADLINE) for call in calls] == [n**2 for n in range(20)]

    def cancel(self, chance: random.Random, number: int) -> None:
        arguments = (bytes(300_000),) if chance.random() < 0.2 else (b"",)
        call = self.proxy.size.with_options(timeout=DEADLINE).future(*arguments)
        assert call.cancel() or call.result(0) == len(arguments[0])

    def expire(self, chance: random.Random, number: int) -> None:
        # The method ends at the same deadline, so its answer may come in time.
        with contextlib.suppress(CallError):
            self.proxy.hold.with_options(timeout=0.005)()

    def call_back(self, chance: random.Random, number: int) -> None:
        with self._lock:
            self.expected += 2
        self.proxy.square.callback(self._called)(number)
        self.proxy.fail.callback(None, self._called)(number)

    def _called(self, what: object) -> None:
        with self._lock:
            self.callbacks += 1

    def read(self, chance: random.Random, number: int) -> None:
        assert list(self.proxy.count(number)) == list(range(number))

    def leave(self, chance: random.Random, number: int) -> None:
        stream = self.proxy.count(10**9)
        for expected in range(chance.randrange(100)):
            assert next(stream) == expected
        if chance.random() < 0.5:
            stream.close()


@pytest.mark.slow
def test_nothing_is_left_of_anything() -> None:
    threads_before = threading.active_count()
    with peer_pair(reconnect_interval=0.02) as (alice, bob):
        bob.serve(Service(), "obj")
        client = alice.rpc_client
        soak = Soak(alice)
        threads = [InThread(soak.run, seed) for seed in range(6)]
        try:
            for round_ in range(6):
                wait_until(lambda: alice.is_connected("bob") and bob.is_connected("alice"))
                cut((alice, bob)[round_ % 2])
        finally:
            for thread in threads:
                while thread.running:
                    thread._thread.join(1)
        for thread in threads:
            thread.result()
        wait_until(lambda: soak.callbacks == soak.expected, what=lambda: soak.callbacks)
        gc.collect()
        wait_until(lambda: is_clean(client), what=lambda: client)
        assert client._sender.waiting_bytes() == 0
        assert client._receiver.held_bytes == 0
        wait_until(lambda: alice.messaging.queued_messages() == 0)
        wait_until(lambda: bob.messaging.queued_messages() == 0)
    wait_until(lambda: threading.active_count() <= threads_before)
