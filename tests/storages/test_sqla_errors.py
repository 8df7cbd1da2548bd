"""What a database can't do is said in one sentence, with what to do, and without secrets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snakemq.exceptions import StorageDamaged, StorageError, StorageUnavailable
from snakemq.message import Message
from snakemq.storage import Removal
from snakemq.storage.sqla import SqlAlchemyQueuesStorage

sqlalchemy = pytest.importorskip("sqlalchemy", reason="there is no SQLAlchemy")


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'storage.db'}"


@pytest.fixture
def storage(file_url: str) -> Iterator[SqlAlchemyQueuesStorage]:
    with SqlAlchemyQueuesStorage(file_url) as storage:
        yield storage


def execute(url: str, *statements: str) -> None:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


# Opening


def test_a_server_that_is_not_there(unused_port: int) -> None:
    for scheme in ("postgresql+psycopg", "mysql+pymysql"):
        with pytest.raises(StorageUnavailable, match="check that the server is running") as caught:
            SqlAlchemyQueuesStorage(f"{scheme}://user:secret@127.0.0.1:{unused_port}/database")
        assert "user:***@" in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port on which nobody listens, and which nobody else gets."""
    import socket

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_a_database_that_does_not_exist(server: str) -> None:
    url = sqlalchemy.make_url(server).set(database="nowhere").render_as_string(False)
    with pytest.raises(StorageError, match="does not exist; create it") as caught:
        SqlAlchemyQueuesStorage(url)
    assert type(caught.value) is StorageError


def test_a_user_that_is_not_let_in(server: str) -> None:
    url = sqlalchemy.make_url(server).set(username="nobody", password="secret")
    with pytest.raises(StorageError, match="check name and password") as caught:
        SqlAlchemyQueuesStorage(url.render_as_string(False))
    assert "secret" not in str(caught.value)
    assert type(caught.value) is StorageError


def test_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can't be opened; check the path"):
        SqlAlchemyQueuesStorage(f"sqlite:///{tmp_path / 'nowhere' / 'storage.db'}")


def test_what_is_no_url() -> None:
    for url in ("nonsense", "nonsense://user:secret@host/database"):
        with pytest.raises(StorageError, match="no URL of a database"):
            SqlAlchemyQueuesStorage(url)


def test_a_driver_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pg8000", None)
    with pytest.raises(ImportError, match=r"no module 'pg8000'.*install it") as caught:
        SqlAlchemyQueuesStorage("postgresql+pg8000://user:secret@host/database")
    assert "secret" not in str(caught.value)


def test_a_driver_for_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg", reason="there is no psycopg")
    with pytest.raises(StorageError, match="made for asyncio"):
        SqlAlchemyQueuesStorage("postgresql+psycopg_async://user@host/database")


def test_without_sqlalchemy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ImportError, match=r"pip install snakemq\[sqlalchemy\]"):
        SqlAlchemyQueuesStorage("sqlite://")


def test_importing_it_imports_no_driver() -> None:
    code = "import sys, snakemq.storage.sqla; assert 'sqlalchemy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("prefix", ["x" * 41, "a-b", "snake mq", 'quote"', "ž"])
def test_a_prefix_that_is_none(prefix: str) -> None:
    with pytest.raises(ValueError, match="the prefix of the tables"):
        SqlAlchemyQueuesStorage("sqlite://", prefix=prefix)


@pytest.mark.parametrize("name", ["lock_timeout", "patience"])
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_time_that_is_none(name: str, value: float) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=name):
        SqlAlchemyQueuesStorage("sqlite://", **options)


def test_there_may_be_no_prefix(file_url: str) -> None:
    with SqlAlchemyQueuesStorage(file_url, prefix="") as storage:
        storage.push("peer", Message(b"1", 1))
        assert storage.get_queues() == ["peer"]


@pytest.mark.parametrize("read_only", [True, False])
def test_one_that_is_not_there_is_not_made(file_url: str, read_only: bool) -> None:
    for _ in range(2):
        with pytest.raises(StorageError, match="there is no queue storage in"):
            SqlAlchemyQueuesStorage(file_url, create=False, read_only=read_only)
    SqlAlchemyQueuesStorage(file_url).close()
    SqlAlchemyQueuesStorage(file_url, create=False, read_only=read_only).close()


