"""A thread that has something urgent to send does it itself while the loop sleeps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from snakemq import Peer, PeerClosed
from snakemq._io.wakeup import Bell
from snakemq.link import Link
from snakemq.message import Message
from snakemq.packeter import Packeter
from tests.helpers import DEADLINE, wait_until


class Served:
    def echo(self, data: bytes) -> bytes:
        return data


@contextmanager
def pair(**options: object) -> Iterator[tuple[Peer, Peer]]:
    with (
        Peer("server", listen=0, serve={"served": Served()}) as server,
        Peer("client", connect=server.addresses[0], **options) as client,  # type: ignore[arg-type]
    ):
        assert client.wait_connected("server", DEADLINE)
        assert client.proxy("server", "served").echo(b"warm") == b"warm"
        yield server, client


@pytest.fixture
def running() -> Iterator[Link]:
    """A link whose loop runs in another thread."""
    link = Link()
    thread = threading.Thread(target=link.loop)
    thread.start()
    yield link
    link.stop()
    thread.join(DEADLINE)
    link.cleanup()


def run_here(link: Link, func: Callable[..., bool], *args: object) -> None:
    """As soon as the loop sleeps."""
    wait_until(lambda: link.run_here(func, *args))


def test_a_sleeping_loop_lends_the_stack(running: Link) -> None:
    where: list[int] = []

    def note() -> bool:
        where.append(threading.get_ident())
        assert running.is_inside_loop()  # who waited for the loop here would wait for ever
        return True

    run_here(running, note)
    assert where == [threading.get_ident()]


def test_it_tells_what_the_function_says(running: Link) -> None:
    asked: list[bool] = []

    def no() -> bool:
        asked.append(True)
        return False

    wait_until(lambda: running.run_here(no) or bool(asked))
    assert asked == [True]


def test_the_loop_does_not_go_on_meanwhile(running: Link) -> None:
    passed = threading.Event()
    order: list[str] = []

    def func() -> bool:
        running.call_soon(lambda: (order.append("loop"), passed.set()))
        assert not passed.wait(0.05)
        order.append("here")
        return True

    run_here(running, func)
    assert passed.wait(DEADLINE)
    assert order == ["here", "loop"]


def test_one_thread_at_a_time(running: Link) -> None:
    inside = threading.Event()
    leave = threading.Event()

    def stay() -> bool:
        inside.set()
        return leave.wait(DEADLINE)

    thread = threading.Thread(target=run_here, args=(running, stay))
    thread.start()
    assert inside.wait(DEADLINE)
    assert not running.run_here(lambda: True)
    leave.set()
    thread.join(DEADLINE)


def test_nothing_is_lent_while_no_loop_runs() -> None:
    link = Link()
    assert not link.run_here(lambda: True)
    link.cleanup()
    assert not link.run_here(lambda: True)


def test_nothing_is_lent_in_a_callback(running: Link) -> None:
    answers: list[bool] = []
    running.call_soon(lambda: answers.append(running.run_here(lambda: True)))
    wait_until(lambda: answers)
    assert answers == [False]


def test_an_exception_gives_the_stack_back(running: Link) -> None:
    def interrupt() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_here(running, interrupt)
    run_here(running, lambda: True)
    done = threading.Event()
    running.call_soon(done.set)
    assert done.wait(DEADLINE)


class Turn:
    """The lock of a turn, with a signal handler that runs just behind each step of it."""

    def __init__(self, turn: Any, handler: Callable[[], object]) -> None:
        self._turn = turn
        self._handler = handler

    def acquire(self, blocking: bool = True) -> bool:
        acquired: bool = self._turn.acquire(blocking=blocking)
        if acquired and not blocking:
            self._handler()
        return acquired

    def release(self) -> None:
        self._turn.release()

    def __enter__(self) -> None:
        self._turn.acquire()

    def __exit__(self, *exc: object) -> None:
        self._turn.release()


def test_who_has_the_turn_is_told_not_to_wait_for_the_loop(running: Link) -> None:
    told: list[bool] = []
    running._turn = Turn(running._turn, lambda: told.append(running.is_inside_loop()))  # type: ignore[assignment]
    run_here(running, lambda: True)
    assert told
    assert all(told)
    assert not running.is_inside_loop()


def test_who_is_interrupted_behind_its_turn_has_none(running: Link) -> None:
    class Interrupted(Turn):
        def release(self) -> None:
            super().release()
            raise KeyboardInterrupt

    turn = running._turn
    running._turn = Interrupted(turn, lambda: None)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        run_here(running, lambda: True)
    running._turn = turn
    assert not running.is_inside_loop()
    run_here(running, lambda: True)


def test_the_turn_of_a_signal_handler_ends_before_that_of_its_thread(running: Link) -> None:
    inner: list[bool] = []

    def handler() -> None:
        if not inner:
            inner.append(True)
            running.run_here(lambda: True)

    def note() -> bool:
        assert running.is_inside_loop()
        return True

    running._turn = Turn(running._turn, handler)  # type: ignore[assignment]
    run_here(running, note)
    assert inner == [True]
    assert not running.is_inside_loop()


@pytest.mark.parametrize("wake", [Link.wakeup_poll, lambda link: link.call_soon(lambda: None)])
def test_an_interrupted_ring_is_rung_again(running: Link, wake: Callable[[Link], None]) -> None:
    ring = running._bell.ring
    interrupts = [KeyboardInterrupt()]

    def interrupted() -> None:
        if interrupts:
            raise interrupts.pop()
        ring()

    wait_until(lambda: running._sleeping)
    running._bell.ring = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        wake(running)
    # Nobody rings for a loop that seems to be awake.
    done = threading.Event()
    running.call_soon(done.set)
    assert done.wait(DEADLINE)


def test_a_call_wakes_no_loop_to_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    rings: list[int] = []
    ring = Bell.ring

    def counted(bell: Bell) -> None:
        rings.append(threading.get_ident())
        ring(bell)

    with pair() as (_, client):
        echo = client.proxy("server", "served").echo
        monkeypatch.setattr(Bell, "ring", counted)
        for number in range(50):
            assert echo(b"%d" % number) == b"%d" % number
        monkeypatch.undo()
    # Neither for requests nor for replies. A timer that is set may take one, and so
    # may a thread that is suspended while it has the turn of the other one.
    assert len(rings) < 25


def test_a_stored_message_wakes_no_loop_to_be_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    received: list[bytes] = []
    rings: list[int] = []
    ring = Bell.ring

    def counted(bell: Bell) -> None:
        rings.append(threading.get_ident())
        ring(bell)

    with (
        Peer("server", listen=0, on_message=lambda one: received.append(one.data)) as server,
        Peer("client", connect=server.addresses[0], storage=tmp_path / "storage.db") as client,
    ):
        assert client.wait_connected("server", DEADLINE)
        client.send("server", b"first")
        assert client.flush("server", DEADLINE)
        monkeypatch.setattr(Bell, "ring", counted)
        for number in range(50):
            wait_until(lambda: client.link._sleeping)
            client.send("server", b"%d" % number)
            assert client.flush("server", DEADLINE)
        monkeypatch.undo()
    assert received == [b"first", *(b"%d" % number for number in range(50))]
    # A timer that is set may take one.
    assert len(rings) <= 5


def test_a_throttled_peer_calls_by_way_of_the_loop() -> None:
    with pair(throttle=10_000_000.0) as (_, client):
        assert client.proxy("server", "served").echo(b"x") == b"x"
        assert client.throttle is not None
        assert not client.throttle.run_here(lambda: True)


def test_what_the_system_does_not_take_at_once_follows() -> None:
    data = bytes(200_000)
    with pair() as (server, client):
        held = threading.Event()
        server.link.call_soon(held.wait, DEADLINE)  # it reads nothing for now
        futures = [client.proxy("server", "served").echo.future(data) for _ in range(100)]
        held.set()
        assert all(future.result(DEADLINE) == data for future in futures)


def test_an_interrupt_in_the_middle_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is given up, and what was under way comes over the next one, once."""
    received: list[bytes] = []
    with (
        Peer("server", listen=0, on_message=lambda one: received.append(one.data)) as server,
        Peer("client", connect=server.addresses[0], reconnect_interval=0.01) as client,
    ):
        assert client.wait_connected("server", DEADLINE)
        client.send("server", "first")
        assert client.flush("server", DEADLINE)
        send_encoded = Packeter.send_encoded
        me = threading.get_ident()

        def interrupted(packeter: Packeter, *args: Any) -> int:
            if threading.get_ident() != me:
                return send_encoded(packeter, *args)
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(Packeter, "send_encoded", interrupted)
        sent = [b"first"]

        def send() -> bool:
            # Until it is this thread that hands it over, and not the loop.
            wait_until(lambda: client.link._sleeping)
            sent.append(b"%d" % len(sent))
            client.messaging.send_message("server", Message(sent[-1], 60), prompt=True)
            assert client.flush("server", DEADLINE)
            return False

        with pytest.raises(KeyboardInterrupt):
            wait_until(send)
        assert client.flush("server", DEADLINE)
        wait_until(lambda: len(received) >= len(sent))
        assert received == sent


