"""The benchmarks run, in a tiny size, and notice when something else arrives than was sent."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.backlog.report import BacklogReport
from benchmarks.backlog.runner import BacklogFigures, Backlogs
from benchmarks.certificates import make_certificates
from benchmarks.channel import Facts
from benchmarks.environments import ROOT, Unavailable, installed, this_tree
from benchmarks.machine import Machine, cores, file_system
from benchmarks.payloads import Inbox, Payloads
from benchmarks.peers.catalogue import PEERS
from benchmarks.processes import Process, RunFailed
from benchmarks.report import Report
from benchmarks.runner import Place, Ready, measure, prepare
from benchmarks.workloads import WORKLOADS, Wrong

#: Of the operations of a full run.
SCALE = 0.002


def run_benchmarks(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


#: What 1.6 does in another way.
OF_1_6 = ("small", "rpc", "durable")

#: What the layers do in another way than the facade.
OF_THE_LAYERS = ("small", "tls-small", "rpc", "transient")


def without_tls(workloads: tuple[str, ...]) -> set[str]:
    """Those for which there has to be no ``openssl``."""
    possible = shutil.which("openssl") is not None
    return {
        name
        for name in workloads
        if name in WORKLOADS and (possible or not WORKLOADS[name].needs_certificates)
    }


@pytest.mark.slow
@pytest.mark.timeout(240)  # many processes, one after the other
def test_every_workload_runs(tmp_path: Path) -> None:
    """For us and for the limits; the other peers have tests of their own."""
    peers = ["snakemq-peer", "raw", "sqlite"]
    results = tmp_path / "results.json"
    done = run_benchmarks(
        *("--scale", str(SCALE), "--rounds", "1", "--sizes", "20,300"),
        *("--peers", ",".join(peers), "--json", str(results), "--directory", str(tmp_path)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads(results.read_text("utf-8"))
    assert written["failed"] == []
    assert {(row["workload"], row["peer"]) for row in written["results"]} == {
        (workload, peer) for peer in peers for workload in without_tls(PEERS[peer].workloads)
    }
    for row in written["results"]:
        limit = "sqlite" if "durable" in row["workload"] else "raw"
        assert row["median"] > 0
        assert row["min"] <= row["median"] <= row["max"]
        assert row["ratio"].keys() == {"snakemq-peer", limit}
        assert row["ratio"][row["peer"]] == 1
        assert all(value >= 0 for value in row["medians"].values())
    for name in (*WORKLOADS, *peers):
        assert name in done.stdout
    assert "RPC p50, one thread" in done.stdout

    backlogs = written["backlog"]["results"]
    assert [row["messages"] for row in backlogs] == [20, 300]
    for row in backlogs:
        assert row["medians"]["disk"] > 100
        assert all(value > 0 for value in row["ratio"].values())
    assert set(backlogs[0]["ratio"].values()) == {1}
    assert "backlog" in done.stdout
    assert not list(tmp_path.glob("data-*"))


@pytest.mark.slow
@pytest.mark.timeout(180)  # many processes, one after the other
def test_the_layers_run(tmp_path: Path) -> None:
    workloads = sorted(without_tls(OF_THE_LAYERS))
    with ExitStack() as servers:
        peers, _ = prepare(["snakemq"], workloads, tmp_path, tmp_path, servers)
        certificates = make_certificates(tmp_path) if "tls-small" in workloads else None
        place = Place(tmp_path, certificates)
        measured = measure(peers, workloads, 1, SCALE, place, lambda what: None)
    assert measured.failed == {}
    assert {workload for workload, _ in measured.figures} == set(workloads)


def test_who_fails_is_listed_and_ends_nothing(tmp_path: Path) -> None:
    """The peer that is asked for what it has not; the exit status is that of the whole."""
    peers = {
        "sqlite": Ready(this_tree(tmp_path), workloads=("small",)),
        "raw": Ready(this_tree(tmp_path), workloads=("small",)),
    }
    measured = measure(peers, ["small"], 2, SCALE, Place(tmp_path), lambda what: None)
    assert set(measured.figures) == {("small", "raw")}
    assert len(measured.figures["small", "raw"]) == 2
    ((failed, reason),) = measured.failed.items()
    assert failed == ("small", "sqlite")
    assert reason.startswith("in round 1: the process that listens ended before 'listening'")
    assert "has no attribute 'receive'" in reason
    assert "\n" not in reason
    assert "small, sqlite, failed in round 1" in Report(measured).as_table()


@pytest.mark.slow
@pytest.mark.timeout(180)  # many processes, one after the other
def test_snakemq_1_6_runs_beside(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The real one from PyPI, where the tests of compatibility keep theirs."""
    cache: pytest.Cache | None = getattr(request.config, "cache", None)
    directory = cache.mkdir("snakemq16") if cache else tmp_path
    with ExitStack() as servers:
        peers, left_out = prepare(
            ["snakemq-peer", "snakemq-1.6"],
            OF_1_6,
            directory,
            tmp_path,
            servers,
        )
        if left_out:
            reason = left_out["snakemq-1.6"]
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        place = Place(tmp_path)
        measured = measure(peers, OF_1_6, 1, SCALE, place, lambda what: None)
    assert measured.failed == {}
    assert measured.versions["snakemq-1.6"] == "1.6"
    assert measured.versions["snakemq-peer"] != "1.6"
    assert ("durable", "snakemq-1.6") in measured.figures
    table = Report(measured).as_table()
    assert table.count("vs snakemq-peer") == len(OF_1_6)


