"""The paths of messages, small and large, in memory and on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.counting import Meter, Statements
from snakemq import Peer
from tests.work.paths import Measured, directory, path
from tests.work.stepped import Stepped, step_until, stepped_pair

SMALL = bytes(64)
KIBIBYTE = bytes(1024)
MEBIBYTE = bytes(1024 * 1024)


def handler(received: list[object]) -> Callable[[object], object]:
    """What bob does with a message: no call of a function written in Python."""
    return received.append


class _OneWay(NamedTuple):
    """From alice to bob, who counts what comes."""

    alice: Stepped
    bob: Stepped
    received: list[object]

    def measure(self, count: int, send: Callable[[Peer], object]) -> Measured:
        """Send ``count`` messages, until all are acknowledged, and count."""
        caller = Meter()
        with caller:
            send(self.alice.peer)
        step_until(self._is_done(count), self.alice, self.bob)
        return Measured(
            count,
            {
                "caller": caller.work,
                "sender's loop": self.alice.meter.work,
                "receiver's loop": self.bob.meter.work,
            },
        )

    def _is_done(self, count: int) -> Callable[[], bool]:
        return lambda: len(self.received) >= count and not self.alice.peer.queued()


@contextlib.contextmanager
def _one_way(
    alice: dict[str, Any] | None = None, bob: dict[str, Any] | None = None
) -> Iterator[_OneWay]:
    received: list[object] = []
    options = {**(bob or {}), "on_message": handler(received)}
    with stepped_pair(alice, options) as (one, other):
        yield _OneWay(one, other, received)


def _each(data: bytes, count: int) -> Callable[[Peer], object]:
    def send(alice: Peer) -> None:
        for _ in range(count):
            alice.send("bob", data)

    return send


def _in_batches(data: bytes, count: int, size: int) -> Callable[[Peer], object]:
    batch = [("bob", data)] * size

    def send(alice: Peer) -> None:
        for _ in range(count // size):
            alice.send_messages(batch)

    return send


@path("small")
def small() -> Measured:
    """One after the other, before the loop comes to it."""
    with _one_way() as way:
        return way.measure(1000, _each(SMALL, 1000)).calls_of_each().system_calls_of_each()


@path("small, batches")
def small_batches() -> Measured:
    with _one_way() as way:
        return (
            way.measure(1000, _in_batches(SMALL, 1000, 100)).calls_of_each().system_calls_of_each()
        )


@path("large")
def large() -> Measured:
    """A mebibyte each."""
    with _one_way() as way:
        measured = way.measure(20, _each(MEBIBYTE, 20))
    # How much the system takes and gives at once is its own affair.
    return measured.calls_of_each(spare=0.3).system_calls_of_each(spare=0.5)


def _durable(count: int, send: Callable[[Peer], object]) -> Measured:
    with directory() as place, Statements() as counted, _sender_with_storage(place) as way:
        before = counted.commits
        measured = way.measure(count, send).calls_of_each()
        measured.add(f"commits for {count:,}", counted.commits - before, 2)
    return measured


@contextlib.contextmanager
def _sender_with_storage(place: Path) -> Iterator[_OneWay]:
    with _one_way({"storage": place / "alice.db"}) as way:
        yield way


@path("durable")
def durable() -> Measured:
    """One after the other, each on the disk when ``send`` returns."""
    return _durable(30, _each(KIBIBYTE, 30))


@path("durable, batches")
def durable_batches() -> Measured:
    return _durable(1024, _in_batches(KIBIBYTE, 1024, 256))


@path("durable receive")
def durable_receive() -> Measured:
    """What comes waits in the storage of the receiver until it is handled."""
    count = 1024
    with (
        directory() as place,
        Statements() as counted,
        _one_way(bob={"storage": place / "bob.db", "durable_receive": True}) as way,
    ):
        before = counted.commits
        measured = way.measure(count, _in_batches(KIBIBYTE, count, 256)).calls_of_each()
        # How many arrive at once, and are stored at once, depends on when the loop comes.
        measured.add(f"commits for {count:,}", counted.commits - before, 8)
    return measured
