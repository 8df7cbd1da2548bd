"""One link of a simulated network."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Final

from snakemq._core.backoff import Backoff
from snakemq.callbacks import CallbackOwner, CallbackSlot
from snakemq.contracts import Buffer, TlsInfo
from snakemq.exceptions import SendNotFinished
from snakemq.limits import ConnectionLimits
from snakemq.testing._stream import End

if TYPE_CHECKING:
    from snakemq.testing.network import SimNetwork

__all__ = ["Connector", "LinkCrashed", "SimLink"]

#: As of the real link, in seconds.
_RECONNECT_INTERVAL: Final = 3.0

#: How long an attempt to connect waits for an answer, in seconds.
_CONNECT_TIMEOUT: Final = 10.0

#: How long a pass takes at least, in seconds, when the next one follows from it.
_PASS_TIME: Final = 1e-6

_NEVER: Final = float("inf")


class LinkCrashed(BaseException):
    """Ends what a simulated process is doing at the moment of its crash.

    Raised by :meth:`SimNetwork.crash` when the code that calls it runs in a
    callback of the link that crashes. Not an :class:`Exception`: nothing that
    keeps a loop alive may catch it, as nothing survives a kill.
    """


class _Timer:
    __slots__ = ("args", "func", "internal", "link")

    def __init__(
        self, link: SimLink, func: Callable[..., object], args: tuple[Any, ...], internal: bool
    ) -> None:
        self.link = link
        self.func: Callable[..., object] | None = func
        self.args = args
        self.internal = internal

    def cancel(self) -> None:
        if self.func is not None:
            self.func = None
            self.args = ()
            self.link.timer_cancelled()


class Connector:
    """Dials an address for as long as it is wanted."""

    def __init__(self, link: SimLink, address: Hashable, interval: float) -> None:
        self.link = link
        self.address = address
        self._network = link.network
        self._interval = interval
        self._backoff = Backoff(interval, rng=link.network.random)
        self._deleted = False
        #: our end of the connection, also while it is not established yet
        self.end: End | None = None
        self._attempt = 0
        self._connected_at = 0.0
        self._timer = link.internal_timer(0, self._dial)

    def _dial(self) -> None:
        self._attempt += 1
        self._timer = self.link.internal_timer(_CONNECT_TIMEOUT, self._give_up)
        self._network.dial(self, self._attempt)

    def expects(self, attempt: int) -> bool:
        """Whether an answer to this attempt is still of interest."""
        return not self._deleted and attempt == self._attempt and self.end is None

    def answered(self, end: End) -> None:
        """A listener has accepted; the news is on its way back."""
        self.end = end

    def accepted(self, end: End) -> None:
        """The news is here: the connection is established."""
        self._timer.cancel()
        self._connected_at = self._network.now
        end.opening = False
        self.link.adopt(end)

    def refused(self, end: End | None = None) -> None:
        """Nobody listens, or the connection broke before it was established."""
        if end is self.end:
            self._timer.cancel()
            self._dial_later()

    def _give_up(self) -> None:
        if self.end is not None:
            self.end.vanish()
        self._dial_later()

    def lost(self) -> None:
        """The connection that was established is gone."""
        # As the real one: what is closed as soon as it is open is no success.
        if self._network.now - self._connected_at >= self._interval:
            self._backoff.reset()
        self._dial_later()

    def _dial_later(self) -> None:
        self.end = None
        self._attempt += 1
        if not self._deleted:
            self._timer = self.link.internal_timer(self._backoff.next_delay(), self._dial)

    def delete(self) -> None:
        """Never dial again; the connection, if there is one, stays with the link."""
        self._deleted = True
        self._timer.cancel()
        if self.end is not None and self.end.opening:
            self.end.vanish()


class SimLink(CallbackOwner):
    """A link of a :class:`SimNetwork`, with the interface of a real one.

    Made by :meth:`SimNetwork.link`. Its loop is driven by the network: a pass
    handles what is due on this link (connections, then timers, then
    ``call_soon``), then calls ``on_loop_pass``. Only ``call_soon`` and
    ``wakeup_poll`` may be called from other threads than the one that drives
    the network.

    :ivar reconnect_interval: the first delay of new connectors, in seconds
    :ivar name: the name of its host on the network
    :ivar network: the network
    """

    on_connect = CallbackSlot[[str]]()
    on_disconnect = CallbackSlot[[str]]()
    on_recv = CallbackSlot[[str, bytes]]()
    on_ready_to_send = CallbackSlot[[str, int]]()
    on_loop_pass = CallbackSlot[[]]()
    #: ``func(conn_id, exc)``; a callback raised, ``conn_id`` may be ``None``
    on_error = CallbackSlot[[str | None, Exception]]()

    def __init__(self, network: SimNetwork, name: str) -> None:
        self.log = logging.getLogger("snakemq.testing.link")
        self.network = network
        self.name = name
        self.reconnect_interval = _RECONNECT_INTERVAL
        #: for the layers above; nothing here is limited by it
        self.limits = ConnectionLimits()
        self._ends: dict[str, End] = {}
        self._ready: deque[End] = deque()
        self._soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, _Timer]] = []
        self._cancelled_timers = 0
        self._timer_serial = 0
        self._woken = False
        self._pass_at = _NEVER
        self._last_pass = -_NEVER
        #: the thread that runs a pass of this link, 0 when there is none
        self._in_pass = 0
        self._over = False
        self._cleaned_up = False
        self._connectors: dict[Hashable, Connector] = {}
        self._listeners: dict[Hashable, None] = {}

    def __repr__(self) -> str:
        return f"<SimLink {self.name} connections={len(self._ends)}>"

    # Connectors and listeners

    def add_connector(self, address: Hashable, reconnect_interval: float | None = None) -> Hashable:
        """Keep a connection to ``address``: dial it soon, and again whenever it is lost.

        :param address: what a listener was, or will be, added with
        :param reconnect_interval: the first delay before dialling again, in
            seconds; the next ones grow
        :returns: the address, for :meth:`del_connector`
        :raises ValueError: there is a connector to it
        """
        if address in self._connectors:
            raise ValueError(f"there is a connector to {address!r} already")
        interval = reconnect_interval or self.reconnect_interval
        self._connectors[address] = Connector(self, address, interval)
        return address

    def del_connector(self, address: Hashable) -> None:
        """Dial it no more, and close its connection.

        :raises KeyError: there is no such connector
        """
        connector = self._connectors.pop(address)
        connector.delete()
        if connector.end is not None:
            self._disconnect(connector.end)

    def add_listener(self, address: Hashable) -> Hashable:
        """Accept connections to ``address``.

        :param address: anything hashable; of a pair whose second item is 0 the
            0 is replaced by a number that is free
        :returns: the address to dial and to delete the listener with
        :raises ValueError: this link listens to it already
        :raises OSError: another link does
        """
        address = self.network.bind(self, address)
        self._listeners[address] = None
        return address

    def del_listener(self, address: Hashable) -> None:
        """Accept no more; connections that were accepted stay.

        :raises KeyError: there is no such listener
        """
        del self._listeners[address]
        self.network.unbind(address)

    def cleanup(self) -> None:
        """Close everything; ``on_disconnect`` runs for each connection.

        The link is of no use after that, and its name is free.
        """
        # on_disconnect may delete connectors and listeners too.
        while self._connectors:
            self.del_connector(next(iter(self._connectors)))
        while self._listeners:
            self.del_listener(next(iter(self._listeners)))
        for end in list(self._ends.values()):
            self._disconnect(end)
        self._cleaned_up = True
        self._fall_silent()
        self.network.forget(self)

    def stop(self) -> None:
        """Make the ``run`` method of the network that is running return."""
        self.network.stop()

    # What a layer above uses: see LinkInterface

    def send(self, conn_id: str, *data: Buffer) -> None:
        """See :meth:`snakemq.contracts.LinkInterface.send`."""
        end = self._end(conn_id)
        if end.closing:
            raise KeyError(conn_id)
        if end.taken is not None:
            raise SendNotFinished(f"the last send on {conn_id} is not finished")
        end.taken = end.outward.take(data[0] if len(data) == 1 else b"".join(data))
        end.wake()

    def close(self, conn_id: str) -> None:
        """See :meth:`snakemq.contracts.LinkInterface.close`."""
        self._disconnect(self._end(conn_id))

    def is_mesh(self) -> bool:
        """See :meth:`snakemq.contracts.LinkInterface.is_mesh`."""
        return bool(self._connectors and self._listeners)

    def get_certificate(self, conn_id: str) -> dict[str, Any] | None:
        """See :meth:`snakemq.contracts.LinkInterface.get_certificate`. There is no TLS here."""
        return None

    def get_tls(self, conn_id: str) -> TlsInfo | None:
        """See :meth:`snakemq.contracts.LinkInterface.get_tls`. There is no TLS here."""
        self._end(conn_id)
        return None

    def get_remote_host(self, conn_id: str) -> str:
        """See :meth:`snakemq.contracts.LinkInterface.get_remote_host`: the name of the host."""
        return self._end(conn_id).remote.link.name

    def unreported(self, conn_id: str) -> int:
        """See :meth:`snakemq.contracts.LinkInterface.unreported`."""
        return self._end(conn_id).taken or 0

    def expect(self, conn_id: str, size: int) -> None:
        """See :meth:`snakemq.contracts.LinkInterface.expect`."""
        self._end(conn_id).expected = size

    def pause_recv(self, conn_id: str) -> None:
        """See :meth:`snakemq.contracts.LinkInterface.pause_recv`."""
        self._end(conn_id).paused = True

    def resume_recv(self, conn_id: str) -> None:
        """See :meth:`snakemq.contracts.LinkInterface.resume_recv`."""
        end = self._end(conn_id)
        end.paused = False
        end.wake()

    def is_connector(self, conn_id: str) -> bool:
        """See :meth:`snakemq.contracts.LinkInterface.is_connector`."""
        return self._end(conn_id).connector is not None

    def _end(self, conn_id: str) -> End:
        self._die_again()
        return self._ends[conn_id]

    def _die_again(self) -> None:
        # A `finally` in the callback that crashed: a killed process has none.
        if self._over and self._in_pass and not self._cleaned_up:
            raise LinkCrashed(self.name)

    def wakeup_poll(self) -> None:
        """See :meth:`snakemq.contracts.LinkInterface.wakeup_poll`."""
        if not self._woken:
            self._woken = True
            self.network.wake(self)

    def call_soon(self, func: Callable[..., object], *args: object) -> None:
        """See :meth:`snakemq.contracts.LinkInterface.call_soon`."""
        self._die_again()
        self._soon.append((func, args))
        self.wakeup_poll()

    def call_later(self, delay: float, func: Callable[..., object], *args: object) -> _Timer:
        """See :meth:`snakemq.contracts.LinkInterface.call_later`."""
        return self._add_timer(delay, func, args, internal=False)

    def run_here(self, func: Callable[..., bool], *args: object) -> bool:
        """See :meth:`snakemq.contracts.LinkInterface.run_here`: it sleeps between two passes."""
        return self._in_pass is None and func(*args)

    def poll_here(
        self,
        conn_id: str,
        take: Callable[[bytes], bool],
        wanted: Callable[[], bool],
        deadline: float,
    ) -> bool:
        """Nothing is received: time does not pass while somebody looks."""
        return False

    def is_inside_loop(self) -> bool:
        """See :meth:`snakemq.contracts.LinkInterface.is_inside_loop`."""
        return self._in_pass == threading.get_ident()

    def time(self) -> float:
        """The network's virtual time, in seconds."""
        return self.network.now

    # What tests look at

    @property
    def connections(self) -> list[str]:
        """The identifiers of the connections, oldest first."""
        return list(self._ends)

    @property
    def connectors(self) -> list[Hashable]:
        """The addresses of the connectors."""
        return list(self._connectors)

    @property
    def listeners(self) -> list[Hashable]:
        """The addresses of the listeners."""
        return list(self._listeners)

    @property
    def pending_timers(self) -> int:
        """How many ``call_later`` are neither done nor cancelled."""
        return sum(timer.func is not None and not timer.internal for _, _, timer in self._timers)

    @property
    def running(self) -> bool:
        """False after :meth:`cleanup` and after a crash."""
        return self.network.links.get(self.name) is self

    # Timers

    def internal_timer(self, delay: float, func: Callable[..., object]) -> _Timer:
        """A timer of the link itself, for its connectors."""
        return self._add_timer(delay, func, (), internal=True)

    def _add_timer(
        self, delay: float, func: Callable[..., object], args: tuple[Any, ...], internal: bool
    ) -> _Timer:
        self._die_again()
        timer = _Timer(self, func, args, internal)
        if not self._over:
            when = self.network.now + max(delay, 0)
            self._timer_serial += 1
            heappush(self._timers, (when, self._timer_serial, timer))
            self._pass_by(when)
        return timer

    def timer_cancelled(self) -> None:
        """One more of the timers is dead weight: do not let them pile up."""
        self._cancelled_timers += 1
        if self._cancelled_timers > 64 and self._cancelled_timers * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if entry[2].func is not None]
            heapify(self._timers)
            self._cancelled_timers = 0

    def _run_timers(self) -> None:
        now = self.network.now
        due = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heappop(self._timers)[2])
        for index, timer in enumerate(due):
            func = timer.func
            if func is None:  # cancelled, perhaps by one that was due with it
                self._cancelled_timers = max(self._cancelled_timers - 1, 0)
                continue
            timer.func = None
            try:
                self._call(func, timer.args)
            except BaseException:
                for left in due[index + 1 :]:
                    self._timer_serial += 1
                    heappush(self._timers, (now, self._timer_serial, left))
                raise

    # Connections

    def adopt(self, end: End) -> None:
        """The connection exists from now on; ``on_connect`` comes with the next pass."""
        end.alive = True
        end.conn_id = f"{self.name}:{self.network.serial()}"
        self._ends[end.conn_id] = end
        end.wake()

    def _disconnect(self, end: End) -> None:
        if not end.alive or end.closing:
            return
        end.closing = True
        self._trace("disconnect", end.conn_id)
        try:
            if end.announced:
                self.on_disconnect(end.conn_id)
        finally:
            if end.alive:  # else the process crashed in the callback
                end.finish()
                del self._ends[end.conn_id]
                if end.connector is not None:
                    end.connector.lost()

    def _handle(self, end: End) -> None:
        try:
            if not end.alive:
                return
            if not end.announced:
                end.announced = True
                self._trace("connect", end.conn_id)
                self.on_connect(end.conn_id)
            elif self.network.random.random() < 0.5:
                self._handle_send(end)
                self._handle_recv(end)
            else:
                self._handle_recv(end)
                self._handle_send(end)
        finally:
            end.wake()

    def _handle_send(self, end: End) -> None:
        if end.taken is not None and end.alive and end.outward.room() > 0 and not end.reset:
            size, end.taken = end.taken, None
            self._trace("sent", end.conn_id, size)
            self.on_ready_to_send(end.conn_id, size)

    def _handle_recv(self, end: End) -> None:
        if not end.alive or (end.paused and not end.reset):
            return
        data = b"" if end.paused else end.inward.read(end.expected)
        if data:
            self._trace("recv", end.conn_id, len(data))
            self.on_recv(end.conn_id, data)
        elif end.reset or end.inward.ended:
            self._disconnect(end)

    # The loop

    def enqueue(self, end: End) -> None:
        """The end has something to do in the next pass."""
        self._ready.append(end)
        self._pass_by(self.network.now + self.network.loop_delay())

    def _pass_by(self, when: float) -> None:
        # At the end of a pass the next one is planned anyway.
        if when < self._pass_at and not self._in_pass and not self._over:
            self._pass_at = when
            self.network.push_pass(when, self._run_pass)

    def woken(self) -> None:
        """The network noticed :meth:`wakeup_poll`."""
        self._woken = False
        self._pass_soon()

    def _pass_soon(self) -> None:
        now = self.network.now
        delay = self.network.loop_delay()
        # A loop that keeps itself busy must not stop the time of all.
        self._pass_by(max(now + delay, self._last_pass + _PASS_TIME))

    @property
    def busy(self) -> bool:
        """Whether there is something to do now."""
        return bool(
            self._ready or self._soon or (self._timers and self._timers[0][0] <= self.network.now)
        )

    def _run_pass(self, when: object) -> None:
        if when != self._pass_at or self._over:
            return  # an earlier pass took its place
        self._pass_at = _NEVER
        self._last_pass = self.network.now
        self._in_pass = threading.get_ident()
        try:
            # A callback may call cleanup(), which empties both queues.
            for _ in range(len(self._ready)):
                if self._ready:
                    end = self._ready.popleft()
                    end.queued = False
                    self._handle(end)
            if self._timers and self._timers[0][0] <= self.network.now:
                self._run_timers()
            for _ in range(len(self._soon)):
                if self._soon:
                    func, args = self._soon.popleft()
                    self._call(func, args)
            if not self._over:
                self.on_loop_pass()
        except LinkCrashed:
            if self.running:
                raise
        finally:
            self._in_pass = 0
            self._plan_pass()

    def _plan_pass(self) -> None:
        while self._timers and self._timers[0][2].func is None:
            heappop(self._timers)
            self._cancelled_timers = max(self._cancelled_timers - 1, 0)
        if self._ready:
            self._pass_by(self.network.now + self.network.loop_delay())
        if self._soon:
            self._pass_soon()
        if self._timers:
            self._pass_by(max(self._timers[0][0], self.network.now))

    def _call(self, func: Callable[..., object], args: tuple[Any, ...]) -> None:
        try:
            func(*args)
        except Exception as exc:
            self.callback_failed("timer or call_soon", func, (), exc)

    # The end

    def die(self) -> list[End]:
        """The process is gone. Nothing of it will ever run.

        :returns: the ends that its connections had
        """
        ends = list(self._ends.values())
        for connector in self._connectors.values():
            if connector.end is not None and connector.end.opening:
                ends.append(connector.end)
            connector.delete()
        for address in self._listeners:
            self.network.unbind(address)
        self._connectors.clear()
        self._listeners.clear()
        self._fall_silent()
        return ends

    def _fall_silent(self) -> None:
        self._over = True
        self._ends.clear()
        self._ready.clear()
        self._soon.clear()
        self._timers.clear()
        self._pass_at = _NEVER

    def _trace(self, event: str, conn_id: str, size: int = 0) -> None:
        trace = self.network.trace
        if trace is not None:
            trace.append((self.network.now, self.name, event, conn_id, size))
