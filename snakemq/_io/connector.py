"""A connector: dials, tries all addresses, and dials again."""

from __future__ import annotations

import enum
import errno
import os
import selectors
import socket
from typing import Final

from snakemq._core.backoff import Backoff
from snakemq._io.host import LinkHost
from snakemq._io.link_socket import LinkSocket
from snakemq._io.resolver import Resolved, resolve
from snakemq._io.timers import Timer
from snakemq._io.tls import TlsSide

__all__ = ["Connector"]

#: How long one address may take to answer, in seconds.
CONNECT_TIMEOUT: Final = 10.0

# What connect_ex answers when the result will come later; Windows has its own.
_IN_PROGRESS: Final = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN, errno.EINTR, 10035)


class _State(enum.Enum):
    WAITING = enum.auto()
    RESOLVING = enum.auto()
    CONNECTING = enum.auto()
    CONNECTED = enum.auto()
    STOPPED = enum.auto()


class Connector:
    """Keeps one connection to an address. Loop thread only."""

    def __init__(
        self,
        link: LinkHost,
        address: tuple[str, int],
        reconnect_interval: float,
        tls: TlsSide | None,
    ) -> None:
        self._link = link
        self.address = address
        self._interval = reconnect_interval
        self._tls = tls
        self._backoff = Backoff(reconnect_interval, cap=link.reconnect_interval_max, rng=link.rng)
        self._state = _State.WAITING
        self._timer: Timer | None = None
        self._candidates: list[Resolved] = []
        self._sock: LinkSocket | None = None
        self._error: OSError | None = None

    def start(self) -> None:
        """Make an attempt."""
        if self._state is not _State.WAITING:
            return
        self._state = _State.RESOLVING
        self._timer = None
        host, port = self.address

        def resolved(found: list[Resolved], error: OSError | None) -> None:
            self._link.call_soon(self._resolved, found, error)

        resolve(host, port, resolved)

    def stop(self) -> LinkSocket | None:
        """Make no more attempts.

        :return: the socket, if there is one, for the link to close
        """
        self._state = _State.STOPPED
        self._cancel_timer()
        sock, self._sock = self._sock, None
        return sock

    def _resolved(self, found: list[Resolved], error: OSError | None) -> None:
        if self._state is not _State.RESOLVING:
            return
        self._error = error
        self._candidates = found
        self._try_next()

    def _try_next(self) -> None:
        self._cancel_timer()
        self._state = _State.CONNECTING
        while self._candidates:
            family, address = self._candidates.pop(0)
            try:
                raw = socket.socket(family, socket.SOCK_STREAM)
            except OSError as exc:  # no such family here, or out of descriptors
                self._error = exc
                continue
            sock = LinkSocket(raw, self._tls.config if self._tls else None, address)
            sock.is_connector = True
            sock.owner = self
            error = sock.sock.connect_ex(address)
            if error in (0, errno.EISCONN):
                self._sock = sock
                self._connected(sock)
                return
            if error in _IN_PROGRESS:
                try:
                    self._link.watch(sock, selectors.EVENT_WRITE)
                except OSError as exc:  # the system watches so many only
                    sock.close()
                    self._error = exc
                    continue
                self._sock = sock
                self._timer = self._link.call_later(CONNECT_TIMEOUT, self._timed_out)
                return
            sock.close()
            self._error = OSError(error, os.strerror(error))
        self._failed()

    def _timed_out(self) -> None:
        self._timer = None
        self._give_up(TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))

    def _give_up(self, error: OSError) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self._link.watch(sock, 0)
            sock.close()
        self._error = error
        self._try_next()

    def handle_io(self, sock: LinkSocket) -> None:
        """The result of the attempt is known."""
        error = sock.connect_error()
        if error:
            self._give_up(OSError(error, os.strerror(error)))
        else:
            self._connected(sock)

    def _connected(self, sock: LinkSocket) -> None:
        self._cancel_timer()
        self._candidates = []
        self._state = _State.CONNECTED
        try:
            self._link.adopt(sock, self._tls)
        except OSError as exc:
            self._link.log.error("connect to %r: %s", self.address, exc)
            self._link.give_up(sock, linger=False)

    def _failed(self) -> None:
        delay = self._plan()
        self._link.log.info(
            "connect to %r failed: %s; next attempt in %.1f s", self.address, self._error, delay
        )

    def _plan(self) -> float:
        self._state = _State.WAITING
        self._sock = None
        delay = self._backoff.next_delay()
        self._timer = self._link.call_later(delay, self.start)
        return delay

    def lost(self, sock: LinkSocket, lived: float) -> float | None:
        """The connection is gone.

        :param lived: how long it was open, in seconds
        :return: seconds until the next attempt; ``None``: there will be none
        """
        if self._state is not _State.CONNECTED or sock is not self._sock:
            return None
        # One that is closed as soon as it is open is no success: a peer that
        # refuses this one would be dialled in a hurry for ever.
        if lived >= self._interval:
            self._backoff.reset()
        return self._plan()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
