"""How a worker is told what to do, and tells what it did: JSON lines on its standard streams."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Control", "die"]


def die() -> None:
    """Kill this process, without a chance to clean up."""
    os.kill(os.getpid(), 9)


class Control:
    """The commands that come on standard input.

    When that ends, whoever started this process is gone, and so is this process.

    :ivar options: the first argument of the program
    :ivar changed: set when a command came; others may set it, too
    """

    def __init__(self) -> None:
        self.options: dict[str, Any] = json.loads(sys.argv[1])
        self.changed = threading.Event()
        self._commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._at_once: dict[str, Callable[..., None]] = {}

    def at_once(self, command: str, func: Callable[..., None]) -> None:
        """Call ``func`` for this command in a thread of its own, when it comes."""
        self._at_once[command] = func

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> dict[str, Any] | None:
        """The oldest command that has come, if any."""
        try:
            return self._commands.get_nowait()
        except queue.Empty:
            return None

    @staticmethod
    def say(**fields: Any) -> None:
        """Print one line."""
        sys.stdout.write(json.dumps(fields) + "\n")
        sys.stdout.flush()

    def _read(self) -> None:
        # Not sys.stdin: at its end the interpreter waits for its lock.
        pending = b""
        while data := os.read(0, 4096):
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                command = json.loads(line)
                handler = self._at_once.get(command.pop("do"))
                if handler is None:
                    self._commands.put(json.loads(line))
                    self.changed.set()
                else:
                    handler(**command)
        os._exit(3)
