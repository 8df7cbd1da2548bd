"""TLS over a socket that never blocks, and never takes long.

OpenSSL is given what has come in portions, by way of buffers in memory. If it read from
the socket by itself it would go on, inside one call, for as long as there comes something that is
nothing for the program: somebody who only renews keys would stop the whole loop. It is one
call of the system for a portion, too, where OpenSSL needs two for each record.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import Final, cast

from snakemq.contracts import Buffer

__all__ = ["TlsSocket"]

#: What is read from the socket at once: at first, at least and at most, in bytes.
#: Whose data is mostly not for the program gets less and less attention.
_APPETITE: Final = 16 * 1024
_LEAST_APPETITE: Final = 2 * 1024
_MOST_APPETITE: Final = 256 * 1024

#: The plain text of the largest record, in bytes.
_RECORD: Final = 16 * 1024

#: How many records are encrypted before they are sent.
_RECORDS_AT_ONCE: Final = 4

#: So much may wait to be sent, in bytes: what was encrypted, and what TLS itself
#: has to say to somebody who does not listen.
_MOST_UNSENT: Final = 512 * 1024


class _Scratch(threading.local):
    """Where all connections of a loop read to. New memory for each read would be most of
    what a read takes: the system has to find it, and to clear it.
    """

    def __init__(self) -> None:
        self.room = memoryview(bytearray(_MOST_APPETITE))


_scratch: Final = _Scratch()


class TlsSocket:
    """Loop thread only, but for what asks about the connection.

    :param sock: connected, and not blocking
    :param context: of this side
    :param server_hostname: what a connector asks for; ``None`` for a listener
    :ivar object: what OpenSSL knows of the connection
    :ivar eof: the other side has ended its half
    :ivar taken: how much of the data of the last :meth:`send` is with the system, in bytes,
        counted in records that are there as a whole
    """

    __slots__ = (
        "_appetite",
        "_bounds",
        "_encrypted",
        "_failure",
        "_fed",
        "_fruit",
        "_has_more",
        "_incoming",
        "_outgoing",
        "_rest",
        "_sent",
        "_sock",
        "_unsent",
        "eof",
        "object",
        "taken",
    )

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None,
    ) -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self.eof = False
        self._appetite = _APPETITE
        #: what was read since that was looked at, and what of it was for the program
        self._fed = 0
        self._fruit = 0
        #: what was read may have more in it; who has shaken hands may have said more at once
        self._has_more = True
        #: comes after what came before it
        self._failure: OSError | None = None
        # Sending. What is to be encrypted, the last piece first; what is, and not sent;
        # and in the stream of that, since its beginning, where records end and how much
        # data is in each.
        self._rest: list[memoryview] = []
        self._unsent = memoryview(b"")
        self._bounds: list[tuple[int, int]] = []
        self._encrypted = 0
        self._sent = 0
        self.taken = 0

    def do_handshake(self) -> None:
        """A step of the handshake.

        :raises ssl.SSLWantReadError: when there is more to read, again
        :raises ssl.SSLWantWriteError: when there is room to write, again
        :raises OSError: failed
        """
        self._send_all()
        try:
            self._shake()
        except ssl.SSLWantReadError:
            self._feed()
            self._shake()

    def _shake(self) -> None:
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            self._send_all()
            raise
        except ssl.SSLError:
            # The other side is to hear why.
            with contextlib.suppress(OSError):
                self._send_all()
            raise
        self._send_all()

    def _send_all(self) -> None:
        if not self._flush():
            raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "no room")

    def recv(self, size: int) -> bytes:
        """Read what is there, at most ``size`` bytes.

        :return: empty at the end of the stream (:attr:`eof` is set) and when
            there is nothing to read now
        :raises OSError: the connection is broken
        """
        data = self._decrypt(size)
        if data or self.eof:
            return data
        try:
            fed = self._feed()
        except ssl.SSLWantReadError:
            return b""
        data = self._decrypt(size)
        self._fed += fed
        self._fruit += len(data)
        if self._fed >= 2 * _RECORD:
            # Less than a quarter is not what records of any reasonable size leave, even if
            # the last one is not complete.
            if 4 * self._fruit >= self._fed:
                self._appetite = min(2 * self._appetite, _MOST_APPETITE)
            else:
                self._appetite = max(self._appetite // 2, _LEAST_APPETITE)
            self._fed = self._fruit = 0
        return data

    def has_buffered(self) -> bool:
        """Whether there is something to read that no selector knows of."""
        return self._has_more or self.eof or self._failure is not None

    def _feed(self) -> int:
        room = _scratch.room[: self._appetite]
        try:
            count = self._sock.recv_into(room)
        except (BlockingIOError, InterruptedError):
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "nothing there") from None
        if count:
            self._incoming.write(room[:count])
        else:
            self._incoming.write_eof()
        return count

    def _decrypt(self, size: int) -> bytes:
        if self._failure is not None:
            raise self._failure
        room = _scratch.room[:size]
        total = 0
        read = self.object.read
        self._has_more = True
        try:
            while left := len(room) - total:
                # One read gives one record at most.
                count = cast(int, read(left, room[total:]))  # to where, it gives a number
                if not count:
                    self.eof = True
                    break
                total += count
        except ssl.SSLWantReadError:
            self._has_more = False
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            # With or without TLS' own farewell: messages have a length.
            self.eof = True
        except OSError as exc:
            self._failure = exc
        if self._outgoing.pending:
            # TLS has something to say, why it failed for instance. If the socket is
            # broken this is not the place to say so.
            with contextlib.suppress(OSError):
                self._flush()
            if len(self._unsent) > _MOST_UNSENT:
                self._failure = ConnectionAbortedError("the other side does not read TLS")
        if self._failure is not None and not total:
            raise self._failure
        return bytes(room[:total])

    def send(self, *data: Buffer) -> bool:
        """Hand over what the system takes. Not before the last send is over.

        :param data: in pieces
        :return: whether all was taken, else :meth:`continue_send` when there is room
        :raises OSError: the connection is broken
        """
        self.taken = 0
        self._rest = [memoryview(piece).cast("B") for piece in reversed(data) if piece]
        return self.continue_send()

    def continue_send(self) -> bool:
        """There is room again. See :meth:`send`."""
        while self._flush():
            if not self._rest:
                return True
            for _ in range(_RECORDS_AT_ONCE):
                if not self._rest:
                    break
                piece = self._rest.pop()
                count = self.object.write(piece[:_RECORD])
                if count < len(piece):
                    self._rest.append(piece[count:])
                self._bounds.append((self._encrypted + self._outgoing.pending, count))
        return False

    def _flush(self) -> bool:
        """Send what is encrypted; whether all of it is with the system."""
        if self._outgoing.pending:
            data = self._outgoing.read()
            self._encrypted += len(data)
            self._unsent = memoryview(bytes(self._unsent) + data if self._unsent else data)
        try:
            while self._unsent:
                count = self._sock.send(self._unsent)
                self._unsent = self._unsent[count:]
                self._sent += count
        except (BlockingIOError, InterruptedError):
            pass
        while self._bounds and self._bounds[0][0] <= self._sent:
            self.taken += self._bounds.pop(0)[1]
        return not self._unsent
