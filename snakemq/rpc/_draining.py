"""The end of a server: until what was taken is done, and the callers have their answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from snakemq.rpc._dispatcher import Dispatcher

if TYPE_CHECKING:
    from snakemq.messaging import Messaging

__all__ = ["Draining"]

#: How long the loop is waited for, in seconds; it may not run.
_BARRIER: Final = 1.0

#: How often is looked, in seconds, for what nobody tells.
_LOOK_INTERVAL: Final = 0.05


class Draining:
    """Waits for the end of what was taken. Any thread but that of the loop.

    :param is_over: ``func()``; whether all callers that are connected have their answers
    """

    def __init__(
        self, messaging: Messaging, dispatcher: Dispatcher, is_over: Callable[[], bool]
    ) -> None:
        self._messaging = messaging
        self._dispatcher = dispatcher
        self._is_over = is_over
        self._change = threading.Condition()
        #: from now on, nothing new is taken
        self.is_active = False

    def wait(self, timeout: float | None) -> bool:
        """See :meth:`snakemq.rpc.RpcServer.drain`."""
        messaging = self._messaging
        if messaging.is_inside_loop():
            raise RuntimeError("drain() can't wait in the thread of the loop; call it in another")
        self.is_active = True
        end = None if timeout is None else messaging.time() + timeout

        def left() -> float | None:
            return None if end is None else max(0.0, end - messaging.time())

        # What the loop is just receiving has seen that nothing new is taken, or is taken.
        received = threading.Event()
        messaging.call_soon(received.set)
        received.wait(_BARRIER if timeout is None else min(timeout, _BARRIER))
        return self._dispatcher.idle(left()) and self._until_over(left)

    def _until_over(self, left: Callable[[], float | None]) -> bool:
        with self._change:
            while not self._is_over():
                remaining = left()
                if remaining is not None and remaining <= 0:
                    return False
                self._change.wait(
                    _LOOK_INTERVAL if remaining is None else min(remaining, _LOOK_INTERVAL)
                )
        return True

    def tell(self) -> None:
        """Something has changed. Any thread."""
        if self.is_active:  # else nobody waits for it
            with self._change:
                self._change.notify_all()
