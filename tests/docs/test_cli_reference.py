"""The command line reference has every verb, option and exit status, and no other."""

from __future__ import annotations

import argparse
import re

import pytest

from snakemq.cli import _main
from snakemq.cli._exit import ExitCode
from tests.docs.runner import ROOT

DOCUMENT = ROOT / "docs" / "reference" / "cli.rst"

#: Options that are in a section of their own.
SHARED = "Options of listen, send, call and ping"


def verbs() -> dict[str, argparse.ArgumentParser]:
    (found,) = (
        action
        for action in _main._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return dict(found.choices)


def sections() -> dict[str, str]:
    parts = re.split(r"^(.+)\n=+\n", DOCUMENT.read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def documented_options(section: str) -> set[str]:
    terms = re.findall(r"^(``-.*``)$", sections()[section], re.MULTILINE)
    return {option for term in terms for option in re.findall(r"(?<=``)--?[a-z-]+", term)}


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Its options, and those of what can be done with it."""
    found: set[str] = set()
    for action in parser._actions:
        found.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            found.update(*map(options_of, action.choices.values()))
    return found


def test_every_verb_has_a_section() -> None:
    documented = {name.split()[1] for name in sections() if name.startswith("snakemq ")}
    assert documented == set(verbs())


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_options(verb: str) -> None:
    documented = documented_options(f"snakemq {verb}")
    options = options_of(verbs()[verb])
    if "--connect" in options:
        shared = documented_options(SHARED)
        assert shared <= options
        options -= shared
    assert documented == options - {"-h", "--help"}


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_default_timeout(verb: str) -> None:
    parser = verbs()[verb]
    if "--timeout" not in options_of(parser):
        return
    text = sections()[f"snakemq {verb}"].split("``--timeout")[1]
    default = parser.get_default("timeout")
    assert ("No limit by default" if default is None else f"{default:g} by default") in text


def test_exit_status() -> None:
    documented = {
        int(match[1]): match[2]
        for match in re.finditer(r"^(\d+) +(\S.*)$", sections()["Exit status"], re.MULTILINE)
    }
    assert set(documented) == {int(code) for code in ExitCode}
    help_text = _main._parser().format_help()
    for status, meaning in documented.items():
        assert re.search(rf"^ +{status} +{re.escape(meaning)}$", help_text, re.MULTILINE)
