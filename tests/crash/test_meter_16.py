"""The script that measures snakeMQ 1.6: it works, and measures the same here and there."""

from __future__ import annotations

import pytest

from tests.compat.harness import PythonEnv
from tests.crash.meter_16 import SETUPS, Row, measure, show
from tests.crash.rounds import CUTS
from tests.helpers import DEADLINE


@pytest.mark.slow
def test_on_the_real_one(snakemq16_env: PythonEnv) -> None:
    # No cuts here: at each there is a chance that it hangs.
    row = measure(snakemq16_env, SETUPS["sender killed"], 2, seed=1)
    assert row.rounds == 2
    assert row.accepted > 0
    assert row.lost <= row.accepted


@pytest.mark.slow
def test_on_this_one(this_env: PythonEnv) -> None:
    # A machine may have other things to do for three seconds.
    row = measure(this_env, CUTS, 3, seed=1, patience=DEADLINE)
    assert row == Row(rounds=3, accepted=row.accepted)
    assert row.accepted > 0


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    show({"connection cut": Row(3, 1000, 2), "in all": Row(3, 1000, 2) + Row(lost=5, hung=1)})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["rounds", "accepted", "lost", "duplicated", "repeated", "reordered", "hung"],
        ["connection", "cut", "3", "1,000", "2", "0", "0", "0", "0"],
        ["in", "all", "3", "1,000", "7", "0", "0", "0", "1"],
    ]
    assert len({len(line) for line in lines}) == 1
