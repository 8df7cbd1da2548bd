"""What long commands show while they run, and how Ctrl-C ends them."""

from __future__ import annotations

import io
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from snakemq.cli import _progress
from snakemq.cli._progress import Progress, undivided


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which stands still."""
    found = [1000.0]
    monkeypatch.setattr(_progress, "time", SimpleNamespace(monotonic=lambda: found[0]))
    return found


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    found = Terminal()
    # Not that of sys itself, which pytest changes between a fixture and its test.
    monkeypatch.setattr(_progress, "sys", SimpleNamespace(stderr=found))
    return found


def test_share_count_and_rate(terminal: Terminal, now: list[float]) -> None:
    with Progress("moved", 40_000, quiet=False) as progress:
        progress.advance(100)
        now[0] += 2
        progress.advance(9_900)
        now[0] += 0.01
        progress.advance(1_000)  # too soon to be drawn
        now[0] += 1.99
        progress.total = 22_000
        progress.advance(0)
    first, second, third = (
        "  0% moved: 100 messages",
        " 25% moved: 10,000 messages, 5,000/s",
        " 50% moved: 11,000 messages, 2,750/s",
    )
    blank = " " * len(third)
    assert terminal.getvalue() == f"\r{first}\r{second}\r{third}\r{blank}\r"


def test_work_that_is_not_counted_in_messages(terminal: Terminal, now: list[float]) -> None:
    with Progress("imported", 1000, quiet=False) as progress:
        progress.advance(3, 500)
    assert terminal.getvalue().startswith("\r 50% imported: 3 messages\r")


def test_an_unknown_total_and_one_that_was_too_small(terminal: Terminal, now: list[float]) -> None:
    with Progress("imported", 0, quiet=False) as progress:
        progress.advance(3)
    assert terminal.getvalue().startswith("\rimported: 3 messages\r")
    with Progress("moved", 2, quiet=False) as progress:
        progress.advance(3)
    assert "100% moved: 3 messages" in terminal.getvalue()


def test_a_shorter_line_covers_a_longer_one(terminal: Terminal, now: list[float]) -> None:
    progress = Progress("moved", 10, quiet=False)
    now[0] += 0.001
    progress.advance(9)
    now[0] += 10
    progress.advance(0)
    long, short = terminal.getvalue().split("\r")[1:]
    assert len(long) == len(short)
    assert long.endswith(",000/s")
    assert short.rstrip().endswith(" 1/s")


@pytest.mark.parametrize("stderr", [io.StringIO(), None])
def test_nothing_without_a_terminal(
    stderr: io.StringIO | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_progress, "sys", SimpleNamespace(stderr=stderr))
    with Progress("moved", 10, quiet=False) as progress:
        progress.advance(5)
    assert stderr is None or stderr.getvalue() == ""
    assert progress.messages == 5


def test_nothing_if_it_is_to_be_quiet(terminal: Terminal) -> None:
    with Progress("moved", 10, quiet=True) as progress:
        progress.advance(5)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("problem", [OSError("full"), KeyboardInterrupt()])
def test_what_is_told_at_an_early_end(
    problem: BaseException, terminal: Terminal, now: list[float]
) -> None:
    def end_early() -> None:
        with Progress("moved", 10, quiet=False, so_far=lambda: "so far: 5") as progress:
            progress.advance(5)
            raise problem

    with pytest.raises(type(problem)):
        end_early()
    line = " 50% moved: 5 messages"
    blank = " " * len(line)
    # In a line of its own, and not behind what was drawn.
    assert terminal.getvalue() == f"\r{line}\r{blank}\rsnakemq queues: so far: 5\n"


def test_who_does_not_read_any_more_is_told_nothing(terminal: Terminal) -> None:
    with pytest.raises(BrokenPipeError), Progress("x", 0, quiet=True, so_far=lambda: "so far"):
        raise BrokenPipeError
    assert terminal.getvalue() == ""


@pytest.fixture
def handlers() -> Iterator[list[str]]:
    """What handlers of SIGINT and SIGTERM were called."""
    called: list[str] = []
    previous = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *args: called.append("int")),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *args: called.append("term")),
    }
    yield called
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "int"), (signal.SIGTERM, "term")])
def test_a_signal_waits_for_the_end(handlers: list[str], number: signal.Signals, name: str) -> None:
    before = signal.getsignal(number)
    with undivided():
        signal.raise_signal(number)
        assert handlers == []
    assert handlers == [name]
    assert signal.getsignal(number) is before
    with undivided():
        pass
    assert handlers == [name]


def test_a_second_signal_does_not_wait(handlers: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    reached = []

    def interrupt_twice() -> None:
        with undivided():
            signal.raise_signal(signal.SIGINT)
            reached.append(1)
            signal.raise_signal(signal.SIGINT)
            reached.append(2)

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()
    assert reached == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_is_ignored_stays_so(handlers: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with undivided():
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert handlers == []


def test_signals_are_left_alone_in_other_threads(handlers: list[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    inside = []

    def run() -> None:
        with undivided():
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [before]
