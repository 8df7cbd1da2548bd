"""What counts work counts all of it, and nothing else."""

from __future__ import annotations

import socket
import sqlite3
import threading
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.counting import MemoryShare, Meter, Statements, Threads
from tests.helpers import DEADLINE
from tests.work import table
from tests.work.paths import Figure
from tests.work.system_call_paths import read_trace


def work() -> None:
    def more() -> None:
        pass

    more()
    len(())


class TestMeter:
    def test_counts_each_call(self) -> None:
        meter = Meter()
        for _ in range(3):
            with meter:
                work()
        assert (meter.work.calls, meter.work.builtin_calls) == (6, 3)
        assert meter.work.times(work) == 3
        assert meter.work.system_calls == 0

    def test_counts_system_calls(self) -> None:
        one, other = socket.socketpair()
        with one, other, Meter() as meter:
            one.send(b"a")
            other.recv(1)
        assert meter.work.system_calls == 2
        assert (meter.work.sends, meter.work.receives, meter.work.waits) == (1, 1, 0)

    def test_counts_what_is_called_on_the_way_to_an_exception(self) -> None:
        def fail() -> None:
            raise KeyError("lost")

        meter = Meter()
        with pytest.raises(KeyError, match="lost"), meter:
            fail()
        assert meter.work.times(fail) == 1

    def test_names_who_was_called(self) -> None:
        with Meter() as meter:
            for _ in range(10):
                work()
        report = meter.work.report(10)
        assert "    1.00  len (C)" in report
        assert " work\n" in report

    def test_leaves_the_thread_as_it_was(self) -> None:
        with Meter() as outer:
            with Meter() as inner:
                work()
            work()
        assert inner.work.times(work) == 1
        assert outer.work.times(work) == 1


class TestThreads:
    def test_counts_by_name(self) -> None:
        with Threads() as threads:
            for name in ("one-1", "one-2", "other"):
                thread = threading.Thread(target=work, name=name)
                thread.start()
                thread.join(DEADLINE)
        outside = threading.Thread(target=work, name="outside")
        outside.start()
        outside.join(DEADLINE)
        work()
        assert threads.names() == ["one", "other"]
        assert threads.work("one").times(work) == 2
        assert threads.work("other").times(work) == 1

    def test_waits_for_rest(self) -> None:
        begun, go_on = threading.Event(), threading.Event()

        def work_in_pieces() -> None:
            begun.set()
            go_on.wait(DEADLINE)
            for _ in range(1000):
                work()

        with Threads() as threads:
            thread = threading.Thread(target=work_in_pieces, name="one")
            thread.start()
            assert begun.wait(DEADLINE)
            before = threads.settled()["one"]
            go_on.set()
            thread.join(DEADLINE)
            after = threads.settled()["one"]
        assert (after - before).times(work) == 1000

    def test_gives_up_on_what_never_rests(self) -> None:
        done = threading.Event()

        def restless() -> None:
            while not done.is_set():
                work()

        with Threads() as threads:
            thread = threading.Thread(target=restless)
            thread.start()
            try:
                with pytest.raises(TimeoutError):
                    threads.settled(patience=0.05)
            finally:
                done.set()
                thread.join(DEADLINE)


def test_commits(tmp_path: Path) -> None:
    connect = sqlite3.connect
    with Statements() as statements:
        connection = sqlite3.connect(tmp_path / "file.db", isolation_level=None)
    try:
        connection.execute("CREATE TABLE numbers (number INTEGER)")
        connection.execute("INSERT INTO numbers VALUES (1)")
        assert statements.commits == 2
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO numbers VALUES (?)", [(2,), (3,)])
        connection.execute("COMMIT")
        assert statements.commits == 3
        connection.execute("begin immediate")
        connection.execute("DELETE FROM numbers")
        connection.execute("ROLLBACK")
        connection.execute("SELECT number FROM numbers").fetchall()
        assert statements.commits == 3
        assert statements.words["INSERT"] == 3
    finally:
        connection.close()
    assert sqlite3.connect is connect


def test_memory_of_one_part() -> None:
    one, other = MemoryShare(), MemoryShare()
    kept: list[bytes] = []
    tracemalloc.start()
    try:
        one.run(lambda: kept.append(bytes(100_000)))
        other.run(lambda: kept.append(bytes(300_000)))
        one.run(lambda: bytes(200_000) and None)
        one.run(kept.clear)
    finally:
        tracemalloc.stop()
    assert one.peak == pytest.approx(300_000, abs=5000)
    assert other.peak == pytest.approx(300_000, abs=5000)
    assert other.held == pytest.approx(300_000, abs=5000)


def test_a_trace_is_read() -> None:
    threads = r"{\"1\": \"MainThread\", \"2\": \"snakemq peer bob\", \"3\": \"snakemq-rpc-1\"}"
    trace = f"""\
1 sendto(5, "before", 6, 0, NULL, 0) = 6
1 write(3, "MARK begin one call: {threads}", 130) = 130
1 sendto(5, "x", 1, 0, NULL, 0) = 1
2 <... epoll_wait resumed>[], 3, 10) = 1
2 recvfrom(5,  <unfinished ...>
3 futex(0x7f, FUTEX_WAKE_PRIVATE, 1) = 1
2 <... recvfrom resumed>"x", 1, 0, NULL, NULL) = 1
1 write(3, "MARK return one call: {threads}", 131 <unfinished ...>
3 sendto(6, "y", 1, 0, NULL, 0) = 1
1 <... write resumed>) = 131
1 futex(0x7f, FUTEX_WAKE_PRIVATE, 1) = 1
1 write(3, "MARK end one call: {threads}", 128) = 128
2 epoll_wait(4, [], 3, 0) = 0
""".splitlines()
    (found,) = read_trace(iter(trace))
    assert found.name == "one call"
    assert found.calls == {
        "caller": Counter(sendto=1),
        "bob's loop": Counter(recvfrom=1),
        "worker": Counter(futex=1, sendto=1),
    }


class TestTable:
    CALLS = Figure(10.2, 1.0)
    SYNCS = Figure(3, 0)

    def test_two_calls_more_are_too_many(self) -> None:
        budget = {"calls": table.budget_for(self.CALLS)}
        assert table.too_much({"calls": self.CALLS}, budget) == []
        assert table.too_much({"calls": Figure(12.2, 1.0)}, budget) == [
            "calls: 12.20, at most 11.20"
        ]

    def test_nothing_is_spare_where_nothing_is_chance(self) -> None:
        assert table.budget_for(self.SYNCS) == 3
        assert table.loose({"syncs": self.SYNCS}, {"syncs": 3}) == []
        assert table.loose({"syncs": self.SYNCS}, {"syncs": 4}) == ["syncs: 3.00, at most 4.00"]

    def test_a_budget_that_two_calls_fit_into_is_loose(self) -> None:
        assert table.loose({"calls": self.CALLS}, {"calls": 12.1}) == []
        assert table.loose({"calls": self.CALLS}, {"calls": 12.2}) != []

    def test_tightening_raises_nothing(self) -> None:
        budgets = {"path": {"calls": 20.0, "syncs": 2.0, "gone": 1.0}, "other": {"calls": 5.0}}
        figures = {"path": {"calls": self.CALLS, "syncs": self.SYNCS, "new": Figure(1, 0)}}
        assert table.tightened(budgets, figures) == {
            "path": {"calls": 11.2, "syncs": 2.0, "new": 1},
            "other": {"calls": 5.0},
        }
