"""Stacks in this process, each with its loop in a thread, and hand-made peers.

Only what 1.6 documents is used to build and drive a stack, but for
``call_soon``, which takes the place of a queue that ``on_loop_pass`` empties.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from snakemq.link import Link
from snakemq.message import Message
from snakemq.messaging import Messaging, ReceiveHook
from snakemq.packeter import Packeter
from snakemq.rpc import RpcClient, RpcServer
from snakemq.storage import QueuesStorageBase
from snakemq.throttle import Throttle
from tests.compat.harness import EventLog
from tests.helpers import DEADLINE

T = TypeVar("T")

LOCALHOST = "127.0.0.1"

VERSION, INCOMPATIBLE, IDENT, MESSAGE, PING, PONG = range(6)

#: The greeting of protocol version 1, without the identification.
VERSION_PACKET = bytes.fromhex("00000005 00 00000001")
PING_PACKET = bytes.fromhex("00000001 04")
PONG_PACKET = bytes.fromhex("00000001 05")
#: What this package sends right behind its identification: it acknowledges
#: messages, and takes 8,192 of them, or 16 MiB, before it has to; and it knows
#: what is new in remote calls.
FEATURES_PACKET = bytes.fromhex("00000011 06 0001 0008 00002000 01000000 0002 0000")


def packet(payload: bytes) -> bytes:
    """A packet on the wire."""
    return struct.pack("!I", len(payload)) + payload


def ident_packet(ident: str | bytes) -> bytes:
    return packet(b"\x02" + (ident if isinstance(ident, bytes) else ident.encode()))


def message_packet(data: bytes, uuid: bytes = b"u", ttl: int = 0, flags: int = 0) -> bytes:
    return packet(b"\x03" + struct.pack("!16sII", uuid, ttl, flags) + data)


class Stack:
    """Link, packeter and messaging of one peer; its history is in :attr:`log`.

    :param throttle: bytes per second, or None for no throttle
    """

    #: of the last :meth:`listen`
    port: int

    def __init__(
        self,
        ident: str = "stack",
        storage: QueuesStorageBase | None = None,
        throttle: float | None = None,
    ) -> None:
        self.ident = ident
        self.log = EventLog()
        self.link = Link()
        self.throttle = Throttle(self.link, throttle) if throttle else None
        self.packeter = Packeter(self.throttle or self.link)
        self.messaging = Messaging(ident, "", self.packeter, storage)
        log = self.log.add
        m = self.messaging
        m.on_connect.add(lambda conn, peer: log("connected", conn=conn, peer=peer))
        m.on_disconnect.add(lambda conn, peer: log("disconnected", conn=conn, peer=peer))
        m.on_error.add(lambda conn, exc: log("error", conn=conn, exc=exc, type=type(exc)))
        m.on_message_recv.add(self._on_message)
        m.on_message_sent.add(lambda conn, peer, uuid: log("sent", peer=peer, uuid=uuid))
        m.on_message_acked.add(lambda conn, peer, uuid: log("acked", peer=peer, uuid=uuid))
        m.on_message_drop.add(lambda peer, uuid: log("dropped", peer=peer, uuid=uuid))
        self.link.on_connect.add(lambda conn: log("link connected", conn=conn))
        self.link.on_disconnect.add(lambda conn: log("link disconnected", conn=conn))
        self._thread: threading.Thread | None = None

    def _on_message(self, conn_id: str, ident: str, message: Message) -> None:
        self.log.add(
            "message", conn=conn_id, peer=ident, data=message.data, uuid=message.uuid,
            ttl=message.ttl, flags=message.flags,
        )  # fmt: skip

    def listen(self, host: str = LOCALHOST, port: int = 0, **how: Any) -> int:
        """Add a listener; its port."""
        self.port = self.link.add_listener((host, port), **how)[1]
        return self.port

    def connect(self, port: int, interval: float = 0.05, **how: Any) -> Any:
        """Add a connector; its address."""
        return self.link.add_connector((LOCALHOST, port), interval, **how)

    def start(self) -> Stack:
        """Run the loop in a thread."""
        self._thread = threading.Thread(target=self._loop, name=f"loop of {self.ident}")
        self._thread.start()
        return self

    def _loop(self) -> None:
        try:
            self.link.loop()
        finally:
            self.log.close()

    def stop(self) -> None:
        """End the loop, if it runs."""
        if self._thread is not None:
            self.link.stop()
            self.link.wakeup_poll()
            self._thread.join(DEADLINE)
            assert not self._thread.is_alive(), "the loop does not end"
            self._thread = None

    def close(self) -> None:
        """End the loop and give everything back."""
        self.stop()
        self.link.cleanup()
        self.messaging.queues_manager.close()

    @property
    def alive(self) -> bool:
        """Whether the loop runs."""
        return self._thread is not None and self._thread.is_alive()

    def in_loop(self, func: Callable[..., T], *args: Any) -> T:
        """Call it in the loop's thread; what it returned or raised."""
        if self._thread is None:
            return func(*args)
        done = threading.Event()
        outcome: list[Any] = []

        def run() -> None:
            try:
                outcome.extend((True, func(*args)))
            except BaseException as exc:
                outcome.extend((False, exc))
            finally:
                done.set()

        self.link.call_soon(run)
        assert done.wait(DEADLINE), "the loop does not run what it was given"
        if not outcome[0]:
            raise outcome[1]
        result: T = outcome[1]
        return result

    def send(self, to: str, data: bytes = b"x", **how: Any) -> bytes:
        """Send a message; its uuid."""
        message = Message(data, **how)
        self.messaging.send_message(to, message)
        return message.uuid

    def wait(self, event: str, **how: Any) -> dict[str, Any]:
        return self.log.wait_one(event, **how)


