"""Puts into a storage what another one has received."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from snakemq.message import Message
from snakemq.storage import QueuesStorageBase

__all__ = ["add_inbox", "add_memory"]

#: How many identifiers of a peer stay: all. The program that has the storage
#: next keeps as many as it wants.
_KEEP: Final = 1 << 24


def add_inbox(storage: QueuesStorageBase, peer: str, items: Sequence[tuple[Message, int]]) -> None:
    """Append messages of one peer to the inbox, as one change.

    :param items: each with the number of its attempts so far
    """
    numbers = storage.push_inbox(peer, [message for message, _ in items], keep=_KEEP)
    for number, (_, attempts) in zip(numbers, items, strict=True):
        for _attempt in range(attempts):
            storage.advance_inbox(None, number)


def add_memory(storage: QueuesStorageBase, peer: str, uuids: Sequence[bytes]) -> int:
    """Remember what was received from a peer, and is not remembered yet.

    :returns: how many
    """
    known = set(storage.load_received(peer))
    new = [uuid for uuid in uuids if uuid not in known]
    if new:
        storage.add_received(peer, new, keep=_KEEP, sync=False)
    return len(new)
