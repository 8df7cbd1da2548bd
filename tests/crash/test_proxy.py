"""The proxy that breaks connections: it does so where it is told to, and nowhere else."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from tests.crash.proxy import CuttingProxy, Direction, Ending, Trap
from tests.helpers import DEADLINE, wait_until


class Ends:
    """A listener, a proxy in front of it, and connections through both."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._listener.settimeout(DEADLINE)
        self.target: int = self._listener.getsockname()[1]
        self.proxy = stack.enter_context(CuttingProxy())

    def dial(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.proxy.port), DEADLINE)
        return self._stack.enter_context(sock)

    def accept(self) -> socket.socket:
        sock = self._listener.accept()[0]
        sock.settimeout(DEADLINE)
        return self._stack.enter_context(sock)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """A connection: the connector's end and the listener's."""
        self.proxy.lead_to(self.target)
        return self.dial(), self.accept()


@pytest.fixture
def ends() -> Iterator[Ends]:
    with contextlib.ExitStack() as stack:
        yield Ends(stack)


def read(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        assert more, f"the end after {len(data)} bytes"
        data += more
    return data


def rest(sock: socket.socket) -> bytes | None:
    """What comes until the end; ``None`` if that is a reset."""
    data = b""
    try:
        while more := sock.recv(65536):
            data += more
    except ConnectionError:
        return None
    return data


def test_it_relays_both_ways(ends: Ends) -> None:
    near, far = ends.pair()
    near.sendall(b"there")
    assert read(far, 5) == b"there"
    far.sendall(b"and back")
    assert read(near, 8) == b"and back"
    wait_until(lambda: sum(ends.proxy.passed.values()) == 13)
    assert ends.proxy.passed == {Direction.TO_LISTENER: 5, Direction.TO_CONNECTOR: 8}
    assert ends.proxy.connections == 1


@pytest.mark.parametrize("closing", [0, 1])
def test_an_end_is_passed_on_behind_the_data(ends: Ends, closing: int) -> None:
    pair = ends.pair()
    pair[closing].sendall(b"x" * 300_000)
    pair[closing].close()
    assert rest(pair[1 - closing]) == b"x" * 300_000


def test_connections_wait_for_a_listener(ends: Ends) -> None:
    near = ends.dial()
    near.sendall(b"patience")
    ends.proxy.lead_to(ends.target)
    assert read(ends.accept(), 8) == b"patience"


def test_connections_wait_if_the_listener_is_gone(ends: Ends) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    ends.proxy.lead_to(port)
    near = ends.dial()
    near.sendall(b"patience")
    ends.proxy.lead_to(ends.target)
    assert read(ends.accept(), 8) == b"patience"


def test_what_nobody_reads_is_not_read(ends: Ends) -> None:
    """A slow reader slows the writer down, as without a proxy."""
    near, far = ends.pair()
    near.settimeout(0.5)
    data = b"0123456789abcdef" * (4 << 20)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < len(data):
            sent += near.send(data[sent : sent + 65536])
    assert sent < len(data)
    assert read(far, sent) == data[:sent]


@pytest.mark.parametrize("ending", [Ending.CLOSE, Ending.RESET])
@pytest.mark.parametrize("after", [1, 4, 5, 9])
def test_it_cuts_to_the_byte(ends: Ends, ending: Ending, after: int) -> None:
    near, far = ends.pair()
    trap = ends.proxy.arm(Trap(Direction.TO_LISTENER, after, ending))
    for piece in (b"0123", b"4567", b"89"):
        with contextlib.suppress(ConnectionError):
            near.sendall(piece)
    if ending is Ending.CLOSE:
        assert rest(far) == b"0123456789"[:after]
    else:
        assert rest(far) in (None, b"0123456789"[:after])
    assert trap.wait()
    assert not rest(near)
    assert ends.proxy.passed[Direction.TO_LISTENER] <= after


def test_it_counts_one_direction_over_all_connections(ends: Ends) -> None:
    trap = ends.proxy.arm(Trap(Direction.TO_CONNECTOR, 6, Ending.RESET))
    for _ in range(2):
        near, far = ends.pair()
        near.sendall(b"much more than six bytes")
        read(far, 24)
        far.sendall(b"12")
        assert read(near, 2) == b"12"
    assert not trap.sprung
    far.sendall(b"34")
    assert trap.wait()
    assert not rest(near)


def test_a_trap_without_an_end(ends: Ends) -> None:
    seen = []
    near, far = ends.pair()
    passed = ends.proxy.passed
    trap = Trap(Direction.TO_LISTENER, 3, action=lambda: seen.append(sum(passed.values())))
    ends.proxy.arm(trap)
    near.sendall(b"abcdef")
    assert read(far, 6) == b"abcdef"
    assert trap.wait()
    assert seen == [3]


def test_what_an_action_raises(ends: Ends) -> None:
    near, _ = ends.pair()
    trap = ends.proxy.arm(Trap(Direction.TO_LISTENER, 1, action=lambda: 1 // 0))
    near.sendall(b"a")
    with pytest.raises(ZeroDivisionError):
        trap.wait()


def test_a_trap_that_does_not_go_off(ends: Ends) -> None:
    near, far = ends.pair()
    trap = ends.proxy.arm(Trap(Direction.TO_LISTENER, 5))
    near.sendall(b"abcd")
    assert read(far, 4) == b"abcd"
    assert not trap.wait(0)
    assert "in 1 bytes" in repr(trap)


def test_silence(ends: Ends) -> None:
    """The listener's half stays open, nothing more comes, and what it sends is lost."""
    near, far = ends.pair()
    ends.proxy.arm(Trap(Direction.TO_LISTENER, 2, Ending.SILENCE))
    near.sendall(b"abcd")
    assert not rest(near)
    assert read(far, 2) == b"ab"
    far.sendall(b"x" * 5_000_000)
    far.settimeout(0.05)
    with pytest.raises(TimeoutError):
        far.recv(1)
    again, far_again = ends.pair()
    again.sendall(b"others")
    assert read(far_again, 6) == b"others"
    ends.proxy.cut_all()
    for sock in (far, again, far_again):
        assert not rest(sock)


@pytest.mark.parametrize("direction", Direction)
def test_goodbye(ends: Ends, direction: Direction) -> None:
    """The listener comes to the end, and can go on sending what nobody gets."""
    near, far = ends.pair()
    ends.proxy.arm(Trap(direction, 2, Ending.GOODBYE))
    sender, reader = (near, far) if direction is Direction.TO_LISTENER else (far, near)
    sender.sendall(b"abcd")
    assert rest(reader) == b"ab"
    assert not rest(sender)
    far.sendall(b"x" * 5_000_000)
    far.close()
    again, far_again = ends.pair()
    again.sendall(b"others")
    assert read(far_again, 6) == b"others"


def test_close_ends_all(ends: Ends) -> None:
    near, far = ends.pair()
    ends.proxy.lead_to(None)
    waiting = ends.dial()
    ends.proxy.close()
    for sock in (near, far, waiting):
        assert not rest(sock)


def test_it_ends_when_it_has_come_by_itself() -> None:
    """The thread of the proxy wakes up, and is told to end, before the bell is rung."""
    proxy = CuttingProxy()
    rope = proxy._bell_rope

    class SlowRope:
        def send(self, data: bytes) -> int:
            with socket.create_connection(("127.0.0.1", proxy.port)):
                proxy._thread.join(DEADLINE)
            return rope.send(data)

        def close(self) -> None:
            rope.close()

    proxy._bell_rope = SlowRope()  # type: ignore[assignment]
    proxy.close()
