"""The test suite that every link has to pass.

Derive a class from :class:`LinkContract` in a test module of your own, and
pytest runs all of it against your link::

    class TestMyLink(LinkContract):
        def make_pair(self):
            return MyPair()

where ``MyPair`` is a :class:`LinkPair` that makes two of your links and knows
how to run and to connect them. What stands in front of another link, as a
throttle does, is a link too.
"""

from __future__ import annotations

from snakemq.testing._link_loop import FailureContract, LoopContract
from snakemq.testing._link_pair import LinkPair
from snakemq.testing._link_streams import (
    ClosingContract,
    LifeContract,
    ReceivingContract,
    SendingContract,
)

__all__ = ["LinkContract", "LinkPair"]


class LinkContract(
    LifeContract,
    SendingContract,
    ReceivingContract,
    ClosingContract,
    LoopContract,
    FailureContract,
):
    """What :class:`~snakemq.contracts.LinkInterface` promises, as tests."""
