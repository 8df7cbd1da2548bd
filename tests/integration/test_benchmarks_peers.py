"""The peers that send messages do so, with what is installed here; nothing is installed for it.

Continuous integration measures all of them: it installs what is missing.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks import environments
from benchmarks.environments import CACHE, ROOT, Environment, Unavailable, importable
from benchmarks.runner import Place, measure, prepare
from benchmarks.servers import packages
from benchmarks.servers.daemon import Daemon, find_program, free_ports
from tests.helpers import wait_until

#: Of the operations of a full run.
SCALE = 0.001

on_posix = pytest.mark.skipif(os.name != "posix", reason="there are no servers of our own here")


@pytest.fixture
def nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier run of the benchmarks has installed is used."""

    def refuse(cache: Path) -> str:
        raise Unavailable("it is not installed, and not to be installed for a test")

    monkeypatch.setattr(environments, "_python_with_pip", refuse)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("peer", "workloads"),
    [
        ("pyzmq", ["small", "rpc16", "connections", "transient"]),
        ("nng", ["small", "rpc16", "connections"]),
        ("multiprocessing", ["small", "rpc16", "connections"]),
        ("nats", ["small", "rpc16", "durable256"]),
        ("mosquitto", ["small"]),
    ],
)
def test_a_peer_runs(
    nothing_is_installed: None, tmp_path: Path, peer: str, workloads: list[str]
) -> None:
    """Everything arrives, in order, or measuring fails; and nothing of a server remains."""
    data = tmp_path / "data"
    data.mkdir()
    with ExitStack() as servers:
        ready, left_out = prepare([peer], workloads, CACHE, data, servers)
        if left_out:
            pytest.skip(left_out[peer])
        measured = measure(ready, workloads, 1, SCALE, Place(data), lambda what: None)
        server = ready[peer].server
    assert measured.failed == {}
    assert set(measured.figures) == {(workload, peer) for workload in workloads}
    for (workload, _), (figures,) in measured.figures.items():
        # A few connections may fit into memory that the process has already.
        assert next(iter(figures.values())) > 0 or workload == "connections"
    assert re.search(r"\d\.\d", measured.versions[peer])
    if server is not None:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", server.address), timeout=5)
    assert not list(data.iterdir())


