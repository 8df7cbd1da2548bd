"""A bell that wakes a sleeping selector, from any thread and from signal handlers."""

from __future__ import annotations

import socket
import threading

__all__ = ["Bell"]


class Bell:
    """A pair of sockets: ringing makes the reading end readable.

    A pair of sockets and not a pipe, because that is all that Windows can
    select on. A full one is as good as a rung one, so ringing never blocks.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        # Between the look whether it is closed and the write, nobody may
        # close: the descriptor could belong to another file by then. A
        # reentrant lock, because a signal handler may ring while its own
        # thread rings.
        self._lock = threading.RLock()
        self._closed = False

    def fileno(self) -> int:
        """Descriptor of the reading end."""
        return self._reader.fileno()

    def ring(self) -> None:
        """Wake the selector. After :meth:`close` nothing happens."""
        with self._lock:
            try:
                if not self._closed:
                    self._writer.send(b"\0")
            except (BlockingIOError, InterruptedError):
                pass

    def drain(self) -> None:
        """Make the reading end unreadable again."""
        try:
            while len(self._reader.recv(4096)) == 4096:
                pass
        except (BlockingIOError, InterruptedError):
            pass

    def close(self) -> None:
        """Release the sockets. A second time is harmless."""
        with self._lock:
            self._closed = True
            self._reader.close()
            self._writer.close()
