"""``snakemq queues STORAGE show``: the messages that wait for a peer."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Final

from snakemq.cli._exit import ExitCode
from snakemq.cli._options import count
from snakemq.cli._queues_pages import MAX_MESSAGES, get_page, peer_name
from snakemq.cli._queues_records import message_fields
from snakemq.cli._queues_table import Table, one_line
from snakemq.storage import QueuesStorageBase, StoredItem

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["act", "add_parser"]

_DESCRIPTION = """\
Show the messages that wait for a peer, in the order in which they are sent: for
each its position, its identifier, how many seconds it has to live, its flags,
the size of its payload in bytes, and how that begins.
"""

_EXAMPLES = """\
examples:
  snakemq queues alice.db show bob
  snakemq queues alice.db show bob --after 20          the next page
  snakemq queues alice.db show bob --json | jq .text

with --json a line is an object:
  position   of those that are sent later it is higher
  uuid       identifier of the message, hexadecimal
  ttl        seconds to live, null: infinite
  flags      number
  text       the payload, if it is UTF-8 ...
  base64     ... or else this
"""

_COLUMNS = ("position", "uuid", "ttl", "flags", "bytes", "payload")
_NUMBERS = frozenset({"position", "ttl", "flags", "bytes"})

#: A page of a table, if nothing is said.
_LINES: Final = 20

#: So many characters of a payload are shown.
_WIDTH: Final = 40


def add_parser(actions: Verbs) -> None:
    """Add it to what can be done with a storage."""
    parser = actions.add_parser(
        "show",
        help="the messages that wait for a peer",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("peer", metavar="PEER", type=peer_name, help="who they are for")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=count,
        help=f"at most N messages (default: {_LINES}; with --json all)",
    )
    parser.add_argument(
        "--after",
        metavar="POSITION",
        type=_position,
        default=0,
        help="those with a higher position",
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object in each line, with the whole payload"
    )
    parser.set_defaults(act=act)


def _position(text: str) -> int:
    """An argument that can be a position; databases have numbers of 64 bits."""
    return min(max(int(text), 0), (1 << 63) - 1)


def act(args: argparse.Namespace, storage: QueuesStorageBase) -> ExitCode:
    """Show them, page by page."""
    left = args.limit if args.json or args.limit else _LINES
    after = args.after
    table = Table(_COLUMNS, _NUMBERS)
    shown = 0
    while left is None or left > 0:
        page = get_page(storage, args.peer, after, min(left or MAX_MESSAGES, MAX_MESSAGES))
        if not page:
            break
        after = page[-1].position
        shown += len(page)
        if left is not None:
            left -= len(page)
        if args.json:
            for item in page:
                print(_json(item))
        else:
            table.print([_row(item) for item in page])
    if args.json:
        return ExitCode.OK
    if not shown:
        behind = f" after position {args.after}" if args.after else ""
        print(f"no messages for {one_line(args.peer)}{behind}", file=sys.stderr)
    elif get_page(storage, args.peer, after, 1):
        print(f"there are more: --after {after}", file=sys.stderr)
    return ExitCode.OK


def _row(item: StoredItem) -> tuple[str, ...]:
    message = item.message
    return (
        str(item.position),
        message.uuid.hex(),
        "-" if message.ttl is None else f"{message.ttl:.0f}",
        str(message.flags),
        str(len(message.data)),
        _beginning(message.data),
    )


def _beginning(data: bytes) -> str:
    """The first characters, escaped."""
    # A character has at most four bytes, so what is cut in two is not shown.
    text = one_line(data[: 4 * (_WIDTH + 1)].decode("utf-8", "backslashreplace"))
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."


def _json(item: StoredItem) -> str:
    return json.dumps({"position": item.position, **message_fields(item.message)})
