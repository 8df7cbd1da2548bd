"""The throttle over a link that the test plays, and its rate on the real one."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from snakemq.exceptions import SendNotFinished
from snakemq.link import Link
from snakemq.throttle import Throttle
from tests.helpers import DEADLINE, wait_until
from tests.layers.fake_link import FakeLink


class Clocked(FakeLink):
    """A link on a virtual clock that takes everything at once."""

    def run(self, until: float) -> None:
        while (deadline := self.timers.deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            func, args = self.timers.pop()
            func(*args)
            self.settle()
        self.now = until

    def settle(self) -> None:
        for conn_id in list(self.sending):
            self.take(conn_id)


def test_the_rate_holds_from_the_first_byte_on() -> None:
    link = Clocked()
    throttle = Throttle(link, 10_000)  # type: ignore[arg-type]
    data = bytes(100_000)
    progress = 0

    def go_on(conn_id: str, sent: int) -> None:
        nonlocal progress
        progress += sent
        throttle.send(conn_id, memoryview(data)[progress:])

    throttle.on_ready_to_send.add(go_on)
    link.connect("c")
    throttle.send("c", data)
    link.settle()
    for tenth in range(1, 51):
        link.run(tenth / 10)
        assert progress == pytest.approx(tenth * 1000, rel=0.05, abs=250)


def test_after_a_pause_only_a_little_may_go_at_once() -> None:
    link = Clocked()
    throttle = Throttle(link, 10_000)  # type: ignore[arg-type]
    link.connect("c")
    link.now = 1000.0
    throttle.send("c", bytes(100_000))
    assert sum(map(len, link.sending["c"])) == 400


def test_a_late_loop_is_made_up_for() -> None:
    link = Clocked()
    throttle = Throttle(link, 10_000)  # type: ignore[arg-type]
    link.connect("c")
    throttle.send("c", bytes(100_000))
    link.now = 0.3
    func, args = link.timers.pop()
    func(*args)
    assert sum(map(len, link.sending["c"])) == 3000


def test_one_send_at_a_time_also_while_it_waits() -> None:
    link = Clocked()
    throttle = Throttle(link, 1000)  # type: ignore[arg-type]
    link.connect("c")
    throttle.send("c", b"x" * 100)
    with pytest.raises(SendNotFinished):
        throttle.send("c", b"y")
    with pytest.raises(KeyError):
        throttle.send("unknown", b"")


def test_connections_are_throttled_each_for_itself() -> None:
    link = Clocked()
    throttle = Throttle(link, 1000)  # type: ignore[arg-type]
    done: list[str] = []
    throttle.on_ready_to_send.add(lambda conn, sent: done.append(conn))
    for conn in "ab":
        link.connect(conn)
        throttle.send(conn, b"x" * 10)
    link.run(0.0101)
    assert sorted(done) == ["a", "b"]


def test_a_closed_connection_leaves_no_timer() -> None:
    link = Clocked()
    throttle = Throttle(link, 10)  # type: ignore[arg-type]
    gone: list[str] = []
    throttle.on_disconnect.add(gone.append)
    link.connect("c")
    throttle.send("c", b"x" * 100)
    assert len(link.timers) == 1
    throttle.close("c")
    assert len(link.timers) == 0
    assert gone == ["c"]


def test_an_empty_send_is_a_send() -> None:
    link = Clocked()
    throttle = Throttle(link, 10)  # type: ignore[arg-type]
    done: list[int] = []
    throttle.on_ready_to_send.add(lambda conn, sent: done.append(sent))
    link.connect("c")
    throttle.send("c", b"")
    link.settle()
    assert done == [0]


@pytest.mark.parametrize("speed", [0, -5, float("nan")])
def test_a_speed_that_makes_no_sense_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match="speed"):
        Throttle(FakeLink(), speed)  # type: ignore[arg-type]


def test_what_a_link_has_beyond_the_contract_is_reached_through() -> None:
    link = Link()
    throttle = Throttle(link, 1000)
    address = throttle.add_listener(("127.0.0.1", 0))
    assert link.listeners == [address]
    with pytest.raises(AttributeError):
        throttle.no_such_thing  # noqa: B018
    throttle.cleanup()


@pytest.mark.slow
def test_the_rate_on_the_real_link_over_two_seconds_without_polling() -> None:
    speed = 200_000
    link = Link()
    throttle = Throttle(link, speed)
    data = bytes(10_000_000)
    progress = 0
    passes = 0

    def count() -> None:
        nonlocal passes
        passes += 1

    def go_on(conn_id: str, sent: int) -> None:
        nonlocal progress
        progress += sent
        throttle.send(conn_id, memoryview(data)[progress:])

    throttle.on_connect.add(lambda conn: throttle.send(conn, data))
    throttle.on_ready_to_send.add(go_on)
    link.on_loop_pass.wire(count)
    address = link.add_listener(("127.0.0.1", 0))
    received: list[tuple[float, int]] = []

    def read(client: socket.socket) -> None:
        total = 0
        while piece := client.recv(1 << 20):
            total += len(piece)
            received.append((time.monotonic(), total))
            if received[-1][0] >= received[0][0] + 2:
                link.stop()

    with socket.create_connection(address) as client:
        reader = threading.Thread(target=read, args=(client,))
        reader.start()
        link.loop(runtime=DEADLINE)
        link.cleanup()
        reader.join()
    wait_until(lambda: not reader.is_alive())
    # Any two seconds from the first byte on.
    start, first = received[0]
    end, last = next(item for item in received if item[0] >= start + 2)
    rate = (last - first) / (end - start)
    # Slower is the fault of a busy machine as well.
    assert 0.5 * speed < rate < 1.05 * speed
    assert passes < 400, "a portion each 20 ms takes two passes"
