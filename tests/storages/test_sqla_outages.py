"""A database that goes away and comes back: nothing that was accepted is lost or doubled."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from snakemq.exceptions import StorageUnavailable
from snakemq.message import Message
from snakemq.storage import Removal
from snakemq.storage.sqla import SqlAlchemyQueuesStorage
from tests.helpers import DEADLINE, wait_until
from tests.servers._process import PrivateServer

sqlalchemy = pytest.importorskip("sqlalchemy", reason="there is no SQLAlchemy")

#: Longer than any server takes to start.
PATIENCE = 60.0


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def url(server: Any) -> Iterator[str]:
    yield server.url
    with SqlAlchemyQueuesStorage(server.url) as storage:
        storage.drop_structures()


@pytest.fixture
def storage(url: str) -> Iterator[SqlAlchemyQueuesStorage]:
    with SqlAlchemyQueuesStorage(url, patience=PATIENCE) as storage:
        yield storage


def content(url: str, name: str = "peer") -> list[bytes]:
    with SqlAlchemyQueuesStorage(url, lock_timeout=DEADLINE) as storage:
        return [item.data for item in storage.get_items(name)]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_threads_push_while_the_server_is_killed_again_and_again(
    server: PrivateServer, url: str
) -> None:
    threads, restarts = 3, 3
    pushed = [0] * threads
    finished = threading.Event()

    def push(storage: SqlAlchemyQueuesStorage, thread: int) -> None:
        while not finished.is_set():
            data = [b"%d %d %d" % (thread, pushed[thread], part) for part in range(3)]
            storage.change_items([(f"peer{thread}", Message(each, 60)) for each in data])
            pushed[thread] += 1

    with (
        SqlAlchemyQueuesStorage(url, patience=PATIENCE) as storage,
        ThreadPoolExecutor(threads) as pool,
    ):
        running = [pool.submit(push, storage, thread) for thread in range(threads)]
        try:
            for _ in range(restarts):
                before = list(pushed)
                wait_until(lambda b=before: all(n > o for n, o in zip(pushed, b, strict=True)))
                server.stop(signal.SIGKILL)
                server.start()
            before = list(pushed)
            wait_until(lambda b=before: all(n > o for n, o in zip(pushed, b, strict=True)))
        finally:
            finished.set()
        for each in running:
            each.result(PATIENCE)
    for thread in range(threads):
        assert content(url, f"peer{thread}") == [
            b"%d %d %d" % (thread, number, part)
            for number in range(pushed[thread])
            for part in range(3)
        ]


def shut_down(server: PrivateServer, url: str) -> None:
    """Have it end with all of its processes: if PostgreSQL is killed, some go on for a moment."""
    server.stop(signal.SIGTERM if "mysql" in url else signal.SIGINT)


@pytest.mark.slow
def test_while_it_is_away_some_wait_and_some_are_refused(
    server: PrivateServer, storage: SqlAlchemyQueuesStorage, url: str
) -> None:
    storage.push("peer", Message(b"before", 60))
    waiting = threading.local()
    storage.may_wait = lambda: getattr(waiting, "may_wait", False)
    shut_down(server, url)

    def push(number: int) -> None:
        waiting.may_wait = True
        storage.push("peer", Message(b"%d" % number, 60))

    with ThreadPoolExecutor(2) as pool:
        try:
            for _ in range(3):
                with pytest.raises(StorageUnavailable, match="can't be reached now") as caught:
                    storage.push("peer", Message(b"refused", 60))
                assert "password" not in str(caught.value)
                with pytest.raises(StorageUnavailable):
                    storage.get_page("peer", 0, max_messages=1, max_bytes=1)
            delayed = [pool.submit(push, number) for number in range(2)]
        finally:
            server.start()
        for each in delayed:
            each.result(PATIENCE)
    # Also for threads that may not wait.
    wait_until(lambda: "connected" in repr(storage))
    storage.push("peer", Message(b"after", 60))
    storage.close()
    found = content(url)
    assert found[0] == b"before"
    assert found[-1] == b"after"
    assert sorted(found[1:-1]) == [b"0", b"1"]


@pytest.mark.slow
def test_patience_has_an_end(server: PrivateServer, url: str) -> None:
    with SqlAlchemyQueuesStorage(url, patience=0.2) as storage:
        shut_down(server, url)
        try:
            with pytest.raises(StorageUnavailable, match="when the database is back"):
                storage.push("peer", Message(b"refused", 60))
            with pytest.raises(StorageUnavailable, match="check that the server is running"):
                SqlAlchemyQueuesStorage(url)
        finally:
            server.start()
        wait_until(lambda: "connected" in repr(storage))
        assert storage.get_queues() == []


class CutCommit:
    """Ends the connection once at the commit of a change.

    :param storage: in which it happens
    :param after: the change is made all the same
    """

    def __init__(self, storage: SqlAlchemyQueuesStorage, *, after: bool) -> None:
        self._after = after
        self.was_cut = False
        self._engine = storage.engine
        sqlalchemy.event.listen(storage.engine, "commit", self._commit)

    def _commit(self, connection: Any) -> None:
        if not self.was_cut:
            self.was_cut = True
            if self._after:
                connection.connection.dbapi_connection.commit()
            raise ConnectionResetError("the network is down")


@contextlib.contextmanager
def refused(storage: SqlAlchemyQueuesStorage, *, made: bool) -> Iterator[None]:
    """For a change whose commit is cut off, in a thread that may not wait for what became of it.

    :param made: it is made all the same
    """
    cut = CutCommit(storage, after=made)
    has_returned = threading.Event()

    def connect(*args: object) -> None:
        # Else it may be known before anybody has to wait.
        assert has_returned.wait(DEADLINE)

    sqlalchemy.event.listen(storage.engine, "do_connect", connect)
    storage.may_wait = lambda: False
    try:
        with pytest.raises(StorageUnavailable):
            yield
    finally:
        has_returned.set()
    assert cut.was_cut
    wait_until(lambda: "connected" in repr(storage))


@pytest.fixture(params=[True, False], ids=["made", "not made"])
def made(request: pytest.FixtureRequest) -> bool:
    """Whether a change was made whose commit was cut off."""
    return bool(request.param)


def test_a_commit_that_is_cut_off_is_made_once(
    storage: SqlAlchemyQueuesStorage, url: str, made: bool
) -> None:
    storage.push("peer", Message(b"1", 60))
    cut = CutCommit(storage, after=made)
    positions = storage.change_items([("peer", Message(b"2", 60)), ("other", Message(b"3", 60))])
    assert cut.was_cut
    (stored,) = storage.get_page("other", 0, max_messages=9, max_bytes=99)
    assert stored.position == positions[1]
    storage.push("peer", Message(b"4", 60))
    assert sorted(storage.summarize()) == [("other", 1, 1), ("peer", 3, 3)]
    storage.close()
    assert content(url) == [b"1", b"2", b"4"]
    assert content(url, "other") == [b"3"]


def test_what_was_said_to_have_failed_is_taken_back(
    storage: SqlAlchemyQueuesStorage, url: str, made: bool
) -> None:
    storage.push("peer", Message(b"1", 60))
    with refused(storage, made=made):
        storage.push_many([("peer", Message(b"refused", 60)), ("other", Message(b"refused", 60))])
    assert storage.summarize() == [("peer", 1, 1)]
    assert storage.get_items("other") == []
    storage.push("peer", Message(b"2", 60))
    storage.close()
    assert content(url) == [b"1", b"2"]


def test_removing_again_what_is_gone_counts_it_once(
    storage: SqlAlchemyQueuesStorage, made: bool
) -> None:
    positions = storage.change_items([("peer", Message(b"x" * size, 60)) for size in (1, 2, 3)])
    removal = Removal("peer", positions[:2], 3)
    with refused(storage, made=made):
        storage.change_items([], [removal], sync=False)
    storage.change_items([], [removal], sync=False)
    assert storage.summarize() == [("peer", 1, 3)]


def test_expired_items_that_nobody_got_are_put_back(
    storage: SqlAlchemyQueuesStorage, made: bool
) -> None:
    items = [Message(b"1", 10), Message(b"2", 20), Message(b"3", None)]
    positions = storage.change_items([("peer", item) for item in items])
    storage.push("other", Message(b"4", 10))
    for name, rest in (("peer", 2), ("other", 1)):
        with refused(storage, made=made):
            storage.take_expired(name, 60.0, 0, 10)
        assert sorted(storage.summarize()) == [("other", 1, 1), ("peer", 3, 3)]
        assert len(storage.take_expired(name, 60.0, 0, 10)) == rest
        if name == "peer":
            storage.change_items([("peer", item) for item in items[:2]])
    found = storage.get_page("peer", 0, max_messages=10, max_bytes=100)
    assert found[0].position == positions[2]
    assert len(found) == 3


def test_time_does_not_run_twice(storage: SqlAlchemyQueuesStorage, made: bool) -> None:
    storage.push("peer", Message(b"1", 60))
    with refused(storage, made=made):
        storage.advance_ttl("peer", 10)
    assert storage.next_expiry("peer") == 60.0
    storage.advance_ttl("peer", 10)
    assert storage.next_expiry("peer") == 50.0


@pytest.mark.parametrize("keep", [1, 100])
def test_received_messages_that_were_refused_are_not_remembered(
    storage: SqlAlchemyQueuesStorage, made: bool, keep: int
) -> None:
    """Else they would be taken for known when they come again, and lost."""
    storage.push_inbox(
        "alice", [Message(b"1", 60, uuid=b"1"), Message(b"", 60, uuid=b"2")], keep=keep
    )
    before = storage.load_received("alice")
    with refused(storage, made=made):
        storage.push_inbox("alice", [Message(b"3", 60, uuid=b"3")], keep=keep)
    assert storage.load_received("alice")[-keep:] == before[-keep:]
    assert len(storage.get_inbox()) == 2
    storage.push_inbox("alice", [Message(b"3", 60, uuid=b"3")], keep=keep)
    assert storage.load_received("alice")[-1] == b"3"
    assert len({item.id for item in storage.get_inbox()}) == 3


def test_attempts_are_counted_once(storage: SqlAlchemyQueuesStorage, made: bool) -> None:
    (item_id,) = storage.push_inbox("alice", [Message(b"1", 60)], keep=10)
    storage.advance_inbox(None, item_id)
    for method in (storage.advance_inbox, storage.uncount_attempt):
        arguments = (None, item_id) if method == storage.advance_inbox else (item_id,)
        with refused(storage, made=made):
            method(*arguments)
        assert [item.attempts for item in storage.get_inbox()] == [1]


def test_a_failed_change_leaves_the_connection_as_it_was(storage: SqlAlchemyQueuesStorage) -> None:
    class Stop(Exception):
        pass

    def statement(*args: Any) -> None:
        if "DELETE" in args[2]:
            raise Stop

    positions = storage.change_items([("peer", Message(b"1", 60))])
    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", statement)
    for _ in range(2):
        with pytest.raises(Stop):
            storage.change_items([("peer", Message(b"2", 60))], [Removal("peer", positions, 1)])
    sqlalchemy.event.remove(storage.engine, "before_cursor_execute", statement)
    assert [item.data for item in storage.get_items("peer")] == [b"1"]
    assert storage.change_items([], [Removal("peer", positions, 1)]) == []
    assert storage.summarize() == []


def test_an_interrupted_call_leaves_a_storage_that_works(
    storage: SqlAlchemyQueuesStorage,
) -> None:
    """As by Ctrl-C: nobody can tell how far the connection has come with it."""
    storage.push("peer", Message(b"1", 60))
    interrupts = [KeyboardInterrupt, KeyboardInterrupt]

    def statement(*args: Any) -> None:
        if interrupts and threading.current_thread() is threading.main_thread():
            raise interrupts.pop()

    sqlalchemy.event.listen(storage.engine, "after_cursor_execute", statement)
    for call in (
        lambda: storage.push("peer", Message(b"2", 60)),
        lambda: storage.get_items("peer"),
    ):
        with pytest.raises(KeyboardInterrupt):
            call()
    storage.push("peer", Message(b"3", 60))
    assert [item.data for item in storage.get_items("peer")] == [b"1", b"3"]
