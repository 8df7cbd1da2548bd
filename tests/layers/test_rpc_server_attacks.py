"""What callers, methods and hooks that mean no good, or know no better, do to a server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest

from snakemq._core.frames import FRAME_VERSION, encode_identification
from snakemq._core.rpc_records import (
    REQUEST_PREFIX,
    call_record,
    cancel_record,
    more_record,
    signal_record,
)
from snakemq.exceptions import QueueFull, StorageError
from snakemq.limits import DropReason
from snakemq.message import Message
from snakemq.rpc import CallHook, CallInfo, as_signal, current_call, transactional
from snakemq.rpc._executions import AnswerLimits, Execution, Executions
from snakemq.rpc._stream_source import MAX_WINDOW
from snakemq.storage import MemoryQueuesStorage
from snakemq.testing import SimNetwork, SimStack
from tests.helpers import DEADLINE, wait_until
from tests.layers.delivery_support import HandMade
from tests.layers.rpc_fakes import InThread
from tests.layers.test_rpc_server_calls import (
    Bank,
    Durable,
    Side,
    bank_call,
    durable,
    items_of,
    loop,
    make,
    parts_of,
    side,
)
from tests.layers.test_rpc_stream_source import Caller

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


# Whatever a method returns or raises, its caller is answered.


class NoRepr(Exception):
    def __repr__(self) -> str:
        raise ValueError("no repr")

    __str__ = __repr__


class BadReduce(Exception):
    def __init__(self, reason: BaseException) -> None:
        super().__init__()
        self.reason = reason

    def __reduce__(self) -> Any:
        raise self.reason


class BadRead(Exception):
    def __reduce__(self) -> Any:
        return leave, ()


def leave() -> None:
    raise SystemExit("read")


def broken_syntax_error() -> SyntaxError:
    error = SyntaxError("bad")
    error.lineno, error.text, error.offset = 1, 5, object()  # type: ignore[assignment]
    return error


class NoNotes(Exception):
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


@pytest.mark.parametrize(
    "make_error",
    [
        NoRepr,
        lambda: BadReduce(NoRepr()),
        lambda: BadReduce(SystemExit(1)),
        lambda: BadReduce(KeyboardInterrupt()),
        BadRead,
        broken_syntax_error,
        NoNotes,
        GeneratorExit,
        StopIteration,
        lambda: StopAsyncIteration(5),
        asyncio.CancelledError,
        KeyboardInterrupt,
        lambda: SystemExit(3),
        lambda: BaseException("base"),
    ],
)
def test_any_exception_is_an_answer(side: Side, make_error: Callable[[], BaseException]) -> None:
    def fail() -> None:
        raise make_error()

    serve(side, fail)
    call(side)
    assert not side.reply()["ok"]
    side.wait_idle()


class BadMapping(Mapping[str, Any]):
    def __reduce__(self) -> Any:
        raise TypeError("not to be written")

    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        raise OSError("nothing to be seen")


class Unwritable:
    def __init__(self, reason: BaseException) -> None:
        self.reason = reason

    def __reduce__(self) -> Any:
        raise self.reason


class BadDict:
    def __reduce__(self) -> Any:
        raise TypeError("not to be written")

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise OSError("no attributes")


@pytest.mark.parametrize(
    "value",
    [BadMapping(), Unwritable(NoRepr()), Unwritable(SystemExit(2)), BadDict()],
)
def test_any_result_is_answered(side: Side, value: object) -> None:
    serve(side, lambda: value)
    call(side)
    assert not side.reply()["ok"]
    side.wait_idle()


@pytest.mark.parametrize(
    "value",
    [BadMapping(), Unwritable(NoRepr()), Unwritable(SystemExit(2)), BadDict()],
)
def test_any_item_is_answered(side: Side, value: object) -> None:
    closed = threading.Event()

    def items() -> Iterator[Any]:
        try:
            yield 1
            yield value
        finally:
            closed.set()

    serve(side, items)
    call(side)
    wait_until(lambda: len(side.messaging.sent) == 2)
    assert not side.reply(2)["ok"]
    assert closed.wait(DEADLINE)
    side.acknowledge()
    wait_until(lambda: not side.server.streams.open)
    side.wait_idle()


class BadlyClosed:
    def __reduce__(self) -> Any:
        raise TypeError("not to be written")

    def __iter__(self) -> BadlyClosed:
        return self

    def __next__(self) -> int:
        return 1

    def close(self) -> None:
        raise OSError("can't be closed")


def test_an_iterator_that_can_not_be_closed(side: Side) -> None:
    serve(side, BadlyClosed)
    call(side, window=None)
    assert "return a list" in text_of(side.reply())


def test_an_awaitable_that_can_not_be_closed(side: Side) -> None:
    class Awaitable(BadlyClosed):
        def __await__(self) -> Iterator[Any]:
            yield

    serve(side, Awaitable)
    call(side)
    assert "asyncio" in text_of(side.reply())


def test_an_asyncio_loop_that_was_closed_in_the_last_moment(make: Callable[..., Side]) -> None:
    class Closed:
        def is_running(self) -> bool:
            return True

        def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("Event loop is closed")

    side = make(asyncio_loop=Closed())
    side.send("later", 1)
    assert not side.reply()["ok"]
    side.wait_idle()


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_an_async_method_does_not_end_the_asyncio_loop(
    make: Callable[..., Side], error: BaseException
) -> None:
    # A loop of its own, which survives nothing.
    loop = asyncio.new_event_loop()
    ended = InThread(loop.run_forever)
    wait_until(loop.is_running)
    try:
        side = make(asyncio_loop=loop)

        async def leave() -> None:
            raise error

        serve(side, leave)
        call(side)
        assert type(error).__name__ in text_of(side.reply())
        assert ended.running
        side.wait_idle()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        ended.join()
        loop.close()


class Angry(CallHook):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def after(self, call: CallInfo, error: BaseException | None) -> None:
        raise self.error


class AngryBefore(CallHook):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def before(self, call: CallInfo) -> None:
        raise self.error


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()])
def test_hooks_that_leave(side: Side, error: BaseException) -> None:
    hook = Angry(error)
    side.server.add_hook(hook)
    side.send("note", "value")
    assert side.reply()["return"] == "value"
    side.send("type_error")
    assert type(side.reply(2)["exception"]) is TypeError
    side.wait_idle()
    side.server.remove_hook(hook)
    side.server.add_hook(AngryBefore(error))
    side.send("note", "never")
    assert not side.reply(3)["ok"]


def test_a_hook_that_leaves_does_not_undo_what_was_committed(durable: Durable) -> None:
    side = durable.start()
    side.server.add_hook(Angry(SystemExit(1)))
    bank_call(side, bytes(16), "pay", 10)
    assert side.reply()["return"] == 10


# Iterators for callers of 1.6.


def test_an_iterator_that_can_be_written_goes_to_1_6_as_it_did(make: Callable[..., Side]) -> None:
    side = make(pickler=pickle)
    serve(side, lambda: iter([1, 2, 3]))
    call(side, window=None)
    reply = side.reply()
    assert reply["ok"]
    assert list(reply["return"]) == [1, 2, 3]


# Cancelled, or too late.


def test_cancelled_before_it_returns_an_iterator(side: Side) -> None:
    entered, gate, closed = threading.Event(), threading.Event(), threading.Event()

    class Items:
        def __iter__(self) -> Items:
            return self

        def __next__(self) -> int:
            return 1

        def close(self) -> None:
            closed.set()

    def items() -> Items:
        entered.set()
        assert gate.wait(DEADLINE)
        return Items()

    serve(side, items)
    req_id = call(side)
    assert entered.wait(DEADLINE)
    side.deliver(cancel_record(req_id))
    gate.set()
    side.wait_idle()
    assert side.messaging.sent == []
    assert closed.is_set()
    assert len(side.server.executions) == 0
    assert side.server.streams.open == {}


def test_a_stream_outlives_the_deadline_of_its_call(side: Side) -> None:
    req_id = side.send("items", 15, timeout=5)
    wait_until(lambda: len(items_of(side)) == 10)
    side.wait_idle()
    side.messaging.advance(6)
    side.deliver(more_record(req_id, 10, 10))
    wait_until(lambda: len(items_of(side)) == 15)
    side.wait_idle()
    side.messaging.in_loop(side.messaging.on_disconnect, "c1", "alice")
    side.messaging.sent.clear()
    side.messaging.in_loop(side.messaging.on_connect, "c2", "alice")
    side.conn_id = "c2"
    side.deliver(more_record(req_id, 10, 10))
    wait_until(lambda: bool(side.messaging.sent))
    assert parts_of(side)[-1]["end"]


def test_one_that_is_asked_for_late_is_not_run_again(side: Side) -> None:
    req_id = side.send("hold", "value")
    assert side.service.entered.acquire(timeout=DEADLINE)
    side.messaging.disconnect("alice", "c1")
    side.messaging.connect("alice", "c2")
    side.messaging.advance(100)  # its argument is large, and the connection slow
    side.service.gate.set()
    side.wait_idle()
    side.conn_id = "c2"
    side.send("hold", "value", req_id=req_id)
    wait_until(lambda: bool(side.messaging.sent))
    side.wait_idle()
    assert side.service.calls == ["value"]


@pytest.mark.parametrize(
    "timeout", [10**400, float("inf"), 1e300, 0, 0.0, 1 << 20_000], ids=lambda _: ""
)
def test_timeouts(side: Side, timeout: Any) -> None:
    serve(side, lambda: current_call().remaining())
    call(side, timeout=timeout)
    side.reply()
    side.acknowledge()
    wait_until(lambda: len(side.server.executions) == 0)


@pytest.mark.parametrize("timeout", [float("inf"), 1e300])
def test_waiting_with_a_timeout_beyond_what_threads_can_wait(side: Side, timeout: float) -> None:
    entered = threading.Event()

    def wait() -> bool:
        entered.set()
        return current_call().wait_cancelled()

    results: list[Any] = []

    def noted() -> None:
        try:
            results.append(wait())
        except Exception as exc:
            results.append(exc)

    serve(side, noted)
    req_id = call(side, timeout=timeout)
    assert entered.wait(DEADLINE)
    side.deliver(cancel_record(req_id))
    side.wait_idle()
    assert results == [True]


# Limits.


def blocked(side: Side) -> None:
    side.send("hold")
    assert side.service.entered.acquire(timeout=DEADLINE)


def test_a_large_request_for_which_there_is_no_room_is_answered(make: Callable[..., Side]) -> None:
    side = make(max_workers=1, max_waiting=1)
    blocked(side)
    side.send("note", "waits")
    req_id = side.send("note", bytes(100_000))
    reply = side.reply()
    assert (reply["req_id"], reply["code"]) == (req_id, "busy")


def test_a_large_call_that_runs_is_not_said_to_be_refused(make: Callable[..., Side]) -> None:
    side = make(max_workers=1, max_waiting=1)
    value = bytes(100_000)
    req_id = side.send("hold", value)
    assert side.service.entered.acquire(timeout=DEADLINE)
    side.send("note", "waits")
    side.conn_id = "c2"
    side.send("hold", value, req_id=req_id)
    assert side.messaging.sent == [], "it is attached to the one that runs"
    side.service.gate.set()
    side.messaging.wait_sent(2)
    side.wait_idle()
    assert side.service.calls == [value, "waits"]


def test_a_large_call_that_is_refused_is_not_run_after_all(make: Callable[..., Side]) -> None:
    side = make(max_workers=1, max_waiting=1)
    blocked(side)
    req_id = side.send("note", bytes(100_000))
    side.send("note", bytes(100_000), req_id=req_id)
    assert side.reply()["code"] == "busy"
    side.service.gate.set()
    side.wait_idle()
    assert side.service.calls == [None]


def test_a_large_call_that_is_cancelled_while_it_is_repeated(make: Callable[..., Side]) -> None:
    side = make(max_workers=1)
    value = bytes(100_000)
    req_id = side.send("note", value)
    side.reply()
    side.wait_idle()
    blocked(side)
    side.conn_id = "c2"
    side.send("note", value, req_id=req_id)
    side.deliver(cancel_record(req_id))
    side.service.gate.set()
    side.wait_idle()
    assert side.service.calls == [value, None]


def test_a_flood_of_cancels_while_a_request_waits_to_be_read(make: Callable[..., Side]) -> None:
    side = make(max_workers=1)
    blocked(side)
    side.send("note", bytes(100_000))
    message = [
        Message(REQUEST_PREFIX + pickle.dumps(cancel_record(number.to_bytes(16, "big"))))
        for number in range(5000)
    ]
    for each in message:
        side.messaging.in_loop(side.server.on_recv, "c1", "alice", each)
    assert sum(map(len, side.server._unread.cancelled.values())) <= 2000


def test_a_request_id_is_short(side: Side) -> None:
    for number in range(3):
        side.send("note", req_id=bytes([number]) * 30_000)
    wait_until(side.idle)
    assert len(side.server.executions) == 0


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
        wait_until(lambda: not delivered.running, timeout=DEADLINE / 2)
    finally:
        gate.set()
    delivered.join()
    wait_until(lambda: items_of(side) == [1])
    side.wait_idle()


# Ends of replies.


def test_an_answer_for_which_there_was_no_room_is_sent_later(side: Side) -> None:
    side.messaging.failure = QueueFull("full")
    side.send("note", "value")
    side.wait_idle()
    side.messaging.failure = None
    side.messaging.advance(60)
    assert side.reply()["return"] == "value"


@pytest.mark.parametrize("is_full_first", [False, True])
def test_an_answer_that_can_not_be_sent_to_a_caller_whose_queue_is_full(
    side: Side, is_full_first: bool
) -> None:
    errors = [ValueError("so large"), QueueFull("full")]
    failures = reversed(errors) if is_full_first else iter(errors)
    send = side.messaging.send_message

    def fails_twice(*args: Any, **kwargs: Any) -> bool:
        for failure in failures:
            raise failure
        return send(*args, **kwargs)

    side.messaging.send_message = fails_twice  # type: ignore[method-assign]
    side.send("note", "value")
    side.wait_idle()
    side.messaging.advance(60)
    assert "so large" in text_of(side.reply())
    side.acknowledge()
    assert len(side.server.executions) == 0


def test_an_answer_that_is_dropped_to_make_room_is_sent_again(side: Side) -> None:
    side.send("note", "value")
    message = side.messaging.wait_sent(1)[0].message
    side.wait_idle()
    side.messaging.in_loop(
        side.messaging.on_messages_dropped, "alice", [message], DropReason.QUEUE_FULL
    )
    side.messaging.advance(60)
    assert side.reply(2)["return"] == "value"
    side.acknowledge()
    assert side.server.answers.under_way == 0
    assert len(side.server.executions) == 0


def test_a_caller_who_reads_nothing_fills_no_memory(side: Side) -> None:
    side.messaging.failure = QueueFull("full")
    for _ in range(200):
        side.send("note", bytes(50_000))
        side.deliver(more_record(bytes(16), 0, 1))
    wait_until(lambda: len(side.service.calls) == 200)
    side.wait_idle()
    kept = side.server.executions.kept_bytes
    blocked = side.server.answers._blocked["alice"]
    side.server.executions.limits = AnswerLimits(max_count=0)
    side.server.executions.expire()
    assert side.server.executions.kept_bytes == 0
    assert kept
    assert sum(len(each.record) for each in blocked) < 1_000_000


def test_a_full_queue_is_not_tried_again_for_each_answer(
    side: Side, caplog: pytest.LogCaptureFixture
) -> None:
    side.messaging.failure = QueueFull("full")
    for _ in range(100):
        side.send("note")
    wait_until(lambda: len(side.service.calls) == 100)
    side.wait_idle()
    caplog.clear()
    side.messaging.advance(0.1)
    assert len(caplog.records) < 10


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


def received(
    executions: Executions, req_id: bytes = bytes(16), ident: str = "alice"
) -> tuple[Execution, bool]:
    found = executions.receive(ident, req_id, "c1")
    assert found is not None
    return found


def test_a_store_that_can_not_be_read_when_a_call_is_repeated() -> None:
    store = Store()
    executions = Executions(time.monotonic, AnswerLimits(), store)
    execution, _ = received(executions)
    executions.answered(execution, b"answer")
    executions = Executions(time.monotonic, AnswerLimits(), store)
    store.failure = StorageError("no disk")
    execution, is_new = received(executions)
    assert not is_new
    assert execution.is_gone


def test_forgotten_while_it_is_stored() -> None:
    store = Store()
    executions = Executions(time.monotonic, AnswerLimits(), store)
    execution, _ = received(executions)
    store.on_put = lambda: executions.forget(execution)
    executions.answered(execution, b"answer")
    assert store.records == {}
    assert len(executions) == 0
    assert executions.kept_bytes == 0


def test_acknowledged_while_its_answer_is_dropped() -> None:
    store = Store()
    executions = Executions(time.monotonic, AnswerLimits(max_bytes=10), store)
    one, _ = received(executions)
    executions.answered(one, bytes(8))
    two, _ = received(executions, bytes([1] * 16))
    puts = iter((lambda: None, lambda: executions.acknowledged([one], "c1")))
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
        wait_until(lambda: not acknowledged.running, timeout=DEADLINE / 2)
    finally:
        gate.set()
    acknowledged.join()
    side.reply(2)


def test_a_quick_method_does_not_wait_for_a_transaction(durable: Durable) -> None:
    side = durable.start()
    entered, gate = threading.Event(), threading.Event()

    @transactional
    def wait() -> None:
        entered.set()
        gate.wait(DEADLINE)

    serve(side, wait)
    serve(side, lambda: 1, "quick", quick=True)
    call(side)
    assert entered.wait(DEADLINE)
    called = InThread(lambda: call(side, name="quick"))
    try:
        wait_until(lambda: not called.running, timeout=DEADLINE / 2)
    finally:
        gate.set()
    called.join()
    side.reply(2)


def test_a_repeated_call_does_not_wait_for_a_transaction(durable: Durable) -> None:
    side = durable.start()
    req_id = side.send("note", "value")
    side.reply()
    side.wait_idle()
    assert side.server.close(DEADLINE)
    side = durable.start()
    entered, gate = threading.Event(), threading.Event()

    @transactional
    def wait() -> None:
        entered.set()
        gate.wait(DEADLINE)

    serve(side, wait)
    call(side, req_id=bytes([9] * 16))
    assert entered.wait(DEADLINE)
    called = InThread(lambda: side.send("note", "value", req_id=req_id))
    try:
        wait_until(lambda: not called.running, timeout=DEADLINE / 2)
    finally:
        gate.set()
    called.join()
    side.reply(2)


def test_one_that_has_run_is_not_said_to_be_refused(durable: Durable) -> None:
    side = durable.start()
    req_id = side.send("note", "value", req_id=bytes([7] * 16))
    side.reply()
    side.wait_idle()
    assert side.server.close(DEADLINE)
    side = durable.start()
    side.server.dispatcher.max_waiting = 0
    side.server.dispatcher.max_workers = 1
    blocked(side)
    side.send("note", "value", req_id=req_id)
    side.service.gate.set()
    wait_until(lambda: len(side.messaging.sent) >= 1)
    side.wait_idle()
    replies = [pickle.loads(sent.message.data[6:]) for sent in side.messaging.sent]
    assert [reply["return"] for reply in replies if reply["req_id"] == req_id] == ["value"]


def test_one_that_has_run_is_answered_at_the_end_too(durable: Durable) -> None:
    side = durable.start()
    req_id = side.send("note", "value")
    side.reply()
    side.wait_idle()
    assert side.server.close(DEADLINE)
    side = durable.start()
    assert side.server.drain(0.1)
    side.send("note", "value", req_id=req_id)
    assert side.reply()["return"] == "value"


def test_a_signal_to_a_transactional_method(durable: Durable) -> None:
    side = durable.start()
    done: list[Any] = []

    @as_signal
    @transactional
    def pay() -> None:
        try:
            done.append(current_call().transaction.db.execute("SELECT 1").fetchone()[0])
        except Exception as exc:
            done.append(exc)

    serve(side, pay)
    side.deliver(signal_record("", "f", (), {}))
    side.wait_idle()
    assert done == [1]


@pytest.mark.parametrize("kind", ["generator", "async", "iterator"])
def test_a_transactional_method_that_does_not_return_a_value(durable: Durable, kind: str) -> None:
    side = durable.start()
    side.server.register_object(Bank(), "bank")

    def generator() -> Iterator[int]:
        yield 1

    async def later() -> int:
        return 1

    functions: dict[str, Callable[[], Any]] = {
        "generator": generator,
        "async": later,
        "iterator": lambda: iter([1]),
    }

    @transactional
    def f() -> Any:
        db = current_call().transaction.db
        db.execute("CREATE TABLE effect (x INTEGER)")
        return functions[kind]()

    serve(side, f)
    call(side)
    reply = side.reply()
    assert not reply["ok"]


# Somebody else.


def test_others_do_not_lose_their_answers_to_one_who_makes_many_calls(
    make: Callable[..., Side],
) -> None:
    side = make(answers=AnswerLimits(max_count=20))
    req_id = side.send("note", "value")
    side.reply()
    for _ in range(50):
        side.send("note", "flood", ident="mallory")
    wait_until(lambda: len(side.messaging.sent) == 51)
    side.wait_idle()
    side.send("note", "value", req_id=req_id)
    side.messaging.wait_sent(52)
    side.wait_idle()
    assert side.service.calls.count("value") == 1


@pytest.mark.parametrize("limits", [AnswerLimits(max_count=20), AnswerLimits(max_bytes=200)])
def test_who_has_most_loses_answers_first(limits: AnswerLimits) -> None:
    store = Store()
    executions = Executions(time.monotonic, limits, store)

    def answered(ident: str, number: int) -> None:
        execution, _ = received(executions, number.to_bytes(16, "big"), ident)
        executions.answered(execution, bytes(10))

    def kept(ident: str) -> list[int]:
        found = [
            (number, executions.find(ident, number.to_bytes(16, "big"))) for number in range(100)
        ]
        return [number for number, execution in found if execution and execution.answer is not None]

    for number in range(3):
        answered("alice", number)
    for number in range(50):
        answered("mallory", number)
    assert kept("alice") == [0, 1, 2]
    assert kept("mallory") == list(range(33, 50))
    for number in range(3, 15):
        answered("alice", number)
    assert kept("alice") == list(range(5, 15))
    assert kept("mallory") == list(range(40, 50))
    answered("bob", 0)
    assert kept("bob") == [0]
    assert len(kept("alice")) + len(kept("mallory")) == 19
    assert executions.kept_bytes == 200


def test_the_same_req_id_of_different_peers(side: Side) -> None:
    side.send("note", "a", req_id=bytes(16))
    side.reply()
    side.send("note", "b", req_id=bytes(16), ident="bob")
    assert side.reply(2)["return"] == "b"
    assert side.messaging.sent[-1].ident == "bob"


def test_more_than_was_sent_can_not_have_arrived(side: Side) -> None:
    req_id = side.send("items", 100_000)
    wait_until(lambda: len(items_of(side)) == 10)
    side.wait_idle()
    side.deliver(more_record(req_id, 2**53, 10))
    side.acknowledge()
    side.wait_idle()
    assert len(items_of(side)) == 20
    side.deliver(cancel_record(req_id))
    side.wait_idle()


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


def test_nobody_has_the_name_of_a_ledger() -> None:
    network = SimNetwork(seed=1)
    bob = SimStack(network, "bob", storage=MemoryQueuesStorage())
    name = bob.messaging.open_ledger("answers to calls").name
    raw = HandMade(network, name, bob)
    raw.say(FRAME_VERSION, encode_identification(name))
    assert not bob.messaging.is_connected(name)
    bob.close()


# Concurrent ends.


def test_drain_waits_for_a_call_that_just_came(side: Side) -> None:
    receive = side.server.executions.receive
    entered, gate = threading.Event(), threading.Event()

    def slowly(*args: Any) -> Any:
        entered.set()
        assert gate.wait(DEADLINE)
        return receive(*args)

    side.server.executions.receive = slowly  # type: ignore[assignment,method-assign]
    sent = InThread(side.send, "hold", "value")
    assert entered.wait(DEADLINE)
    drained = InThread(side.server.drain, 0.3)
    wait_until(lambda: side.server._draining.is_active)
    gate.set()
    sent.join()
    assert side.service.entered.acquire(timeout=DEADLINE)
    assert drained.result() is False


def test_async_calls_are_answered_after_close(
    make: Callable[..., Side], loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    side = make(asyncio_loop=loop)
    gate = threading.Event()

    async def hold() -> str:
        while not gate.is_set():
            await asyncio.sleep(0.001)
        return "held"

    serve(side, hold)
    call(side)
    wait_until(lambda: side.server.dispatcher.running == 1)
    assert not side.server.close(0)
    with caplog.at_level(logging.ERROR):
        gate.set()
        assert side.reply()["return"] == "held"


def test_a_stream_that_begins_after_the_end_is_closed(side: Side) -> None:
    entered, gate = threading.Event(), threading.Event()
    closed: list[int] = []

    class Items(BadlyClosed):
        def close(self) -> None:
            closed.append(1)

    def items() -> Items:
        entered.set()
        assert gate.wait(DEADLINE)
        return Items()

    serve(side, items)
    call(side)
    assert entered.wait(DEADLINE)
    assert not side.server.close()
    gate.set()
    assert side.server.close(DEADLINE)
    assert closed == [1]
    assert not side.server.streams.open


def test_a_stream_that_is_not_admitted_is_closed(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snakemq.rpc._open_streams._MAX_STREAMS", 0)
    closed: list[int] = []

    class Items(BadlyClosed):
        def close(self) -> None:
            closed.append(1)

    serve(side, Items)
    call(side)
    assert "so many" in text_of(side.reply())
    side.wait_idle()
    assert closed == [1]


def test_one_failure_does_not_keep_other_acknowledgements_from_being_heard(side: Side) -> None:
    for _ in range(3):
        side.send("note")
    side.messaging.wait_sent(3)
    side.wait_idle()
    acknowledged = side.server.executions.acknowledged
    failures = iter([OSError("disk")])

    def fails_once(*args: Any) -> None:
        for failure in failures:
            raise failure
        acknowledged(*args)

    side.server.executions.acknowledged = fails_once  # type: ignore[assignment,method-assign]
    with contextlib.suppress(OSError):
        side.acknowledge()
    assert side.server.answers.under_way == 0


# The server's end of a stream, by itself.


class Immediate(Caller):
    """Everything has arrived as soon as it is sent."""

    def send(self, record: bytes) -> None:
        super().send(record)
        self.source.batch_left(lost=False)

    def flush_source(self) -> None:
        raise AssertionError("there was nothing to wait for")


def test_the_end_arrives_before_the_iterator_is_closed() -> None:
    caller = Immediate(iter([1, 2]))
    caller.source.run()
    assert caller.items == [1, 2]
    assert caller.is_delivered
    failing = Immediate(map(int, ["1", "x"]))
    failing.source.run()
    assert isinstance(failing.sent[-1].error, ValueError)
    assert failing.is_delivered


def test_what_arrives_while_an_item_is_taken_over_does_not_keep_the_next_one_waiting() -> None:
    entered: list[list[int]] = []

    def items() -> Iterator[int]:
        yield 0
        yield 1
        entered.append(caller.items)
        yield 2

    caller = Caller(items())
    take = caller.source._may_go_on
    steps = iter(range(100))

    def at_the_worst_moment() -> bool:
        if next(steps) == 2:  # item 1 waits for item 0, which arrives now
            caller.source.batch_left(lost=False)
        return take()

    caller.source._may_go_on = at_the_worst_moment  # type: ignore[method-assign]
    caller.source.run()
    assert entered == [[0, 1]]


def test_all_of_it_has_arrived_on_another_connection() -> None:
    caller = Caller(iter([1, 2]))
    caller.source.run()
    caller.leave(lost=True)
    caller.leave(lost=True)
    assert not caller.is_delivered
    number = len(caller.sent)
    caller.more(2, 0, "c2")
    assert caller.is_delivered
    assert len(caller.sent) == number


def test_an_empty_stream_that_is_lost_is_sent_again() -> None:
    caller = Caller(iter(()))
    caller.source.run()
    caller.leave(lost=True)
    caller.source.repeat("c2")
    assert not caller.is_delivered
    assert [part.end for part in caller.sent] == [True, True]
    caller.more(0, 0, "c2")
    assert caller.is_delivered


def test_cancelled_when_all_that_is_left_is_lost() -> None:
    caller = Caller(iter([1, 2]))
    caller.source.run()
    caller.leave(lost=True)
    caller.leave(lost=True)
    caller.source.cancel()
    assert caller.is_delivered


def test_credit_for_what_was_not_sent_counts_from_what_was() -> None:
    caller = Caller(iter(range(10**9)), window=3)
    caller.source.run()
    caller.more(2**53, 4)
    assert caller.items == list(range(7))
    caller.more(2**53, 2**53)
    assert len(caller.items) == 7 + MAX_WINDOW


@pytest.mark.parametrize("error", [ValueError("too large"), SystemExit(1)])
def test_a_part_that_can_not_be_sent(error: BaseException) -> None:
    class Full(Caller):
        def send(self, record: bytes) -> None:
            if "large" in self._records[record].items:
                self.source.batch_left(lost=True)
                raise error
            super().send(record)

    closed = []

    def items() -> Iterator[str]:
        try:
            yield from ("a", "b", "large", "never")
        finally:
            closed.append(True)

    caller = Full(items())
    caller.source.run()
    assert caller.items == ["a", "b"]
    assert caller.sent[-1].error is error
    assert caller.sent[-1].position == 2
    assert closed == [True]
    caller.more(2, 0)
    assert caller.is_delivered


def test_nobody_can_be_told_of_an_error() -> None:
    class Speechless(Caller):
        def write_error(self, position: int, error: BaseException) -> bytes | None:
            raise SystemExit(1)

    caller = Speechless(map(int, ["1", "x"]))
    caller.source.run()
    assert caller.items == [1]
    assert caller.source.is_over
    assert isinstance(caller.has_ended[0], ValueError)


def test_no_worker_is_to_be_had_once() -> None:
    class Busy(Caller):
        failures = 1

        def run_source(self) -> None:
            if self.failures:
                self.failures -= 1
                raise RuntimeError("can't start new thread")
            super().run_source()

    caller = Busy(iter(range(10)), window=2)
    caller.source.run()
    with pytest.raises(RuntimeError, match="new thread"):
        caller.more(2, 2)
    caller.more(2, 2)
    assert caller.items == [0, 1, 2, 3]


class Row:
    def __init__(self) -> None:
        self.number = 0


def changed_list() -> Iterator[Any]:
    row: list[int] = []
    for number in range(5):
        row.append(number)
        yield row


def changed_dict() -> Iterator[Any]:
    row: dict[str, Any] = {"deep": [bytearray(), set()]}
    for number in range(5):
        row[str(number)] = number
        row["deep"][0].append(number)
        row["deep"][1].add(number)
        yield row


def changed_object() -> Iterator[Any]:
    row = Row()
    for number in range(5):
        row.number = number
        yield (row,)


@pytest.mark.parametrize("function", [changed_list, changed_dict, changed_object])
def test_items_are_sent_as_they_were(function: Callable[[], Iterator[Any]]) -> None:
    class Writing(Caller):
        def write_items(self, position: int, items: list[Any], end: bool) -> bytes:
            record = super().write_items(position, items, end)
            written.extend(pickle.dumps(item) for item in items)
            return record

    written: list[bytes] = []
    Writing(function()).source.run()
    assert written == [pickle.dumps(item) for item in function()]


def test_an_item_that_shares_its_parts() -> None:
    shared: list[Any] = []
    for _ in range(100):
        shared = [shared, shared]
    caller = Caller(iter([1, shared, 2]))
    caller.source.run()
    assert len(caller.items) == 3
    assert caller.items[1][0] is caller.items[1][1]
    assert caller.items[1] is not shared


def test_an_item_that_is_endless() -> None:
    endless: list[Any] = []
    endless.append(endless)
    caller = Caller(iter([1, endless, 2]))
    caller.source.run()
    assert [part.position for part in caller.sent] == [0, 1, 2]
