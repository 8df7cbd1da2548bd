"""Pairs of connected peers for the tests of Peer."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

from snakemq import Peer
from tests.helpers import DEADLINE, wait_until

__all__ = ["Recorder", "connected_pair"]


class Recorder(list[Any]):
    """A callback that remembers its arguments."""

    def __call__(self, *args: Any) -> None:
        self.append(args[0] if len(args) == 1 else args)

    def wait(self, count: int = 1) -> list[Any]:
        """What it was called with, at least ``count`` times."""
        wait_until(lambda: len(self) >= count, what=lambda: f"{count} calls, not {self}")
        return list(self)


@contextlib.contextmanager
def connected_pair(
    bob: dict[str, Any] | None = None, alice: dict[str, Any] | None = None
) -> Generator[tuple[Peer, Peer]]:
    """Bob, who listens, and alice, who dials; each started with more arguments."""
    with (
        Peer("bob", listen=0, **(bob or {})) as one,
        Peer("alice", connect=one.addresses[0], **(alice or {})) as other,
    ):
        assert one.wait_connected("alice", DEADLINE)
        assert other.wait_connected("bob", DEADLINE)
        yield one, other
