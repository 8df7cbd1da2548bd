"""What the tests of a storage are made of: opening, reopening, comparing."""

from __future__ import annotations

import unittest
from collections.abc import Iterable
from functools import partial

from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage import QueuesStorageBase, QueueSummary, Removal, StoredItem

__all__ = [
    "DEADLINE",
    "Broken",
    "BrokenMessage",
    "StorageSuite",
    "all_pages",
    "expect",
    "expect_ttls",
    "facts",
    "message",
    "page",
    "removal",
]

#: How long threads wait for each other, in seconds, before a test fails.
DEADLINE = 60.0


class StorageSuite:
    """Opens storages for tests and closes them afterwards."""

    #: Opening it again after :meth:`close` finds what was stored.
    persistent: bool = True

    #: A batch that fails leaves nothing behind. The ``push_many`` of the base
    #: class can't promise that.
    atomic: bool = True

    #: Of items that are stored more than once, ``remove_items`` removes one.
    #: The ``remove_items`` of the base class can't promise that.
    removes_one: bool = True

    #: May be used by several threads at the same time.
    thread_safe: bool = True

    #: How many items the test of a long queue stores. Fewer make it quicker.
    long_queue: int = 20_000

    #: How many changes each of the tests of a long history makes. Likewise.
    long_history: int = 200

    _opened: list[QueuesStorageBase]

    def open_storage(self) -> QueuesStorageBase:
        """Open the storage under test. To be written by the subclass.

        Empty at the first call in each test; at each further call in it, with
        the content that the last one left.
        """
        raise NotImplementedError

    def setup_method(self) -> None:
        """Before each test; a subclass that has its own calls this one."""
        self._opened = []

    def teardown_method(self) -> None:
        """After each test; a subclass that has its own calls this one."""
        for storage in self._opened:
            storage.close()

    def _open(self) -> QueuesStorageBase:
        storage = self.open_storage()
        self._opened.append(storage)
        return storage

    def _reopen(self, storage: QueuesStorageBase) -> QueuesStorageBase:
        """As after a restart, if the storage is one that survives it."""
        if not self.persistent:
            return storage
        storage.close()
        self._opened.remove(storage)
        return self._open()

    def _needs(self, promise: bool, what: str) -> None:
        if not promise:
            raise unittest.SkipTest(f"this storage does not promise: {what}")


#: An item to store.
message = partial(Message, ttl=60.0, flags=FLAG_PERSISTENT)


def facts(items: list[Message]) -> list[tuple[bytes, float | None, int, bytes]]:
    """What is stored of items, in a form that can be compared."""
    return [(item.data, item.ttl, item.flags, item.uuid) for item in items]


class Broken(Exception):
    """Raised by what a test hands to a storage."""


class BrokenMessage(Message):
    """A message that can't be read."""

    @property
    def uuid(self) -> bytes:
        raise Broken

    @uuid.setter
    def uuid(self, value: bytes) -> None:
        pass


def removal(queue_name: str, items: Iterable[StoredItem]) -> Removal:
    """What takes these items out of their queue."""
    stored = list(items)
    size = sum(len(item.message.data) for item in stored)
    return Removal(queue_name, [item.position for item in stored], size)


def page(
    storage: QueuesStorageBase, name: str, after: int = 0, *, max_messages: int = 1_000_000
) -> list[StoredItem]:
    """So many items of a queue, whatever their size."""
    return storage.get_page(name, after, max_messages=max_messages, max_bytes=1 << 40)


def all_pages(storage: QueuesStorageBase, name: str, max_messages: int) -> list[StoredItem]:
    """A queue, read in pages of so many items."""
    found: list[StoredItem] = []
    while True:
        more = page(storage, name, found[-1].position if found else 0, max_messages=max_messages)
        if not more:
            return found
        found += more


def expect(storage: QueuesStorageBase, expected: dict[str, list[Message]]) -> None:
    """Check that these items are stored, in these queues and nothing else.

    In a storage that has pages, all that can be read has to agree.
    """
    names = sorted(storage.get_queues())
    wanted = sorted(expected)
    assert names == wanted, f"the queues are {names}, not {wanted}"
    for name, items in expected.items():
        _expect_items(name, storage.get_items(name), items)
        if storage.has_pages:
            stored = page(storage, name)
            positions = [item.position for item in stored]
            assert positions == sorted(set(positions)), f"the positions are {positions}"
            assert not positions or positions[-1] <= storage.last_position()
            _expect_items(f"{name} (page)", [item.message for item in stored], items)
    if storage.has_pages:
        counted = sorted(storage.summarize())
        right = [
            QueueSummary(name, len(items), sum(len(item.data) for item in items))
            for name, items in sorted(expected.items())
        ]
        assert counted == right, f"the summary is {counted}, not {right}"


def _expect_items(name: str, items: list[Message], expected: list[Message]) -> None:
    found, right = facts(items), facts(expected)
    if found == right:
        return
    assert len(found) == len(right), (
        f"queue {name!r} has {len(found)} items instead of {len(right)}"
    )
    for number, (one, other) in enumerate(zip(found, right, strict=True)):
        assert one == other, (
            f"item {number} of queue {name!r} differs (data, ttl, flags, uuid): "
            f"{_short(one)} instead of {_short(other)}"
        )


def expect_ttls(storage: QueuesStorageBase, name: str, expected: list[float | None]) -> None:
    """Check what remains of the TTLs in a queue, to the millisecond."""
    _expect_ttls(name, storage.get_items(name), expected)
    if storage.has_pages:
        _expect_ttls(name, [item.message for item in page(storage, name)], expected)


def _expect_ttls(name: str, items: list[Message], expected: list[float | None]) -> None:
    found = [item.ttl for item in items]
    right = len(found) == len(expected) and all(
        one is other if one is None or other is None else abs(one - other) < 0.001
        for one, other in zip(found, expected, strict=True)
    )
    assert right, f"what remains of the TTLs in queue {name!r} is {found}, not {expected}"


def _short(fact: tuple[bytes, float | None, int, bytes]) -> str:
    data, *rest = fact
    shown = repr(data) if len(data) <= 60 else f"{data[:60]!r}... ({len(data)} bytes)"
    return f"({', '.join([shown, *map(repr, rest)])})"
