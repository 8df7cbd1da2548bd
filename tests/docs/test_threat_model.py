"""Every promise of the threat model names tests that exist."""

from __future__ import annotations

import re

import pytest

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
