"""What is in the log: nothing secret, no payload, and nothing that others have formatted."""

from __future__ import annotations

import logging
import pickle
from typing import Any

import pytest

from snakemq import ConnectionLimits, Message, Peer, SharedSecret
from snakemq.rpc import CallError, Error
from tests.helpers import DEADLINE, wait_until
from tests.layers.impostor import Impostor, message, packet

SECRET = b"CANARY-secret-of-this-test"
FORGED = "x\n2026-01-01 CRITICAL root logged in\r\x1b[31m\u202e"


class Served:
    def echo(self, value: Any) -> Any:
        return value

    def fail(self, value: Any) -> Any:
        raise LookupError("nothing of that kind")

    def signal(self, value: Any) -> None:
        pass


def check(caplog: pytest.LogCaptureFixture) -> None:
    assert "CANARY" not in caplog.text
    for record in caplog.records:
        text = record.getMessage()
        assert text.isprintable(), f"{record.name}: {text!r}"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


def test_no_secret_and_no_payload(log: pytest.LogCaptureFixture, tmp_path: Any) -> None:
    """With everything that the layers log, down to the lines for debugging."""
    with (
        Peer(
            "bob",
            listen=0,
            authentication=SharedSecret(SECRET),
            storage=tmp_path / "bob.db",
            durable_receive=True,
            serve={"served": Served()},
        ) as bob,
        Peer("alice", connect=bob.addresses[0], authentication=SharedSecret(SECRET)) as alice,
    ):
        for data in ("CANARY-message", b"CANARY" * 100_000):
            alice.send("bob", data)
            received = bob.receive(DEADLINE)
            assert received is not None
            received.done()
        alice.send("nobody", "CANARY-queued")
    check(log)


def test_no_payload_of_calls_that_fail(log: pytest.LogCaptureFixture) -> None:
    with (
        Peer("bob", listen=0, serve={"served": Served()}) as bob,
        Peer("alice", connect=bob.addresses[0]) as alice,
    ):
        assert alice.wait_connected("bob", DEADLINE)
        served = alice.proxy("bob", "served")
        assert served.echo("CANARY-argument") == "CANARY-argument"
        assert served.echo(["CANARY" * 20_000])
        with pytest.raises(LookupError):
            served.fail("CANARY-argument")
        with pytest.raises((CallError, Error, TypeError, AttributeError)):
            served.nothing("CANARY-argument")
        served.signal.signal()("CANARY-argument")
        served.fail.signal()("CANARY-argument")
        for body in (
            b"CANARY no pickle",
            pickle.dumps({"command": "call", "CANARY": 1}),
            pickle.dumps({"command": "unknown", "object": "served", "args": ("CANARY",)}),
            pickle.dumps(["CANARY"]),
        ):
            for prefix in (b"rpcreq", b"rpcrep", b"rpcprt"):
                alice.messaging.send_message("bob", Message(prefix + body, 0))
        assert served.echo(1) == 1
    check(log)


@pytest.mark.parametrize("ident", [FORGED, "\0", "\x1b]0;title\x07", "\u2028", "\ud7ff\ufffd"])
def test_identifiers_are_escaped(log: pytest.LogCaptureFixture, ident: str) -> None:
    ident = ident[:50]
    with (
        Peer("bob", listen=0, serve={"served": Served()}, keepalive=None) as bob,
        Impostor.dial(bob.addresses[0]) as first,
    ):
        first.greet_as_16(ident)
        wait_until(lambda: bob.peers == [ident])
        for body in (
            b"no pickle",
            pickle.dumps({"command": "call", "object": FORGED, "method": FORGED, "args": (),
                          "kwargs": {}, "req_id": b"i" * 16}),
            pickle.dumps({"command": "signal", "object": "served", "method": FORGED, "args": (),
                          "kwargs": {}}),
            pickle.dumps({"command": "call", "object": "served", "method": "fail",
                          "args": (FORGED,), "kwargs": {FORGED: 1}, "req_id": b"j" * 16}),
            pickle.dumps({"command": "describe", "object": FORGED, "req_id": b"k" * 16}),
        ):  # fmt: skip
            first.send(message(b"rpcreq" + body), message(b"rpcrep" + body))
        first.send(packet(b"\4"))
        first.expect(5)
        first.send(packet(b"\7short"))
        first.send(packet(b"\0\0\0\0\2"))
        first.rest()
        wait_until(lambda: not bob.peers)
    check(log)


def test_garbage_is_not_logged(log: pytest.LogCaptureFixture) -> None:
    # Some of it is no mistake, as far as it goes.
    limits = ConnectionLimits(identification_timeout=0.2)
    with Peer("bob", listen=0, connection_limits=limits) as bob:
        for garbage in (
            b"GET /CANARY HTTP/1.1\r\nHost: CANARY\r\n\r\n",
            packet(b"\2" + b"CANARY" * 100),
            packet(b"\6CANARY"),
            packet(b"\2\xff\xfe\n") + packet(b"\3CANARY"),
            packet(b""),
            packet(b"\x0aC\n"),
        ):
            with Impostor.dial(bob.addresses[0]) as mallory:
                mallory.send(garbage)
                mallory.rest()
    check(log)
