"""How the sides of a run talk to the runner: a line of JSON for each step."""

from __future__ import annotations

import json
import sys
from typing import Any, TypeAlias

__all__ = ["Channel", "Facts"]

Facts: TypeAlias = dict[str, Any]


class Channel:
    """To the runner, in the process of a side."""

    def tell(self, step: str, **facts: Any) -> None:
        """This step is done."""
        print(json.dumps({**facts, "step": step}), flush=True)

    def hear(self, step: str) -> Facts:
        """Wait until this step is to be done."""
        line = sys.stdin.readline()
        if not line:
            sys.exit("the runner is gone")
        facts: Facts = json.loads(line)
        if facts["step"] != step:
            sys.exit(f"this side waits for {step!r} and is told {facts['step']!r}")
        return facts
