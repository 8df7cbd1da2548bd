"""Hooks around every call at the client, and asking what is served."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from snakemq._core.rpc_records import error_record, items_record, value_record
from snakemq.exceptions import QueueFull
from snakemq.rpc import (
    CallHook,
    CallInfo,
    ClientClosed,
    NotConnected,
    PartialCall,
    Refused,
    Unserializable,
    WouldDeadlock,
)
from tests.layers.rpc_fakes import InThread, Side, request


class Journal(CallHook):
    """Writes down what happens, in the order in which it does."""

    def __init__(self, name: str = "", events: list[Any] | None = None) -> None:
        self.name = name
        self.events: list[Any] = events if events is not None else []
        self.refusal: Exception | None = None
        self.calls: list[CallInfo] = []
        self.errors: list[BaseException | None] = []
        self.threads: list[threading.Thread] = []

    def before(self, call: CallInfo) -> None:
        self.events.append(f"before {self.name}")
        self.threads.append(threading.current_thread())
        if self.refusal is not None:
            raise self.refusal
        self.calls.append(call)

    def after(self, call: CallInfo, error: BaseException | None) -> None:
        assert call in self.calls
        self.events.append(f"after {self.name}")
        self.errors.append(error)

    def ended_with(self, cls: type[BaseException]) -> bool:
        """Exactly one call ended, with such an error."""
        return [type(error) for error in self.errors] == [cls]


@pytest.fixture
def side() -> Iterator[Side]:
    side = Side()
    yield side
    side.client.close()


@pytest.fixture
def journal(side: Side) -> Journal:
    journal = Journal()
    side.client.add_hook(journal)
    return journal


def test_a_hook_sees_the_call(side: Side, journal: Journal) -> None:
    side.connect()
    call = InThread(side.proxy.read, "kitchen", unit="C")
    (record,) = side.requests(1)
    side.reply(value_record(record["req_id"], 1))
    assert call.result() == 1
    (info,) = journal.calls
    assert (info.ident, info.object, info.method) == ("bob", "obj", "read")
    assert (info.args, info.kwargs) == (("kitchen",), {"unit": "C"})
    assert info.req_id == record["req_id"]
    assert info.name == "obj.read"
    assert journal.threads == [call._thread]
    assert journal.errors == [None]


def test_a_hook_may_add_headers(side: Side, journal: Journal) -> None:
    class Tracer(CallHook):
        def before(self, call: CallInfo) -> None:
            call.headers["trace"] = "5"

    side.connect()
    side.proxy.read.future()
    tracer = Tracer()
    side.client.add_hook(tracer)
    side.proxy.read.future()
    side.proxy.note.signal()("x")
    side.client.remove_hook(tracer)
    side.proxy.read.future()
    headers = [request(sent).get("headers") for sent in side.messaging.sent]
    assert headers == [None, {"trace": "5"}, {"trace": "5"}, None]


def test_hooks_are_called_in_order_and_back(side: Side) -> None:
    events: list[str] = []
    hooks = [Journal(name, events) for name in "abc"]
    for hook in hooks:
        side.client.add_hook(hook)
    assert side.client.hooks == hooks
    side.proxy.note.signal()()
    assert events == ["before a", "before b", "before c", "after c", "after b", "after a"]


def test_a_hook_that_refuses(side: Side) -> None:
    """Nothing is sent, and those before it learn of it."""
    events: list[str] = []
    hooks = [Journal(name, events) for name in "abc"]
    for hook in hooks:
        side.client.add_hook(hook)
    hooks[1].refusal = Refused("not you")
    side.connect()
    for call in (side.proxy.read, side.proxy.read.future, side.proxy.note.signal()):
        with pytest.raises(Refused, match="not you"):
            call()
        assert events == ["before a", "before b", "after a"]
        assert hooks[0].errors[-1] is hooks[1].refusal
        events.clear()
    assert not side.messaging.sent
    assert side.waits(0)


def test_what_after_raises_is_logged(
    side: Side, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(CallHook):
        def after(self, call: CallInfo, error: BaseException | None) -> None:
            raise LookupError("in after")

    side.client.add_hook(Broken())
    side.connect()
    call = side.proxy.read.future()
    side.reply(value_record(call.req_id, 1))
    assert call.result() == 1
    assert journal.errors == [None]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert "after obj.read" in record.getMessage()


def test_a_hook_that_is_removed_is_told_of_the_calls_that_it_knows(
    side: Side, journal: Journal
) -> None:
    side.connect()
    call = side.proxy.read.future()
    side.client.remove_hook(journal)
    side.proxy.read.future()
    assert len(journal.calls) == 1
    side.reply(value_record(call.req_id, 1))
    assert journal.errors == [None]
    with pytest.raises(ValueError, match="not in list"):
        side.client.remove_hook(journal)


# However it ends, it ends once.


def test_an_exception(side: Side, journal: Journal) -> None:
    side.connect()
    blocking = InThread(side.proxy.read)
    side.reply(error_record(side.requests(1)[0]["req_id"], KeyError(), ""))
    assert type(blocking.error()) is KeyError
    assert journal.ended_with(KeyError)
    call = side.proxy.read.future()
    side.reply(error_record(call.req_id, LookupError(), ""))
    side.reply(error_record(call.req_id, LookupError(), ""))
    assert [type(error) for error in journal.errors] == [KeyError, LookupError]
    assert journal.errors[1] is call.exception()


def test_an_exception_for_the_handler(side: Side, journal: Journal) -> None:
    side.connect()
    handled: list[Exception] = []
    side.client.exception_handler = handled.append
    blocking = InThread(side.proxy.read)
    side.reply(error_record(side.requests(1)[0]["req_id"], KeyError(), ""))
    assert blocking.result() is None
    assert journal.errors == handled
    assert journal.ended_with(KeyError)


def test_a_timeout(side: Side, journal: Journal) -> None:
    side.connect()
    method = side.proxy.read.with_options(timeout=0)
    with pytest.raises(PartialCall):
        method()
    assert journal.ended_with(PartialCall)
    journal.errors.clear()
    method.future()
    side.messaging.advance(0)
    assert journal.ended_with(PartialCall)


def test_a_cancel(side: Side, journal: Journal) -> None:
    call = side.proxy.read.future()
    call.cancel()
    call.cancel()
    assert journal.ended_with(CancelledError)


def test_a_closed_client(side: Side, journal: Journal) -> None:
    side.connect()
    call = side.proxy.read.future()
    side.client.close()
    assert isinstance(call.exception(), ClientClosed)
    assert journal.ended_with(ClientClosed)
    with pytest.raises(ClientClosed):
        side.proxy.read()
    side.proxy.read.future()
    assert [type(error) for error in journal.errors] == [ClientClosed] * 3


def test_what_can_not_be_begun(side: Side, journal: Journal) -> None:
    method = side.proxy.read.with_options(wait_for_peer=False)
    with pytest.raises(NotConnected):
        method()
    method.future()
    assert [type(error) for error in journal.errors] == [NotConnected] * 2
    journal.errors.clear()
    for call in (side.proxy.read, side.proxy.read.future, side.proxy.note.signal()):
        with pytest.raises(Unserializable):
            call(threading.Lock())
        assert journal.ended_with(Unserializable)
        journal.errors.clear()
    side.messaging.failure = QueueFull("no room")
    with pytest.raises(QueueFull):
        side.proxy.note.signal()()
    assert journal.ended_with(QueueFull)


def test_a_signal(side: Side, journal: Journal) -> None:
    side.proxy.note.signal()(1)
    assert journal.errors == [None]
    (info,) = journal.calls
    assert info.req_id is None


@pytest.mark.parametrize("blocking", [True, False])
def test_a_stream_ends_with_its_last_item(side: Side, journal: Journal, blocking: bool) -> None:
    side.connect()
    call = InThread(side.proxy.read) if blocking else side.proxy.read.future()
    req_id = side.requests(1)[0]["req_id"]
    side.reply(items_record(req_id, 0, [1]))
    stream = call.result()
    assert next(stream) == 1
    assert journal.errors == []
    side.reply(items_record(req_id, 1, [2], end=True))
    assert journal.errors == [None]
    assert list(stream) == [2]
    stream.close()
    assert journal.errors == [None]


def test_a_stream_that_fails_or_is_closed(side: Side, journal: Journal) -> None:
    side.connect()
    streams = []
    for _ in range(3):
        call = side.proxy.read.future()
        side.reply(items_record(call.req_id, 0, []))
        streams.append(call.result(0))
    streams[0].close()
    assert journal.errors == [None]
    side.reply(error_record(streams[1].req_id, KeyError(), "", position=0))
    assert [type(error) for error in journal.errors[1:]] == [KeyError]
    side.client.close()
    assert [type(error) for error in journal.errors[2:]] == [ClientClosed]


def test_without_hooks_nothing_is_made_for_them(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise AssertionError("made for nobody")

    monkeypatch.setattr("snakemq.rpc.client.CallInfo", fail)
    side.connect()
    side.proxy.note.signal()()
    call = side.proxy.read.future()
    side.reply(value_record(call.req_id, 1))
    assert call.result() == 1


# Asking what is served.


def test_describe_asks_the_peer(side: Side) -> None:
    side.connect()
    asking = InThread(side.client.describe, "bob")
    side.messaging.wait_sent(1)
    (record,) = side.records("describe")
    assert set(record) == {"command", "req_id"}
    assert len(record["req_id"]) == 16
    side.reply(value_record(record["req_id"], [{"name": "obj.read"}]))
    assert asking.result() == [{"name": "obj.read"}]
    side.disconnect()
    assert side.is_clean()


def test_describe_has_the_options_of_the_client_unless_it_has_its_own() -> None:
    side = Side(timeout=0, wait_for_peer=False)
    with pytest.raises(NotConnected):
        side.client.describe("bob", 60)
    side.connect()
    with pytest.raises(PartialCall):
        side.client.describe("bob")
    with pytest.raises(PartialCall):
        side.client.describe("bob", 0.01, wait_for_peer=True)
    side.disconnect()
    assert side.is_clean()
    side.client.close()


def test_describe_in_a_callback(side: Side) -> None:
    side.messaging.inside_loop = True
    with pytest.raises(WouldDeadlock, match="describe of 'bob'"):
        side.client.describe("bob")
