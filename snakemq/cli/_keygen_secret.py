"""``snakemq keygen secret``: a secret that peers share."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from snakemq.cli._exit import ExitCode
from snakemq.cli._new_files import publish, refuse_existing, workshop

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Make a secret by which peers recognise each other: 32 random bytes, as a line of
text. Without FILE it is written to standard output. It has to be the same file
for all peers that share it, and for the eyes of their users only.
"""

_EXAMPLES = """\
examples:
  snakemq keygen secret secret.txt
  snakemq keygen secret | ssh bob.example.org 'umask 077; cat > secret.txt'
  snakemq listen --ident bob --listen 4000 --secret-file secret.txt
"""

#: In bytes: as many as the HMAC that is made with it has.
_SIZE: Final = 32


def add_parser(kinds: Verbs) -> None:
    """Add it to what can be made."""
    parser = kinds.add_parser(
        "secret",
        help="make a secret that peers share",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        nargs="?",
        help="where to put it (default: standard output)",
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Make it."""
    text = secrets.token_urlsafe(_SIZE)
    path: Path | None = args.file
    if path is None:
        print(text)
        return ExitCode.OK
    refuse_existing([path], force=args.force)
    with workshop(path.parent) as work:
        made = work / "secret"
        made.touch(mode=0o600)
        made.write_text(f"{text}\n", "ascii")
        publish({path: made}, force=args.force)
    print(f"{path}: shared secret, for these peers and nobody else (--secret-file)")
    return ExitCode.OK
