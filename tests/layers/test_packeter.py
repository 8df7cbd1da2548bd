"""Packets over a link that the test plays."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from snakemq.exceptions import NoConnection, PacketTooLarge
from snakemq.packeter import FINISH_TIMEOUT, SEND_BLOCK_SIZE, Packeter
from tests.layers.fake_link import FakeLink


class Fixture:
    def __init__(self, **kwargs: Any) -> None:
        self.link = FakeLink()
        self.packeter = Packeter(self.link, **kwargs)  # type: ignore[arg-type]
        self.sent: list[tuple[str, int]] = []
        self.received: list[bytes] = []
        self.errors: list[Exception] = []
        self.packeter.on_packet_sent.add(lambda conn, pid: self.sent.append((conn, pid)))
        self.packeter.on_packet_recv.add(lambda conn, packet: self.received.append(packet))
        self.packeter.on_error.add(lambda conn, exc: self.errors.append(exc))
        self.link.connect("c")


def wire(*packets: bytes) -> bytes:
    return b"".join(len(packet).to_bytes(4, "big") + packet for packet in packets)


def test_a_packet_is_its_length_and_its_content() -> None:
    fixture = Fixture()
    fixture.packeter.send_packet("c", b"abc")
    fixture.link.take_all("c")
    assert fixture.link.taken["c"] == b"\0\0\0\3abc"


def test_identifiers_grow_and_are_reported_in_order() -> None:
    fixture = Fixture()
    fixture.link.connect("d")
    ids = [fixture.packeter.send_packet(conn, b"x") for conn in "cdcdc"]
    assert ids == sorted(set(ids))
    fixture.link.take_all("d")
    assert fixture.sent == [("d", ids[1]), ("d", ids[3])]
    fixture.link.take_all("c")
    assert fixture.sent[2:] == [("c", ids[0]), ("c", ids[2]), ("c", ids[4])]


def test_a_packet_is_sent_when_its_last_byte_is() -> None:
    fixture = Fixture()
    first = fixture.packeter.send_packet("c", b"12345")
    fixture.link.take("c", 8)
    assert fixture.sent == []
    second = fixture.packeter.send_packet("c", b"")
    assert fixture.link.take("c", 1) == 1
    assert fixture.sent == [("c", first)]
    fixture.link.take("c", 0)
    fixture.link.take("c", 3)
    assert fixture.sent == [("c", first)]
    fixture.link.take_all("c")
    assert fixture.sent == [("c", first), ("c", second)]
    assert fixture.packeter.unsent_bytes("c") == 0


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_link_takes_the_stream_is_right(seed: int) -> None:
    rng = random.Random(seed)
    fixture = Fixture()
    packets = [
        os.urandom(rng.choice([0, 1, 10, 1000, 70_000, 300_000])) for _ in range(rng.randrange(30))
    ]
    ids = []
    waiting = list(packets)
    while waiting or "c" in fixture.link.sending:
        if waiting and rng.random() < 0.7:
            ids.append(fixture.packeter.send_packet("c", waiting.pop(0)))
        elif "c" in fixture.link.sending:
            fixture.link.take("c", rng.choice([0, 1, 3, 500, 100_000, None]))
    assert fixture.link.taken["c"] == wire(*packets)
    assert [pid for _, pid in fixture.sent] == ids


def test_small_packets_go_out_together() -> None:
    fixture = Fixture()
    for _ in range(10_000):
        fixture.packeter.send_packet("c", b"x" * 100)
    fixture.link.take_all("c")
    assert fixture.link.sends <= 2 + 10_000 * 104 // (SEND_BLOCK_SIZE - 104)
    assert len(fixture.link.taken["c"]) == 10_000 * 104


def test_large_data_is_not_copied() -> None:
    fixture = Fixture()
    data = bytes(10_000_000)
    fixture.packeter.send_packet("c", data)
    header, content = fixture.link.sending["c"]
    assert len(header) == 4
    assert content is data
    fixture.link.take("c", 1000)
    (rest,) = fixture.link.sending["c"]
    assert isinstance(rest, memoryview)
    assert rest.obj is data


def test_nothing_can_be_sent_without_a_connection() -> None:
    fixture = Fixture()
    for call in (
        lambda: fixture.packeter.send_packet("nowhere", b""),
        lambda: fixture.packeter.unsent_bytes("nowhere"),
        lambda: fixture.packeter.room("nowhere", 1),
        lambda: fixture.packeter.read_now("nowhere"),
        lambda: fixture.packeter.finish("nowhere"),
    ):
        with pytest.raises(NoConnection):
            call()
    fixture.link.close("c")
    with pytest.raises(NoConnection):
        fixture.packeter.send_packet("c", b"")


def test_a_packet_over_the_limit_is_refused_to_its_sender() -> None:
    fixture = Fixture(max_packet_size=10)
    fixture.packeter.send_packet("c", b"x" * 10)
    with pytest.raises(PacketTooLarge) as caught:
        fixture.packeter.send_packet("c", b"x" * 11)
    assert (caught.value.size, caught.value.limit) == (11, 10)
    fixture.link.take_all("c")
    assert fixture.link.taken["c"] == wire(b"x" * 10)


def test_a_received_packet_over_the_limit_closes_after_what_came_before() -> None:
    fixture = Fixture(max_packet_size=10)
    fixture.link.connect("other")
    fixture.link.on_recv("c", wire(b"fine", b"x" * 11, b"never"))
    assert fixture.received == [b"fine"]
    assert isinstance(fixture.errors[0], PacketTooLarge)
    assert list(fixture.link.taken) == ["other"]


@pytest.mark.parametrize("size", [0, -1, 1 << 32])
def test_a_limit_that_makes_no_sense_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="max_packet_size"):
        Packeter(FakeLink(), max_packet_size=size)  # type: ignore[arg-type]


def test_only_bytes_are_packets() -> None:
    with pytest.raises(TypeError, match="must be bytes, not str"):
        Fixture().packeter.send_packet("c", "text")  # type: ignore[arg-type]


def test_packets_received_together_come_one_by_one_and_as_a_batch() -> None:
    fixture = Fixture()
    batches: list[list[bytes]] = []
    fixture.packeter.on_packets_recv.add(
        lambda conn, buffer, bounds: batches.append(
            [buffer[s:e] for s, e in zip(bounds[::2], bounds[1::2], strict=True)]
        )
    )
    stream = wire(b"a", b"", b"bc", b"d")
    fixture.link.on_recv("c", stream[:-1])
    fixture.link.on_recv("c", stream[-1:])
    assert fixture.received == [b"a", b"", b"bc", b"d"]
    assert batches == [[b"a", b"", b"bc"], [b"d"]]


def test_after_a_callback_closed_the_connection_nothing_more_is_reported() -> None:
    fixture = Fixture()
    fixture.packeter.on_packet_recv.add(lambda conn, packet: fixture.link.close(conn))
    fixture.link.on_recv("c", wire(b"a", b"b"))
    assert fixture.received == [b"a"]


def test_what_was_taken_and_not_reported_counts_as_sent_when_the_connection_ends() -> None:
    fixture = Fixture()
    events: list[object] = []
    fixture.packeter.on_packets_sent.add(lambda *args: events.append(args))
    fixture.packeter.on_disconnect.add(events.append)
    first = fixture.packeter.send_packet("c", b"12345")
    fixture.packeter.send_packet("c", b"67890")
    fixture.link.unreported_bytes = 9
    fixture.link.close("c")
    assert events == [("c", first, 1), "c"]


def test_somebody_elses_send_on_the_link_is_not_ours() -> None:
    fixture = Fixture()
    gone: list[str] = []
    fixture.packeter.on_disconnect.add(gone.append)
    fixture.link.on_ready_to_send("c", 5)
    fixture.link.unreported_bytes = 9
    fixture.link.close("c")
    assert gone == ["c"]
    assert fixture.sent == []


def test_finish_closes_when_all_is_with_the_system_and_ignores_what_comes() -> None:
    fixture = Fixture()
    gone: list[str] = []
    fixture.packeter.on_disconnect.add(gone.append)
    fixture.packeter.send_packet("c", b"last words")
    fixture.packeter.finish("c")
    fixture.link.on_recv("c", wire(b"ignored"))
    assert gone == []
    fixture.link.take("c", 3)
    assert gone == []
    fixture.link.take("c")
    assert gone == ["c"]
    assert fixture.received == []
    assert len(fixture.link.timers) == 0


def test_finish_with_nothing_to_send_closes_at_once() -> None:
    fixture = Fixture()
    fixture.packeter.finish("c")
    assert "c" not in fixture.link.taken


def test_finish_does_not_wait_for_ever() -> None:
    fixture = Fixture()
    fixture.packeter.send_packet("c", b"last words")
    fixture.packeter.finish("c")
    fixture.packeter.finish("c")
    assert fixture.link.timers.deadline() == FINISH_TIMEOUT
    func, args = fixture.link.timers.pop()
    func(*args)
    assert "c" not in fixture.link.taken


class Layers(Fixture):
    """A packeter above which there is somebody who takes large packets in two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.link.close("c")
        self.packeter.large_head_size = 25
        self.large: list[tuple[bytes, bytes]] = []
        self.packeter.on_large_packet_recv.wire(lambda _, *parts: self.large.append(parts))
        self.link.connect("c")


