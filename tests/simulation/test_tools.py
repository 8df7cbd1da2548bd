"""What the histories are made with: plans, the wire tap, shorter stories, the command line."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from tests.simulation.__main__ import main
from tests.simulation.plan import ACTIVE, Burst, Fuse, Kill, Plan, make_plan
from tests.simulation.shrink import essence, shrink
from tests.simulation.wire import FrameReader, Tap
from tests.simulation.world import World

WINDOW = (2, 100)


def packet(frame_type: int, payload: bytes = b"") -> bytes:
    return struct.pack("!IB", len(payload) + 1, frame_type) + payload


def message(data: bytes, ttl: int = 5) -> bytes:
    return packet(3, struct.pack("!16sII", b"uuid", ttl, 0) + data)


def acknowledgement(total: int) -> bytes:
    return packet(7, struct.pack("!Q", total))


FEATURES = packet(6)
SEQUENCE = packet(8, bytes(24))


class TestPlans:
    def test_one_seed_is_one_plan(self) -> None:
        assert make_plan(5) == make_plan(5)
        assert make_plan(5) != make_plan(6)

    def test_everything_happens_while_it_is_active(self) -> None:
        for seed in range(300):
            plan = make_plan(seed)
            assert all(0 <= step.at <= ACTIVE + 0.5 for step in plan.steps)
            assert plan.kind != "calm" or all(isinstance(step, Burst) for step in plan.steps)

    def test_it_can_be_printed(self) -> None:
        plan = make_plan(12)
        text = str(plan)
        assert text.startswith(f"seed 12: {plan.kind}, ")
        assert all(str(step) in text for step in plan.steps)

    def test_a_part_of_a_plan_is_a_plan(self) -> None:
        plan = make_plan(12)
        assert World(replace(plan, steps=plan.steps[::2])).run() == []


class TestShrinking:
    def test_what_is_not_needed_goes(self) -> None:
        plan = next(
            plan
            for plan in map(make_plan, range(1000))
            if sum(isinstance(step, Kill) for step in plan.steps) > 1
            and any(isinstance(step, Fuse) for step in plan.steps)
        )

        def fails(plan: Plan) -> bool:
            return any(isinstance(step, Kill) for step in plan.steps)

        shorter = shrink(plan, fails=fails)
        assert [type(step) for step in shorter.steps] == [Kill]
        assert not any(peer.replies or peer.raises or peer.keepalive for peer in shorter.peers)

    def test_bursts_get_shorter(self) -> None:
        plan = next(
            plan
            for plan in map(make_plan, range(1000))
            if any(isinstance(step, Burst) and len(step.messages) > 10 for step in plan.steps)
        )
        large = next(
            message
            for step in plan.steps
            if isinstance(step, Burst) and len(step.messages) > 10
            for message in step.messages
        )

        def fails(plan: Plan) -> bool:
            return any(isinstance(step, Burst) and large in step.messages for step in plan.steps)

        (burst,) = shrink(plan, fails=fails).steps
        assert isinstance(burst, Burst)
        assert burst.messages == (large,)

    def test_what_does_not_fail_stays_as_it_is(self) -> None:
        plan = make_plan(12)
        assert shrink(plan) is plan

    def test_problems_of_the_same_kind(self) -> None:
        one = essence("at 1.234: a to b: message 3 (transient, 2 s, sent at 1.0) is lost")
        other = essence("at 7.100: c to a: message 12 (persistent, for ever, sent at 5.5) is lost")
        assert one == other
        assert essence("at 1.234: a to b: message 3 (transient) came again") != one


class TestTap:
    @staticmethod
    def tap() -> Tap:
        tap = Tap()
        assert tap.receive(FEATURES) == []
        assert tap.send(SEQUENCE, WINDOW) == ([], [])
        return tap

    def test_frames_come_in_pieces_of_any_size(self) -> None:
        stream = FEATURES + packet(2, b"alice") + packet(4) + message(b"1")
        whole = list(FrameReader().feed(stream))
        assert [frame.type for frame in whole] == [6, 2, 4, 3]
        assert whole[3].data == b"1"
        for size in (1, 2, 5, 11):
            reader = FrameReader()
            pieces = [
                frame
                for start in range(0, len(stream), size)
                for frame in reader.feed(stream[start : start + size])
            ]
            assert pieces == whole

    def test_what_may_be_sent(self) -> None:
        tap = self.tap()
        assert tap.send(message(b"1") + message(b"2"), WINDOW) == ([], [])
        assert tap.receive(acknowledgement(1)) == []
        assert tap.send(message(b"3"), WINDOW) == ([], [])
        assert tap.receive(acknowledgement(3)) == []
        assert tap.send(message(bytes(5000)), WINDOW) == ([], [])

    def test_too_many_messages(self) -> None:
        _, problems = self.tap().send(message(b"1") + message(b"2") + message(b"3"), WINDOW)
        assert problems == ["sends 3 messages into a window of 2"]

    def test_too_many_bytes(self) -> None:
        _, problems = self.tap().send(message(bytes(100)) + message(b"2"), WINDOW)
        assert problems == ["sends more than 100 bytes into the window"]

    def test_urgent_ones_may_go_over_it(self) -> None:
        tap = self.tap()
        assert tap.send(message(b"1") + message(b"2") + message(b"3", ttl=0), WINDOW) == ([], [])

    def test_before_it_is_known_what_the_other_side_can_do(self) -> None:
        tap = Tap()
        _, problems = tap.send(SEQUENCE + message(b"1"), WINDOW)
        assert problems == ["sends a message before it is known what the other side can do"]

    def test_without_a_number(self) -> None:
        tap = Tap()
        tap.receive(FEATURES)
        assert tap.send(message(b"1"), WINDOW) == ([], ["sends a message without a number"])

    def test_acknowledgements_that_go_out(self) -> None:
        tap = self.tap()
        tap.receive(message(b"1") + message(b"2") + message(b"3"))
        assert tap.send(acknowledgement(2), WINDOW) == ([b"1", b"2"], [])
        assert tap.send(acknowledgement(3), WINDOW) == ([b"3"], [])

    @pytest.mark.parametrize("total", [0, 3])
    def test_acknowledgements_that_can_not_be(self, total: int) -> None:
        tap = self.tap()
        tap.receive(message(b"1") + message(b"2"))
        tap.send(acknowledgement(1), WINDOW)
        _, problems = tap.send(acknowledgement(total), WINDOW)
        assert problems == [f"acknowledges {total - 1} messages of 1"]

    def test_acknowledgements_that_come_in_and_can_not_be(self) -> None:
        tap = self.tap()
        tap.send(message(b"1"), WINDOW)
        assert tap.receive(acknowledgement(2)) == ["an acknowledgement of 2 messages"]


class TestCommandLine:
    def test_the_story_of_a_seed(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["3"]) == 0
        output = capsys.readouterr().out
        assert output.startswith("seed 3: ")
        assert "  a starts disk: same\n" in output
        assert output.endswith("nothing is wrong\n")

    def test_a_range_of_seeds(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["3-6"]) == 0
        assert capsys.readouterr().out.startswith("3 histories in ")

    def test_a_seed_that_is_wrong(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(World, "_check_idle", lambda self: self.checker.wrong("it is idle"))
        assert main(["3-5"]) == 1
        first, second, summary = capsys.readouterr().out.splitlines()
        assert first.startswith("seed 3: at ")
        assert first.endswith(": it is idle")
        assert second.startswith("seed 4: ")
        assert summary.endswith("2 wrong")
