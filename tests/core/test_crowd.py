"""Strangers: who has to go for one more, and what counts as one place."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from snakemq._core.crowd import Crowd, address_group


def test_nobody_has_to_go_while_there_is_room() -> None:
    crowd: Crowd[str] = Crowd(3, 2)
    assert crowd.enter("a", "here") is None
    assert crowd.enter("b", "here") is None
    assert crowd.enter("c", "there") is None
    assert len(crowd) == 3
    assert "a" in crowd


def test_the_oldest_of_the_same_place_goes_when_the_place_is_full() -> None:
    crowd: Crowd[str] = Crowd(10, 2)
    crowd.enter("oldest", "there")
    crowd.enter("a", "here")
    crowd.enter("b", "here")
    assert crowd.enter("c", "here") == "a"
    assert "a" not in crowd
    assert "oldest" in crowd


def test_the_oldest_of_all_goes_when_it_is_full() -> None:
    crowd: Crowd[str] = Crowd(3, 2)
    crowd.enter("oldest", "there")
    crowd.enter("a", "here")
    crowd.enter("b", "elsewhere")
    assert crowd.enter("c", "nowhere") == "oldest"
    assert "oldest" not in crowd


def test_a_place_that_is_full_pays_for_itself_when_all_is_full() -> None:
    crowd: Crowd[str] = Crowd(3, 2)
    crowd.enter("real peer", "there")
    crowd.enter("a", "here")
    crowd.enter("b", "here")
    assert crowd.enter("c", "here") == "a"
    assert "real peer" in crowd


def test_who_has_left_makes_room_and_may_leave_twice() -> None:
    crowd: Crowd[str] = Crowd(1, 1)
    crowd.enter("a", "here")
    crowd.leave("a")
    crowd.leave("a")
    crowd.leave("never seen")
    assert len(crowd) == 0
    assert crowd.enter("b", "here") is None


def test_one_at_a_time_changes_with_each() -> None:
    crowd: Crowd[int] = Crowd(1, 1)
    crowd.enter(0, "here")
    assert [crowd.enter(number, "here") for number in range(1, 4)] == [0, 1, 2]
    assert len(crowd) == 1


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("somewhere", "somewhere"),
        ("", ""),
    ],
)
def test_what_counts_as_one_place(host: str, group: str) -> None:
    assert address_group(host) == group


def test_the_whole_network_of_a_subscriber_is_one_place() -> None:
    assert address_group("2001:db8::1") == address_group("2001:db8::ffff:1:2:3")
    assert address_group("2001:db8::1") != address_group("2001:db8:0:1::1")
    assert address_group("192.0.2.1") != address_group("192.0.2.2")


class CrowdModel(RuleBasedStateMachine):
    """Against a list of who came, in order."""

    @initialize(total=st.integers(1, 6), per_group=st.integers(1, 4))
    def start(self, total: int, per_group: int) -> None:
        self.crowd: Crowd[int] = Crowd(total, per_group)
        self.model: list[tuple[int, str]] = []
        self.last = 0

    @rule(group=st.sampled_from("abc"))
    def enter(self, group: str) -> None:
        self.last += 1
        same = [key for key, place in self.model if place == group]
        expected = None
        if len(same) >= self.crowd.per_group:
            expected = same[0]
        elif len(self.model) >= self.crowd.total:
            expected = self.model[0][0]
        assert self.crowd.enter(self.last, group) == expected
        self.model = [item for item in self.model if item[0] != expected]
        self.model.append((self.last, group))

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        key = data.draw(st.integers(0, self.last + 1))
        self.crowd.leave(key)
        self.model = [item for item in self.model if item[0] != key]

    @invariant()
    def the_same_are_inside(self) -> None:
        assert len(self.crowd) == len(self.model) <= self.crowd.total
        inside = [key for key in range(1, self.last + 1) if key in self.crowd]
        assert inside == [key for key, _ in self.model]
        # No place is kept that nobody is from: there is no end of addresses.
        assert set(self.crowd._groups) == {group for _, group in self.model}


CrowdModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestCrowdModel = CrowdModel.TestCase
