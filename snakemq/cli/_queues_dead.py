"""``snakemq queues STORAGE dead``: messages that were received and given up."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from snakemq.cli._exit import CommandError, ExitCode
from snakemq.cli._queues_pages import dead_pages
from snakemq.cli._queues_records import dead_letter
from snakemq.cli._queues_table import Table, local_time, one_line
from snakemq.storage import QueuesStorageBase

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["act", "add_parser"]

_DESCRIPTION = """\
List the dead letters: received messages whose callback failed too often. For
each its number, who sent it, how often its callback was started, when it was
given up, the size of its payload in bytes, and why it was given up.
"""

_EXAMPLES = """\
examples:
  snakemq queues bob.db dead
  snakemq queues bob.db dead --json | jq .text
  snakemq queues bob.db dead --retry 7 12
  snakemq queues bob.db dead --drop all

with --json a line is an object:
  id         number
  ident      who sent it
  uuid       identifier of the message, hexadecimal
  attempts   how often its callback was started
  died_at    seconds since 1970
  reason     why it was given up
  ttl        seconds it had left when it was sent, null: infinite
  flags      number
  text       the payload, if it is UTF-8 ...
  base64     ... or else this

--retry and --drop are for a storage that no program has open. A program hands
out what is put back when it is started; its own retry_dead_letters() does so at
once.
"""

_COLUMNS = ("id", "from", "attempts", "died", "bytes", "reason")
_NUMBERS = frozenset({"id", "attempts", "bytes"})

#: So many numbers are told when a wrong one was given.
_MANY = 20


def add_parser(actions: Verbs) -> None:
    """Add it to what can be done with a storage."""
    parser = actions.add_parser(
        "dead",
        help="the messages that were received and given up",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--json", action="store_true", help="list them, one JSON object in each line")
    what.add_argument(
        "--retry",
        metavar="ID",
        nargs="+",
        type=_number,
        help="put these back into the inbox, behind what is there, or 'all'",
    )
    what.add_argument(
        "--drop", metavar="ID", nargs="+", type=_number, help="delete these, or 'all'"
    )
    what.add_argument("--count", action="store_true", help="only tell how many there are")
    parser.set_defaults(act=act, check=_check)


def _check(args: argparse.Namespace) -> None:
    args.changes = args.retry is not None or args.drop is not None


def _number(text: str) -> int | None:
    """An argument that is the number of a letter, or ``None`` for all."""
    if text == "all":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number, nor 'all'") from None


def act(args: argparse.Namespace, storage: QueuesStorageBase) -> ExitCode:
    """List them, or do something about them."""
    if args.retry is not None:
        print(f"put back into the inbox: {_retry(args.retry, storage)}")
    elif args.drop is not None:
        print(f"deleted: {storage.drop_dead(_existing(args.drop, storage))}")
    elif args.count:
        print(storage.count_dead())
    elif args.json:
        for page in dead_pages(storage):
            for letter in page:
                print(dead_letter(letter))
    else:
        _list(storage)
    return ExitCode.OK


def _retry(ids: list[int | None], storage: QueuesStorageBase) -> int:
    wanted = _existing(ids, storage)
    if wanted is not None:
        return len(storage.retry_dead(wanted))
    # Page by page, because they are returned.
    return sum(
        len(storage.retry_dead([letter.id for letter in page])) for page in dead_pages(storage)
    )


def _existing(ids: list[int | None], storage: QueuesStorageBase) -> list[int] | None:
    """The numbers, if all of them are there.

    :raises CommandError: one is not
    """
    wanted = [number for number in ids if number is not None]
    if len(wanted) < len(ids):
        return None
    missing = [number for number in sorted(set(wanted)) if not _is_there(number, storage)]
    if not missing:
        return wanted
    there = [letter.id for letter in storage.get_dead(0, _MANY)]
    known = ", ".join(map(str, there)) or "none"
    more = storage.count_dead() - len(there)
    if more > 0:
        known += f" and {more} more"
    raise CommandError(
        f"no such dead letter: {', '.join(map(str, missing))}; there are: {known}. Nothing was done"
    )


def _is_there(number: int, storage: QueuesStorageBase) -> bool:
    # Databases have numbers of 64 bits.
    if not 0 < number < 1 << 63:
        return False
    return any(letter.id == number for letter in storage.get_dead(number - 1, 1))


def _list(storage: QueuesStorageBase) -> None:
    table = Table(_COLUMNS, _NUMBERS)
    count = 0
    for page in dead_pages(storage):
        count += len(page)
        table.print(
            [
                (
                    str(letter.id),
                    one_line(letter.ident),
                    str(letter.attempts),
                    local_time(letter.died_at),
                    str(len(letter.message.data)),
                    one_line(letter.reason),
                )
                for letter in page
            ]
        )
    if not count:
        print("no dead letters", file=sys.stderr)
