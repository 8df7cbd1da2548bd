"""The identifiers of received messages, as they are kept in tables.

Those of an addition are in one value, so that a batch of messages costs hardly
more than a single one: 17 bytes each, which are the identifier, padded with
NULs to 16, and its length.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Generic, TypeVar

from snakemq.message import MAX_UUID_LENGTH
from snakemq.storage._common import check_keep, check_uuids

__all__ = ["PACKED_SIZE", "Addition", "pack", "unpack"]

#: What an identifier takes, in bytes.
PACKED_SIZE: Final = MAX_UUID_LENGTH + 1

_LENGTHS: Final = [bytes((length,)) for length in range(PACKED_SIZE)]


#: How a peer is named in the table.
_Name = TypeVar("_Name", str, bytes)


class Addition(Generic[_Name]):
    """Some identifiers of one peer that are to be added.

    :param ident: the peer
    :param uuids: the identifiers
    :param keep: how many of this peer to remember
    :raises ValueError: one of them, or ``keep``, is not valid
    """

    def __init__(self, ident: _Name, uuids: Iterable[bytes], keep: int) -> None:
        check_keep(keep)
        self.ident: _Name = ident
        self.uuids = check_uuids(uuids)[-keep:]
        self.keep = keep


def pack(uuids: Iterable[bytes]) -> bytes:
    """Identifiers as one value."""
    return b"".join([uuid.ljust(MAX_UUID_LENGTH, b"\0") + _LENGTHS[len(uuid)] for uuid in uuids])


def unpack(values: Iterable[bytes]) -> list[bytes]:
    """The identifiers in some values, in their order."""
    found = []
    for value in values:
        packed = bytes(value)  # some drivers give something else
        for start in range(0, len(packed), PACKED_SIZE):
            length = packed[start + MAX_UUID_LENGTH]
            found.append(packed[start : start + length])
    return found
