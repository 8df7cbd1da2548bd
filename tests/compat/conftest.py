"""Fixtures of the compatibility tests: the real snakeMQ 1.6 and this package."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

import snakemq.link
from tests.compat.harness import (
    PeerProcesses,
    PythonEnv,
    environ_with,
    peer_processes,
    run_python,
)

#: In this order: 1.6 has TLS up to Python 3.11 only and the rest of it
#: everywhere.
CANDIDATES = ("python3.11", "python3.10", sys.executable, "python3.12", "python3.13", "python3")

#: Succeeds where 1.6 works: its modules, a socket, a pass of the loop.
SMOKE_TEST = """
import snakemq.link, snakemq.messaging, snakemq.packeter, snakemq.rpc, snakemq.version
import snakemq.storage.sqlite, threading
assert snakemq.version.VERSION == "1.6", snakemq.__file__
assert hasattr(threading.Thread, "setDaemon")
link = snakemq.link.Link()
link.add_listener(("127.0.0.1", 0))
link.wakeup_poll()
link.loop(count=1)
link.cleanup()
"""


class _Unavailable(Exception):
    """1.6 can't be had here."""


def _install_1_6(cache: Path) -> Path:
    """A directory with 1.6 in it; made once, safe if several runs come at once."""
    target = cache / "snakemq-1.6"
    if target.is_dir():
        return target
    building = Path(tempfile.mkdtemp(prefix="installing-", dir=cache))
    try:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
                *("--disable-pip-version-check", "--target", str(building), "snakeMQ==1.6"),
            ],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        if done.returncode:
            raise _Unavailable(f"pip install snakeMQ==1.6: {done.stderr.strip()[-500:]}")
        try:
            building.rename(target)
        except OSError:
            # Another run was faster; what it made is as good.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _find_1_6(cache: Path) -> PythonEnv:
    path = _install_1_6(cache)
    refused = []
    for name in CANDIDATES:
        python = shutil.which(name)
        if python is None:
            continue
        found = PythonEnv("snakeMQ 1.6", python, environ_with(path, PYTHONWARNINGS="ignore"))
        result = run_python(found, ["-c", SMOKE_TEST])
        if result.returncode == 0:
            return found
        refused.append(f"{python}: {result.stderr.strip()[-200:]}")
    raise _Unavailable("no Python here runs snakeMQ 1.6: " + "; ".join(refused))


@pytest.fixture(scope="session")
def snakemq16_env(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> PythonEnv:
    """A Python that runs the real snakeMQ 1.6 from PyPI: ``.python`` and ``.env``.

    Without it (no network) the test is skipped; in CI it fails.
    """
    cache: pytest.Cache | None = getattr(request.config, "cache", None)
    directory = cache.mkdir("snakemq16") if cache else tmp_path_factory.mktemp("snakemq16")
    try:
        return _find_1_6(directory)
    except (_Unavailable, OSError, subprocess.TimeoutExpired) as exc:
        if os.environ.get("CI"):
            pytest.fail(str(exc))
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def this_env() -> PythonEnv:
    """This Python with the package under test."""
    root = Path(next(iter(snakemq.__path__))).parent
    return PythonEnv("this package", sys.executable, environ_with(root, PYTHONWARNINGS="default"))


@pytest.fixture(scope="session")
def environments(snakemq16_env: PythonEnv, this_env: PythonEnv) -> dict[str, PythonEnv]:
    return {"old": snakemq16_env, "new": this_env}


@pytest.fixture
def peers(environments: dict[str, PythonEnv]) -> Iterator[PeerProcesses]:
    """Starts peers for one test."""
    with peer_processes(environments) as started:
        yield started


@pytest.fixture(scope="module")
def module_peers(environments: dict[str, PythonEnv]) -> Iterator[PeerProcesses]:
    """Starts peers for all tests of a module."""
    with peer_processes(environments) as started:
        yield started


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files: the certificate of an authority, and key and certificate of a peer."""
    directory = tmp_path_factory.mktemp("certificates")
    root = trustme.CA()
    peer = root.issue_cert("peer.example", common_name="testpeer")
    files = {name: str(directory / name) for name in ("root.crt", "peer.key", "peer.crt")}
    root.cert_pem.write_to_path(files["root.crt"])
    peer.private_key_pem.write_to_path(files["peer.key"])
    peer.cert_chain_pems[0].write_to_path(files["peer.crt"])
    return files


@pytest.fixture
def tls(certificates: dict[str, str]) -> snakemq.link.SSLConfig:
    """What both sides of a secure connection use: own certificate, and the other's is checked."""
    return snakemq.link.SSLConfig(
        certificates["peer.key"],
        certificates["peer.crt"],
        ca_certs=certificates["root.crt"],
        cert_reqs=ssl.CERT_REQUIRED,
    )
