"""Handling what has arrived, packet by packet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from snakemq._core.frames import (
    FLEETING,
    MESSAGE_OVERHEAD,
    PLAIN,
    FrameType,
    decode_message,
    unpack_head,
)
from snakemq._holding import HANDLED
from snakemq._incoming import Incoming
from snakemq._peer_connection import PeerConnection
from snakemq._receive_hook import NO_SERVICES, SERVICE_SIZE, Services, TakeData
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
        # Whoever takes data without an object.
        is_enough = body is None and not self._stores and not incoming.notes_all
        services = self.services.among(funcs) if is_enough else NO_SERVICES
        take_data: TakeData | None = None
        if is_enough and len(funcs) == 1 and isinstance(funcs[0], MessageHandler):
            take_data = funcs[0].take_data
        rest = iter(bounds)
        try:
            for start, end in zip(rest, rest, strict=True):
                if start < end and buffer[start] == _MESSAGE:
                    if ident is None:
                        # The first frame of one without features, or too early.
                        self._handle_frame(connection, buffer[start : start + 1])
                        ident = self._admit(connection)
                    if (
                        (take_data is not None or services)
                        and end - start >= MESSAGE_OVERHEAD
                        and not connection.doubtful
                        and callback.funcs is funcs
                    ):
                        uuid, kind = unpack_head(buffer, start + 1)
                        data_start = start + MESSAGE_OVERHEAD
                        take: TakeData | None
                        if kind == PLAIN:
                            take = take_data
                        elif kind == FLEETING:
                            take = services.get(buffer[data_start : data_start + SERVICE_SIZE])
                        else:
                            take = None
                        if take is not None:
                            # What follows, for less: 0.9 us instead of 1.6 for a small message.
                            count += 1
                            size += end - start
                            if kind == PLAIN:
                                wait = False
                            data = buffer[data_start:end]
                            try:
                                take(conn_id, ident, uuid, data)
                            except Exception as exc:
                                ttl = None if kind == PLAIN else 0
                                message = Message(data, ttl, 0, uuid)
                                callback.failed(take, (conn_id, ident, message), exc)
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
                    following = iter(callback.funcs)
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
