"""The table that snakeMQ 1.6 wrote is taken over, on each database."""

from __future__ import annotations

from binascii import b2a_hex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snakemq.exceptions import StorageDamaged
from snakemq.message import Message
from snakemq.storage.sqla import SqlAlchemyQueuesStorage

sqlalchemy = pytest.importorskip("sqlalchemy", reason="there is no SQLAlchemy")

#: As SQLAlchemy made it for 1.6.
CREATE = {
    "sqlite": """CREATE TABLE snakemq_items (id_ INTEGER NOT NULL, queue_name VARCHAR(50),
        uuid VARCHAR(32), data BLOB, flags INTEGER, ttl FLOAT, PRIMARY KEY (id_), UNIQUE (uuid))""",
    "postgresql": """CREATE TABLE snakemq_items (id_ SERIAL NOT NULL, queue_name VARCHAR(50),
        uuid VARCHAR(32), data BYTEA, flags INTEGER, ttl FLOAT, PRIMARY KEY (id_),
        UNIQUE (uuid))""",
    "mysql": """CREATE TABLE snakemq_items (id_ INTEGER NOT NULL AUTO_INCREMENT,
        queue_name VARCHAR(50), uuid VARCHAR(32), data BLOB, flags INTEGER, ttl FLOAT,
        PRIMARY KEY (id_), UNIQUE (uuid))""",
}


@pytest.fixture(scope="module", params=["postgresql", "mariadb", "sqlite"])
def server(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return ""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def url(server: str, tmp_path: Path) -> Iterator[str]:
    """A database with an empty table of 1.6."""
    found = server or f"sqlite:///{tmp_path / 'storage.db'}"
    execute(found, CREATE[found.split(":")[0].split("+")[0]])
    yield found
    execute(found, "DELETE FROM snakemq_items")
    with SqlAlchemyQueuesStorage(found) as storage:
        storage.drop_structures()


def execute(url: str, sql: str, **parameters: Any) -> list[Any]:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        result = connection.execute(sqlalchemy.text(sql), parameters)
        return list(result) if result.returns_rows else []


INSERT = """INSERT INTO snakemq_items (id_, queue_name, uuid, data, flags, ttl)
    VALUES (:id, :queue_name, :uuid, :data, :flags, :ttl)"""


def insert(
    url: str,
    number: int,
    queue_name: str,
    data: bytes,
    *,
    flags: int = 1,
    ttl: float | None = 60.0,
    uuid: Any = None,
) -> None:
    if uuid is None:
        uuid = b2a_hex(data.ljust(16, b"\0")[:16]).decode()
    execute(
        url, INSERT, id=number, queue_name=queue_name, uuid=uuid, data=data, flags=flags, ttl=ttl
    )


def left(url: str) -> int:
    ((count,),) = execute(url, "SELECT count(*) FROM snakemq_items")
    return int(count)


def test_items_are_moved_in_their_order(url: str) -> None:
    # The order of the rows in the table is another one.
    for number in (7, 1, 12, 3):
        insert(url, number, "peer", b"%d" % number, ttl=60.5)
    insert(url, 5, "zoë", bytes(range(256)), flags=3, ttl=None)
    for _ in range(2):
        with SqlAlchemyQueuesStorage(url) as storage:
            assert [item.data for item in storage.get_items("peer")] == [b"1", b"3", b"7", b"12"]
            assert {item.ttl for item in storage.get_items("peer")} == {60.5}
            assert storage.get_items("peer")[0].uuid == b"1".ljust(16, b"\0")
            (item,) = storage.get_items("zoë")
            assert (item.data, item.flags, item.ttl) == (bytes(range(256)), 3, None)
            assert sorted(storage.summarize()) == [("peer", 4, 5), ("zoë", 1, 256)]
            assert storage.oldest("peer") is None
            storage.remove_items("peer", [])
        assert left(url) == 0


def test_they_come_behind_what_is_there_already(url: str) -> None:
    with SqlAlchemyQueuesStorage(url) as storage:
        storage.push("peer", Message(b"first", 60))
    # Somebody went back to 1.6 for a while.
    insert(url, 1, "peer", b"second")
    with SqlAlchemyQueuesStorage(url) as storage:
        storage.push("peer", Message(b"third", 60))
        data = [item.data for item in storage.get_items("peer")]
    assert data == [b"first", b"second", b"third"]


def test_there_may_be_many(url: str) -> None:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.text(INSERT),
            [
                {
                    "id": number,
                    "queue_name": f"peer{number % 2}",
                    "uuid": f"{number:032x}",
                    "data": b"%d" % number,
                    "flags": 1,
                    "ttl": 60.0,
                }
                for number in range(1, 1001)
            ],
        )
    with SqlAlchemyQueuesStorage(url) as storage:
        for start in (1, 2):
            items = storage.get_items(f"peer{start % 2}")
            assert [item.data for item in items] == [b"%d" % n for n in range(start, 1001, 2)]
    assert left(url) == 0


