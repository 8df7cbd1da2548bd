"""Keepalive, backoff, token bucket and TTL: time comes in as an argument."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemq._core.backoff import Backoff
from snakemq._core.keepalive import Action, Keepalive
from snakemq._core.token_bucket import TokenBucket
from snakemq._core.ttl import ExpiryHeap, OfflineClock, Timed
from snakemq.message import Message

# Keepalive.


def test_silence_is_answered_by_a_ping_and_then_given_up() -> None:
    keepalive = Keepalive(now=100.0)
    assert keepalive.deadline(10, 2) == 110
    assert keepalive.handle_deadline(109, 10, 2) is Action.NOTHING
    assert keepalive.handle_deadline(110, 10, 2) is Action.PING
    assert keepalive.deadline(10, 2) == 112
    assert keepalive.handle_deadline(111, 10, 2) is Action.NOTHING
    assert keepalive.handle_deadline(112, 10, 2) is Action.DEAD


def test_anything_received_is_a_sign_of_life() -> None:
    keepalive = Keepalive(now=0.0)
    assert not keepalive.received(5.0)
    assert keepalive.handle_deadline(10, 10, 2) is Action.NOTHING
    assert keepalive.handle_deadline(15, 10, 2) is Action.PING
    assert keepalive.received(16.0), "the deadline is another now"
    assert keepalive.deadline(10, 2) == 26
    assert keepalive.handle_deadline(17, 10, 2) is Action.NOTHING
    assert keepalive.handle_deadline(26, 10, 2) is Action.PING


def test_a_ping_that_has_not_left_is_waited_for_longer() -> None:
    keepalive = Keepalive(now=0.0)
    keepalive.postpone(5.0)
    assert keepalive.handle_deadline(10, 10, 2) is Action.PING
    keepalive.postpone(11.5)
    assert keepalive.handle_deadline(12, 10, 2) is Action.NOTHING
    assert keepalive.handle_deadline(13.5, 10, 2) is Action.DEAD


# Backoff.


@given(st.floats(0.01, 100), st.floats(0.01, 300), st.integers())
def test_delays_grow_to_the_cap_and_are_drawn_from_the_upper_half(
    first: float, cap: float, seed: int
) -> None:
    backoff = Backoff(first, cap=cap, rng=random.Random(seed))
    nominal = first
    for _ in range(20):
        assert nominal / 2 <= backoff.next_delay() <= nominal
        nominal = min(nominal * 2, max(first, cap))
    backoff.reset()
    assert first / 2 <= backoff.next_delay() <= first


def test_a_thousand_peers_do_not_come_back_in_step() -> None:
    delays = sorted(Backoff(3.0, rng=random.Random(seed)).next_delay() for seed in range(1000))
    in_any_tenth_of_a_second = max(
        sum(start <= delay < start + 0.1 for delay in delays) for start in delays
    )
    assert in_any_tenth_of_a_second < 150


# Token bucket.


def test_a_bucket_starts_empty_and_fills_with_time() -> None:
    bucket = TokenBucket(100, now=0.0)
    assert bucket.available(0.0, 50) == 0
    assert bucket.available(0.1, 50) == 10
    bucket.take(10)
    assert bucket.available(0.1, 50) == 0
    assert bucket.delay_until(5) == pytest.approx(0.05)


def test_a_bucket_runs_over() -> None:
    bucket = TokenBucket(100, now=0.0)
    assert bucket.available(10.0, 50) == 50


def test_a_debt_is_paid_back() -> None:
    bucket = TokenBucket(100, now=0.0)
    bucket.take(30)
    assert bucket.available(0.2, 50) == 0
    assert bucket.available(0.5, 50) == 20


def test_the_slowest_rate_sends_a_byte_now_and_then() -> None:
    bucket = TokenBucket(0.5, now=0.0)
    assert bucket.available(2.0, 0.02) == 1


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(100, now=10.0)
    assert bucket.available(5.0, 50) == 0
    assert bucket.available(10.25, 50) == 25


# TTL.


def test_the_offline_clock_runs_only_while_the_peer_is_away() -> None:
    clock = OfflineClock(now=100.0)
    assert clock.reading(103.0) == 3
    clock.stop(104.0)
    assert clock.reading(200.0) == 4
    assert clock.time_of(10.0, 200.0) is None
    clock.start(300.0)
    clock.start(305.0)  # is running
    assert clock.reading(306.0) == 10
    assert clock.time_of(15.0, 306.0) == 311


def test_the_heap_gives_what_expires_first_and_keeps_the_order_of_equals() -> None:
    heap = ExpiryHeap()
    entries = [Timed(Message(b"%d" % i), e) for i, e in enumerate([5.0, 1.0, 5.0, 3.0])]
    for entry in entries:
        heap.push(entry)
    assert heap.next_expiry() == 1.0
    heap.discard(entries[1])
    assert len(heap) == 3
    assert heap.next_expiry() == 3.0
    assert list(heap.pop_expired(2.9)) == []
    assert list(heap.pop_expired(5.0)) == [entries[3], entries[0], entries[2]]
    assert heap.next_expiry() is None
    assert len(heap) == 0


def test_what_is_sent_does_not_stay_in_the_heap() -> None:
    heap = ExpiryHeap()
    for number in range(10_000):
        entry = Timed(Message(b""), float(number))
        heap.push(entry)
        heap.discard(entry)
    assert len(heap) == 0
    assert len(heap._heap) < 200


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.integers(0, 5)),
            st.tuples(st.just("discard"), st.integers(0, 200)),
            st.tuples(st.just("expire"), st.integers(0, 5)),
        ),
        max_size=60,
    )
)
def test_the_heap_is_a_sorted_list(steps: list[tuple[str, int]]) -> None:
    heap = ExpiryHeap()
    there: list[Timed] = []  # in the order in which they came
    for what, number in steps:
        if what == "push":
            there.append(Timed(Message(b""), float(number)))
            heap.push(there[-1])
        elif what == "discard" and there:
            heap.discard(there.pop(number % len(there)))
        elif what == "expire":
            expired = sorted(
                (entry for entry in there if entry.expires <= number),
                key=lambda entry: entry.expires,
            )
            popped = list(heap.pop_expired(float(number)))
            assert [*map(id, popped)] == [*map(id, expired)]
            assert all(entry.message is not None for entry in popped)
            there = [entry for entry in there if entry.expires > number]
        assert len(heap) == len(there)
        assert heap.next_expiry() == min((entry.expires for entry in there), default=None)


def test_a_thousand_with_the_same_ttl_come_and_go() -> None:
    heap = ExpiryHeap()
    entries = [Timed(Message(b""), float(number)) for number in range(1000)]
    for entry in entries:
        heap.push(entry)
    for entry in entries[10:990]:
        heap.discard(entry)
    assert len(heap) == 20
    assert list(heap.pop_expired(1e9)) == entries[:10] + entries[990:]
    assert heap.next_expiry() is None


def test_what_remains_of_a_ttl() -> None:
    message = Message(b"data", ttl=10)
    entry = Timed(message, expires=15.0)
    assert entry.fresh(5.0) is message
    later = entry.fresh(8.5)
    assert later is not None
    assert (later.ttl, later.uuid, message.ttl) == (6.5, message.uuid, 10)
    entry.message = None
    assert entry.fresh(0.0) is None
