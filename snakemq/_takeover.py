"""Two connections with the same identifier: which one stays.

1.6 refused the second one, so a peer that had rebooted was locked out until
the system gave the first one up. Here the first has to prove that it is alive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from snakemq._core.refusal import Refusal
from snakemq._peer_connection import PeerConnection
from snakemq._refusals import Refusals
from snakemq.exceptions import SnakeMQException
from snakemq.packeter import Packeter

__all__ = ["SETTLE_TIME", "TAKEOVER_WAIT", "Takeover"]

#: How long nothing is sent on a connection that another one may replace at
#: once, because both sides dial each other, in seconds. What had been sent on
#: it to a 1.6 peer would be lost.
SETTLE_TIME: Final = 0.25

#: What comes within so many seconds after the question may have been there before, and not
#: been read, because it is only a part of something. An answer counts at once.
_UNREAD_TIME: Final = 0.1

#: How long a connected peer has to prove that it is alive when a second
#: connection comes with its identifier, in seconds.
TAKEOVER_WAIT: Final = 2.0


class _Probe:
    """A ping on a connection that may be dead, which was just sent.

    :param packeter: the layer below
    :param conn_id: of the connection
    """

    def __init__(self, packeter: Packeter, conn_id: str) -> None:
        self._packeter = packeter
        self._conn_id = conn_id
        self._began = packeter.time()
        #: whether the pong has come
        self.is_answered = False
        packeter.read_now(conn_id)
        self._sent = packeter.sent_bytes(conn_id)
        #: where the ping ends, among all bytes that are sent
        self._end = self._sent + packeter.unsent_bytes(conn_id)

    def shows_life(self) -> bool:
        """Whether anything came since, be it a part of a packet."""
        last = self._packeter.last_recv(self._conn_id)
        return self.is_answered or last > self._began + _UNREAD_TIME

    def gets_on(self) -> bool:
        """Whether it waits behind others that got on since this was asked last.

        They may take long, through a throttle above all, and nobody can answer
        what was not sent.
        """
        before, self._sent = self._sent, self._packeter.sent_bytes(self._conn_id)
        return before < self._end and before < self._sent


class Takeover:
    """Decides between a connected peer and a second connection of its name.

    The side that listened decides: it probes the old connection and closes the
    new one if there is an answer, or the old one if there is none in time. The
    side that dialled waits longer than that takes, and decides only if the
    other did not.

    If both sides dial each other at the same time, none of the two connections
    is old, and each side could close the one that the other keeps. So then it
    is the one dialled by the peer with the smaller identifier that stays; and
    on the other kind nothing is sent for a moment, if that may happen.

    Loop thread only.

    :param packeter: the layer below
    :param identifier: this peer's
    :param ping: ``func(connection, callback)``
    :param refusals: to whom those come that do not stay
    """

    def __init__(
        self,
        packeter: Packeter,
        identifier: str,
        ping: Callable[[PeerConnection, Callable[[float], object]], object],
        refusals: Refusals,
    ) -> None:
        #: see :data:`TAKEOVER_WAIT`
        self.wait = TAKEOVER_WAIT
        self._packeter = packeter
        self._identifier = identifier
        self._ping = ping
        self._refusals = refusals
        self._log = refusals.log

    def settle_time(self, connection: PeerConnection) -> float:
        """How long not to send anything on a connection that is new, in seconds.

        What would be lost is repeated to a peer that acknowledges.
        """
        if connection.acknowledges or not self._packeter.is_mesh() or self._stays(connection):
            return 0.0
        return SETTLE_TIME

    def _stays(self, connection: PeerConnection) -> bool:
        """Whether it was dialled by the peer with the smaller identifier."""
        dialled = self._packeter.is_connector(connection.conn_id)
        return dialled == (self._identifier < connection.session.ident)

    def challenge(self, old: PeerConnection, new: PeerConnection) -> None:
        """``new`` says that it is who ``old`` is.

        One of the two is closed, now or later; see :meth:`end`.
        """
        if old.rival is not None:
            self._refuse(new, "two connections have its identifier already")
            return
        old.rival, new.rival = new, old
        new.received_at_challenge = old.received_total
        now = self._packeter.time()
        dialled_old = self._packeter.is_connector(old.conn_id)
        dialled_new = self._packeter.is_connector(new.conn_id)
        at_the_same_time = dialled_old != dialled_new and now - old.arrived_at < self.wait
        if at_the_same_time and self._stays(new):
            self._log.info(
                new.session.ident, "conn=%s takes the place of %s", new.conn_id, old.conn_id
            )
            self._packeter.close(old.conn_id)
            return
        self._ping(old, lambda _: self._answered(old, new, probe))
        probe = _Probe(self._packeter, old.conn_id)
        wait = self.wait * (2 if dialled_new else 1)
        new.rival_timer = self._packeter.call_later(wait, self._judge, old, new, probe)

    def end(self, connection: PeerConnection) -> PeerConnection | None:
        """``connection`` is gone.

        :return: the other one, if there is one
        """
        rival = connection.rival
        if rival is None:
            return None
        connection.rival = rival.rival = None
        for one in (connection, rival):
            if one.rival_timer is not None:
                one.rival_timer.cancel()
                one.rival_timer = None
        return rival

    def fail(self, connection: PeerConnection, exc: SnakeMQException) -> None:
        """The other side made a mistake. See :meth:`Refusals.fail`."""
        if connection.is_waiting:
            # It may take a moment to be gone, and must not follow the other one then.
            self.end(connection)
        self._refusals.fail(connection, exc)

    @staticmethod
    def may_follow(rival: PeerConnection, ended: PeerConnection) -> bool:
        """Whether ``rival`` can take the place of ``ended``; else it has to be closed.

        If something came on the one while the other waited, the peer has used
        both, and some of what it sent first on the other one may be among that
        again. What is not acknowledged will be repeated in order on the next
        connection, so nothing is lost (a 1.6 peer repeats nothing).
        """
        return not rival.acknowledges or ended.received_total == rival.received_at_challenge

    def _answered(self, old: PeerConnection, new: PeerConnection, probe: _Probe) -> None:
        probe.is_answered = True
        if old.rival is new and not self._packeter.is_connector(new.conn_id):
            self._refuse(new, "it is connected already, and alive")

    def _judge(self, old: PeerConnection, new: PeerConnection, probe: _Probe) -> None:
        new.rival_timer = None
        if probe.shows_life():
            self._refuse(new, "it is connected already, and alive")
        elif probe.gets_on():
            new.rival_timer = self._packeter.call_later(self.wait, self._judge, old, new, probe)
        else:
            self._log.warning(
                new.session.ident,
                "conn=%s does not answer, %s takes its place",
                old.conn_id,
                new.conn_id,
            )
            self._packeter.close(old.conn_id)

    def _refuse(self, connection: PeerConnection, reason: str) -> None:
        ident = connection.session.ident
        self._log.info(ident, "conn=%s ident=%a refused: %s", connection.conn_id, ident, reason)
        # It may take a moment to be gone, and must not follow the other one then.
        self.end(connection)
        self._refusals.refuse(connection, Refusal.ALREADY_CONNECTED)
