"""What a backlog costs: persistent messages for a peer that is not there.

For each size, in turn: a process queues so many messages; another one opens
what the first has left, and sends it to a third one, which it is told where to
find when it is open. Everything is verified: how many were queued, what
arrived, in which order, and that nothing is left in the end.

* :mod:`benchmarks.backlog.sides`: the three processes.
* :mod:`benchmarks.backlog.runner`: all runs, interleaved round by round.
* :mod:`benchmarks.backlog.report`: medians, how they depend on the size.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BATCH", "SIZE"]

#: Bytes of a message, and messages that are queued with one commit.
SIZE: Final = 100
BATCH: Final = 256
