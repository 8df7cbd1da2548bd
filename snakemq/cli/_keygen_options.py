"""What ``keygen ca`` and ``keygen peer`` have in common."""

from __future__ import annotations

import argparse
import secrets
import unicodedata
from pathlib import Path
from typing import Final

from snakemq.cli._exit import UsageError
from snakemq.cli._openssl import quote_value
from snakemq.cli._options import count

__all__ = ["add_common", "check_text", "config_text", "days", "random_serial"]

#: Of the name in a certificate, in characters (RFC 5280, ub-common-name).
_MAX_NAME: Final = 64

#: A century: beyond that, dates of certificates have no room for the year at some time.
_MAX_DAYS: Final = 36500


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options where to put the files, and what may be replaced."""
    parser.add_argument(
        "--dir",
        metavar="DIR",
        type=Path,
        default=Path(),
        help="where to put the files (default: here)",
    )
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def days(text: str) -> int:
    """An argument that says how long a certificate is valid."""
    value = count(text)
    if value > _MAX_DAYS:
        raise argparse.ArgumentTypeError(f"at most {_MAX_DAYS} days, not {text}")
    return value


def check_text(text: str, what: str) -> str:
    """Text that a certificate can contain.

    :raises UsageError: it can't
    """
    if not 1 <= len(text) <= _MAX_NAME:
        raise UsageError(f"{what} must have 1 to {_MAX_NAME} characters, not {len(text)}")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in text):
        raise UsageError(f"{what} {text!r} has characters that no certificate can contain")
    return text


def config_text(name: str, extensions: str) -> str:
    """What ``openssl`` has to know for a certificate, as its configuration file."""
    return f"""\
[req]
distinguished_name = subject
prompt = no
utf8 = yes
string_mask = utf8only

[subject]
CN = {quote_value(name)}

[extensions]
{extensions}"""


def random_serial() -> int:
    """A serial number that no other certificate has: positive, at most 20 bytes."""
    return secrets.randbits(158) | 1 << 158
