"""Ending a connection because of what one of its sides did, and saying why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from snakemq._core.frames import FRAME_INCOMPATIBLE
from snakemq._core.refusal import (
    Refusal,
    decode_refusal,
    describe_refusal,
    encode_refusal,
    refusal_of,
)
from snakemq._peer_connection import PeerConnection
from snakemq._peer_log import PeerLog
from snakemq.counters import Counters
from snakemq.exceptions import (
    AuthenticationError,
    RefusedByPeer,
    SnakeMQException,
    SnakeMQIncompatibleProtocol,
)
from snakemq.packeter import Packeter

__all__ = ["REFUSAL_COUNTERS", "Refusals"]

_COUNTERS: Final = {
    Refusal.ALREADY_CONNECTED: "takeovers_refused",
    Refusal.IDENTIFICATION_TIMEOUT: "identification_timeouts",
    Refusal.TOO_MANY_STRANGERS: "strangers_evicted",
}


REFUSAL_COUNTERS: Final = (
    "authentications_failed",
    "connections_failed",
    "refused_by_peers",
    *_COUNTERS.values(),
)


class Refusals:
    """Tells the other side, the log and ``on_error``, and counts. Loop thread only.

    :param packeter: the layer below
    :param on_error: ``func(conn_id, exception)``
    :param log: of the layer
    :param counters: with :data:`REFUSAL_COUNTERS`
    """

    def __init__(
        self,
        packeter: Packeter,
        on_error: Callable[[str | None, Exception], object],
        log: PeerLog,
        counters: Counters,
    ) -> None:
        self._packeter = packeter
        self._on_error = on_error
        self.log = log
        self.counters = counters

    def name_of(self, connection: PeerConnection) -> str:
        """Whose line in the log it is: of a stranger nothing but the address is known."""
        return connection.ident or self._packeter.get_remote_host(connection.conn_id)

    def refuse(self, connection: PeerConnection, reason: Refusal) -> None:
        """This side does not want it."""
        self.counters.add(_COUNTERS[reason])
        # What came together with what it is refused for is not handled any more.
        connection.interrupted = True
        self._packeter.send_packet(connection.conn_id, encode_refusal(reason))
        self._finish(connection)

    def refused(self, connection: PeerConnection, payload: bytes) -> None:
        """The other side does not want it.

        :raises SnakeMQBrokenMessage: malformed
        """
        code = decode_refusal(payload)
        self.counters.add("refused_by_peers")
        words = f"refused by the other side: {describe_refusal(code)}"
        if code == Refusal.ALREADY_CONNECTED:
            # Every day where both sides dial each other.
            self.log.info(self.name_of(connection), "conn=%s %s", connection.conn_id, words)
        else:
            self._tell(connection, RefusedByPeer(words, code))
        if not connection.is_gone:
            self._packeter.close(connection.conn_id)

    def rejected(self, connection: PeerConnection) -> None:
        """The other side does not speak this version of the protocol, and will close."""
        self.log.error(
            self.name_of(connection),
            "conn=%s the other side does not speak this protocol version",
            connection.conn_id,
        )

    def fail(self, connection: PeerConnection, exc: SnakeMQException) -> None:
        """The other side made a mistake, or did not prove who it is."""
        conn_id = connection.conn_id
        unproved = isinstance(exc, AuthenticationError)
        self.counters.add("authentications_failed" if unproved else "connections_failed")
        if connection.is_gone:
            return  # a callback has closed it already
        if isinstance(exc, AuthenticationError):
            self._packeter.send_packet(conn_id, encode_refusal(refusal_of(exc)))
        elif isinstance(exc, SnakeMQIncompatibleProtocol):
            self._packeter.send_packet(conn_id, FRAME_INCOMPATIBLE)
        self._tell(connection, exc)
        if not connection.is_gone:
            self._finish(connection)

    def _finish(self, connection: PeerConnection) -> None:
        # While it may read why, it is not to be refused once more for being slow.
        connection.cancel_identification()
        self._packeter.finish(connection.conn_id)

    def _tell(self, connection: PeerConnection, exc: SnakeMQException) -> None:
        self.log.error(
            self.name_of(connection),
            "conn=%s ident=%a %s: %s",
            connection.conn_id,
            connection.session.ident,
            type(exc).__name__,
            exc,
        )
        self._on_error(connection.conn_id, exc)
