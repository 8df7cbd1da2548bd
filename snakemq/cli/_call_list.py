"""``snakemq call IDENT --list``: what a peer serves."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from snakemq._core.features import Feature
from snakemq.cli._exit import CommandError, ExitCode
from snakemq.cli._options import not_connected
from snakemq.cli._queues_table import one_line
from snakemq.exceptions import NoConnection
from snakemq.peer import Peer
from snakemq.rpc import NotConnected, PartialCall

__all__ = ["list_served"]

#: In front of the docstrings at most, in characters.
_MAX_COLUMN: Final = 44

#: What is said about a method, by key of the description.
_MARKS: Final = {
    "signal": "signal",
    "stream": "stream",
    "at_most_once": "at most once",
    "transactional": "transactional",
}


def list_served(peer: Peer, args: argparse.Namespace) -> None:
    """Ask the receiver what it serves, and print it."""
    if not peer.wait_connected(args.receiver, args.timeout):
        raise not_connected(peer, args)
    try:
        if peer.messaging.peer_features(args.receiver) is None:
            # What it can do comes behind who it is, and before this answer.
            peer.ping(args.receiver, args.timeout)
        features = peer.messaging.peer_features(args.receiver)
        if features is None:
            raise not_connected(peer, args)
        if Feature.CALLS not in features:
            raise CommandError(
                f"{args.receiver} can't tell what it serves:"
                " it is a peer of snakeMQ 1.6 or the like"
            )
        served = peer.rpc_client.describe(args.receiver, args.timeout)
    except (NoConnection, NotConnected):
        raise not_connected(peer, args) from None
    except (PartialCall, TimeoutError):
        raise CommandError(
            f"{args.receiver} did not answer within {args.timeout:g} seconds;"
            " one that serves nothing does not answer",
            ExitCode.NOT_IN_TIME,
        ) from None
    if args.json:
        for entry in served:
            print(json.dumps(entry, ensure_ascii=False))
        return
    lines = list(_lines(served))
    fitting = [len(name) for name, _ in lines if len(name) <= _MAX_COLUMN]
    width = max(fitting, default=0)
    for name, text in lines:
        print(f"{name:<{width}}  {text}".rstrip())


def _lines(served: list[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for entry in served:
        prefix = f"{entry['name']}." if entry["kind"] == "object" and entry["name"] else ""
        for method in entry["methods"]:
            marks = ", ".join(text for key, text in _MARKS.items() if method.get(key))
            doc = str(method["doc"]).partition("\n")[0]
            text = f"({marks}) {doc}" if marks else doc
            # It comes from somebody else.
            yield one_line(f"{prefix}{method['name']}{method['signature']}"), one_line(text)
