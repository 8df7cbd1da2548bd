"""``snakemq call`` in a process of its own."""

from __future__ import annotations

import datetime
import json
import os
import threading
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from snakemq import CallLimits, Peer, as_signal, at_most_once, current_call
from snakemq._core.features import Feature, encode_features
from snakemq.rpc import CallHook, CallInfo, Refused
from tests.helpers import DEADLINE, wait_until
from tests.integration.command_line import Background, run, run_in_vain
from tests.layers.impostor import PING, Trap, packet
from tests.layers.peers import old_peer


class Things:
    def __init__(self) -> None:
        self.release = threading.Event()
        self.waiting = threading.Event()
        self.cancelled = threading.Event()
        self.signals: list[str] = []
        self.read_to_its_end = False

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
        self.waiting.set()
        self.release.wait(DEADLINE)

    def wait_until_cancelled(self) -> None:
        self.waiting.set()
        if current_call().wait_cancelled(DEADLINE):
            self.cancelled.set()

    def stream(self) -> Iterator[Any]:
        """Items, now and then.

        More of it.
        """
        try:
            yield {"item": 1}
            yield (2, b"two")
            self.release.wait(DEADLINE)
            yield "ž"
            self.read_to_its_end = True
        finally:
            self.cancelled.set()

    def broken_stream(self) -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    def broken_pipe(self) -> None:
        raise BrokenPipeError("over there")

    @at_most_once
    def pay(self, amount: int = 1) -> None:
        """Pay \x1b[31m it."""

    @as_signal
    def note(self, text: str) -> None:
        self.signals.append(text)


@pytest.fixture
def things() -> Things:
    return Things()


def now() -> str:
    """Tell the time."""
    return "late"


@pytest.fixture
def where(things: Things) -> Generator[tuple[str, str]]:
    serve = {"things": things, "a.b": things, "now": now, "x.y.z.now": now}
    with Peer("bob", listen=0, serve=serve) as bob:
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
    reason = "carol was not connected within {timeout} seconds; who is connected: bob"
    result = run_in_vain("call", "carol", "things.add", "1", "2", *where, until=reason)
    assert result.returncode == 3


def test_no_answer_is_status_3(where: tuple[str, str]) -> None:
    reason = "bob did not answer within {timeout} seconds"
    assert run_in_vain("call", "bob", "things.wait", *where, until=reason).returncode == 3


def test_a_signal_has_no_result(where: tuple[str, str], things: Things) -> None:
    result = run("call", "bob", "things.note", "tea", "--signal", *where)
    assert (result.returncode, result.stdout) == (0, "")
    wait_until(lambda: things.signals == ["tea"])


def test_a_signal_to_nobody_is_status_3(where: tuple[str, str]) -> None:
    result = run("call", "carol", "things.note", "x", "--signal", *where, "--timeout", "0.3")
    assert result.returncode == 3


def test_functions_are_called_by_their_names(where: tuple[str, str]) -> None:
    assert run("call", "bob", "now", *where).stdout == '"late"\n'
    assert run("call", "bob", "x.y.z.now", *where).stdout == '"late"\n'


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["call", "bob"], "say what to call"),
        (["call", "bob", "things..add"], "'things..add' is not OBJECT.METHOD or FUNCTION"),
        (["call", "bob", "now", "--list"], "--list lists everything"),
        (["call", "bob", "now", "--json"], "--json is for --list"),
        (["call", "bob", "--list", "--signal"], "not allowed with"),
    ],
)
def test_wrong_arguments_are_status_2(words: list[str], complaint: str) -> None:
    result = run(*words, "--connect", "1")
    assert result.returncode == 2
    assert complaint in result.stderr


def test_an_exception_like_one_of_the_output_is_still_remote(where: tuple[str, str]) -> None:
    result = run("call", "bob", "things.broken_pipe", *where)
    assert result.returncode == 4
    assert "BrokenPipeError: over there" in result.stderr


# Streams.


def test_a_stream_is_printed_as_it_comes(where: tuple[str, str], things: Things) -> None:
    with Background("call", "bob", "things.stream", *where) as command:
        command.wait_out(b'{"item": 1}\n[2, "b\'two\'"]\n')
        things.release.set()
        assert command.wait() == 0
    assert command.out.decode().splitlines()[2:] == ['"ž"']


def test_what_a_stream_raises_comes_behind_its_items(where: tuple[str, str]) -> None:
    result = run("call", "bob", "things.broken_stream", *where)
    assert (result.returncode, result.stdout) == (4, "1\n")
    assert "snakemq call: LookupError: no more\n" in result.stderr


def test_the_timeout_holds_for_each_item(where: tuple[str, str], things: Things) -> None:
    for timeout in ("0.3", "3", f"{DEADLINE:g}"):
        result = run("call", "bob", "things.stream", *where, "--timeout", timeout)
        assert result.returncode == 3
        if result.stdout:  # else that was too short for the items that are there
            break
    assert len(result.stdout.splitlines()) == 2
    assert f"bob did not answer within {timeout} seconds" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="sends signals")
