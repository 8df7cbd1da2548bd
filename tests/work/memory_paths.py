"""What things hold in memory: large messages on their way, a backlog, idle connections."""

from __future__ import annotations

import contextlib
import gc
import socket
import struct
import tracemalloc
from collections.abc import Callable, Iterator

from benchmarks.counting import MemoryShare
from snakemq import Peer, ReceivedMessage
from snakemq._core.features import DeliveryFeature, Feature, encode_features
from tests.helpers import wait_until
from tests.work.paths import Measured, path
from tests.work.stepped import stepped_pair

MEBIBYTE = 1024 * 1024


def handler(received: list[bytes]) -> Callable[[ReceivedMessage], object]:
    """What bob does with a message: keep its data, and no copy."""
    return lambda message: received.append(message.data)


def _large(size: int) -> Measured:
    """What each end holds of one message at most, payload included, as a multiple of it."""
    received: list[bytes] = []
    with stepped_pair(bob={"on_message": handler(received)}) as (alice, bob):
        sender, receiver = MemoryShare(), MemoryShare()

        def step() -> bool:
            for _ in range(20):
                sender.run(alice.peer.link.step, 0)
                receiver.run(bob.peer.link.step, 0)
            return bool(received)

        tracemalloc.start()
        try:
            data = sender.run(bytes, size)
            sender.run(alice.peer.send, "bob", data)
            wait_until(step)
        finally:
            tracemalloc.stop()
    assert received == [data]
    # It depends on the pieces in which the system hands it over.
    return (
        Measured(1)
        .add("sender: of the payload", sender.peak / size, 0.2)
        .add("receiver: of the payload", receiver.peak / size, 0.2)
    )


@path("memory, a message of 1 MiB")
def one_mebibyte() -> Measured:
    return _large(MEBIBYTE)


@path("memory, a message of 64 MiB")
def many_mebibytes() -> Measured:
    return _large(64 * MEBIBYTE)


@path("memory, backlog")
def backlog() -> Measured:
    """Of transient messages for a peer that is away, their data included."""
    count = 5000
    peer = Peer("alice")
    tracemalloc.start()
    try:
        peer.send("bob", bytes(100))
        before = _traced()
        for _ in range(count):
            peer.send("bob", bytes(100))
        grown = _traced() - before
    finally:
        tracemalloc.stop()
        peer.stop(drain=0)
    return Measured(count).add("bytes for a message of 100", grown / count, 10)


@path("memory, idle connections")
def idle_connections() -> Measured:
    """On the side that listens, as far as Python has allocated it."""
    count = 100
    peer = Peer("bob", listen=0)
    tracemalloc.start()
    try:
        with contextlib.ExitStack() as others:
            _connect(peer, others, "first", 10)
            before = _traced()
            _connect(peer, others, "other", count)
            grown = _traced() - before
    finally:
        tracemalloc.stop()
        peer.stop(drain=0)
    return Measured(count).add("bytes for each", grown / count, 400)


def _connect(peer: Peer, others: contextlib.ExitStack, name: str, count: int) -> None:
    there = len(peer.peers)
    for number in range(count):
        others.enter_context(_silent(peer, f"{name} {number}"))

    def all_there() -> bool:
        for _ in range(20):
            peer.link.step(0)
        return len(peer.peers) == there + count

    wait_until(all_there)


@contextlib.contextmanager
def _silent(peer: Peer, name: str) -> Iterator[None]:
    """Somebody who says hello as a peer of this version, and nothing more."""
    features = {Feature.DELIVERY: DeliveryFeature(1000, MEBIBYTE).encode(), Feature.CALLS: b""}
    frames = (b"\0\0\0\0\1", b"\2" + name.encode(), b"\6" + encode_features(features))
    with socket.create_connection(peer.addresses[0]) as sock:
        sock.sendall(b"".join(struct.pack("!I", len(frame)) + frame for frame in frames))
        yield


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
