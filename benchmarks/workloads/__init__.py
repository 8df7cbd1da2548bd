"""What the peers have to do, and what is measured of it.

The workload ``backlog`` is none of these: it is about this package alone, see
:mod:`benchmarks.backlog`.
"""

from __future__ import annotations

from typing import Final

from benchmarks.workloads.base import Figures, Workload, Wrong
from benchmarks.workloads.durable import Durable
from benchmarks.workloads.huge import Huge
from benchmarks.workloads.idle import Connections, Idle
from benchmarks.workloads.in_memory import Calls, OneWay
from benchmarks.workloads.transient import Transient

__all__ = ["WORKLOADS", "Figures", "Workload", "Wrong"]

WORKLOADS: Final[dict[str, Workload]] = {
    "small": OneWay("one way, 64 bytes", size=64, count=200_000),
    "large": OneWay("one way, 1 MiB", size=1024 * 1024, count=400),
    "tls-small": OneWay("one way, 64 bytes, with TLS", size=64, count=100_000, secured=True),
    "tls-large": OneWay("one way, 1 MiB, with TLS", size=1024 * 1024, count=200, secured=True),
    "huge": Huge("one message", mebibytes=256),
    "rpc": Calls("remote calls, 1 thread", threads=1, count=3_000),
    "rpc16": Calls("remote calls, 16 threads", threads=16, count=16_000),
    "durable": Durable("on disk when accepted, 1 KiB", count=2_000),
    "durable256": Durable("the same, in batches of 256", batch=256, count=25_600),
    "durable16": Durable("the same, from 16 threads", threads=16, count=8_000),
    "connections": Connections("idle connections to one process", count=1000),
    "transient": Transient("100 bytes, queued in memory for one who is away", count=1_000_000),
    "idle": Idle("a pair that is connected and does nothing", seconds=10),
}
