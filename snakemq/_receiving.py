"""Handling what has arrived, packet by packet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from snakemq._core.frames import (
    MESSAGE_OVERHEAD,
    PLAIN,
    FrameType,
    decode_message,
    unpack_head,
)
from snakemq._holding import HANDLED
from snakemq._incoming import Incoming
from snakemq._peer_connection import PeerConnection
from snakemq._receive_hook import SERVICE_SIZE, Services
from snakemq.callbacks import Callback
from snakemq.exceptions import SnakeMQException
from snakemq.message import FLAG_PERSISTENT, Message, MessageHandler

__all__ = ["Receiving"]

_MESSAGE: Final = int(FrameType.MESSAGE)


class Receiving:
    """Hands over messages, and everything else to whom it is for. Loop thread only.

    :param incoming: the memory of what was received
    :param stores: whether messages go to an inbox, and not to the callbacks
    :param callback: of the messages
    :param handle_frame: ``func(connection, frame)``; for everything else
    :param admit: ``func(connection)``; the identifier of one that may send messages
    :param put_aside: ``func(connection, buffer, bounds)``; these were not handled
    :param fail: ``func(connection, exception)``; the other side made a mistake
    """

    def __init__(
        self,
        incoming: Incoming,
        stores: bool,
        callback: Callback[[str, str, Message]],
        handle_frame: Callable[[PeerConnection, bytes], object],
        admit: Callable[[PeerConnection], str],
        put_aside: Callable[[PeerConnection, bytes, list[int]], object],
        fail: Callable[[PeerConnection, SnakeMQException], object],
    ) -> None:
        self._incoming = incoming
        self._stores = stores
        self._callback = callback
        #: tells which of the messages are for whom
        self.services = Services()
        self._handle_frame = handle_frame
        self._admit = admit
        self._put_aside = put_aside
        self._fail = fail

    def _take_data(
        self, func: Callable[[str, str, Message], object]
    ) -> Callable[[str, str, bytes, bytes], object] | None:
        """How the only callback takes messages without an object, if it can do that."""
        if isinstance(func, MessageHandler) and not self._stores and not self._incoming.notes_all:
            return func.take_data
        return None

    def receive(
        self,
        connection: PeerConnection,
        buffer: bytes,
        bounds: list[int],
        body: bytes | None = None,
    ) -> None:
        """Handle packets, one after the other, as far as they are to be handled now.

        :param body: of a single message, whose other bytes are the buffer then
        """
        conn_id = connection.conn_id
        incoming = self._incoming
        callback = self._callback
        # Until it is ready each frame is looked at.
        ident = connection.ident if connection.is_ready else None
        tracked = connection.memory is not None
        count, size, wait = 0, 0, True  # with the acknowledgement
        funcs = callback.funcs
        services = self.services.among(funcs)
        take_data = self._take_data(funcs[0]) if len(funcs) == 1 and body is None else None
        rest = iter(bounds)
        try:
            for start, end in zip(rest, rest, strict=True):
                if start < end and buffer[start] == _MESSAGE:
                    if ident is None:
                        # The first frame of one without features, or too early.
                        self._handle_frame(connection, buffer[start : start + 1])
                        ident = self._admit(connection)
                    if (
                        take_data is not None
                        and end - start >= MESSAGE_OVERHEAD
                        and not connection.doubtful
                        and callback.funcs is funcs
                    ):
                        uuid, kind = unpack_head(buffer, start + 1)
                        if kind == PLAIN:
                            # What follows, for less: 0.9 us instead of 1.6 for a small message.
                            count += 1
                            size += end - start
                            wait = False
                            data = buffer[start + MESSAGE_OVERHEAD : end]
                            try:
                                take_data(conn_id, ident, uuid, data)
                            except Exception as exc:
                                message = Message(data, None, 0, uuid)
                                callback.failed(funcs[0], (conn_id, ident, message), exc)
                            if connection.interrupted:
                                break
                            continue
                        take_data = None  # what comes together is mostly alike
                    message = decode_message(buffer, start, end, body)
                    wanted = not connection.doubtful or incoming.is_wanted(connection, message)
                    count += 1
                    size += end - start
                    if message.ttl != 0:
                        wait = False
                    if not wanted:
                        continue
                    if self._stores:
                        connection.unstored.append(message)
                        continue
                    # What calling the callback does, without its cost, which is a fifth of
                    # what receiving a message takes.
                    concerned = callback.funcs
                    if services and concerned is funcs:
                        concerned = services.get(message.data[:SERVICE_SIZE], funcs)
                    following = iter(concerned)
                    for func in following:
                        try:
                            func(conn_id, ident, message)
                        except Exception as exc:
                            callback.failed(func, (conn_id, ident, message), exc)
                        except (KeyboardInterrupt, SystemExit):
                            callback.call_rest(following, conn_id, ident, message)
                            raise
                    if tracked and (message.flags & FLAG_PERSISTENT or incoming.notes_all):
                        incoming.note(connection, message)
                elif end == HANDLED:
                    incoming.skip(connection)
                    count += 1
                else:
                    if count:
                        # Before it is said which number the next one has.
                        done = (count, size, wait)
                        count, size, wait = 0, 0, True
                        incoming.handled(connection, done[0], done[1], wait=done[2])
                        if connection.interrupted:  # by a callback of the inbox
                            rest = iter([start, end, *rest])
                            break
                    self._handle_frame(connection, buffer[start:end])
                    ident = connection.ident if connection.is_ready else None
                    tracked = connection.memory is not None
                if connection.interrupted:
                    break
        except SnakeMQException as exc:
            rest = iter(())
            self._fail(connection, exc)
        finally:
            # Also when a callback raised KeyboardInterrupt: the loop may be
            # called again.
            try:
                if count:
                    incoming.handled(connection, count, size, wait=wait)
            finally:
                unhandled = list(rest)
                if unhandled:
                    if body is not None:
                        buffer += body
                    self._put_aside(connection, buffer, unhandled)
