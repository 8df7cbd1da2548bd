"""``snakemq queues`` beside other processes: one that has the storage, one that ends it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snakemq.cli import main
from snakemq.exceptions import StorageError
from snakemq.message import FLAG_PERSISTENT, Message
from snakemq.storage import QueuesStorageBase
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.helpers import DEADLINE, wait_until
from tests.integration.command_line import command, environment, run
from tests.layers.sqlite_support import TABLE_OF_16, execute, running

HOLDER = """
    import sys
    from snakemq.storage.sqlite import SqliteQueuesStorage
    storage = SqliteQueuesStorage(sys.argv[1])
    print("open", flush=True)
    sys.stdin.read()
"""


def sqla_url(path: Path) -> str:
    """The file as SQLAlchemy calls it."""
    pytest.importorskip("sqlalchemy", reason="needs SQLAlchemy")
    pytest.importorskip("snakemq.storage.sqla", reason="needs the storage for SQLAlchemy")
    return f"sqlite:///{path}"


def numbered(count: int, start: int = 0) -> list[Message]:
    return [
        Message(b"number %d" % number, None, FLAG_PERSISTENT, b"uuid%06d" % number)
        for number in range(start, start + count)
    ]


def fill(storage: QueuesStorageBase, queue: str, messages: list[Message]) -> None:
    storage.push_many((queue, message) for message in messages)


def contents(path: Path, queue: str) -> list[bytes]:
    with SqliteQueuesStorage(path, create=False) as storage:
        return [item.data for item in storage.get_items(queue)]


Here = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Here:
    """Runs a command in this process, which is quicker."""

    def here(*args: object) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        arguments = ["queues", *map(str, args)]
        status = main(arguments)
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, status, out, err)

    return here


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with something everywhere."""
    path = tmp_path / "alice.db"
    with SqliteQueuesStorage(path) as storage:
        fill(storage, "bob", numbered(30))
        fill(storage, "carol", [Message(b"\xff\x00", 60, 7, b"1")])
        storage.push_inbox("dave", [Message(b"waits", 50, 1, b"2")], keep=10)
        (number,) = storage.push_inbox("dave", [Message(b"fails", None, 1, b"3")], keep=10)
        storage.advance_inbox(None, number)
        storage.bury(number, "ValueError: no")
    return path


def test_looking_beside_a_program_and_changing_after_it(
    path: Path, tmp_path: Path, here: Here
) -> None:
    with running(HOLDER, path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        done = here(path, "ls")
        assert (done.returncode, done.stderr) == (0, "dead letters: 1\n")
        assert [line.split()[:3] for line in done.stdout.splitlines()[1:]] == [
            ["bob", "30", "260"],
            ["carol", "1", "2"],
            ["total", "31", "262"],
        ]
        assert "number 7" in here(path, "show", "bob").stdout
        assert here(path, "dead", "--count").stdout == "1\n"
        done = here(path, "export", "--all")
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout.splitlines()) == 34
        for arguments in (
            ("purge", "bob", "--yes"),
            ("move", tmp_path / "other.db"),
            ("import", "-"),
            ("dead", "--drop", "all"),
        ):
            done = here(path, *arguments)
            assert (done.returncode, done.stdout) == (1, "")
            assert str(holder.pid) in done.stderr, "who has it is told"
        assert not (tmp_path / "other.db").exists()
    done = here(path, "purge", "bob", "--yes")
    assert (done.returncode, done.stdout, done.stderr) == (0, "deleted: 30\n", "")


def test_a_file_of_16_is_looked_at_as_it_is(tmp_path: Path, here: Here) -> None:
    path = tmp_path / "storage.db"
    execute(
        path,
        TABLE_OF_16,
        "INSERT INTO items VALUES ('bob', CAST('6f6e65' AS BLOB), CAST('hi' AS BLOB), 60.0, 1)",
        "INSERT INTO items VALUES ('bob', CAST('74776f' AS BLOB), CAST('hey' AS BLOB), NULL, 1)",
    )
    before = path.read_bytes()
    done = here(path, "ls", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "peer": "bob",
        "messages": 2,
        "bytes": 5,
        "oldest": None,
        "next_expiry": 60.0,
    }
    done = here(path, "show", "bob", "--json")
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["hi", "hey"]
    done = here(path, "export", "--all")
    assert [json.loads(line)["uuid"] for line in done.stdout.splitlines()] == ["6f6e65", "74776f"]
    assert here(path, "dead").stderr == "no dead letters\n"
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["storage.db"]
    done = here(path, "move", tmp_path / "new.db")
    assert (done.returncode, done.stdout) == (0, "moved: 2\n")
    assert contents(tmp_path / "new.db", "bob") == [b"hi", b"hey"]


