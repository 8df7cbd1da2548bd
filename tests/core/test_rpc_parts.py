"""Large records in parts: the bytes, whose turn it is, and what comes out."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemq._core import rpc_parts
from snakemq._core.rpc_parts import (
    LONGEST_LINE,
    MAX_WINDOW,
    MIN_WINDOW,
    PART_OVERHEAD,
    REPLY_PARTS,
    REQUEST_PARTS,
    Assembler,
    Lane,
    Part,
    PartRefused,
    Transfer,
    Window,
    decode_part,
    decode_refusal,
    encode_part,
    encode_refusal,
)

ID = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
OTHER = bytes(16)


def record(size: int, filling: bytes = b".") -> bytes:
    return b"rpcreq".ljust(size, filling)


def part(offset: int, total: int, data: bytes, transfer_id: bytes = ID) -> bytes:
    return encode_part(REQUEST_PARTS, transfer_id, offset, total, data)


def take_all(lane: Lane) -> list[bytes]:
    """All that it sends now, of which all arrives at once."""
    messages = []
    while (following := lane.next_part()) is not None:
        _, message, size = following
        messages.append(message)
        lane.window.arrived(size, 0)
    return messages


class TestBytes:
    def test_of_a_part(self) -> None:
        message = encode_part(REQUEST_PARTS, ID, 0x10000, 0x1_0000_0003, b"abc")
        assert message == b"rpcrqp" + ID + bytes.fromhex("0000000000010000 0000000100000003 616263")
        assert decode_part(REQUEST_PARTS, message) == Part(
            ID, 0x10000, 0x1_0000_0003, memoryview(b"abc")
        )
        assert encode_part(REPLY_PARTS, ID, 0, 1, b"").startswith(b"rpcrpp")

    def test_of_a_refusal(self) -> None:
        message = encode_refusal(REPLY_PARTS, ID, "too large, €")
        assert message == b"rpcrpx" + ID + "too large, €".encode()
        assert decode_refusal(REPLY_PARTS, message) == (ID, "too large, €")

    @pytest.mark.parametrize(
        ("message", "told"),
        [
            pytest.param(b"rpcrpx", (b"", ""), id="empty"),
            pytest.param(b"rpcrpx" + ID[:5], (ID[:5], ""), id="cut off"),
            pytest.param(b"rpcrpx" + ID + b"\xff", (ID, "�"), id="no UTF-8"),
            pytest.param(b"rpcrpx" + ID + b"x" * 999, (ID, "x" * 200), id="long"),
        ],
    )
    def test_any_refusal_can_be_read(self, message: bytes, told: tuple[bytes, str]) -> None:
        assert decode_refusal(REPLY_PARTS, message) == told

    def test_a_part_that_is_too_short(self) -> None:
        with pytest.raises(PartRefused) as caught:
            decode_part(REQUEST_PARTS, part(0, 1, b"")[:-1])
        assert caught.value.transfer_id == b""


class TestLane:
    def test_a_record_in_parts(self) -> None:
        lane = Lane(REQUEST_PARTS, part_size=10)
        data = record(25)
        lane.add(Transfer(ID, b"key", data))
        assert take_all(lane) == [
            part(0, 25, data[:10]),
            part(10, 25, data[10:20]),
            part(20, 25, data[20:]),
        ]
        assert len(lane) == 0
        assert lane.window.flying == 0

    def test_records_take_turns(self) -> None:
        lane = Lane(REQUEST_PARTS, part_size=10)
        lane.add(Transfer(ID, b"", record(40)))
        lane.add(Transfer(OTHER, b"", record(20)))
        turns = [decode_part(REQUEST_PARTS, message) for message in take_all(lane)]
        assert [(turn.transfer_id, turn.offset) for turn in turns] == [
            (ID, 0), (OTHER, 0), (ID, 10), (OTHER, 10), (ID, 20), (ID, 30),
        ]  # fmt: skip

    def test_no_more_than_the_window(self) -> None:
        lane = Lane(REQUEST_PARTS)
        lane.add(Transfer(ID, b"", record(10 * MIN_WINDOW)))
        sizes = []
        while (following := lane.next_part()) is not None:
            sizes.append(following[2])
        assert sum(sizes) == lane.window.flying == MIN_WINDOW
        lane.window.arrived(sizes[0], 1.0)
        assert lane.next_part() is not None

    def test_one_that_is_given_up_before_it_began(self) -> None:
        lane = Lane(REQUEST_PARTS)
        transfer = Transfer(ID, b"key", record(10))
        lane.add(transfer)
        assert lane.find_key(b"key") == [transfer]
        lane.give_up(transfer)
        assert transfer.data is None
        assert lane.next_part() is None

    def test_one_that_is_given_up_in_the_middle(self) -> None:
        lane = Lane(REQUEST_PARTS, part_size=10)
        transfer = Transfer(ID, b"key", record(30))
        lane.add(transfer)
        assert lane.next_part() is not None
        lane.window.flying = MAX_WINDOW  # its end does not wait
        lane.give_up(transfer)
        assert lane.next_part() == (transfer, part(10, 30, b""), 0)
        assert lane.next_part() is None

    def test_first_parts_only(self) -> None:
        lane = Lane(REQUEST_PARTS, part_size=10, starts_only=True)
        transfers = [Transfer(bytes([n]) * 16, b"key", record(9 + n)) for n in range(4)]
        for transfer in transfers:
            lane.add(transfer)
        assert [decode_part(REQUEST_PARTS, message).offset for message in take_all(lane)] == [0] * 4
        # The first two are done.
        assert lane.find_key(b"key") == transfers[2:]
        assert [lane.find(transfer.transfer_id) for transfer in transfers] == transfers
        lane.give_up(transfers[2])
        assert lane.next_part() == (transfers[2], part(10, 11, b"", transfers[2].transfer_id), 0)
        ids = [transfer.transfer_id for transfer in transfers]
        assert [lane.take_started(transfer_id) for transfer_id in ids] == [
            None, None, None, transfers[3],
        ]  # fmt: skip
        assert lane.find(ids[3]) is None

    def test_one_that_was_refused_is_not_ended(self) -> None:
        lane = Lane(REQUEST_PARTS, part_size=10)
        transfer = Transfer(ID, b"key", record(30))
        lane.add(transfer)
        lane.next_part()
        assert lane.find(ID) is transfer
        lane.give_up(transfer, tell=False)
        assert lane.find(ID) is None
        assert lane.next_part() is None

    def test_it_can_be_found_when_all_of_it_is_on_its_way(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rpc_parts, "_REMEMBERED", 2)
        lane = Lane(REQUEST_PARTS)
        transfers = [Transfer(bytes([n]) * 16, b"key", record(10)) for n in range(3)]
        for transfer in transfers:
            lane.add(transfer)
        take_all(lane)
        # But nothing of it is left to be cancelled, and no data is kept.
        assert [lane.find(transfer.transfer_id) for transfer in transfers] == [None, *transfers[1:]]
        assert all(transfer.data is None for transfer in transfers)
        assert not lane.find_key(b"key")


class TestWindow:
    def test_it_grows_while_the_parts_are_as_fast_as_ever(self) -> None:
        window = Window()
        while window.size < MAX_WINDOW:
            while window.is_open:
                window.flying += 1 << 16
            window.arrived(1 << 16, 0.1)
        window.arrived(1 << 16, 0.1)
        assert window.size == MAX_WINDOW

    def test_it_does_not_grow_while_it_is_not_full(self) -> None:
        window = Window()
        for _ in range(100):
            window.flying += 1 << 16
            window.arrived(1 << 16, 0.1)
        assert window.size == MIN_WINDOW

    def test_it_shrinks_while_the_parts_wait_in_line(self) -> None:
        window = Window()
        window.flying = window.size = MAX_WINDOW
        window.arrived(0, 0.1)
        for _ in range(MAX_WINDOW >> 16):
            window.arrived(1 << 16, 0.1 + 2 * LONGEST_LINE)
        assert window.size == MIN_WINDOW


class TestAssembler:
    def test_parts_of_several_records(self) -> None:
        assembler = Assembler(REQUEST_PARTS)
        assert assembler.feed(part(0, 12, b"rpcreq")) is None
        assert assembler.feed(part(0, 7, b"rpc", OTHER)) is None
        assert assembler.held == 9
        assert assembler.feed(part(6, 12, b"abcdef")) == b"rpcreqabcdef"
        assert assembler.feed(part(3, 7, b"reqx", OTHER)) == b"rpcreqx"
        assert assembler.held == len(assembler) == 0

    def test_a_record_that_is_given_up(self) -> None:
        assembler = Assembler(REQUEST_PARTS)
        assembler.feed(part(0, 12, b"rpcreq"))
        assert assembler.feed(part(6, 12, b"")) is None
        assert assembler.held == len(assembler) == 0
        assert assembler.feed(part(0, 12, b"")) is None

    @pytest.mark.parametrize(
        "message",
        [
            pytest.param(part(0, 20, b"abcdef"), id="again from its beginning"),
            pytest.param(part(7, 20, b"abcdef"), id="a gap"),
            pytest.param(part(6, 21, b"abcdef"), id="another size"),
            pytest.param(part(6, 20, bytes(15)), id="too much"),
            pytest.param(part(6, 20, b"abcdef", OTHER), id="of another one, without its beginning"),
            pytest.param(part(0, 3, b"rpcreq", OTHER), id="more than announced"),
            pytest.param(part(0, 101, b"rpcreq", OTHER), id="too large"),
            pytest.param(part(0, 96, bytes(96), OTHER), id="too much with the others"),
            pytest.param(part(0, 6, b"rpcrep", OTHER), id="of another kind"),
            pytest.param(part(0, 2, b"rp", OTHER), id="not even a prefix"),
        ],
    )
    def test_what_is_wrong_is_refused_once(self, message: bytes) -> None:
        assembler = Assembler(REQUEST_PARTS, max_size=100)
        assembler.feed(part(0, 20, b"rpcreq"))
        transfer_id = message[6:22]
        with pytest.raises(PartRefused) as caught:
            assembler.feed(message)
        assert caught.value.transfer_id == transfer_id
        # What is on its way then is passed over in silence.
        assert assembler.feed(part(0, 6, b"rpcreq", transfer_id)) is None
        assert assembler.feed(part(50, 99, b"x", transfer_id)) is None
        assert assembler.held == (0 if transfer_id == ID else 6)
        # Its sender says when that is over.
        assembler.feed(part(50, 99, b"", transfer_id))
        assert assembler.feed(part(0, 6, b"rpcreq", transfer_id)) == b"rpcreq"

    def test_there_is_a_limit_for_how_many_are_unfinished(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rpc_parts, "MAX_PARTIAL_RECORDS", 2)
        assembler = Assembler(REQUEST_PARTS)
        for n in range(2):
            assembler.feed(part(0, 10, b"rpcreq", bytes([n]) * 16))
        with pytest.raises(PartRefused, match="2 others"):
            assembler.feed(part(0, 10, b"rpcreq", ID))

    def test_what_is_remembered_of_refused_ones_is_limited(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rpc_parts, "_REMEMBERED", 2)
        assembler = Assembler(REQUEST_PARTS)
        for n in (0, 1, 2, 0):
            with pytest.raises(PartRefused):
                assembler.feed(part(5, 10, b"x", bytes([n]) * 16))

    def test_an_announced_size_costs_nothing(self) -> None:
        assembler = Assembler(REQUEST_PARTS)
        assembler.feed(part(0, 1 << 30, b"rpcreq"))
        assert assembler.held == 6

    @given(st.binary(max_size=PART_OVERHEAD + 10))
    def test_anything_may_come(self, data: bytes) -> None:
        assembler = Assembler(REQUEST_PARTS)
        for message in (data, b"rpcrqp" + data):
            with contextlib.suppress(PartRefused):
                assembler.feed(message)
        assert assembler.held <= 20


@given(
    sizes=st.lists(st.integers(1, 200), max_size=8),
    part_size=st.integers(1, 70),
    seed=st.integers(0, 1 << 16),
)
def test_what_is_cut_is_put_together(sizes: list[int], part_size: int, seed: int) -> None:
    rng = random.Random(seed)
    lane = Lane(REQUEST_PARTS, part_size)
    assembler = Assembler(REQUEST_PARTS)
    expected: list[bytes] = []
    records: list[bytes | None] = []
    for number, size in enumerate(sizes):
        data = b"rpcreq" + rng.randbytes(size)
        transfer = Transfer(bytes([number]) * 16, bytes([number]), data)
        lane.add(transfer)
        for _ in range(rng.randrange(3)):
            if (following := lane.next_part()) is not None:
                records.append(assembler.feed(following[1]))
        if transfer.data is not None and rng.random() < 0.3:
            lane.give_up(transfer)
        else:
            expected.append(data)
    records += map(assembler.feed, take_all(lane))
    assert sorted(filter(None, records)) == sorted(expected)
    assert assembler.held == len(assembler) == 0
