"""Runs a document: what it shows to a reader is done, in the order in which it is shown.

* ``.. code-block:: python`` is executed; the blocks of a document share a
  namespace. A comment ``.. invisible-code-block: python`` is executed, too,
  and not shown.
* ``.. code-block:: python`` with ``:caption: NAME.py`` is written to that file
  and not executed: a ``console`` block has to run it.
* ``.. code-block:: console``: lines that start with ``$`` are commands, and
  what stands below a command is what it prints (``...`` stands for anything).
  A command must succeed. With ``:class: background`` its last command goes on
  until the end of the document, and must have printed by then what stands below
  it; it is ended as by Ctrl-C. Commands that install or fetch something are
  left out.
* A comment ``.. skip: next "because"`` leaves out the next block.

A document runs in an empty directory. Its ports, 4000 to 4099, are replaced by
free ones, so that nothing that runs on the machine is in the way.
"""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import shlex
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import SkipTest

import pytest
from sybil import Document, Example
from sybil.evaluators.python import pad
from sybil.parsers.rest import CodeBlockParser, SkipParser

from tests.helpers import unassigned_port, wait_until

__all__ = ["ROOT", "Console", "DocumentRunner", "parse_console"]

ROOT = Path(__file__).resolve().parent.parent.parent

#: Seconds that a command may take.
COMMAND_TIMEOUT = 45.0

#: Commands that a document may tell the reader to run and that are run here ...
RUNNABLE = {"cat", "echo", "kill", "ls", "mkdir", "printf", "python3", "seq", "snakemq", "sqlite3"}
#: ... and those that would install or fetch something.
NOT_HERE = {"apt", "cd", "git", "make", "openssl", "pip", "sudo"}

_DOCUMENTED_PORT = re.compile(r"\b40[0-9]{2}\b")


class Command(NamedTuple):
    """A command of a console block and what it is shown to print."""

    line: str
    output: str


def parse_console(text: str) -> list[Command]:
    """The commands of a console block. A backslash or ``>`` continues one."""
    commands: list[Command] = []
    for line in text.strip("\n").split("\n"):
        if line.startswith("$ "):
            commands.append(Command(line.removeprefix("$ "), ""))
        elif not commands:
            raise ValueError(f"output without a command: {line!r}")
        else:
            command, output = commands[-1]
            if not output and (command.endswith("\\") or line.startswith("> ")):
                commands[-1] = Command(f"{command}\n{line.removeprefix('> ')}", "")
            else:
                commands[-1] = Command(command, f"{output}{line}\n")
    return commands


def is_runnable(command: str) -> bool:
    """Whether a command is run here; fails for one that nobody thought of."""
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    if words[:2] in (["python3", "tools/test.py"], ["python3", "tools/fuzz.py"]):
        return False
    if words[:3] == ["python3", "-m", "pip"] or words[0] in NOT_HERE:
        return False
    assert words[0] in RUNNABLE, f"say in {__file__} whether to run {words[0]!r}"
    return True


