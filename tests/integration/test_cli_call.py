"""``snakemq call`` in a process of its own."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Generator
from typing import Any

import pytest

from snakemq import Peer, as_signal
from tests.helpers import DEADLINE, wait_until
from tests.integration.command_line import run


class Things:
    def __init__(self) -> None:
        self.release = threading.Event()
        self.signals: list[str] = []

    def echo(self, *args: Any, **kwargs: Any) -> Any:
        return [list(args), kwargs]

    def add(self, a: int, b: int) -> int:
        return a + b

    def nothing(self) -> None:
        pass

    def strange(self) -> Any:
        return {"day": datetime.date(2000, 1, 2), 3: b"bytes", "set": [(1, 2)]}

    def fail(self, text: str) -> None:
        raise LookupError(text)

    def wait(self) -> None:
        self.release.wait(DEADLINE)

    @as_signal
    def note(self, text: str) -> None:
        self.signals.append(text)


@pytest.fixture
def things() -> Things:
    return Things()


@pytest.fixture
def where(things: Things) -> Generator[tuple[str, str]]:
    with Peer("bob", listen=0, serve={"things": things, "a.b": things}) as bob:
        yield "--connect", "{}:{}".format(*bob.addresses[0])
        things.release.set()


def test_the_result_is_json_on_standard_output(where: tuple[str, str]) -> None:
    result = run("call", "bob", "things.add", "2", "40", *where)
    assert (result.returncode, result.stdout, result.stderr) == (0, "42\n", "")


def test_arguments_are_json_or_text_or_named(where: tuple[str, str]) -> None:
    result = run(
        *("call", "bob", "things.echo", "1", *where),
        *("-2.5", "true", "null", "text", '"1"', '{"a": [1]}', "1=2", '"x=1"', "", "ž"),
        *("--", "--x", "name=value", "number=1", "empty=", 'deep={"a": "ž"}', "url=a=b"),
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [
        [1, -2.5, True, None, "text", "1", {"a": [1]}, "1=2", "x=1", "", "ž", "--x"],
        {
            "name": "value",
            "number": 1,
            "empty": "",
            "deep": {"a": "ž"},
            "url": "a=b",
        },
    ]
    assert "ž" in result.stdout


def test_no_result_is_null(where: tuple[str, str]) -> None:
    assert run("call", "bob", "things.nothing", *where).stdout == "null\n"


def test_what_json_does_not_know_is_text(where: tuple[str, str]) -> None:
    assert json.loads(run("call", "bob", "things.strange", *where).stdout) == {
        "day": "datetime.date(2000, 1, 2)",
        "3": "b'bytes'",
        "set": [[1, 2]],
    }


def test_the_name_of_an_object_may_have_dots(where: tuple[str, str]) -> None:
    assert run("call", "bob", "a.b.add", "1", "1", *where).stdout == "2\n"


def test_an_exception_is_status_4_with_the_remote_traceback(where: tuple[str, str]) -> None:
    result = run("call", "bob", "things.fail", "not here", *where)
    assert result.returncode == 4
    assert result.stdout == ""
    assert "snakemq call: LookupError: not here\n" in result.stderr
    assert "  | Traceback (most recent call last):" in result.stderr
    assert "in fail" in result.stderr


@pytest.mark.parametrize(
    ("method", "complaint"),
    [("things.missing", "NoMethodError: missing"), ("missing.add", "NoInstanceError: missing")],
)
def test_what_is_not_there_is_status_4(where: tuple[str, str], method: str, complaint: str) -> None:
    result = run("call", "bob", method, *where)
    assert result.returncode == 4
    assert complaint in result.stderr


def test_nobody_there_is_status_3(where: tuple[str, str]) -> None:
    result = run("call", "carol", "things.add", "1", "2", *where, "--timeout", "0.3")
    assert result.returncode == 3
    assert "carol was not connected within 0.3 seconds; who is connected: bob" in result.stderr


def test_no_answer_is_status_3(where: tuple[str, str]) -> None:
    result = run("call", "bob", "things.wait", *where, "--timeout", "0.5")
    assert result.returncode == 3
    assert "bob did not answer within 0.5 seconds" in result.stderr


def test_a_signal_has_no_result(where: tuple[str, str], things: Things) -> None:
    result = run("call", "bob", "things.note", "tea", "--signal", *where)
    assert (result.returncode, result.stdout) == (0, "")
    wait_until(lambda: things.signals == ["tea"])


def test_a_signal_to_nobody_is_status_3(where: tuple[str, str]) -> None:
    result = run("call", "carol", "things.note", "x", "--signal", *where, "--timeout", "0.3")
    assert result.returncode == 3
