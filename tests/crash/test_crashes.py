"""Cut connections and killed processes: nothing is lost, nothing comes twice, the order is kept.

A few rounds of each by default; the environment variable
``SNAKEMQ_CRASH_ROUNDS`` asks for so many in all.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from tests.compat.harness import PythonEnv
from tests.crash.rounds import CUTS, KILLS, Fault, Run, Setup

#: How many rounds there are in one test at most: enough to have one fault meet the
#: consequences of another, few enough for its time limit.
ROUNDS_PER_RUN = 25

SENDER = (Fault.KILL_SENDER, Fault.SENDER_DIES)
RECEIVER = (Fault.KILL_RECEIVER, Fault.RECEIVER_DIES)

SETUPS = {
    "connection cut": Setup(CUTS),
    "sender killed": Setup(SENDER),
    "receiver killed": Setup(RECEIVER),
    "both killed": Setup((Fault.KILL_BOTH,)),
    "all of it": Setup(CUTS * 5 + KILLS),
    "all of it, with 1.6's classes": Setup(CUTS * 5 + KILLS, api="layers"),
    "not persistent, connection cut": Setup(CUTS, persistent=False, receiver_storage=False),
    "not persistent, receiver killed": Setup(CUTS * 3 + RECEIVER, persistent=False),
    "receiver without a storage": Setup(CUTS * 5 + KILLS, receiver_storage=False),
}

#: In all, by default.
ROUNDS = 5 * len(SETUPS)


def runs() -> list[object]:
    """Setup, rounds and seed of each run."""
    wanted = int(os.environ.get("SNAKEMQ_CRASH_ROUNDS", ROUNDS))
    share = math.ceil(wanted / len(SETUPS))
    parameters = []
    for name, setup in SETUPS.items():
        for seed, first in enumerate(range(0, share, ROUNDS_PER_RUN)):
            rounds = min(ROUNDS_PER_RUN, share - first)
            parameters.append(pytest.param(setup, rounds, seed, id=f"{name}-{seed}"))
    return parameters


@pytest.mark.slow
@pytest.mark.parametrize(("setup", "rounds", "seed"), runs())
def test_nothing_is_lost_or_comes_twice_or_too_late(
    setup: Setup, rounds: int, seed: int, this_env: PythonEnv, tmp_path: Path
) -> None:
    with Run(tmp_path, setup, this_env, seed) as run:
        for _ in range(rounds):
            run.round()
        findings = run.finish()
    assert findings.problems() == []
    assert run.left_in_storage() == 0
    for role in (run.sender, run.receiver):
        assert "Traceback" not in role.worker.complaints()
    print(findings)
