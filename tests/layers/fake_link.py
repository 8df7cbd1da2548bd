"""A link of which the test decides what it takes, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from snakemq._io.timers import Timer, Timers
from snakemq.callbacks import CallbackOwner, CallbackSlot
from snakemq.contracts import Buffer, TlsInfo
from snakemq.limits import ConnectionLimits


class FakeLink(CallbackOwner):
    """A link of which the test decides what it takes, and when."""

    on_connect = CallbackSlot[[str]]()
    on_disconnect = CallbackSlot[[str]]()
    on_recv = CallbackSlot[[str, bytes]]()
    on_ready_to_send = CallbackSlot[[str, int]]()
    on_loop_pass = CallbackSlot[[]]()

    def __init__(self) -> None:
        self.limits = ConnectionLimits()
        self.sending: dict[str, tuple[Buffer, ...]] = {}
        self.expected: dict[str, int] = {}
        self.taken: dict[str, bytes] = {}
        self.sends = 0
        self.now = 0.0
        self.timers = Timers()
        self.unreported_bytes = 0

    def connect(self, conn_id: str) -> None:
        self.taken[conn_id] = b""
        self.on_connect(conn_id)

    def send(self, conn_id: str, *data: Buffer) -> None:
        assert conn_id not in self.sending, "one send at a time"
        self.sending[conn_id] = data
        self.sends += 1

    def take(self, conn_id: str, count: int | None = None) -> int:
        """The system takes ``count`` bytes of what is being sent."""
        data = b"".join(self.sending.pop(conn_id))
        count = len(data) if count is None else min(count, len(data))
        self.taken[conn_id] += data[:count]
        self.on_ready_to_send(conn_id, count)
        return count

    def take_all(self, conn_id: str) -> None:
        while conn_id in self.sending:
            self.take(conn_id)

    def close(self, conn_id: str) -> None:
        self.on_disconnect(conn_id)
        self.sending.pop(conn_id, None)
        del self.taken[conn_id]

    def expect(self, conn_id: str, size: int) -> None:
        self.expected[conn_id] = size

    def get_certificate(self, conn_id: str) -> dict[str, Any] | None:
        return {"of": conn_id}

    def get_tls(self, conn_id: str) -> TlsInfo | None:
        return None

    def get_remote_host(self, conn_id: str) -> str:
        return f"host of {conn_id}"

    def unreported(self, conn_id: str) -> int:
        return self.unreported_bytes

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, func: Callable[..., object], *args: object) -> Timer:
        return self.timers.call_at(self.now + delay, func, args)

    def call_soon(self, func: Callable[..., object], *args: object) -> None:
        self.call_later(0.0, func, *args)

    def run_here(self, func: Callable[..., bool], *args: object) -> bool:
        return False  # the loop runs all the time

    def poll_here(
        self,
        conn_id: str,
        take: Callable[[bytes], bool],
        wanted: Callable[[], bool],
        deadline: float,
    ) -> bool:
        return False

    def is_inside_loop(self) -> bool:
        return True

    def wakeup_poll(self) -> None:
        """It does not sleep."""
