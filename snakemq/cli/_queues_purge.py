"""``snakemq queues STORAGE purge``: delete what waits."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from snakemq.cli._exit import CommandError, ExitCode, UsageError
from snakemq.cli._progress import Progress, undivided
from snakemq.cli._queues_pages import choose_queues, peer_name, queue_pages
from snakemq.cli._queues_table import one_line
from snakemq.storage import QueuesStorageBase, QueueSummary, Removal

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["act", "add_parser"]

_DESCRIPTION = """\
Delete the messages that wait for some peers, or for all. What was received (the
inbox, the dead letters) stays; see 'dead --drop'.
"""

_EXAMPLES = """\
examples:
  snakemq queues alice.db purge bob              asks before it does so
  snakemq queues alice.db purge bob carol --yes
  snakemq queues alice.db purge --all --yes
"""


def add_parser(actions: Verbs) -> None:
    """Add it to what can be done with a storage."""
    parser = actions.add_parser(
        "purge",
        help="delete what waits",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "peers", metavar="PEER", nargs="*", type=peer_name, help="who the messages are for"
    )
    parser.add_argument("--all", action="store_true", help="the messages for all peers")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--quiet", action="store_true", help="do not show how far it is")
    parser.set_defaults(act=act, check=_check, changes=True)


def _check(args: argparse.Namespace) -> None:
    if bool(args.peers) == args.all:
        raise UsageError("say whose messages to delete: PEER ..., or --all")
    if not args.yes and not _has_terminal():
        raise UsageError("there is no terminal to ask on; add --yes to delete without a question")


def _has_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def act(args: argparse.Namespace, storage: QueuesStorageBase) -> ExitCode:
    """Delete them page by page."""
    queues = choose_queues(storage, args.peers)
    total = sum(queue.messages for queue in queues)
    if total and not args.yes and not _confirmed(queues, total):
        raise CommandError("nothing was deleted")

    def so_far() -> str:
        return (
            f"deleted so far: {progress.messages} of {total} messages; the others are still there"
        )

    with Progress("deleted", total, quiet=args.quiet, so_far=so_far) as progress:
        for queue in queues:
            for page in queue_pages(storage, queue.name):
                size = sum(len(item.message.data) for item in page)
                removal = Removal(queue.name, [item.position for item in page], size)
                with undivided():
                    storage.change_items([], [removal], sync=False)
                    progress.advance(len(page))
        storage.sync()
    print(f"deleted: {progress.messages}")
    return ExitCode.OK


def _confirmed(queues: list[QueueSummary], total: int) -> bool:
    names = ", ".join(one_line(queue.name) for queue in queues[:10])
    if len(queues) > 10:
        names += f" and {len(queues) - 10} more"
    size = sum(queue.bytes for queue in queues)
    messages = "1 message" if total == 1 else f"{total} messages"
    question = f"Delete {messages} ({size} bytes) for {names}? [y/N] "
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
