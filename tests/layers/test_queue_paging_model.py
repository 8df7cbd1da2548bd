"""Two queues over a storage, of which pages are in memory, against plain lists.

The pages are tiny here, the clock is the test's, and the storage fails for a while now
and then. Whatever is done: messages come out in the order in which they went in, each of
them leaves once, and all that is counted is right after each step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from snakemq import _queue
from snakemq.exceptions import QueueFull, StorageError
from snakemq.limits import DropReason, QueueLimits, WhenFull
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.queues import Queue, QueuesManager
from snakemq.storage import MemoryQueuesStorage, Removal, StoredItem
from tests.layers.paging_support import Storage16

NAMES = ("a", "b")

SMALL = {
    "PAGE_MESSAGES": 3,
    "PAGE_BYTES": 20,
    "WINDOW_MESSAGES": 4,
    "WINDOW_BYTES": 30,
    "_EXPIRED_AT_ONCE": 2,
}

#: What is close enough in seconds, and what the queues themselves round.
EPSILON = 1e-5


class FailingStorage(MemoryQueuesStorage):
    """Fails in the methods that the test names."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: frozenset[str] = frozenset()
        #: how often a method has failed
        self.failures: dict[str, int] = {}

    def fail(self, method: str) -> None:
        if method in self.failing:
            self.failures[method] = self.failures.get(method, 0) + 1
            raise StorageError(f"{method} fails")

    def change_items(
        self,
        push: Sequence[tuple[str, Message]],
        remove: Sequence[Removal] = (),
        *,
        sync: bool = True,
    ) -> list[int]:
        self.fail("change_items")
        return super().change_items(push, remove, sync=sync)

    def get_page(
        self, queue_name: str, after: int, *, max_messages: int, max_bytes: int
    ) -> list[StoredItem]:
        self.fail("get_page")
        return super().get_page(queue_name, after, max_messages=max_messages, max_bytes=max_bytes)

    def take_expired(
        self, queue_name: str, seconds: float, after: int, max_messages: int
    ) -> list[StoredItem]:
        self.fail("take_expired")
        return super().take_expired(queue_name, seconds, after, max_messages)

    def next_expiry(self, queue_name: str, after: int = 0) -> float | None:
        self.fail("next_expiry")
        return super().next_expiry(queue_name, after)

    def advance_ttl(self, queue_name: str, seconds: float) -> None:
        self.fail("advance_ttl")
        super().advance_ttl(queue_name, seconds)


class PlainStorage(Storage16):
    """Never fails."""

    failing: frozenset[str] = frozenset()


METHODS = ("change_items", "get_page", "take_expired", "next_expiry", "advance_ttl")


@dataclass(eq=False)
class Item:
    """A message, with its history."""

    serial: int
    data: bytes
    persistent: bool
    #: the flag is set; with TTL 0 it is not stored all the same
    flagged: bool
    #: reading of the queue's clock when its time is over
    expires: float
    zero: bool = False
    urgent: bool = False
    #: an earlier process had it
    inherited: bool = False
    #: this process has told of it as sent
    told: bool = False
    #: how it was announced, if it was sent to a peer that knows numbers
    number: int | None = None

    @property
    def sent_before(self) -> bool:
        return self.inherited or self.told


@dataclass
class Model:
    """A queue."""

    waiting: list[Item] = field(default_factory=list)
    urgent: list[Item] = field(default_factory=list)
    in_flight: list[Item] = field(default_factory=list)
    unconfirmed: list[Item] = field(default_factory=list)
    connected: bool = False
    was_connected: bool = False
    confirms_all: bool = True
    #: for how long the peer was away
    reading: float = 0.0
    #: before this, what is on the disk need not have expired, because it could
    #: not be read
    complete_from: float = 0.0

    @property
    def all(self) -> list[Item]:
        return self.unconfirmed + self.in_flight + self.urgent + self.waiting


