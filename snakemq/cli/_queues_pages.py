"""Reads what is stored in pages, so that a command takes the same memory for any number."""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from snakemq.cli._queues_table import one_line
from snakemq.storage import (
    DeadLetter,
    InboxItem,
    QueuesStorageBase,
    QueueSummary,
    StoredItem,
)

__all__ = [
    "MAX_BYTES",
    "MAX_MESSAGES",
    "MAX_RECEIVED",
    "choose_queues",
    "dead_pages",
    "get_page",
    "inbox_pages",
    "peer_name",
    "queue_pages",
    "read_tail",
]

#: A page of a queue, and what is written at once.
MAX_MESSAGES: Final = 1000
MAX_BYTES: Final = 4 << 20

#: A page of the inbox or of the dead letters, which has no limit in bytes.
MAX_RECEIVED: Final = 100

T = TypeVar("T", StoredItem, InboxItem, DeadLetter)


def peer_name(text: str) -> str:
    """An argument that can be the name of a peer."""
    try:
        text.encode()
    except UnicodeEncodeError:  # the shell passed other bytes
        raise argparse.ArgumentTypeError(f"{one_line(text)} is no text") from None
    return text


def choose_queues(storage: QueuesStorageBase, peers: Sequence[str]) -> list[QueueSummary]:
    """The queues of some peers; a peer that has none is told.

    :param peers: none: all queues
    """
    queues = sorted(storage.summarize())
    if not peers:
        return queues
    names = {queue.name for queue in queues}
    for peer in peers:
        if peer not in names:
            print(f"no messages for {one_line(peer)}", file=sys.stderr)
    return [queue for queue in queues if queue.name in peers]


def get_page(
    storage: QueuesStorageBase, queue: str, after: int, limit: int = MAX_MESSAGES
) -> list[StoredItem]:
    """The items of a queue that follow a position, not too many."""
    return storage.get_page(queue, after, max_messages=limit, max_bytes=MAX_BYTES)


def queue_pages(
    storage: QueuesStorageBase, queue: str, after: int = 0
) -> Iterator[list[StoredItem]]:
    """All items of a queue."""
    while page := get_page(storage, queue, after):
        yield page
        after = page[-1].position


def inbox_pages(storage: QueuesStorageBase) -> Iterator[list[InboxItem]]:
    """All that is in the inbox."""
    return _numbered_pages(storage.get_inbox)


def dead_pages(storage: QueuesStorageBase, after: int = 0) -> Iterator[list[DeadLetter]]:
    """All dead letters with a higher number."""
    return _numbered_pages(storage.get_dead, after)


def _numbered_pages(read: Callable[[int, int], list[T]], after: int = 0) -> Iterator[list[T]]:
    while page := read(after, MAX_RECEIVED):
        yield page
        after = page[-1][0]


def read_tail(read: Callable[[int, int], Sequence[T]], count: int) -> list[T]:
    """The last items of many, without reading those before them.

    :param read: ``func(after, limit)`` gives items with higher numbers, in
        order; the number is the first field of an item
    :param count: how many, at least 1; less if there are no more
    """
    last = _last_number(read)
    reach = count
    while True:
        after = max(last - reach, 0)
        tail = _read_from(read, after, count)
        if len(tail) == count or after == 0:
            return tail
        # The numbers have gaps, where items of other queues are.
        reach *= 4


def _read_from(read: Callable[[int, int], Sequence[T]], after: int, count: int) -> list[T]:
    tail: deque[T] = deque(maxlen=count)
    while page := read(after, count):
        tail.extend(page)
        after = page[-1][0]
    return list(tail)


def _last_number(read: Callable[[int, int], Sequence[Any]]) -> int:
    """The highest number, found with a number of reads that is its logarithm; 0: none."""
    known = 0
    step = 1
    while page := read(known + step - 1, 1):
        known = page[-1][0]
        step *= 2
    while step:  # nothing is above known + step - 1
        step //= 2
        if page := read(known + step, 1):
            known = page[-1][0]
    return known
