"""Receiving in a thread that waits for what comes, without sleeping."""

from __future__ import annotations

import os
import select
import selectors
import sys
from collections.abc import Callable
from typing import Any, Final

from snakemq._io.clock import monotonic
from snakemq._io.host import LinkHost
from snakemq._io.link_socket import LinkSocket, SocketState
from snakemq.contracts import LARGEST_POLLED

__all__ = ["BusyPoller"]

#: Those that notice while they wait that they are told to watch something else.
_ATTENTIVE: Final = tuple(
    getattr(selectors, name)
    for name in ("EpollSelector", "KqueueSelector", "DevpollSelector")
    if hasattr(selectors, name)
)


def _go_on() -> None:
    """There is no way to let others have the processor."""


#: Others that could run on this processor come first: it may be they who are waited for.
_yield_processor: Final[Callable[[], object]] = getattr(os, "sched_yield", _go_on)


# Looking for it in its class takes longer, as often as it is done here.
_OPEN: Final = SocketState.OPEN

#: Missing where something has replaced what this Python was made with.
_EPOLL: Final[Any] = getattr(selectors, "EpollSelector", ())

#: What epoll calls them; other systems have neither, nor use for it.
_READ: Final = getattr(select, "EPOLLIN", 0)
_READ_AND_WRITE: Final = _READ | getattr(select, "EPOLLOUT", 0)


class _Hush:
    """Has the selector not tell of a socket for a while.

    Changes what the system watches for, behind the selector's back: that takes a sixth of
    the time of :meth:`selectors.BaseSelector.unregister` and ``register``, 2 us less on
    either side of each call.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._epoll: Any = None
        if sys.platform == "linux" and isinstance(selector, _EPOLL):
            # A descriptor of its own for what the selector uses, too: this closes it.
            self._epoll = select.epoll.fromfd(os.dup(selector.fileno()))

    def begin(self, link: LinkHost, sock: LinkSocket) -> None:
        if self._epoll is None:
            link.watch(sock, 0)
        else:
            self._epoll.modify(sock.fileno(), 0)

    def end(self, link: LinkHost, sock: LinkSocket) -> None:
        if sock.paused:
            return
        if self._epoll is None:
            link.watch(sock, sock.interest | selectors.EVENT_READ)
        else:
            writes = sock.interest & selectors.EVENT_WRITE
            self._epoll.modify(sock.fileno(), _READ_AND_WRITE if writes else _READ)

    def close(self) -> None:
        if self._epoll is not None:
            self._epoll.close()


class BusyPoller:
    """Reads from a socket again and again instead of sleeping, for less than a millisecond.

    A processor that nobody uses goes to sleep, and the thread that then runs on it finds
    cold caches: to be woken by what arrives makes a remote call three times as slow as it
    is if both sides stay awake (see :doc:`/explanation/where_the_time_goes`).

    For a thread that has borrowed the stack of a link whose loop sleeps. The socket is
    taken from the selector meanwhile, so the loop stays asleep; if anything else wakes it,
    this ends.

    :param link: the link
    """

    def __init__(self, link: LinkHost) -> None:
        self._link = link
        #: whether this can be done here
        self.is_possible = isinstance(link.selector, _ATTENTIVE)
        self._hush = _Hush(link.selector)

    def close(self) -> None:
        """It is not used any more."""
        self._hush.close()

    def poll(
        self,
        sock: LinkSocket,
        take: Callable[[bytes], bool],
        wanted: Callable[[], bool],
        deadline: float,
    ) -> bool:
        """See :meth:`snakemq.contracts.LinkInterface.poll_here`.

        What was sent before is reported here as well: else nothing could be sent again.
        """
        if (
            sock.state is not _OPEN
            or sock.interest != selectors.EVENT_READ
            or not sock.was_heard
            or sock.expected
            or sock.has_buffered()
        ):
            return False
        link = self._link
        try:
            self._hush.begin(link, sock)
            received = self._poll(sock, take, wanted, deadline)
            self.restore(sock)
            if sock.eof or sock.has_buffered():
                link.call_soon(link.read, sock)
        except BaseException:
            # Ctrl-C, and it may be anywhere: what was read is lost, or nobody hears of more.
            link.give_up_here(sock)
            raise
        return received

    def restore(self, sock: LinkSocket) -> None:
        """Have the selector tell of it again, unless it is known what it would tell."""
        if sock.state is SocketState.CLOSED:
            return
        if sock.failure is None:
            self._hush.end(self._link, sock)
        else:
            # Or the loop would find an end without a reason first.
            self._link.watch(sock, 0)

    def _poll(
        self,
        sock: LinkSocket,
        take: Callable[[bytes], bool],
        wanted: Callable[[], bool],
        deadline: float,
    ) -> bool:
        link = self._link
        received = False
        while link.is_asleep() and wanted() and sock.state is _OPEN and not sock.paused:
            try:
                data = sock.recv(LARGEST_POLLED)
            except OSError as exc:
                if type(exc) is TimeoutError and exc.errno is None:
                    raise  # of a signal handler, and nothing of the socket
                link.failed_here(sock, exc)
                break
            if data:
                if not take(data):
                    sock.unread = data
                    break
                received = True
            elif sock.eof:
                break
            elif not link.report_here(sock):
                _yield_processor()
            if monotonic() >= deadline:
                break
        return received