class PagingModel(RuleBasedStateMachine):
    """See above."""

    make_storage: type[FailingStorage] | type[PlainStorage] = FailingStorage

    def __init__(self) -> None:
        super().__init__()
        self.patch = mock.patch.multiple(_queue, **SMALL)
        self.patch.start()
        self.now = 100.0
        self.storage = self.make_storage()
        self.serial = 0
        self.failed: Exception | None = None
        #: what has left while it could not be removed from the storage
        self.undead: dict[int, tuple[str, Item]] = {}
        self.by_data: dict[bytes, tuple[str, Item]] = {}
        self.limits = QueueLimits()
        self.open()

    def teardown(self) -> None:
        try:
            self.heal()
            self.settle()
        finally:
            self.patch.stop()

    def open(self) -> None:
        self.models = {name: Model() for name in NAMES}
        self.manager = QueuesManager(self.storage, clock=lambda: self.now)
        self.manager.limits = self.limits
        self.manager.on_items_dropped = self.dropped

    def queue(self, name: str) -> Queue:
        return self.manager.get_queue(name)

    # What the queues tell.

    def dropped(self, name: str, messages: list[Message], reason: DropReason) -> None:
        try:
            self.check_dropped(name, messages, reason)
        except Exception as exc:
            # What a callback raises is logged only.
            self.failed = exc
            raise

    def check_dropped(self, name: str, messages: list[Message], reason: DropReason) -> None:
        model = self.models[name]
        assert messages
        for message in messages:
            owner, item = self.by_data[message.data]
            assert owner == name
            if reason is DropReason.EXPIRED:
                if not item.zero:
                    assert item.expires <= model.reading + EPSILON, "not yet"
                # When it could not be read before, it is found when it is to be sent.
                assert not model.connected or item.persistent
                place = model.urgent if item.urgent else model.waiting
            else:
                place = model.waiting
                oldest = next(
                    other
                    for other in place
                    if other.persistent == item.persistent
                    # What is found expired with it is told afterwards.
                    and (other is item or other.expires > model.reading)
                )
                assert item is oldest
            assert item in place, "it has left already, or is under way"
            place.remove(item)
            self.left(name, item)

    def left(self, name: str, item: Item) -> None:
        if item.persistent:
            self.undead[item.serial] = (name, item)

    # Going in.

    @initialize(counts=st.tuples(*[st.sampled_from([0, 2, 7, 12])] * 2))
    def start_with_a_backlog(self, counts: tuple[int, int]) -> None:
        for name, count in zip(NAMES, counts, strict=True):
            if count:
                self.push_many([(name, True, 5.0 if i % 4 == 3 else None, 6) for i in range(count)])
        self.restart(closed=True)

    def make(self, name: str, persistent: bool, ttl: float | None, size: int) -> Message:
        self.serial += 1
        data = (b"%d:" % self.serial).ljust(size, b".")
        expires = math.inf if ttl is None else self.models[name].reading + ttl
        zero = ttl == 0
        item = Item(self.serial, data, persistent and not zero, persistent, expires, zero)
        self.by_data[data] = (name, item)
        return Message(data, ttl=ttl, flags=FLAG_PERSISTENT if persistent else 0)

    def accept(self, message: Message) -> None:
        name, item = self.by_data[message.data]
        model = self.models[name]
        if not item.zero or model.connected:
            model.waiting.append(item)

    def report(self) -> None:
        """As messaging does it when it is asked to attend."""
        for name in NAMES:
            queue = self.manager.queues.get(name)
            if queue is not None:
                queue.report_drops()

    @rule(
        entries=st.lists(
            st.tuples(
                st.sampled_from(NAMES),
                st.booleans(),
                st.sampled_from([None, None, 0.0, 2.0, 10.0]),
                st.integers(4, 12),
            ),
            min_size=1,
            max_size=8,
        )
    )
    def push_many(self, entries: list[tuple[str, bool, float | None, int]]) -> None:
        messages = [self.make(*entry) for entry in entries]
        try:
            if len(entries) == 1:
                is_queued = self.queue(entries[0][0]).push(messages[0])
                assert is_queued == (entries[0][2] != 0 or self.models[entries[0][0]].connected)
            else:
                self.manager.push_many(
                    [(entry[0], message) for entry, message in zip(entries, messages, strict=True)]
                )
        except QueueFull:
            assert self.is_limited
        except StorageError:
            assert self.storage.failing
        else:
            self.report()
            for message in messages:
                self.accept(message)
        self.report()

    @rule(name=st.sampled_from(NAMES), size=st.integers(4, 12))
    def push_urgent(self, name: str, size: int) -> None:
        model = self.models[name]
        message = self.make(name, False, 0.0, size)
        item = self.by_data[message.data][1]
        item.urgent = True
        try:
            is_queued = self.queue(name).push_urgent(message)
        except QueueFull:
            assert self.is_limited
        else:
            assert is_queued == model.connected
            self.report()
            if is_queued:
                model.urgent.append(item)
        self.report()

    # Going out.

    @rule(name=st.sampled_from(NAMES), confirms_all=st.sampled_from([True, True, False]))
    def connect_or_disconnect(self, name: str, confirms_all: bool) -> None:
        if self.models[name].connected:
            self.disconnect(name)
        else:
            self.connect(name, confirms_all)

    def connect(self, name: str, confirms_all: bool) -> None:
        model = self.models[name]
        queue = self.queue(name)
        queue.connect()
        self.check_expired(name)
        model.connected = model.was_connected = True
        model.confirms_all = confirms_all
        queue.expect_confirmations(of_all=confirms_all)

    def disconnect(self, name: str) -> None:
        model = self.models[name]
        model.connected = False
        if not model.confirms_all:
            for item in model.all:
                item.number = None
        for item in model.in_flight:
            if not item.told:
                item.number = None
        model.waiting = model.unconfirmed + model.in_flight + model.waiting
        model.unconfirmed, model.in_flight = [], []
        for item in [item for item in model.waiting if item.urgent]:
            # It is not urgent any more, and goes for another reason.
            item.urgent = False
        self.queue(name).disconnect()
        assert not [item for item in model.all if item.zero]
        self.check_expired(name)

    @precondition(lambda self: any(model.connected for model in self.models.values()))
    @rule(
        name=st.sampled_from(NAMES),
        max_count=st.integers(1, 9),
        max_bytes=st.integers(1, 60),
        urgent_only=st.sampled_from([False, False, False, True]),
    )
    def take(self, name: str, max_count: int, max_bytes: int, urgent_only: bool) -> None:
        model = self.models[name]
        if not model.connected:
            return
        queue = self.queue(name)
        taken = queue.take_urgent(max_bytes) if urgent_only else queue.take(max_count, max_bytes)
        self.report()
        assert len(taken.messages) <= (max_count if not urgent_only else 1000)
        size = 0
        for index, message in enumerate(taken.messages):
            assert size < max_bytes
            size += len(message.data)
            _, item = self.by_data[message.data]
            place = model.urgent if item.urgent else model.waiting
            assert place, "nothing waits there"
            assert place[0] is item, "it is not the next one"
            if item.urgent:
                assert not any(i.sent_before for i in model.waiting[:1])
            place.pop(0)
            model.in_flight.append(item)
            self.check_taken(model, item, message)
            if item.inherited:
                assert index < taken.stored, "it may have been sent by an earlier process"
            if item.told:
                assert taken.repeated or index < taken.stored, "it was sent"
            number = taken.number + index
            if taken.repeated:
                assert item.number == number
            if model.confirms_all:
                item.number = number
        if not urgent_only and not taken.messages:
            waits = model.waiting or model.urgent
            assert not waits or "get_page" in self.storage.failing

    def check_taken(self, model: Model, item: Item, message: Message) -> None:
        if item.zero:
            assert message.ttl == 0
        elif item.expires == math.inf:
            assert message.ttl is None
        else:
            assert message.ttl == pytest.approx(item.expires - model.reading, abs=EPSILON)
            assert message.ttl > 0, "it has expired"

    @rule(
        name=st.sampled_from(NAMES), sent=st.integers(0, 9), confirmed=st.sampled_from([0, 1, 3, 9])
    )
    def go_on(self, name: str, sent: int, confirmed: int) -> None:
        self.sent(name, sent)
        self.confirmed(name, confirmed)

    def sent(self, name: str, count: int) -> None:
        model = self.models[name]
        count = min(count, len(model.in_flight))
        if not count:
            return
        told, left = self.queue(name).sent(count)
        items, model.in_flight = model.in_flight[:count], model.in_flight[count:]
        assert [m.data for m in told] == [item.data for item in items if not item.told]
        leaving = [item for item in items if not model.confirms_all and not item.flagged]
        assert [m.data for m in left] == [item.data for item in leaving]
        for item in items:
            item.told = True
            if item not in leaving:
                model.unconfirmed.append(item)

    def confirmed(self, name: str, count: int) -> None:
        model = self.models[name]
        count = min(count, len(model.unconfirmed))
        if not count:
            return
        items, model.unconfirmed = model.unconfirmed[:count], model.unconfirmed[count:]
        for item in items:
            self.left(name, item)
        messages = self.queue(name).confirmed(count)
        assert [m.data for m in messages] == [item.data for item in items]

    # Time.

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 10.0]))
    def advance(self, seconds: float) -> None:
        self.now += seconds
        for name, model in self.models.items():
            if not model.connected and name in self.manager.queues:
                model.reading += seconds

    @rule(name=st.sampled_from(NAMES))
    def expire(self, name: str) -> None:
        """What a timer does, as often as it is set anew for now."""
        queue = self.queue(name)
        for _ in range(1000):
            queue.expire()
            when = queue.next_expiry()
            if when is None or when > self.now:
                break
        else:
            raise AssertionError("the timer is set anew for ever")
        self.check_expired(name)

    def check_expired(self, name: str) -> None:
        """Nothing is left whose time is over; unless it could not be read."""
        model = self.models[name]
        if self.storage.failing:
            model.complete_from = model.reading + _queue._RETRY
        if model.reading >= model.complete_from and not model.connected:
            assert not [i for i in model.waiting if i.expires <= model.reading]

    @rule(name=st.sampled_from(NAMES))
    def forget(self, name: str) -> None:
        model = self.models[name]
        queue = self.manager.queues.get(name)
        if queue is not None:
            assert queue.forget() == (not model.connected and not model.all)
            if name not in self.manager.queues:
                self.models[name] = Model()

    # The storage.

    @precondition(lambda self: isinstance(self.storage, FailingStorage))
    @rule(methods=st.sets(st.sampled_from(METHODS), min_size=1))
    def fail_or_heal(self, methods: set[str]) -> None:
        if self.storage.failing:
            self.heal()
        else:
            self.storage.failing = frozenset(methods)

    def heal(self) -> None:
        if self.storage.failing:
            self.storage.failing = frozenset()
            for model in self.models.values():
                model.complete_from = model.reading + _queue._RETRY

    @precondition(lambda self: not self.storage.failing)
    @rule()
    def settle(self) -> None:
        self.manager.upkeep()
        assert not self.manager.is_behind
        self.check_content()
        self.undead.clear()

    def check_content(self) -> None:
        for name, model in self.models.items():
            expected = sorted((i for i in model.all if i.persistent), key=lambda i: i.serial)
            assert [m.data for m in self.storage.get_items(name)] == [i.data for i in expected]

    @precondition(lambda self: not self.storage.failing)
    @rule(closed=st.booleans())
    def restart(self, closed: bool) -> None:
        if closed:
            self.manager.close()
            self.check_content()
            self.undead.clear()
        old = self.models
        self.open()
        for name, model in self.models.items():
            expected = {item.serial: item for item in old[name].all if item.persistent}
            back = {s: item for s, (owner, item) in self.undead.items() if owner == name}
            last = -1
            for message in self.storage.get_items(name):
                owner, item = self.by_data[message.data]
                assert owner == name
                assert item.serial > last, "not in order"
                last = item.serial
                assert expected.pop(last, None) is not None or last in back
                if message.ttl is not None:
                    left = item.expires - old[name].reading
                    assert message.ttl >= max(0, left) - EPSILON
                    if closed and last not in back:
                        assert message.ttl <= max(0.0, left) + EPSILON or old[name].connected
                expires = math.inf if message.ttl is None else message.ttl
                again = Item(last, item.data, True, True, expires, inherited=True)
                self.by_data[item.data] = (name, again)
                model.waiting.append(again)
            assert not expected, "something that was accepted is lost"
        self.undead.clear()

    # Limits.

    @property
    def is_limited(self) -> bool:
        return self.limits != QueueLimits()

    @rule(limited=st.booleans(), policy=st.sampled_from([WhenFull.REFUSE, WhenFull.DROP_OLDEST]))
    def limit(self, limited: bool, policy: WhenFull) -> None:
        self.limits = (
            QueueLimits(
                max_messages=5,
                max_stored_messages=8,
                max_stored_bytes=90,
                total_stored_messages=12,
                when_full=policy,
            )
            if limited
            else QueueLimits()
        )
        self.manager.limits = self.limits

    # What is always so.

    @invariant()
    def counters_are_right(self) -> None:
        self.report()
        assert self.failed is None
        totals = {True: [0, 0], False: [0, 0]}
        for name, model in self.models.items():
            queue = self.manager.queues.get(name)
            items = model.all
            if queue is None:
                assert not items
                continue
            assert len(queue) == len(items)
            for persistent, part in ((False, queue), (True, queue.stored)):
                some = [item for item in items if item.persistent == persistent]
                size = sum(len(item.data) for item in some)
                assert (part.messages, part.bytes) == (len(some), size)
                totals[persistent][0] += len(some)
                totals[persistent][1] += size
            assert queue.in_flight == len(model.in_flight)
            assert queue.flying()[1] == len(model.in_flight) + len(model.unconfirmed)
            under_way = model.in_flight + model.unconfirmed
            assert queue.flying()[2] == sum(len(item.data) for item in under_way)
            if model.waiting or model.urgent:
                assert queue.waiting
        room, stored_room = self.manager.room, self.manager.stored_room
        assert [room.messages, room.bytes] == totals[False]
        assert [stored_room.messages, stored_room.bytes] == totals[True]

    @invariant()
    def little_is_in_memory(self) -> None:
        for name, queue in self.manager.queues.items():
            stored = queue.stored
            assert 0 <= stored.unloaded <= stored.messages
            assert stored.unloaded or not stored._tail
            model = self.models[name]
            if not model.connected and not model.was_connected:
                # But what was looked at to be dropped.
                assert stored.messages - stored.unloaded <= SMALL["PAGE_MESSAGES"]


class PlainPagingModel(PagingModel):
    """Likewise over a storage that has no more than 1.6 asks for."""

    make_storage = PlainStorage


TestPagingModel = pytest.mark.slow(PagingModel.TestCase)
TestPagingModel.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

TestPlainPagingModel = pytest.mark.slow(PlainPagingModel.TestCase)
TestPlainPagingModel.settings = settings(TestPagingModel.settings, max_examples=50)
