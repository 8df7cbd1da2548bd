"""One process at a time has a storage in an SQL database; others are told who, or wait."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from snakemq.exceptions import StorageError, StorageInUse
from snakemq.message import Message
from snakemq.storage.sqla import SqlAlchemyQueuesStorage
from tests.helpers import DEADLINE, wait_until
from tests.servers.sql_sessions import end, sessions

sqlalchemy = pytest.importorskip("sqlalchemy", reason="there is no SQLAlchemy")


@pytest.fixture(scope="module", params=["postgresql", "mariadb", "sqlite"])
def server(request: pytest.FixtureRequest) -> str:
    """The URL of a server; empty: a file for each test."""
    # Of the module, so that it is there before a test looks for what it leaves.
    if request.param == "sqlite":
        return ""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def url(server: str, tmp_path: Path) -> Iterator[str]:
    """A database in which there is no storage."""
    if not server:
        yield f"sqlite:///{tmp_path / 'storage.db'}"
        return
    yield server
    for prefix in ("snakemq_", "other_"):
        with SqlAlchemyQueuesStorage(server, prefix=prefix) as storage:
            storage.drop_structures()


on_servers = pytest.mark.parametrize("server", ["postgresql", "mariadb"], indirect=True)


def test_a_second_one_is_refused_and_told_who_has_it(url: str) -> None:
    with SqlAlchemyQueuesStorage(url) as storage:
        for _ in range(2):
            with pytest.raises(StorageInUse, match=f"in use by process {os.getpid()} ") as caught:
                SqlAlchemyQueuesStorage(url)
            assert caught.value.holder.startswith(f"process {os.getpid()} ")
        storage.push("peer", Message(b"undisturbed", 1))
    with SqlAlchemyQueuesStorage(url) as storage:
        assert [item.data for item in storage.get_items("peer")] == [b"undisturbed"]


@on_servers
def test_storages_with_different_prefixes_are_apart(url: str) -> None:
    with (
        SqlAlchemyQueuesStorage(url) as one,
        SqlAlchemyQueuesStorage(url, prefix="other_") as other,
    ):
        one.push("peer", Message(b"one", 1))
        other.push("peer", Message(b"other", 1))
        assert [item.data for item in one.get_items("peer")] == [b"one"]
        assert [item.data for item in other.get_items("peer")] == [b"other"]


def test_it_waits_for_so_long(url: str) -> None:
    with SqlAlchemyQueuesStorage(url), pytest.raises(StorageInUse):
        SqlAlchemyQueuesStorage(url, lock_timeout=0.1)


@pytest.mark.parametrize("timeout", [None, DEADLINE])
def test_it_waits_until_the_other_one_has_closed_it(url: str, timeout: float | None) -> None:
    with ThreadPoolExecutor(1) as pool:
        with SqlAlchemyQueuesStorage(url) as storage:
            storage.push("peer", Message(b"from the first one", 1))
            standby = pool.submit(SqlAlchemyQueuesStorage, url, lock_timeout=timeout)
            storage.push("peer", Message(b"while another one waits", 1))
            assert not standby.done()
        with standby.result(DEADLINE) as second:
            assert len(second.get_items("peer")) == 2


@on_servers
def test_who_was_cut_off_and_replaced_can_do_no_harm(url: str) -> None:
    first = SqlAlchemyQueuesStorage(url)
    try:
        first.push("peer", Message(b"1", 1))
        its_session = sessions(url)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(SqlAlchemyQueuesStorage, url, lock_timeout=None)
            # It does not know yet, and the other one is quicker.
            end(url, its_session)
            with waiting.result(DEADLINE) as second:
                second.push("peer", Message(b"2", 1))
                for _ in range(2):
                    with pytest.raises(StorageInUse, match="taken over by process") as caught:
                        first.push("peer", Message(b"lost", 1))
                    assert caught.value.holder.startswith(f"process {os.getpid()} ")
                for method in (first.get_queues, first.summarize, first.sync, first.delete_all):
                    with pytest.raises(StorageInUse):
                        method()
                assert [item.data for item in second.get_items("peer")] == [b"1", b"2"]
        # It does not come back, not even when the place is free.
        with pytest.raises(StorageInUse):
            first.push("peer", Message(b"lost", 1))
        assert "taken over" in repr(first)
    finally:
        first.close()


@on_servers
def test_threads_that_wait_are_told_that_it_was_taken_over(url: str) -> None:
    first = SqlAlchemyQueuesStorage(url)
    with ThreadPoolExecutor(1) as pool:
        its_session = sessions(url)
        waiting = pool.submit(SqlAlchemyQueuesStorage, url, lock_timeout=None)
        end(url, its_session)
        with waiting.result(DEADLINE), ThreadPoolExecutor(4) as pushers:
            start = threading.Barrier(4)

            def push(number: int) -> None:
                start.wait(DEADLINE)
                first.push("peer", Message(b"lost", 1))

            for pushed in [pushers.submit(push, number) for number in range(4)]:
                with pytest.raises(StorageInUse):
                    pushed.result(DEADLINE)
    first.close()


@on_servers
def test_a_session_that_was_ended_is_begun_again(url: str) -> None:
    with SqlAlchemyQueuesStorage(url) as storage:
        for number in range(3):
            storage.push("peer", Message(b"%d" % number, 1))
            end(url, sessions(url))
        assert [item.data for item in storage.get_items("peer")] == [b"0", b"1", b"2"]


def test_another_one_may_look(url: str) -> None:
    with SqlAlchemyQueuesStorage(url) as storage:
        storage.push("peer", Message(b"1", 60))
        with SqlAlchemyQueuesStorage(url, create=False, read_only=True) as viewer:
            assert [item.data for item in viewer.get_items("peer")] == [b"1"]
            storage.push("peer", Message(b"23", 60))
            storage.push("other", Message(b"4", 60))
            assert sorted(viewer.summarize()) == [("other", 1, 1), ("peer", 2, 3)]
            assert sorted(viewer.get_queues()) == ["other", "peer"]
            assert viewer.last_position() == storage.last_position()
            storage.advance_ttl("peer", 20.0)
            assert viewer.next_expiry("peer") == 40.0
            for change in (
                lambda: viewer.push("peer", Message(b"", 1)),
                lambda: viewer.push_many([]),
                viewer.delete_all,
                viewer.drop_structures,
                viewer.create_structures,
            ):
                with pytest.raises(StorageError, match="read_only"):
                    change()
        storage.push("peer", Message(b"5", 60))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_is_refused(url: str) -> None:
    with SqlAlchemyQueuesStorage(url) as storage:
        storage.push("peer", Message(b"1", 1))
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                storage.push("peer", Message(b"from the child", 1))
            except StorageError as exc:
                os.write(writing, str(exc).encode())
            finally:
                storage.close()
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read().decode()
        os.waitpid(child, 0)
        assert f"opened by process {os.getpid()}" in said
        # The parent's session did not end with the child.
        storage.push("peer", Message(b"2", 1))
        with pytest.raises(StorageInUse):
            SqlAlchemyQueuesStorage(url)
        assert [item.data for item in storage.get_items("peer")] == [b"1", b"2"]


@on_servers
def test_closing_ends_the_wait_of_other_threads(url: str) -> None:
    storage = SqlAlchemyQueuesStorage(url)
    engine = storage.engine
    away = threading.Event()

    def refuse(*args: object) -> None:
        away.set()
        raise ConnectionRefusedError("out of order")

    sqlalchemy.event.listen(engine, "do_connect", refuse)
    end(url, sessions(url))
    with ThreadPoolExecutor(1) as pool:
        push = pool.submit(storage.push, "peer", Message(b"", 1))
        wait_until(away.is_set)
        storage.close()
        with pytest.raises(StorageError, match="is closed"):
            push.result(DEADLINE)
