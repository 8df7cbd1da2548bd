"""The peer that is attacked: a process of its own. Usage: ``hostile_victim.py OPTIONS``.

``OPTIONS``, in JSON: ``name`` (its identifier), ``limits`` (of :class:`ConnectionLimits`),
``certificate`` and ``key`` (files, for a second listener), ``files`` (how many it may open,
if there is a limit). The first line on standard output
has the ports; after that each line on standard input is answered with how the process is.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import threading
import time
from pathlib import Path

from snakemq.limits import ConnectionLimits
from snakemq.link import Link, SSLConfig
from snakemq.messaging import Messaging, ReceiveHook
from snakemq.packeter import Packeter
from snakemq.rpc import RpcServer


class Echo:
    """What the real peer calls."""

    def echo(self, value: object) -> object:
        return value


def main() -> None:
    options = json.loads(sys.argv[1])
    if "files" in options:
        resource.setrlimit(resource.RLIMIT_NOFILE, (options["files"], options["files"]))
    link = Link(limits=ConnectionLimits(**options["limits"]))
    packeter = Packeter(link)
    messaging = Messaging(options["name"], "", packeter)
    messaging.keepalive_interval = 30.0  # as a Peer has it
    messaging.keepalive_wait = 10.0
    server = RpcServer(ReceiveHook(messaging))
    server.register_object(Echo(), "echo")
    port = link.add_listener(("127.0.0.1", 0))[1]
    tls = SSLConfig(options["key"], options["certificate"])
    tls_port = link.add_listener(("127.0.0.1", 0), tls)[1]
    threading.Thread(target=link.loop, daemon=True).start()

    def tell(**facts: object) -> None:
        print(json.dumps(facts), flush=True)

    tell(port=port, tls_port=tls_port)
    page = os.sysconf("SC_PAGE_SIZE")
    for line in sys.stdin:
        if line == "collect\n":
            gc.collect()
        counters = {}
        for layer in (link, packeter, messaging):
            counters.update(layer.counters.as_dict())
        tell(
            resident=int(Path("/proc/self/statm").read_text("ascii").split()[1]) * page,
            cpu=time.process_time(),
            time=time.monotonic(),
            accepted=len(link.admission),
            peers=len(messaging.connected_peers()),
            counters=counters,
        )


if __name__ == "__main__":
    main()
