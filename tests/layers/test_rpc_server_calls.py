"""What a server does with calls beyond calling: once, deadlines, limits, streams, the end."""

from __future__ import annotations

import asyncio
import contextvars
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from snakemq._core.rpc_records import (
    REPLY_PREFIX,
    REQUEST_PREFIX,
    call_record,
    cancel_record,
    describe_record,
    more_record,
    signal_record,
)
from snakemq.message import Message
from snakemq.queues import QueuesManager
from snakemq.rpc import (
    AnswerLimits,
    CallError,
    CallHook,
    CallInfo,
    CurrentCall,
    Error,
    NoMethodError,
    PartialCall,
    Refused,
    RpcServer,
    as_signal,
    at_most_once,
    current_call,
    quick,
    transactional,
)
from snakemq.rpc._served_call import ServedCall
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.helpers import DEADLINE, wait_until
from tests.layers.rpc_fakes import FakeHook, FakeMessaging, InThread


class Service:
    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.calls: list[Any] = []
        self.current: list[CurrentCall] = []

    def note(self, value: Any = None) -> Any:
        self.calls.append(value)
        return value

    @as_signal
    def sign(self, value: Any) -> None:
        self.calls.append(value)

    def hold(self, value: Any = None) -> Any:
        self.calls.append(value)
        self.current.append(current_call())
        self.entered.release()
        assert self.gate.wait(DEADLINE)
        return value

    def wait_cancelled(self) -> str:
        self.entered.release()
        self.calls.append(current_call().wait_cancelled(DEADLINE))
        return "cancelled"

    @quick
    def where(self) -> int:
        return threading.get_ident()

    def about(self) -> tuple[Any, ...]:
        call = current_call()
        return call.ident, call.conn_id, call.name, call.req_id, call.headers, call.remaining()

    def items(self, number: int) -> Iterator[int]:
        try:
            yield from range(number)
        finally:
            self.calls.append("closed")

    async def later(self, value: Any) -> Any:
        await asyncio.sleep(0)
        self.calls.append(current_call().name)
        return value

    async def fails_later(self) -> None:
        raise LookupError("later")

    async def waits(self) -> None:
        self.entered.release()
        try:
            await asyncio.sleep(DEADLINE)
        finally:
            self.calls.append("woken")

    async def items_later(self, number: int) -> AsyncIterator[int]:
        for item in range(number):
            await asyncio.sleep(0)
            yield item

    def type_error(self) -> None:
        raise TypeError("inside")


class Side:
    """A server, and messages from and to its callers."""

    def __init__(self, **options: Any) -> None:
        self.messaging = FakeMessaging(("alice",))
        self.hook = FakeHook(self.messaging)
        self.server = RpcServer(self.hook, **options)  # type: ignore[arg-type]
        self.service = Service()
        self.server.register_object(self.service, "obj")
        self.ids = (bytes(12) + number.to_bytes(4, "big") for number in count(1))
        self.conn_id = "c1"

    def deliver(self, record: Any, ident: str = "alice") -> None:
        message = Message(REQUEST_PREFIX + pickle.dumps(record))
        self.messaging.in_loop(self.server.on_recv, self.conn_id, ident, message)

    def send(self, method: str, *args: Any, ident: str = "alice", **more: Any) -> bytes:
        """Send a call; its ``req_id``."""
        req_id = more.pop("req_id", None) or next(self.ids)
        more.setdefault("window", 10)
        self.deliver(call_record("obj", method, args, {}, req_id, **more), ident)
        return bytes(req_id)

    def reply(self, number: int = 1) -> dict[str, Any]:
        """The reply of that number; there are no more."""
        sent = self.messaging.wait_sent(number)
        record: dict[str, Any] = pickle.loads(sent[-1].message.data[len(REPLY_PREFIX) :])
        return record

    def acknowledge(self, conn_id: str | None = None) -> None:
        """All replies so far."""
        messages = [sent.message for sent in self.messaging.sent]
        self.messaging.in_loop(
            self.messaging.on_messages_acked, conn_id or self.conn_id, "alice", messages
        )

    def idle(self) -> bool:
        return not self.server.dispatcher.running and not self.server.dispatcher.waiting

    def wait_idle(self) -> None:
        wait_until(self.idle)


