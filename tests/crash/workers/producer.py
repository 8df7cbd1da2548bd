"""Sends numbered messages as fast as it can, for ever. Usage: ``producer.py OPTIONS``.

Options: ``ident``, ``connect`` (port), ``to``, ``size`` of each message in
bytes, ``limit``: how many may be queued; optional ``storage`` (path).

Commands: ``report``: tell how many are queued.
"""

from __future__ import annotations

import struct

from control import Control

from snakemq import Peer
from snakemq.limits import QueueLimits, WhenFull


def main() -> None:
    control = Control()
    options = control.options
    to = options["to"]
    with Peer(options["ident"], connect=options["connect"], storage=options.get("storage")) as peer:
        peer.messaging.queue_limits = QueueLimits(
            max_messages=options["limit"],
            max_stored_messages=options["limit"],
            when_full=WhenFull.BLOCK,
        )
        control.at_once("report", lambda: control.say(queued=peer.queued(to)))
        control.start()
        control.say(ready=None)
        rest = bytes(options["size"] - 8)
        number = 0
        while True:
            peer.send(to, struct.pack("!Q", number) + rest)
            number += 1


if __name__ == "__main__":
    main()
