"""The command line as a whole: help, versions, usage, exit status, signals."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from snakemq import Peer
from snakemq.cli import main
from snakemq.cli._exit import EXIT_CODES_HELP, ExitCode
from snakemq.version import VERSION
from tests.helpers import DEADLINE
from tests.integration.command_line import Background, environment, run

VERBS = ["demo", "listen", "send", "call", "ping", "queues", "keygen", "version"]

posix_only = pytest.mark.skipif(os.name == "nt", reason="signals and pipes as on POSIX")


def test_version() -> None:
    result = run("version")
    assert result.returncode == 0
    python = ".".join(map(str, sys.version_info[:3]))
    assert result.stdout == f"snakemq {VERSION} (protocol 1), CPython {python}\n"


def test_help_shows_the_verbs_examples_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert EXIT_CODES_HELP in text
    for verb in VERBS:
        assert re.search(rf"^ +{verb} +\S", text, re.MULTILINE), verb
        assert verb == "version" or f"snakemq {verb}" in text


@pytest.mark.parametrize("verb", ["listen", "send", "call", "ping"])
def test_help_of_a_verb_has_examples_that_parse(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert EXIT_CODES_HELP in text
    examples = re.findall(rf"^  (?:.*\| )?snakemq {verb} ", text, re.MULTILINE)
    assert len(examples) >= 2


def test_the_exit_codes_in_the_help_are_all_there_are() -> None:
    listed = {int(number) for number in re.findall(r"^  (\d+) ", EXIT_CODES_HELP, re.MULTILINE)}
    assert listed == {code.value for code in ExitCode}


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["dance"],
        ["listen", "--listen", "localhost", "--ident", "bob"],
        ["listen", "--listen", "0"],
        ["listen", "--ident", "bob"],
        ["listen", "--ident", "x" * 51, "--listen", "0"],
        ["listen", "--ident", "bob", "--listen", "0", "--count", "0"],
        ["listen", "--ident", "bob", "--listen", "0", "--raw", "--json"],
        ["listen", "--ident", "bob", "--listen", "0", "--tls-key", "key.pem"],
        ["listen", "--ident", "bob", "--listen", "0", "--tls-ca", "ca.pem"],
        ["send", "bob", "hello"],
        ["send", "bob", "--connect", "1"],
        ["send", "bob", "hello", "--connect", "localhost:0"],
        ["send", "bob", "hello", "--connect", "1", "--file", "x"],
        ["send", "bob", "hello", "--no-wait"],
        ["send", "bob", "hello", "--connect", "1", "--ttl", "0"],
        ["send", "bob", "hello", "--connect", "1", "--timeout", "inf"],
        ["send", "x" * 51, "hello", "--connect", "1"],
        ["send", "bob", "hello", "--connect", "1", "--ident", "bob"],
        ["call", "bob", "--list", "add", "--connect", "1"],
        ["call", "bob", "calc.", "--connect", "1"],
        ["call", "bob", "calc.add", "[1", "--connect", "1"],
        ["call", "bob", "calc.add", "a=1", "a=2", "--connect", "1"],
        ["call", "bob", "calc.add", "a=1", "2", "--connect", "1"],
        ["call", "bob", "calc.add"],
        ["ping", "bob"],
        ["ping", "bob", "--connect", "1", "-c", "0"],
        ["ping", "bob", "--connect", "1", "-i", "-1"],
    ],
)
def test_wrong_arguments_are_status_2_and_a_message(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(r"^snakemq.*: \S", captured.err, re.MULTILINE), captured.err


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--tls-cert", "missing.pem"], "missing.pem: no such file"),
        (["--tls-cert", __file__], "snakemq listen: "),
    ],
)
def test_files_that_are_of_no_use_are_status_1(
    args: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["listen", "--ident", "bob", "--listen", "0", *args]) == 1
    assert complaint in capsys.readouterr().err


def test_a_busy_port_is_status_1_and_names_the_address(capsys: pytest.CaptureFixture[str]) -> None:
    with Peer("other", listen=0) as other:
        port = other.addresses[0][1]
        assert main(["listen", "--ident", "bob", "--listen", str(port)]) == 1
    assert f"snakemq listen: can't listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_a_missing_payload_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["send", "bob", "--file", "missing.bin", "--connect", "1"]) == 1
    assert "missing.bin: No such file" in capsys.readouterr().err


def test_main_works_in_another_thread() -> None:
    """Where no signal handler can be set."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["version"])))
    thread.start()
    thread.join(DEADLINE)
    assert codes == [0]


# Signals.


@posix_only
@pytest.mark.parametrize(
    "args",
    [
        ["listen", "--ident", "bob", "--listen", "0"],
        ["send", "bob", "hello", "--listen", "0", "--timeout", "1000"],
        ["call", "bob", "calc.add", "--listen", "0", "--timeout", "1000"],
        ["ping", "bob", "--listen", "0", "--timeout", "1000"],
    ],
    ids=lambda args: args[0],
)
def test_ctrl_c_ends_a_command_without_a_traceback(args: list[str]) -> None:
    with Background(*args) as process:
        process.address()
        assert process.interrupt() == 130
        assert process.err.decode().count("\n") == 1


@posix_only
def test_sigterm_ends_a_command_like_ctrl_c() -> None:
    with Background("listen", "--ident", "bob", "--listen", "0") as process:
        process.address()
        assert process.terminate() == 143
        assert process.err.decode().count("\n") == 1


# Output that goes away.


@posix_only
def test_a_reader_of_the_output_that_goes_away_is_status_141() -> None:
    read_end, write_end = os.pipe()
    with Background("listen", "--ident", "bob", "--listen", "0", stdout=write_end) as process:
        os.close(write_end)
        address = process.address()
        os.close(read_end)
        with Peer("alice", connect=address) as alice:
            alice.send("bob", "hello")
            assert process.wait() == 141
        assert process.err.decode().count("\n") == 1


@posix_only
def test_output_that_can_not_be_written_at_the_end_is_noticed() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with full.open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "snakemq", "version"],
            stdout=out,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=DEADLINE,
            check=False,
        )
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


@posix_only
@pytest.mark.parametrize(
    ("args", "status"),
    [(["version"], 0), (["listen", "--ident", "bob", "--listen", "0"], 1)],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_closed_standard_output_is_no_traceback(args: list[str], status: int) -> None:
    done = subprocess.run(
        [*("sh", "-c", 'exec "$@" >&-', "sh"), sys.executable, "-m", "snakemq", *args],
        stderr=subprocess.PIPE,
        env=environment(),
        timeout=2 * DEADLINE,
        check=False,
    )
    assert done.returncode == status
    assert b"Traceback" not in done.stderr
