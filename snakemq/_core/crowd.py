"""Strangers: how many there may be at a time, and who has to go for one more.

A newcomer is always let in, and the one that has been a stranger for longest
leaves. So somebody who connects and says nothing can't keep others out: real
peers are strangers for a round trip only.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from functools import lru_cache
from typing import Generic, TypeVar

__all__ = ["Crowd", "address_group"]

_Key = TypeVar("_Key")


@lru_cache(maxsize=1024)  # each connection asks several times
def address_group(host: str) -> str:
    """What of an address counts as one place: all of IPv4, the first 64 bits of IPv6.

    Whoever has one address of IPv6 has all that begin with these bits.

    :param host: an address; anything else is a group by itself
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


class Crowd(Generic[_Key]):
    """Who is inside, in the order of their coming.

    :param total: so many at a time
    :param per_group: so many of them of one group
    """

    __slots__ = ("_groups", "_members", "per_group", "total")

    def __init__(self, total: int, per_group: int) -> None:
        self.total = total
        self.per_group = per_group
        self._members: OrderedDict[_Key, str] = OrderedDict()
        # Only those that have members.
        self._groups: dict[str, OrderedDict[_Key, None]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, key: object) -> bool:
        return key in self._members

    def enter(self, key: _Key, group: str) -> _Key | None:
        """Somebody came.

        :return: who has to go for that and is not inside any more; ``None``: nobody
        """
        oldest = None
        members: OrderedDict[_Key, None] = self._groups.get(group, OrderedDict())
        if len(members) >= self.per_group:
            oldest = next(iter(members))
        elif len(self._members) >= self.total:
            oldest = next(iter(self._members))
        if oldest is not None:
            self.leave(oldest)
        self._members[key] = group
        self._groups.setdefault(group, OrderedDict())[key] = None
        return oldest

    def leave(self, key: _Key) -> None:
        """Somebody is a stranger no more, or is gone. Harmless if it was not inside."""
        group = self._members.pop(key, None)
        if group is None:
            return
        members = self._groups[group]
        del members[key]
        if not members:
            del self._groups[group]
