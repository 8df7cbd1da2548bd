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
from collections.abc import Callable
from io import BytesIO
from typing import Final, cast

from snakemq.contracts import Buffer

__all__ = ["TlsSocket"]

#: What is read from the socket at once: at first, at least and at most, in bytes.
#: Whose data is mostly not for the program gets less and less attention.
_APPETITE: Final = 16 * 1024
_LEAST_APPETITE: Final = 2 * 1024
_MOST_APPETITE: Final = 1088 * 1024

#: So much of that is given to OpenSSL at once, in bytes. It keeps memory for so much, for each
#: connection, and of what is not worth it no more is decrypted at once.
_SLICE: Final = 64 * 1024

#: The plain text of the largest record, in bytes.
_RECORD: Final = 16 * 1024

#: What a record may take more than that, in bytes.
_OVERHEAD: Final = 256

#: Of what is wanted in one piece, and is more than this, all is read at once and put where
#: it stays, in bytes.
_LARGE: Final = 256 * 1024

#: How many records are encrypted before they are sent. OpenSSL keeps three times as much for
#: the connection from then on; with 16 that is 200 KB more, and not measurably faster.
_RECORDS_AT_ONCE: Final = 8

#: So much may wait to be sent, in bytes: what was encrypted, and what TLS itself
#: has to say to somebody who does not listen.
_MOST_UNSENT: Final = 512 * 1024


class _Scratch(threading.local):
    """Where all connections of a loop read to, or decrypt to. New memory for each read would
    be most of what a read takes: the system has to find it, and to clear it.
    """

    def __init__(self) -> None:
        self.room = memoryview(bytearray(_MOST_APPETITE))


_raw: Final = _Scratch()
_plain: Final = _Scratch()


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
        "_kept",
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
        #: was read, and not given to OpenSSL yet
        self._kept = b""
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
            self._feed(self._read(0))
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
        if self._failure is not None:
            raise self._failure
        room = _plain.room[:size]
        total = self._decrypt(room, 0) if self._has_more else 0
        if self._has_more or self.eof or self._failure is not None:
            return bytes(room[:total])
        try:
            raw = self._read(size)
        except ssl.SSLWantReadError:
            return bytes(room[:total])
        if not _LARGE < size <= total + len(raw):
            return bytes(room[: self._take(raw, room, total)])
        # All of it is there, most probably: decrypt it to where it stays.
        whole = BytesIO(bytes(size))
        with whole.getbuffer() as target:
            target[:total] = room[:total]
            total = self._take(raw, target, total)
        whole.truncate(total)
        return whole.getvalue()

    def has_buffered(self) -> bool:
        """Whether there is something to read that no selector knows of."""
        return self._has_more or bool(self._kept) or self.eof or self._failure is not None

    def _read(self, size: int) -> memoryview:
        """What is there of so many bytes; empty at the end of the stream."""
        if self._kept:
            raw, self._kept = memoryview(self._kept), b""
            return raw
        whole_record = _RECORD + _OVERHEAD
        if size > _LARGE:
            size += whole_record  # what makes the last one complete
        room = _raw.room[: min(self._appetite, max(size, whole_record))]
        try:
            return room[: self._sock.recv_into(room)]
        except (BlockingIOError, InterruptedError):
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "nothing there") from None

    def _feed(self, raw: memoryview) -> None:
        if raw:
            self._incoming.write(raw)
        else:
            self._incoming.write_eof()

    def _take(self, raw: memoryview, room: memoryview, total: int) -> int:
        """Decrypt what was read, behind what is in the room; how much is there then."""
        for start in range(0, len(raw) or 1, _SLICE):
            portion = raw[start : start + _SLICE]
            self._feed(portion)
            before = total
            total = self._decrypt(room, total)
            self._fed += len(portion)
            self._fruit += total - before
            # Less than a quarter is not what records of any reasonable size leave, even
            # if the last one is not complete.
            is_fruitful = 4 * (total - before) >= len(portion)
            if self._has_more or not is_fruitful:
                self._kept = bytes(raw[start + _SLICE :])
                break
        if self._fed >= 2 * _RECORD:
            if 4 * self._fruit >= self._fed:
                self._appetite = min(2 * self._appetite, _MOST_APPETITE)
            else:
                self._appetite = max(self._appetite // 2, _LEAST_APPETITE)
            self._fed = self._fruit = 0
        return total

    def _decrypt(self, room: memoryview, total: int) -> int:
        """What OpenSSL has, behind what is in the room; how much is there then."""
        size = len(room)
        # That is told where to gives a number.
        read = cast("Callable[[int, memoryview], int]", self.object.read)
        self._has_more = True
        try:
            while total < size:
                # One read gives one record at most.
                count = read(size - total, room[total:])
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
        return total

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
            room = _RECORDS_AT_ONCE
            while room and self._rest:
                room -= self._encrypt(self._rest.pop(), room)
        return False

    def _encrypt(self, piece: memoryview, most: int) -> int:
        """Encrypt the beginning of a piece, and put back the rest of it.

        :param most: so many records at most
        :return: how many there are
        """
        # One call for several: but only full ones, of which each takes the same.
        records = min(len(piece) // _RECORD, most) or 1
        before = self._outgoing.pending
        count = self.object.write(piece[: records * _RECORD])
        if count < len(piece):
            self._rest.append(piece[count:])
        grown = self._outgoing.pending - before
        start = self._encrypted + before
        if grown % records:
            # Something of TLS itself came before them.
            self._bounds.append((start + grown, count))
        else:
            size = grown // records
            for number in range(1, records + 1):
                self._bounds.append((start + number * size, count // records))
        return records

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
