"""Large records of remote calls in parts: what the parts are, and whose turn it is.

A record that is larger than :data:`PART_SIZE` travels in several messages, so
that others can go between them. Each is one part:

======  ======  ===================================================
offset  size    meaning
======  ======  ===================================================
0       6       ``rpcrqp``: of a request; ``rpcrpp``: of a reply
6       16      identifier of the transfer, unlike any other's
22      8       where in the record the data belongs, big-endian
30      8       size of the record, likewise
38      rest    the data
======  ======  ===================================================

The parts of a record come in their order, those of different records in any.
One without data ends the transfer: the rest is not going to come. A receiver
that does not take a record says so by a refusal: ``rpcrqx`` or ``rpcrpx``, the
identifier, and a text in UTF-8.
"""

from __future__ import annotations

import io
import struct
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final, NamedTuple

from snakemq._core.rpc_records import REPLY_PREFIX, REQUEST_PREFIX

__all__ = [
    "MAX_PARTIAL_RECORDS",
    "MAX_RECORD_SIZE",
    "MAX_UNFINISHED_BYTES",
    "MAX_WINDOW",
    "MIN_WINDOW",
    "PART_OVERHEAD",
    "PART_SIZE",
    "REPLY_PARTS",
    "REQUEST_PARTS",
    "TRANSFER_ID_SIZE",
    "Assembler",
    "Kind",
    "Lane",
    "Part",
    "PartRefused",
    "Transfer",
    "Window",
    "decode_part",
    "decode_refusal",
    "encode_part",
    "encode_refusal",
]

#: The data of one part, in bytes; a smaller record travels in one piece.
PART_SIZE: Final = 64 * 1024

#: How much of the large records may be on its way to one peer, in bytes: at
#: least, and at most where that does not keep others waiting.
MIN_WINDOW: Final = 256 * 1024
MAX_WINDOW: Final = 4 * 1024 * 1024

#: So much longer than the shortest time a part may take, in seconds: more, and
#: the parts wait in line on the way, and everything else behind them.
LONGEST_LINE: Final = 0.005

#: The largest record that is taken in parts, and how much of unfinished ones
#: of one peer, in bytes: as much as can come in one packet.
MAX_RECORD_SIZE: Final = 1 << 30

#: How much of the unfinished records of all peers together there may be, in bytes.
MAX_UNFINISHED_BYTES: Final = 2 * MAX_RECORD_SIZE

#: How many unfinished records of one peer there may be.
MAX_PARTIAL_RECORDS: Final = 1024

TRANSFER_ID_SIZE: Final = 16

#: How many refused transfers of a peer, of which parts may still come, and how
#: many that are sent, and may still be refused, are remembered.
_REMEMBERED: Final = 1024

_LONGEST_REASON: Final = 200

_HEADER: Final = struct.Struct(f"!{TRANSFER_ID_SIZE}sQQ")


class Kind(NamedTuple):
    """The prefixes of messages about one kind of records."""

    #: what the record itself begins with
    record: bytes
    part: bytes
    refusal: bytes


REQUEST_PARTS: Final = Kind(REQUEST_PREFIX, b"rpcrqp", b"rpcrqx")
REPLY_PARTS: Final = Kind(REPLY_PREFIX, b"rpcrpp", b"rpcrpx")

#: What a part is more than its data, in bytes.
PART_OVERHEAD: Final = len(REQUEST_PARTS.part) + _HEADER.size


class PartRefused(Exception):
    """A part that came is not taken.

    :ivar transfer_id: of the transfer, whose sender is to be told; empty if it
        is not known
    """

    def __init__(self, transfer_id: bytes, reason: str) -> None:
        super().__init__(reason)
        self.transfer_id = transfer_id


class Part(NamedTuple):
    """A part of a record."""

    transfer_id: bytes
    offset: int
    #: size of the record
    total: int
    #: empty: nothing more will come
    data: memoryview


def encode_part(
    kind: Kind, transfer_id: bytes, offset: int, total: int, data: bytes | memoryview
) -> bytes:
    """The message that brings a part."""
    return b"".join((kind.part, _HEADER.pack(transfer_id, offset, total), data))


def decode_part(kind: Kind, message: bytes) -> Part:
    """Read what :func:`encode_part` has made.

    :raises PartRefused: it is too short
    """
    if len(message) < PART_OVERHEAD:
        raise PartRefused(b"", f"a part of {len(message)} bytes is none")
    transfer_id, offset, total = _HEADER.unpack_from(message, len(kind.part))
    return Part(transfer_id, offset, total, memoryview(message)[PART_OVERHEAD:])


