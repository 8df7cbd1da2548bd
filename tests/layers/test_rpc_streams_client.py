"""The client's end of a stream, with a server that the test plays."""

from __future__ import annotations

import gc
import traceback
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from snakemq._core.rpc_records import Code, Reply, error_record, items_record, value_record
from snakemq.exceptions import QueueFull
from snakemq.rpc import (
    ClientClosed,
    NotConnected,
    PartialCall,
    RemoteError,
    RemoteStream,
    StreamGone,
    UnreadableReply,
    WouldDeadlock,
)
from tests.helpers import wait_until
from tests.layers.rpc_fakes import InThread, Side

#: How many items may be on their way in these tests.
WINDOW = 8


class Streaming(Side):
    def __init__(self) -> None:
        super().__init__()
        self.client.stream_window = WINDOW
        self.connect()
        self.req_id = b""

    def open(self, items: list[Any] | None = None, **options: Any) -> RemoteStream[Any]:
        """A stream of which the first part has come."""
        method = self.proxy.read.with_options(**options) if options else self.proxy.read
        call = method.future()
        self.req_id = call.req_id
        self.part(0, items or [])
        stream: RemoteStream[Any] = call.result(0)
        assert type(stream) is RemoteStream
        return stream

    def part(self, position: int, items: list[Any], *, end: bool = False) -> None:
        self.reply(items_record(self.req_id, position, items, end=end))

    def fail(self, position: int, exc: Exception) -> None:
        self.reply(error_record(self.req_id, exc, "remote text", position=position))

    def asked(self) -> list[tuple[int, int]]:
        """Position and window of what was asked for."""
        assert all(record["req_id"] == self.req_id for record in self.records("more"))
        return [(record["position"], record["window"]) for record in self.records("more")]

    def cancelled(self) -> bool:
        return self.records("cancel") == [{"command": "cancel", "req_id": self.req_id}]

    def ended(self, conn_id: str = "1") -> bool:
        """Nothing is left of it."""
        self.messaging.run_soon()
        self.disconnect(conn_id=conn_id)
        return self.is_clean()


@pytest.fixture
def side() -> Iterator[Streaming]:
    side = Streaming()
    yield side
    side.client.close()


def test_a_call_allows_a_window(side: Streaming) -> None:
    side.proxy.read.future()
    assert side.requests(1)[0]["window"] == WINDOW


def test_a_window_that_makes_no_sense(side: Streaming) -> None:
    with pytest.raises(ValueError, match="a window is at least 1 item, not 0"):
        side.client.stream_window = 0
    assert side.client.stream_window == WINDOW


def test_with_the_smallest_window_each_item_is_asked_for(side: Streaming) -> None:
    side.client.stream_window = 1
    stream = side.open([0])
    assert next(stream) == 0
    side.part(1, [1])
    assert next(stream) == 1
    assert side.asked() == [(1, 1), (2, 1)]
    side.part(2, [], end=True)
    assert list(stream) == []


def test_a_stream_in_one_part(side: Streaming) -> None:
    call = InThread(side.proxy.read)
    side.req_id = side.requests(1)[0]["req_id"]
    side.part(0, [1, 2, 3], end=True)
    stream = call.result()
    assert isinstance(stream, RemoteStream)
    assert stream.req_id == side.req_id
    assert list(stream) == [1, 2, 3]
    assert list(stream) == []
    # All of it has arrived, and nothing more is asked for.
    assert side.asked() == [(3, 0)]
    assert side.ended()
    assert not side.records("cancel")


def test_a_stream_without_items(side: Streaming) -> None:
    call = InThread(side.proxy.read)
    side.req_id = side.requests(1)[0]["req_id"]
    side.part(0, [], end=True)
    assert list(call.result()) == []
    assert side.ended()


def test_items_are_read_as_they_come(side: Streaming) -> None:
    stream = side.open(["first"])
    assert repr(stream) == "<RemoteStream of 'bob' open>"
    assert next(stream) == "first"
    waiting = InThread(next, stream)
    side.part(1, ["second"])
    assert waiting.result() == "second"
    ending = InThread(next, stream)
    side.part(2, [], end=True)
    assert isinstance(ending.error(), StopIteration)
    assert repr(stream) == "<RemoteStream of 'bob' over>"
    assert side.ended()


