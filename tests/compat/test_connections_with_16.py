"""How connections with the real snakeMQ 1.6 live, die and come back.

Keepalive, peers that are killed, stopped or come twice, queues that survive.
``SNAKEMQ_COMPAT_CONTROL=1`` adds 1.6 with itself where 1.6 is able to pass.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from snakemq.message import FLAG_PERSISTENT
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.compat.harness import PeerProcess, PeerProcesses, Tap
from tests.compat.inprocess import FEATURES_PACKET, Stack, stacks
from tests.helpers import DEADLINE, wait_until

#: Who listens, who connects.
ROLES = [("old", "new"), ("new", "old"), ("new", "new")]
if os.environ.get("SNAKEMQ_COMPAT_CONTROL"):
    ROLES.append(("old", "old"))
ROLE_IDS = [f"{a}-listens-{b}-connects" for a, b in ROLES]

by_roles = pytest.mark.parametrize(("listens", "connects"), ROLES, ids=ROLE_IDS)

needs_sigstop = pytest.mark.skipif(
    not hasattr(signal, "SIGSTOP"), reason="this system can't stop a process"
)

PROGRAM = "messenger.py"
PING, PONG = 4, 5


@pytest.fixture
def tap_of(peers: PeerProcesses) -> Iterator[list[Tap]]:
    """Taps put in here are closed at the end."""
    taps: list[Tap] = []
    yield taps
    for tap in taps:
        tap.close()


@pytest.mark.parametrize("who", ["listener pings", "connector pings", "both ping"])
@by_roles
def test_keepalive_keeps_an_idle_connection(
    peers: PeerProcesses, tap_of: list[Tap], listens: str, connects: str, who: str
) -> None:
    """Each ping is answered, so nobody is taken for dead."""
    pings_to = {
        "listener pings": ["to connector"],
        "connector pings": ["to listener"],
        "both ping": ["to connector", "to listener"],
    }[who]
    keepalive = [0.05, DEADLINE]
    on_listener = keepalive if "to connector" in pings_to else None
    on_connector = keepalive if "to listener" in pings_to else None
    listener = peers.listener(listens, PROGRAM, "alice", keepalive=on_listener)
    assert listener.port is not None
    tap = Tap(listener.port)
    tap_of.append(tap)
    connector = peers.connector(connects, PROGRAM, "bob", tap.port, keepalive=on_connector)
    pongs_to = {"to connector": "to listener", "to listener": "to connector"}
    if who == "both ping":
        # Each side is kept quiet by the other's pings, so either may do all.
        tap.log.wait("frame", kind=PING, count=4)
        tap.log.wait("frame", kind=PONG, count=4)
    else:
        tap.log.wait("frame", kind=PING, direction=pings_to[0], count=4)
        tap.log.wait("frame", kind=PONG, direction=pongs_to[pings_to[0]], count=4)
        # The other one has at most asked once whether there are features.
        other = connects if pings_to == ["to connector"] else listens
        # (Of its like, too, if these do not come together with the name.)
        asks = other == "new"
        assert len(tap.log.all("frame", kind=PING, direction=pongs_to[pings_to[0]])) <= asks
    for peer in (listener, connector):
        assert len(peer.all("connected")) == 1
        assert not peer.all("disconnected")


@needs_sigstop
@pytest.mark.parametrize("stopped_one", ["listens", "connects"])
@pytest.mark.parametrize("stopped_kind", ["old", "new"])
def test_keepalive_finds_a_stopped_peer_dead(
    peers: PeerProcesses, stopped_kind: str, stopped_one: str
) -> None:
    """Its connection is closed, and the loop goes on: 1.6's died of that."""
    keepalive = [0.2, 0.2]
    if stopped_one == "listens":
        stopped = peers.listener(stopped_kind, PROGRAM, "stopped")
        ours = peers.connector(
            "new", PROGRAM, "ours", stopped.port, keepalive=keepalive, reconnect_interval=60
        )
    else:
        ours = peers.listener("new", PROGRAM, "ours", keepalive=keepalive)
        stopped = peers.connector(stopped_kind, PROGRAM, "stopped", ours.port)
    ours.wait_one("connected", peer="stopped")
    stopped.wait_one("connected", peer="ours")
    stopped.pause()
    ours.wait_one("disconnected", peer="stopped")
    ours.do("ping")
    if stopped_one == "connects":
        # It wakes up, finds its connection closed and dials again.
        since = ours.mark()
        stopped.resume()
        ours.wait_one("connected", since=since, peer="stopped")
        stopped.do("send", to="ours", data="good morning", ttl=60)
        assert ours.wait_one("message")["data"] == "good morning"


