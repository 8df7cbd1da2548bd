"""Identifiers of requests."""

from __future__ import annotations

import itertools
import os

__all__ = ["new_request_id"]


class _RequestIds:
    """16 bytes: 8 random ones of this process, then a counter.

    Nobody relies on them being hard to guess: a reply counts only if it comes
    from the peer that was asked.
    """

    def __init__(self) -> None:
        self.reseed()

    def reseed(self) -> None:
        self._prefix = os.urandom(8)
        self._next = itertools.count(1).__next__

    def __call__(self) -> bytes:
        return self._prefix + self._next().to_bytes(8, "big")


#: A new identifier, from any thread.
new_request_id = _RequestIds()

if hasattr(os, "register_at_fork"):
    # A child would go on with its parent's identifiers.
    os.register_at_fork(after_in_child=new_request_id.reseed)
