"""The benchmarks run, in a tiny size, and notice when something else arrives than was sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.environments import ROOT, Unavailable, installed, this_tree
from benchmarks.payloads import Inbox, Payloads
from benchmarks.peers.catalogue import PEERS
from benchmarks.processes import Process, RunFailed
from benchmarks.report import Report, machine
from benchmarks.runner import Measurements, measure
from benchmarks.workloads import WORKLOADS, Wrong

#: Of the operations of a full run.
SCALE = 0.002


def run_benchmarks(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


@pytest.mark.slow
def test_every_workload_runs_for_every_peer_of_this_tree(tmp_path: Path) -> None:
    peers = [name for name, peer in PEERS.items() if peer.environment is this_tree]
    results = tmp_path / "results.json"
    done = run_benchmarks(
        *("--scale", str(SCALE), "--rounds", "1"),
        *("--peers", ",".join(peers), "--json", str(results)),
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(results.read_text("utf-8"))
    assert {(row["workload"], row["peer"]) for row in written["results"]} == {
        (workload, peer) for workload in WORKLOADS for peer in peers
    }
    for row in written["results"]:
        assert row["median"] > 0
        assert row["min"] <= row["median"] <= row["max"]
        assert row["ratio"].keys() == {"raw"}
        assert all(value >= 0 for value in row["medians"].values())
    for name in (*WORKLOADS, *peers):
        assert name in done.stdout


@pytest.mark.slow
def test_snakemq_1_6_runs_beside(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The real one from PyPI, where the tests of compatibility keep theirs."""
    cache: pytest.Cache | None = getattr(request.config, "cache", None)
    directory = cache.mkdir("snakemq16") if cache else tmp_path
    try:
        environments = {name: PEERS[name].environment(directory) for name in PEERS}
    except Unavailable as exc:
        if os.environ.get("CI"):
            pytest.fail(str(exc))
        pytest.skip(str(exc))
    measured = measure(environments, ["small", "rpc"], 1, SCALE, lambda what: None)
    assert measured.versions["snakemq-1.6"] == "1.6"
    assert measured.versions["snakemq"] != "1.6"
    table = Report(measured, machine()).as_table()
    assert "vs snakemq-1.6" in table


def test_a_process_that_fails_is_reported_with_what_it_said(tmp_path: Path) -> None:
    arguments = ["benchmarks.peers.nobody", "small", "listen", "1"]
    with (
        Process(this_tree(tmp_path), "the listener", arguments) as process,
        pytest.raises(RunFailed, match=r"(?s)the listener ended before 'listening'.*nobody"),
    ):
        process.hear("listening")


def test_a_package_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "nothing-1").mkdir()  # as if it were installed
    with pytest.raises(Unavailable, match=r"nothing==1 runs on no Python here: .*no_such_module"):
        installed("nothing==1", check="import no_such_module")(tmp_path)


@pytest.mark.parametrize("size", [64, 1024 * 1024])
class TestInbox:
    def arrived(self, size: int, *messages: bytes) -> Inbox:
        inbox = Inbox(size)
        inbox.expect(3)
        for data in messages:
            inbox.receive(data)
        return inbox

    def test_what_was_sent_is_right(self, size: int) -> None:
        sent = Payloads(size, 3)
        assert len(set(sent)) == len(sent) == 3
        assert {len(data) for data in sent} == {size}
        inbox = self.arrived(size, *sent)
        inbox.wait()
        assert inbox.completed_at > 0
        assert inbox.check(sent) == ""

    def test_a_lost_one_is_noticed(self, size: int) -> None:
        sent = Payloads(size, 3)
        assert self.arrived(size, *list(sent)[:2]).check(sent) == "2 messages arrived of 3"

    def test_a_second_one_is_noticed(self, size: int) -> None:
        sent = Payloads(size, 3)
        assert self.arrived(size, *sent, *sent).check(sent) == "6 messages arrived of 3"

    def test_another_order_is_noticed(self, size: int) -> None:
        sent = Payloads(size, 3)
        first, second, third = sent
        assert self.arrived(size, first, third, second).check(sent).startswith("message 1 of 3")

    def test_another_size_is_noticed(self, size: int) -> None:
        sent = Payloads(size, 3)
        first, second, third = sent
        assert self.arrived(size, first, second, third[:-1]).check(sent).startswith("message 2")

    def test_other_content_is_noticed(self, size: int) -> None:
        sent = Payloads(size, 3)
        first, second, third = sent
        changed = first[:-1] + bytes([first[-1] ^ 1])
        assert self.arrived(size, changed, second, third).check(sent).startswith("message 0")


def test_a_call_that_was_lost_or_repeated_is_noticed() -> None:
    dialled = {"wrong": "", "seconds": 1.0, "median": 0.1, "p99": 0.2, "cpu": 0.1}
    figures = WORKLOADS["rpc16"].figures(33, {"calls": 32, "cpu": 0.1}, dialled)
    assert next(iter(figures)) == WORKLOADS["rpc16"].unit
    for calls in (31, 33):
        with pytest.raises(Wrong, match=f"called {calls} times, not 32"):
            WORKLOADS["rpc16"].figures(33, {"calls": calls, "cpu": 0.1}, dialled)
    with pytest.raises(Wrong, match="a call failed"):
        WORKLOADS["rpc"].figures(1, {"calls": 1, "cpu": 0}, {**dialled, "wrong": "a call failed"})


def row(report: Report, workload: str, peer: str) -> dict[str, Any]:
    (found,) = (
        row
        for row in report.as_json()["results"]
        if (row["workload"], row["peer"]) == (workload, peer)
    )
    return dict(found)


def test_more_than_1_is_better_whatever_the_unit() -> None:
    rate, latency = WORKLOADS["small"].unit, WORKLOADS["rpc"].unit
    measured = Measurements(
        figures={
            # The machine was half as fast in the second round.
            ("small", "snakemq"): [{rate: 300.0}, {rate: 150.0}, {rate: 900.0}],
            ("small", "snakemq-1.6"): [{rate: 100.0}, {rate: 50.0}, {rate: 100.0}],
            ("rpc", "snakemq"): [{latency: 10.0}, {latency: 20.0}, {latency: 10.0}],
            ("rpc", "snakemq-1.6"): [{latency: 20.0}, {latency: 40.0}, {latency: 30.0}],
        },
        versions={"snakemq": "2", "snakemq-1.6": "1.6"},
        counts={"small": 1, "rpc": 1},
    )
    report = Report(measured, machine())
    assert row(report, "small", "snakemq")["median"] == 300
    assert row(report, "small", "snakemq")["ratio"] == {"snakemq-1.6": pytest.approx(3.0)}
    assert row(report, "rpc", "snakemq")["ratio"] == {"snakemq-1.6": pytest.approx(2.0)}
    assert row(report, "rpc", "snakemq-1.6")["ratio"] == {"snakemq-1.6": pytest.approx(1.0)}
