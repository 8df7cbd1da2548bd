"""Builds the tower of layers and takes it down again."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from typing import Final

from snakemq.authentication import Authentication
from snakemq.contracts import LinkInterface
from snakemq.limits import ConnectionLimits
from snakemq.link import Link
from snakemq.messaging import Messaging, ReceiveHook
from snakemq.packeter import Packeter
from snakemq.peer._calls import Calls, CallSettings
from snakemq.storage import QueuesStorageBase, open_storage
from snakemq.throttle import Throttle

__all__ = ["Stack", "StorageLike"]

#: How long the other side may take to answer a probe, in seconds. A busy
#: program answers late, because pongs wait for its callbacks.
KEEPALIVE_WAIT: Final = 10.0

#: Path of an SQLite file, URL of a database, or a storage.
StorageLike = str | os.PathLike[str] | QueuesStorageBase


class Stack:
    """All layers of one peer, put together.

    :param identifier: of the peer
    :param storage: is closed with the stack
    :param throttle: bytes per second, or ``None``
    :param keepalive: seconds, or ``None``
    :param durable_receive: keep what is received in the storage until it is handled
    :param call_settings: for the server and the client of calls, if they are needed
    :param authentication: how others have to show who they are
    :param limits: of connections
    """

    def __init__(
        self,
        identifier: str,
        storage: StorageLike | None,
        throttle: float | None,
        keepalive: float | None,
        durable_receive: bool,
        call_settings: CallSettings,
        log: logging.Logger,
        authentication: Authentication | Sequence[Authentication] | None,
        limits: ConnectionLimits,
    ) -> None:
        with contextlib.ExitStack() as undo:
            self.link = Link(limits=limits, verify_tls=True)
            undo.callback(self.link.cleanup)
            self.throttle = None if throttle is None else Throttle(self.link, throttle)
            #: the link, or the throttle in front of it
            self.lowest: LinkInterface = self.throttle or self.link
            self.packeter = Packeter(
                self.lowest,
                limits.max_packet_size,
                max_unfinished_bytes=limits.max_unfinished_bytes,
            )
            self.storage = _open(storage)
            if self.storage is not None:
                undo.callback(self.storage.close)
            self.messaging = Messaging(
                identifier,
                "",
                self.packeter,
                self.storage,
                durable_receive=durable_receive,
                authentication=authentication,
            )
            self.messaging.keepalive_interval = keepalive
            self.messaging.keepalive_wait = KEEPALIVE_WAIT
            self.receive_hook = ReceiveHook(self.messaging)
            self.calls = Calls(self.receive_hook, call_settings, log)
            undo.pop_all()
        self._closing = contextlib.ExitStack()
        # Last in, first out. Connections go before the messaging layer, which
        # takes back what was on its way and keeps it in the storage.
        self._closing.callback(self.messaging.close)
        self._closing.callback(self.link.cleanup)
        self._closing.callback(self.calls.close)

    def counters(self) -> dict[str, int]:
        """Those of all layers."""
        merged: dict[str, int] = {}
        for layer in (self.link, self.packeter, self.messaging):
            merged |= layer.counters.as_dict()
        queues = self.messaging.queues_manager
        return {
            **merged,
            **self.calls.counts(),
            "queue_full": queues.refused,
            "queue_overflowed": queues.overflowed,
        }

    def close(self) -> None:
        """Close everything, also if something of it fails. Harmless a second time."""
        self._closing.close()


def _open(storage: StorageLike | None) -> QueuesStorageBase | None:
    if storage is None or isinstance(storage, QueuesStorageBase):
        return storage
    if not isinstance(storage, (str, os.PathLike)):
        raise TypeError(
            f"storage takes a path, a URL or a QueuesStorageBase, not {type(storage).__name__}"
        )
    return open_storage(storage)
