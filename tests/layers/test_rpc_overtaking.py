"""Replies and pings do not stand in line behind a bulk transfer: counted."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from snakemq import Message
from snakemq._core.rpc_records import REPLY_PREFIX, REQUEST_PREFIX, call_record
from snakemq._outgoing import SEND_WINDOW_BYTES
from snakemq.rpc import RpcServer
from snakemq.testing import Conditions, SimStack, pair

COUNT = 10_000
SIZE = 1000

#: What the systems and the way hold is not the stack's to put in order.
CONDITIONS = Conditions(delay=0.01, send_buffer=20 * SIZE, recv_buffer=20 * SIZE)

#: How many messages may be before something that does not wait for its turn.
AHEAD = (SEND_WINDOW_BYTES + CONDITIONS.send_buffer + CONDITIONS.recv_buffer) // SIZE + 1


class Inline:
    """Instead of threads, which a simulated network knows nothing of."""

    def take_next(self) -> None:
        """Nothing waits."""

    def submit(self, func: Callable[..., object], *args: Any) -> None:
        func(*args)


@pytest.fixture
def stacks() -> Iterator[tuple[SimStack, SimStack]]:
    with pair(conditions=CONDITIONS) as (alice, bob):
        yield alice, bob


class Counter:
    """An object that is served beside a bulk transfer."""

    def __init__(self, stack: SimStack) -> None:
        self.sent = 0
        self.at_call: int | None = None
        stack.messaging.on_messages_sent.add(self._count)

    def _count(self, conn_id: str, ident: str, messages: list[Message]) -> None:
        self.sent += len(messages)

    def read(self) -> None:
        self.at_call = self.sent


def test_a_reply(stacks: tuple[SimStack, SimStack]) -> None:
    alice, bob = stacks
    counter = Counter(alice)
    server = RpcServer(alice.hook)
    server.dispatcher._pool = Inline()  # type: ignore[assignment]
    server.register_object(counter, "counter")
    for _ in range(COUNT):
        alice.send("bob", bytes(SIZE))
    alice.network.run_until(lambda: len(bob.received) > 100)
    request = call_record("counter", "read", (), {}, bytes(16))
    bob.send("alice", REQUEST_PREFIX + pickle.dumps(request), ttl=0)

    answered_at: list[int] = []
    bob.hook.register(REPLY_PREFIX, lambda *args: answered_at.append(len(bob.received)))
    assert alice.network.run_until(lambda: bool(answered_at))
    assert counter.at_call is not None
    assert counter.at_call < COUNT // 2
    assert answered_at[0] - counter.at_call <= AHEAD
    # It has taken nobody's place.
    assert alice.network.run_until(lambda: len(bob.received) == COUNT + 1)


@pytest.mark.parametrize("asks", ["alice", "bob"])
def test_a_ping(stacks: tuple[SimStack, SimStack], asks: str) -> None:
    """In the direction of the bulk transfer, and its answer in that direction."""
    alice, bob = stacks
    for _ in range(COUNT):
        alice.send("bob", bytes(SIZE))
    alice.network.run_until(lambda: len(bob.received) > 100)
    answers: list[float] = []
    asked_at = len(bob.received)
    if asks == "alice":
        alice.messaging.ping("bob", answers.append)
    else:
        bob.messaging.ping("alice", answers.append)
    assert alice.network.run_until(lambda: bool(answers))
    # There, and back.
    assert len(bob.received) - asked_at <= 2 * AHEAD
    assert len(bob.received) < COUNT // 2
