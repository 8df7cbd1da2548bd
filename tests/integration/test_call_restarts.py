"""A server that is ended by SIGTERM again and again, while others call it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO

import pytest

from snakemq import Peer
from tests.helpers import DEADLINE, wait_until
from tests.integration.command_line import environment

THREADS = 4
CALLS = 60
RESTARTS = 4

SERVER = f"""
import os
import signal
import sys
import threading
from snakemq import Peer

port, directory = int(sys.argv[1]), sys.argv[2]
effects = os.open(os.path.join(directory, "effects"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
bob = Peer("bob", connect=port, storage=os.path.join(directory, "bob.db"), durable_calls=True,
           reconnect_interval=0.05)

@bob.function
def work(number):
    threading.Event().wait(0.002)
    os.write(effects, f"{{number}}\\n".encode())
    return number

signal.signal(signal.SIGTERM, lambda signum, frame: bob.stop(drain={DEADLINE}))
print("ready", flush=True)
bob.run_forever()
print("ended", flush=True)
"""


def start(port: int, directory: Path, output: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SERVER, str(port), str(directory)],
        stdout=subprocess.PIPE,
        stderr=output,
        env=environment(),
        text=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends signals")
def test_no_call_is_lost_or_executed_twice(tmp_path: Path) -> None:
    effects = tmp_path / "effects"

    def executed() -> list[str]:
        return effects.read_text().split() if effects.exists() else []

    def has_executed(count: int) -> bool:
        return len(executed()) >= count

    def call_all(thread: int) -> list[int]:
        numbers = range(thread * CALLS, (thread + 1) * CALLS)
        return [work(number) for number in numbers]

    with (
        open(tmp_path / "errors", "w+") as errors,
        Peer("alice", listen=0) as alice,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        work = alice.proxy("bob").work
        calling = [pool.submit(call_all, thread) for thread in range(THREADS)]
        for turn in range(RESTARTS + 1):
            with start(alice.addresses[0][1], tmp_path, errors) as bob:
                try:
                    assert bob.stdout is not None
                    assert bob.stdout.readline() == "ready\n"
                    if turn == RESTARTS:
                        results = [future.result(DEADLINE) for future in calling]
                    else:
                        some = partial(has_executed, len(executed()) + 10)
                        wait_until(some, what=f"more calls in turn {turn}")
                    bob.terminate()
                    assert bob.wait(DEADLINE) == 0
                    assert bob.stdout.read() == "ended\n"
                except BaseException:
                    # Else the threads would wait for the next one.
                    alice.stop(drain=0)
                    raise
                finally:
                    bob.kill()
        errors.seek(0)
        assert errors.read() == ""
    assert list(chain(*results)) == list(range(THREADS * CALLS))
    assert Counter(executed()) == {str(number): 1 for number in range(THREADS * CALLS)}
