"""The command line and Peer talk to the real snakeMQ 1.6."""

from __future__ import annotations

import json

from snakemq import Peer
from tests.compat.harness import PeerProcesses
from tests.helpers import DEADLINE
from tests.integration.command_line import run


def test_ping_send_and_call(peers: PeerProcesses) -> None:
    messenger = peers.listener("old", "messenger.py", ident="old")
    where = ("--connect", f"127.0.0.1:{messenger.port}")
    pinged = run("ping", "old", *where, "-c", "3", "-i", "0.01")
    assert pinged.returncode == 0
    assert "3 sent, 3 answered, 0% loss" in pinged.stdout
    sent = run("send", "old", "from the shell", *where, "--ident", "shell")
    assert sent.returncode == 0, sent.stderr
    message = messenger.wait_one("message", data="from the shell")
    assert message["peer"] == "shell"
    assert message["ttl"] is None

    caller = peers.listener("old", "caller.py", ident="server")
    where = ("--connect", f"127.0.0.1:{caller.port}")
    called = run("call", "server", "service.join", "a", "second=b", "sep=+", *where)
    assert json.loads(called.stdout) == "a+b"
    failed = run("call", "server", "service.divide", "1", "0", *where)
    assert failed.returncode == 4
    assert "ZeroDivisionError" in failed.stderr
    assert "in divide" in failed.stderr
    missing = run("call", "server", "service.missing", *where)
    assert missing.returncode == 4
    assert "NoMethodError" in missing.stderr


def test_a_peer_and_1_6_exchange_messages(peers: PeerProcesses) -> None:
    with Peer("new", listen=0) as new:
        old = peers.connector("old", "messenger.py", ident="old", port=new.addresses[0][1])
        assert new.wait_connected("old", DEADLINE)
        uuid = new.send("old", "hello")
        message = old.wait_one("message", data="hello")
        assert message["uuid"] == uuid.hex().upper()
        old.do("send", to="new", data="hello yourself", ttl=None)
        received = new.receive(DEADLINE)
        assert received is not None
        assert (received.ident, received.text) == ("old", "hello yourself")
        assert new.ping("old", DEADLINE) > 0
        new.send("old", "last words")
        new.stop()
        assert old.wait_one("message", data="last words")
