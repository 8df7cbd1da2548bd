"""Handshakes of TLS: how many, how long, and what is said of those that fail."""

from __future__ import annotations

import logging
import selectors
import ssl
from typing import Final, Protocol

from snakemq._core.crowd import Crowd
from snakemq._io.host import LinkHost
from snakemq._io.link_socket import LinkSocket, SocketState
from snakemq._io.tls import TlsSide
from snakemq._io.tls_errors import Circumstances, explain, not_tls, tls_in_plain
from snakemq.callbacks import Callback
from snakemq.exceptions import NotTls, TlsError

__all__ = ["TLS_COUNTERS", "HandshakeHost", "Handshakes"]

#: What is counted here: handshakes that failed, for any reason; those of them that took
#: too long; those that had to go for a newcomer; connections of which one side speaks TLS and
#: the other one does not; open connections that were ended by TLS; files that have changed
#: and can't be used.
TLS_COUNTERS: Final = (
    "handshakes_failed",
    "handshakes_timed_out",
    "handshakes_over_limit",
    "tls_meets_plain",
    "tls_broken",
    "tls_reloads_failed",
)

#: So much is looked at to see what the other side speaks, in bytes.
_PEEK: Final = 16


class HandshakeHost(LinkHost, Protocol):
    """The link, as seen from here."""

    @property
    def on_error(self) -> Callback[[str | None, Exception]]:
        """``func(conn_id, exception)``"""

    def opened(self, sock: LinkSocket) -> None:
        """The handshake is done."""


class _Handshake:
    """One that is under way."""

    __slots__ = ("has_begun", "is_recognised", "side")

    def __init__(self, side: TlsSide) -> None:
        self.side = side
        #: whether OpenSSL has been asked
        self.has_begun = False
        #: whether the other side speaks TLS; it is not known yet if it doesn't
        self.is_recognised = False


