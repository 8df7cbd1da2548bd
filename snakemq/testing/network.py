"""A simulated network of links, with a virtual clock.

Everything that happens follows from one seed: delays, how the streams of bytes
are cut into pieces, where a connection breaks. Nothing waits for real time, so
an hour of a network's life takes as long as handling what happens in it::

    network = SimNetwork(seed=7, conditions=Conditions(delay=0.02, split=0.5))
    alice, bob = network.link("alice"), network.link("bob")
    bob.add_listener(("bob", 4000))
    alice.add_connector(("bob", 4000))
    network.run_until(lambda: alice.connections)
    network.cut("alice", "bob")
    network.run(60)
"""

from __future__ import annotations

import errno
import itertools
import random
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import replace
from heapq import heappop, heappush
from typing import Any, Final, TypeAlias

from snakemq.testing._sim_link import Connector, LinkCrashed, SimLink
from snakemq.testing._stream import BENIGN, Conditions, End, Flow

__all__ = ["BENIGN", "Conditions", "LinkCrashed", "SimLink", "SimNetwork", "TraceEntry"]

#: What happened on a link: virtual time, name of the link, event
#: (``connect``, ``recv``, ``sent``, ``disconnect``), connection, bytes.
TraceEntry: TypeAlias = "tuple[float, str, str, str, int]"

#: A link or its name.
_Host: TypeAlias = "SimLink | str"

_FIRST_FREE_PORT: Final = 49152

#: So many events at one and the same time are a mistake: something calls itself
#: again without delay, and would do so for ever.
_MAX_AT_ONCE: Final = 100_000


