"""Pairs of connected peers for the tests of Peer, and one that speaks like 1.6."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator
from typing import Any

from snakemq import Peer
from tests.helpers import DEADLINE, wait_until

__all__ = ["OldPeer", "Recorder", "connected_pair", "old_peer"]


class Recorder(list[Any]):
    """A callback that remembers its arguments."""

    def __call__(self, *args: Any) -> None:
        self.append(args[0] if len(args) == 1 else args)

    def wait(self, count: int = 1) -> list[Any]:
        """What it was called with, at least ``count`` times."""
        wait_until(lambda: len(self) >= count, what=lambda: f"{count} calls, not {self}")
        return list(self)


@contextlib.contextmanager
def connected_pair(
    bob: dict[str, Any] | None = None, alice: dict[str, Any] | None = None
) -> Generator[tuple[Peer, Peer]]:
    """Bob, who listens, and alice, who dials; each started with more arguments."""
    with (
        Peer("bob", listen=0, **(bob or {})) as one,
        Peer("alice", connect=one.addresses[0], **(alice or {})) as other,
    ):
        assert one.wait_connected("alice", DEADLINE)
        assert other.wait_connected("bob", DEADLINE)
        yield one, other


class OldPeer:
    """Bob, who announces no features, as in snakeMQ 1.6; one connection at a time.

    :ivar messages: the data of the messages that came
    :ivar answers: he answers pings while this is set
    """

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.answers = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = self._server.getsockname()
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name="old peer")
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self._connection = connection
                with connection, connection.makefile("rb") as stream:
                    connection.sendall(b"\0\0\0\5\0\0\0\0\1" + b"\0\0\0\4\2bob")
                    while header := stream.read(4):
                        self._handle(stream.read(int.from_bytes(header, "big")))

    def _handle(self, frame: bytes) -> None:
        if frame[:1] == b"\3":
            self.messages.append(frame[25:])
        elif frame == b"\4":
            assert self.answers.wait(DEADLINE)
            assert self._connection is not None
            self._connection.sendall(b"\0\0\0\1\5")

    def close(self) -> None:
        """The end."""
        self.answers.set()
        # Closing alone does not wake up a thread that waits in accept().
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def old_peer() -> Generator[OldPeer]:
    """A peer like 1.6, who answers pings."""
    bob = OldPeer()
    bob.answers.set()
    try:
        yield bob
    finally:
        bob.close()
