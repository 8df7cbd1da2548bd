"""Messages that arrived and can't be handled yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from snakemq._core.frames import MESSAGE_OVERHEAD, FrameType, decode_message
from snakemq._inbox import is_passing
from snakemq._incoming import WINDOW
from snakemq._peer_connection import Hold, PeerConnection
from snakemq._pongs import Pongs
from snakemq.counters import Counters
from snakemq.exceptions import SnakeMQException
from snakemq.message import Message
from snakemq.packeter import Packeter

__all__ = ["HANDLED", "Holding"]

#: How much is held of a connection before nothing more is read from it, in
#: bytes of memory. One that acknowledges is slowed down by its window before.
_LIMIT: Final = 256 * 1024
_LIMIT_WITH_WINDOW: Final = 2 * WINDOW.window_bytes

#: What each end of a packet takes, in bytes: a number, and its place in a list.
_BOUND_SIZE: Final = 40

#: Stands for the end of a message that was handled before its turn. What is
#: left of it is its place: it counts.
HANDLED: Final = -1


class Holding:
    """Keeps messages back, in order, and lets everything else pass. Loop thread only.

    Messages with TTL 0 pass, too.

    A connection is on hold while it waits for another one of its identifier to
    end, or for one of the reasons in :class:`Hold`.

    :param packeter: the layer below
    :param pongs: answers pings
    :param handle_frame: ``func(connection, frame)``
    :param receive: ``func(connection, buffer, bounds)``
    :param deliver: ``func(conn_id, ident, message)``; calls the callbacks
    :param fail: ``func(connection, exception)``; the other side made a mistake
    :param counters: with ``connections_held``: nothing more was read of one
    """

    def __init__(
        self,
        packeter: Packeter,
        pongs: Pongs,
        handle_frame: Callable[[PeerConnection, bytes], object],
        receive: Callable[[PeerConnection, bytes, list[int]], object],
        deliver: Callable[[str, str, Message], object],
        fail: Callable[[PeerConnection, SnakeMQException], object],
        counters: Counters,
    ) -> None:
        self._packeter = packeter
        self._pongs = pongs
        self._handle_frame = handle_frame
        self._receive = receive
        self._deliver = deliver
        self._releasing: bytes | None = None
        self._fail = fail
        self._counters = counters

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
        if not bounds or connection.is_gone:
            return
        held: list[int] = []
        try:
            if connection.interrupted and buffer is not self._releasing:
                self._sort_out(connection, buffer, bounds, held)
            else:  # it was sorted before; or there is nothing to wait for but an interrupt
                held = bounds
        finally:
            if held and not connection.is_gone:
                _held(connection).appendleft((buffer, held))
                connection.held_bytes += _weight(buffer, held)
                self._packeter.call_soon(self.release, connection)

    def hold(self, connection: PeerConnection, buffer: bytes, bounds: list[int]) -> None:
        """Packets arrived on a connection that is on hold."""
        held: list[int] = []
        try:
            self._sort_out(connection, buffer, bounds, held)
        finally:
            if held and not connection.is_gone:
                _held(connection).append((buffer, held))
                connection.held_bytes += _weight(buffer, held)
                limit = _LIMIT_WITH_WINDOW if connection.acknowledges else _LIMIT
                if connection.held_bytes > limit:
                    self._counters.add("connections_held")
                    self._packeter.pause_recv(connection.conn_id)

    def release(self, connection: PeerConnection) -> None:
        """Handle what is held, if there is no reason any more to hold it."""
        while connection.held and not (connection.is_gone or connection.interrupted):
            buffer, bounds = connection.held.popleft()
            self._releasing = buffer
            connection.held_bytes -= _weight(buffer, bounds)
            if not connection.held:
                self._packeter.resume_recv(connection.conn_id)
            self._receive(connection, buffer, bounds)
            self._releasing = None

    def _sort_out(
        self, connection: PeerConnection, buffer: bytes, bounds: list[int], held: list[int]
    ) -> None:
        """Handle at once what does not have to wait.

        :param held: gets the bounds of what is to be held, also when a callback
            raises KeyboardInterrupt
        """
        ends = iter(bounds)
        try:
            for start, end in zip(ends, ends, strict=True):
                frame_type = buffer[start] if start < end else None
                if end == HANDLED:
                    held += (start, end)
                elif connection.is_waiting:
                    # It has to be known that it is alive, and what it can do.
                    if frame_type == FrameType.PING:
                        self._pongs.answer(connection)
                    elif frame_type == FrameType.FEATURES:
                        connection.session.receive(FrameType.FEATURES, buffer[start + 1 : end])
                    else:
                        held += (start, end)
                elif frame_type == FrameType.MESSAGE:
                    passing = self._passing(connection, buffer, start, end)
                    held += (start, end if passing is None else HANDLED)
                    if passing is not None:
                        self._deliver(connection.conn_id, connection.session.ident, passing)
                elif frame_type == FrameType.SEQUENCE:
                    held += (start, end)
                else:
                    self._handle_frame(connection, buffer[start:end])
                if connection.is_gone:
                    break
        except SnakeMQException as exc:
            ends = iter(())
            held.clear()
            self._fail(connection, exc)
        finally:
            held += ends

    @staticmethod
    def _passing(connection: PeerConnection, buffer: bytes, start: int, end: int) -> Message | None:
        """The message if it is for now only: somebody may wait for it.

        Above all a call and its reply. Whoever holds the messages of a peer may
        be waiting for just that.
        """
        if connection.is_ready and end - start >= MESSAGE_OVERHEAD:
            message = decode_message(buffer, start, end)
            if is_passing(message):
                return message
        return None


def _held(connection: PeerConnection) -> deque[tuple[bytes, list[int]]]:
    if connection.held is None:
        connection.held = deque()
    return connection.held


def _weight(buffer: bytes, bounds: list[int]) -> int:
    """What is taken by packets that are held, in bytes. Empty ones are not for free."""
    return len(buffer) + _BOUND_SIZE * len(bounds)
