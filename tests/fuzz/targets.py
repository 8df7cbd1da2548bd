"""All targets, by their names."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

from tests.fuzz import call_targets, data_targets, stack_targets, wire_targets

__all__ = ["TARGETS", "Target"]


@dataclass(frozen=True)
class Target:
    """Something that reads what comes from others.

    :ivar run: a function of bytes that raises if something is wrong with what is done with
        them
    :ivar base: how much memory it may take for nothing, in bytes
    :ivar per_byte: and how much more for each byte
    :ivar max_size: what larger inputs would show, smaller ones do
    """

    run: Callable[[bytes], None]
    base: int = 64 * 1024
    per_byte: int = 256
    max_size: int = 4096

    def measure(self, data: bytes) -> None:
        """The same, with a look at how much memory it takes at a time.

        :raises AssertionError: it is more than the size of the data justifies
        """
        tracemalloc.start()
        try:
            self.run(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        allowed = self.base + self.per_byte * len(data)
        assert peak <= allowed, f"{len(data)} bytes take {peak} bytes of memory; {allowed} may be"


#: A simulated network with three stacks takes more than what they read.
_STACK_BASE = 1024 * 1024

TARGETS: dict[str, Target] = {
    "packets": Target(wire_targets.packets),
    "frames": Target(wire_targets.frames),
    "features": Target(wire_targets.features, max_size=5000),
    "session": Target(wire_targets.session),
    "connection": Target(stack_targets.connection, _STACK_BASE, 1024, max_size=1024),
    "conversation": Target(stack_targets.conversation, _STACK_BASE, 4096, max_size=1024),
    "guarded": Target(stack_targets.guarded, _STACK_BASE, 4096, max_size=1024),
    "proofs": Target(wire_targets.proofs),
    "pickles": Target(data_targets.pickles, per_byte=1024),
    "json": Target(data_targets.json_data, per_byte=1024),
    "records": Target(data_targets.records, per_byte=1024),
    "peeks": Target(data_targets.peeks),
    "parts": Target(data_targets.parts),
    "calls": Target(call_targets.calls, _STACK_BASE, 4096, max_size=512),
    "log_text": Target(wire_targets.log_text),
}