def test_tables_of_a_later_release_are_left_alone(file_url: str) -> None:
    SqlAlchemyQueuesStorage(file_url).close()
    execute(file_url, "UPDATE snakemq_meta SET version = 2")
    for _ in range(2):
        with pytest.raises(StorageError, match=r"later release of snakemq.*version 2.*upgrade"):
            SqlAlchemyQueuesStorage(file_url)


def test_an_unfinished_creation_is_finished(server: str) -> None:
    with SqlAlchemyQueuesStorage(server, prefix="half_") as storage:
        storage.push("peer", Message(b"1", 60))
    # As if it had been killed on a database that commits each of these by itself.
    execute(
        server,
        "DROP TABLE half_meta",
        "DROP TABLE half_dead",
        "DROP INDEX half_outbox_expiry" + ("" if "postgresql" in server else " ON half_outbox"),
    )
    with SqlAlchemyQueuesStorage(server, prefix="half_") as storage:
        assert storage.next_expiry("peer") == 60.0
        assert storage.get_dead() == []
        names = {
            index["name"] for index in sqlalchemy.inspect(storage.engine).get_indexes("half_outbox")
        }
        assert "half_outbox_expiry" in names
        storage.drop_structures()


# Using it


def test_a_closed_one_says_so(storage: SqlAlchemyQueuesStorage) -> None:
    storage.close()
    for call in (
        storage.get_queues,
        storage.summarize,
        storage.last_position,
        storage.delete_all,
        storage.sync,
        storage.create_structures,
        storage.get_inbox,
        lambda: storage.push("peer", Message(b"", 1)),
        lambda: storage.push_many([]),
        lambda: storage.get_items("peer"),
    ):
        with pytest.raises(StorageError, match="is closed; open it again"):
            call()
    assert "closed" in repr(storage)


def test_dropped_tables(storage: SqlAlchemyQueuesStorage) -> None:
    storage.push("peer", Message(b"1", 1))
    storage.drop_structures()
    with pytest.raises(StorageError, match=r"lacks a table.*create_structures"):
        storage.push("peer", Message(b"2", 1))
    storage.create_structures()
    storage.push("other", Message(b"3", 1))
    assert storage.summarize() == [("other", 1, 1)]
    assert storage.get_items("peer") == []


def test_a_name_that_is_too_long(storage: SqlAlchemyQueuesStorage) -> None:
    for name in ("x" * 256, "🐍" * 64):
        with pytest.raises(ValueError, match="at most 50 characters"):
            storage.push(name, Message(b"", 1))
        assert storage.get_items(name) == []
    assert storage.get_queues() == []


def test_any_text_is_a_name(server: str) -> None:
    names = ["NUL\0", "NUL", "", "half a pair \ud800", "Straße", "STRASSE", "a", "a ", "á"]
    with SqlAlchemyQueuesStorage(server, prefix="names_") as storage:
        storage.push_many((name, Message(name.encode("utf-8", "replace"), 1)) for name in names)
        assert sorted(storage.get_queues()) == sorted(names)
        assert all(len(storage.get_items(name)) == 1 for name in names)
        (item_id,) = storage.push_inbox("NUL\0", [Message(b"", 1)], keep=1)
        storage.bury(item_id, "because of a \0 and \ud800")
        assert [letter.reason for letter in storage.get_dead()] == ["because of a \0 and \ud800"]
        storage.drop_structures()


def test_a_row_that_is_no_message(storage: SqlAlchemyQueuesStorage, file_url: str) -> None:
    storage.push_many([("peer", Message(b"good", 1)), ("peer", Message(b"bad", 1))])
    storage.push_inbox("peer", [Message(b"bad", 1)], keep=1)
    storage.close()
    execute(
        file_url,
        "UPDATE snakemq_outbox SET flags = -1 WHERE position = 2",
        "UPDATE snakemq_inbox SET flags = -1",
    )
    with SqlAlchemyQueuesStorage(file_url) as damaged:
        with pytest.raises(StorageDamaged, match=r"'snakemq_outbox'.*position 2"):
            damaged.get_items("peer")
        with pytest.raises(StorageDamaged, match=r"'snakemq_inbox'.*id 1"):
            damaged.get_inbox()
        # It can be got rid of.
        damaged.change_items([], [Removal("peer", [2], 3)])
        assert [item.data for item in damaged.get_items("peer")] == [b"good"]


