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

    __slots__ = ("_parent", "_timeout", "_wait_for_peer", "known", "revision", "root")

    def __init__(
        self,
        timeout: float | Unset | None = UNSET,
        wait_for_peer: bool | Unset = UNSET,
        parent: CallOptions | None = None,
    ) -> None:
        self._timeout = timeout
        self._wait_for_peer = wait_for_peer
        self._parent = parent
        #: the parent that has none
        self.root: CallOptions = self if parent is None else parent.root
        #: in the root: another object whenever any below it was changed
        self.revision = object()
        #: see :meth:`resolve`
        self.known: tuple[object, float | None, bool] = (None, None, True)

    @property
    def timeout(self) -> float | None:
        """What holds: of this one, or the nearest parent that says anything.

        Setting it sets it here.
        """
        return self.resolve()[1]

    @timeout.setter
    def timeout(self, timeout: float | None) -> None:
        self._timeout = timeout
        self.root.revision = object()

    @property
    def wait_for_peer(self) -> bool:
        """Likewise."""
        return self.resolve()[2]

    @wait_for_peer.setter
    def wait_for_peer(self, wait_for_peer: bool) -> None:
        self._wait_for_peer = wait_for_peer
        self.root.revision = object()

    def resolve(self) -> tuple[object, float | None, bool]:
        """Find out what holds, and since which revision: timeout, and whether to wait for the peer.

        It is kept in :attr:`known`. As long as that has the revision of the root, calls
        need not ask.
        """
        revision = self.root.revision  # first: what changes from now on makes it outdated
        timeout, wait = self._timeout, self._wait_for_peer
        options = self._parent
        while options is not None and (timeout is UNSET or wait is UNSET):
            if timeout is UNSET:
                timeout = options._timeout
            if wait is UNSET:
                wait = options._wait_for_peer
            options = options._parent
        known = (
            revision,
            None if timeout is UNSET else timeout,
            True if wait is UNSET else wait,
        )
        self.known = known
        return known

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
