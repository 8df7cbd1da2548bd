"""Two processes with one identifier and one database: when one is killed, the other takes over."""

from __future__ import annotations

import collections
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from snakemq import Peer, StorageInUse
from snakemq.peer import ReceivedMessage
from snakemq.storage.sqla import SqlAlchemyQueuesStorage
from tests.helpers import DEADLINE, wait_until
from tests.servers.sql_sessions import end, sessions

pytest.importorskip("sqlalchemy", reason="there is no SQLAlchemy")

NODE = Path(__file__).parent / "redundant_node.py"
ROOT = NODE.parent.parent.parent


class Node:
    """One of the pair."""

    def __init__(self, url: str, port: int, name: str) -> None:
        self.said: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, NODE, url, str(port), name],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(ROOT)},
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n"):
                self.said.append(line.rstrip("\n"))

    @property
    def accepted(self) -> list[str]:
        return [line.removeprefix("accepted ") for line in self.said if "accepted" in line]

    def wait_for(self, word: str) -> None:
        wait_until(lambda: word in self.said or self._process.poll() is not None)
        assert word in self.said

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def send(self, what: signal.Signals) -> None:
        self._process.send_signal(what)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def url(server: str) -> Iterator[str]:
    yield server
    with SqlAlchemyQueuesStorage(server, lock_timeout=DEADLINE) as storage:
        storage.drop_structures()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_who_is_killed_while_it_sends_is_replaced(url: str) -> None:
    came: list[tuple[str, bool]] = []

    def receive(received: ReceivedMessage) -> None:
        came.append((received.text, received.message.redelivered))

    nodes: list[Node] = []
    with Peer("bob", listen=0, on_message=receive) as bob:
        port = bob.addresses[0][1]
        try:
            nodes.append(Node(url, port, "0"))
            nodes[0].wait_for("active")
            for number in range(1, 4):
                nodes.append(Node(url, port, str(number)))
                active, standby = nodes[-2:]
                standby.wait_for("waiting")
                wait_until(lambda a=active: len(a.accepted) > 200)
                assert standby.said == ["waiting"]
                with pytest.raises(StorageInUse, match="in use by process"):
                    SqlAlchemyQueuesStorage(url)
                active.kill()
                standby.wait_for("active")
            wait_until(lambda: len(nodes[-1].accepted) > 50)
        finally:
            for node in nodes:
                node.kill()
        # What the last one has left is sent by one that sends nothing of its own.
        with (
            SqlAlchemyQueuesStorage(url, lock_timeout=DEADLINE) as storage,
            Peer("pair", connect=port, storage=storage, reconnect_interval=0.1) as last,
        ):
            assert last.flush("bob", DEADLINE)
    accepted = [data for node in nodes for data in node.accepted]
    assert len(accepted) == len(set(accepted))
    missing = set(accepted) - {data for data, _ in came}
    assert not missing, f"{len(missing)} of {len(accepted)} were lost: {sorted(missing)[:10]}"
    unmarked = collections.Counter(data for data, redelivered in came if not redelivered)
    doubled = [data for data, count in unmarked.items() if count > 1]
    assert not doubled
    # First in, first out, for each thread that sent.
    first: dict[str, None] = dict.fromkeys(data for data, _ in came)
    by_sender = collections.defaultdict(list)
    for data in first:
        node, sender, count = data.split()
        by_sender[node, sender].append(int(count))
    assert all(numbers == sorted(numbers) for numbers in by_sender.values())


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process can be suspended here")
def test_who_was_suspended_and_replaced_sends_nothing_more(url: str) -> None:
    came: list[str] = []
    with Peer("bob", listen=0, on_message=lambda received: came.append(received.text)) as bob:
        port = bob.addresses[0][1]
        first = Node(url, port, "0")
        second: Node | None = None
        try:
            wait_until(lambda: len(first.accepted) > 100)
            its_session = sessions(url)
            first.send(signal.SIGSTOP)
            second = Node(url, port, "1")
            second.wait_for("waiting")
            # The server does so by itself after a minute.
            end(url, its_session)
            second.wait_for("active")
            first.send(signal.SIGCONT)
            wait_until(lambda: first.has_ended)
            before = len(second.accepted)
            wait_until(lambda: len(second.accepted) > before + 100)
        finally:
            for node in (first, second):
                if node is not None:
                    node.kill()
        with (
            SqlAlchemyQueuesStorage(url, lock_timeout=DEADLINE) as storage,
            Peer("pair", connect=port, storage=storage, reconnect_interval=0.1) as last,
        ):
            assert last.flush("bob", DEADLINE)
    missing = {*first.accepted, *second.accepted} - set(came)
    assert not missing
