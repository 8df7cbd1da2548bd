"""Identifiers of requests."""

from __future__ import annotations

from snakemq.message import UniqueIds

__all__ = ["new_request_id"]

_ids = UniqueIds()


def new_request_id() -> bytes:
    """A new identifier of 16 bytes. Thread-safe.

    Nobody relies on it being hard to guess: a reply counts only if it comes
    from the peer that was asked.
    """
    return _ids.next()
