"""``snakemq queues`` on storages in memory: what each verb does, and what it says."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snakemq.cli import _queues_opening, main
from snakemq.cli._queues_pages import MAX_MESSAGES, MAX_RECEIVED, read_tail
from snakemq.exceptions import StorageError, StorageUnavailable
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.queues import QueuesManager
from snakemq.storage import (
    DeadLetter,
    MemoryQueuesStorage,
    QueuesStorageBase,
    QueueSummary,
    Removal,
    StoredItem,
)

NOW = 1_700_000_000.0


class Storage(MemoryQueuesStorage):
    """Notes the largest page that was read, and can fail."""

    def __init__(self) -> None:
        super().__init__(wall_clock=lambda: NOW)
        self.largest_page = 0
        self.options: dict[str, Any] = {}
        #: called in front of each change
        self.before_change: Callable[[], None] = lambda: None

    def get_page(self, *args: Any, **kwargs: Any) -> list[StoredItem]:
        page = super().get_page(*args, **kwargs)
        self.largest_page = max(self.largest_page, len(page))
        return page

    def change_items(self, *args: Any, **kwargs: Any) -> list[int]:
        self.before_change()
        return super().change_items(*args, **kwargs)


class Storages:
    """Storages by name, as a command line opens them."""

    def __init__(self) -> None:
        self.known: dict[str, Storage] = {}

    def __getitem__(self, name: str) -> Storage:
        return self.known.setdefault(name, Storage())

    def open(self, name: str, *, create: bool = True, read_only: bool = False) -> QueuesStorageBase:
        if not create and name not in self.known:
            raise StorageError(f"there is no queue storage {name!r}; check the name")
        storage = self[name]
        storage.options = {"create": create, "read_only": read_only}
        return storage


@pytest.fixture
def storages(monkeypatch: pytest.MonkeyPatch) -> Storages:
    found = Storages()
    monkeypatch.setattr(_queues_opening, "open_storage", found.open)
    return found


class Done:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Done]


@pytest.fixture
def run(storages: Storages, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process."""

    def run(*args: object) -> Done:
        capsys.readouterr()
        status = main(["queues", *map(str, args)])
        return Done(status, *capsys.readouterr())

    return run


def numbered(count: int, **kwargs: Any) -> list[Message]:
    return [
        Message(b"number %d" % number, None, FLAG_PERSISTENT, b"uuid%06d" % number, **kwargs)
        for number in range(count)
    ]


def fill(storage: Storage, queue: str, messages: Iterable[Message]) -> None:
    storage.change_items([(queue, message) for message in messages])


def content(storage: Storage, queue: str) -> list[tuple[bytes, bytes, float | None, int]]:
    return [(item.uuid, item.data, item.ttl, item.flags) for item in storage.get_items(queue)]


def received(storage: Storage) -> list[object]:
    """All that is there of the receiving side, without numbers."""
    inbox = [
        (item.ident, item.message.uuid, item.message.data, item.message.ttl, item.attempts,
         item.message.redelivered)
        for item in storage.get_inbox()
    ]  # fmt: skip
    dead = [
        (letter.ident, letter.message.uuid, letter.message.data, letter.attempts, letter.reason,
         letter.died_at)
        for letter in storage.get_dead()
    ]  # fmt: skip
    memory = {peer: storage.load_received(peer) for peer in storage.received_peers()}
    return [inbox, dead, memory]


def fill_received(storage: Storage, count: int = 3) -> None:
    """Something in the inbox, with the dead letters, and in the memory."""
    for peer in ("dave", "erin"):
        items = [
            Message(b"inbox %d" % number, 100, 5, b"%s%03d" % (peer.encode(), number))
            for number in range(count)
        ]
        items[0].redelivered = True
        numbers = storage.push_inbox(peer, items, keep=1000)
        storage.advance_inbox(None, numbers[0])
        storage.advance_inbox(None, numbers[0])
        letters = storage.push_inbox(
            peer,
            [Message(b"\xff", None, 0, b"%sdead%d" % (peer.encode(), n)) for n in range(count)],
            keep=1000,
        )
        for letter in letters:
            storage.advance_inbox(None, letter)
            storage.bury(letter, "KeyError: 'ž'\nmore")
    storage.add_received(
        "frank", [b"%04d" % number for number in range(2500)], keep=5000, sync=True
    )