def test_more_is_asked_for_when_half_of_the_window_is_read(side: Streaming) -> None:
    stream = side.open([0, 1, 2, 3, 4, 5])
    for _ in range(3):
        next(stream)
    assert side.asked() == []
    next(stream)
    # Up to 4 + 8, of which 6 have come.
    assert side.asked() == [(6, 6)]
    side.part(6, [6, 7, 8, 9, 10, 11])
    assert [next(stream) for _ in range(3)] == [4, 5, 6]
    assert len(side.asked()) == 1
    assert next(stream) == 7
    assert side.asked()[1:] == [(12, 4)]
    stream.close()


def test_no_more_than_the_window_is_kept(side: Streaming) -> None:
    """Who sends more than he was asked for loses his stream."""
    stream = side.open(list(range(WINDOW)))
    side.part(WINDOW, ["too much"])
    assert [next(stream) for _ in range(WINDOW)] == list(range(WINDOW))
    with pytest.raises(StreamGone, match="sent more than it was asked for"):
        next(stream)
    assert side.ended()


def test_few_large_items_are_acknowledged_too(side: Streaming) -> None:
    """The other side keeps what is not acknowledged, and stops when it is too much."""
    side.client.stream_window = 1000
    large = bytes(600_000)
    stream = side.open([large])
    side.part(1, [large])
    next(stream)
    assert side.asked() == []
    next(stream)
    assert side.asked() == [(2, 1000)]
    side.part(2, [large])
    next(stream)
    assert len(side.asked()) == 1
    stream.close()


def test_a_remote_exception_is_raised_at_its_position(side: Streaming) -> None:
    stream = side.open([1])
    side.part(1, [2])
    side.fail(2, KeyError("kitchen"))
    assert [next(stream), next(stream)] == [1, 2]
    lengths = set()
    for _ in range(3):
        with pytest.raises(KeyError, match="kitchen") as info:
            next(stream)
        assert info.value.__remote_traceback__ == "remote text"  # type: ignore[attr-defined]
        lengths.add(len(traceback.extract_tb(info.value.__traceback__)))
    assert len(lengths) == 1
    assert side.ended()


def test_a_generator_that_raises_at_once_is_a_stream_as_well(side: Streaming) -> None:
    """As at home: the call returns, and the first next() raises."""
    call = InThread(side.proxy.read)
    side.req_id = side.requests(1)[0]["req_id"]
    side.fail(0, KeyError("kitchen"))
    stream = call.result()
    with pytest.raises(KeyError):
        next(stream)
    assert side.ended()


class OnlyThere(Exception):
    """A class that is not registered here."""


@pytest.mark.parametrize("early", [True, False])
def test_an_exception_of_an_unknown_class_is_raised_at_its_position_too(
    side: Streaming, early: bool
) -> None:
    stream = side.open([0])
    if early:
        side.fail(2, OnlyThere("kitchen"))
    side.part(1, [1])
    if not early:
        side.fail(2, OnlyThere("kitchen"))
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(RemoteError, match="kitchen"):
        next(stream)
    assert side.asked() == [(2, 0)]
    assert side.ended()


@pytest.mark.parametrize("first", [True, False])
def test_an_item_that_can_not_be_read_ends_the_stream(
    side: Streaming, caplog: pytest.LogCaptureFixture, first: bool
) -> None:
    if first:
        call = side.proxy.read.future()
        side.req_id = call.req_id
        side.part(0, [OnlyThere()])
        with pytest.raises(UnreadableReply):
            call.result(0)
    else:
        stream = side.open([0])
        side.part(1, [OnlyThere()])
        assert next(stream) == 0
        with pytest.raises(UnreadableReply, match="OnlyThere"):
            next(stream)
    assert "unreadable reply" in caplog.text
    assert side.cancelled()
    assert side.ended()


def test_parts_that_are_overtaken_are_put_in_order(side: Streaming) -> None:
    stream = side.open([0])
    side.part(3, [], end=True)
    side.part(2, [2])
    assert next(stream) == 0
    side.part(1, [1])
    assert list(stream) == [1, 2]
    assert side.ended()


def test_an_exception_that_overtakes_the_items_waits_for_them(side: Streaming) -> None:
    stream = side.open([0])
    side.fail(2, KeyError())
    side.part(1, [1])
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(KeyError):
        next(stream)


def test_the_first_part_may_be_overtaken(side: Streaming) -> None:
    call = side.proxy.read.future()
    side.req_id = call.req_id
    side.part(1, [1], end=True)
    stream = call.result(0)
    side.part(0, [0])
    assert list(stream) == [0, 1]


