"""How a call behaves: its timeout, and whether it waits for the peer."""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["UNSET", "CallOptions", "Unset", "checked_timeout"]


class Unset(enum.Enum):
    """The type of :data:`UNSET`."""

    UNSET = "unset"


#: As an option: what is farther away decides.
UNSET: Final = Unset.UNSET


class CallOptions:
    """Options of a method, a proxy or a client. What is nearest to the call wins.

    May be changed at any time, from any thread.

    :param timeout: how long a call may take, in seconds: waiting for the peer,
        repetitions after a reconnect, running the method, all together.
        ``None``: for ever
    :param wait_for_peer: whether a call waits while its peer is not connected.
        If not, it raises :class:`~snakemq.rpc.NotConnected` at once, also when
        the connection is lost in mid-call.
    :param parent: says what is not set here
    """

    __slots__ = ("_parent", "_timeout", "_wait_for_peer")

    def __init__(
        self,
        timeout: float | Unset | None = UNSET,
        wait_for_peer: bool | Unset = UNSET,
        parent: CallOptions | None = None,
    ) -> None:
        self._timeout = timeout
        self._wait_for_peer = wait_for_peer
        self._parent = parent

    @property
    def timeout(self) -> float | None:
        """What holds: of this one, or the nearest parent that says anything.

        Setting it sets it here.
        """
        options: CallOptions | None = self
        while options is not None:
            timeout = options._timeout
            if timeout is not UNSET:
                return timeout
            options = options._parent
        return None

    @timeout.setter
    def timeout(self, timeout: float | None) -> None:
        self._timeout = timeout

    @property
    def wait_for_peer(self) -> bool:
        """Likewise."""
        options: CallOptions | None = self
        while options is not None:
            wait = options._wait_for_peer
            if wait is not UNSET:
                return wait
            options = options._parent
        return True

    @wait_for_peer.setter
    def wait_for_peer(self, wait_for_peer: bool) -> None:
        self._wait_for_peer = wait_for_peer

    def resolved(self) -> tuple[float | None, bool]:
        """Timeout and whether to wait for the peer, as they hold now: for a call."""
        timeout, wait = self._timeout, self._wait_for_peer
        options = self._parent
        while options is not None and (timeout is UNSET or wait is UNSET):
            if timeout is UNSET:
                timeout = options._timeout
            if wait is UNSET:
                wait = options._wait_for_peer
            options = options._parent
        return None if timeout is UNSET else timeout, True if wait is UNSET else wait

    def copy(self) -> CallOptions:
        """Another one with the same options and the same parent."""
        return CallOptions(self._timeout, self._wait_for_peer, self._parent)

    def __repr__(self) -> str:
        return f"<CallOptions timeout={self.timeout!r} wait_for_peer={self.wait_for_peer!r}>"


def checked_timeout(timeout: float | None) -> float | None:
    """The timeout; ``None`` if it never ends.

    :raises ValueError: it is negative, or NaN
    :raises TypeError: it is no number
    """
    if timeout is None:
        return None
    if not isinstance(timeout, (int, float)):
        raise TypeError(f"a timeout is a number of seconds or None, not {type(timeout).__name__}")
    if not timeout >= 0:
        raise ValueError(f"a timeout is None or at least 0 seconds, not {timeout!r}")
    return None if timeout == float("inf") else timeout