class SimNetwork:
    """Links that reach each other, and the time they live in.

    Not thread-safe, except for what :class:`SimLink` allows: one thread makes
    links and runs the network.

    :param seed: everything random comes from it
    :param conditions: what the way between any two links is like, unless
        :meth:`set_conditions` says otherwise
    :param loop_delay: up to this many seconds pass before a link's loop looks
        at what happened to it, so that several things come in one pass
    :param trace: keep a record in :attr:`trace`
    :ivar random: the source of everything random
    :ivar links: the links that are running, by their names
    :ivar trace: what happened on the links, ``None`` if it is not recorded
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        conditions: Conditions = BENIGN,
        loop_delay: float = 0.0,
        trace: bool = False,
    ) -> None:
        self.random = random.Random(seed)
        self.links: dict[str, SimLink] = {}
        self.trace: list[TraceEntry] | None = [] if trace else None
        #: the virtual time, in seconds
        self.now = 0.0
        self._conditions = conditions
        self._special_conditions: dict[tuple[str, str], Conditions] = {}
        self._loop_delay = loop_delay
        self._events: list[tuple[float, int, Callable[[Any], object], Any, bool]] = []
        self._event_serial = itertools.count().__next__
        self._in_transit = 0
        self._woken: deque[SimLink] = deque()
        self._serial = itertools.count(1).__next__
        self._port = itertools.count(_FIRST_FREE_PORT).__next__
        self._listeners: dict[Hashable, SimLink] = {}
        self._connections: dict[End, None] = {}
        self._blocked: set[tuple[str, str]] = set()
        self._down: set[str] = set()
        self._running = False
        self._stopped = False
        self._at_once = 0

    def __repr__(self) -> str:
        return f"<SimNetwork now={self.now:.6f} links={sorted(self.links)}>"

    def link(self, name: str) -> SimLink:
        """A new link, on a host of this name.

        After a crash or :meth:`SimLink.cleanup` of a link the name can be used
        again: the process was restarted.

        :raises ValueError: a link of this name is running
        """
        if name in self.links:
            raise ValueError(f"a link named {name!r} is running: crash it or call its cleanup()")
        link = self.links[name] = SimLink(self, name)
        if name in self._down:
            self._down.discard(name)
            self._ways_open()
        return link

    @property
    def connections(self) -> list[tuple[str, str]]:
        """The connections that at least one side knows, as names of dialler and listener."""
        return [(end.link.name, end.remote.link.name) for end in self._connections]

    # Time

    def time(self) -> float:
        """The virtual time, in seconds; it starts at 0."""
        return self.now

    def call_later(self, delay: float, func: Callable[..., object], *args: object) -> None:
        """Call ``func(*args)`` after ``delay`` virtual seconds, outside of all links.

        For what a test does to the network or to its programs from outside.
        What it raises comes out of the ``run`` method.
        """
        self._push(self.now + max(delay, 0), lambda _: func(*args), None, transit=False)

    def run(self, duration: float) -> None:
        """Let ``duration`` virtual seconds pass."""
        self._run(self.now + duration, lambda: False)

    def run_until(self, condition: Callable[[], object], timeout: float = 60.0) -> bool:
        """Let time pass until ``condition()`` is true, but at most ``timeout`` virtual seconds.

        :returns: whether it is true
        """
        return bool(condition()) or self._run(self.now + timeout, condition)

    def run_until_idle(self, timeout: float = 60.0) -> bool:
        """Let time pass until nothing is on its way and no link has anything to do.

        What only waits for its time does not count: timers, reconnecting,
        bytes held back by a silent loss, :meth:`call_later`.

        :param timeout: virtual seconds
        :returns: whether it came to that
        """
        return self._idle() or self._run(self.now + timeout, self._idle)

    def stop(self) -> None:
        """Make the ``run`` method that is running return after this event."""
        self._stopped = True

    def _idle(self) -> bool:
        return (
            not self._in_transit
            and not self._woken
            and not any(link.busy for link in self.links.values())
        )

    def _run(self, deadline: float, condition: Callable[[], object]) -> bool:
        if self._running:
            raise RuntimeError("the network is running: this was called from inside of it")
        self._running = True
        self._stopped = False
        try:
            while self._step(deadline):
                if condition():
                    return True
                if self._stopped:
                    return False
            self.now = max(self.now, deadline)
            return bool(condition())
        finally:
            self._running = False

    def _step(self, deadline: float) -> bool:
        woken = self._woken
        while woken:
            woken.popleft().woken()
        events = self._events
        if not events or events[0][0] > deadline:
            return False
        when, _, func, arg, transit = heappop(events)
        if when > self.now:
            self.now = when
            self._at_once = 0
        else:
            self._at_once += 1
            if self._at_once > _MAX_AT_ONCE:
                self._at_once = 0
                raise RuntimeError(f"time stands still at {when}: {func} is called for ever")
        if transit:
            self._in_transit -= 1
        func(arg)
        return True

    # Faults

    def set_conditions(self, source: _Host, target: _Host, **changes: Any) -> None:
        """Change what the way from ``source`` to ``target`` is like (not the way back).

        :param changes: fields of :class:`Conditions`
        """
        way = (_name(source), _name(target))
        conditions = replace(self.conditions(*way), **changes)
        self._special_conditions[way] = conditions
        for flow in self._flows():
            if (flow.source.link.name, flow.target.link.name) == way:
                flow.conditions = conditions

    def conditions(self, source: _Host, target: _Host) -> Conditions:
        """What the way from ``source`` to ``target`` is like."""
        way = (_name(source), _name(target))
        return self._special_conditions.get(way, self._conditions)

    def cut(self, a: _Host, b: _Host) -> int:
        """Break all connections between two links.

        Both sides get a reset, each at its own time; of what is in flight an
        arbitrary part is lost, from some byte on.

        :returns: how many connections broke
        """
        names = {_name(a), _name(b)}
        hit = [end for end in self._connections if {end.link.name, end.remote.link.name} == names]
        for end in hit:
            for side in (end, end.remote):
                side.outward.abort()
            for side in (end, end.remote):
                self._push_break(side)
        return len(hit)

    def drop_silently(self, source: _Host, target: _Host) -> None:
        """Let nothing through from ``source`` to ``target``, and tell nobody.

        The way back is not affected: existing connections become half-open.
        What was sent arrives after :meth:`heal`, unless the connection is given
        up before; attempts to connect in either direction time out.
        """
        self._blocked.add((_name(source), _name(target)))

    def partition(self, *groups: Iterable[_Host]) -> None:
        """Let nothing through between links of different groups, and tell nobody."""
        names = [[_name(host) for host in group] for group in groups]
        for one, other in itertools.permutations(names, 2):
            self._blocked.update(itertools.product(one, other))

    def heal(self, source: _Host | None = None, target: _Host | None = None) -> None:
        """Undo :meth:`drop_silently` for this direction; without arguments, for all."""
        if source is None or target is None:
            self._blocked.clear()
        else:
            self._blocked.discard((_name(source), _name(target)))
        self._ways_open()

    def crash(self, link: _Host, silent: bool = False, flush: bool = False) -> None:
        """Kill the process of a link.

        Nothing of it runs again: no callback, no timer. If it is called from
        one of the link's own callbacks then that ends here. Start another
        link with the same name to restart it.

        :param silent: the whole machine is gone: nobody is told until it is
            back; otherwise the other sides get a reset
        :param flush: the system still delivers what it had taken, then the end
            of the stream, as it often does for a killed process; otherwise an
            arbitrary part of what is in flight is lost
        :raises LinkCrashed: it is called from one of the link's own callbacks
        :raises KeyError: no such link is running
        :raises ValueError: both ``silent`` and ``flush``
        """
        if silent and flush:
            raise ValueError("a machine that is gone does not flush anything")
        link = self.links[_name(link)]
        suicide = link.is_inside_loop()
        ends = link.die()
        self.forget(link)
        if silent:
            self._down.add(link.name)
            for end in list(self._connections):
                ends += [side for side in (end, end.remote) if side.link.name == link.name]
        for end in ends:
            if flush and end.alive:
                end.finish()
                continue
            if not silent and not self.is_blocked(link.name, end.remote.link.name):
                self._push_break(end.remote)
            end.vanish()
        if suicide:
            raise LinkCrashed(link.name)

    def probe(self) -> int:
        """Do what the keepalive of TCP does after minutes of silence.

        A side that still has a connection which the other side does not know
        any more, because its machine vanished for instance, gets a reset.

        :returns: how many connections that were
        """
        dead = [side for end in self._connections for side in (end, end.remote) if side.widowed]
        for side in dead:
            self._push_break(side)
        return len(dead)

    def is_blocked(self, source: str, target: str) -> bool:
        """Whether nothing gets through from ``source`` to ``target``."""
        return (source, target) in self._blocked or target in self._down

    def _push_break(self, end: End) -> None:
        conditions = end.inward.conditions
        delay = self.random.random() * (conditions.delay + conditions.jitter)
        self.push(self.now + delay, lambda _: end.break_off(), None)

    def _ways_open(self) -> None:
        for flow in self._flows():
            flow.way_is_open()

    def _flows(self) -> Iterator[Flow]:
        for end in list(self._connections):
            yield end.outward
            yield end.inward

    # For the links

    def push(self, when: float, func: Callable[[Any], None], arg: object) -> None:
        """Something is on its way and arrives then: ``func(arg)``."""
        self._in_transit += 1
        self._push(when, func, arg, transit=True)

    def push_pass(self, when: float, func: Callable[[Any], None]) -> None:
        """A link wants to do a pass then: ``func(when)``."""
        self._push(when, func, when, transit=False)

    def _push(self, when: float, func: Callable[[Any], object], arg: object, transit: bool) -> None:
        heappush(self._events, (when, self._event_serial(), func, arg, transit))

    def wake(self, link: SimLink) -> None:
        """A link has something to do. From any thread."""
        self._woken.append(link)

    def loop_delay(self) -> float:
        """How long a loop takes to notice something, in seconds."""
        return self._loop_delay and self._loop_delay * self.random.random()

    def serial(self) -> int:
        """A number that was never used before."""
        return self._serial()

    def forget(self, link: SimLink) -> None:
        """The link is not running any more."""
        if self.links.get(link.name) is link:
            del self.links[link.name]

    def bind(self, link: SimLink, address: Hashable) -> Hashable:
        """Give an address to a listener."""
        if isinstance(address, tuple) and len(address) == 2 and address[1] == 0:
            address = (address[0], self._port())
        owner = self._listeners.get(address)
        if owner is link:
            raise ValueError(f"there is a listener on {address!r} already")
        if owner is not None:
            raise OSError(errno.EADDRINUSE, f"{owner.name} listens on {address!r}")
        self._listeners[address] = link
        return address

    def unbind(self, address: Hashable) -> None:
        """The address is free again."""
        del self._listeners[address]

    def dial(self, connector: Connector, attempt: int) -> None:
        """Send an attempt to connect on its way."""
        source = connector.link.name
        host = self._host_of(connector.address)
        conditions = self.conditions(source, host)
        self.push(self.now + conditions.delay, self._dialled, (connector, attempt, source, host))

    def _host_of(self, address: Hashable) -> str:
        listener = self._listeners.get(address)
        if listener is not None:
            return listener.name
        return str(address[0]) if isinstance(address, tuple) and address else ""

    def _dialled(self, call: tuple[Connector, int, str, str]) -> None:
        connector, attempt, source, host = call
        if not connector.expects(attempt):
            return
        if self.is_blocked(source, host) or self.is_blocked(host, source):
            return  # the connector times out
        listener = self._listeners.get(connector.address)
        if listener is None:
            back = self.conditions(host, source)
            self.push(self.now + back.delay, self._refused, (connector, attempt))
            return
        dialler, accepted = End(connector.link, connector), End(listener, None)
        dialler.remote, accepted.remote = accepted, dialler
        dialler.outward = accepted.inward = Flow(
            self, dialler, accepted, self.conditions(source, listener.name)
        )
        dialler.inward = accepted.outward = Flow(
            self, accepted, dialler, self.conditions(listener.name, source)
        )
        self._connections[dialler] = None
        connector.answered(dialler)
        listener.adopt(accepted)
        accepted.outward.accept()

    def _refused(self, call: tuple[Connector, int]) -> None:
        connector, attempt = call
        if connector.expects(attempt):
            connector.refused()

    def dissolve(self, end: End) -> None:
        """One side has forgotten the connection; forget it when both have."""
        dialler = end if end.connector is not None else end.remote
        if not (dialler.alive or dialler.opening or dialler.remote.alive):
            self._connections.pop(dialler, None)


def _name(host: _Host) -> str:
    return host if isinstance(host, str) else host.name