def test_what_comes_again_is_dropped(side: Streaming) -> None:
    stream = side.open([0, 1, 2])
    side.part(0, [0, 1])
    side.part(1, [1, 2, 3])
    side.part(0, [0, 1, 2, 3, 4], end=True)
    assert list(stream) == [0, 1, 2, 3, 4]


def test_a_reconnect_goes_on_where_it_was(side: Streaming) -> None:
    stream = side.open([0, 1, 2])
    next(stream)
    side.disconnect()
    assert next(stream) == 1
    side.connect(conn_id="2")
    assert side.asked() == [(3, 2 + WINDOW - 3)]
    assert len(side.records("call")) == 1
    side.part(2, [2, 3], end=True)
    assert list(stream) == [2, 3]


def test_before_its_first_part_the_call_is_repeated(side: Streaming) -> None:
    call = side.proxy.read.future()
    side.disconnect()
    side.connect(conn_id="2")
    first, second = side.requests(2)
    assert first == second
    side.req_id = call.req_id
    side.part(0, [0], end=True)
    assert list(call.result(0)) == [0]
    side.disconnect()
    side.connect(conn_id="3")
    side.requests(2)


def test_what_is_read_while_the_connection_is_lost_is_granted_afterwards(
    side: Streaming,
) -> None:
    stream = side.open(list(range(WINDOW)))
    side.disconnect()
    assert [next(stream) for _ in range(WINDOW)] == list(range(WINDOW))
    assert side.asked() == []
    side.connect(conn_id="2")
    assert side.asked() == [(WINDOW, WINDOW)]
    stream.close()


def test_a_server_that_does_not_know_it_any_more(side: Streaming) -> None:
    stream = side.open([0])
    side.disconnect()
    side.connect(conn_id="2")
    side.reply(error_record(side.req_id, "unknown", "", code=Code.STREAM_GONE))
    assert next(stream) == 0
    with pytest.raises(StreamGone, match="unknown"):
        next(stream)
    assert side.ended("2")


def test_a_value_instead_of_the_rest(side: Streaming) -> None:
    stream = side.open([0])
    side.reply(value_record(side.req_id, 5))
    assert next(stream) == 0
    with pytest.raises(StreamGone, match="something else"):
        next(stream)


# Its end.


def test_close_tells_the_other_side(side: Streaming) -> None:
    stream = side.open([0, 1])
    assert next(stream) == 0
    stream.close()
    stream.close()
    assert side.cancelled()
    assert list(stream) == []
    side.part(2, [2])
    assert side.client.late_replies == 1
    assert side.ended()


def test_as_a_context_manager(side: Streaming) -> None:
    with side.open([0, 1]) as stream:
        assert next(stream) == 0
    assert side.cancelled()
    assert list(stream) == []
    assert side.ended()


def test_a_part_that_comes_as_it_is_closed_is_not_read(side: Streaming) -> None:
    stream = side.open([0])
    state = stream._stream
    stream.close()
    assert state.take(Reply(side.req_id, True, [1], position=1), 10) is None
    assert list(stream) == []


def test_closing_what_is_complete_tells_nobody(side: Streaming) -> None:
    stream = side.open([0])
    side.part(1, [1], end=True)
    stream.close()
    assert list(stream) == []
    assert not side.records("cancel")
    assert side.ended()


def test_who_lets_go_of_it_closes_it(side: Streaming) -> None:
    stream = side.open([0, 1])
    for item in stream:
        assert item == 0
        break
    gone = weakref.ref(stream)
    del stream
    gc.collect()
    assert gone() is None
    side.messaging.run_soon()
    assert side.cancelled()
    assert side.ended()


def test_a_stream_that_nobody_fetched_is_closed(side: Streaming) -> None:
    call = side.proxy.read.future()
    side.req_id = call.req_id
    side.part(0, [0])
    del call
    gc.collect()
    side.messaging.run_soon()
    assert side.cancelled()
    assert side.ended()


def test_a_call_that_is_given_up_as_the_stream_begins(side: Streaming) -> None:
    call = side.proxy.read.future()
    assert call.cancel()
    side.req_id = call.req_id
    side.part(0, [0])
    assert side.client.late_replies == 1
    assert side.ended()


