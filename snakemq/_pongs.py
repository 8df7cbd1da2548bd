"""Answers to pings, of which there may be many."""

from __future__ import annotations

import contextlib
from typing import Final

from snakemq._core.frames import FRAME_PONG
from snakemq._core.framing import encode_packet
from snakemq._peer_connection import PeerConnection
from snakemq.exceptions import NoConnection
from snakemq.packeter import Packeter

__all__ = ["MAX_AT_ONCE", "Pongs"]

#: So many pongs are handed over at once.
MAX_AT_ONCE: Final = 4096

_PACKET: Final = encode_packet(FRAME_PONG)


class Pongs:
    """Answers pings. Loop thread only.

    As long as the last pongs are not with the system, those that come next are only
    counted: who sends pings and reads no pongs gets no memory for it, and many pings
    that come together are answered together.

    :param packeter: the layer below
    """

    def __init__(self, packeter: Packeter) -> None:
        self._packeter = packeter

    def answer(self, connection: PeerConnection) -> None:
        """A ping came."""
        connection.pongs_due += 1
        if connection.last_pong is None:
            self._send(connection)

    def pay(self, connection: PeerConnection) -> None:
        """It is about to end: hand over what is due, as far as it is not beyond measure."""
        if connection.pongs_due:
            self._send(connection)

    def handle_sent(self, connection: PeerConnection, packet_id: int) -> None:
        """The packets up to this one are with the system."""
        if connection.last_pong is not None and connection.last_pong <= packet_id:
            connection.last_pong = None
            if connection.pongs_due:
                self._send(connection)

    def _send(self, connection: PeerConnection) -> None:
        count = min(connection.pongs_due, MAX_AT_ONCE)
        connection.pongs_due -= count
        with contextlib.suppress(NoConnection):  # this is its end
            connection.last_pong = self._packeter.send_encoded(
                connection.conn_id, [_PACKET * count], [len(_PACKET)] * count
            )
