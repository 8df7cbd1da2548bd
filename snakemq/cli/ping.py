"""``snakemq ping``: measure round trips, like ping(8)."""

from __future__ import annotations

import argparse
import itertools
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from snakemq.cli._exit import ExitCode
from snakemq.cli._options import (
    add_peer_parser,
    add_timeout,
    count,
    not_connected,
    positive,
    require_way,
    running_peer,
)
from snakemq.exceptions import NoConnection
from snakemq.peer import Peer
from snakemq.peer._waiting import wait_for_event

if TYPE_CHECKING:
    from snakemq.cli._options import Verbs

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Ask a peer for answers and print how long each takes. Any peer answers, those
of snakeMQ 1.6 too. An answer comes when the peer's callbacks for all earlier
messages have returned: a busy peer is a slow one. Ends with status 3 if there
was no answer at all.
"""

_EXAMPLES = """\
  snakemq ping bob --connect 4000
  snakemq ping bob --connect 4000 -c 3 -i 0.2
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = add_peer_parser(
        verbs,
        "ping",
        summary="measure round trips to a peer",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
    )
    parser.add_argument("receiver", metavar="IDENT", help="identifier of the peer")
    parser.add_argument(
        "-c", "--count", metavar="N", type=count, help="end after N (default: with Ctrl-C)"
    )
    parser.add_argument(
        "-i",
        "--interval",
        metavar="SECONDS",
        type=positive,
        default=1.0,
        help="from one to the next (default: 1)",
    )
    add_timeout(parser, 10.0, "how long to wait for the connection, and for each answer")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Ping until told to end, then sum up."""
    require_way(args)
    times: list[float | None] = []
    with running_peer(args) as peer:
        print(f"PING {args.receiver} from {peer.identifier}", flush=True)
        try:
            if not peer.wait_connected(args.receiver, args.timeout):
                raise not_connected(peer, args)
            _ping_all(peer, args, times)
        finally:
            # With Ctrl-C, too: that is how most measurements end.
            if times:
                _sum_up(args.receiver, times)
    return ExitCode.OK if any(time is not None for time in times) else ExitCode.NOT_IN_TIME


def _ping_all(peer: Peer, args: argparse.Namespace, times: list[float | None]) -> None:
    numbers: Iterable[int] = itertools.count(1) if args.count is None else range(1, args.count + 1)
    pause = threading.Event()  # never set; to wait without being deaf to Ctrl-C
    for number in numbers:
        if number > 1:
            wait_for_event(pause, args.interval)
        times.append(None)
        try:
            times[-1] = peer.ping(args.receiver, args.timeout)
        except (NoConnection, TimeoutError) as exc:
            print(f"no answer from {args.receiver}: seq={number} ({exc})", flush=True)
            peer.wait_connected(args.receiver, args.timeout)
        else:
            print(
                f"answer from {args.receiver}: seq={number} time={_ms(times[-1] or 0.0)} ms",
                flush=True,
            )


def _sum_up(ident: str, times: list[float | None]) -> None:
    answered = [time for time in times if time is not None]
    loss = 100 * (len(times) - len(answered)) / len(times)
    print(f"\n--- {ident} ping statistics ---")
    print(f"{len(times)} sent, {len(answered)} answered, {loss:.4g}% loss")
    if answered:
        average = sum(answered) / len(answered)
        print(
            f"round trip min/avg/max = {_ms(min(answered))}/{_ms(average)}/{_ms(max(answered))} ms"
        )
    sys.stdout.flush()


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3f}"