class TestLs:
    def test_table(self, storages: Storages, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("time.time", lambda: NOW + 3 * 86400)
        fill(storages["a"], "bob", [Message(b"12345", None), Message(b"123", 7200 + 60)])
        fill(storages["a"], "al\x1b[1m", [Message(b"", None)])
        done = run("a", "ls")
        assert (done.status, done.err) == (0, "")
        header, first, second, total = done.out.splitlines()
        assert header.split() == ["peer", "messages", "bytes", "oldest", "age", "next", "expiry"]
        assert first.split()[0] == "al\\x1b[1m"
        assert first.split()[1:3] == ["1", "0"]
        assert first.endswith("-")
        assert second.split()[:3] == ["bob", "2", "8"]
        assert second.endswith("  3 d          2 h")
        assert total.split() == ["total", "3", "8"]
        assert len(header) == len(first) == len(second)
        assert storages["a"].options == {"create": False, "read_only": True}

    def test_json(self, storages: Storages, run: Run) -> None:
        fill(storages["a"], "bob", [Message(b"12345", 60), Message(b"123", None)])
        storages["a"].advance_ttl("bob", 20)
        fill(storages["a"], "ž", [Message(b"", None)])
        done = run("a", "ls", "--json")
        assert done.status == 0
        assert done.records == [
            {"peer": "bob", "messages": 2, "bytes": 8, "oldest": NOW, "next_expiry": 40.0},
            {"peer": "ž", "messages": 1, "bytes": 0, "oldest": NOW, "next_expiry": None},
        ]

    def test_what_is_not_known(
        self, storages: Storages, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(storages["a"], "bob", [Message(b"", None)])
        monkeypatch.setattr(Storage, "oldest", lambda *args: None)
        assert run("a", "ls").out.splitlines()[1].split() == ["bob", "1", "0", "-", "-", "-"]

    def test_nothing(self, storages: Storages, run: Run) -> None:
        fill_received(storages["a"], 3)
        done = run("a", "ls")
        assert (done.status, done.out) == (0, "")
        assert done.err == "no messages\ndead letters: 6\n"
        done = run("a", "ls", "--json")
        assert (done.status, done.out, done.err) == (0, "", "")

    def test_no_storage(self, run: Run) -> None:
        done = run("a", "ls")
        assert (done.status, done.out) == (1, "")
        assert done.err == "snakemq queues: there is no queue storage 'a'; check the name\n"


class TestShow:
    def test_table(self, storages: Storages, run: Run) -> None:
        fill(
            storages["a"],
            "bob",
            [
                Message(b"hello", 60, 1, b"one"),
                Message("žluť\x1b[1m\r\n".encode(), None, 0xFFFFFFFF, b"two"),
                Message(b"\xff\x00", None, 1, b"three"),
                Message(b"x" * 1000, None, 1, b"four"),
                Message("\u202e".encode() + b"y" * 37, None, 1, b"five"),
                Message(b"", None, 1, b"six"),
            ],
        )
        fill(storages["a"], "carol", [Message(b"hidden", None)])
        done = run("a", "show", "bob")
        assert (done.status, done.err) == (0, "")
        lines = done.out.splitlines()
        assert lines[0].split() == ["position", "uuid", "ttl", "flags", "bytes", "payload"]
        assert [line.split(maxsplit=5) for line in lines[1:]] == [
            ["1", b"one".hex(), "60", "1", "5", "hello"],
            ["2", b"two".hex(), "-", "4294967295", "12", "žluť\\x1b[1m\\r\\n"],
            ["3", b"three".hex(), "-", "1", "2", "\\xff\\x00"],
            ["4", b"four".hex(), "-", "1", "1000", "x" * 37 + "..."],
            ["5", b"five".hex(), "-", "1", "40", "\\u202e" + "y" * 31 + "..."],
            ["6", b"six".hex(), "-", "1", "0"],
        ]
        assert storages["a"].options == {"create": False, "read_only": True}

    def test_pages(self, storages: Storages, run: Run) -> None:
        fill(storages["a"], "bob", numbered(50))

        def positions(done: Done) -> list[int]:
            return [int(line.split()[0]) for line in done.out.splitlines()[1:]]

        done = run("a", "show", "bob")
        assert (positions(done), done.err) == ([*range(1, 21)], "there are more: --after 20\n")
        done = run("a", "show", "bob", "--after", 20, "--limit", 29)
        assert (positions(done), done.err) == ([*range(21, 50)], "there are more: --after 49\n")
        done = run("a", "show", "--after", 49, "bob")
        assert (positions(done), done.err) == ([50], "")
        done = run("a", "show", "bob", "--after", 50)
        assert (done.status, done.out) == (0, "")
        assert done.err == "no messages for bob after position 50\n"

    def test_json(self, storages: Storages, run: Run) -> None:
        fill(storages["a"], "bob", numbered(2 * MAX_MESSAGES + 1))
        fill(storages["a"], "bob", [Message(b"\xff", 5, 3, b"u")])
        done = run("a", "show", "bob", "--json")
        assert (done.status, done.err) == (0, "")
        assert len(done.records) == 2 * MAX_MESSAGES + 2
        assert done.records[1] == {
            "position": 2,
            "uuid": b"uuid000001".hex(),
            "ttl": None,
            "flags": 1,
            "text": "number 1",
        }
        assert done.records[-1]["base64"] == "/w=="
        assert "text" not in done.records[-1]
        done = run("a", "show", "bob", "--json", "--limit", MAX_MESSAGES + 1, "--after", 3)
        assert [record["position"] for record in done.records] == [*range(4, MAX_MESSAGES + 5)]

    def test_any_position(self, storages: Storages, run: Run) -> None:
        fill(storages["a"], "bob", numbered(3))
        assert len(run("a", "show", "bob", "--after", -(10**30), "--json").records) == 3
        assert run("a", "show", "bob", "--after", 10**30, "--json").out == ""
        assert run("a", "show", "bob", "--after", "x").status == 2

    def test_nobody(self, storages: Storages, run: Run) -> None:
        storages["a"]
        done = run("a", "show", "no\x1bbody")
        assert (done.status, done.out, done.err) == (0, "", "no messages for no\\x1bbody\n")
        assert run("a", "show").status == 2
        assert run("a", "show", "bob", "--limit", 0).status == 2


class TestExport:
    def test_everything_that_waits(self, storages: Storages, run: Run) -> None:
        fill(storages["a"], "bob", [Message(b"t\xc5\xbe", 60, 7, b"one"), Message(b"\xff", None)])
        fill(storages["a"], "al", numbered(2 * MAX_MESSAGES + 5))
        fill_received(storages["a"])
        done = run("a", "export")
        assert (done.status, done.err) == (0, "")
        assert len(done.records) == 2 * MAX_MESSAGES + 7
        assert done.records[0] == {
            "peer": "al",
            "uuid": b"uuid000000".hex(),
            "ttl": None,
            "flags": 1,
            "text": "number 0",
        }
        assert done.records[-2] == {
            "peer": "bob",
            "uuid": b"one".hex(),
            "ttl": 60.0,
            "flags": 7,
            "text": "tž",
        }
        assert done.records[-1]["base64"] == "/w=="
        assert storages["a"].largest_page == MAX_MESSAGES
        assert storages["a"].options == {"create": False, "read_only": True}

    def test_some_peers(self, storages: Storages, run: Run) -> None:
        for peer in ("al", "bob", "carol"):
            fill(storages["a"], peer, numbered(1))
        done = run("a", "export", "carol", "al", "nobody")
        assert [record["peer"] for record in done.records] == ["al", "carol"]
        assert (done.status, done.err) == (0, "no messages for nobody\n")

    def test_to_a_file(self, storages: Storages, run: Run, tmp_path: Path) -> None:
        fill(storages["a"], "bob", numbered(3))
        path = tmp_path / "out.jsonl"
        path.write_text("before")
        done = run("a", "export", "--output", path)
        assert (done.status, done.out, done.err) == (0, "exported: 3\n", "")
        assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == [
            "number 0",
            "number 1",
            "number 2",
        ]
        assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]

    @pytest.mark.parametrize("problem", [StorageError("it broke"), KeyboardInterrupt()])
    def test_half_a_file_is_none(
        self, storages: Storages, run: Run, tmp_path: Path, problem: BaseException
    ) -> None:
        fill(storages["a"], "bob", numbered(2 * MAX_MESSAGES))
        path = tmp_path / "out.jsonl"
        path.write_text("before")
        original = storages["a"].get_page

        def fail(queue: str, after: int, **kwargs: Any) -> list[StoredItem]:
            if after:
                raise problem
            return original(queue, after, **kwargs)

        storages["a"].get_page = fail  # type: ignore[method-assign]
        done = run("a", "export", "--output", path)
        assert done.status == (130 if isinstance(problem, KeyboardInterrupt) else 1)
        assert done.err.startswith(f"snakemq queues: nothing was written to {path}; to try again")
        assert path.read_text() == "before"
        assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]

    def test_what_is_no_file_is_not_replaced(
        self, storages: Storages, run: Run, tmp_path: Path
    ) -> None:
        fill(storages["a"], "bob", numbered(3))
        link = tmp_path / "link"
        (tmp_path / "elsewhere").mkdir()
        link.symlink_to(tmp_path / "elsewhere" / "out")
        assert run("a", "export", "--output", link).status == 0
        assert link.is_symlink()
        assert len(link.read_text().splitlines()) == 3
        done = run("a", "export", "--output", tmp_path)
        assert (done.status, done.out) == (1, "")
        assert "directory" in done.err
        done = run("a", "export", "--output", tmp_path / "missing" / "out")
        assert (done.status, done.out) == (1, "")

    def test_all_and_some_make_no_sense(self, run: Run) -> None:
        done = run("a", "export", "bob", "--all")
        assert (done.status, done.err) == (2, "snakemq queues: either PEER ... or --all\n")


