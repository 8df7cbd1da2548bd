"""How many connections the system lets this process have."""

from __future__ import annotations

import selectors
import sys
from typing import Final

__all__ = ["accepted_connections"]

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
