"""What becomes of a change when the server does not get it, or its answer gets lost.

Each change is tried again and again; each time another one of the commands that
it sends fails, or is done and fails to tell so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from snakemq.exceptions import StorageUnavailable
from snakemq.message import Message
from snakemq.storage import MemoryQueuesStorage, QueuesStorageBase, Removal
from snakemq.storage.mongodb import MongoDbQueuesStorage
from tests.helpers import wait_until
from tests.servers.mongodb import mongodb, mongodb_client, mongodb_server

__all__ = ["mongodb", "mongodb_client", "mongodb_server"]


pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Not here: the client, which all tests share, keeps connections for the next one."""


#: More commands than any change here sends.
MANY = 30

COMMANDS = {
    "aggregate", "bulk_write", "count_documents", "delete_many", "delete_one", "find", "find_one",
    "insert_many", "insert_one", "replace_one", "update_many", "update_one",
}  # fmt: skip


class Faults:
    """Lets one command fail."""

    def __init__(self) -> None:
        self.left = 0
        self.done_first = False
        self.happened = False

    def plan(self, step: int, *, done_first: bool) -> None:
        self.left, self.done_first, self.happened = step, done_first, False

    def call(self, command: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        from pymongo.errors import AutoReconnect

        self.left -= 1
        if self.left:
            return command(*args, **kwargs)
        self.happened = True
        if self.done_first:
            command(*args, **kwargs)
        raise AutoReconnect("the connection broke")


class Collection:
    """Stands before a collection."""

    def __init__(self, real: Any, faults: Faults) -> None:
        self._real = real
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name not in COMMANDS:
            return found
        return lambda *args, **kwargs: self._faults.call(found, *args, **kwargs)

    def with_options(self, **options: Any) -> Collection:
        return Collection(self._real.with_options(**options), self._faults)


class Name(NamedTuple):
    """Of a queue and peer that only one attempt uses."""

    text: str

    def items(self, *texts: str, ttl: float | None = None) -> list[tuple[str, Message]]:
        return [(self.text, message) for message in self.messages(*texts, ttl=ttl)]

    def messages(self, *texts: str, ttl: float | None = None) -> list[Message]:
        return [Message(text.encode(), ttl, 1, text.encode()) for text in texts]


def stored(storage: QueuesStorageBase, name: Name) -> object:
    """All that there is of one name."""
    return (
        [(message.data, message.ttl) for message in storage.get_items(name.text)],
        [(each.messages, each.bytes) for each in storage.summarize() if each.name == name.text],
        [(i.message.data, i.attempts) for i in storage.get_inbox() if i.ident == name.text],
        [(i.message.data, i.attempts) for i in storage.get_dead() if i.ident == name.text],
        list(dict.fromkeys(storage.load_received(name.text))),
    )


def inbox(storage: QueuesStorageBase, name: Name) -> list[int]:
    return [item.id for item in storage.get_inbox() if item.ident == name.text]


def dead(storage: QueuesStorageBase, name: Name) -> list[int]:
    return [letter.id for letter in storage.get_dead() if letter.ident == name.text]


def prepare(storage: QueuesStorageBase, name: Name) -> None:
    storage.change_items(name.items("q1", "q2", "q3", ttl=8.0))
    storage.push_inbox(name.text, name.messages("i1", "i2", "i3"), keep=50)
    storage.bury(inbox(storage, name)[0], "tired of it")


def page(storage: QueuesStorageBase, name: Name) -> list[int]:
    return [each.position for each in storage.get_page(name.text, 0, max_messages=9, max_bytes=999)]


Change = Callable[[QueuesStorageBase, Name], Callable[[], object]]

#: Each looks up first what it needs.
CHANGES: dict[str, Change] = {
    "push": lambda s, n: lambda: s.push(*n.items("new")[0]),
    "push_many": lambda s, n: lambda: s.push_many(n.items("new", "newer")),
    "push_and_remove": lambda s, n: (
        lambda removal: lambda: s.change_items(n.items("new"), [removal])
    )(Removal(n.text, page(s, n)[:2], 4)),
    "push_inbox": lambda s, n: lambda: s.push_inbox(n.text, n.messages("i4", "i5"), keep=50),
    "push_inbox_one": lambda s, n: lambda: s.push_inbox(n.text, n.messages("i4"), keep=50),
    "bury": lambda s, n: (lambda ids: lambda: s.bury(ids[0], "too"))(inbox(s, n)),
    "retry": lambda s, n: (lambda ids: lambda: s.retry_dead(ids))(dead(s, n)),
}

#: These may have been made when they are said to have failed. They are made by
#: the thread that may wait, or made again.
REPEATED: dict[str, Change] = {
    "remove": lambda s, n: (lambda removal: lambda: s.change_items([], [removal], sync=False))(
        Removal(n.text, page(s, n)[:2], 4)
    ),
    "remove_items": lambda s, n: lambda: s.remove_items(n.text, n.messages("q1", "q3")),
    "delete_items": lambda s, n: lambda: s.delete_items(n.messages("q1", "q3")),
    "advance_ttl": lambda s, n: lambda: s.advance_ttl(n.text, 0.5),
    "take_expired": lambda s, n: (
        lambda: [each.message.data for each in s.take_expired(n.text, 8.0, 0, 2)]
    ),
    "advance_inbox": lambda s, n: (lambda ids: lambda: s.advance_inbox(*ids))(inbox(s, n)),
    "drop": lambda s, n: (lambda ids: lambda: s.drop_dead(ids))(dead(s, n)),
    "add_received": lambda s, n: lambda: s.add_received(n.text, [b"x", b"y"], keep=50, sync=True),
}


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def storage(
    mongodb: Any, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MongoDbQueuesStorage]:
    with MongoDbQueuesStorage(database=mongodb.name, client=mongodb.client) as opened:
        server = opened._server
        real = server.collection
        # What the lease does in its own thread does not count.
        monkeypatch.setattr(opened._lease, "_server", _Untouched(server, real))
        monkeypatch.setattr(server, "collection", lambda name: Collection(real(name), faults))
        yield opened


class _Untouched:
    """A server of which the collections are the real ones."""

    def __init__(self, server: Any, collection: Callable[[str], Any]) -> None:
        self._server = server
        self.collection = collection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


def expected(change: Change) -> tuple[object, object]:
    """What there is before and after it, if nothing fails."""
    storage = MemoryQueuesStorage()
    name = Name("peer")
    prepare(storage, name)
    before = stored(storage, name)
    change(storage, name)()
    return before, stored(storage, name)


@pytest.mark.parametrize("done_first", [False, True], ids=["not done", "done"])
@pytest.mark.parametrize("what", [*CHANGES, *REPEATED])
def test_who_can_wait_has_it_done_once(
    storage: MongoDbQueuesStorage, faults: Faults, what: str, done_first: bool
) -> None:
    change = (CHANGES | REPEATED)[what]
    _, after = expected(change)
    for step in range(1, MANY):
        name = Name(f"peer {step}")
        prepare(storage, name)
        run = change(storage, name)
        faults.plan(step, done_first=done_first)
        run()
        if not faults.happened:
            assert step > 1
            break
        wait_until(lambda: storage._calls._away is None)
        assert stored(storage, name) == after, f"step {step}"
    else:
        raise AssertionError(f"more than {MANY} commands")


@pytest.mark.parametrize("done_first", [False, True], ids=["not done", "done"])
@pytest.mark.parametrize("what", CHANGES)
def test_what_is_said_to_have_failed_has_changed_nothing(
    storage: MongoDbQueuesStorage, faults: Faults, what: str, done_first: bool
) -> None:
    change = CHANGES[what]
    before, after = expected(change)
    failures = 0
    for step in range(1, MANY):
        name = Name(f"peer {step}")
        prepare(storage, name)
        run = change(storage, name)
        faults.plan(step, done_first=done_first)
        storage.may_wait = lambda: False
        try:
            run()
        except StorageUnavailable:
            right = before
            failures += 1
        else:
            right = after
        storage.may_wait = lambda: True
        if not faults.happened:
            break
        wait_until(lambda: storage._calls._away is None)
        assert stored(storage, name) == right, f"step {step}"
    else:
        raise AssertionError(f"more than {MANY} commands")
    assert failures