@pytest.fixture
def make() -> Iterator[Callable[..., Side]]:
    sides: list[Side] = []

    def make(**options: Any) -> Side:
        sides.append(Side(**options))
        return sides[-1]

    yield make
    for side in sides:
        side.service.gate.set()
        assert side.server.close(DEADLINE)
        side.messaging.run_soon()
        assert not side.messaging.timers


@pytest.fixture
def side(make: Callable[..., Side]) -> Side:
    return make()


# Once.


def test_a_repeated_call_is_attached_to_the_one_that_runs(side: Side) -> None:
    req_id = side.send("hold", "value")
    assert side.service.entered.acquire(timeout=DEADLINE)
    side.conn_id = "c2"
    side.send("hold", "value", req_id=req_id)
    side.service.gate.set()
    assert side.reply()["return"] == "value"
    side.wait_idle()
    assert side.service.calls == ["value"]


def test_a_repeated_call_gets_the_answer_again(side: Side) -> None:
    req_id = side.send("note", "value")
    first = side.reply()
    side.wait_idle()
    side.conn_id = "c2"
    side.send("note", "value", req_id=req_id)
    assert side.reply(2) == first
    assert side.service.calls == ["value"]


def test_an_exception_is_an_answer_too(side: Side) -> None:
    req_id = side.send("type_error")
    first = side.reply()
    side.send("type_error", req_id=req_id)
    assert repr(side.reply(2)) == repr(first)


def test_an_acknowledged_answer_is_not_kept(side: Side) -> None:
    side.send("note", "value")
    side.reply()
    side.wait_idle()
    assert len(side.server.executions) == 1
    assert side.server.answers.under_way == 1
    side.acknowledge()
    assert len(side.server.executions) == 0
    assert side.server.answers.under_way == 0


def test_one_that_was_lost_is_kept(side: Side) -> None:
    req_id = side.send("note", "value")
    side.reply()
    side.messaging.in_loop(side.messaging.on_disconnect, "c1", "alice")
    assert side.server.answers.under_way == 0
    side.acknowledge()
    side.conn_id = "c2"
    side.send("note", "value", req_id=req_id)
    assert side.reply(2)["return"] == "value"
    side.acknowledge()
    assert len(side.server.executions) == 0


def test_a_caller_that_acknowledges_nothing_is_remembered_for_a_while(
    make: Callable[..., Side],
) -> None:
    side = make(answers=AnswerLimits(max_age=100))
    req_id = side.send("note", "value")
    message = side.messaging.wait_sent(1)[0].message
    side.messaging.in_loop(side.messaging.on_messages_left, "c1", "alice", [message])
    side.send("note", "value", req_id=req_id)
    side.reply(2)
    side.messaging.advance(99)
    assert len(side.server.executions) == 1
    side.messaging.advance(2)
    assert len(side.server.executions) == 0
    assert not side.messaging.timers


def test_an_answer_that_was_too_large_to_keep(make: Callable[..., Side]) -> None:
    side = make(answers=AnswerLimits(max_bytes=1000))
    first = side.send("note", bytes(900))
    side.reply()
    side.send("note", bytes(900))
    side.reply(2)
    side.send("note", bytes(900), req_id=first)
    reply = side.reply(3)
    assert (reply["code"], type(reply["exception"])) == ("answer-gone", CallError)
    assert len(side.service.calls) == 2


def test_nobody_is_answered_without_transfer_of_exceptions_also_not_later(side: Side) -> None:
    side.server.transfer_exceptions = False
    req_id = side.send("type_error")
    side.wait_idle()
    side.send("type_error", req_id=req_id)
    side.wait_idle()
    assert side.messaging.sent == []


# Cancelled, or too late.