@pytest.mark.parametrize("end", ["interrupt", "terminate"])
def test_ctrl_c_closes_a_stream_over_there(
    where: tuple[str, str], things: Things, end: str
) -> None:
    with Background("call", "bob", "things.stream", *where) as command:
        command.wait_out(b"[2, ")
        assert getattr(command, end)() == (130 if end == "interrupt" else 143)
        things.release.set()
        assert things.cancelled.wait(DEADLINE)
        assert not things.read_to_its_end


@pytest.mark.skipif(os.name == "nt", reason="sends signals")
def test_ctrl_c_cancels_a_call(where: tuple[str, str], things: Things) -> None:
    with Background("call", "bob", "things.wait_until_cancelled", *where) as command:
        assert things.waiting.wait(DEADLINE)
        assert command.interrupt() == 130
        assert things.cancelled.wait(DEADLINE)


# What is not taken.


def test_a_busy_peer_is_status_5(things: Things) -> None:
    limits = CallLimits(max_workers=1, max_waiting=0)
    with Peer("bob", listen=0, serve={"things": things}, call_limits=limits) as bob:
        where = "--connect", "{}:{}".format(*bob.addresses[0])
        with Background("call", "bob", "things.wait", *where):
            assert things.waiting.wait(DEADLINE)
            result = run("call", "bob", "things.add", "1", "2", *where)
        things.release.set()
    assert result.returncode == 5
    assert "bob did not take the call: too many calls wait at 'bob'" in result.stderr


def test_a_call_that_is_not_allowed_is_status_5(things: Things) -> None:
    class Nobody(CallHook):
        def before(self, call: CallInfo) -> None:
            raise Refused(f"{call.name} is not for {call.ident}")

    with Peer("bob", listen=0, serve={"things": things}) as bob:
        bob.rpc_server.add_hook(Nobody())
        where = "--connect", "{}:{}".format(*bob.addresses[0])
        result = run("call", "bob", "things.add", "1", "2", *where, "--ident", "eve")
    assert result.returncode == 5
    assert "bob did not take the call: things.add is not for eve" in result.stderr


# --list


def test_the_list_has_names_signatures_marks_and_what_they_do(where: tuple[str, str]) -> None:
    result = run("call", "bob", "--list", *where)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert "now() -> str                                Tell the time." in lines
    assert "x.y.z.now() -> str                          Tell the time." in lines
    assert "things.add(a: int, b: int) -> int" in lines
    assert "things.stream() -> Iterator[Any]            (stream) Items, now and then." in lines
    assert "things.note(text: str) -> None              (signal)" in lines
    assert "things.pay(amount: int = 1) -> None         (at most once) Pay \\x1b[31m it." in lines
    assert sum(line.startswith("a.b.") for line in lines) == len(lines) / 2 - 1


def test_the_list_as_json(where: tuple[str, str]) -> None:
    result = run("call", "bob", "--list", "--json", *where)
    entries = [json.loads(line) for line in result.stdout.splitlines()]
    assert [entry["name"] for entry in entries] == ["a.b", "now", "things", "x.y.z.now"]
    assert entries[1]["kind"] == "function"
    assert entries[2]["methods"][0]["signature"] == "(a: int, b: int) -> int"


def test_the_list_of_nobody_is_status_3(where: tuple[str, str]) -> None:
    result = run("call", "carol", "--list", *where, "--timeout", "0.3")
    assert result.returncode == 3
    assert "carol was not connected within 0.3 seconds" in result.stderr


def test_the_list_of_one_who_serves_nothing_is_status_3() -> None:
    with Peer("bob", listen=0) as bob:
        where = "--connect", "{}:{}".format(*bob.addresses[0])
        reason = "one that serves nothing does not answer"
        assert run_in_vain("call", "bob", "--list", *where, until=reason).returncode == 3


def test_it_is_waited_for_until_it_is_known_whether_there_is_a_list() -> None:
    """What a peer can do may come in a segment of its own, behind who it is."""

    def talk(trap: Trap) -> None:
        with trap.accept() as bob:
            bob.greet_as_16("bob")
            bob.expect(PING)
            bob.send(packet(b"\6", encode_features({Feature.CALLS: b""})), packet(b"\5"))
            bob.rest()

    for timeout in ("0.3", "3", f"{DEADLINE:g}"):
        with Trap() as trap:
            thread = threading.Thread(target=talk, args=(trap,))
            thread.start()
            where = "--connect", "{}:{}".format(*trap.address)
            result = run("call", "bob", "--list", *where, "--timeout", timeout)
            thread.join(DEADLINE)
        if "was not connected" not in result.stderr:
            break
    assert result.returncode == 3
    assert "one that serves nothing does not answer" in result.stderr


def test_a_peer_of_16_has_no_list() -> None:
    with old_peer() as bob:
        where = "--connect", "{}:{}".format(*bob.address)
        result = run("call", "bob", "--list", *where)
    assert result.returncode == 1
    assert "bob can't tell what it serves: it is a peer of snakeMQ 1.6" in result.stderr
    assert not any(message.startswith(b"rpcreq") for message in bob.messages)
