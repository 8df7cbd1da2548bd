"""Whether the caller stands in a callback of the loop."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Final

__all__ = ["is_inside_loop"]

#: The loop runs in one of these modules and calls everything through it or the
#: other; nothing else that leads to a remote call does.
_LOOP: Final = frozenset({"snakemq.callbacks", "snakemq.link"})


def is_inside_loop() -> bool:
    """Whether this thread is inside a callback: then the loop waits for it.

    Reads the stack. Which thread ran the loop last does not tell: it may have
    left the loop since, and another thread may run it now.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") in _LOOP:
            return True
        frame = frame.f_back
    return False
