"""A listener: accepts connections."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import ssl
import sys
from collections.abc import Container
from typing import Any, Final

from snakemq._io.host import LinkHost
from snakemq._io.link_socket import LinkSocket
from snakemq._io.resolver import resolve_local
from snakemq._io.timers import Timer
from snakemq._io.tls import SSLConfig

__all__ = ["Listener"]

#: How many connections may wait to be accepted; the system may allow fewer.
BACKLOG: Final = max(1024, socket.SOMAXCONN)

#: How many connections are accepted in one pass.
_ACCEPTS_PER_PASS: Final = 128

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
        ssl_config: SSLConfig | None,
        context: ssl.SSLContext | None,
        *,
        taken: Container[tuple[str, int]],
    ) -> None:
        self._link = link
        self._ssl_config = ssl_config
        self._context = context
        self._timer: Timer | None = None
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
        """Accept what waits."""
        for _ in range(_ACCEPTS_PER_PASS):
            if self._sock.fileno() < 0:
                return  # a callback deleted this listener
            try:
                raw, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno in _EXHAUSTED:
                    self._pause(exc)
                    return
                # The other side gave up before it was accepted.
                self._link.log.debug("accept on %r: %s", self.address, exc)
                continue
            try:
                self._link.adopt(LinkSocket(raw, self._ssl_config, peer), self._context)
            except OSError as exc:
                self._link.log.error("accept from %r: %s", peer, exc)
                raw.close()

    def _pause(self, exc: OSError) -> None:
        # The socket stays readable; without a pause the loop would spin.
        self._link.log.error(
            "accept on %r: %s; trying again in %.0f s", self.address, exc, _EXHAUSTED_PAUSE
        )
        self._link.selector.unregister(self._sock)
        self._timer = self._link.call_later(_EXHAUSTED_PAUSE, self._resume)

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
