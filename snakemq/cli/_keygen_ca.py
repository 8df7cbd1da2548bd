"""``snakemq keygen ca``: a certificate authority of one's own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from snakemq.cli._exit import ExitCode
from snakemq.cli._keygen_options import (
    add_common,
    check_text,
    config_text,
    days,
    random_serial,
)
from snakemq.cli._new_files import publish, refuse_existing, workshop
from snakemq.cli._openssl import OpenSsl

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Make a certificate authority: ca.key, the secret on which everything rests, and
ca.crt, which every peer needs. Do it once, on a machine that you trust.
"""

_EXAMPLES = """\
examples:
  snakemq keygen ca
  snakemq keygen ca --dir /media/stick --name "our peers" --days 7300
"""

#: What is in its certificate, besides its name. A strict verifier wants all of it.
_EXTENSIONS: Final = """\
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""


def add_parser(kinds: Verbs) -> None:
    """Add it to what can be made."""
    parser = kinds.add_parser(
        "ca",
        help="make a certificate authority",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common(parser)
    parser.add_argument(
        "--name", default="snakemq peers", help="what it is called (default: snakemq peers)"
    )
    parser.add_argument(
        "--days",
        metavar="N",
        type=days,
        default=3650,
        help="how long its certificate is valid (default: 3650)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Make it."""
    directory: Path = args.dir
    name = check_text(args.name, "the name")
    key, cert = directory / "ca.key", directory / "ca.crt"
    refuse_existing((key, cert), force=args.force)
    with workshop(directory) as work:
        openssl = OpenSsl(work)
        (work / "config").write_text(config_text(name, _EXTENSIONS), "utf-8")
        openssl.make_key("key")
        openssl.make_authority("config", "key", "cert", days=args.days, serial=random_serial())
        publish({key: work / "key", cert: work / "cert"}, force=args.force)
    print(f"{key}: private key of the authority; keep it secret, no peer needs it")
    print(f"{cert}: its certificate, for all peers (--tls-ca)")
    return ExitCode.OK
