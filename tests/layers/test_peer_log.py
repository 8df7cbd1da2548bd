"""Lines in the log that others can cause."""

from __future__ import annotations

import logging
import threading

import pytest

from snakemq._peer_log import (
    LINES_OF_ALL,
    LINES_OF_ALL_TIME,
    LINES_PER_PEER,
    LINES_TIME,
    PeerLog,
    quoted,
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock, caplog: pytest.LogCaptureFixture) -> PeerLog:
    caplog.set_level(logging.INFO)
    return PeerLog(logging.getLogger("snakemq.test"), clock)


def test_what_is_left_out_is_counted_and_said(
    log: PeerLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(LINES_PER_PEER + 7):
        log.error("mallory", "line %d", number)
    assert len(caplog.messages) == LINES_PER_PEER
    assert log.left_out == 7
    clock.now += LINES_TIME
    log.warning("mallory", "again: %s", "x")
    assert caplog.messages[-1] == (
        "again: x (7 lines about the same peer were left out before this one)"
    )
    log.info("mallory", "one more")
    assert len(caplog.messages) == LINES_PER_PEER + 1
    clock.now += LINES_TIME * LINES_PER_PEER * 10
    caplog.clear()
    for _ in range(LINES_PER_PEER * 2):
        log.info("mallory", "quiet for long, and as before")
    assert len(caplog.messages) == LINES_PER_PEER


def test_others_are_not_left_out(log: PeerLog, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        log.error("mallory", "noise")
    log.error("alice", "this matters")
    assert caplog.messages[-1] == "this matters"


def test_who_takes_another_name_each_time_has_a_limit_too(
    log: PeerLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1000):
        log.error(("mallory", number), "noise")
    assert len(caplog.messages) == LINES_OF_ALL
    assert log.left_out == 1000 - LINES_OF_ALL
    clock.now += 2 * LINES_OF_ALL_TIME
    log.error("alice", "this matters")
    assert caplog.messages[-1] == (
        "this matters (800 lines about many peers were left out before this one)"
    )


def test_several_threads_log_at_a_time(log: PeerLog, caplog: pytest.LogCaptureFixture) -> None:
    def write(first: int) -> None:
        for number in range(first, first + 2000):
            peer = number % 1500
            log.error(peer, "line")

    threads = [threading.Thread(target=write, args=(first,)) for first in range(0, 4000, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caplog.messages) + log.left_out == 8000


def test_what_is_not_logged_does_not_count(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("snakemq.test.quiet")
    log = PeerLog(logger, clock)
    caplog.set_level(logging.ERROR, "snakemq.test.quiet")
    for _ in range(100):
        log.info("mallory", "noise")
    log.error("mallory", "heard")
    assert caplog.messages == ["heard"]


def test_only_so_many_peers_are_remembered(log: PeerLog) -> None:
    for number in range(5000):
        log.info(number, "hello")
    assert len(log._peers) == 1000


def test_the_traceback_and_the_place_are_the_callers(
    log: PeerLog, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        raise LookupError("not there")
    except LookupError:
        log.exception("mallory", "it failed")
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.filename == "test_peer_log.py"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bob", "'bob'"),
        ("a\nERROR forged\x1b[31m", r"'a\nERROR forged\x1b[31m'"),
        ("böb\u202e", r"'b\xf6b\u202e'"),
        (b"\x00\xff\n", r"'\x00\xff\n'"),
        (bytearray(b"abc"), "'abc'"),
        (ValueError("a\nb"), r"'a\nb'"),
        ("x" * 201, "'" + "x" * 200 + "'... (201 characters)"),
        (b"y" * 200, "'" + "y" * 200 + "'"),
        (b"y" * 1000, "'" + "y" * 200 + "'..."),
        (12, "'12'"),
    ],
)
def test_what_somebody_else_wrote_is_escaped_and_cut(text: object, expected: str) -> None:
    assert quoted(text) == expected
