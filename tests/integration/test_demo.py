"""``snakemq demo``: it tells the truth, and leaves nothing behind however it ends."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from snakemq.cli import demo
from snakemq.cli._demo_process import DemoProcess
from snakemq.cli._exit import CommandError
from tests.helpers import DEADLINE, wait_until
from tests.integration.command_line import ROOT, Background, environment, run


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # In a container there may be nobody who buries the dead.
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(") ")[2].startswith("Z"))


@pytest.fixture(autouse=True)
def temp_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo makes its temporary directory, which must be gone afterwards."""
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


def test_the_whole_story_happens(temp_directory: Path) -> None:
    result = run("demo", "--fast")
    assert result.returncode == 0, result.stderr
    story = result.stdout
    expected = [
        "alice  sends 'Hello Bob, are you there?' to bob, who is not running",
        "bob    starts",
        "bob    receives 'Hello Bob, are you there?' from alice",
        "alice  sends 'Hello again, Bob!' to bob, who is not running",
        "alice  is killed",
        "alice.db holds 1 message",
        "alice  starts",
        "alice  found 1 message for bob",
        "bob    receives 'Hello again, Bob!' from alice",
        "bob    runs calculator.add(2, 40)",
        "alice  gets 42",
        "alice  catches ZeroDivisionError: division by zero, with bob's traceback",
        "| Traceback (most recent call last):",
        "in divide",
        "alice  signals",
        "bob    runs calculator.note('tea is ready')",
        "All of this happened.",
    ]
    position = 0
    for text in expected:
        position = story.find(text, position) + 1
        assert position, f"{text!r} is missing, or out of order, in:\n{story}"
    assert len(set(re.findall(r"starts: process (\d+)", story))) == 4
    assert list(temp_directory.iterdir()) == []


def test_it_works_in_a_clone_with_nothing_but_python(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(
        ROOT / "snakemq", clone / "snakemq", ignore=shutil.ignore_patterns("__pycache__")
    )
    done = subprocess.run(
        # Isolated from whatever is installed here: no site-packages at all.
        [sys.executable, "-S", "-m", "snakemq", "demo", "--fast"],
        cwd=clone,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(clone) in done.stdout  # the traceback is from there


@pytest.mark.skipif(os.name == "nt", reason="sends signals")
@pytest.mark.parametrize(("end", "status"), [("interrupt", 130), ("terminate", 143)])
def test_its_processes_end_with_it(end: str, status: int, temp_directory: Path) -> None:
    with Background("demo") as process:
        process.wait_out(b"bob    receives")
        pids = [int(pid) for pid in re.findall(rb"starts: process (\d+)", process.out)]
        assert len(pids) == 2
        assert all(map(is_running, pids))
        assert getattr(process, end)() == status
        assert process.err == b""
    wait_until(lambda: not any(map(is_running, pids)))
    assert list(temp_directory.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="looks for processes by number")
def test_its_processes_end_even_if_it_is_killed() -> None:
    with Background("demo") as process:
        process.wait_out(b"bob    receives")
        pids = [int(pid) for pid in re.findall(rb"starts: process (\d+)", process.out)]
    wait_until(lambda: not any(map(is_running, pids)))


SABOTAGE = """
import sys
from snakemq.cli import _demo_peer
from snakemq.peer import Peer
{fault}
_demo_peer.main()
"""

# What goes wrong, and what the demo should have to say about it.
FAULTS = {
    (
        "import os; _demo_peer.on_message = lambda received: os._exit(1)"
    ): "bob's process ended before",
    (
        "Peer.send, send = lambda peer, ident, text: send(peer, ident, text.upper()), Peer.send"
    ): "bob gets the text that was sent",
    (
        "Peer.send, send ="
        " lambda peer, ident, text: send(peer, ident, text, persistent=False), Peer.send"
    ): "the file holds that one message",
    (
        "_demo_peer.on_message, once ="
        " lambda received: (once(received), once(received)), _demo_peer.on_message"
    ): "nothing arrives twice at bob",
    (
        "_demo_peer.Calculator.add, add ="
        " lambda self, a, b: add(self, a, b) - 1, _demo_peer.Calculator.add"
    ): "the result is 42, not 41",
    (
        "import os; _demo_peer.Calculator.note = lambda self, text: os._exit(1)"
    ): "bob's process ended before 'called'",
    "import atexit, os; atexit.register(os._exit, 9)": "bob's process ends well",
}


@pytest.mark.parametrize(("fault", "complaint"), FAULTS.items(), ids=FAULTS.values())
def test_it_does_not_claim_what_did_not_happen(
    fault: str,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = tmp_path / "sabotaged.py"
    script.write_text(SABOTAGE.format(fault=fault))
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    monkeypatch.setattr("snakemq.cli._demo_process.PROGRAM", (str(script),))
    with pytest.raises(CommandError, match=complaint):
        demo.run(argparse.Namespace(fast=True))
    assert "All of this happened" not in capsys.readouterr().out
    assert not list(tmp_path.glob("snakemq-demo-*"))


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snakemq.cli._demo_process.PATIENCE", 0.1)
    monkeypatch.setattr("snakemq.cli._demo_process.PROGRAM", ("-c", "input(); input()"))
    with DemoProcess("bob") as process:
        with pytest.raises(CommandError, match="bob did not report 'ready' within 0"):
            process.expect("ready")
        with pytest.raises(CommandError, match="bob's process did not end within 0"):
            process.stop()


def test_a_process_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snakemq.cli._demo_process.PROGRAM", ("-c", "pass"))
    with DemoProcess("bob") as process:
        with pytest.raises(CommandError, match="bob's process ended before 'ready'"):
            process.expect("ready")
        with pytest.raises(CommandError, match="bob's process is gone"):
            wait_until(lambda: process.tell("stop"))
