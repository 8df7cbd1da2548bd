"""How the sides of a run talk to the runner: a line of JSON for each step."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import Any, TypeAlias

__all__ = ["Channel", "Facts"]

Facts: TypeAlias = dict[str, Any]


class Channel:
    """To the runner, in the process of a side.

    The process ends when the runner is gone, also in the middle of a step that
    would never come to its end without the other side.
    """

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self._lines.put(line)
        os._exit(1)

    def tell(self, step: str, **facts: Any) -> None:
        """This step is done."""
        print(json.dumps({**facts, "step": step}), flush=True)

    def hear(self, step: str) -> Facts:
        """Wait until this step is to be done."""
        facts: Facts = json.loads(self._lines.get())
        if facts["step"] != step:
            sys.exit(f"this side waits for {step!r} and is told {facts['step']!r}")
        return facts
