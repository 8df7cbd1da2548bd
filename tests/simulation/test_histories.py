"""Random histories of whole stacks with faults.

2,000 of them by default; the environment variable ``SNAKEMQ_SIM_SEEDS`` asks
for another number, or for a range like ``5000-6000``. A failing history prints
the line that runs it alone.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from snakemq.queues import Queue
from snakemq.testing import SimLink
from snakemq.throttle import Throttle
from tests.simulation.history import History

DEFAULT_COUNT = 2000

#: Seeds per test. Enough tests that they can be spread over processes, few
#: enough that the report stays short.
CHUNK = 100

#: Seeds of histories that once went wrong, and what it was.
REGRESSION_SEEDS = {
    6: "a rounding error made the timer for expired messages call itself for ever",
    12: "what the system had taken of a broken send was sent again",
    53: "a queue was forgotten twice, the second time in place of its successor",
    2046: "a slow packet was no sign of life, so it was cut off and begun again for ever",
    10035: "a message sent when another was reported as dropped got lost",
    11488: "likewise",
}

ROOT = Path(__file__).resolve().parent.parent.parent


def wanted_seeds() -> range:
    wanted = os.environ.get("SNAKEMQ_SIM_SEEDS", str(DEFAULT_COUNT))
    first, dash, last = wanted.partition("-")
    return range(int(first), int(last)) if dash else range(int(first))


def chunks() -> list[range]:
    seeds = wanted_seeds()
    return [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Histories misbehave on purpose, and log that."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def problems_of(seed: int) -> list[str]:
    try:
        return History(seed).run()
    except Exception as exc:
        return [f"{type(exc).__name__}: {exc}"]


def report(seed: int, problems: list[str]) -> str:
    return (
        f"seed {seed}: {problems[0]}\n"
        f"    to see it: SNAKEMQ_SIM_SEEDS={seed}-{seed + 1} "
        f"python -m pytest {Path(__file__).relative_to(ROOT).as_posix()} -k many\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("seeds", chunks(), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_many_histories(seeds: range) -> None:
    failures = {seed: problems for seed in seeds if (problems := problems_of(seed))}
    assert not failures, "\n" + "".join(
        report(seed, problems) for seed, problems in failures.items()
    )


@pytest.mark.parametrize("seed", REGRESSION_SEEDS)
def test_what_once_went_wrong(seed: int) -> None:
    assert problems_of(seed) == []


def test_the_histories_are_worth_it() -> None:
    """They contain what they are made for; else a green run would mean nothing."""
    seen = dict.fromkeys(
        ("received", "crash", "restart", "disconnected", "lost", "dropped", "faultless"), 0
    )
    for seed in range(60):
        history = History(seed)
        history.run()
        for _, event, *_ in history.trace:
            if event in seen:
                seen[str(event)] += 1
        sent = [sent for way in history.ways.values() for sent in way.sent]
        seen["dropped"] += sum(one.reported_dropped for one in sent)
        seen["lost"] += sum(not one.delivered and one.reported_sent > 0 for one in sent)
        seen["faultless"] += history.kind == "calm"
    assert min(seen.values()) > 0
    assert seen["received"] > 60 * 10
    assert seen["faultless"] < 20


class TestTheSame:
    SEEDS = (3, 7, 53, 11488)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_one_seed_is_one_history(self, seed: int) -> None:
        first, second = History(seed), History(seed)
        assert first.run() == second.run()
        assert first.trace == second.trace
        assert len(first.trace) > 20

    def test_also_in_another_process_with_other_hashes(self) -> None:
        """Nothing depends on the order of a set of strings."""
        digests = set()
        for hash_seed in ("1", "2"):
            environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
            digests.add(
                subprocess.run(
                    [sys.executable, "-c", DIGEST, *map(str, self.SEEDS)],
                    cwd=ROOT,
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=True,
                    timeout=60,
                ).stdout
            )
        assert len(digests) == 1
        assert len(digests.pop()) > 20


DIGEST = """
import logging, sys, zlib
from tests.simulation.history import History
logging.disable(logging.CRITICAL)
for seed in map(int, sys.argv[1:]):
    history = History(seed)
    history.run()
    print(seed, zlib.crc32(repr(history.trace).encode()))
"""


class TestTheHistoriesFindFaults:
    """Invariants that a broken stack satisfies would be none."""

    @staticmethod
    def found(seeds: range = range(600)) -> str:
        for seed in seeds:
            problems = problems_of(seed)
            if problems:
                return problems[0]
        return ""

    def test_messages_out_of_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        take = Queue.take

        def reversed_take(self: Queue, max_count: int, max_bytes: int) -> object:
            return list(reversed(take(self, max_count, max_bytes)))

        monkeypatch.setattr(Queue, "take", reversed_take)
        assert "came after" in self.found()

    def test_messages_that_come_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(SimLink, "unreported", lambda self, conn_id: 0)
        assert self.found()

    def test_messages_that_get_lost_on_disconnect(self, monkeypatch: pytest.MonkeyPatch) -> None:
        disconnect = Queue.disconnect

        def forgetful_disconnect(self: Queue) -> None:
            self._in_flight.clear()
            disconnect(self)

        monkeypatch.setattr(Queue, "disconnect", forgetful_disconnect)
        assert "vanished without a trace" in self.found()

    def test_connections_that_stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def forget_nothing(self: Throttle, conn_id: str) -> None:
            self.on_disconnect(conn_id)

        monkeypatch.setattr(Throttle, "_handle_disconnect", forget_nothing)
        assert self.found()
