"""More of remote calls: functions, futures, deadlines, streams, types.

Prints::

    first of 3 futures: 10
    in time: False
    and the method was told: True
    squares: [0, 1, 4, 9]
    only two: [0, 1]
    bob serves: slow(n), squares(n), thermometer.read(room)
    kitchen: 21.5
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Protocol

from snakemq import Peer, current_call
from snakemq.rpc import PartialCall

bob = Peer("bob", listen=0)
told = threading.Event()
seen = threading.Event()


@bob.function
def squares(n):
    """What a generator yields is streamed: it goes on as somebody reads."""
    for number in range(n):
        yield number * number


@bob.function
def slow(n):
    """A method can find out that nobody waits for it any more."""
    call = current_call()
    if n > 10 and call.wait_cancelled(30):
        told.set()
        seen.wait(30)  # what is returned now is too late in any case
    return n * 10


class Thermometer:
    """Served as an object."""

    def read(self, room):
        return {"kitchen": 21.5}[room]


bob.serve(Thermometer(), "thermometer")


class ThermometerInterface(Protocol):
    """What a type checker is to know of it."""

    def read(self, room: str) -> float: ...


with bob, Peer("alice", connect=bob.addresses) as alice:
    there = alice.proxy("bob")

    # Futures are those of concurrent.futures. Nothing waits, until somebody asks.
    futures = [there.slow.future(n) for n in (1, 2, 3)]
    print("first of 3 futures:", futures[0].result(timeout=30))

    # A deadline is for the whole call, with everything that it may take.
    try:
        there.slow.with_options(timeout=1)(11)
        print("in time: True")
    except PartialCall:
        print("in time: False")
    print("and the method was told:", told.wait(30))
    seen.set()

    # Streams are iterators. One that is not read to its end is closed, over there, too.
    stream: Iterator[int] = there.squares(4)
    print("squares:", list(stream))
    with there.squares(1_000_000) as endless:
        print("only two:", list(itertools.islice(endless, 2)))

    # Everybody can ask what there is to call.
    names = [
        (f"{entry['name']}." if entry["kind"] == "object" else "")
        + method["name"]
        + method["signature"]
        for entry in alice.rpc_client.describe("bob", timeout=30)
        for method in entry["methods"]
    ]
    print("bob serves:", ", ".join(sorted(names)))

    # And with an interface, a type checker knows what comes back.
    thermometer = alice.proxy("bob", "thermometer", ThermometerInterface)
    print("kitchen:", thermometer.read("kitchen"))