def test_the_extra_has_all_packages_that_are_installed() -> None:
    wanted = re.findall(
        r'"([\w.-]+>=[\w.]+)"', (ROOT / "benchmarks/peers/catalogue.py").read_text()
    )
    (extra,) = re.findall(r"^bench = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert "pyzmq>=26" in wanted
    for requirement in wanted:
        assert f'"{requirement}"' in extra


class TestPackages:
    """Installing them, without doing it."""

    def install_as(
        self, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], object]
    ) -> list[list[str]]:
        """Have pip replaced by something that writes into the directory that pip gets.

        :return: the commands with which it was called
        """
        called: list[list[str]] = []
        run = subprocess.run

        def pretend(command: list[str], **options: Any) -> object:
            if "pip" not in command:
                return run(command, **options)
            called.append(command)
            write(Path(command[command.index("--target") + 1]))
            return run([sys.executable, "-c", ""], **options)

        monkeypatch.setattr(subprocess, "run", pretend)
        monkeypatch.setattr(environments, "_python_with_pip", lambda cache: sys.executable)
        return called

    def test_one_that_is_there_is_not_installed(
        self, nothing_is_installed: None, tmp_path: Path
    ) -> None:
        assert importable("json", "json>=2")(tmp_path) == Environment(sys.executable)

    def test_it_is_installed_once_with_what_it_needs_for_this_python(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        called = self.install_as(
            monkeypatch, lambda target: (target / "surely_missing.py").write_text("import json\n")
        )
        for _ in range(2):
            environment = importable("surely_missing", "surely-missing>=2.1")(tmp_path)
            assert environment.python == sys.executable
            assert environment.packages == (
                tmp_path / sys.implementation.cache_tag / "surely-missing-2.1"
            )
        (command,) = called
        assert "surely-missing>=2.1" in command
        assert "--no-deps" not in command

    def test_one_that_does_not_work_is_unavailable(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.install_as(monkeypatch, lambda target: None)
        with pytest.raises(Unavailable, match=r"surely-missing>=2.1 does not run on .*No module"):
            importable("surely_missing", "surely-missing>=2.1")(tmp_path)


@on_posix
class TestServers:
    def test_a_missing_one_is_said_with_its_package(self) -> None:
        with pytest.raises(Unavailable, match=r"apt-get install surely-missing"):
            find_program("surely-missing")

    def test_one_outside_of_path_is_found(self, tmp_path: Path) -> None:
        program = tmp_path / "surely-there"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        assert find_program("surely-there", [str(tmp_path)]) == str(program)

    def test_ports_are_different(self) -> None:
        assert len(set(free_ports(5))) == 5

    def test_one_that_ends_is_unavailable_and_leaves_nothing(self, tmp_path: Path) -> None:
        with Daemon.of("thing", tmp_path, []) as daemon:
            process = daemon.start(["sh", "-c", "echo there is no licence; exit 3"])
            with pytest.raises(
                Unavailable, match=r"thing can't be started: .* status 3; .*no licence"
            ):
                daemon.wait_for(lambda: None, process)
        assert not list(tmp_path.iterdir())

    def test_it_is_ended_with_what_it_has_started(self, tmp_path: Path) -> None:
        pipe = tmp_path / "open while one of them runs"
        os.mkfifo(pipe)
        data = tmp_path / "data"
        data.mkdir()
        script = f"exec 9> '{pipe}'; sleep 600 & echo it runs > started; wait"
        with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as reader:
            with Daemon.of("thing", data, []) as daemon:
                process = daemon.start(["sh", "-c", script])
                daemon.wait_for(lambda: (daemon.home / "started").read_text() or None, process)
                assert reader.read() is None
            wait_until(lambda: reader.read() == b"")
        assert not list(data.iterdir())


@on_posix
class TestInstallingServers:
    """Without doing it."""

    def missing(self, *names: str) -> dict[str, Callable[[], str]]:
        def refuse() -> str:
            raise Unavailable("there is none")

        return {
            name: refuse if name in names else (lambda: "/usr/sbin/it")
            for name in packages._SERVERS
        }

    def run_as(self, monkeypatch: pytest.MonkeyPatch, script: str) -> list[str]:
        """Have this shell script run instead of each command, as root of a Debian.

        :return: the commands
        """
        run = subprocess.run
        commands: list[str] = []

        def pretend(command: list[str], **options: Any) -> object:
            commands.append(" ".join(command))
            return run(["sh", "-c", script], **options)

        monkeypatch.setattr(subprocess, "run", pretend)
        monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        return commands

    @pytest.fixture
    def commands(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What is run where everything succeeds."""
        return self.run_as(monkeypatch, "true")

    def test_what_is_there_is_left_alone(
        self, monkeypatch: pytest.MonkeyPatch, commands: list[str]
    ) -> None:
        monkeypatch.setattr(packages, "_SERVERS", self.missing())
        assert packages.install_missing() == []
        assert commands == []

    def test_what_is_missing_is_installed_and_not_left_running(
        self, monkeypatch: pytest.MonkeyPatch, commands: list[str]
    ) -> None:
        monkeypatch.setattr(packages, "_SERVERS", self.missing("nats-server", "mosquitto"))
        assert packages.install_missing() == ["nats-server", "mosquitto"]
        assert commands == [
            "apt-get update",
            "apt-get install -y --no-install-recommends nats-server mosquitto",
            "service nats-server stop",
            "service mosquitto stop",
        ]

    def test_who_is_not_root_is_told_what_to_do(
        self, monkeypatch: pytest.MonkeyPatch, commands: list[str]
    ) -> None:
        monkeypatch.setattr(packages, "_SERVERS", self.missing("mosquitto"))
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(Unavailable, match=r"root .*apt-get install .*mosquitto"):
            packages.install_missing()
        assert commands == []

    def test_other_systems_are_told_what_is_missing(
        self, monkeypatch: pytest.MonkeyPatch, commands: list[str]
    ) -> None:
        monkeypatch.setattr(packages, "_SERVERS", self.missing("mosquitto"))
        monkeypatch.setattr(shutil, "which", lambda name: None)
        with pytest.raises(Unavailable, match=r"no apt-get to install mosquitto"):
            packages.install_missing()

    def test_what_apt_says_is_passed_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(packages, "_SERVERS", self.missing("mosquitto"))
        commands = self.run_as(monkeypatch, "echo no network >&2; exit 100")
        with pytest.raises(Unavailable, match=r"apt-get update: no network"):
            packages.install_missing()
        assert commands == ["apt-get update"]
