"""The outbox: what was sent comes first, in order, and by its number."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeAlias

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from snakemq._core.outbox import Entry, Outbox, Taken, message_of
from snakemq._core.ttl import Timed
from snakemq.message import FLAG_PERSISTENT, Message

MANY = 10**9

TraceFunction: TypeAlias = Callable[[FrameType, str, Any], "TraceFunction | None"]


def filled(*names: str, stored: bool = False) -> Outbox:
    """An outbox on a connection to a peer that acknowledges."""
    outbox = Outbox()
    if stored:
        for message in persistent(*names):
            outbox.append_loaded(message, maybe_sent=True)
    else:
        put(outbox, *names)
    outbox.expect(confirms_all=True)
    return outbox


def persistent(*names: str) -> list[Message]:
    return [Message(name.encode(), None, FLAG_PERSISTENT) for name in names]


def put(outbox: Outbox, *names: str) -> None:
    outbox.waiting.extend(persistent(*names))


def names_of(messages: list[Message]) -> list[str]:
    return [message.data.decode() for message in messages]


def take(outbox: Outbox, count: int = MANY) -> tuple[list[str], int, int, bool]:
    """Names, number of the first, how many are stored, whether they are repeated."""
    taken = outbox.take(count, MANY, 0.0)
    return (names_of(taken.messages), *taken[1:])


def confirmed(outbox: Outbox, count: int) -> list[str]:
    return [m.data.decode() for entry in outbox.confirmed(count) if (m := message_of(entry))]


def reconnect(outbox: Outbox, *, confirms_all: bool = True) -> list[str]:
    urgent = outbox.disconnect()
    outbox.expect(confirms_all=confirms_all)
    return names_of(urgent)


class TestWay:
    """waiting -> in flight -> unconfirmed -> gone."""

    def test_each_step(self) -> None:
        outbox = filled("a", "bc", "d")
        assert (len(outbox), outbox.under_way, len(outbox.waiting)) == (3, 0, 3)
        assert take(outbox, 2) == (["a", "bc"], 0, 0, False)
        assert (outbox.in_flight, outbox.unconfirmed, outbox.bytes_flying) == (2, 0, 3)
        told, leaving = outbox.sent(1)
        assert (names_of(told), leaving) == (["a"], [])
        assert (outbox.in_flight, outbox.unconfirmed, outbox.bytes_flying) == (1, 1, 3)
        assert confirmed(outbox, 1) == ["a"]
        assert (len(outbox), outbox.under_way, outbox.bytes_flying) == (2, 1, 2)
        assert take(outbox) == (["d"], 2, 0, False)
        assert not outbox.waiting
        assert names_of(outbox.sent(2)[0]) == ["bc", "d"]
        assert confirmed(outbox, 2) == ["bc", "d"]
        assert (len(outbox), outbox.bytes_flying) == (0, 0)

    def test_nothing_at_all(self) -> None:
        outbox = filled()
        assert take(outbox) == ([], 0, 0, False)
        assert outbox.sent(0) == ([], [])
        assert outbox.confirmed(0) == []
        assert outbox.disconnect() == []
        assert outbox.first() is None
        assert outbox.drop_first() is None

    def test_one_message_may_go_over_the_bytes(self) -> None:
        outbox = filled("aaa", "b")
        assert names_of(outbox.take(MANY, 1, 0.0).messages) == ["aaa"]

    def test_messages_are_all_there_are_wherever_they_are(self) -> None:
        outbox = filled("a", "b", "c", "d")
        take(outbox, 2)
        outbox.sent(1)
        outbox.urgent.append(Message(b"u"))
        assert sorted(names_of(list(outbox.messages()))) == ["a", "b", "c", "d", "u"]


class TestNumbers:
    def test_what_was_sent_keeps_its_number(self) -> None:
        outbox = filled("a", "b", "c", "d")
        take(outbox, 3)
        outbox.sent(2)
        assert confirmed(outbox, 1) == ["a"]
        reconnect(outbox)
        assert take(outbox) == (["b"], 1, 0, True)
        assert take(outbox) == (["c", "d"], 2, 0, False)

    def test_what_was_dropped_in_between_leaves_a_gap(self) -> None:
        outbox = filled("a", "b", "c", "d")
        take(outbox)
        outbox.sent(4)
        outbox.disconnect()
        outbox.rebuild(lambda entry: None if message_of(entry).data == b"b" else entry)  # type: ignore[union-attr]
        outbox.expect(confirms_all=True)
        put(outbox, "e")
        assert take(outbox) == (["a"], 0, 0, True)
        assert take(outbox) == (["c", "d"], 2, 0, True)
        assert take(outbox) == (["e"], 4, 0, False)

    def test_a_number_that_the_other_side_may_know_is_never_given_away(self) -> None:
        outbox = filled("a", "b")
        take(outbox)
        outbox.sent(2)
        outbox.disconnect()
        assert outbox.drop_first() is not None
        assert outbox.drop_first() is not None
        outbox.expect(confirms_all=True)
        put(outbox, "c")
        assert take(outbox) == (["c"], 2, 0, False)

    def test_it_is_told_of_each_once(self) -> None:
        outbox = filled("a", "b", "c")
        take(outbox)
        assert names_of(outbox.sent(2)[0]) == ["a", "b"]
        reconnect(outbox)
        take(outbox), take(outbox)
        assert names_of(outbox.sent(1)[0]) == []
        reconnect(outbox)
        take(outbox), take(outbox)
        assert names_of(outbox.sent(3)[0]) == ["c"]


class TestOnlyOne:
    """A message that is sent at once, past what waits: there must be nothing."""

    def fly(self, outbox: Outbox, number: int = 0) -> bool:
        return outbox.fly(Message(b"now", 0), number, MANY, MANY)

    def test_it_is_in_flight(self) -> None:
        outbox = filled()
        assert self.fly(outbox)
        assert (outbox.in_flight, outbox.bytes_flying) == (1, 3)
        messages, _ = outbox.sent(1)
        assert names_of(list(messages)) == ["now"]
        put(outbox, "next")
        assert take(outbox) == (["next"], 1, 0, False)
        assert confirmed(outbox, 1) == ["now"]

    def test_not_before_others(self) -> None:
        waiting, urgent, again = filled("a"), filled(), filled("a")
        urgent.urgent.append(Message(b"u", 0))
        again.take(MANY, MANY, 0.0)
        again.sent(1)
        reconnect(again)
        stored = filled("a", stored=True)
        for outbox in (waiting, urgent, again, stored):
            assert not self.fly(outbox, outbox._next_number)

    def test_not_over_the_window(self) -> None:
        outbox = filled()
        message = Message(b"now", 0)
        assert outbox.fly(message, 0, 1, MANY)
        assert not outbox.fly(message, 1, 1, MANY)
        assert not outbox.fly(message, 1, MANY, 3)
        assert outbox.fly(message, 1, MANY, 4)

    def test_not_with_another_number_than_the_other_side_expects(self) -> None:
        assert not self.fly(filled(), 1)

    def test_not_to_a_peer_without_acknowledgements(self) -> None:
        outbox = filled()
        reconnect(outbox, confirms_all=False)
        assert not self.fly(outbox)

    def test_no_number_is_given_twice_after_ctrl_c(self) -> None:
        """Wherever it comes: the other side would throw away the second one."""
        for moment in range(20):
            outbox = filled("before")
            outbox.take(MANY, MANY, 0.0)
            outbox.sent(1)
            outbox.confirmed(1)
            left = moment

            def interrupt(frame: FrameType, event: str, arg: object) -> TraceFunction | None:
                nonlocal left
                if frame.f_code is not Outbox.fly.__code__:
                    return None
                if event == "line":
                    left -= 1
                    if left < 0:
                        raise KeyboardInterrupt
                return interrupt

            traced = sys.gettrace()
            sys.settrace(interrupt)
            try:
                flew = self.fly(outbox, 1)
            except KeyboardInterrupt:
                flew = False
            finally:
                sys.settrace(traced)
            reconnect(outbox)
            outbox.waiting.clear()
            put(outbox, "after")
            assert take(outbox)[1] in (1, 2)
            if flew:
                break
        else:
            pytest.fail("it was interrupted each time")
        assert moment > 3


class TestStored:
    def test_what_comes_from_the_storage_may_have_been_sent(self) -> None:
        outbox = filled("a", "b", stored=True)
        put(outbox, "c")
        assert take(outbox) == (["a", "b"], 0, 2, False)
        assert take(outbox) == (["c"], 2, 0, False)

    def test_it_stays_so_until_it_is_confirmed(self) -> None:
        outbox = filled("a", "b", "c", stored=True)
        take(outbox, 2)
        outbox.sent(2)
        assert confirmed(outbox, 1) == ["a"]
        reconnect(outbox)
        assert take(outbox) == (["b"], 1, 1, True)
        assert take(outbox) == (["c"], 2, 1, False)

    def test_in_flight_only_it_gets_another_number(self) -> None:
        outbox = filled("a", "b", stored=True)
        take(outbox)
        outbox.disconnect()
        assert outbox.drop_first() is not None
        outbox.expect(confirms_all=True)
        assert take(outbox) == (["b"], 0, 1, False)


class TestPeerWithoutAcknowledgements:
    def test_what_is_not_persistent_leaves_when_it_was_sent(self) -> None:
        outbox = Outbox()
        outbox.expect(confirms_all=False)
        for name, flags in (("a", 0), ("b", FLAG_PERSISTENT), ("c", 0)):
            outbox.waiting.append(Message(name.encode(), None, flags))
        take(outbox)
        told, leaving = outbox.sent(3)
        assert names_of(told) == ["a", "b", "c"]
        assert [message_of(entry).data for entry in leaving] == [b"a", b"c"]  # type: ignore[union-attr]
        assert (len(outbox), outbox.bytes_flying) == (1, 1)
        assert confirmed(outbox, 1) == ["b"]
        assert outbox.bytes_flying == 0

    def test_what_was_sent_is_like_what_an_earlier_process_sent(self) -> None:
        """Should it come back as one with acknowledgements: it knows no numbers."""
        outbox = Outbox()
        outbox.expect(confirms_all=False)
        put(outbox, "a", "b", "c")
        take(outbox, 2)
        outbox.sent(1)
        reconnect(outbox)
        names, _, stored, repeated = take(outbox)
        assert (names, stored, repeated) == (["a"], 1, False)
        names, _, stored, repeated = take(outbox)
        assert (names, stored, repeated) == (["b", "c"], 0, False)

    def test_what_left_is_not_counted_as_stored(self) -> None:
        """Else what was never sent would be announced as something that may have been."""
        outbox = Outbox()
        outbox.expect(confirms_all=True)
        outbox.waiting.extend(Message(name, None, 0) for name in (b"a", b"b"))
        take(outbox)
        outbox.sent(2)
        reconnect(outbox, confirms_all=False)
        take(outbox)
        reconnect(outbox, confirms_all=False)
        take(outbox)
        assert len(outbox.sent(2)[1]) == 2
        put(outbox, "c", "d")
        reconnect(outbox)
        names, _, stored, repeated = take(outbox)
        assert (names, stored, repeated) == (["c", "d"], 0, False)


class TestUrgent:
    def test_it_goes_before_what_was_never_sent(self) -> None:
        outbox = filled("a", "b", "c")
        take(outbox, 1)
        for name in ("u", "v"):
            outbox.urgent.append(Message(name.encode()))
        assert take(outbox, 3) == (["u", "v", "b"], 1, 0, False)

    def test_it_does_not_go_before_what_is_repeated(self) -> None:
        outbox = filled("a", "b", "c")
        take(outbox, 2)
        outbox.sent(2)
        reconnect(outbox)
        outbox.urgent.append(Message(b"u"))
        assert take(outbox) == (["a", "b"], 0, 0, True)
        assert take(outbox) == (["u", "c"], 2, 0, False)

    def test_it_ends_with_the_connection(self) -> None:
        outbox = filled("a")
        outbox.urgent.append(Message(b"u"))
        outbox.urgent.append(Message(b"v"))
        assert reconnect(outbox) == ["u", "v"]
        assert len(outbox) == 1

    def test_what_the_other_side_stores_stays_in_the_window(self) -> None:
        outbox = filled("a")
        for name, flags in (("u", 0), ("v", FLAG_PERSISTENT), ("w", 0)):
            outbox.urgent.append(Message(name.encode(), 0, flags))
        assert names_of(outbox.take_urgent(MANY).messages) == ["u"]
        assert names_of(outbox.take_urgent(MANY).messages) == []
        assert take(outbox) == (["v", "w", "a"], 1, 0, False)

    @pytest.mark.parametrize(("count", "size"), [(1, MANY), (MANY, 1)])
    def test_it_counts(self, count: int, size: int) -> None:
        outbox = filled("a")
        for name in ("u", "v"):
            outbox.urgent.append(Message(name.encode()))
        for expected in ("u", "v", "a"):
            assert names_of(outbox.take(count, size, 0.0).messages) == [expected]


class TestExpired:
    def timed(self, outbox: Outbox, name: str, expires: float) -> Timed:
        entry = Timed(Message(name.encode(), expires), expires)
        outbox.waiting.append(entry)
        return entry

    def die(self, outbox: Outbox, *entries: Timed) -> None:
        for entry in entries:
            entry.message = None
            outbox.dead += 1

    def test_what_is_taken_has_what_remains_of_its_time(self) -> None:
        outbox = filled()
        self.timed(outbox, "a", 10.0)
        (message,) = outbox.take(1, 1, 4.0).messages
        assert message.ttl == 6

    def test_the_dead_are_passed_over(self) -> None:
        outbox = filled()
        entries = [self.timed(outbox, str(number), 10.0) for number in range(6)]
        self.die(outbox, entries[0], entries[2], entries[3])
        assert len(outbox) == 3
        assert message_of(outbox.first() or entries[0]).data == b"1"  # type: ignore[union-attr]
        assert take(outbox)[0] == ["1", "4", "5"]
        assert len(outbox) == 3

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_they_do_not_stand_in_the_way(self, count: int) -> None:
        """If there is something alive, something is taken."""
        outbox = filled()
        entries = [self.timed(outbox, str(number), 10.0) for number in range(10)]
        self.die(outbox, *entries[:5], *entries[6:9])
        taken: list[str] = []
        while names := take(outbox, count)[0]:
            taken += names
        assert taken == ["5", "9"]

    def test_among_the_repeated(self) -> None:
        outbox = filled()
        entries = [self.timed(outbox, str(number), 10.0) for number in range(4)]
        take(outbox)
        outbox.sent(4)
        outbox.disconnect()
        self.die(outbox, entries[0], entries[2])
        outbox.expect(confirms_all=True)
        assert take(outbox) == (["1"], 1, 0, True)
        assert take(outbox) == (["3"], 3, 0, True)


@dataclass(eq=False)
class Item:
    """A message in the model, with its history."""

    name: int
    message: Message
    entry: Entry
    loaded: bool = False
    urgent: bool = False
    #: it was sent, to whomever
    sent: bool = False
    #: the number it has for a peer that acknowledges
    number: int | None = None


class OutboxModel(RuleBasedStateMachine):
    """Against plain lists, in which each message carries its own history."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox()
        self.count = 0
        self.connected = False
        self.confirms_all = True
        self.waiting: list[Item] = []
        self.urgent: list[Item] = []
        self.in_flight: list[Item] = []
        self.unconfirmed: list[Item] = []
        #: numbers on this connection
        self.on_wire: dict[Item, int] = {}
        self.highest_sent = -1

    def make(self, *, timed: bool, flags: int, size: int, ttl: float | None = None) -> Item:
        self.count += 1
        message = Message(bytes(size), ttl, flags, b"%d" % self.count)
        entry: Entry = Timed(message, MANY) if timed else message
        return Item(self.count, message, entry)

    @initialize(count=st.integers(0, 4))
    def load(self, count: int) -> None:
        for _ in range(count):
            item = self.make(timed=False, flags=FLAG_PERSISTENT, size=2)
            item.loaded = True
            self.outbox.append_loaded(item.entry, maybe_sent=True)
            self.waiting.append(item)

    @rule(
        count=st.integers(1, 4),
        timed=st.booleans(),
        flags=st.sampled_from([0, FLAG_PERSISTENT]),
        size=st.integers(0, 5),
    )
    def push(self, count: int, timed: bool, flags: int, size: int) -> None:
        for _ in range(count):
            item = self.make(timed=timed, flags=flags, size=size)
            self.outbox.waiting.append(item.entry)
            self.waiting.append(item)

    @precondition(lambda self: self.connected)
    @rule(size=st.integers(0, 5))
    def push_urgent(self, size: int) -> None:
        item = self.make(timed=False, flags=0, size=size, ttl=0)
        item.urgent = True
        self.outbox.urgent.append(item.message)
        self.urgent.append(item)

    @precondition(lambda self: not self.connected)
    @rule(confirms_all=st.booleans())
    def connect(self, confirms_all: bool) -> None:
        self.connected = True
        self.confirms_all = confirms_all
        self.on_wire = {}
        self.outbox.expect(confirms_all=confirms_all)

    def expect_take(self, max_count: int, max_bytes: int) -> list[Item]:
        """What comes together: what has numbers that follow, what is stored, or the rest."""

        def kind(item: Item) -> object:
            return (
                "numbered"
                if item.number is not None
                else "stored"
                if item.loaded or item.sent
                else "new"
            )

        source = self.waiting
        if not source or kind(source[0]) == "new":
            source = self.urgent + source
        expected: list[Item] = []
        for item in source:
            if len(expected) == max_count or max_bytes <= 0:
                break
            if expected and kind(item) != kind(expected[0]):
                break
            if expected and item.number is not None:
                last = expected[-1].number
                assert last is not None
                if item.number != last + 1:
                    break
            expected.append(item)
            max_bytes -= len(item.message.data)
        return expected

    @precondition(lambda self: self.connected)
    @rule(max_count=st.integers(1, 6), max_bytes=st.integers(1, 12))
    def take(self, max_count: int, max_bytes: int) -> None:
        expected = self.expect_take(max_count, max_bytes)
        taken = self.outbox.take(max_count, max_bytes, 0.0)
        items = expected[: len(taken.messages)]
        assert [m.uuid for m in taken.messages] == [item.message.uuid for item in items]
        # Dead ones in between may make it less, but never nothing.
        assert bool(taken.messages) == bool(expected)
        if self.confirms_all:
            self.check_announcement(taken, items)
        for item in items:
            (self.urgent if item.urgent else self.waiting).remove(item)
        self.in_flight += items

    @precondition(lambda self: self.connected)
    @rule(max_bytes=st.integers(1, 12))
    def take_urgent(self, max_bytes: int) -> None:
        taken = self.outbox.take_urgent(max_bytes)
        items = self.urgent[: len(taken.messages)]
        assert [m.uuid for m in taken.messages] == [item.message.uuid for item in items]
        if self.waiting and (self.waiting[0].loaded or self.waiting[0].sent):
            assert not items, "what may have been sent before goes first"
        else:
            assert bool(items) == bool(self.urgent)
        if self.confirms_all:
            self.check_announcement(taken, items)
        del self.urgent[: len(items)]
        self.in_flight += items

    def check_announcement(self, taken: Taken, items: list[Item]) -> None:
        for position, item in enumerate(items):
            number = taken.number + position
            if item.number is not None:
                assert number == item.number
                assert taken.repeated
            else:
                assert not taken.repeated
                assert number > self.highest_sent, "the other side may know this number"
            # What may have been sent is said to be, what was not is not.
            stored = position < taken.stored
            assert (taken.repeated or stored) == (item.loaded or item.sent)
            assert stored or not item.loaded
            assert number > max(self.on_wire.values(), default=-1)
            self.on_wire[item] = number

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def sent(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.in_flight)))
        items = self.in_flight[:count]
        del self.in_flight[:count]
        told, leaving = self.outbox.sent(count)
        assert [m.uuid for m in told] == [item.message.uuid for item in items if not item.sent]
        for item in items:
            item.sent = True
            if self.confirms_all:
                item.number = self.on_wire[item]
                self.highest_sent = max(self.highest_sent, item.number)
        kept = [i for i in items if self.confirms_all or i.message.flags & FLAG_PERSISTENT]
        assert leaving == [item.entry for item in items if item not in kept]
        self.unconfirmed += kept

    @precondition(lambda self: self.unconfirmed)
    @rule(data=st.data())
    def confirmed(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.unconfirmed)))
        assert self.outbox.confirmed(count) == [item.entry for item in self.unconfirmed[:count]]
        del self.unconfirmed[:count]

    @precondition(lambda self: self.connected)
    @rule()
    def disconnect(self) -> None:
        self.connected = False
        assert self.outbox.disconnect() == [item.message for item in self.urgent]
        self.urgent.clear()
        if not self.confirms_all:
            for item in self.unconfirmed + self.in_flight + self.waiting:
                # Nobody knows by which way it came.
                item.sent |= item.number is not None
                item.number = None
        # What the queue does with TTL 0.
        self.outbox.rebuild(
            lambda entry: None if isinstance(entry, Message) and entry.ttl == 0 else entry
        )
        self.waiting[:0] = [item for item in self.unconfirmed + self.in_flight if not item.urgent]
        self.unconfirmed.clear()
        self.in_flight.clear()

    @precondition(lambda self: not self.connected and self.waiting)
    @rule(data=st.data(), sweep=st.booleans())
    def expire(self, data: st.DataObject, sweep: bool) -> None:
        timed = [item for item in self.waiting if isinstance(item.entry, Timed)]
        if timed:
            for item in data.draw(st.sets(st.sampled_from(timed))):
                assert isinstance(item.entry, Timed)
                item.entry.message = None
                self.outbox.dead += 1
                self.waiting.remove(item)
        if sweep:
            self.outbox.rebuild(lambda entry: None if message_of(entry) is None else entry)
            assert self.outbox.dead == 0

    @rule()
    def drop_first(self) -> None:
        expected = self.waiting.pop(0).entry if self.waiting else None
        assert self.outbox.drop_first() is expected

    @rule()
    def first(self) -> None:
        assert self.outbox.first() is (self.waiting[0].entry if self.waiting else None)

    @invariant()
    def sums(self) -> None:
        outbox = self.outbox
        under_way = self.unconfirmed + self.in_flight
        assert len(outbox) == len(self.waiting) + len(self.urgent) + len(under_way)
        assert outbox.in_flight == len(self.in_flight)
        assert outbox.unconfirmed == len(self.unconfirmed)
        assert outbox.under_way == len(under_way)
        assert outbox.bytes_flying == sum(len(item.message.data) for item in under_way)
        assert outbox.waiting or outbox.urgent or not (self.waiting or self.urgent)


TestModel = OutboxModel.TestCase
TestModel.settings = settings(max_examples=100, stateful_step_count=40)


class _Interrupts(Timed):
    """Ctrl-C comes while it is taken, the first time."""

    def fresh(self, reading: float) -> Message | None:
        if self.expires:
            self.expires = 0.0
            raise KeyboardInterrupt
        return self.message


def test_an_interrupt_while_messages_are_taken_loses_none_and_no_number() -> None:
    outbox = Outbox()
    messages = [Message(b"%d" % number) for number in range(4)]
    outbox.waiting.extend(messages[:2])
    assert outbox.take(10, 1000, 0.0).number == 0
    outbox.sent(2)
    outbox.waiting += [messages[2], _Interrupts(messages[3], 1.0)]
    with pytest.raises(KeyboardInterrupt):
        outbox.take(10, 1000, 0.0)
    outbox.disconnect()
    repeated = outbox.take(10, 1000, 0.0)
    assert (repeated.messages, repeated.number, repeated.repeated) == (messages[:2], 0, True)
    new = outbox.take(10, 1000, 0.0)
    assert (new.messages, new.number, new.repeated) == (messages[2:], 2, False)
    assert len(outbox) == 4
