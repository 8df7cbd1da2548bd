"""Receiving what somebody waits for in the very thread that waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from snakemq._core.frames import are_fleeting
from snakemq._peer_connection import PeerConnection
from snakemq.callbacks import Callback
from snakemq.packeter import Packeter

__all__ = ["Polling"]


class Polling:
    """Reads a connection without sleeping, for a thread that waits for a message.

    All callbacks of a program come from the loop's thread. So nothing is received here
    but messages of remote calls, and nothing at all if a callback that is not the stack's
    own would be told of them, or of what was sent.

    :param packeter: the layer below
    :param connections: those that are in use, by identifier
    :param is_allowed: false: what is received is handled in another way
    """

    def __init__(
        self,
        packeter: Packeter,
        connections: dict[str, PeerConnection],
        *,
        is_allowed: bool,
    ) -> None:
        self._packeter = packeter
        self._connections = connections
        self._slots: tuple[Callback[Any], ...] = ()
        self._is_allowed = is_allowed

    def unless_used(self, slot: Callback[Any]) -> None:
        """Nothing is received here while a program has callbacks there."""
        self._slots = (*self._slots, slot)

    def forbid(self) -> None:
        """Somebody wants to get messages in the loop's thread by another way than a slot."""
        self._is_allowed = False

    def poll(
        self,
        ident: str,
        prefix: bytes,
        about: bytes,
        wanted: Callable[[], bool],
        deadline: float,
    ) -> bool:
        """Receive messages of a peer in this thread, if the loop sleeps. From any thread.

        :param prefix: what the data of each begins with; anything else is left to the loop,
            with all that came together with it
        :param about: a single message that contains this; empty: any number, whatever is in them
        :param wanted: whether to go on
        :param deadline: on the link's clock; in less than a millisecond
        :return: whether any was received here
        """
        connection = self._connections.get(ident)
        if connection is None or not self._is_calm(connection):
            return False
        return self._packeter.poll_here(
            connection.conn_id,
            lambda data: are_fleeting(data, prefix, about) and self._is_calm(connection),
            wanted,
            deadline,
        )

    def _is_calm(self, connection: PeerConnection) -> bool:
        """Whether nothing but the messages themselves is to be handled."""
        for slot in self._slots:
            if slot.users:
                return False
        queue = connection.queue
        return (
            self._is_allowed
            and connection.is_ready
            and connection.memory is not None  # else it is one of 1.6
            and not connection.held
            and not connection.interrupted
            and not connection.doubtful
            and connection.keepalive.pinged is None
            and queue is not None
            and not queue.has_more_to_do
        )
