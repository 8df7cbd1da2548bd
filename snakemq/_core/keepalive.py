"""Keepalive of one connection: when to ping, and when to give the peer up."""

from __future__ import annotations

import enum

__all__ = ["Action", "Keepalive"]


class Action(enum.Enum):
    """What to do when the deadline of a :class:`Keepalive` is reached."""

    NOTHING = "nothing"
    PING = "ping"
    DEAD = "dead"


class Keepalive:
    """After ``interval`` seconds of silence ping, after ``wait`` more give up.

    Anything that arrives counts as a sign of life, not only the pong.

    :param now: the current time, in seconds
    """

    __slots__ = ("last_recv", "pinged")

    def __init__(self, now: float) -> None:
        #: when something was received last
        self.last_recv = now
        #: when the ping that waits for its answer was sent
        self.pinged: float | None = None

    def received(self, now: float) -> bool:
        """Something arrived.

        :return: whether a ping waited for it, so that the deadline is another
        """
        self.last_recv = now
        waited = self.pinged is not None
        self.pinged = None
        return waited

    def postpone(self, now: float) -> None:
        """The ping, if there is one, has not left yet: wait for its answer from now on."""
        if self.pinged is not None:
            self.pinged = now

    def deadline(self, interval: float, wait: float) -> float:
        """When :meth:`handle_deadline` has something to do, if all stays silent."""
        if self.pinged is not None:
            return self.pinged + wait
        return self.last_recv + interval

    def handle_deadline(self, now: float, interval: float, wait: float) -> Action:
        """The time may have come. On ``PING`` the caller sends one."""
        if now < self.deadline(interval, wait):
            return Action.NOTHING
        if self.pinged is not None:
            return Action.DEAD
        self.pinged = now
        return Action.PING
