"""``snakemq queues`` with storages on real servers: looked at, moved to and from, interrupted."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snakemq.cli import main
from snakemq.cli._queues_pages import MAX_MESSAGES
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage import QueuesStorageBase, open_storage
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.servers.mongodb import MongoDbServer, mongodb_server

__all__ = ["mongodb_server"]


@pytest.fixture(scope="module", params=["postgresql", "mariadb", "mongodb"])
def server(request: pytest.FixtureRequest) -> Any:
    """The URL of an SQL server, or a MongoDB server."""
    name = "mongodb_server" if request.param == "mongodb" else f"{request.param}_url"
    return request.getfixturevalue(name)


@pytest.fixture
def url(server: str | MongoDbServer) -> Iterator[str]:
    """A storage on the server; empty, and deleted at the end."""
    if isinstance(server, MongoDbServer):
        with server.database() as database:
            yield f"{server.uri}/{database.name}"
        return
    sqlalchemy = pytest.importorskip("sqlalchemy", reason="no SQLAlchemy here")
    name = f"snakemq_test_{secrets.token_hex(8)}"
    engine = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
        yield engine.url.set(database=name).render_as_string(hide_password=False)
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"DROP DATABASE {name}"))
    finally:
        engine.dispose()


class CrashError(BaseException):
    """The process is gone."""


Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command, which has to succeed, and returns what it prints."""

    def run(*args: object) -> str:
        capsys.readouterr()
        status = main(["queues", *map(str, args)])
        out, err = capsys.readouterr()
        assert (status, err) == (0, "")
        return out

    return run


def everything(storage: QueuesStorageBase) -> list[Any]:
    """What is in a storage, without numbers and times."""
    queues = {
        name: [(item.uuid, item.data, item.ttl, item.flags) for item in storage.get_items(name)]
        for name in sorted(storage.get_queues())
    }
    inbox = [
        (item.ident, item.message.uuid, item.message.data, item.attempts)
        for item in storage.get_inbox()
    ]
    dead = [
        (letter.ident, letter.message.uuid, letter.message.data, letter.reason)
        for letter in storage.get_dead()
    ]
    memory = {peer: set(storage.load_received(peer)) for peer in sorted(storage.received_peers())}
    return [queues, inbox, dead, memory]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with something everywhere."""
    path = tmp_path / "alice.db"
    with SqliteQueuesStorage(path) as storage:
        messages = [
            Message(b"number %d" % number, None, FLAG_PERSISTENT, b"uuid%06d" % number)
            for number in range(MAX_MESSAGES + 10)
        ]
        storage.push_many(("bob", message) for message in messages)
        storage.push_many([("žofie", Message(b"\xff\x00", 60, 7, b"1"))])
        storage.push_inbox("dave", [Message(b"waits", 50, 1, b"2")], keep=10)
        (number,) = storage.push_inbox("dave", [Message(b"fails", None, 1, b"3")], keep=10)
        storage.advance_inbox(None, number)
        storage.bury(number, "ValueError: ž")
        storage.add_received("erin", [b"%d" % number for number in range(10)], keep=10, sync=True)
    return path


@pytest.mark.slow
def test_to_a_server_and_back(
    path: Path, url: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SqliteQueuesStorage(path) as storage:
        before = everything(storage)
    # It is killed when a page is on the server, and still here.

    def crash(*args: Any, **kwargs: Any) -> list[int]:
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(SqliteQueuesStorage, "change_items", crash)
        with pytest.raises(CrashError):
            main(["queues", str(path), "move", url])
    # What was there twice counts here, too.
    assert run(path, "move", url) == f"moved: {MAX_MESSAGES + 13}\n"
    with open_storage(url) as opened:
        assert everything(opened) == before
    listed = [json.loads(line) for line in run(url, "ls", "--json").splitlines()]
    assert [(queue["peer"], queue["messages"]) for queue in listed] == [
        ("bob", MAX_MESSAGES + 10),
        ("žofie", 1),
    ]
    assert listed[1]["next_expiry"] == 60
    assert "number 7" in run(url, "show", "bob", "--json", "--limit", 8)
    exported = tmp_path / "all.jsonl"
    done = run(url, "export", "--all", "--output", exported)
    assert done == f"exported: {MAX_MESSAGES + 13}\n"
    assert run(url, "move", tmp_path / "back.db") == f"moved: {MAX_MESSAGES + 13}\n"
    with SqliteQueuesStorage(tmp_path / "back.db") as storage:
        assert everything(storage) == before
    assert run(url, "import", exported) == f"imported: {MAX_MESSAGES + 13}\n"
    with open_storage(url) as opened:
        assert everything(opened) == before
    assert run(url, "dead", "--retry", "all") == "put back into the inbox: 1\n"
    assert run(url, "purge", "--all", "--yes") == f"deleted: {MAX_MESSAGES + 11}\n"
    assert run(url, "export") == ""
