"""``snakemq listen``: print or pipe the messages that arrive."""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from snakemq.cli._exit import CommandError, ExitCode, UsageError
from snakemq.cli._options import add_peer_parser, add_timeout, count, require_way, running_peer
from snakemq.cli._queues_table import one_line
from snakemq.peer import ReceivedMessage

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Receive messages until Ctrl-C and write the payload of each to standard output,
as a line of text.
"""

_EXAMPLES = """\
  snakemq listen --ident bob --listen 4000
  snakemq listen --ident bob --listen :4000 --json | jq .text
  snakemq listen --ident bob --connect example.org:4000 --count 1 --raw > file
  snakemq listen --ident bob --listen 4000 --exec 'mail -s "$SNAKEMQ_IDENT" root'

with --json a line is an object:
  ident        who sent it
  uuid         identifier of the message, hexadecimal
  ttl          seconds it had left when it was sent, null: infinite
  flags        number
  redelivered  whether it may have come before
  text         the payload, if it is UTF-8 ...
  base64       ... or else this
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = add_peer_parser(
        verbs,
        "listen",
        summary="print or pipe what arrives",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--raw", action="store_true", help="payloads as they are, without newlines")
    form.add_argument("--json", action="store_true", help="one JSON object in each line")
    form.add_argument(
        "--exec",
        metavar="CMD",
        help="run a shell command for each message, with the payload on its standard input and "
        "SNAKEMQ_IDENT, SNAKEMQ_UUID and SNAKEMQ_REDELIVERED (0 or 1) in its environment; one "
        "after the other",
    )
    parser.add_argument(
        "--from", dest="sender", metavar="IDENT", help="only messages from this peer"
    )
    parser.add_argument("--count", metavar="N", type=count, help="end after N messages")
    add_timeout(parser, None, "end with status 3 if no message comes for so long")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Receive until there is enough."""
    require_way(args)
    if not args.ident:
        raise UsageError("say who this is, so that others can send: --ident NAME")
    if args.exec is None and sys.stdout is None:
        raise CommandError("there is no standard output to write to")
    handle = _handler(args)
    left = args.count
    all_well = True
    with running_peer(args) as peer:
        for received in peer.messages(args.timeout):
            if args.sender is not None and received.ident != args.sender:
                continue
            all_well &= handle(received)
            if left is not None:
                left -= 1
                if left == 0:
                    return ExitCode.OK if all_well else ExitCode.FAILED
    raise CommandError(f"no message for {args.timeout:g} seconds", ExitCode.NOT_IN_TIME)


def _handler(args: argparse.Namespace) -> Callable[[ReceivedMessage], bool]:
    """What to do with a message; returns whether that went well."""
    if args.exec is not None:
        return lambda received: _execute(args.exec, received)
    encode = _raw if args.raw else _json_line if args.json else _text_line

    def write(received: ReceivedMessage) -> bool:
        out = sys.stdout.buffer
        out.write(encode(received))
        out.flush()
        return True

    return write


def _raw(received: ReceivedMessage) -> bytes:
    return received.data


def _text_line(received: ReceivedMessage) -> bytes:
    text = received.data.decode("utf-8", "replace")
    return f"{text}{os.linesep}".encode(sys.stdout.encoding, "replace")


def _json_line(received: ReceivedMessage) -> bytes:
    record: dict[str, object] = {
        "ident": received.ident,
        "uuid": received.uuid.hex(),
        "ttl": received.ttl,
        "flags": received.flags,
        "redelivered": received.redelivered,
    }
    try:
        record["text"] = received.text
    except UnicodeDecodeError:
        record["base64"] = base64.b64encode(received.data).decode("ascii")
    return json.dumps(record).encode("ascii") + b"\n"


def _execute(command: str, received: ReceivedMessage) -> bool:
    env = {
        **os.environ,
        "SNAKEMQ_IDENT": received.ident.replace("\0", ""),
        "SNAKEMQ_UUID": received.uuid.hex(),
        "SNAKEMQ_REDELIVERED": str(int(received.redelivered)),
    }
    # The shell is what --exec is for; nothing of the message is in the command.
    status = subprocess.run(command, shell=True, input=received.data, env=env).returncode
    if status != 0:
        print(
            f"snakemq listen: the command ended with status {status} for message "
            f"{received.uuid.hex()} from {one_line(received.ident)}",
            file=sys.stderr,
        )
    return status == 0