class Handshakes:
    """All that are under way on a link. Loop thread only.

    Those of accepted connections have a place each, and the one that has been there for
    longest loses it when there is none left. A handshake that has failed keeps its place until
    the other side has read why.
    """

    def __init__(self, link: HandshakeHost) -> None:
        self._link = link
        self._places: Crowd[LinkSocket] = Crowd(
            link.limits.max_handshakes, link.limits.max_handshakes_per_address
        )
        self._running: dict[LinkSocket, _Handshake] = {}

    def __len__(self) -> int:
        return len(self._running)

    def start(self, sock: LinkSocket, side: TlsSide) -> None:
        """Shake hands on a connected socket."""
        sock.state = SocketState.HANDSHAKE
        self._running[sock] = _Handshake(side)
        # Before the first step, which a callback may interrupt.
        self._link.watch(sock, selectors.EVENT_READ)
        if not sock.is_connector:
            self._take_place(sock)
        sock.timer = self._link.call_later(
            self._link.limits.handshake_timeout, self._timed_out, sock
        )
        self.step(sock)

    def step(self, sock: LinkSocket) -> None:
        """Something may have come, or may be sent now."""
        handshake = self._running[sock]
        try:
            if not self._may_go_on(sock, handshake):
                self._link.watch(sock, selectors.EVENT_READ)
                return
            if not handshake.has_begun:
                self._read_changed_files(handshake.side)
                if sock not in self._running:
                    return  # a callback that was told of an error has closed it
                sock.start_tls(handshake.side)
                handshake.has_begun = True
            sock.do_handshake()
        except ssl.SSLWantReadError:
            self._link.watch(sock, selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            self._link.watch(sock, selectors.EVENT_WRITE)
        except NotTls as exc:
            if not sock.is_connector:
                sock.refuse_plain()
            self._fail(sock, exc)
        except (OSError, ValueError) as exc:
            self._fail(sock, exc)
        else:
            self.forget(sock)
            sock.cancel_timer()
            self._link.opened(sock)

    def forget(self, sock: LinkSocket) -> None:
        """It is done, or closed. Harmless if there was none."""
        self._running.pop(sock, None)
        self._places.leave(sock)

    def _may_go_on(self, sock: LinkSocket, handshake: _Handshake) -> bool:
        """Whether it is worth to ask OpenSSL.

        It could not tell what it was that came instead of TLS; and it takes many times the
        memory of a connection that has not said anything yet.

        :raises NotTls: the other side speaks something else
        :raises OSError: it is gone
        """
        if handshake.is_recognised:
            return True
        try:
            first = sock.peek(_PEEK)
        except (BlockingIOError, InterruptedError):
            return sock.is_connector  # which speaks first
        if not first:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "hung up")
        if sock.is_connector and not handshake.has_begun:
            return True  # so that a plain listener hears what it has to do with
        error = not_tls(first, sock.remote_peer, is_connector=sock.is_connector)
        if error is not None:
            raise error
        handshake.is_recognised = True
        return True

    def _take_place(self, sock: LinkSocket) -> None:
        loser = self._places.enter(sock, sock.place)
        if loser is None:
            return
        if loser not in self._running:
            self._link.give_up(loser, linger=False)  # had failed before
            return
        self._link.counters.add("handshakes_over_limit")
        self._fail(
            loser,
            TlsError(
                "it had to go, because others came and it had not finished its handshake "
                "(max_handshakes, max_handshakes_per_address)",
                loser.remote_peer,
            ),
        )

    def _timed_out(self, sock: LinkSocket) -> None:
        self._link.counters.add("handshakes_timed_out")
        seconds = self._link.limits.handshake_timeout
        words = "said nothing" if not self._running[sock].is_recognised else "did not finish"
        self._fail(
            sock, TlsError(f"it {words} within {seconds:g} s (handshake_timeout)", sock.remote_peer)
        )

    def _fail(self, sock: LinkSocket, exc: Exception) -> None:
        handshake = self._running.pop(sock)
        self._link.counters.add("handshakes_failed")
        error = explain(exc, self._about(sock, handshake.side.server_hostname, sock.has_cipher()))
        if isinstance(error, NotTls):
            self._link.counters.add("tls_meets_plain")
        # If TLS has said in its own way why, that is to be read before the end is.
        has_said_why = isinstance(exc, NotTls) or (
            isinstance(exc, ssl.SSLError) and not isinstance(exc, ssl.SSLEOFError)
        )
        sock.cancel_timer()
        delay = self._link.give_up(sock, linger=has_said_why)
        # Whoever looks whether the port is open is worth no more.
        is_a_look = isinstance(exc, ssl.SSLEOFError) and not handshake.is_recognised
        level = logging.INFO if is_a_look and not sock.is_connector else logging.ERROR
        self._report(sock, "TLS handshake with %r failed: %s%s", error, delay, level)

    def is_mixed_up(self, sock: LinkSocket, first: bytes) -> NotTls | None:
        """For a plain connection: is what has come first the beginning of TLS?"""
        return tls_in_plain(first, sock.remote_peer, is_connector=sock.is_connector)

    def report_mixed_up(self, sock: LinkSocket, error: NotTls, delay: float | None) -> None:
        """A plain connection was closed, because the other side speaks TLS.

        :param delay: seconds until its connector tries again
        """
        self._link.counters.add("tls_meets_plain")
        self._report(sock, "connection with %r closed: %s%s", error, delay)

    def report_broken(self, sock: LinkSocket, exc: ssl.SSLError, delay: float | None) -> None:
        """An open connection was closed because of what TLS said.

        With TLS 1.3 whoever dials is done before the other side has seen its certificate, and
        learns only now that it was refused.

        :param delay: seconds until its connector tries again
        """
        config = sock.ssl_config
        assert config is not None
        error = explain(exc, self._about(sock, config.server_hostname, True))
        if sock.was_heard:
            self._link.counters.add("tls_broken")
            self._report(sock, "TLS connection with %r broke: %s%s", error, delay)
        else:
            self._link.counters.add("handshakes_failed")
            self._report(sock, "TLS handshake with %r failed: %s%s", error, delay)

    def _about(
        self, sock: LinkSocket, server_hostname: str | None, is_agreed: bool
    ) -> Circumstances:
        config = sock.ssl_config
        assert config is not None
        return Circumstances(
            sock.remote_peer,
            sock.is_connector,
            server_hostname,
            config.certfile is not None or config.context is not None,
            is_agreed,
        )

    def _report(
        self,
        sock: LinkSocket,
        words: str,
        error: TlsError,
        delay: float | None,
        level: int = logging.ERROR,
    ) -> None:
        again = "" if delay is None else f"; next attempt in {delay:.1f} s"
        log = self._link.peer_log.error if level == logging.ERROR else self._link.peer_log.info
        log(sock.place, words, sock.remote_peer[:2], error, again)
        self._link.on_error(None, error)

    def _read_changed_files(self, side: TlsSide) -> None:
        try:
            side.look_for_changes()
        except (OSError, ValueError) as exc:
            self._link.counters.add("tls_reloads_failed")
            self._link.log.error(
                "files for TLS have changed and can't be used, what was read before stays in "
                "use: %s",
                exc,
            )
            self._link.on_error(None, exc)
