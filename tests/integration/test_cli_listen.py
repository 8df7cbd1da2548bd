"""``snakemq listen`` in a process of its own."""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path

import pytest

from snakemq import Peer
from tests.helpers import DEADLINE
from tests.integration.command_line import Background, run


def deliver(process: Background, *messages: bytes | str, ident: str = "alice") -> None:
    with Peer(ident, connect=process.address()) as peer:
        for message in messages:
            peer.send("bob", message)
        assert peer.flush("bob", DEADLINE)


LISTEN = ("listen", "--ident", "bob", "--listen", "0")


def test_text_is_printed_a_line_each_as_soon_as_it_comes() -> None:
    with Background(*LISTEN, "--count", 3) as process:
        deliver(process, "first")
        process.wait_out(b"first" + os.linesep.encode())
        deliver(process, "žluťoučký", b"not \xff text")
        assert process.wait() == 0
    assert process.out.decode().splitlines() == ["first", "žluťoučký", "not \ufffd text"]


def test_raw_is_what_was_sent_and_nothing_else() -> None:
    with Background(*LISTEN, "--raw", "--count", 2) as process:
        deliver(process, b"\x00\xff\r\n", b"\n")
        assert process.wait() == 0
    assert process.out == b"\x00\xff\r\n\n"


def test_json_is_an_object_in_each_line() -> None:
    with Background(*LISTEN, "--json", "--count", 3) as process:
        with Peer("alice", connect=process.address()) as alice:
            uuids = [
                alice.send("bob", "two\nlines", ttl=60, flags=0x10),
                alice.send("bob", b"\xff"),
                alice.send("bob", "ž"),
            ]
            assert alice.flush("bob", DEADLINE)
        assert process.wait() == 0
    records = [json.loads(line) for line in process.out.decode().splitlines()]
    # Some of it may have passed before alice was connected.
    assert 50 <= records[0].pop("ttl") <= 60
    assert records[0] == {
        "ident": "alice",
        "uuid": uuids[0].hex(),
        "flags": 0x10,
        "redelivered": False,
        "text": "two\nlines",
    }
    assert base64.b64decode(records[1].pop("base64")) == b"\xff"
    assert records[1] == {
        "ident": "alice",
        "uuid": uuids[1].hex(),
        "ttl": None,
        "flags": 0,
        "redelivered": False,
    }
    assert records[2]["text"] == "ž"


def test_a_command_is_run_for_each_message(tmp_path: Path) -> None:
    script = tmp_path / "handler.py"
    script.write_text(
        "import os, sys\n"
        "data = sys.stdin.read()\n"
        "name, uuid = os.environ['SNAKEMQ_IDENT'], os.environ['SNAKEMQ_UUID']\n"
        "print(name, len(uuid), os.environ['SNAKEMQ_REDELIVERED'], data)\n"
    )
    command = f'"{sys.executable}" "{script}"'
    with Background(*LISTEN, "--exec", command, "--count", 2) as process:
        deliver(process, "one", "$(two)")
        assert process.wait() == 0
    assert process.out.decode().splitlines() == ["alice 32 0 one", "alice 32 0 $(two)"]


def test_a_command_that_fails_is_reported_and_ends_nothing() -> None:
    command = f'"{sys.executable}" -c "import sys; sys.exit(int(sys.stdin.read()))"'
    with Background(*LISTEN, "--exec", command, "--count", 2) as process:
        deliver(process, "7", "0")
        assert process.wait() == 1
    assert process.err.decode().count("the command ended with status 7") == 1


def test_only_one_sender_is_listened_to() -> None:
    with Background(*LISTEN, "--from", "carol", "--count", 1) as process:
        deliver(process, "from alice", ident="alice")
        deliver(process, "from carol", ident="carol")
        assert process.wait() == 0
    assert process.out.decode().splitlines() == ["from carol"]


def test_it_can_dial_and_give_up_after_silence() -> None:
    with Peer("alice", listen=0) as alice:
        address = "{}:{}".format(*alice.addresses[0])
        for timeout in ("0.3", "3", f"{DEADLINE:g}"):
            alice.send("bob", "hello")
            result = run("listen", "--ident", "bob", "--connect", address, "--timeout", timeout)
            assert result.returncode == 3
            assert f"no message for {timeout} seconds" in result.stderr
            if result.stdout:  # else that was too short for the connection
                break
    assert set(result.stdout.splitlines()) == {"hello"}


def test_verbose_logs_to_standard_error() -> None:
    with Background(*LISTEN, "-v", "--count", 1) as process:
        deliver(process, "hello")
        assert process.wait() == 0
    assert "snakemq.link INFO accept" in process.err.decode()
    assert "DEBUG" not in process.err.decode()
    assert process.out.decode().splitlines() == ["hello"]


@pytest.mark.parametrize("family", ["[::1]:0", "127.0.0.1:0"])
def test_it_says_where_it_listens(family: str) -> None:
    with Background("listen", "--ident", "bob", "--listen", family) as process:
        host = family.rpartition(":")[0]
        assert process.wait_err(r"bob listens on (\S+):\d+\n")[1] == host