def kill_and_restart(
    peers: PeerProcesses, kinds: dict[str, str], killed_role: str
) -> tuple[PeerProcess, PeerProcess]:
    """A pair of which one was killed and is back; survivor and restarted.

    While it is away the survivor is given five messages for it.
    """
    listener = peers.listener(kinds["listener"], PROGRAM, "alice")
    connector = peers.connector(kinds["connector"], PROGRAM, "bob", listener.port)
    listener.wait_one("connected", peer="bob")
    connector.wait_one("connected", peer="alice")
    if killed_role == "listener":
        victim, survivor = listener, connector
    else:
        victim, survivor = connector, listener
    victim.kill()
    survivor.wait_one("disconnected", peer=victim.ident)
    survivor.do("send_numbers", to=victim.ident, start=0, stop=5, ttl=60)
    since = survivor.mark()
    kind = kinds[killed_role]
    if killed_role == "listener":
        assert listener.port is not None
        restarted = peers.listener(kind, PROGRAM, "alice", listener.port)
    else:
        restarted = peers.connector(kind, PROGRAM, "bob", listener.port)
    survivor.wait_one("connected", since=since, peer=victim.ident)
    return survivor, restarted


@pytest.mark.parametrize("killed_role", ["listener", "connector"])
@by_roles
def test_queued_messages_arrive_when_a_killed_peer_is_back(
    peers: PeerProcesses, listens: str, connects: str, killed_role: str
) -> None:
    survivor, restarted = kill_and_restart(
        peers, {"listener": listens, "connector": connects}, killed_role
    )
    messages = restarted.wait("message", count=5)
    assert [m["data"] for m in messages] == ["0", "1", "2", "3", "4"]
    # And the other way on the new connection.
    restarted.do("send", to=survivor.ident, data="back", ttl=60)
    assert survivor.wait_one("message")["data"] == "back"


