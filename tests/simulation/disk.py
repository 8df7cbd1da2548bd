"""The disk of a simulated machine: what is left when a process dies, and when the power fails.

A :class:`Disk` is the list of everything that was ever written to it, in order,
and the storage that results from that. A process reaches it through a
:class:`DiskStorage`, which ends with the process. So a killed process leaves
all that it wrote; a power failure takes back any number of the last changes
that were not made durable; and a lost disk or a restored backup is a shorter
list.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from snakemq.message import Message
from snakemq.storage import (
    DeadLetter,
    InboxItem,
    MemoryQueuesStorage,
    QueuesStorageBase,
    QueueSummary,
    Removal,
    StoredItem,
)

#: When a process can die at an access to its disk: before it; when the change is
#: made but does not survive a power failure yet; when it is over.
BEFORE: Final = "before"
MADE: Final = "made"
AFTER: Final = "after"
MOMENTS: Final = (BEFORE, MADE, AFTER)


class Change(NamedTuple):
    """Something that was written: which method was called, and how."""

    method: str
    args: tuple[Any, ...]
    options: dict[str, Any]

    def apply(self, storage: QueuesStorageBase) -> Any:
        return getattr(storage, self.method)(*self.args, **self.options)


class Disk:
    """What a machine keeps.

    :param make: makes the storage that everything is in
    """

    def __init__(self, make: Callable[[], QueuesStorageBase] = MemoryQueuesStorage) -> None:
        self._make = make
        self.content = make()
        self._changes: list[Change] = []
        self._durable = 0  # so many of them a power failure leaves

    def __len__(self) -> int:
        """How many changes were made to it."""
        return len(self._changes)

    @property
    def late(self) -> list[Change]:
        """The changes that a power failure may take back."""
        return self._changes[self._durable :]

    def change(self, change: Change) -> Any:
        result = change.apply(self.content)
        self._changes.append(change)
        return result

    def sync(self) -> None:
        """All changes are durable from now on."""
        self._durable = len(self._changes)

    def fail_power(self, rng: random.Random) -> None:
        """Take back some of the changes that are not durable, the last ones first."""
        self.revert(rng.randint(self._durable, len(self._changes)))

    def revert(self, size: int) -> None:
        """Be again as after the first ``size`` changes; 0: be a new disk."""
        del self._changes[size:]
        self._durable = len(self._changes)
        self.content.close()
        self.content = self._make()
        for change in self._changes:
            change.apply(self.content)

    def close(self) -> None:
        """Nobody will look at it again."""
        self.content.close()


class DiskStorage(QueuesStorageBase):
    """The storage of one process.

    :param disk: where everything is
    :param access: ``func(method, moment)``, called at each moment at which the
        process may die; it raises something if it does. A ``change_items``
        that only removes is called ``remove_items`` there.
    :param changed: ``func(method, args, result)``, called when something was written
    """

    keeps_received = True
    has_pages = True

    def __init__(
        self,
        disk: Disk,
        access: Callable[[str, str], object],
        changed: Callable[[str, tuple[Any, ...], Any], object] = lambda method, args, result: None,
    ) -> None:
        self._disk = disk
        self._access = access
        self._changed = changed

    def _read(self, method: str, *args: object, **options: object) -> Any:
        self._access(method, BEFORE)
        result = getattr(self._disk.content, method)(*args, **options)
        self._access(method, AFTER)
        return result

    def _change(
        self,
        method: str,
        *args: object,
        late: bool = False,
        what: str | None = None,
        **options: object,
    ) -> Any:
        what = what or method
        self._access(what, BEFORE)
        result = self._disk.change(Change(method, args, options))
        self._changed(method, args, result)
        self._access(what, MADE)
        if not late:
            self._disk.sync()
        self._access(what, AFTER)
        return result

    def close(self) -> None:
        # The disk stays: there may be another process.
        self._access("close", BEFORE)
        self._access("close", AFTER)

    def get_queues(self) -> list[str]:
        return self._read("get_queues")

    def get_items(self, queue_name: str) -> list[Message]:
        return self._read("get_items", queue_name)

    def push(self, queue_name: str, item: Message) -> None:
        self._change("push", queue_name, copy.copy(item))

    def push_many(self, entries: Iterable[tuple[str, Message]]) -> None:
        self._change("push_many", [(name, copy.copy(item)) for name, item in entries])

    def remove_items(self, queue_name: str, items: Iterable[Message]) -> None:
        self._change("remove_items", queue_name, [copy.copy(item) for item in items])

    def delete_items(self, items: Sequence[Message]) -> None:
        self._change("delete_items", [copy.copy(item) for item in items])

    def delete_all(self) -> None:
        self._change("delete_all")

    def update_items_ttl(self, items: Sequence[Message]) -> None:
        self._change("update_items_ttl", [copy.copy(item) for item in items])

    def advance_ttl(self, queue_name: str, seconds: float) -> None:
        self._change("advance_ttl", queue_name, seconds)

    def summarize(self) -> list[QueueSummary]:
        return self._read("summarize")

    def last_position(self) -> int:
        return self._read("last_position")

    def get_page(
        self, queue_name: str, after: int, *, max_messages: int, max_bytes: int
    ) -> list[StoredItem]:
        return self._read(
            "get_page", queue_name, after, max_messages=max_messages, max_bytes=max_bytes
        )

    def change_items(
        self,
        push: Sequence[tuple[str, Message]],
        remove: Sequence[Removal] = (),
        *,
        sync: bool = True,
    ) -> list[int]:
        copies = [(name, copy.copy(item)) for name, item in push]
        removals = [each._replace(positions=list(each.positions)) for each in remove]
        # There is always room for what only takes something away.
        what = "change_items" if copies else "remove_items"
        return self._change("change_items", copies, removals, late=not sync, what=what, sync=sync)

    def next_expiry(self, queue_name: str, after: int = 0) -> float | None:
        return self._read("next_expiry", queue_name, after)

    def take_expired(
        self, queue_name: str, seconds: float, after: int, max_messages: int
    ) -> list[StoredItem]:
        return self._change("take_expired", queue_name, seconds, after, max_messages, late=True)

    def oldest(self, queue_name: str) -> float | None:
        return self._read("oldest", queue_name)

    def received_peers(self) -> list[str]:
        return self._read("received_peers")

    def load_received(self, ident: str) -> list[bytes]:
        return self._read("load_received", ident)

    def add_received(self, ident: str, uuids: Iterable[bytes], *, keep: int, sync: bool) -> None:
        self._change("add_received", ident, list(uuids), late=not sync, keep=keep, sync=sync)

    def sync(self) -> None:
        self._access("sync", BEFORE)
        self._disk.sync()
        self._access("sync", AFTER)

    def push_inbox(self, ident: str, messages: Iterable[Message], *, keep: int) -> list[int]:
        copies = [copy.copy(message) for message in messages]
        return self._change("push_inbox", ident, copies, keep=keep)

    def get_inbox(self, after: int = 0, limit: int | None = None) -> list[InboxItem]:
        return self._read("get_inbox", after, limit)

    def advance_inbox(self, done: int | None, starting: int | None) -> None:
        self._change("advance_inbox", done, starting, late=True)

    def uncount_attempt(self, item_id: int) -> None:
        self._change("uncount_attempt", item_id, late=True)

    def bury(self, item_id: int, reason: str) -> None:
        self._change("bury", item_id, reason)

    def get_dead(self, after: int = 0, limit: int | None = None) -> list[DeadLetter]:
        return self._read("get_dead", after, limit)

    def count_dead(self) -> int:
        return self._read("count_dead")

    def add_dead(self, letters: Iterable[DeadLetter]) -> None:
        copies = [each._replace(message=copy.copy(each.message)) for each in letters]
        self._change("add_dead", copies)

    def retry_dead(self, ids: Sequence[int] | None) -> list[InboxItem]:
        return self._change("retry_dead", ids)

    def drop_dead(self, ids: Sequence[int] | None) -> int:
        return self._change("drop_dead", ids)


class OldDiskStorage(DiskStorage):
    """The same, written for snakeMQ 1.6: it knows nothing of pages and the receiving side."""

    keeps_received = False
    has_pages = False
