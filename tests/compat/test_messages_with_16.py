"""Messages between this package and the real snakeMQ 1.6, each in its own process.

The program on both sides is the same file, written against 1.6's manual: that
it runs here unchanged is half of what is shown. ``SNAKEMQ_COMPAT_CONTROL=1``
adds 1.6 with itself, to check the tests.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.compat.harness import PeerProcess, PeerProcesses

#: Who listens, who connects.
ROLES = [("old", "new"), ("new", "old"), ("new", "new")]
if os.environ.get("SNAKEMQ_COMPAT_CONTROL"):
    ROLES.append(("old", "old"))

PROGRAM = "messenger.py"


@dataclass
class Pair:
    listener: PeerProcess
    connector: PeerProcess

    def ways(self) -> list[tuple[PeerProcess, PeerProcess]]:
        """Sender and receiver, both ways."""
        return [(self.connector, self.listener), (self.listener, self.connector)]


@pytest.fixture(scope="module", params=ROLES, ids=[f"{a}-listens-{b}-connects" for a, b in ROLES])
def pair(request: pytest.FixtureRequest, module_peers: PeerProcesses) -> Iterator[Pair]:
    """Two connected peers; identifiers outside ASCII."""
    listens, connects = request.param
    listener = module_peers.listener(listens, PROGRAM, "Žofie")
    connector = module_peers.connector(connects, PROGRAM, "björn", listener.port)
    listener.wait_one("connected", peer="björn")
    connector.wait_one("connected", peer="Žofie")
    yield Pair(listener, connector)
    # Nothing that happened here may have shaken a connection or a loop.
    for peer in (listener, connector):
        assert not peer.all("disconnected")
        assert not peer.all("error")
    assert [listener.stop(), connector.stop()] == [0, 0]


def test_five_thousand_messages_each_way_arrive_in_order(pair: Pair) -> None:
    marks = {peer.ident: peer.mark() for peer in (pair.listener, pair.connector)}
    for sender, receiver in pair.ways():
        # From a thread that is not the loop's, both ways at the same time.
        sender.tell("thread_send_numbers", to=receiver.ident, start=0, stop=5000)
    for sender, receiver in pair.ways():
        messages = receiver.wait("message", since=marks[receiver.ident], count=5000)
        assert [int(m["data"]) for m in messages] == list(range(5000))
        assert {m["peer"] for m in messages} == {sender.ident}
        uuids = [m["uuid"] for m in messages]
        sender.wait_one("sent", since=marks[sender.ident], uuid=uuids[-1])
        sent = [e["uuid"] for e in sender.all("sent", since=marks[sender.ident])]
        ours = set(uuids)
        assert [uuid for uuid in sent if uuid in ours] == uuids


def test_a_message_of_twenty_megabytes_arrives_whole(pair: Pair) -> None:
    size = 20_000_000
    block = bytes(range(251))
    expected = hashlib.sha256((block * (size // 251 + 1))[:size]).hexdigest()
    for sender, receiver in pair.ways():
        since = receiver.mark()
        sender.tell("send", to=receiver.ident, size=size, ttl=None)
        message = receiver.wait_one("message", since=since)
        assert (message["size"], message["sha256"]) == (size, expected)


@pytest.mark.parametrize(
    ("ttl", "arrives"),
    [(0, 0), (0.9, 0), (1, 1), (7.9, 7), (600, 600), (86400 * 365, 86400 * 365), (None, None)],
)
def test_ttl_arrives_in_whole_seconds(pair: Pair, ttl: float | None, arrives: float | None) -> None:
    """As in 1.6 rounded down; but to one that acknowledges, 0 is no part of a second."""
    if ttl == 0.9 and "1.6" not in (pair.listener.version, pair.connector.version):
        arrives = 1
    for sender, receiver in pair.ways():
        since = receiver.mark()
        sender.do("send", to=receiver.ident, data="x", ttl=ttl)
        assert receiver.wait_one("message", since=since)["ttl"] == arrives


@pytest.mark.parametrize("flags", [0, 1, 0x80000010, 0xFFFFFFFF])
def test_flags_arrive_with_bits_that_nobody_knows(pair: Pair, flags: int) -> None:
    for sender, receiver in pair.ways():
        since = receiver.mark()
        sender.do("send", to=receiver.ident, data="x", flags=flags)
        assert receiver.wait_one("message", since=since)["flags"] == flags


@pytest.mark.parametrize(
    ("uuid", "arrives"),
    [("short", "short" + 11 * "\0"), ("exactly 16 bytes", "exactly 16 bytes")],
)
def test_a_uuid_arrives_padded_with_nuls(pair: Pair, uuid: str, arrives: str) -> None:
    for sender, receiver in pair.ways():
        since = receiver.mark()
        sender.do("send", to=receiver.ident, data="x", uuid=uuid)
        message = receiver.wait_one("message", since=since)
        assert bytes.fromhex(message["uuid"]) == arrives.encode()


def test_the_same_uuid_sent_twice_arrives_twice(pair: Pair) -> None:
    for sender, receiver in pair.ways():
        since = receiver.mark()
        for data in ("one", "two"):
            sender.do("send", to=receiver.ident, data=data, uuid="the same")
        messages = receiver.wait("message", since=since, count=2)
        assert [m["data"] for m in messages] == ["one", "two"]


def test_empty_and_binary_payloads(pair: Pair) -> None:
    every_byte = bytes(range(256)).decode("latin-1")
    for sender, receiver in pair.ways():
        since = receiver.mark()
        for data in ("", every_byte, "\0" * 1000):
            sender.do("send", to=receiver.ident, data=data)
        messages = receiver.wait("message", since=since, count=3)
        assert [m["data"] for m in messages] == ["", every_byte, "\0" * 1000]


def test_sent_is_reported_with_the_uuid_of_the_message(pair: Pair) -> None:
    for sender, receiver in pair.ways():
        uuid = sender.do("send", to=receiver.ident, data="x")
        assert sender.wait_one("sent", uuid=uuid)["peer"] == receiver.ident


@pytest.mark.parametrize("receiver_kind", ["old", "new"])
def test_messages_through_a_throttle(peers: PeerProcesses, receiver_kind: str) -> None:
    """1.6 can't throttle messages; it gets them from a peer that does."""
    sender = peers.listener("new", PROGRAM, "sender", throttle=500_000)
    receiver = peers.connector(receiver_kind, PROGRAM, "receiver", sender.port)
    sender.wait_one("connected")
    sender.tell("send", to="receiver", size=100_000)
    sender.tell("send_numbers", to="receiver", start=0, stop=100)
    messages = receiver.wait("message", count=101)
    assert messages[0]["size"] == 100_000
    assert [m["data"] for m in messages[1:]] == [str(n) for n in range(100)]
    sender.wait("sent", count=101)
