"""``snakemq version``: what is installed here."""

from __future__ import annotations

import argparse
import platform
from typing import TYPE_CHECKING

from snakemq.cli._exit import ExitCode
from snakemq.version import PROTOCOL_VERSION, VERSION

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["add_parser", "run"]


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = verbs.add_parser("version", help="print the version")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Print the versions."""
    print(
        f"snakemq {VERSION} (protocol {PROTOCOL_VERSION}), "
        f"{platform.python_implementation()} {platform.python_version()}"
    )
    return ExitCode.OK