def test_a_cancelled_call_that_waits_is_not_begun(make: Callable[..., Side]) -> None:
    side = make(max_workers=1)
    side.send("hold")
    assert side.service.entered.acquire(timeout=DEADLINE)
    req_id = side.send("note", "never")
    side.deliver(cancel_record(req_id))
    side.service.gate.set()
    side.wait_idle()
    assert side.service.calls == [None]
    assert len(side.server.executions) == 1


def test_a_cancelled_call_that_runs_can_ask(side: Side) -> None:
    req_id = side.send("wait_cancelled")
    assert side.service.entered.acquire(timeout=DEADLINE)
    side.deliver(cancel_record(req_id))
    side.wait_idle()
    assert side.service.calls == [True]
    assert side.messaging.sent == []
    assert len(side.server.executions) == 0


def test_a_method_that_asks_only_when_it_was_cancelled_is_told(side: Side) -> None:
    cancelled = threading.Event()
    asked: list[bool] = []

    def ask() -> None:
        side.service.entered.release()
        assert cancelled.wait(DEADLINE)
        asked.append(current_call().cancelled)

    side.server.register_function(ask, "ask")
    req_id = next(side.ids)
    side.deliver(call_record("", "ask", (), {}, req_id))
    assert side.service.entered.acquire(timeout=DEADLINE)
    side.deliver(cancel_record(req_id))
    cancelled.set()
    wait_until(lambda: asked == [True])