def test_by_way_of_a_pipe(path: Path, tmp_path: Path) -> None:
    exported = run("queues", path, "export", "--all").stdout
    done = run("queues", tmp_path / "new.db", "import", stdin=exported.encode())
    assert (done.returncode, done.stdout, done.stderr) == (0, "imported: 33\n", "")
    assert run("queues", tmp_path / "new.db", "export", "--all").stdout == exported


def test_from_a_file_to_a_database_and_back(path: Path, tmp_path: Path, here: Here) -> None:
    url = sqla_url(tmp_path / "database.db")
    exported = here(path, "export", "--all").stdout
    done = here(path, "move", url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "moved: 33\n", "")
    # A database may remember twice what was moved to the inbox.
    again = [
        line
        for line in here(url, "export", "--all").stdout.splitlines()
        if '"received"' not in line
    ]
    assert again == exported.splitlines()[:-1]
    done = here(url, "ls")
    assert done.stdout.splitlines()[-1].split() == ["total", "31", "262"]
    assert here(url, "show", "carol").stdout.split()[-1] == "\\xff\\x00"
    assert here(url, "dead", "--retry", "all").stdout == "put back into the inbox: 1\n"
    done = here(url, "move", tmp_path / "back.db")
    assert (done.returncode, done.stdout) == (0, "moved: 33\n")
    assert contents(tmp_path / "back.db", "bob") == [item.data for item in numbered(30)]
    assert here(url, "ls").stderr == "no messages\n"
    done = here(sqla_url(tmp_path / "missing.db"), "ls")
    assert (done.returncode, done.stdout) == (1, "")


