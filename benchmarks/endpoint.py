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

Some workloads have steps of their own, see :meth:`benchmarks.workloads.Workload.conduct`.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from benchmarks.channel import Channel
from benchmarks.machine import take_core
from benchmarks.memory import allow_open_files
from benchmarks.peers import Certificates, Setting, as_peer
from benchmarks.workloads import WORKLOADS

__all__ = ["main"]


def main() -> None:
    module, workload, side, count, directory, server, certificates, core = sys.argv[1:]
    if core:
        take_core(int(core))
    allow_open_files()
    peer = as_peer(importlib.import_module(module), json.loads(server))
    made = json.loads(certificates)
    setting = Setting(Path(directory), made and Certificates(Path(made)))
    work = WORKLOADS[workload]
    steps = {"listen": work.listen, "dial": work.dial, "hold": work.hold}
    steps[side](peer, Channel(), setting, int(count))


if __name__ == "__main__":
    main()
