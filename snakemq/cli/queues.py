"""``snakemq queues``: look into a storage, and put right what is in it.

A module ``_queues_*`` for each thing that can be done there.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from snakemq.cli import (
    _queues_dead,
    _queues_export,
    _queues_import,
    _queues_ls,
    _queues_move,
    _queues_purge,
    _queues_show,
)
from snakemq.cli._exit import EXIT_CODES_HELP, ExitCode
from snakemq.cli._queues_opening import open_for_changes, open_for_reading, open_or_make

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Look into a storage, and change what is in it. STORAGE is the path of an SQLite
file, or the URL of a database. To look is possible while a program uses the
storage; to change something is not.
"""

_EXAMPLES = """\
  snakemq queues alice.db ls                what waits for whom
  snakemq queues alice.db show bob          the messages for bob
  snakemq queues alice.db export bob        the same as JSON, one in each line
  snakemq queues new.db import bob.jsonl    put them into another storage
  snakemq queues alice.db move postgresql+psycopg://host/database
  snakemq queues alice.db purge bob         delete the messages for bob
  snakemq queues bob.db dead                the messages that were given up
  snakemq queues bob.db dead --help         what can be done with them
"""

_ACTIONS = (
    _queues_ls,
    _queues_show,
    _queues_export,
    _queues_import,
    _queues_move,
    _queues_purge,
    _queues_dead,
)


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "queues",
        help="look into a storage, move and delete what waits there",
        description=_DESCRIPTION,
        epilog=f"examples:\n{_EXAMPLES}\n{EXIT_CODES_HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("storage", metavar="STORAGE", help="SQLite file, or URL of a database")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action in _ACTIONS:
        action.add_parser(actions)
    # What an action does not say about itself.
    parser.set_defaults(run=run, check=_accept, changes=False, makes=False)


def _accept(args: argparse.Namespace) -> None:
    """All arguments make sense together."""


def run(args: argparse.Namespace) -> ExitCode:
    """Open the storage, which has to be there, and do it."""
    args.check(args)
    if args.makes:
        opened = open_or_make(args.storage)
    elif args.changes:
        opened = open_for_changes(args.storage)
    else:
        opened = open_for_reading(args.storage)
    with opened as storage:
        code: ExitCode = args.act(args, storage)
        return code