def as_shown(got: str, shown: str) -> bool:
    """Whether ``got`` is what the document shows; a document may show nothing."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return not shown or doctest.OutputChecker().check_output(shown, got, flags)


class Console:
    """A terminal in which ``snakemq`` and ``python3`` are this project's."""

    def __init__(self, directory: Path, bin_directory: Path) -> None:
        self.directory = directory
        self._background: list[tuple[Command, subprocess.Popen[str], Path]] = []
        self._environment = dict(
            os.environ,
            PATH=f"{bin_directory}{os.pathsep}{os.environ['PATH']}",
            PYTHONPATH=str(ROOT),
            PYTHONUNBUFFERED="1",
            COLUMNS="80",
        )
        python = shlex.quote(sys.executable)
        for name, words in {"python3": python, "snakemq": f"{python} -m snakemq"}.items():
            program = bin_directory / name
            program.write_text(f'#!/bin/sh\nexec {words} "$@"\n', "utf-8")
            program.chmod(0o755)

    def run(self, command: Command) -> None:
        """Run a command to its end; it must succeed and print what is shown."""
        process = self._start(command.line, subprocess.PIPE)
        try:
            output, _ = process.communicate(timeout=COMMAND_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._signal(process, signal.SIGKILL)
            output, _ = process.communicate()
            pytest.fail(f"not at its end: {command.line}\n{output}")
        assert process.returncode == 0, f"{command.line}: {process.returncode}\n{output}"
        assert as_shown(output, command.output), f"{command.line} prints\n{output}"

    def start(self, command: Command) -> None:
        """Run a command until :meth:`finish`."""
        output = self.directory.parent / f"background-{len(self._background)}.txt"
        with output.open("w", encoding="utf-8") as stream:
            self._background.append((command, self._start(command.line, stream), output))

    def finish(self) -> None:
        """Wait until every background command has printed what is shown, and end it."""
        for command, process, output in self._background:
            shown = command.output.replace("^C\n", "")
            wait_until(
                lambda output=output, shown=shown: as_shown(output.read_text("utf-8"), shown),
                what=lambda output=output, command=command: (
                    f"{command.line} prints\n{output.read_text('utf-8')}"
                ),
            )
            if process.poll() is None:
                self._signal(process, signal.SIGINT)
            status = process.wait(COMMAND_TIMEOUT)
            assert status in (0, 130), f"{command.line}: exit status {status}"

    def close(self) -> None:
        """End whatever still runs."""
        for _command, process, _output in self._background:
            if process.poll() is None:
                self._signal(process, signal.SIGKILL)
                process.wait()

    def _start(self, line: str, stdout: object) -> subprocess.Popen[str]:
        # A session of its own: what the shell started ends with the shell.
        return subprocess.Popen(
            ["bash", "-c", line],
            cwd=self.directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,  # type: ignore[call-overload]
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @staticmethod
    def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


class Ports:
    """The documented ports, each with the free one that takes its place."""

    def __init__(self, text: str) -> None:
        documented = sorted(set(_DOCUMENTED_PORT.findall(text)))
        self._free = {port: str(unassigned_port()) for port in documented}

    def replace(self, text: str) -> str:
        return _DOCUMENTED_PORT.sub(lambda match: self._free[match[0]], text)


class DocumentRunner:
    """Runs the blocks of one document. A context manager.

    :param path: the document
    :param directory: an empty directory
    """

    def __init__(self, path: Path, directory: Path) -> None:
        self.blocks_run = 0
        work, programs = directory / "work", directory / "bin"
        work.mkdir()
        programs.mkdir()
        self._work = work
        self._written: set[str] = set()
        self._console = Console(work, programs)
        # A real module, so that what a document defines can be pickled.
        self._module = types.ModuleType("document")
        self._document = Document.parse(
            str(path),
            CodeBlockParser("python", self._python),
            CodeBlockParser("console", self._shell),
            SkipParser(),
        )
        self._document.namespace = vars(self._module)
        self._ports = Ports(self._document.text)

    def run(self) -> None:
        """Run everything; fails where the document is wrong, and says at which line."""
        for example in self._document:
            with self._located(example), contextlib.suppress(SkipTest):
                example.evaluate()
        self._console.finish()
        assert not self._written, f"shown as files, but never run: {sorted(self._written)}"

    def __enter__(self) -> DocumentRunner:
        self._outside = Path.cwd()
        os.chdir(self._work)
        sys.modules[self._module.__name__] = self._module
        return self

    def __exit__(self, *exc_info: object) -> None:
        del sys.modules[self._module.__name__]
        os.chdir(self._outside)
        self._console.close()

    @property
    def namespace(self) -> dict[str, object]:
        """What the blocks defined."""
        return vars(self._module)

    @contextlib.contextmanager
    def _located(self, example: Example) -> Iterator[None]:
        try:
            yield
        except AssertionError as exc:
            raise AssertionError(f"{example.path}:{example.line}: {exc}") from exc

    def _python(self, example: Example) -> None:
        source = self._ports.replace(example.parsed)
        name = example.region.lexemes["options"].get("caption", "")
        self.blocks_run += 1
        if name.endswith(".py"):
            (self._work / name).write_text(source, "utf-8")
            self._written.add(name)
            return
        line = example.line + example.parsed.line_offset
        exec(compile(pad(source, line), example.path, "exec"), example.namespace)

    def _shell(self, example: Example) -> None:
        shown = parse_console(self._ports.replace(example.parsed))
        commands = [command for command in shown if is_runnable(command.line)]
        if not commands:
            return
        self.blocks_run += 1
        in_background = "background" in example.region.lexemes["options"].get("class", "").split()
        for number, command in enumerate(commands, 1):
            self._written -= set(shlex.split(command.line.replace("\\\n", " ")))
            if in_background and number == len(commands):
                self._console.start(command)
            else:
                self._console.run(command)
