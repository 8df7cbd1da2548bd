"""A listener: accepts connections."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import sys
from collections.abc import Container
from typing import Any, Final

from snakemq._io.capacity import accepted_connections
from snakemq._io.clock import monotonic
from snakemq._io.host import LinkHost
from snakemq._io.link_socket import LinkSocket
from snakemq._io.resolver import resolve_local
from snakemq._io.timers import Timer
from snakemq._io.tls import TlsSide
from snakemq._peer_log import LINES_TIME

__all__ = ["ACCEPT_COUNTERS", "Listener"]

#: What is counted here: connections that were closed at once, because there were as
#: many as there may be; those that were closed already, and had to make room before they
#: had read why; how often others had to wait because they came too fast;
#: how often accepting failed, because the process had no descriptor left.
ACCEPT_COUNTERS: Final = (
    "connections_over_limit",
    "farewells_cut_short",
    "accept_rate_reached",
    "descriptors_exhausted",
)

#: How many connections may wait to be accepted; the system may allow fewer.
BACKLOG: Final = max(1024, socket.SOMAXCONN)

#: How many connections are accepted in one pass. Each takes about as long as a
#: message, and those that are there already wait meanwhile.
_ACCEPTS_PER_PASS: Final = 16

#: How long nothing is accepted when the process is out of descriptors, in seconds.
_EXHAUSTED_PAUSE: Final = 1.0

_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """A listening socket. Loop thread only.

    :param taken: addresses that have a listener already
    :raises ValueError: ``address`` is one of them
    :raises OSError: can't listen there
    """

    def __init__(
        self,
        link: LinkHost,
        address: tuple[str, int],
        tls: TlsSide | None,
        *,
        taken: Container[tuple[str, int]],
    ) -> None:
        self._link = link
        self._tls = tls
        self._timer: Timer | None = None
        self._silent_until = 0.0
        try:
            family, local = resolve_local(*address)
        except OSError as exc:
            raise _can_not_listen(address, exc) from exc
        if address[1] and (str(local[0]), address[1]) in taken:
            raise ValueError(f"listener {address!r} already set")
        self._sock = _listen(family, local)
        host, port = self._sock.getsockname()[:2]
        #: where it listens, with the real port
        self.address: tuple[str, int] = (host, port)
        link.selector.register(self._sock, selectors.EVENT_READ, self)

    def handle_readable(self) -> None:
        """Accept what waits, and what may come in of it."""
        now = monotonic()
        room = self._link.admission.room(now)
        if not room:
            self._wait_for_turn(now)
            return
        max_connections = self._max_connections()
        for _ in range(min(room, _ACCEPTS_PER_PASS)):
            if self._sock.fileno() < 0:
                return  # a callback deleted this listener
            try:
                raw, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno in _EXHAUSTED:
                    self._wait_for_descriptors(exc)
                    return
                # The other side gave up before it was accepted.
                self._link.log.debug("accept on %r: %s", self.address, exc)
                continue
            self._accept(raw, peer, max_connections)

    def _max_connections(self) -> int:
        limit = self._link.limits.max_connections
        possible = accepted_connections(self._link.selector)
        return limit if possible is None else min(limit, possible)

    def _accept(self, raw: socket.socket, peer: Any, max_connections: int) -> None:
        if not peer:
            raw.close()  # so macOS says that the other side is gone already
            return
        sock = LinkSocket(raw, self._tls.config if self._tls else None, peer)
        if self._link.admission.is_full(max_connections):
            self._make_room()
        if not self._link.admission.enter(sock, max_connections):
            sock.close()
            self._link.counters.add("connections_over_limit")
            self._link.peer_log.warning(
                self.address,
                "accept on %r: closed the connection from %r, because %d are open"
                " (max_connections, or what the system allows)",
                self.address,
                peer[:2],
                max_connections,
            )
            return
        try:
            self._link.adopt(sock, self._tls)
        except OSError as exc:
            self._link.peer_log.error(sock.place, "accept from %r: %s", peer, exc)
            self._link.give_up(sock, linger=False)

    def _make_room(self) -> None:
        # Others must not be kept out by those that were sent away and stay as long as
        # they can.
        sock = self._link.admission.next_to_leave()
        if sock is not None:
            self._link.counters.add("farewells_cut_short")
            self._link.give_up(sock, linger=False)

    def _wait_for_turn(self, now: float) -> None:
        self._link.counters.add("accept_rate_reached")
        if now >= self._silent_until:
            self._silent_until = now + LINES_TIME
            self._link.log.warning(
                "accept on %r: more than %g connections a second (accept_rate); they wait",
                self.address,
                self._link.limits.accept_rate,
            )
        self._pause(self._link.admission.delay())

    def _wait_for_descriptors(self, exc: OSError) -> None:
        self._link.counters.add("descriptors_exhausted")
        self._link.peer_log.error(
            self.address,
            "accept on %r: %s; trying again in %.0f s",
            self.address,
            exc,
            _EXHAUSTED_PAUSE,
        )
        self._pause(_EXHAUSTED_PAUSE)

    def _pause(self, delay: float) -> None:
        # The socket stays readable; without a pause the loop would spin.
        self._link.selector.unregister(self._sock)
        self._timer = self._link.call_later(delay, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._link.selector.register(self._sock, selectors.EVENT_READ, self)

    def close(self) -> None:
        """Listen no more."""
        if self._timer is not None:
            self._timer.cancel()
        else:
            self._link.selector.unregister(self._sock)
        self._sock.close()


def _listen(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            # There SO_REUSEADDR would let another process steal the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        raise _can_not_listen(address, exc) from exc
    return sock


def _can_not_listen(address: tuple[Any, ...], exc: OSError) -> OSError:
    host, port = address[:2]
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return type(exc)(exc.errno, f"can't listen on {where}: {exc.strerror or exc}")