def test_who_reads_goes_away(path: Path) -> None:
    with SqliteQueuesStorage(path) as storage:
        fill(storage, "bob", numbered(20_000))
    for arguments in (("export",), ("show", "bob", "--json")):
        started = subprocess.Popen(
            command("queues", path, *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        with started:
            assert started.stdout is not None
            assert started.stderr is not None
            assert started.stdout.readline().startswith(b"{")
            started.stdout.close()
            assert started.stderr.read() == b""
            assert started.wait(DEADLINE) == 141


@contextlib.contextmanager
def on_terminal(*args: object) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A command whose standard error, and input, is a terminal; and the other end of that."""
    openpty = getattr(os, "openpty", None)
    if openpty is None:
        pytest.skip("there are no pseudo terminals here")
    other, terminal = openpty()
    try:
        with subprocess.Popen(
            command("queues", *args),
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=terminal,
            env=environment(),
        ) as started:
            try:
                yield started, other
            finally:
                if started.poll() is None:
                    started.kill()
    finally:
        os.close(terminal)
        os.close(other)


def read_from(terminal: int) -> str:
    return os.read(terminal, 65536).decode()


def test_progress_on_a_terminal(path: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with on_terminal(path, "export", "--output", output) as (started, terminal):
        assert started.stdout is not None
        assert started.stdout.read() == b"exported: 31\n"
        assert started.wait(DEADLINE) == 0
        shown = read_from(terminal)
    lines = [line for line in shown.split("\r") if line.strip()]
    assert lines
    for line in lines:
        assert re.fullmatch(r" *\d+% exported: \d+ messages(, [\d,]+/s)?", line)
    # At the end the line is empty again.
    assert shown.endswith(f"\r{' ' * len(lines[-1])}\r")
    with on_terminal(tmp_path / "new.db", "import", output, "--quiet") as (started, terminal):
        assert started.stdout is not None
        assert started.stdout.read() == b"imported: 31\n"
        assert started.wait(DEADLINE) == 0
        os.write(terminal, b"\n")  # echoed, so that there is something to read
        assert read_from(terminal).strip() == ""


def test_a_question_on_a_terminal(path: Path) -> None:
    for answer, status, output in ((b"n\n", 1, b""), (b"y\n", 0, b"deleted: 1\n")):
        with on_terminal(path, "purge", "carol") as (started, terminal):
            shown = [read_from(terminal)]
            while "[y/N]" not in "".join(shown):
                shown.append(read_from(terminal))
            assert "Delete 1 message (2 bytes) for carol?" in "".join(shown)
            os.write(terminal, answer)
            assert started.stdout is not None
            assert started.stdout.read() == output
            assert started.wait(DEADLINE) == status


def test_ctrl_c_while_it_waits_for_input(tmp_path: Path) -> None:
    started = subprocess.Popen(
        command("queues", tmp_path / "new.db", "import"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    with started:
        assert started.stdin is not None
        assert started.stderr is not None
        line = json.dumps({"peer": "bob", "text": "x" * 1000}).encode() + b"\n"
        started.stdin.write(line * 1500)
        started.stdin.flush()
        wait_until(lambda: stored_in(tmp_path / "new.db") == 1000)
        started.send_signal(signal.SIGINT)
        assert started.wait(DEADLINE) == 130
        assert started.stderr.read().decode() == (
            "snakemq queues: imported so far: 1000 messages, all that is in the first 1000 lines;"
            " to go on, repeat it with --skip 1000\n"
        )
    assert len(contents(tmp_path / "new.db", "bob")) == 1000


def stored_in(path: Path) -> int:
    """How many messages a file holds that another process may be about to make."""
    try:
        with SqliteQueuesStorage(path, create=False, read_only=True) as storage:
            return sum(queue.messages for queue in storage.summarize())
    except StorageError:
        return 0


#: Runs a command and kills itself after a number of changes of a storage.
SUICIDE = """
    import os, signal, sys
    from snakemq.cli import main
    from snakemq.storage.sqlite import SqliteQueuesStorage

    left = int(sys.argv[2])

    def deadly(original):
        def method(*args, **kwargs):
            global left
            result = original(*args, **kwargs)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
            return result
        return method

    for name in ("change_items", "push_inbox", "advance_inbox", "add_dead", "drop_dead"):
        setattr(SqliteQueuesStorage, name, deadly(getattr(SqliteQueuesStorage, name)))
    sys.exit(main(["queues", sys.argv[1], "move", sys.argv[3]]))
"""


@pytest.mark.slow
def test_a_move_that_is_killed_again_and_again(tmp_path: Path) -> None:
    """Every message arrives once, in order, wherever the process dies."""
    source, target = tmp_path / "source.db", tmp_path / "target.db"
    sent = {"bob": numbered(4_500), "carol": numbered(1_500, 100_000), "erin": numbered(1)}
    random_numbers = random.Random(4)
    with SqliteQueuesStorage(source) as storage:
        for peer, messages in sent.items():
            fill(storage, peer, messages)
        inbox = [message.uuid for message in numbered(230, 200_000)]
        storage.push_inbox("dave", numbered(130, 200_000), keep=1000)
        storage.push_inbox("frank", numbered(100, 200_130), keep=1000)
        dead = [message.uuid for message in numbered(250, 300_000)]
        for number in storage.push_inbox("dave", numbered(250, 300_000), keep=1000):
            storage.bury(number, "KeyError: 1")
    killed = 0
    while True:
        # The inbox takes many small steps, the rest few large ones.
        steps = random_numbers.choice((1, 4, 9, 170))
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SUICIDE), source, str(steps), target],
            capture_output=True,
            env=environment(),
            check=False,
        )
        if done.returncode == 0:
            break
        assert done.returncode != 1, done.stderr
        killed += 1
        assert killed < 100
    assert killed > 3
    with SqliteQueuesStorage(target, create=False) as storage:
        assert sorted(storage.get_queues()) == sorted(sent)
        for peer, messages in sent.items():
            found = [item.uuid for item in storage.get_items(peer)]
            assert found == [message.uuid for message in messages], peer
        assert [item.message.uuid for item in storage.get_inbox()] == inbox
        assert [letter.message.uuid for letter in storage.get_dead()] == dead
    with SqliteQueuesStorage(source, create=False) as storage:
        assert storage.get_queues() == []
        assert storage.get_inbox() == []
        assert storage.count_dead() == 0
