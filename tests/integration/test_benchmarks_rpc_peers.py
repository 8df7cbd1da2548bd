"""The benchmarks measure other packages that make remote calls."""

from __future__ import annotations

import importlib.util
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.peers import Calling, xmlrpc
from benchmarks.peers.per_thread import CallerPerThread
from benchmarks.runner import Place, measure, prepare

#: What each peer needs: xmlrpc is there always, others where somebody has installed them.
PACKAGES = {
    "xmlrpc": "xmlrpc",
    "rpyc": "rpyc",
    "pyro5": "Pyro5",
    "zerorpc": "zerorpc",
    "grpc": "grpc",
}


@pytest.mark.parametrize("peer", PACKAGES)
def test_threads_make_calls_at_the_same_time(peer: str, tmp_path: Path) -> None:
    """The run itself sees to it that each call gets what belongs to it."""
    package = PACKAGES[peer]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    with ExitStack() as servers:
        peers, left_out = prepare([peer], ["rpc16"], tmp_path, tmp_path, servers)
        assert left_out == {}
        measured = measure(peers, ["rpc16"], 1, 0.004, Place(tmp_path), lambda what: None)
    (figures,) = measured.figures["rpc16", peer]
    assert 0 < figures["µs (median)"] <= figures["µs (p99)"]
    assert figures["calls/s"] > 0
    assert any(map(str.isdigit, measured.versions[peer]))


def test_a_package_that_does_not_work_here_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some that are not looked after any more don't run on each new Python."""
    problem = "ModuleNotFoundError: No module named 'imp'"
    monkeypatch.setattr("benchmarks.environments._problem", lambda environment, check: problem)
    monkeypatch.setattr("benchmarks.environments._install", lambda *args: tmp_path)
    with ExitStack() as servers:
        peers, left_out = prepare(["zerorpc", "raw"], ["rpc"], tmp_path, tmp_path, servers)
    assert list(peers) == ["raw"]
    assert left_out.keys() == {"zerorpc"}
    assert problem in left_out["zerorpc"]
    assert "zerorpc" in left_out["zerorpc"]


class Connection:
    """Answers with the thread that it was made in."""

    def __init__(self) -> None:
        self._name = threading.current_thread().name.encode()
        self.is_open = True

    def call(self, data: bytes) -> bytes:
        return self._name + data

    def close(self) -> None:
        self.is_open = False


def test_each_thread_has_one_connection() -> None:
    connections: list[Connection] = []

    def connect() -> Calling:
        connections.append(Connection())
        return connections[-1]

    calling = CallerPerThread(connect)
    answers: list[bytes] = []

    def make_calls() -> None:
        for data in (b" 1", b" 2"):
            answers.append(calling.call(data))

    threads = [threading.Thread(target=make_calls, name=name) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [b"a 1", b"a 2", b"b 1", b"b 2"]
    assert [each.is_open for each in connections] == [True, True]
    calling.close()
    assert [each.is_open for each in connections] == [False, False]


def test_connections_are_held_until_they_are_closed() -> None:
    served = xmlrpc.serve(lambda data: data)
    holding = xmlrpc.hold(served.address, 3)
    assert holding.count() == 3
    holding.close()
    served.close()
    with pytest.raises(ConnectionRefusedError):
        xmlrpc.hold(served.address, 1)
