"""What a layer may assume of the one below it.

Layers are written against these contracts and never against a class, so a
link can be TCP, TLS, a throttle in front of another link or a simulated
network. Every implementation passes the contract suites in
:mod:`snakemq.testing`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from snakemq.callbacks import Callback
from snakemq.limits import ConnectionLimits

__all__ = ["LARGEST_POLLED", "Buffer", "LinkInterface", "TimerHandle", "TlsInfo"]

#: What is read at once at most by a thread that does not sleep, in bytes.
LARGEST_POLLED: Final = 64 * 1024

#: What can be sent: any object that holds bytes.
Buffer: TypeAlias = "bytes | bytearray | memoryview"


class TimerHandle(Protocol):
    """What :meth:`LinkInterface.call_later` returns."""

    def cancel(self) -> None:
        """Do not call. Harmless after the call or a second time. Loop thread only."""


class TlsInfo(NamedTuple):
    """What TLS knows of a connection."""

    #: the other side's certificate as :meth:`ssl.SSLSocket.getpeercert` has it;
    #: ``None``: it was not verified, or there is none
    certificate: dict[str, Any] | None
    #: the same in DER, also if it was not verified; ``None``: there is none
    certificate_bytes: bytes | None
    #: bytes that are the same on both sides of this connection, and of no other
    channel_binding: bytes
    #: "TLSv1.3" for instance
    version: str
    #: name of the cipher
    cipher: str
    #: the protocol that was agreed on (ALPN)
    alpn: str | None


class LinkInterface(Protocol):
    """A keeper of connections, each a reliable stream of bytes.

    The life of a connection, as its callbacks tell it: ``on_connect`` once;
    then any number of ``on_recv`` and ``on_ready_to_send``; ``on_disconnect``
    once; nothing after that. A connection identifier is never used again.
    All callbacks run in the thread of the loop, never at the same time.
    """

    @property
    def on_connect(self) -> Callback[[str]]:
        """``func(conn_id)``"""

    @property
    def on_disconnect(self) -> Callback[[str]]:
        """``func(conn_id)``; the connection can still be asked about."""

    @property
    def on_recv(self) -> Callback[[str, bytes]]:
        """``func(conn_id, data)``; ``data`` is never empty."""

    @property
    def on_ready_to_send(self) -> Callback[[str, int]]:
        """``func(conn_id, last_send_size)``

        The last send is finished; ``last_send_size`` bytes of it, possibly
        none, were taken over. The rest has to be sent again.
        """

    @property
    def on_loop_pass(self) -> Callback[[]]:
        """``func()`` after each pass of the loop."""

    def send(self, conn_id: str, *data: Buffer) -> None:
        """Send what can be sent of ``data`` now; ``on_ready_to_send`` tells how much.

        Several pieces are sent as one, without putting them together before. No
        callback runs inside this call. A connection that breaks here is
        reported by ``on_disconnect`` later. ``data`` must not be changed until
        ``on_ready_to_send``. Loop thread only.

        :raises KeyError: no such connection
        :raises snakemq.exceptions.SendNotFinished: the last send is not
            finished yet
        """

    def unreported(self, conn_id: str) -> int:
        """How much of the last send was taken over and not reported yet, in bytes.

        For ``on_disconnect``: with this it is known to the byte what the
        system had taken when the connection ended. Loop thread only.

        :raises KeyError: no such connection
        """

    def close(self, conn_id: str) -> None:
        """Close at once; ``on_disconnect`` runs inside this call. Loop thread only.

        What ``on_ready_to_send`` reported as taken is still delivered if the
        network allows it.

        :raises KeyError: no such connection
        """

    def expect(self, conn_id: str, size: int) -> None:
        """The next ``size`` bytes belong together.

        They should come in few pieces, and what is behind them in another one: then
        nobody has to copy them. That is advice; a link may ignore it, and it may keep what
        is less until it is told something else. Loop thread only.

        :param size: counted from the last ``on_recv``; 0: nothing is known of what comes,
            and what is there is to come at once
        :raises KeyError: no such connection
        """

    def pause_recv(self, conn_id: str) -> None:
        """No ``on_recv`` for this connection until :meth:`resume_recv`.

        What the other side sends meanwhile slows it down, and nothing of it
        is lost. Loop thread only.

        :raises KeyError: no such connection
        """

    def resume_recv(self, conn_id: str) -> None:
        """Undo :meth:`pause_recv`. Harmless if it is not paused. Loop thread only.

        :raises KeyError: no such connection
        """

    def is_connector(self, conn_id: str) -> bool:
        """Whether this side dialled (else it listened).

        :raises KeyError: no such connection
        """

    def is_mesh(self) -> bool:
        """Whether this side both dials and listens.

        Then it and another one that does may dial each other at the same time.
        Loop thread only.
        """

    def get_certificate(self, conn_id: str) -> dict[str, Any] | None:
        """The other side's certificate. From any thread.

        :return: as :meth:`ssl.SSLSocket.getpeercert` has it; ``None``: the
            connection has no TLS, or no certificate that was verified, or is
            not there any more
        """

    @property
    def limits(self) -> ConnectionLimits:
        """How many connections, and what they may take; fits what the process may have."""

    def get_tls(self, conn_id: str) -> TlsInfo | None:
        """What TLS knows of the connection. Loop thread only.

        :return: ``None``: it has no TLS
        :raises KeyError: no such connection
        """

    def get_remote_host(self, conn_id: str) -> str:
        """Where the other side is: an address without port, or another name of the place.

        Loop thread only.

        :raises KeyError: no such connection
        """

    def wakeup_poll(self) -> None:
        """Make the loop do a pass now. From any thread and from signal handlers."""

    def call_soon(self, func: Callable[..., object], *args: object) -> None:
        """Call ``func(*args)`` in the loop's thread, soon, in order. From any thread."""

    def run_here(self, func: Callable[..., bool], *args: object) -> bool:
        """Call ``func(*args)`` in this thread and now, if the loop sleeps. From any thread.

        ``func`` may do what only the loop's thread may do otherwise, which has
        to wait meanwhile; but for timers. A link that can't do this never does.

        :return: what ``func`` returned; false if it was not called
        """

    def poll_here(
        self,
        conn_id: str,
        take: Callable[[bytes], bool],
        wanted: Callable[[], bool],
        deadline: float,
    ) -> bool:
        """Receive in this thread and without sleeping, while the loop sleeps. From any thread.

        It ends at the deadline at the latest, and before that as soon as the loop has
        anything to do. A link that can't do this never does.

        :param take: ``func(data)``, with :data:`LARGEST_POLLED` bytes at most; handles that
            and returns true, or leaves it to the loop, whose ``on_recv`` gets it as if nobody
            had polled
        :param wanted: ``func()``; whether to go on
        :param deadline: on the clock of :meth:`time`; there should be less than a
            millisecond left
        :return: whether anything was received here
        """

    def call_later(self, delay: float, func: Callable[..., object], *args: object) -> TimerHandle:
        """Call ``func(*args)`` in the loop's thread after ``delay`` seconds.

        Loop thread only (or before the loop runs).
        """

    def is_inside_loop(self) -> bool:
        """Whether the calling thread is inside a callback, timer or call of this link.

        The loop then waits for it, so it must not wait for the loop. From any
        thread.
        """

    def time(self) -> float:
        """Seconds on a clock that only goes forward; its zero means nothing."""
