"""Every sentence of the promise about calls names tests that exist."""

from __future__ import annotations

import re

import pytest

from tests.docs.runner import ROOT
from tests.docs.test_promises import named_tests, names_in

DOCUMENT = ROOT / "docs" / "explanation" / "calls.rst"


def promises() -> dict[int, str]:
    """The numbered sentences, each in one line."""
    text = DOCUMENT.read_text("utf-8")
    section = text.partition("\nThe promises\n============\n")[2].partition("\n====")[0]
    items = re.findall(r"^(\d+)\. +((?:.+\n| +.+\n|\n(?= ))+)", section, re.MULTILINE)
    return {int(number): " ".join(item.split()) for number, item in items}


def test_the_sentences_are_numbered() -> None:
    assert list(promises()) == list(range(1, len(promises()) + 1))
    assert len(promises()) >= 10


@pytest.mark.parametrize("number", promises())
def test_each_names_tests(number: int) -> None:
    sentence, shown_by, tests = promises()[number].partition("*Shown by*")
    assert sentence
    assert shown_by
    assert named_tests(tests)


def test_all_tests_that_are_named_exist() -> None:
    named = named_tests(DOCUMENT.read_text("utf-8"))
    assert len(named) > 20
    missing = [f"{module}::{test}" for module, test in named if test not in names_in(ROOT / module)]
    assert not missing
