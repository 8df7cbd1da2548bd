"""Numbered messages, and the record that both processes keep of them.

A record is 32 bytes and written with one ``write`` to a file that is opened for
appending: it is there when the call returns, also if the process is killed in
the next instant, and no other record is torn by that (32 divides a page).

Imported by the workers, which may run on snakeMQ 1.6, and by the tests.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "ACCEPTED",
    "ANSWERS",
    "BEGUN",
    "ENDED",
    "OFFERED",
    "RECEIVED",
    "TOGETHER",
    "Record",
    "Recorder",
    "Workload",
    "highest_offered",
    "read_records",
]

#: A process begins to write here; ends having closed everything.
BEGUN, ENDED = b"B", b"E"

#: ``send`` is going to be called; has returned.
OFFERED, ACCEPTED = b"O", b"A"

#: So many messages that are offered now are accepted all together or not at all.
TOGETHER = b"T"

#: A message came to the application.
RECEIVED = b"R"

_REDELIVERED, _DAMAGED = 1, 2

# Kind, flags, incarnation, size of the data, number, identifier.
_LAYOUT = struct.Struct("!cBHIQ16s")


class Record(NamedTuple):
    """What a process did.

    :ivar incarnation: which process of this role: 1, 2, ... of each run
    :ivar number: of the message; of ``BEGUN`` and ``ENDED`` 0; of ``TOGETHER`` how many
    :ivar uuid: that the message carried
    :ivar redelivered: how the stack marked it
    :ivar damaged: its data are not those of this number
    """

    kind: bytes
    incarnation: int
    number: int = 0
    uuid: bytes = bytes(16)
    size: int = 0
    redelivered: bool = False
    damaged: bool = False

    def __str__(self) -> str:
        marks = " redelivered" * self.redelivered + " damaged" * self.damaged
        return f"{self.kind.decode()} {self.number} by {self.incarnation}{marks}"


class Recorder:
    """Appends to a file of records.

    :param path: is made if there is none
    :param incarnation: of this process
    """

    def __init__(self, path: str, incarnation: int) -> None:
        self._incarnation = incarnation
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self._file = os.open(path, flags, 0o600)

    def write(
        self,
        kind: bytes,
        number: int = 0,
        uuid: bytes = bytes(16),
        size: int = 0,
        redelivered: bool = False,
        damaged: bool = False,
    ) -> None:
        """Append one record. From any thread."""
        flags = _REDELIVERED * redelivered | _DAMAGED * damaged
        record = _LAYOUT.pack(kind, flags, self._incarnation, size, number, uuid)
        written = os.write(self._file, record)
        assert written == len(record), written

    def close(self) -> None:
        os.close(self._file)


def read_records(path: Path, start: int = 0) -> Iterator[Record]:
    """The records in a file; none if there is no file.

    :param start: how many to pass over
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start * _LAYOUT.size)
        content = file.read()
    whole = len(content) - len(content) % _LAYOUT.size
    for kind, flags, incarnation, size, number, uuid in _LAYOUT.iter_unpack(content[:whole]):
        yield Record(
            kind,
            incarnation,
            number,
            uuid,
            size,
            bool(flags & _REDELIVERED),
            bool(flags & _DAMAGED),
        )


def highest_offered(path: Path) -> int:
    """The highest number that was offered until now, 0 if none was.

    It is *offered* and not *accepted* what a new process has to go on behind. A
    process killed between the two leaves behind a number of which nobody can say
    whether its message is stored, or was even received already. Such a number
    is never used again, so the meter needs not know: that message may come or
    not, once.
    """
    return max(
        (record.number for record in read_records(path) if record.kind == OFFERED), default=0
    )


class Workload:
    """Which message has which number, the same in all processes of a run.

    Mostly small ones, some of a few kilobytes, few large ones. Each differs
    from every other in all places, so one that is torn, joined or mixed up
    with another is not taken for whole.

    :param run: distinguishes the messages of this run, at most 8 bytes
    :param large: size of the large ones, in bytes
    """

    _HEADER = struct.Struct("!QI")

    def __init__(self, run: bytes, large: int = 200_000) -> None:
        self._run = run
        self._large = large

    def uuid(self, number: int) -> bytes:
        return struct.pack("!8sQ", self._run, number)

    def size(self, number: int) -> int:
        """Size of the data in bytes."""
        dice = int.from_bytes(hashlib.blake2b(self.uuid(number), digest_size=4).digest(), "big")
        kind, dice = dice % 100, dice // 100
        if kind == 0:
            body = self._large
        elif kind < 10:
            body = 1000 + dice % 9000
        else:
            body = dice % 200
        return self._HEADER.size + body

    def data(self, number: int) -> bytes:
        size = self.size(number)
        header = self._HEADER.pack(number, size)
        return header + hashlib.shake_128(self._run + header).digest(size - len(header))

    def number(self, data: bytes) -> tuple[int, bool]:
        """Which message this is, and whether its data are damaged."""
        if len(data) < self._HEADER.size:
            return 0, True
        number, _ = self._HEADER.unpack_from(data)
        return number, data != self.data(number)


#: The answers to messages: each has the number of what it answers.
ANSWERS = Workload(b"answers", large=2000)
