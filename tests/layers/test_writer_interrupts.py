"""Ctrl-C while something is stored. It is raised in the main thread, wherever that is."""

from __future__ import annotations

import ast
import contextlib
import itertools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from snakemq import _writer
from snakemq.exceptions import StorageError
from snakemq.queues import QueuesManager
from snakemq.storage import Removal
from snakemq.storage.sqlite import SqliteQueuesStorage
from tests.helpers import DEADLINE, wait_until
from tests.layers import writer_support
from tests.layers.writer_support import (
    Bench,
    Change,
    ManagerBench,
    Thread,
    persistent,
    refuse,
)

needs_pthread_kill = pytest.mark.skipif(
    not hasattr(signal, "pthread_kill"), reason="who waits for a lock can't be interrupted here"
)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.storage.let_all()


@pytest.fixture
def manager_bench() -> Iterator[ManagerBench]:
    bench = ManagerBench()
    yield bench
    bench.storage.let_all()


def interrupt_main() -> None:
    """Ctrl-C while the main thread waits for something."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@pytest.fixture
def _in_main_thread() -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals come to the main thread, and the tests run in another one")
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        pytest.skip("somebody else handles SIGINT")


@needs_pthread_kill
@pytest.mark.usefixtures("_in_main_thread")
def test_an_interrupt_of_who_waits_for_its_turn(manager_bench: ManagerBench) -> None:
    bench = manager_bench
    first = bench.start_writing(b"first")

    def interrupt() -> None:
        wait_until(lambda: bench.writer.waiting == 1)
        interrupt_main()

    interrupter = Thread(interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.push(b"interrupted")
    assert bench.writer.waiting == 0
    behind = bench.start(b"behind")
    bench.storage.let_all()
    assert (first.end(), behind.end(), interrupter.end()) == (None, None, None)
    bench.check([b"first", b"behind"])


@needs_pthread_kill
@pytest.mark.usefixtures("_in_main_thread")
@pytest.mark.parametrize("fails", [False, True])
def test_an_interrupt_of_whom_somebody_else_serves_just_now(
    manager_bench: ManagerBench, fails: bool
) -> None:
    bench = manager_bench
    first = bench.start_writing(b"first")
    leader = bench.start(b"leader")
    interrupted = threading.Event()

    def interrupt() -> None:
        wait_until(lambda: bench.writer.waiting == 2)
        bench.storage.let()
        bench.storage.wait_until_begun()
        interrupt_main()
        assert interrupted.wait(DEADLINE)
        bench.storage.let_all()

    def handler(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    if fails:
        bench.storage.check = refuse(b"interrupted")
    interrupter = Thread(interrupt)
    signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            bench.push(b"interrupted")
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert (first.end(), leader.end(), interrupter.end()) == (None, None, None)
    bench.check([b"first", b"leader"] + [b"interrupted"] * (not fails))


def interrupts(data: bytes) -> Callable[[Change], None]:
    """Ctrl-C while this is being stored, once."""
    is_done = False

    def check(change: Change) -> None:
        nonlocal is_done
        if data in change.pushed and not is_done:
            is_done = True
            signal.raise_signal(signal.SIGINT)

    return check


def lead_group(bench: ManagerBench) -> tuple[Thread, Thread]:
    """Push from this thread, when it is going to write for another one, too."""
    first = bench.start_writing(b"first")
    behind: list[Thread] = []

    def follow() -> None:
        wait_until(lambda: bench.writer.waiting == 1)
        behind.append(bench.start(b"behind"))
        bench.storage.let_all()

    follower = Thread(follow)
    with pytest.raises(KeyboardInterrupt):
        bench.push(b"interrupted")
    assert follower.end() is None
    return first, behind[0]


@pytest.mark.usefixtures("_in_main_thread")
def test_an_interrupt_in_the_storage_before_anything_has_changed(
    manager_bench: ManagerBench,
) -> None:
    manager_bench.storage.check = interrupts(b"interrupted")
    threads = lead_group(manager_bench)
    assert [thread.end() for thread in threads] == [None, None]
    manager_bench.check([b"first", b"behind"])


@pytest.mark.usefixtures("_in_main_thread")
def test_an_interrupt_in_the_storage_of_who_is_alone(manager_bench: ManagerBench) -> None:
    manager_bench.storage.check = interrupts(b"interrupted")
    with pytest.raises(KeyboardInterrupt):
        manager_bench.push(b"interrupted")
    manager_bench.check([])


@pytest.mark.usefixtures("_in_main_thread")
def test_an_interrupt_in_the_storage_after_it_was_done(manager_bench: ManagerBench) -> None:
    """A disk that syncs is not interrupted: Python looks for signals when that is over."""
    manager_bench.storage.after = interrupts(b"interrupted")
    threads = lead_group(manager_bench)
    assert [thread.end() for thread in threads] == [None, None]
    manager_bench.check([b"first", b"behind"], [b"first", b"interrupted", b"behind"])


@pytest.mark.usefixtures("_in_main_thread")
def test_an_interrupt_of_who_writes_for_others_does_not_keep_from_telling_of_it(
    manager_bench: ManagerBench,
) -> None:
    changes = manager_bench.storage.changes
    told: list[int] = []
    manager_bench.manager.tell_of_writes(lambda: told.append(len(changes)))
    manager_bench.storage.after = interrupts(b"interrupted")
    threads = lead_group(manager_bench)
    assert [thread.end() for thread in threads] == [None, None]
    assert changes[-1].pushed == [b"interrupted", b"behind"]
    assert told[-1] == len(changes)


@pytest.mark.usefixtures("_in_main_thread")
def test_an_interrupt_while_a_file_is_synced(tmp_path: Path) -> None:
    storage = SqliteQueuesStorage(str(tmp_path / "storage"))
    manager = QueuesManager(storage)
    manager.push_many([("q", persistent(b"before"))])
    found: list[bool] = []

    def trace(frame: FrameType, event: str, arg: Any) -> None:
        # When the C function returns, Python looks for signals.
        if event == "c_return" and frame.f_code.co_name in ("change", "_execute") and not found:
            connection = frame.f_locals.get("conn")
            if connection is not None and not connection.in_transaction:
                found.append(True)
                signal.raise_signal(signal.SIGINT)

    sys.setprofile(trace)
    try:
        with pytest.raises(KeyboardInterrupt):
            manager.push_many([("q", persistent(b"interrupted"))])
    finally:
        sys.setprofile(None)
    assert found, "the test did not find the commit"
    manager.push_many([("q", persistent(b"after"))])
    stored = [item.data for item in storage.get_items("q")]
    assert len(manager.get_queue("q")) == len(stored)
    queue = manager.get_queue("q")
    queue.connect()
    queue.expect_confirmations(of_all=True)
    assert [message.data for message in queue.take(10, 1000).messages] == stored
    queue.sent(len(stored))
    queue.confirmed(len(stored))
    assert storage.get_items("q") == []
    assert (manager.stored_room.messages, manager.stored_room.bytes) == (0, 0)
    manager.close()


@pytest.mark.usefixtures("_in_main_thread")
def test_an_interrupt_while_it_is_prepared_forgets_nothing_that_is_to_be_removed(
    bench: Bench,
) -> None:
    def check(change: Change) -> None:
        raise StorageError("not now")

    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)

    bench.push(b"a", b"b")
    bench.storage.check = check
    bench.remove(1)
    bench.storage.check = lambda change: None
    with pytest.raises(KeyboardInterrupt):
        bench.push(b"c", prepare=interrupted)
    bench.push(b"d")
    assert bench.storage.content() == [b"b", b"d"]


@pytest.mark.usefixtures("_in_main_thread")
def test_an_interrupt_after_an_error_has_nothing_removed_twice(bench: Bench) -> None:
    def check(change: Change) -> None:
        if change.removed:
            raise StorageError("not now")
        if change.pushed == [b"c"]:  # which is tried without what is to be removed
            signal.raise_signal(signal.SIGINT)

    bench.push(b"a", b"b")
    bench.storage.check = check
    bench.remove(1)
    with pytest.raises(KeyboardInterrupt):
        bench.push(b"c")
    bench.storage.check = lambda change: None
    bench.push(b"d")
    assert bench.storage.changes[-1] == Change([b"d"], [1], True)
    assert bench.storage.content() == [b"b", b"d"]


@pytest.mark.usefixtures("_in_main_thread")
def test_an_interrupt_while_something_is_removed_leaves_nobody_waiting(bench: Bench) -> None:
    senders: list[Thread] = []

    def check(change: Change) -> None:
        if change.removed and not senders:
            senders.append(bench.start(b"c"))
            signal.raise_signal(signal.SIGINT)

    bench.push(b"a", b"b")
    bench.storage.check = check
    with pytest.raises(KeyboardInterrupt):
        bench.remove(1)
    assert senders[0].end() is None
    bench.writer.settle()
    assert bench.storage.content() == [b"b", b"c"]


def lines_of_cleaning_up() -> set[int]:
    """The lines of the writer that are there to make an interrupt good.

    One more in the middle of these can't be made good in Python. They take no time.
    """
    tree = ast.parse(Path(_writer.__file__).read_text(encoding="utf-8"))
    cleaning: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            cleaning += [*node.finalbody, *node.handlers]
        elif isinstance(node, ast.FunctionDef) and node.name in {"_hand_over", "_tell"}:
            cleaning.append(node)
        elif isinstance(node, ast.With):
            # Python comes back to this line before it releases the lock, and
            # does not look for signals there.
            cleaning += [item.context_expr for item in node.items]
    return {
        child.lineno for node in cleaning for child in ast.walk(node) if hasattr(child, "lineno")
    }


class Interrupter:
    """Raises KeyboardInterrupt at one line of the writer, in this thread.

    :param line: at which of those that it comes to
    """

    CLEANING_UP = lines_of_cleaning_up()

    def __init__(self, line: int) -> None:
        self.line = line
        self.seen = 0
        self.where = ""

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        return None if self._is_cleaning_up(frame) else self._line

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line" and not self._is_cleaning_up(frame):
            self.seen += 1
            if self.seen == self.line:
                self.where = f"{frame.f_code.co_name}, line {frame.f_lineno}"
                raise KeyboardInterrupt
        return self._line

    def _is_cleaning_up(self, frame: FrameType | None) -> bool:
        """Whether it is at such a line, or called from one, or not in the writer."""
        if frame is None or frame.f_code.co_filename != _writer.__file__:
            return True
        while frame is not None and frame.f_code.co_filename == _writer.__file__:
            if frame.f_lineno in self.CLEANING_UP:
                return True
            frame = frame.f_back
        return False

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._call)

    def __exit__(self, *exc_info: object) -> None:
        sys.settrace(self._before)


def push_alone(bench: ManagerBench, interrupter: Interrupter) -> list[list[bytes]]:
    """Push, with a removal that has failed before.

    :return: what may be stored then
    """
    bench.push(b"gone")
    bench.storage.check = refuse_all
    bench.manager.remove_stored([Removal("q", [1], 4)])
    bench.manager.stored_room.count(bench.manager.get_queue("q").stored, -1, -4)
    bench.manager.get_queue("q").stored.unloaded -= 1
    bench.storage.check = lambda change: None
    with contextlib.suppress(KeyboardInterrupt), interrupter:
        bench.push(b"interrupted")
    return [[], [b"interrupted"]]


def push_for_others(bench: ManagerBench, interrupter: Interrupter) -> list[list[bytes]]:
    """Push behind one thread and before another one, and write for that one, too."""
    is_over = threading.Event()
    first = bench.start_writing(b"first")

    def follow() -> None:
        wait_until(lambda: is_over.is_set() or bench.writer.waiting == 1)
        behind = Thread(lambda: bench.push(b"behind"))
        wait_until(lambda: is_over.is_set() or bench.writer.waiting == 2)
        bench.storage.let_all()
        assert behind.end() is None

    follower = Thread(follow)
    with contextlib.suppress(KeyboardInterrupt), interrupter:
        bench.push(b"interrupted")
    is_over.set()
    assert (first.end(), follower.end()) == (None, None)
    return [[b"first", b"behind"], [b"first", b"interrupted", b"behind"]]


def refuse_all(change: Change) -> None:
    raise StorageError("the disk is write-protected")


@pytest.mark.parametrize("push", [push_alone, push_for_others])
def test_an_interrupt_at_each_line_of_the_writer(
    push: Callable[[ManagerBench, Interrupter], list[list[bytes]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nothing here takes long, and there is a lot of it.
    monkeypatch.setattr(writer_support, "DEADLINE", 5.0)
    for line in itertools.count(1):
        bench = ManagerBench()
        interrupter = Interrupter(line)
        try:
            bench.check(*push(bench, interrupter))
        except AssertionError as exc:
            raise AssertionError(f"interrupted in {interrupter.where}") from exc
        if not interrupter.where:
            assert line > 10
            return
