"""One side of one run. Started by :mod:`benchmarks.runner`, not by hand.

====================  ========================  ================================
the runner tells      the side that listens     the side that dials
====================  ========================  ================================
(nothing)             ``listening``: address
``dial``: address                               ``ready``: connected, warmed up
``prepare``           ``prepared``
``go``                                          ``done``: what it measured
``finish``            ``finished``: likewise    ``finished``: likewise
``close``             ``closed``                ``closed``
====================  ========================  ================================
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from benchmarks.channel import Channel
from benchmarks.peers import Setting, as_peer
from benchmarks.workloads import WORKLOADS

__all__ = ["main"]


def main() -> None:
    module, workload, side, count, directory, server = sys.argv[1:]
    peer = as_peer(importlib.import_module(module), json.loads(server))
    setting = Setting(Path(directory))
    work = WORKLOADS[workload]
    (work.listen if side == "listen" else work.dial)(peer, Channel(), setting, int(count))


if __name__ == "__main__":
    main()
