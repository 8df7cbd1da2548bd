"""``snakemq queues STORAGE move``: all that is in a storage, into another one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from snakemq.cli._exit import CommandError, ExitCode
from snakemq.cli._progress import Progress, undivided
from snakemq.cli._queues_opening import open_or_make
from snakemq.cli._queues_pages import MAX_RECEIVED, choose_queues, get_page, peer_name, read_tail
from snakemq.cli._queues_records import storable
from snakemq.cli._queues_writing import add_inbox, add_memory
from snakemq.storage import DeadLetter, InboxItem, QueuesStorageBase, Removal, StoredItem

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["act", "add_parser"]

T = TypeVar("T", StoredItem, InboxItem, DeadLetter)

_DESCRIPTION = """\
Move messages into another storage, behind what is there: from a file to a
database, say. Without PEER everything is moved, also what was received: the
inbox, the dead letters, and by what a message that comes again is recognised.
No program may have one of the storages open.

A message is removed here when it is on disk there. If this is interrupted,
repeat it: nothing is lost, and nothing is there twice.
"""

_EXAMPLES = """\
examples:
  snakemq queues alice.db move postgresql+psycopg://alice@host/messages
  snakemq queues mongodb://host/messages move alice.db
  snakemq queues alice.db move other.db bob carol
"""


def add_parser(actions: Verbs) -> None:
    """Add it to what can be done with a storage."""
    parser = actions.add_parser(
        "move",
        help="move messages into another storage",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "target", metavar="TO", help="SQLite file, or URL of a database; it is made if need be"
    )
    parser.add_argument(
        "peers",
        metavar="PEER",
        nargs="*",
        type=peer_name,
        help="only the messages for these (default: everything)",
    )
    parser.add_argument("--quiet", action="store_true", help="do not show how far it is")
    parser.set_defaults(act=act, check=_check, changes=True)


def _check(args: argparse.Namespace) -> None:
    if args.storage == args.target or _is_same_file(args.storage, args.target):
        raise CommandError("this is the same storage; nothing was moved")


def _is_same_file(first: str, second: str) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False


def act(args: argparse.Namespace, storage: QueuesStorageBase) -> ExitCode:
    """Move it page by page."""
    queues = choose_queues(storage, args.peers)
    total = sum(queue.messages for queue in queues)

    def so_far() -> str:
        return (
            f"moved so far: {progress.messages} messages; the others are where they were. To go"
            " on, repeat it"
        )

    with (
        open_or_make(args.target) as target,
        Progress("moved", total, quiet=args.quiet, so_far=so_far) as progress,
    ):
        mover = _Mover(storage, target, progress)
        if not args.peers:
            # First, so that nothing that comes again is taken for new.
            mover.move_memory()
        for queue in queues:
            mover.move_queue(queue.name)
        if not args.peers:
            mover.move_inbox()
            mover.move_dead()
        target.sync()
        storage.sync()
    print(f"moved: {progress.messages}")
    return ExitCode.OK


class _Mover:
    """Moves pages: first a page is on the disk there, then it is removed here.

    A run that was killed in between has left one page in both storages, which
    is the last there and the first here. So before the first page of something
    is moved, that is looked for.
    """

    def __init__(
        self, source: QueuesStorageBase, target: QueuesStorageBase, progress: Progress
    ) -> None:
        self._source = source
        self._target = target
        self._progress = progress

    def move_memory(self) -> None:
        """Have remembered there, too, what was received. It may stay here."""
        for peer in self._source.received_peers():
            add_memory(self._target, peer, self._source.load_received(peer))

    def move_queue(self, name: str) -> None:
        """Move the messages for one peer."""

        def read(after: int, limit: int) -> list[StoredItem]:
            return get_page(self._target, name, after, limit)

        page = get_page(self._source, name, 0)
        done = _overlap(read, page, lambda item: item.message.uuid)
        self._remove_items(name, page[:done])
        while page := get_page(self._source, name, 0):
            with undivided():
                self._target.change_items([(name, storable(item.message)) for item in page])
                self._remove_items(name, page)

    def _remove_items(self, name: str, page: Sequence[StoredItem]) -> None:
        if page:
            size = sum(len(item.message.data) for item in page)
            self._source.change_items([], [Removal(name, [item.position for item in page], size)])
            self._progress.advance(len(page))

    def move_inbox(self) -> None:
        """Move what waits for its callback."""
        page = self._source.get_inbox(0, MAX_RECEIVED)
        done = _overlap(self._target.get_inbox, page, lambda item: (item.ident, item.message.uuid))
        self._remove_from_inbox(page[:done])
        while page := self._source.get_inbox(0, MAX_RECEIVED):
            for ident, group in groupby(page, key=lambda item: item.ident):
                items = list(group)
                with undivided():
                    add_inbox(
                        self._target, ident, [(item.message, item.attempts) for item in items]
                    )
                    self._target.sync()
                    self._remove_from_inbox(items)

    def _remove_from_inbox(self, items: Sequence[InboxItem]) -> None:
        for item in items:
            self._source.advance_inbox(item.id, None)
        self._source.sync()
        self._progress.advance(len(items))

    def move_dead(self) -> None:
        """Move what was given up."""
        page = self._source.get_dead(0, MAX_RECEIVED)
        done = _overlap(
            self._target.get_dead,
            page,
            lambda letter: (letter.ident, letter.message.uuid, letter.died_at),
        )
        self._remove_dead(page[:done])
        while page := self._source.get_dead(0, MAX_RECEIVED):
            with undivided():
                self._target.add_dead(page)
                self._remove_dead(page)

    def _remove_dead(self, letters: Sequence[DeadLetter]) -> None:
        if letters:
            self._source.drop_dead([letter.id for letter in letters])
            self._progress.advance(len(letters))


def _overlap(
    read: Callable[[int, int], Sequence[T]], page: Sequence[T], identity: Callable[[T], object]
) -> int:
    """How many of a page are, in the same order, the last of what is read."""
    if not page:
        return 0
    behind = [identity(item) for item in page]
    before = [identity(item) for item in read_tail(read, len(page))]
    for count in range(len(before), 0, -1):
        if before[-count:] == behind[:count]:
            return count
    return 0
