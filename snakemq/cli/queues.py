"""``snakemq queues``: look into a storage file, and put right what is in it.

A module ``_queues_*`` for each thing that can be done there.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from snakemq.cli import _queues_dead
from snakemq.cli._exit import EXIT_CODES_HELP, ExitCode
from snakemq.storage.sqlite import SqliteQueuesStorage

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Look into the SQLite file of a storage, also while a program uses it.
"""

_EXAMPLES = """\
  snakemq queues bob.db dead                the messages that were given up
  snakemq queues bob.db dead --retry 7 12   try two of them again
  snakemq queues bob.db dead --help         what else can be done with them
"""

_ACTIONS = (_queues_dead,)


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "queues",
        help="look into a storage file",
        description=_DESCRIPTION,
        epilog=f"examples:\n{_EXAMPLES}\n{EXIT_CODES_HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="the storage, an SQLite file")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action in _ACTIONS:
        action.add_parser(actions)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Open the file, which has to be there, and do it."""
    with SqliteQueuesStorage(args.file, create=False) as storage:
        code: ExitCode = args.act(args, storage)
        return code
