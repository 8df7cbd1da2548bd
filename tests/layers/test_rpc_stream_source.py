"""The server's end of a stream, by itself: credit, repeats, errors, the end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from snakemq.rpc._stream_source import MAX_WINDOW, StreamSource
from snakemq.rpc.errors import Unserializable


class Part(NamedTuple):
    position: int
    items: list[Any]
    end: bool = False
    error: BaseException | None = None


class Caller:
    """Writes down what is sent, and lets the test say when it has left."""

    def __init__(self, iterator: Iterator[Any], window: int = 1000) -> None:
        self.sent: list[Part] = []
        self.wanted = 0
        self.flushes = 0
        self.has_ended: list[BaseException | None] = []
        self.is_delivered = False
        self._records: dict[bytes, Part] = {}
        self.source = StreamSource(iterator, window, "c1", self)

    def write_items(self, position: int, items: list[Any], end: bool) -> bytes:
        for item in items:
            if item is Unserializable:
                raise Unserializable(f"return[{items.index(item)}]")
        return self._write(Part(position, list(items), end))

    def write_error(self, position: int, error: BaseException) -> bytes | None:
        return self._write(Part(position, [], error=error))

    def _write(self, part: Part) -> bytes:
        record = b"%d" % len(self._records) + bytes(
            max((len(item) for item in part.items if isinstance(item, bytes)), default=0)
        )
        self._records[record] = part
        return record

    def send(self, record: bytes) -> None:
        self.sent.append(self._records[record])

    def run_source(self) -> None:
        self.wanted += 1

    def flush_source(self) -> None:
        self.flushes += 1
        self.source.flush()

    def ended(self, error: BaseException | None) -> None:
        self.has_ended.append(error)

    def delivered(self) -> None:
        self.is_delivered = True

    # What the test does.

    def leave(self, *, lost: bool = False) -> None:
        self.source.batch_left(lost=lost)
        self.run_if_wanted()

    def run_if_wanted(self) -> None:
        assert self.wanted in (0, 1), "one worker at a time"
        if self.wanted:
            self.wanted = 0
            self.source.run()

    def more(self, position: int, window: int, conn_id: str = "c1") -> None:
        self.source.more(position, window, conn_id)
        self.run_if_wanted()

    @property
    def items(self) -> list[Any]:
        return [item for part in self.sent for item in part.items]


def test_the_first_item_goes_at_once_and_those_behind_it_together() -> None:
    caller = Caller(iter(range(10)))
    caller.source.run()
    assert caller.sent == [Part(0, [0]), Part(1, list(range(1, 10)), True)]
    assert caller.has_ended == [None]
    assert caller.source.is_over


def test_an_empty_stream() -> None:
    caller = Caller(iter(()))
    caller.source.run()
    assert caller.sent == [Part(0, [], True)]
    caller.leave()
    assert caller.is_delivered


def test_no_more_than_was_asked_for() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    caller = Caller(items(), window=4)
    caller.source.run()
    assert caller.items == taken == [0, 1, 2, 3]
    caller.more(2, 2)
    assert len(taken) == 4
    caller.more(4, 3)
    assert caller.items == taken == list(range(7))
    caller.more(7, 0)
    assert caller.items == list(range(7))
    caller.more(7, 1000)
    assert caller.items == list(range(100))
    assert caller.has_ended == [None]


def test_a_caller_does_not_get_everything_in_advance() -> None:
    caller = Caller(iter(range(10 * MAX_WINDOW)), window=2**53)
    caller.source.run()
    assert len(caller.items) == MAX_WINDOW


def test_many_bytes_wait_until_some_have_arrived() -> None:
    caller = Caller(iter([bytes(1024 * 1024)] * 50))
    caller.source.run()
    assert 4 <= len(caller.items) <= 6
    caller.more(len(caller.items), 50)
    assert 8 <= len(caller.items) <= 12


def test_what_was_taken_meanwhile_goes_when_the_first_has_left() -> None:
    caller = Caller(iter([]))

    def items() -> Iterator[int]:
        yield 0
        yield 1
        # A worker is busy in here, perhaps for ever, while the first part arrives.
        caller.source.batch_left(lost=False)
        assert caller.items == [0, 1]
        yield 2
        assert caller.items == [0, 1]

    caller = Caller(items())
    caller.source.run()
    assert caller.items == [0, 1, 2]
    assert caller.flushes == 1
    assert caller.has_ended == [None]


def test_what_was_lost_is_sent_again() -> None:
    caller = Caller(iter(range(6)), window=5)
    caller.source.run()
    assert [part.position for part in caller.sent] == [0, 1]
    caller.leave(lost=True)
    caller.leave(lost=True)
    caller.sent.clear()
    caller.more(1, 4, "c2")
    assert caller.sent == [Part(1, [1, 2, 3, 4])]
    caller.sent.clear()
    caller.more(3, 9, "c3")
    assert caller.sent[0] == Part(1, [1, 2, 3, 4]), "the caller leaves out what it has"
    assert caller.sent[1] == Part(5, [5], True) or caller.sent[1:] == [
        Part(5, [5]),
        Part(6, [], True),
    ]


def test_one_that_has_nothing_yet_gets_all_of_it_again() -> None:
    caller = Caller(iter(range(3)))
    caller.source.run()
    first = list(caller.sent)
    caller.source.repeat("c2")
    caller.run_if_wanted()
    assert caller.sent == first + first
    caller.source.repeat("c2")
    caller.run_if_wanted()
    assert caller.sent == first + first


def test_the_end_is_kept_until_it_has_arrived() -> None:
    caller = Caller(iter([1]))
    caller.source.run()
    caller.leave(lost=True)
    caller.leave(lost=True)
    assert not caller.is_delivered
    caller.sent.clear()
    caller.more(1, 9, "c2")
    assert caller.sent == [Part(1, [], True)]
    caller.leave()
    assert caller.is_delivered


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_an_error_comes_in_its_place(error: BaseException) -> None:
    def items() -> Iterator[int]:
        yield 0
        yield 1
        raise error

    caller = Caller(items())
    caller.source.run()
    assert caller.sent == [Part(0, [0]), Part(1, [1]), Part(2, [], error=error)]
    assert caller.has_ended == [error]


def test_an_item_that_can_not_be_written() -> None:
    closed = []

    def items() -> Iterator[Any]:
        try:
            yield from ("first", "second", Unserializable, "behind")
        finally:
            closed.append(True)

    caller = Caller(items(), window=4)
    caller.source.run()
    assert caller.items == ["first", "second"]
    assert caller.sent[-1].position == 2
    assert isinstance(caller.sent[-1].error, Unserializable)
    assert closed == [True]
    assert caller.source.is_over


def test_an_item_that_can_not_be_written_while_the_next_one_is_made() -> None:
    closed = []
    caller = Caller(iter([]))

    def items() -> Iterator[Any]:
        try:
            yield "first"
            yield Unserializable
            caller.source.batch_left(lost=False)
            assert caller.sent[-1].position == 1
            yield "behind"
            raise AssertionError("it was asked for more")
        finally:
            closed.append(True)

    caller = Caller(items())
    caller.source.run()
    assert caller.items == ["first"]
    assert isinstance(caller.sent[-1].error, Unserializable)
    assert closed == [True]
    assert isinstance(caller.has_ended[0], Unserializable)


def test_cancelling_closes_the_generator_in_a_worker() -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            closed.append(True)

    caller = Caller(items(), window=2)
    caller.source.run()
    caller.source.cancel()
    assert closed == []
    caller.run_if_wanted()
    assert closed == [True]
    assert caller.has_ended == [None]
    caller.source.cancel()
    caller.more(2, 5)
    assert caller.items == [0, 1]


def test_cancelled_while_it_runs() -> None:
    caller = Caller(iter([]))

    def items() -> Iterator[int]:
        for number in range(100):
            if number == 3:
                caller.source.cancel()
                assert not caller.wanted
            yield number

    caller = Caller(items())
    caller.source.run()
    assert caller.has_ended == [None]
    assert caller.source.is_over


def test_a_generator_that_does_not_want_to_be_closed() -> None:
    def items() -> Iterator[int]:
        try:
            yield 1
        finally:
            raise ValueError("no")

    caller = Caller(items(), window=1)
    caller.source.run()
    caller.source.cancel()
    caller.run_if_wanted()
    (error,) = caller.has_ended
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("seed", range(30))
def test_any_reconnects_bring_each_item_once(seed: int) -> None:
    chance = random.Random(seed)
    count = chance.randrange(200)
    caller = Caller(iter(range(count)), window=chance.randrange(1, 20))
    got: list[int] = []
    ended = False
    on_the_way: list[Part] = []
    conn = 1
    caller.source.run()
    while not ended:
        on_the_way += caller.sent
        caller.sent.clear()
        if chance.random() < 0.1:
            conn += 1
            for _ in on_the_way:
                caller.leave(lost=True)
            on_the_way.clear()
            caller.sent.clear()
            caller.more(len(got), chance.randrange(1, 20), f"c{conn}")
        elif on_the_way:
            part = on_the_way.pop(0)
            caller.leave()
            assert part.position <= len(got)
            got += part.items[len(got) - part.position :]
            ended = part.end
            if chance.random() < 0.6:
                caller.more(len(got), chance.randrange(1, 20), f"c{conn}")
        else:
            caller.more(len(got), chance.randrange(1, 20), f"c{conn}")
    assert got == list(range(count))
