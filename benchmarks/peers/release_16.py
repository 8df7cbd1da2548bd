"""The real snakeMQ 1.6, driven as it is fastest.

It sends one message a pass of its loop, and taking one out of its queue costs
the more the longer the queue is. So the sender fills the queue and stays away
until it is nearly empty: it is short then, and the loop has the interpreter
for itself. (With no limit, 150,000 messages go at half the speed of 50,000.)
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.peers import layers
from benchmarks.peers.layers import caller, receive, serve, version

__all__ = ["caller", "connect", "receive", "serve", "version"]

# This module in a process with another snakemq would measure that.
if version() != "1.6":
    raise ImportError(f"this is snakemq {version()}, not 1.6")

#: How many messages may wait, and how few have to wait before there are more.
_FULL = 4000
_NEARLY_EMPTY = 400

#: Seconds between two looks at the queue: a tenth of what emptying it takes.
_PAUSE = 0.005


class Sender(layers.Sender):
    """Lets the queue grow to a certain length only."""

    def __init__(self, address: Any) -> None:
        super().__init__(address)
        self._queue = self.stack.messaging.queues_manager.get_queue(layers.LISTENER)

    def send(self, data: bytes) -> None:
        if len(self._queue) >= _FULL:
            while len(self._queue) > _NEARLY_EMPTY:
                time.sleep(_PAUSE)
        super().send(data)


def connect(address: Any) -> Sender:
    return Sender(address)