def test_all_threads_of_a_method_see_the_same_call(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[CurrentCall] = []
    make = side.server.current_call
    making = threading.Barrier(4)

    def make_together(served: ServedCall) -> CurrentCall:
        making.wait(DEADLINE)
        return make(served)

    monkeypatch.setattr(side.server, "current_call", make_together)

    def ask() -> None:
        together = threading.Barrier(4)

        def look() -> CurrentCall:
            together.wait(DEADLINE)
            return current_call()

        threads = [InThread(contextvars.copy_context().run, look) for _ in range(4)]
        seen.extend(thread.result() for thread in threads)

    side.server.register_function(ask, "ask")
    side.deliver(call_record("", "ask", (), {}, next(side.ids)))
    wait_until(lambda: len(seen) == 4)
    assert len({id(call) for call in seen}) == 1


def test_a_finalizer_may_ask_while_the_call_is_made(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = side.server.current_call
    seen: list[CurrentCall] = []

    def make_with_garbage(served: ServedCall) -> CurrentCall:
        monkeypatch.setattr(side.server, "current_call", make)
        seen.append(current_call())
        return make(served)

    monkeypatch.setattr(side.server, "current_call", make_with_garbage)
    side.server.register_function(lambda: seen.append(current_call()), "ask")
    side.deliver(call_record("", "ask", (), {}, next(side.ids)))
    wait_until(lambda: len(seen) == 2)
    assert seen[0] is seen[1]


def test_cancelling_what_has_ended_or_never_was_is_harmless(side: Side) -> None:
    req_id = side.send("note")
    side.reply()
    side.wait_idle()
    side.deliver(cancel_record(req_id))
    assert len(side.server.executions) == 0
    side.deliver(cancel_record(bytes(16)))


def test_somebody_else_can_not_cancel_it(side: Side) -> None:
    req_id = side.send("hold", "value")
    assert side.service.entered.acquire(timeout=DEADLINE)
    side.deliver(cancel_record(req_id), ident="mallory")
    assert not side.service.current[0].cancelled
    side.service.gate.set()
    assert side.reply()["return"] == "value"


def test_a_call_that_its_caller_seems_to_have_cancelled_is_not_begun(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker has not got to it when the caller does not ask for it on the next connection."""
    begin: list[Callable[[], object]] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            side.server.dispatcher._pool, "submit", lambda *args: begin.append(partial(*args))
        )
        side.send("note", "value")
    side.messaging.in_loop(side.messaging.on_disconnect, "c1", "alice")
    side.messaging.in_loop(side.messaging.on_connect, "c2", "alice")
    side.messaging.advance(500)
    begin[0]()
    assert side.service.calls == []
    assert side.reply()["code"] == "expired"


def test_a_call_whose_time_is_over_is_not_begun(make: Callable[..., Side]) -> None:
    side = make(max_workers=1)
    side.send("hold")
    assert side.service.entered.acquire(timeout=DEADLINE)
    side.send("note", "never", timeout=5)
    side.messaging.advance(6)
    side.service.gate.set()
    reply = side.reply(2)
    assert (reply["code"], type(reply["exception"])) == ("expired", PartialCall)
    side.wait_idle()
    assert side.service.calls == [None]


# Where it runs.


def test_a_quick_method_runs_in_the_loop(side: Side) -> None:
    side.send("where")
    assert side.reply()["return"] == threading.get_ident()
    side.server.register_function(threading.get_ident, "there", quick=True)
    side.deliver(call_record("", "there", (), {}, next(side.ids)))
    assert side.reply(2)["return"] == threading.get_ident()
    assert side.server.dispatcher._pool.workers == 0


def test_too_many_are_refused_and_may_be_tried_again(make: Callable[..., Side]) -> None:
    side = make(max_workers=1, max_waiting=1)
    side.send("hold")
    assert side.service.entered.acquire(timeout=DEADLINE)
    side.send("note", "waits")
    req_id = side.send("note", "refused")
    reply = side.reply()
    assert (reply["req_id"], reply["code"]) == (req_id, "busy")
    side.deliver(signal_record("obj", "sign", ("refused",), {}))
    side.service.gate.set()
    side.messaging.wait_sent(3)
    side.send("note", "again", req_id=req_id)
    side.reply(4)
    side.wait_idle()
    assert side.service.calls == [None, "waits", "again"]


class Loop:
    """An asyncio loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        wait_until(self.loop.is_running)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE)
        # As asyncio.run() does it.
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = Loop()
    yield loop.loop
    loop.close()


def test_async_methods_run_in_the_asyncio_loop(
    make: Callable[..., Side], loop: asyncio.AbstractEventLoop
) -> None:
    side = make(asyncio_loop=loop)
    side.send("later", "value")
    assert side.reply()["return"] == "value"
    side.wait_idle()
    assert side.service.calls == ["obj.later"]
    side.send("fails_later")
    assert repr(side.reply(2)["exception"]) == "LookupError('later')"
    assert "in fails_later" in side.reply(2)["exception_format"]


def test_many_async_methods_need_no_threads(
    make: Callable[..., Side], loop: asyncio.AbstractEventLoop
) -> None:
    side = make(asyncio_loop=loop)
    ids = [side.send("waits") for _ in range(50)]
    for _ in ids:
        assert side.service.entered.acquire(timeout=DEADLINE)
    assert side.server.dispatcher.running == 50
    for req_id in ids:
        side.deliver(cancel_record(req_id))
    side.wait_idle()
    assert side.service.calls == ["woken"] * 50
    assert len(side.server.executions) == 0


def test_async_generators_are_streams(
    make: Callable[..., Side], loop: asyncio.AbstractEventLoop
) -> None:
    side = make(asyncio_loop=loop)
    side.send("items_later", 3)
    wait_until(lambda: len(items_of(side)) == 3)
    assert items_of(side) == [0, 1, 2]


def test_async_methods_without_a_loop(side: Side) -> None:
    side.send("later", 1)
    assert "give the server one" in str(side.reply()["exception"])
    side.send("items_later", 1)
    wait_until(lambda: len(side.messaging.sent) == 2)
    assert "asyncio" in str(side.reply(2)["exception"])


# What is said about it.


def test_what_a_method_knows_of_its_call(side: Side) -> None:
    req_id = side.send("about", timeout=9, headers={"trace": 7})
    assert side.reply()["return"] == ("alice", "c1", "obj.about", req_id, {"trace": 7}, 9.0)


class Recorder(CallHook):
    def __init__(self, log: list[Any], name: str = "") -> None:
        self.log = log
        self.name = name

    def before(self, call: CallInfo) -> None:
        if call.method == "forbidden":
            raise Refused(f"{call.ident} may not call {call.name}")
        self.log.append(f"{self.name} before {call.name}")

    def after(self, call: CallInfo, error: BaseException | None) -> None:
        self.log.append(f"{self.name} after {error!r}")
        raise ValueError("of the hook")


def test_hooks_are_around_each_call(side: Side) -> None:
    log: list[str] = []
    outer, inner = Recorder(log, "outer"), Recorder(log, "inner")
    side.server.add_hook(outer)
    side.server.add_hook(inner)
    side.send("note")
    side.reply()
    side.wait_idle()
    assert log == [
        "outer before obj.note",
        "inner before obj.note",
        "inner after None",
        "outer after None",
    ]
    side.server.remove_hook(inner)
    log.clear()
    side.send("type_error")
    side.reply(2)
    side.wait_idle()
    assert log == ["outer before obj.type_error", "outer after TypeError('inside')"]
    with pytest.raises(ValueError, match="not in"):
        side.server.remove_hook(inner)


def test_a_hook_can_refuse_a_call(side: Side) -> None:
    log: list[str] = []
    side.server.add_hook(Recorder(log))
    side.send("forbidden")
    reply = side.reply()
    assert reply["code"] == "refused"
    assert str(reply["exception"]) == "alice may not call obj.forbidden"
    assert log == []


def test_what_is_served_can_be_asked_for(side: Side) -> None:
    side.deliver(describe_record(next(side.ids)))
    (described,) = side.reply()["return"]
    assert described["name"] == "obj"
    assert "note" in {method["name"] for method in described["methods"]}


def test_a_type_error_inside_is_none_about_arguments(side: Side) -> None:
    side.send("type_error")
    assert "code" not in side.reply()
    side.send("note", 1, 2, 3)
    assert side.reply(2)["code"] == "arguments"


def test_a_result_that_can_not_be_written_names_where(side: Side) -> None:
    side.server.register_function(lambda: {"a": [1, threading.Lock()]}, "locks")
    side.deliver(call_record("", "locks", (), {}, next(side.ids)))
    reply = side.reply()
    assert reply["code"] == "unserializable"
    assert "return['a'][1]" in str(reply["exception"])


# Streams.


def items_of(side: Side) -> list[Any]:
    return [item for record in parts_of(side) for item in record["return"]]


def parts_of(side: Side) -> list[dict[str, Any]]:
    records = [pickle.loads(sent.message.data[6:]) for sent in list(side.messaging.sent)]
    return [record for record in records if record.get("position") is not None and record["ok"]]


def test_a_stream_is_sent_as_it_is_asked_for(side: Side) -> None:
    req_id = side.send("items", 25)
    wait_until(lambda: len(items_of(side)) == 10)
    side.wait_idle()
    assert not parts_of(side)[-1]["end"]
    side.deliver(more_record(req_id, 10, 10))
    wait_until(lambda: len(items_of(side)) == 20)
    side.deliver(more_record(req_id, 20, 10))
    wait_until(lambda: parts_of(side)[-1]["end"])
    assert items_of(side) == list(range(25))
    side.wait_idle()
    assert side.service.calls == ["closed"]
    side.acknowledge()
    assert len(side.server.executions) == 0
    assert side.server.streams.open == {}


def test_a_stream_goes_on_on_another_connection(side: Side) -> None:
    req_id = side.send("items", 25)
    wait_until(lambda: len(items_of(side)) == 10)
    side.wait_idle()
    side.messaging.in_loop(side.messaging.on_disconnect, "c1", "alice")
    side.messaging.sent.clear()
    side.messaging.in_loop(side.messaging.on_connect, "c2", "alice")
    side.conn_id = "c2"
    side.deliver(more_record(req_id, 4, 26))
    wait_until(lambda: parts_of(side) and parts_of(side)[-1]["end"])
    got: list[int] = [0, 1, 2, 3]
    for part in parts_of(side):
        got += part["return"][len(got) - part["position"] :]
    assert got == list(range(25))


def test_a_cancelled_stream_is_closed(side: Side) -> None:
    req_id = side.send("items", 100)
    wait_until(lambda: len(items_of(side)) == 10)
    side.wait_idle()
    side.deliver(cancel_record(req_id))
    side.wait_idle()
    assert side.service.calls == ["closed"]
    assert len(side.server.executions) == 0
    assert side.server.streams.open == {}


def test_a_stream_of_a_caller_who_does_not_come_back_is_closed(side: Side) -> None:
    side.send("items", 100)
    wait_until(lambda: len(items_of(side)) == 10)
    side.wait_idle()
    side.messaging.in_loop(side.messaging.on_disconnect, "c1", "alice")
    side.messaging.advance(500)
    assert side.service.calls == []
    side.messaging.advance(200)
    side.wait_idle()
    assert side.service.calls == ["closed"]
    assert len(side.server.executions) == 0


def test_an_unknown_stream(side: Side) -> None:
    side.deliver(more_record(bytes(16), 5, 5))
    assert side.reply()["code"] == "stream-gone"
    side.deliver(more_record(bytes(16), 5, 0))
    assert len(side.messaging.sent) == 1


def test_a_caller_who_takes_no_streams(side: Side) -> None:
    side.deliver(call_record("obj", "items", (3,), {}, next(side.ids)))
    reply = side.reply()
    assert type(reply["exception"]) is Error
    assert "return a list" in str(reply["exception"])


# The end.


def test_drain_finishes_what_was_taken_and_takes_nothing_new(make: Callable[..., Side]) -> None:
    side = make(max_workers=1)
    side.send("hold", "runs")
    assert side.service.entered.acquire(timeout=DEADLINE)
    side.send("note", "waits")
    drained = InThread(side.server.drain, DEADLINE)
    wait_until(lambda: side.server._draining.is_active)
    side.send("note", "new")
    assert side.reply()["code"] == "closing"
    side.deliver(call_record("obj", "note", ("1.6",), {}, next(side.ids)))
    side.deliver(signal_record("obj", "sign", ("signal",), {}))
    side.service.gate.set()
    side.messaging.wait_sent(3)
    side.wait_idle()
    assert side.service.calls == ["runs", "waits", "signal"]
    side.acknowledge()
    assert drained.result() is True


def test_drain_has_an_end(side: Side) -> None:
    req_id = side.send("hold")
    assert side.service.entered.acquire(timeout=DEADLINE)
    assert side.server.drain(0) is False
    side.conn_id = "c2"
    side.send("hold", req_id=req_id)
    assert side.messaging.sent == [], "it is known"
    with pytest.raises(RuntimeError, match="in another"):
        side.messaging.in_loop(side.server.drain, 1)


# With a storage.


class DurableMessaging(FakeMessaging):
    def __init__(self, path: Path) -> None:
        super().__init__(("alice",))
        self.manager = QueuesManager(SqliteQueuesStorage(path))
        self.open_ledger = self.manager.open_ledger

    def transaction(self) -> Any:
        from snakemq._transaction import begin

        return begin(self.manager, None, lambda ident, message: None)


class DurableSide(Side):
    """A server that keeps its answers, and can be killed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(durable=True)


class Bank:
    def __init__(self) -> None:
        self.runs = 0
        self.dies = False

    @transactional
    def pay(self, amount: int) -> int:
        self.runs += 1
        db = current_call().transaction.db
        db.execute("CREATE TABLE IF NOT EXISTS account (balance INTEGER)")
        if not db.execute("SELECT count(*) FROM account").fetchone()[0]:
            db.execute("INSERT INTO account VALUES (0)")
        db.execute("UPDATE account SET balance = balance + ?", (amount,))
        balance: int = db.execute("SELECT balance FROM account").fetchone()[0]
        if amount < 0:
            raise ValueError("no overdraft")
        return balance

    @at_most_once
    def print_cheque(self) -> str:
        self.runs += 1
        return "printed"


class Durable:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.sides: list[Side] = []
        self.bank = Bank()

    def start(self) -> Side:
        for side in self.sides:
            side.messaging.manager.storage.close()  # type: ignore[attr-defined]
        messaging = DurableMessaging(self.path)
        side = Side.__new__(Side)
        side.messaging = messaging
        side.hook = FakeHook(messaging)
        side.server = RpcServer(side.hook, durable=True)  # type: ignore[arg-type]
        side.service = Service()
        side.server.register_object(side.service, "obj")
        side.server.register_object(self.bank, "bank")
        side.ids = (bytes(12) + number.to_bytes(4, "big") for number in count(1))
        side.conn_id = f"c{len(self.sides)}"
        self.sides = [side]
        return side


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[Durable]:
    durable = Durable(tmp_path / "storage.db")
    yield durable
    for side in durable.sides:
        side.service.gate.set()
        assert side.server.close(DEADLINE)
        side.messaging.manager.close()  # type: ignore[attr-defined]


def bank_call(side: Side, req_id: bytes, method: str, *args: Any) -> None:
    side.deliver(call_record("bank", method, args, {}, req_id, window=1))


def test_an_answer_outlives_the_server(durable: Durable) -> None:
    side = durable.start()
    req_id = side.send("note", "value")
    first = side.reply()
    side.wait_idle()
    side = durable.start()
    side.send("note", "value", req_id=req_id)
    assert side.reply() == first
    assert side.service.calls == []


def test_without_a_thread_an_answer_of_an_earlier_server_can_be_asked_for_again(
    durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = durable.start()
    req_id = side.send("note", "value")
    first = side.reply()
    side.wait_idle()
    side = durable.start()

    def no_thread(*args: Any, **kwargs: Any) -> bool:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(side.server.dispatcher, "submit", no_thread)
        side.send("note", "value", req_id=req_id)
    assert not side.server.executions._deferred
    assert not side.messaging.sent
    side.send("note", "value", req_id=req_id)
    assert side.reply() == first
    assert side.service.calls == []


def test_a_transaction_commits_with_its_answer(durable: Durable) -> None:
    one, two = bytes(16), bytes([1] * 16)
    side = durable.start()
    bank_call(side, one, "pay", 10)
    assert side.reply()["return"] == 10
    side.wait_idle()
    side = durable.start()
    bank_call(side, one, "pay", 10)
    assert side.reply()["return"] == 10
    bank_call(side, two, "pay", 5)
    assert side.reply(2)["return"] == 15
    assert durable.bank.runs == 2


def test_a_transaction_that_fails_leaves_nothing(durable: Durable) -> None:
    side = durable.start()
    bank_call(side, bytes(16), "pay", 10)
    side.reply()
    bank_call(side, bytes([1] * 16), "pay", -3)
    assert repr(side.reply(2)["exception"]) == "ValueError('no overdraft')"
    bank_call(side, bytes([2] * 16), "pay", 1)
    assert side.reply(3)["return"] == 11


def test_a_transaction_needs_a_storage(side: Side) -> None:
    side.server.register_object(Bank(), "bank")
    bank_call(side, bytes(16), "pay", 1)
    assert "durable=True" in str(side.reply()["exception"])


def test_an_interrupted_call_is_run_at_most_once_if_it_says_so(durable: Durable) -> None:
    side = durable.start()
    side.server.executions.store_begin(
        side.server.executions.receive("alice", bytes(16), "c1")[0]
    )  # and it was killed then
    side = durable.start()
    bank_call(side, bytes(16), "print_cheque")
    assert side.reply()["code"] == "interrupted"
    side = durable.start()
    bank_call(side, bytes(16), "print_cheque")
    assert side.reply()["code"] == "interrupted"
    assert durable.bank.runs == 0
    bank_call(side, bytes([1] * 16), "print_cheque")
    assert side.reply(2)["return"] == "printed"


def test_unknown_methods_are_still_unknown(durable: Durable) -> None:
    side = durable.start()
    bank_call(side, bytes(16), "rob")
    assert type(side.reply()["exception"]) is NoMethodError