@pytest.mark.slow
@pytest.mark.timeout(180)  # many processes, one after the other
def test_rabbitmq_runs_beside(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """In all ways of sending, and nothing of it remains."""
    cache: pytest.Cache | None = getattr(request.config, "cache", None)
    directory = cache.mkdir("pika") if cache else tmp_path
    data = tmp_path / "data"
    data.mkdir()
    with ExitStack() as servers:
        workloads = PEERS["rabbitmq"].workloads
        peers, left_out = prepare(["rabbitmq"], workloads, directory, data, servers)
        if left_out:
            pytest.skip(left_out["rabbitmq"])
        measured = measure(peers, workloads, 1, 0.02, Place(data), lambda what: None)
        server = peers["rabbitmq"].server
        assert server is not None
    assert {workload for workload, _ in measured.figures} == set(workloads)
    assert measured.versions["rabbitmq"].startswith("RabbitMQ ")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.address), timeout=5)
    assert not list(data.iterdir())


def test_a_peer_that_can_not_be_had_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *args, **kwargs: None)
    with ExitStack() as servers:
        peers, left_out = prepare(
            ["rabbitmq", "sqlite", "raw"], ["durable"], tmp_path, tmp_path, servers
        )
    assert list(peers) == ["sqlite"]
    assert left_out.keys() == {"rabbitmq"}
    assert "rabbitmq" in left_out["rabbitmq"]


def test_a_process_that_fails_is_reported_with_what_it_said(tmp_path: Path) -> None:
    arguments = ["benchmarks.peers.nobody", "small", "listen", "1", str(tmp_path)]
    arguments += ["null", "null", ""]
    program = "benchmarks.endpoint"
    with (
        Process(this_tree(tmp_path), "the listener", program, arguments) as process,
        pytest.raises(RunFailed, match=r"(?s)the listener ended before 'listening'.*nobody"),
    ):
        process.hear("listening")


@pytest.mark.skipif(len(cores()) < 2, reason="there is one core, or no choice among them")
@pytest.mark.parametrize("apart", [True, False])
def test_each_side_has_a_core_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    seen: list[set[int]] = []

    class Watched(Process):
        def hear(self, step: str) -> Facts:
            facts = super().hear(step)
            if step in ("listening", "ready"):
                seen.append(os.sched_getaffinity(self._process.pid))
            return facts

    monkeypatch.setattr("benchmarks.runner.Process", Watched)
    with ExitStack() as servers:
        peers, _ = prepare(["raw"], ["small"], tmp_path, tmp_path, servers)
        place = Place(tmp_path, apart=apart)
        assert not measure(peers, ["small"], 1, SCALE, place, lambda what: None).failed
    if apart:
        assert [len(one) for one in seen] == [1, 1]
        assert seen[0] != seen[1]
    else:
        assert seen == [set(cores())] * 2
    assert ("a core for each end" in str(Machine.here(tmp_path, apart=apart))) == apart


