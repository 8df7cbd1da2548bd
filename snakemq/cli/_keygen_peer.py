"""``snakemq keygen peer``: key and certificate of a peer."""

from __future__ import annotations

import argparse
import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from snakemq.cli._exit import CommandError, ExitCode, UsageError
from snakemq.cli._keygen_options import (
    add_common,
    check_text,
    config_text,
    days,
    random_serial,
)
from snakemq.cli._new_files import publish, refuse_existing, workshop
from snakemq.cli._openssl import OpenSsl, quote_value
from snakemq.peer._arguments import check_ident

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Make the private key and the certificate of a peer, signed by the authority that
'snakemq keygen ca' has made. The certificate is for the identifier, which the
other peers can compare (--verify-ident), and for the host names and addresses
by which the others dial this peer, which they compare by default.
"""

_EXAMPLES = """\
examples:
  snakemq keygen peer alice
  snakemq keygen peer bob --host bob.example.org --host 10.0.0.7
  snakemq keygen peer bob --dir /media/stick --ca ~/authority --force

bob.key and bob.crt get their names from the identifier. Of that, letters, digits
and _ - . @ + stay, and other characters are written as in a URL, such as %2F.
"""

#: Where a peer can be tried that nobody dials from elsewhere.
_THIS_MACHINE: Final = ("localhost", "127.0.0.1", "::1")

_HOST: Final = re.compile(
    r"(\*\.)?(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*"
)
_MAX_HOST: Final = 253

#: Names that are devices on Windows, in any directory and with any suffix.
_DEVICE: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)

#: What is in its certificate, besides names. A strict verifier wants all of it.
_EXTENSIONS: Final = """\
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = @names

[names]
"""


def add_parser(kinds: Verbs) -> None:
    """Add it to what can be made."""
    parser = kinds.add_parser(
        "peer",
        help="make the key and the certificate of a peer",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("ident", metavar="IDENT", help="identifier of the peer")
    parser.add_argument(
        "--host",
        metavar="HOST",
        dest="hosts",
        action="append",
        help="name or IP address by which others dial it; can be repeated "
        "(default: localhost, 127.0.0.1 and ::1)",
    )
    parser.add_argument(
        "--ca",
        metavar="PATH",
        type=Path,
        help="the authority: a directory with ca.key and ca.crt, or PATH.key and PATH.crt "
        "(default: --dir)",
    )
    add_common(parser)
    parser.add_argument(
        "--days",
        metavar="N",
        type=days,
        default=825,
        help="how long the certificate is valid (default: 825)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Make them."""
    try:
        check_ident(args.ident, "the identifier")
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    ident = check_text(args.ident, "the identifier")
    hosts = args.hosts or _THIS_MACHINE
    config = config_text(ident, _EXTENSIONS + _names(ident, hosts))
    directory: Path = args.dir
    ca_key, ca_cert = _authority(args.ca or directory)
    key, cert = (directory / f"{_file_name(ident)}{suffix}" for suffix in (".key", ".crt"))
    for ours in (key, cert):
        for theirs in (ca_key, ca_cert):
            if ours.exists() and ours.samefile(theirs):
                raise UsageError(f"{ours} belongs to the authority; use another --dir for {ident}")
    refuse_existing((key, cert), force=args.force)
    with workshop(directory) as work:
        openssl = OpenSsl(work)
        (work / "config").write_text(config, "utf-8")
        openssl.make_key("key")
        openssl.make_certificate(
            *("config", "key", "cert"),
            ca_key=ca_key,
            ca_cert=ca_cert,
            days=args.days,
            serial=random_serial(),
        )
        publish({key: work / "key", cert: work / "cert"}, force=args.force)
    print(f"{key}: private key, for {ident} and nobody else (--tls-key)")
    print(f"{cert}: certificate for {ident} at {', '.join(hosts)} (--tls-cert)")
    return ExitCode.OK


def _authority(where: Path) -> tuple[Path, Path]:
    base = where / "ca" if where.is_dir() else where
    key, cert = Path(f"{base}.key"), Path(f"{base}.crt")
    for path in (key, cert):
        if not path.is_file():
            raise CommandError(
                f"there is no {path}; say where the authority is with --ca, "
                "or make one with 'snakemq keygen ca'"
            )
    return key, cert


def _names(ident: str, hosts: list[str] | tuple[str, ...]) -> str:
    """What the certificate is for, as a section of the configuration file."""
    lines = [f"URI = {quote_value('snakemq:' + quote(ident, safe=''))}"]
    for number, host in enumerate(hosts):
        kind, name = _host(host)
        lines.append(f"{kind}.{number} = {name}")
    return "\n".join(lines) + "\n"


def _host(text: str) -> tuple[str, str]:
    """A host, and whether it is a name or an address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        pass
    else:
        if "%" not in text:  # of an interface; another machine has others
            return "IP", str(address)
    try:
        name = text.encode("idna").decode("ascii")
    except UnicodeError:
        name = ""
    name = name.removesuffix(".")
    # An address with a mistake looks like a name, but no top level domain is a number.
    if len(name) > _MAX_HOST or not _HOST.fullmatch(name) or name.rpartition(".")[2].isdigit():
        raise UsageError(f"{text!r} is not the name of a host, nor an IP address (without a port)")
    return "DNS", name


def _file_name(ident: str) -> str:
    """A name for a file, in no directory but the chosen one, that is no option either."""
    name = "".join(
        char if char.isalnum() or char in "_-.@+" else quote(char, safe="") for char in ident
    )
    if name[0] in ".-" or _DEVICE.match(name):
        return f"%{ord(name[0]):02X}{name[1:]}"
    return name
