"""``snakemq send`` in a process of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from snakemq import FLAG_PERSISTENT, Peer, ReceivedMessage
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.helpers import DEADLINE
from tests.integration.command_line import Background, run, run_in_vain


@pytest.fixture
def bob() -> Generator[Peer]:
    with Peer("bob", listen=0) as peer:
        yield peer


def where(peer: Peer) -> tuple[str, str]:
    return "--connect", "{}:{}".format(*peer.addresses[0])


def texts(peer: Peer, count: int) -> list[str]:
    found = []
    for _ in range(count):
        received = peer.receive(DEADLINE)
        assert received is not None
        found.append(received.text)
    return found


def test_text(bob: Peer) -> None:
    result = run("send", "bob", *where(bob), "--ident", "alice", "žluťoučký")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    received = bob.receive(DEADLINE)
    assert received is not None
    assert (received.ident, received.text, received.ttl) == ("alice", "žluťoučký", None)


def test_each_command_has_an_identifier_of_its_own(bob: Peer) -> None:
    idents = set()
    for _ in range(2):
        assert run("send", "bob", "x", *where(bob)).returncode == 0
        received = bob.receive(DEADLINE)
        assert received is not None
        idents.add(received.ident)
    assert len(idents) == 2
    assert all(ident.startswith("snakemq-") for ident in idents)


def test_a_file(bob: Peer, tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    assert run("send", "bob", "--file", path, *where(bob)).returncode == 0
    received = bob.receive(DEADLINE)
    assert received is not None
    assert received.data == data


def test_standard_input(bob: Peer) -> None:
    assert run("send", "bob", "-", *where(bob), stdin=b"\x00piped\n").returncode == 0
    received = bob.receive(DEADLINE)
    assert received is not None
    assert received.data == b"\x00piped\n"


def test_the_empty_text_is_a_message_too(bob: Peer) -> None:
    assert run("send", "bob", "", *where(bob)).returncode == 0
    assert texts(bob, 1) == [""]


def test_the_receiver_may_dial_in() -> None:
    with (
        Background("send", "bob", "hello", "--listen", "0", "--timeout", "60") as process,
        Peer("bob", connect=process.address()) as bob,
    ):
        assert texts(bob, 1) == ["hello"]
        assert process.wait() == 0


def test_nobody_there_is_status_3() -> None:
    with Peer("gone", listen=0) as gone:
        address = where(gone)
    result = run("send", "bob", "hello", *address, "--timeout", "0.3")
    assert result.returncode == 3
    assert "bob was not connected within 0.3 seconds" in result.stderr


def test_a_receiver_that_does_not_acknowledge_is_status_3() -> None:
    inside, release = threading.Event(), threading.Event()

    def busy(received: ReceivedMessage) -> None:
        inside.set()
        assert release.wait(DEADLINE)

    with Peer("bob", listen=0, on_message=busy) as bob:
        reason = "bob did not acknowledge it within {timeout} seconds"
        assert run_in_vain("send", "bob", "hello", *where(bob), until=reason).returncode == 3
        assert inside.is_set()
        release.set()


def test_somebody_else_there_is_status_3_and_named(bob: Peer) -> None:
    reason = "carol was not connected within {timeout} seconds; who is connected: bob"
    assert run_in_vain("send", "carol", "hello", *where(bob), until=reason).returncode == 3


def test_who_is_there_does_not_steer_the_terminal() -> None:
    with Peer("eve\x1b[2J", listen=0) as eve:
        run_in_vain("send", "carol", "hello", *where(eve), until="who is connected: eve\\x1b[2J")


def test_a_message_that_outlives_its_ttl_is_status_3() -> None:
    with Peer("gone", listen=0) as gone:
        address = where(gone)
    result = run("send", "bob", "hello", *address, "--ttl", "0.2", "--timeout", "60")
    assert result.returncode == 3
    assert "dropped: bob was not connected for 0.2 seconds" in result.stderr


def test_the_ttl_goes_along(bob: Peer) -> None:
    assert run("send", "bob", "hello", *where(bob), "--ttl", "600").returncode == 0
    received = bob.receive(DEADLINE)
    assert received is not None
    assert received.ttl is not None
    assert 590 < received.ttl <= 600


def test_what_is_not_delivered_waits_in_the_storage_and_goes_out_in_order(
    bob: Peer, tmp_path: Path
) -> None:
    storage = tmp_path / "queue.db"
    assert run("send", "bob", "one", "--storage", storage, "--no-wait").returncode == 0
    with Peer("gone", listen=0) as gone:
        address = where(gone)
    late = run("send", "bob", "two", "--storage", storage, *address, "--timeout", "0.2")
    assert late.returncode == 3
    assert f"messages that wait for it in {storage}: 2" in late.stderr
    with SqliteQueuesStorage(os.fspath(storage)) as file:
        assert [(m.data, m.flags) for m in file.get_items("bob")] == [
            (b"one", FLAG_PERSISTENT),
            (b"two", FLAG_PERSISTENT),
        ]
    assert run("send", "bob", "three", "--storage", storage, *where(bob)).returncode == 0
    assert texts(bob, 3) == ["one", "two", "three"]
    with SqliteQueuesStorage(os.fspath(storage)) as file:
        assert file.get_queues() == []


def test_without_a_text_what_waits_in_the_storage_is_sent(bob: Peer, tmp_path: Path) -> None:
    storage = tmp_path / "queue.db"
    for text in ("one", "two"):
        assert run("send", "bob", text, "--storage", storage, "--no-wait").returncode == 0
    assert run("send", "bob", "--storage", storage, *where(bob)).returncode == 0
    assert texts(bob, 2) == ["one", "two"]
    # And now that nothing waits, that is done at once, whoever is there.
    assert run("send", "bob", "--storage", storage, "--connect", "1").returncode == 0


def test_a_storage_that_can_not_be_opened_is_status_1(bob: Peer, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "queue.db"
    result = run("send", "bob", "x", "--storage", path, "--no-wait")
    assert result.returncode == 1
    assert "there is no directory" in result.stderr
