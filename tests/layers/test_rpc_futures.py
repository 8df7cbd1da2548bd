"""Calls that nobody waits for in a thread: futures of remote calls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from snakemq._core.rpc_records import Code, Reply, error_record, value_record
from snakemq.exceptions import QueueFull
from snakemq.rpc import (
    CallError,
    ClientClosed,
    NoMethodError,
    NotConnected,
    PartialCall,
    Unserializable,
    WouldDeadlock,
    future,
)
from tests.helpers import DEADLINE, wait_until
from tests.layers.rpc_fakes import InThread, Side


@pytest.fixture
def side() -> Iterator[Side]:
    side = Side()
    yield side
    side.client.close()


def test_a_future_has_the_result(side: Side) -> None:
    side.connect()
    call = side.proxy.read.future("kitchen", unit="C")
    assert isinstance(call, Future)
    (record,) = side.requests(1)
    assert (record["args"], record["kwargs"]) == (("kitchen",), {"unit": "C"})
    assert record["req_id"] == call.req_id
    assert not call.done()
    side.reply(value_record(call.req_id, 21.5))
    assert call.done()
    assert call.result() == 21.5
    assert call.exception() is None
    side.disconnect()
    assert side.is_clean()


def test_a_future_has_the_exception_with_its_remote_traceback(side: Side) -> None:
    side.connect()
    call = side.proxy.read.future()
    side.reply(error_record(call.req_id, KeyError("kitchen"), "remote text"))
    with pytest.raises(KeyError, match="kitchen") as info:
        call.result(DEADLINE)
    assert info.value.__remote_traceback__ == "remote text"  # type: ignore[attr-defined]
    assert call.exception() is info.value


def test_a_code_says_what_failed(side: Side) -> None:
    side.connect()
    call = side.proxy.read.future()
    side.reply(error_record(call.req_id, ValueError("read"), "", code=Code.NO_METHOD))
    with pytest.raises(NoMethodError, match="read"):
        call.result()


def test_an_exception_that_is_raised_again_and_again_does_not_grow(side: Side) -> None:
    side.connect()
    call = side.proxy.read.future()
    side.reply(error_record(call.req_id, KeyError(), ""))
    lengths = set()
    for _ in range(5):
        with pytest.raises(KeyError) as info:
            call.result()
        lengths.add(len(traceback.extract_tb(info.value.__traceback__)))
    assert len(lengths) == 1


def test_waiting_threads_are_woken(side: Side) -> None:
    side.connect()
    call = side.proxy.read.future()
    waiting = InThread(call.result, DEADLINE)
    side.reply(value_record(call.req_id, 1))
    assert waiting.result() == 1


def test_the_timeout_of_result_is_not_that_of_the_call(side: Side) -> None:
    side.connect()
    call = side.proxy.read.future()
    with pytest.raises(concurrent.futures.TimeoutError):
        call.result(0.01)
    assert side.waits(1)
    side.reply(value_record(call.req_id, 1))
    assert call.result() == 1


def test_a_future_waits_for_the_peer_and_is_repeated(side: Side) -> None:
    call = side.proxy.read.future()
    assert side.waits(1)
    side.connect()
    side.disconnect()
    side.connect(conn_id="2")
    first, second = side.requests(2)
    assert first == second
    side.reply(value_record(call.req_id, "answer"))
    assert call.result() == "answer"


def test_done_callbacks(side: Side) -> None:
    side.connect()
    call = side.proxy.read.future()
    done: list[tuple[Any, bool]] = []
    call.add_done_callback(lambda f: done.append((f, side.messaging.is_inside_loop())))
    side.reply(value_record(call.req_id, 1))
    assert done == [(call, True)]


def test_what_the_standard_library_does_with_futures(side: Side) -> None:
    side.connect()
    calls = [side.proxy.square.future(number) for number in range(4)]
    calls[3].cancel()
    for call in calls[:2]:
        side.reply(value_record(call.req_id, "value"))
    done, waiting = concurrent.futures.wait(
        calls, DEADLINE, return_when=concurrent.futures.FIRST_COMPLETED
    )
    assert (done, waiting) == ({calls[0], calls[1], calls[3]}, {calls[2]})
    side.reply(value_record(calls[2].req_id, "value"))
    assert set(concurrent.futures.as_completed(calls, DEADLINE)) == set(calls)


def test_asyncio_can_wait_for_one(side: Side) -> None:
    side.connect()

    call = side.proxy.read.future()
    cancelled = side.proxy.read.future()

    async def ask() -> Any:
        threading.Thread(target=side.reply, args=(value_record(call.req_id, 5),)).start()
        result = await asyncio.wait_for(asyncio.wrap_future(call), DEADLINE)
        wrapped = asyncio.wrap_future(cancelled)
        wrapped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wrapped
        return result

    assert asyncio.run(ask()) == 5
    assert cancelled.cancelled()
    assert side.waits(0)


# Cancelling.


def test_cancelling_tells_the_peer(side: Side) -> None:
    side.connect()
    call = side.proxy.read.future()
    assert call.cancel()
    assert call.cancel()
    assert call.cancelled()
    assert side.records("cancel") == [{"command": "cancel", "req_id": call.req_id}]
    with pytest.raises(CancelledError):
        call.result()
    side.reply(value_record(call.req_id, "late"))
    assert side.client.late_replies == 1
    side.disconnect()
    assert side.is_clean()


def test_cancelling_what_was_not_sent_tells_nobody(side: Side) -> None:
    call = side.proxy.read.future()
    assert call.cancel()
    assert side.is_clean()
    side.connect()
    assert not side.messaging.sent


def test_a_call_that_has_ended_can_not_be_cancelled(side: Side) -> None:
    side.connect()
    call = side.proxy.read.future()
    side.reply(value_record(call.req_id, 1))
    assert not call.cancel()
    assert not call.cancelled()
    assert call.result() == 1
    assert not side.records("cancel")


def test_cancelling_wakes_those_who_wait(side: Side) -> None:
    side.connect()
    call = side.proxy.read.future()
    waiting = InThread(call.result, DEADLINE)
    call.cancel()
    assert isinstance(waiting.error(), CancelledError)


def test_a_reply_and_a_cancel_at_the_same_time_end_it_once(side: Side) -> None:
    side.connect()
    for _ in range(200):
        call = side.proxy.read.future()
        ended: list[object] = []
        call.add_done_callback(ended.append)
        barrier = threading.Barrier(2)

        def cancel(call: Any = call, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait(DEADLINE)
            return bool(call.cancel())

        canceller = InThread(cancel)
        barrier.wait(DEADLINE)
        side.reply(value_record(call.req_id, 1))
        assert canceller.result() is call.cancelled()
        assert call.cancelled() or call.result(DEADLINE) == 1
        assert ended == [call]
    assert side.waits(0)


def test_a_reply_between_the_look_and_the_grip(side: Side) -> None:
    """The loop takes out what has ended without asking anybody."""

    class Taken(dict[bytes, Any]):
        def get(self, key: bytes, default: Any = None) -> Any:
            found = super().get(key, default)
            side.client._take("bob", value_reply(key), 0)
            return found

    def value_reply(req_id: bytes) -> Reply:
        return Reply(req_id, True, "just in time")

    side.connect()
    call = side.proxy.read.future()
    remote = side.client._outstanding.remotes["bob"]
    remote.pending = Taken(remote.pending)
    assert not call.cancel()
    assert call.result(0) == "just in time"


# The thread of the loop.


def test_futures_are_made_in_callbacks_and_not_waited_for(side: Side) -> None:
    side.connect()
    side.messaging.inside_loop = True
    call = side.proxy.read.future()
    for wait in (call.result, call.exception, lambda: call.result(1)):
        with pytest.raises(WouldDeadlock, match="waited for in a callback"):
            wait()
    with pytest.raises(concurrent.futures.TimeoutError):
        call.result(0)
    side.reply(value_record(call.req_id, 1))
    assert call.result() == 1


# What goes wrong.


def test_arguments_that_can_not_be_written_are_raised_at_once(side: Side) -> None:
    side.connect()
    with pytest.raises(Unserializable, match="pickle") as info:
        side.proxy.read.future({"lock": threading.Lock()})
    assert info.value.path == "args[0]['lock']"
    assert "the call of obj.read can't be sent" in str(info.value)
    assert side.waits(0)
    assert not side.messaging.sent


def test_what_can_not_be_sent_is_in_the_future(side: Side) -> None:
    side.connect()
    side.messaging.failure = QueueFull("no room")
    call = side.proxy.read.with_options(timeout=5).future()
    assert isinstance(call.exception(0), QueueFull)
    assert side.waits(0)
    side.disconnect()
    side.messaging.run_soon()
    assert side.is_clean()


def test_what_can_not_be_repeated_is_in_the_future(
    side: Side, caplog: pytest.LogCaptureFixture
) -> None:
    call = side.proxy.read.future()
    side.messaging.failure = QueueFull("no room")
    side.connect()
    assert isinstance(call.exception(0), QueueFull)
    assert "can't repeat" in caplog.text


def test_a_large_request_that_the_other_side_does_not_take(side: Side) -> None:
    side.connect()
    call = side.proxy.read.future()
    side.client._sender._failed("bob", call.req_id, CallError("too large"))
    assert isinstance(call.exception(0), CallError)
    assert side.waits(0)


def test_a_peer_that_can_not_be_told_of_the_end(side: Side) -> None:
    side.connect()
    cancelled, closed = side.proxy.read.future(), side.proxy.read.future()
    side.messaging.failure = QueueFull("no room")
    assert cancelled.cancel()
    side.client.close()
    assert isinstance(closed.exception(0), ClientClosed)
    assert not side.records("cancel")


def test_closing_the_client_ends_futures_and_tells_the_peers(side: Side) -> None:
    side.connect()
    sent = side.proxy.read.future()
    not_sent = side.client.get_proxy("nobody", "x").read.with_options(timeout=5).future()
    side.client.close()
    for call in (sent, not_sent, side.proxy.read.future()):
        assert isinstance(call.exception(0), ClientClosed)
    assert [record["req_id"] for record in side.records("cancel")] == [sent.req_id]
    side.messaging.run_soon()
    assert not side.messaging.timers


def test_a_future_keeps_no_argument_and_the_client_no_future(side: Side) -> None:
    side.connect()
    call = side.proxy.read.future(b"x" * 1000)
    side.reply(value_record(call.req_id, 1))
    assert call._call.payload == b""
    assert call._call.future is None


def test_the_typed_way(side: Side) -> None:
    side.connect()
    call = future(side.proxy.read, "kitchen")
    (record,) = side.requests(1)
    side.reply(value_record(record["req_id"], 1))
    assert call.result() == 1
    with pytest.raises(TypeError, match="a method of a proxy"):
        future(len, "kitchen")


# Whether to wait for the peer.


def test_who_does_not_wait_is_told_at_once(side: Side) -> None:
    impatient = side.proxy.read.with_options(wait_for_peer=False)
    with pytest.raises(NotConnected) as info:
        impatient()
    assert not info.value.request_sent
    assert isinstance(impatient.future().exception(0), NotConnected)
    assert side.is_clean()


def test_who_does_not_wait_is_told_when_the_connection_is_lost(side: Side) -> None:
    side.connect()
    impatient = side.proxy.read.with_options(wait_for_peer=False)
    call = impatient.future()
    blocking = InThread(impatient)
    side.requests(2)
    patient = side.proxy.read.future()
    side.disconnect()
    error = call.exception(0)
    assert isinstance(error, NotConnected)
    assert error.request_sent
    assert isinstance(blocking.error(), NotConnected)
    assert not patient.done()
    side.connect(conn_id="2")
    side.reply(value_record(patient.req_id, 1))
    assert patient.result() == 1


def test_who_does_not_wait_may_be_faster_than_the_news_of_the_connection(side: Side) -> None:
    side.messaging.connected_peers().append("bob")
    call = side.proxy.read.with_options(wait_for_peer=False).future()
    assert not call.done()
    side.messaging.run_soon()
    side.requests(1)
    side.reply(value_record(call.req_id, 1))
    assert call.result() == 1


# Many.


def test_10000_outstanding_futures_are_answered_in_any_order(side: Side) -> None:
    side.connect()
    start = time.perf_counter()
    method = side.proxy.square.with_options(timeout=60)
    calls = [method.future(number) for number in range(10_000)]
    assert side.waits(10_000)
    assert side.client.pending_calls("bob") == 10_000
    assert side.client.pending_calls("carol") == 0
    side.messaging.run_soon()
    assert len(side.messaging.timers) == 1
    numbers = list(range(10_000))
    random.Random(5).shuffle(numbers)
    for number in numbers:
        side.reply(value_record(calls[number].req_id, number**2))
    assert [call.result() for call in calls] == [number**2 for number in range(10_000)]
    side.disconnect()
    assert side.is_clean()
    # Far from what it would be if anything were in proportion to their number.
    assert time.perf_counter() - start < DEADLINE


def test_threads_make_and_cancel_futures_together(side: Side) -> None:
    side.connect()

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for number in range(200):
            call = side.proxy.read.with_options(timeout=60).future(number)
            if chance.random() < 0.5:
                assert call.cancel()
            else:
                side.client._not_sent("bob", call.req_id, PartialCall("made up"))
                assert isinstance(call.exception(0), PartialCall)

    threads = [InThread(work, seed) for seed in range(8)]
    for thread in threads:
        thread.result()
    wait_until(lambda: side.waits(0))
    side.messaging.run_soon()
    side.disconnect()
    assert side.is_clean()
