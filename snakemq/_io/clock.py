"""The clock of everything that is not handed another one."""

from __future__ import annotations

import time

__all__ = ["monotonic"]

#: Seconds on a clock that only goes forward.
monotonic = time.monotonic
