"""One ``storage.db``, used in turn by the real snakeMQ 1.6 and by this package."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage import Removal
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.compat.harness import PythonEnv, run_python

#: What runs in 1.6's process: the methods of its storage, called as its own
#: queues call them. The operations come as JSON, the content goes back so.
PROGRAM = """
import json, sys
from snakemq.message import Message
from snakemq.storage.sqlite import SqliteQueuesStorage

def message(fields):
    data, ttl, flags, uuid = fields
    return Message(bytes.fromhex(data), ttl, flags, bytes.fromhex(uuid))

storage = SqliteQueuesStorage(sys.argv[1])
for name, *arguments in json.loads(sys.argv[2]):
    if name == "push":
        storage.push(arguments[0], message(arguments[1]))
    else:
        getattr(storage, name)([message(fields) for fields in arguments[0]])
found = {
    name: [(m.data.hex(), m.ttl, m.flags, m.uuid.hex()) for m in storage.get_items(name)]
    for name in storage.get_queues()
}
storage.close()
print(json.dumps(found))
"""

Fields = tuple[str, "float | None", int, str]


def fields(item: Message) -> Fields:
    return item.data.hex(), item.ttl, item.flags, item.uuid.hex()


class Old:
    """The storage of 1.6 on this file; each call is a process of its own."""

    def __init__(self, env: PythonEnv, path: Path) -> None:
        self._env = env
        self._path = path

    def __call__(self, *operations: list[Any]) -> dict[str, list[Fields]]:
        """Open the file, do this, and tell what is in it then."""
        arguments = ["-c", PROGRAM, str(self._path), json.dumps(operations)]
        done = run_python(self._env, arguments)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        return {name: [tuple(item) for item in items] for name, items in found.items()}

    def push(self, *entries: tuple[str, Message]) -> dict[str, list[Fields]]:
        return self(*(["push", name, fields(item)] for name, item in entries))

    def delete_items(self, *items: Message) -> dict[str, list[Fields]]:
        return self(["delete_items", [fields(item) for item in items]])

    def update_items_ttl(self, *items: Message) -> dict[str, list[Fields]]:
        return self(["update_items_ttl", [fields(item) for item in items]])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "storage.db"


@pytest.fixture
def old(snakemq16_env: PythonEnv, path: Path) -> Old:
    return Old(snakemq16_env, path)


def content(storage: SqliteQueuesStorage) -> dict[str, list[Fields]]:
    return {
        name: [fields(item) for item in storage.get_items(name)] for name in storage.get_queues()
    }


def entries() -> list[tuple[str, Message]]:
    """Every kind of item, in two queues."""
    return [
        ("alice", Message(b"plain", 60, FLAG_PERSISTENT)),
        ("bob: žluťoučký 🐍", Message(b"unicode", 60, FLAG_PERSISTENT)),
        ("alice", Message(b"", None, FLAG_PERSISTENT)),
        ("alice", Message(bytes(range(256)), 0.125, FLAG_PERSISTENT)),
        ("bob: žluťoučký 🐍", Message(b"\0", 1e9, 0xFFFFFFFF)),
        ("alice", Message(b"short", 5, FLAG_PERSISTENT, b"x")),
        ("alice", Message(b"NULs", 5, FLAG_PERSISTENT, bytes(16))),
        ("alice", Message(b"large" * 200_000, 5, FLAG_PERSISTENT)),
    ]


def grouped(entries: list[tuple[str, Message]]) -> dict[str, list[Fields]]:
    queues: dict[str, list[Fields]] = {}
    for name, item in entries:
        queues.setdefault(name, []).append(fields(item))
    return queues


def falling(count: int, start: int = 0) -> list[Message]:
    """Items whose order by uuid is the reverse of their order."""
    return [
        Message(b"%d" % number, 60.0 + number, FLAG_PERSISTENT, b"%03d" % (999 - number))
        for number in range(start, start + count)
    ]


def test_what_1_6_stored_is_found(old: Old, path: Path) -> None:
    # The large one does not fit on the command line of the other process.
    stored = entries()[:-1]
    assert old.push(*stored) == grouped(stored)
    with SqliteQueuesStorage(path) as storage:
        assert content(storage) == grouped(stored)


def test_1_6_finds_what_was_stored_here(old: Old, path: Path) -> None:
    stored = entries()
    with SqliteQueuesStorage(path) as storage:
        storage.push_many(stored)
    assert old() == grouped(stored)


def test_1_6_keeps_the_order_of_what_was_stored_here(old: Old, path: Path) -> None:
    """It does not ask for an order, so no index of ours may suggest one."""
    items = falling(200)
    with SqliteQueuesStorage(path) as storage:
        storage.push_many((f"peer{number % 2}", item) for number, item in enumerate(items))
    assert old() == {
        "peer0": [fields(item) for item in items[0::2]],
        "peer1": [fields(item) for item in items[1::2]],
    }


def test_1_6_deletes_and_updates_what_was_stored_here(old: Old, path: Path) -> None:
    items = falling(6)
    with SqliteQueuesStorage(path) as storage:
        storage.push_many(("peer", item) for item in items)
    items[4].ttl = None
    items[5].ttl = 1.5
    old.update_items_ttl(items[4], items[5])
    expected = {"peer": [fields(item) for item in items[2:]]}
    assert old.delete_items(*items[:2]) == expected
    with SqliteQueuesStorage(path) as storage:
        assert content(storage) == expected


def test_what_1_6_stored_is_removed_and_updated_here(old: Old, path: Path) -> None:
    items = falling(6)
    old.push(*(("peer", item) for item in items))
    with SqliteQueuesStorage(path) as storage:
        storage.remove_items("peer", items[:1])
        storage.delete_items(items[1:2])
        items[2].ttl = None
        storage.update_items_ttl(items[:3])
        expected = {"peer": [fields(item) for item in items[2:]]}
        assert content(storage) == expected
    assert old() == expected


def test_a_file_that_goes_back_and_forth_keeps_its_order(old: Old, path: Path) -> None:
    """1.6 rewrites the file with VACUUM each time it opens it, which renumbers its rows."""
    items: list[Message] = []
    for turn in range(3):
        new = falling(10, 20 * turn)
        with SqliteQueuesStorage(path) as storage:
            storage.push_many(("peer", item) for item in new)
            items += new
            # Holes at the front, in the middle and at the end.
            gone = [items[0], items[len(items) // 2], items[-1]]
            storage.remove_items("peer", gone)
            items = [item for item in items if item not in gone]
            assert storage.summarize() == [("peer", len(items), size(items))]
        new = falling(10, 20 * turn + 10)
        old.push(*(("peer", item) for item in new))
        items += new
        gone = [items[0], items[len(items) // 2], items[-1]]
        items = [item for item in items if item not in gone]
        assert old.delete_items(*gone) == {"peer": [fields(item) for item in items]}
    with SqliteQueuesStorage(path) as storage:
        assert content(storage) == {"peer": [fields(item) for item in items]}
        assert storage.summarize() == [("peer", len(items), size(items))]
        assert storage.next_expiry("peer") == min(item.ttl for item in items if item.ttl)


def size(items: list[Message]) -> int:
    return sum(len(item.data) for item in items)


def test_a_file_of_1_6_can_be_looked_at_and_stays_one(old: Old, path: Path) -> None:
    stored = entries()[:-1]
    old.push(*stored)
    file = path.read_bytes()
    with SqliteQueuesStorage(path, read_only=True) as look:
        assert content(look) == grouped(stored)
        assert {queue.name: queue.messages for queue in look.summarize()} == {
            name: len(items) for name, items in grouped(stored).items()
        }
    assert path.read_bytes() == file
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_1_6_does_not_mind_what_it_does_not_know(old: Old, path: Path) -> None:
    """A file that shrinks, what the application pushed, the lock of a killed process."""
    items = falling(3)
    with SqliteQueuesStorage(path) as storage:
        storage.push("peer", items[0])
        with closing(sqlite3.connect(path)) as connection:
            storage.push_with(connection, [("peer", items[2])])
            connection.commit()
    path.with_name(f"{path.name}-lock").write_text("process 1\n")
    assert old() == {"peer": [fields(items[0])]}
    old.push(("peer", items[1]))
    with SqliteQueuesStorage(path) as storage:
        # It was not in the queue when 1.6 pushed its own.
        assert content(storage) == {"peer": [fields(item) for item in items]}
        assert [queue.messages for queue in storage.summarize()] == [3]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_a_large_backlog_of_1_6_is_taken_over_by_pages(old: Old, path: Path) -> None:
    items = falling(500)
    old.push(*(("peer", item) for item in items))
    found: list[Message] = []
    with SqliteQueuesStorage(path) as storage:
        after = 0
        while page := storage.get_page("peer", after, max_messages=64, max_bytes=100):
            after = page[-1].position
            found += [item.message for item in page]
            storage.change_items(
                [],
                [
                    Removal(
                        "peer",
                        [item.position for item in page],
                        size([item.message for item in page]),
                    )
                ],
            )
        assert storage.summarize() == []
    assert [fields(item) for item in found] == [fields(item) for item in items]
    assert old() == {}


def test_a_message_that_1_6_stored_twice_is_removed_one_by_one(old: Old, path: Path) -> None:
    item = Message(b"twice", 60, FLAG_PERSISTENT)
    old.push(("alice", item), ("alice", item), ("bob", item))
    with SqliteQueuesStorage(path) as storage:
        storage.remove_items("alice", [item])
    assert old() == grouped([("alice", item), ("bob", item)])


def test_1_6_opens_a_file_after_a_crash_here(old: Old, path: Path, this_env: PythonEnv) -> None:
    """The write-ahead log that a killed process leaves behind is taken over."""
    program = (
        "import os, sys\n"
        "from snakemq.message import Message\n"
        "from snakemq.storage.sqlite import SqliteQueuesStorage\n"
        "storage = SqliteQueuesStorage(sys.argv[1])\n"
        "storage.push('peer', Message(b'data', None, 1, b'id'))\n"
        "os._exit(0)\n"
    )
    assert run_python(this_env, ["-c", program, str(path)]).returncode == 0
    assert path.with_name("storage.db-wal").stat().st_size > 0
    assert old() == {"peer": [(b"data".hex(), None, 1, b"id".hex())]}


def test_1_6_takes_over_ttls_and_gives_them_back(old: Old, path: Path) -> None:
    """It sees the TTL as it was when it was stored, and may only make it shorter."""
    items = [Message(b"%d" % number, ttl, 1) for number, ttl in enumerate((60.0, None, 60.0))]
    with SqliteQueuesStorage(path) as storage:
        storage.push_many(("peer", item) for item in items)
        storage.advance_ttl("peer", 20.0)
        expect_ttls(storage, 40.0, None, 40.0)
    assert old() == {"peer": [fields(item) for item in items]}
    # 30 seconds pass there for one of them, and another one is stored.
    late = Message(b"late", 60.0, 1)
    old.update_items_ttl(items[0].with_ttl(30.0))
    old.push(("peer", late), ("other", late))
    with SqliteQueuesStorage(path) as storage:
        expect_ttls(storage, 10.0, None, 40.0, 60.0)
        storage.advance_ttl("peer", 5.0)
        expect_ttls(storage, 5.0, None, 35.0, 55.0)
        assert [item.ttl for item in storage.get_items("other")] == [60.0]
    assert len(old()["peer"]) == 4
    with SqliteQueuesStorage(path) as storage:
        expect_ttls(storage, 5.0, None, 35.0, 55.0)


def expect_ttls(storage: SqliteQueuesStorage, *expected: float | None) -> None:
    assert [item.ttl for item in storage.get_items("peer")] == list(expected)


def test_what_was_received_survives_1_6(old: Old, path: Path) -> None:
    """It has its way with the file: VACUUM, deletions, insertions."""
    stored = entries()
    with SqliteQueuesStorage(path) as storage:
        storage.push_many(stored)
        uuids = [b"%d" % number for number in range(500)]
        storage.add_received("alice", uuids, keep=400, sync=True)
        messages = [Message(b"%d" % number, 60.0, 1) for number in range(30)]
        ids = storage.push_inbox("bob", messages, keep=400)
        for item_id in ids[:10]:
            storage.advance_inbox(item_id, None)
        for item_id in ids[10:20]:
            storage.advance_inbox(None, item_id)
            storage.bury(item_id, "tired of it")
        before = received(storage)
    for _ in range(2):
        assert old() == grouped(stored)
        one = Message(b"", 5, 1)
        old.push(("alice", one))
        assert old.delete_items(one) == grouped(stored)
    with SqliteQueuesStorage(path) as storage:
        assert received(storage) == before
        assert content(storage) == grouped(stored)
        # The numbers go on where they were.
        for item in storage.get_inbox():
            storage.advance_inbox(item.id, None)
        storage.drop_dead(None)
    assert old() == grouped(stored)
    with SqliteQueuesStorage(path) as storage:
        assert storage.push_inbox("bob", messages[:1], keep=400) == [ids[-1] + 1]


def received(storage: SqliteQueuesStorage) -> list[object]:
    return [
        [storage.load_received(ident) for ident in ("alice", "bob")],
        [(*item[:2], *item[3:], fields(item.message)) for item in storage.get_inbox()],
        [(*letter[:2], *letter[3:], fields(letter.message)) for letter in storage.get_dead()],
    ]
