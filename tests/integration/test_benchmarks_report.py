"""What the benchmarks make of figures: ratios, what is reached, pictures; what the sides tell."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks import memory, page
from benchmarks.payloads import Payloads
from benchmarks.reach import Row, reach
from benchmarks.report import Report
from benchmarks.results import Figure, Results, as_written
from benchmarks.runner import Measurements
from benchmarks.workloads import WORKLOADS, Wrong
from benchmarks.workloads.huge import Contents


def written(**rates: dict[str, list[float]]) -> dict[str, Any]:
    """As a run writes it: of each workload and peer the main figure, round by round."""
    measured = Measurements(counts=dict.fromkeys((name.replace("_", "-") for name in rates), 1))
    for name, peers in rates.items():
        workload = name.replace("_", "-")
        for peer, rounds in peers.items():
            measured.figures[workload, peer] = [
                {WORKLOADS[workload].unit: value} for value in rounds
            ]
            measured.versions[peer] = "1"
    return as_written(measured)


def row(results: dict[str, Any], workload: str, peer: str) -> dict[str, Any]:
    (found,) = (
        row for row in results["results"] if (row["workload"], row["peer"]) == (workload, peer)
    )
    return dict(found)


def test_more_than_1_is_better_whatever_the_unit() -> None:
    # The machine was half as fast in the second round.
    results = written(
        small={"snakemq-peer": [100.0, 50.0, 100.0], "pyzmq": [300.0, 150.0, 900.0]},
        rpc={"snakemq-peer": [20.0, 40.0, 30.0], "raw": [10.0, 20.0, 10.0]},
    )
    assert row(results, "small", "pyzmq")["median"] == 300
    assert row(results, "small", "pyzmq")["ratio"] == {"snakemq-peer": 3.0}
    assert row(results, "rpc", "raw")["ratio"] == {"snakemq-peer": 2.0, "raw": 1.0}
    assert row(results, "rpc", "snakemq-peer")["ratio"] == {"snakemq-peer": 1.0, "raw": 0.5}


def test_what_is_written_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(written(small={"raw": [1.234567891, 3.0]})), "utf-8")
    results = Results.read(path)
    assert results.workloads() == ["small"]
    assert results.peers("small") == ["raw"]
    assert results.rounds(Figure("small", "raw")) == [1.2346, 3.0]
    assert results.median(Figure("small", "raw", "no such figure")) is None
    assert results.ratio(Figure("small"), Figure("small", "raw")) is None


def test_a_figure_of_nothing_can_be_compared() -> None:
    results = Results(written(idle={"snakemq-peer": [0.0], "raw": [0.5]}))
    assert results.ratio(Figure("idle"), Figure("idle", "raw")) == pytest.approx(0, abs=1e-6)
    better = results.times_better("idle", "snakemq-peer", "raw")
    assert better is not None
    assert better > 1000


def reached(**rates: dict[str, list[float]]) -> dict[str, Row]:
    return {row.workload: row for row in reach(Results(written(**rates)))}


def verdicts(row: Row) -> list[bool | None]:
    return [condition.met for condition in row.least]


def test_a_row_is_met_or_not_by_its_figures() -> None:
    slow = {"snakemq-peer": [39.0], "pyzmq": [100.0], "nats": [40.0]}
    assert verdicts(reached(small=slow)["small, acknowledged"]) == [False, False]
    fast = slow | {"snakemq-peer": [41.0]}
    (row,) = reached(small=fast).values()
    assert verdicts(row) == [True, True]
    assert [condition.met for condition in row.aims] == [False]
    assert row.least[0].measured == "0.41 of pyzmq"
    assert row.least[1].measured == "1.02 times as good as nats"


def test_less_time_is_better() -> None:
    peers = {"raw": [10.0], "pyzmq": [20.0], "pyro5": [17.5], "rpyc": [20.0]}
    for time, expected in ((17.0, [True, True]), (17.9, [True, False]), (19.0, [False, False])):
        (row,) = reached(rpc={"snakemq-peer": [time], **peers}).values()
        assert verdicts(row) == expected


def test_what_was_not_measured_is_not_met() -> None:
    """Nor is it, if somebody who is behind us was not measured; to be behind one is enough."""
    (row,) = reached(rpc16={"snakemq-peer": [5.0], "nats": [4.0]}).values()
    assert verdicts(row) == [None, None]
    assert row.least[1].measured.endswith("(not measured: multiprocessing)")
    (row,) = reached(rpc16={"snakemq-peer": [5.0], "nats": [6.0]}).values()
    assert verdicts(row) == [None, False]
    assert reached(small={"raw": [1.0]}) == {}


def test_workloads_are_compared_with_each_other() -> None:
    rates = {"small": {"snakemq-peer": [100.0, 10.0]}, "tls_small": {"snakemq-peer": [71.0, 7.1]}}
    (row,) = (row for name, row in reached(**rates).items() if name == "TLS")
    assert verdicts(row) == [True, None]


def test_memory_of_1_6_is_that_of_the_run() -> None:
    def figures(megabytes: float) -> list[dict[str, float]]:
        return [{"messages/s": 1.0, "MB, sender": megabytes}]

    whole = WORKLOADS["transient"].count
    for theirs, count, expected in (
        (None, whole, False),
        (310.0, whole, True),
        (310.0, 5, True),
    ):
        measured = Measurements(
            figures={("transient", "snakemq-peer"): figures(300.0)}, counts={"transient": count}
        )
        if theirs is not None:
            measured.figures["transient", "snakemq-1.6"] = figures(theirs)
        (row,) = reach(Results(as_written(measured)))
        assert verdicts(row)[1] is expected
        assert row.aims[1].met is (False if count == whole else None)


def test_the_table_says_what_is_reached() -> None:
    measured = Measurements(
        figures={("large", peer): [{"MB/s": 5.0}] for peer in ("snakemq-peer", "pyzmq", "raw")},
        counts={"large": 400},
    )
    table = Report(measured).as_table()
    assert "vs snakemq-peer  vs raw" in table
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert "large at least: pyzmq 1.00 of pyzmq met" in lines
    assert "aim: raw 1.00 of raw met" in lines


class TestContents:
    def test_what_was_made_is_in_it(self) -> None:
        contents = Contents(64 * 1024)
        data = contents.make()
        assert len(data) == 64 * 1024
        assert contents.is_in(data)
        assert contents.is_in(bytearray(data))

    def test_other_contents_are_noticed(self) -> None:
        contents = Contents(64 * 1024)
        data = contents.make()
        changed = bytearray(data)
        changed[-1] ^= 1
        swapped = data[4096:8192] + data[:4096] + data[8192:]
        assert zlib.crc32(swapped) != zlib.crc32(data)
        for other in (changed, swapped, data[:-1], data + b"!", b""):
            assert not contents.is_in(other)


def facts(**more: Any) -> dict[str, Any]:
    return {"wrong": "", "at": 1.0, "cpu": 0.5, "growth": 3 << 20, "switches": 4, **more}


class TestWhatTheSidesTell:
    def test_a_huge_message(self) -> None:
        work = WORKLOADS["huge"]
        figures = work.figures(2, facts(at=4.0), facts(growth=2 << 20))
        assert figures["seconds"] == 3.0
        assert figures["payloads in memory, receiver"] == 1.5
        assert figures["payloads in memory, sender"] == 1.0
        assert "payloads in memory, sender" not in work.figures(2, facts(), facts(growth=None))
        with pytest.raises(Wrong, match="lost"):
            work.figures(2, facts(wrong="lost"), facts())

    def test_an_idle_pair(self) -> None:
        figures = WORKLOADS["idle"].figures(1, facts(cpu=0.25), facts())
        assert figures == {
            "CPU ms": 750.0,
            "ms, receiver": 250.0,
            "ms, sender": 500.0,
            "context switches": 8,
        }
        with pytest.raises(Wrong, match="lost"):
            WORKLOADS["idle"].figures(1, facts(wrong="lost"), facts())

    def test_idle_connections(self) -> None:
        work = WORKLOADS["connections"]
        dialled = {"alone": 0.5e-3, "among_many": 1e-3, "wrong": 0, "held": 1024}
        assert work.figures(1024, facts(), dialled) == {
            "bytes each": 3072.0,
            "CPU ms, idle": 500.0,
            "µs a call": 1000.0,
            "times alone": 2.0,
        }
        with pytest.raises(Wrong, match="1023 connections are there of 1024"):
            work.figures(1024, facts(), {**dialled, "held": 1023})
        with pytest.raises(Wrong, match="2 calls returned something else"):
            work.figures(1024, facts(), {**dialled, "wrong": 2})

    def test_a_transient_backlog(self) -> None:
        work = WORKLOADS["transient"]
        dialled = {"seconds": 2.0, "cpu": 1.0, "peak": 5_000_000}
        figures = work.figures(1000, facts(first_at=0.5), dialled)
        assert figures == {
            "messages/s": 2000.0,
            "MB, sender": 5.0,
            "queued/s": 500.0,
            "CPU µs, sender": 1000.0,
        }
        with pytest.raises(Wrong, match="lost"):
            work.figures(1000, facts(first_at=0.5, wrong="lost"), dialled)


def test_fresh_messages_are_the_same_and_nobody_keeps_them() -> None:
    fresh, kept = Payloads(100, 7, first=3, fresh=True), Payloads(100, 7, first=3)
    assert list(fresh) == list(kept) == list(fresh)
    assert len(set(fresh)) == len(fresh) == 7
    assert all(one is not other for one, other in zip(fresh, fresh, strict=True))
    assert all(one is other for one, other in zip(kept, kept, strict=True))


def test_a_small_run_does_enough_all_the_same() -> None:
    assert WORKLOADS["small"].scaled(1) == WORKLOADS["small"].count
    assert all(work.scaled(1e-9) == work.least for work in WORKLOADS.values())


@pytest.mark.slow
@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is in the extra 'bench'")
def test_pictures_are_drawn(tmp_path: Path) -> None:
    """Of what is committed: those of the documentation are these, and small.

    In a process of its own: matplotlib keeps files of fonts open.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.plots", str(page.RESULTS), str(tmp_path)],
        cwd=page.ROOT,
        capture_output=True,
        text=True,
        timeout=45,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pictures = [Path(line) for line in done.stdout.splitlines()]
    assert {path.name for path in pictures} == {path.name for path in page.FIGURES.iterdir()}
    for path in pictures:
        text = path.read_text("utf-8")
        assert "snakemq-peer" in text
        # These would be others each time.
        assert "clip-path" not in text
        assert "dc:date" not in text
        assert len(text) < 60_000


def test_memory_is_known_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on macOS: by the system's own program, and the peak since the beginning."""
    if sys.platform == "win32":
        pytest.skip("neither is there on Windows")
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "nothing")
    now, peak = memory.resident(), memory.peak_resident()
    assert now is not None
    assert peak is not None
    assert 1 << 20 < now < 1 << 32
    assert 1 << 20 < peak < 1 << 32
