"""``snakemq queues STORAGE ls``: what waits for whom."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

from snakemq.cli._exit import ExitCode
from snakemq.cli._queues_table import Table, duration, local_time, one_line
from snakemq.storage import QueuesStorageBase, QueueSummary

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["act", "add_parser"]

_DESCRIPTION = """\
List the queues: for each peer how many messages wait for it, how many bytes of
payload they have, when the oldest was queued, and how long it takes until the
time to live of one of them is over. (It runs only while the program that has
the storage runs and the peer is not connected.)
"""

_EXAMPLES = """\
examples:
  snakemq queues alice.db ls
  snakemq queues alice.db ls --json | jq 'select(.messages > 1000) | .peer'

with --json a line is an object:
  peer         who the messages are for
  messages     how many
  bytes        of payload
  oldest       when the oldest was queued, seconds since 1970, null: not known
  next_expiry  seconds until the next one expires, null: none does
"""

_COLUMNS = ("peer", "messages", "bytes", "oldest", "age", "next expiry")
_NUMBERS = frozenset({"messages", "bytes", "age", "next expiry"})


def add_parser(actions: Verbs) -> None:
    """Add it to what can be done with a storage."""
    parser = actions.add_parser(
        "ls",
        help="what waits for whom",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object in each line")
    parser.set_defaults(act=act)


def act(args: argparse.Namespace, storage: QueuesStorageBase) -> ExitCode:
    """List them."""
    queues = sorted(storage.summarize())
    if args.json:
        for queue in queues:
            print(_json(queue, storage))
        return ExitCode.OK
    if queues:
        _list(queues, storage)
    else:
        print("no messages", file=sys.stderr)
    dead = storage.count_dead()
    if dead:
        print(f"dead letters: {dead}", file=sys.stderr)
    return ExitCode.OK


def _json(queue: QueueSummary, storage: QueuesStorageBase) -> str:
    return json.dumps(
        {
            "peer": queue.name,
            "messages": queue.messages,
            "bytes": queue.bytes,
            "oldest": storage.oldest(queue.name),
            "next_expiry": storage.next_expiry(queue.name),
        }
    )


def _list(queues: list[QueueSummary], storage: QueuesStorageBase) -> None:
    now = time.time()
    rows = []
    for queue in queues:
        oldest = storage.oldest(queue.name)
        expiry = storage.next_expiry(queue.name)
        rows.append(
            (
                one_line(queue.name),
                str(queue.messages),
                str(queue.bytes),
                "-" if oldest is None else local_time(oldest),
                "-" if oldest is None else duration(now - oldest),
                "-" if expiry is None else duration(expiry),
            )
        )
    messages = sum(queue.messages for queue in queues)
    size = sum(queue.bytes for queue in queues)
    rows.append(("total", str(messages), str(size), "", "", ""))
    Table(_COLUMNS, _NUMBERS).print(rows)
