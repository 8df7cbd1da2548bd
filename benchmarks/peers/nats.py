"""NATS with nats-py: core NATS for messages and calls, JetStream for what is durable.

The server is a process of its own, with its data in the same file system as
that of the others. Each process has one connection, with its event loop in a
thread of its own. It is used as it is fastest: messages are handed to the loop
many at a time, and all threads make their calls over the one connection.

JetStream confirms a message when it has written it to a file, which it
synchronizes with the disk every two minutes: what was confirmed survives the
end of the server, not that of the machine. Messages are removed when they were
acknowledged; the consumer acknowledges together what has arrived together.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import version as version_of
from typing import Any, Final, TypeVar

import nats
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType

from benchmarks.payloads import clock
from benchmarks.peers import OnMessage, Setting

__all__ = ["over", "version"]

T = TypeVar("T")

#: How many messages, and how many bytes of them, the loop gets at once.
_TOGETHER: Final = 512
_BYTES_TOGETHER: Final = 256 * 1024

#: How many messages the server sends before it waits for acknowledgements, and
#: how many are acknowledged together at most.
_UNACKNOWLEDGED: Final = 1000
_ACKNOWLEDGED_TOGETHER: Final = 250

#: Seconds that an answer may take.
_TIMEOUT: Final = 60.0


def version() -> str:
    return f"nats-py {version_of('nats-py')}"


class _Client:
    """A connection, and the thread that it lives in."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.connection = self.do(nats.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False))

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Have it done in the loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        self.do(self.connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Over:
    def __init__(self, server: Any) -> None:
        self._port = int(server)

    def version(self) -> str:
        return version()

    def receive(self, on_message: OnMessage) -> _Listening:
        async def handle(message: Any) -> None:
            on_message(message.data)

        return _Listening(_Client(self._port), handle)

    def connect(self, address: Any) -> _Sender:
        return _Sender(_Client(self._port), str(address))

    def serve(self, echo: Callable[[bytes], bytes]) -> _Listening:
        async def handle(message: Any) -> None:
            await message.respond(echo(message.data))

        return _Listening(_Client(self._port), handle)

    def caller(self, address: Any) -> _Caller:
        return _Caller(_Client(self._port), str(address))

    def keep(self, setting: Setting, on_message: OnMessage) -> _Consumer:
        return _Consumer(_Client(self._port), setting.directory.name, on_message)

    def connect_durably(self, setting: Setting, address: Any) -> _Durable:
        return _Durable(_Client(self._port), str(address))


def over(server: Any) -> _Over:
    return _Over(server)


class _Listening:
    """Subscribes to a subject of its own."""

    def __init__(self, client: _Client, handle: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        self._client = client
        self.address = client.connection.new_inbox()
        client.do(self._subscribe(handle))
        self.close = client.close

    async def _subscribe(self, handle: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        connection = self._client.connection
        # What is beyond its limits would be dropped.
        await connection.subscribe(
            self.address, cb=handle, pending_msgs_limit=0, pending_bytes_limit=0
        )
        await connection.flush()


class _Sender:
    def __init__(self, client: _Client, subject: str) -> None:
        self._client = client
        self._subject = subject
        self._collected: list[bytes] = []
        self._size = 0

    def send(self, data: bytes) -> None:
        self._collected.append(data)
        self._size += len(data)
        if len(self._collected) >= _TOGETHER or self._size >= _BYTES_TOGETHER:
            self._publish()

    def _publish(self) -> None:
        collected, self._collected, self._size = self._collected, [], 0
        self._client.do(self._publish_all(collected))

    async def _publish_all(self, collected: list[bytes]) -> None:
        publish, subject = self._client.connection.publish, self._subject
        for data in collected:
            await publish(subject, data)

    def flush(self) -> None:
        self._publish()
        self._client.do(self._client.connection.flush())

    def close(self) -> None:
        self._client.close()


class _Caller:
    def __init__(self, client: _Client, subject: str) -> None:
        self._client = client
        self._subject = subject
        self.close = client.close

    def call(self, data: bytes) -> bytes:
        request = self._client.connection.request(self._subject, data, timeout=_TIMEOUT)
        return self._client.do(request).data


class _Consumer:
    """A stream whose messages are pushed to one consumer, and removed when it has them."""

    def __init__(self, client: _Client, stream: str, on_message: OnMessage) -> None:
        self._client = client
        self._stream = client.connection.jetstream(timeout=_TIMEOUT)
        self._on_message = on_message
        self._unacknowledged = 0
        self.address = stream
        client.do(self._subscribe())

    async def _subscribe(self) -> None:
        await self._stream.add_stream(
            name=self.address,
            subjects=[self.address],
            storage=StorageType.FILE,
            retention=RetentionPolicy.INTEREST,
        )
        self._subscription = await self._stream.subscribe(
            self.address,
            durable=self.address,
            cb=self._receive,
            manual_ack=True,
            config=ConsumerConfig(ack_policy=AckPolicy.ALL, max_ack_pending=_UNACKNOWLEDGED),
        )

    async def _receive(self, message: Any) -> None:
        self._on_message(message.data)
        self._unacknowledged += 1
        if self._unacknowledged == _ACKNOWLEDGED_TOGETHER or not self._subscription.pending_msgs:
            self._unacknowledged = 0
            await message.ack()

    async def _count(self) -> int:
        return (await self._stream.stream_info(self.address)).state.messages

    async def _wait_until_empty(self) -> float:
        # The server does not say when it has seen to the acknowledgements.
        while await self._count():
            await asyncio.sleep(0.001)
        return clock()

    def settle(self, received_at: float) -> float:
        return self._client.do(self._wait_until_empty())

    def close(self) -> None:
        left = self._client.do(self._count())
        self._client.do(self._stream.delete_stream(self.address))
        self._client.close()
        assert left == 0, f"{left} messages are left"


class _Durable:
    """All threads share one connection."""

    def __init__(self, client: _Client, stream: str) -> None:
        self._client = client
        self._subject = stream
        self._stream = client.connection.jetstream(timeout=_TIMEOUT)
        self.close = client.close

    def send(self, data: bytes) -> None:
        self._client.do(self._stream.publish(self._subject, data))

    def send_batch(self, batch: Sequence[bytes]) -> None:
        self._client.do(self._publish_all(batch))

    async def _publish_all(self, batch: Sequence[bytes]) -> None:
        publish, subject = self._stream.publish_async, self._subject
        await asyncio.gather(*[await publish(subject, data) for data in batch])

    def wait_until_removed(self) -> float:
        """On this side there is nothing; the server says the rest to the consumer."""
        return clock()
