"""Waiting awake for the next message of a peer, as long as it is worth it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from snakemq._core.rpc_records import REQUEST_PREFIX
from snakemq.message import Message

if TYPE_CHECKING:
    from snakemq.messaging import Messaging

__all__ = ["LONGEST_WAIT", "Lingering", "WaitingAwake"]

_Deliver: TypeAlias = Callable[[str, str, Message], object]

#: How long a thread stays awake at most, in seconds. To fall asleep and be woken costs it
#: about half of that, and as much again on the other side.
LONGEST_WAIT: Final = 0.0005

#: If it was in vain this often, it is not tried the next two to the power of that times.
_MOST_MISSES: Final = 8

#: Of so many peers it is remembered how it went.
_MAX_PEERS: Final = 1000


class _Learnt:
    """How it went with one peer."""

    __slots__ = ("left_out", "misses")

    def __init__(self) -> None:
        self.misses = 0
        #: how many times more it is not tried
        self.left_out = 0


class WaitingAwake:
    """Whether to wait for messages of one kind without sleeping, and doing it. Any thread.

    What it learns from is how it went before, with each peer: where answers take long, or
    calls do not follow one another at once, it is tried less and less, at last for one of 257.

    :param messaging: receives
    :param prefix: what the data of the messages begins with
    :param deliver: ``func(conn_id, ident, message)``; gets them, in the thread that waits
    """

    def __init__(self, messaging: Messaging, prefix: bytes, deliver: _Deliver) -> None:
        self._messaging = messaging
        self._prefix = prefix
        self._deliver = deliver
        # Several threads may change these at the same time: nothing depends on it that
        # somebody would notice.
        self._peers: dict[str, _Learnt] = {}

    def wait(
        self,
        ident: str,
        wanted: Callable[[], bool],
        *,
        longest: float | None = None,
        about: bytes = b"",
    ) -> None:
        """Wait for a message of this peer, if that seems to be worth it.

        :param wanted: false when it has come
        :param longest: for so many seconds at most, if that is less than usual
        :param about: what the message contains
        """
        learnt = self._peers.get(ident)
        if learnt is None:
            if len(self._peers) >= _MAX_PEERS:
                self._peers.clear()
            learnt = self._peers[ident] = _Learnt()
        if learnt.left_out > 0:  # two threads may have counted down the last one
            learnt.left_out -= 1
            return
        messaging = self._messaging
        seconds = LONGEST_WAIT if longest is None else min(longest, LONGEST_WAIT)
        deadline = messaging.time() + seconds
        if messaging.shortcut.poll(ident, self._prefix, about, self._deliver, wanted, deadline):
            learnt.misses = 0
        elif messaging.time() >= deadline:
            learnt.misses = min(learnt.misses + 1, _MOST_MISSES)
            # An even number: where fast and slow answers take turns, it is tried for either.
            learnt.left_out = 2**learnt.misses


class Lingering:
    """A worker that has answered waits awake for the next request, which it takes itself.

    :param messaging: receives
    :param deliver: ``func(conn_id, ident, message)``; gets requests
    """

    def __init__(self, messaging: Messaging, deliver: _Deliver) -> None:
        #: who has called last
        self.caller = ""
        self._messaging = messaging
        self._awake = WaitingAwake(messaging, REQUEST_PREFIX, deliver)
        #: a worker receives requests just now, or is about to
        self.is_active = False
        self._for_loop = 0

    def wait(self, wanted: Callable[[], bool]) -> None:
        """Wait for a request. One worker at a time."""
        if not self.caller:
            return
        self.is_active = True
        try:
            self._awake.wait(self.caller, wanted)
        finally:
            self.is_active = False

    def run_in_loop(self, func: Callable[[], object]) -> None:
        """Run something in the loop's thread: now, if this certainly is that. Inside the loop.

        In the order in which it was called.
        """
        if self.is_active or self._for_loop:
            self._for_loop += 1
            self._messaging.call_soon(self._run, func)
        else:
            func()

    def _run(self, func: Callable[[], object]) -> None:
        self._for_loop -= 1
        func()
