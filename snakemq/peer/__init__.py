"""A whole stack in one object, for programs that never want to see the layers.

:class:`Peer` is the object, :class:`ReceivedMessage` and :class:`Delivery` what
it hands out, :class:`CallLimits` what it takes.
"""

from __future__ import annotations

from snakemq.peer._address import Address, Addresses, AddressLike, format_address
from snakemq.peer._batch import Batch, PeerTransaction
from snakemq.peer._call_limits import CallLimits
from snakemq.peer._delivery import Delivery, DeliveryState
from snakemq.peer._inbox import DEFAULT_INBOX_LIMIT, ReceivedMessage
from snakemq.peer._peer import DEFAULT_DRAIN, DEFAULT_KEEPALIVE, Peer

__all__ = [
    "DEFAULT_DRAIN",
    "DEFAULT_INBOX_LIMIT",
    "DEFAULT_KEEPALIVE",
    "Address",
    "AddressLike",
    "Addresses",
    "Batch",
    "CallLimits",
    "Delivery",
    "DeliveryState",
    "Peer",
    "PeerTransaction",
    "ReceivedMessage",
    "format_address",
]
