"""Messaging and receive hook without anything below them, driven by the test."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from snakemq._core.features import Feature
from snakemq.callbacks import Callback
from snakemq.limits import DropReason
from snakemq.message import Message
from snakemq.rpc import REPLY_PREFIX, REQUEST_PREFIX, RpcClient
from tests.helpers import DEADLINE, wait_until

__all__ = ["FakeHook", "FakeMessaging", "FakeTimer", "InThread", "Sent", "Side", "request"]


class Sent(NamedTuple):
    ident: str
    message: Message


class FakeTimer:
    """What :meth:`FakeMessaging.call_later` gives."""

    def __init__(self, when: float, func: Callable[..., object], args: tuple[object, ...]) -> None:
        self.when = when
        self.func: Callable[..., object] | None = func
        self.args = args

    def cancel(self) -> None:
        self.func = None


class FakePacketer:
    max_packet_size = 1_000_000


class FakeShortcut:
    """The loop never sleeps."""

    def __init__(self) -> None:
        #: how often somebody wanted to send by itself
        self.tries = 0

    def send(self, ident: str, message: Message) -> bool:
        self.tries += 1
        return False

    def poll(self, *args: object) -> bool:
        return False


class FakeQueues:
    """Nobody is in a transaction."""

    in_transaction: frozenset[int] = frozenset()


class FakeMessaging:
    """Keeps what is sent. The test says when the loop is in a callback."""

    identifier = "me"

    def __init__(self, connected: tuple[str, ...] = ()) -> None:
        self.on_connect: Callback[[str, str]] = Callback()
        self.on_disconnect: Callback[[str, str]] = Callback()
        self.on_ready: Callback[[str, str]] = Callback()
        self.on_messages_sent: Callback[[str, str, list[Message]]] = Callback()
        self.on_messages_acked: Callback[[str, str, list[Message]]] = Callback()
        self.on_messages_left: Callback[[str, str, list[Message]]] = Callback()
        self.on_messages_dropped: Callback[[str, list[Message], DropReason]] = Callback()
        self.on_error: Callback[[str | None, Exception]] = Callback()
        self.packeter = FakePacketer()
        self.shortcut = FakeShortcut()
        self.queues_manager = FakeQueues()
        self.sent: list[Sent] = []
        #: of each that was sent: whether it was urgent
        self.urgent: list[bool] = []
        #: raised by :meth:`send_message`
        self.failure: Exception | None = None
        #: says that any thread is in the loop; :meth:`in_loop` that this one is
        self.inside_loop = False
        self._loop_thread: int | None = None
        #: exceptions out of callbacks
        self.failures: list[Exception] = []
        #: the time; :meth:`advance` changes it
        self.now = 1000.0
        #: how often the loop was given something to do
        self.soon_calls = 0
        self._connected = list(connected)
        self._soon: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self._timers: list[FakeTimer] = []

    def send_message(
        self,
        ident: str,
        message: Message,
        *,
        urgent: bool = False,
        prompt: bool = False,
        hold: bool = False,
    ) -> bool:
        if self.failure is not None:
            raise self.failure
        self.sent.append(Sent(ident, message))
        self.urgent.append(urgent)
        return True

    def release(self, ident: str) -> None:
        """What is held is in :attr:`sent` already."""

    def is_inside_loop(self) -> bool:
        return self.inside_loop or self._loop_thread == threading.get_ident()

    def is_in_transaction(self) -> bool:
        return False

    def connected_peers(self) -> list[str]:
        return self._connected

    def peer_features(self, ident: str) -> frozenset[Feature] | None:
        """As those of 1.6: nobody here announces any."""
        return frozenset() if ident in self._connected else None

    def is_connected(self, ident: str) -> bool:
        return ident in self._connected

    def get_certificate(self, conn_id: str) -> dict[str, object] | None:
        return None

    def get_remote_host(self, conn_id: str) -> str:
        return f"host of {conn_id}"

    def call_soon(self, func: Callable[..., object], *args: object) -> None:
        self.soon_calls += 1
        self._soon.append((func, args))

    def run_soon(self) -> None:
        while self._soon:
            func, args = self._soon.pop(0)
            self.in_loop(func, *args)

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, func: Callable[..., object], *args: object) -> FakeTimer:
        assert delay >= 0
        timer = FakeTimer(self.now + delay, func, args)
        self._timers.append(timer)
        return timer

    @property
    def timers(self) -> list[FakeTimer]:
        """Those that are set."""
        return [timer for timer in self._timers if timer.func is not None]

    def advance(self, seconds: float) -> None:
        """Let time pass, in the loop."""
        self.run_soon()
        self.now += seconds
        while due := [timer for timer in self.timers if timer.when <= self.now]:
            timer = min(due, key=lambda timer: timer.when)
            func, timer.func = timer.func, None
            assert func is not None
            self.in_loop(func, *timer.args)
        self.run_soon()

    def in_loop(self, func: Callable[..., object], *args: object) -> None:
        """Call it as the loop would, in this thread."""
        before, self._loop_thread = self._loop_thread, threading.get_ident()
        try:
            func(*args)
        finally:
            self._loop_thread = before

    def connect(self, ident: str, conn_id: str) -> None:
        self._connected.append(ident)
        self.in_loop(self.on_connect, conn_id, ident)

    def disconnect(self, ident: str, conn_id: str) -> None:
        if ident in self._connected:
            self._connected.remove(ident)
        self.in_loop(self.on_disconnect, conn_id, ident)

    def callback_failed(
        self, name: str, func: Callable[..., object], args: tuple[Any, ...], exc: Exception
    ) -> None:
        self.failures.append(exc)

    def wait_sent(self, count: int) -> list[Sent]:
        wait_until(lambda: len(self.sent) >= count, what=lambda: f"{count} sent: {self.sent}")
        assert len(self.sent) == count
        return self.sent


class FakeHook:
    """Knows prefixes, not regular expressions."""

    def __init__(self, messaging: FakeMessaging) -> None:
        self.messaging = messaging
        self.hooks: dict[bytes, Callable[[str, str, Message], object]] = {}

    def register(
        self,
        prefix: bytes,
        callback: Callable[[str, str, Message], object],
        *,
        any_thread: bool = False,
        take: object = None,
    ) -> None:
        self.hooks[prefix] = callback

    def unregister(self, prefix: bytes) -> None:
        del self.hooks[prefix]

    def deliver(self, ident: str, data: bytes) -> None:
        for prefix, callback in self.hooks.items():
            if data.startswith(prefix):
                self.messaging.in_loop(callback, f"conn of {ident}", ident, Message(data))


class InThread:
    """Calls a function in a thread of its own; :meth:`result` is what it returned or raised."""

    def __init__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._work = (func, args, kwargs)
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        func, args, kwargs = self._work
        try:
            self._value = func(*args, **kwargs)
        except BaseException as exc:
            self._error = exc

    def join(self) -> None:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), f"{self._work[0]} does not return"

    def error(self) -> BaseException:
        """What it raised."""
        self.join()
        assert self._error is not None, f"returned {self._value!r}"
        return self._error

    def result(self) -> Any:
        """What it returned."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._value

    @property
    def running(self) -> bool:
        return self._thread.is_alive()