def test_closing_in_another_thread_ends_the_wait(side: Streaming) -> None:
    stream = side.open()
    waiting = InThread(next, stream)
    stream.close()
    assert isinstance(waiting.error(), StopIteration)


def test_closing_the_client_ends_streams(side: Streaming) -> None:
    stream = side.open([0])
    waiting = side.open()
    reader = InThread(next, waiting)
    side.client.close()
    assert isinstance(reader.error(), ClientClosed)
    assert next(stream) == 0
    with pytest.raises(ClientClosed):
        next(stream)
    assert len(side.records("cancel")) == 2
    assert side.ended()


# Waiting.


def test_the_timeout_is_for_each_item(side: Streaming) -> None:
    stream = side.open([0], timeout=0.02)
    assert next(stream) == 0
    with pytest.raises(PartialCall):
        next(stream)
    assert side.cancelled()
    with pytest.raises(PartialCall):
        next(stream)
    assert side.ended()


def test_the_deadline_of_the_call_is_met_by_the_first_part(side: Streaming) -> None:
    stream = side.open([0], timeout=5)
    side.messaging.advance(100)
    assert not side.messaging.timers
    side.part(1, [1], end=True)
    assert list(stream) == [0, 1]


def test_the_timeout_without_a_connection(side: Streaming) -> None:
    stream = side.open(timeout=0.02)
    side.disconnect()
    with pytest.raises(NotConnected) as info:
        next(stream)
    assert info.value.request_sent
    assert side.is_clean()


def test_who_does_not_wait_for_the_peer_is_told_that_it_is_gone(side: Streaming) -> None:
    stream = side.open([0], wait_for_peer=False)
    side.disconnect()
    assert next(stream) == 0
    with pytest.raises(NotConnected):
        next(stream)
    assert side.is_clean()


def test_in_the_thread_of_the_loop_what_is_there_can_be_read(side: Streaming) -> None:
    stream = side.open([0])
    side.messaging.inside_loop = True
    assert next(stream) == 0
    with pytest.raises(WouldDeadlock, match="next item of a stream"):
        next(stream)
    side.part(1, [1], end=True)
    assert list(stream) == [1]


def test_a_callback_gets_the_stream(side: Streaming) -> None:
    streams: list[RemoteStream[int]] = []
    call = side.proxy.read.callback(streams.append)()
    side.req_id = call.req_id
    side.part(0, [0], end=True)
    assert [list(stream) for stream in streams] == [[0]]


def test_several_threads_read_one_stream(side: Streaming) -> None:
    stream = side.open()
    readers = [InThread(list, stream) for _ in range(4)]
    for number in range(500):
        # As the server does: no further than was granted.
        wait_until(lambda number=number: number < max(map(sum, side.asked()), default=WINDOW))
        side.part(number, [number])
    side.part(500, [], end=True)
    lists = [reader.result() for reader in readers]
    assert sorted(item for items in lists for item in items) == list(range(500))
    assert all(items == sorted(items) for items in lists)
    positions = [sum(pair) for pair in side.asked()[:-1]]
    assert positions == sorted(positions)
    assert side.ended()


def test_when_no_more_can_be_asked_for_it_fails(side: Streaming) -> None:
    stream = side.open(list(range(WINDOW)))
    side.messaging.failure = QueueFull("no room")
    assert [next(stream) for _ in range(WINDOW)] == list(range(WINDOW))
    with pytest.raises(QueueFull):
        next(stream)
    side.messaging.failure = None
    assert side.ended()


def test_a_finalizer_may_let_go_of_one_anywhere(side: Streaming) -> None:
    stream = side.open([0])
    state = stream._stream
    with side.client._outstanding.lock, state._changed:
        del stream
        gc.collect()
    side.messaging.run_soon()
    assert side.cancelled()
    assert side.ended()


def test_one_that_comes_before_the_sender_knows_that_it_has_sent(side: Streaming) -> None:
    """The other side is told all the same when nobody wants it."""
    send = side.messaging.send_message

    def answer_at_once(ident: str, message: Any, **options: Any) -> bool:
        side.messaging.send_message = send  # type: ignore[method-assign]
        queued = send(ident, message, **options)
        side.req_id = side.records("call")[-1]["req_id"]
        side.part(0, ["first"])
        return queued

    side.messaging.send_message = answer_at_once  # type: ignore[method-assign]
    stream = side.proxy.read.future().result(0)
    assert next(stream) == "first"
    stream.close()
    assert side.cancelled()
