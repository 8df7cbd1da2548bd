"""Messages that arrived and can't be handled yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from snakemq._core.frames import FRAME_PONG, FrameType
from snakemq._incoming import WINDOW
from snakemq._peer_connection import Hold, PeerConnection
from snakemq.exceptions import SnakeMQException
from snakemq.packeter import Packeter

__all__ = ["Holding"]

#: How much is held of a connection before nothing more is read from it, in
#: bytes. One that acknowledges is slowed down by its window before.
_LIMIT: Final = 256 * 1024
_LIMIT_WITH_WINDOW: Final = 2 * WINDOW.window_bytes

#: What has to be handled in order.
_ORDERED: Final = (FrameType.MESSAGE, FrameType.SEQUENCE)


class Holding:
    """Keeps messages back, in order, and lets everything else pass. Loop thread only.

    A connection is on hold while it waits for another one of its identifier to
    end, or for one of the reasons in :class:`Hold`.

    :param packeter: the layer below
    :param handle_frame: ``func(connection, frame)``
    :param receive: ``func(connection, buffer, bounds)``
    :param fail: ``func(connection, exception)``; the other side made a mistake
    """

    def __init__(
        self,
        packeter: Packeter,
        handle_frame: Callable[[PeerConnection, bytes], object],
        receive: Callable[[PeerConnection, bytes, list[int]], object],
        fail: Callable[[PeerConnection, SnakeMQException], object],
    ) -> None:
        self._packeter = packeter
        self._handle_frame = handle_frame
        self._receive = receive
        self._fail = fail

    def set(self, connection: PeerConnection, hold: Hold, held: bool) -> None:
        """Put a connection on hold, or undo that."""
        if held:
            connection.holds |= {hold}
            connection.interrupted = True
        elif hold in connection.holds:
            connection.holds -= {hold}
            if not connection.holds and not connection.is_gone:
                connection.interrupted = connection.is_waiting
                self._packeter.call_soon(self.release, connection)

    def put_aside(self, connection: PeerConnection, buffer: bytes, bounds: list[int]) -> None:
        """Hold what was not handled. It came before everything else that is held."""
        if bounds and not connection.is_gone:
            bounds = self._sort_out(connection, buffer, bounds)
            if bounds and not connection.is_gone:
                connection.held.appendleft((buffer, bounds))
                connection.held_bytes += len(buffer)
                self._packeter.call_soon(self.release, connection)

    def hold(self, connection: PeerConnection, buffer: bytes, bounds: list[int]) -> None:
        """Packets arrived on a connection that is on hold."""
        bounds = self._sort_out(connection, buffer, bounds)
        if bounds and not connection.is_gone:
            connection.held.append((buffer, bounds))
            connection.held_bytes += len(buffer)
            limit = _LIMIT_WITH_WINDOW if connection.acknowledges else _LIMIT
            if connection.held_bytes > limit:
                self._packeter.pause_recv(connection.conn_id)

    def release(self, connection: PeerConnection) -> None:
        """Handle what is held, if there is no reason any more to hold it."""
        while connection.held and not (connection.is_gone or connection.interrupted):
            buffer, bounds = connection.held.popleft()
            connection.held_bytes -= len(buffer)
            if not connection.held:
                self._packeter.resume_recv(connection.conn_id)
            self._receive(connection, buffer, bounds)

    def _sort_out(self, connection: PeerConnection, buffer: bytes, bounds: list[int]) -> list[int]:
        """Handle at once what has nothing to do with messages.

        :return: the bounds of what is to be held
        """
        held: list[int] = []
        ends = iter(bounds)
        try:
            for start, end in zip(ends, ends, strict=True):
                frame_type = buffer[start] if start < end else None
                if connection.is_waiting:
                    # It has to be known that it is alive, and what it can do.
                    if frame_type == FrameType.PING:
                        self._packeter.send_packet(connection.conn_id, FRAME_PONG)
                    elif frame_type == FrameType.FEATURES:
                        connection.session.receive(FrameType.FEATURES, buffer[start + 1 : end])
                    else:
                        held += (start, end)
                elif frame_type in _ORDERED:
                    held += (start, end)
                else:
                    self._handle_frame(connection, buffer[start:end])
                    if connection.is_gone:
                        break
        except SnakeMQException as exc:
            self._fail(connection, exc)
            return []
        return held
