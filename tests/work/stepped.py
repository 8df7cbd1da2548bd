"""Two peers that move only when they are told to, so that the same work is done each time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any

from benchmarks.counting import Meter
from snakemq import Peer
from tests.helpers import wait_until

__all__ = ["Stepped", "step_until", "stepped_pair"]


class Stepped:
    """A peer whose loop the test steps.

    :ivar meter: what its loop does
    """

    def __init__(self, name: str, **options: Any) -> None:
        self.peer = Peer(name, **options)
        self.meter = Meter()

    def step(self) -> None:
        """One pass of its loop, without waiting."""
        with self.meter:
            self.peer.link.step(0)


@contextlib.contextmanager
def stepped_pair(
    alice: dict[str, Any] | None = None, bob: dict[str, Any] | None = None
) -> Generator[tuple[Stepped, Stepped]]:
    """Alice and bob, who know each other; what their loops do is counted from here."""
    with contextlib.ExitStack() as stack:
        listening = Stepped("bob", listen=0, **(bob or {}))
        stack.callback(listening.peer.stop, drain=0)
        dialling = Stepped("alice", connect=listening.peer.addresses[0], **(alice or {}))
        stack.callback(dialling.peer.stop, drain=0)
        step_until(
            lambda: dialling.peer.is_connected("bob") and listening.peer.is_connected("alice"),
            dialling,
            listening,
        )
        # What else they have to tell each other.
        for _ in range(20):
            dialling.step()
            listening.step()
        for one in (dialling, listening):
            one.meter = Meter()
        yield dialling, listening


def step_until(condition: Callable[[], object], *stepped: Stepped) -> None:
    """Step them in turn until a condition holds."""

    def step() -> object:
        for _ in range(20):
            for one in stepped:
                one.step()
            if condition():
                return True
        return False

    wait_until(step)
