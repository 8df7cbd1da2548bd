"""Identifiers of requests."""

from __future__ import annotations

from typing import Final

from snakemq.message import UniqueIds

__all__ = ["request_ids"]

#: They are not hard to guess, and nobody relies on that: a reply counts only if it comes
#: from the peer that was asked.
request_ids: Final = UniqueIds()
