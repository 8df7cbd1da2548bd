"""For tests of programs that use this package, and for its own.

* :class:`SimNetwork`: links on a simulated network with a virtual clock and
  faults, all from one seed
* :func:`pair` and :class:`SimStack`: whole stacks on such a network
* :func:`peer_pair`: two real peers over loopback
* :class:`FaultPlan`: random schedules of faults
* :mod:`snakemq.testing.link_contract` and
  :mod:`snakemq.testing.storage_contract`: the suites that every link and every
  storage has to pass
"""

from __future__ import annotations

from snakemq.testing.faults import Fault, FaultPlan
from snakemq.testing.network import Conditions, LinkCrashed, SimLink, SimNetwork
from snakemq.testing.peers import peer_pair
from snakemq.testing.stack import SimStack, pair

__all__ = [
    "Conditions",
    "Fault",
    "FaultPlan",
    "LinkCrashed",
    "SimLink",
    "SimNetwork",
    "SimStack",
    "pair",
    "peer_pair",
]
