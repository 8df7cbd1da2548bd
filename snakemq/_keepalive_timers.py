"""Timers that look whether the other sides are still there."""

from __future__ import annotations

from collections.abc import Callable, Collection

from snakemq._core.keepalive import Action
from snakemq._peer_connection import PeerConnection
from snakemq._peer_log import PeerLog
from snakemq.packeter import Packeter

__all__ = ["KeepaliveTimers"]


class KeepaliveTimers:
    """One timer for each connection. Loop thread only.

    :param packeter: gives time and timers
    :param ping: ``func(connection, None)``
    :param log: where dead connections are told
    """

    def __init__(
        self,
        packeter: Packeter,
        ping: Callable[[PeerConnection, None], object],
        log: PeerLog,
    ) -> None:
        #: after so many seconds of silence ping; ``None``: never
        self.interval: float | None = None
        #: how long a pong may take, in seconds
        self.wait = 0.5
        self._packeter = packeter
        self._ping = ping
        self._log = log
        # Bound once, and not once for each timer that waits.
        self._check_later: Callable[[PeerConnection], object] = self._check

    def received(self, connection: PeerConnection) -> None:
        """Something came from there."""
        if connection.keepalive.received(self._packeter.last_recv(connection.conn_id)):
            self.arm(connection)

    def set_interval(self, interval: float | None, connections: Collection[PeerConnection]) -> None:
        """Have another interval, for ``connections`` too. From any thread.

        :raises ValueError: it is not more than 0
        """
        if interval is not None and not interval > 0:
            raise ValueError(
                f"keepalive_interval must be None or more than 0 seconds, not {interval!r}"
            )
        self.interval = interval
        self._packeter.call_soon(self._arm_all, connections)

    def _arm_all(self, connections: Collection[PeerConnection]) -> None:
        for connection in connections:
            self.arm(connection)

    def arm(self, connection: PeerConnection) -> None:
        """Set the timer for when something has to be done next."""
        if connection.keepalive_timer is not None:
            connection.keepalive_timer.cancel()
            connection.keepalive_timer = None
        if self.interval is not None:
            deadline = connection.keepalive.deadline(self.interval, self.wait)
            connection.keepalive_timer = self._packeter.call_later(
                max(0.0, deadline - self._packeter.time()), self._check_later, connection
            )

    def _check(self, connection: PeerConnection) -> None:
        connection.keepalive_timer = None
        if self.interval is None:
            return
        packeter = self._packeter
        conn_id = connection.conn_id
        now = packeter.time()
        keepalive = connection.keepalive
        # A part of a packet is a sign of life too: a large one takes its time.
        # While nothing is read nothing can be said.
        last_recv = packeter.last_recv(conn_id)
        packeter.read_now(conn_id)
        if packeter.is_paused(conn_id):
            keepalive.received(now)
        elif last_recv > keepalive.last_recv:
            keepalive.received(last_recv)
        # And a ping that waits behind a large packet, which gets on, can't be
        # answered yet.
        sent = packeter.sent_bytes(conn_id)
        if sent > connection.sent_at_check and packeter.unsent_bytes(conn_id):
            keepalive.postpone(now)
        connection.sent_at_check = sent
        action = keepalive.handle_deadline(now, self.interval, self.wait)
        if action is Action.DEAD:
            self._log.warning(
                connection.ident or packeter.get_remote_host(conn_id),
                "conn=%s ident=%a does not answer, closing",
                conn_id,
                connection.session.ident,
            )
            packeter.close(conn_id)
            return
        if action is Action.PING:
            self._ping(connection, None)
        self.arm(connection)
