"""The streams that callers read, and what is given up when a caller does not come back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from snakemq.rpc._executions import Execution, Executions, State
from snakemq.rpc._served_call import ServedCall

if TYPE_CHECKING:
    from snakemq.contracts import TimerHandle
    from snakemq.counters import Counters
    from snakemq.messaging import Messaging
    from snakemq.rpc._dispatcher import Dispatcher

__all__ = ["OpenStreams"]

#: So many streams of one caller may be open, and of all of them.
_MAX_STREAMS: Final = 1000
_MAX_ALL_STREAMS: Final = 16_000

#: A stream whose caller is away is given up after so many seconds.
_STREAM_PATIENCE: Final = 600.0

#: One that its caller has not asked for is given up so many seconds after the
#: caller was connected again.
_ASKING: Final = 60.0


class OpenStreams:
    """Those of one server, by caller.

    :param executions: the calls that they belong to
    :param dispatcher: where those calls wait or run
    :param counters: counts those that are not taken, as ``streams_refused``
    :param on_change: called when one has ended
    """

    def __init__(
        self,
        messaging: Messaging,
        executions: Executions,
        dispatcher: Dispatcher,
        counters: Counters,
        on_change: Callable[[], object],
    ) -> None:
        self._messaging = messaging
        self._executions = executions
        self._dispatcher = dispatcher
        self._counters = counters
        self._on_change = on_change
        self._lock = threading.Lock()
        self._is_closed = False
        self._count = 0
        self.open: dict[str, set[ServedCall]] = {}
        #: callers with open streams that are not connected
        self.away: dict[str, TimerHandle] = {}
        messaging.on_connect.wire(self._connected)
        messaging.on_disconnect.wire(self._disconnected)

    # Any thread.

    def admit(self, call: ServedCall) -> bool:
        """Whether the caller may have one more."""
        with self._lock:
            if self._is_closed:
                return False
            own = self.open.get(call.ident, ())
            admitted = len(own) < _MAX_STREAMS and self._count < _MAX_ALL_STREAMS
            if admitted:
                self.open.setdefault(call.ident, set()).add(call)
                self._count += 1
        if not admitted:
            self._counters.add("streams_refused")
        elif not self._messaging.is_connected(call.ident):
            self._messaging.call_soon(self._watch, call.ident)
        return admitted

    def left(self, call: ServedCall) -> None:
        """A stream is not needed any more."""
        with self._lock:
            streams = self.open.get(call.ident, set())
            if call in streams:
                streams.discard(call)
                self._count -= 1
                if not streams:
                    del self.open[call.ident]
        if call.execution is not None:
            self._executions.forget(call.execution)
        self._on_change()

    def any_connected(self) -> bool:
        """Whether there is one whose caller is connected."""
        connected = set(self._messaging.connected_peers())
        with self._lock:
            return any(ident in connected for ident in self.open)

    def close(self) -> None:
        """Give up all of them."""
        with self._lock:
            self._is_closed = True
            streams = [call for calls in self.open.values() for call in calls]
        for call in streams:
            call.cancel()
        self._messaging.call_soon(self._cancel_timers)
        self._messaging.on_connect.remove(self._connected)
        self._messaging.on_disconnect.remove(self._disconnected)

    # In the thread of the loop.

    def _connected(self, conn_id: str, ident: str) -> None:
        if ident in self.away or self._has_begun(ident):
            # It asks at once for what it still wants.
            self._give_up_in(_ASKING, ident, conn_id)

    def _disconnected(self, conn_id: str, ident: str) -> None:
        self._executions.connection_ended(ident, conn_id)
        if ident in self.open or ident in self.away:
            self._give_up_in(_STREAM_PATIENCE, ident, None)

    def _has_begun(self, ident: str) -> bool:
        return any(execution.state is State.BEGUN for execution in self._executions.of(ident))

    def _give_up_in(self, seconds: float, ident: str, conn_id: str | None) -> None:
        if self._is_closed:
            return
        timer = self.away.pop(ident, None)
        if timer is not None:
            timer.cancel()
        self.away[ident] = self._messaging.call_later(seconds, self._give_up, ident, conn_id)

    def _give_up(self, ident: str, conn_id: str | None) -> None:
        """Give up what a caller did not ask for again.

        :param conn_id: on this connection; ``None``: it was away for long, and
            its streams are given up
        """
        del self.away[ident]
        with self._lock:
            streams = list(self.open.get(ident, ()))
        for call in streams:
            if conn_id is None or call.source is None or call.source.conn_id != conn_id:
                call.cancel()
                self.left(call)
        if conn_id is None:
            return
        for execution in self._executions.of(ident):
            if execution.state is State.BEGUN and execution.received_on != conn_id:
                self._presume_cancelled(execution)

    def _presume_cancelled(self, execution: Execution) -> None:
        """It was cancelled, it seems, while there was no connection to say so.

        If not, and it is asked for after all, it must not run again.
        """
        work = execution.work
        if isinstance(work, ServedCall):
            if self._dispatcher.cancel(work):
                self._executions.forget(execution)
            else:
                work.call.cancel()

    def _watch(self, ident: str) -> None:
        """A stream has begun whose caller was not connected then."""
        if not self._messaging.is_connected(ident) and ident not in self.away:
            self._give_up_in(_STREAM_PATIENCE, ident, None)

    def _cancel_timers(self) -> None:
        for ident in list(self.away):
            self.away.pop(ident).cancel()
