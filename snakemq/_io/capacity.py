"""How many connections the system lets this process have, and how many strangers."""

from __future__ import annotations

import selectors
import sys
from dataclasses import replace
from typing import Final

from snakemq.limits import ConnectionLimits

__all__ = ["accepted_connections", "fitting"]

#: How much of what the process may have open connections that are accepted may
#: take, in percent. The rest is for files, above all those of the storage, and for
#: connections that this side makes.
_SHARE: Final = 75

#: So many sockets can be watched where there is nothing but ``select()``.
_WATCHED_BY_SELECT: Final = 512


def accepted_connections(selector: selectors.BaseSelector) -> int | None:
    """How many accepted connections may be open at a time.

    Without descriptors nobody in the process could open a file, and more sockets than
    ``select()`` takes would end the loop: so who connects must not get that far.

    :param selector: that watches them
    :return: ``None``: the system has no limit
    """
    limits = []
    if isinstance(selector, selectors.SelectSelector):
        limits.append(_WATCHED_BY_SELECT)
    if sys.platform != "win32":
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            limits.append(soft)
    return max(1, min(limits) * _SHARE // 100) if limits else None


def fitting(limits: ConnectionLimits, selector: selectors.BaseSelector) -> ConnectionLimits:
    """The same limits, but strangers leave room for those who are none.

    They may have half of all connections at most, and handshakes a quarter: when there
    are too many strangers the oldest one has to go, but when there are too many
    connections a newcomer is not let in, and that might be a real peer.

    :param selector: that watches the connections
    """
    connections = limits.max_connections
    possible = accepted_connections(selector)
    if possible is not None:
        connections = min(connections, possible)
    return replace(
        limits,
        max_unidentified=min(limits.max_unidentified, max(1, connections // 2)),
        max_handshakes=min(limits.max_handshakes, max(1, connections // 4)),
    )