class TestImport:
    def test_everything_comes_back(self, storages: Storages, run: Run, tmp_path: Path) -> None:
        source = storages["a"]
        fill(source, "bob", numbered(2 * MAX_MESSAGES + 1))
        fill(source, "carol", [Message(b"\xff\x00", 60, 7, b"1"), Message(b"", None, 0, b"2")])
        fill(source, "bob", numbered(2))
        fill_received(source)
        path = tmp_path / "out.jsonl"
        messages = 2 * MAX_MESSAGES + 5 + 12
        done = run("a", "export", "--all", "--output", path)
        assert (done.status, done.out) == (0, f"exported: {messages}\n")
        done = run("b", "import", path)
        assert (done.status, done.out, done.err) == (0, f"imported: {messages}\n", "")
        target = storages["b"]
        assert sorted(target.get_queues()) == ["bob", "carol"]
        for peer in ("bob", "carol"):
            assert content(target, peer) == content(source, peer)
        assert received(target)[:2] == received(source)[:2]
        for peer in source.received_peers():
            assert set(target.load_received(peer)) == set(source.load_received(peer))
        assert target.load_received("frank") == source.load_received("frank")
        assert target.options == {"create": True, "read_only": False}

    def test_standard_input(
        self, storages: Storages, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for argument in ((), ("-",)):
            lines = b'\n{"peer": "bob", "text": "\\u017e"}\r\n  \n{"peer": "bob", "base64": "/w=="}'
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
            done = run("new", "import", *argument)
            assert (done.status, done.out, done.err) == (0, "imported: 2\n", "")
        found = storages["new"].get_items("bob")
        assert [item.data for item in found] == ["ž".encode(), b"\xff"] * 2
        assert len({item.uuid for item in found}) == 4
        assert {(item.ttl, item.flags) for item in found} == {(None, FLAG_PERSISTENT)}

    def test_answers_to_calls_go_along(self, storages: Storages, run: Run, tmp_path: Path) -> None:
        """What a peer keeps for itself has no name that a peer can have."""
        manager = QueuesManager(storages["a"])
        manager.open_ledger("answers to calls").put(b"k" * 16, b"answer")
        path = tmp_path / "out.jsonl"
        assert run("a", "export", "--output", path).status == 0
        done = run("b", "import", path)
        assert (done.status, done.err) == (0, "")
        ledger = QueuesManager(storages["b"]).open_ledger("answers to calls")
        assert [(key, record) for key, record, _ in ledger.load()] == [(b"k" * 16, b"answer")]

    def test_what_has_expired_is_told_by_the_program(
        self, storages: Storages, run: Run, tmp_path: Path
    ) -> None:
        fill(storages["a"], "bob", [Message(b"old", 5)])
        storages["a"].advance_ttl("bob", 10)
        path = tmp_path / "out.jsonl"
        assert run("a", "export", "--output", path).status == 0
        assert json.loads(path.read_text())["ttl"] == 0
        assert run("b", "import", path).status == 0
        (item,) = storages["b"].get_items("bob")
        assert item.ttl is not None
        assert 0 < item.ttl < 0.01

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            (b"{", "this is not JSON: "),
            (b"\xff", "this is not JSON: "),
            (b"[" * 100_000, "this is not JSON: "),
            (b"[]", "this is not a JSON object"),
            (b'"text"', "this is not a JSON object"),
            (b'{"kind": "letter"}', "unknown 'kind' 'letter'; there are: message, inbox, dead, re"),
            (b'{"kind": []}', "unknown 'kind' []"),
            (b'{"text": "a"}', "'peer' is missing, the name of a peer, 1 to 50 characters"),
            (b'{"peer": 1, "text": "a"}', "'peer' has to be the name of a peer"),
            (b'{"peer": "", "text": "a"}', "'peer' has to be the name of a peer"),
            (b'{"peer": "%s", "text": "a"}' % (b"x" * 51), "'peer' has to be the name of a peer"),
            (b'{"peer": "\\ud800", "text": "a"}', "'peer' is no text: surrogates not allowed"),
            (b'{"peer": "a"}', "it takes the payload, either as 'text' or as 'base64'"),
            (b'{"peer": "a", "text": "a", "base64": "YQ=="}', "it takes the payload, either as"),
            (b'{"peer": "a", "text": 1}', "'text' has to be the payload, not 1"),
            (b'{"peer": "a", "text": "\\ud800"}', "'text' is no text: surrogates not allowed"),
            (b'{"peer": "a", "base64": "a"}', "'base64' is wrong: "),
            (b'{"peer": "a", "base64": "YQ=!"}', "'base64' is wrong: "),
            (b'{"peer": "a", "text": "a", "uuid": ""}', "a uuid has to be 1 to 16 bytes in hex"),
            (b'{"peer": "a", "text": "a", "uuid": "abc"}', "a uuid has to be 1 to 16 bytes in hex"),
            (b'{"peer": "a", "text": "a", "uuid": "\xc5\xbe"}', "a uuid has to be 1 to 16 bytes"),
            (b'{"peer": "a", "text": "a", "uuid": "%s"}' % (b"0" * 34), "a uuid has to be 1 to 16"),
            (b'{"peer": "a", "text": "a", "ttl": -1}', "ttl must be None or at least 0 seconds"),
            (b'{"peer": "a", "text": "a", "ttl": NaN}', "ttl must be None or at least 0 seconds"),
            (b'{"peer": "a", "text": "a", "ttl": 1%s}' % (b"0" * 400), "int too large"),
            (b'{"peer": "a", "text": "a", "ttl": true}', "'ttl' has to be a number of seconds"),
            (b'{"peer": "a", "text": "a", "flags": 4294967296}', "flags must fit into 32 bits"),
            (b'{"peer": "a", "text": "a", "flags": 1.0}', "'flags' has to be a number, not 1.0"),
            (b'{"peer": "a", "text": "a", "tll": 60}', "unknown key 'tll'"),
            (
                b'{"kind": "inbox", "peer": "a", "text": "a", "attempts": -1}',
                "'attempts' has to be",
            ),
            (b'{"kind": "inbox", "peer": "a", "text": "", "redelivered": 1}', "'redelivered' has"),
            (b'{"kind": "dead", "peer": "a", "text": "a"}', "'died_at' is missing"),
            (b'{"kind": "dead", "peer": "a", "text": "a", "died_at": NaN}', "'died_at' has to be"),
            (b'{"kind": "received", "peer": "a", "uuids": ["00", 1]}', "a uuid has to be 1 to 16"),
            (b'{"kind": "received", "peer": "a", "uuids": "00"}', "'uuids' has to be a list"),
        ],
    )
    def test_a_wrong_line(
        self, storages: Storages, run: Run, tmp_path: Path, line: bytes, problem: str
    ) -> None:
        path = tmp_path / "in.jsonl"
        path.write_bytes(b'{"peer": "bob", "text": "fine"}\n' + line + b"\n")
        done = run("a", "import", path)
        assert (done.status, done.out) == (1, "")
        so_far, error = done.err.splitlines()
        assert so_far == (
            "snakemq queues: imported so far: 0 messages, all that is in the first 0 lines; to go"
            " on, repeat it with --skip 0"
        )
        assert error.startswith(f"snakemq queues: {path}, line 2: {problem}")
        assert len(error) < 400
        assert storages["a"].get_queues() == []

    def test_going_on_after_a_wrong_line(
        self, storages: Storages, run: Run, tmp_path: Path
    ) -> None:
        good = [json.dumps({"peer": "bob", "text": str(n)}) for n in range(2 * MAX_MESSAGES + 10)]
        path = tmp_path / "in.jsonl"
        path.write_text("\n".join(["", *good[:-5], "wrong", *good[-5:]]))
        done = run("a", "import", path)
        assert done.status == 1
        assert f"imported so far: {2 * MAX_MESSAGES} messages" in done.err
        assert f"repeat it with --skip {2 * MAX_MESSAGES + 1}\n" in done.err
        assert f"line {len(good) - 3}: this is not JSON" in done.err
        path.write_text("\n".join(["", *good[:-5], "", *good[-5:]]))
        done = run("a", "import", "--skip", 2 * MAX_MESSAGES + 1, path)
        assert (done.status, done.out) == (0, "imported: 10\n")
        assert [item.data.decode() for item in storages["a"].get_items("bob")] == [
            str(n) for n in range(2 * MAX_MESSAGES + 10)
        ]

    def test_the_storage_fails(self, storages: Storages, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "in.jsonl"
        path.write_text('{"peer": "bob", "text": "x"}\n' * (MAX_MESSAGES + 1))

        def fail() -> None:
            if storages["a"].get_queues():
                raise StorageUnavailable("the server is away")

        storages["a"].before_change = fail
        done = run("a", "import", path)
        assert (done.status, done.out) == (1, "")
        assert done.err == (
            f"snakemq queues: imported so far: {MAX_MESSAGES} messages, all that is in the first"
            f" {MAX_MESSAGES} lines; to go on, repeat it with --skip {MAX_MESSAGES}\n"
            "snakemq queues: the server is away\n"
        )

    def test_what_is_there_can_be_left_out(
        self, storages: Storages, run: Run, tmp_path: Path
    ) -> None:
        source = storages["a"]
        fill(source, "bob", numbered(MAX_MESSAGES + 7))
        fill(source, "bob", numbered(1))  # twice the same
        fill(source, "carol", numbered(2))
        fill_received(source)
        path = tmp_path / "out.jsonl"
        assert run("a", "export", "--all", "--output", path).status == 0
        lines = path.read_text().splitlines(keepends=True)
        first = tmp_path / "first.jsonl"
        for count in (MAX_MESSAGES // 2, len(lines) - 5):
            first.write_text("".join(lines[:count]))
            assert run("b", "import", first, "--skip-existing").status == 0
        done = run("b", "import", path, "--skip-existing")
        assert done.status == 0
        assert sum(int(line.split()[-1]) for line in done.out.splitlines()) >= len(lines) - 5
        for peer in ("bob", "carol"):
            assert content(storages["b"], peer) == content(source, peer)
        assert received(storages["b"])[:2] == received(source)[:2]
        done = run("b", "import", path, "--skip-existing")
        assert done.out.splitlines()[0] == "imported: 0"
        assert content(storages["b"], "bob") == content(source, "bob")
        assert received(storages["b"])[:2] == received(source)[:2]

    def test_no_file(self, storages: Storages, run: Run, tmp_path: Path) -> None:
        done = run("a", "import", tmp_path / "missing")
        assert (done.status, done.out) == (1, "")
        assert "missing: No such file" in done.err
        assert not storages.known
        assert run("a", "import", "--skip", -1).status == 2
        assert run("a", "import", tmp_path).status == 1


class TestPurge:
    def test_some_peers(self, storages: Storages, run: Run) -> None:
        for peer in ("al", "bob", "carol"):
            fill(storages["a"], peer, numbered(2 * MAX_MESSAGES + 3))
        fill_received(storages["a"])
        before = received(storages["a"])
        done = run("a", "purge", "bob", "al", "nobody", "--yes")
        assert (done.status, done.out) == (0, f"deleted: {4 * MAX_MESSAGES + 6}\n")
        assert done.err == "no messages for nobody\n"
        assert storages["a"].get_queues() == ["carol"]
        (carol,) = storages["a"].summarize()
        assert carol.messages == 2 * MAX_MESSAGES + 3
        assert carol.bytes == sum(len(item.data) for item in storages["a"].get_items("carol"))
        assert received(storages["a"]) == before
        assert storages["a"].largest_page == MAX_MESSAGES
        assert storages["a"].options == {"create": False, "read_only": False}

    def test_all(self, storages: Storages, run: Run) -> None:
        for peer in ("al", "bob"):
            fill(storages["a"], peer, numbered(3))
        done = run("a", "purge", "--all", "--yes")
        assert (done.status, done.out, done.err) == (0, "deleted: 6\n", "")
        assert storages["a"].get_queues() == []
        done = run("a", "purge", "--all", "--yes")
        assert (done.status, done.out, done.err) == (0, "deleted: 0\n", "")

    @pytest.mark.parametrize(
        ("answer", "deletes"), [("y\n", True), ("YES\n", True), ("n\n", False), ("", False)]
    )
    def test_a_question(
        self,
        storages: Storages,
        run: Run,
        monkeypatch: pytest.MonkeyPatch,
        answer: str,
        deletes: bool,
    ) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        for number in range(12):
            fill(storages["a"], f"p{number:02}\r", numbered(2))
        done = run("a", "purge", "--all")
        names = ", ".join(f"p{number:02}\\r" for number in range(10))
        question = f"Delete 24 messages (192 bytes) for {names} and 2 more? [y/N] "
        if deletes:
            assert (done.status, done.out, done.err) == (0, "deleted: 24\n", question)
        else:
            assert (done.status, done.out) == (1, "")
            assert done.err == f"{question}snakemq queues: nothing was deleted\n"
        assert len(storages["a"].get_queues()) == (0 if deletes else 12)

    def test_without_a_terminal(
        self, storages: Storages, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
        fill(storages["a"], "bob", numbered(2))
        done = run("a", "purge", "bob")
        assert (done.status, done.out) == (2, "")
        assert "there is no terminal to ask on; add --yes" in done.err
        assert storages["a"].get_queues() == ["bob"]

    @pytest.mark.parametrize("arguments", [(), ("bob", "--all")])
    def test_whose(self, run: Run, arguments: tuple[str, ...]) -> None:
        done = run("a", "purge", "--yes", *arguments)
        assert (done.status, done.out) == (2, "")
        assert "say whose messages to delete: PEER ..., or --all" in done.err

    def test_interrupted(self, storages: Storages, run: Run) -> None:
        fill(storages["a"], "bob", numbered(3 * MAX_MESSAGES))
        changes: Iterator[signal.Signals | None] = iter((None, signal.SIGINT))

        def interrupt() -> None:
            number = next(changes)
            if number is not None:
                signal.raise_signal(number)

        storages["a"].before_change = interrupt
        done = run("a", "purge", "bob", "--yes")
        assert (done.status, done.out) == (130, "")
        # The page in which it came is finished and counted.
        assert done.err == (
            f"snakemq queues: deleted so far: {2 * MAX_MESSAGES} of {3 * MAX_MESSAGES} messages;"
            " the others are still there\n"
        )
        assert storages["a"].summarize()[0].messages == MAX_MESSAGES
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class CrashError(BaseException):
    """The process is gone."""


class TestMove:
    def fill(self, storage: Storage) -> None:
        fill(storage, "bob", numbered(2 * MAX_MESSAGES + 7))
        fill(storage, "carol", [Message(b"\xff", 60, 7, b"1"), Message(b"", 5, 0, b"2")])
        fill(storage, "bob", numbered(2))
        storage.advance_ttl("carol", 20)
        fill_received(storage, 2 * MAX_RECEIVED + 3)

    def test_everything(self, storages: Storages, run: Run) -> None:
        reference = Storage()
        for storage in (storages["a"], reference):
            self.fill(storage)
        fill(storages["b"], "bob", [Message(b"before", None)])
        count = 2 * MAX_MESSAGES + 11 + 4 * (2 * MAX_RECEIVED + 3)
        done = run("a", "move", "b")
        assert (done.status, done.out, done.err) == (0, f"moved: {count}\n", "")
        target = storages["b"]
        assert content(target, "bob")[0][1] == b"before"
        assert content(target, "bob")[1:] == content(reference, "bob")
        first, second = content(target, "carol")
        assert first == (b"1", b"\xff", 40.0, 7)
        assert second[2] is not None
        assert 0 < second[2] < 0.01  # what has expired is told by the program
        assert received(target)[:2] == received(reference)[:2]
        for peer in reference.received_peers():
            assert set(target.load_received(peer)) == set(reference.load_received(peer))
        assert target.load_received("frank") == reference.load_received("frank")
        source = storages["a"]
        assert (source.get_queues(), source.get_inbox(), source.get_dead()) == ([], [], [])
        assert source.largest_page == MAX_MESSAGES
        done = run("a", "move", "b")
        assert (done.status, done.out, done.err) == (0, "moved: 0\n", "")

    def test_some_peers(self, storages: Storages, run: Run) -> None:
        self.fill(storages["a"])
        before = received(storages["a"])
        done = run("a", "move", "b", "carol", "nobody")
        assert (done.status, done.out, done.err) == (0, "moved: 2\n", "no messages for nobody\n")
        assert storages["a"].get_queues() == ["bob"]
        assert storages["b"].get_queues() == ["carol"]
        assert received(storages["a"]) == before
        assert received(storages["b"]) == [[], [], {}]

    @pytest.mark.parametrize("where", ["change_items", "advance_inbox", "drop_dead"])
    @pytest.mark.parametrize("call", [0, 1, 2, 3, 150])
    def test_a_crash_in_front_of_a_removal(
        self, storages: Storages, run: Run, where: str, call: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is there already, and still here, is neither lost nor doubled."""
        reference = Storage()
        for storage in (storages["a"], reference):
            self.fill(storage)
        left = [call]
        original = getattr(storages["a"], where)

        def crash(*args: Any, **kwargs: Any) -> Any:
            if left[0] == 0:
                raise CrashError
            left[0] -= 1
            return original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(storages["a"], where, crash)
            with contextlib.suppress(CrashError):
                run("a", "move", "b")
        done = run("a", "move", "b")
        assert (done.status, done.err) == (0, "")
        for peer in ("bob", "carol"):
            got = [item[:2] for item in content(storages["b"], peer)]
            assert got == [item[:2] for item in content(reference, peer)]
        assert received(storages["b"])[:2] == received(reference)[:2]
        assert storages["a"].get_queues() == []

    def test_what_came_to_other_queues_is_not_in_the_way(
        self, storages: Storages, run: Run
    ) -> None:
        fill(storages["a"], "bob", numbered(3))
        for number in range(100):
            fill(storages["b"], "other", [Message(b"", None)])
            if number in (20, 55, 60):
                message = numbered(3)[(20, 55, 60).index(number)]
                fill(storages["b"], "bob", [message])
        done = run("a", "move", "b")
        assert (done.status, done.out) == (0, "moved: 3\n")
        assert [item[1] for item in content(storages["b"], "bob")] == [
            b"number 0",
            b"number 1",
            b"number 2",
        ]

    def test_interrupted(self, storages: Storages, run: Run) -> None:
        self.fill(storages["a"])
        changes: Iterator[signal.Signals | None] = iter((None, signal.SIGINT))

        def interrupt() -> None:
            number = next(changes)
            if number is not None:
                signal.raise_signal(number)

        storages["b"].before_change = interrupt
        done = run("a", "move", "b")
        assert (done.status, done.out) == (130, "")
        assert done.err == (
            f"snakemq queues: moved so far: {2 * MAX_MESSAGES} messages; the others are where they"
            " were. To go on, repeat it\n"
        )
        assert len(storages["a"].get_items("bob")) == 9
        assert len(storages["b"].get_items("bob")) == 2 * MAX_MESSAGES

    def test_to_itself(self, storages: Storages, run: Run, tmp_path: Path) -> None:
        storages["a"]
        path = tmp_path / "file"
        path.touch()
        for first, second in (("a", "a"), (path, tmp_path / "x" / ".." / "file")):
            (tmp_path / "x").mkdir(exist_ok=True)
            done = run(first, "move", second)
            assert (done.status, done.out) == (1, "")
            assert done.err == "snakemq queues: this is the same storage; nothing was moved\n"

    def test_the_target_fails(self, storages: Storages, run: Run) -> None:
        self.fill(storages["a"])

        def fail() -> None:
            raise StorageError("the disk is full")

        storages["b"].before_change = fail
        done = run("a", "move", "b")
        assert (done.status, done.out) == (1, "")
        assert "moved so far: 0 messages" in done.err
        assert done.err.endswith("snakemq queues: the disk is full\n")
        assert len(storages["a"].get_items("bob")) == 2 * MAX_MESSAGES + 9


class TestDead:
    def test_pages(self, storages: Storages, run: Run) -> None:
        count = 2 * MAX_RECEIVED + 3
        fill_received(storages["a"], count)
        done = run("a", "dead")
        assert (done.status, done.err) == (0, "")
        assert len(done.out.splitlines()) == 2 * count + 1
        assert len(run("a", "dead", "--json").records) == 2 * count
        assert run("a", "dead", "--count").out == f"{2 * count}\n"
        assert storages["a"].options["read_only"]
        done = run("a", "dead", "--retry", "all")
        assert (done.status, done.out) == (0, f"put back into the inbox: {2 * count}\n")
        assert not storages["a"].options["read_only"]
        assert run("a", "dead", "--count").out == "0\n"
        assert len(storages["a"].get_inbox()) == 4 * count

    def test_numbers(self, storages: Storages, run: Run) -> None:
        fill_received(storages["a"], 1)
        numbers = [letter.id for letter in storages["a"].get_dead()]
        done = run("a", "dead", "--drop", *numbers, 0, 2**63, 777)
        assert (done.status, done.out) == (1, "")
        assert f"no such dead letter: 0, 777, {2**63}; there are: 2, 4. Nothing" in done.err
        assert run("a", "dead", "--drop", numbers[0]).out == "deleted: 1\n"
        assert [letter.id for letter in storages["a"].get_dead()] == numbers[1:]


@pytest.mark.parametrize("action", ["ls", "show", "export", "import", "move", "purge", "dead"])
def test_help(run: Run, action: str) -> None:
    assert f"\n    {action} " in run("--help").out
    done = run("a", action, "--help")
    assert done.status == 0
    assert "\nexamples:\n  snakemq queues " in done.out


@pytest.mark.parametrize(
    "arguments", [("show", "\udcff"), ("export", "\udcff"), ("move", "b", "a", "\udcff"),
                  ("purge", "\udcff", "--yes")]
)  # fmt: skip
def test_a_name_that_is_no_text(run: Run, arguments: tuple[str, ...]) -> None:
    done = run("a", *arguments)
    assert (done.status, done.out) == (2, "")
    assert "\\udcff is no text" in done.err


@pytest.mark.parametrize("storage", ["", ":memory:", "sqlite://", "sqlite+x:///:memory:"])
def test_what_would_be_lost_is_no_storage(storages: Storages, run: Run, storage: str) -> None:
    fill(storages["a"], "bob", numbered(3))
    for arguments in (("a", "move", storage), (storage, "import"), (storage, "ls")):
        done = run(*arguments)
        assert (done.status, done.out) == (2, "")
        assert f"{storage!r} is not a file, nor the URL of a database that stays" in done.err
    assert len(storages["a"].get_items("bob")) == 3


@pytest.mark.parametrize(
    "url",
    [
        "nonsense://user:geheim@host/db",
        "postgresql+nonsense://user:geheim@host/db",
        "postgresql://user:geheim@host:port/db",
        "postgresql://user:gehe/im@host:port/db",
        "mongodb://user:geheim@:99999999/db",
        "mongodb://user:gehe/im@host/db",
    ],
)
def test_a_wrong_url(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = "mongodb" if url.startswith("mongodb") else "sqla"
    pytest.importorskip(f"snakemq.storage.{module}", reason="needs this storage")
    pytest.importorskip({"mongodb": "pymongo"}.get(module, "sqlalchemy"), reason="needs a driver")
    for arguments in (("ls",), ("purge", "--all", "--yes"), ("import",)):
        assert main(["queues", url, *arguments]) in (1, 2)
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("snakemq queues: ")
        assert "gehe" not in err


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("gap", [1, 2, 50])
@pytest.mark.parametrize("wanted", [1, 3, 200])
def test_the_last_of_many(count: int, gap: int, wanted: int) -> None:
    letters = [
        DeadLetter(gap * number, "bob", Message(b""), 1, "", 0.0) for number in range(1, count + 1)
    ]
    reads = []

    def read(after: int, limit: int) -> list[DeadLetter]:
        reads.append(limit)
        return [letter for letter in letters if letter.id > after][:limit]

    assert read_tail(read, wanted) == letters[-wanted:]
    assert len(reads) < 60 + 2 * count / wanted


@pytest.mark.slow
def test_memory_does_not_grow_with_the_queue(storages: Storages, run: Run, tmp_path: Path) -> None:
    """Of 10,000 messages of 1,000 bytes, no more than a few pages are in memory."""
    path = tmp_path / "out.jsonl"
    payload = b"x" * 1000

    class Endless(Storage):
        """Makes up what is read, and forgets what is written."""

        def __init__(self) -> None:
            super().__init__()
            self.left = 10_000
            self.written = 0

        def summarize(self) -> Any:
            return super().summarize() if self.written else [QueueSummary("bob", self.left, 0)]

        def get_page(self, queue_name: str, after: int, **kwargs: Any) -> list[StoredItem]:
            first = max(after + 1, 10_001 - self.left)
            last = min(first + kwargs["max_messages"], 10_001)
            return [StoredItem(n, Message(payload + b"%d" % n, None)) for n in range(first, last)]

        def change_items(
            self, push: Any, remove: Iterable[Removal] = (), *, sync: bool = True
        ) -> list[int]:
            self.left -= sum(len(removal.positions) for removal in remove)
            self.written += len(push)
            return []

    def peak(*args: object) -> float:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        assert run(*args).status == 0
        return (tracemalloc.get_traced_memory()[1] - before) / 1e6

    for name in "abcd":
        storages.known[name] = Endless()
    storages.known["empty"] = Storage()
    storages.known["empty"].change_items = storages["d"].change_items  # type: ignore[method-assign]
    tracemalloc.start()
    try:
        run("a", "ls")  # has the modules loaded
        peaks = [
            peak("a", "export", "--output", path, "--quiet"),
            peak("empty", "import", path),
            peak("empty", "import", path, "--skip-existing"),
            peak("b", "move", "empty"),
            peak("c", "purge", "--all", "--yes"),
        ]
    finally:
        tracemalloc.stop()
    assert max(peaks) < 5, "MB"
    assert len(path.read_text().splitlines()) == 10_000
    assert [storages[name].left for name in "abc"] == [10_000, 0, 0]  # type: ignore[attr-defined]
    assert storages["d"].written == 30_000  # type: ignore[attr-defined]
