"""``snakemq queues FILE dead``: messages that were received and given up."""

from __future__ import annotations

import argparse
import base64
import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING

from snakemq.cli._exit import CommandError, ExitCode
from snakemq.storage import DeadLetter, QueuesStorageBase

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

A program that has the file open hands out what is put back when it is started
the next time; its own retry_dead_letters() does so at once.
"""

_COLUMNS = ("id", "from", "attempts", "died", "bytes", "reason")

#: So many numbers are told when a wrong one was given.
_MANY = 20


def add_parser(actions: Verbs) -> None:
    """Add it to what can be done with a file."""
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
    parser.set_defaults(act=act)


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
        items = storage.retry_dead(_existing(args.retry, storage))
        print(f"put back into the inbox: {len(items)}")
    elif args.drop is not None:
        print(f"deleted: {storage.drop_dead(_existing(args.drop, storage))}")
    elif args.json:
        for letter in storage.get_dead():
            print(_json(letter))
    else:
        _list(storage.get_dead())
    return ExitCode.OK


def _existing(ids: list[int | None], storage: QueuesStorageBase) -> list[int] | None:
    """The numbers, if all of them are there.

    :raises CommandError: one is not
    """
    wanted = [number for number in ids if number is not None]
    if len(wanted) < len(ids):
        return None
    there = [letter.id for letter in storage.get_dead()]
    missing = sorted(set(wanted) - set(there))
    if not missing:
        return wanted
    known = ", ".join(map(str, there[:_MANY])) or "none"
    if len(there) > _MANY:
        known += f" and {len(there) - _MANY} more"
    raise CommandError(
        f"no such dead letter: {', '.join(map(str, missing))}; there are: {known}. Nothing was done"
    )


def _list(letters: list[DeadLetter]) -> None:
    if not letters:
        print("no dead letters", file=sys.stderr)
        return
    rows = [_COLUMNS]
    rows += [
        (
            str(letter.id),
            _one_line(letter.ident),
            str(letter.attempts),
            datetime.fromtimestamp(letter.died_at).isoformat(" ", "seconds"),
            str(len(letter.message.data)),
            _one_line(letter.reason),
        )
        for letter in letters
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, ident, attempts, died, size, reason in rows:
        line = [
            number.rjust(widths[0]),
            ident.ljust(widths[1]),
            attempts.rjust(widths[2]),
            died.ljust(widths[3]),
            size.rjust(widths[4]),
            reason,
        ]
        print("  ".join(line))


def _one_line(text: str) -> str:
    """Without what would disturb a table, or steer a terminal."""
    encoding = sys.stdout.encoding
    shown = text.encode(encoding, "backslashreplace").decode(encoding)
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown
    )


def _json(letter: DeadLetter) -> str:
    message = letter.message
    record: dict[str, object] = {
        "id": letter.id,
        "ident": letter.ident,
        "uuid": message.uuid.hex(),
        "attempts": letter.attempts,
        "died_at": letter.died_at,
        "reason": letter.reason,
        "ttl": message.ttl,
        "flags": message.flags,
    }
    try:
        record["text"] = message.data.decode()
    except UnicodeDecodeError:
        record["base64"] = base64.b64encode(message.data).decode("ascii")
    return json.dumps(record)