@pytest.mark.parametrize("ttl", [0, 60])
def test_an_interrupt_behind_the_system_call_loses_and_doubles_nothing(
    monkeypatch: pytest.MonkeyPatch, ttl: float
) -> None:
    """The other side has it, with a number that no other message may get then."""
    received: list[bytes] = []
    with (
        Peer("server", listen=0, on_message=lambda one: received.append(one.data)) as server,
        Peer("client", connect=server.addresses[0], reconnect_interval=0.01) as client,
    ):
        assert client.wait_connected("server", DEADLINE)
        messaging = client.messaging
        send_encoded = Packeter.send_encoded
        me = threading.get_ident()
        sent: list[bytes] = []

        def interrupted(packeter: Packeter, *args: Any) -> int:
            packet = send_encoded(packeter, *args)
            if threading.get_ident() == me:
                monkeypatch.undo()
                wait_until(lambda: received == sent)
                # It waits for somebody to release it, or for the next connection.
                messaging.send_message("server", Message(b"last", 60), hold=True)
                raise KeyboardInterrupt
            return packet

        def send() -> bool:
            # Until it is this thread that hands it over, and not the loop.
            wait_until(lambda: client.link._sleeping)
            sent.append(b"%d" % len(sent))
            message = Message(sent[-1], ttl)
            if ttl or not messaging.shortcut.send("server", message):
                messaging.send_message("server", message, prompt=True)
            wait_until(lambda: received == sent)
            return False

        monkeypatch.setattr(Packeter, "send_encoded", interrupted)
        with pytest.raises(KeyboardInterrupt):
            wait_until(send)
        wait_until(lambda: received[-1] == b"last")
        assert received == [*sent, b"last"]


