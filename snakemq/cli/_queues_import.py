"""``snakemq queues STORAGE import``: what ``export`` wrote."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Final

from snakemq.cli._exit import CommandError, ExitCode
from snakemq.cli._progress import Progress, undivided
from snakemq.cli._queues_existing import Existing
from snakemq.cli._queues_pages import MAX_BYTES, MAX_MESSAGES
from snakemq.cli._queues_records import (
    InboxRecord,
    QueueRecord,
    ReceivedRecord,
    Record,
    RecordError,
    decode,
)
from snakemq.cli._queues_writing import add_inbox, add_memory
from snakemq.storage import DeadLetter, QueuesStorageBase

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["act", "add_parser"]

_DESCRIPTION = """\
Put messages into the queues, behind what is there, as 'export' writes them. A
storage that does not exist is made.

They are stored in batches. A line that is wrong is told, with its number, and
nothing of its batch is stored, nor of what follows; how far it came is told,
too, and '--skip N' goes on from there.
"""

_EXAMPLES = """\
examples:
  snakemq queues new.db import messages.jsonl
  snakemq queues alice.db export bob | snakemq queues new.db import
  snakemq queues new.db import messages.jsonl --skip 5000
  snakemq queues new.db import messages.jsonl --skip-existing

in a line there has to be peer, and text or base64. What else may be missing:
  uuid       then it is made up
  ttl        then it is infinite
  flags      then it is 1, which is: keep it on disk
"""

_STDIN: Final = "-"


def add_parser(actions: Verbs) -> None:
    """Add it to what can be done with a storage."""
    parser = actions.add_parser(
        "import",
        help="read what export wrote",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file", metavar="FILE", nargs="?", default=_STDIN, help="'-', or nothing: standard input"
    )
    parser.add_argument(
        "--skip", metavar="N", type=_from_zero, default=0, help="leave out the first N lines"
    )
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out each message that is there already, which is known by its uuid; what was "
        "delivered in the meantime is not",
    )
    parser.add_argument("--quiet", action="store_true", help="do not show how far it is")
    parser.set_defaults(act=act, check=_check, makes=True)


def _from_zero(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return number


def _check(args: argparse.Namespace) -> None:
    if args.file != _STDIN:
        os.stat(args.file)  # before a storage is made in vain


def act(args: argparse.Namespace, storage: QueuesStorageBase) -> ExitCode:
    """Read it line by line, store it batch by batch."""
    with ExitStack() as stack:
        file, name = stack.enter_context(_input(args.file))
        existing = stack.enter_context(Existing(storage)) if args.skip_existing else None
        progress = Progress(
            "imported", _size(file), quiet=args.quiet, so_far=lambda: writer.so_far()
        )
        writer = _Writer(storage, progress, args.skip)
        stack.enter_context(progress)
        left_out = 0
        for number, line in enumerate(file, 1):
            if number <= args.skip or not line.strip():
                progress.advance(0, len(line))
                continue
            try:
                record = decode(line)
            except RecordError as exc:
                raise CommandError(f"{name}, line {number}: {exc}") from exc
            if existing is not None and existing.take(record):
                left_out += 1
                progress.advance(0, len(line))
                continue
            writer.add(record, number, len(line))
        writer.store()
        storage.sync()
    print(f"imported: {progress.messages}")
    if existing is not None:
        print(f"left out, because they were there: {left_out}")
    return ExitCode.OK


class _Writer:
    """Puts records into a storage, in batches of which each is one transaction.

    :param skipped: so many lines were left out
    """

    def __init__(self, storage: QueuesStorageBase, progress: Progress, skipped: int) -> None:
        self._storage = storage
        self._progress = progress
        #: all that is in so many lines is stored
        self._lines = skipped
        self._batch: list[Record] = []
        self._last_line = skipped
        self._work = 0
        self._size = 0

    def add(self, record: Record, line: int, length: int) -> None:
        """Store it now or later.

        :param line: its number
        :param length: of the line
        """
        if self._batch and not self._has_room_for(record):
            self.store()
        self._batch.append(record)
        self._last_line = line
        self._work += length
        self._size += length

    def _has_room_for(self, record: Record) -> bool:
        first = self._batch[0]
        if len(self._batch) >= MAX_MESSAGES or self._size >= MAX_BYTES:
            return False
        if isinstance(record, InboxRecord | ReceivedRecord):
            return type(first) is type(record) and first.peer == record.peer
        return type(first) is type(record)

    def store(self) -> None:
        """Store what was added."""
        batch = self._batch
        if not batch:
            return
        first = batch[0]
        messages = 0 if isinstance(first, ReceivedRecord) else len(batch)
        with undivided():
            if isinstance(first, QueueRecord):
                self._storage.change_items(
                    [
                        (record.peer, record.message)
                        for record in batch
                        if isinstance(record, QueueRecord)
                    ]
                )
            elif isinstance(first, InboxRecord):
                add_inbox(
                    self._storage,
                    first.peer,
                    [
                        (record.message, record.attempts)
                        for record in batch
                        if isinstance(record, InboxRecord)
                    ],
                )
            elif isinstance(first, ReceivedRecord):
                for record in batch:
                    if isinstance(record, ReceivedRecord):
                        add_memory(self._storage, record.peer, record.uuids)
            else:
                self._storage.add_dead(record for record in batch if isinstance(record, DeadLetter))
            self._lines = self._last_line
            self._batch = []
            self._progress.advance(messages, self._work)
            self._work = self._size = 0

    def so_far(self) -> str:
        """How far it came."""
        return (
            f"imported so far: {self._progress.messages} messages, all that is in the first"
            f" {self._lines} lines; to go on, repeat it with --skip {self._lines}"
        )


@contextmanager
def _input(path: str) -> Generator[tuple[IO[bytes], str], None, None]:
    """The file, and what to call it."""
    if path != _STDIN:
        with open(path, "rb") as file:
            yield file, path
    elif sys.stdin is None:
        raise CommandError("there is no standard input to read from")
    else:
        yield sys.stdin.buffer, "standard input"


def _size(file: IO[bytes]) -> int:
    """In bytes; 0 if it is not known."""
    try:
        status = os.fstat(file.fileno())
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
