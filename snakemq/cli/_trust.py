"""Options that say who the other side has to be, and what they make of a peer."""

from __future__ import annotations

import argparse
import os
import ssl

from snakemq.authentication import Authentication, CertificateName, SharedSecret
from snakemq.cli._exit import CommandError, UsageError
from snakemq.link import SSLConfig

__all__ = ["add_trust", "authentication", "tls_config"]


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    tls = parser.add_argument_group("TLS", "each of these turns it on")
    tls.add_argument("--tls", action="store_true", help="encrypt all connections")
    tls.add_argument("--tls-key", metavar="FILE", help="private key, PEM")
    tls.add_argument("--tls-cert", metavar="FILE", help="certificate, PEM")
    tls.add_argument(
        "--tls-ca",
        metavar="FILE",
        help="authorities, PEM: the other side must have a certificate of one of them (default: "
        "to dial, those that the system trusts; to listen, it needs none)",
    )
    tls.add_argument(
        "--tls-name",
        metavar="NAME",
        help="host name in the certificate of who is dialled, if it is another one than in "
        "--connect",
    )
    tls.add_argument(
        "--tls-no-host-check",
        action="store_true",
        help="do not compare the host that is dialled with the certificate",
    )
    tls.add_argument(
        "--tls-no-verify",
        action="store_true",
        help="accept any certificate: anybody may be at the other end",
    )
    who = parser.add_argument_group("who the other side is")
    who.add_argument(
        "--secret-file",
        metavar="FILE",
        help="both sides must prove that they know the secret in FILE; see 'snakemq keygen secret'",
    )
    who.add_argument(
        "--verify-ident",
        action="store_true",
        help="its identifier must be in its certificate",
    )


def tls_config(args: argparse.Namespace) -> SSLConfig | None:
    """What the options make of TLS.

    :return: ``None`` without TLS
    :raises UsageError: the options make no sense together
    :raises CommandError: a file is missing
    """
    if not _wants_tls(args):
        return None
    if args.tls_key and not args.tls_cert:
        raise UsageError("--tls-key needs --tls-cert")
    if args.listen and not args.tls_cert:
        raise UsageError("to listen with TLS takes --tls-cert (and --tls-key)")
    if args.tls_ca and args.tls_no_verify:
        raise UsageError("either --tls-ca or --tls-no-verify")
    for path in (args.tls_key, args.tls_cert, args.tls_ca):
        if path is not None and not os.path.isfile(path):
            raise CommandError(f"{path}: no such file")
    return SSLConfig(
        keyfile=args.tls_key,
        certfile=args.tls_cert,
        ca_certs=args.tls_ca,
        cert_reqs=ssl.CERT_NONE if args.tls_no_verify else None,
        check_hostname=False if args.tls_no_host_check or args.tls_no_verify else None,
        server_hostname=args.tls_name,
    )


def _wants_tls(args: argparse.Namespace) -> bool:
    texts = (args.tls_key, args.tls_cert, args.tls_ca, args.tls_name)
    return (
        any(text is not None for text in texts)
        or args.tls
        or args.tls_no_host_check
        or args.tls_no_verify
    )


def authentication(args: argparse.Namespace) -> list[Authentication] | None:
    """How other peers have to show who they are.

    :return: ``None``: they have not
    :raises UsageError: the options make no sense together
    :raises CommandError: there is no secret in the file
    :raises OSError: it can't be read
    """
    ways: list[Authentication] = []
    if args.verify_ident:
        if args.tls_no_verify or (args.listen and not args.tls_ca) or not _wants_tls(args):
            raise UsageError(
                "--verify-ident needs certificates that are verified: --tls-ca (and --tls-cert, "
                "--tls-key)"
            )
        ways.append(CertificateName())
    if args.secret_file is not None:
        try:
            ways.append(SharedSecret.from_file(args.secret_file))
        except ValueError as exc:
            raise CommandError(str(exc)) from exc
    return ways or None