def test_a_side_ends_with_the_runner() -> None:
    """Whatever it is doing: here it would wait for ever."""
    program = (
        "import threading\n"
        "from benchmarks.channel import Channel\n"
        "channel = Channel()\n"
        "channel.hear('begin')\n"
        "channel.tell('begun')\n"
        "threading.Event().wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write('{"step": "begin"}\n')
        process.stdin.flush()
        assert json.loads(process.stdout.readline()) == {"step": "begun"}
        process.stdin.close()
        assert process.wait(30) == 1


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


def interleaved(*messages: bytes) -> str:
    """What is wrong with these, of two senders that have sent two messages each."""
    inbox = Inbox(64)
    inbox.expect(4)
    for data in messages:
        inbox.receive(data)
    return inbox.check_each([Payloads(64, 2), Payloads(64, 2, first=2)])


def test_each_sender_has_an_order_of_its_own() -> None:
    a, b, c, d = Payloads(64, 4)
    for right in ((a, b, c, d), (c, a, d, b), (a, c, b, d)):
        assert interleaved(*right) == ""
    for wrong, where in (((b, a, c, d), 0), ((c, a, d, d), 3), ((a, b, c, b"?"), 3)):
        assert interleaved(*wrong) == f"message {where} of 4 is not what was sent"
    assert interleaved(a, b, c) == "3 messages arrived of 4"


def test_batches_are_everything_in_order() -> None:
    sent = Payloads(64, 7)
    batches = list(sent.batches(3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert [data for batch in batches for data in batch] == list(sent)


def test_the_slower_side_ends_the_time() -> None:
    work = WORKLOADS["durable"]
    dialled = {"at": 10.0, "accepted_at": 11.0, "removed_at": 12.0, "cpu": 0.5}
    figures = work.figures(100, {"wrong": "", "at": 14.0}, dialled)
    assert figures == {"messages/s": 25.0, "accepted/s": 100.0, "CPU µs, sender": 5000.0}
    assert work.figures(100, {"wrong": "", "at": 11.5}, dialled)["messages/s"] == 50.0
    with pytest.raises(Wrong, match="something"):
        work.figures(100, {"wrong": "something", "at": 14.0}, dialled)


def test_a_directory_in_memory_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/a / ext4 rw 0 0\n"
        f"none {tmp_path}/the\\040place tmpfs rw 0 0\n"
        f"/dev/b {tmp_path}/the\\040place/disk xfs rw 0 0\n"
    )
    monkeypatch.setattr("benchmarks.machine._MOUNTS", mounts)
    assert file_system(tmp_path) == "ext4"
    assert Machine.here(tmp_path, apart=True).warning == ""
    in_memory = tmp_path / "the place" / "data"
    assert file_system(in_memory) == "tmpfs"
    assert "--directory" in Machine.here(in_memory, apart=True).warning
    assert "(tmpfs)" in str(Machine.here(in_memory, apart=True))
    assert file_system(tmp_path / "the place" / "disk" / "data") == "xfs"


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_peak_of_memory_can_be_forgotten() -> None:
    """In a process that has no memory left from what it did before."""
    program = (
        "from benchmarks.memory import forget_peak, peak_resident\n"
        "forget_peak()\n"
        "print(peak_resident())\n"
        "del_me = bytearray(b'x') * (64 << 20)\n"
        "print(peak_resident())\n"
        "del del_me\n"
        "forget_peak()\n"
        "print(peak_resident())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    before, with_it, after = map(int, done.stdout.split())
    assert with_it > before + (32 << 20)
    assert after < with_it - (32 << 20)


def test_a_backlog_is_compared_with_the_smallest() -> None:
    def figures(seconds: float, memory: float | None) -> BacklogFigures:
        return BacklogFigures(*[seconds] * 5, 120.0, *[memory] * 3)

    measured = Backlogs(
        {
            # The machine was half as fast in the second round.
            1000: [figures(4.0, None), figures(8.0, None), figures(4.0, None)],
            10: [figures(2.0, 1.0), figures(4.0, 1.5), figures(1.0, 2.0)],
        },
        "2",
    )
    report = BacklogReport(measured)
    small, large = report.as_json()["results"]
    assert small["messages"] == 10
    assert small["ratio"].keys() == {"queue", "queue_cpu", "open", "drain", "drain_cpu"}
    assert set(small["ratio"].values()) == {1.0}
    assert set(large["ratio"].values()) == {2.0}
    assert small["medians"]["drain_memory"] == 1.5
    assert large["medians"]["drain_memory"] is None
    assert len(large["rounds"]) == 3
    first, second = report.as_table().splitlines()[-2:]
    assert first.split()[:3] == ["10", "2.00", "(1.00)"]
    assert second.split()[:3] == ["1,000", "4.00", "(2.00)"]


def test_a_call_that_was_lost_or_repeated_is_noticed() -> None:
    dialled = {"wrong": "", "seconds": 1.0, "median": 0.1, "p99": 0.2, "cpu": 0.1}
    figures = WORKLOADS["rpc16"].figures(33, {"calls": 32, "cpu": 0.1}, dialled)
    assert next(iter(figures)) == WORKLOADS["rpc16"].unit
    for calls in (31, 33):
        with pytest.raises(Wrong, match=f"called {calls} times, not 32"):
            WORKLOADS["rpc16"].figures(33, {"calls": calls, "cpu": 0.1}, dialled)
    with pytest.raises(Wrong, match="a call failed"):
        WORKLOADS["rpc"].figures(1, {"calls": 1, "cpu": 0}, {**dialled, "wrong": "a call failed"})


def test_what_reading_calls_safely_costs(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/serializers.py", "--rounds", "1", "--json", str(results)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    costs = json.loads(results.read_text("utf-8"))
    assert {"call", "reply"} < costs.keys()
    for name, cost in costs.items():
        assert name in done.stdout
        assert cost["read"] > 0
        assert cost["pickle_read"] > 0
        assert cost["ratio"] == pytest.approx(cost["read"] / cost["pickle_read"])