def test_the_file_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "storage.db"
    path.write_bytes(b"something else " * 1000)
    with pytest.raises(StorageError, match="was left as it is"):
        SqlAlchemyQueuesStorage(f"sqlite:///{path}")
    assert path.read_bytes() == b"something else " * 1000


def test_large_data_is_stored_or_refused(server: str) -> None:
    """MariaDB takes statements of 16 MiB, in which a byte of data may take two."""
    with SqlAlchemyQueuesStorage(server, prefix="large_") as storage:
        for data in (b"x" * 8_000_000, bytes(8_000_000), b"'" * 8_000_000):
            storage.push("peer", Message(data, 60))
        too_large = b"x" * (1 << 24)
        if "postgresql" in server:
            storage.push("peer", Message(too_large, 60))
        else:
            for call in (
                lambda: storage.push("peer", Message(too_large, 60)),
                lambda: storage.push_inbox("peer", [Message(too_large, 60)], keep=1),
            ):
                with pytest.raises(StorageError, match=r"raise max_allowed_packet.*16777216"):
                    call()
        storage.push_many([("after", Message(b"x" * 3_000_000, 60)) for _ in range(5)])
        items = storage.get_items("peer")
        assert [item.data[:1] for item in items[:3]] == [b"x", b"\0", b"'"]
        assert {len(item.data) for item in items[:3]} == {8_000_000}
        assert len(items) == (4 if "postgresql" in server else 3)
        assert len(storage.get_items("after")) == 5
        storage.drop_structures()


def test_what_breaks_the_connection_each_time_is_given_up(server: str) -> None:
    with SqlAlchemyQueuesStorage(server, prefix="poison_") as storage:
        poisoned = [b"poison"] * 100

        def statement(conn: Any, cursor: Any, text: str, parameters: Any, *rest: Any) -> None:
            if text.startswith("INSERT INTO poison_outbox") and poisoned:
                poisoned.pop()
                raise ConnectionResetError("that is poison")

        sqlalchemy.event.listen(storage.engine, "before_cursor_execute", statement)
        with pytest.raises(StorageUnavailable, match=r"5 times while this was tried.*is poison"):
            storage.push("peer", Message(b"1", 60))
        assert len(poisoned) == 95
        poisoned.clear()
        storage.push("peer", Message(b"2", 60))
        assert storage.summarize() == [("peer", 1, 1)]
        storage.drop_structures()


def test_no_secret_in_what_is_shown(file_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with SqlAlchemyQueuesStorage(file_url, echo=True) as storage:
        storage.push("peer", Message(b"top secret", 1))
    assert "INSERT INTO snakemq_outbox" in caplog.text
    assert "secret" not in caplog.text


def test_arguments_of_create_engine(file_url: str, server: str) -> None:
    """As 1.6 took them; those of a pool, too, although one connection is all there is."""
    url = sqlalchemy.make_url(file_url)
    with SqlAlchemyQueuesStorage(url=url, connect_args={"timeout": 1}) as storage:
        assert storage.engine.url == url
    with SqlAlchemyQueuesStorage(
        server, prefix="pool_", pool_size=3, pool_recycle=60, connect_args={"connect_timeout": 3}
    ) as storage:
        storage.push("peer", Message(b"1", 60))
    with SqlAlchemyQueuesStorage(server, prefix="pool_") as storage:
        assert len(storage.get_items("peer")) == 1
        storage.drop_structures()


def test_a_hanging_process_is_not_waited_for_long(server: str) -> None:
    """The server ends a session of which nothing is heard, and so gives the lock back."""
    with SqlAlchemyQueuesStorage(server, prefix="idle_") as storage:
        found: list[Any] = []

        def look(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            # In the session of the storage.
            if not found:
                found.append(None)
                name = "idle_session_timeout" if "postgresql" in server else "wait_timeout"
                query = f"SHOW {name}" if "postgresql" in server else f"SELECT @@{name}"
                found[0] = connection.exec_driver_sql(query).scalar()

        sqlalchemy.event.listen(storage.engine, "before_cursor_execute", look)
        storage.get_items("peer")
        assert found in (["1min"], [60])
        storage.drop_structures()
