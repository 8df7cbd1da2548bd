"""``snakemq queues`` in a process of its own."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from snakemq.message import Message
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.integration.command_line import run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with dead letters 1, 3 and 4, and one message in the inbox, 2."""
    path = tmp_path / "bob.db"
    with SqliteQueuesStorage(path) as storage:
        messages = [
            Message(b"plain", 60, 1, b"uuid 1"),
            Message(b"waits"),
            Message(b"\xff" * 1000, None),
            Message(b"\xc5\xbe", None),
        ]
        storage.push_inbox("alice", messages[:3], keep=10)
        storage.push_inbox("žluťoučký \x1b[1m", messages[3:], keep=10)
        for item_id in (4, 1, 3):
            storage.advance_inbox(None, item_id)
            storage.bury(item_id, f"ValueError: number {item_id}\nsecond line")
        storage.advance_inbox(None, 2)
    return path


def dead(path: Path) -> list[int]:
    with SqliteQueuesStorage(path, create=False) as storage:
        return [letter.id for letter in storage.get_dead()]


def inbox(path: Path) -> list[tuple[int, bytes, int]]:
    with SqliteQueuesStorage(path, create=False) as storage:
        return [(item.id, item.message.data, item.attempts) for item in storage.get_inbox()]


def test_dead_letters_are_listed(path: Path) -> None:
    with SqliteQueuesStorage(path) as storage:  # as in a program that runs
        died = {
            letter.id: datetime.fromtimestamp(letter.died_at).isoformat(" ", "seconds")
            for letter in storage.get_dead()
        }
        done = run("queues", path, "dead")
    assert (done.returncode, done.stderr) == (0, "")
    ident = "žluťoučký \\x1b[1m"
    pad = " " * (len(ident) - 5)
    assert done.stdout.splitlines() == [
        f"id  from {pad}  attempts  died                 bytes  reason",
        f" 1  alice{pad}         1  {died[1]}      5  ValueError: number 1\\nsecond line",
        f" 3  alice{pad}         1  {died[3]}   1000  ValueError: number 3\\nsecond line",
        f" 4  {ident}         1  {died[4]}      2  ValueError: number 4\\nsecond line",
    ]


def test_dead_letters_as_json(path: Path) -> None:
    done = run("queues", path, "dead", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    with SqliteQueuesStorage(path) as storage:
        assert [record.pop("died_at") for record in records] == [
            letter.died_at for letter in storage.get_dead()
        ]
    assert records[0] == {
        "id": 1,
        "ident": "alice",
        "uuid": b"uuid 1".hex(),
        "attempts": 1,
        "reason": "ValueError: number 1\nsecond line",
        "ttl": 60.0,
        "flags": 1,
        "text": "plain",
    }
    assert (records[1]["ttl"], records[1]["base64"][:4]) == (None, "////")
    assert (records[2]["ident"], records[2]["text"]) == ("žluťoučký \x1b[1m", "ž")


def test_a_file_without_dead_letters(path: Path) -> None:
    with SqliteQueuesStorage(path) as storage:
        storage.drop_dead(None)
    done = run("queues", path, "dead")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no dead letters\n")
    done = run("queues", path, "dead", "--json")
    assert (done.returncode, done.stdout) == (0, "")
    done = run("queues", path, "dead", "--retry", "all")
    assert (done.returncode, done.stdout) == (0, "put back into the inbox: 0\n")
    done = run("queues", path, "dead", "--drop", 1)
    assert done.returncode == 1
    assert "no such dead letter: 1; there are: none" in done.stderr


def test_some_are_tried_again(path: Path) -> None:
    done = run("queues", path, "dead", "--retry", 4, 1)
    assert (done.returncode, done.stdout) == (0, "put back into the inbox: 2\n")
    with SqliteQueuesStorage(path) as storage:
        storage.push_inbox("alice", [Message(b"new")], keep=10)
    assert dead(path) == [3]
    assert inbox(path) == [
        (2, b"waits", 1),
        (5, b"plain", 0),
        (6, "ž".encode(), 0),
        (7, b"new", 0),
    ]


def test_all_are_tried_again(path: Path) -> None:
    done = run("queues", path, "dead", "--retry", "all")
    assert (done.returncode, done.stdout) == (0, "put back into the inbox: 3\n")
    assert dead(path) == []
    assert len(inbox(path)) == 4


def test_some_or_all_are_dropped(path: Path) -> None:
    done = run("queues", path, "dead", "--drop", 3)
    assert (done.returncode, done.stdout) == (0, "deleted: 1\n")
    assert dead(path) == [1, 4]
    done = run("queues", path, "dead", "--drop", "all")
    assert (done.returncode, done.stdout) == (0, "deleted: 2\n")
    assert dead(path) == []
    assert inbox(path) == [(2, b"waits", 1)]


@pytest.mark.parametrize("option", ["--retry", "--drop"])
def test_a_wrong_number_is_told_and_nothing_is_done(path: Path, option: str) -> None:
    done = run("queues", path, "dead", option, 1, 2, 77)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "snakemq queues: no such dead letter: 2, 77; there are: 1, 3, 4. Nothing was done\n"
    )
    assert dead(path) == [1, 3, 4]
    assert inbox(path) == [(2, b"waits", 1)]


def test_not_all_of_the_right_numbers_are_told_if_there_are_many(path: Path) -> None:
    with SqliteQueuesStorage(path) as storage:
        for item_id in storage.push_inbox("alice", [Message(b"")] * 100, keep=10):
            storage.bury(item_id, "tired of it")
    done = run("queues", path, "dead", "--drop", 2**70)
    assert done.returncode == 1
    assert f"no such dead letter: {2**70}; there are: 1, 3, 4, 5, 6," in done.stderr
    assert "21 and 83 more. Nothing was done" in done.stderr


def test_what_is_no_storage_is_refused(tmp_path: Path) -> None:
    missing, empty, foreign, text = (tmp_path / name for name in ("a.db", "b.db", "c.db", "d.db"))
    empty.touch()
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    text.write_text("hello")
    before = foreign.read_bytes()
    for path, problem in (
        (missing, f"there is no queue storage {str(missing)!r}; check the name"),
        (empty, f"there is no queue storage in {str(empty)!r}"),
        (foreign, f"there is no queue storage in {str(foreign)!r}"),
        (text, "is not an SQLite database"),
        (tmp_path, "is a directory"),
    ):
        done = run("queues", path, "dead")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("snakemq queues: ")
        assert problem in done.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b.db", "c.db", "d.db"]
    assert (empty.read_bytes(), foreign.read_bytes()) == (b"", before)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "arguments are required: STORAGE, ACTION"),
        (("bob.db",), "arguments are required: ACTION"),
        (("bob.db", "alive"), "alive"),
        (("bob.db", "dead", "--retry"), "argument --retry: expected at least one argument"),
        (("bob.db", "dead", "--retry", "x"), "argument --retry: 'x' is no number, nor 'all'"),
        (("bob.db", "dead", "--retry", "1", "--drop", "2"), "not allowed with argument"),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...], problem: str) -> None:
    done = run("queues", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr


def test_help() -> None:
    done = run("queues", "--help")
    assert done.returncode == 0
    assert "snakemq queues alice.db move postgresql" in done.stdout
