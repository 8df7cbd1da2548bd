"""Every code block of the README and of the documentation works as shown."""

from __future__ import annotations

import re
import shutil
import textwrap
from pathlib import Path

import pytest

from tests.docs.runner import ROOT, Command, DocumentRunner, parse_console

DOCUMENTS = sorted(
    [
        *ROOT.glob("*.rst"),
        *(path for path in (ROOT / "docs").rglob("*.rst") if "_build" not in path.parts),
    ]
)

needs_shell = pytest.mark.skipif(
    shutil.which("bash") is None, reason="console blocks are for a shell"
)


def document(path: Path) -> object:
    # The demo takes its ten seconds, and a suite of tests in a document some.
    text = path.read_text("utf-8")
    marks = [pytest.mark.slow] if re.search("snakemq demo|-m pytest", text) else []
    return pytest.param(path, id=path.relative_to(ROOT).as_posix(), marks=marks)


@needs_shell
@pytest.mark.parametrize("path", [document(path) for path in DOCUMENTS])
def test_document(path: Path, tmp_path: Path) -> None:
    with DocumentRunner(path, tmp_path) as runner:
        runner.run()


def test_the_readme_is_among_them() -> None:
    assert ROOT / "README.rst" in DOCUMENTS


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.rst")), ids=lambda path: path.name)
def test_relative_links_lead_somewhere(path: Path) -> None:
    """For the documents outside of docs/; Sphinx checks the others."""
    targets = re.findall(r"`[^`<]+<([^`>]+)>`_", path.read_text("utf-8"))
    broken = [
        target
        for target in targets
        if not re.match(r"https?:|mailto:", target)
        and not (path.parent / target.split("#")[0]).exists()
    ]
    assert not broken


class TestTheRunner:
    """What a document does is noticed: a runner that runs nothing would pass everything."""

    @staticmethod
    def run(tmp_path: Path, text: str) -> DocumentRunner:
        path = tmp_path / "document.rst"
        path.write_text(textwrap.dedent(text), "utf-8")
        directory = tmp_path / "run"
        directory.mkdir()
        with DocumentRunner(path, directory) as runner:
            runner.run()
        return runner

    def test_blocks_share_a_namespace_and_a_directory(self, tmp_path: Path) -> None:
        runner = self.run(
            tmp_path,
            """
            .. invisible-code-block: python

               number = 6 * 7

            .. code-block:: python

               import pickle
               class Shown: pass
               open("made.txt", "w").close()
               assert number == 42
               assert type(pickle.loads(pickle.dumps(Shown()))) is Shown

            .. code-block:: console

               $ ls
               made.txt
            """,
        )
        assert runner.blocks_run == 3

    def test_a_wrong_block_is_reported_with_its_line(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match=r"document\.rst:3: nine"):
            self.run(
                tmp_path,
                """
                text
                .. code-block:: python

                   assert False, "nine"
                """,
            )

    def test_an_exception_shows_its_line(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError) as caught:
            self.run(tmp_path, "\n\n.. code-block:: python\n\n   a = 1\n   1 / 0\n")
        assert caught.traceback[-1].lineno + 1 == 6

    def test_what_a_command_prints_is_compared(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match=r"echo two prints\ntwo"):
            self.run(tmp_path, ".. code-block:: console\n\n   $ echo two\n   three\n")

    def test_a_failing_command_fails(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match="ls missing"):
            self.run(tmp_path, ".. code-block:: console\n\n   $ ls missing\n")

    def test_an_unknown_command_fails(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match="'snakmq'"):
            self.run(tmp_path, ".. code-block:: console\n\n   $ snakmq version\n")

    def test_installing_is_left_out(self, tmp_path: Path) -> None:
        runner = self.run(tmp_path, ".. code-block:: console\n\n   $ pip install snakemq\n")
        assert runner.blocks_run == 0

    def test_a_file_is_written_and_has_to_be_run(self, tmp_path: Path) -> None:
        text = """
            .. code-block:: python
               :caption: shown.py

               print("port", 4001)
            """
        with pytest.raises(AssertionError, match=r"never run: \['shown\.py'\]"):
            self.run(tmp_path, text)

    def test_background_commands_end_with_the_document(self, tmp_path: Path) -> None:
        runner = self.run(
            tmp_path,
            """
            .. code-block:: python
               :caption: shown.py

               import threading
               try:
                   print("waits")
                   threading.Event().wait()
               except KeyboardInterrupt:
                   print("ends")

            .. code-block:: console
               :class: background

               $ python3 shown.py
               waits

            .. code-block:: console

               $ echo meanwhile
               mean...
            """,
        )
        assert runner.blocks_run == 3
        assert (tmp_path / "run" / "background-0.txt").read_text() == "waits\nends\n"

    def test_documented_ports_are_replaced_by_free_ones(self, tmp_path: Path) -> None:
        runner = self.run(
            tmp_path, ".. code-block:: python\n\n   ports = [4000, 4001, 4000, 40010]\n"
        )
        first, second, again, untouched = runner.namespace["ports"]
        assert first == again != second
        assert not {first, second} & {4000, 4001}
        assert untouched == 40010

    def test_a_block_can_be_left_out_with_a_reason(self, tmp_path: Path) -> None:
        runner = self.run(
            tmp_path,
            """
            .. skip: next "it needs a second machine"

            .. code-block:: python

               assert False
            """,
        )
        assert runner.blocks_run == 0


def test_a_console_block_is_commands_and_their_output() -> None:
    text = "$ snakemq send \\\n    bob\nsent\n$ cat <<END\n> x\n> END\nx\ny\n"
    assert parse_console(text) == [
        Command("snakemq send \\\n    bob", "sent\n"),
        Command("cat <<END\nx\nEND", "x\ny\n"),
    ]
