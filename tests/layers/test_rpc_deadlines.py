"""Timeouts of remote calls: where they are set, what ends by them, and what is left."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from snakemq._core.rpc_records import value_record
from snakemq.rpc import NotConnected, PartialCall, RpcClient
from snakemq.rpc._deadlines import Deadlines
from snakemq.rpc.options import UNSET, CallOptions
from tests.layers.rpc_fakes import FakeMessaging, InThread, Side


@pytest.fixture
def side() -> Iterator[Side]:
    side = Side()
    yield side
    side.client.close()


# Which one holds.


def test_the_nearest_option_wins() -> None:
    side = Side(timeout=10, wait_for_peer=False)
    proxy = side.client.get_proxy("bob", "obj")
    assert (proxy.read.call_timeout, proxy.read._options.wait_for_peer) == (10, False)
    nearer = side.client.get_proxy("bob", "obj", timeout=5, wait_for_peer=True)
    assert (nearer.read.call_timeout, nearer.read._options.wait_for_peer) == (5, True)
    nearer.read.set_timeout(2)
    assert nearer.read.call_timeout == 2
    nearest = nearer.read.with_options(timeout=1)
    assert (nearest.call_timeout, nearer.read.call_timeout) == (1, 2)
    # For ever is an answer as well.
    assert nearer.read.with_options(timeout=None).call_timeout is None
    assert side.client.get_proxy("bob", "obj", timeout=None).read.call_timeout is None
    side.client.close()


def test_options_may_change_at_any_time(side: Side) -> None:
    method = side.proxy.read
    side.client.options.timeout = 3
    side.client.options.wait_for_peer = False
    assert (method.call_timeout, method._options.wait_for_peer) == (3, False)
    method.set_timeout(None)
    assert method.call_timeout is None
    method.call_timeout = 4
    assert method.call_timeout == 4


def test_with_options_makes_an_independent_method(side: Side) -> None:
    method = side.proxy.read
    method.set_timeout(7)
    method.as_signal(3)
    other = method.with_options(wait_for_peer=False)
    assert other is not method
    assert (other.call_timeout, other.signal_timeout) == (7, 3)
    other.set_timeout(1)
    assert (method.call_timeout, method._options.wait_for_peer) == (7, True)
    assert method.with_options().call_timeout == 7


def test_nested_names_have_the_options_of_the_proxy(side: Side) -> None:
    proxy = side.client.get_proxy("bob", "obj", timeout=5)
    assert proxy.a.b.method.call_timeout == 5


def test_options_without_anything_are_those_of_1_6() -> None:
    assert repr(CallOptions()) == "<CallOptions timeout=None wait_for_peer=True>"
    parent = CallOptions(5, False)
    assert repr(CallOptions(UNSET, UNSET, parent)) == "<CallOptions timeout=5 wait_for_peer=False>"


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_timeout_that_makes_no_sense(side: Side, timeout: float) -> None:
    text = "a timeout is None or at least 0 seconds"
    with pytest.raises(ValueError, match=text):
        side.proxy.read.with_options(timeout=timeout)
    with pytest.raises(ValueError, match=text):
        side.client.get_proxy("bob", "obj", timeout=timeout)
    with pytest.raises(ValueError, match=text):
        RpcClient(side.hook, timeout=timeout)  # type: ignore[arg-type]
    side.proxy.read.set_timeout(timeout)
    with pytest.raises(ValueError, match=text):
        side.proxy.read.future()
    assert side.waits(0)


# What the other side learns.


def test_the_request_says_how_long_somebody_waits(side: Side) -> None:
    side.connect()
    side.proxy.read.with_options(timeout=2.5).future()
    side.proxy.read.future()
    side.proxy.read.with_options(timeout=float("inf")).future()
    timeouts = [record.get("timeout", "none") for record in side.requests(3)]
    assert timeouts == [2.5, "none", "none"]


def test_a_call_whose_time_is_over_is_cancelled_there(side: Side) -> None:
    side.connect()
    call = side.proxy.read.with_options(timeout=2).future()
    with pytest.raises(PartialCall):
        side.proxy.read.with_options(timeout=0)()
    side.messaging.advance(2)
    assert isinstance(call.exception(0), PartialCall)
    blocking = side.requests(2)[1]["req_id"]
    assert [record["req_id"] for record in side.records("cancel")] == [blocking, call.req_id]


def test_a_call_that_was_not_sent_is_not_cancelled(side: Side) -> None:
    call = side.proxy.read.with_options(timeout=2).future()
    side.messaging.advance(2)
    error = call.exception(0)
    assert isinstance(error, NotConnected)
    assert not error.request_sent
    side.connect()
    assert not side.messaging.sent


def test_the_time_is_over_while_the_connection_is_lost(side: Side) -> None:
    side.connect()
    call = side.proxy.read.with_options(timeout=2).future()
    side.disconnect()
    side.messaging.advance(2)
    error = call.exception(0)
    assert isinstance(error, NotConnected)
    assert error.request_sent
    assert not side.records("cancel")
    assert side.is_clean()


def test_a_late_answer_is_dropped_and_counted(side: Side) -> None:
    side.connect()
    call = side.proxy.read.with_options(timeout=1).future()
    side.messaging.advance(1)
    for expected in (1, 2):
        side.reply(value_record(call.req_id, "late"))
        assert side.client.late_replies == expected
    assert isinstance(call.exception(0), PartialCall)
    side.disconnect()
    assert side.is_clean()


def test_the_deadline_is_for_the_whole_call_with_its_repetitions(side: Side) -> None:
    call = side.proxy.read.with_options(timeout=10).future()
    for connection in range(9):
        side.messaging.advance(1)
        side.connect(conn_id=str(connection))
        side.disconnect(conn_id=str(connection))
    assert not call.done()
    side.messaging.advance(1)
    assert call.done()


# One timer.


def test_an_idle_client_has_no_timer(side: Side) -> None:
    side.connect()
    assert not side.messaging.timers
    call = side.proxy.read.with_options(timeout=60).future()
    side.messaging.run_soon()
    assert len(side.messaging.timers) == 1
    side.reply(value_record(call.req_id, 1))
    assert not side.messaging.timers
    call = side.proxy.read.with_options(timeout=60).future()
    side.messaging.run_soon()
    InThread(call.cancel).result()
    side.messaging.run_soon()
    assert not side.messaging.timers


def test_blocking_calls_need_no_timer(side: Side) -> None:
    side.connect()
    call = InThread(side.proxy.read.with_options(timeout=60))
    (record,) = side.requests(1)
    side.messaging.run_soon()
    assert not side.messaging.timers
    side.reply(value_record(record["req_id"], 1))
    assert call.result() == 1


def test_the_loop_is_told_of_an_earlier_deadline_only(side: Side) -> None:
    side.connect()
    side.proxy.read.with_options(timeout=50).future()
    side.messaging.run_soon()
    before = side.messaging.soon_calls
    for timeout in range(51, 100):
        side.proxy.read.with_options(timeout=timeout).future()
    assert side.messaging.soon_calls == before
    side.proxy.read.with_options(timeout=49).future()
    assert side.messaging.soon_calls == before + 1


def test_each_ends_in_its_own_time(side: Side) -> None:
    side.connect()
    timeouts = list(range(1, 101))
    random.Random(3).shuffle(timeouts)
    calls = {
        timeout: side.proxy.read.with_options(timeout=timeout).future() for timeout in timeouts
    }
    for now in range(1, 101):
        side.messaging.advance(1)
        assert [timeout for timeout in calls if calls[timeout].done()] == [
            timeout for timeout in calls if timeout <= now
        ]
    assert side.waits(0)
    side.disconnect()
    assert side.is_clean()


class Expired:
    def __init__(self) -> None:
        self.messaging = FakeMessaging()
        self.items: list[Any] = []
        self.deadlines: Deadlines[Any] = Deadlines(
            self.messaging,  # type: ignore[arg-type]
            self.items.append,
        )


def test_a_heap_of_discarded_deadlines_is_swept() -> None:
    expired = Expired()
    kept = expired.deadlines.add(2000.0, "kept")
    for number in range(10_000):
        expired.deadlines.discard(expired.deadlines.add(3000.0 + number, number))
    assert len(expired.deadlines) == 1
    assert len(expired.deadlines._heap) < 200
    expired.messaging.advance(1000.0)
    assert expired.items == ["kept"]
    expired.deadlines.discard(kept)
    expired.deadlines.discard(kept)
    assert len(expired.deadlines) == 0


def test_equal_deadlines_end_in_their_order() -> None:
    expired = Expired()
    for number in range(100):
        expired.deadlines.add(1001.0, {"number": number})
    expired.messaging.advance(1)
    assert [item["number"] for item in expired.items] == list(range(100))


def test_one_that_interrupts_the_loop_leaves_the_others() -> None:
    messaging = FakeMessaging()
    items: list[int] = []

    def expire(item: int) -> None:
        items.append(item)
        if item == 0:
            raise KeyboardInterrupt

    deadlines: Deadlines[int] = Deadlines(messaging, expire)  # type: ignore[arg-type]
    for number in range(3):
        deadlines.add(1001.0, number)
    with pytest.raises(KeyboardInterrupt):
        messaging.advance(1)
    messaging.advance(0)
    assert items == [0, 1, 2]
    assert not messaging.timers
