"""``open_storage``: what a user calls a storage, and which one that is."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from snakemq import Peer
from snakemq.exceptions import StorageError
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage import MemoryQueuesStorage, _open, open_storage
from snakemq.storage.sqlite import SqliteQueuesStorage


class FakeStorage(MemoryQueuesStorage):
    """Notes what it was made with."""

    def __init__(self, url: str, *, read_only: bool = False, **options: object) -> None:
        super().__init__()
        self.url = url
        self.read_only = read_only
        self.options = options


@pytest.fixture
def drivers(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[FakeStorage]]:
    """The storages for URLs, without their drivers."""
    made = {}
    for module_name, class_name in (
        ("snakemq.storage.sqla", "SqlAlchemyQueuesStorage"),
        ("snakemq.storage.mongodb", "MongoDbQueuesStorage"),
    ):
        made[class_name] = type(class_name, (FakeStorage,), {})
        module: Any = ModuleType(module_name)
        setattr(module, class_name, made[class_name])
        monkeypatch.setitem(sys.modules, module_name, module)
    return made


@pytest.mark.parametrize("name", ["queue.db", "odd:name.db", "x://y.db"])
def test_a_path_is_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x:").mkdir()
    for target in (name, Path(name)):
        with open_storage(target) as storage:
            assert isinstance(storage, SqliteQueuesStorage)
    assert (tmp_path / name).is_file()


def test_a_path_object_is_never_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mongodb:").mkdir()

    class Odd:
        def __fspath__(self) -> str:
            return "mongodb://here"

    with open_storage(Odd()) as storage:
        assert isinstance(storage, SqliteQueuesStorage)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mongodb://user@host/db", "MongoDbQueuesStorage"),
        ("MongoDB+srv://host/db", "MongoDbQueuesStorage"),
        ("postgresql+psycopg://host/db", "SqlAlchemyQueuesStorage"),
        ("sqlite:///file.db", "SqlAlchemyQueuesStorage"),
        ("what_ever://", "SqlAlchemyQueuesStorage"),
    ],
)
def test_a_url_is_a_database(
    url: str, expected: str, drivers: dict[str, type[FakeStorage]]
) -> None:
    storage = open_storage(url, create=False, read_only=True, patience=3)
    assert type(storage) is drivers[expected]
    assert isinstance(storage, FakeStorage)
    # It does not know "create", which every storage accepts here.
    assert (storage.url, storage.read_only, storage.options) == (url, True, {"patience": 3})


def test_options_are_passed_on(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there is no queue storage"):
        open_storage(tmp_path / "queue.db", create=False)
    with pytest.raises(TypeError, match="colour"):
        open_storage(tmp_path / "queue.db", colour="red")


@pytest.mark.parametrize("target", [None, 1, b"queue.db"])
def test_something_else_is_refused(target: Any) -> None:
    with pytest.raises(TypeError, match="path"):
        open_storage(target)


@pytest.mark.parametrize(
    ("url", "module"),
    [("mongodb://u:pw@h/db", "mongodb"), ("postgresql://u:pw@h/db", "sqla")],
)
def test_a_missing_driver_is_told(url: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, f"snakemq.storage.{module}", None)
    with pytest.raises(StorageError, match=r"can't open \w+://u:\*\*\*@h/db: ") as caught:
        open_storage(url)
    assert isinstance(caught.value.__cause__, ImportError)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("a:b@c.db", "a:b@c.db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        ("postgresql://user:secret@host:5432/db", "postgresql://user:***@host:5432/db"),
        ("mongodb://u:s:e@c/r@host,other/db", "mongodb://u:***@host,other/db"),
        ("x+y://h/d?user=u&password=secret&a=1", "x+y://h/d?user=u&password=***&a=1"),
        ("x+y://h/d?sslPassword=secret", "x+y://h/d?sslPassword=***"),
    ],
)
def test_passwords_are_not_shown(target: str, shown: str) -> None:
    assert _open.hide_password(target) == shown


def test_a_peer_takes_a_url(drivers: dict[str, type[FakeStorage]]) -> None:
    made: list[FakeStorage] = []
    cls = drivers["SqlAlchemyQueuesStorage"]

    class Noted(cls):  # type: ignore[misc, valid-type]
        def __init__(self, url: str) -> None:
            super().__init__(url)
            self.push("bob", Message(b"waits", None, FLAG_PERSISTENT))
            made.append(self)

    sys.modules["snakemq.storage.sqla"].SqlAlchemyQueuesStorage = Noted  # type: ignore[attr-defined]
    with Peer("alice", storage="postgresql://host/db") as peer:
        assert peer.queued("bob") == 1
    assert [storage.url for storage in made] == ["postgresql://host/db"]


def test_a_peer_refuses_something_else() -> None:
    storage: Any = 7
    with pytest.raises(TypeError, match=re.escape("a path, a URL or a QueuesStorageBase, not int")):
        Peer("alice", storage=storage)
