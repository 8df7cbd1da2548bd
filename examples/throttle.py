"""A peer that leaves room on the line for others.

Prints::

    100000 bytes arrived, slower than 110000 bytes per second
"""

from __future__ import annotations

import time

from snakemq import Peer

RATE = 100_000  # bytes per second, on each connection

with (
    Peer("bob", listen=0) as bob,
    Peer("alice", connect=bob.addresses, throttle=RATE) as alice,
):
    alice.wait_connected("bob")
    began = time.monotonic()
    for _ in range(10):
        alice.send("bob", bytes(RATE // 10))
    size = sum(len(bob.receive().data) for _ in range(10))
    measured = size / (time.monotonic() - began)
    slower = "slower" if measured < 1.1 * RATE else "faster"
    print(f"{size} bytes arrived, {slower} than {1.1 * RATE:.0f} bytes per second")