def encode_refusal(kind: Kind, transfer_id: bytes, reason: str) -> bytes:
    """The message that says that a record is not taken."""
    return kind.refusal + transfer_id + reason[:_LONGEST_REASON].encode()


def decode_refusal(kind: Kind, message: bytes) -> tuple[bytes, str]:
    """Read what :func:`encode_refusal` has made; anything can be read."""
    start = len(kind.refusal)
    end = start + TRANSFER_ID_SIZE
    return message[start:end], message[end:].decode(errors="replace")[:_LONGEST_REASON]


class Window:
    """How much may be on its way to one peer.

    It grows as long as the parts arrive no later for it, so that a long way is
    used, and shrinks when they wait in line, where all else that is sent to
    that peer would wait behind them.
    """

    __slots__ = ("_fastest", "flying", "size")

    def __init__(self) -> None:
        self.size = MIN_WINDOW
        #: how much is on its way, in bytes
        self.flying = 0
        self._fastest = float("inf")

    @property
    def is_open(self) -> bool:
        """Whether another part may be sent. It may go over the window."""
        return self.flying < self.size

    def arrived(self, size: int, seconds: float) -> None:
        """A part has arrived.

        :param seconds: after it was sent
        """
        was_full = not self.is_open
        self.flying -= size
        self._fastest = min(self._fastest, seconds)
        if seconds > self._fastest + LONGEST_LINE:
            self.size = max(MIN_WINDOW, self.size - size)
        elif was_full:
            self.size = min(MAX_WINDOW, self.size + size)


class Transfer:
    """A large record on its way out.

    :param key: its owner's name for it
    """

    __slots__ = ("arrived", "data", "given_up", "key", "offset", "size", "transfer_id")

    def __init__(self, transfer_id: bytes, key: bytes, data: bytes) -> None:
        self.transfer_id = transfer_id
        self.key = key
        #: ``None``: all of it is on its way, or it was given up
        self.data: bytes | None = data
        self.size = len(data)
        #: so much of it is on its way
        self.offset = 0
        #: so much of it has arrived
        self.arrived = 0
        self.given_up = False


class Lane:
    """Large records on their way to one peer, which take turns. Not thread-safe.

    :param part_size: the data of one part, in bytes
    :param starts_only: of each record only the first part is for this lane
    """

    def __init__(
        self, kind: Kind, part_size: int = PART_SIZE, *, starts_only: bool = False
    ) -> None:
        self.window = Window()
        self._kind = kind
        self._part_size = part_size
        self._starts_only = starts_only
        self._waiting: deque[Transfer] = deque()
        #: their first part is on its way, and the next one is for another lane
        self._started: dict[bytes, Transfer] = {}
        #: what the other side is to be told of as given up
        self._ends: deque[Transfer] = deque()
        # Those that are on their way as a whole may still be refused.
        self._done: OrderedDict[bytes, Transfer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Transfer]:
        return iter(list(self._waiting))

    def add(self, transfer: Transfer) -> None:
        """Append a record."""
        self._waiting.append(transfer)

    def next_part(self) -> tuple[Transfer, bytes, int] | None:
        """The next message, if there is one and the window is open.

        :return: to which transfer it belongs, its data, and how much of the
            record that is, in bytes; 0: the end of one that was given up
        """
        if self._ends:
            given_up = self._ends.popleft()
            return given_up, self._encode(given_up, b""), 0
        if not self._waiting or not self.window.is_open:
            return None
        transfer = self._waiting.popleft()
        assert transfer.data is not None
        piece = memoryview(transfer.data)[transfer.offset : transfer.offset + self._part_size]
        data = self._encode(transfer, piece)
        size = len(piece)
        transfer.offset += size
        self.window.flying += size
        if transfer.offset < transfer.size and self._starts_only:
            self._started[transfer.transfer_id] = transfer
        elif transfer.offset < transfer.size:
            self._waiting.append(transfer)
        else:
            transfer.data = None
            self._done[transfer.transfer_id] = transfer
            if len(self._done) > _REMEMBERED:
                self._done.popitem(last=False)
        return transfer, data, size

    def _encode(self, transfer: Transfer, data: bytes | memoryview) -> bytes:
        return encode_part(self._kind, transfer.transfer_id, transfer.offset, transfer.size, data)

    def find(self, transfer_id: bytes) -> Transfer | None:
        """The transfer with this identifier, also if all of it is on its way."""
        found = self._done.get(transfer_id) or self._started.get(transfer_id)
        if found is not None:
            return found
        return next((t for t in self._waiting if t.transfer_id == transfer_id), None)

    def find_key(self, key: bytes) -> list[Transfer]:
        """Those of which a part has still to be sent, by the owner's name."""
        unfinished = chain(self._waiting, self._started.values())
        return [transfer for transfer in unfinished if transfer.key == key]

    def take_started(self, transfer_id: bytes) -> Transfer | None:
        """Take out a record whose first part has arrived, if there is more of it."""
        return self._started.pop(transfer_id, None)

    def give_up(self, transfer: Transfer, *, tell: bool = True) -> None:
        """Send no more of a record.

        :param tell: the other side, if it has got something of it
        """
        if transfer.data is not None:
            if self._started.pop(transfer.transfer_id, None) is None:
                self._waiting.remove(transfer)
            transfer.data = None
        transfer.given_up = True
        self._done.pop(transfer.transfer_id, None)
        if tell and transfer.offset:
            self._ends.append(transfer)


