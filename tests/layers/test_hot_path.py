"""Work, counted: how much is done for each message, not how long it takes.

A busy machine changes times, not counts. Budgets are generous; a test that
fails says that somebody made the path of every message longer.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, NamedTuple

import pytest

from snakemq import FLAG_PERSISTENT, Message, Peer
from snakemq.link import Link
from snakemq.messaging import Messaging
from snakemq.packeter import Packeter
from snakemq.storage import MemoryQueuesStorage
from tests.helpers import DEADLINE, wait_until

COUNT = 5000
PAYLOAD = bytes(64)

#: What asks the operating system for something, by the names that C functions have.
SYSTEM_CALLS = {
    *(f"socket.{name}" for name in ("send", "sendmsg", "recv", "recv_into", "accept")),
    *("epoll.poll", "kqueue.control", "devpoll.poll", "poll.poll", "select"),
}


class Work:
    """Counts what the thread does that has entered it, each time it does."""

    def __init__(self) -> None:
        #: calls of functions written in Python, comprehensions included
        self.calls = 0
        self.system_calls = 0

    def _note(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            self.calls += 1
        elif event == "c_call" and arg.__qualname__ in SYSTEM_CALLS:
            self.system_calls += 1

    def __enter__(self) -> None:
        sys.setprofile(self._note)

    def __exit__(self, *exc_info: object) -> None:
        sys.setprofile(None)


class Stack:
    """The layers, stepped by the test, and all that they receive."""

    def __init__(self, name: str, storage: MemoryQueuesStorage | None = None) -> None:
        self.link = Link()
        self.messaging = Messaging(name, "", Packeter(self.link), storage)
        self.received: list[bytes] = []
        self.messaging.on_message_recv.add(lambda conn, ident, m: self.received.append(m.data))
        #: what stepping takes
        self.work = Work()

    def step(self) -> None:
        with self.work:
            self.link.step(0)

    def send(self, ident: str, messages: Iterable[Message]) -> None:
        for message in messages:
            self.messaging.send_message(ident, message)


@contextlib.contextmanager
def two_stacks(storage: MemoryQueuesStorage | None = None) -> Iterator[tuple[Stack, Stack]]:
    """Alice, who is going to dial bob."""
    alice, bob = Stack("alice", storage), Stack("bob")
    try:
        alice.link.add_connector(bob.link.add_listener(("127.0.0.1", 0)))
        yield alice, bob
    finally:
        for stack in (alice, bob):
            stack.link.cleanup()
            stack.messaging.close()


@contextlib.contextmanager
def connected() -> Iterator[tuple[Stack, Stack]]:
    """Alice and bob, who know each other; their work is counted from here."""
    with two_stacks() as (alice, bob):
        step_until(
            lambda: alice.messaging.is_connected("bob") and bob.messaging.is_connected("alice"),
            alice,
            bob,
        )
        alice.work, bob.work = Work(), Work()
        yield alice, bob


def step_until(condition: Callable[[], object], *stacks: Stack) -> None:
    def step() -> object:
        for _ in range(20):
            for stack in stacks:
                stack.step()
            if condition():
                return True
        return False

    wait_until(step)


def messages(count: int = COUNT, ttl: float | None = None) -> Iterator[Message]:
    return (Message(PAYLOAD, ttl) for _ in range(count))


@pytest.mark.parametrize("ttl", [None, 0, 60], ids=str)
class TestSmallMessages:
    def test_calls_of_python_functions(self, ttl: float | None) -> None:
        with connected() as (alice, bob):
            sending = Work()
            with sending:
                for _ in range(COUNT):
                    alice.messaging.send_message("bob", Message(PAYLOAD, ttl))
            step_until(lambda: alice.messaging.queued_messages() == 0, alice, bob)
            assert len(bob.received) == COUNT
        # Message(), send_message(), its checks and two more below it; and the
        # first one rings a bell.
        assert sending.calls <= 5 * COUNT + 50
        # None is needed for each message, but one to encode a finite TTL: not
        # to send it, to wait for its acknowledgement, or to take it out then.
        assert alice.work.calls <= 1.5 * COUNT
        # Decoding, and the callback of this test.
        assert bob.work.calls <= 3 * COUNT

    def test_calls_of_the_system(self, ttl: float | None) -> None:
        with connected() as (alice, bob):
            sending = Work()
            with sending:
                alice.send("bob", messages(ttl=ttl))
            step_until(lambda: len(bob.received) == COUNT, alice, bob)
        assert sending.system_calls == 0
        assert alice.work.system_calls <= COUNT / 50
        assert bob.work.system_calls <= COUNT / 50


def test_a_hundred_thousand_messages_before_the_loop_runs_ring_no_bell() -> None:
    with connected() as (alice, _):
        sending = Work()
        with sending:
            alice.send("bob", messages(100_000))
        assert sending.system_calls == 0
        assert alice.messaging.queued_messages("bob") == 100_000


def test_a_loop_that_is_awake_is_not_woken() -> None:
    with connected() as (alice, _):
        busy, go_on, sent = threading.Event(), threading.Event(), threading.Event()

        def be_busy() -> None:
            busy.set()
            assert go_on.wait(DEADLINE)

        alice.link.call_soon(be_busy)
        alice.messaging.on_message_sent.add(lambda *args: sent.set())
        loop = threading.Thread(target=alice.link.loop)
        loop.start()
        try:
            assert busy.wait(DEADLINE)
            sending = Work()
            with sending:
                alice.send("bob", messages(1000))
            go_on.set()
            assert sent.wait(DEADLINE), "it is not forgotten either"
        finally:
            go_on.set()
            alice.link.stop()
            loop.join()
    assert sending.system_calls == 0


def test_a_loop_that_can_send_nothing_is_not_woken() -> None:
    with connected() as (alice, bob):

        def send(count: int) -> None:
            for _ in range(count):
                assert alice.messaging.send_data("bob", PAYLOAD) is not None

        assert alice.messaging.send_message("bob", Message(b"the first makes the queue", None))
        send(COUNT * 2)
        while alice.link.step(0):
            pass  # bob does not read: there is room for no more
        assert alice.messaging.counters.as_dict()["window_full"]
        send(100)
        assert alice.link.step(0) == 0, "it has nothing to do"
        step_until(lambda: alice.messaging.queued_messages() == 0, alice, bob)
        assert len(bob.received) == COUNT * 2 + 101, "it is not forgotten either"
        assert alice.messaging.send_data("bob", PAYLOAD) is not None
        assert alice.link.step(0) > 0, "now it is woken"


def test_others_make_no_work() -> None:
    """Neither idle connections nor the queues of peers that are away."""

    def work_beside(others: int) -> Sequence[int]:
        with connected() as (alice, bob), contextlib.ExitStack() as cleanup:
            address = alice.link.add_listener(("127.0.0.1", 0))
            for number in range(others):
                cleanup.enter_context(idle_peer(address, f"idle {number}"))
                alice.messaging.send_message(f"away {number}", Message(PAYLOAD, 3600))
            step_until(lambda: len(alice.messaging.connected_peers()) == others + 1, alice, bob)
            alice.work = Work()
            for _ in range(20):
                alice.send("bob", messages(50))
                step_until(lambda: alice.messaging.queued_messages("bob") == 0, alice, bob)
            return alice.work.calls, alice.work.system_calls

    alone, in_company = work_beside(0), work_beside(50)
    # The system may happen to take what is sent in more pieces.
    assert in_company[0] <= alone[0] * 1.5
    assert in_company[1] <= alone[1] * 1.5


@contextlib.contextmanager
def idle_peer(address: tuple[str, int], name: str) -> Iterator[None]:
    """A connection that says who it is, and nothing more."""
    with socket.create_connection(address) as sock:
        for frame in (b"\0\0\0\0\1", b"\2" + name.encode()):
            sock.sendall(struct.pack("!I", len(frame)) + frame)
        yield


def test_a_storage_is_asked_once_for_many_messages() -> None:
    class Counting(MemoryQueuesStorage):
        removals = 0

        def change_items(self, push: Any, remove: Any = (), **options: Any) -> list[int]:
            self.removals += bool(remove)
            return super().change_items(push, remove, **options)

    storage = Counting()
    with two_stacks(storage) as (alice, bob):
        alice.send("bob", (Message(PAYLOAD, None, FLAG_PERSISTENT) for _ in range(COUNT)))
        assert len(storage.get_items("bob")) == COUNT
        step_until(lambda: len(bob.received) == COUNT, alice, bob)
        step_until(lambda: not storage.get_items("bob"), alice, bob)
    assert 1 <= storage.removals <= COUNT / 50


def test_copies_of_a_large_message() -> None:
    size = 8 * 1024 * 1024
    message = Message(bytes(size), None)
    with connected() as (alice, bob):
        sending, receiving = [0], [0]

        def step() -> bool:
            held = memory_held_by(alice.link.step)
            sending.append(held.peak - held.before)
            receiving.append(memory_held_by(bob.link.step).peak)
            return bool(bob.received)

        tracemalloc.start()
        try:
            alice.messaging.send_message("bob", message)
            wait_until(lambda: any(step() for _ in range(20)))
        finally:
            tracemalloc.stop()
    assert bob.received == [message.data]
    # The sender gives the system what the program gave it.
    assert max(sending) <= size / 4
    # The receiver makes a packet of pieces, and data of a packet.
    assert max(receiving) <= size * 2.25


class Memory(NamedTuple):
    """Traced memory, in bytes."""

    before: int
    peak: int


def memory_held_by(step: Callable[[float], object]) -> Memory:
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    step(0)
    return Memory(before, tracemalloc.get_traced_memory()[1])


class TestPeer:
    """The facade: likewise, with the loop in a thread of the test."""

    def test_calls_of_python_functions(self) -> None:
        received: list[bytes] = []
        alice_work, bob_work, sending = Work(), Work(), Work()
        bob = Peer("bob", listen=0, on_message=lambda message: received.append(message.data))
        alice = Peer("alice", connect=bob.addresses[0])
        with sending:
            for _ in range(COUNT):
                alice.send("bob", PAYLOAD)

        def run(peer: Peer, work: Work) -> None:
            with work:
                peer.run_forever()

        threads = [
            threading.Thread(target=run, args=args)
            for args in ((bob, bob_work), (alice, alice_work))
        ]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: len(received) == COUNT and not alice.queued())
        finally:
            alice.stop()
            bob.stop()
            for thread in threads:
                thread.join()
        # send() and three more below it; the first one makes the queue.
        assert sending.calls <= 4 * COUNT + 100
        assert alice_work.calls <= 0.5 * COUNT
        # Who makes the object for the program, and its callback.
        assert bob_work.calls <= 3 * COUNT
