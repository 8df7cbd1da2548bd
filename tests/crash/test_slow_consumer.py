"""A consumer that is slower than its producer: the memory of both stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.compat.harness import PythonEnv
from tests.crash.processes import Worker
from tests.helpers import wait_until

#: How many batches there are; the first ones let all buffers become as large as they get.
WARM_UP = 3
BATCHES = 8

#: By how much a process may be larger in the end, in bytes, beside what the queue
#: holds: at each look some of that is with the one or with the other.
GROWTH = 3_000_000


def memory(worker: Worker) -> int:
    """How much it uses, in bytes."""
    try:
        lines = Path(f"/proc/{worker.pid}/status").read_text().splitlines()
    except FileNotFoundError:
        pytest.skip("the memory of another process can't be told here")
    (size,) = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(size) * 1024


def queued(producer: Worker) -> int:
    producer.tell("report")
    return int(producer.hear("queued"))


SLOW_CALLBACK = {"how": "callback"}
SLOW_READER = {"how": "receive", "keywords": {"inbox_limit": 1_000_000}}
SLOW_DURABLE_READER = {
    "how": "receive",
    "keywords": {"inbox_limit": 1_000_000, "durable_receive": True},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "storage", "batch", "size"),
    [
        pytest.param(SLOW_CALLBACK, False, 3000, 4000, id="in its callback"),
        pytest.param(SLOW_READER, False, 3000, 4000, id="between two calls of receive"),
        pytest.param(SLOW_CALLBACK, True, 100, 50_000, id="in its callback, from a storage"),
        pytest.param(SLOW_DURABLE_READER, True, 100, 50_000, id="receiving durably"),
    ],
)
def test_memory_is_flat(
    options: dict[str, Any],
    storage: bool,
    batch: int,
    size: int,
    this_env: PythonEnv,
    tmp_path: Path,
) -> None:
    workers: list[Worker] = []

    def start(program: str, **more: object) -> Worker:
        stderr = tmp_path / f"{program}.stderr"
        workers.append(Worker(this_env, program, {"ident": program, **more}, stderr))
        return workers[-1]

    try:
        consumer = start(
            "consumer.py", **options, storage=str(tmp_path / "inbox.db") if storage else None
        )
        producer = start(
            "producer.py",
            connect=consumer.hear("ready"),
            to="consumer.py",
            size=size,
            limit=batch,
            storage=str(tmp_path / "queues.db") if storage else None,
        )
        producer.hear("ready")
        sizes = []
        for count in range(1, BATCHES + 1):
            consumer.tell("permit", count=batch)
            assert consumer.hear("taken") == [count * batch, True]
            # Now the one waits, and the other one can't get rid of anything.
            wait_until(lambda: queued(producer) == batch, what="the queue is full")
            sizes.append((memory(consumer), memory(producer)))
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    room = batch * size + GROWTH
    assert room < (BATCHES - WARM_UP) * batch * size / 3, "what passed is a lot more"
    before, after = sizes[WARM_UP - 1], sizes[-1]
    assert after[0] - before[0] < room, f"the consumer: {sizes}"
    assert after[1] - before[1] < room, f"the producer: {sizes}"
