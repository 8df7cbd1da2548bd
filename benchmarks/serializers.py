"""What it costs to read and write calls safely, beside pickle, which does what it reads.

    python3 benchmarks/serializers.py
    python3 benchmarks/serializers.py --rounds 30 --json results.json

Both do the same in turn, so that a busy machine is busy for both; of each the best
round counts. It is written by pickle either way, so that costs the same. JSON is
there for those who have to choose.
"""

from __future__ import annotations

import argparse
import datetime
import json
import pickle
import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from snakemq._core.rpc_records import call_record, error_record, value_record
from snakemq.rpc import JSON, SAFE_PICKLE

REQ_ID = bytes(range(16))

#: How long one round of one of them takes, in seconds.
ROUND = 0.02


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": number, "name": f"name {number}", "v": number * 1.5} for number in range(count)]


#: What is measured: the first two are an ordinary call and its reply.
RECORDS: dict[str, dict[str, Any]] = {
    "call": call_record(
        "thermometer", "read", ("kitchen", 5), {"unit": "C"}, REQ_ID, timeout=5.0, window=64
    ),
    "reply": value_record(REQ_ID, {"value": 21.5, "unit": "C"}),
    "reply, 10 rows": value_record(REQ_ID, rows(10)),
    "reply, a date": value_record(REQ_ID, datetime.datetime(2024, 2, 29, 12, 30)),
    "reply, an exception": error_record(REQ_ID, ValueError("no"), "a line of a traceback\n" * 20),
    "reply, 1000 rows": value_record(REQ_ID, rows(1000)),
}


class Cost(NamedTuple):
    """Of one record, in microseconds; of JSON ``None`` where it can't write it."""

    size: int
    read: float
    pickle_read: float
    json_read: float | None
    write: float
    pickle_write: float

    @property
    def more(self) -> float:
        """What reading it safely costs more than pickle."""
        return self.read - self.pickle_read

    @property
    def ratio(self) -> float:
        return self.read / self.pickle_read


def best(functions: list[Callable[[], object]], rounds: int) -> list[float]:
    """The shortest time of each, in microseconds, in turn."""
    timers = [timeit.Timer(function) for function in functions]
    counts = [max(1, int(ROUND / max(1e-7, timer.timeit(3) / 3))) for timer in timers]
    shortest = [float("inf")] * len(timers)
    for _ in range(rounds):
        for index, (timer, count) in enumerate(zip(timers, counts, strict=True)):
            shortest[index] = min(shortest[index], timer.timeit(count) / count * 1e6)
    return shortest


def measure(record: dict[str, Any], rounds: int) -> Cost:
    """Read and write one record, again and again."""
    data = SAFE_PICKLE.dumps(record)
    if repr(SAFE_PICKLE.loads(data)) != repr(record):
        raise ValueError(f"something else is read than was written: {record!r}")
    functions: list[Callable[[], object]] = [
        lambda: SAFE_PICKLE.loads(data),
        lambda: pickle.loads(data),
        lambda: SAFE_PICKLE.dumps(record),
        lambda: pickle.dumps(record, 4),
    ]
    try:
        text = JSON.dumps(record)
    except Exception as exc:
        print(f"not as JSON: {exc}", file=sys.stderr)
        text = None
    if text is not None:
        functions.append(lambda: JSON.loads(text))
    read, pickle_read, write, pickle_write, *more = best(functions, rounds)
    return Cost(len(data), read, pickle_read, more[0] if more else None, write, pickle_write)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What it costs to read calls safely.")
    parser.add_argument("--rounds", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    costs = {name: measure(record, options.rounds) for name, record in RECORDS.items()}
    print(f"{'microseconds':22}{'bytes':>7}{'read':>10}{'pickle':>10}{'more':>10}{'ratio':>7}"
          f"{'JSON':>10}{'write':>10}{'pickle':>10}")  # fmt: skip
    for name, cost in costs.items():
        as_json = "-" if cost.json_read is None else f"{cost.json_read:.2f}"
        print(
            f"{name:22}{cost.size:7}{cost.read:10.2f}{cost.pickle_read:10.2f}{cost.more:10.2f}"
            f"{cost.ratio:7.1f}{as_json:>10}{cost.write:10.2f}{cost.pickle_write:10.2f}"
        )
    if options.json:
        figures = {
            name: {**cost._asdict(), "more": cost.more, "ratio": cost.ratio}
            for name, cost in costs.items()
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
