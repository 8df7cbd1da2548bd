"""The peers by name. A new one is a module in this package and an entry here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.environments import Environment, installed, this_tree

__all__ = ["BASELINES", "PEERS", "Peer"]


@dataclass(frozen=True)
class Peer:
    """Somebody who is measured.

    :param module: what to import in the processes
    :param environment: gives the Python and the packages of the processes,
        installs what is missing in the directory that it gets
    """

    module: str
    environment: Callable[[Path], Environment]


#: In the order of the table.
PEERS: Final[dict[str, Peer]] = {
    "snakemq": Peer("benchmarks.peers.layers", this_tree),
    "snakemq-peer": Peer("benchmarks.peers.facade", this_tree),
    "snakemq-1.6": Peer(
        "benchmarks.peers.release_16",
        installed(
            "snakeMQ==1.6",
            check="from benchmarks.peers import release_16; release_16.receive(print).close()",
        ),
    ),
    "raw": Peer("benchmarks.peers.raw", this_tree),
}

#: Whom the others are compared with: what was there before, and the limit.
BASELINES: Final = ("snakemq-1.6", "raw")
