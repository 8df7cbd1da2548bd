"""Messaging and receive hook without anything below them, driven by the test."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from snakemq.callbacks import Callback
from snakemq.message import Message
from tests.helpers import DEADLINE, wait_until

__all__ = ["FakeHook", "FakeMessaging", "InThread", "Sent"]


class Sent(NamedTuple):
    ident: str
    message: Message


class FakeMessaging:
    """Keeps what is sent. The test says when the loop is in a callback."""

    identifier = "me"

    def __init__(self, connected: tuple[str, ...] = ()) -> None:
        self.on_connect: Callback[[str, str]] = Callback()
        self.on_disconnect: Callback[[str, str]] = Callback()
        self.sent: list[Sent] = []
        #: of each that was sent: whether it was urgent
        self.urgent: list[bool] = []
        #: raised by :meth:`send_message`
        self.failure: Exception | None = None
        self.inside_loop = False
        self._connected = list(connected)
        self._soon: list[Callable[[], object]] = []

    def send_message(self, ident: str, message: Message, *, urgent: bool = False) -> bool:
        if self.failure is not None:
            raise self.failure
        self.sent.append(Sent(ident, message))
        self.urgent.append(urgent)
        return True

    def is_inside_loop(self) -> bool:
        return self.inside_loop

    def connected_peers(self) -> list[str]:
        return self._connected

    def call_soon(self, func: Callable[[], object]) -> None:
        self._soon.append(func)

    def run_soon(self) -> None:
        while self._soon:
            self._soon.pop(0)()

    def wait_sent(self, count: int) -> list[Sent]:
        wait_until(lambda: len(self.sent) >= count, what=lambda: f"{count} sent: {self.sent}")
        assert len(self.sent) == count
        return self.sent


class FakeHook:
    """Knows prefixes, not regular expressions."""

    def __init__(self, messaging: FakeMessaging) -> None:
        self.messaging = messaging
        self.hooks: dict[bytes, Callable[[str, str, Message], object]] = {}

    def register(self, prefix: bytes, callback: Callable[[str, str, Message], object]) -> None:
        self.hooks[prefix] = callback

    def unregister(self, prefix: bytes) -> None:
        del self.hooks[prefix]

    def deliver(self, ident: str, data: bytes) -> None:
        for prefix, callback in self.hooks.items():
            if data.startswith(prefix):
                callback(f"conn of {ident}", ident, Message(data))


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