def request(sent: Sent) -> dict[str, Any]:
    """The record in a message to a server."""
    assert sent.message.data.startswith(REQUEST_PREFIX)
    record: dict[str, Any] = pickle.loads(sent.message.data[len(REQUEST_PREFIX) :])
    return record


class Side:
    """A client and what is below it."""

    def __init__(self, messaging: FakeMessaging | None = None, **options: Any) -> None:
        self.messaging = messaging or FakeMessaging()
        self.hook = FakeHook(self.messaging)
        self.client = RpcClient(self.hook, **options)  # type: ignore[arg-type]
        self.proxy: Any = self.client.get_proxy("bob", "obj")

    def connect(self, ident: str = "bob", conn_id: str = "1") -> None:
        self.messaging.connect(ident, conn_id)

    def disconnect(self, ident: str = "bob", conn_id: str = "1") -> None:
        self.messaging.disconnect(ident, conn_id)

    def records(self, command: str) -> list[dict[str, Any]]:
        """What was sent so far with this command."""
        records = [request(sent) for sent in list(self.messaging.sent)]
        return [record for record in records if record["command"] == command]

    def requests(self, count: int) -> list[dict[str, Any]]:
        """All calls so far, repeated ones too, which are ``count``."""
        wait_until(
            lambda: len(self.records("call")) >= count,
            what=lambda: f"{count} sent: {self.messaging.sent}",
        )
        records = self.records("call")
        assert len(records) == count
        return records

    def reply(self, record: object, ident: str = "bob") -> None:
        self.hook.deliver(ident, REPLY_PREFIX + pickle.dumps(record))

    def waits(self, count: int) -> bool:
        return self.client.pending_calls() == count

    def is_clean(self) -> bool:
        """Nothing is kept of any call or of any peer that is not connected."""
        return (
            repr(self.client) == "<RpcClient connected=0 waiting=0>"
            and not self.client._outstanding.remotes
            and not len(self.client._deadlines)
            and not self.messaging.timers
        )
