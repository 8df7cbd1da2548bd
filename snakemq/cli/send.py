"""``snakemq send``: send a message and wait until it is acknowledged."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from snakemq.cli._exit import CommandError, ExitCode, UsageError
from snakemq.cli._options import (
    add_peer_parser,
    add_timeout,
    not_connected,
    positive,
    require_way,
    running_peer,
)
from snakemq.peer import Delivery, DeliveryState, Peer
from snakemq.storage._open import hide_password

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Send one message and wait until the receiver has acknowledged it: its callbacks
have run. (A 1.6 receiver acknowledges only with --storage; else it is enough
that the message was handed over.) With --storage it waits in a file if that
can't be done now, and any later 'send' with the same file delivers it, in
order.
"""

_EXAMPLES = """\
  snakemq send bob "hello" --connect 4000
  snakemq send bob --file photo.jpg --connect bob.example.org:4000
  date | snakemq send bob - --connect 4000
  snakemq send bob "hello" --listen :4000 --timeout 600     bob dials in

  keep what can't be delivered now, and deliver it later:
  snakemq send bob "one" --storage queue.db --no-wait
  snakemq send bob --storage queue.db --connect 4000
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = add_peer_parser(
        verbs,
        "send",
        summary="send text, a file or standard input",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
    )
    parser.add_argument("receiver", metavar="IDENT", help="identifier of the receiver")
    parser.add_argument(
        "text",
        metavar="TEXT",
        nargs="?",
        help="the payload; '-': standard input; nothing, with --storage: only what waits there",
    )
    parser.add_argument("--file", metavar="FILE", type=Path, help="take the payload from a file")
    parser.add_argument(
        "--ttl",
        metavar="SECONDS",
        type=positive,
        help="drop the message if the receiver was not connected for so long (default: never)",
    )
    parser.add_argument("--storage", metavar="FILE", help="keep the message in this SQLite file")
    parser.add_argument(
        "--no-wait", action="store_true", help="put it into --storage and end at once"
    )
    add_timeout(parser, 10.0, "how long to wait until everything is acknowledged")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Send, and wait for the outcome."""
    if args.no_wait and not args.storage:
        raise UsageError("--no-wait would lose the message; give it a --storage FILE")
    if not args.no_wait:
        require_way(args)
    payload = _payload(args)
    if payload is None and not args.storage:
        raise UsageError("nothing to send: give TEXT, '-' for standard input, or --file")
    with running_peer(args, storage=args.storage) as peer:
        try:
            if args.no_wait:
                if payload is not None:
                    _send(peer, args, payload)
            elif payload is None:
                _flush(peer, args)
            else:
                _deliver(peer, args, payload)
        except CommandError:
            peer.stop(drain=0)  # it was waited for long enough
            raise
    return ExitCode.OK


def _payload(args: argparse.Namespace) -> bytes | None:
    if args.file is not None:
        if args.text is not None:
            raise UsageError("either TEXT or --file")
        data: bytes = args.file.read_bytes()
        return data
    if args.text == "-":
        return sys.stdin.buffer.read()
    # What the shell passed is what is sent, whatever its encoding.
    return None if args.text is None else os.fsencode(args.text)


def _send(peer: Peer, args: argparse.Namespace, payload: bytes) -> Delivery:
    try:
        return peer.send(args.receiver, payload, ttl=args.ttl, track=True)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc


def _deliver(peer: Peer, args: argparse.Namespace, payload: bytes) -> None:
    delivery = _send(peer, args, payload)
    try:
        state = delivery.wait(timeout=args.timeout)
    except TimeoutError:
        raise _late(peer, args) from None
    if state is DeliveryState.EXPIRED:
        raise CommandError(
            f"dropped: {args.receiver} was not connected for {args.ttl:g} seconds",
            ExitCode.NOT_IN_TIME,
        )


def _flush(peer: Peer, args: argparse.Namespace) -> None:
    if not peer.flush(args.receiver, args.timeout):
        raise _late(peer, args)


def _late(peer: Peer, args: argparse.Namespace) -> CommandError:
    if peer.is_connected(args.receiver):
        problem = CommandError(
            f"{args.receiver} did not acknowledge it within {args.timeout:g} seconds",
            ExitCode.NOT_IN_TIME,
        )
    else:
        problem = not_connected(peer, args)
    if args.storage:
        storage = hide_password(args.storage)
        problem = CommandError(
            f"{problem}; messages that wait for it in {storage}: {peer.queued(args.receiver)}",
            problem.code,
        )
    return problem