def stored_items(filename: str) -> int:
    """How many messages are in a storage that another process uses."""
    with closing(sqlite3.connect(filename)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM items").fetchone()
        return int(count)


@by_roles
def test_persistent_messages_survive_a_killed_sender(
    peers: PeerProcesses, tmp_path: Path, listens: str, connects: str
) -> None:
    """With a storage they are on disk as soon as ``send_message`` returned."""
    storage = str(tmp_path / "storage.db")
    sender = peers.listener(listens, PROGRAM, "sender", storage=storage)
    sender.do("send_numbers", to="receiver", start=0, stop=3, ttl=600, flags=1)
    sender.do("send", to="receiver", data="transient", ttl=600)
    sender.do("send_numbers", to="receiver", start=3, stop=5, ttl=None, flags=1)
    sender.kill()
    again = peers.listener(listens, PROGRAM, "sender", storage=storage)
    receiver = peers.connector(connects, PROGRAM, "receiver", again.port)
    messages = receiver.wait("message", count=5)
    assert [m["data"] for m in messages] == ["0", "1", "2", "3", "4"]
    assert [m["flags"] for m in messages] == [1] * 5
    assert [m["ttl"] is None for m in messages] == [False] * 3 + [True] * 2
    # Delivered is delivered: a third life has nothing to send.
    again.wait("sent", count=5)
    wait_until(lambda: not stored_items(storage))
    again.stop()
    receiver.wait_one("disconnected")
    since = receiver.mark()
    last = peers.listener(listens, PROGRAM, "sender", again.port or 0, storage=storage)
    receiver.wait_one("connected", since=since)
    last.do("send", to="receiver", data="end", ttl=60)
    messages = receiver.wait("message", since=since)
    assert [m["data"] for m in messages] == ["end"]


@pytest.mark.parametrize("twins", ["old", "new"])
def test_a_second_connector_with_a_living_identifier_is_refused(
    peers: PeerProcesses, twins: str
) -> None:
    ours = peers.listener("new", PROGRAM, "ours")
    first = peers.connector(twins, PROGRAM, "twin", ours.port)
    ours.wait_one("connected", peer="twin")
    second = peers.connector(twins, PROGRAM, "twin", ours.port, reconnect_interval=60)
    second.wait_one("disconnected", peer="ours")
    first.do("send", to="ours", data="still here")
    assert ours.wait_one("message")["data"] == "still here"
    since = first.mark()
    ours.do("send", to="twin", data="welcome")
    assert first.wait_one("message", since=since)["data"] == "welcome"
    assert len(ours.all("connected")) == 1
    assert not ours.all("disconnected")
    assert not second.all("message")


@pytest.mark.slow
@pytest.mark.parametrize("twins", ["old", "new"])
def test_a_second_listener_with_a_living_identifier_is_refused(
    peers: PeerProcesses, twins: str
) -> None:
    first = peers.listener(twins, PROGRAM, "twin")
    second = peers.listener(twins, PROGRAM, "twin")
    ours = peers.start(
        "new",
        PROGRAM,
        ident="ours",
        connect=[["127.0.0.1", first.port], ["127.0.0.1", second.port]],
        reconnect_interval=60,
    )
    # Which of them is second is up to the network.
    ours.wait_one("connected", peer="twin")
    refused = None
    for peer in (first, second):
        peer.wait_one("connected", peer="ours")
    while refused is None:
        refused = next((p for p in (first, second) if p.all("disconnected")), None)
        ours.do("ping")
    kept = second if refused is first else first
    ours.do("send", to="twin", data="welcome")
    assert kept.wait_one("message")["data"] == "welcome"
    assert len(ours.all("connected")) == 1
    assert not ours.all("disconnected")


@pytest.mark.slow
@needs_sigstop
@pytest.mark.parametrize("twins", ["old", "new"])
def test_a_newcomer_takes_the_place_of_a_peer_that_does_not_answer(
    peers: PeerProcesses, twins: str
) -> None:
    """1.6 kept the dead connection; without keepalive, for hours."""
    ours = peers.listener("new", PROGRAM, "ours")
    first = peers.connector(twins, PROGRAM, "twin", ours.port, reconnect_interval=60)
    ours.wait_one("connected", peer="twin")
    first.pause()
    second = peers.connector(twins, PROGRAM, "twin", ours.port)
    ours.wait("connected", peer="twin", count=2)
    assert len(ours.all("disconnected", peer="twin")) == 1
    ours.do("send", to="twin", data="to the living", ttl=60)
    assert second.wait_one("message")["data"] == "to the living"


@pytest.mark.parametrize("kind", ["old", "new"])
def test_another_protocol_version_is_told_so_and_closed(peers: PeerProcesses, kind: str) -> None:
    """The same bytes from 1.6 and from this package: greeting, frame 1, end.

    But for the features frame in the greeting, of which 1.6 takes no notice.
    """
    peer = peers.listener(kind, PROGRAM, "x")
    assert peer.port is not None
    with closing(socket.create_connection(("127.0.0.1", peer.port), DEADLINE)) as sock:
        sock.sendall(bytes.fromhex("00000005 00 00000002"))
        received = b""
        while data := sock.recv(1000):
            received += data
    greeting = bytes.fromhex("00000005 00 00000001 00000002 02") + b"x"
    if kind == "new":
        greeting += FEATURES_PACKET
    refusal = bytes.fromhex("00000001 01")
    # 1.6 closes at once and may lose what it has just said.
    assert received == greeting + refusal or (kind == "old" and received == greeting)
    assert peer.wait_one("error")["type"] == "SnakeMQIncompatibleProtocol"
    peer.do("ping")


class TestPersistentMessagesToward16:
    """Each stays in the storage until the pong of a ping that was sent after it.

    1.6 answers a ping when the callbacks of all earlier messages have returned.
    """

    @pytest.fixture
    def old(self, peers: PeerProcesses) -> PeerProcess:
        return peers.listener("old", PROGRAM, "old")

    @pytest.fixture
    def tap(self, old: PeerProcess, tap_of: list[Tap]) -> Tap:
        assert old.port is not None
        tap = Tap(old.port)
        tap_of.append(tap)
        return tap

    @pytest.fixture
    def sender(self, tmp_path: Path, tap: Tap) -> Iterator[Stack]:
        sender = Stack("sender", SqliteQueuesStorage(str(tmp_path / "storage.db")))
        sender.connect(tap.port)
        with stacks(sender):
            yield sender

    def test_what_was_not_answered_comes_again(
        self, old: PeerProcess, tap: Tap, sender: Stack, tmp_path: Path
    ) -> None:
        sender.start()
        sender.send("old", b"hello", ttl=60)
        assert old.wait_one("message")["data"] == "hello"
        tap.swallow("to connector", PONG)
        since, tapped = old.mark(), tap.log.mark()
        for data in (b"1", b"2", b"3"):
            sender.send("old", data, ttl=None, flags=FLAG_PERSISTENT)
        first = old.wait("message", since=since, count=3)
        tap.log.wait("frame", since=tapped, kind=PONG)
        assert sender.messaging.queued_messages("old") == 3
        with closing(SqliteQueuesStorage(str(tmp_path / "storage.db"), read_only=True)) as other:
            assert [item.data for item in other.get_items("old")] == [b"1", b"2", b"3"]
        tap.swallow("to connector", None)
        tap.cut()
        messages = old.wait("message", since=since, count=6)
        assert [m["data"] for m in messages] == ["1", "2", "3"] * 2
        assert [m["uuid"] for m in messages] == [m["uuid"] for m in first] * 2
        sender.log.wait("acked", count=3)
        assert sender.messaging.queued_messages("old") == 0

    def test_what_was_answered_does_not(self, old: PeerProcess, tap: Tap, sender: Stack) -> None:
        sender.start()
        uuid = sender.send("old", b"once", ttl=None, flags=FLAG_PERSISTENT)
        assert sender.wait("acked")["uuid"] == uuid
        assert sender.messaging.queued_messages("old") == 0
        tap.cut()
        sender.wait("disconnected")
        sender.send("old", b"last", ttl=60)
        messages = old.wait("message", count=2)
        assert [m["data"] for m in messages] == ["once", "last"]

    def test_they_survive_the_sender_and_the_receiver(
        self, peers: PeerProcesses, tmp_path: Path
    ) -> None:
        """Killed before it has answered, and the sender restarted."""
        file = str(tmp_path / "storage.db")
        first = peers.listener("old", PROGRAM, "old")
        assert first.port is not None
        sender = Stack("sender", SqliteQueuesStorage(file))
        sender.connect(first.port)
        with stacks(sender.start()):
            sender.wait("connected")
            sender.send("old", b"hello", ttl=60)
            first.wait_one("message")
            first.pause()
            sender.send("old", b"precious", ttl=None, flags=FLAG_PERSISTENT)
            sender.log.wait("sent", count=2)
            first.kill()
            sender.wait("disconnected")
        second = peers.listener("old", PROGRAM, "old")
        assert second.port is not None
        restarted = Stack("sender", SqliteQueuesStorage(file))
        restarted.connect(second.port)
        with stacks(restarted.start()):
            assert second.wait_one("message")["data"] == "precious"
            restarted.wait("acked")
        with closing(SqliteQueuesStorage(file, read_only=True)) as other:
            assert list(other.get_queues()) == []
