"""Options that several verbs have, and the peer that they describe."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from snakemq.cli._exit import EXIT_CODES_HELP, CommandError, ExitCode, UsageError
from snakemq.cli._problems import Problems
from snakemq.cli._queues_table import one_line
from snakemq.cli._trust import add_trust, authentication, tls_config
from snakemq.peer import Peer, format_address
from snakemq.peer._address import parse

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = [
    "IntermixedParser",
    "add_peer_parser",
    "add_timeout",
    "count",
    "not_connected",
    "positive",
    "require_way",
    "running_peer",
]


class IntermixedParser(argparse.ArgumentParser):
    """Takes options anywhere, also between ``IDENT`` and ``TEXT``; :mod:`argparse` does not."""

    _inside = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Called once for the verb, and by itself for the parts."""
        if self._inside or self._subparsers is not None:  # which do so themselves
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False


def add_peer_parser(
    verbs: Verbs, name: str, *, summary: str, description: str, examples: str
) -> argparse.ArgumentParser:
    """Add a verb that talks to other peers, with the options that say how."""
    parser = verbs.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"examples:\n{examples}\n{EXIT_CODES_HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_argument_group(
        "connections", "HOST:PORT, [IPV6]:PORT, :PORT (all interfaces) or PORT (this machine only)"
    )
    group.add_argument(
        "--connect",
        metavar="HOST:PORT",
        action="append",
        default=[],
        type=_connector,
        help="dial this peer; can be repeated",
    )
    group.add_argument(
        "--listen",
        metavar="HOST:PORT",
        action="append",
        default=[],
        type=_listener,
        help="listen here; can be repeated; port 0: any free one",
    )
    group.add_argument("--ident", metavar="NAME", help="identifier of this peer")
    add_trust(parser)
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="log to standard error; twice: everything",
    )
    return parser


def add_timeout(parser: argparse.ArgumentParser, default: float | None, meaning: str) -> None:
    """Add ``--timeout``."""
    shown = "no limit" if default is None else f"{default:g}"
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=positive,
        default=default,
        help=f"{meaning} (default: {shown})",
    )


def positive(text: str) -> float:
    """An argument that is a number above 0."""
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def count(text: str) -> int:
    """An argument that is a whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _listener(text: str) -> tuple[str, int]:
    return _address(text, listen=True)


def _connector(text: str) -> tuple[str, int]:
    return _address(text, listen=False)


def _address(text: str, *, listen: bool) -> tuple[str, int]:
    try:
        return parse(text, listen=listen)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def require_way(args: argparse.Namespace) -> None:
    """Refuse a command line that says neither where to listen nor whom to dial.

    :raises UsageError: it is one
    """
    if not args.connect and not args.listen:
        raise UsageError("say where: --connect HOST:PORT or --listen HOST:PORT")


@contextlib.contextmanager
def running_peer(args: argparse.Namespace, **kwargs: Any) -> Iterator[Peer]:
    """For ``with``: the peer that the options describe.

    :param kwargs: more arguments for it
    :raises UsageError: the options make no sense
    :raises OSError: an address can't be listened on
    """
    level = (logging.ERROR, logging.INFO, logging.DEBUG)[min(args.verbose, 2)]
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("snakemq").setLevel(level)
    try:
        peer = Peer(
            args.ident or f"snakemq-{os.urandom(6).hex()}",
            listen=args.listen,
            connect=args.connect,
            tls=tls_config(args),
            authentication=authentication(args),
            **kwargs,
        )
    except (TypeError, ValueError) as exc:
        raise UsageError(str(exc)) from exc
    args.problems = Problems()
    peer.on_error.add(args.problems.note)
    with peer:
        # When whatever ends this closes the peer, too: somebody who reads this
        # may press Ctrl-C.
        for address in peer.addresses:
            # For whom asked for port 0, and to see that it works.
            print(f"{peer.identifier} listens on {format_address(address)}", file=sys.stderr)
        yield peer


def not_connected(peer: Peer, args: argparse.Namespace) -> CommandError:
    """What to raise when the receiver did not come in time."""
    text = f"{args.receiver} was not connected within {args.timeout:g} seconds"
    if peer.peers:
        text += f"; who is connected: {', '.join(map(one_line, peer.peers))}"
    if args.problems.last is not None:
        text += f"; {args.problems.last}"
    elif not peer.peers and not args.verbose:
        text += "; try -v to see why"
    return CommandError(text, ExitCode.NOT_IN_TIME)
