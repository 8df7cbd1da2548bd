"""``snakemq queues STORAGE export``: what is stored, as JSON lines."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TextIO

from snakemq.cli._exit import CommandError, ExitCode, UsageError
from snakemq.cli._progress import Progress
from snakemq.cli._queues_pages import choose_queues, dead_pages, inbox_pages, peer_name, queue_pages
from snakemq.cli._queues_records import QueueRecord, ReceivedRecord, encode
from snakemq.storage import QueuesStorageBase

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["act", "add_parser"]

_DESCRIPTION = """\
Write the messages that wait, for some peers or for all, as JSON, one object in
each line. 'import' reads that into another storage.
"""

_EXAMPLES = """\
examples:
  snakemq queues alice.db export > messages.jsonl
  snakemq queues alice.db export bob --output bob.jsonl
  snakemq queues alice.db export --all --output everything.jsonl

a line is an object:
  peer       who the message is for
  uuid       identifier of the message, hexadecimal
  ttl        seconds to live, null: infinite
  flags      number
  text       the payload, if it is UTF-8 ...
  base64     ... or else this

with --all there are three more kinds, where peer is who sent the message:
  kind       "inbox": received, and its callback has not returned yet
             "dead": given up
             "received": only the identifiers, uuids, of what came earlier
  attempts, redelivered                         inbox, dead
  died_at (seconds since 1970), reason          dead
"""

#: So many identifiers are in a line.
_UUIDS: Final = 1000


def add_parser(actions: Verbs) -> None:
    """Add it to what can be done with a storage."""
    parser = actions.add_parser(
        "export",
        help="write messages as JSON",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "peers",
        metavar="PEER",
        nargs="*",
        type=peer_name,
        help="who they are for (default: everybody)",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="also what was received: the inbox, the dead letters, and by what a message that "
        "comes again is recognised",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write to this file, which gets its name when all is in it",
    )
    parser.add_argument("--quiet", action="store_true", help="do not show how far it is")
    parser.set_defaults(act=act, check=_check)


def _check(args: argparse.Namespace) -> None:
    if args.all and args.peers:
        raise UsageError("either PEER ... or --all")


def act(args: argparse.Namespace, storage: QueuesStorageBase) -> ExitCode:
    """Write it page by page."""
    queues = choose_queues(storage, args.peers)
    total = sum(queue.messages for queue in queues)

    def so_far() -> str:
        if args.output is not None:
            return f"nothing was written to {args.output}; to try again, repeat it"
        return f"written so far: {progress.messages} messages; what was written is not complete"

    with (
        Progress("exported", total, quiet=args.quiet, so_far=so_far) as progress,
        _output(args.output) as write,
    ):
        for queue in queues:
            for page in queue_pages(storage, queue.name):
                write(encode(QueueRecord(queue.name, item.message)) for item in page)
                progress.advance(len(page))
        if args.all:
            progress.total += storage.count_dead()
            for lines in _received_lines(storage):
                write(lines)
                progress.advance(len(lines))
            for peer in sorted(storage.received_peers()):
                write(_memory_lines(storage, peer))
    if args.output is not None:
        print(f"exported: {progress.messages}")
    return ExitCode.OK


def _received_lines(storage: QueuesStorageBase) -> Iterator[list[str]]:
    for inbox in inbox_pages(storage):
        yield [encode(item) for item in inbox]
    for dead in dead_pages(storage):
        yield [encode(letter) for letter in dead]


def _memory_lines(storage: QueuesStorageBase, peer: str) -> Iterator[str]:
    uuids = storage.load_received(peer)
    for start in range(0, len(uuids), _UUIDS):
        yield encode(ReceivedRecord(peer, uuids[start : start + _UUIDS]))


@contextmanager
def _output(path: str | None) -> Generator[Callable[[Iterable[str]], None], None, None]:
    """Writes lines to standard output, or to a file that is there when all are."""
    if path is None:
        if sys.stdout is None:
            raise CommandError("there is no standard output to write to; use --output FILE")
        yield _writer(sys.stdout)
        return
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        # A pipe or a device is not to be replaced by a file.
        with open(target, "w", encoding="ascii", newline="\n") as file:
            yield _writer(file)
        return
    directory, name = os.path.split(target)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".part", dir=directory)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii", newline="\n") as file:
            yield _writer(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _writer(file: TextIO) -> Callable[[Iterable[str]], None]:
    def write(lines: Iterable[str]) -> None:
        for line in lines:
            file.write(f"{line}\n")

    return write
