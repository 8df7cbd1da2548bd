"""``snakemq ping`` in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from snakemq import Peer
from tests.helpers import DEADLINE, wait_until
from tests.integration.command_line import Background, run, run_in_vain


def where(peer: Peer) -> tuple[str, str]:
    return "--connect", "{}:{}".format(*peer.addresses[0])


def test_round_trips_and_a_summary() -> None:
    with Peer("bob", listen=0) as bob:
        result = run("ping", "bob", *where(bob), "-c", "3", "-i", "0.01", "--ident", "alice")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "PING bob from alice"
    for number, line in enumerate(lines[1:4], 1):
        assert re.fullmatch(rf"answer from bob: seq={number} time=\d+\.\d{{3}} ms", line)
    assert lines[4:7] == ["", "--- bob ping statistics ---", "3 sent, 3 answered, 0% loss"]
    found = re.fullmatch(r"round trip min/avg/max = ([\d.]+)/([\d.]+)/([\d.]+) ms", lines[7])
    assert found is not None
    low, average, high = map(float, found.groups())
    assert 0 < low <= average <= high


def test_nobody_there_is_status_3() -> None:
    with Peer("carol", listen=0) as carol:
        reason = "bob was not connected within {timeout} seconds; who is connected: carol"
        assert run_in_vain("ping", "bob", *where(carol), "-c", "1", until=reason).returncode == 3


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_sums_up() -> None:
    with (
        Peer("bob", listen=0) as bob,
        Background("ping", "bob", *where(bob), "-i", "0.01") as process,
    ):
        process.wait_out(b"seq=3 ")
        assert process.interrupt() == 130
    summary = re.search(rb"(\d+) sent, (\d+) answered", process.out)
    assert summary is not None
    assert int(summary[1]) >= int(summary[2]) >= 3
    assert process.err == b""


def test_a_peer_that_comes_back_is_pinged_again() -> None:
    with Background("ping", "bob", "--listen", 0, "-i", "0.01", "-c", 1000000) as process:
        address = process.address()
        with Peer("bob", connect=address):
            process.wait_out(b"seq=2 time=")
        process.wait_out(b"no answer from bob")
        answered = process.out.count(b"time=")
        with Peer("bob", connect=address):
            wait_until(lambda: process.out.count(b"time=") > answered + 2)


def packet(frame: bytes) -> bytes:
    return len(frame).to_bytes(4, "big") + frame


@contextlib.contextmanager
def old_peer(*, answers: bool) -> Generator[tuple[int, Future[int]]]:
    """Bob, who knows nothing but frames of types 0, 2, 4 and 5, as in snakeMQ 1.6.

    Gives his port and, at the end of the connection, how many pings came. The
    first one is not the command's: it asks what bob can do.
    """

    def talk() -> int:
        connection, _ = server.accept()
        pings = 0
        with connection, connection.makefile("rb") as stream:
            connection.sendall(packet(b"\0\0\0\0\1") + packet(b"\2bob"))
            while header := stream.read(4):
                frame = stream.read(int.from_bytes(header, "big"))
                if frame == b"\4":
                    pings += 1
                    if answers:
                        connection.sendall(packet(b"\5"))
        return pings

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        talking = pool.submit(talk)
        yield server.getsockname()[1], talking
        if not talking.done():  # the command gave up before it had dialled
            server.shutdown(socket.SHUT_RDWR)


def test_any_peer_that_speaks_protocol_version_1_answers() -> None:
    with old_peer(answers=True) as (port, pings):
        result = run("ping", "bob", "--connect", port, "-c", "2", "-i", "0.01")
        assert pings.result(DEADLINE) == 1 + 2
    assert result.returncode == 0
    assert "2 sent, 2 answered, 0% loss" in result.stdout


def test_no_answer_at_all_is_status_3() -> None:
    for timeout in ("0.3", "3", f"{DEADLINE:g}"):
        with old_peer(answers=False) as (port, pings):
            result = run("ping", "bob", "--connect", port, "-c", "1", "--timeout", timeout)
            assert result.returncode == 3
            if "was not connected" in result.stderr:
                continue  # that was too short for the connection
            assert pings.result(DEADLINE) == 1 + 1
            break
    reason = f"no answer from bob: seq=1 ('bob' did not answer within {timeout} seconds)"
    assert reason in result.stdout
    assert "1 sent, 0 answered, 100% loss\n" in result.stdout
