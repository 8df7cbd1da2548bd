"""The program whose system calls :mod:`tests.work.system_call_paths` counts. Linux only.

It does one thing after the other, and each time from rest. What it writes to
``/dev/null`` tells whoever traces it where it is, and which thread is which.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from snakemq import Peer
from tests.helpers import wait_until

DEADLINE = 60.0
TIMES = 9
SMALL = bytes(64)
KIBIBYTE = bytes(1024)


class Marks:
    """What the tracing process reads."""

    def __init__(self) -> None:
        self._null = os.open(os.devnull, os.O_WRONLY)

    def write(self, what: str) -> None:
        """Where the program is now."""
        threads = {str(thread.native_id): thread.name for thread in threading.enumerate()}
        os.write(self._null, f"MARK {what} {json.dumps(threads)}".encode())

    def measure(self, name: str, func: Callable[[], object], wait: Callable[[], object]) -> None:
        """Do something from rest, and let all come to rest again."""
        for _ in range(TIMES):
            rest()
            self.write(f"begin {name}:")
            func()
            self.write(f"return {name}:")
            wait()
            rest()
            self.write(f"end {name}:")


def rest() -> None:
    """Wait until all other threads sleep, as the system sees them, and go on sleeping."""
    quiet = 0

    def is_quiet() -> bool:
        nonlocal quiet
        quiet = quiet + 1 if all(map(sleeps, os.listdir("/proc/self/task"))) else 0
        return quiet == 3

    wait_until(is_quiet)


def sleeps(task: str) -> bool:
    """Whether a thread does, or is gone, or is the calling one."""
    if task == str(threading.get_native_id()):
        return True
    try:
        return "\nState:\tS" in Path(f"/proc/self/task/{task}/status").read_text("ascii")
    except (FileNotFoundError, ProcessLookupError):
        return True


class Served:
    def echo(self, data: bytes) -> bytes:
        return data


def main(directory: Path) -> None:
    marks = Marks()
    received: list[object] = []
    with (
        Peer("bob", listen=0, on_message=received.append, serve={"served": Served()}) as bob,
        Peer("alice", connect=bob.addresses[0], storage=directory / "alice.db") as alice,
    ):
        assert alice.wait_connected("bob", DEADLINE)
        echo = alice.proxy("bob", "served").echo
        echo(SMALL)

        def is_settled() -> None:
            wait_until(lambda: not alice.queued())

        marks.measure("one call", lambda: echo(SMALL), is_settled)
        marks.measure("one message", lambda: alice.send("bob", SMALL, persistent=False), is_settled)
        marks.measure("durable", lambda: alice.send("bob", KIBIBYTE), is_settled)
        batch = [("bob", KIBIBYTE)] * 256
        marks.measure("durable, a batch", lambda: alice.send_messages(batch), is_settled)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
