"""Every promise of the threat model names tests that exist."""

from __future__ import annotations

import re

import pytest

from snakemq._core.rpc_parts import MAX_RECORD_SIZE
from snakemq._strangers import MAX_GREETING_PACKET, MAX_GREETING_SIZE
from snakemq.authentication import MIN_SECRET_SIZE
from snakemq.limits import ConnectionLimits
from snakemq.peer import CallLimits
from snakemq.peer._inbox import DEFAULT_INBOX_LIMIT
from snakemq.rpc import AnswerLimits
from tests.docs.runner import ROOT
from tests.docs.test_promises import named_tests, names_in

DOCUMENT = ROOT / "docs" / "explanation" / "threat_model.rst"

ATTACKERS = [
    "Who can connect",
    "Who is on the way",
    "Who has a valid identity",
    "Who can read the disk",
]


def promises(attacker: str) -> dict[int, str]:
    """The numbered sentences of a section, each in one line."""
    text = DOCUMENT.read_text("utf-8")
    heading = f"\n{attacker}\n{'=' * len(attacker)}\n"
    section = text.partition(heading)[2].partition("\n====")[0]
    items = re.findall(r"^(\d+)\. +((?:.+\n| +.+\n|\n(?= ))+)", section, re.MULTILINE)
    return {int(number): " ".join(item.split()) for number, item in items}


@pytest.mark.parametrize("attacker", ATTACKERS)
def test_each_promise_names_tests(attacker: str) -> None:
    found = promises(attacker)
    assert found
    assert list(found) == list(range(1, len(found) + 1))
    for promise in found.values():
        sentence, shown_by, tests = promise.partition("*Shown by*")
        assert sentence
        assert shown_by
        assert named_tests(tests), promise


def test_all_tests_that_are_named_exist() -> None:
    named = named_tests(DOCUMENT.read_text("utf-8"))
    assert len(named) > 40
    missing = [f"{module}::{test}" for module, test in named if test not in names_in(ROOT / module)]
    assert not missing


def test_no_promise_is_without_tests() -> None:
    text = DOCUMENT.read_text("utf-8")
    numbered = len(re.findall(r"^\d+\. ", text, re.MULTILINE))
    assert numbered == sum(len(promises(attacker)) for attacker in ATTACKERS)


def words_of(path: str) -> str:
    return " ".join((ROOT / path).read_text("utf-8").split())


def test_the_numbers_are_those_of_the_code() -> None:
    limits, calls = ConnectionLimits(), CallLimits()
    assert MAX_GREETING_SIZE == 8 << 10
    assert (limits.max_packet_size, limits.max_unfinished_bytes) == (1 << 30, 2 << 30)
    assert (MAX_RECORD_SIZE, AnswerLimits().max_bytes) == (1 << 30, 64 << 20)
    assert DEFAULT_INBOX_LIMIT == 64 << 20
    assert calls.max_per_peer * 2 == calls.max_workers
    assert calls.max_waiting_per_peer * 4 == calls.max_waiting
    assert limits.identification_timeout == 10
    assert MIN_SECRET_SIZE == 16

    page = words_of("docs/explanation/threat_model.rst")
    for said in (
        f"it can send 8 KiB, in packets of at most {MAX_GREETING_PACKET} bytes, in 10 seconds",
        f"its own {limits.accept_rate:g} a second",
        "up to 1 GiB on one connection, and 2 GiB on all together",
        "answers of 64 MiB kept",
        "Fill the inbox, 64 MiB",
        "half of the workers, and a quarter of the waiting line",
    ):
        assert said in page

    security = words_of("SECURITY.md")
    assert f"8 KiB and 10 seconds, and a place among {limits.max_unidentified}" in security
    assert "hold up to 1 GiB, by sending most of one packet, and all together 2 GiB" in security
    assert "10 seconds, is for all of this" in words_of("docs/howto/authentication.rst")
    assert "16 bytes at least" in words_of("docs/howto/authentication.rst")
