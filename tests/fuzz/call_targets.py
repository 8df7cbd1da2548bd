"""A server and a client of remote calls to which a peer says anything.

There are no threads: what workers would do is done in turn, so that the same bytes always do
the same.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from snakemq._core.rpc_parts import REPLY_PARTS, REQUEST_PARTS, encode_part
from snakemq._core.rpc_records import (
    REPLY_PREFIX,
    REQUEST_PREFIX,
    call_record,
    cancel_record,
    describe_record,
    error_record,
    items_record,
    more_record,
    signal_record,
    value_record,
)
from snakemq.rpc import RpcClient, RpcServer, SignalCallWarning, as_signal, quick
from snakemq.rpc.safe_pickle import SAFE_PICKLE
from tests.fuzz.fodder import Fodder
from tests.fuzz.watch import no_faults
from tests.layers.rpc_fakes import FakeHook, FakeMessaging

__all__ = ["calls"]

_PEERS = ("mallory", "eve")

_PREFIXES = (
    REQUEST_PREFIX, REPLY_PREFIX, REQUEST_PARTS.part, REQUEST_PARTS.refusal, REPLY_PARTS.part,
    REPLY_PARTS.refusal,
)  # fmt: skip

_OBJECTS = ("service", "", "service.x", "__class__", "x" * 300)
_METHODS = (
    "echo", "fail", "items", "note", "fast", "__init__", "_hidden", "value", "missing", "echo.x",
)  # fmt: skip
_MAX_STEPS = 60
#: Each step is answered by a few messages at most; a stream by as many as it has items.
_MAX_ANSWERS = 40


class _Service:
    value = 1

    def echo(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    def fail(self) -> None:
        raise ValueError("as it should")

    def items(self) -> Iterator[int]:
        yield from range(20)

    @as_signal
    def note(self) -> None:
        pass

    @quick
    def fast(self, number: int = 0) -> int:
        return number

    def _hidden(self) -> None:
        raise AssertionError("this is not to be called")


class _InTurn:
    """In the place of a pool of threads."""

    work: deque[tuple[Callable[..., object], tuple[Any, ...]]]

    def __init__(self, max_workers: int, name: str, linger: object = None) -> None:
        self.max_workers = max_workers
        self.name = name
        self.work = deque()

    def submit(self, func: Callable[..., object], *args: Any) -> None:
        self.work.append((func, args))

    def take_next(self) -> tuple[Any, ...] | None:
        return self.work.popleft()[1] if self.work else None

    def run(self) -> bool:
        """Do what there is; whether there was anything."""
        did = bool(self.work)
        while self.work:
            func, args = self.work.popleft()
            func(*args)
        return did

    def stop(self, timeout: float = 0.0) -> bool:
        self.work.clear()
        return True


class _Messaging(FakeMessaging):
    def acknowledge(self, conn_id: str) -> None:
        """Nothing waits here to be acknowledged."""


class _Scene:
    def __init__(self) -> None:
        self.messaging = _Messaging(_PEERS)
        self.hook = FakeHook(self.messaging)
        with (
            mock.patch("snakemq.rpc.server.WorkerPool", _InTurn),
            mock.patch("snakemq.rpc._dispatcher.WorkerPool", _InTurn),
        ):
            self.server = RpcServer(self.hook)  # type: ignore[arg-type]
        self.client = RpcClient(self.hook)  # type: ignore[arg-type]
        self.server.register_object(_Service(), "service")
        self.pools: list[Any] = [self.server.helpers, self.server.dispatcher._pool]
        self.futures: list[Any] = []

    def run(self) -> None:
        """Let everything come to its end that can."""
        did = 1
        while did:
            self.messaging.run_soon()
            did = sum(pool.run() for pool in self.pools)

    def deliver(self, ident: str, data: bytes) -> None:
        if self.messaging.is_connected(ident):
            self.hook.deliver(ident, data)
            self.run()

    def arrived(self) -> None:
        """What was sent has arrived, and is acknowledged."""
        for ident in _PEERS:
            messages = [sent.message for sent in self.messaging.sent if sent.ident == ident]
            if messages and self.messaging.is_connected(ident):
                conn_id = f"conn of {ident}"
                self.messaging.in_loop(self.messaging.on_messages_sent, conn_id, ident, messages)
                self.messaging.in_loop(self.messaging.on_messages_acked, conn_id, ident, messages)
        self.run()


def calls(data: bytes) -> None:
    """Requests and replies of any kind are answered, refused or passed over.

    Each step begins with a byte that says what it is, modulo 10.
    """
    # What a signal raises nobody else hears of.
    with warnings.catch_warnings(), no_faults("exception in "):
        warnings.simplefilter("ignore", SignalCallWarning)
        _run(Fodder(data))


def _run(fodder: Fodder) -> None:
    scene = _Scene()
    steps = 0
    while fodder and steps < _MAX_STEPS:
        steps += 1
        sent = len(scene.messaging.sent)
        _step(scene, fodder)
        scene.run()
        assert len(scene.messaging.sent) - sent <= _MAX_ANSWERS
    assert not scene.messaging.failures, repr(scene.messaging.failures[0])
    for one in scene.messaging.sent:
        assert one.ident in _PEERS
        assert one.message.data.startswith(_PREFIXES)
    scene.server.close()
    scene.client.close()
    scene.run()
    for future in scene.futures:
        assert future.done(), "a call without an end"


def _step(scene: _Scene, fodder: Fodder) -> None:
    kind = fodder.byte() % 10
    ident = _PEERS[fodder.byte() % 2]
    req_id = bytes([fodder.byte() % 4]) * 16
    if kind == 0:
        prefix = _PREFIXES[fodder.byte() % len(_PREFIXES)]
        scene.deliver(ident, prefix + fodder.block())
    elif kind == 1:
        names = _OBJECTS[fodder.byte() % len(_OBJECTS)], _METHODS[fodder.byte() % len(_METHODS)]
        options = fodder.byte()
        record = (
            signal_record(*names, (), {})
            if options & 1
            else call_record(
                *names,
                (fodder.byte(),) * (options >> 6),
                {},
                req_id,
                timeout=fodder.byte() / 8 if options & 2 else None,
                window=fodder.byte() if options & 4 else None,
            )
        )
        _deliver_record(scene, fodder, ident, REQUEST_PREFIX, record)
    elif kind == 2:
        record = (cancel_record, describe_record)[fodder.byte() % 2](req_id)
        _deliver_record(scene, fodder, ident, REQUEST_PREFIX, record)
    elif kind == 3:
        size = 1 + 6 * (fodder.byte() & 1)
        record = more_record(req_id, fodder.number(size) % 2**53, fodder.number(size) % 2**53)
        _deliver_record(scene, fodder, ident, REQUEST_PREFIX, record)
    elif kind == 4:
        asked = scene.client.future(ident, "there", "method", (), {}, timeout=10.0)
        scene.futures.append(asked)
    elif kind == 5:
        _reply(scene, fodder, ident)
    elif kind == 6:
        if scene.messaging.is_connected(ident):
            scene.messaging.disconnect(ident, f"conn of {ident}")
        else:
            scene.messaging.connect(ident, f"conn of {ident}")
    elif kind == 7:
        scene.arrived()
    elif kind == 8:
        scene.messaging.advance(fodder.byte())
    else:
        scene.deliver(ident, fodder.block())


def _reply(scene: _Scene, fodder: Fodder, ident: str) -> None:
    """One to a call of this side, as its first identifiers are known."""
    asked = [
        SAFE_PICKLE.loads(sent.message.data[len(REQUEST_PREFIX) :]).get("req_id")
        for sent in scene.messaging.sent
        if sent.message.data.startswith(REQUEST_PREFIX)
    ]
    req_id = asked[fodder.byte() % len(asked)] if asked else bytes(16)
    record = (
        lambda: value_record(req_id, fodder.byte()),
        lambda: error_record(req_id, ValueError("x"), "there"),
        lambda: items_record(req_id, fodder.byte(), [1] * (fodder.byte() % 8), end=True),
        lambda: items_record(req_id, fodder.byte(), [1] * (fodder.byte() % 8)),
        lambda: error_record(req_id, None, "there", position=fodder.byte()),
        lambda: {"req_id": req_id, "ok": fodder.byte()},
    )[fodder.byte() % 6]()
    _deliver_record(scene, fodder, ident, REPLY_PREFIX, record)


def _deliver_record(
    scene: _Scene, fodder: Fodder, ident: str, prefix: bytes, record: object
) -> None:
    """As one message, or in parts; and perhaps with a byte that is wrong."""
    data = bytearray(prefix + SAFE_PICKLE.dumps(record))
    how = fodder.byte()
    if how & 2:
        data[fodder.number(2) % len(data)] = fodder.byte()
    if not how & 1:
        scene.deliver(ident, bytes(data))
        return
    kind = REQUEST_PARTS if prefix == REQUEST_PREFIX else REPLY_PARTS
    for start in range(0, len(data), 64):
        piece = bytes(data[start : start + 64])
        scene.deliver(ident, encode_part(kind, b"t" * 16, start, len(data), piece))
