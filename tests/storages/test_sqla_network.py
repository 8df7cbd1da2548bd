"""A network that is cut anywhere, to the byte: what was accepted is stored once."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from snakemq.exceptions import StorageInUse, StorageUnavailable
from snakemq.message import Message
from snakemq.storage import Removal
from snakemq.storage.sqla import SqlAlchemyQueuesStorage
from tests.crash.proxy import CuttingProxy, Direction, Ending, Trap
from tests.helpers import DEADLINE, wait_until

sqlalchemy = pytest.importorskip("sqlalchemy", reason="there is no SQLAlchemy")

PREFIX = "network_"


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def proxy(server: str) -> Iterator[CuttingProxy]:
    """A way to the server; the tables are dropped at the end."""
    with CuttingProxy() as proxy:
        proxy.lead_to(sqlalchemy.make_url(server).port)
        yield proxy
    with SqlAlchemyQueuesStorage(server, prefix=PREFIX, lock_timeout=DEADLINE) as storage:
        storage.drop_structures()


def open_through(proxy: CuttingProxy, server: str) -> SqlAlchemyQueuesStorage:
    url = sqlalchemy.make_url(server).set(host="127.0.0.1", port=proxy.port)
    return SqlAlchemyQueuesStorage(url, prefix=PREFIX, patience=DEADLINE, lock_timeout=DEADLINE)


def test_a_session_that_the_server_has_not_missed_yet_is_ended(
    proxy: CuttingProxy, server: str
) -> None:
    """It would keep the lock for a minute, from its own process, too."""
    with open_through(proxy, server) as storage:
        for number in range(3):
            storage.push("peer", Message(b"%d" % number, 60))
            proxy.cut_all(Ending.SILENCE)
            with pytest.raises(StorageInUse):
                SqlAlchemyQueuesStorage(server, prefix=PREFIX)
        assert [item.data for item in storage.get_items("peer")] == [b"0", b"1", b"2"]


def test_a_driver_that_does_not_know_at_once_that_the_connection_is_lost(
    proxy: CuttingProxy, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_through(proxy, server) as storage:
        storage.push("peer", Message(b"0", 60))
        dialect = storage.engine.dialect
        overlooked: list[Exception] = []

        def overlook(exc: Exception, *args: Any) -> bool:
            overlooked.append(exc)
            exc.args = ("unknown",)
            return False

        monkeypatch.setattr(dialect, "is_disconnect", overlook)
        proxy.cut_all(Ending.CLOSE)
        storage.push("peer", Message(b"1", 60))
        assert overlooked
        assert [item.data for item in storage.get_items("peer")] == [b"0", b"1"]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_cuts_anywhere_lose_nothing_and_double_nothing(proxy: CuttingProxy, server: str) -> None:
    chance = random.Random(20261121)
    rounds = 25
    patient = threading.local()
    sure: list[bytes] = []
    refused: list[bytes] = []
    accepted = [0, 0]
    finished = threading.Event()

    def push(storage: SqlAlchemyQueuesStorage, may_wait: bool) -> None:
        patient.may_wait = may_wait
        number = 0
        while not finished.is_set():
            number += 1
            name = "patient" if may_wait else "impatient"
            data = [b"%s %d %d" % (name.encode(), number, part) for part in range(2)]
            try:
                positions = storage.change_items([(name, Message(each, 60)) for each in data])
            except StorageUnavailable:
                assert not may_wait
                refused.extend(data)
                finished.wait(0.001)
                continue
            sure.extend(data)
            accepted[may_wait] += 1
            if number % 3 == 0:
                # It goes again, and may have gone before this is told.
                removal = Removal(name, positions[:1], len(data[0]))
                try:
                    storage.change_items([], [removal], sync=False)
                except StorageUnavailable:
                    continue
                sure.remove(data[0])

    with open_through(proxy, server) as storage, ThreadPoolExecutor(2) as pool:
        storage.may_wait = lambda: getattr(patient, "may_wait", True)
        running = [pool.submit(push, storage, may_wait) for may_wait in (True, False)]
        try:
            for _ in range(rounds):
                # Not one cut after the other while it connects: it would wait
                # longer and longer.
                before = accepted[True]
                wait_until(lambda b=before: accepted[True] > b or running[0].done())
                trap = Trap(
                    chance.choice(list(Direction)),
                    chance.randrange(1, 6000),
                    chance.choice([Ending.CLOSE, Ending.RESET, Ending.SILENCE]),
                )
                assert proxy.arm(trap).wait(DEADLINE)
                assert not running[0].done()
        finally:
            finished.set()
        for each in running:
            each.result(DEADLINE)
        summary = {each.name: each for each in storage.summarize()}
        found: list[bytes] = []
        for name, each in summary.items():
            data = [item.data for item in storage.get_items(name)]
            assert each[1:] == (len(data), sum(map(len, data)))
            found += data
    assert len(found) == len(set(found)), "something was stored twice"
    assert not set(refused) & set(found), "something was stored although it was refused"
    assert refused
    # What a removal was refused for may have gone.
    assert set(found) <= set(sure)
    missing = set(sure) - set(found)
    assert all(int(data.split()[1]) % 3 == 0 and data.endswith(b" 0") for data in missing)