class RpcStack(Stack):
    """With a server and a client; what is ``served`` has the name ``service``."""

    def __init__(self, ident: str = "stack", served: object = None, **how: Any) -> None:
        super().__init__(ident, **how)
        self.hook = ReceiveHook(self.messaging)
        self.server = RpcServer(self.hook)
        self.client = RpcClient(self.hook)
        if served is not None:
            self.server.register_object(served, "service")

    def close(self) -> None:
        super().close()
        assert self.server.close(DEADLINE), "a method that was called does not end"


@contextlib.contextmanager
def stacks(*made: Stack) -> Iterator[None]:
    """Closes them at the end."""
    try:
        yield
    finally:
        for stack in made:
            stack.close()


class RawPeer:
    """A TCP socket that speaks the protocol by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(DEADLINE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    @classmethod
    def dial(cls, port: int) -> RawPeer:
        return cls(socket.create_connection((LOCALHOST, port), DEADLINE))

    @classmethod
    def identified(cls, port: int, ident: str) -> RawPeer:
        """Connected, and the greetings of both sides are through."""
        peer = cls.dial(port)
        peer.send(VERSION_PACKET + ident_packet(ident))
        peer.greeted()
        return peer

    def greeted(self) -> None:
        """Read the greeting, and show that there is nothing beyond protocol version 1 here.

        That takes no more than what 1.6 does: it answers a ping.
        """
        assert self.frame()[0] == VERSION
        assert self.frame()[0] == IDENT
        assert self.frame() == b"\x04"
        self.send(PONG_PACKET)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def read(self, size: int) -> bytes:
        """Exactly so many bytes."""
        while len(self._buffer) < size:
            data = self.sock.recv(65536)
            assert data, f"the connection ended after {self._buffer!r}"
            self._buffer += data
        result, self._buffer = self._buffer[:size], self._buffer[size:]
        return result

    def frame(self) -> bytes:
        """The next frame of a type that protocol version 1 knows."""
        while True:
            frame = self.read(int.from_bytes(self.read(4), "big"))
            if frame[0] <= PONG:
                return frame

    def message(self) -> bytes:
        """The data of the next message. Pings before it are answered, as 1.6 does it."""
        while (frame := self.frame()) == b"\x04":
            self.send(PONG_PACKET)
        assert frame[0] == MESSAGE, frame
        return frame[25:]

    def ping(self) -> None:
        """A round trip: everything sent before has been worked on."""
        self.send(PING_PACKET)
        while (frame := self.frame()) != b"\x05":
            assert frame[0] == MESSAGE, frame

    def rest(self) -> bytes:
        """What comes until the other side closes."""
        with contextlib.suppress(ConnectionError):
            while data := self.sock.recv(65536):
                self._buffer += data
        return self._buffer

    def is_closed(self) -> bool:
        """Wait until the other side has closed; nothing of protocol 1 came before."""
        rest = self.rest()
        while rest:
            size = int.from_bytes(rest[:4], "big")
            if rest[4] <= PONG:
                return False
            rest = rest[4 + size :]
        return True

    def reset(self) -> None:
        """Close so that the other side gets an error instead of an end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