class _Partial:
    __slots__ = ("_data", "size", "total")

    def __init__(self, total: int) -> None:
        # Grows with what comes: what is announced costs nobody anything. Gives
        # its bytes without a copy, for which everything else would wait.
        self._data = io.BytesIO()
        self.size = 0
        self.total = total

    def append(self, data: memoryview) -> None:
        self.size += self._data.write(data)

    def record(self) -> bytes:
        return self._data.getvalue()


class Assembler:
    """Puts the parts of one connection together. Not thread-safe.

    :param max_size: the largest record that is taken, and how much there may
        be of all unfinished ones, in bytes
    :param objection: ``func(beginning)``: why a record that begins in this way
        is not taken; empty if it is
    """

    def __init__(
        self,
        kind: Kind,
        max_size: int = MAX_RECORD_SIZE,
        objection: Callable[[memoryview], str] | None = None,
    ) -> None:
        self._kind = kind
        self._max_size = max_size
        self._objection_to = objection
        self._partial: dict[bytes, _Partial] = {}
        self._refused: OrderedDict[bytes, None] = OrderedDict()
        #: how much of unfinished records is here, in bytes
        self.held = 0

    def __len__(self) -> int:
        return len(self._partial)

    def feed(self, message: bytes) -> bytes | None:
        """A part came.

        :return: the record, if that was the last part
        :raises PartRefused: it is not taken, nor is what follows of its
            transfer; only for the first one
        """
        part = decode_part(self._kind, message)
        transfer_id = part.transfer_id
        if not part.data:
            self._forget(transfer_id)
            self._refused.pop(transfer_id, None)
            return None
        if transfer_id in self._refused:
            return None
        partial = self._partial.get(transfer_id)
        reason = self._objection(part, partial)
        if not reason:
            if partial is None:
                partial = self._partial[transfer_id] = _Partial(part.total)
            partial.append(part.data)
            self.held += len(part.data)
            if partial.size < partial.total:
                return None
            self._forget(transfer_id)
            record = partial.record()
            if record.startswith(self._kind.record):
                return record
            reason = "the record is of another kind"
        self._refuse(transfer_id)
        raise PartRefused(transfer_id, reason)

    def drop_largest(self) -> bytes:
        """Refuse the rest of the record of which the most is here.

        :return: the identifier of its transfer
        :raises ValueError: there is none
        """
        transfer_id = max(self._partial, key=lambda each: self._partial[each].size)
        self._refuse(transfer_id)
        return transfer_id

    def _refuse(self, transfer_id: bytes) -> None:
        self._forget(transfer_id)
        self._refused[transfer_id] = None
        if len(self._refused) > _REMEMBERED:
            self._refused.popitem(last=False)

    def _objection(self, part: Part, partial: _Partial | None) -> str:
        """Why the part is not taken, if so."""
        _, offset, total, data = part
        if offset != (0 if partial is None else partial.size):
            return "the part before it is missing"
        if partial is not None and total != partial.total:
            return f"its size was {partial.total} bytes before, not {total}"
        if offset + len(data) > total:
            return f"a part goes over its {total} bytes"
        if total > self._max_size:
            return f"{total} bytes are over the limit of {self._max_size} bytes"
        if partial is None and len(self._partial) >= MAX_PARTIAL_RECORDS:
            return f"{len(self._partial)} others are unfinished, which is the limit"
        if self.held + len(data) > self._max_size:
            return f"with the unfinished others it is over the limit of {self._max_size} bytes"
        if partial is None and self._objection_to is not None:
            return self._objection_to(data)
        return ""

    def _forget(self, transfer_id: bytes) -> None:
        partial = self._partial.pop(transfer_id, None)
        if partial is not None:
            self.held -= partial.size
