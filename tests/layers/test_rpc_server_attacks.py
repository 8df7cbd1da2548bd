"""What callers, methods and hooks that mean no good, or know no better, do to a server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from snakemq._core.rpc_records import (
    call_record,
)
from snakemq.exceptions import StorageError
from snakemq.rpc import CallHook, CallInfo, transactional
from snakemq.rpc._executions import AnswerLimits, Executions
from tests.helpers import DEADLINE, wait_until
from tests.layers.rpc_fakes import InThread
from tests.layers.test_rpc_server_calls import (
    Durable,
    Side,
    bank_call,
    durable,
    items_of,
    loop,
    make,
    side,
)

__all__ = ["durable", "loop", "make", "side"]  # fixtures


def serve(side: Side, f: Callable[..., Any], name: str = "f", **more: Any) -> None:
    side.server.register_function(f, name, **more)


def call(side: Side, *args: Any, name: str = "f", **more: Any) -> bytes:
    req_id: bytes = more.pop("req_id", None) or next(side.ids)
    more.setdefault("window", 10)
    side.deliver(call_record("", name, args, {}, req_id, **more))
    return req_id


def text_of(reply: dict[str, Any]) -> str:
    assert not reply["ok"]
    return str(reply["exception"])


class BadlyClosed:
    def __iter__(self) -> BadlyClosed:
        return self

    def __next__(self) -> int:
        return 1

    def close(self) -> None:
        raise OSError("can't be closed")


def test_an_awaitable_that_can_not_be_closed(side: Side) -> None:
    class Awaitable(BadlyClosed):
        def __await__(self) -> Iterator[Any]:
            yield

    serve(side, Awaitable)
    call(side)
    assert "asyncio" in text_of(side.reply())


class Angry(CallHook):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def after(self, call: CallInfo, error: BaseException | None) -> None:
        raise self.error


def test_a_hook_that_leaves_does_not_undo_what_was_committed(durable: Durable) -> None:
    side = durable.start()
    side.server.add_hook(Angry(SystemExit(1)))
    bank_call(side, bytes(16), "pay", 10)
    assert side.reply()["return"] == 10


# Iterators for callers of 1.6.


# Cancelled, or too late.


def test_quick_methods_that_are_async_are_counted(
    make: Callable[..., Side], loop: asyncio.AbstractEventLoop
) -> None:
    side = make(asyncio_loop=loop)
    gate = threading.Event()

    async def hold() -> str:
        while not gate.is_set():
            await asyncio.sleep(0.001)
        return "held"

    serve(side, hold, quick=True)
    call(side)
    drained = InThread(side.server.drain, 0)
    assert drained.result() is False
    gate.set()
    assert side.reply()["return"] == "held"
    side.wait_idle()


def test_a_quick_generator_does_not_keep_the_loop_waiting(
    make: Callable[..., Side], loop: asyncio.AbstractEventLoop
) -> None:
    side = make(asyncio_loop=loop)
    gate = threading.Event()

    async def items() -> AsyncIterator[int]:
        while not gate.is_set():
            await asyncio.sleep(0.001)
        yield 1

    serve(side, items, quick=True)
    delivered = InThread(call, side)
    try:
        wait_until(lambda: not delivered.running, timeout=1)
    finally:
        gate.set()
    delivered.join()
    wait_until(lambda: items_of(side) == [1])


# Ends of replies.


# The store.


class Store:
    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.failure: Exception | None = None
        self.on_put: Callable[[], object] = lambda: None

    def load(self) -> Any:
        return [(key, record, 0.0) for key, record in self.records.items()]

    def get(self, key: bytes) -> bytes | None:
        if self.failure is not None:
            raise self.failure
        return self.records.get(key)

    def put(self, key: bytes, record: bytes) -> None:
        self.on_put()
        if self.failure is not None:
            raise self.failure
        self.records[key] = record

    def remove(self, keys: list[bytes]) -> None:
        for key in keys:
            self.records.pop(key, None)


def test_a_store_that_can_not_be_read_when_a_call_is_repeated() -> None:
    store = Store()
    executions = Executions(time.monotonic, AnswerLimits(), store)
    execution, _ = executions.receive("alice", bytes(16), "c1")
    executions.answered(execution, b"answer")
    executions = Executions(time.monotonic, AnswerLimits(), store)
    store.failure = StorageError("no disk")
    execution, is_new = executions.receive("alice", bytes(16), "c2")
    assert not is_new
    assert execution.is_gone


def test_forgotten_while_it_is_stored() -> None:
    store = Store()
    executions = Executions(time.monotonic, AnswerLimits(), store)
    execution, _ = executions.receive("alice", bytes(16), "c1")
    store.on_put = lambda: executions.forget(execution)
    executions.answered(execution, b"answer")
    assert store.records == {}
    assert len(executions) == 0
    assert executions.kept_bytes == 0


def test_acknowledged_while_its_answer_is_dropped() -> None:
    store = Store()
    executions = Executions(time.monotonic, AnswerLimits(max_bytes=10), store)
    one, _ = executions.receive("alice", bytes(16), "c1")
    executions.answered(one, bytes(8))
    two, _ = executions.receive("alice", bytes([1] * 16), "c1")
    puts = iter((lambda: None, lambda: executions.acknowledged(one, "c1")))
    store.on_put = lambda: next(puts)()
    executions.answered(two, bytes(8))
    executions.forget(two)
    assert store.records == {}


def test_a_method_that_waits_in_its_transaction_does_not_stop_the_loop(durable: Durable) -> None:
    side = durable.start()
    entered, gate = threading.Event(), threading.Event()

    @transactional
    def wait() -> None:
        entered.set()
        gate.wait(DEADLINE)

    side.send("note", "value")
    side.reply()
    side.wait_idle()
    serve(side, wait)
    call(side)
    assert entered.wait(DEADLINE)
    acknowledged = InThread(side.acknowledge)
    try:
        wait_until(lambda: not acknowledged.running, timeout=1)
    finally:
        gate.set()
    acknowledged.join()
    side.reply(2)


# Somebody else.


def test_the_same_req_id_of_different_peers(side: Side) -> None:
    side.send("note", "a", req_id=bytes(16))
    side.reply()
    side.send("note", "b", req_id=bytes(16), ident="bob")
    assert side.reply(2)["return"] == "b"
    assert side.messaging.sent[-1].ident == "bob"


def test_a_window_is_not_endless(side: Side) -> None:
    side.send("items", 100_000, window=2**53)
    side.wait_idle()
    side.acknowledge()
    side.wait_idle()
    assert len(items_of(side)) <= 4096


@pytest.mark.parametrize(
    ("object_name", "method"),
    [("x" * 50_000, "m"), ("", "x" * 50_000), ("obj", "y" * 50_000), ("obj", "\ud800"), ("", "")],
)
def test_names_that_nobody_has(side: Side, object_name: str, method: str) -> None:
    side.deliver(call_record(object_name, method, (), {}, next(side.ids), window=1))
    reply = side.reply()
    assert reply["code"] in ("no-method", "no-instance")
    assert len(side.messaging.sent[0].message.data) < 5000
    side.wait_idle()


# Concurrent ends.
