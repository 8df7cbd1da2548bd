"""MQTT over Mosquitto with paho-mqtt, without acknowledgements (QoS 0).

The broker is a process of its own, and drops nothing: it keeps any number of
messages for a receiver that is behind. The sender writes to its socket itself:
to hand each message over to a thread is not faster, and collects any number.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any, Final

import paho.mqtt
from paho.mqtt.client import Client, MQTTErrorCode
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.peers import OnMessage

__all__ = ["over", "version"]

#: Seconds without a word after which the broker takes a client for gone; longer
#: than a run.
_KEEPALIVE: Final = 3600

#: Seconds that one wait for the socket takes at most.
_PAUSE: Final = 0.5

_QOS: Final = 0


def version() -> str:
    return f"paho-mqtt {paho.mqtt.__version__}"


class _Over:
    def __init__(self, server: Any) -> None:
        self._port = int(server)

    def version(self) -> str:
        return version()

    def receive(self, on_message: OnMessage) -> _Listening:
        return _Listening(self._port, on_message)

    def connect(self, address: Any) -> _Sender:
        return _Sender(self._port, str(address))


def over(server: Any) -> _Over:
    return _Over(server)


def _connected(port: int) -> Client:
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port, _KEEPALIVE)
    _loop_until(client, client.is_connected)
    return client


def _loop_until(client: Client, condition: Callable[[], bool]) -> None:
    while not condition():
        failure = client.loop(_PAUSE)
        if failure != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise ConnectionError(f"the broker is gone: {failure!r}")


class _Listening:
    """Subscribes to a topic of its own, and reads in a thread."""

    def __init__(self, port: int, on_message: OnMessage) -> None:
        self.address = uuid.uuid4().hex
        self._client = _connected(port)
        self._client.on_message = lambda client, userdata, message: on_message(message.payload)
        subscribed: list[int] = []
        self._client.on_subscribe = lambda client, userdata, mid, *details: subscribed.append(mid)
        self._client.subscribe(self.address, _QOS)
        _loop_until(self._client, lambda: bool(subscribed))
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        _loop_until(self._client, self._closing.is_set)

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._client.disconnect()


class _Sender:
    def __init__(self, port: int, topic: str) -> None:
        self._client = _connected(port)
        self._topic = topic

    def send(self, data: bytes) -> None:
        client = self._client
        client.publish(self._topic, data, _QOS)
        if client.want_write():
            self.flush()

    def flush(self) -> None:
        _loop_until(self._client, lambda: not self._client.want_write())

    def close(self) -> None:
        self._client.disconnect()
