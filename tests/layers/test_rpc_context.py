"""The call that is being served: who finds it where, and what it tells."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from dataclasses import dataclass
from typing import Any, cast

import pytest

from snakemq.exceptions import StorageError
from snakemq.rpc.context import CallTransaction, CurrentCall, activate, current_call, deactivate
from snakemq.rpc.hooks import CallInfo
from tests.helpers import DEADLINE
from tests.layers.rpc_fakes import InThread

REQ_ID = bytes(range(16))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_call(
    *,
    deadline: float | None = None,
    clock: Clock | None = None,
    req_id: bytes | None = REQ_ID,
    certificates: dict[str, dict[str, Any]] | None = None,
) -> CurrentCall:
    known: dict[str, dict[str, Any]] = {} if certificates is None else certificates
    return CurrentCall(
        "bob",
        "conn 5",
        "calc",
        "add",
        (1, 2),
        {"key": 3},
        req_id,
        {"trace": "x"},
        clock=clock or Clock(),
        certificate_of=known.get,
        deadline=deadline,
    )


@dataclass
class Served:
    call: CurrentCall


# Finding it.


def test_outside_of_a_call_there_is_none() -> None:
    with pytest.raises(RuntimeError, match=r"no call is being served here: ask for current_call"):
        current_call()
    assert current_call(None) is None
    assert current_call("nothing") == "nothing"


def test_inside_of_a_call_and_one_within_another() -> None:
    outer, inner = make_call(), make_call()
    token = activate(Served(outer))
    assert current_call() is outer
    assert current_call(None) is outer
    second = activate(Served(inner))
    assert current_call() is inner
    deactivate(second)
    assert current_call() is outer
    deactivate(token)
    assert current_call(None) is None


def test_each_thread_has_its_own() -> None:
    call = make_call()
    token = activate(Served(call))
    try:
        assert InThread(current_call, None).result() is None
        context = contextvars.copy_context()
        assert InThread(context.run, current_call).result() is call
    finally:
        deactivate(token)


def test_each_asyncio_task_has_that_of_who_started_it() -> None:
    calls = [make_call() for _ in range(3)]
    ready = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    stop: list[asyncio.Event] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        stop.append(asyncio.Event())
        ready.set()
        await stop[0].wait()

    async def method() -> list[CurrentCall]:
        async def helper() -> CurrentCall:
            await asyncio.sleep(0)
            return current_call()

        return [current_call(), await helper(), await asyncio.create_task(helper())]

    thread = InThread(asyncio.run, main())
    assert ready.wait(DEADLINE)
    futures = []
    for call in calls:
        token = activate(Served(call))
        futures.append(asyncio.run_coroutine_threadsafe(method(), loops[0]))
        deactivate(token)
    for call, future in zip(calls, futures, strict=True):
        assert future.result(DEADLINE) == [call] * 3
    loops[0].call_soon_threadsafe(stop[0].set)
    thread.join()


# What it tells.


def test_what_hooks_see() -> None:
    call = make_call()
    assert isinstance(call, CallInfo)
    assert (call.ident, call.conn_id, call.name) == ("bob", "conn 5", "calc.add")
    assert (call.object, call.method, call.args, call.kwargs) == ("calc", "add", (1, 2), {"key": 3})
    assert (call.req_id, call.headers) == (REQ_ID, {"trace": "x"})


def test_the_certificate_is_asked_for_when_it_is_wanted() -> None:
    certificates: dict[str, dict[str, Any]] = {}
    call = make_call(certificates=certificates)
    assert call.certificate is None
    certificates["conn 5"] = {"subject": ()}
    assert call.certificate == {"subject": ()}


def test_a_call_without_a_deadline() -> None:
    call = make_call()
    assert call.deadline is None
    assert call.remaining() is None
    assert not call.cancelled


@pytest.mark.parametrize("deadline", [None, 101.5])
def test_nobody_waits_for_one_that_was_cancelled(deadline: float | None) -> None:
    """The caller's clock may be a little ahead of the one here."""
    call = make_call(deadline=deadline)
    call.cancel()
    assert call.remaining() == 0.0


