"""Ten thousand silent, slow or lying connections, and real peers that do not notice.

Four processes: the peer that is attacked; one like it that is left alone, to compare
with; all the attackers; and this one, with a real peer that talks with the first two in
turn, so that whatever else this machine does slows both down. The first two are asked
for their memory and their processor time.

There are 400 by default, because ten thousand take a minute; for these::

    SNAKEMQ_HOSTILE_CONNECTIONS=10000 python3 tools/test.py tests/integration -k hostile

Each process has to be able to open twice as many files as there are connections (``ulimit
-Hn``), because not all may be strangers.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

from snakemq import Peer
from tests.helpers import DEADLINE, open_files, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, and 127.0.0.2"),
]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

#: How many attackers there are.
ATTACKERS = int(os.environ.get("SNAKEMQ_HOSTILE_CONNECTIONS", "400"))

MIB = 1 << 20

#: Of so many calls the median is taken.
CALLS = 400

ONE_ADDRESS = ["127.0.0.1"]
MANY_ADDRESSES = [f"127.0.0.{number}" for number in range(2, 34)]

#: All kinds that never become peers. See ``hostile_attackers.py``.
STRANGERS = [
    "silent",
    "slow",
    "1 GiB announced",
    "garbage",
    "unfinished garbage",
    "huge identification",
    "unfinished identification",
    "TLS, half a greeting",
    "TLS, silent after the greeting",
    "TLS, garbage",
    "TLS to the plain listener",
    "hurry",
]

#: So that nothing but the number of the connections decides.
NO_LIMITS = {
    "max_connections": 1_000_000,
    "accept_rate": 1_000_000.0,
    "max_handshakes": 1_000_000,
    "max_handshakes_per_address": 1_000_000,
    "handshake_timeout": 600.0,
    "max_unidentified": 1_000_000,
    "max_unidentified_per_address": 1_000_000,
    "identification_timeout": 600.0,
}


class Worker:
    """One of the other processes."""

    def __init__(self, script: str, options: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / script), json.dumps(options)],
            env=dict(os.environ, PYTHONPATH=str(ROOT)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, command: str = "") -> dict[str, Any]:
        assert self._process.stdin is not None
        print(command, file=self._process.stdin, flush=True)
        return self.read()

    def read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process ended early"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Latency(NamedTuple):
    """Of calls at the same time, in seconds; medians, unless it says otherwise."""

    attacked: float
    alone: float
    #: of a hundred calls of the attacked peer one or two take longer
    slow: float


class Scene:
    """The attacked peer, one that is left alone, the attackers, and Alice."""

    def __init__(self, victim: Worker, attackers: Worker, alice: Peer, port: int) -> None:
        self._victim = victim
        self._attackers = attackers
        self._alice = alice
        #: where the attacked peer listens
        self.port = port

    def attack(
        self, *kinds: str, count: int, rate: float, sources: list[str], again: bool = False
    ) -> None:
        """See ``hostile_attackers.py``."""
        self._tell(kinds=kinds, count=count, rate=rate, sources=sources, again=again)

    def made(self) -> int:
        """How many connections the attackers have made."""
        return int(self._attackers.ask("{}")["made"])

    def stop(self) -> None:
        """The attackers give up."""
        self._tell(stop=True)
        self.wait_for_connections(1)

    def _tell(self, **command: object) -> None:
        self._attackers.ask(json.dumps(command))

    def look(self, how: str = "") -> dict[str, Any]:
        return self._victim.ask(how)

    def wait_for_connections(self, count: int) -> None:
        """Until the attacked peer has so many."""
        wait_until(
            lambda: self.look()["accepted"] == count, 3 * DEADLINE, what=lambda: str(self.look())
        )

    def resident(self) -> float:
        """In MiB, of the attacked process."""
        return float(self.look("collect")["resident"]) / MIB

    def latency(self) -> Latency:
        """How long calls take."""
        echoes = [self._alice.proxy(name, "echo") for name in ("attacked", "alone")]
        took: tuple[list[float], list[float]] = ([], [])
        for number in range(CALLS):
            for echo, times in zip(echoes, took, strict=True):
                start = time.perf_counter()
                assert echo.echo(number) == number
                times.append(time.perf_counter() - start)
        return Latency(*map(statistics.median, took), statistics.quantiles(took[0], n=100)[98])

    def check_latency(self) -> None:
        """It is at most twice that of a peer that is left alone."""
        seen: list[Latency] = []

        def is_good() -> bool:
            seen.append(self.latency())
            return seen[-1].attacked <= 2 * seen[-1].alone and seen[-1].slow < 0.25

        wait_until(is_good, 2 * DEADLINE, what=lambda: seen)
        print(f"latency: {seen}")

    def cpu(self) -> float:
        """How much of a processor the attacked process takes, over a second."""
        first = self.look()
        assert self._alice.receive(timeout=1.0) is None  # nobody writes to her
        last = self.look()
        return float((last["cpu"] - first["cpu"]) / (last["time"] - first["time"]))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("certificate")
    issued = trustme.CA().issue_cert("localhost")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    return {"key": str(folder / "key.pem"), "certificate": str(folder / "certificate.pem")}


@contextlib.contextmanager
def scene(
    certificate: dict[str, str], count: int, options: dict[str, Any] | None = None
) -> Iterator[Scene]:
    """A stage for so many attackers.

    :param options: more of them for ``hostile_victim.py``
    """
    options = {"limits": {}, **certificate, **(options or {})}
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(open_files(files_for(count)))
        ports = {}
        for name in ("alone", "attacked"):
            victim = Worker("hostile_victim.py", {"name": name, **options})
            cleanup.callback(victim.close)
            ports[name] = victim.read()
        attackers = Worker("hostile_attackers.py", ports["attacked"])
        cleanup.callback(attackers.close)
        addresses = [ports[name]["port"] for name in ports]
        alice = cleanup.enter_context(Peer("alice", connect=addresses))
        for name in ports:
            assert alice.wait_connected(name, DEADLINE)
        stage = Scene(victim, attackers, alice, ports["attacked"]["port"])
        print(f"quiet: {stage.latency()}, {stage.resident():.1f} MiB")
        yield stage


def files_for(count: int) -> int:
    """How many files a process has to be able to open for so many connections.

    Three quarters of them may be connections, half of these of strangers.
    """
    return count * 2


def test_connections_that_stay(certificate: dict[str, str]) -> None:
    """All at the same time, from one address; no limit sends any of them away."""
    count = ATTACKERS
    with scene(certificate, count, {"limits": NO_LIMITS}) as stage:
        before = stage.resident()

        stage.attack("silent", "silent peer", count=count, rate=5000, sources=ONE_ADDRESS)
        stage.wait_for_connections(1 + count)
        wait_until(lambda: stage.look()["peers"] == 1 + count // 2, 3 * DEADLINE, what=stage.look)
        stage.check_latency()
        assert stage.cpu() < 0.02, "2 % of a processor would be a lot"
        silent = stage.resident()
        assert silent - before < 5 + count * 12 / 1024, "12 KiB for each would be a lot"
        stage.stop()

        # From other addresses: one has 28,000 ports to dial from.
        kinds = ("slow", "lying peer", "unfinished identification", "lying peer")
        stage.attack(*kinds, count=count, rate=5000, sources=MANY_ADDRESSES)
        stage.wait_for_connections(1 + count)
        wait_until(lambda: stage.look()["peers"] == 1 + count // 2, 3 * DEADLINE, what=stage.look)
        stage.check_latency()
        lying = stage.resident()
        # What a thousand of them announced is half a TiB.
        assert lying - before < 5 + count * 24 / 1024, "24 KiB for each would be a lot"
        stage.check_latency()
        assert stage.resident() - lying < 2, "it grows all the time"
        stage.stop()

        stage.attack("silent", "silent peer", count=count, rate=5000, sources=ONE_ADDRESS)
        stage.wait_for_connections(1 + count)
        # Those of before may not all be closed yet, and leave memory in pieces. If they
        # stayed it would be 4 KiB for each.
        grown = stage.resident() - max(silent, lying)
        assert grown < 5 + count * 1 / 1024, "it grows with each attack"
        print(f"MiB: {before:.1f} before, {silent:.1f} silent, {lying:.1f} lying")


def test_connections_that_come_again_and_again(certificate: dict[str, str]) -> None:
    """Of all kinds, as fast as they can, and more than there may be strangers."""
    count = ATTACKERS
    more = max(count, 700)  # connections are made before something is measured
    # Four of five from the same one; and as their numbers have no common divisor, of
    # each kind.
    sources = [source for other in MANY_ADDRESSES for source in ONE_ADDRESS * 4 + [other]]
    limits = {"max_unidentified": count // 2, "max_unidentified_per_address": count // 4}
    with scene(certificate, count, {"limits": limits}) as stage:
        rate = max(400, count / 12)
        stage.attack(*STRANGERS, count=count, rate=rate, sources=sources, again=True)
        wait_until(lambda: stage.made() >= more, 2 * DEADLINE + more / 100)
        stage.check_latency()
        before = stage.resident()
        # Somebody who is new here gets in as well.
        with Peer("carol", connect=stage.port) as carol:
            assert carol.wait_connected("attacked", DEADLINE)
            assert carol.proxy("attacked", "echo").echo("hello") == "hello"
        made = stage.made()
        wait_until(lambda: stage.made() >= made + more, 2 * DEADLINE + more / 100)
        stage.check_latency()
        after = stage.look("collect")
        assert after["resident"] / MIB - before < 5, "it grows with each connection"
        assert after["peers"] == 1
        counters = after["counters"]
        print(f"{before:.1f} MiB, {after['resident'] / MIB:.1f} later; {counters}")
        assert counters["packets_too_large"] > 0
        assert counters["tls_meets_plain"] > 0
        # Which of the two depends on how fast this machine is.
        assert counters["strangers_evicted"] + counters["identification_timeouts"] > 0
        stage.stop()
        assert stage.cpu() < 0.02


def test_a_process_that_may_open_few_files(certificate: dict[str, str]) -> None:
    """Less than there may be strangers. The limits are fitted to that."""
    kinds = ("silent", "unfinished identification", "TLS, silent after the greeting")
    with scene(certificate, 600, {"files": 200}) as stage:
        stage.attack(*kinds, count=600, rate=500, sources=MANY_ADDRESSES, again=True)
        wait_until(lambda: stage.made() >= 1200)
        for number in range(3):
            with Peer(f"newcomer {number}", connect=stage.port) as newcomer:
                assert newcomer.wait_connected("attacked", DEADLINE)
        counters = stage.look()["counters"]
        assert counters["strangers_evicted"] > 0
        assert counters["connections_over_limit"] == 0
        assert counters["descriptors_exhausted"] == 0
        print(counters)
        stage.stop()
