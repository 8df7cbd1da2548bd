"""RabbitMQ with pika: a durable queue, persistent messages, confirms and acknowledgements.

The broker is a process of its own, with its data in the same file system as
that of the others. Each side does it as it is fastest: a thread that waits for
the confirm of each message has a blocking connection of its own; a batch goes
out as a whole, and then its confirms are waited for; the consumer acknowledges
together what has arrived together.

A broker confirms a message when it is on disk, or when it was acknowledged
before it got there.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import pika

from benchmarks.payloads import clock
from benchmarks.peers import OnMessage, Setting

__all__ = ["over", "version"]

#: How many messages the broker sends before it waits for acknowledgements.
_PREFETCH: Final = 1000

#: Seconds between two looks whether to stop.
_PAUSE: Final = 0.5

_PERSISTENT: Final = pika.BasicProperties(delivery_mode=2)


def version() -> str:
    return f"pika {pika.__version__}"


class _Over:
    def __init__(self, server: Any) -> None:
        self._parameters = pika.ConnectionParameters("127.0.0.1", int(server), heartbeat=0)

    def version(self) -> str:
        return version()

    def keep(self, setting: Setting, on_message: OnMessage) -> _Consumer:
        return _Consumer(self._parameters, setting.directory.name, on_message)

    def connect_durably(self, setting: Setting, address: Any) -> _Durable:
        return _Durable(self._parameters, str(address))


def over(server: Any) -> _Over:
    return _Over(server)


class _Consumer:
    """Reads, acknowledges and counts in one thread; pika's connections belong to one."""

    def __init__(
        self, parameters: pika.ConnectionParameters, queue: str, on_message: OnMessage
    ) -> None:
        self._on_message = on_message
        self._connection = pika.BlockingConnection(parameters)
        self._channel = self._connection.channel()
        self._channel.basic_qos(prefetch_count=_PREFETCH)
        self.address = queue
        self._channel.queue_declare(self.address, durable=True)
        self._channel.basic_consume(self.address, self._receive)
        self._received = 0
        self._asked_to_settle = threading.Event()
        self._settled = threading.Event()
        self._closing = False
        self._left = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _receive(self, channel: Any, method: Any, properties: Any, data: bytes) -> None:
        self._on_message(data)
        self._received = method.delivery_tag

    def _run(self) -> None:
        acknowledged = 0
        while not self._closing:
            self._connection.process_data_events(time_limit=_PAUSE)
            if self._received > acknowledged:
                acknowledged = self._received
                self._channel.basic_ack(acknowledged, multiple=True)
            if self._asked_to_settle.is_set() and not self._settled.is_set():
                # The broker does one thing after the other: it has seen to the
                # acknowledgements when it answers.
                self._count()
                self._settled.set()
        # What is not acknowledged is back in the queue when the channel is gone.
        self._channel.close()
        self._channel = self._connection.channel()
        self._left = self._count()
        self._channel.queue_delete(self.address)
        self._connection.close()

    def _count(self) -> int:
        declared = self._channel.queue_declare(self.address, passive=True)
        return int(declared.method.message_count)

    def settle(self, received_at: float) -> float:
        self._asked_to_settle.set()
        self._connection.add_callback_threadsafe(lambda: None)  # wakes it up
        self._settled.wait()
        return clock()

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        assert self._left == 0, f"{self._left} messages are left"


class _Publisher:
    """Publishes a message and waits for its confirm."""

    def __init__(self, parameters: pika.ConnectionParameters, queue: str) -> None:
        self._queue = queue
        self._connection = pika.BlockingConnection(parameters)
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()

    def send(self, data: bytes) -> None:
        self._channel.basic_publish("", self._queue, data, _PERSISTENT, mandatory=True)

    def close(self) -> None:
        self._connection.close()


class _BatchPublisher:
    """Publishes messages and then waits for all of their confirms."""

    def __init__(self, parameters: pika.ConnectionParameters, queue: str) -> None:
        self._queue = queue
        self._published = 0
        self._unconfirmed: set[int] = set()
        self._refused = 0
        self._connection = pika.SelectConnection(
            parameters,
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._opened),
            on_open_error_callback=self._failed,
            on_close_callback=self._failed,
        )
        self._loop = self._connection.ioloop
        self._failure: Exception | None = None
        self._wait()

    def _opened(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._confirmed, callback=lambda frame: self._loop.stop())

    def _failed(self, connection: Any, exc: Exception) -> None:
        self._failure = exc
        self._loop.stop()

    def _confirmed(self, frame: Any) -> None:
        method = frame.method
        if isinstance(method, pika.spec.Basic.Nack):
            self._refused += 1
        if method.multiple:
            tag = method.delivery_tag
            self._unconfirmed = {other for other in self._unconfirmed if other > tag}
        else:
            self._unconfirmed.discard(method.delivery_tag)
        if not self._unconfirmed:
            self._loop.stop()

    def _wait(self) -> None:
        self._loop.start()
        if self._failure is not None:
            raise self._failure

    def send_batch(self, batch: Sequence[bytes]) -> None:
        first = self._published + 1
        self._published += len(batch)
        self._unconfirmed = set(range(first, self._published + 1))
        for data in batch:
            self._channel.basic_publish("", self._queue, data, _PERSISTENT)
        self._wait()
        assert not self._refused, "the broker refused messages"

    def close(self) -> None:
        self._connection.close()
        self._loop.start()


class _Durable:
    """A connection for each thread, and one more for batches."""

    def __init__(self, parameters: pika.ConnectionParameters, queue: str) -> None:
        self._parameters = parameters
        self._queue = queue
        self._local = threading.local()
        self._all: list[_Publisher] = []
        self._batches = _BatchPublisher(parameters, queue)
        self.send_batch = self._batches.send_batch

    def send(self, data: bytes) -> None:
        publisher = getattr(self._local, "publisher", None)
        if publisher is None:
            publisher = self._local.publisher = _Publisher(self._parameters, self._queue)
            self._all.append(publisher)
        publisher.send(data)

    def wait_until_removed(self) -> float:
        """On this side there is nothing; the broker says the rest to the consumer."""
        return clock()

    def close(self) -> None:
        self._batches.close()
        for publisher in self._all:
            publisher.close()
