"""A throttle in front of a link: a link that sends no faster than it is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from snakemq._core.token_bucket import TokenBucket
from snakemq.callbacks import CallbackOwner, CallbackSlot
from snakemq.contracts import Buffer, LinkInterface, TimerHandle, TlsInfo
from snakemq.exceptions import SendNotFinished
from snakemq.limits import ConnectionLimits

__all__ = ["Throttle"]

#: Data goes out in portions worth this many seconds; more often would only
#: cost wake-ups.
_PORTION: Final = 0.02

#: After a pause this many seconds' worth may go out at once. Small, so that
#: the rate holds also over short times.
_BURST: Final = 0.04

#: When the loop was late, this many seconds' worth are made up for.
_CATCH_UP: Final = 0.5


class _Connection:
    __slots__ = ("bucket", "timer", "waiting")

    def __init__(self, rate: float, now: float) -> None:
        self.bucket = TokenBucket(rate, now)
        #: a send that has not been reported as finished
        self.waiting = False
        self.timer: TimerHandle | None = None


class Throttle(CallbackOwner):
    """Limits how fast each connection sends. See :class:`snakemq.contracts.LinkInterface`.

    It stands between a link and a packeter, which can't tell it from a link.
    Receiving is not limited.

    :param link: the link below
    :param speed: bytes per second for each connection
    :raises ValueError: ``speed`` is not more than 0
    """

    on_connect = CallbackSlot[[str]]()
    on_disconnect = CallbackSlot[[str]]()
    on_recv = CallbackSlot[[str, bytes]]()
    on_ready_to_send = CallbackSlot[[str, int]]()
    on_loop_pass = CallbackSlot[[]]()
    #: ``func(conn_id, exception)``; a callback raised
    on_error = CallbackSlot[[str | None, Exception]]()

    def __init__(self, link: LinkInterface, speed: float) -> None:
        if not speed > 0:
            raise ValueError(f"speed must be more than 0 bytes per second, not {speed!r}")
        self.log = logging.getLogger("snakemq.throttle")
        self.link = link
        self.speed = speed
        self._connections: dict[str, _Connection] = {}
        link.on_connect.wire(self._handle_connect)
        link.on_disconnect.wire(self._handle_disconnect)
        link.on_recv.wire(self._handle_recv)
        link.on_ready_to_send.wire(self._handle_ready_to_send)
        link.on_loop_pass.wire(self.on_loop_pass)

    def send(self, conn_id: str, *data: Buffer) -> None:
        """See :meth:`snakemq.contracts.LinkInterface.send`."""
        connection = self._connections[conn_id]
        if connection.waiting:
            raise SendNotFinished(
                f"the last send on {conn_id} is not finished, wait for on_ready_to_send"
            )
        now = self.link.time()
        room = connection.bucket.available(now, self.speed * _BURST)
        size = sum(map(len, data))
        portion = max(1, min(size, int(self.speed * _PORTION)))
        if room >= size:
            self.link.send(conn_id, *data)
        elif room >= portion:
            self.link.send(conn_id, *_beginning(data, room))
        else:
            delay = connection.bucket.delay_until(portion)
            connection.timer = self.link.call_later(delay, self._send_later, conn_id, data)
        connection.waiting = True

    def _send_later(self, conn_id: str, data: tuple[Buffer, ...]) -> None:
        connection = self._connections[conn_id]
        room = connection.bucket.available(self.link.time(), self.speed * _CATCH_UP)
        connection.timer = None
        self.link.send(conn_id, *_beginning(data, max(room, 1)))

    def is_mesh(self) -> bool:
        """See :meth:`snakemq.contracts.LinkInterface.is_mesh`."""
        return self.link.is_mesh()

    def unreported(self, conn_id: str) -> int:
        """See :meth:`snakemq.contracts.LinkInterface.unreported`."""
        return self.link.unreported(conn_id)

    def close(self, conn_id: str) -> None:
        """See :meth:`snakemq.contracts.LinkInterface.close`."""
        self.link.close(conn_id)

    def expect(self, conn_id: str, size: int) -> None:
        """See :meth:`snakemq.contracts.LinkInterface.expect`."""
        self.link.expect(conn_id, size)

    def pause_recv(self, conn_id: str) -> None:
        """See :meth:`snakemq.contracts.LinkInterface.pause_recv`."""
        self.link.pause_recv(conn_id)

    def resume_recv(self, conn_id: str) -> None:
        """See :meth:`snakemq.contracts.LinkInterface.resume_recv`."""
        self.link.resume_recv(conn_id)

    def is_connector(self, conn_id: str) -> bool:
        """See :meth:`snakemq.contracts.LinkInterface.is_connector`."""
        return self.link.is_connector(conn_id)

    def get_certificate(self, conn_id: str) -> dict[str, Any] | None:
        """See :meth:`snakemq.contracts.LinkInterface.get_certificate`."""
        return self.link.get_certificate(conn_id)

    @property
    def limits(self) -> ConnectionLimits:
        """See :attr:`snakemq.contracts.LinkInterface.limits`."""
        return self.link.limits

    def get_tls(self, conn_id: str) -> TlsInfo | None:
        """See :meth:`snakemq.contracts.LinkInterface.get_tls`."""
        return self.link.get_tls(conn_id)

    def get_remote_host(self, conn_id: str) -> str:
        """See :meth:`snakemq.contracts.LinkInterface.get_remote_host`."""
        return self.link.get_remote_host(conn_id)

    def wakeup_poll(self) -> None:
        """See :meth:`snakemq.contracts.LinkInterface.wakeup_poll`."""
        self.link.wakeup_poll()

    def call_soon(self, func: Callable[..., object], *args: object) -> None:
        """See :meth:`snakemq.contracts.LinkInterface.call_soon`."""
        self.link.call_soon(func, *args)

    def call_later(self, delay: float, func: Callable[..., object], *args: object) -> TimerHandle:
        """See :meth:`snakemq.contracts.LinkInterface.call_later`."""
        return self.link.call_later(delay, func, *args)

    def run_here(self, func: Callable[..., bool], *args: object) -> bool:
        """Nothing is called: to send slowly takes timers."""
        return False

    def poll_here(
        self,
        conn_id: str,
        take: Callable[[bytes], bool],
        wanted: Callable[[], bool],
        deadline: float,
    ) -> bool:
        """Nothing is received: who sends slowly need not hurry."""
        return False

    def is_inside_loop(self) -> bool:
        """See :meth:`snakemq.contracts.LinkInterface.is_inside_loop`."""
        return self.link.is_inside_loop()

    def time(self) -> float:
        """See :meth:`snakemq.contracts.LinkInterface.time`."""
        return self.link.time()

    def __getattr__(self, name: str) -> Any:
        # What a particular link has beyond the contract (adding listeners,
        # the socket of a connection, the loop) is reached through as well.
        if name.startswith("_") or name == "link":
            raise AttributeError(name)
        return getattr(self.link, name)

    def _handle_connect(self, conn_id: str) -> None:
        self._connections[conn_id] = _Connection(self.speed, self.link.time())
        self.on_connect(conn_id)

    def _handle_disconnect(self, conn_id: str) -> None:
        connection = self._connections.pop(conn_id, None)
        if connection is None:
            return
        if connection.timer is not None:
            connection.timer.cancel()
        self.on_disconnect(conn_id)

    def _handle_recv(self, conn_id: str, data: bytes) -> None:
        self.on_recv(conn_id, data)

    def _handle_ready_to_send(self, conn_id: str, sent: int) -> None:
        connection = self._connections.get(conn_id)
        if connection is not None:
            connection.waiting = False
            connection.bucket.take(sent)
            self.on_ready_to_send(conn_id, sent)


def _beginning(data: Iterable[Buffer], size: int) -> list[Buffer]:
    """The first ``size`` bytes of it, or all if that is less."""
    pieces: list[Buffer] = []
    for piece in data:
        if size <= 0:
            break
        pieces.append(piece if len(piece) <= size else memoryview(piece)[:size])
        size -= len(piece)
    return pieces