def test_a_deadline() -> None:
    clock = Clock()
    call = make_call(deadline=101.5, clock=clock)
    assert call.remaining() == 1.5
    assert not call.cancelled
    clock.now = 101.5
    assert call.remaining() == 0.0
    assert call.cancelled
    clock.now = 200.0
    assert call.remaining() == 0.0


def test_the_transaction() -> None:
    call = make_call()
    with pytest.raises(StorageError, match=r"calc\.add does not run in a transaction: mark it"):
        _ = call.transaction
    transaction = cast("CallTransaction", object())
    call.set_transaction(transaction)
    assert call.transaction is transaction
    call.set_transaction(None)
    with pytest.raises(StorageError):
        _ = call.transaction


def test_repr() -> None:
    call = make_call()
    assert repr(call) == f"<CurrentCall calc.add ident='bob' call {REQ_ID.hex()}>"
    call.cancel()
    assert repr(call).endswith(" cancelled>")
    assert repr(make_call(req_id=None)) == "<CurrentCall calc.add ident='bob' signal>"


# Cancelling.


def test_cancelling() -> None:
    call = make_call()
    call.cancel()
    call.cancel()
    assert call.cancelled
    assert call.wait_cancelled()
    assert call.wait_cancelled(0)


def test_waiting_in_vain() -> None:
    call = make_call()
    assert not call.wait_cancelled(0)
    assert not call.wait_cancelled(-1)


def test_waiting_does_not_end_before_the_clock_of_the_link_says_so() -> None:
    times = iter([100.0, 100.0, 100.001, 100.002])
    call = CurrentCall(
        "bob", "", "", "f", (), {}, None, {},
        clock=lambda: next(times), certificate_of=lambda conn_id: None,
    )  # fmt: skip
    assert not call.wait_cancelled(0.002)
    assert next(times, None) is None


@pytest.mark.parametrize("timeout", [None, DEADLINE])
def test_somebody_waits_for_it(timeout: float | None) -> None:
    call = make_call()
    waiters = [InThread(call.wait_cancelled, timeout) for _ in range(3)]
    call.cancel()
    assert [waiter.result() for waiter in waiters] == [True] * 3


@pytest.mark.parametrize("timeout", [None, DEADLINE])
def test_waiting_ends_at_the_deadline(timeout: float | None) -> None:
    times = iter([100.0] * (timeout is not None) + [100.0, 100.001, 100.001])
    call = CurrentCall(
        "bob", "", "", "f", (), {}, None, {},
        clock=lambda: next(times), certificate_of=lambda conn_id: None, deadline=100.001,
    )  # fmt: skip
    assert call.wait_cancelled(timeout)


def test_callbacks_are_called_once() -> None:
    call = make_call()
    told: list[int] = []
    call.on_cancel(lambda: told.append(1))
    call.on_cancel(lambda: told.append(2))
    assert told == []
    call.cancel()
    call.cancel()
    assert told == [1, 2]
    call.on_cancel(lambda: told.append(3))
    assert told == [1, 2, 3]


def test_a_callback_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    call = make_call()
    told: list[int] = []
    call.on_cancel(lambda: 1 / 0)
    call.on_cancel(lambda: told.append(1))
    with caplog.at_level(logging.ERROR):
        call.cancel()
    assert told == [1]
    assert "calc.add" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_callbacks_and_cancelling_at_the_same_time() -> None:
    for _ in range(50):
        call = make_call()
        told: list[int] = []
        start = threading.Barrier(3)

        def register(call: CurrentCall, told: list[int], start: threading.Barrier) -> None:
            start.wait(DEADLINE)
            for number in range(20):
                call.on_cancel(lambda number=number: told.append(number))  # type: ignore[misc]

        def cancel(call: CurrentCall, start: threading.Barrier) -> None:
            start.wait(DEADLINE)
            call.cancel()

        threads = [
            InThread(register, call, told, start),
            InThread(cancel, call, start),
            InThread(cancel, call, start),
        ]
        for thread in threads:
            thread.result()
        assert sorted(told) == list(range(20))
