"""``snakemq keygen fingerprint``: what tells a certificate from all others."""

from __future__ import annotations

import argparse
import hashlib
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final

from snakemq.cli._exit import CommandError, ExitCode

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Print the SHA-256 fingerprint of a certificate, as
snakemq.authentication.CertificateFingerprint takes it. Of several certificates
in the file it is that of the first one, which is the one of the peer.
"""

_EXAMPLES = """\
examples:
  snakemq keygen fingerprint bob.crt
"""

#: A certificate in a PEM file (RFC 7468), where other things may be, too.
_CERTIFICATE: Final = re.compile(
    "-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL
)


def add_parser(kinds: Verbs) -> None:
    """Add it to what can be made."""
    parser = kinds.add_parser(
        "fingerprint",
        help="print the fingerprint of a certificate",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="certificate, PEM")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Print it."""
    path: Path = args.file
    found = _CERTIFICATE.search(path.read_text("latin-1"))
    if found is None:
        raise CommandError(f"{path} is not a certificate in the PEM format")
    try:
        der = ssl.PEM_cert_to_DER_cert(found[0])
        # Which reads it; a fingerprint of nonsense would be of no use.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
    except ValueError as exc:
        raise CommandError(f"the certificate in {path} is damaged: {exc}") from exc
    except ssl.SSLError as exc:
        raise CommandError(f"the certificate in {path} is damaged: {exc.reason}") from exc
    print(hashlib.sha256(der).digest().hex(":"))
    return ExitCode.OK
