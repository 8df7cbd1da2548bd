"""Small records in the storage that are no messages to anybody."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from snakemq.exceptions import StorageError
from snakemq.message import FLAG_PERSISTENT, MAX_UUID_LENGTH, Message
from snakemq.storage import QueuesStorageBase, Removal
from snakemq.storage._common import wall_clock

if TYPE_CHECKING:
    from snakemq.queues import QueuesManager

__all__ = ["LEDGER_PREFIX", "Ledger", "is_ledger"]

#: What names of ledgers begin with. No identifier is that long.
LEDGER_PREFIX: Final = "what this peer keeps for itself, to no other peer: "

#: How much is read at a time.
_PAGE_MESSAGES: Final = 1000
_PAGE_BYTES: Final = 1024 * 1024

#: When a record was stored, in front of it, in seconds since the epoch.
_STAMP: Final = struct.Struct("!d")


def is_ledger(queue_name: str) -> bool:
    """Whether what the storage has as a queue is a ledger."""
    return queue_name.startswith(LEDGER_PREFIX)


class _Place(NamedTuple):
    position: int
    size: int


class Ledger:
    """Records of bytes under keys, in the storage.

    They are stored as the items of a queue that has the name of no peer. So
    every storage can keep them, and they share its syncs with the messages.
    Any thread, but one for each key.

    :param manager: has the storage
    :param name: of the ledger
    :raises snakemq.exceptions.StorageError: there is no storage
    """

    def __init__(self, manager: QueuesManager, name: str) -> None:
        self._manager = manager
        self.name: Final = LEDGER_PREFIX + name
        self._places: dict[bytes, _Place] = {}
        self._storage()

    def _storage(self) -> QueuesStorageBase:
        storage = self._manager.paged
        if storage is None:
            raise StorageError(f"there is no storage (any more) to keep {self.name!r} in")
        return storage

    def load(self) -> Iterator[tuple[bytes, bytes, float]]:
        """Read what there is from the storage, the oldest first. To be called once, first.

        :return: keys, records and their ages in seconds. A key that comes twice
            was stored anew: the last one counts.
        """
        now = wall_clock()
        after = 0
        while page := self._storage().get_page(
            self.name, after, max_messages=_PAGE_MESSAGES, max_bytes=_PAGE_BYTES
        ):
            for position, message in page:
                older = self._places.get(message.uuid)
                if older is not None:
                    self._remove([older])
                self._places[message.uuid] = _Place(position, len(message.data))
                after = position
                record, stamp = _read(message.data)
                yield message.uuid, record, max(0.0, now - stamp)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: bytes) -> bytes | None:
        """Read a record; ``None`` if there is none.

        :raises Exception: of the storage
        """
        place = self._places.get(key)
        if place is None:
            return None
        page = self._storage().get_page(
            self.name, place.position - 1, max_messages=1, max_bytes=sys.maxsize
        )
        if not page or page[0].message.uuid != key:
            return None
        return _read(page[0].message.data)[0]

    def put(self, key: bytes, record: bytes) -> None:
        """Store a record, instead of what was there under its key. On disk when this returns.

        :param key: 16 bytes
        :raises snakemq.exceptions.StorageError: it could not be stored
        """

        item = self.item(key, record)

        def stored(positions: Sequence[int]) -> None:
            self.stored(item, positions[0])

        self._storage()
        self._manager.writer.push([(self.name, item)], None, stored)

    @staticmethod
    def item(key: bytes, record: bytes) -> Message:
        """A record as an item of a queue."""
        if len(key) != MAX_UUID_LENGTH:
            raise ValueError(f"a key has {MAX_UUID_LENGTH} bytes, not {len(key)}")
        return Message(_STAMP.pack(wall_clock()) + record, None, FLAG_PERSISTENT, key)

    def stored(self, item: Message, position: int) -> None:
        """An item was stored, perhaps by a transaction."""
        self._manager.last_position = position
        older = self._places.get(item.uuid)
        self._places[item.uuid] = _Place(position, len(item.data))
        if older is not None:
            self._remove([older])

    def remove(self, keys: Sequence[bytes]) -> None:
        """Remove records, soon. What can't be removed is there again after a restart."""
        places = [place for key in keys if (place := self._places.pop(key, None)) is not None]
        if places:
            self._remove(places)

    def _remove(self, places: Sequence[_Place]) -> None:
        positions = [place.position for place in places]
        size = sum(place.size for place in places)
        self._manager.remove_stored([Removal(self.name, positions, size)])


def _read(data: bytes) -> tuple[bytes, float]:
    if len(data) < _STAMP.size:
        return b"", 0.0  # somebody else's
    return data[_STAMP.size :], _STAMP.unpack_from(data)[0]