def interrupt_next(monkeypatch: pytest.MonkeyPatch, packeter: Packeter, name: str) -> None:
    """Let Ctrl-C come in the next call of a method, once."""

    def interrupted(*args: object) -> bool:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(packeter, name, interrupted)


@pytest.mark.parametrize("prompt", [False, True])
def test_an_interrupt_before_it_is_sent_does_not_stop_the_queue(
    monkeypatch: pytest.MonkeyPatch, prompt: bool
) -> None:
    """Whoever finds a queue that is going to be looked at asks for nothing."""
    received: list[bytes] = []
    with (
        Peer("server", listen=0, on_message=lambda one: received.append(one.data)) as server,
        Peer("client", connect=server.addresses[0]) as client,
    ):
        assert client.wait_connected("server", DEADLINE)
        interrupt_next(monkeypatch, client.packeter, "run_here" if prompt else "call_soon")
        with pytest.raises(KeyboardInterrupt):
            client.messaging.send_message("server", Message(b"1", 60), prompt=prompt)
        wait_until(lambda: received == [b"1"])
        client.send("server", b"2")
        wait_until(lambda: received == [b"1", b"2"])


def test_an_interrupted_quick_send_does_not_stop_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[bytes] = []
    with (
        Peer("server", listen=0, on_message=lambda one: received.append(one.data)) as server,
        Peer("client", connect=server.addresses[0]) as client,
    ):
        assert client.wait_connected("server", DEADLINE)
        interrupt_next(monkeypatch, client.packeter, "call_soon")
        with pytest.raises(KeyboardInterrupt):
            client.send("server", b"1")
        wait_until(lambda: received == [b"1"])


def test_nothing_is_lent_to_who_has_borrowed_it_already(running: Link) -> None:
    """A finalizer may make a call, and it may run anywhere: also in the middle of a send."""
    inner: list[bool] = []
    run_here(running, lambda: not inner.append(running.run_here(lambda: True)))
    assert inner == [False]
    run_here(running, lambda: True)


def test_a_stopped_peer_refuses_small_messages_too() -> None:
    with Peer("client", listen=0) as client:
        pass
    with pytest.raises(PeerClosed):
        client.send("server", b"small")
