"""``snakemq keygen``: keys, certificates and secrets for peers.

A module ``_keygen_*`` for each thing that can be made.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from snakemq.cli import _keygen_ca, _keygen_fingerprint, _keygen_peer, _keygen_secret
from snakemq.cli._exit import EXIT_CODES_HELP

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["add_parser"]

_DESCRIPTION = """\
Make what peers need to know each other: a certificate authority of your own
and a certificate for each peer, or a secret that they share. Keys and
certificates are made by the program 'openssl', which has to be installed.
Nothing that exists is replaced, unless --force is given.
"""

_EXAMPLES = """\
  snakemq keygen ca                               once: ca.key and ca.crt
  snakemq keygen peer bob --host bob.example.org  for each peer: bob.key, bob.crt
  snakemq keygen peer alice                       one that only dials
  snakemq keygen secret secret.txt                instead, or as well
  snakemq keygen fingerprint bob.crt              to trust this one certificate
"""

_KINDS = (_keygen_ca, _keygen_peer, _keygen_secret, _keygen_fingerprint)


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser(
        "keygen",
        help="make keys, certificates and secrets",
        description=_DESCRIPTION,
        epilog=f"examples:\n{_EXAMPLES}\n{EXIT_CODES_HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(
        dest="kind",
        metavar="WHAT",
        required=True,
        # Which, unlike the others here, takes an identifier with a dash behind "--".
        parser_class=argparse.ArgumentParser,
    )
    for kind in _KINDS:
        kind.add_parser(kinds)