def test_a_large_packet_comes_in_two_parts_and_the_link_is_told_what_to_expect() -> None:
    fixture = Layers()
    content = os.urandom(1_000_000)
    stream = wire(b"before", content)
    first = stream[:100]
    fixture.link.on_recv("c", first)
    assert fixture.link.expected["c"] == len(stream) - 100
    fixture.link.on_recv("c", stream[100:])
    assert fixture.large == [(content[:25], content[25:])]
    assert fixture.received == [b"before", content]
    assert fixture.link.expected["c"] == 29
    fixture.link.on_recv("c", wire(b"small"))
    assert fixture.link.expected["c"] == 0


def test_a_part_of_a_large_packet_can_be_had_at_once() -> None:
    fixture = Layers()
    content = os.urandom(1_000_000)
    stream = wire(content)
    fixture.link.on_recv("c", stream[:1000])
    fixture.packeter.read_now("c")
    assert fixture.link.expected["c"] == 0
    fixture.link.on_recv("c", stream[1000:2000])
    assert fixture.link.expected["c"] == len(stream) - 2000
    fixture.link.on_recv("c", stream[2000:])
    assert fixture.received == [content]


def test_what_follows_a_large_packet_in_the_same_read_comes_after_it() -> None:
    fixture = Layers()
    order: list[object] = []
    fixture.packeter.on_large_packet_recv.wire(lambda *_: order.append("large"))
    fixture.packeter.on_packets_recv.wire(lambda _, buffer, bounds: order.append(len(bounds) // 2))
    stream = wire(bytes(300_000), b"one", b"two")
    fixture.link.on_recv("c", stream[:1000])
    fixture.link.on_recv("c", stream[1000:])
    assert order == ["large", 2]


def test_a_callback_for_a_large_packet_may_close_the_connection() -> None:
    fixture = Layers()
    fixture.packeter.on_large_packet_recv.wire(lambda *_: fixture.packeter.close("c"))
    stream = wire(bytes(300_000), b"one")
    fixture.link.on_recv("c", stream[:1000])
    fixture.link.on_recv("c", stream[1000:])
    assert len(fixture.large) == 1
    assert fixture.received == []


def test_nothing_goes_up_that_is_behind_a_large_packet_whose_callback_finishes() -> None:
    fixture = Layers()
    fixture.packeter.send_packet("c", b"last words")
    fixture.packeter.on_large_packet_recv.wire(lambda *_: fixture.packeter.finish("c"))
    stream = wire(bytes(300_000), b"one")
    fixture.link.on_recv("c", stream[:1000])
    fixture.link.on_recv("c", stream[1000:])
    assert len(fixture.large) == 1
    assert fixture.received == []


def test_nothing_goes_up_that_is_behind_a_packet_whose_callback_finishes() -> None:
    fixture = Fixture()
    fixture.packeter.send_packet("c", b"last words")
    fixture.packeter.on_packet_recv.add(lambda conn_id, _: fixture.packeter.finish(conn_id))
    fixture.link.on_recv("c", wire(b"one", b"two"))
    assert fixture.received == [b"one"]


def test_who_does_not_want_large_packets_in_two_parts_gets_them_as_the_others() -> None:
    fixture = Fixture()
    batches: list[bytes] = []
    fixture.packeter.on_packets_recv.wire(lambda _, buffer, b: batches.append(buffer[b[0] : b[1]]))
    content = os.urandom(1_000_000)
    stream = wire(content)
    fixture.link.on_recv("c", stream[:1000])
    fixture.link.on_recv("c", stream[1000:])
    assert batches == [content]
    assert fixture.received == [content]


def test_large_packets_go_out_together_with_the_small_ones_around_them() -> None:
    fixture = Fixture()
    packets = [b"first", b"second", os.urandom(100_000), b"third", os.urandom(300_000), b"fourth"]
    for packet in packets:
        fixture.packeter.send_packet("c", packet)
    fixture.link.take("c")
    pieces = fixture.link.sending["c"]
    assert any(piece is packets[2] for piece in pieces)
    assert any(piece is packets[4] for piece in pieces)
    fixture.link.take("c", 50_000)
    fixture.link.take_all("c")
    assert fixture.link.taken["c"] == wire(*packets)


def room(fixture: Fixture) -> int:
    return fixture.packeter.room("c", SEND_BLOCK_SIZE)


def test_there_is_room_for_two_large_packets_as_long_as_the_system_takes_them() -> None:
    fixture = Fixture()
    packet = bytes(1_000_000)
    assert room(fixture) == SEND_BLOCK_SIZE
    fixture.packeter.send_packet("c", packet)
    assert room(fixture) < 0
    fixture.link.take("c")
    assert room(fixture) == 2 * (len(packet) + 4)
    fixture.packeter.send_packet("c", b"small")
    fixture.packeter.send_packet("c", packet)
    fixture.packeter.send_packet("c", packet)
    fixture.link.take("c")
    assert sum(map(len, fixture.link.sending["c"])) == 2 * (len(packet) + 4)
    assert room(fixture) == 0
    fixture.link.take("c", 1_500_000)
    assert room(fixture) < 0
    fixture.link.take("c", 200_000)
    assert room(fixture) == SEND_BLOCK_SIZE - 300_008


def test_many_small_packets_are_no_large_one() -> None:
    fixture = Fixture()
    fixture.packeter.send_packet("c", bytes(1_000_000))
    fixture.link.take("c")
    fixture.packeter.send_encoded("c", [bytes(2_000_000)], [1000] * 2000)
    fixture.link.take("c")
    assert room(fixture) == SEND_BLOCK_SIZE


def test_more_than_is_sent_at_once_there_is_never_room_for() -> None:
    fixture = Fixture()
    fixture.packeter.send_packet("c", bytes(10_000_000))
    fixture.link.take("c")
    assert room(fixture) == 2 * 1024 * 1024