@pytest.mark.parametrize(
    "stored",
    [
        "000102030405060708090a0b0c0d0e0f",
        "6162",
        # Python's and PostgreSQL's ways to make text of the bytes of "6162".
        "b'6162'",
        "\\x36313632",
    ],
)
def test_identifiers_in_all_shapes(url: str, stored: str) -> None:
    insert(url, 1, "peer", b"1", uuid=stored)
    with SqlAlchemyQueuesStorage(url) as storage:
        (item,) = storage.get_items("peer")
        assert item.uuid == (bytes(range(16)) if len(stored) == 32 else b"ab")


def test_bytes_where_sqlite_was_told_text(tmp_path: Path) -> None:
    """1.6 on Python 3 wrote the digits as bytes, and on Python 2 data as text."""
    url = f"sqlite:///{tmp_path / 'storage.db'}"
    execute(url, CREATE["sqlite"])
    insert(url, 1, "peer", b"3", uuid=b"6162")
    execute(url, INSERT, id=2, queue_name="peer", uuid="6163", data="text", flags=None, ttl=None)
    with SqlAlchemyQueuesStorage(url) as storage:
        found = [(item.uuid, item.data, item.flags) for item in storage.get_items("peer")]
    assert found == [(b"ab", b"3", 1), (b"ac", b"text", 0)]


@pytest.mark.parametrize("digits", ["no digits", "616", ""])
def test_with_a_row_that_is_no_message_all_stay(url: str, digits: str) -> None:
    insert(url, 1, "peer", b"good")
    insert(url, 2, "peer", b"bad", uuid=digits)
    if not digits:
        # It gets a new identifier, as any message without one.
        with SqlAlchemyQueuesStorage(url) as storage:
            assert len({item.uuid for item in storage.get_items("peer")}) == 2
        return
    with pytest.raises(StorageDamaged, match=r"snakemq_items.*1\.6.*id_ 2"):
        SqlAlchemyQueuesStorage(url)
    assert left(url) == 2
    execute(url, "DELETE FROM snakemq_items WHERE id_ = 2")
    with SqlAlchemyQueuesStorage(url) as storage:
        assert [item.data for item in storage.get_items("peer")] == [b"good"]


def test_what_is_cut_off_in_the_middle_moves_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        insert(url, number + 1, "peer", b"%d" % number)

    def stop(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("DELETE FROM snakemq_items"):
            raise KeyboardInterrupt

    sqlalchemy.event.listen(sqlalchemy.Engine, "after_cursor_execute", stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            SqlAlchemyQueuesStorage(url)
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "after_cursor_execute", stop)
    assert left(url) == 3
    with SqlAlchemyQueuesStorage(url, lock_timeout=20) as storage:
        assert [item.data for item in storage.get_items("peer")] == [b"0", b"1", b"2"]
    assert left(url) == 0


def test_with_another_prefix_it_is_not_touched(url: str) -> None:
    insert(url, 1, "peer", b"1")
    with SqlAlchemyQueuesStorage(url, prefix="other_") as storage:
        assert storage.get_queues() == []
        storage.drop_structures()
    assert left(url) == 1


def test_a_table_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'storage.db'}"
    execute(url, "CREATE TABLE snakemq_items (id_ INTEGER, name TEXT)")
    execute(url, "INSERT INTO snakemq_items VALUES (1, 'theirs')")
    with SqlAlchemyQueuesStorage(url) as storage:
        assert storage.get_queues() == []
    assert left(url) == 1


def test_a_program_written_for_16_works(url: str) -> None:
    insert(url, 1, "peer", b"1")
    storage = SqlAlchemyQueuesStorage(url, echo=False)
    storage.create_structures()
    assert [item.data for item in storage.get_items("peer")] == [b"1"]
    storage.push("peer", Message(b"2", ttl=10))
    storage.update_items_ttl([item.with_ttl(5) for item in storage.get_items("peer")])
    storage.delete_items(storage.get_items("peer")[:1])
    assert [(item.data, item.ttl) for item in storage.get_items("peer")] == [(b"2", 5.0)]
    storage.delete_all()
    storage.drop_structures()
    storage.create_structures()
    storage.push("peer", Message(b"3", ttl=10))
    assert storage.get_queues() == ["peer"]
    storage.close()
    # For the fixture, which empties it.
    execute(url, CREATE[url.split(":")[0].split("+")[0]])
