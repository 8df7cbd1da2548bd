"""Connections of which it is not known who they are."""

from __future__ import annotations

from typing import Final

from snakemq._core.crowd import Crowd, address_group
from snakemq._core.features import MAX_FEATURES_SIZE
from snakemq._core.framing import HEADER_SIZE
from snakemq._core.refusal import Refusal
from snakemq._peer_connection import PeerConnection
from snakemq._refusals import Refusals
from snakemq.exceptions import SnakeMQBrokenMessage
from snakemq.limits import ConnectionLimits
from snakemq.packeter import Packeter

__all__ = ["MAX_GREETING_PACKET", "MAX_GREETING_SIZE", "Strangers"]

#: The largest packet that is taken from a stranger, in bytes.
MAX_GREETING_PACKET: Final = MAX_FEATURES_SIZE + 1

#: What a stranger may send in all, in bytes.
MAX_GREETING_SIZE: Final = 2 * MAX_FEATURES_SIZE


class Strangers:
    """Limits for connections until it is known who they are. Loop thread only.

    :param packeter: the layer below
    :param limits: how many, and how long
    :param refusals: to whom those come that have to go
    """

    def __init__(
        self,
        packeter: Packeter,
        limits: ConnectionLimits,
        refusals: Refusals,
    ) -> None:
        self._packeter = packeter
        self._limits = limits
        self._refusals = refusals
        self._crowd: Crowd[PeerConnection] = Crowd(
            limits.max_unidentified, limits.max_unidentified_per_address
        )

    def meet(self, connection: PeerConnection) -> None:
        """A connection was made."""
        conn_id = connection.conn_id
        self._packeter.limit_received(conn_id, MAX_GREETING_PACKET)
        connection.identification_timer = self._packeter.call_later(
            self._limits.identification_timeout, self._give_up, connection
        )
        if self._packeter.is_connector(conn_id):
            return  # this side wanted it
        place = address_group(self._packeter.get_remote_host(conn_id))
        oldest = self._crowd.enter(connection, place)
        if oldest is not None:
            self._refusals.log.warning(
                place,
                "conn=%s closed: too many connections have not said who they are",
                oldest.conn_id,
            )
            self._refusals.refuse(oldest, Refusal.TOO_MANY_STRANGERS)

    def listen(self, connection: PeerConnection, frame: bytes) -> None:
        """A frame came.

        :raises SnakeMQBrokenMessage: that is too much from a stranger
        """
        connection.greeting_bytes += len(frame) + HEADER_SIZE
        if connection.greeting_bytes > MAX_GREETING_SIZE:
            raise SnakeMQBrokenMessage(
                f"more than {MAX_GREETING_SIZE} bytes before it is known who is there"
            )

    def leave(self, connection: PeerConnection) -> None:
        """It is known who that is, or the connection is gone. Harmless a second time."""
        self._crowd.leave(connection)
        connection.cancel_identification()

    def welcome(self, connection: PeerConnection) -> None:
        """It is known who that is."""
        self.leave(connection)
        connection.is_known = True
        self._packeter.limit_received(connection.conn_id, self._packeter.max_packet_size)

    def _give_up(self, connection: PeerConnection) -> None:
        connection.identification_timer = None
        self._refusals.log.info(
            self._refusals.name_of(connection),
            "conn=%s did not say, or did not prove, who it is within %.0f s: closed",
            connection.conn_id,
            self._limits.identification_timeout,
        )
        self._refusals.refuse(connection, Refusal.IDENTIFICATION_TIMEOUT)
