"""The short way of remote calls: sent and received in the very threads that wait for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from snakemq._core.frames import MESSAGE_OVERHEAD, decode_fleeting
from snakemq._core.framing import HEADER_SIZE
from snakemq._incoming import Incoming
from snakemq._outgoing import Outgoing
from snakemq._peer_connection import PeerConnection
from snakemq._receive_hook import Services
from snakemq.callbacks import Callback
from snakemq.message import Message
from snakemq.packeter import Packeter

__all__ = ["Shortcut"]

#: ``func(conn_id, ident, message)``
_Deliver: TypeAlias = Callable[[str, str, Message], object]


class Shortcut:
    """Does for a thread what the loop does otherwise, while that sleeps. Thread-safe.

    All callbacks of a program come from the loop's thread. So nothing is received here
    but messages of remote calls, and nothing at all if a callback that is not the stack's
    own would be told of them, or of what was sent.

    :param packeter: the layer below
    :param connections: those that are in use, by identifier
    :param outgoing: sends
    :param incoming: acknowledges
    :param services: knows which receive hooks get messages
    """

    def __init__(
        self,
        packeter: Packeter,
        connections: dict[str, PeerConnection],
        outgoing: Outgoing,
        incoming: Incoming,
        services: Services,
    ) -> None:
        self._packeter = packeter
        self._connections = connections
        self._outgoing = outgoing
        self._incoming = incoming
        self._services = services
        self._is_allowed = True
        self._slots: tuple[Callback[Any], ...] = ()

    def unless_used(self, *slots: Callback[Any]) -> None:
        """Nothing is received here while a program has callbacks there."""
        self._slots = (*self._slots, *slots)

    def forbid(self) -> None:
        """Receive nothing here: messages are handled in another way, or in the loop's thread."""
        self._is_allowed = False

    def send(self, ident: str, message: Message) -> bool:
        """Send a message with TTL 0 now and in this thread.

        That it was sent is told by :meth:`poll`, or with the loop's next pass.

        :return: false: nothing was done, and it takes ``send_message``: the peer is not
            connected, the loop is awake, or something has to be sent before it
        """
        connection = self._connections.get(ident)
        packeter = self._packeter
        return (
            connection is not None
            and (queue := connection.queue) is not None
            and not queue.dirty  # the loop is going to look at it
            and len(message.data) + MESSAGE_OVERHEAD <= packeter.max_packet_size
            and packeter.run_here(self._outgoing.send_here, connection, message)
        )

    def poll(
        self,
        ident: str,
        prefix: bytes,
        about: bytes,
        deliver: _Deliver,
        wanted: Callable[[], bool],
        deadline: float,
    ) -> bool:
        """Receive messages of a peer in this thread, if the loop sleeps, and without sleeping.

        :param prefix: what the data of each begins with; anything else is left to the loop,
            with all that came together with it
        :param about: what it contains
        :param deliver: ``func(conn_id, ident, message)``, in this thread. The loop waits
            for it. If it returns ``False`` the loop handles the message, as if nobody had
            looked; an exception costs the connection, and comes out of here.
        :param wanted: whether to go on
        :param deadline: on the link's clock; in less than a millisecond
        :return: whether any was received here
        """
        connection = self._connections.get(ident)
        if connection is None or not self._is_calm(connection):
            return False

        def take(data: bytes) -> bool:
            message = decode_fleeting(data, prefix, about)
            if message is None or not self._is_calm(connection):
                return False
            # What it raises passes: it may be of a signal handler.
            if deliver(connection.conn_id, ident, message) is False:
                return False
            self._incoming.handled(connection, 1, len(data) - HEADER_SIZE, wait=True)
            return True

        return self._packeter.poll_here(connection.conn_id, take, wanted, deadline)

    @property
    def is_heard(self) -> bool:
        """Whether callbacks of the program are to be told of what is done here, and soon."""
        users = 0
        for slot in self._slots:
            users += slot.users
        return users > 0

    def _is_calm(self, connection: PeerConnection) -> bool:
        """Whether nothing but the messages themselves is to be handled."""
        queue = connection.queue
        return (
            self._is_allowed
            and not self.is_heard
            # Of several, nobody knows whose a message is.
            and len(self._services.hooks) == 1
            and connection.is_ready
            and connection.memory is not None  # else it is one of 1.6
            and not connection.held
            and not connection.interrupted
            and not connection.doubtful
            and connection.keepalive.pinged is None
            and queue is not None
            and not queue.has_more_to_do
        )
