"""Remote calls that end in one of two functions."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from snakemq._core.rpc_records import error_record, value_record
from snakemq.rpc import ClientClosed, NotConnected, PartialCall, Unserializable
from tests.layers.rpc_fakes import InThread, Side


class Ends:
    """The two functions: which was called with what, and whether in the loop."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self.calls: list[tuple[str, Any, bool]] = []

    def success(self, value: Any) -> None:
        self.calls.append(("success", value, self._side.messaging.is_inside_loop()))

    def error(self, exc: BaseException) -> None:
        self.calls.append(("error", exc, self._side.messaging.is_inside_loop()))


@pytest.fixture
def side() -> Iterator[Side]:
    side = Side()
    yield side
    side.client.close()


@pytest.fixture
def ends(side: Side) -> Ends:
    return Ends(side)


def test_success(side: Side, ends: Ends) -> None:
    side.connect()
    handle = side.proxy.read.callback(ends.success, ends.error)("kitchen", unit="C")
    (record,) = side.requests(1)
    assert (record["args"], record["kwargs"]) == (("kitchen",), {"unit": "C"})
    assert record["req_id"] == handle.req_id
    assert not ends.calls
    side.reply(value_record(handle.req_id, 21.5))
    side.reply(value_record(handle.req_id, "once more"))
    assert ends.calls == [("success", 21.5, True)]
    assert handle.done()


def test_error(side: Side, ends: Ends) -> None:
    side.connect()
    handle = side.proxy.read.callback(ends.success, ends.error)()
    side.reply(error_record(handle.req_id, KeyError("kitchen"), "remote text"))
    ((which, exc, inside),) = ends.calls
    assert (which, type(exc), inside) == ("error", KeyError, True)
    assert exc.__remote_traceback__ == "remote text"


def test_timeout(side: Side, ends: Ends) -> None:
    side.connect()
    side.proxy.read.with_options(timeout=5).callback(ends.success, ends.error)()
    side.messaging.advance(4.9)
    assert not ends.calls
    side.messaging.advance(0.2)
    ((which, exc, inside),) = ends.calls
    assert (which, type(exc), inside) == ("error", PartialCall, True)


def test_cancel(side: Side, ends: Ends) -> None:
    side.connect()
    handle = side.proxy.read.callback(ends.success, ends.error)()
    assert InThread(handle.cancel).result()
    assert not ends.calls  # not in that thread
    side.messaging.run_soon()
    ((which, exc, inside),) = ends.calls
    assert (which, type(exc), inside) == ("error", CancelledError, True)


def test_what_fails_at_once_is_told_later(side: Side, ends: Ends) -> None:
    """Also if the call is made in the loop: who makes it has the handle first."""
    method = side.proxy.read.with_options(wait_for_peer=False)
    side.messaging.in_loop(method.callback(ends.success, ends.error))
    assert not ends.calls
    side.messaging.run_soon()
    ((which, exc, inside),) = ends.calls
    assert (which, type(exc), inside) == ("error", NotConnected, True)


def test_closing_the_client_tells_in_the_thread_that_closes(side: Side, ends: Ends) -> None:
    side.connect()
    side.proxy.read.callback(ends.success, ends.error)()
    side.client.close()
    ((which, exc, inside),) = ends.calls
    assert (which, type(exc), inside) == ("error", ClientClosed, False)


def test_arguments_that_can_not_be_written_call_nothing(side: Side, ends: Ends) -> None:
    side.connect()
    with pytest.raises(Unserializable, match="pickle"):
        side.proxy.read.callback(ends.success, ends.error)(threading.Lock())
    side.messaging.run_soon()
    assert not ends.calls


def test_without_an_error_function_a_failure_is_logged(
    side: Side, ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    side.connect()
    handle = side.proxy.read.callback(ends.success)()
    side.reply(error_record(handle.req_id, KeyError("kitchen"), ""))
    assert not ends.calls
    (logged,) = caplog.records
    assert logged.levelno == logging.ERROR
    assert logged.getMessage() == f"read of {side.proxy!r} failed: KeyError('kitchen')"


def test_to_be_cancelled_is_no_failure(
    side: Side, ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    handle = side.proxy.read.callback(ends.success)()
    with caplog.at_level(logging.DEBUG, "snakemq.rpc.client"):
        handle.cancel()
        side.messaging.run_soon()
    assert not ends.calls
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


def test_without_a_success_function_nothing_is_to_be_done(side: Side, ends: Ends) -> None:
    side.connect()
    handle = side.proxy.read.callback(None, ends.error)()
    side.reply(value_record(handle.req_id, 1))
    side.messaging.run_soon()
    assert not ends.calls
    assert handle.result() == 1


@pytest.mark.parametrize("fails", [True, False])
def test_what_a_callback_raises_breaks_nothing(side: Side, fails: bool) -> None:
    side.connect()
    calls: list[Any] = []

    def broken(what: Any) -> None:
        calls.append(what)
        raise LookupError("in the callback")

    handle = side.proxy.read.callback(broken, broken)()
    other = side.proxy.read.future()
    record = error_record(handle.req_id, KeyError(), "")
    side.reply(record if fails else value_record(handle.req_id, 1))
    assert len(calls) == 1
    (failure,) = side.messaging.failures
    assert isinstance(failure, LookupError)
    side.reply(value_record(other.req_id, 2))
    assert other.result() == 2


def test_a_callback_may_make_the_next_call(side: Side) -> None:
    side.connect()
    results: list[Any] = []

    def following(value: Any) -> None:
        results.append(value)
        side.proxy.read.callback(results.append)(value)

    side.proxy.read.callback(following)(1)
    side.reply(value_record(side.requests(1)[0]["req_id"], 2))
    second = side.requests(2)[1]
    assert second["args"] == (2,)
    side.reply(value_record(second["req_id"], 3))
    assert results == [2, 3]
